"""Losses and metrics against t5x's, and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.models import api
from flan_jax.training import loss
from tests import golden_numbers

VARIANTS = ("loss_packed", "loss_unpacked", "loss_packed_label_smoothing_0p1", "loss_packed_z_loss_0")


@pytest.fixture(scope="module")
def logits():
    forward = jax.jit(api.logits, static_argnums=0)
    config, params = golden_numbers.config(), golden_numbers.params()
    return {kind: forward(config, params, golden_numbers.batch(kind)) for kind in ("packed", "unpacked")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_every_metric_equal_t5x(logits, variant):
    kind = variant.split("_")[1]
    batch = golden_numbers.batch(kind)
    smoothing = 0.1 if "smoothing" in variant else 0.0
    z_loss = 0.0 if "z_loss" in variant else 1e-4
    for reference in golden_numbers.summary()["encdec"][variant]:
        factor = {"none": None, "float_233472": 233472.0}.get(
            reference["loss_normalizing_factor"], reference["loss_normalizing_factor"]
        )
        weights, divisor = loss.weights_and_divisor(factor, batch)
        value, sums = loss.loss_and_sums(
            logits[kind], batch, weights, divisor, label_smoothing=smoothing, z_loss=z_loss
        )
        np.testing.assert_allclose(value, reference["loss"], rtol=1e-5)
        np.testing.assert_allclose(sums["weights"], reference["weight_sum"], rtol=1e-5)
        assert (divisor is None) == (reference["lnf_value"] is None)
        if divisor is not None:
            np.testing.assert_allclose(divisor, reference["lnf_value"], rtol=1e-5)
        ours = loss.scalars(sums)
        assert sorted(ours) == sorted(reference["metrics"])
        for name, number in reference["metrics"].items():
            np.testing.assert_allclose(ours[name], number, rtol=1e-5, err_msg=f"{name} with {factor}")


def dense_loss(logits, targets, smoothing, z_loss):
    """The definition, with the soft targets written out."""
    vocab = logits.shape[-1]
    low = smoothing / (vocab - 1)
    soft = jax.nn.one_hot(targets, vocab) * (1 - smoothing - low) + low
    entropy = -jnp.sum(jnp.where(soft > 0, soft * jnp.log(jnp.maximum(soft, 1e-30)), 0), axis=-1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return -jnp.sum(soft * jax.nn.log_softmax(logits), axis=-1) - entropy + z_loss * log_z**2


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_token_losses_and_their_gradient_equal_the_definition(smoothing, scale):
    logits = scale * jax.random.normal(jax.random.key(0), (3, 5, 11))
    targets = jax.random.randint(jax.random.key(1), (3, 5), 0, 11)
    weights = jax.random.uniform(jax.random.key(2), (3, 5))
    ours, theirs = (
        jax.value_and_grad(lambda x, f=f: jnp.sum(weights * f(x)))(logits)
        for f in (
            lambda x: loss.token_losses(x, targets, smoothing, 1e-3)[0],
            lambda x: dense_loss(x, targets, smoothing, 1e-3),
        )
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)


def test_a_perfect_smoothed_prediction_costs_nothing():
    targets = jnp.array([[2]])
    soft = jnp.full((1, 1, 5), 0.1 / 4).at[0, 0, 2].set(0.9)
    np.testing.assert_allclose(loss.token_losses(jnp.log(soft), targets, 0.1, 0.0)[0], 0.0, atol=1e-6)


def test_average_per_sequence_gives_every_packed_example_the_weight_one():
    segments = jnp.array([[1, 1, 1, 2, 3, 3, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2]])
    weights = jnp.array([[1.0, 1, 1, 1, 0, 1, 0, 0], [0, 1, 1, 0.5, 0.5, 1, 1, 1]])
    batch = {"decoder_target_tokens": segments, "decoder_segment_ids": segments, "decoder_loss_weights": weights}
    normalised, divisor = loss.weights_and_divisor("AVERAGE_PER_SEQUENCE", batch)
    for row in range(2):
        for segment in range(1, 4):
            chosen = np.asarray(segments[row]) == segment
            total = float(np.asarray(normalised)[row][chosen].sum())
            # The first example of the second row has no weighted token and must not become NaN.
            empty = not chosen.any() or float(np.asarray(weights)[row][chosen].sum()) == 0
            np.testing.assert_allclose(total, 0.0 if empty else 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(divisor), 4.0, rtol=1e-6)


@pytest.mark.parametrize("factor", [None, 7.0, *loss.NORMALIZING_FACTORS])
def test_losses_of_microbatches_add_up_to_the_loss_of_the_batch(logits, factor):
    batch = golden_numbers.batch("packed")
    weights, divisor = loss.weights_and_divisor(factor, batch)
    whole, sums = loss.loss_and_sums(logits["packed"], batch, weights, divisor, z_loss=1e-4)
    added: dict[str, jax.Array] = {}
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: value[rows] for name, value in batch.items()}
        value, part_sums = loss.loss_and_sums(logits["packed"][rows], part, weights[rows], divisor, z_loss=1e-4)
        total += value
        added = {name: added.get(name, 0.0) + number for name, number in part_sums.items()}
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    for name, number in loss.scalars(sums).items():
        np.testing.assert_allclose(loss.scalars(added)[name], number, rtol=1e-6, err_msg=name)


def test_without_loss_weights_padding_does_not_count(logits):
    batch = golden_numbers.batch("packed")
    weighted, _ = loss.weights_and_divisor(None, batch)
    del batch["decoder_loss_weights"]
    unweighted, _ = loss.weights_and_divisor(None, batch)
    np.testing.assert_array_equal(weighted, unweighted)
    assert float(jnp.min(unweighted)) == 0.0


def test_accuracy_counts_weighted_hits():
    batch = {"decoder_target_tokens": jnp.array([[1, 2, 3]])}
    logits = jnp.zeros((1, 3, 4)).at[0, 0, 1].set(5.0).at[0, 1, 3].set(5.0).at[0, 2, 3].set(5.0)
    _, sums = loss.loss_and_sums(logits, batch, jnp.array([[1.0, 1.0, 2.0]]))
    assert float(loss.scalars(sums)["accuracy"]) == 0.75


@pytest.mark.parametrize(
    ("factor", "message"),
    [("NUM_REAL_TARGET_TOKEN", "did you mean 'NUM_REAL_TARGET_TOKENS'"), (0.0, "positive, given 0")],
)
def test_unusable_factors_are_refused(factor, message):
    with pytest.raises(errors.FlanError, match=message):
        loss.weights_and_divisor(factor, golden_numbers.batch("packed"))
