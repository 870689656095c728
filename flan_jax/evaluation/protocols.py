"""How a model is asked the examples of a task, and how its answers are scored: rank classification, and greedy generation.

Asking leaves a file (`inference.predictions`), which a killed evaluation goes on with; scoring is a pass over it.
"""

import collections
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flan_jax import errors
from flan_jax.data import seqio_tasks, spec, vocabulary
from flan_jax.evaluation import answers as answers_lib
from flan_jax.evaluation import metrics, report
from flan_jax.evaluation import scores as scores_lib
from flan_jax.inference import choices, generate, predictions, settings

# Metrics of datasets with options whose F1 is reported; of all others it is accuracy (FLAN 2021, figure 5).
RANKED_BY_F1 = ("multirc",)
_AT_ONCE = 256  # examples that are tokenised together


@dataclasses.dataclass(frozen=True)
class Graded:
    """What came of a task.

    Attributes:
      result: what it scored.
      fewer_shots: examples with fewer exemplars than their style asks for, as no more fit.
      cut: examples whose inputs lost their end, as even they did not fit.
    """

    result: report.TaskResult
    fewer_shots: int = 0
    cut: int = 0


def read(
    formatted: Iterable[seqio_tasks.Formatted], tokenizer: vocabulary.Tokenizer, lengths: Mapping[str, int]
) -> Iterator[tuple[seqio_tasks.Formatted, seqio_tasks.Tokenised]]:
    """Yields examples with their tokens; some are tokenised together, and no more are held."""
    left = iter(formatted)
    while chunk := list(itertools.islice(left, _AT_ONCE)):
        yield from zip(chunk, seqio_tasks.tokenise(chunk, tokenizer, dict(lengths)), strict=True)


def records(
    formatted: Iterable[seqio_tasks.Formatted],
    tokenizer: vocabulary.Tokenizer,
    lengths: Mapping[str, int],
    *,
    ranked: bool,
) -> Iterator[predictions.Record]:
    """The prompts of examples; each brings along what its answer is scored by.

    Args:
      formatted: the examples.
      tokenizer: of the model's vocabulary.
      lengths: `inputs` and `targets`, in tokens.
      ranked: whether the options are ranked, rather than an answer generated.
    """
    for example, tokens in read(formatted, tokenizer, lengths):
        of, cut = example.example, tokens.cut[0] if tokens.cut else 0
        extra = {"row": example.row, "shots": tokens.shots, "answer": of.answer, "targets": list(of.answers)}
        if example.shots is not None:
            extra["asked_shots"] = example.shots.count
        if "group" in of.fields:  # what metrics over several examples tell these by
            extra["group"] = of.fields["group"]
        prompt = generate.Prompt(tokens.inputs, cut=cut)
        if ranked:
            prompt = choices.ChoicePrompt(tokens.inputs, cut=cut, choices=of.options)
            extra["options"] = list(of.options)
        yield predictions.Record(example.prompt(tokens.shots), prompt, extra)


def ask(
    generator: generate.Generator,
    task: seqio_tasks.FlanTask,
    formatted: Iterable[seqio_tasks.Formatted],
    made: str,
    *,
    targets_length: int,
    about: Mapping[str, Any],
    normalize_by_target_length: bool = False,
    total: int | None = None,
    overwrite: bool = False,
) -> None:
    """Asks a model the examples of a task: options are ranked by likelihood (FLAN 2021 section 2.3), or an answer generated greedily.

    Args:
      generator: the model.
      task: what is asked.
      formatted: its examples, in their order.
      made: the file that gets the answers, or has some of them.
      targets_length: tokens of an option or an answer, the end token counted.
      about: JSON that says what the answers depend on.
      normalize_by_target_length: rank options by the mean log-likelihood of their tokens, not by the sum.
      total: how many examples there are, if known.
      overwrite: ask again what is there.
    """
    ranked = task.style.scoring
    model = generator
    if ranked:
        about = {**about, "normalize_by_target_length": normalize_by_target_length}
        model = choices.Chooser(
            generator, normalize_by_target_length=normalize_by_target_length, targets_length=targets_length
        )
    lengths = {"inputs": generator.inputs_length, "targets": targets_length}
    asked = records(formatted, generator.tokenizer, lengths, ranked=ranked)
    how = settings.Settings(max_tokens=targets_length)
    predictions.write(model, asked, made, how, about=about, total=total, overwrite=overwrite, what=task.name)


