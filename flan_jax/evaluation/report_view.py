"""What a report shows, before it is Markdown or HTML: tables of text, scores to draw, predictions to browse."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flan_jax.evaluation import published as papers
from flan_jax.evaluation import results

LONGEST = 2000  # characters of a prompt or output that are shown: its beginning and its end
OURS, OTHER = "A", "B"
ALONE = "this one"  # a checkpoint that is not compared, among published ones
FLAN2021, OPT_IML = "flan2021", "opt_iml"
# A number of exemplars in a name: of a score of OPT-IML's suite, of a mixture.
_SHOTS = re.compile(r"_(\d+)_shot$")
_SOME_SHOTS = re.compile(r"_(?!zero)[a-z]+_shot$")
# What papers print of a score: `published.beside`.
Published = Callable[..., Sequence[papers.Score]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
      title: a heading.
      head: of its columns.
      rows: cells; empty where there is nothing to say.
      words: how many columns, from the left, are words; the others are numbers.
      note: a sentence below; may be empty.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """The scores of one group, drawn and as a table.

    Attributes:
      name: of a suite's run or a cluster.
      scores: of the first checkpoint and, where there is one, the second.
      table: the same as text.
    """

    name: str
    scores: tuple[tuple[results.Score, results.Score | None], ...]
    table: Table


@dataclasses.dataclass(frozen=True)
class View:
    """A report.

    Attributes:
      title: a line.
      facts: (what, text) of each checkpoint in turn.
      notes: what differs from the protocol, or is to be known before a score is believed.
      averages: with the other checkpoint's.
      groups: of scores.
      published: tables with published rows.
      changes: examples that were answered differently; empty for one checkpoint.
      samples: predictions by subtask.
      compared: whether there are two checkpoints.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    averages: Table
    groups: tuple[Group, ...]
    published: tuple[Table, ...]
    changes: tuple[results.Changes, ...]
    samples: dict[str, list[results.Prediction]]
    compared: bool


def view(
    first: results.Results,
    second: results.Results | None = None,
    *,
    samples: int = 4,
    changes: int = 6,
    published: Published = papers.beside,
) -> View:
    """Puts a report together.

    Args:
      first: the results.
      second: others to hold against them.
      samples: predictions shown of each subtask.
      changes: examples shown of each subtask that the two answer differently.
      published: what papers print of a score.
    """
    others = {} if second is None else {score.key: score for score in second.scores}
    pairs = [(score, others.get(score.key)) for score in first.scores]
    names = dict.fromkeys(score.group for score in first.scores)
    groups = [[pair for pair in pairs if pair[0].group == name] for name in names]
    both = ((OURS, first),) if second is None else ((OURS, first), (OTHER, second))
    names_of = [_short(found.title) for _, found in both]
    if len(set(names_of)) < len(both):
        names_of = [found.title for _, found in both]
    prefixes = [""] if second is None else [f"{which}: " for which, _ in both]
    return View(
        title=f"{first.about['suite']}: {' and '.join(names_of)}",
        facts=tuple(
            fact for prefix, (which, of) in zip(prefixes, both, strict=True) for fact in _facts(prefix, which, of)
        ),
        notes=tuple(
            f"{prefix}{note}"
            for prefix, (_, of) in zip(prefixes, both, strict=True)
            for note in of.about.get("notes", ())
        ),
        averages=_averages(first, second),
        groups=tuple(
            Group(name, tuple(mine), _scores(name, mine, second is not None))
            for name, mine in zip(names, groups, strict=True)
        ),
        published=tuple(_published(first, second, published)),
        changes=() if second is None else tuple(results.compare(first, second, changes)),
        samples=results.samples(first, samples),
        compared=second is not None,
    )


def number(value: float | None, signed: bool = False) -> str:
    """One decimal, or nothing."""
    return "" if value is None else f"{value:+.1f}" if signed else f"{value:.1f}"


def shortened(text: object) -> str:
    """A text without its middle, where it is long."""
    whole = text if isinstance(text, str) else "" if text is None else str(text)
    if len(whole) <= LONGEST:
        return whole
    half = LONGEST // 2
    return f"{whole[:half]}\n[... {len(whole) - 2 * half:,} more characters ...]\n{whole[-half:]}"


