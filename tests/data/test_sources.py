"""Rows of prepared datasets: what TFDS reads, we read; which rows belong to which split; damage is named."""

import pathlib
import shutil
import struct
from collections.abc import Mapping

import pytest
from data_builders import prepare, rows
from hypothesis import given
from hypothesis import strategies as st
from importer_records import plain

from flan_jax import errors
from flan_jax.data import mixtures, prepared, sources

# --- Rows ---


def same(ours, theirs) -> bool:
    """Equal, types included; NaN equals NaN."""
    if isinstance(ours, Mapping):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and (ours == theirs or (ours != ours and theirs != theirs))


def check_against_tfds(data_dir: str, name: str, directory: pathlib.Path, limit: int) -> None:
    import tensorflow_datasets as tfds

    ours = sources.PreparedDataset(data_dir, name)
    builder = tfds.builder_from_directory(str(directory))
    assert ours.sizes == {split: info.num_examples for split, info in builder.info.splits.items()}
    # Every split has the same features; a split takes TFDS a third of a second to open.
    for split, size in [max(ours.sizes.items(), key=lambda item: item[1])]:
        count = min(size, limit)
        theirs = tfds.as_numpy(builder.as_dataset(split=f"{split}[:{count}]"))  # pyright: ignore[reportCallIssue]
        checked = 0
        for index, row in enumerate(theirs):
            assert same(dict(ours.read(split, index)), plain(row)), f"{name} {split} row {index}"
            checked += 1
        assert checked == count


def test_rows_of_the_sample_equal_tfds(sample_dir):
    found = prepared.prepared_datasets(sample_dir)
    assert len(found) >= 15
    for dataset in found:
        check_against_tfds(sample_dir, dataset.name, dataset.directory, 1000)


RICH = {
    "flag": True,
    "flags": [True, False],
    "score": 0.1,
    "scores": [1.5, -2.25],
    "text": "naïve \u2028 {x}",
    "nested": {"ids": [1, 2, 3], "deeper": {"name": "n"}},
    "turns": [{"who": "a", "said": ["x", "y"]}, {"who": "b", "said": []}, {"who": "c", "said": ["z"]}],
    "matrix": [[1, 2], [], [3]],
    "cube": [[["p"], []], [], [["q", "r"], ["s"]]],
    "none": [],
}


def test_rows_of_every_kind_of_field_equal_tfds(tmp_path):
    empty = {**RICH, "flags": [], "scores": [], "turns": [], "matrix": [], "cube": [], "text": ""}
    data_dir = prepare(tmp_path, "rich", train=[RICH, {**RICH, "none": ["t"], "flag": False}, empty])
    (found,) = prepared.prepared_datasets(data_dir)
    check_against_tfds(data_dir, found.name, found.directory, 10)
    row = sources.PreparedDataset(data_dir, found.name).read("train", 0)
    assert row["cube"] == RICH["cube"]
    assert row["turns"] == {"who": ["a", "b", "c"], "said": [["x", "y"], [], ["z"]]}
    assert row["flags"] == [True, False]
    assert row["nested"]["deeper"]["name"] == "n"


def test_tensors_of_fixed_shape_equal_tfds(tmp_path):
    """TFDS stores them flat, unlike sequences of sequences."""
    import numpy as np
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "grid": tfds.features.Tensor(shape=(2, 3), dtype=np.int64),
            "points": tfds.features.Sequence(tfds.features.Tensor(shape=(2,), dtype=np.float32)),
            "pair": tfds.features.Tensor(shape=(2,), dtype=np.str_),
        }
    )
    directory = tmp_path / "fixed" / "1.0.0"
    directory.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="fixed", version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name="tests"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train"])
    examples = [
        {"grid": np.arange(6).reshape(2, 3) + i, "points": [[i, 0.5]] * i, "pair": ["a", str(i)]} for i in range(5)
    ]
    writer.add_examples({"train": examples})
    writer.close_all()
    assert len(list(directory.glob("*tfrecord*"))) == 3
    check_against_tfds(str(tmp_path), "fixed:1.0.0", directory, 10)


@pytest.mark.slow
def test_rows_of_real_data_equal_tfds(shared_dir, tmp_path):
    from flan_jax.data import importer

    keys = ["ai2_arc_easy", "coqa", "drop", "quac", "trivia_qa_rc", "super_glue_multirc", "cosmos_qa", "tydi_qa"]
    keys = [key for key in keys if (shared_dir / "data" / key).is_dir()]
    assert len(keys) >= 3
    report = importer.import_datasets(shared_dir / "data", tmp_path, keys=keys)
    assert not report.failures
    for dataset in prepared.prepared_datasets(tmp_path):
        check_against_tfds(str(tmp_path), dataset.name, dataset.directory, 200)


