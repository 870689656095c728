"""`flan convert`: bits survive every way there and back, and nothing is lost or left half done."""

import dataclasses
import gc
import json
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import cli, errors
from flan_jax.checkpoint import (
    convert,
    fingerprint,
    folders,
    hugging_face,
    manager,
    sources,
    t5x_files,
    t5x_write,
    tensors,
)
from flan_jax.models import api
from tests.checkpoint import toy_checkpoints as toy


def converted(source, out, to, **options):
    return convert.convert(source, out, to=to, **{"verify": False, **options})


def values(path, config=None):
    """Every parameter by its path in a tree of separate layers."""
    return dict(sources.values(sources.open_source(path, config=config)))


def stored(path):
    return toy.read_all(t5x_files.Reader(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a run, as Orbax wrote it."""
    return toy.save_run(tmp_path_factory.mktemp("run"), toy.T5)


def test_both_layouts_of_t5x_hold_the_same_bits_optimizer_and_step_included(run, tmp_path):
    there = converted(run, tmp_path / "t5x" / "checkpoint_7", "t5x")
    assert there.plan.optimizer == "taken over"
    converted(tmp_path / "t5x" / "checkpoint_7", tmp_path / "orbax", "orbax")
    expected = toy.run_state(toy.T5)
    named = {name: np.asarray(leaf) for name, leaf in fingerprint.named_leaves(expected).items()}
    for path in (run, tmp_path / "t5x" / "checkpoint_7", tmp_path / "orbax"):
        toy.assert_same_bits(stored(path), named)
    # What a run with INITIAL_CHECKPOINT_PATH does, in both modes.
    for path in (tmp_path / "t5x" / "checkpoint_7", tmp_path / "orbax"):
        assert manager.resolve_restore(tmp_path / "none", path).path == str(path)
        restored = manager.restore_from(path, toy.abstract(toy.T5))
        toy.assert_same_bits({n: np.asarray(v) for n, v in fingerprint.named_leaves(restored).items()}, named)
    assert manager.resolve_restore(tmp_path / "none", tmp_path / "t5x", "latest").step == 7


def test_what_is_written_says_of_itself_what_orbax_says(run, tmp_path):
    converted(run, tmp_path / "again", "orbax")
    theirs, ours = (json.loads((path / "state" / "_METADATA").read_text()) for path in (run, tmp_path / "again"))
    assert ours == theirs
    theirs, ours = (json.loads((path / "_CHECKPOINT_METADATA").read_text()) for path in (run, tmp_path / "again"))
    assert ours.keys() == theirs.keys()
    assert ours["item_handlers"]["state"] == theirs["item_handlers"]["state"]
    assert ours["custom_metadata"]["fingerprints"] == theirs["custom_metadata"]["fingerprints"]


@pytest.mark.parametrize("to", ["t5x", "orbax"])
def test_layers_are_stacked_and_separated_bit_for_bit(run, tmp_path, to):
    result = converted(run, tmp_path / "stacked", to, layers="stacked")
    assert "another layout" in result.plan.optimizer
    stacked = api.stack_layers(toy.run_state(toy.T5)["target"])
    expected = {".".join(("target", *at)): np.asarray(leaf) for at, leaf in tensors.flat(stacked).items()}
    there = stored(tmp_path / "stacked")
    toy.assert_same_bits({name: there[name] for name in there if name.startswith("target.")}, expected)
    scanned = dataclasses.replace(toy.T5, scan_layers=True)
    restored = manager.restore_from(tmp_path / "stacked", toy.abstract(scanned))
    fresh = toy.adafactor(scanned).init(restored["target"])
    jax.tree.map(np.testing.assert_array_equal, restored["state"], {"step": np.int32(0), "param_states": fresh})
    if to == "orbax":
        marks = folders.notes(tmp_path / "stacked")["fingerprints"]
        assert marks == fingerprint.fingerprints(fingerprint.named_leaves(restored).items())
    # The default keeps what there is; then back.
    converted(tmp_path / "stacked", tmp_path / "kept", "t5x")
    toy.assert_same_bits(stored(tmp_path / "kept"), there)
    converted(tmp_path / "kept", tmp_path / "separate", to, layers="separate")
    toy.assert_same_bits(values(tmp_path / "separate"), toy.params(toy.T5))


@pytest.mark.parametrize("config", [toy.T5, toy.T5_RELU, toy.OPT, toy.OPT_350M, toy.LLAMA, toy.LLAMA_GROUPED], ids=repr)
def test_there_and_back_through_hugging_face(tmp_path, config):
    source = toy.save_legacy(tmp_path / "a", config)
    converted(source, tmp_path / "hf", "hf", config=config, shard_bytes=30_000)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    opened = sources.open_source(tmp_path / "hf")
    assert dataclasses.replace(opened.config, dropout_rate=config.dropout_rate) == config
    result = converted(tmp_path / "hf", tmp_path / "b", "t5x", layers="stacked")
    assert result.plan.optimizer == "new at step 0: the source has none"
    converted(tmp_path / "b", tmp_path / "c", "t5x", layers="separate", config=config)
    before, after = stored(source), stored(tmp_path / "c")
    toy.assert_same_bits(
        {name: value for name, value in after.items() if name.startswith("target.")},
        {name: value for name, value in before.items() if name.startswith("target.")},
    )


def scalable(folder, layout, change=lambda name, value: value):
    """A legacy checkpoint as T5X's scalable_t5 has it: kernels as [D, L, H, K], those of outputs as [H, L, K, D].

    `today` (encoder/encoder/...) and `2022` (encoder/layers/...) are scanned, `separate` is not; each layer has its table of
    relative positions, but in `shared`.
    """
    tree = tensors.nested(toy.params(toy.T5))
    stored = {}
    for at, leaf in tensors.flat(tree if layout == "separate" else api.stack_layers(tree)).items():
        value, at = np.asarray(leaf), list(at)
        axes = value.shape[1:-1]
        if at[-2] in ("query", "key", "value"):
            value = value.reshape(*value.shape[:-1], 4, 8)
        elif at[-2] == "out":
            value = np.moveaxis(value.reshape(4, 8, *value.shape[1:]), 1, 1 + len(axes))
        names = [at]
        if at[1] == "relpos_bias" and layout != "shared":
            depth = 3 if at[0] == "encoder" else 2
            table = "relative_posemb" if layout == "2022" else "relpos_bias"
            if layout == "separate":
                names = [[at[0], f"layers_{layer}", table, at[2]] for layer in range(depth)]
            else:
                value, names = np.repeat(value[:, None], depth, axis=1), [[at[0], "layers", table, at[2]]]
        for name in names:
            if name[1] == "layers" and layout == "today":
                name[1] = name[0]
            full = ".".join(("target", *name))
            stored[full] = change(full, value)
    folder.mkdir(parents=True)
    specs = {name: tensors.Stored(value.shape, value.dtype) for name, value in stored.items()}
    sink = t5x_write.LegacySink(tensors.absolute(folder), specs, set())
    for name, value in stored.items():
        sink.write(name, value)
    sink.close()
    return folder


@pytest.mark.parametrize("layout", ["today", "2022", "separate", "shared"])
def test_a_checkpoint_of_scalable_t5_is_read(tmp_path, layout):
    source = scalable(tmp_path / "a", layout)
    assert ("target.encoder.encoder.relpos_bias.rel_embedding" in t5x_files.Reader(source).tensors) == (
        layout == "today"
    )
    opened = sources.open_source(source)
    assert (opened.config, opened.stacked) == (toy.T5, layout != "separate")
    toy.assert_same_bits(values(source), toy.params(toy.T5))
    result = converted(source, tmp_path / "b", "orbax", layers="separate", verify=True)
    assert result.difference == 0
    toy.assert_same_bits(values(tmp_path / "b"), toy.params(toy.T5))
    if layout != "shared":
        wanted = toy.abstract(dataclasses.replace(toy.T5, scan_layers=layout != "separate"))
        with pytest.raises(errors.FlanError, match=r"those of T5X's scalable_t5: flan convert makes"):
            manager.restore_from(source, wanted, params_only=True)


@pytest.mark.parametrize("layout", ["today", "2022", "separate"])
def test_layers_with_tables_of_their_own_are_another_model(tmp_path, capsys, layout):
    def change(name, value):
        if name.startswith("target.decoder.") and name.endswith("rel_embedding") and "layers_0" not in name:
            value = value.copy()
            value[1, -1] += 1e-6
        return value

    source = scalable(tmp_path / "a", layout, change)
    with pytest.raises(SystemExit):
        cli.main(["convert", "--in", str(source), "--out", str(tmp_path / "b"), "--to=hf"])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    table = {"today": "decoder.relpos_bias", "2022": "layers.relative_posemb", "separate": "layers_0.relpos_bias"}[
        layout
    ]
    assert f"tensor target.decoder.{table}.rel_embedding: " in said[0]
    assert "its 2 layers have a table of relative positions each, as umT5's" in said[0]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("layout", ["today", "2022", "separate"])
def test_a_layer_without_its_table_is_missed(tmp_path, layout):
    def change(name, value):
        return value[:, :1] if name.endswith("rel_embedding") and value.ndim == 3 else value

    source = scalable(tmp_path / "a", layout, change)
    if layout == "separate":
        shutil.rmtree(source)
        kept = scalable(tmp_path / "whole", layout)
        there = {name: value for name, value in stored(kept).items() if "encoder.layers_2.relpos" not in name}
        source.mkdir()
        sink = t5x_write.LegacySink(
            tensors.absolute(source), {n: tensors.Stored(v.shape, v.dtype) for n, v in there.items()}, set()
        )
        for name, value in there.items():
            sink.write(name, value)
        sink.close()
    with pytest.raises(errors.FlanError, match=r"(of another shape|missing): target.*rel_embedding"):
        sources.open_source(source)


def test_bfloat16_is_rounded_once_and_read_back(tmp_path):
    source = toy.save_hugging_face(tmp_path / "source", toy.LLAMA)
    for to in ("hf", "t5x", "orbax"):
        converted(source, tmp_path / to / "bfloat16", to, dtype="bfloat16")
        config = None if to == "hf" else toy.LLAMA
        there = values(tmp_path / to / "bfloat16", config)
        toy.assert_same_bits(there, {at: value.astype(jnp.bfloat16) for at, value in toy.params(toy.LLAMA).items()})
        converted(tmp_path / to / "bfloat16", tmp_path / to / "float32", "t5x", config=config)
        wide = values(tmp_path / to / "float32", toy.LLAMA)
        toy.assert_same_bits(wide, {at: value.astype(np.float32) for at, value in there.items()})


def test_the_command_says_what_it_did(run, tmp_path, capsys):
    flags = ["convert", "--in", str(run), "--out", str(tmp_path / "new" / "hf"), "--to", "hf"]
    assert cli.main([*flags, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "dry run: nothing was written" in said
    assert "inferred from names and shapes, heads from relpos_bias; the activation (gelu x linear) is assumed" in said
    assert list(tmp_path.iterdir()) == []
    assert cli.main(flags) == 0
    said = capsys.readouterr().out
    assert "every tensor was read back and compared" in said
    assert "largest difference of logits on random input, float32: 0 (logits up to" in said
    assert cli.main([*flags, "--overwrite", "--dtype=bfloat16", "--no_verify"]) == 0
    assert "logits were not (--no_verify)" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["new", "hf"]


def test_the_model_may_be_named(tmp_path):
    source = toy.save_legacy(tmp_path / "opt", toy.OPT)
    out = ["--out", str(tmp_path / "out"), "--to", "hf", "--no_verify"]
    sizes = {**toy.SIZES, "num_layers": 2, "max_positions": 40}
    given = [f"--gin.network.TransformerConfig.{name}={value}" for name, value in sizes.items()]
    preset = ["--gin.network.TransformerConfig.preset='opt_1.3b'"]
    assert cli.main(["convert", "--in", str(source), *out, *preset, *given]) == 0
    assert sources.open_source(tmp_path / "out").config == toy.OPT


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=hff"], "unknown format 'hff'; did you mean 'hf'?"),
        (["--to=hf", "--from=t5x"], "is a checkpoint of format 'orbax'; given: 't5x'"),
        (["--to=hf", "--from=tx5"], "unknown format 'tx5'; did you mean 't5x'?"),
        (["--to=t5x", "--dtype=float16"], "unknown dtype 'float16'"),
        (["--to=t5x", "--layers=stack"], "unknown layers 'stack'; did you mean 'stacked'?"),
        (["--to=hf", "--layers=stacked"], "Hugging Face's are always separate"),
        (["--to=hf", "--model=opt_1.3"], "unknown model 'opt_1.3'; did you mean 'opt_1.3b'"),
        (["--to=hf", "--model=t5_1_1_small"], "of another shape"),
        (["--to=hf", "--model=opt_125m", "--gin_file=models/opt/125m.gin"], "given both --model and --gin_file"),
        (["--to=hf", "--gin_file=models/opt/126m.gin"], "no gin file 'models/opt/126m.gin'"),
        (["--to=hf", "--gin.BATCH_SIZE=3"], "the configuration binds neither"),
        (["--to=hf", "--max_shard_gb=0"], "--max_shard_gb is 0.0"),
        (["--to=hf", "--out={run}"], "lie in each other"),
        (["--to=hf", "--out={run}/hf"], "lie in each other"),
        (["--to=hf", "--out=gs://bucket/hf"], "expected a local folder to write"),
        (["--to=hf", "--in={run}/.."], "is a model directory, not a checkpoint"),
        (["--to=hf", "--in={run}x"], "did you mean 'checkpoint_7'?"),
    ],
)
def test_mistakes_are_told_in_one_line(run, tmp_path, capsys, flags, message):
    flags = ["--in={run}", f"--out={tmp_path}/out", *flags]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", *(flag.replace("{run}", str(run)) for flag in flags)])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_family_at_hugging_face_is_refused(tmp_path):
    source = toy.save_legacy(tmp_path / "a", toy.DECODER_ONLY)
    with pytest.raises(errors.FlanError, match=r"Hugging Face has no model with positions 'relative'"):
        converted(source, tmp_path / "b", "hf")
    assert not (tmp_path / "b").exists()
    converted(source, tmp_path / "b", "orbax")
    toy.assert_same_bits(values(tmp_path / "b"), toy.params(toy.DECODER_ONLY))


def test_another_optimizers_state_is_replaced_by_a_new_one(tmp_path):
    tree = toy.run_state(toy.T5_RELU)
    moments = jax.tree.map(jnp.zeros_like, tree["target"])
    tree["state"]["param_states"] = {"mu": moments, "nu": moments}
    with manager.CheckpointManager(tmp_path / "run", keep=None, period=1, async_save=False) as checkpoints:
        checkpoints.save(7, tree, {})
    result = converted(tmp_path / "run" / "checkpoint_7", tmp_path / "out", "t5x")
    assert "the source's is not Adafactor's" in result.plan.optimizer
    restored = manager.restore_from(tmp_path / "out", toy.abstract(toy.T5_RELU))
    assert int(restored["state"]["step"]) == 0


def test_an_adapters_checkpoint_is_refused(tmp_path):
    with manager.CheckpointManager(
        tmp_path / "run", keep=None, period=1, async_save=False, notes={"adapter": {"kind": "LoRA"}}
    ) as checkpoints:
        checkpoints.save(7, toy.run_state(toy.T5_RELU), {})
    with pytest.raises(errors.FlanError, match="holds an adapter, not a model: flan merge"):
        converted(tmp_path / "run" / "checkpoint_7", tmp_path / "out", "t5x")


def test_what_is_there_is_replaced_only_if_asked_and_only_if_it_is_a_checkpoint(run, tmp_path):
    out = tmp_path / "out"
    converted(run, out, "hf")
    with pytest.raises(errors.FlanError, match="exists; expected a new folder, or --overwrite"):
        converted(run, out, "orbax")
    converted(run, out, "orbax", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["_CHECKPOINT_METADATA", "commit_success.txt", "state"]
    (out / "tokenizer.json").write_text("mine")
    with pytest.raises(errors.FlanError, match=r"also holds tokenizer.json, which flan convert does not write"):
        converted(run, out, "hf", overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    with pytest.raises(errors.FlanError, match="is not a checkpoint: --overwrite replaces nothing else"):
        converted(run, tmp_path / "notes", "hf", overwrite=True)
    assert (out / "tokenizer.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "out"]
    (tmp_path / "empty").mkdir()
    converted(run, tmp_path / "empty", "hf")


@pytest.mark.parametrize("to", ["t5x", "orbax", "hf"])
def test_when_writing_fails_what_was_there_stays_and_nothing_else(run, tmp_path, monkeypatch, to):
    out = tmp_path / "new" / "out"
    sink = {"t5x": t5x_write.LegacySink, "orbax": t5x_write.OrbaxSink, "hf": hugging_face.Sink}[to]
    real, written = sink.write, []

    def full(self, name, *args):
        written.append(name)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        real(self, name, *args)

    monkeypatch.setattr(sink, "write", full)
    with pytest.raises(errors.FlanError, match=r"out.*: .*: cannot be written: .*No space left on device"):
        converted(run, out, to)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    converted(run, out, to)
    before = sorted((path.name, path.read_bytes()) for path in out.rglob("*") if path.is_file())
    written.clear()
    monkeypatch.setattr(sink, "write", full)
    with pytest.raises(errors.FlanError, match="cannot be written"):
        converted(run, out, to, overwrite=True)
    assert sorted((path.name, path.read_bytes()) for path in out.rglob("*") if path.is_file()) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["t5x", "orbax", "hf"])
def test_what_is_read_back_otherwise_than_written_is_noticed(run, tmp_path, monkeypatch, to):
    sink = {"t5x": t5x_write.LegacySink, "orbax": t5x_write.OrbaxSink, "hf": hugging_face.Sink}[to]
    real = sink.write

    def altered(self, name, value, *args):
        if "encoder.final_layer_norm" in name or "target.encoder.encoder_norm" in name:
            value = value * np.float32(1 + 1e-6)
        real(self, name, value, *args)

    monkeypatch.setattr(sink, "write", altered)
    with pytest.raises(errors.FlanError, match=r"norm\S* was not read back as it was written"):
        converted(run, tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_continued_in_place_from_what_was_converted(run, tmp_path):
    converted(run, tmp_path / "checkpoint_7", "orbax")
    with pytest.raises(errors.FlanError, match=r"flan convert\?.*INITIAL_CHECKPOINT_PATH"):
        manager.resolve_restore(tmp_path, None, fallback_to_scratch=True)
    assert (tmp_path / "checkpoint_7").is_dir()


def test_a_converted_checkpoint_that_is_altered_is_noticed(run, tmp_path):
    converted(run, tmp_path / "out", "orbax")
    file = max((tmp_path / "out" / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(manager.BrokenCheckpoint, match=r"altered after it was saved|cannot be read"):
        manager.restore_from(tmp_path / "out", toy.abstract(toy.T5))


@pytest.mark.parametrize(("source", "to"), [("hf", "orbax"), ("hf", "t5x"), ("t5x", "hf")])
def test_a_few_tensors_are_in_memory_at_a_time(tmp_path, monkeypatch, source, to):
    """Of a model of 14 MB whose largest tensor has 1 MB; NumPy's arrays and JAX's, which is what grows with the model."""
    config = dataclasses.replace(toy.T5, vocab_size=2048, emb_dim=128, mlp_dim=512, num_encoder_layers=12)
    path = toy.save_hugging_face(tmp_path / "hf", config)
    if source == "t5x":
        converted(path, tmp_path / "source", "t5x", layers="separate")
        path = tmp_path / "source"
    total = sum(value.nbytes for value in toy.params(config).values())
    convert.convert(path, tmp_path / "out", to=to, dry_run=True)  # traces the model
    gc.collect()
    real, before, live = sources.value, sum(array.nbytes for array in jax.live_arrays()), []

    def value(*args):
        live.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        return real(*args)

    monkeypatch.setattr(sources, "value", value)
    tracemalloc.start()
    result = converted(path, tmp_path / "out", to, layers="stacked" if to == "orbax" else None, verify=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.difference == 0
    assert result.largest > 0.1
    assert peak < total / 2
    assert len(live) > 2 * len(toy.params(config))
    assert max(live) < total / 4
    shutil.rmtree(tmp_path)
