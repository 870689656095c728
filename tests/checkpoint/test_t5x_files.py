"""T5X's checkpoints: those that the real T5X wrote read back bit for bit, and a run goes on from them."""

import functools
import json

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization

from flan_jax import errors
from flan_jax.checkpoint import convert, fingerprint, manager, t5x_files, t5x_tree, tensors
from flan_jax.models import api
from flan_jax.training import loss
from tests import golden_numbers
from tests.checkpoint import toy_checkpoints as toy

REAL = golden_numbers.FOLDER / "t5x_legacy"
FACTORED = {
    "emb_dim": 128,
    "num_heads": 2,
    "head_dim": 64,
    "mlp_dim": 160,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
}
# Folder of ../shared/goldens, layout -> the model's sizes where they are not those of `golden_numbers.config`.
GOLDENS = {("encdec", "legacy"): {}, ("encdec", "orbax"): {}, ("encdec_factored", "legacy"): FACTORED}


def test_arrays_that_t5x_wrote_are_read_bit_for_bit():
    reader = t5x_files.Reader(REAL / "checkpoint_10")
    expected = json.loads((REAL / "fingerprints.json").read_text())
    assert set(reader.tensors) == set(expected)
    for name, (shape, dtype, mark) in expected.items():
        value = reader.read(name)
        assert (list(value.shape), value.dtype.name) == (shape, dtype), name
        assert fingerprint.of_part(value, value.shape) == mark, name
    assert reader.read("state.step") == 10
    wo = "target.encoder.layers_0.mlp.wo.kernel"
    np.testing.assert_array_equal(reader.read(wo, (slice(3, 9), slice(None))), reader.read(wo)[3:9])


def golden(folder, layout):
    """Path of a checkpoint of the real T5X at step 10, and what it holds according to the npz files beside it."""
    files = {kind: golden_numbers.full(f"{folder}/adafactor_step10_{kind}.npz") for kind in ("params", "param_states")}
    state = {"step": jnp.int32(10), "param_states": golden_numbers.tree(files["param_states"])}
    tree = {"target": golden_numbers.tree(files["params"]), "state": state}
    return golden_numbers.full(f"{folder}/ckpt/{layout}/checkpoint_10"), tree


@pytest.mark.parametrize(("folder", "layout"), GOLDENS)
def test_checkpoints_of_t5x_restore_bit_for_bit(folder, layout):
    path, expected = golden(folder, layout)
    decision = manager.resolve_restore(path.parent / "no_run", path)
    assert (decision.source, decision.step) == ("initial_checkpoint", 10)
    assert manager.resolve_restore(path.parent / "no_run", path.parent, "latest").path == str(path)
    restored = manager.restore_from(path, toy.abstract(golden_numbers.config(**GOLDENS[folder, layout])))
    toy.assert_same_bits(flat(restored), flat(expected))


def flat(tree):
    return {at: np.asarray(leaf) for at, leaf in tensors.flat(tree).items()}


@functools.partial(jax.jit, static_argnums=0)
def train_step(config, tree, batch):
    """One update of a checkpoint's tree, as T5X made the golden ones: constant rate, loss summed."""
    weights, divisor = loss.weights_and_divisor(None, batch)

    def objective(params):
        return loss.loss_and_sums(api.logits(config, params, batch), batch, weights, divisor, z_loss=1e-4)[0]

    value, grads = jax.value_and_grad(objective)(tree["target"])
    state = tree["state"]
    params, slots = toy.adafactor(config).update(grads, state["param_states"], tree["target"], state["step"], 1e-3)
    return value, {"target": params, "state": {"step": state["step"] + 1, "param_states": slots}}


def trained(config, tree, steps):
    losses = []
    for _ in range(steps):
        value, tree = train_step(config, tree, golden_numbers.batch("packed"))
        losses.append(float(value))
    return tree, losses


def fresh(config):
    params = golden_numbers.params()
    return {"target": params, "state": {"step": jnp.int32(0), "param_states": toy.adafactor(config).init(params)}}


@pytest.fixture(scope="module")
def uninterrupted():
    """Ten steps from T5X's first parameters, with the state after five."""
    config = golden_numbers.config()
    half, losses = trained(config, fresh(config), 5)
    whole, more = trained(config, half, 5)
    return half, whole, losses + more


