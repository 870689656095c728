"""LoRA and prompt tuning: the first step is the frozen model's, only the adapter moves, stacked layers and meshes agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors, sharding, train
from flan_jax.checkpoint import adapted
from flan_jax.data import features, seqio_tasks
from flan_jax.models import api, presets
from flan_jax.training import adapters, configs, optim, state, step

RULES = optim.standard_logical_factor_rules()
EVERYWHERE = adapters.LoRA(rank=2, alpha=6.0, targets=("*/query", "*/wo", "decoder/logits_dense"))
PROMPT = adapters.PromptTuning(length=6)


def config_of(**overrides):
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "emb_dim": 32, "num_heads": 2, "head_dim": 8}
    return presets.t5_config("tiny", **{"vocab_size": 256, "mlp_dim": 48, "dropout_rate": 0.0, **sizes, **overrides})


# One layer a stack, where a step is compiled.
SHALLOW = {"num_encoder_layers": 1, "num_decoder_layers": 1}


@functools.cache
def base_of(scan=False, **overrides):
    params = api.init(config_of(**overrides), jax.random.key(3))
    return api.stack_layers(params) if scan else params


def drawn(adapter, base):
    """Parameters of an adapter none of which is at its first value."""
    first = adapter.init(base, jax.random.key(1))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), first)


def model_of(config, **more):
    return configs.EncoderDecoderModel(configs.Transformer(config), None, None, None, **more)


def batch(rows=8, seed=0, packed=False):
    draw = np.random.default_rng(seed)

    def ids(longest):
        return [*draw.integers(2, 256, draw.integers(1, longest)).tolist(), 1]

    lengths = {"inputs": 16, "targets": 12}
    examples = [seqio_tasks.Tokenised(ids(12), ids(9)) for _ in range(rows)]
    return features.stack([features.encoder_decoder_row([example], lengths, packed) for example in examples])


def named(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}


def test_lora_starts_as_the_frozen_model_and_adds_the_scaled_product():
    base = base_of()
    before = named(base)
    untrained = named(EVERYWHERE.apply(base, EVERYWHERE.init(base, jax.random.key(0))))
    assert all(untrained[name].tobytes() == before[name].tobytes() for name in before)
    own = drawn(EVERYWHERE, base)
    factors, after = named(own), named(EVERYWHERE.apply(base, own))
    adapted_kernels = {name.rsplit("/", 1)[0] for name in factors}
    assert "decoder/logits_dense/kernel" in adapted_kernels
    assert "encoder/layers_1/mlp/wo/kernel" in adapted_kernels
    assert "decoder/layers_0/encoder_decoder_attention/query/kernel" in adapted_kernels
    assert len(adapted_kernels) == 2 + 2 * 2 + 4 + 1  # queries of both stacks, wo, logits
    for name, kernel in before.items():
        if name not in adapted_kernels:
            assert after[name] is kernel or after[name].tobytes() == kernel.tobytes(), name
            continue
        a, b = (factors[f"{name}/lora_{part}"].astype(np.float64) for part in "ab")
        np.testing.assert_allclose(after[name], kernel + 6.0 / 2 * a @ b, rtol=0, atol=1e-6, err_msg=name)
        assert np.linalg.matrix_rank(after[name] - kernel, tol=1e-4) == 2


def test_taking_lora_away_gives_the_base_back():
    own = drawn(EVERYWHERE, base_of())
    back = EVERYWHERE.unapply(EVERYWHERE.apply(base_of(), own), own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), back, base_of())


def test_stacked_layers_have_factors_of_their_own():
    own = drawn(EVERYWHERE, base_of())
    separate = api.stack_layers(EVERYWHERE.apply(base_of(), own))
    together = EVERYWHERE.apply(base_of(scan=True), api.stack_layers(own))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), together, separate)
    shapes = jax.tree.map(lambda leaf: leaf.shape, api.stack_layers(own))
    stacked = jax.eval_shape(EVERYWHERE.init, base_of(scan=True), jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, stacked) == shapes


def test_a_kernel_starts_the_same_whatever_else_is_adapted():
    few = adapters.LoRA(rank=2, targets=("encoder/layers_0/*/query",)).init(base_of(), jax.random.key(5))
    many = EVERYWHERE.init(base_of(), jax.random.key(5))
    path = ("encoder", "layers_0", "attention", "query", "kernel", "lora_a")
    for name in path:
        few, many = few[name], many[name]
    np.testing.assert_array_equal(few, many)
    assert 0.5 < float(jnp.std(few)) * 32**0.5 < 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adapters.LoRA(targets=("*/quary",)).init(base_of(), jax.random.key(0)), r"did you mean '\*/query'"),
        (
            lambda: adapters.LoRA(targets=("*_norm",)).init(base_of(), jax.random.key(0)),
            r"no kernel's path fits '\*_norm'",
        ),
        (lambda: adapters.LoRA(targets=()), "targets is empty"),
        (lambda: adapters.LoRA(rank=0), "rank must be at least 1, given 0"),
        (lambda: adapters.PromptTuning(length=0), "length must be at least 1, given 0"),
        (lambda: adapters.PromptTuning(init_from="vocab"), "did you mean 'vocabulary'"),
        (lambda: adapters.PromptTuning(length=254).init(base_of(), jax.random.key(0)), "expected at most 253"),
        (lambda: adapters.from_settings({"kind": "Lora"}), "unknown adapter 'Lora'; did you mean 'LoRA'?"),
        (lambda: adapters.from_settings({"kind": "LoRA", "size": 3}), "size"),
    ],
)
def test_mistakes_name_what_was_given(make, message):
    with pytest.raises(errors.FlanError, match=message):
        make()


def test_settings_describe_an_adapter():
    for adapter in (EVERYWHERE, PROMPT):
        assert adapters.from_settings(adapters.settings(adapter)) == adapter


def test_a_prompt_starts_as_tokens_or_as_small_numbers():
    table = np.asarray(api.token_embedding(base_of()))
    rows = np.asarray(PROMPT.init(base_of(), jax.random.key(0))["soft_prompt"])
    at = [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in rows]
    assert len(set(at)) == 6
    assert min(at) >= 3
    other = np.asarray(PROMPT.init(base_of(), jax.random.key(1))["soft_prompt"])
    assert (rows != other).any()
    uniform = adapters.PromptTuning(length=100, init_from="uniform").init(base_of(), jax.random.key(0))["soft_prompt"]
    assert uniform.shape == (100, 32)
    assert -0.5 <= float(uniform.min()) < -0.49
    assert 0.49 < float(uniform.max()) <= 0.5


class ShowsGradients:
    """In place of an optimizer: the new parameters are the gradients."""

    def init(self, params):
        return ()

    def update(self, grads, opt_state, params, step, learning_rate):
        return grads, opt_state


def test_the_factors_gradients_are_those_of_the_chain_rule():
    """For W + s a b: dL/da = s dW b^T, dL/db = s a^T dW, where dW is what full training computes."""
    config, base = config_of(**SHALLOW), base_of(**SHALLOW)
    own = drawn(EVERYWHERE, base)
    model, data = model_of(config), batch()
    shown = jax.jit(step.make_train_step(model, ShowsGradients(), lambda _: jnp.float32(1)))
    whole, _ = shown(state.TrainState(jnp.int32(0), EVERYWHERE.apply(base, own), ()), data, jax.random.key(0))
    tuned = jax.jit(step.make_train_step(model, ShowsGradients(), lambda _: jnp.float32(1), 2, EVERYWHERE))
    mine, _ = tuned(state.TrainState(jnp.int32(0), own, ()), data, jax.random.key(0), base)
    full, found, factors = named(whole.params), named(mine.params), named(own)
    assert found.keys() == factors.keys()
    for name in {name.rsplit("/", 1)[0] for name in factors}:
        a, b, gradient = factors[f"{name}/lora_a"], factors[f"{name}/lora_b"], full[name]
        tolerance = 1e-5 * np.abs(gradient).max()
        np.testing.assert_allclose(found[f"{name}/lora_a"], 3.0 * gradient @ b.T, rtol=0, atol=20 * tolerance)
        np.testing.assert_allclose(found[f"{name}/lora_b"], 3.0 * a.T @ gradient, rtol=0, atol=20 * tolerance)


def floats(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("adapter", [adapters.LoRA(), adapters.PromptTuning()], ids=lambda adapter: adapter.kind)
def test_the_state_holds_the_adapter_and_nothing_of_the_model(adapter):
    """T5.1.1-small: 77 million parameters, of which the state of a whole run is more than the size."""
    config = presets.t5_config("small")
    optimizer = optim.Adafactor(logical_factor_rules=RULES)
    whole = state.abstract(config, optimizer.with_axes(api.logical_axes(config)))
    tuned = state.abstract(config, optimizer.with_axes(state.trained_axes(config, adapter)), adapter)
    expected = {
        # 8 of both stacks' self-attention and 8 across: query and value, [512, 384] = 8 x (512 + 384) each.
        "LoRA": 24 * 2 * 8 * (512 + 384),
        "PromptTuning": 100 * 512,
    }[adapter.kind]
    assert floats(tuned.params) == expected
    # One second moment a number, and slots of size 1: none is as large as a kernel of the model.
    assert floats(tuned.opt_state) == expected + 3 * len(jax.tree.leaves(tuned.params))
    assert floats(tuned) < floats(whole) / 50


@functools.cache
def run(kind, devices, scan=False):
    """Five steps on the way that a run takes: its shardings, its compiled step, its frozen parameters on the mesh."""
    adapter = {"LoRA": EVERYWHERE, "PromptTuning": PROMPT}[kind]
    sizes = {"data": 2, "fsdp": 2, "model": 2} if devices == 8 else {}
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:devices])
    config, base = config_of(scan_layers=scan, **SHALLOW), base_of(scan, **SHALLOW)
    optimizer = optim.Adafactor(logical_factor_rules=RULES, multiply_by_parameter_scale=False)
    optimizer = optimizer.with_axes(state.trained_axes(config, adapter))
    shapes = state.abstract(config, optimizer, adapter)
    places = state.shardings(config, optimizer, mesh, adapter=adapter)
    held = sharding.param_shardings(mesh, api.logical_axes(config), base)
    frozen = jax.device_put(jax.tree.map(jnp.copy, base), held)
    mark = adapted.digest(frozen)
    tuning = adapters.Tuning(adapter, frozen, {})
    now = jax.device_put(state.create(config, optimizer, jax.random.key(7), adapter, base), places)
    key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    data = configs.DatasetConfig("any", {"inputs": 16, "targets": 12}, "train", batch_size=8, pack=False)
    rows, losses = train.to_global(sharding.batch_sharding(mesh), batch()), []
    with sharding.use(mesh):
        trainer = configs.Trainer(lambda _: jnp.float32(0.05))
        compiled, _ = train.compile_step(model_of(config), optimizer, trainer, places, shapes, mesh, key, data, tuning)
        for _ in range(5):
            now, sums = compiled(now, rows, key)
            losses.append(float(sums["loss"]))
        after = jax.jit(step.make_eval_step(model_of(config)))(tuning.effective(now.params), rows)
    return now, [*losses, float(after["loss"])], (mark, adapted.digest(frozen)), frozen


@pytest.mark.parametrize("kind", ["LoRA", "PromptTuning"])
def test_only_the_adapter_moves(kind):
    now, losses, (before, after), frozen = run(kind, 1)
    if kind == "LoRA":  # the first step's loss is the frozen model's
        expected = jax.jit(step.make_eval_step(model_of(config_of(**SHALLOW))))(base_of(**SHALLOW), batch())["loss"]
        np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
    assert losses[5] < losses[4] < losses[0] - 1.0  # the last is that of the effective parameters, in evaluation
    assert before == after
    jax.tree.map(np.testing.assert_array_equal, frozen, base_of(**SHALLOW))
    assert int(now.step) == 5


@pytest.mark.parametrize(("kind", "scan"), [("LoRA", False), ("PromptTuning", True)])
def test_eight_devices_do_what_one_does(kind, scan):
    """(data 2, fsdp 2, model 2); a prompt has the same parameters whether layers are stacked or not."""
    one, one_losses, *_ = run(kind, 1)
    eight, eight_losses, (before, after), frozen = run(kind, 8, scan)
    assert before == after
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-3), eight.params, one.params)
    split = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.shape, (eight.params, frozen["encoder"]))
    if kind == "LoRA":
        # embed over fsdp, vocabulary over model; the rank whole.
        assert split[0]["decoder"]["logits_dense"]["kernel"] == {"lora_a": (16, 2), "lora_b": (2, 128)}
        assert split[1]["layers_0"]["mlp"]["wo"]["kernel"] == (24, 16)
    else:
        assert split[0] == {"soft_prompt": (6, 16)}
        assert split[1]["layers"]["mlp"]["wo"]["kernel"] == (24, 1, 16)


@pytest.mark.parametrize("kind", ["LoRA", "PromptTuning"])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("optimizer", [optim.Adafactor(logical_factor_rules=RULES), optim.OptaxOptimizer()])
def test_every_array_of_the_state_has_a_place_that_fits(kind, scan, optimizer):
    config = config_of(scan_layers=scan)
    adapter = {"LoRA": EVERYWHERE, "PromptTuning": PROMPT}[kind]
    optimizer = optimizer.with_axes(state.trained_axes(config, adapter))
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    shapes = state.abstract(config, optimizer, adapter)
    places = state.shardings(config, optimizer, mesh, adapter=adapter)
    assert jax.tree.structure(shapes) == jax.tree.structure(places)
    jax.tree.map(lambda shape, place: place.shard_shape(shape.shape), shapes, places)


def test_a_prompt_refuses_packed_rows():
    config = config_of()
    tuned = step.make_train_step(model_of(config), ShowsGradients(), lambda _: 1.0, adapter=PROMPT)
    first = state.TrainState(jnp.int32(0), PROMPT.init(base_of(), jax.random.key(0)), ())
    with pytest.raises(errors.FlanError, match="pack = False"):
        tuned(first, batch(packed=True), jax.random.key(0), base_of())
