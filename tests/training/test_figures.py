"""Rates a chip, model FLOPs utilisation, and where the wall time went."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loop import TOKENS, Recorder

from flan_jax.training import figures, loop


@given(st.dictionaries(st.sampled_from(["compile", "evaluate", "data_wait"]), st.floats(0, 1e6)), st.floats(0, 1e7))
def test_shares_of_time_sum_to_one(spent, total):
    shares = figures.goodput(spent, total)
    assert sum(shares.values()) == pytest.approx(1.0) or not sum(spent.values()) + total
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares.values())


def test_mfu_is_of_all_chips_and_is_not_there_without_a_peak():
    made = figures.Figures(flops=2e12, peak=4 * 100e12, chips=4)
    tags = made.rates(steps=10, tokens=4000, seconds=0.5)
    assert tags["timing/mfu"] == pytest.approx(10 * 2e12 / 0.5 / 400e12)
    assert tags["timing/real_tokens_per_second_per_chip"] == 4000 / 0.5 / 4
    assert tags["timing/model_tflops_per_second_per_chip"] == pytest.approx(10.0)
    assert "timing/mfu" not in figures.Figures(flops=2e12, chips=4).rates(10, 4000, 0.5)


def test_memory_is_in_gib():
    tags = figures.memory()
    assert 0.05 < tags["memory/host_peak_gib"] < 100
    assert np.isfinite(list(tags.values())).all()


def test_the_loop_books_every_second_once(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: recorder.now))
    plain = recorder.batches

    def slow():
        for number, batch in enumerate(plain()):
            recorder.now += 30.0 if number == 0 else 0.5
            yield batch

    recorder.batches = slow
    about = figures.Figures(flops=1e12, peak=2e12, before={"compile": 10.0, "start": 60.0})
    hooks = loop.Hooks(recorder.stats, recorder.evaluate, recorder.save)
    put = lambda rows: f"batch {rows['number']} on the device"  # noqa: E731
    loop.run(
        recorder.step, 0, recorder.batches(), put, "key", loop.Schedule(0, 4, 2, 2), hooks, about=about
    )  # fmt: skip
    # 4 steps of a second; 30 + 3 x 0.5 of waiting; two evaluations of 100. The checkpoint comes after the last line.
    total = 10 + 60 + 31.5 + 100 + 4
    shares = {name: value for name, value in recorder.tags[4].items() if name.startswith("goodput/")}
    assert shares == pytest.approx(
        {
            "goodput/step": 4 / total,
            "goodput/compile": 10 / total,
            "goodput/start": 60 / total,
            "goodput/data_wait": 31.5 / total,
            "goodput/evaluate": 100 / total,
        }
    )
    assert recorder.tags[4]["timing/mfu"] == pytest.approx(2 * 1e12 / recorder.tags[4]["timing/seconds"] / 2e12)
    assert recorder.tags[4]["timing/real_tokens_per_second_per_chip"] == 2 * TOKENS / recorder.tags[4]["timing/seconds"]
