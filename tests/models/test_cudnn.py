"""Attention by cuDNN, as far as a machine without a GPU can tell: what it is asked for, and that it lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from flan_jax import errors
from flan_jax.models import api, attention, presets

SIZES = {"vocab_size": 64, "num_layers": 1, "emb_dim": 64, "num_heads": 4, "head_dim": 32, "mlp_dim": 64}
SEGMENTS = np.repeat([[1, 1, 2, 3], [1, 2, 2, 0]], 8, axis=1)


def batch():
    tokens = np.where(SEGMENTS > 0, np.arange(64).reshape(2, 32) % 60 + 2, 0)
    names = ("decoder_input_tokens", "decoder_target_tokens")
    return {name: jnp.asarray(tokens, jnp.int32) for name in names} | {
        "decoder_segment_ids": jnp.asarray(SEGMENTS, jnp.int32),
        "decoder_causal_attention": jnp.zeros((2, 32), jnp.int32),
    }


@pytest.fixture
def plain_instead(monkeypatch):
    """The same call, computed by JAX's own reference for it."""
    called = []

    def reference(*given, implementation, **settings):
        called.append(implementation)
        return original(*given, implementation="xla", **settings)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", reference)
    return called


@pytest.mark.parametrize("preset", ["palm_8b", "llama_7b"])
def test_what_it_is_asked_for_is_what_xla_computes(preset, plain_instead):
    key_heads = {"num_kv_heads": 1 if preset == "palm_8b" else 2}
    configs = [
        presets.decoder_only_config(preset, dtype="bfloat16", attention=kernel, prefix_lm=True, **SIZES, **key_heads)
        for kernel in ("cudnn", "xla")
    ]
    params = api.init(configs[0], jax.random.key(0))
    fused, plain = (np.asarray(api.logits(config, params, batch()), np.float32) for config in configs)
    assert plain_instead == ["cudnn"]
    np.testing.assert_allclose(fused[SEGMENTS > 0], plain[SEGMENTS > 0], atol=0.05 * np.abs(plain).max())


def test_of_an_encoder_decoder_only_what_has_no_bias(plain_instead):
    config = presets.t5_config(
        "tiny", vocab_size=64, num_encoder_layers=2, num_decoder_layers=1, dtype="bfloat16", attention="cudnn"
    )
    rows = batch()
    rows |= {name.replace("decoder", "encoder"): rows[name] for name in ("decoder_input_tokens", "decoder_segment_ids")}
    api.logits(config, api.init(config, jax.random.key(0)), rows)
    assert plain_instead == ["cudnn"]


def test_it_lowers_for_cuda_with_its_gradient(monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91002)

    def objective(query, key, value, mask):
        mixed = attention.dot_product_attention(query, key, value, mask_Bx1xQxS=mask, fused=True)
        return jnp.sum(mixed.astype(jnp.float32))

    query = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((2, 1, 1, 128), jnp.bool_)
    traced = jax.jit(jax.grad(objective, (0, 1, 2))).trace(query, key, key, mask)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in text or '__cudnn$fmhaScaleBiasSoftmax"' in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text


def test_without_a_gpu_it_says_so():
    config = presets.decoder_only_config("llama_7b", dtype="bfloat16", attention="cudnn", **SIZES)
    params = api.init(config, jax.random.key(0))  # of one token, which needs no kernel
    with pytest.raises(
        errors.FlanError, match=r"needs a GPU with cuDNN; given backend 'cpu'; expected attention 'xla'"
    ):
        api.logits(config, params, batch())


def test_models_that_it_cannot_do():
    with pytest.raises(errors.FlanError, match="needs dtype 'bfloat16'; given 'float32'"):
        presets.decoder_only_config("llama_7b", attention="cudnn", **SIZES)
    with pytest.raises(errors.FlanError, match="positions 'relative'; expected attention 'xla'"):
        presets.decoder_only_config("lamda_137b", attention="cudnn", dtype="bfloat16")
    with pytest.raises(errors.FlanError, match="did you mean 'cudnn'"):
        presets.t5_config("tiny", attention="cuddn")
