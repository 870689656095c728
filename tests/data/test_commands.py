"""`flan data import`, from the command line to the exit code."""

import pytest
from data_builders import rows
from importer_records import write

from flan_jax import cli
from flan_jax.data import sources


def test_import(tmp_path, capsys):
    write(tmp_path / "records", "one", train=rows(5), test=rows(2))
    write(tmp_path / "records", "two", train=rows(4))
    target = str(tmp_path / "tfds")
    assert cli.main(["data", "import", str(tmp_path / "records"), "--data_dir", target]) == 0
    assert capsys.readouterr().out == f"2 datasets, 11 rows in {target}\n"
    assert sources.PreparedDataset(target, "one:1.0.0").sizes == {"train": 5, "test": 2}


def test_a_bad_record_fails_its_dataset_alone(tmp_path, capsys, monkeypatch):
    write(tmp_path / "records", "good", train=rows(5))
    write(tmp_path / "records", "bad", train=[*rows(2), {"text": 3, "label": 0}])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert cli.main(["data", "import", str(tmp_path / "records")]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"1 datasets, 5 rows in {tmp_path / 'environment'}; 1 failed\n"
    assert sources.PreparedDataset(str(tmp_path / "environment"), "good:1.0.0").sizes == {"train": 5}


def test_what_a_user_may_want_to_know_is_said(tmp_path, capsys):
    write(tmp_path / "records", "one", train=rows(5))
    assert cli.main(["data", "import", str(tmp_path / "records"), "--data_dir", str(tmp_path / "tfds")]) == 0
    said = capsys.readouterr().err
    assert "one: " in said
    assert "features taken from the records" in said
    assert "TensorInfo.dtype" not in said


def test_keys(tmp_path, capsys):
    for name in ("one", "two"):
        write(tmp_path / "records", name, train=rows(3))
    arguments = ["data", "import", str(tmp_path / "records"), "--data_dir", str(tmp_path / "tfds"), "--keys"]
    assert cli.main([*arguments, "two"]) == 0
    assert capsys.readouterr().out.startswith("1 datasets, 3 rows")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "tow"])
    assert stopped.value.code == 1
    assert "did you mean 'two'" in capsys.readouterr().err
