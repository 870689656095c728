"""Models of transformers go through `flan convert` and give the same logits here, and the same tokens there again."""

import contextlib
import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.checkpoint import convert, hugging_face, hugging_face_config, manager, safetensors_files, sources, tensors
from flan_jax.models import api, presets
from tests.checkpoint import toy_checkpoints as toy

T5_SIZES = {
    "vocab_size": 67,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
}
OPT_SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": 40,
}
LLAMA_SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
# Name -> class of transformers, settings.
MODELS = {
    "t5_1_1": ("T5", {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5": ("T5", {**T5_SIZES, "feed_forward_proj": "relu"}),
    "opt": ("OPT", OPT_SIZES),
    "opt_350m": ("OPT", {**OPT_SIZES, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "llama": ("Llama", LLAMA_SIZES),
    "llama_grouped": ("Llama", {**LLAMA_SIZES, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "llama_tied": ("Llama", {**LLAMA_SIZES, "tie_word_embeddings": True}),
}


@contextlib.contextmanager
def quiet():
    """transformers logs to a stream of its own and warns about its own past."""
    transformers = pytest.importorskip("transformers")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    finally:
        transformers.logging.set_verbosity(before)


def made(name):
    """A model of transformers with weights far from what they start at; heads that may be untied are."""
    torch = pytest.importorskip("torch")
    kind, settings = MODELS[name]
    with quiet() as transformers:
        suffix = "ForConditionalGeneration" if kind == "T5" else "ForCausalLM"
        config = getattr(transformers, f"{kind}Config")(**settings)
        model = getattr(transformers, f"{kind}{suffix}")(config)
    if name == "t5_1_1":
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(67, 32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm.weight" in key else 0.2 * noise)
    return model.eval()


def loaded(path):
    """A folder, as transformers loads it, and what it says about it."""
    with quiet() as transformers:
        kind = json.loads((path / "config.json").read_text())["architectures"][0]
        model, told = getattr(transformers, kind).from_pretrained(path, output_loading_info=True)
    return model.eval(), told


TOKENS = np.random.default_rng(0).integers(3, 67, (2, 20))


def logits(model):
    torch = pytest.importorskip("torch")
    tokens = torch.from_numpy(TOKENS)
    given = (
        {"input_ids": tokens, "decoder_input_ids": tokens[:, :9]}
        if model.config.is_encoder_decoder
        else {"input_ids": tokens}
    )
    with torch.no_grad(), quiet():
        return model(**given).logits.numpy()


def greedy(model, **extra):
    torch = pytest.importorskip("torch")
    with torch.no_grad(), quiet():
        tokens = torch.from_numpy(TOKENS[:, :7])
        mask = torch.ones_like(tokens)
        made = model.generate(
            tokens, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, do_sample=False, **extra
        )
    return made.numpy()


def our_logits(config, params):
    whole = {"decoder_input_tokens": TOKENS, "decoder_target_tokens": np.ones_like(TOKENS)}
    if isinstance(config, api.T5Config):
        part = {name: value[:, :9] for name, value in whole.items()}
        whole = {"encoder_input_tokens": TOKENS, **part}
    return api.logits(config, params, {name: jnp.asarray(value) for name, value in whole.items()})


def our_greedy(config, params, eos, steps=12):
    """What `greedy` asks transformers for: so many tokens, of which none is EOS."""
    tokens = jnp.asarray(TOKENS[:, :7], jnp.int32)
    if isinstance(config, api.T5Config):
        batch = {"encoder_input_tokens": tokens}
    else:
        batch = {"decoder_input_tokens": tokens, "decoder_causal_attention": jnp.ones_like(tokens)}
    cache, token, made = api.prefill(config, params, batch, steps), api.first_tokens(config, batch), []
    step = jax.jit(api.decode_step, static_argnums=0)
    for _ in range(steps):
        logits, cache = step(config, params, cache, token)
        token = jnp.argmax(logits.at[:, eos].set(-jnp.inf), axis=-1).astype(jnp.int32)
        made.append(token)
    return np.stack(made, axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_go_both_ways(tmp_path, name):
    model = made(name)
    shard = "20KB" if name in ("t5_1_1", "opt", "llama") else "5GB"
    with quiet():
        model.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == (shard == "20KB")
    expected = logits(model)
    assert np.std(expected) > 0.1

    # To ours, with the layers of a large run, and back.
    result = convert.convert(tmp_path / "theirs", tmp_path / "checkpoint_0", to="orbax", layers="stacked", verify=False)
    config = dataclasses.replace(result.source.config, scan_layers=True)
    params = manager.restore_from(tmp_path / "checkpoint_0", toy.abstract(config))["target"]
    np.testing.assert_allclose(our_logits(config, params), expected, rtol=0, atol=1e-4)
    convert.convert(
        tmp_path / "checkpoint_0",
        tmp_path / "ours",
        to="hf",
        config=config,
        shard_bytes=20_000 if shard == "20KB" else 10**9,
        verify=False,
    )

    again, told = loaded(tmp_path / "ours")
    assert not any(told.values()), told
    np.testing.assert_array_equal(logits(again), expected)
    # A T5 of transformers does not know of itself how its targets begin; ours, as on the hub, does.
    extra = {"decoder_start_token_id": 0} if MODELS[name][0] == "T5" else {}
    np.testing.assert_array_equal(greedy(again), greedy(model, **extra))
    # And those that they were before they were saved.
    np.testing.assert_array_equal(
        greedy(again)[:, -12:], our_greedy(config, params, again.generation_config.eos_token_id)
    )
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    assert all((theirs[key] == ours[key]).all() for key in theirs)


def test_a_t5_whose_tied_logits_are_not_scaled_gets_a_head_of_its_own(tmp_path):
    """transformers 5 makes these of T5.1.1's settings; our tied logits are always scaled."""
    torch = pytest.importorskip("torch")
    model = made("t5_1_1")
    model.lm_head.weight = model.shared.weight
    with quiet(), torch.no_grad():
        model.save_pretrained(tmp_path / "theirs")
    content = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert (content["tie_word_embeddings"], content["scale_decoder_outputs"]) == (True, False)
    opened = sources.open_source(tmp_path / "theirs")
    assert "lm_head.weight" not in safetensors_files.File(tmp_path / "theirs" / "model.safetensors", "x").tensors
    params = tensors.nested(dict(sources.values(opened)))
    np.testing.assert_allclose(our_logits(opened.config, params), logits(model), rtol=0, atol=1e-4)


def test_files_are_those_of_the_safetensors_package(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    random = np.random.default_rng(0)
    dtypes = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "F64": np.float64}
    values = {name: np.asarray(random.normal(size=(3, 5)) * 9).astype(dtype) for name, dtype in dtypes.items()}
    values |= {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.float32),
        "long " * 9: np.ones(3, np.float32),
    }
    library.save_file(values, tmp_path / "theirs", metadata={"a": "b"})
    file = safetensors_files.File(tmp_path / "theirs", "x")
    toy.assert_same_bits({name: file.read(name) for name in file.tensors}, values)
    specs = {name: tensors.Stored(value.shape, value.dtype) for name, value in values.items()}
    writer = safetensors_files.Writer(tmp_path / "ours", specs)
    for name in reversed(values):
        writer.write(name, values[name])
    toy.assert_same_bits(library.load_file(tmp_path / "ours"), values)


def test_bfloat16_is_that_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    value = np.random.default_rng(0).normal(size=(5, 7)).astype(jnp.bfloat16)
    spec = {"x": tensors.Stored(value.shape, value.dtype)}
    safetensors_files.Writer(tmp_path / "ours", spec).write("x", value)
    theirs = library.load_file(tmp_path / "ours")["x"]
    assert theirs.dtype == torch.bfloat16
    np.testing.assert_array_equal(theirs.float().numpy(), value.astype(np.float32))
    library.save_file({"x": theirs}, tmp_path / "theirs")
    toy.assert_same_bits({"x": safetensors_files.File(tmp_path / "theirs", "x").read("x")}, {"x": value})


PUBLISHED = [name for name in presets.DECODER_ONLY if name.startswith(("opt_", "llama_"))]


@pytest.mark.parametrize("name", [*PUBLISHED, *presets.T5_1_1])
def test_every_published_size_has_a_config_there(name):
    if name in presets.T5_1_1:
        family, config = "t5", presets.t5_config(name)
    else:
        family, config = name.split("_")[0], presets.decoder_only_config(name)
    content = json.loads(json.dumps(hugging_face_config.write(config, family, "float32")))
    assert hugging_face_config.read(content, "x") == (family, config)


def test_configs_of_transformers_4_are_read():
    """As on the hub: flan-t5-small, t5-small, opt-350m and a llama, with the names of the time."""
    family, config = hugging_face_config.read(
        {**T5_SIZES, "model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "x"
    )
    assert (family, config.logits_via_embedding, config.mlp_activations) == ("t5", False, ("gelu", "linear"))
    sizes = {name: size for name, size in T5_SIZES.items() if name != "num_decoder_layers"}
    _, config = hugging_face_config.read({**sizes, "model_type": "t5"}, "x")
    assert (config.logits_via_embedding, config.mlp_activations, config.num_decoder_layers) == (True, ("relu",), 3)
    _, config = hugging_face_config.read(
        {**LLAMA_SIZES, "model_type": "llama", "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 5e5}, "x"
    )
    assert (config.norm_epsilon, config.rope_theta, config.head_dim) == (1e-5, 5e5, 8)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("t5", {"model_type": "t55"}, r"config.json: unknown model_type 't55'; did you mean .*'t5'"),
        ("t5", {"model_type": None}, "unknown model_type 'None'"),
        ("t5", {"d_kv": None}, "it lacks d_kv"),
        ("t5", {"d_kv": "64"}, "d_kv is '64'; expected a number"),
        ("t5", {"d_kv": 0}, "head_dim must be at least 1"),
        ("t5", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64; our t5 models have 32"),
        ("t5", {"feed_forward_proj": "gelu"}, "unknown feed_forward_proj 'gelu'"),
        ("opt", {"activation_function": "gelu"}, "activation_function is 'gelu'; our opt models have 'relu'"),
        ("opt", {"num_attention_heads": 5}, "width 32 is not a multiple of 5 heads"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected a JSON object"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads must divide num_heads 4"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_models_that_are_not_ours_are_refused(kind, settings, message):
    sizes = {"t5": T5_SIZES, "opt": OPT_SIZES, "llama": {**LLAMA_SIZES, "rms_norm_eps": 1e-6}}[kind]
    with pytest.raises(errors.FlanError, match=message) as refused:
        hugging_face_config.read({**sizes, "model_type": kind, **settings}, "config.json")
    assert str(refused.value).startswith("config.json: ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(toy.OPT, norm_epsilon=1e-6), "opt models cannot have norm_epsilon 1e-06"),
        (dataclasses.replace(toy.OPT, block="parallel"), "cannot have block 'parallel'"),
        (dataclasses.replace(toy.LLAMA, logits_via_embedding=True), "cannot have scale_logits True"),
        (dataclasses.replace(toy.LLAMA, scale_attention=False), "cannot have scale_attention False"),
        (dataclasses.replace(toy.T5, mlp_activations=("gelu",)), r"no mlp_activations \('gelu',\)"),
    ],
)
def test_models_that_are_not_theirs_are_refused(config, message):
    family = "t5" if isinstance(config, api.T5Config) else "opt" if config.positions == "learned" else "llama"
    with pytest.raises(errors.FlanError, match=message):
        hugging_face_config.write(config, family, "float32")


def test_only_a_copy_was_saved(tmp_path):
    """safetensors keeps one name of a tensor that several share, and not always the first."""
    folder = toy.save_hugging_face(tmp_path / "hf", toy.T5_RELU)
    rewrite(folder, lambda values: values | {"decoder.embed_tokens.weight": values.pop("shared.weight")})
    toy.assert_same_bits(dict(sources.values(sources.open_source(folder))), toy.params(toy.T5_RELU))


@pytest.mark.parametrize("config", [toy.OPT, toy.OPT_350M], ids=repr)
@pytest.mark.parametrize("head", [False, True])
def test_an_opt_that_was_saved_without_its_head_is_read(tmp_path, config, head):
    """opt-350m and opt-6.7b lie on the hub as `decoder.layers...`, without `model.`."""
    folder = toy.save_hugging_face(tmp_path / "hf", config)
    extra = {"lm_head.weight": toy.params(config)["decoder", "token_embedder", "embedding"]} if head else {}
    rewrite(folder, lambda values: {name.removeprefix("model."): value for name, value in values.items()} | extra)
    assert "decoder.embed_tokens.weight" in safetensors_files.File(folder / "model.safetensors", "x").tensors
    toy.assert_same_bits(dict(sources.values(sources.open_source(folder))), toy.params(config))
    rewrite(
        folder, lambda values: values | {"model.decoder.embed_tokens.weight": values["decoder.embed_tokens.weight"]}
    )
    with pytest.raises(errors.FlanError, match=r"holds (model\.)?decoder.embed_tokens.weight twice"):
        sources.open_source(folder)


def test_a_copy_that_is_none_is_refused(tmp_path):
    folder = toy.save_hugging_face(tmp_path / "hf", toy.T5_RELU)
    rewrite(folder, lambda values: values | {"lm_head.weight": values["shared.weight"].copy()})
    sources.open_source(folder)
    rewrite(folder, lambda values: values | {"lm_head.weight": values["shared.weight"] * 2})
    with pytest.raises(errors.FlanError, match=r"lm_head.weight is not a copy of shared.weight.*model.safetensors"):
        sources.open_source(folder)


def rewrite(folder, change):
    path = folder / hugging_face.SINGLE
    file = safetensors_files.File(path, folder)
    values = change({name: file.read(name) for name in file.tensors})
    writer = safetensors_files.Writer(path, {n: tensors.Stored(v.shape, v.dtype) for n, v in values.items()})
    for name, value in values.items():
        writer.write(name, value)
