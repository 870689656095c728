"""TPU slices that nobody holds: their names, their devices as the compiler sees them, what their chips can do.

`libtpu` describes a slice and compiles for it on any CPU. It is asked for when it is needed, never imported.
"""

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from flan_jax import errors

GIB = 2**30
# Bytes/s between a chip and its host, each way: that of PCIe 3.0 x16. Google publishes none; nothing was measured.
HOST_LINK = 16e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do.

    Peak, HBM and DCN: Google's system pages (docs.cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e}) and, for links and DCN,
    "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus, tables of chips and interconnects). `usable`: the HBM that
    libtpu's own error names for a program that does not fit (seen with libtpu 0.0.42), below the nominal 16 to 96 GiB.

    Attributes:
      peak: bfloat16 FLOP/s.
      hbm: bytes/s.
      usable: bytes of HBM that a program may have, on one device.
      devices: JAX devices on a chip: v3 shows its two cores, v4 and v5p one device (megacore), v5e and v6e have one core.
      link: bytes/s of one link in one direction.
      axes: axes of the torus.
      wraps: an axis is a ring, not a line, if its size is a multiple of this.
      dcn: bytes/s between slices.
    """

    peak: float
    hbm: float
    usable: int
    devices: int
    link: float
    axes: int
    wraps: int
    dcn: float


CHIPS: dict[str, Chip] = {
    "v3": Chip(123e12, 900e9, int(15.48 * GIB), 2, 100e9, 2, 32, 6.25e9),
    "v4": Chip(275e12, 1200e9, int(30.75 * GIB), 1, 45e9, 3, 4, 6.25e9),
    "v5e": Chip(197e12, 819e9, int(15.75 * GIB), 1, 45e9, 2, 16, 3.125e9),
    "v5p": Chip(459e12, 2765e9, int(95.74 * GIB), 1, 90e9, 3, 4, 6.25e9),
    "v6e": Chip(918e12, 1640e9, int(31.25 * GIB), 1, 90e9, 2, 16, 12.5e9),
}

# Shapes that can be had, chips in all: Google's lists of accelerator types, for hints.
_COMMON = (
    "v3:2x2", "v3:4x4", "v3:4x8", "v3:8x8", "v3:8x16", "v3:16x16", "v3:16x32", "v3:32x32", "v4:2x2x1", "v4:2x2x2",
    "v4:2x2x4", "v4:2x4x4", "v4:4x4x4", "v4:4x4x8", "v4:4x8x8", "v4:8x8x8", "v4:8x8x16", "v4:8x16x16", "v4:16x16x16",
    "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16", "v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4",
    "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8", "v5p:8x8x8", "v5p:8x8x16", "v5p:8x16x16", "v5p:16x16x16", "v6e:2x2",
    "v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice, or several joined over the data-centre network.

    Attributes:
      name: as given, such as 'v4:4x4x4' or '2*v4:4x4x4'.
      chip: of `CHIPS`; None for a device that is not there.
      shape: chips along each axis of one slice.
      slices: how many.
      devices_per_chip: JAX devices on a chip.
      devices: the devices, for a mesh.
    """

    name: str
    chip: Chip | None
    shape: tuple[int, ...]
    slices: int
    devices_per_chip: int
    devices: Sequence[Any]

    @property
    def chips(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def offloads(self) -> bool:
        """Whether a step may keep arrays in the host's memory (remat policy `offload`): compiled for TPU, on no other device."""
        return self.chip is not None

    @property
    def usable(self) -> int | None:
        """Bytes of HBM that a program may have on one device; None if it is not known."""
        if self.chip is None:
            return own_limit(self.devices[0])
        if self.devices_per_chip > self.chip.devices:  # v4 without megacore
            return int(15.25 * GIB)
        return self.chip.usable

    def bandwidth(self, group: Sequence[Any]) -> float:
        """Bytes/s that a device of a group sends to the others, if all send at once: over every axis along which they lie.

        Across slices it is the data-centre network's; between the two cores of a chip, HBM's.

        Raises:
          FlanError: the chip is not in the table.
        """
        if self.chip is None:
            raise errors.FlanError(f"no figures for the links of {self.name}")
        if len({getattr(device, "slice_index", None) for device in group}) > 1:
            return self.chip.dcn / self.devices_per_chip
        places = np.asarray([device.coords for device in group])
        spans = [int(axis) for axis in range(places.shape[1]) if len(set(places[:, axis].tolist())) > 1]
        if not spans:
            return self.chip.hbm / self.devices_per_chip
        whole = [len(set(places[:, axis].tolist())) == self._size(axis) for axis in spans]
        ways = sum(2 if all_of_it and self._size(axis) % self.chip.wraps == 0 else 1
                   for axis, all_of_it in zip(spans, whole, strict=True))  # fmt: skip
        return ways * self.chip.link / self.devices_per_chip

    def _size(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1


def open_slice(name: str, *, cores: bool = False) -> Slice:
    """Describes a slice to the compiler.

    Args:
      name: chip and shape, 'v3:8x8' or 'v4:4x4x4'; with '2*' in front for so many slices.
      cores: of v4, show the two cores of a chip as two devices, as jobs without megacore see them.

    Raises:
      FlanError: an unknown chip or shape, or no libtpu.
    """
    slices, kind, shape = parse(name)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if kind == "v4" and not cores:
        options["chip_config_name"] = "megacore"
    devices = _describe(f"{kind}:{'x'.join(map(str, shape))}", name, kind, options)
    return Slice(name, CHIPS[kind], shape, slices, len(devices) // (slices * math.prod(shape)), devices)


# `device_kind` -> chip.
_KINDS = {"TPU v3": "v3", "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}


def own_devices() -> Slice:
    """The devices of this run, as a slice."""
    import jax

    devices = jax.devices()
    kind = devices[0].device_kind
    name = f"{len(devices)} x {kind}"
    if kind not in _KINDS:
        return Slice(name, None, (len(devices),), 1, 1, devices)
    chips = {(getattr(device, "slice_index", None), *device.coords) for device in devices}
    slices = len({getattr(device, "slice_index", None) for device in devices})
    shape = tuple(1 + max(int(place[axis] or 0) for place in chips) for axis in (1, 2, 3))
    return Slice(name, CHIPS[_KINDS[kind]], shape, slices, len(devices) // len(chips), devices)


# `device_kind` -> bfloat16 FLOP/s without sparsity, from NVIDIA's data sheets: GPUs that a run may stand on, none of which
# `flan plan` compiles for.
GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12, "NVIDIA L4": 121e12,
}  # fmt: skip


def peak_of(where: Slice) -> float | None:
    """bfloat16 FLOP/s of all chips together; None where the table does not know them, as on a CPU."""
    if where.chip is not None:
        return where.chip.peak * where.chips
    alone = GPU_PEAKS.get(where.devices[0].device_kind)
    return None if alone is None else alone * where.chips


def own_limit(device: Any) -> int | None:
    """Bytes that a program may have on a device that is there; None if it does not say."""
    stats = device.memory_stats() if hasattr(device, "memory_stats") else None
    return stats.get("bytes_limit") if stats else None


def device_count(name: str) -> int:
    """Devices of a slice that no compiler needs to describe; raises as `open_slice`."""
    slices, kind, shape = parse(name)
    return slices * math.prod(shape) * CHIPS[kind].devices


def parse(name: str) -> tuple[int, str, tuple[int, ...]]:
    """How many slices, of which chip, of which shape: `parse("2*v4:4x4x4") == (2, "v4", (4, 4, 4))`; raises as `open_slice`."""
    found = re.fullmatch(r"(?:(\d+)\*)?(v\d+[a-z]*):(\d+(?:x\d+)*)", name.strip().lower())
    kind = found.group(2) if found else name.strip().lower().partition(":")[0].rpartition("*")[2]
    if kind not in CHIPS:
        raise errors.FlanError(f"unknown chip {kind!r} in topology {name!r}{errors.nearest(kind, CHIPS)}")
    if found is None:
        raise _not_a_slice(name, kind, "expected chip:AxB or chip:AxBxC")
    shape = tuple(int(size) for size in found.group(3).split("x"))
    if len(shape) != CHIPS[kind].axes:
        axes = CHIPS[kind].axes
        raise _not_a_slice(name, kind, f"expected {axes} axes, as {kind} is a {axes}-dimensional torus")
    return int(found.group(1) or 1), kind, shape


def _describe(topology: str, name: str, kind: str, options: dict[str, Any]) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise no_libtpu()
    # Otherwise libtpu asks the machine's metadata server, for minutes, which TPU it stands on, and lets one process in only.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"), ("TPU_ACCELERATOR_TYPE", "v4-8"), ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):  # fmt: skip
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:
        said = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise _not_a_slice(name, kind, said) from error


def no_libtpu() -> errors.FlanError:
    """What to say where the TPU compiler is missing: the release that the installed JAX asks for, others refuse its programs."""
    asked = [text.partition(";")[0].strip() for text in importlib.metadata.requires("jax") or ()]
    package = next((text for text in asked if text.startswith("libtpu")), "libtpu")
    return errors.FlanError(f"planning for a TPU needs its compiler; install it with: pip install {package!r}")


def _not_a_slice(name: str, kind: str, why: str) -> errors.FlanError:
    known = [common for common in _COMMON if common.startswith(f"{kind}:")]
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
    return errors.FlanError(f"topology {name!r}: {why}; did you mean {' or '.join(map(repr, close))}?")
