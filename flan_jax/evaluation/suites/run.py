"""Asks a model the questions of suites, keeps every answer, and scores them.

    OUT/generated/RUN.jsonl      what the model said (see `inference.predictions`); a killed run continues here
    OUT/predictions/RUN.jsonl    the same lines with the answer that was found in each and whether it is right
    OUT/results.json             scores of subtasks and averages; read by reports

Nothing but a window of questions is held in memory. Grading is a pass over the file, so that it can be done again.
"""

import collections
import dataclasses
import functools
import itertools
import json
import logging
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flan_jax import errors, hosts
from flan_jax.data import benchmarks
from flan_jax.evaluation import protocols, report
from flan_jax.evaluation.suites import base, flan2022
from flan_jax.inference import choices, generate, predictions, saved, settings

logger = logging.getLogger(__name__)

SCORING = ("generate", "likelihood")
_AT_ONCE = 64  # questions that are tokenised together


@dataclasses.dataclass(frozen=True)
class Run:
    """One suite asked in one way.

    Attributes:
      name: `mmlu_cot`.
      suite: the benchmark.
      how: how it is asked.
      decoding: how answers are made; `n` above 1 asks for self-consistency: the answer that most samples end in.
      scoring: `generate`, or `likelihood` for the likeliest of a question's choices.
      normalize_by_target_length: of `likelihood`: compare the means of the choices' tokens, not the sums.
    """

    name: str
    suite: base.Suite
    how: base.How
    decoding: settings.Settings
    scoring: str = "generate"
    normalize_by_target_length: bool = False

    def settings(self) -> dict[str, Any]:
        """JSON that says how it was asked."""
        shots = self.suite.shots if self.how.shots is None else self.how.shots
        found = {
            **dataclasses.asdict(self.how),
            "shots": shots,
            "trigger": self.how.phrase(shots),
            "split": self.how.split or self.suite.split,
            "scoring": self.scoring,
            "normalize_by_target_length": self.normalize_by_target_length,
            "decoding": dataclasses.asdict(self.decoding),
        }
        return json.loads(json.dumps(found))  # as it will be read back


