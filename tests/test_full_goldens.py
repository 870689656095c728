"""Everything in ../shared/goldens that the tests of single modules hold by samples: whole arrays, every factor and metric.

Skipped where there is no ../shared/goldens. Decodes are held in tests/inference, checkpoints in tests/checkpoint, Adafactor
in tests/training/test_optim.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.checkpoint import tensors
from flan_jax.data import features, seqio_tasks
from flan_jax.inference import score
from flan_jax.models import api
from flan_jax.training import loss
from tests import golden_numbers

pytestmark = pytest.mark.slow

DIVISORS: dict[str, Any] = {"none": None, "float_233472": 233472.0}
# Of the decoder-only model: logits and losses -> batch, whether the prefix is seen in both directions.
DECODER_ONLY = {
    "prefixlm_packed_bidir": ("prefixlm_packed", True),
    "prefixlm_unpacked_bidir": ("prefixlm_unpacked", True),
    "prefixlm_packed_causal": ("prefixlm_packed", False),
    "lm_packed_causal": ("lm_packed", False),
}


def tree(name: str) -> dict[str, Any]:
    return golden_numbers.tree(golden_numbers.full(name))


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(golden_numbers.full(name)) as found:
        return dict(found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluated(config, label_smoothing, z_loss, params, batch, weights, divisor):
    """(logits, sums), gradients; one program for all divisors."""

    def objective(params):
        logits = api.logits(config, params, batch)
        options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
        value, sums = loss.loss_and_sums(logits, batch, weights, divisor, **options)
        return value, (value, logits, sums)

    return jax.grad(objective, has_aux=True)(params)


def close(found, expected):
    found, expected = tensors.flat(found), tensors.flat(expected)
    assert found.keys() == expected.keys()
    for at, value in expected.items():
        np.testing.assert_allclose(found[at], value, rtol=0, atol=1e-5, err_msg=str(at))


def assert_equal_to_t5x(config, params, batch, records, label_smoothing=0.0, z_loss=1e-4):
    """Loss, norm of the gradient and every metric, for every divisor; returns logits and gradients of the undivided loss."""
    undivided = None
    for record in records:
        name = record["loss_normalizing_factor"]
        weights, divisor = loss.weights_and_divisor(DIVISORS.get(name, name), batch)
        given = (params, batch, weights, None if divisor is None else jnp.float32(divisor))
        grads, (value, logits, sums) = evaluated(config, label_smoothing, z_loss, *given)
        np.testing.assert_allclose(value, record["loss"], rtol=1e-6, err_msg=name)
        norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
        np.testing.assert_allclose(norm, record["grad_global_norm"], rtol=1e-6, err_msg=name)
        scalars = loss.scalars(sums)
        assert scalars.keys() == record["metrics"].keys()
        for metric, expected in record["metrics"].items():
            np.testing.assert_allclose(scalars[metric], expected, rtol=2e-6, atol=1e-12, err_msg=f"{name} {metric}")
        undivided = undivided or (logits, grads)
    return undivided


@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_the_encoder_decoder_gives_t5x_logits_losses_and_gradients(kind):
    config, params, batch = golden_numbers.config(), tree("encdec/params.npz"), tree(f"encdec/batch_{kind}.npz")
    records = golden_numbers.full_summary()["encdec"][f"loss_{kind}"]
    assert len(records) == 5
    logits, grads = assert_equal_to_t5x(config, params, batch, records)
    np.testing.assert_allclose(logits, arrays("encdec/logits.npz")[kind], rtol=0, atol=1e-5)
    encoded = arrays("encdec/encoded.npz")[kind]
    np.testing.assert_allclose(api.encode(config, params, batch), encoded, rtol=0, atol=1e-5)
    if kind == "packed":
        close(grads, tree("encdec/grads_packed.npz"))


@pytest.mark.parametrize(("variant", "options"), [("label_smoothing_0p1", (0.1, 1e-4)), ("z_loss_0", (0.0, 0.0))])
def test_label_smoothing_and_z_loss_give_t5x_numbers(variant, options):
    params, batch = tree("encdec/params.npz"), tree("encdec/batch_packed.npz")
    records = golden_numbers.full_summary()["encdec"][f"loss_packed_{variant}"]
    assert_equal_to_t5x(golden_numbers.config(), params, batch, records, *options)


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_the_decoder_only_model_gives_t5x_logits_losses_and_gradients(name):
    kind, both = DECODER_ONLY[name]
    config, params = golden_numbers.decoder_only_config(prefix_lm=both), tree("deconly/params.npz")
    batch, records = tree(f"deconly/batch_{kind}.npz"), golden_numbers.full_summary()["deconly"].get(f"loss_{name}")
    if records is None:
        logits, grads = api.logits(config, params, batch), None
    else:
        logits, grads = assert_equal_to_t5x(config, params, batch, records)
    np.testing.assert_allclose(logits, arrays("deconly/logits.npz")[name], rtol=0, atol=1e-5)
    if name == "prefixlm_packed_bidir":
        assert len(records) == 5
        close(grads, tree("deconly/grads_prefixlm_packed_bidir.npz"))


def test_the_decoder_only_model_scores_as_t5x():
    params, batch = tree("deconly/params_trained.npz"), tree("deconly/decode_batch.npz")
    scores = score.score_targets(golden_numbers.decoder_only_config(), params, batch)
    expected = arrays("deconly/decode_scores.npz")["sequence_scores_bidir"]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def examples(family: str) -> list[seqio_tasks.Tokenised]:
    """The forty that seqio made the batches of."""
    found = arrays(f"{family}/examples.npz")
    numbers = sorted({name.split("/")[0] for name in found})
    sides = ([list(map(int, found[f"{number}/{side}"])) for side in ("inputs", "targets")] for number in numbers)
    return [seqio_tasks.Tokenised(*pair) for pair in sides]


def rows_of(batch: dict[str, np.ndarray], given: list[seqio_tasks.Tokenised], converter: features.Converter):
    """The examples of each row of a packed batch, found by what the row holds; each of them once."""
    name = "encoder" if "encoder_input_tokens" in batch else "decoder"
    tokens = batch[f"{name}_{'input' if name == 'encoder' else 'target'}_tokens"]
    lookup = {}
    for example in given:
        key = example.inputs if name == "encoder" else [*example.inputs, *example.targets]
        lookup[tuple(example.targets if converter == features.LM() else key)] = example
    return [
        [lookup[tuple(map(int, row[ids == number]))] for number in range(1, ids.max() + 1)]
        for row, ids in zip(tokens, batch[f"{name}_segment_ids"], strict=True)
    ]


@pytest.mark.parametrize(
    ("family", "kind", "converter", "lengths"),
    [
        ("encdec", "packed", features.EncoderDecoder(), (48, 24)),
        ("encdec", "unpacked", features.EncoderDecoder(), (48, 24)),
        ("deconly", "prefixlm_packed", features.PrefixLM(), (40, 24)),
        ("deconly", "prefixlm_unpacked", features.PrefixLM(), (40, 24)),
        ("deconly", "decoderconv_packed", features.PrefixLM(), (40, 24)),
        ("deconly", "lm_packed", features.LM(), (0, 64)),
    ],
)
def test_examples_become_the_features_of_seqio(family, kind, converter, lengths):
    batch, given = arrays(f"{family}/batch_{kind}.npz"), examples(family)
    assert len(given) == 40
    if kind == "lm_packed":  # its documents are the inputs
        given = [seqio_tasks.Tokenised([], example.inputs) for example in given]
    packed = kind.endswith("_packed") or kind == "packed"
    rows = rows_of(batch, given, converter) if packed else [[example] for example in given[:4]]
    assert len(rows) == 4
    sizes = {"inputs": lengths[0], "targets": lengths[1]}
    made = features.stack([converter.row(row, sizes, packed) for row in rows])
    assert made.keys() == batch.keys()
    if not packed:  # seqio shifts the last EOS into the padding, where nobody reads it
        batch["decoder_input_tokens"] *= batch["decoder_target_tokens"] > 0
    for name, expected in batch.items():
        np.testing.assert_array_equal(made[name], expected, err_msg=name)
