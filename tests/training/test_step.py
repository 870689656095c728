"""The update: microbatches, packing, devices, dropout, donation, normalisation, against each other and against t5x."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax import errors, sharding, train
from flan_jax.data import features, seqio_tasks
from flan_jax.models import api, presets
from flan_jax.training import configs, optim, state, step
from tests import golden_numbers

RULES = optim.standard_logical_factor_rules()
# Wide enough that Adafactor factors its matrices: both axes have at least 128 entries.
WIDE = {"emb_dim": 128, "num_heads": 4, "head_dim": 32, "mlp_dim": 256, "vocab_size": 256}


def model_of(config, **settings):
    return configs.EncoderDecoderModel(configs.Transformer(config), None, None, None, **settings)


def small(**overrides):
    depth = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return presets.t5_config("tiny", **{"vocab_size": 256, "dropout_rate": 0.0, **depth, **overrides})


def adafactor(config, **options):
    return optim.Adafactor(logical_factor_rules=RULES, **options).with_axes(api.logical_axes(config))


class ShowsGradients:
    """In place of an optimizer: the new parameters are the gradients."""

    def init(self, params):
        return ()

    def update(self, grads, opt_state, params, step, learning_rate):
        return grads, opt_state

    def with_axes(self, axes):
        return self

    def state_axes(self, params):
        return ()


@functools.cache
def examples(count: int, seed: int) -> tuple[seqio_tasks.Tokenised, ...]:
    draw = np.random.default_rng(seed)

    def ids(longest):
        return [*draw.integers(2, 256, draw.integers(1, longest)).tolist(), 1]

    return tuple(seqio_tasks.Tokenised(ids(12), ids(9)) for _ in range(count))


def batch_of(*rows, inputs=32, targets=24):
    """A packed batch with the given examples in each row."""
    lengths = {"inputs": inputs, "targets": targets}
    return features.stack([features.encoder_decoder_row(row, lengths, packed=True) for row in rows])


def packed(rows: int, seed: int = 0):
    """Rows of 1, 2, 1, 2 ... examples: microbatches of it differ in their numbers of examples and tokens."""
    found, at = [], 0
    for row in range(rows):
        found.append(examples(2 * rows, seed)[at : at + 1 + row % 2])
        at += 2
    return batch_of(*found)


@functools.cache
def params_of(config):
    return api.init(config, jax.random.key(3))


# The tests share few shapes and settings, as each costs seconds to compile.
SETTINGS = {"z_loss": 1e-3, "label_smoothing": 0.1}


@functools.cache
def update_of(config, pieces, factor):
    model = model_of(config, loss_normalizing_factor=factor, **SETTINGS)
    return jax.jit(step.make_train_step(model, ShowsGradients(), lambda _: jnp.float32(1), pieces))


def gradients(config, batch, pieces=None, key=0, at=0, factor=None):
    """(gradients, sums) of one update from the parameters of `params_of`."""
    first = state.TrainState(jnp.int32(at), params_of(config), ())
    after, sums = update_of(config, pieces, factor)(first, batch, jax.random.key(key))
    return after.params, sums


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def assert_close(ours, expected, share):
    """Every number within `share` of the largest of all."""
    tolerance = share * largest(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), ours, expected)


@pytest.mark.parametrize(("factor", "pieces"), [(None, 4), ("NUM_REAL_TARGET_TOKENS", 2), ("AVERAGE_PER_SEQUENCE", 2)])
def test_microbatches_are_the_full_batch(factor, pieces):
    batch = packed(4)
    # Pieces of equal weight could be averaged piece by piece without the mistake showing.
    tokens = (batch["decoder_target_tokens"] > 0).reshape(4 // pieces, pieces, -1).sum(axis=(0, 2))
    assert len(set(tokens.tolist())) > 1
    whole, whole_sums = gradients(small(), batch, factor=factor)
    cut, cut_sums = gradients(small(), batch, pieces, factor=factor)
    assert_close(cut, whole, 1e-6)
    assert cut_sums.keys() == whole_sums.keys()
    for name in whole_sums:
        np.testing.assert_allclose(cut_sums[name], whole_sums[name], rtol=1e-6, err_msg=name)


def test_a_packed_row_counts_as_its_examples_alone():
    some = examples(6, 1)
    together = batch_of(some[:3], [], some[3:5], some[5:])  # a row of padding adds nothing
    grads, sums = gradients(small(), together)
    parts = [gradients(small(), batch_of([example])) for example in some]
    for name in ("loss", "z_loss", "correct", "weights", "examples/encoder", "real_tokens/decoder"):
        expected = sum(float(part[name]) for _, part in parts)
        np.testing.assert_allclose(sums[name], expected, rtol=1e-6, err_msg=name)
    assert_close(grads, jax.tree.map(lambda *leaves: sum(leaves), *[grad for grad, _ in parts]), 2e-6)


@pytest.mark.parametrize(
    ("factor", "divisor"),
    [
        (50.0, lambda batch: 50.0),
        ("NUM_REAL_TARGET_TOKENS", lambda batch: (batch["decoder_target_tokens"] > 0).sum()),
    ],
)
def test_the_normalizing_factor_divides_loss_and_gradients(factor, divisor):
    batch = packed(4)
    plain, plain_sums = gradients(small(), batch)
    ours, sums = gradients(small(), batch, factor=factor)
    by = float(divisor(batch))
    np.testing.assert_allclose(sums["loss"], plain_sums["loss"] / by, rtol=1e-6)
    assert_close(ours, jax.tree.map(lambda leaf: leaf / by, plain), 1e-6)
    # What the progress bar shows does not depend on it.
    np.testing.assert_allclose(sums["undivided_loss"], plain_sums["loss"], rtol=1e-6)


def test_average_per_sequence_weighs_examples_alike_however_they_are_packed():
    some = examples(4, 2)
    ours, sums = gradients(small(), batch_of(some[:3], [], some[3:], []), factor="AVERAGE_PER_SEQUENCE")
    parts = [gradients(small(), batch_of([example]), factor="NUM_REAL_TARGET_TOKENS") for example in some]
    np.testing.assert_allclose(sums["loss"], np.mean([part["loss"] for _, part in parts]), rtol=1e-6)
    assert_close(ours, jax.tree.map(lambda *leaves: sum(leaves) / 4, *[grad for grad, _ in parts]), 2e-6)


def test_an_unknown_normalizing_factor_is_named():
    with pytest.raises(errors.FlanError, match="did you mean 'NUM_REAL_TARGET_TOKENS'"):
        gradients(small(), packed(4), factor="NUM_REAL_TARGET_TOKEN")


def test_dropout_follows_the_key_and_the_step_and_nothing_else():
    config, batch = small(dropout_rate=0.3), packed(4)

    def total(**where):
        return float(gradients(config, batch, **where)[1]["loss"])

    assert total(key=1, at=7) == total(key=1, at=7)
    assert len({total(key=1, at=7), total(key=1, at=8), total(key=2, at=7)}) == 3
    # A microbatch must not drop what another one does: the same row as the first and as the second.
    row = examples(2, 3)
    first, second = (gradients(config, batch, pieces=2)[1] for batch in (batch_of(row, []), batch_of([], row)))
    assert first["weights"] == second["weights"]
    assert abs(float(first["loss"]) - float(second["loss"])) > 1e-3


def test_evaluation_is_the_loss_without_dropout():
    batch = packed(4)
    _, expected = gradients(small(), batch)
    sums = jax.jit(step.make_eval_step(model_of(small(dropout_rate=0.3), **SETTINGS)))(params_of(small()), batch)
    for name in sums:
        np.testing.assert_allclose(sums[name], expected[name], rtol=1e-6, err_msg=name)


def test_three_adafactor_steps_equal_t5x():
    config = golden_numbers.config()
    optimizer, params = adafactor(config), golden_numbers.params()
    update = jax.jit(step.make_train_step(model_of(config, z_loss=1e-4), optimizer, lambda _: jnp.float32(1e-3)))
    now = state.TrainState(jnp.int32(0), params, optimizer.init(params))
    expected = golden_numbers.summary()["encdec"]["adafactor_losses_before_each_step"]
    for number in range(3):
        now, sums = update(now, golden_numbers.batch("packed"), jax.random.key(0))
        np.testing.assert_allclose(sums["loss"], expected[number], rtol=1e-6)
        assert int(now.step) == number + 1
        if number + 1 in (1, 2):
            reference = golden_numbers.expected(f"adafactor_step{number + 1}_params")
            np.testing.assert_allclose(golden_numbers.sampled(now.params), reference, rtol=0, atol=1e-5)


@dataclasses.dataclass
class Schedule:
    """A learning rate that counts how often it is traced."""

    traces: int = 0

    def __call__(self, at):
        self.traces += 1
        return 1e-2 / jnp.sqrt(1.0 + at)


@functools.cache
def run(devices, pieces=None):
    """Takes five steps through what a run uses: its shardings, its compiled step, its way of putting a batch on devices."""
    sizes = {"data": 2, "fsdp": 2, "model": 2} if devices == 8 else {}
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:devices])
    config = small(**WIDE)
    model, optimizer, schedule = model_of(config, z_loss=1e-4), adafactor(config), Schedule()
    places = state.shardings(config, optimizer, mesh)
    shapes = state.abstract(config, optimizer)
    data = configs.DatasetConfig("any", {"inputs": 32, "targets": 24}, "train", batch_size=8, pack=True)
    key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    params = params_of(config)
    first = state.TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params))
    now, losses, states = jax.device_put(first, places), [], []
    with sharding.use(mesh):
        compiled, _ = train.compile_step(
            model, optimizer, configs.Trainer(schedule, pieces), places, shapes, mesh, key, data
        )
        for number in range(5):
            batch = train.to_global(sharding.batch_sharding(mesh), packed(8, seed=number))
            states.append(now)
            now, sums = compiled(now, batch, key)
            losses.append(float(sums["loss"]))
    return now, losses, states, schedule


@pytest.mark.parametrize("pieces", [None, 2])
def test_eight_devices_give_the_losses_of_one(pieces):
    """(data 2, fsdp 2, model 2), whole and in microbatches."""
    one, one_losses, _, _ = run(1)
    eight, eight_losses, _, _ = run(8, pieces)
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-5)
    assert one_losses[-1] != one_losses[0]
    wi = eight.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert wi.addressable_shards[0].data.shape == (64, 128)  # of (128, 256): really split
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), eight.params, one.params)


def test_the_step_is_traced_once_and_takes_its_state_away():
    now, _, states, schedule = run(8, pieces=2)
    assert schedule.traces == 1
    given = [leaf for old in states for leaf in jax.tree.leaves(old)]
    assert all(leaf.is_deleted() for leaf in given)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(now))


def test_the_jitted_step_is_traced_once_whoever_feeds_its_state_back():
    config, schedule = small(), Schedule()
    optimizer = adafactor(config)
    update = jax.jit(step.make_train_step(model_of(config), optimizer, schedule), donate_argnums=0)
    now = state.create(config, optimizer, jax.random.key(3))
    for number in range(3):
        now, _ = update(now, packed(4, seed=number), jax.random.key(1))
    assert schedule.traces == 1


def specs(places):
    return jax.tree.map(lambda place: place.spec, places)


def test_a_slot_lies_as_what_it_shares_with_its_parameter():
    split, whole = jax.sharding.PartitionSpec, jax.sharding.PartitionSpec(None)
    config = small(**WIDE)
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    places = specs(state.shardings(config, adafactor(config, beta1=0.9), mesh))
    assert places.step == split()
    name = ("encoder", "layers_0", "mlp", "wi_0", "kernel")
    kernel, slots = places.params, places.opt_state
    for part in name:
        kernel, slots = kernel[part], slots[part]
    assert kernel == split("fsdp", "model")
    # embed 128 x mlp 256: the row factor keeps the smaller axis, the column factor the larger.
    assert slots == {"v_row": split("fsdp"), "v_col": split("model"), "v": whole, "m": split("fsdp", "model")}
    scale = places.opt_state["encoder"]["encoder_norm"]["scale"]
    assert scale["v"] == places.params["encoder"]["encoder_norm"]["scale"] == split("fsdp")
    assert scale["v_row"] == scale["v_col"] == whole


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        optim.Adafactor(logical_factor_rules=RULES),
        optim.OptaxOptimizer(),
        optim.OptaxOptimizer(lambda learning_rate: optax.chain(optax.clip(1.0), optax.adam(learning_rate))),
    ],
    ids=["adafactor", "adamw", "chain"],
)
def test_every_array_of_the_state_has_a_place_that_fits(optimizer, scan):
    config = small(**WIDE, scan_layers=scan)
    optimizer = optimizer.with_axes(api.logical_axes(config))
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    shapes, places = state.abstract(config, optimizer), state.shardings(config, optimizer, mesh)
    assert jax.tree.structure(shapes) == jax.tree.structure(places)
    jax.tree.map(lambda shape, place: place.shard_shape(shape.shape), shapes, places)  # raises where it does not divide
    placed = jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)
    tree = placed.checkpoint_tree()
    assert state.TrainState.from_checkpoint_tree(tree) == placed