def evaluate(
    generator: generate.Generator,
    reader: benchmarks.Reader,
    runs: Sequence[Run],
    out_dir: str,
    *,
    name: str,
    checkpoint: str,
    step: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Asks everything and writes OUT.

    Args:
      generator: the model.
      reader: the data.
      runs: what is asked.
      out_dir: gets the files.
      name: of the suite as the user called it.
      checkpoint: where the model's parameters were read.
      step: of the checkpoint.
      overwrite: ask again what is there.

    Returns:
      What `results.json` holds.

    Raises:
      FlanError: data that is missing, or files in OUT that were made with other settings.
    """
    tables = {run.name: subtasks(reader, run) for run in runs}  # all at once: what is missing shows before the work
    scores, notes, files = [], [], []
    for run in runs:
        for note in run.suite.notes(reader, run.how):
            logger.warning("%s: %s", run.name, note)
        made = os.path.join(out_dir, "generated", f"{run.name}.jsonl")
        asked = generator
        if run.scoring == "likelihood":
            asked = choices.Chooser(generator, normalize_by_target_length=run.normalize_by_target_length)
        about = {
            **saved.identity(checkpoint),
            "run": run.name,
            **{k: v for k, v in run.settings().items() if k != "decoding"},
        }
        records = questions(generator, reader, run, tables[run.name])
        predictions.write(asked, records, made, run.decoding, about=about, overwrite=overwrite)
        graded = os.path.join("predictions", f"{run.name}.jsonl")
        found = hosts.from_first(functools.partial(grade, run, made, os.path.join(out_dir, graded)))
        scores += found
        files.append(graded)
        notes += [f"{run.name}: {note}" for note in (*run.suite.notes(reader, run.how), *_remarks(run, found))]
    results = {
        "suite": name,
        "checkpoint": checkpoint,
        "step": step,
        "settings": {
            "inputs_length": generator.inputs_length,
            "batch_size": generator.batch_size,
            "runs": {run.name: run.settings() for run in runs},
        },
        "versions": report.versions(),
        "seed": runs[0].decoding.seed,
        "scores": scores,
        "averages": averages(runs, scores),
        "predictions": files,
        "notes": notes,
    }
    write_results(results, out_dir)
    return results


def write_results(results: Mapping[str, Any], out_dir: str) -> None:
    """Writes OUT/results.json, in process 0; whoever finds it finds all of it."""
    if not hosts.first():
        return
    path = os.path.join(out_dir, "results.json")
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, ensure_ascii=False)
    os.replace(path + ".tmp", path)


def questions(
    generator: generate.Generator, reader: benchmarks.Reader, run: Run, names: Sequence[str]
) -> Iterator[predictions.Record]:
    """The prompts of a run, fitted to the model's input, subtask by subtask."""
    room, eos = generator.inputs_length - 1, int(generator.tokenizer.vocabulary.eos_id)
    asked = itertools.chain.from_iterable(run.suite.questions(reader, subtask, run.how) for subtask in names)
    while chunk := list(itertools.islice(asked, _AT_ONCE)):
        for question, fitted in zip(chunk, base.fit(chunk, generator.tokenizer.encode, room), strict=True):
            tokens = [*fitted.tokens, eos]
            if run.scoring == "likelihood":
                prompt = choices.ChoicePrompt(tokens, cut=fitted.cut, choices=question.choices)
            else:
                prompt = generate.Prompt(tokens, cut=fitted.cut)
            extra = {"subtask": question.subtask, "row": question.row, "shots": fitted.shots, "dropped": fitted.dropped}
            yield predictions.Record(fitted.text, prompt, {**extra, "targets": list(question.targets)})


def grade(run: Run, made: str, graded: str) -> list[dict[str, Any]]:
    """Writes each line with its answer and score; returns the scores of the subtasks.

    Args:
      run: what was asked.
      made: the lines of `predictions.write`.
      graded: the file to write.
    """
    tallies: dict[str, collections.Counter[str]] = {}
    sums: dict[str, float] = {}  # of points, which may be shares
    os.makedirs(os.path.dirname(graded), exist_ok=True)
    with open(made, encoding="utf-8") as source, open(graded + ".tmp", "w", encoding="utf-8") as target:
        for raw in source:
            line = json.loads(raw)
            subtask, texts = line["subtask"], line.get("predictions", [line["prediction"]])
            tally = tallies.setdefault(subtask, collections.Counter())
            if run.scoring == "likelihood":
                answers, parsed = [], texts[0]
                ranked = protocols.credit(line)  # of options that tie each has its share
                points = ranked["accuracy"] / 100
                tally["ties"] += ranked["ties"] > 0
                tally["near_ties"] += ranked["near_ties"] > 0
            else:
                answers = [run.suite.parse(text, subtask, run.how.cot) for text in texts]
                parsed = majority(answers, line.get("scores", [line["score"]]))
                points = float(parsed is not None and run.suite.right(parsed, line["targets"], subtask))
            kept = {key: line[key] for key in ("row", "shots", "dropped", "cut", "finished") if key in line}
            entry = {
                "index": line["index"],
                "subtask": subtask,
                "prompt": line["inputs"],
                "output": line["prediction"],
                "parsed": parsed,
                "target": line["targets"][0],
                "targets": line["targets"],
                "score": points,
                "log_prob": line["score"],
                **kept,
            }
            if len(texts) > 1:
                entry |= {"outputs": texts, "log_probs": line["scores"], **({"votes": answers} if answers else {})}
            target.write(json.dumps(entry, ensure_ascii=False) + "\n")
            tally["examples"] += 1
            sums[subtask] = sums.get(subtask, 0.0) + points
            tally["unparsed"] += parsed is None
            tally["dropped"] += line["dropped"] > 0
            tally["cut"] += "cut" in line
    os.replace(graded + ".tmp", graded)
    return [
        {
            "name": subtask,
            "group": run.name,
            "metric": "exact_match" if run.scoring == "generate" else "accuracy",
            "value": 100 * sums[subtask] / tally["examples"],
            "std": None,
            "examples": tally["examples"],
            "chance": run.suite.chance(subtask),
            "unparsed": tally["unparsed"],
            "fewer_shots": tally["dropped"],
            "cut": tally["cut"],
            **(_ties(tally) if run.scoring == "likelihood" else {}),
        }
        for subtask, tally in tallies.items()
    ]


def _ties(tally: Mapping[str, float]) -> dict[str, float]:
    """How many percent of the answers are decided by nothing, or by next to nothing."""
    return {kind: 100 * tally[kind] / tally["examples"] for kind in ("ties", "near_ties")}


def majority(answers: Sequence[str | None], log_probs: Sequence[float]) -> str | None:
    """The answer that most samples end in (self-consistency, Wang et al. 2022); None where none of them has one.

    Of answers with as many samples the one with the likeliest sample is taken.
    """
    votes: dict[str, list[float]] = {}
    for answer, log_prob in zip(answers, log_probs, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(log_prob)
    return max(votes, key=lambda answer: (len(votes[answer]), max(votes[answer])), default=None)


def averages(runs: Sequence[Run], scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Unweighted means over subtasks, as the papers'; of Flan 2022's six also the normalised average."""
    pairs: dict[str, list[tuple[float, float]]] = {run.name: [] for run in runs}
    for score in scores:
        pairs[score["group"]].append((score["value"], score["chance"]))
    found = [{"name": name, "value": statistics.fmean(raw for raw, _ in mine)} for name, mine in pairs.items()]
    if set(flan2022.RUNS) <= set(pairs):
        found.append({"name": flan2022.AVERAGE, "value": flan2022.normalized_average(pairs)})
    return found


def table(results: Mapping[str, Any]) -> str:
    """The averages, with how many subtasks and questions are in each, and what differs from the protocol."""
    lines = [f"{'':24}{'score':>7}{'subtasks':>10}{'questions':>11}"]
    for average in results["averages"]:
        mine = [score for score in results["scores"] if score["group"] == average["name"]]
        counts = f"{len(mine):>10}{sum(score['examples'] for score in mine):>11}" if mine else ""
        lines.append(f"{average['name']:24}{average['value']:>7.1f}{counts}")
    return "\n".join([*lines, *(f"note: {note}" for note in results["notes"])])


@functools.cache
def subtasks(reader: benchmarks.Reader, run: Run) -> list[str]:
    """The subtasks that are asked: those of the data, or those that the user names.

    Raises:
      FlanError: an unknown subtask, or data that is missing.
    """
    found = run.suite.present(reader, run.how)
    for name in run.how.subtasks:
        if name not in found:
            raise errors.unknown(f"subtask of {run.suite.name} in {reader.data_dir}", name, found)
    chosen = [name for name in found if not run.how.subtasks or name in run.how.subtasks]
    if not chosen:
        needed = sorted({b.dataset.split("/")[0] for b in benchmarks.of_suites([run.suite.name]) if not b.optional})
        raise errors.FlanError(
            f"no questions of {run.suite.title} in {reader.data_dir}, split {run.how.split or run.suite.split!r}; "
            f"expected the prepared datasets {', '.join(needed)} (`flan data import` makes them)"
        )
    next(iter(run.suite.questions(reader, chosen[0], run.how)))  # exemplars that are missing show now
    return chosen


def _remarks(run: Run, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs from the protocol."""
    found = []
    if len(scores) < len(run.suite.subtasks) and not run.how.subtasks:
        found.append(f"{len(scores)} of {len(run.suite.subtasks)} subtasks are in the data")
    total = sum(score["examples"] for score in scores)
    found += report.of_prompts(total, _sum(scores, "fewer_shots"), _sum(scores, "cut"), lost="beginning")
    unparsed = _sum(scores, "unparsed")
    found += [f"no answer was found in {unparsed} of {total} outputs"] if unparsed else []
    return found + remark_on_ties(scores)


def remark_on_ties(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to say of ties in all answers that were ranked."""
    ranked = [score for score in scores if "ties" in score]
    total = _sum(ranked, "examples")
    ties, near = (
        sum(score[kind] * score["examples"] for score in ranked) / (total or 1) for kind in ("ties", "near_ties")
    )
    return report.of_ties(ties, near)


def _sum(scores: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(score[key] for score in scores)
