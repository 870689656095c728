"""`flan data import`: what goes in as JSON lines comes out through TFDS, and nothing else ever does."""

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importer_records import ARC, RTE, columns, manifest, problem_of, read, write

from flan_jax import errors
from flan_jax.data import importer, prepared

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"

# Without a builder: the features are inferred.

NAMES = st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = st.sampled_from(
    [TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(width=32, allow_nan=False, allow_infinity=False)]
)


@st.composite
def record_lists(draw):
    """One to four records of one random shape: scalars, lists, lists of lists, objects, lists of objects."""
    flat = st.dictionaries(NAMES, SCALARS, min_size=1, max_size=3).map(st.fixed_dictionaries)
    kinds = SCALARS.flatmap(
        lambda scalar: st.sampled_from(
            [
                scalar,
                st.lists(scalar, min_size=1, max_size=3),
                st.lists(st.lists(scalar, max_size=2), min_size=1, max_size=3),
            ]
        )
    )
    kind = st.one_of(kinds, flat, flat.map(lambda shape: st.lists(shape, min_size=1, max_size=3)))
    shape = draw(st.dictionaries(NAMES, kind, min_size=1, max_size=4))
    return draw(st.lists(st.fixed_dictionaries(shape), min_size=1, max_size=4))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records=record_lists())
def test_inferred_records_come_back_as_they_went_in(records):
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder, "in"), "my_set", train=records)
        report = importer.import_datasets(source, Path(folder, "out"))
        assert not report.failures, report.failures
        assert read(Path(folder, "out", "my_set", "1.0.0")) == [columns(record) for record in records]


def test_text_keeps_every_character(tmp_path):
    texts = ["line\nbreak", "U+2028 \u2028 here", "nul \0 byte", "", " { braces } ", "日本 😀", "tab\tend "]
    source = write(tmp_path / "in", "texts", train=[{"text": text} for text in texts])
    importer.import_datasets(source, tmp_path / "out")
    assert [row["text"] for row in read(tmp_path / "out/texts/1.0.0")] == texts


def test_integers_and_fractions_in_one_field_become_float32(tmp_path):
    source = write(tmp_path / "in", "mixed", train=[{"x": 1, "y": []}, {"x": 0.1, "y": []}])
    importer.import_datasets(source, tmp_path / "out")
    first, second = read(tmp_path / "out/mixed/1.0.0")
    assert first == {"x": 1.0, "y": []}
    assert second["x"] == pytest.approx(0.1, rel=1e-7)
    assert second["x"] != 0.1  # 24 bits of it: what the file can hold.


# Manifest fields.


def test_manifest_fields_with_optional_and_joined_types(tmp_path):
    fields = {
        "id": "int",
        "spans": [["int"]],
        "notes?": [{"at": "int", "kind": "bool|string"}],
        "extra?": {"score": "float"},
    }
    records = [
        {
            "id": 1,
            "spans": [[1, 2], []],
            "notes": [{"at": 3, "kind": False}, {"at": 4, "kind": "late"}],
            "extra": {"score": 2},
        },
        {"id": 2, "spans": [], "extra": None},
    ]
    source = manifest(write(tmp_path / "in", "qed", train=records), {"key": "qed", "tfds_name": None, "fields": fields})
    report = importer.import_datasets(source, tmp_path / "out")
    assert report.exit_code == 0, report.failures
    assert read(tmp_path / "out/qed/1.0.0") == [
        {"id": 1, "spans": [[1, 2], []], "notes": {"at": [3, 4], "kind": ["false", "late"]}, "extra": {"score": 2.0}},
        {"id": 2, "spans": [], "notes": {"at": [], "kind": []}, "extra": {"score": 0.0}},
    ]


# With TFDS's builders.

TRIVIA = {
    "question": "q",
    "question_id": "",
    "question_source": "",
    "answer": {
        "aliases": ["A", "B"],
        "matched_wiki_entity_name": "",
        "normalized_aliases": ["a"],
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": "a",
        "type": "",
        "value": "A",
    },
    "entity_pages": {"doc_source": [], "filename": [], "title": [], "wiki_context": []},
    "search_results": {
        "description": ["d", "e"],
        "filename": ["f", "g"],
        "rank": [0, 1],
        "search_context": ["", "x"],
        "title": ["t", "u"],
        "url": ["v", "w"],
    },
}


