"""Writing a packed cache: its rows are the stream's, whoever makes them and however often they are interrupted."""

import argparse
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_streams import seqio_task

from flan_jax import cli, errors
from flan_jax.data import cache, cache_command, cache_verify, cache_write, features, mixtures, row_request, streams

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ROWS, SHARDS = 23, 3


@pytest.fixture(scope="module")
def request_(sample_dir) -> row_request.Request:
    return row_request.Request("sentiment_10templates", "flan_jax.tasks.catalogue", sample_dir, inputs=96, targets=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory, request_) -> cache.Cache:
    return cache_write.build(request_, str(tmp_path_factory.mktemp("cache")), ROWS, shards=SHARDS)


def contents(directory: str | pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


def read(made: cache.Cache, shard: int):
    """(features, tokens, tasks of the examples) of every row of a shard."""
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(f"{made.directory}/{made.shards[shard].file}")
    found, tokens, tasks = made.records.decode(reader.read_all())
    return [
        ({name: values[i] for name, values in found.items()}, tokens[i], tasks[i].tolist()) for i in range(len(tokens))
    ]


# --- What is in it ---


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    "converter", [features.ENCODER_DECODER, features.PrefixLM(loss_on_targets_only=False, bos_id=2), features.LM()]
)
def test_a_shard_holds_its_lane_whatever_the_features(tmp_path, request_, converter, pack):
    asked = dataclasses.replace(request_, converter=converter, pack=pack)
    found = cache_write.build(asked, str(tmp_path / "cache"), ROWS, shards=SHARDS)
    assert found.manifest["converter"]["name"] == converter.name
    mixture = asked.open()
    for shard in range(SHARDS):
        lane = asked.lane(mixture, shard, SHARDS)
        rows = read(found, shard)
        assert len(rows) == found.shards[shard].rows == (8, 8, 7)[shard]
        for row, tokens, tasks in rows:
            taken = lane.row()
            expected = converter.row([example for _, example in taken], asked.lengths, pack)
            assert row.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(row[name], values, err_msg=name)
                assert row[name].dtype == values.dtype
            assert tasks == [task for task, _ in taken]
            assert tokens == (expected["decoder_target_tokens"] != 0).sum() + (
                (expected["encoder_input_tokens"] != 0).sum() if "encoder_input_tokens" in expected else 0
            )


def test_any_feature_is_kept():
    rng = np.random.default_rng(0)
    row = {
        "mask": rng.integers(0, 2, (3, 5)).astype(bool),
        "weights": rng.normal(size=7).astype(np.float32),
        "ids": rng.integers(0, 99, 4),
    }
    records = cache.Records(json.loads(json.dumps(cache.Records.spec(row))))
    found, tokens, tasks = records.decode([records.encode(row, 9, [1, 0, 1]), records.encode(row, 0, [])])
    for name, values in row.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], np.stack([values, values]))
    assert tokens == [9, 0]
    assert [numbers.tolist() for numbers in tasks] == [[1, 0, 1], []]
    with pytest.raises(ValueError, match="shorter than the 79 bytes"):
        records.decode([b"half"])


def test_the_manifest_counts_what_the_shards_hold(made):
    rows = [row for shard in range(SHARDS) for row in read(made, shard)]
    tasks = [task for _, _, numbers in rows for task in numbers]
    found = made.manifest
    assert len(rows) == found["rows"] == ROWS
    assert found["examples"] == len(tasks)
    assert found["tokens"] == sum(tokens for _, tokens, _ in rows)
    assert [task["examples"] for task in found["tasks"]] == np.bincount(tasks, minlength=4).tolist()
    assert all(name.endswith("_10templates") for name in made.tasks)
    assert found["vocabulary"]["name"] == "flan_jax_8k.model"
    assert (found["seed"], found["split"], found["lengths"]) == (0, "train", {"inputs": 96, "targets": 16})


