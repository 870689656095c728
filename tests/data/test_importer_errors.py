"""`flan data import`: what is refused, and the words it is refused with."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importer_records import ARC, RTE, manifest, problem_of, read, write

from flan_jax import errors
from flan_jax.data import import_plan, importer, prepared


@pytest.mark.parametrize(
    ("records", "where", "words"),
    [
        (
            [{"x": 1}, {"x": "1"}],
            "line 2",
            "field 'x': given the string '1'; expected an integer (int64), as in earlier records",
        ),
        ([{"x": 1}, {"x": True}], "line 2", "field 'x': given the bool True"),
        ([{"x": None}], "line 1", "field 'x': given null; expected a value"),
        ([{"x": 1, "y": 2}, {"x": 1}], "line 2", "field 'y': given nothing (the field is missing)"),
        (
            [{"label": 1}, {"label": 1, "lable": 2}],
            "line 2",
            "field 'lable': given the integer 2; expected no such field; did you mean",
        ),
        ([{"x": [{"y": 1}, {"y": "z"}]}], "line 1", "field 'x[1].y': given the string 'z'"),
        ([{"x": {}}], "line 1", "field 'x': given an object without fields"),
        ([{"x": 2**63}], "line 1", "field 'x': given the integer 9223372036854775808; expected an integer (int64)"),
        ([{"x": 1e300}], "line 1", "field 'x': given the float 1e+300; expected a number (float32)"),
        ([{"x": "\ud800"}], "line 1", "unpaired surrogates"),
        ([{"a/b": 1}], "line 1", "without '/'"),
    ],
)
def test_records_that_contradict_each_other_are_refused(tmp_path, records, where, words):
    source = write(tmp_path / "in", "my_set", train=records)
    problem = problem_of(importer.import_datasets(source, tmp_path / "out"))
    assert f"train.jsonl.gz, {where}: " in problem
    assert words in problem
    assert prepared.prepared_datasets(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"x": "strin"}, "did you mean 'string'"),
        ({"x": ["int", "int"]}, "fields.x: given the list"),
        ("string", "an object of named types"),
    ],
)
def test_bad_manifest_fields(tmp_path, fields, words):
    source = manifest(write(tmp_path / "in", "a", train=[{"x": 1}]), {"key": "a", "fields": fields})
    assert words in problem_of(importer.import_datasets(source, tmp_path / "out"))


# Bad records.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"label": 7},
            "field 'label': given the integer 7; expected a class label, an integer 0 to 1 (0 entailment, 1 not",
        ),
        ({"label": "entailment"}, "field 'label': given the string 'entailment'; expected a class label"),
        ({"label": True}, "field 'label': given the bool True"),
        ({"idx": "3"}, "field 'idx': given the string '3'; expected an integer (int32)"),
        ({"idx": 2**31}, "field 'idx': given the integer 2147483648; expected an integer (int32)"),
        ({"premise": 3}, "field 'premise': given the integer 3; expected a string"),
        ({"premise": None}, "field 'premise': given null; expected a string"),
        ({"premis": "x"}, "field 'premis': given the string 'x'; expected no such field; did you mean 'premise'"),
        ({"premise": ...}, "field 'premise': given nothing (the field is missing); expected a string"),
    ],
)
def test_a_bad_record_stops_its_dataset_only(tmp_path, change, words):
    bad = {name: value for name, value in {**RTE[2], **change}.items() if value is not ...}
    source = write(tmp_path / "in", "super_glue/rte", train=[*RTE[:2], bad, *RTE[3:]])
    write(source, "glue/wnli", train=[{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}])
    report = importer.import_datasets(source, tmp_path / "out")
    problem = problem_of(report)
    assert f"{source}/super_glue/rte/train.jsonl.gz, line 3: {words}" in problem
    assert [dataset.name for dataset in prepared.prepared_datasets(tmp_path / "out")] == ["glue/wnli:2.0.0"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"label": [0, 9], "text": ["a", "b"]}, "field 'choices[1].label': given the integer 9"),
        (
            {"label": [0], "text": ["a", "b"]},
            "field 'choices': given 1 values of label, 2 values of text; expected lists of equal length",
        ),
        ({"label": [0]}, "field 'choices.text': given nothing (the field is missing)"),
        ({"label": 0, "text": "a"}, "field 'choices.label': given the integer 0; expected a list"),
        (
            {"label": [0], "text": ["a"], "txt": ["b"]},
            "field 'choices[0].txt': given the string 'b'; expected no such field",
        ),
        ("a", "field 'choices': given the string 'a'; expected a list of objects"),
    ],
)
def test_bad_nested_values_are_named_by_their_path(tmp_path, choices, words):
    source = write(tmp_path / "in", "ai2_arc/ARC-Easy", test=[{**ARC, "choices": choices}])
    assert words in problem_of(importer.import_datasets(source, tmp_path / "out"))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"x": 1}\n{"x": \n', "line 2: not JSON"),
        (b'{"x": 1}\n\n', "line 2: not JSON"),
        (b"[1]\n", "line 1: given the list [1]; expected a JSON object"),
        (b'"x"\n', "line 1: given the string 'x'; expected a JSON object"),
        (b'{"x": NaN}\n', "line 1: not JSON (NaN is no JSON number)"),
        (b'{"x": "\xff"}\n', "line 1: not UTF-8 at byte 7"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
        (b"", "no records; expected one JSON object a line"),
    ],
)
def test_bad_lines(tmp_path, raw, words):
    source = write(tmp_path / "in", "my_set", train=raw)
    problem = problem_of(importer.import_datasets(source, tmp_path / "out"))
    assert f"{source}/my_set/train.jsonl.gz" in problem
    assert words in problem


def test_unreadable_gzip_files(tmp_path):
    source = write(tmp_path / "in", "my_set", train=RTE * 500)
    path = source / "my_set/train.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    cut = problem_of(importer.import_datasets(source, tmp_path / "out"))
    assert "cannot be read after line" in cut
    assert "expected gzip-compressed JSON lines" in cut
    path.write_bytes(b'{"x": 1}\n')
    assert "cannot be read (Not a gzipped file" in problem_of(importer.import_datasets(source, tmp_path / "out"))


def test_plain_files_and_both_kinds_at_once(tmp_path):
    folder = tmp_path / "in/my_set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"x": 1}\n{"x": 2}')
    importer.import_datasets(tmp_path / "in", tmp_path / "out")
    assert read(tmp_path / "out/my_set/1.0.0") == [{"x": 1}, {"x": 2}]
    write(tmp_path / "in", "my_set", train=[{"x": 3}])
    assert "the split 'train' is there twice" in problem_of(importer.import_datasets(tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize("split", ["all", "1st", "train-extra"])
def test_names_that_no_split_can_have(tmp_path, split):
    source = write(tmp_path / "in", "my_set", **{split: [{"x": 1}]})
    assert f"{split!r} cannot name a split" in problem_of(importer.import_datasets(source, tmp_path / "out"))


# Names, keys, and paths.


@pytest.mark.parametrize(
    ("tfds_name", "words"),
    [
        ("super_glue/rtee", "TFDS dataset 'super_glue' has no config 'rtee'; did you mean 'rte'"),
        ("super_gleu/rte", "TFDS has no dataset 'super_gleu'; did you mean 'super_glue'"),
        ("super_glue/rte:9.9.9", "has no version '9.9.9'; known: 1.0.2"),
    ],
)
def test_unknown_tfds_names(tmp_path, tfds_name, words):
    source = manifest(write(tmp_path / "in", "rte", train=RTE), {"key": "rte", "tfds_name": tfds_name})
    assert words in problem_of(importer.import_datasets(source, tmp_path / "out"))


@pytest.mark.parametrize("key", ["../escape", "/etc", "a/../../b", "a//b", "a\\b", "", "./a"])
def test_keys_that_leave_the_folder_are_refused(tmp_path, key):
    source = manifest(write(tmp_path / "in", "rte", train=RTE), {"key": key, "tfds_name": None})
    with pytest.raises(errors.FlanError, match=r"key .* is refused"):
        importer.import_datasets(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["../x", "a/..", "a/../b", "/a", "a/b/c", "huggingface:x", "a b", 3])
def test_tfds_names_that_leave_the_data_directory_are_refused(tmp_path, name):
    source = manifest(write(tmp_path / "in", "rte", train=RTE), {"key": "rte", "tfds_name": name})
    with pytest.raises(errors.FlanError, match="expected NAME"):
        importer.import_datasets(source, tmp_path / "out")


@given(st.text(min_size=1, max_size=20).filter(lambda key: key.strip("/") and "\0" not in key))
def test_every_key_gets_a_name_that_tfds_can_read_and_that_stays_inside(key):
    name = import_plan.legal_name(key.strip("/"))
    parts = Path(name).parts
    assert 1 <= len(parts) <= 2
    assert ".." not in parts
    assert re.fullmatch("[a-z][a-z0-9_]*", parts[0])


def test_two_folders_that_would_become_one_dataset(tmp_path):
    source = write(write(tmp_path / "in", "my-set", train=[{"x": 1}]), "my_set", train=[{"x": 1}])
    assert "would both become the dataset 'my_set'" in problem_of(importer.import_datasets(source, tmp_path / "out"))


def test_mistakes_that_concern_no_single_dataset(tmp_path):
    source = write(tmp_path / "in", "super_glue/rte", train=RTE)
    with pytest.raises(errors.FlanError, match="unknown key 'super_glue/rt'; did you mean 'super_glue/rte'"):
        importer.import_datasets(source, tmp_path / "out", keys=["super_glue/rt"])
    with pytest.raises(errors.FlanError, match="no such folder"):
        importer.import_datasets(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.FlanError, match="no records"):
        importer.import_datasets(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(errors.FlanError, match="needs a local directory"):
        importer.import_datasets(source, "gs://bucket/data")
    (source / "MANIFEST.json").write_text("{")
    with pytest.raises(errors.FlanError, match="not readable as JSON"):
        importer.import_datasets(source, tmp_path / "out")


def test_a_manifest_key_without_files_is_a_failure(tmp_path):
    source = manifest(write(tmp_path / "in", "super_glue/rte", train=RTE), {"key": "lost", "tfds_name": "snli"})
    assert f"no records: {source}/lost has no file" in problem_of(importer.import_datasets(source, tmp_path / "out"))