def answer(one: results.Prediction) -> str:
    """What was said, and what was read out of it where that differs."""
    said, parsed = str(one.line["output"]), one.line.get("parsed", one.line["output"])
    if parsed is None:
        return f"{shortened(said)}\n[no answer found in it]"
    return shortened(said) if str(parsed).strip() == said.strip() else f"{shortened(said)}\n[read as: {parsed}]"


def _short(title: str) -> str:
    """The end of a path: the run and its checkpoint."""
    return "/".join(title.rstrip("/").split("/")[-2:])


def _facts(prefix: str, which: str, found: results.Results) -> Iterable[tuple[str, str]]:
    about = found.about
    checkpoint = f"{about['checkpoint'] or 'checkpoint not named'}, step {about['step']}, {about['suite']}"
    yield which if prefix else "checkpoint", checkpoint
    for name in ("split", "seed"):
        if name in about:
            yield f"{prefix}{name}", str(about[name])
    for name in ("settings", "versions"):
        given = about.get(name)
        if not isinstance(given, dict) or not given:
            continue
        runs = given.get("runs", {})
        yield f"{prefix}{name}", _listed({key: value for key, value in given.items() if key != "runs"})
        for run, of in runs.items() if isinstance(runs, dict) else ():
            yield f"{prefix}{run}", _listed(of)


def _listed(given: object) -> str:
    """Settings as words; what is empty or off is left out."""
    if isinstance(given, dict):
        off = [key for key, value in given.items() if value is None or value is False or value in ("", [], (), {})]
        parts = ((key, _listed(value)) for key, value in given.items() if key not in off)
        return "; ".join(f"{key}: {text}" if ": " in text or "; " in text else f"{key} {text}" for key, text in parts)
    if isinstance(given, list | tuple):
        return ", ".join(f"\u201c{one}\u201d" if isinstance(one, str) else str(one) for one in given)
    return str(given)


def _averages(first: results.Results, second: results.Results | None) -> Table:
    if second is None:
        head = ("", "score", "subtasks", "examples")
        return _without_empty(
            Table("Averages", head, tuple(_average(first, name, value) for name, value in first.averages))
        )
    others = dict(second.averages)
    rows = [
        (name, number(value), number(others.get(name)), number(others[name] - value, True) if name in others else "")
        for name, value in first.averages
    ]
    return Table("Averages", ("", OURS, OTHER, f"{OTHER} - {OURS}"), tuple(rows))


def _average(found: results.Results, name: str, value: float) -> tuple[str, str, str, str]:
    """A row: of how many subtasks and examples it is, where it is the mean of a group of that name."""
    mine = [score for score in found.scores if score.group == name]
    if not mine:
        return name, number(value), "", ""
    return name, number(value), f"{len(mine):,}", f"{sum(score.examples for score in mine):,}"


def _without_empty(table: Table) -> Table:
    """A table without the columns that say nothing; a column of words that says the same in every row becomes the note."""
    kept, note, words = [], table.note, table.words
    for at, name in enumerate(table.head):
        cells = {row[at] for row in table.rows}
        same = 0 < at < table.words and len(cells) == 1 and len(table.rows) > 1
        if same:
            note, words = f"{name}: {next(iter(cells))}", words - 1
        elif at == 0 or cells - {""}:
            kept.append(at)
    rows = tuple(tuple(row[at] for at in kept) for row in table.rows)
    return Table(table.title, tuple(table.head[at] for at in kept), rows, words, note)


