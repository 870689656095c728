"""The loop: what it calls at which step, when it waits, and which seconds it counts."""

import dataclasses
import itertools
import types
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import preemption
from flan_jax.training import loop

ROWS, LENGTH, TOKENS = 4, 8, 50  # of every batch


@dataclasses.dataclass
class Number:
    """A metric on the device: says when the host reads it."""

    value: float
    step: int
    calls: list[tuple[str, Any]]

    def __array__(self, dtype=None, copy=None):
        if self.calls[-1] != ("read", self.step):
            self.calls.append(("read", self.step))
        return np.asarray(self.value, np.float32)


class Recorder:
    """Stands for step, hooks and clock; the loss of step n is n."""

    stop_after = 10**9

    def __init__(self, start: int = 0) -> None:
        self.start, self.calls, self.tags, self.now = start, [("start", start)], {}, 0.0

    def step(self, state: int, features: Any, key: Any) -> tuple[int, dict[str, Number]]:
        assert features == f"batch {state + 1} on the device"
        assert key == "key"
        self.now += 1.0
        self.calls.append(("step", state + 1))
        # 10 of 40 target tokens count; the learning rate is that of the step.
        sums = {"loss": state + 1, "z_loss": 0.5, "weights": 10, "target_tokens": 40, "correct": 5}
        sums |= {"undivided_loss": 10 * (state + 1), "learning_rate": 0.1 * (state + 1), "nonfinite": 0}
        return state + 1, {name: Number(value, state + 1, self.calls) for name, value in sums.items()}

    def batches(self):
        for number in itertools.count(self.start + 1):
            features = {"decoder_target_tokens": np.zeros((ROWS, LENGTH)), "number": number}
            yield types.SimpleNamespace(features=features, tokens=TOKENS, examples=[1], state=f"after batch {number}")

    def stats(self, step: int, tags: Any) -> None:
        self.tags.setdefault(step, {}).update(tags)
        if "loss" in tags:
            self.calls.append(("stats", step))

    def evaluate(self, step: int, state: int) -> None:
        assert state == step
        self.now += 100.0
        self.calls.append(("evaluate", step))

    def save(self, step: int, state: int, position: str) -> None:
        assert (state, position) == (step, f"after batch {step}")
        self.now += 1000.0
        self.calls.append(("save", step))

    def run(self, total: int, **periods: int) -> int:
        run: Any = loop.run  # the loop does not look into a state; here it is the number of steps done
        hooks: Any = loop.Hooks
        return run(
            self.step,
            self.start,
            self.batches(),
            lambda features: f"batch {features['number']} on the device",
            "key",
            loop.Schedule(start=self.start, total=total, **periods),
            hooks(self.stats, self.evaluate, self.save, lambda step: step >= self.stop_after),
        )

    def steps_of(self, what: str) -> list[int]:
        return [step for kind, step in self.calls if kind == what]


def test_the_metrics_of_a_step_are_read_after_the_next_one_is_dispatched():
    recorder = Recorder()
    assert recorder.run(4, stats_period=100) == 4
    assert recorder.calls[1:] == [
        ("step", 1),
        ("step", 2),
        ("read", 1),
        ("step", 3),
        ("read", 2),
        ("step", 4),
        ("read", 3),
        ("read", 4),
        ("stats", 4),
        ("save", 4),
    ]


def test_only_an_evaluation_or_a_checkpoint_waits_for_its_step():
    recorder = Recorder()
    recorder.run(4, stats_period=2, eval_period=3)
    assert recorder.calls[1:] == [
        ("step", 1),
        ("step", 2),
        ("read", 1),
        ("step", 3),
        ("read", 2),
        ("stats", 2),
        ("read", 3),
        ("evaluate", 3),
        ("step", 4),
        ("read", 4),
        ("stats", 4),
        ("evaluate", 4),
        ("save", 4),
    ]


period = st.integers(0, 7)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 20), st.integers(0, 25), st.integers(1, 7), period, period)
def test_everything_is_called_when_it_is_due_and_at_the_end(start, steps, stats_period, eval_period, save_period):
    recorder, total = Recorder(start), start + steps
    assert recorder.run(total, stats_period=stats_period, eval_period=eval_period, save_period=save_period) == total
    done = range(start + 1, total + 1)

    def due(every):
        return [step for step in done if step == total or (every and step % every == 0)]

    assert recorder.steps_of("step") == recorder.steps_of("read") == list(done)
    assert recorder.steps_of("stats") == due(stats_period)
    assert recorder.steps_of("evaluate") == (due(eval_period) if eval_period else [])
    assert recorder.steps_of("save") == due(save_period)
    # At one step metrics come before the evaluation, and that before the checkpoint.
    for _, group in itertools.groupby(recorder.calls, key=lambda call: call[1]):
        order = [kind for kind, _ in group]
        assert order == sorted(order, key=("start", "step", "read", "stats", "evaluate", "save").index)


