"""benchmarks/gpu.py runs: toy models of both families on a CPU. What it measures there says nothing."""

import pytest

from benchmarks import gpu
from flan_jax.models import api


@pytest.mark.parametrize("name", gpu.TINY)
def test_our_side_trains_on_packed_rows(name):
    case = gpu.TINY[name]
    found = gpu.summary(case, gpu.ours(case, steps=1), peak=1e12)
    # Packed rows are almost full, and padding is not counted.
    assert 0.8 < found["tokens"] / case.positions <= 1
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    assert found["mfu"] == pytest.approx(found["flops_a_step"] / found["seconds"] / 1e12)


@pytest.mark.parametrize("name", gpu.CASES)
def test_the_cases_are_the_models_of_the_issue(name):
    case = gpu.CASES[name]
    assert case.rows % case.microbatches == 0
    config = gpu.our_model(case).config
    assert config.dtype == "bfloat16"
    size = {"flan_t5_large": 783_150_080, "flan_t5_xl": 2_849_757_184, "opt_1.3b": 1.316e9}
    assert api.num_params(config) == pytest.approx(size[name], rel=1e-3)
