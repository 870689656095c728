"""Adafactor and the schedules against t5x, and Adafactor's factoring against its definition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax import errors, sharding
from flan_jax.models import api, presets
from flan_jax.training import loss, optim
from tests import golden_numbers


def adafactor(config, **options):
    rules = optim.standard_logical_factor_rules()
    return optim.Adafactor(logical_factor_rules=rules, **options).with_axes(api.logical_axes(config))


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_step(config, optimizer, params, state, batch, step):
    weights, divisor = loss.weights_and_divisor(None, batch)

    def objective(params):
        return loss.loss_and_sums(api.logits(config, params, batch), batch, weights, divisor, z_loss=1e-4)[0]

    value, grads = jax.value_and_grad(objective)(params)
    return value, *optimizer.update(grads, state, params, step, 1e-3)


def test_ten_steps_equal_t5x():
    config, params, batch = golden_numbers.config(), golden_numbers.params(), golden_numbers.batch("packed")
    optimizer = adafactor(config)
    state = optimizer.init(params)
    for step, reference in enumerate(golden_numbers.summary()["encdec"]["adafactor_losses_before_each_step"]):
        value, params, state = train_step(config, optimizer, params, state, batch, step)
        np.testing.assert_allclose(value, reference, rtol=1e-6)
        if step + 1 in (1, 2, 5, 10):
            expected = golden_numbers.expected(f"adafactor_step{step + 1}_params")
            np.testing.assert_allclose(golden_numbers.sampled(params), expected, rtol=0, atol=1e-5)
    expected = golden_numbers.expected("adafactor_step10_param_states")
    np.testing.assert_allclose(golden_numbers.sampled(state), expected, rtol=2e-4, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kept"), [("encdec", (1, 2, 5, 10)), ("deconly", (1, 10))])
def test_ten_steps_equal_t5x_in_full(family, kept):
    """Every number of what the test above samples, and the decoder-only model."""
    config = golden_numbers.config() if family == "encdec" else golden_numbers.decoder_only_config()
    batch = "batch_packed" if family == "encdec" else "batch_prefixlm_packed"
    params, batch = (golden_numbers.tree(golden_numbers.full(f"{family}/{name}.npz")) for name in ("params", batch))
    optimizer = adafactor(config)
    state = optimizer.init(params)
    for step, expected in enumerate(golden_numbers.full_summary()[family]["adafactor_losses_before_each_step"]):
        value, params, state = train_step(config, optimizer, params, state, batch, step)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        if step + 1 in kept:
            reference = golden_numbers.tree(golden_numbers.full(f"{family}/adafactor_step{step + 1}_params.npz"))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), params, reference)
    if family == "encdec":
        assert_slots_equal(state, golden_numbers.tree(golden_numbers.full("encdec/adafactor_step10_param_states.npz")))


def test_ten_factored_steps_equal_t5x():
    config = golden_numbers.config(
        emb_dim=128, num_heads=2, head_dim=64, mlp_dim=160, num_encoder_layers=1, num_decoder_layers=1
    )
    params = golden_numbers.tree(golden_numbers.full("encdec_factored/params.npz"))
    optimizer, batch = adafactor(config), golden_numbers.batch("packed")
    state = optimizer.init(params)
    for step, expected in enumerate(
        golden_numbers.full_summary()["encdec_factored"]["adafactor_losses_before_each_step"]
    ):
        value, params, state = train_step(config, optimizer, params, state, batch, step)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    reference = golden_numbers.tree(golden_numbers.full("encdec_factored/adafactor_step10_params.npz"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), params, reference)
    reference = golden_numbers.tree(golden_numbers.full("encdec_factored/adafactor_step10_param_states.npz"))
    assert_slots_equal(state, reference)


def assert_slots_equal(state, reference):
    """Whole slots: to 1e-5, and where a moment is a sum of all but nothing to 1e-6 of the slot's largest."""
    assert jax.tree.structure(state) == jax.tree.structure(reference)

    def check(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * float(np.max(np.abs(theirs))))

    jax.tree.map(check, state, reference)


def factored_by_hand(params, grads_by_step, rate):
    """Adafactor of one matrix, written after the paper in float64: rows are the axis that is kept by v_row."""
    params = np.asarray(params, np.float64)
    row, column = np.zeros(params.shape[0]), np.zeros(params.shape[1])
    for step, grad in enumerate(np.asarray(grads_by_step, np.float64)):
        decay = 1 - (step + 1) ** -0.8
        squared = grad**2 + 1e-30
        row = decay * row + (1 - decay) * squared.mean(1)
        column = decay * column + (1 - decay) * squared.mean(0)
        direction = grad / np.sqrt(np.outer(row, column) / row.mean())
        direction /= max(1.0, np.sqrt((direction**2).mean()))
        params = params - rate * max(np.sqrt((params**2).mean()), 1e-3) * direction
    return params, row, column


