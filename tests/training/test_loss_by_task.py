"""The loss by task: the parts are the whole, packed and unpacked, in pieces and not, for both families."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import ShowsGradients, examples

from flan_jax.data import features
from flan_jax.models import api, presets
from flan_jax.training import configs, metrics, state, step

TASKS = 5  # 3 of them are there, one of those in several rows
SIZES = {"vocab_size": 256, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "dropout_rate": 0.0}
FAMILIES = ("encoder_decoder", "decoder_only")
OF = [(0, 2), (2, 4), (2,), ()]  # the tasks of the examples in each row


@functools.cache
def model_of(family, chunk=0):
    settings = {"z_loss": 1e-3, "loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS", "logits_chunk": chunk}
    if family == "encoder_decoder":
        config = presets.t5_config("tiny", num_encoder_layers=1, num_decoder_layers=1, **SIZES)
        return configs.EncoderDecoderModel(configs.Transformer(config), None, None, None, **settings)
    config = presets.decoder_only_config("palm_8b", num_layers=1, prefix_lm=True, **SIZES)
    return configs.DecoderOnlyModel(configs.DecoderWrapper(config), None, None, **settings)


@functools.cache
def params_of(family):
    return api.init(model_of(family).config, jax.random.key(1))


def batch_of(family, rows, tasks, packed=True):
    lengths = {"inputs": 32, "targets": 24}
    converter = model_of(family).feature_converter
    found = features.stack([converter.row(row, lengths, packed) for row in rows])
    return {**found, "decoder_task_ids": features.task_ids(found, tasks)}


def whole_batch(family):
    some = iter(examples(5, 4))
    return batch_of(family, [[next(some) for _ in row] for row in OF], OF)


@functools.cache
def step_of(family, chunk):
    return jax.jit(step.make_eval_step(model_of(family, chunk), TASKS))


def sums_of(family, batch, chunk=0):
    return jax.device_get(step_of(family, chunk)(params_of(family), batch))


@functools.cache
def updated():
    """The sums of an update in two microbatches, with logits in pieces."""
    model = model_of("decoder_only", 8)
    update = step.make_train_step(model, ShowsGradients(), lambda _: jnp.float32(1), 2, tasks=TASKS)
    first = state.TrainState(jnp.int32(0), params_of("decoder_only"), ())
    return jax.device_get(jax.jit(update)(first, whole_batch("decoder_only"), jax.random.key(0))[1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [0, 8])
def test_the_tasks_losses_are_the_loss(family, chunk):
    batch = whole_batch(family)
    sums = sums_of(family, batch, chunk)
    assert sums["task_loss"].sum() == pytest.approx(sums["undivided_loss"], rel=1e-6)
    assert sums["task_weights"].sum() == sums["weights"]
    counted = np.bincount(batch["decoder_task_ids"].ravel(), batch["decoder_loss_weights"].ravel(), TASKS + 1)
    np.testing.assert_array_equal(sums["task_weights"], counted[1:])
    assert sums["task_weights"][[1, 3]].tolist() == sums["task_loss"][[1, 3]].tolist() == [0, 0]
    np.testing.assert_allclose(sums["task_loss"], sums_of(family, batch)["task_loss"], rtol=1e-6)


def test_an_update_in_microbatches_sums_the_same():
    whole = sums_of("decoder_only", whole_batch("decoder_only"))
    assert updated()["task_loss"].sum() == pytest.approx(updated()["undivided_loss"], rel=1e-6)
    np.testing.assert_allclose(updated()["task_loss"], whole["task_loss"], rtol=1e-6)
    np.testing.assert_array_equal(updated()["task_weights"], whole["task_weights"])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_unpacked_task_by_task(family):
    together = sums_of(family, whole_batch(family))
    numbers = [task for row in OF for task in row]
    alone = batch_of(family, [[e] for e in examples(5, 4)] + [[]], [[task] for task in numbers] + [[]], packed=False)
    apart = sums_of(family, alone)
    np.testing.assert_allclose(together["task_loss"], apart["task_loss"], rtol=1e-5)
    np.testing.assert_array_equal(together["task_weights"], apart["task_weights"])


def test_tasks_that_were_there_become_tags_and_clusters_join_them():
    names, clusters = ["a", "b", "c", "d", "e"], ["x", "x", "y", None, "x"]
    given = updated()
    added = metrics.Accumulator(names, clusters)
    added.add(given)
    added.add(given)
    tags = added.take()
    by_task = {name: value for name, value in tags.items() if name.startswith("loss_by_")}
    losses, weights = given["task_loss"].astype(float), given["task_weights"].astype(float)
    assert by_task == pytest.approx(
        {
            **{f"loss_by_task/{names[i]}": losses[i] / weights[i] for i in (0, 2, 4)},
            "loss_by_cluster/x": losses[[0, 4]].sum() / weights[[0, 4]].sum(),
            "loss_by_cluster/y": losses[2] / weights[2],
        }
    )
    assert tags["gradient_norm"] == pytest.approx(float(given["gradient_norm"]))


def test_every_token_knows_its_task():
    rows = features.stack(
        [features.encoder_decoder_row(row, {"inputs": 32, "targets": 24}, True) for row in (examples(3, 2)[:2], [])]
    )
    ids = features.task_ids(rows, [[7, 0], []])
    first, second = (len(example.targets) for example in examples(3, 2)[:2])
    assert ids.tolist() == [[8] * first + [1] * second + [0] * (24 - first - second), [0] * 24]
    assert ids.dtype == np.int32
