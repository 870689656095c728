"""Optimised HLO as text -> what one device does in one step: products, bytes, collectives, loops taken into account.

XLA's own cost analysis counts the body of a loop once, and the layers of a scanned model are such a body. Here every
computation is counted as often as it runs: a loop's trips are read off its condition, where the counter is compared with
a constant.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from flan_jax.planning import hlo_products

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
_BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1}
# Instructions that move nothing themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call",
    "partition-id", "replica-id", "iota", "opt-barrier", "add-dependency", "copy-done", "slice-done", "async-done",
    "async-update", "all-gather-done", "all-reduce-done", "collective-permute-done", "send-done", "recv-done",
}  # fmt: skip

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result. `space` 0 is HBM, 5 the host, others on the chip."""

    dtype: str
    shape: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        return _BYTES.get(self.dtype, 4) * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its result, what it does, on what. `inside` is what its parentheses hold."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    inside: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(re.findall(r"%([\w.\-]+)", self.inside))

    @property
    def number(self) -> int | None:
        """The value of an integer constant, the place of a parameter."""
        found = re.match(r"\s*(-?\d+)\s*$", self.inside)
        return int(found.group(1)) if found else None

    @property
    def called(self) -> list[str]:
        return _CALLED.findall(self.attributes)

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None


@dataclasses.dataclass(frozen=True)
class Collective:
    """Devices that exchange.

    Attributes:
      kind: of `COLLECTIVES`.
      bytes: what a device has when all is gathered: the gathered, reduced or exchanged array, once.
      group: places in the mesh (flattened) of one of the groups; the others lie likewise.
      times: executions in a step.
    """

    kind: str
    bytes: int
    group: tuple[int, ...]
    times: float


@dataclasses.dataclass(frozen=True)
class Work:
    """An instruction's products and memory traffic.

    Attributes:
      flops: of products; others are few.
      bytes: read and written in HBM.
      host_bytes: read and written in the host's memory.
      times: executions in a step.
    """

    flops: float
    bytes: float
    host_bytes: float
    times: float


@dataclasses.dataclass(frozen=True)
class Step:
    """What one device does in a step.

    Attributes:
      work: of every instruction.
      collectives: likewise.
      unknown_loops: names of loops whose trips could not be read, counted once.
    """

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]

    @property
    def flops(self) -> float:
        return sum(part.flops * part.times for part in self.work)

    @property
    def bytes(self) -> float:
        return sum(part.bytes * part.times for part in self.work)


def read(text: str) -> Step:
    """Reads a compiled module, `compiled.as_text()`."""
    return _Module(text).step()


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a module by name, and the name of its entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif named := _NAME.match(line):
            current.append(_instruction(line[named.end() :], named.group(2), bool(named.group(1))))
    return computations, entry


def _instruction(rest: str, name: str, root: bool) -> Instruction:
    kind, rest = _result_type(rest)
    opcode, _, rest = rest.partition("(")
    inside, attributes = _balanced(rest)
    arrays = tuple(
        Array(dtype, tuple(int(size) for size in sizes.split(",") if size), _space(layout))
        for dtype, sizes, layout in _ARRAY.findall(kind)
    )
    return Instruction(name, arrays, opcode.strip(), inside, attributes, root)