def steps_of(optimizer, params, grads_by_step, rate=1e-2):
    state = optimizer.init(params)
    for step, grads in enumerate(grads_by_step):
        params, state = optimizer.update(grads, state, params, step, rate)
    return params, state


@pytest.mark.parametrize("shape", [(128, 160), (160, 128), (130, 130)])
def test_a_factored_matrix_follows_the_definition(shape):
    # The gradients differ in scale by row and column, so that factoring along the wrong axis shows.
    scales = jnp.exp(jnp.linspace(-2, 2, shape[0]))[:, None] * jnp.exp(jnp.linspace(-1, 1, shape[1]))[None]
    grads = [scales * jax.random.normal(jax.random.key(step), shape) for step in range(3)]
    params = jax.random.normal(jax.random.key(7), shape)
    ours, state = steps_of(optim.Adafactor(), {"w": params}, [{"w": grad} for grad in grads])
    expected, row, column = factored_by_hand(params, grads, 1e-2)
    # v_row has the length of the smaller dimension.
    if shape[0] > shape[1]:
        expected, column, row = factored_by_hand(params.T, [grad.T for grad in grads], 1e-2)
        expected, column, row = expected.T, row, column
    np.testing.assert_allclose(ours["w"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state["w"]["v_row"], row, rtol=1e-5)
    np.testing.assert_allclose(state["w"]["v_col"], column, rtol=1e-5)
    assert state["w"]["v"].shape == state["w"]["m"].shape == (1,)


def test_stacked_layers_are_updated_as_if_they_were_separate():
    rules = optim.standard_logical_factor_rules()
    axes = {"kernel": ("embed", "mlp"), "scale": ("embed",)}
    stacked_axes = {"kernel": ("embed", "layers", "mlp"), "scale": ("embed", "layers")}
    shapes = {"kernel": (128, 140), "scale": (128,)}

    def draw(seed, size):
        keys = jax.random.split(jax.random.key(seed), 2)
        return {name: size * jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys, strict=True)}

    # Layers of different size: a scale or clipping shared between them would show.
    params = [draw(layer, 10.0**layer) for layer in range(3)]
    grads = [[draw(10 + 3 * step + layer, 10.0 ** (step * layer)) for layer in range(3)] for step in range(3)]
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves, axis=1))
    separate = [
        steps_of(optim.Adafactor(logical_factor_rules=rules).with_axes(axes), params[layer], [g[layer] for g in grads])[
            0
        ]
        for layer in range(3)
    ]
    together, _ = steps_of(
        optim.Adafactor(logical_factor_rules=rules).with_axes(stacked_axes), stack(*params), [stack(*g) for g in grads]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, stack(*separate))


def test_momentum_weight_decay_and_parameter_scale_follow_their_definitions():
    params, grads = {"w": jnp.array([3.0, -4.0])}, {"w": jnp.array([0.5, 0.5])}
    # On the first step v = grad^2, so the direction is the sign, already at the clipping threshold.
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({"multiply_by_parameter_scale": False}, [2.9, -4.1]),
        ({}, [3.0 - 0.1 * 12.5**0.5, -4.0 - 0.1 * 12.5**0.5]),
        ({"max_parameter_scale": 2.0}, [2.8, -4.2]),
        ({"multiply_by_parameter_scale": False, "beta1": 0.9}, [2.99, -4.01]),
        ({"multiply_by_parameter_scale": False, "weight_decay_rate": 0.5}, [1.4, -2.1]),
        ({"multiply_by_parameter_scale": False, "weight_decay_rate_lr_exponent": 2.0}, [2.87, -4.06]),
        ({"multiply_by_parameter_scale": False, "clipping_threshold": 0.5}, [2.95, -4.05]),
        ({"multiply_by_parameter_scale": False, "factored": False}, [2.9, -4.1]),
        ({"multiply_by_parameter_scale": False, "global_norm_clip_threshold": 1e-3}, [2.9, -4.1]),
    ]
    for options, expected in cases:
        new, state = optim.Adafactor(**options).update(grads, optim.Adafactor(**options).init(params), params, 0, 0.1)
        np.testing.assert_allclose(new["w"], expected, rtol=1e-6, err_msg=str(options))
        assert state["w"]["m"].shape == ((2,) if "beta1" in options else (1,))


def test_global_norm_clipping_scales_the_statistics():
    params, grads = {"w": jnp.ones(2)}, {"w": jnp.array([3.0, 4.0])}
    optimizer = optim.Adafactor(global_norm_clip_threshold=1.0)
    _, state = optimizer.update(grads, optimizer.init(params), params, 0, 0.1)
    np.testing.assert_allclose(state["w"]["v"], [0.36, 0.64], rtol=1e-6)


