"""`flan check-templates`: what can be wrong with a template that a reader would not see."""

import difflib
import itertools
from collections.abc import Iterator

from flan_jax.data import mixtures, spec, templates, vocabulary

_NEAR = 0.92  # difflib ratio from which two templates of a file count as the same
_MAX_REVERSED = 3  # a file, as in FLAN 2021 section 2.1


def main(module: str, vocabulary_file: str | None) -> int:
    """Lints the templates of every dataset of a module; prints each problem; returns the exit code."""
    catalogue = mixtures.Catalogue.from_modules(module)
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    problems = [problem for dataset in catalogue.specs for problem in lint(dataset)]
    for problem in problems:
        print(problem)
    lost = list(dict.fromkeys(c for dataset in catalogue.specs for c in unrepresentable(dataset, tokenizer)))
    if lost:
        # Not an error: T5's own vocabulary has no newline, and the renderer puts a stand-in there.
        stand_ins = ", ".join(f"{c!r} -> {vocabulary.FALLBACKS.get(c, 'unknown piece')!r}" for c in lost)
        print(f"note: the vocabulary has no piece for {stand_ins}")
    unmapped = [c for c in lost if c not in vocabulary.FALLBACKS]
    print(f"{len(catalogue.specs)} datasets, {len(problems)} problems")
    return 1 if problems or unmapped else 0


def lint(dataset: spec.DatasetSpec) -> list[str]:
    """Returns the problems of one dataset's template file, one line each."""
    loaded = templates.load(dataset.templates)
    problems = [f"{number}: {problem}" for number, t in enumerate(loaded) for problem in _template(t)]
    if sum(t.reversed for t in loaded) > _MAX_REVERSED:
        problems.append(f"{sum(t.reversed for t in loaded)} reversed templates; expected {_MAX_REVERSED} at most")
    texts = [_text(t.inputs) + " => " + _text(t.targets) for t in loaded]
    for (i, one), (j, other) in itertools.combinations(enumerate(texts), 2):
        if difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEAR:
            problems.append(f"{i} and {j} are nearly the same")
    file = templates.path(dataset.templates).name
    return [f"{file}, template {problem}" for problem in problems]


def unrepresentable(dataset: spec.DatasetSpec, tokenizer: vocabulary.Tokenizer) -> list[str]:
    """Returns the characters of a dataset's templates that a vocabulary has no piece for."""
    literal = "".join(text for t in templates.load(dataset.templates) for text, _ in (*t.inputs, *t.targets))
    return tokenizer.unrepresentable(literal)


def _template(template: templates.Template) -> Iterator[str]:
    inputs, targets = _text(template.inputs), _text(template.targets)
    for side, text in (("inputs", inputs), ("targets", targets)):
        if any(line != line.rstrip() for line in text.split("\n")):
            yield f"{side} have trailing space"
        if text != text.strip():
            yield f"{side} start or end with white space"
    if template.shows_options:
        if template.inputs[-1] != (template.inputs[-1][0], templates.OPTIONS) or not template.inputs[-1][0].endswith(
            "\n"
        ):
            yield "{options} must be last in the inputs, on a line of its own"
        if template.reversed:
            yield "a reversed template shows options, which belong to the answer it gives away"
    asked = {field for _, field in template.inputs if field}
    said = {field for _, field in template.targets if field}
    if not template.reversed:
        if templates.ANSWER in asked:
            yield "the inputs hold {answer}"
        if templates.ANSWER not in said:
            yield "the targets lack {answer}, so no metric can score them; mark it `reversed: true` if that is meant"
    if not said:
        yield "the targets use no field: every example would have the same target"
    if templates.OPTIONS in said:
        yield "the targets hold {options}"
    shared = (asked & said) - {templates.ANSWER}
    if shared:
        yield f"the targets repeat {', '.join(sorted(shared))} of the inputs"


def _text(segments: templates.Segments) -> str:
    return "".join(text + (f"{{{field}}}" if field else "") for text, field in segments)
