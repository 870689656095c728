"""The decoder-only model against t5x's numbers, and the invariants that hold for every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors, sharding
from flan_jax.models import api, attention, decoder_only, presets
from flan_jax.training import loss, optim
from tests import golden_numbers

FAMILY = "deconly"
TOY = {"vocab_size": 61, "emb_dim": 24, "num_heads": 4, "head_dim": 8, "num_layers": 2, "mlp_dim": 40}
TOY |= {"max_positions": 64, "dropout_rate": 0.0}
# Every way of building the model that a preset uses (LaMDA's is T5X's), and grouped queries, which none of them has.
FAMILIES = {
    "t5x": ("t5x_base", {}),
    "palm": ("palm_8b", {}),
    "opt": ("opt_1.3b", {}),
    "opt_350m": ("opt_350m", {"embedding_dim": 16}),
    "llama": ("llama_7b", {}),
    "llama_grouped": ("llama_7b", {"num_kv_heads": 2}),
}


def toy(family, **overrides):
    preset, sizes = FAMILIES[family]
    return presets.decoder_only_config(preset, **{**TOY, **sizes, **overrides})


@functools.cache
def toy_params(family):
    """Parameters of which no bias, scale or table is at its initial value, and none so small that it does not count."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        match path[-1].key:
            case "kernel":
                noise /= leaf.shape[0] ** 0.5
            case "scale":
                noise = 1 + 0.1 * noise
            case "bias":
                noise *= 0.1
        return jnp.asarray(noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, api.abstract_params(toy(family)))


def sequences(rows=3, length=12, prefix=5, seed=0):
    tokens = jax.random.randint(jax.random.key(seed), (rows, length), 1, 61)
    prefixes = jnp.broadcast_to(jnp.arange(length)[None, :] < prefix, (rows, length)).astype(jnp.int32)
    return {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": jnp.ones((rows, length), jnp.int32),
        "decoder_causal_attention": prefixes,
    }


def summed_loss(config, params, batch, dropout_rng=None):
    weights, divisor = loss.weights_and_divisor(None, batch)
    logits = api.logits(config, params, batch, dropout_rng=dropout_rng)
    return loss.loss_and_sums(logits, batch, weights, divisor, z_loss=1e-4)[0]


gradients = functools.partial(jax.jit, static_argnums=0)(jax.value_and_grad(summed_loss, argnums=1))
logits_of = jax.jit(api.logits, static_argnums=0)
prefill = jax.jit(api.prefill, static_argnums=(0, 3))
step = jax.jit(api.decode_step, static_argnums=0)


def close(ours, theirs, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), ours, theirs)


def test_parameter_names_and_shapes_are_those_of_t5x():
    ours = jax.tree.map(lambda leaf: leaf.shape, api.abstract_params(golden_numbers.decoder_only_config()))
    assert ours == jax.tree.map(lambda leaf: leaf.shape, golden_numbers.params(FAMILY))


@pytest.mark.parametrize(
    ("kind", "prefix_lm", "name"),
    [
        ("packed", True, "prefixlm_packed_bidir"),
        ("unpacked", True, "prefixlm_unpacked_bidir"),
        ("packed", False, "prefixlm_packed_causal"),
        ("lm", False, "lm_packed_causal"),
    ],
)
def test_logits_and_losses_equal_t5x(kind, prefix_lm, name):
    config = golden_numbers.decoder_only_config(prefix_lm=prefix_lm)
    params, batch = golden_numbers.params(FAMILY), golden_numbers.batch(kind, FAMILY)
    logits = api.logits(config, params, batch)
    close(golden_numbers.sampled(logits), golden_numbers.expected(f"logits/{name}", FAMILY))
    if kind == "unpacked":
        return
    # Most tokens of a prefix-LM batch are prompt, which the loss does not count.
    weights, divisor = loss.weights_and_divisor(None, batch)
    total, sums = loss.loss_and_sums(logits, batch, weights, divisor, z_loss=1e-4)
    reference = golden_numbers.summary()[FAMILY][f"loss_{name}"][0]
    np.testing.assert_allclose(total, reference["loss"], rtol=1e-6)
    assert float(sums["weights"]) == reference["weight_sum"]


def test_scores_equal_t5x():
    params, batch = golden_numbers.params(FAMILY), golden_numbers.batch("unpacked", FAMILY)
    for prefix_lm, name in ((True, "bidir"), (False, "causal")):
        logits = api.logits(golden_numbers.decoder_only_config(prefix_lm=prefix_lm), params, batch)
        losses, _ = loss.token_losses(logits, batch["decoder_target_tokens"])
        scores = -jnp.sum(losses * batch["decoder_loss_weights"], axis=1)
        reference = golden_numbers.expected(f"scores/prefixlm_unpacked_{name}", FAMILY)
        np.testing.assert_allclose(scores, reference, rtol=1e-6)


