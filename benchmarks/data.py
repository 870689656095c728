"""Speed of the data path: rows of prepared datasets to tokenised examples and to packed batches.

    python benchmarks/data.py --tfds_data_dir DIR [--vocabulary MODEL] [--missing skip] [--json OUT]

RTE's train split with ten templates, zero-shot and with up to 16 exemplars, once with cold caches and once again; then the
FLAN 2021 mixture, zero-shot and few-shot, packed at 1024/256: seconds from nothing to the first batch, then examples and
tokens a second over the batches after it. Each in a process of its own, so that the peak memory is its own. FLAN's own
code, measured on two cores over the same rows: RTE 2,000 to 2,500 examples/s, 278 with exemplars; a mixture of 22 tasks 11 s
to the first example, 634 examples/s.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
from typing import Any

LENGTHS = {"inputs": 1024, "targets": 256}


def tokenised(task: str, given: argparse.Namespace) -> dict[str, float]:
    """Examples and tokens a second over a task's train split, first and second time."""
    import numpy as np

    from flan_jax.data import mixtures, seqio_tasks, sources, vocabulary

    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(given.vocabulary))
    rows = (
        mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
        .tasks[task]
        .open(sources.resolve_data_dir(given.tfds_data_dir), "train")
    )
    report: dict[str, float] = {"rows": rows.num_examples}
    for name in ("cold", "warm"):
        began, tokens = time.perf_counter(), 0
        for first in range(0, rows.num_examples, 256):
            drawn = rows.draw(np.arange(first, min(first + 256, rows.num_examples)), 0)
            examples = seqio_tasks.tokenise(drawn, tokenizer, LENGTHS)
            tokens += sum(len(example.inputs) + len(example.targets) for example in examples)
        seconds = time.perf_counter() - began
        report |= {
            f"examples_per_second_{name}": rows.num_examples / seconds,
            f"tokens_per_second_{name}": tokens / seconds,
        }
    return report


def packed(mixture: str, given: argparse.Namespace) -> dict[str, float]:
    """Seconds to a mixture's first packed batch, and what comes a second after it."""
    began = time.perf_counter()
    from flan_jax.data import loader, mixtures, sources, vocabulary

    opened = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").open(
        mixture,
        data_dir=sources.resolve_data_dir(given.tfds_data_dir),
        split="train",
        tokenizer=vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(given.vocabulary)),
        lengths=LENGTHS,
        seed=0,
        missing=given.missing,
    )
    batches = iter(loader.TrainLoader(opened, lengths=LENGTHS, batch_size=32, seed=0, pack=True))
    next(batches)
    report: dict[str, float] = {
        "tasks": len(opened.members),
        "examples": sum(member.rows for member in opened.members),
        "seconds_to_first_batch": time.perf_counter() - began,
    }
    began, examples, tokens, filled = time.perf_counter(), 0, 0, 0.0
    for _ in range(given.batches):
        batch = next(batches)
        examples += int(batch.examples.sum())
        tokens += int(batch.tokens)
        filled += float((batch.features["encoder_segment_ids"] > 0).mean()) / given.batches
    seconds = time.perf_counter() - began
    return report | {
        "examples_per_second": examples / seconds,
        "tokens_per_second": tokens / seconds,
        "inputs_filled": filled,
    }


RUNS = {
    "rte_10templates": tokenised,
    "rte_10templates_multi_shot": tokenised,
    "flan2021_10templates": packed,
    "flan2021_10templates_multi_shot": packed,
}


def _measure(name: str, given: argparse.Namespace, pipe: Any) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = RUNS[name](name, given)
    pipe.send(report | {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tfds_data_dir", default="sample", help="prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--vocabulary", help="a SentencePiece model instead of the embedded one")
    parser.add_argument("--missing", default="error", choices=("error", "skip"))
    parser.add_argument("--batches", type=int, default=60, help="timed batches of 32 rows")
    parser.add_argument("--only", choices=RUNS, action="append", help="may be given several times")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    report = {}
    for name in given.only or RUNS:
        here, there = context.Pipe()
        process = context.Process(target=_measure, args=(name, given, there))
        process.start()
        there.close()
        report[name] = here.recv()
        process.join()
        print(json.dumps({name: report[name]}), flush=True)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
