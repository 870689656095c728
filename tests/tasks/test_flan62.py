"""The registry says what the paper and the public code say (tasks/flan62.csv), but for the differences listed here.

The facts were read off FLAN's public task files and figure 3 of the paper, not off this project.
"""

import collections
import csv
import pathlib
from typing import Any

import pytest
import yaml

from flan_jax.data import mixtures, sources, template_lint, templates

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
with open(ROOT / "tasks" / "flan62.csv", encoding="utf-8", newline="") as file:
    FACTS = {row["task"]: row for row in csv.DictReader(file)}
IN_PAPER = {name: row for name, row in FACTS.items() if row["paper_no"]}
SPECS = {dataset.name: dataset for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs}

# The paper's twelve clusters, the number of datasets it gives each, and the name here.
CLUSTERS = {
    "NLI": (7, "nli"),
    "Commonsense": (4, "commonsense"),
    "Sentiment": (4, "sentiment"),
    "Paraphrase": (4, "paraphrase"),
    "Closed-book QA": (3, "closed_book_qa"),
    "Struct to text": (4, "structure_to_text"),
    "Translation": (8, "translation"),
    "Reading comp.": (5, "reading_comprehension"),
    "Read. comp. w/ commonsense": (2, "reading_comprehension_with_commonsense"),
    "Coreference": (3, "coreference"),
    "Misc.": (7, None),  # a drawer, not a cluster: the public code's own names hold there
    "Summarization": (11, "summarization"),
}
# FLAN's names of what it computes -> ours.
METRICS = {
    "accuracy": ("accuracy",),
    "mean_3class_f1+accuracy": ("mean_3class_f1", "accuracy"),
    "f1+accuracy": ("f1_and_accuracy",),
    "pearson+spearman": ("pearson_spearman",),
    "trivia_qa EM/F1": ("trivia_qa",),
    "squad EM/F1": ("squad",),
    "dedup squad EM/F1": ("record",),
    "f1_over_all_answers+grouped exact_match": ("multirc",),
    "multi-ref max rouge1/2/Lsum": ("multi_reference_rouge",),
    "rouge1/2/Lsum": ("rouge",),
    "bleu(intl)": ("bleu",),
    "edit_distance": ("edit_distance",),
}
MOST_REVERSED = 3  # "up to three", section 2.1 of the paper; three of FLAN's files have four

# What differs on purpose: (task, column) -> (there, here, why).
_ALL_OPTIONS = "every template that asks for a choice shows what there is to choose from"
_ONE_WAY = "FLAN's templates translate both ways; a task here has one direction, and three templates train the way back"
DIFFERENCES = {
    ("winogrande", "n_with_options"): (5, 10, _ALL_OPTIONS),
    ("paws_wiki", "n_with_options"): (9, 10, _ALL_OPTIONS),
    **{
        (name, "n_reversed"): (2, 3, _ONE_WAY)
        for name, row in IN_PAPER.items()
        if row["paper_cluster"] == "Translation"
    },
    ("wsc273", "flan_cluster"): ("", "coreference", "in no cluster of the public code; figure 3 has it in this one"),
}
# Versions that FLAN pins and today's TFDS does not build, or that it leaves open: task -> why the name differs.
OTHER_VERSION = {
    "cnn_dailymail": "TFDS builds 3.4.0 only",
    "multi_news": "TFDS builds 2.1.0 only",
    "winogrande": "TFDS cannot build 1.1.0",
    "xsum": "FLAN reads a copy outside TFDS",
    "cola": "FLAN names no version",
    "paws_wiki": "FLAN names no config and gets this one, the default",
}


def expected(name: str, column: str, there):
    """What the registry should say: the fact, or this project's side of a listed difference."""
    if (name, column) not in DIFFERENCES:
        return there
    recorded, here, _ = DIFFERENCES[name, column]
    assert recorded == there, "the fact that this difference is about has changed"
    return here


def test_the_paper_counts_62_datasets_in_twelve_clusters():
    numbers = collections.defaultdict(list)
    for name, row in IN_PAPER.items():
        numbers[int(row["paper_no"])].append(name)
    assert sorted(numbers) == list(range(1, 63))
    several = {names[0]: len(names) for names in numbers.values() if len(names) > 1}
    assert several == {"anli_r1": 3, "mnli_matched": 2, "squad_v1": 2, "arc_challenge": 2}
    counted = collections.Counter({row["paper_no"]: row["paper_cluster"] for row in IN_PAPER.values()}.values())
    assert counted == {cluster: count for cluster, (count, _) in CLUSTERS.items()}


