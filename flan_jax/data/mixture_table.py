"""`flan mixture`: what a mixture is made of, and what a run would read of it."""

import json
import sys
from typing import Any

import numpy as np

from flan_jax.data import loader, mixtures, seqio_tasks, sources, streams, vocabulary

_SAMPLE_ROWS = 256  # packed rows drawn to measure examples a row and tokens an example


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
) -> None:
    """Prints the table of a mixture, or the same as JSON.

    Args: as `flan mixture --help` says.
    """
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    mixture = mixtures.Catalogue.from_modules(module).open(
        name,
        data_dir=sources.resolve_data_dir(data_dir),
        split="train",
        tokenizer=tokenizer,
        lengths=lengths,
        seed=seed,
        missing=missing,
    )
    found = measure(mixture, lengths=lengths, steps=steps, batch_size=batch_size, seed=seed, pack=pack)
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        _print(found)


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
    tasks = []
    for index, (member, probability) in enumerate(zip(mixture.members, mixture.probabilities, strict=True)):
        # A rare task may not be among the rows drawn, so its own first examples are measured.
        own = [e for task, e in drawn if task == index] or member.stream.read(np.arange(32))
        tokens = float(np.mean([len(e.inputs) + len(e.targets) for e in own]))
        expected = examples * float(probability)
        tasks.append(
            {
                "task": member.name,
                "rows": member.rows,
                "cap": seqio_tasks.TRAIN_CAP if isinstance(member.stream, streams.FlanStream) else None,
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


def _print(found: dict[str, Any]) -> None:
    from rich import console, table

    lengths = found["lengths"]
    title = (
        f"{found['mixture']}: {found['steps']:,} steps x {found['batch_size']} rows of "
        f"{lengths['inputs']}+{lengths['targets']} tokens"
    )
    grid = table.Table(title=title)
    for column in ("task", "rows", "cap", "weight", "rate", "examples", "tokens", "epochs"):
        grid.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task in found["tasks"]:
        grid.add_row(
            task["task"],
            f"{task['rows']:,}",
            "" if task["cap"] is None else f"{task['cap']:,}",
            f"{task['weight']:,.0f}",
            f"{100 * task['rate']:.2f}%",
            f"{task['examples']:,.0f}",
            f"{task['tokens']:,.0f}",
            f"{task['epochs']:.2f}",
        )
    grid.add_section()
    grid.add_row(
        "total",
        f"{sum(t['rows'] for t in found['tasks']):,}",
        "",
        "",
        "100%",
        f"{found['examples']:,.0f}",
        f"{found['tokens']:,.0f}",
        "",
    )
    console.Console(width=max(100, console.Console().width)).print(grid)
    print(
        f"measured on {_SAMPLE_ROWS} rows: {found['examples_a_row']:.2f} examples a row, "
        f"{100 * found['inputs_filled']:.1f}% of input positions filled"
    )
