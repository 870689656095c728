"""A step that is not finite: which tasks were in it, what stops, what is kept."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors
from flan_jax.training import configs, loop, nonfinite, optim, state, step

NAMES = ["rte", "sst2", "mnli"]


def sums(loss=np.nan, norm=1.0, by_task=((0.0, 0.0), (np.nan, 3.0), (1.0, 4.0))):
    losses, weights = np.asarray(by_task).T
    bad = not (np.isfinite(loss) and np.isfinite(norm))
    return {"loss": loss, "gradient_norm": norm, "nonfinite": bad, "task_loss": losses, "task_weights": weights}


def test_a_stop_names_the_step_and_the_tasks():
    guard = nonfinite.Guard(NAMES)
    assert guard.counts(11, sums(2.0), None)
    with pytest.raises(errors.FlanError) as stopped:
        guard.counts(12, sums(), None)
    said = str(stopped.value)
    assert said.startswith("step 12: the loss is nan; tasks in the batch: sst2, mnli; not finite in sst2. ")
    assert "trainer.Trainer.nonfinite = 'skip'" in said


def test_where_all_are_not_finite_none_is_singled_out():
    with pytest.raises(errors.FlanError, match=r"norm inf; tasks in the batch: sst2, mnli\. "):
        nonfinite.Guard(NAMES).counts(1, sums(1.5, np.inf, ((0.0, 0.0), (np.nan, 3.0), (np.nan, 4.0))), None)


def test_without_sums_by_task_the_hosts_own_rows_are_named():
    plain = {"loss": np.inf, "gradient_norm": 1.0, "nonfinite": True}
    with pytest.raises(errors.FlanError, match="the loss is inf; tasks of this host's rows: rte, mnli"):
        nonfinite.Guard(NAMES).counts(1, plain, np.asarray([2, 0, 1]))


def test_many_in_a_row_stop_a_run_that_skips(caplog):
    guard = nonfinite.Guard(NAMES, skip=True)
    for number in range(nonfinite.IN_A_ROW - 1):
        assert not guard.counts(number, sums(), None)
    assert guard.counts(50, sums(2.0), None)
    for number in range(nonfinite.IN_A_ROW - 1):
        assert not guard.counts(60 + number, sums(), None)
    with pytest.raises(errors.FlanError, match=r"10 updates in a row"):
        guard.counts(70, sums(), None)


def test_skip_is_said_in_gin_and_nothing_else_is():
    with pytest.raises(errors.FlanError, match=r"'skp'; did you mean 'skip'\?"):
        configs.Trainer(lambda at: 1.0, nonfinite="skp")


class Toy:
    """Stands for a model's loss: `w` times the batch, which may be anything."""

    @staticmethod
    def loss(model, divisor, params, batch, key, tasks=0):
        total = jnp.sum(params["w"] * batch["x"])
        ones = dict.fromkeys(("weights", "target_tokens", "correct", "z_loss"), jnp.float32(1))
        return total, {"loss": total, "undivided_loss": total, **ones}


@pytest.fixture
def toy(monkeypatch):
    """(skip?) -> (the update, a first state)."""
    monkeypatch.setattr(step, "_loss", Toy.loss)
    monkeypatch.setattr(step.loss, "weights_and_divisor", lambda factor, batch: (jnp.ones(2), None))
    optimizer = optim.adamw(weight_decay=0.0)
    model = types.SimpleNamespace(loss_normalizing_factor=None)

    def make(skip):
        params = {"w": jnp.asarray([1.0, 2.0])}
        update = step.make_train_step(model, optimizer, lambda at: jnp.float32(0.1), skip_nonfinite=skip)
        return jax.jit(update), state.TrainState(jnp.int32(0), params, optimizer.init(params))

    return make


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_skipped_update_leaves_parameters_and_slots_and_counts_the_step(toy, bad):
    update, now = toy(skip=True)
    now, found = update(now, {"x": jnp.asarray([1.0, -1.0])}, jax.random.key(0))
    assert not found["nonfinite"]
    after, found = update(now, {"x": jnp.asarray([bad, 1.0])}, jax.random.key(0))
    assert found["nonfinite"] == 1
    assert int(after.step) == int(now.step) + 1
    kept = zip(jax.tree.leaves(after), jax.tree.leaves(dataclasses.replace(now, step=after.step)), strict=True)
    for ours, before in kept:
        np.testing.assert_array_equal(ours, before)
    last, _ = update(after, {"x": jnp.asarray([1.0, -1.0])}, jax.random.key(0))
    assert np.isfinite(last.params["w"]).all()


def run(update, first, values, skip, saved, written):
    def batches():
        for value in values:
            rows = {"x": np.asarray([value, 1.0], np.float32), "decoder_target_tokens": np.zeros((1, 2))}
            yield types.SimpleNamespace(features=rows, tokens=2, examples=[1], state=None)

    guard = nonfinite.Guard(["rte"], skip=skip)
    hooks = loop.Hooks(
        stats=lambda at, tags: written.setdefault(at, {}).update(tags),
        evaluate=lambda at, now: None,
        save=lambda at, now, position: saved.update({at: np.array(now.params["w"])}),
        counts=guard.counts,
    )
    put = lambda rows: {"x": jnp.asarray(rows["x"])}  # noqa: E731
    schedule = loop.Schedule(0, len(values), stats_period=2, save_period=1)
    return loop.run(update, first, batches(), put, jax.random.key(0), schedule, hooks)


def test_the_loop_stops_before_it_saves_what_is_not_finite(toy):
    update, first = toy(skip=False)
    saved, written = {}, {}
    with pytest.raises(errors.FlanError, match=r"step 3: the loss is nan; tasks of this host's rows: rte"):
        run(update, first, [1.0, 2.0, np.nan, 1.0], False, saved, written)
    assert sorted(saved) == [1, 2]
    assert all(np.isfinite(value).all() for value in saved.values())


def test_the_loop_goes_on_without_the_update_and_its_metrics(toy):
    update, first = toy(skip=True)
    saved, written = {}, {}
    run(update, first, [1.0, np.nan, 2.0, 1.0, np.nan, np.inf], True, saved, written)
    np.testing.assert_array_equal(saved[1], saved[2])
    assert (saved[3] != saved[2]).all()
    assert np.isfinite(saved[6]).all()
    assert [written[at].get("updates_left_out") for at in (2, 4, 6)] == [1.0, None, 2.0]
    assert np.isfinite(written[2]["loss"])
    assert "loss" not in written[6]
