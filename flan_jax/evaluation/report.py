"""Results as JSON and as a table: mean and standard deviation over templates, by dataset and by cluster."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from flan_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What one task (a dataset with one template) scored.

    Attributes:
      task: its name.
      dataset: name of its dataset.
      cluster: name of its cluster.
      template: index of its template.
      examples: how many examples were scored.
      chance: accuracy of a uniform guess among the options, in percent; None for generation.
      values: metric -> value in percent.
      main: the metric that stands for it in tables.
    """

    task: str
    dataset: str
    cluster: str
    template: int
    examples: int
    chance: float | None
    values: dict[str, float]
    main: str


def summary(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Sums results up.

    Returns:
      JSON-ready: `tasks` as given; `datasets` with mean, standard deviation over templates (sample, n - 1; None for one
      template), best and worst template; `clusters` with the mean of their datasets' means.
    """
    datasets = []
    for name in dict.fromkeys(result.dataset for result in results):
        mine = [result for result in results if result.dataset == name]
        values = [result.values[result.main] for result in mine]
        mean, deviation = metrics.mean_and_std(values)
        datasets.append(
            {
                "dataset": name,
                "cluster": mine[0].cluster,
                "metric": mine[0].main,
                "mean": mean,
                "std": deviation,
                "min": min(values),
                "max": max(values),
                "templates": len(mine),
                "examples": mine[0].examples,
                "chance": mine[0].chance,
            }
        )
    clusters = [
        {"cluster": name, "mean": statistics.fmean(entry["mean"] for entry in datasets if entry["cluster"] == name)}
        for name in dict.fromkeys(entry["cluster"] for entry in datasets)
    ]
    return {"tasks": [dataclasses.asdict(result) for result in results], "datasets": datasets, "clusters": clusters}


def table(found: dict[str, Any]) -> str:
    """Renders a summary as a Markdown table."""
    head = ("dataset", "cluster", "metric", "mean", "std", "min", "max", "chance", "templates", "examples")
    rows = [
        (
            entry["dataset"],
            entry["cluster"],
            entry["metric"],
            # One template has no deviation, and generation no chance level.
            *("" if entry[key] is None else f"{entry[key]:.1f}" for key in ("mean", "std", "min", "max", "chance")),
            str(entry["templates"]),
            str(entry["examples"]),
        )
        for entry in found["datasets"]
    ]
    rows += [(f"**{entry['cluster']}**", "", "", f"{entry['mean']:.1f}", *[""] * 6) for entry in found["clusters"]]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    numeric = range(3, len(head))

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(w) if i in numeric else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i in numeric else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])
