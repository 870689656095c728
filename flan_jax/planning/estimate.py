"""A compiled step against a slice: does it fit, how long does it take, where does the time go.

Times are rooflines, from the chip's published peaks: every instruction takes as long as its products or its HBM traffic
would at full speed, whichever is longer; every collective as long as a ring along all the axes of the torus that its group
spans. `fast` lets all communication hide behind computation, `slow` none of it; neither knows of latencies.
"""

import collections
import dataclasses
import re
import time
from typing import Any

from flan_jax import errors
from flan_jax.planning import hlo, runs, slices

# Of what a program may have; the rest is for what is beside it: batches that wait, a checkpoint on its way, fragmentation.
SHARE_THAT_FITS = 0.9


@dataclasses.dataclass(frozen=True)
class Memory:
    """HBM of one device, bytes.

    Attributes:
      arguments: the state and the batch.
      temporaries: what XLA adds while the step runs.
      peak: both, by XLA's own allocation; what it compares with the capacity.
      floor: parameters, optimizer state and gradients over all devices: what no layout goes below.
      capacity: what a program may have; None if it is not known.
      reported_temporaries: `temp_size_in_bytes`, which on TPU counts some buffers twice; what others report.
      host: temporaries in the host's memory.
    """

    arguments: int
    temporaries: int
    peak: int
    floor: int
    capacity: int | None
    reported_temporaries: int
    host: int = 0

    @property
    def share(self) -> float | None:
        """Of the capacity."""
        return self.peak / self.capacity if self.capacity else None

    @property
    def fits(self) -> bool:
        return self.share is None or self.share < SHARE_THAT_FITS


@dataclasses.dataclass(frozen=True)
class Exchange:
    """All collectives of a kind in groups of a size, on one device in one step.

    Attributes:
      kind: of `hlo.COLLECTIVES`.
      group: devices.
      times: executions.
      bytes: of the arrays, once each.
      seconds: at the links' full speed.
    """

    kind: str
    group: int
    times: int
    bytes: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of a step.

    Attributes:
      products: if products were all.
      hbm: if HBM were all.
      busy: the sum over instructions of the longer of the two.
      exchange: of all collectives.
      host: of what goes to the host's memory and comes back.
    """

    products: float
    hbm: float
    busy: float
    exchange: float
    host: float = 0.0

    @property
    def fast(self) -> float:
        return max(self.busy, self.exchange, self.host)

    @property
    def slow(self) -> float:
        return self.busy + self.exchange + self.host


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a step before it runs.

    Attributes:
      topology: the slice's name.
      chips: in all.
      devices: in all.
      layout: how the step is spread.
      memory: of a device.
      model_flops: of a step, over all devices; see `models.flops`.
      compiled_flops: of the compiled products, over all devices; None if they could not be read.
      bytes: HBM traffic of a device in a step.
      exchanges: collectives.
      time: of a step; None for a chip that is not in the table.
      peak_flops: bfloat16 FLOP/s of all devices.
      steps: of the run.
      tokens: of a batch.
      compile_seconds: what compiling took here.
      cpu_seconds: of all cores together; on a busy machine the fairer figure.
      notes: what the reader should know of the figures.
    """

    topology: str
    chips: int
    devices: int
    layout: runs.Layout
    memory: Memory
    model_flops: float
    compiled_flops: float | None
    bytes: float | None
    exchanges: tuple[Exchange, ...]
    time: Time | None
    peak_flops: float | None
    steps: int
    tokens: int
    compile_seconds: float
    cpu_seconds: float
    notes: tuple[str, ...] = ()

    @property
    def recomputation(self) -> float | None:
        """Compiled FLOPs over model FLOPs."""
        return self.compiled_flops / self.model_flops if self.compiled_flops else None

    def hours(self, seconds: float) -> float:
        return seconds * self.steps / 3600

    def utilisation(self, seconds: float) -> float:
        """Model FLOPs utilisation of a step of so many seconds."""
        return self.model_flops / (seconds * (self.peak_flops or float("inf")))


def make(run: runs.Run, layout: runs.Layout, where: slices.Slice) -> Plan:
    """Compiles the run's step in a layout for a slice, and reads what came out.

    Raises:
      FlanError: the layout does not fit the slice or the batch.
    """
    run.check(layout, len(where.devices))
    run = run.laid_out(layout)
    lowered, floor, mesh = run.lower(where.devices)
    began = _Clock()
    try:
        compiled = lowered.compile()
    except Exception as error:
        needed = _needed(str(error))
        if needed is None:
            raise
        memory = _too_large(needed, floor, run, mesh, where)
        return _plan(run, layout, where, memory, None, (), began, ("it does not fit: XLA gave up",))
    began.stop()
    memory = _memory(compiled, floor, where)
    step = hlo.read(compiled.as_text()) if where.chip is not None else None
    notes = () if step is None or not step.unknown_loops else (f"{len(step.unknown_loops)} loops counted once",)
    exchanges = _exchanges(step, mesh, where) if step else ()
    return _plan(run, layout, where, memory, step, exchanges, began, notes)