def test_gradients_and_ten_adafactor_steps_equal_t5x():
    config, params = golden_numbers.decoder_only_config(), golden_numbers.params(FAMILY)
    batch = golden_numbers.batch("packed", FAMILY)
    rules = optim.standard_logical_factor_rules()
    optimizer = optim.Adafactor(logical_factor_rules=rules).with_axes(api.logical_axes(config))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for number, reference in enumerate(golden_numbers.summary()[FAMILY]["adafactor_losses_before_each_step"]):
        value, grads = gradients(config, params, batch)
        np.testing.assert_allclose(value, reference, rtol=1e-6)
        if number == 0:
            expected = golden_numbers.expected("grads_prefixlm_packed_bidir", FAMILY)
            np.testing.assert_allclose(golden_numbers.sampled(grads), expected, rtol=1e-5, atol=1e-5)
        params, state = update(grads, state, params, number, 1e-3)
        if number + 1 in (1, 10):
            expected = golden_numbers.expected(f"adafactor_step{number + 1}_params", FAMILY)
            close(golden_numbers.sampled(params), expected)


@pytest.mark.parametrize(("prefix_lm", "case"), [(True, "bidir_greedy_temp0"), (False, "causal_greedy_temp0")])
def test_greedy_tokens_of_prompts_of_different_lengths_equal_t5x(prefix_lm, case):
    config = golden_numbers.decoder_only_config(prefix_lm=prefix_lm)
    params = golden_numbers.tree(golden_numbers.full("deconly/params_trained.npz"))
    batch = golden_numbers.tree(golden_numbers.full("deconly/decode_batch.npz"))
    with np.load(golden_numbers.full("deconly/decodes.npz")) as arrays:
        reference = arrays[f"{case}/decodes"][:, 0, :8]
    cache = prefill(config, params, batch, 8)
    token, tokens, ended = api.first_tokens(config, batch), [], np.zeros(8, bool)
    for _ in range(8):
        logits, cache = step(config, params, cache, token)
        token = jnp.argmax(logits, axis=-1)
        tokens.append(np.where(ended, 0, token))
        ended |= np.asarray(token) == 1
    np.testing.assert_array_equal(np.stack(tokens, 1), reference)


