"""What a checkpoint was trained on, and FLAN 2021's 25 datasets asked with it refused or not."""

import pytest

from flan_jax import errors
from flan_jax import eval as eval_lib
from flan_jax.data import holdout, mixtures
from flan_jax.evaluation import seen
from flan_jax.tasks import catalogue
from flan_jax.training import configs

MODULE = "flan_jax.tasks.catalogue"
RUN = """
MIXTURE_OR_TASK_NAME = '{mixture}'
train_script.train.train_dataset_cfg = @train/utils.DatasetConfig()
train_script.train.checkpoint_cfg = @utils.CheckpointConfig()
train/utils.DatasetConfig.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
utils.DatasetConfig.module = 'flan_jax.tasks.catalogue'
"""
BEGINS = """
utils.CheckpointConfig.restore = @utils.RestoreCheckpointConfig()
utils.RestoreCheckpointConfig.path = '{path}'
"""


def run(folder, mixture, begins_with=None):
    """A run's directory with one checkpoint, as far as its past is concerned; returns the checkpoint."""
    checkpoint = folder / "checkpoint_5"
    checkpoint.mkdir(parents=True)
    text = RUN.format(mixture=mixture) + (BEGINS.format(path=begins_with) if begins_with else "")
    (folder / "config.gin").write_text(text)
    return checkpoint


@pytest.fixture(scope="module")
def datasets():
    return {dataset.name: dataset for dataset in catalogue.SPECS}


def test_the_datasets_of_the_paper_are_25_and_a_mixture_asks_them_all():
    compared = [name for names in holdout.COMPARED.values() for name in names]
    assert len(compared) == len(set(compared)) == 25
    known = mixtures.Catalogue.from_modules(MODULE)
    zero_shot = known.mixture("flan2021_eval_10templates").tasks
    assert zero_shot == tuple(f"{name}_10templates" for name in compared)
    few_shot = known.mixture("flan2021_eval_10templates_five_shot").tasks
    assert set(compared) - {name.removesuffix("_10templates_five_shot") for name in few_shot} == {"wsc273"}
    assert known.mixture("flan2021_eval_coreference_10templates").tasks == (
        "wsc273_10templates",
        "winogrande_10templates",
    )
    # What is asked the other way round is nowhere trained on.
    assert "wmt14_fren_10templates" not in known.mixture("flan2021_10templates").tasks


def test_a_model_is_asked_what_was_held_out_for_it(tmp_path, datasets):
    checkpoint = run(tmp_path / "run", "flan_minus_nli_10templates")
    (training,) = seen.trained_on(checkpoint)
    assert (training.mixture, training.modules) == ("flan_minus_nli_10templates", (MODULE,))
    asked = [datasets[name] for name in ("rte", "cb", "sst2")]
    found = seen.leaks(checkpoint, asked, MODULE)
    assert set(found) == {"sst2"}
    assert any(reason.startswith("sst2_10templates: of the held-out cluster sentiment") for reason in found["sst2"])
    # MRPC is held out together with NLI, so this model may be asked it, though not the other way round for what it trained on.
    assert seen.leaks(checkpoint, [datasets["glue_mrpc"]], MODULE) == {}


def test_what_the_run_began_with_was_seen_too(tmp_path, datasets):
    first = run(tmp_path / "first", "rte_10templates")
    second = run(tmp_path / "second", "sst2_10templates", begins_with=first)
    assert [training.mixture for training in seen.trained_on(second)] == ["sst2_10templates", "rte_10templates"]
    found = seen.leaks(second, [datasets["cb"]], MODULE)
    assert found == {"cb": ["rte_10templates: of the held-out cluster nli (rte_10templates)"]}


def test_a_run_that_began_with_itself_ends(tmp_path):
    checkpoint = run(tmp_path / "run", "rte_10templates", begins_with=tmp_path / "run")
    assert len(seen.trained_on(checkpoint)) == 1


def test_an_evaluation_refuses_or_warns(tmp_path, caplog):
    checkpoint = run(tmp_path / "run", "flan_minus_sentiment_10templates")
    cfg = configs.DatasetConfig(
        "flan2021_eval_nli_10templates", {"inputs": 8, "targets": 8}, "test", 8, module=MODULE, data_dir=str(tmp_path)
    )
    with pytest.raises(errors.FlanError, match=r"anli_r1, anli_r2, anli_r3, cb, rte: .*of the held-out cluster nli"):
        eval_lib._check_seen(checkpoint, cfg, "refuse")
    with caplog.at_level("WARNING", logger="flan_jax"):
        eval_lib._check_seen(checkpoint, cfg, "warn")
    assert "was trained on what it is to be asked" in caplog.text


