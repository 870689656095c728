"""`flan check-templates`: what can be wrong with a template that a reader would not see."""

import contextlib
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from flan_jax import errors
from flan_jax.data import mixtures, seqio_tasks, sources, spec, stores, templates, vocabulary

_READ = 200  # rows a split that are looked at for the fields of a dataset
_NEAR = 0.92  # difflib ratio from which two templates of a file count as the same
_MAX_REVERSED = 3  # a file, as in FLAN 2021 section 2.1
_LETTERED = re.compile(r"\([A-Z]\)")
_LIST_FIELD = re.compile("choice|option|alternative|candidate|ending")
# Words that point at a list of answers; "your choice" is the act of choosing.
_LISTED = re.compile(
    r"\([A-Z]\)|(?<!your )\bchoices?\b|\b(?:options|alternatives)\b|\b(?:which|correct|right|best|better) option\b"
    r"|\boption (?:above|below)\b|\b(?:on offer|(?:answers|candidates|endings|phrases|words) (?:listed|given))\b|\bof the answers\b"
    r"|\b(?:two|three|four|five|possible) (?:answers|drafts|endings|passages|results|versions)\b",
    re.IGNORECASE,
)


def main(module: str, vocabulary_file: str | None, data_dir: str | None = None) -> int:
    """Lints the templates of every dataset of a module; prints each problem; returns the exit code."""
    catalogue = mixtures.Catalogue.from_modules(module)
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    data_dirs = _data_dirs(data_dir)
    # The thousands of datasets that collections bring share a few files.
    shared = {dataset.templates: dataset for dataset in catalogue.blends.own.values() if dataset.templates}
    datasets = [*catalogue.specs, *shared.values()]
    found = {dataset.name: examples(dataset, data_dirs) for dataset in datasets}
    # Datasets may share a file, and so its problems.
    problems = list(dict.fromkeys(p for dataset in datasets for p in lint(dataset, found[dataset.name])))
    for problem in problems:
        print(problem)
    unseen = [dataset.name for dataset in catalogue.specs if not found[dataset.name]]
    if unseen:
        print(
            f"note: no row of {', '.join(unseen)} is at hand, so fields are not checked; name a directory by --tfds_data_dir"
        )
    lost = list(dict.fromkeys(c for dataset in datasets for c in unrepresentable(dataset, tokenizer)))
    if lost:
        # Not an error: T5's own vocabulary has no newline, and the renderer puts a stand-in there.
        stand_ins = ", ".join(f"{c!r} -> {vocabulary.FALLBACKS.get(c, 'unknown piece')!r}" for c in lost)
        print(f"note: the vocabulary has no piece for {stand_ins}")
    unmapped = [c for c in lost if c not in vocabulary.FALLBACKS]
    print(f"{len(catalogue.specs)} datasets, {len(problems)} problems")
    return 1 if problems or unmapped else 0


def lint(dataset: spec.DatasetSpec, seen: Sequence[spec.Example] = ()) -> list[str]:
    """Returns the problems of one dataset's template files, one line each.

    Args:
      dataset: whose templates they are.
      seen: some of its examples, to hold the fields of the templates against; none leaves that out.
    """
    own, inverted = templates.load(dataset.templates), templates.load(dataset.inverted) if dataset.inverted else ()
    problems = _file(own, dataset.rationale, seen)
    problems += [f"{number}: {problem}" for number, t in enumerate(own) for problem in _scored(t, dataset, seen)]
    if sum(t.reversed for t in own) > _MAX_REVERSED:
        problems.append(f"{sum(t.reversed for t in own)} reversed templates; expected {_MAX_REVERSED} at most")
    turned = _file(inverted, False, seen)
    turned += [f"{number}: not marked `reversed: true`" for number, t in enumerate(inverted) if not t.reversed]
    file = templates.path(dataset.templates).name
    return (
        [f"{file}, template {problem}" for problem in problems]
        + [f"{templates.path(dataset.inverted).name}, template {problem}" for problem in turned]
        + [f"{file}: no template uses {{{field}}} of {dataset.name}" for field in _unused(dataset, seen)]
    )


def _file(loaded: Sequence[templates.Template], rationale: bool, seen: Sequence[spec.Example]) -> list[str]:
    """The problems of the templates of a file, each behind its number."""
    problems = [f"{number}: {problem}" for number, t in enumerate(loaded) for problem in _template(t, rationale)]
    texts = [_text(t.preamble) + _text(t.inputs) + " => " + _text(t.targets) for t in loaded]
    for (i, one), (j, other) in itertools.combinations(enumerate(texts), 2):
        if difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEAR:
            problems.append(f"{i} and {j} are nearly the same")
    if seen:
        problems += [f"{number}: {problem}" for number, t in enumerate(loaded) for problem in _unknown(t, seen)]
    return problems


