"""Templates: pure data with named fields, rendered by string joins. Nothing in a template is executed.

A template file holds ten pairs of `inputs` and `targets`:

    - inputs: |-
        {premise}

        Does it follow that {hypothesis}

        {options}
      targets: "{answer}"

`{options}` stands for the block `OPTIONS:` and one `- ` line an option (FLAN section 2.3). It comes last, so that it
can be left out with the white space before it when options are not shown. `reversed: true` marks a pair that asks for
the question instead of the answer. `preamble:` is what is said once, before exemplars; where there are none it precedes the
inputs, a blank line between them.

Where targets reason before they answer, a pair may have a phrase that asks for the reasoning, and says where it goes:

    - inputs: |-
        {question}

        {trigger}
      trigger: Let's think step by step.
      targets: "{rationale} So the answer is {answer}."

Every such pair is two patterns, without the phrase and with it (`of`).
"""

import dataclasses
import functools
import pathlib
import string
from collections.abc import Mapping

from flan_jax import errors, shipped
from flan_jax.data import spec as spec_lib

OPTIONS_HEADER = "OPTIONS:"
ANSWER, OPTIONS, TRIGGER = "answer", "options", "trigger"
_KEYS = {"inputs", "targets", "reversed", "preamble", TRIGGER}

# A template side, cut at its fields: (literal text, name of the field that follows or None).
Segments = tuple[tuple[str, str | None], ...]


@dataclasses.dataclass(frozen=True)
class Template:
    """One pair of patterns.

    Attributes:
      inputs: segments of the model's input.
      targets: segments of what the model is trained to say.
      reversed: whether it asks for something other than the dataset's answer.
      prompted: the inputs with the phrase that asks for the reasoning; empty where there is none.
      preamble: segments of what precedes exemplars and inputs; empty in most.
    """

    inputs: Segments
    targets: Segments
    reversed: bool = False
    prompted: Segments = ()
    preamble: Segments = ()

    @property
    def shows_options(self) -> bool:
        return any(field == OPTIONS for _, field in self.inputs)

    def fields(self) -> set[str]:
        """Every field that either side uses."""
        return {field for _, field in (*self.preamble, *self.inputs, *self.targets) if field is not None}


def render(
    template: Template, example: spec_lib.Example, *, options: bool = True, preamble: bool = True
) -> tuple[str, str]:
    """Renders one example.

    Args:
      template: the pattern.
      example: the fields.
      options: whether the options block is shown where the template has one.
      preamble: whether the inputs start with the preamble where the template has one.

    Returns:
      (inputs, targets), both stripped.

    Raises:
      FlanError: the template uses a field that the example does not have.
    """
    values: Mapping[str, str] = {
        **example.fields,
        ANSWER: example.answer,
        OPTIONS: options_block(example.options) if options else "",
    }
    try:
        inputs, targets = _fill(template.inputs, values), _fill(template.targets, values)
    except KeyError as error:
        raise errors.unknown("template field", error.args[0], values) from None
    if preamble and template.preamble:
        inputs = f"{introduce(template, example)}\n\n{inputs}"
    return inputs, targets


def introduce(template: Template, example: spec_lib.Example) -> str:
    """Renders a template's preamble; nothing where it has none."""
    try:
        return _fill(template.preamble, example.fields)
    except KeyError as error:
        raise errors.unknown("template field", error.args[0], example.fields) from None


def _fill(segments: Segments, values: Mapping[str, str]) -> str:
    """Joins texts and fields; before an empty field (no background, no options) the white space goes, too."""
    parts = []
    for text, field in segments:
        value = values[field] if field is not None else ""
        parts.append(text + value if value or field is None else text.rstrip())
    return "".join(parts).strip()


def options_block(options: tuple[str, ...]) -> str:
    """`options_block(("yes", "no")) == "OPTIONS:\\n- yes\\n- no"`; nothing for no options."""
    return "\n- ".join((OPTIONS_HEADER, *options)) if options else ""


