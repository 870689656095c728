"""`flan mixture`: what a mixture is made of, and what a run would read of it.

A mixture of collections has thousands of tasks: it is shown by collection and kind unless every task is asked for.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import holdout, loader, mixtures, provenance, seqio_tasks, sources, spec, streams, vocabulary

_SAMPLE_ROWS = 256  # packed rows drawn to measure examples a row and tokens an example
_SUMMED = ("rows", "rate", "examples", "tokens")
_UNKNOWN = 10**9  # rows where none are published: more than any cap
_MANY = 200  # tasks from which those that are not among the examples drawn are not measured by themselves


def show(
    name: str,
    *,
    module: str | None,
    data_dir: str | None,
    vocabulary_file: str | None,
    lengths: dict[str, int],
    steps: int,
    batch_size: int,
    seed: int,
    missing: str,
    pack: bool,
    as_json: bool,
    every_task: bool = False,
) -> None:
    """Prints the table of a mixture, or the same as JSON.

    Args: as `flan mixture --help` says.
    """
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    catalogue = mixtures.Catalogue.from_modules(module)
    mixture = catalogue.open(
        name,
        data_dir=data_dir,
        split="train",
        tokenizer=tokenizer,
        lengths=lengths,
        seed=seed,
        missing=missing,
    )
    found = measure(mixture, lengths=lengths, steps=steps, batch_size=batch_size, seed=seed, pack=pack)
    asked = catalogue.mixture(name, catalogue.directory(name, data_dir))
    if asked.parts:
        found |= {"parts": by_part(asked, found["tasks"]), "left_out": list(asked.left_out)}
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        _print(found, every_task)


def weighing(catalogue: mixtures.Catalogue, mixture: mixtures.MixtureSpec) -> Callable[[str, int | None], float]:
    """Weighs tasks as `Catalogue.open` would if everything were there in its published size (for `MixtureSpec.rates`).

    Raises (when called):
      FlanError: a task is seqio's own, of which no size is published.
    """
    limits = mixtures.caps(mixture)
    known: dict[tuple[str, int | None], int] = {}  # a dataset has many styles

    def weigh(task: str, maximum: int | None) -> float:
        found = catalogue.tasks.find(task)
        if found is None:
            raise errors.FlanError(
                f"{task!r} of mixture {mixture.name!r} is seqio's own task; no size of it is published"
            )
        dataset, cap = found.dataset, limits.get(task)
        if (dataset.name, cap) not in known:
            known[dataset.name, cap] = dataset.weight or published_rows(dataset, cap)
        count = known[dataset.name, cap]
        return float(min(count, maximum or count))

    return weigh


def published_rows(dataset: spec.DatasetSpec, cap: int | None = None) -> int:
    """Rows of a dataset that count at its published size: without those of other splits, filtered and capped.

    Where no size is published (tasks of Natural Instructions) this is the cap.
    """
    cap = cap or seqio_tasks.train_cap(dataset)
    base = dataset.splits["train"].partition("[")[0]
    sizes = dict.fromkeys((expression.partition("[")[0] for expression in dataset.splits.values()), _UNKNOWN)
    found = sources.resolve_splits(dataset.splits, sizes | {base: dataset.train_rows or _UNKNOWN})["train"]
    if isinstance(found, errors.FlanError):
        raise found
    _, start, stop = found
    return seqio_tasks.counted(dataset, stop - start, cap)


def show_published(name: str, *, module: str | None, as_json: bool, every_task: bool) -> None:
    """Prints what a mixture comes to at the published sizes of its datasets; reads no data.

    Args: as `flan mixture --help` says.
    """
    catalogue = mixtures.Catalogue.from_modules(module)
    mixture = catalogue.mixture(name)
    weigh = weighing(catalogue, mixture)
    rates = mixture.rates(weigh)
    whole = sum(rates.values())
    tasks = [{"task": task, "rows": int(weigh(task, None)), "rate": rate / whole} for task, rate in rates.items()]
    parts = by_part(mixture, tasks, ("rows", "rate"))
    if as_json:
        print(json.dumps({"mixture": name, "parts": parts, "tasks": tasks, "left_out": mixture.left_out}, indent=1))
        return
    from rich import console, table

    grid = table.Table(title=f"{name}, at published sizes")
    short = bool(parts) and not every_task
    for column in ("part", "kind", "tasks", "rows", "rate") if short else ("task", "rows", "rate"):
        grid.add_column(column, justify="left" if column in ("task", "part", "kind") else "right", no_wrap=True)
    for entry in parts if short else tasks:
        first = [entry["part"], entry["kind"], f"{entry['tasks']:,}"] if short else [entry["task"]]
        grid.add_row(*first, f"{entry['rows']:,}", f"{100 * entry['rate']:.{2 if short else 4}f}%")
    console.Console(width=max(110, console.Console().width)).print(grid)
    unknown = {dataset.name for task in rates if not (dataset := catalogue.tasks[task].dataset).train_rows}
    if unknown:
        print(f"of {len(unknown):,} datasets no size is published: as many rows as may be used are shown")
    for line in mixture.left_out:
        print(f"left out: {line}")


def check_heldout(name: str, cluster: str, *, module: str | None, data_dir: str | None) -> int:
    """Prints what of a held-out cluster is in a mixture, whose files could not be asked, and what shares texts; 1 if anything is in it.

    Args: as `flan mixture --help` says.
    """
    catalogue = mixtures.Catalogue.from_modules(module)
    with contextlib.nullcontext() if data_dir else contextlib.suppress(errors.FlanError):
        data_dir = sources.resolve_data_dir(data_dir)
    leaks = holdout.heldout_leaks(catalogue, name, cluster, data_dir)
    print("\n".join(map(str, leaks)) or f"{name} holds nothing of {cluster}")
    if unread := provenance.by_name_alone(catalogue, name, data_dir):
        print(
            f"{len(unread):,} tasks of Natural Instructions were judged by their names alone: their files, which say what "
            f"their texts are of, are not in {data_dir or 'a data directory (--tfds_data_dir)'}"
        )
    for sentence in provenance.shared(catalogue, name, cluster, data_dir):
        print(f"warning: {sentence}")
    return 1 if leaks else 0


def by_part(
    mixture: mixtures.MixtureSpec, tasks: list[dict[str, Any]], summed: Sequence[str] = _SUMMED
) -> list[dict[str, Any]]:
    """Sums up the tasks of each part of a mixture, and of each kind in it.

    Returns:
      JSON-ready, in order: part, kind (empty for the part as a whole), datasets and tasks that are there, and the sums of their rows,
      rates, expected examples and tokens. A task of several parts is counted in the first.
    """
    left = {task["task"]: task for task in tasks}
    found = []
    for part, _ in mixture.parts:
        kinds = [(kind.name.removeprefix(f"{part.name}_"), kind.tasks) for kind, _ in part.parts] or [("", part.tasks)]
        sums = []
        for kind, names in kinds:
            mine = [left.pop(name) for name in names if name in left]
            sums.append({"part": part.name, "kind": kind, "tasks": len(mine), **_sums(mine, summed)})
        if len(sums) > 1:
            whole = {key: sum(kind[key] for kind in sums) for key in ("tasks", *summed)}
            sums.insert(0, {"part": part.name, "kind": "", **whole})
        found += sums
    return found


def _sums(tasks: list[dict[str, Any]], summed: Sequence[str]) -> dict[str, Any]:
    return {key: sum(task[key] for task in tasks) for key in summed}


def measure(
    mixture: mixtures.OpenMixture, *, lengths: dict[str, int], steps: int, batch_size: int, seed: int, pack: bool
) -> dict[str, Any]:
    """Measures a mixture on its first rows and projects a run.

    Returns:
      JSON-ready: `tasks`, each with rows (after the cap), the cap, rate (probability of being drawn), and over the run the expected
      examples, tokens (inputs and targets, EOS counted, padding not) and epochs; and the totals.
    """
    lane = loader.Lane(mixture, 0, 1, lengths, seed, pack)
    drawn = [example for _ in range(_SAMPLE_ROWS) for example in lane.row()]
    per_row = len(drawn) / _SAMPLE_ROWS
    examples = steps * batch_size * per_row
    mine: dict[int, list[Any]] = {}
    for task, example in drawn:
        mine.setdefault(task, []).append(example)
    mean = _tokens([example for _, example in drawn])
    tasks = []
    for index, (member, probability) in enumerate(zip(mixture.members, mixture.probabilities, strict=True)):
        tokens = _tokens(mine[index]) if index in mine else mean
        if index not in mine and len(mixture.members) <= _MANY:
            # A rare task may not be among the rows drawn, so its own first examples are measured.
            tokens = _tokens(member.stream.read(np.arange(32)))
        expected = examples * float(probability)
        tasks.append(
            {
                "task": member.name,
                "rows": member.rows,
                "cap": _cap(member.stream),
                "weight": member.rate,
                "rate": float(probability),
                "examples": expected,
                "tokens_an_example": tokens,
                "tokens": expected * tokens,
                "epochs": expected / member.rows,
            }
        )
    filled = sum(len(e.inputs) for _, e in drawn) / (_SAMPLE_ROWS * lengths["inputs"])
    return {
        "mixture": mixture.name,
        "steps": steps,
        "batch_size": batch_size,
        "lengths": lengths,
        "packed": pack,
        "examples_a_row": per_row,
        "inputs_filled": filled,
        "examples": examples,
        "tokens": sum(task["tokens"] for task in tasks),
        "tasks": tasks,
    }


def _tokens(examples: list[Any]) -> float:
    return float(np.mean([len(e.inputs) + len(e.targets) for e in examples]))


def _cap(stream: Any) -> int | None:
    return stream.rows.cap if isinstance(stream, streams.FlanStream) else None


def _print(found: dict[str, Any], every_task: bool) -> None:
    from rich import console, table

    lengths = found["lengths"]
    title = (
        f"{found['mixture']}: {found['steps']:,} steps x {found['batch_size']} rows of "
        f"{lengths['inputs']}+{lengths['targets']} tokens"
    )
    grid = table.Table(title=title)
    short = "parts" in found and not every_task
    columns = ("part", "kind", "tasks", "rows") if short else ("task", "rows", "cap", "weight")
    for column in (*columns, "rate", "examples", "tokens", *(() if short else ("epochs",))):
        grid.add_column(column, justify="left" if column in ("task", "part", "kind") else "right", no_wrap=True)
    for entry in found["parts"] if short else found["tasks"]:
        cells = [f"{100 * entry['rate']:.2f}%", f"{entry['examples']:,.0f}", f"{entry['tokens']:,.0f}"]
        if short:
            first = [entry["part"], entry["kind"], f"{entry['tasks']:,}", f"{entry['rows']:,}"]
            grid.add_row(*first, *cells)
        else:
            cap = "" if entry["cap"] is None else f"{entry['cap']:,}"
            cells.append(f"{entry['epochs']:.2f}")
            grid.add_row(entry["task"], f"{entry['rows']:,}", cap, f"{entry['weight']:,.0f}", *cells)
    grid.add_section()
    total = [
        f"{sum(t['rows'] for t in found['tasks']):,}",
        "100%",
        f"{found['examples']:,.0f}",
        f"{found['tokens']:,.0f}",
    ]
    if short:
        grid.add_row("total", "", f"{len(found['tasks']):,}", *total)
    else:
        grid.add_row("total", total[0], "", "", *total[1:], "")
    # The other columns take about 88; names of inverted few-shot tasks are the longest.
    needed = 0 if short else 88 + max(len(task["task"]) for task in found["tasks"])
    console.Console(width=max(100, needed, console.Console().width)).print(grid)
    print(
        f"measured on {_SAMPLE_ROWS} rows: {found['examples_a_row']:.2f} examples a row, "
        f"{100 * found['inputs_filled']:.1f}% of input positions filled"
    )
    for line in found.get("left_out", ()):
        print(f"left out: {line}")
