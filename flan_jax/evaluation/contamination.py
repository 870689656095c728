"""Clean and dirty examples of an evaluation, and the score on each (FLAN 2021, appendix C).

An example is dirty if it shares one n-gram with what was trained on, clean if none; one of fewer than n words is neither.
What is evaluated is a mixture of tasks, dataset by dataset, or a benchmark, subtask by subtask and as a whole.
"""

import dataclasses
import functools
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from flan_jax import errors
from flan_jax.data import benchmarks, ngrams
from flan_jax.data import contamination as texts
from flan_jax.evaluation import report_view, results
from flan_jax.evaluation.suites import base, flan2022

KINDS = ("clean", "dirty", "short")
_AT_ONCE = 1024  # examples that are looked up together
# An example -> what predictions scored on it, one number for each template or way of asking.
Points = dict[Any, list[float]]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What contamination is looked for in.

    Attributes:
      split: of it.
      texts: dataset -> its examples, read anew with every call: (row, text).
      scores: dataset -> row -> what predictions scored; None without predictions.
      left_out: what is not looked at, and why.
      wholes: benchmark -> the datasets that it is made of.
    """

    split: str
    texts: Mapping[str, Callable[[], Iterator[tuple[Any, str]]]]
    scores: Mapping[str, Points] | None = None
    left_out: Sequence[str] = ()
    wholes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def whole(self, name: str) -> tuple[Iterator[tuple[Any, str]], Points | None]:
        """All examples of a benchmark and their scores; a row is (dataset, row)."""
        parts = self.wholes[name]
        examples = (((part, row), text) for part in parts for row, text in self.texts[part]())
        if self.scores is None:
            return examples, None
        return examples, {(part, row): of for part in parts for row, of in self.scores.get(part, {}).items()}


def of_tasks(opened: texts.Opened, split: str, limit: int | None, predictions: results.Results | None) -> Evaluated:
    """The datasets of a mixture.

    Raises:
      FlanError: no prediction belongs to any of them.
    """
    scores = None if predictions is None else points(predictions, list(opened.rows))
    reads = {name: functools.partial(texts.asked, rows, limit) for name, rows in opened.rows.items()}
    return Evaluated(split, reads, scores, opened.left_out)


def runs_of(name: str) -> tuple[str, ...]:
    """The runs that a name of a suite stands for, `mmlu` for mmlu_direct and mmlu_cot, or that of a run; else none."""
    if name == flan2022.NAME:
        return flan2022.RUNS
    return tuple(
        run
        for suite in flan2022.SUITES.values()
        for run in (flan2022.run_name(suite.name, cot) for cot in suite.cot)
        if name in (suite.name, run)
    )


def of_suites(
    reader: benchmarks.Reader,
    runs: Sequence[str],
    split: str | None,
    limit: int | None,
    predictions: results.Results | None,
) -> Evaluated:
    """The subtasks of benchmarks, `mmlu/anatomy`: the words of their questions, without exemplars and the prompt's own.

    Args:
      reader: the data.
      runs: `runs_of` a suite; what predictions of several of them scored counts alike.
      split: of the questions; each paper's own where None.
      limit: questions of each subtask at most.
      predictions: output of `flan eval --suite`.

    Raises:
      FlanError: there are no questions, or no prediction belongs to the runs.
    """
    suites = list(dict.fromkeys(flan2022.SUITES[run.rpartition("_")[0]] for run in runs))
    how = base.How(split=split or "", limit=limit)
    reads, wholes = {}, {}
    for suite in suites:
        found = suite.present(reader, how)
        if not found:
            raise errors.FlanError(
                f"no questions of {suite.title} in {reader.data_dir}, split {split or suite.split!r}; `flan data doctor "
                f"--suite {suite.name}` lists what is missing"
            )
        wholes[suite.name] = [f"{suite.name}/{subtask}" for subtask in found]
        for subtask in found:
            reads[f"{suite.name}/{subtask}"] = functools.partial(_words, reader, suite, subtask, how)
    scores = None if predictions is None else _points_of_runs(predictions, runs)
    return Evaluated(split or ", ".join(dict.fromkeys(suite.split for suite in suites)), reads, scores, (), wholes)


def _words(reader: benchmarks.Reader, suite: base.Suite, subtask: str, how: base.How) -> Iterator[tuple[int, str]]:
    return ((question.row, question.words) for question in suite.questions(reader, subtask, how))


def _points_of_runs(found: results.Results, runs: Sequence[str]) -> dict[str, Points]:
    scores: dict[str, Points] = {}
    seen: set[str] = set()
    for one in results.predictions(found):
        run = one.subtask.partition(": ")[0]
        seen.add(run)
        if run in runs and "subtask" in one.line:
            part = f"{run.rpartition('_')[0]}/{one.line['subtask']}"
            scores.setdefault(part, {}).setdefault(one.line["row"], []).append(results.points(one))
    if not scores:
        raise errors.FlanError(
            f"{found.directory} has predictions of {', '.join(sorted(seen)[:5]) or 'nothing'}; expected some of {', '.join(runs)}"
        )
    return scores


def split(
    dataset: str,
    examples: Iterator[tuple[Any, str]],
    index: ngrams.Index,
    dirty: TextIO | None,
    scores: Mapping[Any, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Divides the examples of a dataset.

    Args:
      dataset: its name.
      examples: (row, text).
      index: of what was trained on.
      dirty: gets a JSON line for each dirty example: its row, which part of its n-grams is shared, and the first of them; None
        for no lines.
      scores: what predictions scored, by row: one number a template.

    Returns:
      How many examples are of each kind and, with scores, `score` of each: percent, averaged over templates and examples, None
      where there are none; the standard error of the difference of clean and dirty as `difference_error`.
    """
    counts = dict.fromkeys(KINDS, 0)
    points: dict[str, list[float]] = {kind: [] for kind in KINDS}
    unscored = 0
    while chunk := list(itertools.islice(examples, _AT_ONCE)):
        values, sizes = index.hasher.hashes([text for _, text in chunk])
        found = index.contains(values)
        ends = np.cumsum(sizes)
        for (row, text), size, end in zip(chunk, sizes.tolist(), ends.tolist(), strict=True):
            shared = np.flatnonzero(found[end - size : end])
            kind = "short" if not size else "dirty" if len(shared) else "clean"
            counts[kind] += 1
            if kind == "dirty" and dirty is not None:
                at = int(shared[0])
                words = index.hasher.words(text)[at : at + index.n]
                line = {"dataset": dataset, "index": row, "overlap": len(shared) / size, "ngram": " ".join(words)}
                dirty.write(json.dumps(line, ensure_ascii=False) + "\n")
            if scores is not None and row in scores:
                points[kind].append(100 * statistics.fmean(scores[row]))
            elif scores is not None:
                unscored += 1
    entry: dict[str, Any] = {"dataset": dataset, "examples": sum(counts.values()), **counts}
    if scores is not None:
        entry["score"] = {kind: statistics.fmean(of) if of else None for kind, of in points.items()}
        entry["difference_error"] = _error(points["clean"], points["dirty"])
        entry["without_prediction"] = unscored
    return entry


