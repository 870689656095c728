"""Results as JSON and as a table: mean and standard deviation over templates, by dataset and by cluster.

`results.json` is what `flan report` reads, of this evaluation and of suites alike: `scores`, an entry a subtask with `name`,
`group`, `metric`, `value` (percent), `std`, `examples` and `chance`; `averages` of groups; paths of `predictions`.
"""

import contextlib
import dataclasses
import importlib.metadata
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flan_jax.evaluation import metrics

_PACKAGES = ("flan_jax", "jax", "jaxlib", "flax", "numpy", "sentencepiece", "sacrebleu", "rouge-score")


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


def summary(results: Sequence[TaskResult], selection: Sequence[TaskResult] = ()) -> dict[str, Any]:
    """Sums results up.

    Args:
      results: on the rows that are reported.
      selection: of the same tasks on other rows, by which the template of a dataset is chosen (FLAN 2021's "best dev
        template"); a dataset without any has none chosen.

    Returns:
      JSON-ready: `tasks` as given; `datasets` with mean, standard deviation over templates (sample, n - 1; None for one
      template), best and worst template, and `best_dev`: the template that did best in the selection (the first of
      several), what it scored there, and what here; `clusters` with the mean of their datasets' means; `scores` and
      `averages` of the same; `notes` on ties.
    """
    datasets = []
    chosen = {one.task: one.values[one.main] for one in selection}
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
        known = [one for one in mine if one.task in chosen]
        if known:
            best = max(known, key=lambda one: chosen[one.task])
            datasets[-1]["best_dev"] = {
                "template": best.template,
                "selected_by": chosen[best.task],
                "value": best.values[best.main],
            }
    clusters = [
        {"cluster": name, "mean": statistics.fmean(entry["mean"] for entry in datasets if entry["cluster"] == name)}
        for name in dict.fromkeys(entry["cluster"] for entry in datasets)
    ]
    return {
        "tasks": [dataclasses.asdict(result) for result in results],
        "datasets": datasets,
        "clusters": clusters,
        "scores": [_score(entry) for entry in datasets],
        "averages": _averages(datasets, clusters),
        "notes": list(_ties(results)),
    }


def versions() -> dict[str, str]:
    """What results are made with."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a checkout is not installed
            found[package] = importlib.metadata.version(package)
    return found


def _ties(results: Sequence[TaskResult]) -> Iterator[str]:
    """Of each dataset whose options tie, or nearly do, how often."""
    for name in dict.fromkeys(one.dataset for one in results):
        values = [one.values for one in results if one.dataset == name and "ties" in one.values]
        ties, near = (statistics.fmean(of.get(kind, 0.0) for of in values or [{}]) for kind in ("ties", "near_ties"))
        for remark in of_ties(ties, near):
            yield f"{name}: {remark}"


def of_ties(ties: float, near_ties: float) -> list[str]:
    """What to say of options that tie, or nearly do, in so many percent of the answers: scores are no more certain than that."""
    if not ties and not near_ties:
        return []
    return [
        f"the best options tie in {ties:.1f}% of the answers, and are within {metrics.NEAR_TIE} nats of each other in "
        f"{near_ties:.1f}%"
    ]


def of_prompts(total: int, fewer_shots: int, cut: int, lost: str) -> list[str]:
    """What to say of prompts that did not fit into the model's input.

    Args:
      total: how many there are.
      fewer_shots: how many of them have fewer exemplars.
      cut: how many have lost their beginning or end.
      lost: `beginning` or `end`.
    """
    found = {
        "fewer exemplars than asked for, as the model's input is too short for all of them": fewer_shots,
        f"their {lost} cut off: not even the question fits into the model's input": cut,
    }
    return [f"{count} of {total} prompts have {what}" for what, count in found.items() if count]


def _score(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a dataset as every suite has it."""
    names = ("metric", "std", "examples", "chance", "templates")
    best = {"best_dev": entry["best_dev"]} if "best_dev" in entry else {}
    found = {"name": entry["dataset"], "group": entry["cluster"], "value": entry["mean"]}
    return found | {name: entry[name] for name in names} | best


def _averages(datasets: Sequence[Mapping[str, Any]], clusters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = [{"name": entry["cluster"], "value": entry["mean"]} for entry in clusters]
    for cluster in clusters:
        mine = [entry for entry in datasets if entry["cluster"] == cluster["cluster"]]
        best = [entry["best_dev"]["value"] for entry in mine if "best_dev" in entry]
        if best and len(best) == len(mine):
            found.append({"name": f"{cluster['cluster']}, best dev template", "value": statistics.fmean(best)})
    return found


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
