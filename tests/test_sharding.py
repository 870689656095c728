"""The mesh and the table of axes; eight devices compute what one does."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flan_jax import errors, sharding
from flan_jax.models import api, presets
from flan_jax.training import loss
from tests import golden_numbers, golden_shardings

MESH = {"data": 2, "fsdp": 2, "model": 2}


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "mlp"), (8, 8), PartitionSpec("fsdp", "model")),
        (("vocab", "embed"), (8, 8), PartitionSpec("model", "fsdp")),
        (("batch", "length", "activation_embed"), (8, 4, 4), PartitionSpec(("data", "fsdp"), None, None)),
        # 6 rows divide by data but not by data x fsdp; 7 heads by nothing.
        (("batch", "heads"), (6, 7), PartitionSpec("data", None)),
        # A mesh axis is used once per array.
        (("batch", "embed"), (8, 8), PartitionSpec(("data", "fsdp"), None)),
        ((None, "vocab"), (8, 8), PartitionSpec(None, "model")),
    ],
)
def test_axes_follow_the_table_where_they_divide(axes, shape, expected):
    assert sharding.spec(axes, shape, MESH) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharding.make_mesh(data=3, model=2), "data=3.*8 devices.*multiply to 6"),
        (lambda: sharding.make_mesh(data=-1, model=3), "expected a divisor of 8"),
        (lambda: sharding.make_mesh(data=-1, fsdp=-1), "at most one of them -1"),
        (lambda: sharding.make_mesh(data=0), "positive"),
        (lambda: sharding.spec(("embd",), (4,), MESH), "did you mean 'embed'"),
        (lambda: sharding.spec(("embed",), (4, 4), MESH), "the array has 2"),
    ],
)
def test_mistakes_name_what_was_given(call, message):
    with pytest.raises(errors.FlanError, match=message):
        call()


def test_the_free_axis_takes_the_remaining_devices():
    assert dict(sharding.make_mesh(model=2).shape) == {"data": 4, "fsdp": 1, "model": 2}
    assert dict(sharding.make_mesh(data=1, fsdp=-1, devices=jax.devices()[:4]).shape) == {
        "data": 1,
        "fsdp": 4,
        "model": 1,
    }


def test_every_parameter_of_every_preset_lies_where_the_golden_file_says():
    golden = pathlib.Path(__file__).parent / "golden" / "shardings.txt"
    expected, found = golden.read_text(encoding="utf-8").splitlines(), golden_shardings.text().splitlines()
    assert [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]] == []
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        (None, "activation_embed", ()),
        ("standard", "activation_embed", ()),
        ("split_residual", "activation_embed", ("model",)),
        ({"mlp": ["model", "fsdp"]}, "mlp", ("model", "fsdp")),
        # As T5X writes them.
        ([("embed", None), ("heads", "model")], "embed", ()),
        ([("embed", None), ("heads", "model")], "vocab", ("model",)),
    ],
)
def test_a_table_is_chosen_by_name_or_changed_in_part(given, name, expected):
    assert sharding.table(given)[name] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("split_residuals", "did you mean 'split_residual'"),
        ({"embd": "fsdp"}, "did you mean 'embed'"),
        ({"embed": "modell"}, "unknown mesh axis 'modell'; did you mean 'model'"),
    ],
)
def test_mistakes_in_a_table_get_a_hint(given, message):
    with pytest.raises(errors.FlanError, match=message):
        sharding.table(given)


def test_the_table_in_scope_is_part_of_what_jit_remembers():
    mesh = sharding.make_mesh(data=1, fsdp=2, model=4)
    fix = jax.jit(lambda x: sharding.constrain(x, ("batch", "length", "activation_embed")))
    parts = []
    for table in ("standard", "split_residual", "standard"):
        with sharding.use(mesh, sharding.table(table)):
            parts.append(fix(jnp.ones((2, 4, 8))).addressable_shards[0].data.shape)
    assert parts == [(1, 4, 8), (1, 4, 2), (1, 4, 8)]


@pytest.mark.parametrize("preset", ["small", "xxl"])
def test_every_large_parameter_is_split_by_fsdp(preset):
    config = presets.t5_config(preset, scan_layers=True)
    mesh = sharding.make_mesh(data=1, fsdp=8)
    shapes = api.abstract_params(config)
    shardings = sharding.param_shardings(mesh, api.logical_axes(config), shapes)
    for shape, placed in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True):
        parts = placed.num_devices // (1 if "fsdp" in placed.spec else 8)
        assert parts == 8 or shape.size < 10_000


@pytest.mark.parametrize(("scan", "table"), [(False, "standard"), (True, "standard"), (True, "split_residual")])
def test_eight_devices_give_the_loss_and_gradients_of_one(scan, table):
    config = golden_numbers.config(scan_layers=scan, dropout_rate=0.1)
    params, batch = golden_numbers.params(), golden_numbers.batch("packed")
    params = api.stack_layers(params) if scan else params
    key = jax.random.key(5)

    def objective(params, batch, key):
        weights, divisor = loss.weights_and_divisor("NUM_REAL_TARGET_TOKENS", batch)
        logits = api.logits(config, params, batch, dropout_rng=key)
        return loss.loss_and_sums(logits, batch, weights, divisor, z_loss=1e-4)[0]

    one_loss, one_grads = jax.jit(jax.value_and_grad(objective))(params, batch, key)

    mesh, rules = sharding.make_mesh(data=2, fsdp=2, model=2), sharding.table(table)
    placed = sharding.param_shardings(mesh, api.logical_axes(config), params, rules)
    params = jax.device_put(params, placed)
    batch = jax.device_put(batch, sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        eight_loss, eight_grads = jax.jit(jax.value_and_grad(objective), out_shardings=(None, placed))(
            params, batch, key
        )
    wi = eight_grads["encoder"]["layers" if scan else "layers_0"]["mlp"]["wi_0"]["kernel"]
    assert wi.addressable_shards[0].data.size * 4 == wi.size
    np.testing.assert_allclose(eight_loss, one_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), eight_grads, one_grads)


@pytest.mark.parametrize("preset", ["palm_8b", "llama_7b"])
def test_short_rows_of_split_vectors_have_the_gradients_of_one_device(preset):
    """What XLA gets wrong if a kernel, or the embedding as logits, is not gathered: see `sharding.gathered`."""
    sizes = {"num_layers": 1, "vocab_size": 256, "emb_dim": 64, "num_heads": 4, "head_dim": 16, "mlp_dim": 128}
    config = presets.decoder_only_config(preset, **sizes, dropout_rate=0.0, dtype="float32")
    params = jax.tree.map(lambda leaf: 3.0 * leaf, api.init(config, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(1, 256, (8, 8), np.int32)
    batch = {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens}

    def objective(params, batch):
        return jnp.mean(jnp.square(api.logits(config, params, batch)))

    expected = jax.jit(jax.grad(objective))(params, batch)
    mesh, rules = sharding.make_mesh(data=2, fsdp=2, model=2), sharding.SPLIT_RESIDUAL_RULES
    placed = sharding.param_shardings(mesh, api.logical_axes(config), params, rules)
    batch = jax.device_put(batch, sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        found = jax.jit(jax.grad(objective), out_shardings=placed)(jax.device_put(params, placed), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max()), found, expected)


def test_constrain_fixes_the_layout_under_a_mesh_and_is_absent_without():
    x = jnp.ones((8, 4, 6))
    axes = ("batch", "length", "mlp")
    assert sharding.constrain(x, axes) is x
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    with sharding.use(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, axes))(x)
    assert y.addressable_shards[0].data.shape == (2, 4, 3)


def test_parameters_can_be_created_already_split():
    config = golden_numbers.config(scan_layers=True)
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    placed = sharding.param_shardings(mesh, api.logical_axes(config), api.abstract_params(config))
    split = jax.jit(lambda key: api.init(config, key), out_shardings=placed)(jax.random.key(0))
    whole = api.init(config, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), split, whole)
    assert split["token_embedder"]["embedding"].addressable_shards[0].data.shape == (128, 32)
