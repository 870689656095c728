"""The table of mixtures, and the guard that proves a hold-out."""

import dataclasses

import pytest
from data_builders import dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import holdout, mixtures, spec

CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
CLUSTERS = (*holdout.PUBLIC, "misc")

NLI = "anli_r1 anli_r2 anli_r3 cb mnli_matched mnli_mismatched qnli rte snli wnli"
PARAPHRASE = "glue_mrpc glue_qqp paws_wiki stsb"
COMMONSENSE = "copa hellaswag piqa story_cloze"
SENTIMENT = "imdb_reviews sentiment140 sst2 yelp_polarity_reviews"
CLOSED_BOOK = "arc_challenge arc_easy natural_questions trivia_qa"
STRUCTURE = "common_gen dart e2e_nlg web_nlg_en"
READING = "bool_q drop multirc openbookqa squad_v1 squad_v2"
READING_COMMONSENSE = "cosmos_qa record"
COREFERENCE = "definite_pronoun_resolution winogrande"
MISC = "coqa quac wic trec cola math_dataset fix_punct"
TRANSLATION = (
    "para_crawl_enes wmt16_translate_csen wmt16_translate_deen wmt16_translate_fien wmt16_translate_roen "
    "wmt16_translate_ruen wmt16_translate_tren wmt14_enfr"
)
SUMMARIZATION = (
    "aeslc ag_news_subset cnn_dailymail gigaword multi_news newsroom opinion_abstracts_idebate "
    "opinion_abstracts_rotten_tomatoes samsum wiki_lingua_english_en xsum"
)
EVERY = " ".join(
    [
        *(NLI, PARAPHRASE, COMMONSENSE, SENTIMENT, CLOSED_BOOK, STRUCTURE, READING, READING_COMMONSENSE),
        *(COREFERENCE, MISC, TRANSLATION, SUMMARIZATION),
    ]
).split()


def names(mixture: str, style: str = "10templates") -> set[str]:
    tasks = CATALOGUE.mixture(mixture).tasks
    assert len(set(tasks)) == len(tasks)
    assert all(task.endswith(f"_{style}") for task in tasks)
    return {task.removesuffix(f"_{style}") for task in tasks}


def test_the_whole():
    """The paper's 62, five of them in two or three tasks; WSC273 has nothing to train on."""
    assert len(EVERY) == 66
    assert names("flan2021_10templates") == set(EVERY)
    assert names("flan2021_4templates_five_shot", "4templates_five_shot") == set(EVERY)
    for extra in ("wsc", "true_case", "word_segment", "wsc273"):
        assert CATALOGUE.tasks.find(f"{extra}_10templates") is not None
        holding = [m for m in CATALOGUE.mixture_names() if f"{extra}_10templates" in CATALOGUE.mixture(m).tasks]
        # FLAN's public names have the first three, as FLAN has; WSC273 is only evaluated.
        if extra == "wsc273":
            asked = ["coreference_10templates", "flan2021_eval_10templates", "flan2021_eval_coreference_10templates"]
            assert holding == asked
            assert all(CATALOGUE.mixture(name).evaluates for name in holding)
        else:
            assert all(m.startswith("flan_") for m in holding)
        assert not [m for m in holding if m.startswith("flan_minus_")]


@pytest.mark.parametrize(
    ("cluster", "gone"),
    [
        ("nli", (NLI, PARAPHRASE)),
        ("reading_comprehension", (READING, READING_COMMONSENSE)),
        ("commonsense", (COMMONSENSE, READING_COMMONSENSE)),
        ("reading_comprehension_with_commonsense", (READING_COMMONSENSE, READING, COMMONSENSE)),
        ("translation", (TRANSLATION, "fix_punct")),  # the latter is made of ParaCrawl
        ("misc", (MISC, "para_crawl_enes")),
    ],
)
def test_leave_one_out(cluster, gone):
    dropped = {name for group in gone for name in group.split()}
    for style in ("10templates", "1templates", "10templates_multi_shot", "no_template"):
        assert names(f"flan_minus_{cluster}_{style}", style) == set(EVERY) - dropped


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_leave_one_out_never_leaks(cluster):
    held = names(f"{cluster}_10templates")
    rest = CATALOGUE.mixture(f"flan_minus_{cluster}_10templates").tasks
    assert held
    assert holdout.heldout_leaks(CATALOGUE, f"flan_minus_{cluster}_10templates", cluster) == []
    sources = {CATALOGUE.tasks[task].dataset.tfds_dataset for task in rest}
    assert not sources & {CATALOGUE.specs[name].tfds_dataset for name in held}
    assert {leak.dataset for leak in holdout.heldout_leaks(CATALOGUE, "flan2021_10templates", cluster)} == set(
        EVERY
    ) - {CATALOGUE.tasks[task].dataset.name for task in rest}


