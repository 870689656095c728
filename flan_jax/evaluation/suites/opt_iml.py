"""OPT-IML's protocol (Iyer et al. 2022, sections 4.1 and 2.3) on tasks of the catalogue.

Tasks with answer candidates are scored by ranking the candidates by likelihood (accuracy); all others by generating greedily up to
the end token or 256 tokens (Rouge-L F1 against the closest accepted answer). At most 250 validation examples a task, spread over
its templates, without exemplars and with five. A task's score is the mean over its templates, a category's the mean of its tasks,
and the average is over all categories, with and without exemplars alike.
"""

import dataclasses
import functools
import itertools
import json
import logging
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flan_jax import errors, hosts
from flan_jax.data import mixtures, provenance, seqio_tasks
from flan_jax.evaluation import protocols, report
from flan_jax.evaluation.suites import run
from flan_jax.inference import choices, generate, predictions, saved, settings

logger = logging.getLogger(__name__)

NAME = "opt_iml"
SHOTS = (0, 5)
LIMIT, MAX_TOKENS = 250, 256  # examples of a task, tokens of an answer (section 4.1)
SPLIT = "validation"
_RANKED, _GENERATED = "opt_iml_ranked", "opt_iml_generated"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One template of one task, with or without exemplars.

    Attributes:
      task: the template's task.
      shots: exemplars.
      limit: examples of the whole task.
      place: of the template among the task's, and how many there are: it asks every so-manieth example, so that no two
        templates ask the same one.
      rows: of its split.
    """

    task: seqio_tasks.FlanTask
    shots: int
    limit: int
    place: tuple[int, int]
    rows: seqio_tasks.TaskRows

    @property
    def about(self) -> dict[str, Any]:
        """What a line of predictions says of it."""
        dataset = self.task.dataset
        names = {"task": self.task.name, "dataset": dataset.name, "cluster": dataset.cluster}
        subtask = f"{dataset.name}_{self.shots}_shot"  # as its score is called
        return {**names, "subtask": subtask, "template": self.task.style.templates[0], "asked_shots": self.shots}


def asked(
    catalogue: mixtures.Catalogue,
    name: str,
    data_dir: str,
    *,
    limit: int | None,
    split: str,
    shots: Sequence[int] = SHOTS,
) -> list[Asked]:
    """Every template of every task of a mixture.

    Args:
      catalogue: knows the tasks.
      name: a task or mixture, such as `nli_10templates`.
      data_dir: of prepared datasets; tasks whose data is not there are left out with a warning.
      limit: examples of a task; 250 where None.
      split: `validation`, or `test`.
      shots: numbers of exemplars, of 0 and 5.

    Raises:
      FlanError: an unknown name, or no data of any of its tasks.
    """
    single = catalogue.eval_tasks(name)
    single_of: dict[str, list[str]] = {}
    for task in single:
        single_of.setdefault(task.dataset.name, []).append(task.name)
    found = []
    for number in shots:
        tasks = single if not number else [catalogue.tasks[f"{task.name}_five_shot"] for task in single]
        by_name = {task.name: task for task in tasks}
        for task_name, rows in mixtures.open_tasks(tasks, data_dir, split, "skip"):
            task = by_name[task_name]
            assert rows is not None  # tasks of the catalogue are flan_jax's own
            place = (
                single_of[task.dataset.name].index(task_name.removesuffix("_five_shot")),
                len(single_of[task.dataset.name]),
            )
            found.append(Asked(task, number, LIMIT if limit is None else limit, place, rows))
    return found


def records(
    generator: generate.Generator, tasks: Sequence[Asked], seed: int, *, ranked: bool
) -> Iterator[predictions.Record]:
    """The prompts of the tasks with candidates, or of those without.

    Args:
      generator: the model.
      tasks: what is asked.
      seed: of exemplars.
      ranked: which of the two.
    """
    lengths = {"inputs": generator.inputs_length, "targets": MAX_TOKENS}
    for one in tasks:
        if one.task.style.scoring != ranked:
            continue
        formatted = itertools.islice(one.rows.in_order(one.limit, seed=seed), one.place[0], None, one.place[1])
        for example, tokens in protocols.read(formatted, generator.tokenizer, lengths):
            cut = tokens.cut[0] if tokens.cut else 0
            extra = {"row": example.row, "shots": tokens.shots, "targets": list(example.example.answers)}
            prompt = generate.Prompt(tokens.inputs, cut=cut)
            if ranked:
                prompt = choices.ChoicePrompt(tokens.inputs, cut=cut, choices=example.example.options)
                extra["options"] = len(example.example.options)
            yield predictions.Record(example.prompt(tokens.shots), prompt, {**one.about, **extra})


def evaluate(
    generator: generate.Generator,
    tasks: Sequence[Asked],
    out_dir: str,
    *,
    name: str,
    split: str,
    checkpoint: str,
    step: int,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    levels: Mapping[str, Mapping[str, str]] | None = None,
    absent: Sequence[str] = (),
    normalize_by_target_length: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Asks everything and writes OUT, as `run.evaluate` does; a killed evaluation continues.

    Args:
      generator: the model.
      tasks: what is asked.
      out_dir: gets the files.
      name: of the mixture.
      split: of the questions.
      checkpoint: where the model's parameters were read.
      step: of the checkpoint.
      seed: of exemplars.
      max_tokens: of a generated answer.
      levels: `provenance.levels` of what the model was trained on; averages are given for each of the three as well.
      absent: datasets of the mixture whose data is not there, for the notes.
      normalize_by_target_length: rank candidates by the mean log-likelihood of their tokens, not by the sum.
      overwrite: ask again what is there.
    """
    how = settings.Settings(max_tokens=max_tokens, seed=seed)
    about = {**saved.identity(checkpoint), "tasks": name, "split": split}
    about["limits"] = sorted({one.limit for one in tasks})
    tallies: list[dict[str, Any]] = []
    files = []
    for ranked, file_name in ((True, _RANKED), (False, _GENERATED)):
        if not any(one.task.style.scoring == ranked for one in tasks):
            continue
        made = os.path.join(out_dir, "generated", f"{file_name}.jsonl")
        model, own = generator, about
        if ranked:
            model = choices.Chooser(generator, normalize_by_target_length=normalize_by_target_length)
            own = {**about, "normalize_by_target_length": normalize_by_target_length}
        asked_records = records(generator, tasks, seed, ranked=ranked)
        predictions.write(model, asked_records, made, how, about=own, overwrite=overwrite, what=file_name)
        graded = os.path.join("predictions", f"{file_name}.jsonl")
        tallies += hosts.from_first(functools.partial(_grade, made, os.path.join(out_dir, graded), ranked=ranked))
        files.append(graded)
    if not tallies:
        raise errors.FlanError(f"no examples of {name!r} in split {split!r}")
    scores = _scores(tallies, levels)
    results = {
        "suite": NAME,
        "checkpoint": checkpoint,
        "step": step,
        "settings": {
            "tasks": name,
            "split": split,
            "inputs_length": generator.inputs_length,
            "batch_size": generator.batch_size,
            "normalize_by_target_length": normalize_by_target_length,
            "decoding": json.loads(json.dumps(dataclasses.asdict(how))),
        },
        "versions": report.versions(),
        "seed": seed,
        "scores": scores,
        "averages": averages(scores),
        "predictions": files,
        "notes": _notes(scores, absent),
    }
    run.write_results(results, out_dir)
    return results


