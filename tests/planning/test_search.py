"""Which layouts are tried, what is said where a step does not fit, and how plans are printed; nothing is compiled."""

import dataclasses
import functools
import json
import re

import pytest

from flan_jax import config, errors, plan
from flan_jax.models import flops, stacks
from flan_jax.planning import estimate, predict, report, runs, search, slices

GIB = slices.GIB
# Recipe, layout, and the peak of a device that XLA gave for it (docs/LOG.md, 2026-11-21).
COMPILED = [
    ("flan_137b", runs.Layout(1, 8, 16, "split_residual", 1, "minimal"), 12.22),
    ("flan_137b", runs.Layout(1, 8, 16, "standard", 1, "minimal"), 14.61),
]


@dataclasses.dataclass(frozen=True)
class Device:
    coords: tuple[int, ...]
    core: int = 0
    platform: str = "cpu"


def a_slice(name: str) -> slices.Slice:
    """A slice of devices that no compiler described."""
    kind, _, text = name.partition(":")
    shape, chip = tuple(map(int, text.split("x"))), slices.CHIPS[kind]
    places = [()]
    for size in shape:
        places = [(*place, at) for place in places for at in range(size)]
    devices = [Device(place, core) for place in places for core in range(chip.devices)]
    return slices.Slice(name, chip, shape, 1, chip.devices, devices)


@functools.cache
def run_of(recipe: str) -> runs.Run:
    with config.isolated(empty_registry=True):
        return plan.read(config.GinFlags((f"recipes/{recipe}.gin",), (), ()))


def planned(run, layout, where, peak=10.0) -> estimate.Plan:
    memory = estimate.Memory(4 * GIB, int((peak - 4) * GIB), int(peak * GIB), 8 * GIB, where.usable, int(peak * GIB))
    exchange = estimate.Exchange("all-gather", 8, 100, 2.0 * GIB, 0.5)
    seconds = predict.seconds(run, layout, where)
    return estimate.Plan(
        topology=where.name,
        chips=where.chips,
        devices=len(where.devices),
        layout=layout,
        memory=memory,
        model_flops=run.flops,
        compiled_flops=run.flops * 1.1,
        bytes=100.0 * GIB,
        exchanges=(exchange,),
        time=estimate.Time(seconds / 2, seconds / 4, seconds / 2, 0.5),
        peak_flops=where.chip.peak * where.chips,
        steps=run.steps,
        tokens=run.tokens,
        compile_seconds=100.0,
        cpu_seconds=150.0,
    )


@pytest.mark.parametrize(("recipe", "layout", "peak"), COMPILED)
def test_predictions_are_near_what_was_compiled(recipe, layout, peak):
    assert predict.peak_bytes(run_of(recipe), layout) / GIB == pytest.approx(peak, rel=0.2)


@pytest.mark.parametrize(("recipe", "name"), [("flan_137b", "v3:8x8"), ("flan_t5_small", "v5e:2x2")])
def test_every_candidate_divides_devices_and_batch(recipe, name):
    run, where = run_of(recipe), a_slice(name)
    found = list(search.candidates(run, where))
    assert len(found) == len(set(found)) > 10
    for layout in found:
        run.check(layout, len(where.devices))
    if recipe == "flan_t5_small":
        assert {layout.model for layout in found} == {1, 2}  # 6 heads


def test_every_remat_policy_is_tried_where_it_can_be():
    run, where = run_of("flan_137b"), a_slice("v3:8x8")
    assert {layout.remat for layout in search.candidates(run, where)} == set(stacks.REMAT_POLICIES)
    here = dataclasses.replace(
        where, chip=None
    )  # a CPU or GPU, for which keeping arrays on the host was never compiled
    assert {layout.remat for layout in search.candidates(run, here)} == {"none", "minimal", "full"}


def test_policies_are_ranked_by_what_they_do_again_and_what_they_keep():
    run, where = run_of("flan_137b"), a_slice("v3:8x8")
    layouts = {remat: runs.Layout(1, 8, 16, "split_residual", 1, remat) for remat in stacks.REMAT_POLICIES}
    seconds = {remat: predict.seconds(run, layout, where) for remat, layout in layouts.items()}
    kept = {remat: predict.kept_bytes(run, layout) for remat, layout in layouts.items()}
    assert sorted(seconds, key=seconds.get) == ["none", "minimal", "full", "offload"]
    assert kept["none"] > kept["minimal"] > kept["full"] == kept["offload"]


def test_attention_is_what_is_left_of_a_forward_pass_without_products_with_weights():
    """Twice the parameters a token, but for looking up embeddings."""
    for sizes, source, target in [
        (run_of("flan_137b").model.config, 0, 1280),
        (run_of("flan_t5_xl").model.config, 64, 64),
    ]:
        whole, rest = (flops.forward(sizes, 2, source * n, target * n) for n in (2, 1))
        pairs = [flops.attention(sizes, 2, source * n, target * n) for n in (2, 1)]
        assert pairs[0] == 4 * pairs[1]
        assert whole - pairs[0] == pytest.approx(2 * (rest - pairs[1]))


