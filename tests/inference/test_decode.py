"""Greedy decoding against the whole forward pass, and against t5x."""

import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.inference import decode
from flan_jax.models import api
from tests import golden_numbers


def test_greedy_takes_the_likeliest_token_of_the_whole_pass():
    config, params = golden_numbers.config(), golden_numbers.params()
    source = golden_numbers.batch("unpacked")["encoder_input_tokens"]
    length = 6
    # An untrained model never ends by itself; the third token of the first row is declared to be the end.
    free = np.asarray(
        decode.greedy(config, params, {"encoder_input_tokens": source}, max_decode_length=length, eos_id=300)
    )
    tokens = jnp.zeros((len(source), length + 1), jnp.int32)
    for position in range(length):
        batch = {
            "encoder_input_tokens": source,
            "decoder_input_tokens": tokens[:, :length],
            "decoder_target_tokens": jnp.ones((len(source), length), jnp.int32),
        }
        best = jnp.argmax(api.logits(config, params, batch)[:, position], axis=-1)
        tokens = tokens.at[:, position + 1].set(best)
    np.testing.assert_array_equal(free, tokens[:, 1:])

    eos = int(free[0, 2])
    ended = np.asarray(
        decode.greedy(config, params, {"encoder_input_tokens": source}, max_decode_length=length, eos_id=eos)
    )
    for row_free, row_ended in zip(free, ended, strict=True):
        hits = np.flatnonzero(row_free == eos)
        stop = hits[0] + 1 if len(hits) else length
        np.testing.assert_array_equal(row_ended[:stop], row_free[:stop])
        np.testing.assert_array_equal(row_ended[stop:], 0)


@pytest.mark.parametrize("scan", [False, True])
def test_greedy_equals_t5x_on_a_trained_model(scan):
    params = golden_numbers.tree(golden_numbers.full("decoding/params_trained.npz"))
    batch = golden_numbers.tree(golden_numbers.full("decoding/batch.npz"))
    params = api.stack_layers(params) if scan else params
    tokens = decode.greedy(golden_numbers.config(scan_layers=scan), params, batch, max_decode_length=8)
    with np.load(golden_numbers.full("decoding/decodes.npz")) as arrays:
        np.testing.assert_array_equal(tokens, arrays["greedy_temp0/decodes"][:, 0])


def test_a_packed_batch_is_refused():
    with pytest.raises(errors.FlanError, match="packed"):
        decode.greedy(
            golden_numbers.config(), golden_numbers.params(), golden_numbers.batch("packed"), max_decode_length=4
        )