def test_rows_is_a_sequence_of_its_slice(tmp_path):
    data_dir = prepare(tmp_path, "mini", train=rows(40))
    found = sources.PreparedDataset(data_dir, "mini:1.0.0").rows(
        {"train": "train", "validation": "train[-10:]"}, "validation"
    )
    assert len(found) == 10
    assert [row["text"] for row in found] == [row["text"] for row in rows(40)[30:]]
    for outside in (-1, 10):
        with pytest.raises(IndexError):
            found[outside]


# --- Splits ---


def _resolve(size, *expressions):
    """Ranges of train, validation and test out of one split of `size` rows."""
    names = ("train", "validation", "test")
    found = sources.resolve_splits(dict(zip(names, expressions, strict=False)), {"train": size})
    return [found[name][1:] for name in names[: len(expressions)]]


def test_worked_examples():
    assert _resolve(2490, "train[:-200]", "train[-200:]") == [(0, 2290), (2290, 2490)]
    assert _resolve(40, "train[:-200]", "train[-200:]") == [(0, 30), (30, 40)]
    assert _resolve(44, "train[:-600]", "train[-600:-500]", "train[-500:]") == [(0, 33), (33, 35), (35, 44)]
    assert _resolve(60, "train[:30000]", "train[30000:30200]", "train[-3000:]") == [(0, 44), (44, 45), (45, 60)]
    assert _resolve(2000, "train[:30000]", "train[-200:]") == [(0, 1800), (1800, 2000)]
    assert _resolve(500_000, "train[:30000]", "train[-200:]") == [(0, 499_800), (499_800, 500_000)]
    # A slice that nothing else cuts is only bounded by what is there.
    own = sources.resolve_splits({"train": "train", "validation": "validation[-200:]"}, {"train": 9, "validation": 70})
    assert own == {"train": ("train", 0, 9), "validation": ("validation", 0, 70)}
    assert sources.slice_rows("train[:30000]") == 30_000
    assert [sources.slice_rows(split) for split in ("train", "train[5:]", "train[:-5]")] == [None, None, None]


def test_windows_of_the_published_size_are_kept():
    fix_punct = ("train[30200:60200]", "train[60200:60400]", "train[-3000:]")
    assert _resolve(2_414_895, *fix_punct) == [(30_200, 60_200), (60_200, 60_400), (2_411_895, 2_414_895)]


def test_rows_held_out_in_front_or_in_the_middle():
    assert _resolve(400, "train", "train[:50]") == [(50, 400), (0, 50)]
    assert _resolve(400, "train[:100]", "train[100:150]", "train[-30:]")[0] == (0, 100)


@pytest.mark.parametrize(
    "bad", ["train[10%:]", "train[-:]", "train[", "", "train+test", "train[1:2:3]", "train[:1]\n", "[:3]"]
)
def test_expressions_that_are_not_understood(bad):
    with pytest.raises(errors.FlanError, match=r"not understood"):
        sources.resolve_splits({"train": bad}, {"train": 10})


def test_unknown_split_names_the_nearest():
    sizes = {"train": 1, "validation_matched": 1}
    found = sources.resolve_splits({"train": "train", "validation": "validation"}, sizes)
    assert found["train"] == ("train", 0, 1)
    assert "unknown split 'validation'; did you mean 'validation_matched'" in str(found["validation"])


# The ways in which the 62 datasets of FLAN 2021 carve one split (facts: -200, -100, -50, -30; heads of 200 and 30,000).
carved = st.one_of(
    st.tuples(st.sampled_from(["train", "train[:30000]"]), st.integers(1, 3000).map(lambda k: f"train[-{k}:]")),
    st.integers(1, 3000).map(lambda k: (f"train[:-{k}]", f"train[-{k}:]")),
    st.integers(1, 3000).map(lambda k: (f"train[{k}:]", f"train[:{k}]")),
    st.tuples(st.just("train"), st.integers(1, 3000).map(lambda k: f"train[:{k}]")),
    st.tuples(
        st.just("train"), st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda ab: f"train[{ab[0]}:{ab[1]}]")
    ),
)


@given(carved, st.integers(0, 70_000))
def test_train_and_validation_never_overlap(splits, size):
    train, validation = splits
    (start, stop), (held_start, held_stop) = _resolve(size, train, validation)
    assert 0 <= start <= stop <= size
    assert 0 <= held_start <= held_stop <= size
    assert not set(range(start, stop)) & set(range(held_start, held_stop))
    if size >= 4 and validation.startswith("train[-"):
        assert start < stop
        assert held_start < held_stop


@given(st.integers(0, 40_000), st.integers(0, 40_000), st.integers(0, 40_000))
def test_no_shipped_dataset_trains_on_what_it_is_tested_on(train, validation, test):
    for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs:
        bases = {expression.split("[")[0] for expression in dataset.splits.values()}
        sizes = {base: {"train": train, "validation": validation}.get(base, test) for base in bases}
        found = sources.resolve_splits(dataset.splits, sizes)
        for one in found:
            for other in found:
                if one < other and found[one][0] == found[other][0]:
                    (_, a, b), (_, c, d) = found[one], found[other]
                    assert max(a, c) >= min(b, d), f"{dataset.name}: {one} {found[one]} and {other} {found[other]}"