def _scores(name: str, pairs: Sequence[tuple[results.Score, results.Score | None]], compared: bool) -> Table:
    head = ["", "metric", OURS if compared else "score", "std"]
    head += [OTHER, f"{OTHER} - {OURS}"] if compared else []
    best = any(score.best_dev for score, _ in pairs)
    head += [*(["best dev", "template"] if best else []), "chance", "examples"]
    rows = []
    for score, other in pairs:
        cells = [score.name, score.metric, number(score.value), number(score.std)]
        if compared:
            cells += [number(other.value), number(other.value - score.value, True)] if other else ["", ""]
        if best:
            chosen = score.best_dev
            cells += [number(chosen["value"]), str(chosen["template"])] if chosen else ["", ""]
        rows.append((*cells, number(score.chance), f"{score.examples:,}"))
    return _without_empty(Table(name, tuple(head), tuple(rows), words=2))


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One of our scores, as papers' are looked up.

    Attributes:
      label: what it is called here.
      key: (name, group) of papers' scores.
      value: ours.
      split: of its questions; empty where not known.
      shots: exemplars.
    """

    label: str
    key: tuple[str, str]
    value: float
    split: str = ""
    shots: papers.Shots = None


def _asked(found: results.Results) -> list[_Asked]:
    """Every score and average that a paper may print one beside."""
    suite, settings = str(found.about["suite"]), found.about.get("settings") or {}
    if suite.startswith("flan2021_eval"):
        return _asked_of_flan2021(found, suite)
    if suite == OPT_IML:  # its tasks stand beside FLAN's own, of as many exemplars; its averages are of other tasks
        split = str(settings.get("split", ""))
        shots = [(score, _SHOTS.search(score.name)) for score in found.scores]
        return [
            _Asked(score.name, (score.name[: given.start()], FLAN2021), score.value, split, int(given[1]))
            for score, given in shots
            if given
        ]
    runs: Mapping[str, Mapping[str, Any]] = settings.get("runs", {})
    every = {
        "split": next((run.get("split") for name, run in runs.items() if name.startswith("mmlu")), ""),
        "shots": min((run["shots"] for run in runs.values() if run.get("shots") is not None), default=None),
    }
    keys = [((name, ""), runs.get(name, every), value) for name, value in found.averages]
    keys += [((score.name, score.group), runs.get(score.group, {}), score.value) for score in found.scores]
    return [_Asked(key[0], key, value, run.get("split") or "", run.get("shots")) for key, run, value in keys]


def _asked_of_flan2021(found: results.Results, suite: str) -> list[_Asked]:
    """Papers' datasets are of the suite, their averages are of its clusters, or of several of them."""
    how: tuple[str, papers.Shots] = (str(found.about.get("split", "")), papers.FEW if _SOME_SHOTS.search(suite) else 0)
    own = dict(found.averages)
    asked = [_Asked(name, (f"{FLAN2021}_{name}", ""), value, *how) for name, value in own.items()]
    for name, parts in papers.means().items():
        if set(parts) <= set(own):
            mean = statistics.fmean(own[part] for part in parts)
            asked.append(_Asked(f"mean of {', '.join(parts)}", (name, ""), mean, *how))
    return [*asked, *(_Asked(score.name, (score.name, FLAN2021), score.value, *how) for score in found.scores)]


def _published(first: results.Results, second: results.Results | None, published: Published) -> Iterable[Table]:
    """A table for each table of a paper that prints some of these scores: theirs, and ours first."""
    ours = _asked(first)
    by_table: dict[tuple[str, str, str, str], dict[str, dict[str, float]]] = {}
    otherwise: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for mine in ours:
        for one in published(*mine.key, split=mine.split, shots=mine.shots):
            # The subtasks of two runs have the same names.
            place = (one.source, one.table, "" if one.group == FLAN2021 else one.group, one.note)
            by_table.setdefault(place, {}).setdefault(mine.label, {})[one.model] = one.value
            if isinstance(one.shots, int) and isinstance(mine.shots, int) and one.shots != mine.shots:
                note = f"asked with {mine.shots} exemplars here, with {one.shots} there"
                otherwise.setdefault(place, {})[f"{note}: {one.group or mine.label}"] = None
    theirs = [] if second is None else _asked(second)
    for place, columns in by_table.items():
        source, table, group, note = place
        values = [{mine.label: mine.value for mine in of if mine.key[1] in (group, FLAN2021)} for of in (ours, theirs)]
        models = list(dict.fromkeys(model for of in columns.values() for model in of))
        lines = [(ALONE if second is None else OURS, [values[0].get(label) for label in columns])]
        lines += [(OTHER, [values[1].get(label) for label in columns])] if second else []
        lines += [(model, [of.get(model) for of in columns.values()]) for model in models]
        head, rows = ("", *columns), [(label, *map(number, cells)) for label, cells in lines]
        if len(columns) > len(lines):  # what there is more of goes down the page
            head, *rows = list(zip(head, *rows, strict=True))
        title = f"Beside {source}, {table}" + (f": {group}" if group else "")
        notes = "; ".join(filter(None, (note, *otherwise.get(place, ()))))
        yield Table(title, tuple(head), tuple(tuple(row) for row in rows), note=notes)
