"""Damaged checkpoints of each format: one line that names tensor and file, exit code 1, and nothing is written."""

import gc
import json
import os
import re
import shutil

import msgpack
import numpy as np
import pytest

from flan_jax import cli
from tests.checkpoint import toy_checkpoints as toy

EMBEDDING = "target.token_embedder.embedding"
WI = "target.encoder.layers_1.mlp.wi_0.kernel"
SLOT = "state.param_states.decoder.decoder_norm.scale.v"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undamaged checkpoint of each format."""
    root = tmp_path_factory.mktemp("whole")
    return {
        "t5x": toy.save_legacy(root / "t5x", toy.T5),
        "orbax": toy.save_run(root / "orbax", toy.T5),
        "hf": toy.save_hugging_face(root / "hf", toy.T5, shard_bytes=40_000),
        "hf_single": toy.save_hugging_face(root / "hf_single", toy.T5_RELU),
    }


def cut(path, size=None):
    os.truncate(path, path.stat().st_size // 2 if size is None else size)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def edit(path, change):
    """Changes a JSON file."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def edit_index(folder, change):
    """Changes the msgpack index of a legacy checkpoint."""
    content = msgpack.unpackb((folder / "checkpoint").read_bytes())
    change(content["optimizer"])
    (folder / "checkpoint").write_bytes(msgpack.packb(content))


def rename_index(folder, data):
    (folder / "checkpoint").write_bytes(data)