@pytest.mark.parametrize("prefix_lm", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_step_by_step_gives_the_logits_of_the_whole_pass(family, prefix_lm):
    # Layers one by one with the causal mask, stacked with the prefix mask: both matter to the cache, and never together.
    config, params = toy(family, prefix_lm=prefix_lm, scan_layers=prefix_lm), toy_params(family)
    params = api.stack_layers(params) if config.scan_layers else params
    lengths, new = np.array([1, 3, 5]), 7
    batch = sequences()
    # Prompts of different lengths, each with something behind it that is not part of it.
    prompts = np.arange(12)[None, :] < lengths[:, None]
    whole = np.asarray(logits_of(config, params, {**batch, "decoder_causal_attention": prompts}))
    tokens = np.asarray(batch["decoder_input_tokens"])
    prompt = {"decoder_input_tokens": tokens[:, :5], "decoder_causal_attention": prompts[:, :5]}
    cache = prefill(config, params, prompt, new)
    np.testing.assert_array_equal(api.first_tokens(config, prompt), tokens[np.arange(3), lengths - 1])
    for number in range(new):
        at = (np.arange(3), lengths - 1 + number)
        logits, cache = step(config, params, cache, tokens[at])
        close(logits, whole[at], atol=2e-5)


def test_a_prompt_without_marks_ends_at_its_last_token():
    config, params = toy("llama"), toy_params("llama")
    tokens = jnp.array([[0, 5, 9, 0, 0], [0, 0, 7, 8, 4], [0, 0, 0, 0, 0]])
    marks = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    marked = prefill(config, params, {"decoder_input_tokens": tokens, "decoder_causal_attention": marks}, 2)
    close(prefill(config, params, {"decoder_input_tokens": tokens}, 2), marked, atol=0)
    np.testing.assert_array_equal(api.first_tokens(config, {"decoder_input_tokens": tokens}), [9, 4, 0])


@pytest.mark.parametrize(("family", "heads"), [("palm", 1), ("llama_grouped", 2), ("llama", 4)])
def test_the_cache_holds_the_heads_of_keys_only(family, heads):
    config = toy(family)
    prompt = {"decoder_input_tokens": jnp.ones((2, 5), jnp.int32)}
    cache = jax.eval_shape(lambda params: api.prefill(config, params, prompt, 7), api.abstract_params(config))
    shapes = {leaf.shape for leaf in jax.tree.leaves(cache["decoder"])}
    assert shapes == {(2, heads, 5 - 1 + 7, 8)}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_are_those_of_each_example_alone(family):
    config, params = toy(family, prefix_lm=True), toy_params(family)
    lengths, prefixes = np.array([4, 7, 3]), np.array([2, 3, 1])
    real = np.arange(8)[None, :] < lengths[:, None]
    alone = {name: np.where(real, value, 0) for name, value in sequences(3, 8).items()}
    alone["decoder_causal_attention"] = (np.arange(8)[None, :] < prefixes[:, None]).astype(np.int32)
    # Three examples one behind the other, and two places of padding.
    packed = {name: np.pad(value[real], (0, 2))[None] for name, value in alone.items()}
    packed["decoder_segment_ids"] = np.pad(np.repeat([1, 2, 3], lengths), (0, 2))[None]
    close(logits_of(config, params, packed)[0, :-2], np.asarray(logits_of(config, params, alone))[real])


def test_positions_restart_with_every_segment_as_the_packer_writes_them():
    for kind in ("packed", "lm"):
        batch = golden_numbers.batch(kind, FAMILY)
        real = np.asarray(batch["decoder_segment_ids"]) > 0
        ours = decoder_only.segment_positions(batch["decoder_segment_ids"])
        np.testing.assert_array_equal(np.asarray(ours)[real], np.asarray(batch["decoder_positions"])[real])


@pytest.mark.parametrize("prefix_lm", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_seen_by_later_ones_and_within_its_prefix_only(family, prefix_lm):
    config, params = toy(family, prefix_lm=prefix_lm), toy_params(family)
    length, prefix = 9, 4
    row = sequences(1, length, prefix)
    # One row for every changed token, so that row i shows whom token i reaches.
    tokens = jnp.broadcast_to(row["decoder_input_tokens"], (length, length))
    changed = jnp.where(jnp.eye(length, dtype=bool), tokens % 60 + 1, tokens)
    batch = {name: jnp.broadcast_to(value, (length, length)) for name, value in row.items()}
    before = logits_of(config, params, batch)
    after = logits_of(config, params, {**batch, "decoder_input_tokens": changed})
    reached = np.asarray(jnp.max(jnp.abs(after - before), axis=-1)) > 1e-6
    places = np.arange(length)
    expected = places[:, None] <= places[None, :]
    if prefix_lm:
        expected |= (places[:, None] < prefix) & (places[None, :] < prefix)
    np.testing.assert_array_equal(reached, expected)


@pytest.mark.parametrize(
    ("family", "policy", "scan"),
    [("palm", "full", True), ("llama_grouped", "minimal", True), ("t5x", "full", False)],
)
def test_stacked_or_rematerialised_layers_give_the_same_loss_and_gradients(family, policy, scan):
    params, batch, rng = toy_params(family), sequences(), jax.random.key(3)
    value, grads = gradients(toy(family, dropout_rate=0.1), params, batch, rng)
    config = toy(family, dropout_rate=0.1, scan_layers=scan, remat_policy=policy)
    arranged = api.stack_layers if scan else lambda tree: tree
    again, others = gradients(config, arranged(params), batch, rng)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), others, arranged(grads))


@pytest.mark.parametrize("family", ["palm", "opt_350m", "llama_grouped"])
def test_bfloat16_stays_near_float32_and_keeps_parameters_and_logits_float32(family):
    params, batch = toy_params(family), sequences()
    exact = logits_of(toy(family), params, batch)
    rounded = logits_of(toy(family, dtype="bfloat16"), params, batch)
    assert rounded.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean((rounded - exact) ** 2) / jnp.mean(exact**2)))
    # bfloat16 keeps 8 bits: 0.004 per rounding; measured 0.006 to 0.010 over the whole model.
    assert 0 < error < 0.03


@pytest.mark.parametrize("family", ["palm", "opt_350m"])
def test_dropout_acts_only_with_a_key(family):
    params, batch = toy_params(family), sequences()
    config = toy(family, dropout_rate=0.1)
    np.testing.assert_array_equal(logits_of(config, params, batch), logits_of(toy(family), params, batch))
    drop = jax.jit(lambda key: api.logits(config, params, batch, dropout_rng=key))
    first, second = drop(jax.random.key(0)), drop(jax.random.key(1))
    np.testing.assert_array_equal(first, drop(jax.random.key(0)))
    assert float(jnp.mean(jnp.abs(first - second))) > 0.01


