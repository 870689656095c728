"""Speed of the data path: rows of prepared datasets to tokenised examples and to packed batches.

    python benchmarks/data.py --tfds_data_dir DIR [--vocabulary MODEL] [--missing skip] [--processes N] [--json OUT]

RTE's train split with ten templates, zero-shot and with up to 16 exemplars, once with cold caches and once again; then the
FLAN 2021 mixture, zero-shot and few-shot, packed at 1024/256: seconds from nothing to the first batch, then examples and
tokens a second over the batches after it. Each in a process of its own, so that the peak memory is its own;
with `--processes N` packed rows are made by N more, whose largest peak is counted N times. FLAN's own
code, measured on two cores over the same rows: RTE 2,000 to 2,500 examples/s, 278 with exemplars; a mixture of 22 tasks 11 s
to the first example, 634 examples/s.

With `--only flan2022_fewshot_0` (zero-shot), `flan2022_fewshot_100` and `flan2022`: all of Flan 2022 that DIR holds, 1,556 tasks
of Natural Instructions among them; `python benchmarks/synthetic_niv2.py DIR` makes such tasks up. Once with files that have
not been noted before ($FLAN_JAX_CACHE empty) and once again.
"""

import argparse
import dataclasses
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
    from flan_jax.data import loader, loader_processes, row_request, vocabulary

    request = row_request.Request(
        mixture,
        "flan_jax.tasks.catalogue",
        given.tfds_data_dir,
        vocabulary.sentencepiece_vocabulary(given.vocabulary),
        inputs=LENGTHS["inputs"],
        targets=LENGTHS["targets"],
        missing=given.missing,
        threads=2,
    )
    opened = request.open()
    others = dataclasses.replace(request, threads=1)
    source = loader_processes.Processes(others, given.processes) if given.processes else None
    batches = iter(loader.TrainLoader(opened, lengths=LENGTHS, batch_size=32, seed=0, pack=True, source=source))
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
    batches.close()
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
COLLECTION = {"flan2022_fewshot_0": packed, "flan2022_fewshot_100": packed, "flan2022": packed}


def _measure(name: str, given: argparse.Namespace, pipe: Any) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = (RUNS | COLLECTION)[name](name, given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak += given.processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pipe.send(report | {"peak_memory_gib": peak / 2**20})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tfds_data_dir", default="sample", help="prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--vocabulary", help="a SentencePiece model instead of the embedded one")
    parser.add_argument("--missing", default="error", choices=("error", "skip"))
    parser.add_argument("--batches", type=int, default=60, help="timed batches of 32 rows")
    parser.add_argument("--processes", type=int, default=0, help="that make packed rows; 0: this one")
    parser.add_argument("--only", choices=[*RUNS, *COLLECTION], action="append", help="may be given several times")
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
