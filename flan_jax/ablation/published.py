"""What papers found in their ablations (`published.yaml`), by the labels of our arms."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from flan_jax import errors, shipped
from flan_jax.evaluation import published as scores

KINDS = PRINTED, READ_OFF = "printed", "read off"


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a paper's figure, or one column of its table.

    Attributes:
      key: of the table or figure here.
      source: title of the paper.
      arxiv: its number.
      place: `Figure 6`.
      unit: of the values.
      about: model and question.
      line: label of a line, as in a grid.
      metric: label of a metric.
      kind: `printed` or `read off`.
      within: how far off what was read off a plot may be; 0 for what is printed.
      values: arm -> value; an arm that is not given has none.
    """

    key: str
    source: str
    arxiv: str
    place: str
    unit: str
    about: str
    line: str
    metric: str
    kind: str
    within: float
    values: Mapping[str, float]

    @property
    def told(self) -> str:
        """`Figure 6, read off within 0.4`."""
        return f"{self.place}, {self.kind}" + (f" within {self.within:g}" if self.within else "")


@functools.cache
def load() -> Mapping[str, tuple[Series, ...]]:
    """All of them, by key."""
    path = shipped.directory("ablation") / "published.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    sources = scores.sources()
    found: dict[str, tuple[Series, ...]] = {}
    for entry in content:
        source = sources[entry["source"]]
        rows = _named(entry) if "scores" in entry else entry["series"]
        made = []
        for row in rows:
            if row["kind"] not in KINDS:
                raise errors.FlanError(f"{path}: {entry['key']}: {errors.unknown('kind', row['kind'], KINDS)}")
            if len(row["values"]) != len(entry["arms"]):
                raise errors.FlanError(
                    f"{path}: {entry['key']}: {len(row['values'])} values for {len(entry['arms'])} arms"
                )
            values = {arm: float(v) for arm, v in zip(entry["arms"], row["values"], strict=True) if v is not None}
            made.append(
                Series(
                    key=entry["key"],
                    source=source["title"],
                    arxiv=str(source["arxiv"]),
                    place=entry["place"],
                    unit=entry["unit"],
                    about=entry["about"],
                    line=row.get("line", ""),
                    metric=row["metric"],
                    kind=row["kind"],
                    within=row.get("within", 0),
                    values=values,
                )
            )
        found[entry["key"]] = tuple(made)
    return found


def of(keys: Sequence[str]) -> list[Series]:
    """The series of these keys.

    Raises:
      FlanError: there is no such key.
    """
    known = load()
    for key in keys:
        if key not in known:
            raise errors.unknown("published table", key, known)
    return [series for key in keys for series in known[key]]


def _named(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table that `evaluation/published.yaml` has: a line each list of models, a metric each score."""
    rows = []
    for line, models in entry["models"].items():
        for metric, name in entry["scores"].items():
            known = {score.model: score.value for score in scores.of(name) if score.table == entry["place"]}
            values = [known.get(model) for model in models]
            rows.append({"line": line, "metric": metric, "kind": PRINTED, "values": values})
    return rows
