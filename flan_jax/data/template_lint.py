"""`flan check-templates`: what can be wrong with a template that a reader would not see."""

import contextlib
import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from flan_jax import errors
from flan_jax.data import mixtures, sources, spec, templates, vocabulary

_READ = 200  # rows a split that are looked at for the fields of a dataset
_NEAR = 0.92  # difflib ratio from which two templates of a file count as the same
_MAX_REVERSED = 3  # a file, as in FLAN 2021 section 2.1


def main(module: str, vocabulary_file: str | None, data_dir: str | None = None) -> int:
    """Lints the templates of every dataset of a module; prints each problem; returns the exit code."""
    catalogue = mixtures.Catalogue.from_modules(module)
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    data_dirs = _data_dirs(data_dir)
    found = {dataset.name: examples(dataset, data_dirs) for dataset in catalogue.specs}
    problems = [problem for dataset in catalogue.specs for problem in lint(dataset, found[dataset.name])]
    for problem in problems:
        print(problem)
    unseen = [name for name, seen in found.items() if not seen]
    if unseen:
        print(
            f"note: no row of {', '.join(unseen)} is at hand, so fields are not checked; name a directory by --tfds_data_dir"
        )
    lost = list(dict.fromkeys(c for dataset in catalogue.specs for c in unrepresentable(dataset, tokenizer)))
    if lost:
        # Not an error: T5's own vocabulary has no newline, and the renderer puts a stand-in there.
        stand_ins = ", ".join(f"{c!r} -> {vocabulary.FALLBACKS.get(c, 'unknown piece')!r}" for c in lost)
        print(f"note: the vocabulary has no piece for {stand_ins}")
    unmapped = [c for c in lost if c not in vocabulary.FALLBACKS]
    print(f"{len(catalogue.specs)} datasets, {len(problems)} problems")
    return 1 if problems or unmapped else 0


def lint(dataset: spec.DatasetSpec, seen: Sequence[spec.Example] = ()) -> list[str]:
    """Returns the problems of one dataset's template file, one line each.

    Args:
      dataset: whose templates they are.
      seen: some of its examples, to hold the fields of the templates against; none leaves that out.
    """
    loaded = templates.load(dataset.templates)
    problems = [f"{number}: {problem}" for number, t in enumerate(loaded) for problem in _template(t)]
    if sum(t.reversed for t in loaded) > _MAX_REVERSED:
        problems.append(f"{sum(t.reversed for t in loaded)} reversed templates; expected {_MAX_REVERSED} at most")
    texts = [_text(t.inputs) + " => " + _text(t.targets) for t in loaded]
    for (i, one), (j, other) in itertools.combinations(enumerate(texts), 2):
        if difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEAR:
            problems.append(f"{i} and {j} are nearly the same")
    if seen:
        problems += [f"{number}: {problem}" for number, t in enumerate(loaded) for problem in _unknown(t, seen)]
    file = templates.path(dataset.templates).name
    return [f"{file}, template {problem}" for problem in problems] + [
        f"{file}: no template uses {{{field}}} of {dataset.name}" for field in _unused(dataset, loaded, seen)
    ]


def examples(dataset: spec.DatasetSpec, data_dirs: Iterable[str]) -> list[spec.Example]:
    """Some examples of every split of a dataset, from the first directory that has any; empty where none has."""
    for data_dir in data_dirs:
        found: list[spec.Example] = []
        try:
            prepared = sources.PreparedDataset(data_dir, dataset.tfds_name)
        except sources.NotPrepared:
            continue
        for split in dataset.splits:
            with contextlib.suppress(sources.NotPrepared):  # a copy may lack one
                rows = prepared.rows(dataset.splits, split)
                found += filter(None, map(dataset.example, itertools.islice(rows, _READ)))
        if found:
            return found
    return []


def _data_dirs(given: str | None) -> list[str]:
    """The directory that was given, else the embedded sample and the user's own prepared datasets where there are some."""
    if given:
        return [sources.resolve_data_dir(given)]
    found = [sources.resolve_data_dir(sources.SAMPLE)]
    with contextlib.suppress(errors.FlanError):
        found.append(sources.resolve_data_dir(None))
    return found


def _unknown(template: templates.Template, seen: Sequence[spec.Example]) -> Iterator[str]:
    """What a template asks for that examples lack."""
    known = {field for example in seen for field in example.fields} | {templates.ANSWER, templates.OPTIONS}
    for field in sorted(template.fields() - {templates.ANSWER, templates.OPTIONS}):
        if field not in known:
            yield str(errors.unknown("template field", field, known))
        elif lacking := sum(field not in example.fields for example in seen):
            yield f"{lacking} of {len(seen)} examples lack {{{field}}}"
    if template.shows_options and not any(example.options for example in seen):
        yield "{options} is shown, but no example has options"


def _unused(dataset: spec.DatasetSpec, loaded: Sequence[templates.Template], seen: Sequence[spec.Example]) -> list[str]:
    """The fields of examples that are there for nothing: no template has them, nor does a metric group by them."""
    from flan_jax.evaluation import metrics

    used = {field for template in loaded for field in template.fields()}
    if any(metrics.get(name).needs_group for name in dataset.metrics):
        used.add("group")
    return sorted({field for example in seen for field in example.fields} - used)


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
