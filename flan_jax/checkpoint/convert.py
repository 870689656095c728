"""`flan convert`: a checkpoint in one format to another, one tensor at a time.

    source --places--> our tree of separate layers --places--> sink

Each format says where it keeps each parameter of our tree (`tensors.Place`): under which name, transposed or not, as one
layer of a stacked tensor. What is read is written at once, so no more is in memory than the tensor at hand (of stacked
layers, as many as a chunk of the source holds). The output appears under its name when it is whole and checked.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from flan_jax import errors, progress
from flan_jax.checkpoint import families, folders, hugging_face, sources, t5x_tree, t5x_write
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Place, Stored
from flan_jax.models import api
from flan_jax.training import optim, state

DTYPES = ("float32", "bfloat16")
LAYERS = ("separate", "stacked")
SHARD_GB = 5.0
_ROWS_BYTES = 2**24
DESCRIPTION = "config.gin"
# What a checkpoint folder holds that may be replaced.
_WRITTEN = (
    *("checkpoint", "target.*", "state.*"),
    *("state", "dataset", "_CHECKPOINT_METADATA", "commit_success.txt", DESCRIPTION),
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be written.

    Attributes:
      kind: the format.
      specs: shape and dtype of every tensor.
      places: where each parameter goes.
      stacked: whether layers are stacked.
      carried: tensors of the optimizer's state that are taken over as they are.
      fresh: tensors of an optimizer's state that are zeros.
      optimizer: what happens to the optimizer's state, in words.
    """

    kind: str
    specs: Mapping[str, Stored]
    places: Mapping[tuple[str, ...], Place]
    stacked: bool = False
    carried: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    optimizer: str = "left out"

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
      source: what was read.
      plan: what was written, or would be.
      difference: largest difference between both sides' logits on random input; None if they were not computed.
      largest: largest absolute logit of the source.
      seconds: how long it took.
      description: the config.gin that was written with it.
    """

    source: sources.Opened
    plan: Plan
    difference: float | None = None
    largest: float = 0.0
    seconds: float = 0.0
    description: str = ""


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    to: str,
    from_: str = "auto",
    config: api.Config | None = None,
    layers: str | None = None,
    dtype: str = "float32",
    shard_bytes: int = int(SHARD_GB * 1e9),
    overwrite: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    describe: Callable[[sources.Opened, bool], str] | None = None,
) -> Result:
    """Writes a checkpoint in another format.

    Args:
      source: the checkpoint: a `checkpoint_<step>` directory of T5X or flan_jax, or a folder of Hugging Face.
      out: the folder to write; local.
      to: `t5x` (legacy), `orbax` or `hf`.
      from_: the same, or `auto`.
      config: the model of a T5X checkpoint; inferred where None. Hugging Face's folders say theirs.
      layers: `separate` or `stacked`; None keeps what there is. Not for `hf`, whose layers are always separate.
      dtype: of the parameters written, `float32` or `bfloat16`.
      shard_bytes: most bytes in a file of `hf`.
      overwrite: replace a checkpoint at `out`.
      verify: also compare both sides' logits, which reads both once more. Every tensor is read back and compared in any
        case.
      dry_run: plan only.
      describe: (source, whether layers are stacked) -> the config.gin to write into a checkpoint of `t5x` or `orbax`; Hugging
        Face's folders say themselves what they are.

    Raises:
      FlanError: what is wrong with the arguments, with the source (then naming tensor and file), or with writing; in each
        case nothing is left at `out` that was not there.
    """
    began = time.monotonic()
    for what, given, known in (
        ("format", to, sources.FORMATS),
        ("dtype", dtype, DTYPES),
        ("layers", layers or "separate", LAYERS),
    ):
        if given not in known:
            raise errors.unknown(what, given, known)
    if to == "hf" and layers == "stacked":
        raise errors.FlanError("layers are 'stacked'; Hugging Face's are always separate")
    opened = sources.open_source(source, from_, config)
    target = _free(out, opened.reader.path, overwrite)
    plan = _plan(opened, to, layers, tensors_lib.parse_dtype(dtype))
    if dry_run:
        return Result(opened, plan)
    description = describe(opened, plan.stacked) if describe is not None and to != "hf" else ""
    with _folder(target) as folder, jax.default_device(jax.devices("cpu")[0]):
        _write(opened, plan, folder, shard_bytes)
        if description:
            (folder / DESCRIPTION).write_text(description)
        written = sources.open_source(folder, to, None if to == "hf" else opened.config)
        _compare(opened, written, plan)
        difference, largest = _logit_difference(opened, written) if verify else (None, 0.0)
        if dtype == "float32" and difference:
            raise errors.FlanError(f"logits of both sides differ by {difference}, though every tensor is the same")
    return Result(opened, plan, difference, largest, time.monotonic() - began, description)


# Planning.


def _plan(opened: sources.Opened, to: str, layers: str | None, dtype: np.dtype) -> Plan:
    config = opened.config
    if to == "hf":
        family = families.family_of(config)
        pairs = families.pairs(config, family)
        specs = {pair.theirs: Stored(pair.their_shape, dtype) for pair in pairs}
        places = {pair.ours: Place(pair.theirs, pair.shape, transposed=pair.transposed) for pair in pairs}
        return Plan(to, specs, places)
    stacked = opened.stacked if layers is None else layers == "stacked"
    places = t5x_tree.written(config, stacked)
    specs = {place.tensor: Stored(t5x_tree.whole_shape(config, at, place), dtype) for at, place in places.items()}
    slots = _fresh_slots(dataclasses.replace(config, scan_layers=stacked))
    theirs = {name: stored for name, stored in opened.reader.tensors.items() if name.startswith("state.")}
    if opened.kind == "hf" or not theirs:
        why = "the source has none"
    elif stacked != opened.stacked or not t5x_tree.as_written(config, opened.places, opened.reader.tensors, stacked):
        why = "the source's is of another layout of layers or heads"
    elif set(theirs) != set(slots):
        why = f"the source's is not Adafactor's ({tensors_lib.listed(set(theirs) ^ set(slots), 2)})"
    else:
        _check_slots(opened.reader, theirs, specs)
        specs |= theirs
        return Plan(to, specs, places, stacked, carried=tuple(theirs), optimizer="taken over")
    return Plan(to, {**specs, **slots}, places, stacked, fresh=tuple(slots), optimizer=f"new at step 0: {why}")


@functools.lru_cache(maxsize=4)  # tracing a model takes a second
def _fresh_slots(config: api.Config) -> Mapping[str, Stored]:
    """The arrays of Adafactor's state as our recipes and T5X configure it; all are zeros before the first step."""
    adafactor = optim.Adafactor(logical_factor_rules=optim.STANDARD_FACTOR_RULES).with_axes(api.logical_axes(config))
    tree = state.abstract(config, adafactor).checkpoint_tree()["state"]
    slots = {
        ".".join(("state", *at)): Stored(tuple(leaf.shape), np.dtype(leaf.dtype))
        for at, leaf in tensors_lib.flat(tree).items()
    }
    return types.MappingProxyType(slots)


