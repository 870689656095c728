"""What a run's seconds were worth: rates a chip, model FLOPs utilisation, the share of wall time spent in steps, memory."""

import dataclasses
import resource
import time
from collections.abc import Callable, Mapping

import jax

GIB = 2**30
STEP = "step"


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the loop cannot know of the run around it.

    Attributes:
      flops: model FLOPs of one step (`models.flops`); 0 where they do not matter.
      peak: FLOP/s of all chips together, bfloat16; None on a CPU.
      chips: of all processes.
      before: seconds spent before the loop, by what on: `compile`, `start`, `evaluate`.
    """

    flops: float = 0.0
    peak: float | None = None
    chips: int = 1
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def rates(self, steps: int, tokens: float, seconds: float) -> dict[str, float]:
        """Tags of some steps.

        Args:
          steps: how many.
          tokens: of all processes, padding not counted.
          seconds: they took, evaluations and checkpoints not counted.
        """
        tags = {"timing/real_tokens_per_second_per_chip": tokens / seconds / self.chips}
        if self.flops:
            tags["timing/model_tflops_per_second_per_chip"] = self.flops * steps / seconds / self.chips / 1e12
        if self.flops and self.peak:
            tags["timing/mfu"] = self.flops * steps / seconds / self.peak
        return tags


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    """Calls something; returns how long that took."""
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def goodput(spent: Mapping[str, float], total: float) -> dict[str, float]:
    """The share of a run's wall time that each thing took; what is in nothing of `spent` is steps. They sum to 1.

    `goodput({"compile": 20.0, "evaluate": 30.0}, 100.0)` is `{"goodput/step": 0.5, "goodput/compile": 0.2,
    "goodput/evaluate": 0.3}`.
    """
    total = max(total, sum(spent.values()), 1e-9)
    rest = total - sum(spent.values())
    return {f"goodput/{name}": seconds / total for name, seconds in {STEP: rest, **spent}.items()}


def memory() -> dict[str, float]:
    """Peak memory in GiB: of this host's fullest device, where devices say, and of this process on the host."""
    tags = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key in (("peak", "peak_bytes_in_use"), ("in_use", "bytes_in_use"), ("limit", "bytes_limit")):
        found = [of[key] for of in stats if key in of]
        if found:
            tags[f"memory/device_{name}_gib"] = max(found) / GIB
    return tags
