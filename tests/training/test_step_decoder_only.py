"""The update of decoder-only models: packing, microbatches, devices, and the features that training reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import ShowsGradients, adafactor, assert_close, examples

from flan_jax import errors, sharding, train
from flan_jax.data import features
from flan_jax.models import api, presets
from flan_jax.training import configs, state, step

# What sets the families apart in a step: PaLM's parallel blocks and rotary positions under a prefix mask with everything
# that saves memory; OPT's learned positions, whose packed examples start again at the first.
TOY = {"vocab_size": 256, "num_layers": 2, "mlp_dim": 256, "max_positions": 64, "dropout_rate": 0.1}
FAMILIES = {
    "palm": ("palm_8b", {"emb_dim": 128, "num_heads": 4, "head_dim": 32, "scan_layers": True, "remat_policy": "full"}),
    "opt": ("opt_125m", {"emb_dim": 64, "num_heads": 4, "head_dim": 16, "embedding_stddev": 0.1}),
}
CONVERTER = features.PrefixLM()
LENGTHS = {"inputs": 32, "targets": 24}


def config_of(family, **overrides):
    preset, sizes = FAMILIES[family]
    return presets.decoder_only_config(preset, **{**TOY, **sizes, "prefix_lm": family == "palm", **overrides})


def model_of(config, **settings):
    return configs.DecoderOnlyModel(configs.DecoderWrapper(config), None, None, **settings)


def batch_of(*rows, converter=CONVERTER):
    return features.stack([converter.row(row, LENGTHS, packed=True) for row in rows])


def packed(rows, seed=0):
    """Rows of 1, 2, 1, 2 ... examples."""
    some = iter(examples(2 * rows, seed))
    return batch_of(*([next(some) for _ in range(1 + row % 2)] for row in range(rows)))


@functools.cache
def params_of(config):
    return api.init(config, jax.random.key(3))


@functools.cache
def update_of(config, pieces, factor):
    model = model_of(config, loss_normalizing_factor=factor, z_loss=1e-3, label_smoothing=0.1)
    return jax.jit(step.make_train_step(model, ShowsGradients(), lambda _: jnp.float32(1), pieces))


def gradients(config, batch, pieces=None, factor=None):
    """(gradients, sums) of one update from the parameters of `params_of`."""
    first = state.TrainState(jnp.int32(0), params_of(config), ())
    after, sums = update_of(config, pieces, factor)(first, batch, jax.random.key(0))
    return after.params, sums


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_row_counts_as_its_examples_alone(family):
    config, some = config_of(family, dropout_rate=0.0), examples(4, 1)
    # Short ones, so that three of them fit; a row of padding adds nothing.
    grads, sums = gradients(config, batch_of(some[:3], [], some[3:], []))
    parts = [gradients(config, batch_of([example], [], [], [])) for example in some]
    for name in ("loss", "z_loss", "correct", "weights", "examples/decoder", "real_tokens/decoder"):
        expected = sum(float(part[name]) for _, part in parts)
        np.testing.assert_allclose(sums[name], expected, rtol=2e-6, err_msg=name)
    assert float(sums["weights"]) == sum(len(example.targets) for example in some)
    assert_close(grads, jax.tree.map(lambda *leaves: sum(leaves), *[grad for grad, _ in parts]), 3e-6)


@pytest.mark.parametrize(("family", "factor"), [("palm", "AVERAGE_PER_SEQUENCE"), ("opt", "NUM_REAL_TARGET_TOKENS")])
def test_microbatches_are_the_full_batch(family, factor):
    config, batch = config_of(family, dropout_rate=0.0), packed(4)
    # Pieces of equal weight could be averaged piece by piece without the mistake showing.
    assert len(set(batch["decoder_loss_weights"].reshape(2, 2, -1).sum(axis=(0, 2)).tolist())) > 1
    whole, whole_sums = gradients(config, batch, factor=factor)
    cut, cut_sums = gradients(config, batch, 2, factor)
    assert_close(cut, whole, 2e-6)
    for name in whole_sums:
        np.testing.assert_allclose(cut_sums[name], whole_sums[name], rtol=2e-6, err_msg=name)


def run(devices):
    """(state, losses) after five steps through what a run uses: its compiled step, its shardings, with dropout."""
    sizes = {"data": 2, "fsdp": 2, "model": 2} if devices == 8 else {}
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:devices])
    config = config_of("palm")
    optimizer = adafactor(config)
    places, shapes = state.shardings(config, optimizer, mesh), state.abstract(config, optimizer)
    data = configs.DatasetConfig("any", LENGTHS, "train", batch_size=8, pack=True)
    trainer = configs.Trainer(lambda at: 1e-2 / jnp.sqrt(1.0 + at))
    key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    params = jax.tree.map(jnp.copy, params_of(config))
    now, losses = jax.device_put(state.TrainState(jnp.int32(0), params, optimizer.init(params)), places), []
    with sharding.use(mesh):
        compiled, _ = train.compile_step(
            model_of(config, z_loss=1e-4), optimizer, trainer, places, shapes, mesh, key, data
        )
        for number in range(5):
            batch = train.to_global(sharding.batch_sharding(mesh), packed(8, seed=number))
            now, sums = compiled(now, batch, key)
            losses.append(float(sums["loss"]))
    return now, losses


def test_eight_devices_give_the_losses_of_one():
    """(data 2, fsdp 2, model 2), scanned, rematerialised, one head of keys and values, with dropout."""
    one, one_losses = run(1)
    eight, eight_losses = run(8)
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-5)
    assert one_losses[-1] != one_losses[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), eight.params, one.params)
    embedding = eight.params["decoder"]["token_embedder"]["embedding"]
    assert embedding.addressable_shards[0].data.size == embedding.size // 4  # really split


# --- The model that gin builds ---


def test_attention_over_the_inputs_is_set_in_either_place():
    for inner, outer in ((True, False), (False, True), (False, False)):
        model = configs.DecoderOnlyModel(
            configs.DecoderWrapper(config_of("opt", prefix_lm=inner)), None, None, inputs_bidirectional_attention=outer
        )
        assert model.config.prefix_lm is (inner or outer)


def test_questions_begin_as_training_examples_do():
    for training in (features.PrefixLM(False, bos_id=2), features.LM(bos_id=2)):
        model = model_of(config_of("opt"), feature_converter_cls=lambda made=training: made)
        assert model.feature_converter == training
        assert model.question_converter == features.PrefixLM(bos_id=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_converter_cls": features.EncoderDecoder}, "expects @seqio.PrefixLMFeatureConverter or @seqio.LM"),
        (
            {"feature_converter_cls": features.LM, "inputs_bidirectional_attention": True},
            "LMFeatureConverter leaves out",
        ),
    ],
)
def test_features_that_the_model_cannot_read_are_refused(settings, message):
    with pytest.raises(errors.FlanError, match=message):
        model_of(config_of("opt"), **settings)


def test_rows_longer_than_learned_positions_are_refused_before_any_data_is_read():
    cfg = configs.DatasetConfig("any", {"inputs": 48, "targets": 17}, "train", batch_size=8, pack=True)
    with pytest.raises(errors.FlanError, match="a sequence of 65 tokens needs 65 positions; the model has learned 64"):
        train.open_loader(cfg, model_of(config_of("opt")), 0)