@pytest.mark.parametrize("family", ["palm", "llama_grouped"])
def test_eight_devices_give_the_logits_of_one_and_share_the_cache(family):
    config, params, batch = toy(family, scan_layers=True), api.stack_layers(toy_params(family)), sequences(4)
    whole = logits_of(config, params, batch)
    mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
    placed = jax.device_put(params, sharding.param_shardings(mesh, api.logical_axes(config), params))
    with sharding.use(mesh):
        close(logits_of(config, placed, batch), whole)
        prompt = {"decoder_input_tokens": batch["decoder_input_tokens"][:, :6]}
        cache = prefill(config, placed, prompt, 3)
        for position in (5, 6, 7):
            logits, cache = step(config, placed, cache, batch["decoder_input_tokens"][:, position])
            close(logits, whole[:, position], atol=2e-5)
    keys = cache["decoder"]["layers"]["self_key"]
    layers, rows, heads, places, width = keys.shape
    # Rows over data and fsdp, heads over model; the one head of multi-query attention is on all of them.
    expected = (layers, rows // 4, max(heads // 2, 1), places, width)
    assert keys.sharding.shard_shape(keys.shape) == expected


def test_grouped_queries_are_heads_that_share_their_keys():
    grouped, params = toy("llama_grouped"), toy_params("llama_grouped")

    def repeated(kernel):
        return jnp.repeat(kernel.reshape(24, 2, 8), 2, axis=1).reshape(24, 32)

    full = jax.tree.map(lambda leaf: leaf, params)
    for layer in ("layers_0", "layers_1"):
        for part in ("key", "value"):
            full["decoder"][layer]["self_attention"][part] = {
                "kernel": repeated(params["decoder"][layer]["self_attention"][part]["kernel"])
            }
    close(logits_of(grouped, params, sequences()), logits_of(toy("llama"), full, sequences()))


def test_rotary_products_depend_on_distance_only():
    query, key = (jax.random.normal(jax.random.key(index), (1, 1, 1, 8)) for index in range(2))

    def product(at, other):
        turned = [
            attention.rotate(x, attention.rotation(jnp.full((1, 1), position), 8, 10000.0))
            for x, position in ((query, at), (key, other))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    np.testing.assert_allclose(product(3, 1), product(103, 101), rtol=1e-4)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_every_stacked_parameter_has_axes_that_adafactor_and_the_mesh_know():
    for preset in ("palm_8b", "opt_350m", "llama_7b"):
        config = presets.decoder_only_config(preset, num_layers=2, scan_layers=True)
        rules = optim.standard_logical_factor_rules()
        optimizer = optim.Adafactor(logical_factor_rules=rules).with_axes(api.logical_axes(config))
        shapes = api.abstract_params(config)
        mesh = sharding.make_mesh(data=2, fsdp=2, model=2)
        jax.eval_shape(optimizer.init, shapes)
        shardings = sharding.param_shardings(mesh, api.logical_axes(config), shapes)
        split = [
            leaf.size / np.prod(where.shard_shape(leaf.shape))
            for leaf, where in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
            if leaf.size > 1_000_000
        ]
        # Matrices are split by fsdp, and all but those of a single head of keys and the embedding's projections by model.
        assert min(split) >= 2
        assert sorted(split)[len(split) // 2] == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: presets.decoder_only_config("llama_8b"), "did you mean 'llama_7b'"),
        (lambda: presets.decoder_only_config(None, emb_dim=4), "missing: .*vocab_size"),
        (lambda: toy("llama", num_kv_heads=3), "num_kv_heads must divide num_heads 4, given 3"),
        (lambda: toy("llama", head_dim=7), "even head_dim, given 7"),
        (lambda: toy("llama", block="paralel"), "did you mean 'parallel'"),
        (lambda: toy("llama", norm="layr"), "did you mean 'layer'"),
        (lambda: toy("llama", positions="rotery"), "did you mean 'rotary'"),
        (lambda: toy("llama", use_bias=True), "norm 'layer'"),
        (lambda: api.logits(toy("llama"), {}, {"decoder_input_tokens": jnp.ones((1, 2))}), "decoder_target_tokens"),
        (
            lambda: api.logits(
                toy("llama", prefix_lm=True),
                {},
                {"decoder_input_tokens": jnp.ones((1, 2)), "decoder_target_tokens": jnp.ones((1, 2))},
            ),
            "lacks decoder_causal_attention",
        ),
        (lambda: api.logits(toy("opt"), {}, sequences(length=65)), "65 positions; the model has learned 64"),
        (
            lambda: api.prefill(toy("opt"), {"token_embedder": {}}, sequences(length=60), 6),
            "65 positions; the model has learned 64",
        ),
        (
            lambda: api.prefill(toy("opt"), {}, {**sequences(), "decoder_segment_ids": jnp.ones((3, 12))}, 6),
            "has decoder_segment_ids",
        ),
        (lambda: api.encode(toy("opt"), {}, sequences()), "no encoder"),
    ],
)
def test_what_cannot_be_is_refused_with_a_clear_line(call, message):
    with pytest.raises(errors.FlanError, match=message):
        call()
