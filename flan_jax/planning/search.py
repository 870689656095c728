"""Which layouts to try for a run on a slice, and what to change where a step does not fit."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator

from flan_jax import errors
from flan_jax.planning import estimate, predict, runs, slices

logger = logging.getLogger(__name__)

MICROBATCHES = (1, 2, 4, 8)
REMAT = ("none", "minimal", "full")
# A prediction is off by a fifth or so; what is predicted to be a little too large is still compiled.
MARGIN = 1.15


def candidates(run: runs.Run, where: slices.Slice) -> Iterator[runs.Layout]:
    """Every layout that divides devices and batch: model axis a power of 2, parameters split over all the rest or none."""
    devices = len(where.devices)
    policies = (*REMAT, "offload") if where.offloads else REMAT
    model = 1
    while model <= devices:
        rest = devices // model
        if devices % model == 0 and predict.divides(run.model.config, model):
            for data in sorted({1, where.slices, rest}):
                tables = ("standard", "split_residual") if model > 1 else ("standard",)
                for rules, pieces, remat in itertools.product(tables, MICROBATCHES, policies):
                    layout = runs.Layout(data, rest // data, model, rules, pieces, remat)
                    if rest % data == 0 and run.dataset.batch_size % (rest * pieces) == 0:
                        yield layout
        model *= 2


def search(run: runs.Run, where: slices.Slice, compile_at_most: int) -> list[estimate.Plan]:
    """Compiles the layouts that are predicted to be fastest among those predicted to fit.

    Returns:
      Their plans, those that fit first, the fastest of them first.

    Raises:
      FlanError: nothing divides, or nothing is predicted to fit.
    """
    found = list(candidates(run, where))
    if not found:
        raise errors.FlanError(
            f"no mesh of {len(where.devices)} devices divides a batch of {run.dataset.batch_size} rows; "
            "expected a batch size with more factors of 2, or a smaller slice"
        )
    peaks = {layout: predict.peak_bytes(run, layout) for layout in found}
    limit = where.usable * estimate.SHARE_THAT_FITS * MARGIN if where.usable else float("inf")
    small = [layout for layout in found if peaks[layout] < limit]
    if not small:
        least = min(found, key=lambda layout: peaks[layout])
        raise errors.FlanError(
            f"none of {len(found)} layouts is predicted to fit {where.name}: the smallest, {least}, would need "
            f"{peaks[least] / slices.GIB:.1f} GiB a device; expected a larger slice"
        )
    small.sort(key=lambda layout: (predict.seconds(run, layout, where), peaks[layout]))
    chosen = small[:compile_at_most]
    logger.info("%d layouts, %d predicted to fit; compiling %d", len(found), len(small), len(chosen))
    plans = []
    for number, layout in enumerate(chosen, 1):
        logger.info("%d of %d: %s", number, len(chosen), layout)
        plans.append(estimate.make(run, layout, where))
    return sorted(plans, key=lambda plan: (not plan.memory.fits, plan.time.slow if plan.time else plan.memory.peak))


def advice(run: runs.Run, plan: estimate.Plan, where: slices.Slice) -> str:
    """The change that costs least among those predicted to make a step fit that does not."""
    layout = plan.layout
    now = predict.peak_bytes(run, layout)
    room = (plan.memory.capacity or 0) * estimate.SHARE_THAT_FITS
    for what, other in _changes(layout):
        if other is None or run.dataset.batch_size % (other.data * other.fsdp * other.microbatches):
            continue
        peak = plan.memory.peak + predict.peak_bytes(run, other) - now
        if peak < room:
            return f"{what}: predicted {peak / slices.GIB:.1f} GiB"
    times = plan.memory.floor / room if room else 0
    more = (
        "a slice of twice the size"
        if times < 0.5
        else f"a slice {2 ** max(1, round(times)).bit_length()} times the size"
    )
    return f"{more}: the floor alone takes {plan.memory.floor / slices.GIB:.1f} of {room / slices.GIB:.1f} GiB"


def _changes(layout: runs.Layout) -> Iterator[tuple[str, runs.Layout | None]]:
    """Single changes and pairs of them, the cheapest in time first."""
    change = dataclasses.replace
    if layout.model > 1 and layout.rules in (None, "standard"):
        split = change(layout, rules="split_residual")
        yield "partitioning.PjitPartitioner.logical_axis_rules = 'split_residual'", split
    if layout.data > 1:
        split = change(layout, data=1, fsdp=layout.fsdp * layout.data)
        yield f"partitioning.PjitPartitioner.fsdp_partitions = {split.fsdp}", split
    if layout.remat != "full":
        yield "remat_policy = 'full'", change(layout, remat="full")
    for pieces in (2, 4, 8):
        more = change(layout, microbatches=layout.microbatches * pieces)
        yield f"trainer.Trainer.num_microbatches = {more.microbatches}", more
        if layout.remat != "full":
            yield (
                f"remat_policy = 'full', trainer.Trainer.num_microbatches = {more.microbatches}",
                change(more, remat="full"),
            )
    for ways in (2, 4):
        if (layout.data * layout.fsdp) % ways == 0:
            fsdp = layout.fsdp // ways if layout.fsdp % ways == 0 else layout.fsdp
            data = layout.data if layout.fsdp % ways == 0 else layout.data // ways
            wider = change(layout, data=data, fsdp=fsdp, model=layout.model * ways, rules="split_residual")
            yield (
                f"partitioning.PjitPartitioner: num_partitions = {wider.model}, fsdp_partitions = {wider.fsdp}, "
                "logical_axis_rules = 'split_residual'",
                wider,
            )