@pytest.mark.parametrize(
    ("key", "version", "records"),
    [
        ("super_glue/rte", "1.0.2", RTE),
        ("glue/sst2", "2.0.0", [{"sentence": "good", "label": 1, "idx": 0}, {"sentence": "?", "label": -1, "idx": 1}]),
        ("ai2_arc/ARC-Easy", "1.0.0", [ARC, {**ARC, "choices": {"label": [], "text": []}}]),
        ("trivia_qa/rc", "1.1.0", [TRIVIA, TRIVIA]),
    ],
)
def test_builder_features_hold_the_records(tmp_path, key, version, records):
    import tensorflow_datasets as tfds

    source = write(tmp_path / "in", key, train=records, validation=records[:1])
    report = importer.import_datasets(source, tmp_path / "out")
    assert report.exit_code == 0, report.failures
    (done,) = report.datasets
    assert (done.name, done.status, done.splits) == (
        f"{key}:{version}",
        "imported",
        {"train": len(records), "validation": 1},
    )
    assert done.directory == tmp_path / "out" / key / version
    assert read(done.directory) == records
    builder = tfds.builder(f"{key}:{version}", data_dir=str(tmp_path / "out"))
    offline = tfds.builder(key, data_dir=str(tmp_path / "empty"))
    assert repr(builder.info.features) == repr(offline.info.features)


def test_objects_may_also_be_given_as_a_list(tmp_path):
    listed = {**ARC, "choices": [{"label": 0, "text": "no"}, {"label": 1, "text": "yes"}]}
    importer.import_datasets(write(tmp_path / "in", "ai2_arc/ARC-Easy", train=[listed]), tmp_path / "out")
    assert read(tmp_path / "out/ai2_arc/ARC-Easy/1.0.0") == [ARC]


def test_slices_are_exact_through_tfds_and_seqio(tmp_path):
    import seqio
    import tensorflow_datasets as tfds

    out = str(tmp_path / "out")
    importer.import_datasets(write(tmp_path / "in", "super_glue/rte", train=RTE, validation=RTE[:5]), out)
    for split, expected in {
        "train": range(12),
        "train[3:7]": range(3, 7),
        "train[-5:]": range(7, 12),
        "validation": range(5),
    }.items():
        loaded = tfds.load("super_glue/rte:1.0.2", data_dir=out, split=split)
        assert [int(row["idx"]) for row in tfds.as_numpy(loaded)] == list(expected)
        source = seqio.TfdsDataSource("super_glue/rte:1.0.2", tfds_data_dir=out, splits={"train": split})
        assert source.num_input_examples("train") == len(expected)
        rows = source.get_dataset("train", shuffle=False).as_numpy_iterator()
        assert [int(row["idx"]) for row in rows] == list(expected)


def test_own_datasets_load_by_name_even_beside_a_builder(tmp_path):
    import tensorflow_datasets as tfds

    source = write(tmp_path / "in", "mgsm/de", test=[{"q": "eins"}])
    write(source, "natural_instructions/tasks", tasks=[{"q": "zwei"}])
    manifest(source, {"key": "natural_instructions/tasks"}, {"key": "mgsm/de"})
    assert importer.import_datasets(source, tmp_path / "out").exit_code == 0
    for name, split, text in [
        ("mgsm/de:1.0.0", "test", b"eins"),
        ("natural_instructions/tasks:1.0.0", "tasks", b"zwei"),
    ]:
        rows = tfds.as_numpy(tfds.load(name, data_dir=str(tmp_path / "out"), split=split))
        assert [row["q"] for row in rows] == [text]


def test_folders_that_share_a_tfds_name_are_joined_in_manifest_order(tmp_path):
    source = tmp_path / "in"
    for key, records in {"b": RTE[:2], "a": RTE[2:5]}.items():
        write(source, key, train=records)
    manifest(source, *({"key": key, "tfds_name": "super_glue/rte:1.0.2"} for key in ("b", "a")))
    report = importer.import_datasets(source, tmp_path / "out", keys=["a"])
    assert [(d.key, d.rows) for d in report.datasets] == [("super_glue/rte", 5)]
    assert read(tmp_path / "out/super_glue/rte/1.0.2") == RTE[:5]


