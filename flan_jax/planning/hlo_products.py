"""FLOPs of HLO's products. The TPU compiler writes every product as a convolution."""

import functools
import math
import re
from collections.abc import Sequence

Shape = Sequence[int]


def dot_flops(left: Shape, right: Shape, result: Shape, attributes: str) -> float:
    """2 FLOPs for each product that is added: the result's size times the contracted axes of the left operand."""
    del right
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    axes = [int(axis) for axis in found.group(1).split(",") if axis] if found else []
    return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)


def convolution_flops(left: Shape, right: Shape, result: Shape, attributes: str) -> float:
    """2 FLOPs for each product that is added and does not fall on padding or between dilated elements.

    A batched product comes as a convolution whose window slides over the batch; counting its padding too would give the
    square of the batch.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0.0
    inputs, kernel, output = labels.groups()
    window = _window(attributes, sum(letter.isdigit() for letter in inputs))
    products = 1
    for axis in range(len(window["size"])):
        letter = str(axis)
        products *= _overlaps(
            left[inputs.index(letter)],
            right[kernel.index(letter)],
            result[output.index(letter)],
            *(window[name][axis] for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")),
        )
    groups = re.search(r"batch_group_count=(\d+)", attributes)
    batch = result[output.index("b")]
    # With batch groups each output feature sees one group of the batch only, which the result's batch already reflects.
    del groups
    return 2.0 * batch * result[output.index("f")] * right[kernel.index("i")] * products


def _window(attributes: str, axes: int) -> dict[str, list[int]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    text = found.group(1) if found else ""
    values = dict(re.findall(r"(\w+)=([\dx_\-]+)", text))
    window = {name: [int(n) for n in values[name].split("x")] if name in values else [1] * axes
              for name in ("size", "stride", "lhs_dilate", "rhs_dilate")}  # fmt: skip
    window["pad"] = [int(pair.split("_")[0]) for pair in values["pad"].split("x")] if "pad" in values else [0] * axes
    return window


@functools.cache
def _overlaps(size: int, kernel: int, result: int, stride: int, pad: int, dilation: int, kernel_dilation: int) -> int:
    """Pairs of an output place and a kernel place that meet an element of the input, along one axis."""
    extent = (size - 1) * dilation + 1
    pairs = 0
    for tap in range(kernel):
        for place in range(result):
            at = place * stride - pad + tap * kernel_dilation
            pairs += 0 <= at < extent and at % dilation == 0
    return pairs