def test_shards_share_out_a_task_of_seqios_own(tmp_path, request_, monkeypatch):
    """Three shards, a lane each: together they read every position once, whichever is written first."""
    stream = streams.SeqioStream(seqio_task(), "train", request_.lengths, 0, shuffle=False)
    mixture = mixtures.OpenMixture("foreign", [mixtures.Member("foreign", 20, 20.0, stream)])
    monkeypatch.setattr(cache_write, "_opened", lambda _: mixture)
    asked = dataclasses.replace(request_, pack=False)
    found = cache_write.build(asked, str(tmp_path / "cache"), 24, shards=3)
    # Lane l reads positions l, l + 3, ...: row r of shard l is position 3 r + l.
    rows = [read(found, shard) for shard in range(3)]
    texts = [asked.tokenizer.decode(rows[at % 3][at // 3][0]["encoder_input_tokens"]) for at in range(24)]
    assert texts == [str(at % 20) for at in range(24)]


# --- Interrupted ---


def test_what_is_finished_is_kept_and_the_rest_is_the_same_to_the_byte(tmp_path, request_, made):
    """As a killed process leaves it: a finished shard, one without its note, one half written, no manifest."""
    folder = tmp_path / "cache"
    wanted = cache_write.plan(request_, ROWS, SHARDS)
    cache_write.claim(str(folder), wanted)
    for number in (0, 1):
        cache_write.write_shard(request_, str(folder), wanted, number, lambda _: None)
    (folder / cache.note_file(cache.shard_file(1, SHARDS))).unlink()
    (folder / f"{cache.TEMPORARY}123-rows").write_bytes(b"half")
    before = (folder / cache.shard_file(0, SHARDS)).stat()
    with pytest.raises(errors.FlanError, match="is not complete: the same `flan data cache` command goes on"):
        cache.open_cache(str(folder))
    cache_write.build(request_, str(folder), ROWS, shards=SHARDS)
    assert contents(folder) == contents(made.directory)
    after = (folder / cache.shard_file(0, SHARDS)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_failing_shard_leaves_nothing_half_written(tmp_path, request_, monkeypatch):
    wanted = cache_write.plan(request_, ROWS, SHARDS)
    cache_write.claim(str(tmp_path), wanted)

    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache_write.write_shard(request_, str(tmp_path), wanted, 0, full)
    assert [path.name for path in tmp_path.iterdir()] == [cache.PLAN]


@pytest.mark.slow
def test_killed_processes_and_another_number_of_them(tmp_path, request_, sample_dir):
    """SIGKILL to the parent while two processes write; what goes on is one process; the result is as if nothing was."""
    rows, shards = 3000, 6
    flags = [
        "data", "cache", "sentiment_10templates", f"--tfds_data_dir={sample_dir}", "--inputs=96", "--targets=16",
        f"--rows={rows}", f"--shards={shards}", "--out",
    ]  # fmt: skip
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-m", "flan_jax.cli", *flags, str(killed), "--jobs=2"], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(killed.glob("rows-*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Its processes see that their parent is gone and end: nothing is written any more.
    time.sleep(0.5)
    left = contents(killed)
    time.sleep(1.0)
    assert contents(killed) == left
    assert cache.MANIFEST not in left
    assert cli.main([*flags, str(killed), "--jobs=1"]) == 0
    cache_write.build(request_, str(whole), rows, shards=shards, jobs=2)
    assert contents(killed) == contents(whole)
    assert cache_verify.verify(str(killed)).endswith(f"{rows:,} rows in {shards} shards, all as written")


def test_beam_makes_the_same_bytes(tmp_path, request_, made):
    pytest.importorskip("apache_beam")
    cache_write.build(request_, str(tmp_path), ROWS, shards=SHARDS, runner="DirectRunner")
    assert contents(tmp_path) == contents(made.directory)
    with pytest.raises(errors.FlanError, match="NoRunner"):
        cache_write.build(request_, str(tmp_path / "other"), ROWS, shards=SHARDS, runner="NoRunner")


# --- Refused ---


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"targets": 8}, 'lengths: {"inputs": 96, "targets": 16} there, {"inputs": 96, "targets": 8} here'),
        ({"pack": False}, "pack: true there, false here"),
        ({"split": "validation"}, 'split: "train" there, "validation" here'),
        ({"mixture": "nli_10templates"}, 'mixture: "sentiment_10templates" there, "nli_10templates" here'),
        (
            {"converter": features.LM()},
            'converter: {"name": "encoder_decoder"} there, {"name": "lm", "bos_id": 0} here',
        ),
    ],
)
def test_a_directory_holds_one_cache(made, request_, change, named):
    before = contents(made.directory)
    with pytest.raises(errors.FlanError) as caught:
        cache_write.build(dataclasses.replace(request_, **change), made.directory, ROWS, shards=SHARDS)
    assert named in str(caught.value)
    assert "probe" not in str(caught.value)
    assert str(caught.value).endswith("Give another --out, or remove that one")
    assert contents(made.directory) == before


def test_other_rows_or_shards_are_another_cache(made, request_):
    for rows, shards, named in (
        (ROWS + 1, SHARDS, "rows: 23 there, 24 here"),
        (ROWS, 2, "shard_rows: [8, 8, 7] there"),
    ):
        with pytest.raises(errors.FlanError) as caught:
            cache_write.build(request_, made.directory, rows, shards=shards)
        assert named in str(caught.value)
    with pytest.raises(errors.FlanError, match="5 shards of 4 rows"):
        cache_write.plan(request_, 4, 5)


def test_templates_that_changed_are_noticed(made, request_, monkeypatch):
    row = features.EncoderDecoder.row

    def other(self, examples, lengths, packed):
        return row(self, [dataclasses.replace(e, inputs=e.inputs[1:]) for e in examples], lengths, packed)

    monkeypatch.setattr(features.EncoderDecoder, "row", other)
    with pytest.raises(errors.FlanError, match="other settings: the rows are made otherwise: data, templates or code"):
        cache_write.build(request_, made.directory, ROWS, shards=SHARDS)


def test_a_directory_of_something_else_is_left_alone(tmp_path, request_):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(errors.FlanError, match=r"holds no packed cache but thesis\.tex; expected an empty or a new"):
        cache_write.build(request_, str(tmp_path), ROWS)


