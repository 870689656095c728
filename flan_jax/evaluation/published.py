"""Published scores as data (`published.yaml`): only what a paper prints, with the table it stands in."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from flan_jax import errors, shipped

FEW = "few"
# A number of exemplars; `few` where it is not one number for all, None where it is not known.
Shots = int | Literal["few"] | None


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of a paper.

    Attributes:
      model: as the paper calls it, with its size and how it was asked where that is needed.
      group: run that it is a part of, such as `bbh_cot`; empty for an average.
      name: subtask, dataset or language; for an average the name of the run, such as `mmlu_direct`.
      value: the number.
      unit: of it, `percent`.
      source: title of the paper.
      arxiv: its number.
      table: where it is printed.
      kind: `printed`.
      note: on all of the table; may be empty.
      beside: name of the score of `results.json` that it may stand beside; empty where we ask nothing like it.
      shots: exemplars that it was asked with.
      split: of the questions; empty where any will do, or it is not known.
    """

    model: str
    group: str
    name: str
    value: float
    unit: str
    source: str
    arxiv: str
    table: str
    kind: str
    note: str
    beside: str = ""
    shots: Shots = None
    split: str = ""


@functools.cache
def _content() -> Mapping[str, Any]:
    return yaml.safe_load(_path().read_text(encoding="utf-8"))


def _path() -> pathlib.Path:
    return shipped.directory("evaluation") / "published.yaml"


def sources() -> Mapping[str, Mapping[str, Any]]:
    """Title and number of each paper, by a short name."""
    return _content()["sources"]


@functools.cache
def load() -> tuple[Score, ...]:
    """All of them, table by table."""
    return tuple(score for table in _content()["tables"] for score in _of_table(table))


def _of_table(table: Mapping[str, Any]) -> list[Score]:
    source, models = _content()["sources"][table["source"]], table["models"]
    found = []
    for key, values in table["scores"].items():
        group, _, name = key.rpartition("/")
        beside = {"name": name, **table.get("beside", {}).get(group or name, {})}
        each = {what: _each(beside.get(what), models, key) for what in ("name", "shots", "split")}
        found += [
            Score(
                model=model,
                group=group,
                name=name,
                value=float(value),
                unit=table["unit"],
                source=source["title"],
                arxiv=str(source["arxiv"]),
                table=table["table"],
                kind=table["kind"],
                note=table.get("note", ""),
                beside=each["name"][at],
                shots=each["shots"][at],
                split=each["split"][at] or "",
            )
            for at, (model, value) in enumerate(zip(models, _each(values, models, key), strict=True))
            if value is not None
        ]
    return found


def _each(given: Any, models: Sequence[str], key: str) -> list[Any]:
    """A value for each model of a table."""
    if not isinstance(given, list):
        return [given] * len(models)
    if len(given) != len(models):
        raise errors.FlanError(f"{_path()}: {key!r} has {len(given)} values for {len(models)} models")
    return given


def means() -> Mapping[str, Sequence[str]]:
    """Means of several averages of ours that papers print, by the name that they have here."""
    return _content()["means"]


def of(name: str, group: str = "") -> list[Score]:
    """What papers print under a name of `published.yaml`, however it was asked: `of("mmlu_test")`."""
    return [score for score in load() if (score.group, score.name) == (group, name)]


def beside(name: str, group: str = "", *, split: str = "", shots: Shots = None) -> list[Score]:
    """What may stand beside one score of `results.json`: `beside("sw", "mgsm_cot", shots=8)`.

    What was asked with exemplars does not stand beside what was asked without, nor one split beside another.

    Args:
      name: of the score or average.
      group: of the score; empty for an average. FLAN 2021's datasets are of the group `flan2021`.
      split: of its questions; empty where it is not known.
      shots: exemplars that it was asked with.
    """
    return [
        score
        for score in load()
        if (score.group, score.beside) == (group, name)
        and (not split or not score.split or split == score.split)
        and (shots is None or score.shots is None or (shots == 0) == (score.shots == 0))
    ]
