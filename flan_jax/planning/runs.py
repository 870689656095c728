"""The run that a configuration describes, laid out over a mesh: what `flan plan` varies, and what it compiles."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from flan_jax import errors, sharding
from flan_jax.data import loader
from flan_jax.models import api, flops
from flan_jax.training import adapters, configs, program, state


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a step is spread.

    Attributes:
      data: size of the mesh axis that copies parameters.
      fsdp: of the one that splits them along `embed`.
      model: of tensor parallelism.
      rules: table of axes, as `partitioning.PjitPartitioner.logical_axis_rules` takes it.
      microbatches: pieces of a batch, one after the other.
      remat: policy of the model.
    """

    data: int
    fsdp: int
    model: int
    rules: Any
    microbatches: int
    remat: str

    def __str__(self) -> str:
        table = self.rules if isinstance(self.rules, str) else "standard" if self.rules is None else "own rules"
        return (
            f"data={self.data} fsdp={self.fsdp} model={self.model}, {table}, remat {self.remat}, "
            f"{self.microbatches} microbatch{'' if self.microbatches == 1 else 'es'}"
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """What a configuration binds to `train_script.train`, as far as one step is concerned.

    Attributes:
      model: architecture, optimizer, loss.
      dataset: batch and lengths.
      partitioner: the mesh.
      trainer: learning rate and microbatches.
      steps: updates that are still to do: those of the checkpoint that it starts from are done.
      adapter: what is trained, if not the whole model.
      hardware_rng: whether dropout's key is the accelerator's own kind.
      tasks: how many the loss is also summed by; 0 where no data says, which costs a plan next to nothing.
    """

    model: configs.Model
    dataset: configs.DatasetConfig
    partitioner: configs.Partitioner
    trainer: configs.Trainer
    steps: int
    adapter: adapters.Adapter | None = None
    hardware_rng: bool = False
    tasks: int = 0

    @classmethod
    def from_bindings(cls, bound: Mapping[str, Any]) -> "Run":
        """The run of `train_script.train`'s arguments, as gin gives them."""
        restore = bound["checkpoint_cfg"].restore
        # T5X numbers checkpoints by their step, and TRAIN_STEPS goes on from there.
        found = re.search(r"_(\d+)/?$", restore.path) if restore is not None and not restore.params_only else None
        adapter = bound.get("adapter")
        done = int(found.group(1)) if found and adapter is None else 0
        return cls(
            model=bound["model"],
            dataset=bound["train_dataset_cfg"],
            partitioner=bound["partitioner"],
            trainer=bound["trainer_cls"](),
            steps=bound.get("relative_steps") or bound["total_steps"] - done,
            adapter=adapter,
            hardware_rng=bool(bound.get("use_hardware_rng")),
        )

    def layout(self, devices: int) -> Layout:
        """How the configuration itself lays the step out over so many devices."""
        fsdp, model = self.partitioner.fsdp_partitions, self.partitioner.num_partitions
        return Layout(
            data=devices // (fsdp * model),
            fsdp=fsdp,
            model=model,
            rules=self.partitioner.logical_axis_rules,
            microbatches=self.trainer.num_microbatches or 1,
            remat=self.model.config.remat_policy,
        )

    def settings(self, layout: Layout) -> list[str]:
        """The gin settings that give a layout."""
        family = "TransformerConfig" if isinstance(self.model.config, api.DecoderOnlyConfig) else "T5Config"
        return [
            f"partitioning.PjitPartitioner.fsdp_partitions = {layout.fsdp}",
            f"partitioning.PjitPartitioner.num_partitions = {layout.model}",
            f"partitioning.PjitPartitioner.logical_axis_rules = {layout.rules!r}",
            f"trainer.Trainer.num_microbatches = {layout.microbatches}",
            f"network.{family}.remat_policy = {layout.remat!r}",
        ]

    def laid_out(self, layout: Layout) -> "Run":
        """The same run under another layout."""
        module = self.model.module
        config = dataclasses.replace(module.config, remat_policy=layout.remat)
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, module=dataclasses.replace(module, config=config)),
            partitioner=configs.Partitioner(layout.model, layout.fsdp, layout.rules),
            trainer=dataclasses.replace(self.trainer, num_microbatches=layout.microbatches),
        )

    @property
    def lengths(self) -> dict[str, int]:
        """Feature -> tokens of a row."""
        given = {"inputs": 1, **self.dataset.task_feature_lengths}
        found = loader.feature_lengths(given, self.dataset.pack, self.model.feature_converter)
        return found | ({"decoder_task_ids": found["decoder_target_tokens"]} if self.tasks else {})

    @functools.cached_property
    def num_params(self) -> int:
        """Of the model."""
        return api.num_params(self.model.config)

    @functools.cached_property
    def state_bytes(self) -> tuple[int, int]:
        """Bytes of the state, and of what is trained in it, over all devices."""
        _, shapes, _ = self.state(sharding.abstract_mesh(1, 1, 1))
        return num_bytes(shapes), num_bytes(shapes.params)

    @property
    def flops(self) -> float:
        """Model FLOPs of a step, over all devices."""
        lengths = self.lengths
        source, target = lengths.get("encoder_input_tokens", 0), lengths["decoder_target_tokens"]
        return flops.train_step(self.model.config, self.dataset.batch_size, source, target)

    @property
    def tokens(self) -> int:
        """Of a batch, padding included."""
        lengths = self.lengths
        return self.dataset.batch_size * (lengths.get("encoder_input_tokens", 0) + lengths["decoder_target_tokens"])

    def check(self, layout: Layout, devices: int) -> None:
        """Refuses a layout that does not fit the devices or the batch.

        Raises:
          FlanError: naming the setting and a value that would do.
        """
        if layout.data * layout.fsdp * layout.model != devices:
            raise errors.FlanError(
                f"fsdp_partitions={layout.fsdp} x num_partitions={layout.model} does not divide {devices} devices; "
                f"expected a divisor of {devices}"
            )
        needed = layout.data * layout.fsdp * layout.microbatches
        if self.dataset.batch_size % needed:
            above = -(-self.dataset.batch_size // needed) * needed
            raise errors.FlanError(
                f"batch_size is {self.dataset.batch_size}; expected a multiple of {needed} "
                f"({layout.data * layout.fsdp} devices that share the batch x {layout.microbatches} microbatches), e.g. {above}"
            )

    def state(self, mesh: Any) -> tuple[Any, Any, Any]:
        """The optimizer, and the state's shapes and places on a mesh."""
        optimizer = self.model.optimizer_def.with_axes(state.trained_axes(self.model.config, self.adapter))
        shapes = state.abstract(self.model.config, optimizer, self.adapter)
        places = state.shardings(self.model.config, optimizer, mesh, self.partitioner.rules, self.adapter)
        return optimizer, shapes, places

    def lower(self, devices: Sequence[Any]) -> tuple[Any, int, Any]:
        """Traces the step that `flan train` would compile.

        Returns:
          What `.compile()` compiles; the bytes that every device must hold: parameters, optimizer state and gradients, split
          over all devices; the mesh.
        """
        mesh = self.partitioner.mesh(devices)
        optimizer, shapes, places = self.state(mesh)
        key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg" if self.hardware_rng else None))
        key = jax.ShapeDtypeStruct((), key.dtype, sharding=sharding.replicated(mesh))
        frozen, held = None, [shapes, shapes.params]
        if self.adapter is not None:
            base = api.abstract_params(self.model.config)
            axes = api.logical_axes(self.model.config)
            frozen = program.placed(base, sharding.param_shardings(mesh, axes, base, self.partitioner.rules))
            held.append(base)
        lowered = program.lower(
            self.model,
            optimizer,
            self.trainer,
            places,
            shapes,
            mesh,
            key,
            self.dataset.batch_size,
            self.lengths,
            rules=self.partitioner.rules,
            adapter=self.adapter,
            frozen=frozen,
            tasks=self.tasks,
        )
        return lowered, num_bytes(held) // len(devices), mesh


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_on_a_device(shapes: Any, places: Any) -> int:
    """Bytes that one device holds of a tree laid out over several."""
    parts = jax.tree.map(lambda leaf, at: math.prod(at.shard_shape(leaf.shape)) * leaf.dtype.itemsize, shapes, places)
    return sum(jax.tree.leaves(parts))