def test_nan_updates_are_skipped_only_if_asked():
    params, grads = {"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.ones(2)}
    for skip in (False, True):
        optimizer = optim.Adafactor(skip_nan_updates=skip)
        new, state = optimizer.update(grads, optimizer.init(params), params, 0, 0.1)
        assert bool(jnp.isnan(new["a"]).any()) is not skip
        assert bool(jnp.isnan(state["a"]["v"]).any()) is not skip
        np.testing.assert_allclose(new["b"], 0.9, rtol=1e-6)


def test_bfloat16_parameters_keep_float32_statistics():
    params = {"w": jnp.ones((128, 128), jnp.bfloat16)}
    optimizer = optim.Adafactor(beta1=0.9, dtype_momentum=jnp.bfloat16)
    new, state = optimizer.update(params, optimizer.init(params), params, 0, 0.1)
    assert (new["w"].dtype, state["w"]["v_row"].dtype, state["w"]["m"].dtype) == (
        jnp.bfloat16,
        jnp.float32,
        jnp.bfloat16,
    )


def test_step_offset_restarts_the_decay():
    params = {"w": jnp.ones(3)}
    first, restarted = optim.Adafactor(), optim.Adafactor(step_offset=1000)
    state = jax.tree.map(lambda leaf: leaf + 5.0, first.init(params))
    a, _ = first.update(params, state, params, 0, 0.1)
    b, _ = restarted.update(params, state, params, 1000, 0.1)
    np.testing.assert_array_equal(a["w"], b["w"])


def test_rank_three_without_rules_is_refused_by_name():
    with pytest.raises(errors.FlanError, match=r"layers/kernel \(2, 3, 4\)"):
        optim.Adafactor().init({"layers": {"kernel": jnp.ones((2, 3, 4))}})


def test_an_axis_without_a_rule_is_refused_by_name():
    with pytest.raises(errors.FlanError, match="did you mean 'embed'"):
        optim.Adafactor(logical_factor_rules=optim.standard_logical_factor_rules()).with_axes({"w": ("embd",)}).init(
            {"w": jnp.ones(3)}
        )


OPTIMIZERS = [
    optim.Adafactor(beta1=0.9, logical_factor_rules=optim.STANDARD_FACTOR_RULES),
    optim.OptaxOptimizer(functools.partial(optax.adamw, weight_decay=0.1)),
    optim.OptaxOptimizer(functools.partial(optax.sgd, momentum=0.9)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adafactor", "adamw", "sgd"])
@pytest.mark.parametrize("scan", [False, True])
def test_state_axes_fit_the_state(optimizer, scan):
    config = presets.t5_config("small", scan_layers=scan)
    params = api.abstract_params(config)
    optimizer = optimizer.with_axes(api.logical_axes(config))
    state, axes = jax.eval_shape(optimizer.init, params), optimizer.state_axes(params)
    assert jax.tree.structure(axes, is_leaf=sharding.is_axes) == jax.tree.structure(state)
    for names, leaf in zip(jax.tree.leaves(axes, is_leaf=sharding.is_axes), jax.tree.leaves(state), strict=True):
        assert len(names) == len(leaf.shape)
    # Nothing that is large enough to matter may be copied to every device.
    mesh_axes = {"data": 1, "fsdp": 4, "model": 1}
    specs = jax.tree.map(lambda a, s: sharding.spec(a, s.shape, mesh_axes), axes, state, is_leaf=sharding.is_axes)
    for spec, leaf in zip(jax.tree.leaves(specs), jax.tree.leaves(state), strict=True):
        assert leaf.size < 200_000 or any(part is not None for part in spec)


def test_optax_takes_each_steps_learning_rate():
    optimizer = optim.OptaxOptimizer(optax.sgd)
    params = {"w": jnp.array([1.0])}
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    params, state = step({"w": jnp.array([1.0])}, state, params, 0, 0.5)
    params, state = step({"w": jnp.array([1.0])}, state, params, 1, 0.25)
    np.testing.assert_allclose(params["w"], [0.25])


@pytest.mark.parametrize("index", range(7))
def test_schedules_equal_t5x(index):
    schedule = optim.create_learning_rate_scheduler(**golden_numbers.summary()["lr_schedules"][str(index)])
    with np.load(golden_numbers.FOLDER / "misc.npz") as arrays:
        ours = [schedule(int(step)) for step in arrays["lr_steps"]]
        np.testing.assert_allclose(ours, arrays[f"{index}/lr"], rtol=1e-6)


def test_schedule_offset_shifts_the_step():
    shifted = optim.create_learning_rate_scheduler(step_offset=1000)
    np.testing.assert_allclose(shifted(1500), optim.create_learning_rate_scheduler()(500), rtol=1e-6)


def test_an_unknown_schedule_factor_is_refused():
    with pytest.raises(errors.FlanError, match="did you mean 'rsqrt_decay'"):
        optim.create_learning_rate_scheduler("constant * rsqrt_decy")