@pytest.mark.parametrize("layout", ["t5x", "orbax"])
def test_a_run_continued_from_a_converted_checkpoint_gives_t5x_numbers(uninterrupted, tmp_path, layout):
    config = golden_numbers.config()
    half, whole, _ = uninterrupted
    with manager.CheckpointManager(tmp_path / "run", keep=1, period=5) as checkpoints:
        checkpoints.save(5, half, {})
    other = "orbax" if layout == "t5x" else "t5x"
    convert.convert(tmp_path / "run" / "checkpoint_5", tmp_path / "a" / "checkpoint_5", to=other, verify=False)
    convert.convert(tmp_path / "a" / "checkpoint_5", tmp_path / "b" / "checkpoint_5", to=layout, verify=False)
    restored = manager.restore_from(tmp_path / "b" / "checkpoint_5", toy.abstract(config))
    assert int(restored["state"]["step"]) == 5
    last, losses = trained(config, restored, 5)
    np.testing.assert_allclose(
        losses, golden_numbers.summary()["encdec"]["adafactor_losses_before_each_step"][5:10], rtol=1e-6
    )
    expected = golden_numbers.expected("adafactor_step10_params")
    np.testing.assert_allclose(golden_numbers.sampled(last["target"]), expected, rtol=0, atol=1e-5)
    toy.assert_same_bits(flat(last), flat(whole))


@pytest.mark.parametrize("layout", ["legacy", "orbax"])
def test_a_run_of_t5x_is_continued(uninterrupted, layout):
    """T5X's own state at step 10 is ours to its tolerance, and so are three steps more from it."""
    path, _ = golden("encdec", layout)
    config = golden_numbers.config()
    restored = manager.restore_from(path, toy.abstract(config))
    _, whole, _ = uninterrupted
    now, losses = trained(config, restored, 3)
    ours, expected = trained(config, whole, 3)
    assert int(now["state"]["step"]) == 13
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert losses[-1] < losses[0]
    for at, value in flat(now["target"]).items():
        np.testing.assert_allclose(value, flat(ours["target"])[at], rtol=0, atol=1e-5, err_msg="/".join(at))


def test_legacy_arrays_lie_on_the_devices_that_ask_for_them(tmp_path):
    path = toy.save_legacy(tmp_path / "checkpoint_7", toy.T5)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("a", "b"))

    def place(leaf):
        axes = [
            name if size % {"a": 4, "b": 2}[name] == 0 else None for name, size in zip("ab", leaf.shape, strict=False)
        ]
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    wanted = jax.tree.map(place, toy.abstract(toy.T5))
    restored = manager.restore_from(path, wanted)
    jax.tree.map(
        lambda leaf, asked: leaf.sharding.is_equivalent_to(asked.sharding, leaf.ndim) or 1 / 0, restored, wanted
    )
    toy.assert_same_bits(flat(restored), flat(toy.run_state(toy.T5)))
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), toy.abstract(toy.T5)["target"])
    params = manager.restore_from(path, {"target": half}, params_only=True)["target"]
    toy.assert_same_bits(flat(params), {at: v.astype(jnp.bfloat16) for at, v in toy.params(toy.T5).items()})


def test_a_legacy_checkpoint_of_another_model_names_the_tensors(tmp_path):
    path = toy.save_legacy(tmp_path / "checkpoint_7", toy.T5)
    with pytest.raises(errors.FlanError, match=r"not fit the model.*target.decoder.logits_dense.kernel \(32, 67\)"):
        manager.restore_from(path, toy.abstract(toy.T5_RELU))
    scanned = api.T5Config(**{**vars(toy.T5), "scan_layers": True})
    with pytest.raises(errors.FlanError, match=r"one has stacked layers.*flan convert --layers$"):
        manager.restore_from(path, toy.abstract(scanned))
    bare = toy.abstract(toy.T5)
    bare["state"]["param_states"] = {}
    with pytest.raises(errors.FlanError, match=r"params_only = True leaves the optimizer's state$"):
        manager.restore_from(path, bare)


def test_arrays_inside_the_index_are_read(tmp_path, monkeypatch):
    """T5X keeps what it does not partition in the index, as flax writes it: whole, or from 1 GiB on in pieces."""
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    tree = jax.tree.map(np.asarray, toy.run_state(toy.T5_RELU))
    tree["state"]["step"] = np.int32(7)  # a NumPy scalar has a code of its own
    tree["target"]["token_embedder"]["embedding"] = np.asarray(
        tree["target"]["token_embedder"]["embedding"], jnp.bfloat16
    )
    expected = flat(tree)
    data = serialization.msgpack_serialize({"version": 3, "optimizer": tree, "flax_mutables": None})
    (tmp_path / "checkpoint").write_bytes(data)
    reader = t5x_files.Reader(tmp_path)
    toy.assert_same_bits(toy.read_all(reader), {".".join(at): value for at, value in expected.items()})


