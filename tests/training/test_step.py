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
from flan_jax.training import configs, loss, optim, state, step
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


def gradients(config, batch, pieces=None, key=0, at=0, **settings):
    """(gradients, sums) of one update from the parameters of `params_of`."""
    update = step.make_train_step(model_of(config, **settings), ShowsGradients(), lambda _: jnp.float32(1), pieces)
    first = state.TrainState(jnp.int32(at), params_of(config), ())
    after, sums = jax.jit(update)(first, batch, jax.random.key(key))
    return after.params, sums


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def assert_close(ours, expected, share):
    """Every number within `share` of the largest of all."""
    tolerance = share * largest(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), ours, expected)


@pytest.mark.parametrize("pieces", [2, 8])
@pytest.mark.parametrize("factor", [None, "NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
def test_microbatches_are_the_full_batch(factor, pieces):
    batch = packed(8)
    # Pieces of equal weight could be averaged piece by piece without the mistake showing.
    tokens = (batch["decoder_target_tokens"] > 0).reshape(8 // pieces, pieces, -1).sum(axis=(0, 2))
    assert len(set(tokens.tolist())) > 1
    settings = {"loss_normalizing_factor": factor, "z_loss": 1e-3, "label_smoothing": 0.1}
    whole, whole_sums = gradients(small(), batch, **settings)
    cut, cut_sums = gradients(small(), batch, pieces=pieces, **settings)
    assert_close(cut, whole, 1e-6)
    assert cut_sums.keys() == whole_sums.keys()
    for name in whole_sums:
        np.testing.assert_allclose(cut_sums[name], whole_sums[name], rtol=1e-6, err_msg=name)


def test_a_packed_row_counts_as_its_examples_alone():
    some = examples(6, 1)
    together = batch_of(some[:3], some[3:5], some[5:])
    alone = [batch_of([example]) for example in some]
    grads, sums = gradients(small(), together, z_loss=1e-3)
    parts = [gradients(small(), batch, z_loss=1e-3) for batch in alone]
    for name in ("loss", "z_loss", "correct", "weights", "examples/encoder", "real_tokens/decoder"):
        expected = sum(float(part[name]) for _, part in parts)
        np.testing.assert_allclose(sums[name], expected, rtol=1e-6, err_msg=name)
    assert_close(grads, jax.tree.map(lambda *leaves: sum(leaves), *[grad for grad, _ in parts]), 2e-6)


@pytest.mark.parametrize(
    ("factor", "divisor"),
    [
        (50.0, lambda batch: 50.0),
        ("NUM_REAL_TARGET_TOKENS", lambda batch: (batch["decoder_target_tokens"] > 0).sum()),
        ("NUM_TOTAL_TARGET_TOKENS", lambda batch: batch["decoder_target_tokens"].size),
    ],
)
def test_the_normalizing_factor_divides_loss_and_gradients(factor, divisor):
    batch = packed(4)
    plain, plain_sums = gradients(small(), batch)
    ours, sums = gradients(small(), batch, loss_normalizing_factor=factor)
    by = float(divisor(batch))
    np.testing.assert_allclose(sums["loss"], plain_sums["loss"] / by, rtol=1e-6)
    assert_close(ours, jax.tree.map(lambda leaf: leaf / by, plain), 1e-6)
    # What the progress bar shows does not depend on it.
    np.testing.assert_allclose(sums["undivided_loss"], plain_sums["loss"], rtol=1e-6)


def test_average_per_sequence_weighs_examples_alike_however_they_are_packed():
    some = examples(4, 2)
    ours, sums = gradients(small(), batch_of(some[:3], some[3:]), loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    parts = [
        gradients(small(), batch_of([example]), loss_normalizing_factor="NUM_REAL_TARGET_TOKENS") for example in some
    ]
    np.testing.assert_allclose(sums["loss"], np.mean([part["loss"] for _, part in parts]), rtol=1e-6)
    assert_close(ours, jax.tree.map(lambda *leaves: sum(leaves) / 4, *[grad for grad, _ in parts]), 2e-6)


def test_an_unknown_normalizing_factor_is_named():
    with pytest.raises(errors.FlanError, match="did you mean 'NUM_REAL_TARGET_TOKENS'"):
        gradients(small(), packed(2), loss_normalizing_factor="NUM_REAL_TARGET_TOKEN")


def test_dropout_follows_the_key_and_the_step_and_nothing_else():
    config, batch = small(dropout_rate=0.3), packed(4)

    def total(**where):
        return float(gradients(config, batch, **where)[1]["loss"])

    assert total(key=1, at=7) == total(key=1, at=7)
    assert len({total(key=1, at=7), total(key=1, at=8), total(key=2, at=7)}) == 3
    # A microbatch must not drop what another one does: the two halves are equal rows here.
    row = examples(2, 3)
    twins = batch_of(row, row)
    one, both = gradients(config, batch_of(row), key=1)[1], gradients(config, twins, pieces=2, key=1)[1]
    assert abs(float(both["loss"]) - 2 * float(one["loss"])) > 1e-3


def test_evaluation_is_the_loss_without_dropout():
    batch = packed(4)
    _, expected = gradients(small(), batch, z_loss=1e-3)
    sums = step.make_eval_step(model_of(small(dropout_rate=0.3), z_loss=1e-3))(params_of(small()), batch)
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


def run(mesh, steps, pieces=None, **overrides):
    """Steps through what a run uses: its shardings, its compiled step, its way of putting a batch on devices."""
    config = small(**WIDE, **overrides)
    model, optimizer, schedule = model_of(config, z_loss=1e-4), adafactor(config), Schedule()
    places = state.shardings(config, optimizer, mesh)
    shapes = state.abstract(config, optimizer)
    create = jax.jit(functools.partial(state.create, config, optimizer), out_shardings=places)
    data = configs.DatasetConfig("any", {"inputs": 32, "targets": 24}, "train", batch_size=8, pack=True)
    key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    now, losses, states = create(jax.random.key(0)), [], []
    with sharding.use(mesh):
        compiled, _ = train.compile_step(
            model, optimizer, configs.Trainer(schedule, pieces), places, shapes, mesh, key, data
        )
        for number in range(steps):
            batch = train.to_global(sharding.batch_sharding(mesh), packed(8, seed=number))
            states.append(now)
            now, sums = compiled(now, batch, key)
            losses.append(float(sums["loss"]))
    return now, losses, states, schedule


@pytest.mark.parametrize("pieces", [None, 2])
def test_eight_devices_give_the_losses_of_one(pieces):
    """(data 2, fsdp 2, model 2), with dropout, whose mask must not depend on the devices."""
    one, one_losses, _, _ = run(sharding.make_mesh(devices=jax.devices()[:1]), 5, pieces, dropout_rate=0.1)
    eight, eight_losses, _, _ = run(sharding.make_mesh(data=2, fsdp=2, model=2), 5, pieces, dropout_rate=0.1)
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-5)
    assert one_losses[-1] != one_losses[0]
    wi = eight.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert wi.addressable_shards[0].data.shape == (64, 128)  # of (128, 256): really split
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), eight.params, one.params)


def test_the_step_is_traced_once_and_takes_its_state_away():
    now, _, states, schedule = run(sharding.make_mesh(data=2, fsdp=2, model=2), 3)
    assert schedule.traces == 1
    given = [leaf for old in states for leaf in jax.tree.leaves(old)]
    assert all(leaf.is_deleted() for leaf in given)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(now))


def test_the_jitted_step_is_traced_once_whoever_feeds_its_state_back():
    config, schedule = small(), Schedule()
    optimizer = adafactor(config)
    update = jax.jit(step.make_train_step(model_of(config), optimizer, schedule), donate_argnums=0)
    now = state.create(config, optimizer, jax.random.key(0))
    for number in range(3):
        now, _ = update(now, packed(2, seed=number), jax.random.key(1))
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


def test_the_loss_of_padding_rows_is_nothing():
    some = examples(3, 4)
    grads, sums = gradients(small(), batch_of(some[:2], some[2:]), loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    padded = batch_of(some[:2], [], some[2:], [])
    again, padded_sums = gradients(small(), padded, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    np.testing.assert_allclose(padded_sums["loss"], sums["loss"], rtol=1e-6)
    assert_close(again, grads, 1e-6)
    assert loss.scalars(padded_sums)["effective_batch_size/encoder"] == 3