def test_a_builder_that_cannot_work_offline_is_replaced_with_a_note(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds, "builder", offline)
    (done,) = importer.import_datasets(write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out").datasets
    assert done.name == "super_glue/rte:1.0.0"
    assert done.note
    assert "cannot be used offline (OSError: no route to host); features taken from the records" in done.note
    assert read(done.directory) == RTE


def test_nothing_asks_the_network(tmp_path, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("an import opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    source = write(write(tmp_path / "in", "super_glue/rte", train=RTE), "nobody_knows_me", train=RTE)
    assert importer.import_datasets(source, tmp_path / "out").exit_code == 0


# Once, again, and killed.


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_a_second_import_changes_nothing_and_a_changed_source_does(tmp_path):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    assert [d.status for d in importer.import_datasets(source, out).datasets] == ["imported"]
    before = state(out)
    (again,) = importer.import_datasets(source, out).datasets
    assert (again.status, again.name, again.rows) == ("unchanged", "super_glue/rte:1.0.2", 12)
    assert state(out) == before
    write(source, "super_glue/rte", train=RTE[:3])
    (changed,) = importer.import_datasets(source, out).datasets
    assert (changed.status, changed.rows) == ("imported", 3)
    assert read(changed.directory) == RTE[:3]
    assert changed.directory is not None
    assert prepared.prepared_datasets(out) == [
        prepared.PreparedDirectory(changed.name, changed.directory, {"train": 3})
    ]
    assert not (out / importer.STAGE).exists()


def test_a_bad_change_keeps_what_was_imported_before(tmp_path):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    importer.import_datasets(source, out)
    before = state(out)
    write(source, "super_glue/rte", train=[*RTE, {"label": 0}])
    problem_of(importer.import_datasets(source, out))
    assert state(out) == before


def test_a_damaged_import_is_made_again(tmp_path):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    (done,) = importer.import_datasets(source, out).datasets
    assert done.directory is not None
    (shard,) = done.directory.glob("*tfrecord*")
    shard.unlink()
    assert [d.status for d in importer.import_datasets(source, out).datasets] == ["imported"]
    assert read(done.directory) == RTE


def test_a_directory_of_another_program_is_only_replaced_when_told(tmp_path):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    foreign = out / "super_glue/rte/1.0.2"
    foreign.mkdir(parents=True)
    (foreign / "precious.tfrecord").write_text("precious")
    problem = problem_of(importer.import_datasets(source, out))
    assert f"{foreign} exists and was not written by an import" in problem
    assert (foreign / "precious.tfrecord").read_text() == "precious"
    assert importer.import_datasets(source, out, overwrite=True).exit_code == 0
    assert read(foreign) == RTE
    assert not (foreign / "precious.tfrecord").exists()


def test_an_error_between_the_renames_puts_the_older_dataset_back(tmp_path, monkeypatch):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    importer.import_datasets(source, out)
    write(source, "super_glue/rte", train=RTE[:3])
    replace, calls = os.replace, []

    def second_fails(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", second_fails)
    assert "No space left on device" in problem_of(importer.import_datasets(source, out))
    assert len(calls) == 3
    assert read(out / "super_glue/rte/1.0.2") == RTE


def test_two_imports_at_once_wait_for_each_other(tmp_path):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    script = (
        "import sys; from flan_jax.data import importer\n"
        "print(importer.import_datasets(sys.argv[1], sys.argv[2]).datasets[0].status)"
    )
    command = [sys.executable, "-c", script, str(source), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=120)[0].strip() for process in both) == ["imported", "unchanged"]


KILLED = """
import os, signal, sys
from flan_jax.data import importer
source, out, moment = sys.argv[1:]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "while writing":
    import tensorflow_datasets as tfds
    write = tfds.core.SequentialWriter.add_examples
    def some(self, examples):
        write(self, examples)
        die()
    tfds.core.SequentialWriter.add_examples = some
elif moment == "before the rename":
    os.replace = die
elif moment == "between the renames":
    replace = os.replace
    def first(*args):
        replace(*args)
        os.replace = die
    os.replace = first
importer.import_datasets(source, out)
"""


@pytest.mark.parametrize("moment", ["while writing", "before the rename", "between the renames"])
def test_a_killed_import_leaves_no_half_dataset_and_the_next_one_finishes(tmp_path, moment):
    source, out = write(tmp_path / "in", "super_glue/rte", train=RTE), tmp_path / "out"
    importer.import_datasets(source, out)
    write(source, "super_glue/rte", train=RTE[:4], validation=RTE[4:5])
    write(source, "glue/wnli", train=[{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}])
    command = [sys.executable, "-c", KILLED, str(source), str(out), moment]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    # The other dataset is imported first, so that the kill meets the one that replaces an older import.
    importer.import_datasets(source, out, keys=["glue/wnli"])
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (out / importer.STAGE).exists()

    seen = {dataset.name: dataset.splits for dataset in prepared.prepared_datasets(out)}
    older = {} if moment == "between the renames" else {"super_glue/rte:1.0.2": {"train": 12}}
    assert seen == {"glue/wnli:2.0.0": {"train": 1}, **older}

    # A next import that fails still puts the older dataset back.
    write(source, "super_glue/rte", train=[{"label": 0}])
    problem_of(importer.import_datasets(source, out))
    assert read(out / "super_glue/rte/1.0.2") == RTE
    assert not (out / importer.STAGE).exists()

    write(source, "super_glue/rte", train=RTE[:4])
    assert importer.import_datasets(source, out).exit_code == 0
    assert read(out / "super_glue/rte/1.0.2") == RTE[:4]


def test_progress_is_told_of_every_dataset(tmp_path):
    class Log:
        def __init__(self):
            self.lines = []

        def on_start(self, total):
            self.lines.append(total)

        def on_dataset(self, key, status, rows, seconds):
            assert seconds >= 0
            self.lines.append((key, status, rows))

    source = write(write(tmp_path / "in", "a", train=[{"x": 1}]), "b", train=b"")
    log = Log()
    importer.import_datasets(source, tmp_path / "out", progress=log)
    assert log.lines == [2, ("a", "imported", 1), ("b", "failed", 0)]


def test_prepared_datasets_passes_over_what_is_unfinished(tmp_path):
    assert prepared.prepared_datasets(tmp_path / "absent") == []
    for folder in ("a/1.0.0", "a/cfg/2.0.0", "a/3.0.0.incompleteXY", ".hidden/1.0.0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset_info.json").write_text(
            '{"splits": [{"name": "train", "shardLengths": ["3", "4"]}]}'
        )
    assert {d.name: d.splits for d in prepared.prepared_datasets(tmp_path)} == {
        "a:1.0.0": {"train": 7},
        "a/cfg:2.0.0": {"train": 7},
    }
    (tmp_path / "a/1.0.0/dataset_info.json").write_text("[")
    with pytest.raises(errors.FlanError, match="not a dataset_info"):
        prepared.prepared_datasets(tmp_path)


def test_planning_and_listing_need_no_tensorflow(tmp_path):
    source = write(tmp_path / "in", "super_glue/rte", train=RTE)
    importer.import_datasets(source, tmp_path / "out")
    script = (
        "import sys; from flan_jax.data import importer, prepared\n"
        "report = importer.import_datasets(sys.argv[1], sys.argv[2]); prepared.prepared_datasets(sys.argv[2])\n"
        "assert report.datasets[0].status == 'unchanged' and 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-c", script, str(source), str(tmp_path / "out")], env=environment, check=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "MANIFEST.json").exists(), reason="the shared sample data is not here")
def test_all_shared_data_imports(tmp_path):
    entries = json.loads((SHARED / "MANIFEST.json").read_text())["datasets"]
    report = importer.import_datasets(SHARED, tmp_path / "out")
    assert [failed.problem for failed in report.failures] == []
    assert sum(d.rows for d in report.datasets) == sum(s["records"] for e in entries for s in e["splits"].values())
    found = {dataset.name.split(":")[0]: dataset.splits for dataset in prepared.prepared_datasets(tmp_path / "out")}
    for entry in entries:
        if entry.get("tfds_name") not in (None, "natural_instructions"):
            name = {"paws_wiki": "paws_wiki/labeled_final_tokenized"}.get(entry["key"], str(entry["tfds_name"]))
            assert found[name] == {split: s["records"] for split, s in entry["splits"].items()}
    assert found["natural_instructions"] == {"train": 3900}
    for name, split, index in [("squad/v2.0/3.0.0", "train", 7), ("qed/1.0.0", "train", 0), ("coqa/1.0.0", "train", 1)]:
        key = {"squad": "squad_v2"}.get(name.split("/")[0], name.split("/")[0])
        record = json.loads(gzip.decompress((SHARED / key / f"{split}.jsonl.gz").read_bytes()).splitlines()[index])
        row = read(tmp_path / "out" / name, f"{split}[{index}:{index + 1}]")[0]
        assert row.keys() == record.keys() or key == "qed"
        for field in ("question", "answers", "question_text", "story", "sentence_starts"):
            assert row.get(field) == record.get(field)
