"""The embedded sample: made once, whole or not at all, whoever asks."""

import concurrent.futures
import json
import pathlib
import shutil

import pytest
from data_builders import rows
from importer_records import write

from flan_jax import errors
from flan_jax.data import importer, mixtures, prepared, sample, sources


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A sample of two small datasets, and how often it was imported."""
    records = tmp_path / "records"
    for name in ("one", "two"):
        folder = write(records, name, train=rows(6)) / name
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(6)))
        (folder / "train.jsonl.gz").unlink()
    monkeypatch.setattr(sample, "source", lambda: records)
    imports = []
    real = importer.import_datasets
    monkeypatch.setattr(importer, "import_datasets", lambda *args, **kw: imports.append(1) or real(*args, **kw))
    return records, imports


def names(data_dir: str) -> list[str]:
    return [dataset.name for dataset in prepared.prepared_datasets(data_dir)]


def test_prepared_once(small, tmp_path):
    data_dir = sample.prepare(str(tmp_path / "cache"))
    assert names(data_dir) == ["one:1.0.0", "two:1.0.0"]
    assert sample.prepare(str(tmp_path / "cache")) == data_dir
    assert len(small[1]) == 1


def test_other_content_goes_elsewhere(small, tmp_path):
    before = sample.prepare(str(tmp_path / "cache"))
    with open(small[0] / "one" / "train.jsonl", "a") as file:
        file.write(json.dumps(rows(7)[6]) + "\n")
    after = sample.prepare(str(tmp_path / "cache"))
    assert after != before
    assert sources.PreparedDataset(after, "one:1.0.0").sizes == {"train": 7}
    assert sources.PreparedDataset(before, "one:1.0.0").sizes == {"train": 6}


def test_several_at_once(small, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(sample.prepare, [str(tmp_path / "cache")] * 4))
    assert len(set(found)) == 1
    assert names(found[0]) == ["one:1.0.0", "two:1.0.0"]


def test_a_killed_import_is_finished_by_the_next(small, tmp_path):
    """Killed between two datasets, with a half-written one left in the importer's hidden folder."""
    data_dir = pathlib.Path(sample.prepare(str(tmp_path / "cache")))
    (data_dir / sample._DONE).unlink()
    shutil.rmtree(data_dir / "two")
    half = data_dir / importer.STAGE / "new" / "two" / "1.0.0"
    half.mkdir(parents=True)
    (half / "two-train.tfrecord-00000").write_bytes(b"half")
    assert sample.prepare(str(tmp_path / "cache")) == str(data_dir)
    assert names(str(data_dir)) == ["one:1.0.0", "two:1.0.0"]
    assert not (data_dir / importer.STAGE).exists()


def test_a_damaged_sample_is_reported_and_not_called_complete(small, tmp_path):
    (small[0] / "two" / "train.jsonl").write_text("{")
    for _ in range(2):
        with pytest.raises(errors.FlanError, match=r"the embedded sample does not import: .*two/train.jsonl"):
            sample.prepare(str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_named(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FlanError, match=r"file.*cannot write there"):
        sample.prepare(str(tmp_path / "file"))


def test_where_the_cache_is(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("FLAN_JAX_CACHE", raising=False)
    assert sample.prepare().startswith(str(tmp_path / "home" / ".cache" / "flan_jax" / "sample-"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert sample.prepare().startswith(str(tmp_path / "xdg" / "flan_jax"))
    monkeypatch.setenv("FLAN_JAX_CACHE", str(tmp_path / "own"))
    assert sources.resolve_data_dir("sample").startswith(str(tmp_path / "own"))


def test_the_sample_holds_every_dataset_of_the_catalogue(sample_dir):
    """Each has rows in every split that pass its filter, and every template of it renders."""
    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
    for dataset in catalogue.specs:
        task = catalogue.tasks[f"{dataset.name}_10templates"]
        for split in dataset.splits:
            opened = task.open(sample_dir, split)
            found = list(opened.in_order())
            assert found, f"{dataset.name} {split}"
            for f in found[:3]:
                for number in range(10):
                    rendered = task.format(f.example, f.row, number)
                    assert rendered.inputs
                    assert rendered.targets