def _result_type(text: str) -> tuple[str, str]:
    """Splits `f32[2]{0} add(...)` or `(f32[], s32[]) tuple(...)` behind the type."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    inner, rest = _balanced(text[1:])
    return inner, rest


def _balanced(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes an open one, and after it."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place], text[place + 1 :]
    return text, ""


def _space(layout: str) -> int:
    found = re.search(r"S\((\d+)\)", layout)
    return int(found.group(1)) if found else 0


class _Module:
    def __init__(self, text: str) -> None:
        self.computations, self.entry = parse(text)
        self.tables = {name: {one.name: one for one in body} for name, body in self.computations.items()}
        self.unknown: list[str] = []

    def step(self) -> Step:
        work, collectives = [], []
        for name, times in self._runs(self.entry, 1.0):
            for one in self.computations[name]:
                flops = self._flops(one, name)
                own, host = self._traffic(one, name)
                if flops or own or host:
                    work.append(Work(flops, own, host, times))
                exchange = self._collective(one, name)
                if exchange:
                    kind, size, group = exchange
                    collectives.append(Collective(kind, size, group, times))
        return Step(tuple(work), tuple(collectives), tuple(dict.fromkeys(self.unknown)))

    def _runs(self, name: str, times: float) -> Iterator[tuple[str, float]]:
        """Every computation that runs instruction by instruction, as often as it is reached, with how often it runs."""
        yield name, times
        for one in self.computations[name]:
            if one.opcode == "while":
                body, condition = one.attribute("body"), one.attribute("condition")
                if body in self.computations and condition in self.computations:
                    yield from self._runs(body, times * self._trips(one, name, condition, body))
            elif one.opcode in ("call", "async-start"):
                for called in one.called:
                    if called in self.computations:
                        yield from self._runs(called, times)
            elif one.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
                names = re.findall(r"%?([\w.\-]+)", branches.group(1)) if branches else []
                names += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", one.attributes)
                for branch in names[:1]:  # one of them runs
                    yield from self._runs(branch, times)

    # --- loops ---

    def _trips(self, loop: Instruction, where: str, condition: str, body: str) -> int:
        known = re.search(r"known_trip_count\D*(\d+)", loop.attributes)
        if known:
            return int(known.group(1))
        table = self.tables[condition]
        root = next(one for one in self.computations[condition] if one.root)
        if root.opcode == "fusion" and root.called:
            table = self.tables[root.called[0]]
            root = next(one for one in self.computations[root.called[0]] if one.root)
        if root.opcode != "compare" or "direction=LT" not in root.attributes or len(root.operands) != 2:
            self.unknown.append(loop.name)
            return 1
        limit = self._constant(root.operands[1], table)
        index = self._tuple_index(root.operands[0], self.tables[condition], table)
        if limit is None:
            # In a fused condition the limit is a parameter: one of the constants beside it.
            limits = [self._constant(one.name, self.tables[condition]) for one in self.computations[condition]]
            limit = next((found for found in limits if found is not None), None)
        if limit is None:
            self.unknown.append(loop.name)
            return 1
        start = self._start(loop, where, index)
        return max(0, -(-(limit - start) // self._stride(body, index)))

    def _constant(self, name: str, table: dict[str, Instruction]) -> int | None:
        one = table.get(name)
        while one is not None and one.opcode in ("copy", "bitcast", "convert") and one.operands:
            one = table.get(one.operands[0])
        if one is None or one.opcode != "constant":
            return None
        return one.number

    def _tuple_index(self, name: str, outer: dict[str, Instruction], inner: dict[str, Instruction]) -> int | None:
        """Which element of the loop's state a condition's operand is."""
        one = inner.get(name)
        if one is not None and one.opcode == "parameter" and inner is not outer:
            fusion = next((found for found in outer.values() if found.root), None)
            place = one.number
            if fusion is not None and place is not None and place < len(fusion.operands):
                one = outer.get(fusion.operands[place])
        while one is not None and one.opcode in ("copy", "bitcast") and one.operands:
            one = outer.get(one.operands[0])
        if one is None or one.opcode != "get-tuple-element":
            return None
        found = one.attribute("index")
        return int(found) if found else None

    def _start(self, loop: Instruction, where: str, index: int | None) -> int:
        table = self.tables[where]
        state = table.get(loop.operands[0]) if loop.operands else None
        if state is None or state.opcode != "tuple" or index is None or index >= len(state.operands):
            return 0
        return self._constant(state.operands[index], table) or 0

    def _stride(self, body: str, index: int | None) -> int:
        table = self.tables[body]
        root = next((one for one in self.computations[body] if one.root), None)
        if root is None or root.opcode != "tuple" or index is None or index >= len(root.operands):
            return 1
        one = table.get(root.operands[index])
        while one is not None and one.opcode in ("copy", "bitcast") and one.operands:
            one = table.get(one.operands[0])
        if one is not None and one.opcode == "add":
            steps = [self._constant(name, table) for name in one.operands]
            return next((step for step in steps if step), 1)
        return 1

    # --- one instruction ---

    def _flops(self, one: Instruction, where: str) -> float:
        if one.opcode == "fusion":
            return sum(
                self._flops(inner, called) for called in one.called for inner in self.computations.get(called, ())
            )
        if one.opcode not in ("convolution", "dot"):
            return 0.0
        shapes = [self.tables[where][name].arrays[0].shape for name in one.operands[:2]]
        count = hlo_products.convolution_flops if one.opcode == "convolution" else hlo_products.dot_flops
        return count(shapes[0], shapes[1], one.arrays[0].shape, one.attributes)

    def _traffic(self, one: Instruction, where: str) -> tuple[float, float]:
        """Bytes in HBM and in the host's memory that an instruction reads and writes."""
        if one.opcode in _FREE or (one.opcode == "custom-call" and "AllocateBuffer" in one.attributes):
            return 0.0, 0.0
        table = self.tables[where]
        inputs = [table[name] for name in one.operands if name in table]
        moved: list[tuple[int, float]] = []  # (memory space, bytes)
        if one.opcode == "dynamic-slice":
            moved = [(inputs[0].arrays[0].space, one.arrays[0].bytes), (one.arrays[0].space, one.arrays[0].bytes)]
        elif one.opcode == "dynamic-update-slice":
            moved = [
                (one.arrays[0].space, inputs[1].arrays[0].bytes),
                (inputs[1].arrays[0].space, inputs[1].arrays[0].bytes),
            ]
        elif one.opcode in ("copy-start", "slice-start"):
            target = min(one.arrays[:2], key=lambda array: array.bytes)
            moved = [(one.arrays[0].space, target.bytes), (one.arrays[1].space, target.bytes)]
        elif one.opcode == "async-start":
            return 0.0, 0.0  # counted where it is called
        elif one.opcode == "fusion" and one.called and one.called[0] in self.computations:
            moved = self._fused_traffic(one, inputs)
        else:
            moved = [(array.space, array.bytes) for source in inputs for array in source.arrays[:1]]
            moved += [(array.space, array.bytes) for array in one.arrays[:1] or ()]
        return sum(size for space, size in moved if space == 0), sum(size for space, size in moved if space == 5)

    def _fused_traffic(self, one: Instruction, inputs: Sequence[Instruction]) -> list[tuple[int, float]]:
        """A fusion reads of an operand what it slices out of it, and writes of its result what it updates."""
        body, table = self.computations[one.called[0]], self.tables[one.called[0]]
        users: dict[str, list[Instruction]] = {}
        for inner in body:
            for name in inner.operands:
                users.setdefault(name, []).append(inner)

        def read_of(name: str, whole: float) -> float:
            total = 0.0
            for user in users.get(name, ()):
                if user.opcode == "bitcast":
                    total += read_of(user.name, whole)
                elif user.opcode == "dynamic-slice" and user.operands[0] == name:
                    total += user.arrays[0].bytes
                elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                    return whole
            return min(total, whole)

        moved: list[tuple[int, float]] = []
        for inner in body:
            if inner.opcode == "parameter":
                place = inner.number
                if place is not None and place < len(inputs) and inputs[place].arrays:
                    array = inputs[place].arrays[0]
                    moved.append((array.space, read_of(inner.name, array.bytes)))
        root = next((inner for inner in body if inner.root), None)
        results = [table.get(name) for name in root.operands] if root is not None and root.opcode == "tuple" else [root]
        for array, inner in zip(one.arrays, results, strict=False):
            while inner is not None and inner.opcode == "bitcast":
                inner = table.get(inner.operands[0])
            updated = inner is not None and inner.opcode == "dynamic-update-slice"
            moved.append((array.space, table[inner.operands[1]].arrays[0].bytes if updated and inner else array.bytes))
        return moved

    def _collective(self, one: Instruction, where: str) -> tuple[str, int, tuple[int, ...]] | None:
        kind = one.opcode.removesuffix("-start")
        if one.opcode == "fusion":
            for called in one.called:
                for inner in self.computations.get(called, ()):
                    found = self._collective(inner, called)
                    if found:
                        # An all-reduce of which the fusion keeps this device's part.
                        scatters = found[0] == "all-reduce" and sum(a.bytes for a in one.arrays) < found[1]
                        return ("reduce-scatter", *found[1:]) if scatters else found
            return None
        if kind not in COLLECTIVES:
            return None
        table = self.tables[where]
        inputs = sum(array.bytes for name in one.operands if name in table for array in table[name].arrays)
        if kind == "all-gather":
            outputs = sum(array.bytes for array in one.arrays)
            size = outputs - inputs if one.opcode.endswith("-start") else outputs
        else:
            size = inputs
        group = group_of(one.attributes)
        return (kind, size, group) if len(group) > 1 else None


def group_of(attributes: str) -> tuple[int, ...]:
    """The devices of the first group that an instruction's attributes name, in any of HLO's three notations."""
    explicit = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes)
    if explicit:
        return tuple(int(number) for number in explicit.group(1).split(","))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        return tuple(_iota(iota.group(2), iota.group(3)).reshape(_ints(iota.group(1)))[0].tolist())
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}", attributes
    )
    if named:
        sizes = [int(size) for size in re.findall(r"=(\d+)", named.group(1))]
        names = re.findall(r"'([^']*)'=", named.group(1))
        devices = _iota(named.group(2) or str(math.prod(sizes)), named.group(3)).reshape(sizes)
        chosen = re.findall(r"'([^']*)'", named.group(4))
        place = tuple(slice(None) if name in chosen else 0 for name in names)
        return tuple(devices[place].reshape(-1).tolist())
    return ()


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """`[8,16]T(1,0)`: the numbers from 0 in that shape, transposed, in a row."""
    numbers = np.arange(math.prod(_ints(shape))).reshape(_ints(shape))
    return (numbers.transpose(_ints(order)) if order else numbers).reshape(-1)