def test_flans_own_splits():
    """As many datasets left in training as FLAN's code leaves, by the cluster's number there."""
    sizes = (58, 65, 61, 65, 55, 65, 66, 63, 61, 66, 55, 68, 67, 68, 68, 68, 57)
    for number, (cluster, size) in enumerate(zip(holdout.PUBLIC, sizes, strict=True)):
        name = f"flan_inter_cluster_split_{number}_10templates"
        assert len(names(f"{name}_train")) == size
        assert names(name) == names(f"{name}_train")
        assert names(f"{name}_eval") == set(holdout.PUBLIC[cluster])
        assert CATALOGUE.mixture(f"{name}_five_shot_eval").tasks[0].endswith("_10templates_five_shot")
        assert CATALOGUE.mixture(f"{name}_eval").rate_maximum is None


def test_what_the_ablations_evaluate_is_held_out():
    evaluated = {*NLI.split(), *COMMONSENSE.split(), *CLOSED_BOOK.split()}
    assert names("flan_diversity_split3_10templates_eval") == evaluated
    for cluster in holdout.EVALUATED:
        assert holdout.heldout_leaks(CATALOGUE, "flan_diversity_split7_10templates", cluster) == []


def test_the_flan_collection():
    public = {*EVERY, "wsc", "true_case", "word_segment"}
    assert names("flan_zsnoopt", "template_0to10_no_opt_zero_shot") == public
    assert len(CATALOGUE.mixture("flan_fsopt").tasks) == 2 * 69
    assert {CATALOGUE.mixture(f"flan_{m}").rate_maximum for m in ("zsopt", "zsnoopt", "fsopt", "fsnoopt")} == {30_000}


def test_every_mixture_names_tasks_that_exist():
    known = {*CATALOGUE.tasks.names(), *CATALOGUE.tasks.text_names()}
    listed = CATALOGUE.mixture_names()
    assert len(listed) == len(set(listed))
    for name in listed:
        mixture = CATALOGUE.mixture(name)
        assert mixture.name == name
        assert mixture.tasks
        assert set(mixture.tasks) <= known
        if not mixture.evaluates:
            assert all("train" in CATALOGUE.tasks[task].dataset.splits for task in mixture.tasks[:3])


def test_clusters_are_numbered_once_each():
    assert sorted(holdout.PUBLIC) == sorted({d.cluster for d in CATALOGUE.specs if d.collection == "flan2021"})
    assert set(holdout.MISC) | set(holdout.ADDED) | set(holdout.EVALUATED) <= set(holdout.PUBLIC)
    for cluster, others in holdout.EXCLUDED_WITH.items():
        assert all(cluster in holdout.EXCLUDED_WITH[other] for other in others)


# --- The guard ---


@settings(deadline=None)
@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=8, unique=True), st.sampled_from(CLUSTERS))
def test_the_guard_finds_what_is_held_out_in_any_mixture(members, cluster):
    given_mixture = mixtures.MixtureSpec("mine", tuple(f"{name}_type_0_five_shot" for name in members))
    catalogue = mixtures.Catalogue(CATALOGUE.specs, [given_mixture])
    allowed = names(f"flan_minus_{cluster}_10templates")
    leaks = holdout.heldout_leaks(catalogue, "mine", cluster)
    assert [leak.dataset for leak in leaks] == [name for name in members if name not in allowed]