def of(dataset: spec_lib.DatasetSpec) -> tuple[Template, ...]:
    """Every pattern that a dataset is asked in, in the order of the indices that styles speak of.

    First those of its file, without phrases that ask for reasoning; then, if any of them has one, all of them again, with;
    then those of `dataset.inverted`.
    """
    own = load(dataset.templates)
    phrases = any(template.prompted for template in own)
    prompted = [dataclasses.replace(t, inputs=t.prompted or t.inputs) for t in own] if phrases else []
    return (*own, *prompted, *(load(dataset.inverted) if dataset.inverted else ()))


@functools.cache
def load(name: str) -> tuple[Template, ...]:
    """Reads the templates of a dataset.

    Args:
      name: stem of a shipped file (`rte`), or the path of a YAML file of the user's own.

    Raises:
      FlanError: there is no such file, or it is not a list of templates.
    """
    import yaml

    file = path(name)
    if not file.is_file():
        raise errors.unknown("template file", name, [found.stem for found in _folder().glob("*.yaml")])
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.FlanError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    entries = content.get("templates") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise errors.FlanError(f"{file}: expected a list of templates, or a mapping with `templates:`")
    return tuple(_template(entry, f"{file}, template {number}") for number, entry in enumerate(entries))


def path(name: str) -> pathlib.Path:
    """Where the templates of that name are: a shipped file, or the user's own where the name ends in `.yaml`."""
    return pathlib.Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"


def _folder() -> pathlib.Path:
    return shipped.directory("tasks") / "templates"


def _template(entry: object, where: str) -> Template:
    if not isinstance(entry, dict) or not {"inputs", "targets"} <= set(entry):
        raise errors.FlanError(f"{where}: expected a mapping with `inputs` and `targets`, got {entry!r}")
    for key in entry:
        if key not in _KEYS:
            raise errors.FlanError(f"{where}: {errors.unknown('key', str(key), _KEYS)}")
    is_reversed = entry.get("reversed", False)
    if not isinstance(is_reversed, bool):
        raise errors.FlanError(f"{where}: `reversed` expects true or false, got {is_reversed!r}")
    inputs, targets = _segments(entry["inputs"], where), _segments(entry["targets"], where)
    places, phrase = sum(field == TRIGGER for _, field in inputs), entry.get(TRIGGER)
    if places != (TRIGGER in entry) or any(field == TRIGGER for _, field in targets):
        raise errors.FlanError(
            f"{where}: expected `{TRIGGER}: TEXT` and {{{TRIGGER}}} once in the inputs, or neither of them"
        )
    preamble = _segments(entry.get("preamble", ""), where)
    if not places:
        return Template(inputs, targets, is_reversed, preamble=preamble)
    if not isinstance(phrase, str) or not phrase.strip():
        raise errors.FlanError(f"{where}: `{TRIGGER}` expects text, got {phrase!r}")
    return Template(_put(inputs, ""), targets, is_reversed, prompted=_put(inputs, phrase.strip()), preamble=preamble)


def _put(inputs: Segments, phrase: str) -> Segments:
    """Puts a phrase in the place of `{trigger}`; an empty one takes the white space before it along."""
    found: list[tuple[str, str | None]] = []
    ahead = ""
    for text, field in inputs:
        ahead += text
        if field == TRIGGER:
            ahead = ahead + phrase if phrase else ahead.rstrip()
        else:
            found.append((ahead if found else ahead.lstrip("\n"), field))
            ahead = ""
    return (*found, (ahead, None)) if ahead else tuple(found)


def _segments(pattern: object, where: str) -> Segments:
    """Cuts `"Is {a} it?"` into `(("Is ", "a"), (" it?", None))`; only plain field names; `{{` is a brace."""
    if not isinstance(pattern, str):
        raise errors.FlanError(f"{where}: expected text, got {pattern!r}")
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise errors.FlanError(f"{where}: {error}; write {{{{ and }}}} for braces that are meant as text") from None
    for _, field, form, conversion in parts:
        if field is not None and (not field.isidentifier() or form or conversion):
            given = field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise errors.FlanError(f"{where}: expected a plain field name in braces, got {given!r}")
    return tuple((literal, field) for literal, field, _, _ in parts)