def test_the_registry_holds_them_all_and_names_what_it_adds():
    assert {name for name, dataset in SPECS.items() if dataset.collection == "flan2021"} == set(IN_PAPER)
    assert set(FACTS) - set(IN_PAPER) == {"true_case", "word_segment", "wsc"}  # in the public code only
    assert all(SPECS[name].collection == "extra" for name in set(FACTS) - set(IN_PAPER))


def test_every_listed_difference_is_one():
    assert {name for name, _ in DIFFERENCES} <= set(FACTS)
    assert all(there != here and why for there, here, why in DIFFERENCES.values())
    assert {name for name, row in FACTS.items() if row["flan_pin"] != row["tfds_name"]} == set(OTHER_VERSION)


@pytest.mark.parametrize("name", FACTS)
def test_names_splits_and_rows(name):
    dataset, row = SPECS[name], FACTS[name]
    assert dataset.tfds_name == row["tfds_name"]
    assert dict(dataset.splits) == {split: row[split] for split in ("train", "validation", "test") if row[split]}
    assert dataset.train_rows == int(row["train_rows"])


def test_what_has_to_be_fetched_by_hand():
    steps = yaml.safe_load((ROOT / "tasks" / "manual_downloads.yaml").read_text(encoding="utf-8"))
    wanted = {SPECS[name].tfds_dataset for name, row in FACTS.items() if row["manual_download"]}
    assert wanted == {SPECS[name].tfds_dataset for name in FACTS} & set(steps)


@pytest.mark.parametrize("name", FACTS)
def test_clusters_and_metrics(name):
    dataset, row = SPECS[name], FACTS[name]
    _, cluster = CLUSTERS.get(row["paper_cluster"], (0, None))
    assert dataset.cluster == (cluster or row["flan_cluster"])
    assert dataset.metrics == METRICS[row["metrics"]]


def test_flans_clusters_are_the_same_sets():
    theirs, ours = collections.defaultdict(set), collections.defaultdict(set)
    for name, row in FACTS.items():
        theirs[expected(name, "flan_cluster", row["flan_cluster"])].add(name)
        ours[SPECS[name].cluster].add(name)
    assert sorted(map(sorted, theirs.values())) == sorted(map(sorted, ours.values()))


@pytest.mark.parametrize("name", FACTS)
def test_ten_templates(name):
    dataset, row = SPECS[name], FACTS[name]
    loaded = templates.load(dataset.templates)
    assert len(loaded) == 10
    assert template_lint.lint(dataset) == []
    there = min(int(row["n_reversed"]), MOST_REVERSED)
    assert sum(template.reversed for template in loaded) == expected(name, "n_reversed", there)
    # A template that is not turned around here, to keep to three, shows its options.
    shown = int(row["n_with_options"])
    shown += int(row["n_reversed"]) - there if row["format"] == "options" else 0
    assert sum(template.shows_options for template in loaded) == expected(name, "n_with_options", shown)


@pytest.mark.parametrize("name", FACTS)
def test_options_and_the_order_of_labels(name, sample_dir):
    """On the rows of the embedded sample, whose features are the builders' own."""
    import tensorflow_datasets as tfds

    dataset, row = SPECS[name], FACTS[name]
    prepared = sources.PreparedDataset(sample_dir, dataset.tfds_name)
    rows = prepared.rows(dataset.splits, "train" if "train" in dataset.splits else "test")
    made = [(raw, example) for raw in rows if (example := dataset.example(raw)) is not None]
    assert made
    if row["format"] == "free text":
        assert all(example.options == () for _, example in made)
        return
    assert all(example.answer in example.options for _, example in made)
    places = {example.options.index(example.answer) for _, example in made}
    if row["options"].startswith("row:"):
        fields = row["options"].removeprefix("row:").split("|")
        if fields != ["entities"]:  # as many as the article names
            assert {len(example.options) for _, example in made} == {len(fields)}
        assert len(places) > 1
        return
    options = tuple(row["options"].split("|"))
    assert {example.options for _, example in made} == {options}
    assert places == set(range(len(options)))
    if row["labels"]:
        field, labels = row["labels"].split(":")
        features: Any = tfds.builder_from_directory(prepared.directory).info.features
        feature = features[field]
        if isinstance(feature, tfds.features.ClassLabel):
            assert feature.names == labels.split("|")
        assert all(example.answer == options[raw[field]] for raw, example in made)