# --- What is not there, or not whole ---


@pytest.fixture
def mini(tmp_path):
    data_dir = prepare(tmp_path, "mini", train=rows(20), validation=rows(4))
    (shard,) = pathlib.Path(data_dir).glob("mini/1.0.0/*train*tfrecord*")
    return data_dir, shard


def read_all(data_dir: str) -> list:
    dataset = sources.PreparedDataset(data_dir, "mini:1.0.0")
    return [dict(row) for row in dataset.rows({"train": "train"}, "train")]


def test_whole_shard_reads(mini):
    assert [row["text"] for row in read_all(mini[0])] == [row["text"] for row in rows(20)]


@pytest.mark.parametrize("kept", [0, 5, 11, 12, 30, -1, -4, -30])
def test_truncated_shard(mini, kept):
    data_dir, shard = mini
    content = shard.read_bytes()
    shard.write_bytes(content[:kept])
    with pytest.raises(errors.FlanError, match=shard.name):
        read_all(data_dir)


def test_shard_with_something_after_its_end(mini):
    data_dir, shard = mini
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(errors.FlanError, match=rf"{shard.name}.*20 rows end at byte"):
        read_all(data_dir)


@pytest.mark.parametrize("length", [0, 3, 2**40, 2**63, 2**64 - 1])
def test_shard_with_a_wrong_length(mini, length):
    data_dir, shard = mini
    content = bytearray(shard.read_bytes())
    content[:8] = struct.pack("<Q", length)
    shard.write_bytes(content)
    with pytest.raises(errors.FlanError, match=shard.name):
        read_all(data_dir)


def test_shard_with_a_garbled_row(mini):
    data_dir, shard = mini
    content = bytearray(shard.read_bytes())
    content[12:20] = b"\xff" * 8
    shard.write_bytes(content)
    with pytest.raises(errors.FlanError, match=rf"{shard.name}: damaged: row 0"):
        read_all(data_dir)


def test_missing_shard(mini):
    data_dir, shard = mini
    shard.unlink()
    with pytest.raises(errors.FlanError, match=rf"{shard.name}: cannot be read"):
        read_all(data_dir)


def test_not_prepared_names_the_versions_that_are(mini):
    with pytest.raises(sources.NotPrepared, match=r"'mini:2.0.0' is not prepared in .*version 1.0.0"):
        sources.PreparedDataset(mini[0], "mini:2.0.0")


def test_not_prepared_names_where_it_looked(mini):
    with pytest.raises(sources.NotPrepared, match=rf"'mimi:1.0.0' is not prepared in {mini[0]}$"):
        sources.PreparedDataset(mini[0], "mimi:1.0.0")


def test_split_that_is_not_there(mini):
    with pytest.raises(sources.NotPrepared, match=r"'mini:1.0.0'.*unknown split 'test'"):
        sources.PreparedDataset(mini[0], "mini:1.0.0").rows({"test": "test"}, "test")


def test_half_a_dataset_is_not_prepared(mini):
    data_dir, _ = mini
    (pathlib.Path(data_dir) / "mini/1.0.0/dataset_info.json").unlink()
    with pytest.raises(sources.NotPrepared, match=r"is not prepared"):
        sources.PreparedDataset(data_dir, "mini:1.0.0")


def test_other_file_formats_are_refused(mini):
    data_dir, _ = mini
    info = pathlib.Path(data_dir) / "mini/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    with pytest.raises(errors.FlanError, match=r"stored as array_record; expected tfrecord"):
        sources.PreparedDataset(data_dir, "mini:1.0.0")


# --- The data directory ---


def test_data_dir_is_the_given_one_then_the_environment_then_home(tmp_path, monkeypatch):
    given_dir, environment, home = tmp_path / "given", tmp_path / "environment", tmp_path / "home"
    for folder in (given_dir, environment, home / "tensorflow_datasets"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TFDS_DATA_DIR", str(environment))
    assert sources.resolve_data_dir(str(given_dir)) == str(given_dir)
    assert sources.resolve_data_dir(None) == str(environment)
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.resolve_data_dir(None) == str(home / "tensorflow_datasets")
    shutil.rmtree(home / "tensorflow_datasets")
    with pytest.raises(errors.FlanError, match=r"no data directory.*--tfds_data_dir=sample"):
        sources.resolve_data_dir(None)


def test_data_dir_that_does_not_exist(tmp_path):
    with pytest.raises(errors.FlanError, match=r"does not exist"):
        sources.resolve_data_dir(str(tmp_path / "nothing"))
    assert sources.resolve_data_dir("gs://bucket/data") == "gs://bucket/data"
