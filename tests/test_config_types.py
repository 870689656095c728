"""Which gin values contradict an annotation; what cannot be judged without a call is accepted."""

import enum
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Optional, Protocol

import gin
import jax.typing
import pytest

from flan_jax import config, config_types


class Step(Protocol):
    def __call__(self, step: int) -> float: ...


class Tokenizer(Protocol):
    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


class Characters:
    """Has the methods; `size` would be set when one is made."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


class Mode(enum.Enum):
    LATEST = 1


class Lengths(typing.TypedDict):
    inputs: int


class Base:
    pass


class Derived(Base):
    pass


class Rule:
    def __call__(self) -> None: ...


def make_rule() -> Rule:
    return Rule()


def make_int() -> int:
    return 1


def make_maybe() -> Derived | None:
    return None


def make_schedule() -> Callable[[int], float]:
    return float


def make_anything():
    return 1


NONE = object()
ACCEPTED = [
    (1, float),
    (None, Optional[int]),  # noqa: UP045 the spelling is what is under test
    (True, bool),
    (3, int | str),
    ((1, "a"), tuple[int, str]),
    ((), tuple[int, ...]),
    ([1, 2], Sequence[int]),
    ((1, 2), Iterable[int]),
    ({"a": (1,)}, Mapping[str, Sequence[int]]),
    ({"inputs": 1}, Lengths),
    ("latest", Literal["latest", "all"]),
    ("bfloat16", jax.typing.DTypeLike),
    (object, Any),
    ("@make_int", Step),
    ("@Characters()", Tokenizer),
    ("@Characters()", Tokenizer | None),
    ("@make_anything()", Tokenizer),
    ("@make_schedule()", Callable[[int], float]),
    ("@make_int", Callable[[int], float]),
    ("@Derived", Callable[[], Base]),
    ("@make_maybe", type[Base]),
    ("@make_int", Callable[[], int]),
    ("@make_int()", float),
    ("@make_rule()", Callable[..., Any]),
    ("@make_maybe()", Base),
    ("@make_anything()", Base),
    ("@Derived()", Base),
    ("@Derived", type[Base]),
    ([("@make_int()")], list[int]),
]
REFUSED = [
    (True, int),
    (False, float),
    (1.0, int),
    (1, bool),
    (None, str),
    ("1", int | None),
    ((1, 2), tuple[int]),
    ((1, "a"), tuple[int, ...]),
    ("abc", Sequence[str]),
    ({"a": "1"}, dict[str, int]),
    ([1], Lengths),
    ("newest", Literal["latest", "all"]),
    (True, Literal[1]),
    ("LATEST", Mode),
    (3, Callable[..., Any]),
    ("f", type[Base]),
    ("@make_int()", str),
    ("@make_int()", Callable[[], int]),
    ("@make_int", int),
    ("@make_rule()", Base),
    ("@Derived", Base),
    (["@make_rule()"], list[int]),
    ("x", Step),
    (None, Tokenizer),
    (3, Tokenizer),
    ("@Characters", Tokenizer),
    ("@Derived()", Tokenizer),
    ("@make_int()", Tokenizer | None),
    ("@make_schedule", Callable[[int], float]),
    ("@Characters", Callable[[], Base]),
    ("@Derived()", Callable[[], Base]),
    ("@Characters", type[Base]),
]


@pytest.fixture(autouse=True)
def _gin():
    with config.isolated(empty_registry=True):
        for target in (make_rule, make_int, make_maybe, make_schedule, make_anything, Derived, Characters):
            gin.external_configurable(target, module="toy")
        yield


def _value(written: Any) -> Any:
    """Turns '@name' into a reference."""

    def reference(leaf: Any) -> Any:
        if isinstance(leaf, str) and leaf.startswith("@"):
            return config.Reference(leaf[1:].removesuffix("()"), leaf.endswith("()"))
        return leaf

    return config.map_leaves(reference, written)


@pytest.mark.parametrize(("written", "annotation"), ACCEPTED, ids=str)
def test_fitting_values(written, annotation):
    assert config_types.accepts(_value(written), annotation, unset=NONE)


@pytest.mark.parametrize(("written", "annotation"), REFUSED, ids=str)
def test_contradicting_values(written, annotation):
    assert not config_types.accepts(_value(written), annotation, unset=NONE)


def test_a_default_widens_only_the_annotation_that_it_contradicts():
    assert config_types.accepts(None, float, default=None, unset=NONE)
    assert config_types.accepts("bfloat16", Mode, default="float32", unset=NONE)
    assert not config_types.accepts("newest", Literal["latest"], default="latest", unset=NONE)


def test_an_annotation_that_cannot_be_resolved_is_left_out():
    def partly(known: int, unknown: "NotDefined"):  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
        return known, unknown

    assert config_types.expectations(partly).keys() == {"known"}