def _plan(
    run: runs.Run,
    layout: runs.Layout,
    where: slices.Slice,
    memory: Memory,
    step: hlo.Step | None,
    exchanges: tuple[Exchange, ...],
    clock: "_Clock",
    notes: tuple[str, ...],
) -> Plan:
    clock.stop()
    devices = len(where.devices)
    return Plan(
        topology=where.name,
        chips=where.chips,
        devices=devices,
        layout=layout,
        memory=memory,
        model_flops=run.flops,
        compiled_flops=step.flops * devices if step else None,
        bytes=step.bytes if step else None,
        exchanges=exchanges,
        time=_time(step, exchanges, memory.host * layout.microbatches, where) if step else None,
        peak_flops=where.chip.peak * where.chips if where.chip else None,
        steps=run.steps,
        tokens=run.tokens,
        compile_seconds=clock.wall,
        cpu_seconds=clock.cpu,
        notes=notes,
    )


class _Clock:
    """Time since it was made, until it is stopped for the first time."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self.wall = self.cpu = 0.0

    def stop(self) -> None:
        if not self.wall:
            self.wall, self.cpu = time.monotonic() - self._wall, time.process_time() - self._cpu


def _memory(compiled: Any, floor: int, where: slices.Slice) -> Memory:
    found = compiled.memory_analysis()
    arguments = found.argument_size_in_bytes
    peak = found.peak_memory_in_bytes
    if not peak:  # a backend that does not say
        peak = arguments + found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Memory(
        arguments=arguments,
        temporaries=peak - arguments,
        peak=peak,
        floor=floor,
        capacity=where.usable,
        reported_temporaries=found.temp_size_in_bytes,
        host=found.host_temp_size_in_bytes,
    )


_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _needed(message: str) -> int | None:
    """Bytes that XLA says it would have needed, from the error with which it refuses a program."""
    found = re.search(r"memory required[^(]*\(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if found is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    number, unit = (found.group(1), found.group(2)) if found.group(1) else (found.group(3), found.group(4))
    return int(float(number) * _SIZES[unit])


def _too_large(needed: int, floor: int, run: runs.Run, mesh: Any, where: slices.Slice) -> Memory:
    _, shapes, places = run.state(mesh)
    arguments = runs.bytes_on_a_device(shapes, places)
    return Memory(arguments, needed - arguments, needed, floor, where.usable, needed - arguments)


def _time(step: hlo.Step, exchanges: tuple[Exchange, ...], kept_by_host: int, where: slices.Slice) -> Time:
    if where.chip is None:
        raise errors.FlanError("no figures for this chip")
    peak, hbm = where.chip.peak / where.devices_per_chip, where.chip.hbm / where.devices_per_chip
    return Time(
        products=step.flops / peak,
        hbm=step.bytes / hbm,
        busy=sum(max(part.flops / peak, part.bytes / hbm) * part.times for part in step.work),
        exchange=sum(exchange.seconds for exchange in exchanges),
        host=2 * kept_by_host / (slices.HOST_LINK / where.devices_per_chip),  # there and back
    )


def _exchanges(step: hlo.Step, mesh: Any, where: slices.Slice) -> tuple[Exchange, ...]:
    devices = mesh.devices.reshape(-1)
    totals: dict[tuple[str, int], list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    bandwidths: dict[tuple[int, ...], float] = {}
    for one in step.collectives:
        if one.group not in bandwidths:
            bandwidths[one.group] = where.bandwidth([devices[place] for place in one.group])
        seconds = bytes_sent(one.kind, one.bytes, len(one.group)) / bandwidths[one.group]
        total = totals[one.kind, len(one.group)]
        for place, value in enumerate((one.times, one.bytes * one.times, seconds * one.times)):
            total[place] += value
    return tuple(
        Exchange(kind, group, round(times), size, seconds)
        for (kind, group), (times, size, seconds) in sorted(totals.items(), key=lambda item: -item[1][2])
    )


def bytes_sent(kind: str, size: float, group: int) -> float:
    """What a device of a ring sends for a collective on an array of `size` bytes, gathered or exchanged.

    All-to-all: a quarter of an all-gather, for each part travels half the ring at most, half of them each way.
    """
    part = size * (group - 1) / group
    return {"all-reduce": 2 * part, "all-to-all": part / 4, "collective-permute": size}.get(kind, part)