def grade(task: seqio_tasks.FlanTask, made: str, graded: str | None = None) -> Graded:
    """Scores the answers of a task, and writes a line an example, as `flan report` reads them of every evaluation.

    Args:
      task: what was asked.
      made: the file that `ask` has written.
      graded: the file to write, if any; whoever finds it finds all of it.

    Raises:
      FlanError: there are no examples.
    """
    metric, ranked = metrics.get(task.dataset.metrics[0]), task.style.scoring
    main = metric.main
    if ranked:
        main = "f1" if metric.name in RANKED_BY_F1 else "accuracy"
    examples: list[spec.Example] = []
    outputs: list[str] = []
    scores: list[list[float]] = []
    right: list[set[int]] = []
    shares: list[float] = []  # of right options
    counts: collections.Counter[str] = collections.Counter()
    written = graded + ".tmp" if graded else os.devnull
    with open(made, encoding="utf-8") as source, open(written, "w", encoding="utf-8") as target:
        for raw in source:
            line = json.loads(raw)
            group = {"group": line["group"]} if "group" in line else {}
            examples.append(spec.Example(group, line["answer"], answers=tuple(line["targets"])))
            outputs.append(line["prediction"])
            extra: dict[str, Any] = {}
            if ranked:
                extra = _of_options(line)
                scores.append(extra["scores"])
                right.append({i for i, option in enumerate(line["options"]) if option in line["targets"]})
                shares.append(len(right[-1]) / len(line["options"]))
                points = metrics.rank_classification_accuracy(scores[-1:], right[-1:])["accuracy"]
            else:
                points = metric.function([metric.target(examples[-1])], outputs[-1:])[main]
            counts["fewer_shots"] += line["shots"] < line.get("asked_shots", 0)
            counts["cut"] += "cut" in line
            target.write(json.dumps(_line(task, line, points, extra), ensure_ascii=False) + "\n")
    if not examples:
        raise errors.FlanError(f"task {task.name!r} has no examples: its filter drops every row")
    values = metrics.rank_classification_accuracy(scores, right) if ranked else {}
    for name in task.dataset.metrics:
        metric = metrics.get(name)
        # What the option scores have given already, with ties shared, is not overwritten by the first option's.
        values = {**metric.function([metric.target(example) for example in examples], outputs), **values}
    if graded:
        os.replace(written, graded)
    result = report.TaskResult(
        task=task.name,
        dataset=task.dataset.name,
        cluster=task.dataset.cluster,
        template=task.style.templates[0],
        examples=len(examples),
        chance=100 * sum(shares) / len(shares) if ranked and main == "accuracy" else None,
        values=values,
        main=main,
    )
    return Graded(result, counts["fewer_shots"], counts["cut"])


def credit(line: Mapping[str, Any]) -> scores_lib.Scores:
    """What one ranked answer is worth, ties shared, and whether it is one (`metrics.rank_classification_accuracy`).

    Args:
      line: of a file that `inference.choices` has answered, with accepted answers under `targets`.
    """
    texts, scores = line.get("predictions", [line["prediction"]]), line.get("scores", [line["score"]])
    right = {i for i, text in enumerate(texts) if text in line["targets"]}
    found = metrics.rank_classification_accuracy([scores], [right or {0}])
    return found if right else {**found, "accuracy": 0.0}


def _of_options(line: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a question in the order in which they were shown, with their scores and lengths in tokens."""
    texts = line.get("predictions", [line["prediction"]])
    scores = dict(zip(texts, line.get("scores", [line["score"]]), strict=True))
    found = {"options": line["options"], "scores": [scores[option] for option in line["options"]]}
    if "lengths" in line:
        lengths = dict(zip(texts, line["lengths"], strict=True))
        found["tokens"] = [lengths[option] for option in line["options"]]
    return found


def _line(
    task: seqio_tasks.FlanTask, line: Mapping[str, Any], points: float, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept of one answer."""
    accepted, output = line["targets"], line["prediction"]
    parsed = output.strip()
    if task.dataset.rationale:
        parsed = answers_lib.extract(output, answers_lib.kind_of(accepted[0]))
    return {
        "index": line["row"],
        "prompt": line["inputs"],
        "output": output,
        "parsed": parsed,
        "target": accepted[0],
        "targets": accepted,
        "score": points / 100,
        **extra,
        "shots": line["shots"],
        **({"cut": line["cut"]} if "cut" in line else {}),
    }
