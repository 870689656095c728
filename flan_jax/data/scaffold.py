"""What `flan new-task` guesses from a dataset's features: which texts ask, what answers, what there is to choose from.

Only the shape of a row is looked at. The guess is written out as plain code for the user to correct.
"""

import dataclasses
import json
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from flan_jax import errors
from flan_jax.data import features_json

# `answer` and `options` mean something to every template.
_RESERVED = ("answer", "options")
_LABELS = ("label", "labels", "class", "category", "answerKey", "answer")
_TARGETS = (
    *("target", "targets", "summary", "highlights", "answer", "answers", "response", "completion", "output"),
    *("orig_answer", "translation", "label", "subject_line"),
)
# Inside a struct of answers: what is written out, before its normalised or tokenised forms.
_ANSWER_TEXTS = ("text", "value", "input_text", "normalized_value")
_ID = re.compile(r"(id|idx|uid|guid|url|link|source)|.*_(id|idx|url)", re.IGNORECASE)
# The number or letter by which columns of one kind are told apart: sol1 sol2, choice_A choice_B.
_NUMBERED = re.compile(r"(?P<stem>.*?)_?(?P<number>\d|[A-Ha-h])")
_BARE = re.compile(r"\d+|[A-Za-z]|[a-z]+\d+")  # label names that say nothing by themselves: 0, A, choice1
_MOST_FIELDS = 6
# What is read first, and what is asked about it.
_FIRST, _LAST = ("title", "headline"), ("question", "questions", "query", "hypothesis", "claim", "goal")

