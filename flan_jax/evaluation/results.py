"""Results of evaluations as files: reading `results.json` and its predictions, and holding two of them against each other."""

import collections
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flan_jax import errors

FILE = "results.json"
_NEEDED = ("suite", "checkpoint", "step", "scores", "averages", "predictions")
_STEP = re.compile(r"-\d{6,}$")  # at the end of the name of a file of predictions


@dataclasses.dataclass(frozen=True)
class Score:
    """What one subtask scored; the fields are those of `results.json`.

    Attributes:
      best_dev: of FLAN 2021's protocol, the template chosen on other rows: `template`, `selected_by`, `value`.
    """

    name: str
    group: str
    metric: str
    value: float
    std: float | None = None
    examples: int = 0
    chance: float | None = None
    best_dev: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.name


@dataclasses.dataclass(frozen=True)
class Results:
    """One `results.json`.

    Attributes:
      directory: where it lies.
      about: what it says of itself: suite, checkpoint, step, settings, versions, seed, notes.
      scores: of subtasks.
      averages: name and value.
      predictions: paths of the files of predictions, relative to the directory.
    """

    directory: pathlib.Path
    about: Mapping[str, Any]
    scores: tuple[Score, ...]
    averages: tuple[tuple[str, float], ...]
    predictions: tuple[str, ...]

    @property
    def title(self) -> str:
        """What tells it from another: the checkpoint, or where that is not known the directory."""
        return str(self.about["checkpoint"] or self.directory)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A line of a file of predictions.

    Attributes:
      subtask: what it belongs to: the line's own subtask, or the file.
      line: all of it.
    """

    subtask: str
    line: Mapping[str, Any]


@dataclasses.dataclass
class Changes:
    """Examples of one subtask that two checkpoints were both asked.

    Attributes:
      subtask: its name.
      shared: examples with the same prompt.
      other_prompts: examples whose prompts differ, which are not compared.
      better: how many the second answered better than the first.
      worse: how many worse.
      shown: some of those, (first, second).
    """

    subtask: str
    shared: int = 0
    other_prompts: int = 0
    better: int = 0
    worse: int = 0
    shown: list[tuple[Prediction, Prediction]] = dataclasses.field(default_factory=list)


def load(directory: str | os.PathLike[str]) -> Results:
    """Reads the results of a directory.

    Raises:
      FlanError: there are none, or they are not whole.
    """
    file = pathlib.Path(directory) / FILE
    if not file.is_file():
        raise errors.FlanError(f"{file} does not exist; expected the output directory of `flan eval`")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise errors.FlanError(f"{file} is not JSON: {error}") from None
    missing = [name for name in _NEEDED if not isinstance(content, dict) or name not in content]
    if missing:
        raise errors.FlanError(f"{file} has no {', '.join(missing)}; expected {', '.join(_NEEDED)}: evaluate again")
    try:
        scores = tuple(_score(entry) for entry in content["scores"])
        averages = tuple((str(entry["name"]), float(entry["value"])) for entry in content["averages"])
    except (KeyError, TypeError, ValueError) as error:
        raise errors.FlanError(f"{file}: a score or average is not whole: {error!r}") from None
    about = {name: value for name, value in content.items() if name not in ("scores", "averages", "predictions")}
    return Results(file.parent, about, scores, averages, tuple(map(str, content["predictions"])))


def _score(entry: Mapping[str, Any]) -> Score:
    given = {field.name: entry[field.name] for field in dataclasses.fields(Score) if field.name in entry}
    found = Score(**given)
    if not isinstance(found.value, int | float):
        raise TypeError(f"{found.name} has the value {found.value!r}")
    return found


def predictions(results: Results) -> Iterator[Prediction]:
    """Yields every prediction, file by file; nothing is held in memory.

    Raises:
      FlanError: a file is missing, lies outside the directory, or a line is not a whole prediction.
    """
    for name in results.predictions:
        file = results.directory / name
        if not file.resolve().is_relative_to(results.directory.resolve()):
            raise errors.FlanError(
                f"{results.directory / FILE}: {name!r} lies outside the directory; expected a file in it"
            )
        if not file.is_file():
            raise errors.FlanError(f"{file} does not exist, but {FILE} names it; copy the whole directory")
        with open(file, encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                yield _prediction(_stem(name), text, f"{file}:{number}")


def _prediction(stem: str, text: str, where: str) -> Prediction:
    try:
        line = json.loads(text)
        lacks = [name for name in ("index", "prompt", "output", "target", "score") if name not in line]
    except (ValueError, TypeError) as error:
        raise errors.FlanError(f"{where}: not a prediction: {error}") from None
    if lacks:
        raise errors.FlanError(f"{where}: a prediction without {', '.join(lacks)}")
    own = line.get("subtask")
    return Prediction(f"{stem}: {own}" if own else stem, line)


def _stem(name: str) -> str:
    """What a file of predictions is about, whatever the step: `rte_type_0_scoring_eval`."""
    return _STEP.sub("", pathlib.PurePosixPath(name).stem)


def samples(results: Results, of_each: int) -> dict[str, list[Prediction]]:
    """A few predictions of each subtask: wrong and right ones in turn where there are both, in the order of the file."""
    kept: dict[str, dict[bool, list[Prediction]]] = {}
    for one in predictions(results):
        kinds = kept.setdefault(one.subtask, {True: [], False: []})
        kind = kinds[points(one) >= 0.5]
        if len(kind) < of_each:
            kind.append(one)
    found = {}
    for subtask, kinds in kept.items():
        wrong, right = kinds[False], kinds[True]
        few = max(of_each - len(wrong), of_each // 2)
        few_wrong = of_each - min(len(right), few)
        found[subtask] = sorted([*wrong[:few_wrong], *right[:few]], key=lambda one: one.line["index"])[:of_each]
    return found


def points(one: Prediction) -> float:
    """The score of a prediction; 0 where it has none."""
    value = one.line["score"]
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def compare(first: Results, second: Results, shown: int) -> list[Changes]:
    """Holds the predictions of two evaluations against each other, example by example.

    Args:
      first: one.
      second: the other.
      shown: examples that are kept of each subtask, half of them better ones where there are both.
    """
    earlier: dict[tuple[str, Any], Prediction] = {(one.subtask, one.line["index"]): one for one in predictions(first)}
    found: dict[str, Changes] = {}
    kept: dict[str, dict[bool, list[tuple[Prediction, Prediction]]]] = collections.defaultdict(
        lambda: {True: [], False: []}
    )
    for after in predictions(second):
        before = earlier.get((after.subtask, after.line["index"]))
        if before is None:
            continue
        changes = found.setdefault(after.subtask, Changes(after.subtask))
        if before.line["prompt"] != after.line["prompt"]:
            changes.other_prompts += 1
            continue
        changes.shared += 1
        difference = points(after) - points(before)
        if difference:
            better = difference > 0
            changes.better += better
            changes.worse += not better
            if len(kept[after.subtask][better]) < shown:
                kept[after.subtask][better].append((before, after))
    for subtask, changes in found.items():
        worse, better = kept[subtask][False], kept[subtask][True]
        few = max(shown - len(worse), shown // 2)
        changes.shown = [*better[:few], *worse[: shown - min(len(better), few)]]
    return list(found.values())
