"""The sets that models are compared on and never trained on: MMLU, BIG-Bench Hard, TyDiQA, MGSM; where their rows lie.

They are prepared TFDS directories as every other dataset is. No TFDS builder makes most of them: `flan data import` writes
them from JSON lines, under the names here. They are kept out of the catalogue, so that no mixture can draw from them.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence

from flan_jax import errors
from flan_jax.data import sources, spec

_VERSION = re.compile(r"\d+\.\d+\.\d+")

BBH_SUBTASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
MGSM_LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One prepared dataset that an evaluation suite reads.

    Attributes:
      dataset: TFDS name, without a version.
      split: the split that is read; more are named by the suite.
      suites: names of the suites that read it.
      fields: of a record, for `flan data import`.
      optional: whether the suites can do without.
    """

    dataset: str
    split: str
    suites: tuple[str, ...]
    fields: tuple[str, ...]
    optional: bool = False


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("mmlu", "dev", ("mmlu",), ("subject", "question", "A", "B", "C", "D", "answer")),
    Benchmark("mmlu", "validation", ("mmlu",), ("subject", "question", "A", "B", "C", "D", "answer")),
    Benchmark("mmlu", "test", ("mmlu",), ("subject", "question", "A", "B", "C", "D", "answer"), optional=True),
    Benchmark("mmlu_cot_prompts", "prompts", ("mmlu",), ("subject", "prompt"), optional=True),
    *(Benchmark(f"bbh/{name}", "test", ("bbh",), ("input", "target")) for name in BBH_SUBTASKS),
    Benchmark("bbh_cot_prompts", "prompts", ("bbh",), ("task", "prompt")),
    Benchmark("tydi_qa/goldp", "train", ("tydiqa",), ("id", "title", "context", "question", "answers")),
    Benchmark("tydi_qa/goldp", "validation", ("tydiqa",), ("id", "title", "context", "question", "answers")),
    *(
        Benchmark(f"mgsm/{language}", "test", ("mgsm",), ("question", "answer"), optional=language == "en")
        for language in MGSM_LANGUAGES
    ),
    Benchmark("mgsm_exemplars", "exemplars", ("mgsm",), ("language", "number", "q", "a")),
)

SUITES = tuple(dict.fromkeys(suite for benchmark in BENCHMARKS for suite in benchmark.suites))


class Reader:
    """Rows of benchmarks in one data directory, by dataset and split."""

    def __init__(self, data_dir: str) -> None:
        """Args:
        data_dir: of prepared TFDS datasets (see `sources.resolve_data_dir`).
        """
        self.data_dir = data_dir
        self._open: dict[str, sources.PreparedDataset] = {}

    def version(self, dataset: str) -> str | None:
        """The newest version of a dataset that is there, or None."""
        folder = os.path.join(self.data_dir, dataset)
        found = os.listdir(folder) if os.path.isdir(folder) else []
        versions = [name for name in found if _VERSION.fullmatch(name)]
        return max(versions, key=lambda name: tuple(map(int, name.split("."))), default=None)

    def has(self, dataset: str, split: str) -> bool:
        """Whether a split is there and has rows."""
        return self.version(dataset) is not None and self._dataset(dataset).sizes.get(split, 0) > 0

    def rows(self, dataset: str, split: str) -> Sequence[spec.Row]:
        """The rows of one split, read when they are asked for.

        Raises:
          NotPrepared: the dataset or the split is not there; the message says what to import.
        """
        if not self.has(dataset, split):
            known = next((b for b in BENCHMARKS if b.dataset == dataset), None)
            fields = f" with the fields {', '.join(known.fields)}" if known else ""
            raise sources.NotPrepared(
                f"no split {split!r} of dataset {dataset!r} in {self.data_dir}; expected a prepared TFDS directory: "
                f"`flan data import RECORDS --data_dir={self.data_dir}` makes it from RECORDS/{dataset}/{split}.jsonl{fields}"
            )
        prepared = self._dataset(dataset)
        return sources.Rows(prepared, split, 0, prepared.sizes[split])

    def _dataset(self, dataset: str) -> sources.PreparedDataset:
        if dataset not in self._open:
            self._open[dataset] = sources.PreparedDataset(self.data_dir, f"{dataset}:{self.version(dataset)}")
        return self._open[dataset]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Whether one benchmark is there.

    Attributes:
      benchmark: what is asked for.
      rows: of the split; 0 where it is not there.
      fix: the command that prepares it.
    """

    benchmark: Benchmark
    rows: int
    fix: str

    @property
    def ready(self) -> bool:
        return self.rows > 0 or self.benchmark.optional


def examine(data_dir: str, suites: Sequence[str]) -> list[Finding]:
    """Looks for what some suites read; `flan2022` stands for all of them.

    Raises:
      FlanError: an unknown suite.
    """
    reader = Reader(data_dir)
    found = []
    for benchmark in of_suites(SUITES if list(suites) == ["flan2022"] else suites):
        there = reader.has(benchmark.dataset, benchmark.split)
        rows = len(reader.rows(benchmark.dataset, benchmark.split)) if there else 0
        fix = f"flan data import RECORDS --data_dir {shlex.quote(data_dir)} --keys {benchmark.dataset}"
        found.append(Finding(benchmark, rows, "" if rows else fix))
    return found


def show(data_dir: str, suites: Sequence[str]) -> int:
    """Prints what is there and what to do about the rest; returns 0 if the suites can run, else 1."""
    found = examine(data_dir, suites)
    for finding in found:
        benchmark = finding.benchmark
        state = f"{finding.rows:,} rows" if finding.rows else "missing" + (" (optional)" if benchmark.optional else "")
        print(f"{benchmark.dataset:48} {benchmark.split:12} {state}")
    for finding in found:
        if finding.fix and not finding.benchmark.optional:
            wanted = f"RECORDS/{finding.benchmark.dataset}/{finding.benchmark.split}.jsonl"
            print(f"\n{wanted}, a record a line with {', '.join(finding.benchmark.fields)}:\n  {finding.fix}")
    return 0 if all(finding.ready for finding in found) else 1


def of_suites(suites: Sequence[str]) -> list[Benchmark]:
    """What some suites read.

    Raises:
      FlanError: an unknown suite.
    """
    for suite in suites:
        if suite not in SUITES:
            raise errors.unknown("suite", suite, SUITES)
    return [benchmark for benchmark in BENCHMARKS if set(benchmark.suites) & set(suites)]
