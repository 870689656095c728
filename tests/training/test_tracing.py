"""Which steps are traced."""

import jax
import jax.numpy as jnp
import pytest

from flan_jax import errors
from flan_jax.training import tracing


@pytest.mark.parametrize("text", ["", "0:3", "5:4", "a:b", "3:", "-1:2", "1:2:3"])
def test_what_is_not_a_range_is_refused(text):
    with pytest.raises(errors.FlanError, match=r"expected FROM:TO, steps of the run from 1 on, such as 10:13"):
        tracing.parse(text)


@pytest.mark.parametrize(
    ("start", "steps", "traced"), [(0, "2:3", [2, 3]), (10, "12", [12]), (10, "9:11", [11]), (0, "5:99", [5]), (10, "3:4", [])]
)  # fmt: skip
def test_the_trace_holds_the_steps_that_were_asked_for(monkeypatch, tmp_path, start, steps, traced):
    calls, now = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda where: (calls.append("start"), now.append(where)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def step(state, batch, key):
        calls.append(int(batch))
        return state + 1, {}

    tracer = tracing.Tracer(step, start, tracing.parse(steps), str(tmp_path))
    state = jnp.int32(0)
    for number in range(start + 1, start + 6):
        state, _ = tracer(state, number, None)
    tracer.close()
    inside = calls[calls.index("start") + 1 : calls.index("stop")] if traced else []
    assert inside == traced
    assert calls.count("start") == calls.count("stop") == bool(traced)
    assert [call for call in calls if isinstance(call, int)] == list(range(start + 1, start + 6))
    assert int(state) == 5
