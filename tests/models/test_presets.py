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


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # Chowdhery et al. 2022, table 1 prints 540.35 for the largest, whose own sizes make 540.356.
        ("palm_8b", 8.63),
        ("palm_62b", 62.50),
        ("palm_540b", 540.36),
        # Touvron et al. 2023, table 2, to the next digit.
        ("llama_7b", 6.74),
        ("llama_13b", 13.02),
        ("llama_30b", 32.53),
        ("llama_65b", 65.29),
        # Zhang et al. 2022 name their sizes by rounded counts.
        ("opt_125m", 0.13),
        ("opt_350m", 0.33),
        ("opt_1.3b", 1.32),
        ("opt_2.7b", 2.65),
        ("opt_6.7b", 6.66),
        ("opt_13b", 12.85),
        ("opt_30b", 29.97),
        ("opt_66b", 65.72),
        ("opt_175b", 174.60),
    ],
)
def test_parameter_counts_of_decoder_only_models_are_as_published(name, billions):
    count = api.num_params(presets.decoder_only_config(name, scan_layers=True))
    assert round(count / 1e9, 2) == billions


def test_lamda_has_137_billion_parameters_besides_its_embedding():
    config = presets.decoder_only_config("lamda_137b", scan_layers=True)
    embedding = config.vocab_size * config.emb_dim
    assert round((api.num_params(config) - embedding) / 1e9, 1) == 137.4


def test_decoder_only_sizes_of_t5x_are_those_of_its_encoder_decoder():
    for name in presets.T5_1_1:
        with_encoder, alone = presets.t5_config(name), presets.decoder_only_config(f"t5x_{name}")
        for field in ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "mlp_activations"):
            assert getattr(alone, field) == getattr(with_encoder, field)
        assert alone.num_layers == with_encoder.num_decoder_layers


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
        (lambda: presets.t5_config("tiny", mlp_activations=("geglu",)), "unknown mlp_activations"),
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