def test_metrics_are_means_over_the_steps_since_the_last_line():
    recorder = Recorder(start=10)
    recorder.run(17, stats_period=5)
    assert recorder.tags[15]["loss"] == np.mean([11, 12, 13, 14, 15])
    assert recorder.tags[17]["loss"] == np.mean([16, 17])
    assert recorder.tags[15]["loss_per_target_token"] == np.mean([11, 12, 13, 14, 15])
    assert recorder.tags[15]["accuracy"] == 0.5
    assert recorder.tags[15]["non_padding_fraction/loss_weights"] == 0.25
    assert np.isclose(recorder.tags[15]["learning_rate"], 1.5)  # not a mean: that of the last step


def test_pauses_are_not_counted_as_training(monkeypatch):
    recorder = Recorder()
    clock = types.SimpleNamespace(monotonic=lambda: recorder.now)
    monkeypatch.setattr(loop, "time", clock)
    recorder.run(10, stats_period=5, eval_period=2, save_period=3)
    # A second a step. Step 6 is dispatched before the metrics of step 5 are read, so its second counts to the first line.
    assert [recorder.tags[step]["timing/seconds"] for step in (5, 10)] == [6.0, 4.0]
    for step, seconds in ((5, 6), (10, 4)):
        tags = recorder.tags[step]
        assert tags["timing/steps_per_second"] == 5 / seconds
        assert tags["timing/seqs"] == 5 * ROWS
        assert tags["timing/target_tokens_per_second"] == 5 * ROWS * LENGTH / seconds
        assert tags["timing/real_tokens_per_second"] == 5 * TOKENS / seconds
    assert {
        step: tags["timing/evaluate_seconds"] for step, tags in recorder.tags.items() if step % 2 == 0 and step
    } == dict.fromkeys((2, 4, 6, 8, 10), 100.0)
    assert {step for step, tags in recorder.tags.items() if tags.get("timing/checkpoint_seconds") == 1000.0} == {
        3,
        6,
        9,
        10,
    }


def test_waiting_for_data_is_measured_and_the_first_wait_is_told_apart(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: recorder.now))
    plain = recorder.batches

    def slow():
        for number, batch in enumerate(plain()):
            recorder.now += 30.0 if number == 0 else 0.25
            yield batch

    recorder.batches = slow
    recorder.run(8, stats_period=4)
    assert recorder.tags[0] == {"timing/train_iter_warmup": 30.0}
    assert [recorder.tags[step]["timing/data_wait_seconds"] for step in (4, 8)] == [4 * 0.25, 3 * 0.25]


# --- Stopped ---


@settings(max_examples=40, deadline=None)
@given(
    stop=st.integers(1, 12),
    eval_period=st.integers(0, 4),
    save_period=st.integers(1, 5),
    stats_period=st.integers(1, 5),
)
def test_a_run_that_is_told_to_stop_saves_the_step_and_evaluates_no_more(stop, eval_period, save_period, stats_period):
    recorder = Recorder()
    recorder.stop_after = stop
    assert recorder.run(12, eval_period=eval_period, save_period=save_period, stats_period=stats_period) == stop
    assert recorder.steps_of("step") == list(range(1, stop + 1))
    assert recorder.steps_of("save") == sorted({*range(save_period, stop + 1, save_period), stop})
    assert recorder.steps_of("evaluate") == [at for at in range(1, stop) if eval_period and at % eval_period == 0]
    # Every step's metrics are in some line.
    lines = recorder.steps_of("stats")
    assert lines[-1] == stop
    means = zip([0, *lines], lines, strict=False)
    assert [recorder.tags[end]["loss"] for end in lines] == [np.mean(range(start + 1, end + 1)) for start, end in means]


def test_an_evaluation_that_is_broken_off_is_followed_by_a_save():
    class Told(Recorder):
        def evaluate(self, step: int, state: int) -> None:
            super().evaluate(step, state)
            if step == 6:
                raise preemption.Stopped

    recorder = Told()
    assert recorder.run(20, eval_period=3, save_period=5, stats_period=4) == 6
    assert recorder.steps_of("evaluate") == [3, 6]
    assert recorder.steps_of("save") == [5, 6]
    assert recorder.steps_of("stats") == [4, 6]
    assert "timing/evaluate_seconds" not in recorder.tags[6]