def test_what_we_write_is_laid_out_as_t5x_lays_it_out(tmp_path):
    """The same kinds of leaves in the index, and the same metadata of the arrays, as in the file of the real T5X."""
    theirs = msgpack.unpackb((REAL / "checkpoint_10" / "checkpoint").read_bytes())["optimizer"]
    toy.save_legacy(tmp_path / "checkpoint_7", toy.T5)
    content = msgpack.unpackb((tmp_path / "checkpoint_7" / "checkpoint").read_bytes())
    assert content["version"] == 3

    def kinds(tree):
        found = {}
        for at, leaf in tensors.flat({"target": tree["target"], **tree["state"]}).items():
            place, leaf_name = ("spec", at[: at.index("driver")]) if "driver" in at else ("array", at)
            if "kvstore" not in at and "metadata" not in at and "dtype" not in at:
                found[leaf_name] = (place, type(leaf).__name__)
        return found

    ours, golden_kinds = kinds(content["optimizer"]), kinds(theirs)
    shared = set(ours) & set(golden_kinds)
    # The golden's `wo` is wide enough to be factored, so its whole moment is a placeholder.
    shared -= {at for at in shared if at[-4:] == ("mlp", "wo", "kernel", "v")}
    assert len(shared) == 25
    assert {at: ours[at] for at in shared} == {at: golden_kinds[at] for at in shared}
    scale = "target.encoder.encoder_norm.scale/.zarray"
    metadata = [json.loads((at / scale).read_text()) for at in (REAL / "checkpoint_10", tmp_path / "checkpoint_7")]
    assert {**metadata[0], "shape": 0, "chunks": 0} == {**metadata[1], "shape": 0, "chunks": 0}
    assert theirs["target"]["encoder"]["encoder_norm"]["scale"].keys() == (
        content["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"].keys()
    )


def test_a_path_out_of_the_checkpoint_is_refused(tmp_path):
    toy.save_legacy(tmp_path / "checkpoint_7", toy.T5_RELU)
    index = tmp_path / "checkpoint_7" / "checkpoint"
    content = msgpack.unpackb(index.read_bytes())
    spec = content["optimizer"]["target"]["token_embedder"]["embedding"]
    for path in ("../elsewhere/", "/etc/", "a/../../b", ""):
        spec["kvstore"]["path"] = path
        index.write_bytes(msgpack.packb(content))
        with pytest.raises(manager.BrokenCheckpoint, match=r"token_embedder.embedding.*folder of the checkpoint"):
            t5x_files.Reader(tmp_path / "checkpoint_7")


def test_what_a_cast_stands_before_is_read(tmp_path):
    """T5X notes a dtype that it does not store by a TensorStore driver around the array's."""
    toy.save_legacy(tmp_path / "checkpoint_7", toy.T5_RELU)
    index = tmp_path / "checkpoint_7" / "checkpoint"
    content = msgpack.unpackb(index.read_bytes())
    embedder = content["optimizer"]["target"]["token_embedder"]
    embedder["embedding"] = {"driver": "cast", "dtype": "bfloat16", "base": embedder["embedding"]}
    index.write_bytes(msgpack.packb(content))
    reader = t5x_files.Reader(tmp_path / "checkpoint_7")
    assert reader.tensors["target.token_embedder.embedding"].dtype == np.float32


def test_the_model_is_inferred(tmp_path):
    for name, config in {"t5": toy.T5, "relu": toy.T5_RELU, "decoder": toy.DECODER_ONLY}.items():
        reader = t5x_files.Reader(toy.save_legacy(tmp_path / name, config))
        assert t5x_tree.infer(reader.tensors, tmp_path)[0] == config
    reader = t5x_files.Reader(toy.save_legacy(tmp_path / "opt", toy.OPT))
    with pytest.raises(errors.FlanError, match=r"do not tell how many heads.*give --model or --gin_file"):
        t5x_tree.infer(reader.tensors, tmp_path)


@pytest.mark.parametrize("name", ["opt_350m", "llama_65b", "palm_8b", "opt_1.3b"])
def test_published_sizes_are_recognised(name):
    from flan_jax.models import presets

    config = presets.decoder_only_config(name)
    shapes = {
        ".".join(("target", *at)): tensors.Stored(shape, np.dtype(np.float32))
        for at, shape in tensors.parameters(config).items()
    }
    assert t5x_tree.infer(shapes, "x") == (config, f"recognised as the preset {name} by its sizes")
