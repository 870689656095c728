"""What a run writes about itself survives a kill, and reads back as it was written."""

import json
from typing import Any

import jax
import pytest

from flan_jax.training import loss, metrics
from tests.e2e import demo_runs


def test_lines_of_a_step_are_one_entry_and_the_later_value_counts(tmp_path):
    writer = metrics.Writer(str(tmp_path))
    writer.write(5, {"loss": 2.0, "accuracy": 0.5})
    writer.write(5, {"timing/checkpoint_seconds": 1.0})
    writer.write(10, {"loss": 1.0})
    writer.close()
    restarted = metrics.Writer(str(tmp_path), continues=5)
    restarted.write(5, {"timing/compilation_seconds": 3.0})
    restarted.write(10, {"loss": 1.5})
    restarted.close()
    assert metrics.read(str(tmp_path)) == [
        {"step": 5, "loss": 2.0, "accuracy": 0.5, "timing/checkpoint_seconds": 1.0, "timing/compilation_seconds": 3.0},
        {"step": 10, "loss": 1.5},
    ]


@pytest.mark.parametrize("half", ['{"step": 10, "lo', '{"step": 10, "loss": 1.0}', "", "{"])
def test_what_a_kill_cut_off_spoils_nothing(tmp_path, half):
    file = tmp_path / metrics.METRICS_FILE
    file.write_text('{"step": 5, "loss": 2.0}\n' + half)
    assert metrics.read(str(tmp_path)) == [{"step": 5, "loss": 2.0}]
    writer = metrics.Writer(str(tmp_path), continues=5)
    writer.write(6, {"loss": 1.9})
    writer.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [5, 6]


def test_tensorboard_forgets_what_a_restarted_run_does_again(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    for start, values in ((0, {1: 3.0, 2: 2.0, 3: 9.0, 4: 9.0}), (2, {3: 1.5, 4: 1.0})):
        writer = metrics.Writer(str(tmp_path), continues=start)
        for step, value in values.items():
            writer.write(step, {"loss": value})
        writer.close()
    reader = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in reader.Scalars("loss")] == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0)]


def test_both_kinds_of_file_hold_the_same(tmp_path):
    writer = metrics.Writer(str(tmp_path))
    for step in (1, 2):
        writer.write(step, {"loss": step / 4, "timing/seconds": 8.0})
    writer.close()
    assert demo_runs.events(tmp_path) == {"loss": {1: 0.25, 2: 0.5}, "timing/seconds": {1: 8.0, 2: 8.0}}


def test_sums_become_the_tags_of_the_steps_since_the_last_line():
    sums = {"loss": 4.0, "undivided_loss": 40.0, "z_loss": 1.0, "correct": 5.0, "weights": 10.0, "target_tokens": 20.0}
    accumulator = metrics.Accumulator()
    accumulator.add({**sums, "learning_rate": 0.5})
    accumulator.add({**sums, "loss": 8.0, "undivided_loss": 80.0, "learning_rate": 0.25})
    tags = accumulator.take()
    assert tags.pop("learning_rate") == 0.25
    assert tags.pop("loss_per_target_token") == 120 / 20
    both: Any = {**{name: 2 * value for name, value in sums.items()}, "loss": 12.0}
    assert tags == pytest.approx({name: float(value) for name, value in loss.scalars(both, 2).items()}, rel=1e-6)
    accumulator.add({**sums, "learning_rate": 0.5})
    assert accumulator.take()["loss"] == 4.0


def test_sums_become_tags_without_the_device_which_is_at_the_next_step():
    sums = {"loss": 4.0, "undivided_loss": 40.0, "z_loss": 1.0, "correct": 5.0, "weights": 10.0, "target_tokens": 20.0}
    for side, real in (("encoder", 30.0), ("decoder", 10.0)):
        sums |= {f"examples/{side}": 2.0, f"real_tokens/{side}": real, f"all_tokens/{side}": 40.0}
    accumulator = metrics.Accumulator(("rte",), ("nli",))
    accumulator.add({**sums, "task_loss": [40.0], "task_weights": [10.0], "learning_rate": 0.5, "gradient_norm": 1.0})
    with jax.transfer_guard("disallow"):
        tags = accumulator.take()
    assert tags["non_padding_fraction/overall"] == 0.5
    assert tags["loss_by_task/rte"] == tags["loss_by_cluster/nli"] == 4.0