def averages(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tasks -> categories -> their mean, by number of exemplars, for each level of generalisation, and over all.

    Args:
      scores: of `results.json`; `group` is the category.
    """

    def of_categories(chosen: Sequence[Mapping[str, Any]]) -> float:
        categories: dict[tuple[str, int], list[float]] = {}
        for score in chosen:
            categories.setdefault((score["group"], score["shots"]), []).append(score["value"])
        return statistics.fmean(statistics.fmean(values) for values in categories.values())

    found = []
    for shots in dict.fromkeys(score["shots"] for score in scores):
        of_shots = [score for score in scores if score["shots"] == shots]
        for category in dict.fromkeys(score["group"] for score in of_shots):
            mine = [score for score in of_shots if score["group"] == category]
            found.append({"name": f"{category}_{shots}_shot", "value": of_categories(mine)})
        found.append({"name": f"{shots}_shot", "value": of_categories(of_shots)})
    for level in (provenance.FULLY_HELD_OUT, provenance.PARTIALLY_SUPERVISED, provenance.FULLY_SUPERVISED):
        mine = [score for score in scores if score.get("level") == level]
        if mine:
            found.append({"name": level, "value": of_categories(mine)})
    return [*found, {"name": "average", "value": of_categories(scores)}]


def rouge_l(answers: Sequence[str], text: str) -> float:
    """Rouge-L F1 against the accepted answer that is closest, 0 to 1; no stemming."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"])
    return max(scorer.score(answer, text)["rougeL"].fmeasure for answer in answers)