def _check_slots(reader: tensors_lib.Source, slots: Mapping[str, Stored], params: Mapping[str, Stored]) -> None:
    """Refuses optimizer state that cannot belong to the parameters: each slot has some of their axes, in their order."""
    for name, stored in slots.items():
        if name == t5x_tree.STEP:
            sound = stored.shape == () and stored.dtype.kind in "iu"
        else:
            of, _, slot = name.removeprefix(t5x_tree.SLOTS).rpartition(".")
            shape = params[t5x_tree.PARAMS + of].shape
            axes = iter(shape)
            part = all(size in axes for size in stored.shape)
            sound = (stored.shape == (1,) or (part if slot in ("v_row", "v_col") else stored.shape == shape)) and (
                tensors_lib.is_float(stored)
            )
        if not sound:
            problem = f"{stored.dtype.name} {stored.shape} does not fit its parameter"
            raise tensors_lib.broken(reader.path, name, stored.file, problem)


# Copying.


def _write(opened: sources.Opened, plan: Plan, folder: epath.Path, shard_bytes: int) -> None:
    """Copies every tensor."""
    sink = _sink(opened, plan, folder, shard_bytes)
    with progress.Progress("convert", len(plan.places), unit="tensors") as bar:
        for at, value in sources.values(opened):
            place = plan.places[at]
            with _writing(folder, place.tensor):
                sink.write(place.tensor, place.to_theirs(value), place.layer)
            bar.advance()
    for name in (*plan.carried, *plan.fresh):
        spec = plan.specs[name]
        value = sources.read(opened, name) if name in plan.carried else np.zeros(spec.shape, spec.dtype)
        with _writing(folder, name):
            sink.write(name, value)
    with _writing(folder, "index"):
        sink.close()


def _sink(opened: sources.Opened, plan: Plan, folder: epath.Path, shard_bytes: int) -> tensors_lib.Sink:
    if plan.kind == "hf":
        family = families.family_of(opened.config)
        with _writing(folder, "headers"):
            return hugging_face.Sink(folder, opened.config, family, plan.specs, shard_bytes)
    in_layers = {place.tensor for place in plan.places.values() if place.layer is not None}
    if plan.kind == "t5x":
        return t5x_write.LegacySink(folder, plan.specs, in_layers)
    return t5x_write.OrbaxSink(folder, plan.specs, in_layers, {folders.CONVERTED_FROM: opened.kind})


@contextlib.contextmanager
def _writing(folder: epath.Path, name: str) -> Iterator[None]:
    """Turns what goes wrong in writing, such as a full disk, into an error that names the tensor."""
    try:
        yield
    except (errors.FlanError, MemoryError):
        raise
    except Exception as error:  # TensorStore's errors are ValueErrors and bare Exceptions.
        raise errors.FlanError(f"{folder}: {name}: cannot be written: {tensors_lib.first_line(error)}") from error


