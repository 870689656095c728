"""What a gin file fills in: plain records, under the names and with the arguments that t5x gives them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_jax import errors, sharding
from flan_jax.models import api


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Which examples, in which shape (t5x: `utils.DatasetConfig`).

    Attributes:
      mixture_or_task_name: a task or mixture of `module`, or of seqio's registries.
      task_feature_lengths: `inputs` and `targets`, in tokens.
      split: `train`, `validation` or `test`.
      batch_size: rows of the global batch.
      shuffle: whether every epoch has a new order.
      seed: of every choice of the data path; the run's seed where None.
      pack: whether rows hold several examples.
      use_cached: must be False: tasks are read from prepared TFDS directories.
      module: modules that define tasks, imported by name.
      data_dir: directory of prepared TFDS datasets (`--tfds_data_dir`), or `sample`.
      missing: `error` or `skip`: what to do about tasks of a mixture whose data is not there.
      num_examples: evaluation only: at most so many examples of each task.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    shuffle: bool = True
    seed: int | None = None
    pack: bool = False
    use_cached: bool = False
    module: str | Sequence[str] | None = None
    data_dir: str | None = None
    missing: str = "error"
    num_examples: int | None = None


@dataclasses.dataclass(frozen=True)
class SaveCheckpointConfig:
    """When checkpoints are written (t5x: `utils.SaveCheckpointConfig`).

    Attributes:
      period: steps between two checkpoints; the last step is always saved.
      keep: how many to keep; None keeps all.
    """

    period: int = 1000
    keep: int | None = None


@dataclasses.dataclass(frozen=True)
class RestoreCheckpointConfig:
    """Where parameters come from (t5x: `utils.RestoreCheckpointConfig`).

    Attributes:
      path: a checkpoint directory (`specific`), or a directory of them (`latest`).
      mode: `specific` or `latest`.
      fallback_to_scratch: start from random parameters where `path` has no checkpoint.
      params_only: leave the optimizer's state and the step behind.
    """

    path: str
    mode: str = "latest"
    fallback_to_scratch: bool = False
    params_only: bool = False


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saving and restoring (t5x: `utils.CheckpointConfig`)."""

    save: SaveCheckpointConfig | None = None
    restore: RestoreCheckpointConfig | None = None


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """The device mesh (t5x: `partitioning.PjitPartitioner`).

    Attributes:
      num_partitions: devices that share one copy of the model's tensors (the `model` axis).
      fsdp_partitions: devices over which parameters are also split by their `embed` axis (the `fsdp` axis).
      logical_axis_rules: logical axis -> mesh axes; the standard table where None.
    """

    num_partitions: int = 1
    fsdp_partitions: int = 1
    logical_axis_rules: Mapping[str, tuple[str, ...]] | None = None

    def mesh(self) -> Any:
        """Returns the mesh over every device of every process."""
        return sharding.make_mesh(data=-1, fsdp=self.fsdp_partitions, model=self.num_partitions)

    @property
    def rules(self) -> Mapping[str, tuple[str, ...]]:
        return self.logical_axis_rules or sharding.STANDARD_RULES


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How a step is done (t5x: `trainer.Trainer`).

    Attributes:
      learning_rate_fn: step -> learning rate.
      num_microbatches: pieces that a batch is cut into, one after the other; None does it whole.
    """

    learning_rate_fn: Callable[[Any], Any]
    num_microbatches: int | None = None


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The architecture (t5x: `network.Transformer`)."""

    config: api.T5Config


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """What t5x calls a model: architecture, vocabularies, optimizer and loss (t5x: `models.EncoderDecoderModel`).

    Attributes:
      module: the architecture.
      input_vocabulary: a seqio vocabulary.
      output_vocabulary: a seqio vocabulary; must equal the input's.
      optimizer_def: see `training.optim`.
      z_loss: coefficient of log(Z)^2.
      label_smoothing: mass given to all pieces evenly.
      loss_normalizing_factor: a number, `NUM_REAL_TARGET_TOKENS`, `NUM_TOTAL_TARGET_TOKENS`, `AVERAGE_PER_SEQUENCE`, or
        None for the sum.
    """

    module: Transformer
    input_vocabulary: Any
    output_vocabulary: Any
    optimizer_def: Any
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None

    def __post_init__(self) -> None:
        if self.input_vocabulary != self.output_vocabulary:
            raise errors.FlanError(
                f"input_vocabulary {self.input_vocabulary} and output_vocabulary {self.output_vocabulary} differ; expected equal ones"
            )
        # A piece beyond the embedding would silently read its last row.
        pieces = getattr(self.input_vocabulary, "vocab_size", 0)
        if pieces > self.config.vocab_size:
            raise errors.FlanError(
                f"the vocabulary has {pieces} pieces, but network.T5Config.vocab_size is {self.config.vocab_size}; "
                f"expected at least {pieces}"
            )

    @property
    def config(self) -> api.T5Config:
        return self.module.config