def _notes(scores: Sequence[Mapping[str, Any]], absent: Sequence[str]) -> list[str]:
    """What differs from the protocol."""
    found = [f"{len(absent)} datasets have no data and were not asked: {', '.join(absent)}"] if absent else []
    for shots in dict.fromkeys(score["shots"] for score in scores):
        mine = [score for score in scores if score["shots"] == shots]
        total, fewer, cut = (sum(score[key] for score in mine) for key in ("examples", "fewer_shots", "cut"))
        found += [f"{shots}_shot: {remark}" for remark in report.of_prompts(total, fewer, cut, lost="end")]
    return found + run.remark_on_ties(scores)


def _grade(made: str, graded: str, *, ranked: bool) -> list[dict[str, Any]]:
    """Writes each line with its score; returns what each template of each task, with and without exemplars, came to."""
    found: dict[tuple[str, str, int, int], dict[str, list[float]]] = {}
    os.makedirs(os.path.dirname(graded), exist_ok=True)
    with open(made, encoding="utf-8") as source, open(graded + ".tmp", "w", encoding="utf-8") as target:
        for raw in source:
            line = json.loads(raw)
            text, accepted = line["prediction"], line["targets"]
            if ranked:
                of = protocols.credit(line)
                points = {"score": of["accuracy"], "ties": of["ties"], "near_ties": of["near_ties"]}
                points["chance"] = 100 * len(set(accepted)) / line["options"]
            else:
                points = {"score": 100 * rouge_l(accepted, text)}
            entry = {key: value for key, value in line.items() if key not in ("inputs", "prediction", "score")}
            entry |= {"prompt": line["inputs"], "output": text, "parsed": text, "target": accepted[0]}
            entry |= {"log_prob": line["score"], "score": points["score"] / 100}
            target.write(json.dumps(entry, ensure_ascii=False) + "\n")
            points |= {"fewer_shots": line["shots"] < line["asked_shots"], "cut": "cut" in line}
            key = (line["cluster"], line["dataset"], line["asked_shots"], line["template"])
            lists = found.setdefault(key, {name: [] for name in points})
            for name, value in points.items():
                lists[name].append(value)
    os.replace(graded + ".tmp", graded)
    names = ("cluster", "dataset", "shots", "template")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "metric": "accuracy" if ranked else "rougeL",
            "examples": len(lists["score"]),
            **{name: sum(lists.pop(name)) for name in ("fewer_shots", "cut")},
            **{name: statistics.fmean(values) for name, values in lists.items()},
        }
        for key, lists in found.items()
    ]


def _scores(
    tallies: Sequence[Mapping[str, Any]], levels: Mapping[str, Mapping[str, str]] | None
) -> list[dict[str, Any]]:
    """An entry of `results.json` a task, with and without exemplars: the mean over its templates."""
    found = []
    for cluster, dataset, shots in dict.fromkeys((of["cluster"], of["dataset"], of["shots"]) for of in tallies):
        mine = [of for of in tallies if (of["cluster"], of["dataset"], of["shots"]) == (cluster, dataset, shots)]
        means = [of["score"] for of in mine]
        entry = {
            "name": f"{dataset}_{shots}_shot",
            "group": cluster,
            "metric": mine[0]["metric"],
            "value": statistics.fmean(means),
            "std": statistics.stdev(means) if len(means) > 1 else None,
            **{key: sum(of[key] for of in mine) for key in ("examples", "fewer_shots", "cut")},
            "chance": None,
            "shots": shots,
            "templates": len(mine),
        }
        for key in ("chance", "ties", "near_ties"):
            if key in mine[0]:
                entry[key] = statistics.fmean(of[key] for of in mine for _ in range(of["examples"]))
        found.append(entry | ({"level": levels[cluster][dataset]} if levels else {}))
    return found