# Checking.


def _compare(opened: sources.Opened, written: sources.Opened, plan: Plan) -> None:
    """Reads both sides back and compares every tensor, the source's in the dtype written.

    Raises:
      FlanError: naming the first tensor that differs.
    """
    with progress.Progress("read back", len(plan.places), unit="tensors") as bar:
        for at, value in sources.values(opened):
            place = written.places[at]
            if not _same_bits(value, sources.value(written, place)):
                raise errors.FlanError(f"{place.tensor} was not read back as it was written: is the disk sound?")
            bar.advance()
    for name in plan.carried:
        if not _same_bits(opened.reader.read(name), written.reader.read(name)):
            raise errors.FlanError(f"{name} was not read back as it was written: is the disk sound?")


def _same_bits(value: np.ndarray, written: np.ndarray) -> bool:
    """Whether a value, in the dtype that was written, is what was written; a few rows at a time, for the memory."""
    if value.shape != written.shape:
        return False
    value, written = np.atleast_1d(value), np.atleast_1d(written)
    rows = max(_ROWS_BYTES // max(written[:1].nbytes, 1), 1)
    for at in range(0, len(written), rows):
        one, other = (np.ascontiguousarray(x[at : at + rows], written.dtype).view(np.uint8) for x in (value, written))
        if not np.array_equal(one, other):
            return False
    return True


def _logit_difference(opened: sources.Opened, written: sources.Opened) -> tuple[float, float]:
    """The largest difference of both sides' logits, and the largest of the source's, in absolute numbers.

    Float32, on 2 sequences of 16 random tokens; of parameters those of one operation are in memory, and the embedding.
    """
    config: Any = dataclasses.replace(opened.config, dtype="float32", scan_layers=False, remat_policy="none")
    if isinstance(config, api.DecoderOnlyConfig):
        config = dataclasses.replace(config, prefix_lm=False)
    length = min(16, config.max_positions) if isinstance(config, api.DecoderOnlyConfig) else 16
    random = np.random.default_rng(0)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch: Any = {name: random.integers(1, max(config.vocab_size, 2), (2, length), np.int32) for name in names}
    logits = [np.asarray(api.logits(config, sources.on_demand(side), batch)) for side in (opened, written)]
    return float(np.max(np.abs(logits[0] - logits[1]))), float(np.max(np.abs(logits[0])))


# The folder.


def _free(out: str | os.PathLike, source: epath.Path, overwrite: bool) -> epath.Path:
    """The folder to write, if it may be written."""
    target = tensors_lib.absolute(out)
    text, other = os.fspath(target), os.fspath(source)
    if "://" in text:
        raise errors.FlanError(f"{text}: expected a local folder to write; copy it from there")
    if (text + "/").startswith(other + "/") or (other + "/").startswith(text + "/"):
        raise errors.FlanError(f"{text} and the source {other} lie in each other; expected a folder apart")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return target
    if not overwrite:
        raise errors.FlanError(f"{text} exists; expected a new folder, or --overwrite to replace a checkpoint")
    if not (folders.is_checkpoint(target) or hugging_face.is_folder(target)):
        raise errors.FlanError(f"{text} is not a checkpoint: --overwrite replaces nothing else")
    foreign = [child.name for child in target.iterdir() if not any(child.match(known) for known in _WRITTEN)]
    if foreign:
        raise errors.FlanError(
            f"{text} also holds {tensors_lib.listed(foreign)}, which flan convert does not write and would remove"
        )
    return target


def _swap(temporary: str, text: str) -> None:
    """Puts a folder in another's place, which stays if that fails."""
    if not os.path.isdir(text):
        os.rename(temporary, text)
        return
    aside = f"{temporary}.old"
    os.rename(text, aside)
    try:
        os.rename(temporary, text)
    except OSError:
        os.rename(aside, text)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: str) -> None:
    """Waits until every file below a folder is on the disk; `os.sync` would wait for other programs' files as well."""
    for parent, _, files in os.walk(folder):
        for name in (*files, "."):
            descriptor = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _folder(target: epath.Path) -> Iterator[epath.Path]:
    """A folder beside `target` that takes its place at the end, and is gone if anything fails."""
    text = os.fspath(target)
    made, parent = [], os.path.dirname(text)
    while not os.path.isdir(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    temporary = f"{text}.tmp-{int(time.time())}-{os.getpid()}"
    try:
        os.makedirs(temporary)
        yield epath.Path(temporary)
        _flush(temporary)  # what was written is on the disk before its name says that it is whole
        _swap(temporary, text)
    except OSError as error:
        raise errors.FlanError(f"{text}: cannot be written: {tensors_lib.first_line(error)}") from error
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):  # someone else has put something there
                    os.rmdir(folder)
