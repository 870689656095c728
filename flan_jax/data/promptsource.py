"""Prompts in PromptSource's files (https://arxiv.org/abs/2202.01279) as datasets: a file, a TFDS dataset, a spec a prompt.

    SPECS = promptsource.specs("templates/ropes/templates.yaml", t0_sf.dataset, tfds_name="ropes:1.0.0", rows=10_924)

The prompts are Jinja, a language with loops and calls, and a file of them is data. So they are rendered in Jinja's sandbox,
and what they may use is a list: fields, conditions, loops over fields and short ranges, the filters and methods of texts below.
Anything else is refused when the file is read, with its line; nothing reaches Python. `choice`, which draws in
PromptSource, follows from the row here.
"""

import dataclasses
import functools
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import spec

_BAR, _STAND_IN = "|||", "\ue000"  # between inputs and targets, and between choices; a bar in the data is no such bar
_TAG = re.compile(r"(?m)^([^\n#]*?(?::|-))[ \t]+!Template(?:Metadata)?[ \t]*$")
_LONGEST_RANGE = 1_000
_NODES = (
    *(
        "Template",
        "Output",
        "TemplateData",
        "Name",
        "Const",
        "List",
        "Tuple",
        "Dict",
        "Pair",
        "Getattr",
        "Getitem",
        "Slice",
    ),
    *(
        "If",
        "For",
        "Assign",
        "NSRef",
        "Filter",
        "Test",
        "Call",
        "Keyword",
        "Compare",
        "Operand",
        "And",
        "Or",
        "Not",
        "CondExpr",
    ),
    *("Concat", "Add", "Sub", "Mod", "FloorDiv", "Div", "Neg"),
)
_FILTERS = (
    *(
        "capitalize",
        "choice",
        "default",
        "first",
        "float",
        "int",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "most_frequent",
    ),
    *("replace", "reverse", "round", "sort", "string", "title", "trim", "unique", "upper"),
)
_FUNCTIONS = ("choice", "most_frequent", "range", "zip", "namespace", "enumerate")
_METHODS = (
    *(
        "capitalize",
        "count",
        "endswith",
        "find",
        "index",
        "items",
        "join",
        "keys",
        "lower",
        "lstrip",
        "replace",
        "rstrip",
    ),
    *("split", "startswith", "strip", "title", "upper", "values"),
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of a file.

    Attributes:
      name: as the file has it.
      where: file and name, for errors.
      jinja: inputs, `|||`, targets.
      choices: Jinja that gives the answers to choose from, with bars between them; empty for none.
    """

    name: str
    where: str
    jinja: str
    choices: str


def specs(
    path: str | pathlib.Path,
    make: Callable[..., spec.DatasetSpec],
    *,
    tfds_name: str,
    rows: int,
    of: str = "",
) -> tuple[spec.DatasetSpec, ...]:
    """Makes a dataset of every prompt of a file.

    Args:
      path: of a `templates.yaml`.
      make: `flan_jax.tasks.t0_sf.dataset`, or one's own with its arguments; its `example` reads P3's form of a row.
      tfds_name: the dataset that the prompts are applied to.
      rows: of its train split, as published.
      of: what it is called; the TFDS name's first part if empty.

    Raises:
      FlanError: the file is none of PromptSource's, or a prompt uses what is not on the list.
    """
    name = of or tfds_name.split(":")[0].replace("/", "_")
    found = []
    for prompt in read(str(path)):
        template(prompt)  # refused now rather than in a run
        form = "multiple_choice" if prompt.choices else "question_answer"
        made = make(
            f"{name}_{re.sub(r'[^0-9A-Za-z_.]+', '_', prompt.name)}", of=name, form=form, rows=rows, tfds_name=tfds_name
        )
        found.append(dataclasses.replace(made, example=_Example(prompt, made.example)))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Example:
    """A pure function of a row, and equal to any other that is made of the same."""

    prompt: Prompt
    example: Callable[[spec.Row], spec.Example | None]

    def __call__(self, row: spec.Row) -> spec.Example | None:
        applied = apply(self.prompt, row)
        return self.example(applied) if applied else None


@functools.cache
def read(path: str) -> tuple[Prompt, ...]:
    """Reads a file of prompts, in the order of their names.

    Raises:
      FlanError: it is none of PromptSource's.
    """
    import yaml

    try:
        # Its two tags name Python classes of PromptSource; what stands below them are plain mappings.
        text = _TAG.sub(r"\1", pathlib.Path(path).read_text(encoding="utf-8"))
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.FlanError(
            f"{path}: cannot be read as PromptSource's YAML: {' '.join(str(error).split())}"
        ) from None
    entries = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise errors.FlanError(f"{path}: expected a mapping with `templates:`, as PromptSource writes it")
    found = []
    for key, entry in entries.items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("name"), str)
            or not isinstance(entry.get("jinja"), str)
        ):
            raise errors.FlanError(f"{path}, prompt {key}: expected texts `name` and `jinja`, got {entry!r}")
        where = f"{path}, prompt {entry['name']!r}"
        found.append(Prompt(entry["name"], where, entry["jinja"], entry.get("answer_choices") or ""))
    return tuple(sorted(found, key=lambda prompt: prompt.name))


def apply(prompt: Prompt, row: spec.Row) -> dict[str, Any] | None:
    """Applies a prompt to a row of its dataset.

    Returns:
      A row in P3's form: `inputs_pretokenized`, `targets_pretokenized`, and `answer_choices` if the prompt has some; or None
      where the prompt gives nothing for this row, as many do by a condition.

    Raises:
      FlanError: the row lacks a field, or does not have what the prompt does with it.
    """
    import jinja2

    compiled, choices = template(prompt)
    fields = {key: _without_bars(row[key]) for key in row}
    try:
        options = [_with_bars(text).strip() for text in choices.render(**fields).split(_BAR)] if choices else []
        parts = compiled.render(**fields, answer_choices=[_without_bars(option) for option in options]).split(_BAR)
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise errors.FlanError(f"{prompt.where}: {error}; the row has {', '.join(map(repr, fields))}") from None
    if len(parts) != 2 or not all(part.strip() for part in parts):
        return None
    inputs, targets = (_with_bars(part).strip() for part in parts)
    applied: dict[str, Any] = {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
    return applied | ({"answer_choices": options} if options else {})


@functools.cache
def template(prompt: Prompt) -> tuple[Any, Any]:
    """Compiles a prompt, and its choices where it has some, after checking what they use.

    Raises:
      FlanError: not valid Jinja, or not on the list.
    """
    environment = _environment()
    return tuple(_compile(environment, text, prompt.where) if text else None for text in (prompt.jinja, prompt.choices))  # type: ignore[return-value]


def _compile(environment: Any, text: str, where: str) -> Any:
    import jinja2

    try:
        tree = environment.parse(text)
        for node in tree.find_all(jinja2.nodes.Node):
            problem = _problem(node)
            if problem:
                raise errors.FlanError(f"{where}, line {node.lineno}: {problem}")
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise errors.FlanError(f"{where}, line {error.lineno}: {error.message}") from None


def _problem(node: Any) -> str | None:
    """What a prompt may not use, or None."""
    kind = type(node).__name__
    if kind not in _NODES:
        return f"{kind} is not allowed in a prompt"
    if kind == "Filter" and node.name not in _FILTERS:
        return str(errors.unknown("filter", node.name, _FILTERS))
    if kind == "Getattr" and node.attr.startswith("_"):
        return f"attribute {node.attr!r} is not allowed in a prompt"
    if kind == "Call":
        called, names = node.node, _FUNCTIONS
        if type(called).__name__ == "Getattr":
            called, names = called.attr, _METHODS
        else:
            called = getattr(called, "name", None)
        if called not in names:
            return str(errors.unknown("function", str(called), names))
    return None


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined, sandbox

    # Not escaped: these are prompts, not pages.
    environment = sandbox.ImmutableSandboxedEnvironment(autoescape=False, undefined=StrictUndefined)
    environment.globals = {
        "choice": _choice,
        "most_frequent": _most_frequent,
        "range": _range,
        "zip": zip,
        "enumerate": enumerate,
        "namespace": environment.globals["namespace"],
    }
    environment.filters |= {"choice": _choice, "most_frequent": _most_frequent}
    return environment


def _choice(values: Sequence[Any]) -> Any:
    """One of the values: which, follows from the values themselves, so that a row always gives the same text."""
    values = list(values)
    return values[zlib.crc32(repr(values).encode("utf-8")) % len(values)]


def _most_frequent(values: Sequence[Any]) -> list[Any]:
    """The values that come most often, in the order in which they come first."""
    values = list(values)
    most = max(map(values.count, values), default=0)
    return list(dict.fromkeys(value for value in values if values.count(value) == most))


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > _LONGEST_RANGE:
        raise ValueError(f"a range of {len(found):,}; expected {_LONGEST_RANGE:,} at most")
    return found


def _without_bars(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_BAR, _STAND_IN)
    if isinstance(value, Mapping):
        return {key: _without_bars(inner) for key, inner in value.items()}
    return [_without_bars(inner) for inner in value] if isinstance(value, list | tuple) else value


def _with_bars(text: str) -> str:
    return text.replace(_STAND_IN, _BAR)