def test_what_does_not_divide_is_refused_with_a_number_that_would():
    run = run_of("flan_137b")
    with pytest.raises(errors.FlanError, match=r"batch_size is 8; expected a multiple of 16 .*e\.g\. 16"):
        run.check(runs.Layout(1, 16, 8, None, 1, "minimal"), 128)
    with pytest.raises(errors.FlanError, match="does not divide 128 devices"):
        run.check(run.laid_out(runs.Layout(1, 3, 16, None, 1, "minimal")).layout(128), 128)


def test_the_most_promising_are_compiled_and_those_that_fit_come_first(monkeypatch):
    run, where, made = run_of("flan_137b"), a_slice("v3:8x8"), []

    def make(run, layout, where):
        made.append(layout)
        return planned(run, layout, where, peak=15.0 if len(made) == 1 else 12.0)

    monkeypatch.setattr(estimate, "make", make)
    plans = search.search(run, where, compile_at_most=4)
    assert len(made) == 4
    assert [one.memory.fits for one in plans] == [True, True, True, False]
    assert plans[-1].layout == made[0]
    times = [one.time.slow for one in plans[:3]]
    assert times == sorted(times)
    # More devices to a layer's tensors than rows, since the batch has 8 rows and the mesh 128 devices.
    assert all(layout.model >= 16 for layout in made)


def test_a_model_that_fits_nowhere_says_what_it_would_need():
    with pytest.raises(errors.FlanError, match=r"none of .* fit v3:2x2: .* GiB a device; expected a larger slice"):
        search.search(run_of("flan_137b"), a_slice("v3:2x2"), 2)


@pytest.mark.parametrize(
    ("layout", "peak", "expected"),
    [
        (runs.Layout(1, 8, 16, None, 1, "minimal"), 14.6, "logical_axis_rules = 'split_residual'"),
        (runs.Layout(1, 8, 16, "split_residual", 1, "minimal"), 14.6, "remat_policy = 'full'"),
        (runs.Layout(1, 8, 16, "split_residual", 1, "full"), 60.0, "a slice .* the floor alone takes 8.0 of 13.9 GiB"),
    ],
)
def test_advice_is_the_cheapest_change_that_would_do(layout, peak, expected):
    run, where = run_of("flan_137b"), a_slice("v3:8x8")
    assert re.search(expected, search.advice(run, planned(run, layout, where, peak), where))


def test_tables_and_json_say_the_same(capsys):
    run, where = run_of("flan_137b"), a_slice("v3:8x8")
    one = planned(run, runs.Layout(1, 8, 16, "split_residual", 1, "minimal"), where)
    report.show(one, "a recipe", advice="less")
    shown = capsys.readouterr().out
    assert "peak 10.00 GiB of 15.48 GiB (65%, fits): arguments 4.00 GiB, temporaries 6.00 GiB" in shown
    assert "8.00 GiB (parameters, optimizer, gradients over all devices); peak is 1.25 times" in shown
    assert "1.10 times the model's" in shown
    assert "30,000 steps" in shown
    assert "to make it fit less" in " ".join(shown.split())
    report.show_all([one], "several")
    assert "data=1 fsdp=8 model=16, split_residual, remat minimal, 1 microbatch" in " ".join(
        capsys.readouterr().out.split()
    )
    loaded = json.loads(report.to_json([one], configuration="a recipe"))
    assert loaded["configuration"] == "a recipe"
    found = loaded["plans"][0]
    assert found["memory"]["share"] == pytest.approx(10 / 15.48, rel=1e-3)
    assert found["memory"]["fits"] is True
    assert found["memory"]["over_floor"] == 1.25
    assert found["recomputation"] == pytest.approx(1.1)
    assert found["hours"]["slow"] == pytest.approx((one.time.busy + 0.5) * 30000 / 3600)
    assert found["layout"] == {
        "data": 1,
        "fsdp": 8,
        "model": 16,
        "rules": "split_residual",
        "microbatches": 1,
        "remat": "minimal",
    }


@pytest.mark.parametrize(
    ("kind", "size", "group", "expected"),
    [
        ("all-gather", 8.0, 4, 6.0),
        ("all-reduce", 8.0, 4, 12.0),
        ("reduce-scatter", 8.0, 4, 6.0),
        ("collective-permute", 8.0, 2, 8.0),
    ],
)
def test_bytes_that_a_ring_sends(kind, size, group, expected):
    assert estimate.bytes_sent(kind, size, group) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (22.00G) exceeds "
            "available HBM (15.48G).",
            22 * GIB,
        ),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 1.50M of 1.00M hbm.", int(1.5 * 2**20)),
        ("INTERNAL: something else (22.00G)", None),
    ],
)
def test_what_xla_would_have_needed_is_read_off_its_error(message, expected):
    assert estimate._needed(message) == expected