def packed(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


# What is done to the folder -> what the message says.
T5X = {
    "not a checkpoint": (lambda c: (c / "checkpoint").unlink(), ["t5x is not a checkpoint"]),
    "empty index": (lambda c: (c / "checkpoint").write_bytes(b""), ["t5x/checkpoint: not an index of T5X"]),
    "index cut": (lambda c: cut(c / "checkpoint"), ["t5x/checkpoint: not an index of T5X"]),
    "index is text": (lambda c: (c / "checkpoint").write_bytes(b"hello"), ["t5x/checkpoint: not an index of T5X"]),
    "index head flipped": (lambda c: flip(c / "checkpoint", 0), ["t5x/checkpoint: not an index of T5X"]),
    "index without parameters": (
        lambda c: edit_index(c, lambda o: o["target"].clear()),
        ["t5x/checkpoint: it names no parameter"],
    ),
    "array folder gone": (lambda c: shutil.rmtree(c / EMBEDDING), [f"tensor {EMBEDDING}", f"t5x/{EMBEDDING}"]),
    "metadata gone": (lambda c: (c / WI / ".zarray").unlink(), [f"tensor {WI}", ".zarray", "does not exist"]),
    "metadata cut": (lambda c: cut(c / WI / ".zarray"), [f"tensor {WI}", "Invalid JSON"]),
    "metadata of another shape": (
        lambda c: edit(c / WI / ".zarray", lambda z: {**z, "shape": [32, 24]}),
        [f"tensor {WI}", 'Expected "shape" of [32,48] but received: [32,24]'],
    ),
    "metadata of another dtype": (
        lambda c: edit(c / WI / ".zarray", lambda z: {**z, "dtype": "<i4"}),
        [f"tensor {WI}", "dtype from metadata (int32) does not match dtype in schema (float32)"],
    ),
    "chunk gone": (lambda c: (c / WI / "0.0").unlink(), [f"tensor {WI}", f"t5x/{WI}: 0.0 is missing"]),
    "chunk cut": (lambda c: cut(c / WI / "0.0"), [f"tensor {WI}", "0.0"]),
    "chunk empty": (lambda c: cut(c / WI / "0.0", 0), [f"tensor {WI}", "0.0"]),
    "chunk head flipped": (lambda c: flip(c / WI / "0.0", 0), [f"tensor {WI}", "0.0"]),
    "chunk middle flipped": (lambda c: flip(c / WI / "0.0", 2000), [f"tensor {WI}", "0.0"]),
    "chunk end flipped": (lambda c: flip(c / EMBEDDING / "0.0", -5), [f"tensor {EMBEDDING}", "0.0"]),
    "parameter not in the index": (
        lambda c: edit_index(c, lambda o: o["target"]["decoder"].pop("decoder_norm")),
        ["missing: target.decoder.decoder_norm.scale"],
    ),
    "unknown parameter": (
        lambda c: edit_index(c, lambda o: o["target"].update(more=o["target"]["token_embedder"])),
        ["unknown: target.more.embedding"],
    ),
    "whole tensor of integers": (
        lambda c: [
            edit_index(
                c, lambda o: o["target"]["encoder"]["encoder_norm"].update(scale=packed([32], "int32", bytes(128)))
            )
        ],
        ["float16: target.encoder.encoder_norm.scale is int32 in ", "t5x/checkpoint"],
    ),
    "inside array too short": (
        lambda c: edit_index(
            c, lambda o: o["target"]["encoder"]["encoder_norm"].update(scale=packed([32], "float32", bytes(100)))
        ),
        ["tensor target.encoder.encoder_norm.scale", "t5x/checkpoint: not an array"],
    ),
    "inside array of no known dtype": (
        lambda c: edit_index(
            c, lambda o: o["target"]["encoder"]["encoder_norm"].update(scale=packed([32], "float31", bytes(128)))
        ),
        ["tensor target.encoder.encoder_norm.scale", "t5x/checkpoint: not an array"],
    ),
    "heads that do not divide": (
        lambda c: edit_index(
            c,
            lambda o: o["target"]["encoder"]["relpos_bias"].update(
                rel_embedding=packed([5, 32], "float32", bytes(640))
            ),
        ),
        ["encoder/relpos_bias/rel_embedding is (5, 32)"],
    ),
    "slot gone": (lambda c: shutil.rmtree(c / SLOT), [f"tensor {SLOT}", f"t5x/{SLOT}"]),
    "slot cut": (lambda c: cut(c / SLOT / "0"), [f"tensor {SLOT}", "0"]),
    "slot of another shape": (
        lambda c: edit_index(
            c,
            lambda o: o["state"]["param_states"]["decoder"]["decoder_norm"]["scale"].update(
                v=packed([31], "float32", bytes(124))
            ),
        ),
        [f"tensor {SLOT}", "t5x/checkpoint: float32 (31,) does not fit its parameter"],
    ),
    "step that is no number": (
        lambda c: edit_index(c, lambda o: o["state"].update(step=packed([2], "int32", bytes(8)))),
        ["tensor state.step", "int32 (2,) does not fit"],
    ),
}


def entries(c, change):
    edit(c / "state" / "_METADATA", lambda m: change(m["tree_metadata"]))


def entry(name):
    return str(tuple(name.split(".")))


def data_files(c):
    """The files with array data, biggest first."""
    found = [path for path in (c / "state").rglob("*") if path.parent.name == "d"]
    return sorted(found, key=lambda path: -path.stat().st_size)


def every(paths, change):
    for path in paths:
        change(path)


ORBAX = {
    "not a checkpoint": (lambda c: (c / "state" / "_METADATA").unlink(), ["state/_METADATA is missing"]),
    "state gone": (lambda c: shutil.rmtree(c / "state"), ["state/_METADATA is missing"]),
    "index empty": (lambda c: cut(c / "state" / "_METADATA", 0), ["state/_METADATA: cannot be read"]),
    "index cut": (lambda c: cut(c / "state" / "_METADATA"), ["state/_METADATA: cannot be read"]),
    "index head flipped": (lambda c: flip(c / "state" / "_METADATA", 0), ["state/_METADATA: cannot be read"]),
    "index is a list": (lambda c: edit(c / "state" / "_METADATA", lambda m: [1]), ["state/_METADATA: cannot be read"]),
    "index without names": (
        lambda c: edit(c / "state" / "_METADATA", lambda m: {**m, "tree_metadata": {}}),
        ["state/_METADATA: it names no array"],
    ),
    "index entry without keys": (
        lambda c: entries(c, lambda t: t[entry(WI)].pop("key_metadata") and None),
        ["state/_METADATA: cannot be read"],
    ),
    "parameter not in the index": (
        lambda c: entries(c, lambda t: t.pop(entry(EMBEDDING)) and None),
        ["orbax: not a model of ours: one has token_embedder/embedding"],
    ),
    "layer not in the index": (lambda c: entries(c, lambda t: t.pop(entry(WI)) and None), [f"missing: {WI}"]),
    "index names what is not there": (
        lambda c: entries(c, lambda t: t[entry(WI)]["key_metadata"][-1].update(key="kernle")),
        ["tensor target.encoder.layers_1.mlp.wi_0.kernle", "does not exist"],
    ),
    "manifest gone": (lambda c: (c / "state" / "manifest.ocdbt").unlink(), ["tensor ", "state"]),
    "manifest empty": (lambda c: cut(c / "state" / "manifest.ocdbt", 0), ["tensor ", "manifest.ocdbt"]),
    "manifest cut": (lambda c: cut(c / "state" / "manifest.ocdbt"), ["tensor ", "manifest.ocdbt"]),
    "manifest flipped": (lambda c: flip(c / "state" / "manifest.ocdbt", 20), ["tensor ", "manifest.ocdbt"]),
    "data file gone": (lambda c: data_files(c)[0].unlink(), ["tensor ", "state"]),
    "all data files gone": (lambda c: every(data_files(c), lambda path: path.unlink()), ["tensor ", "state"]),
    "data file cut": (lambda c: cut(data_files(c)[0]), ["tensor ", "state"]),
    "data files empty": (lambda c: every(data_files(c), lambda path: cut(path, 0)), ["tensor ", "state"]),
    "data files flipped": (lambda c: every(data_files(c), lambda path: flip(path, 3)), ["tensor ", "state"]),
    "middle of the data files flipped": (
        # Where there is no checksum of a block, the fingerprints of the arrays see it.
        lambda c: every(data_files(c), lambda path: flip(path, path.stat().st_size // 2)),
        ["tensor ", "state"],
    ),
    "notes are no JSON": (lambda c: cut(c / "_CHECKPOINT_METADATA"), ["_CHECKPOINT_METADATA: cannot be read"]),
}


def header(path, change):
    """Changes the header of a safetensors file and leaves its data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + size])
    text = json.dumps(change(content) or content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def shard_of(c, name):
    return c / json.loads((c / "model.safetensors.index.json").read_text())["weight_map"][name]


Q = "encoder.block.1.layer.0.SelfAttention.q.weight"


def field(name, **changed):
    return lambda h: h[name].update(changed)


def shards(c, change):
    edit(c / "model.safetensors.index.json", lambda i: change(i["weight_map"]) and None)


def with_more(h):
    end = max(entry["data_offsets"][1] for name, entry in h.items() if name != "__metadata__")
    h["more"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


HF = {
    "no config": (lambda c: (c / "config.json").unlink(), ["hf is not the folder of a Hugging Face model"]),
    "config cut": (lambda c: cut(c / "config.json"), ["hf/config.json: cannot be read"]),
    "config is a list": (lambda c: (c / "config.json").write_text("[]"), ["hf/config.json: expected a JSON object"]),
    "config of another model": (
        lambda c: edit(c / "config.json", lambda j: {**j, "model_type": "bert"}),
        ["hf/config.json: unknown model_type 'bert'"],
    ),
    "config of another size": (
        lambda c: edit(c / "config.json", lambda j: {**j, "d_ff": 64}),
        ["of another shape", "DenseReluDense.wi_0.weight is (48, 32), expected (64, 32)"],
    ),
    "config of more layers": (
        lambda c: edit(c / "config.json", lambda j: {**j, "num_layers": 4}),
        ["missing: encoder.block.3."],
    ),
    "no index": (
        lambda c: (c / "model.safetensors.index.json").unlink(),
        ["hf has neither model.safetensors nor model.safetensors.index.json"],
    ),
    "index cut": (lambda c: cut(c / "model.safetensors.index.json"), ["index.json: cannot be read"]),
    "index empty": (
        lambda c: edit(c / "model.safetensors.index.json", lambda i: {**i, "weight_map": {}}),
        ["hf/model.safetensors.index.json: its weight_map is empty"],
    ),
    "index names a path": (
        lambda c: shards(c, lambda m: m.update({Q: "../hf_single/model.safetensors"}) is None),
        [f"tensor {Q}", "expected a file beside it"],
    ),
    "index names the wrong shard": (
        lambda c: shards(c, lambda m: m.update({Q: m["lm_head.weight"]}) is None),
        [f"tensor {Q}", "not in the file"],
    ),
    "index lacks a tensor": (
        lambda c: shards(c, lambda m: m.pop(Q)),
        [f"tensor {Q}", "in the file, but not so in model.safetensors.index.json"],
    ),
    "shard gone": (lambda c: shard_of(c, Q).unlink(), ["tensor ", ".safetensors: the file is missing"]),
    "shard empty": (lambda c: cut(shard_of(c, Q), 0), [".safetensors: not a safetensors file"]),
    "shard cut in its header": (lambda c: cut(shard_of(c, Q), 300), [".safetensors: not a safetensors file"]),
    "shard cut in its data": (
        lambda c: cut(shard_of(c, Q), shard_of(c, Q).stat().st_size - 100),
        ["tensor ", ".safetensors: cut off: it ends at byte"],
    ),
    "shard too long": (
        lambda c: shard_of(c, Q).write_bytes(shard_of(c, Q).read_bytes() + b"more"),
        [".safetensors: its tensors end at byte"],
    ),
    "header length flipped": (lambda c: flip(shard_of(c, Q), 5), [".safetensors: not a safetensors file"]),
    "header flipped": (lambda c: flip(shard_of(c, Q), 8), [".safetensors: not a safetensors file: its header"]),
    "header of a list": (lambda c: header(shard_of(c, Q), lambda h: [1]), ["its header is no JSON object"]),
    "tensor without offsets": (
        lambda c: header(shard_of(c, Q), lambda h: h[Q].pop("data_offsets") and None),
        [f"tensor {Q}", "its header entry is"],
    ),
    "tensor of another shape": (
        lambda c: header(shard_of(c, Q), field(Q, shape=[32, 16])),
        [f"tensor {Q}", "F32 (32, 16) takes 2048 bytes"],
    ),
    "tensor turned": (
        lambda c: header(shard_of(c, "lm_head.weight"), field("lm_head.weight", shape=[32, 67])),
        ["of another shape: lm_head.weight is (32, 67), expected (67, 32)"],
    ),
    "tensor of another dtype": (
        lambda c: header(shard_of(c, Q), field(Q, dtype="I32")),
        [f"float16: {Q} is int32 in ", ".safetensors"],
    ),
    "tensor of no known dtype": (
        lambda c: header(shard_of(c, Q), field(Q, dtype="F31")),
        [f"tensor {Q}", "dtype 'F31' is not known"],
    ),
    "tensors overlap": (
        lambda c: header(shard_of(c, Q), lambda h: h[Q].update(data_offsets=[0, 4096])),
        ["tensor ", "it begins at byte"],
    ),
    "tensor elsewhere": (
        lambda c: header(shard_of(c, Q), lambda h: h[Q].update(data_offsets=[10**9, 10**9 + 4096])),
        [f"tensor {Q}", "cut off"],
    ),
    "tensor of a negative size": (
        lambda c: header(shard_of(c, Q), lambda h: h[Q].update(shape=[-32, -32])),
        [f"tensor {Q}", "takes"],
    ),
}

SINGLE = {
    "tensor missing": (
        lambda c: header(c / "model.safetensors", lambda h: h.update(other=h.pop("shared.weight"))),
        ["missing: shared.weight", "unknown: other"],
    ),
    "unknown tensor": (lambda c: header(c / "model.safetensors", with_more), ["unknown: more"]),
    "pickled": (
        lambda c: (c / "model.safetensors").rename(c / "pytorch_model.bin"),
        ["it holds pytorch_model.bin, which is not read"],
    ),
    "empty": (lambda c: cut(c / "model.safetensors", 0), ["model.safetensors: not a safetensors file"]),
}

DAMAGE = {"t5x": T5X, "orbax": ORBAX, "hf": HF, "hf_single": SINGLE}


@pytest.mark.parametrize(("kind", "damage"), [(kind, damage) for kind, table in DAMAGE.items() for damage in table])
def test_damage_is_told_in_one_line_and_nothing_is_written(whole, tmp_path, capsys, kind, damage):
    spoil, said = DAMAGE[kind][damage]
    source = tmp_path / kind
    shutil.copytree(whole[kind], source)
    spoil(source)
    to = "orbax" if kind == "t5x" else "t5x"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", f"--in={source}", f"--out={tmp_path}/new/checkpoint_0", f"--to={to}", "--no_verify"])
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " convert: " not in line]
    assert line.startswith("flan: ")
    for part in said:
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_twenty_of_each_format():
    assert all(len(DAMAGE[kind]) >= 20 for kind in ("t5x", "orbax", "hf"))


def code(flags):
    """The exit code of a command."""
    try:
        return cli.main(flags)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("kind", ["t5x", "orbax", "hf"])
def test_random_bytes_never_give_another_kind_of_error(whole, tmp_path, capsys, kind):
    """Flips and cuts anywhere: refused in one line with nothing written, or not seen at all."""
    random = np.random.default_rng(0)
    refused = 0
    for round_ in range(12):
        source = tmp_path / str(round_) / kind
        shutil.copytree(whole[kind], source)
        files = sorted(path for path in source.rglob("*") if path.is_file() and path.stat().st_size)
        path = files[random.integers(len(files))]
        at = int(random.integers(path.stat().st_size))
        cut(path, at) if round_ % 2 else flip(path, at)
        to = "hf" if kind == "t5x" else "t5x"
        flags = ["convert", f"--in={source}", f"--out={source.parent}/out", f"--to={to}", "--no_verify"]
        said = code(flags), capsys.readouterr().err
        if said[0]:
            refused += 1
            assert said[0] == 1
            assert [path.name for path in source.parent.iterdir()] == [kind]
            assert sum(line.startswith("flan: ") for line in said[1].splitlines()) == 1
    assert refused


# See `drops_coroutines` in test_manager.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_whoever_asks_a_model_is_told_which_array_cannot_be_read(run_dir, tmp_path, capsys, damage):
    """Orbax tells a place within an array and dumps its TensorStore, not the array."""
    shutil.copytree(run_dir, tmp_path / "run")
    file = data_files(tmp_path / "run" / "checkpoint_7")[0]
    (cut if damage == "cut" else os.unlink)(file)
    assert code(["chat", f"--checkpoint={tmp_path / 'run'}", "--max_tokens=3"]) == 1
    gc.collect()
    (line,) = capsys.readouterr().err.splitlines()
    state = tmp_path / "run" / "checkpoint_7" / "state"
    named = re.search(rf"tensor (target\.\S+): {re.escape(str(state))}: array data cannot be read: ", line)
    # What TensorStore said is of this array, and names what is on the disk.
    assert named
    assert named[1] in line[named.end() :] or file.name in line[named.end() :]
    assert "TensorStore(" not in line
    assert "See full" not in line
