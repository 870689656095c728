"""`flan contamination`: how much of what is evaluated stands in what is trained on (FLAN 2021, appendix C).

OUT/index/            the training mixture's n-grams (see `data.ngrams`)
OUT/dirty.jsonl       every example that shares an n-gram, with the first that it shares
OUT/contamination.json, contamination.md
"""

import argparse
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

from flan_jax import errors, log, progress
from flan_jax.data import benchmarks, mixtures, ngrams, sources
from flan_jax.data import contamination as texts
from flan_jax.evaluation import contamination, report_markdown, results

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan contamination`."""
    parser = argparse.ArgumentParser(
        prog="flan contamination",
        description="Says which examples of an evaluation share an n-gram of words with a training mixture, and what a model "
        "scores on those that do and those that do not.",
    )
    parser.add_argument("--train", metavar="MIXTURE", help="what is trained on; not needed with --index")
    parser.add_argument(
        "--eval",
        required=True,
        metavar="MIXTURE",
        help="what is evaluated: a mixture, or a suite (mmlu, bbh, tydiqa, mgsm, flan2022) or one run of it (mmlu_cot)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="gets the index and the report")
    parser.add_argument(
        "--index", metavar="DIR", help="an index that is there (OUT/index of an earlier call), instead of --train"
    )
    parser.add_argument("--n", type=int, default=ngrams.DEFAULT_N, help="words of an n-gram (default %(default)s)")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="of what is evaluated (default test; of a suite the paper's)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows of each evaluated dataset only")
    parser.add_argument("--predictions", metavar="DIR", help="output of `flan eval`: its scores, clean and dirty")
    parser.add_argument("--memory_mb", type=int, default=512, help="for sorting (default %(default)s)")
    parser.add_argument("--module", default="flan_jax.tasks.catalogue", help="module that defines SPECS")
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument(
        "--missing", default="error", choices=("error", "skip"), help="datasets whose data is not there"
    )
    given = parser.parse_args(argv)
    log.set_up()
    if (given.train is None) == (given.index is None):
        parser.error("give --train MIXTURE, or --index DIR of an earlier call")
    if given.memory_mb < 1:
        raise errors.FlanError(f"--memory_mb is {given.memory_mb}; expected at least 1")
    found = run(given)
    print(contamination.summary(found))
    print(pathlib.Path(given.out) / "contamination.md")
    return 0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Builds or opens the index, asks it for every example, writes the report; the flags are those of `main`.

    Raises:
      FlanError: a mixture is unknown, data is missing, or predictions do not fit.
    """
    out = pathlib.Path(given.out)
    catalogue = mixtures.Catalogue.from_modules(given.module)
    data_dir = sources.resolve_data_dir(given.tfds_data_dir)
    evaluated = _evaluated(given, catalogue, data_dir)
    out.mkdir(parents=True, exist_ok=True)
    left_out: list[str] = []
    if given.index is not None:
        index = ngrams.Index(given.index)
    else:
        trained = texts.opened(catalogue, given.train, data_dir, "train", given.missing)
        left_out = trained.left_out
        builder = ngrams.Builder(out / "index", given.n, given.memory_mb << 20)
        with progress.Progress("index", len(trained.rows), unit="datasets") as bar:
            for name, rows in trained.rows.items():
                builder.add(texts.trained_on(rows))
                bar.advance(1, task=name)
        index = builder.finish()
    for name in (*left_out, *evaluated.left_out):
        logger.warning("left out: %s", name)
    datasets, scores = [], evaluated.scores
    with (
        progress.Progress("look up", len(evaluated.texts), unit="datasets") as bar,
        open(out / "dirty.jsonl", "w", encoding="utf-8") as dirty,
    ):
        for name, read in evaluated.texts.items():
            of = None if scores is None else scores.get(name, {})
            datasets.append(contamination.split(name, read(), index, dirty, of))
            bar.advance(1, task=name)
    wholes = []
    for name in evaluated.wholes:
        examples, of = evaluated.whole(name)
        wholes.append(contamination.split(name, examples, index, None, of))
    found = {
        "train": given.train or str(given.index),
        "eval": given.eval,
        "split": evaluated.split,
        "n": index.n,
        "documents": index.documents,
        "ngrams": index.ngrams,
        "left_out": [*left_out, *evaluated.left_out],
        "predictions": given.predictions,
        "datasets": datasets,
        **({"wholes": wholes} if wholes else {}),
    }
    (out / "contamination.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    table = contamination.table(found)
    lines = ["# Contamination", "", contamination.summary(found), "", *report_markdown.table(table)]
    (out / "contamination.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


def _evaluated(given: argparse.Namespace, catalogue: mixtures.Catalogue, data_dir: str) -> contamination.Evaluated:
    """A suite by its name, else a mixture."""
    predictions = None if given.predictions is None else results.load(given.predictions)
    runs = contamination.runs_of(given.eval)
    if runs:
        return contamination.of_suites(benchmarks.Reader(data_dir), runs, given.split, given.limit, predictions)
    split = given.split or "test"
    opened = texts.opened(catalogue, given.eval, data_dir, split, given.missing)
    return contamination.of_tasks(opened, split, given.limit, predictions)