def examples(dataset: spec.DatasetSpec, data_dirs: Iterable[str]) -> list[spec.Example]:
    """Some examples of every split of a dataset, from the first directory that has any; empty where none has."""
    for data_dir in data_dirs:
        found: list[spec.Example] = []
        try:
            prepared = stores.opened(dataset, data_dir)
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


def _scored(template: templates.Template, dataset: spec.DatasetSpec, seen: Sequence[spec.Example]) -> Iterator[str]:
    """What keeps a forward template from being asked and scored as its dataset is, with the options shown or not."""
    if template.reversed:
        return
    fields = {field for _, field in (*template.preamble, *template.inputs) if field} - {templates.OPTIONS}
    targets = _text(template.targets)
    if seqio_tasks.scores(dataset) and "{answer}" in targets and targets != "{answer}":
        yield f"the targets are {targets!r}; expected {{answer}} alone, since options are ranked bare"
    for field in sorted(fields - {templates.ANSWER}):
        if seen and all(_same(example.fields.get(field, ""), example.answer) for example in seen):
            yield f"the inputs hold {{{field}}}, which is the answer of all {len(seen)} examples"
    if any(_LIST_FIELD.search(field) for field in fields):
        return
    # A question may bring lettered choices along; only rows tell, and few but those with rationales do.
    brings = [any(_LETTERED.search(example.fields.get(field, "")) for field in fields) for example in seen]
    if all(brings) and (seen or dataset.rationale):
        return
    asking = "\n".join(text for text, _ in (*template.preamble, *template.inputs, *template.prompted))
    if pointed := _LISTED.search(asking):
        yield f"{pointed[0]!r} points at a list that is not shown{' where options are left out' * template.shows_options}"


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def _unused(dataset: spec.DatasetSpec, seen: Sequence[spec.Example]) -> list[str]:
    """The fields of examples that are there for nothing: no template has them, nor does a metric group by them."""
    from flan_jax.evaluation import metrics

    used = {field for template in templates.of(dataset) for field in template.fields()}
    if any(metrics.get(name).needs_group for name in dataset.metrics):
        used.add("group")
    return sorted({field for example in seen for field in example.fields} - used)


def unrepresentable(dataset: spec.DatasetSpec, tokenizer: vocabulary.Tokenizer) -> list[str]:
    """Returns the characters of a dataset's templates that a vocabulary has no piece for."""
    literal = "".join(text for t in templates.of(dataset) for text, _ in (*t.inputs, *t.targets))
    return tokenizer.unrepresentable(literal)


def _template(template: templates.Template, rationale: bool) -> Iterator[str]:
    inputs, targets = _text(template.inputs), _text(template.targets)
    prompted = _text(template.prompted) if template.prompted else inputs
    sides = {"preamble": _text(template.preamble), "inputs": inputs, "targets": targets}
    if template.prompted:
        sides["inputs with their trigger"] = prompted
    for side, text in sides.items():
        if any(line != line.rstrip() for line in text.split("\n")):
            yield f"{side} have trailing space"
        if text != text.strip():
            yield f"{side} start or end with white space"
    if template.shows_options:
        before, _, after = prompted.partition("{options}") if rationale else inputs.partition("{options}")
        if not before.endswith("\n") or (after and not (rationale and after.startswith("\n"))):
            yield f"{{options}} must be {'' if rationale else 'last in the inputs, '}on a line of its own"
        if template.reversed:
            yield "a reversed template shows options, which belong to the answer it gives away"
    asked = {field for _, field in template.inputs if field}
    said = {field for _, field in template.targets if field}
    if not template.reversed:
        if templates.ANSWER in asked:
            yield "the inputs hold {answer}"
        if templates.ANSWER not in said:
            yield "the targets lack {answer}, so no metric can score them; mark it `reversed: true` if that is meant"
    if rationale and not template.reversed:
        if "rationale" not in said or targets.find("{rationale}") > targets.find("{answer}"):
            yield "the targets do not give {rationale} before {answer}"
        if not template.prompted:
            yield "there is no `trigger: TEXT` that asks for the reasoning"
    if not said:
        yield "the targets use no field: every example would have the same target"
    if templates.OPTIONS in said:
        yield "the targets hold {options}"
    shared = (asked & said) - {templates.ANSWER}
    if shared:
        yield f"the targets repeat {', '.join(sorted(shared))} of the inputs"


def _text(segments: templates.Segments) -> str:
    return "".join(text + (f"{{{field}}}" if field else "") for text, field in segments)
