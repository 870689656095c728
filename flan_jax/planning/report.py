"""Plans as a table for people and as JSON for programs."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich import box, table
from rich import console as rich_console

from flan_jax.planning import estimate, slices


def to_json(plans: Sequence[estimate.Plan], **beside: Any) -> str:
    """One object: `plans`, each with its derived figures; `beside` at the top level. Bytes, seconds, FLOPs."""
    return json.dumps({**beside, "plans": [record(plan) for plan in plans]}, indent=2)


def record(plan: estimate.Plan) -> dict[str, Any]:
    """A plan as plain values, the derived ones included."""
    found = dataclasses.asdict(plan)
    found["layout"]["rules"] = plan.layout.rules if isinstance(plan.layout.rules, str) else None
    found["memory"] |= {
        "share": plan.memory.share,
        "fits": plan.memory.fits,
        "over_floor": plan.memory.peak / plan.memory.floor,
    }
    found["recomputation"] = plan.recomputation
    if plan.time is not None:
        found["time"] |= {"fast": plan.time.fast, "slow": plan.time.slow}
        found["hours"] = {"fast": plan.hours(plan.time.fast), "slow": plan.hours(plan.time.slow)}
        found["utilisation"] = {name: plan.utilisation(getattr(plan.time, name)) for name in ("fast", "slow")}
    return found


def show(plan: estimate.Plan, heading: str, advice: str | None = None) -> None:
    """Prints one plan."""
    memory, time = plan.memory, plan.time
    grid = table.Table(
        box=box.SIMPLE, show_header=False, pad_edge=False, title=heading, title_justify="left", title_style="bold"
    )
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row("slice", f"{plan.topology}: {plan.chips} chips, {plan.devices} devices")
    grid.add_row("layout", str(plan.layout))
    state = f"arguments {gib(memory.arguments)}, temporaries {gib(memory.temporaries)}"
    grid.add_row("memory of a device", f"peak {gib(memory.peak)}{_of(memory)}: {state}")
    per_chip = plan.devices // plan.chips
    if per_chip > 1:
        grid.add_row("memory of a chip", f"peak {gib(memory.peak * per_chip)}")
    if memory.host:
        grid.add_row("memory of the host", f"{gib(memory.host)} for each device")
    floor = f"{gib(memory.floor)} (parameters, optimizer, gradients over all devices); peak is {memory.peak / memory.floor:.2f} times"
    grid.add_row("floor", floor)
    grid.add_row("model FLOPs", f"{plan.model_flops:.3e} a step of {plan.tokens:,} tokens")
    if plan.compiled_flops and plan.recomputation:
        grid.add_row("compiled FLOPs", f"{plan.compiled_flops:.3e}, {plan.recomputation:.2f} times the model's")
    if time is not None:
        _add_time(grid, plan, time)
    grid.add_row("compiled in", f"{plan.compile_seconds:.0f} s, {plan.cpu_seconds:.0f} s of CPU")
    for note in plan.notes:
        grid.add_row("note", note)
    if advice is not None:
        grid.add_row("to make it fit", advice)
    console = _console()
    console.print(grid)
    if plan.exchanges:
        console.print(_exchanges(plan))


def _add_time(grid: table.Table, plan: estimate.Plan, time: estimate.Time) -> None:
    grid.add_row("HBM traffic", f"{gib(plan.bytes or 0)} a device and step")
    parts = (
        f"products {span(time.products)}, HBM {span(time.hbm)}, the longer of both {span(time.busy)}, "
        f"collectives {span(time.exchange)}" + (f", to the host and back {span(time.host)}" if time.host else "")
    )
    grid.add_row("time of a step", f"{span(time.fast)} to {span(time.slow)}: {parts}")
    best, worst = plan.utilisation(time.fast), plan.utilisation(time.slow)
    grid.add_row("utilisation", f"{best:.0%} to {worst:.0%} of peak, at most (model FLOPs)")
    fast, slow = plan.hours(time.fast), plan.hours(time.slow)
    grid.add_row("the run", f"{fast:.1f} to {slow:.1f} hours for {plan.steps:,} steps, at least")


def _exchanges(plan: estimate.Plan) -> table.Table:
    grid = table.Table(box=box.SIMPLE, pad_edge=False, title="collectives of a device in a step", title_justify="left")
    grid.add_column("kind")
    for name in ("devices", "times", "bytes", "time"):
        grid.add_column(name, justify="right")
    for one in plan.exchanges:
        grid.add_row(one.kind, str(one.group), f"{one.times:,}", gib(one.bytes), span(one.seconds))
    return grid


def show_all(plans: Sequence[estimate.Plan], heading: str) -> None:
    """Prints several layouts of a run, a line each."""
    grid = table.Table(box=box.SIMPLE, pad_edge=False, title=heading, title_justify="left", title_style="bold")
    grid.add_column("layout")
    for name in ("peak", "of HBM", "x floor", "FLOPs x model", "step", "fits"):
        grid.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        share, again = plan.memory.share, plan.recomputation
        grid.add_row(
            str(plan.layout),
            gib(plan.memory.peak),
            f"{share:.0%}" if share else "",
            f"{plan.memory.peak / plan.memory.floor:.2f}",
            f"{again:.2f}" if again else "",
            f"{span(plan.time.fast)} to {span(plan.time.slow)}" if plan.time else "",
            "yes" if plan.memory.fits else "no",
        )
    _console().print(grid)


def gib(size: float) -> str:
    return f"{size / slices.GIB:.2f} GiB"


def span(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _of(memory: estimate.Memory) -> str:
    if memory.capacity is None or memory.share is None:
        return ""
    verdict = (
        "fits"
        if memory.fits
        else "does not fit"
        if memory.share > 1
        else f"over {estimate.SHARE_THAT_FITS:.0%}: too tight"
    )
    return f" of {gib(memory.capacity)} ({memory.share:.0%}, {verdict})"


def _console() -> rich_console.Console:
    console = rich_console.Console(soft_wrap=False, highlight=False)
    return console if console.is_terminal else rich_console.Console(width=150, highlight=False)
