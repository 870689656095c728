"""Nothing held out comes back under another name of a collection, and levels of supervision say how far a dataset is."""

import json
import pathlib

import niv2_files
import pytest
import yaml
from data_builders import LENGTHS, tokenizer

from flan_jax import cli, errors
from flan_jax.data import holdout, mixtures, natural_instructions, provenance
from flan_jax.tasks import niv2

CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
OWN = CATALOGUE.blends.own


@pytest.mark.parametrize(
    ("task", "dataset"),
    [
        ("niv2_task190_snli_classification", "snli"),
        ("niv2_task1344_glue_entailment_classification", "rte"),
        ("niv2_task349_squad2.0_answerable_unanswerable_question_classification", "squad_v2"),
        ("niv2_task022_cosmosqa_passage_inappropriate_binary", "cosmos_qa"),
        ("niv2_task1390_wscfixed_coreference", "wsc"),
        ("niv2_task640_esnli_classification", "snli"),
        ("niv2_task284_imdb_classification", "imdb_reviews"),
        ("niv2_task102_commongen_sentence_generation", "common_gen"),
        ("niv2_task213_rocstories_correct_ending_classification", "story_cloze"),
    ],
)
def test_datasets_under_other_names(task, dataset):
    assert provenance.texts(OWN[task]) & provenance.texts(CATALOGUE.specs[dataset])


@pytest.mark.parametrize("task", ["niv2_task738_perspectrum_classification", "niv2_task1356_xlsum_title_generation"])
def test_and_no_others(task):
    assert not [d.name for d in CATALOGUE.specs if provenance.texts(OWN[task]) & provenance.texts(d)]


@pytest.mark.parametrize("cluster", ["nli", "sentiment", "reading_comprehension", "misc"])
@pytest.mark.parametrize("blend", ["flan2022", "opt_iml_base"])
def test_nothing_held_out_is_left(blend, cluster):
    held = f"{blend}_heldout_{cluster}"
    assert holdout.heldout_leaks(CATALOGUE, held, cluster) == []
    whole, kept = CATALOGUE.mixture(blend), CATALOGUE.mixture(held)
    assert set(kept.tasks) < set(whole.tasks)
    leaks = {leak.task for leak in holdout.heldout_leaks(CATALOGUE, blend, cluster)}
    assert set(whole.tasks) - set(kept.tasks) == leaks
    assert [share for _, share in kept.parts] == [share for _, share in whole.parts]


@pytest.mark.parametrize(
    ("mixture", "cluster", "shares"),
    [
        ("flan_minus_coreference_10templates", "coreference", {"wnli": "wsc273, wsc (Winograd schemas"}),
        (
            "flan_minus_reading_comprehension_10templates",
            "reading_comprehension",
            {"qnli": "squad_v1, squad_v2 (SQuAD"},
        ),
        ("flan_minus_sentiment_10templates", "sentiment", {}),
        ("squad_v1_10templates", "nli", {"squad_v1": "qnli (SQuAD"}),
        # Reported as a leak, and so not a second time.
        ("wsc_10templates", "coreference", {}),
        ("wnli_10templates", "nli", {}),
    ],
)
def test_texts_that_clusters_share(mixture, cluster, shares):
    found = provenance.shared(CATALOGUE, mixture, cluster)
    assert len(found) == len(shares)
    for sentence, (name, what) in zip(found, shares.items(), strict=True):
        assert sentence.startswith(f"{name} shares texts with {what}: "), sentence


def test_texts_that_collections_share_under_other_names():
    found = [line.split()[0] for line in provenance.shared(CATALOGUE, "flan2022_heldout_nli", "nli")]
    assert {"squad_v1", "niv2_task074_squad1.1_question_generation", "niv2_task1390_wscfixed_coreference"} <= set(found)
    assert "niv2_task738_perspectrum_classification" not in found
    assert not any(CATALOGUE.specs[name].cluster == "nli" for name in found if name in CATALOGUE.specs)


def test_the_table_of_corpora():
    """Its datasets exist and are of several clusters, and docs/DATASETS.md tells of it."""
    path = pathlib.Path(__file__).resolve().parent.parent.parent
    _, _, told = (
        (path / "docs" / "DATASETS.md").read_text(encoding="utf-8").partition("### Sentences that clusters share")
    )
    for name, corpus in yaml.safe_load((path / "tasks" / "corpora.yaml").read_text(encoding="utf-8")).items():
        assert set(corpus) == {"datasets", "why"}
        assert len({CATALOGUE.specs[dataset].cluster for dataset in corpus["datasets"]}) > 1, name
        (row,) = (line for line in told.splitlines() if line.startswith(f"| {name} |"))
        assert all(f"`{dataset}`" in row for dataset in corpus["datasets"]), row