def test_nothing_is_held_against_a_checkpoint_without_a_past(tmp_path):
    checkpoint = run(tmp_path / "run", "rte_10templates")
    (tmp_path / "run" / "config.gin").unlink()
    assert seen.trained_on(checkpoint) == []
    cfg = configs.DatasetConfig("rte_10templates", {"inputs": 8, "targets": 8}, "test", 8, module=MODULE)
    eval_lib._check_seen(checkpoint, cfg, "refuse")


@pytest.fixture
def several(tmp_path):
    """A directory of runs, as FLAN 2021 trains them, beside what is no run."""
    for mixture in (
        "flan_minus_nli_10templates",
        "flan_minus_paraphrase_10templates",
        "flan_minus_sentiment_10templates",
    ):
        run(tmp_path / "runs" / mixture, mixture)
    (tmp_path / "runs" / "logs").mkdir()
    (tmp_path / "runs" / "notes.txt").touch()
    return tmp_path / "runs"


def test_a_directory_of_runs_is_told_from_a_run(several):
    names = ["flan_minus_nli_10templates", "flan_minus_paraphrase_10templates", "flan_minus_sentiment_10templates"]
    assert seen.runs(several) == [str(several / name) for name in names]
    for path in (several / names[0], several / names[0] / "checkpoint_5", several / "none", several / "notes.txt"):
        assert seen.runs(path) == []


def test_each_dataset_is_asked_of_the_run_that_held_its_cluster_out(several, datasets):
    asked = [datasets[name] for name in ("rte", "sst2", "glue_mrpc", "cb")]
    found = seen.choose(seen.runs(several), asked, MODULE)
    # NLI and paraphrase are held out together: two runs may be asked either, and the name decides.
    assert {name: path.rsplit("/", 1)[1].split("_")[2] for name, path in found.items()} == {
        "rte": "nli",
        "cb": "nli",
        "glue_mrpc": "paraphrase",
        "sst2": "sentiment",
    }
    without = [path for path in seen.runs(several) if "paraphrase" not in path]
    assert seen.choose(without, [datasets["glue_mrpc"]], MODULE) == {
        "glue_mrpc": str(several / "flan_minus_nli_10templates")
    }


def test_what_no_run_or_more_than_one_held_out_is_refused(several, datasets):
    run(several / "again", "flan_minus_sentiment_10templates")
    (several / "unknown" / "checkpoint_5").mkdir(parents=True)
    (several / "unknown" / "config.gin").write_text("")
    asked = [datasets[name] for name in ("rte", "cola", "sst2", "imdb_reviews")]
    with pytest.raises(errors.FlanError) as told:
        seen.choose(seen.runs(several), asked, MODULE)
    message = str(told.value)
    assert (
        "linguistic_acceptability (cola) was held out of none; expected flan_minus_linguistic_acceptability_" in message
    )
    both = f"{several / 'again'}, {several / 'flan_minus_sentiment_10templates'}"
    assert f"sentiment (imdb_reviews, sst2) was held out of {both}; expected one of them" in message.replace(
        "(sst2, imdb_reviews)", "(imdb_reviews, sst2)"
    )
    assert "nli (" not in message
    assert f"{several / 'unknown'} (unknown)" in message


@pytest.mark.parametrize(
    ("mixture", "cluster", "named"),
    [
        ("flan_minus_nli_10templates", "nli", True),
        ("flan_minus_nli_10templates", "paraphrase", False),
        (
            "flan_minus_reading_comprehension_with_commonsense_10templates",
            "reading_comprehension_with_commonsense",
            True,
        ),
        ("flan_minus_reading_comprehension_with_commonsense_10templates", "reading_comprehension", False),
        ("flan_inter_cluster_split_10_10templates", "nli", True),
        ("flan_inter_cluster_split_1_10templates", "nli", False),
        ("flan2022_heldout_sentiment", "sentiment", True),
        ("flan2021_10templates", "nli", False),
    ],
)
def test_what_a_mixture_is_named_after(mixture, cluster, named):
    assert seen._named_after(mixture, cluster) is named
