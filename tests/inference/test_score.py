"""Log-likelihoods against t5x's."""

import jax.numpy as jnp
import numpy as np

from flan_jax.inference import score
from tests import golden_numbers


def test_scores_equal_t5x():
    batch = golden_numbers.batch("unpacked")
    scores = score.score_targets(golden_numbers.config(), golden_numbers.params(), batch)
    np.testing.assert_allclose(scores, golden_numbers.expected("scores/sequence_scores"), rtol=1e-6, atol=1e-5)
    tokens = score.token_log_likelihood(golden_numbers.config(), golden_numbers.params(), batch)
    real = np.asarray(batch["decoder_target_tokens"]) > 0
    expected = np.asarray(golden_numbers.expected("scores/token_scores"))
    np.testing.assert_allclose(np.asarray(tokens)[real], expected[real], rtol=0, atol=1e-5)


def test_probabilities_of_all_tokens_sum_to_one():
    config, params = golden_numbers.config(), golden_numbers.params()
    row = {name: value[:1] for name, value in golden_numbers.batch("unpacked").items()}
    candidates = {name: jnp.repeat(value, 255, axis=0) for name, value in row.items()}
    candidates["decoder_target_tokens"] = candidates["decoder_target_tokens"].at[:, 0].set(jnp.arange(1, 256))
    tokens = score.token_log_likelihood(config, params, candidates)[:, 0]
    padding = score.token_log_likelihood(
        config, params, {**row, "decoder_target_tokens": row["decoder_target_tokens"].at[0, 1].set(0)}
    )
    assert padding.shape == (1, 24)
    # Token 0 is padding and cannot be asked for; every other probability must leave room for it.
    assert 0.9 < float(jnp.sum(jnp.exp(tokens))) < 1.0


def test_scores_of_trained_targets_equal_t5x():
    params = golden_numbers.tree(golden_numbers.full("decoding/params_trained.npz"))
    batch = golden_numbers.tree(golden_numbers.full("decoding/batch.npz"))
    with np.load(golden_numbers.full("decoding/scores.npz")) as arrays:
        np.testing.assert_allclose(
            score.score_targets(golden_numbers.config(), params, batch), arrays["sequence_scores"], rtol=0, atol=1e-5
        )