Path = tuple[str, ...]
Kind = Literal["labels", "columns", "list", "flag", "number", "text", "texts"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One value of a row: where it is, what it is, and whether there is a list of them."""

    path: Path
    schema: features_json.Schema
    listed: bool = False

    @property
    def is_text(self) -> bool:
        return self.schema == features_json.Scalar("string")

    @property
    def code(self) -> str:
        """The value as Python code: `row['choices']['text']`."""
        return "row" + "".join(f"[{quoted(name)}]" for name in self.path)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A guess.

    Attributes:
      kind: how the answer is found: the text of a class label (`labels`), of one of several columns (`columns`) or of a
        list (`list`) that a label picks from; yes or no (`flag`); a number (`number`); a text of the row's own
        (`text`), or any of a list of them (`texts`).
      answer: the label or the text.
      choices: what is picked from, with `columns` and `list`.
      labels: the names of the class label, with `labels`.
      fields: what the templates may use, by field name.
    """

    kind: Kind
    answer: Leaf
    choices: tuple[Leaf, ...]
    labels: tuple[str, ...]
    fields: Mapping[str, Leaf]

    @property
    def has_options(self) -> bool:
        return self.kind in ("labels", "columns", "list", "flag")


def plan(schema: features_json.Struct) -> Plan:
    """Guesses how rows of these features become examples.

    Raises:
      FlanError: there is no text to ask about, or nothing that could be the answer.
    """
    # By name: a prepared directory does not keep the order of its features.
    leaves = sorted(_leaves(schema, (), False), key=lambda leaf: leaf.path)
    label = _label(leaves)
    if label is not None:
        kind, choices, labels = _choices(label, leaves)
        used, answer = {label.path, *(leaf.path for leaf in choices)}, label
    else:
        answer = _target(leaves)
        kind, choices, labels = ("texts" if answer.listed else "text"), (), ()
        inside = answer.path[:-1]  # its siblings are other forms of the answer
        used = {leaf.path for leaf in leaves if leaf == answer or (inside and leaf.path[: len(inside)] == inside)}
    asked = [leaf for leaf in leaves if leaf.is_text and leaf.path not in used and not _ID.fullmatch(leaf.path[-1])]
    # Lists deep in a row (evidence, annotations) are more than a prompt holds, unless there is nothing else.
    plain = [leaf for leaf in asked if not leaf.listed or len(leaf.path) == 1] or asked
    if not plain:
        raise errors.FlanError(f"no text to ask about beside the answer {'/'.join(answer.path)!r}; {_shape(leaves)}")
    plain.sort(key=lambda leaf: (leaf.path[-1] in _LAST) - (leaf.path[-1] in _FIRST))
    return Plan(kind, answer, choices, labels, dict(_named(plain[:_MOST_FIELDS])))


def _leaves(schema: features_json.Schema, path: Path, listed: bool) -> Iterator[Leaf]:
    match schema:
        case features_json.Struct(fields):
            for name, inner in fields.items():
                yield from _leaves(inner, (*path, name), listed)
        case features_json.List(element) if element is not None and not listed:
            yield from _leaves(element, path, True)
        case features_json.List():
            return  # a list of lists is nothing to put into a prompt
        case _:
            yield Leaf(path, schema, listed)


def _label(leaves: Sequence[Leaf]) -> Leaf | None:
    """The class label, truth value or number that says which answer is right; None where the answer is a text."""
    single = [leaf for leaf in leaves if not leaf.listed]
    classes = [leaf for leaf in single if isinstance(leaf.schema, features_json.Label)]
    # Several labels, as TREC's coarse and fine one: the one with the fewest classes.
    named = [leaf for leaf in classes if leaf.path[-1] in _LABELS]
    if classes:
        return min(named or classes, key=lambda leaf: leaf.schema.count)  # type: ignore[union-attr]
    numbers = [leaf for leaf in single if isinstance(leaf.schema, features_json.Scalar) and not leaf.is_text]
    found = {leaf.path[-1]: leaf for leaf in numbers if len(leaf.path) == 1}
    return next((found[name] for name in _LABELS if name in found), None)


def _choices(label: Leaf, leaves: Sequence[Leaf]) -> tuple[Kind, tuple[Leaf, ...], tuple[str, ...]]:
    """How a label becomes an answer, what it picks from, and its names."""
    names = label.schema.names if isinstance(label.schema, features_json.Label) else ()
    if label.schema == features_json.Scalar("bool"):
        return "flag", (), ()
    if not names or all(_BARE.fullmatch(name) for name in names):
        columns: dict[tuple[Path, str], list[Leaf]] = {}
        for leaf in leaves:
            numbered = _NUMBERED.fullmatch(leaf.path[-1])
            if leaf.is_text and not leaf.listed and numbered:
                columns.setdefault((leaf.path[:-1], numbered["stem"]), []).append(leaf)
        for group in columns.values():
            if len(group) == len(names) or (not names and len(group) > 1 and _is_integer(label)):
                return "columns", tuple(group), ()
        listed = [leaf for leaf in leaves if leaf.is_text and leaf.listed]
        if listed and (names or _is_integer(label)):
            return "list", (listed[0],), ()
    return ("labels", (), names) if names else ("number", (), ())


def _is_integer(leaf: Leaf) -> bool:
    return isinstance(leaf.schema, features_json.Scalar) and "int" in leaf.schema.dtype


def _target(leaves: Sequence[Leaf]) -> Leaf:
    texts = [leaf for leaf in leaves if leaf.is_text and not _ID.fullmatch(leaf.path[-1])]
    if not texts:
        raise errors.FlanError(f"no class label and no text that could be the answer; {_shape(leaves)}")
    for name in _TARGETS:
        inside = [leaf for leaf in texts if leaf.path[0] == name]
        for wanted in (name, *_ANSWER_TEXTS):
            for leaf in inside:
                if leaf.path[-1] == wanted:
                    return leaf
    return texts[-1]


def _shape(leaves: Sequence[Leaf]) -> str:
    return "the rows hold " + ", ".join("/".join(leaf.path) for leaf in leaves)


def _named(leaves: Sequence[Leaf]) -> Iterator[tuple[str, Leaf]]:
    """Gives each value a name that a template can use, in braces."""
    taken: set[str] = set()
    for leaf in leaves:
        name = re.sub(r"\W", "_", leaf.path[-1], flags=re.ASCII).strip("_") or "text"
        if name in _RESERVED:
            name = f"{name}_text"
        if not name.isidentifier() or keyword.iskeyword(name):
            name = f"text_{name}"
        if name in taken:
            name = "_".join(re.sub(r"\W", "_", part, flags=re.ASCII).strip("_") for part in leaf.path)
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        yield unique, leaf


def sample_row(found: Plan, number: int) -> dict[str, Any]:
    """Returns a made-up row, with just what the plan reads: what the generated test injects.

    Args:
      found: the plan.
      number: of the row; rows 0 and 1 have different answers where there are several.
    """
    row: dict[str, Any] = {}

    def put(leaf: Leaf, value: object) -> None:
        inner = row
        for name in leaf.path[:-1]:
            inner = inner.setdefault(name, {})
        inner[leaf.path[-1]] = value

    for name, leaf in found.fields.items():
        text = f"{words(name).capitalize()} of row {number}."
        put(leaf, [text, f"More of row {number}."] if leaf.listed else text)
    for place, leaf in enumerate(found.choices):
        listed = [f"choice {i} of row {number}" for i in range(3)]
        put(leaf, listed if leaf.listed else f"choice {place} of row {number}")
    values: dict[str, object] = {
        "flag": bool(number),
        "number": number,
        "text": f"answer {number}",
        "texts": [f"answer {number}", f"answer {number} in other words"],
    }
    put(found.answer, values.get(found.kind, number))
    return row


def words(name: str) -> str:
    """`words("email_body") == "email body"`, `words("sentence1") == "sentence 1"`."""
    return re.sub(r"(?<=[a-zA-Z])(?=\d)", " ", name.replace("_", " ")).strip().lower()


def quoted(text: str) -> str:
    """Returns a Python string literal in double quotes, as this code base writes them."""
    return json.dumps(text, ensure_ascii=False)  # every JSON string is a Python one
