"""Tables of names: models of transformers with random weights give our logits, and errors name the tensors."""

import re
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.checkpoint import families
from flan_jax.models import api, presets

TOY: dict[str, Any] = {"vocab_size": 67, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 48}
LLAMA = presets.decoder_only_config("llama_7b", num_layers=2, **TOY)


def theirs(family, config):
    """The model of transformers with the sizes of our config, and weights far from what they start at."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if family == "opt":
        made = transformers.OPTForCausalLM(
            transformers.OPTConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.emb_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                ffn_dim=config.mlp_dim,
                max_position_embeddings=config.max_positions,
                word_embed_proj_dim=config.embedding_dim or config.emb_dim,
                do_layer_norm_before=config.block == "pre_norm",
            )
        )
    else:
        made = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.emb_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads or config.num_heads,
                intermediate_size=config.mlp_dim,
                rms_norm_eps=config.norm_epsilon,
            )
        )
    return with_random_weights(torch, made)


def with_random_weights(torch, made):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm.weight" in name else 0.2 * noise)
    return made.eval()


@pytest.mark.parametrize(
    ("family", "preset", "options"),
    [
        ("opt", "opt_1.3b", {}),
        ("opt", "opt_350m", {"embedding_dim": 16}),
        ("llama", "llama_7b", {}),
        ("llama", "llama_65b", {"num_kv_heads": 2}),
    ],
)
def test_logits_equal_those_of_transformers_and_names_go_both_ways(family, preset, options):
    torch = pytest.importorskip("torch")
    config = presets.decoder_only_config(preset, **TOY, num_layers=2, max_positions=40, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = theirs(family, config)
        tokens = np.random.default_rng(0).integers(3, 67, (2, 20))
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens)).logits.numpy()
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    params = families.to_ours(config, family, tensors)
    batch = {"decoder_input_tokens": jnp.asarray(tokens), "decoder_target_tokens": jnp.ones((2, 20), jnp.int32)}
    logits = api.logits(config, params, batch)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    # The same through the cache, with positions counted from the start of the sequence.
    cache = api.prefill(config, params, {"decoder_input_tokens": batch["decoder_input_tokens"][:, :19]}, 2)
    for position in (18, 19):
        step, cache = api.decode_step(config, params, cache, batch["decoder_input_tokens"][:, position])
        np.testing.assert_allclose(step, expected[:, position], rtol=0, atol=1e-4)
    again = families.to_theirs(config, family, params)
    assert set(tensors) - set(again) == ({"lm_head.weight"} if family == "opt" else set())
    for name, value in again.items():
        np.testing.assert_array_equal(value, tensors[name])


@pytest.mark.parametrize(
    ("activations", "projection", "tied"), [(("gelu", "linear"), "gated-gelu", False), (("relu",), "relu", True)]
)
def test_encoder_decoder_logits_equal_those_of_transformers(activations, projection, tied):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = presets.t5_config(
        **TOY, num_encoder_layers=3, num_decoder_layers=2, mlp_activations=activations, logits_via_embedding=tied
    )
    rng = np.random.default_rng(0)
    source, target = rng.integers(1, 67, (2, 15)), rng.integers(1, 67, (2, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = transformers.T5Config(
            vocab_size=67,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=3,
            num_decoder_layers=2,
            num_heads=4,
            feed_forward_proj=projection,
            tie_word_embeddings=tied,
        )
        model = with_random_weights(torch, transformers.T5ForConditionalGeneration(sizes))
        with torch.no_grad():
            expected = model(
                input_ids=torch.from_numpy(source), decoder_input_ids=torch.from_numpy(target)
            ).logits.numpy()
    params = families.to_ours(config, "t5", {name: value.numpy() for name, value in model.state_dict().items()})
    batch = {
        "encoder_input_tokens": jnp.asarray(source),
        "decoder_input_tokens": jnp.asarray(target),
        "decoder_target_tokens": jnp.ones((2, 9), jnp.int32),
    }
    np.testing.assert_allclose(api.logits(config, params, batch), expected, rtol=0, atol=1e-4)


OPT_SIZES = [name for name in presets.DECODER_ONLY if name.startswith("opt_")]


@pytest.mark.parametrize("name", OPT_SIZES)
def test_opt_has_as_many_parameters_as_in_transformers(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = presets.decoder_only_config(name, scan_layers=True)
    with torch.device("meta"):
        made = transformers.OPTForCausalLM(
            transformers.OPTConfig(
                hidden_size=config.emb_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                ffn_dim=config.mlp_dim,
                word_embed_proj_dim=config.embedding_dim or config.emb_dim,
                do_layer_norm_before=config.block == "pre_norm",
            )
        )
    assert api.num_params(config) == sum(parameter.numel() for parameter in made.parameters())


def zeros(config, family) -> dict[str, Any]:
    return {pair.theirs: np.zeros(pair.their_shape) for pair in families.pairs(config, family)}


@pytest.mark.parametrize("name", ["opt_125m", "opt_350m", "llama_7b"])
def test_every_parameter_has_one_name_and_every_name_one_parameter(name):
    config = presets.decoder_only_config(name, scan_layers=True, num_layers=3)
    found = families.pairs(config, name.split("_")[0])
    assert len({pair.ours for pair in found}) == len({pair.theirs for pair in found}) == len(found)
    shapes = {pair.theirs: pair.their_shape for pair in found}
    assert sum(np.prod(shape) for shape in shapes.values()) == api.num_params(config)


def test_a_checkpoint_with_copies_and_constants_is_accepted():
    tensors = zeros(LLAMA, "llama")
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(4)
    families.to_ours(LLAMA, "llama", tensors)


def without(name):
    tensors = zeros(LLAMA, "llama")
    del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: without("model.norm.weight"), "missing: model.norm.weight"),
        (lambda: {**zeros(LLAMA, "llama"), "model.norm.bias": np.zeros(32)}, "unknown: model.norm.bias"),
        (
            lambda: {**zeros(LLAMA, "llama"), "lm_head.weight": np.zeros((32, 67))},
            "of another shape: lm_head.weight is (32, 67), expected (67, 32)",
        ),
        (
            lambda: {**zeros(LLAMA, "llama"), "model.layers.2.self_attn.q_proj.weight": np.zeros((32, 32))},
            "unknown: model.layers.2.self_attn.q_proj.weight",
        ),
        (dict, "... (21 in all)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_their_list(tensors, message):
    with pytest.raises(errors.FlanError, match=re.escape(message)):
        families.to_ours(LLAMA, "llama", tensors())


def test_a_model_of_another_family_is_refused():
    config = presets.decoder_only_config("palm_8b", num_layers=2, **TOY)
    with pytest.raises(errors.FlanError, match=r"have none for decoder/layers_0/layer_norm/scale.*another family"):
        families.pairs(config, "llama")
    with pytest.raises(errors.FlanError, match="did you mean 'llama'"):
        families.pairs(config, "lama")