def test_a_warning_changes_no_exit_code(capsys):
    arguments = ["mixture", "flan_minus_coreference_10templates", "--check-heldout"]
    assert cli.main([*arguments, "coreference"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "flan_minus_coreference_10templates holds nothing of coreference"
    assert printed[1].startswith("warning: wnli shares texts with wsc273, wsc (Winograd schemas: ")
    assert cli.main([*arguments, "nli"]) == 1
    assert "wnli_10templates: of the held-out cluster nli" in capsys.readouterr().out


def test_levels():
    """Of OPT-IML: without NLI, and without sentiment but for another dataset of it."""
    found = provenance.levels(CATALOGUE, "flan2022_heldout_nli")
    assert set(found["nli"].values()) == {provenance.FULLY_HELD_OUT}
    assert set(found["sentiment"].values()) == {provenance.FULLY_SUPERVISED}
    only = provenance.levels(CATALOGUE, "t0_zsopt")
    # P3 has polarity of products, none of the four; and no translation at all.
    assert set(only["sentiment"].values()) == {provenance.PARTIALLY_SUPERVISED}
    assert set(only["translation"].values()) == {provenance.FULLY_HELD_OUT}


def test_a_file_says_what_its_name_does_not(tmp_path, monkeypatch):
    """Source and categories are in the files; without a checkout a name has to do."""
    monkeypatch.setenv("FLAN_JAX_CACHE", str(tmp_path / "cache"))
    natural_instructions.checkout.cache_clear()
    content = niv2_files.content(Source=["made up; rte,"], Categories=["Textual Entailment -> Analogical"])
    data_dir = niv2_files.checkout(tmp_path, task77_judge=content)
    dataset = niv2.dataset("task77_judge")
    held = provenance.held_out([CATALOGUE.specs["rte"]])
    assert provenance.reason(dataset, held, "nli") is None
    assert provenance.reason(dataset, held, "nli", data_dir) == "of the held-out cluster nli"
    assert provenance.clusters(dataset, data_dir) == {"niv2", "nli"}
    assert (
        provenance.reason(dataset, held, "closed_book_qa", data_dir) == "its texts are of rte, the source of rte of nli"
    )


# What files of Natural Instructions say of tasks whose names tell nothing: FLAN 2021 has none of these datasets.
CATEGORIES = {
    "task1529_scitail1.1_classification": "Textual Entailment",
    "task1612_sick_label_classification": "Textual Entailment -> Deductive Reasoning",
    "task1516_imppres_naturallanguageinference": "Textual Entailment",
    "task400_paws_paraphrase_classification": "Paraphrasing",
    "task738_perspectrum_classification": "Text Matching",
    "task1147_country_currency": "Information Extraction",
}


@pytest.fixture
def entailment(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("FLAN_JAX_CACHE", str(tmp_path / "cache"))
    natural_instructions.checkout.cache_clear()
    contents = {task: niv2_files.content(Categories=[category]) for task, category in CATEGORIES.items()}
    return niv2_files.checkout(tmp_path, **contents)


def said_to_be(data_dir: str, task: str) -> set[str]:
    """The categories in the file of a task, read with nothing of flan_jax's."""
    (stem,) = (name for name in CATEGORIES if task.startswith(f"niv2_{name}_"))
    content = json.loads((pathlib.Path(data_dir) / "natural-instructions" / "tasks" / f"{stem}.json").read_text())
    return {category.split(" ->")[0] for category in content["Categories"]}


@pytest.mark.parametrize(
    "name",
    [
        "niv2_heldout_nli",
        "flan2022_heldout_nli",
        "flan2022_heldout_nli_maximum_7",
        "niv2_heldout_nli_with_5_lambada_type_0",
    ],
)
def test_nothing_that_a_file_says_is_held_out_is_opened(entailment, name):
    options = {"data_dir": entailment, "split": "train", "tokenizer": tokenizer(), "lengths": LENGTHS, "seed": 0}
    whole = CATALOGUE.open("niv2", missing="skip", **options)
    assert {"Textual Entailment", "Paraphrasing", "Text Matching"} <= set().union(
        *(said_to_be(entailment, member.name) for member in whole.members)
    )
    kept = CATALOGUE.open(name, missing="skip", **options)
    said = set().union(*(said_to_be(entailment, member.name) for member in kept.members))
    assert said == {"Text Matching", "Information Extraction"}
    assert holdout.heldout_leaks(CATALOGUE, name, "nli", entailment) == []


def test_the_guard_says_what_it_could_not_ask(entailment, capsys, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", entailment)
    command = ["mixture", "niv2", "--check-heldout", "nli", "--tfds_data_dir", entailment]
    assert cli.main(command) == 1
    found = capsys.readouterr().out
    for task, category in CATEGORIES.items():
        leaks = category.startswith(("Textual Entailment", "Paraphrasing"))
        assert (f"niv2_{task}_template" in found) == leaks, task
    assert "1,550 tasks of Natural Instructions were judged by their names alone" in found
    assert cli.main(["mixture", "niv2_heldout_nli", "--check-heldout", "nli"]) == 0
    found = capsys.readouterr().out
    assert "niv2_heldout_nli holds nothing of nli\n" in found
    assert "judged by their names alone: their files, which say what their texts are of, are not in a data dir" in found
    assert cli.main(["mixture", "flan_minus_nli_10templates", "--check-heldout", "nli"]) == 0
    assert "names alone" not in capsys.readouterr().out


def test_an_unknown_cluster_is_named():
    with pytest.raises(errors.FlanError, match="unknown cluster 'nly'; did you mean 'nli'"):
        CATALOGUE.mixture("flan2022_heldout_nly")
