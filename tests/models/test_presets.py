"""Sizes as published, and configs built from them."""

import pytest

from flan_jax import errors
from flan_jax.models import api, presets


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small", 76_961_152),
        ("base", 247_577_856),
        ("large", 783_150_080),
        ("xl", 2_849_757_184),
        ("xxl", 11_135_332_352),
    ],
)
def test_parameter_counts_are_those_of_t5_1_1(name, count):
    # Stacked layers trace once per stack, and hold the same numbers.
    assert api.num_params(presets.t5_config(name, scan_layers=True)) == count


def test_overrides_replace_the_preset_and_lists_from_gin_become_hashable():
    config = presets.t5_config("small", num_decoder_layers=2, mlp_activations=["relu"], dtype="bfloat16")
    assert (config.num_encoder_layers, config.num_decoder_layers) == (8, 2)
    assert config.mlp_activations == ("relu",)
    assert hash(config) == hash(
        presets.t5_config("small", num_decoder_layers=2, mlp_activations=("relu",), dtype="bfloat16")
    )


def test_an_override_of_zero_dropout_is_not_taken_for_absent():
    assert presets.t5_config("small", dropout_rate=0.0).dropout_rate == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: presets.t5_config("smal"), "did you mean 'small'"),
        (lambda: presets.t5_config(None, emb_dim=4), "missing: .*vocab_size"),
        (lambda: presets.t5_config("tiny", dtype="float16"), "did you mean 'bfloat16'"),
        (lambda: presets.t5_config("tiny", remat_policy="minimum"), "did you mean 'minimal'"),
        (lambda: presets.t5_config("tiny", mlp_activations=("geglu",)), "unknown activation"),
        (lambda: presets.t5_config("tiny", dropout_rate=1.0), "dropout_rate"),
        (lambda: presets.t5_config("tiny", num_heads=0), "num_heads must be at least 1, given 0"),
    ],
)
def test_mistakes_name_what_was_given(call, message):
    with pytest.raises(errors.FlanError, match=message):
        call()


def test_a_batch_without_a_feature_is_refused_by_name():
    with pytest.raises(errors.FlanError, match="lacks decoder_target_tokens"):
        api.logits(presets.t5_config("tiny"), {}, {"encoder_input_tokens": None, "decoder_input_tokens": None})  # pyright: ignore[reportArgumentType]