@pytest.mark.parametrize(
    ("tfds_dataset", "same"),
    [
        ("glue/rte", "super_glue/rte"),
        ("para_crawl/enda", "para_crawl/enes"),
        ("squad/v1.1", "squad/v2.0"),
        ("super_glue/wsc.fixed", "super_glue/wsc"),
        ("multi_nli", "glue/mnli"),
        ("snli", "snli"),
    ],
)
def test_the_same_source_under_another_name(tfds_dataset, same):
    assert holdout.source(tfds_dataset) == holdout.source(same)


def test_datasets_of_a_suite_are_apart():
    suites = ("glue/rte", "glue/mnli", "glue/sst2", "super_glue/cb", "super_glue/copa", "gem/dart", "gem/common_gen")
    assert len({holdout.source(name) for name in suites}) == len(suites)


def test_a_users_copy_of_a_held_out_source(tmp_path):
    rte = dataclasses.replace(dataset(tmp_path, "old_rte", cluster="mine"), tfds_name="glue/rte:2.0.0")
    fine = dataset(tmp_path, "fine", cluster="mine")
    mixture = mixtures.MixtureSpec("m", ("fine_4templates", "old_rte_4templates", "sst2_10templates"))
    catalogue = mixtures.Catalogue([*CATALOGUE.specs, rte, fine], [mixture])
    (leak,) = holdout.heldout_leaks(catalogue, "m", "nli")
    assert str(leak) == (
        "old_rte_4templates: it reads glue/rte, the source of rte (super_glue/rte) of the held-out cluster nli"
    )


def test_a_seqio_task_is_judged_by_what_it_reads(monkeypatch):
    class Source:
        def __init__(self, name):
            if name:
                self.tfds_dataset = type("Loader", (), {"name": name})

    class Task:
        def __init__(self, name, tfds_name):
            self.name, self.source = name, Source(tfds_name)

    reads = {"a": "glue/wnli:2.0.0", "b": "glue/sst2:2.0.0", "c": None}
    monkeypatch.setattr(mixtures, "_seqio_object", lambda name: Task(name, reads[name]) if name in reads else None)
    monkeypatch.setattr(mixtures, "_seqio_tasks", lambda found: [found])
    catalogue = mixtures.Catalogue(CATALOGUE.specs, [mixtures.MixtureSpec("m", ("a", "b", "c"))])
    found = {leak.task: leak.reason for leak in holdout.heldout_leaks(catalogue, "m", "nli")}
    assert set(found) == {"a", "c"}
    assert "the source of wnli" in found["a"]
    assert "cannot be shown" in found["c"]


def test_unknown_clusters_and_mixtures():
    with pytest.raises(errors.FlanError, match="unknown cluster 'nl1'; did you mean 'nli'"):
        holdout.heldout_leaks(CATALOGUE, "flan2021_10templates", "nl1")
    with pytest.raises(errors.FlanError, match="did you mean 'flan2021_10templates'"):
        holdout.heldout_leaks(CATALOGUE, "flan2021_10template", "nli")


def test_a_catalogue_of_one_cluster():
    only = mixtures.Catalogue([d for d in CATALOGUE.specs if d.cluster == "sentiment"])
    assert only.mixture("flan2021_10templates").tasks == only.mixture("sentiment_10templates").tasks
    assert "flan_minus_sentiment_10templates" not in only.mixture_names()
    assert not [name for name in only.mixture_names() if name.startswith("misc")]


def test_collections_are_told_apart_dataset_by_dataset(tmp_path):
    """One of another collection that stands first in its cluster does not take the cluster out of FLAN 2021."""
    extra = dataclasses.replace(CATALOGUE.specs["wsc"])
    reordered = mixtures.Catalogue([extra, *(d for d in CATALOGUE.specs if d.name != "wsc")])
    assert set(reordered.mixture("flan2021_10templates").tasks) == {f"{name}_10templates" for name in EVERY}
    assert isinstance(extra, spec.DatasetSpec)