def _error(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The standard error of the difference of two means; None where it cannot be told."""
    if min(len(first), len(second)) < 2:
        return None
    return (statistics.variance(first) / len(first) + statistics.variance(second) / len(second)) ** 0.5


def points(found: results.Results, datasets: Sequence[str]) -> dict[str, Points]:
    """What predictions scored: dataset -> row -> a number for each template that asked it, of OPT-IML's suite as of any other.

    Raises:
      FlanError: no file of predictions belongs to any of the datasets.
    """
    by_length = sorted(datasets, key=len, reverse=True)  # `arc_easy` before what it begins with
    scores: dict[str, Points] = {}
    seen: set[str] = set()
    for one in results.predictions(found):
        seen.add(one.subtask)
        told = one.line.get("dataset", one.subtask)  # where a file holds several datasets
        name = next((name for name in by_length if told == name or told.startswith(f"{name}_")), None)
        if name is not None:
            row = one.line.get("row", one.line["index"])
            scores.setdefault(name, {}).setdefault(row, []).append(results.points(one))
    if not scores:
        raise errors.FlanError(
            f"{found.directory} has predictions of {', '.join(sorted(seen)[:5]) or 'nothing'}; expected some of {', '.join(datasets)}"
        )
    return scores


def summary(found: Mapping[str, Any]) -> str:
    """One sentence."""
    total, dirty = (sum(entry[kind] for entry in found["datasets"]) for kind in ("examples", "dirty"))
    return (
        f"{dirty:,} of {total:,} examples of {found['eval']} share {found['n']} words in a row with {found['train']} "
        f"({found['documents']:,} documents, {found['ngrams']:,} n-grams)."
    )


def table(found: Mapping[str, Any]) -> report_view.Table:
    """A row a benchmark, then a row a dataset, the dirtiest first."""
    scored = any("score" in entry for entry in found["datasets"])
    head = ("", "examples", *KINDS, "dirty %", *(("score clean", "score dirty", "standard error") if scored else ()))
    rows = []
    ordered = sorted(found["datasets"], key=lambda one: -one["dirty"] / max(1, one["examples"]))
    for entry in (*found.get("wholes", ()), *ordered):
        share = 100 * entry["dirty"] / entry["examples"] if entry["examples"] else None
        cells = [entry["dataset"], *(f"{entry[kind]:,}" for kind in ("examples", *KINDS)), report_view.number(share)]
        if scored:
            score = entry.get("score", {})
            cells += [report_view.number(score.get(kind)) for kind in ("clean", "dirty")]
            cells.append(report_view.number(entry.get("difference_error")))
        rows.append(tuple(cells))
    return report_view.Table("Contamination", head, tuple(rows))
