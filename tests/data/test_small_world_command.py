"""`flan data small-world`: from the command to batches of its mixtures."""

import pytest

from flan_jax import cli
from flan_jax.data import loader, mixtures, sources, vocabulary
from flan_jax.data.small_world import make, pieces
from flan_jax.data.small_world import world as world_lib

LENGTHS = {"inputs": 128, "targets": 48}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of a few rows, made by the command."""
    out = tmp_path_factory.mktemp("world") / "data"
    assert cli.main(["data", "small-world", "--out", str(out), "--seed", "5", "--rows", "8"]) == 0
    return out


def tokenizer(world):
    return vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(str(world / "vocabulary.model")))


def test_everything_that_the_module_names_is_prepared(world):
    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.small_world")
    for dataset in catalogue.specs:
        assert sources.PreparedDataset(str(world), dataset.tfds_name).sizes == {"train": 8, "validation": 8, "test": 8}
    for text in ("small_world_text:1.0.0", "small_world_cut:1.0.0"):
        assert sources.PreparedDataset(str(world), text).sizes == {"train": 240, "validation": 8}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    def digests(seed: int, name: str):
        of, folder = world_lib.make(seed), tmp_path / name
        folder.mkdir()
        make.write_records(of, folder, {"train": 8, "validation": 4, "test": 4})
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")}
        return found | {"vocabulary": pieces.make(make.vocabulary_texts(of))}

    first, again, other = digests(5, "first"), digests(5, "again"), digests(6, "other")
    assert first == again
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first)


@pytest.mark.parametrize(
    "name",
    [
        "flan_minus_facts_10templates",
        "flan_minus_facts_dataset_name",
        "flan2021_10templates_multi_shot",
        "first_4_clusters_10templates",
        "answers_and_reasons_heldout_two_step_total",
        "small_world_text_span_corruption",
        "small_world_text_prefix_lm",
        "small_world_text_lm",
        "small_world_cut_1templates",
    ],
)
def test_mixtures_give_batches(world, name):
    catalogue, tok = mixtures.Catalogue.from_modules("flan_jax.tasks.small_world"), tokenizer(world)
    opened = catalogue.open(name, data_dir=str(world), split="train", tokenizer=tok, lengths=LENGTHS, seed=0)
    batch = next(iter(loader.TrainLoader(opened, batch_size=8, lengths=LENGTHS, seed=0, pack=True)))
    assert {name: values.shape for name, values in batch.features.items()} == {
        name: (8, length) for name, length in loader.feature_lengths(LENGTHS, True).items()
    }
    assert all(tok.vocabulary.unk_id not in values for name, values in batch.features.items() if "tokens" in name)
    assert batch.examples.sum() > 8


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rows", "0"], "--rows 0: expected"),
        (["--seed", "-1"], "--seed -1: expected"),
        (["--rows", "x"], "invalid int"),
    ],
)
def test_mistakes_are_named(flags, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", "small-world", "--out", str(tmp_path / "out"), *flags])
    assert stopped.value.code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