def test_an_object_store_gets_finished_files(tmp_path, request_, made, monkeypatch):
    """Stood for by a directory that nothing is renamed in: what is written there is copied from another place."""
    local, renamed = tmp_path / "local", []
    local.mkdir()
    monkeypatch.setattr(cache, "remote", lambda path: "store" in path)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(local))
    monkeypatch.setattr(cache.os, "replace", lambda *names: renamed.append(names))
    cache_write.build(request_, str(tmp_path / "store"), ROWS, shards=SHARDS)
    assert contents(tmp_path / "store") == contents(made.directory)
    assert renamed == []
    assert list(local.iterdir()) == []
    with pytest.raises(
        errors.FlanError, match=r"rows are read from local or mounted files; mount the bucket \(gcsfuse\)"
    ):
        cache_verify.verify(str(tmp_path / "store"))


# --- Checked ---


@pytest.fixture
def copy(tmp_path, made) -> cache.Cache:
    for name, content in contents(made.directory).items():
        (tmp_path / name).write_bytes(content)
    return cache.open_cache(str(tmp_path))


def test_damage_is_found_and_mended(copy, made, request_, capsys):
    assert cli.main(["data", "cache", "--verify", copy.directory]) == 0
    assert "23 rows in 3 shards, all as written" in capsys.readouterr().out
    file = pathlib.Path(copy.directory, copy.shards[1].file)
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    with pytest.raises(SystemExit):
        cli.main(["data", "cache", "--verify", copy.directory])
    assert f"{file.name} was altered after it was written" in capsys.readouterr().err
    file.write_bytes(content[:-100])
    with pytest.raises(errors.FlanError, match=f"{file.name} has .* bytes, expected .*; remove it"):
        cache_verify.verify(copy.directory)
    file.unlink()
    with pytest.raises(errors.FlanError, match=f"{file.name} is missing"):
        cache.open_cache(copy.directory)
    cache_write.build(request_, copy.directory, ROWS, shards=SHARDS)
    assert contents(copy.directory) == contents(made.directory)


def test_a_manifest_that_does_not_add_up(copy):
    path = pathlib.Path(copy.directory, cache.MANIFEST)
    manifest = json.loads(path.read_text())
    manifest["tasks"][0]["examples"] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(errors.FlanError, match=r"manifest\.json does not add up"):
        cache_verify.verify(copy.directory)
    path.write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(errors.FlanError, match="is of version 99, this flan_jax reads 1"):
        cache.open_cache(copy.directory)
    path.write_text("{")
    with pytest.raises(errors.FlanError, match=r"manifest\.json is damaged"):
        cache.open_cache(copy.directory)


# --- The command ---


def flags(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cache_command.add_parser(parser.add_subparsers(), "flan_jax.tasks.catalogue")
    return parser.parse_args(["cache", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["m"], "needs --out DIR"),
        (["--out", "d"], "needs MIXTURE"),
        (["m", "--out", "d"], "give one of --rows, --steps with --batch, and --epochs; given none"),
        (["m", "--out", "d", "--rows", "4", "--epochs", "1"], "given --rows and --epochs"),
        (["m", "--out", "d", "--steps", "4"], "--steps and --batch go together"),
        (["m", "--out", "d", "--rows", "0"], "0 rows; expected at least 1"),
        (["m", "--out", "d", "--epochs", "0"], "--epochs 0; expected more than 0"),
        (["m", "--out", "d", "--rows", "4", "--bos_id", "1"], "--bos_id is for --features prefix_lm and lm"),
        (["m", "--out", "d", "--rows", "4", "--features", "lm", "--loss_on_inputs"], "not lm"),
    ],
)
def test_flags_that_make_no_cache(given, message):
    with pytest.raises(errors.FlanError, match=message):
        cache_command.run(flags(*given))


def test_the_command(tmp_path, sample_dir, capsys):
    out = str(tmp_path / "cache")
    given = ["sentiment_10templates", "--out", out, "--tfds_data_dir", sample_dir, "--inputs", "96", "--targets", "16"]
    chosen = ["--steps", "3", "--batch", "4", "--features", "prefix_lm", "--bos_id", "2", "--jobs", "1"]
    assert cli.main(["data", "cache", *given, *chosen]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sentiment_10templates: 12 rows, ")
    assert f"--gin.PACKED_CACHE=\"'{out}'\"" in said
    found = cache.open_cache(out).manifest
    assert found["converter"] == {"name": "prefix_lm", "loss_on_targets_only": True, "bos_id": 2}
    assert found["features"]["decoder_input_tokens"]["shape"] == [112]


def test_an_epoch_of_a_mixture_with_a_limit_is_what_its_rates_add_up_to(request_, sample_dir):
    rows = cache_write.rows_of_epochs(request_, 2)
    mixture = request_.open()
    lane = request_.lane(mixture, 0, 1)
    examples = sum(len(lane.row()) for _ in range(rows))
    assert examples == pytest.approx(2 * sum(member.rate for member in mixture.members), rel=0.1)
