"""Natural Instructions v2 as the Flan Collection uses it: every task but those made of MMLU (FLAN 2022, section 2.1).

`niv2.csv` lists the 1,613 tasks of TFDS's `natural_instructions` 1.0.1, those made of MMLU (57), and those of the default
test split of Natural Instructions itself (119). The rows come from a checkout of the repository
(`flan_jax.data.natural_instructions`). Flan 2022 leaves out MMLU's alone; its paper counts 1,554 tasks left of "44 removed",
its code and TFDS's list 1,556 of 57.
"""

import csv
import functools
import pathlib

from flan_jax.data import spec

PREFIX = "niv2_"
STORE = "natural_instructions"
# "We train on 1,554 NIV2 tasks" (FLAN 2022, appendix); the names that its public code leaves leave are these many.
PUBLISHED = 1_554
MAXIMUM = 5_000  # FLAN 2022, table 23; also how many rows of a task are used
STYLES = {
    spec.ZSOPT: ("template_0to10_zero_shot",),
    spec.ZSNOOPT: ("template_0to10_no_opt_zero_shot",),
    # One example written for the task, and one or two of its own rows.
    spec.FSOPT: ("template_0to10_positive_shot", "template_0to10_x_shot"),
    spec.FSNOOPT: ("template_0to10_no_opt_positive_shot", "template_0to10_no_opt_x_shot"),
}


def example(row: spec.Row) -> spec.Example | None:
    """An instance: its task's definition, its input, and every output that is accepted; the first is the target.

    Options are the task's outputs, where these are a few short ones.
    """
    outputs = tuple(text.strip() for text in row["output"] if text.strip())
    if not outputs or not row["input"].strip():
        return None
    options = tuple(row["options"])
    return spec.Example(
        fields={"definition": row["definition"].strip(), "input": row["input"].strip()},
        answer=outputs[0],
        options=options if outputs[0] in options else (),
        answers=outputs,
    )


def dataset(task: str, *, tested: bool = False) -> spec.DatasetSpec:
    """The dataset of one task of a checkout.

    Args:
      task: its file, without `.json`.
      tested: whether its first 100 instances are for tests, and not for training.
    """
    return spec.DatasetSpec(
        name=PREFIX + task,
        cluster="niv2",
        tfds_name=f"natural_instructions/{task}:2.8.0",
        splits={"train": "train", "test": "train[:100]"} if tested else {"train": "train"},
        example=example,
        metrics=("multi_reference_rouge",),
        train_rows=0,  # not published by task
        templates="niv2",
        collection="niv2",
        store=STORE,
        sources=tuple(task.split("_")[1:]),
    )


@functools.cache
def datasets() -> tuple[spec.DatasetSpec, ...]:
    """Every task but MMLU's, in the order of their names."""
    listed = ((row["task"], row["kept_apart"]) for row in _listed())
    return tuple(dataset(task, tested=apart == "test") for task, apart in listed if apart != "mmlu")


def of_test_split() -> tuple[str, ...]:
    """The datasets of Natural Instructions' own test split: 119."""
    return tuple(PREFIX + row["task"] for row in _listed() if row["kept_apart"] == "test")


def train_split() -> tuple[str, ...]:
    """The datasets that are neither MMLU's nor in that test split."""
    return tuple(PREFIX + row["task"] for row in _listed() if not row["kept_apart"])


@functools.cache
def _listed() -> tuple[dict[str, str], ...]:
    path = pathlib.Path(__file__).with_name("niv2.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


COLLECTION = spec.Collection(
    name="niv2",
    styles=STYLES,
    datasets=datasets,
    published=PUBLISHED,
    maximum=MAXIMUM,
    about="Natural Instructions v2: a checkout of github.com/allenai/natural-instructions in the data directory (Apache-2.0; "
    "each file states the terms of its texts)",
)
# The same without the tasks that Natural Instructions tests on.
TRAIN_SPLIT = spec.Collection(name="niv2_train", styles=STYLES, members=train_split, published=1_437, maximum=MAXIMUM)

COLLECTIONS = (COLLECTION, TRAIN_SPLIT)
