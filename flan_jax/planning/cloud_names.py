"""What Google Cloud calls a slice: accelerator types and images of TPU VMs, node labels of GKE, chips of a host.

Facts: docs.cloud.google.com/tpu/docs/{v3,v4,v5e,v5p,v6e,runtimes} and docs.cloud.google.com/kubernetes-engine/docs/concepts/tpus.
Nothing here has been tried on a real slice.
"""

import dataclasses
import math

from flan_jax.planning import slices

# Chip -> (prefix of the accelerator type, what its number counts: chips, or cores, of which a chip has two; image; GKE's label).
_NAMES = {
    "v3": ("v3", 2, "tpu-ubuntu2204-base", "tpu-v3-slice"),
    "v4": ("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}
_CHIPS_OF_A_HOST = 4
_LARGE_HOSTS = {"v5e": 8, "v6e": 8}  # of a slice of at most so many chips


@dataclasses.dataclass(frozen=True)
class CloudSlice:
    """Attributes:
    slices: how many, joined over the data-centre network.
    accelerator_type: of one slice, for a TPU VM.
    runtime: image of a TPU VM.
    gke_accelerator: node label of GKE.
    gke_topology: likewise.
    hosts: of one slice.
    chips: of one host.
    """

    slices: int
    accelerator_type: str
    runtime: str
    gke_accelerator: str
    gke_topology: str
    hosts: int
    chips: int


def of(topology: str) -> CloudSlice:
    """`of("v5e:16x16").accelerator_type == "v5litepod-256"`; `of("v4:4x4x4").accelerator_type == "v4-128"`.

    Raises:
      FlanError: an unknown chip or shape, as `slices.open_slice`.
    """
    count, kind, shape = slices.parse(topology)
    prefix, per_chip, runtime, label = _NAMES[kind]
    chips = math.prod(shape)
    of_a_host = chips if chips <= _LARGE_HOSTS.get(kind, _CHIPS_OF_A_HOST) else _CHIPS_OF_A_HOST
    return CloudSlice(
        count, f"{prefix}-{chips * per_chip}", runtime, label, "x".join(map(str, shape)), chips // of_a_host, of_a_host
    )
