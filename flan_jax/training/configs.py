"""What a gin file fills in: plain records, under the names and with the arguments that t5x gives them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from flan_jax import errors, sharding
from flan_jax.data import features
from flan_jax.data import vocabulary as vocabulary_lib
from flan_jax.models import api
from flan_jax.training import optim


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
      use_cached: must be False: tasks are read from prepared TFDS directories, or rows from `packed_cache`.
      packed_cache: directory that `flan data cache` wrote for this mixture: its rows are read, and no TensorFlow.
      module: modules that define tasks, imported by name.
      data_dir: directory of prepared TFDS datasets (`--tfds_data_dir`), or `sample`.
      missing: `error` or `skip`: what to do about tasks of a mixture whose data is not there.
      data_processes: processes that make the rows of training, online; 0 makes them in a thread of this one. The rows are the same.
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
    packed_cache: str | None = None
    module: str | Sequence[str] | None = None
    data_dir: str | None = None
    missing: Literal["error", "skip"] = "error"
    data_processes: int = 0
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
      base_path: of an adapter's checkpoint, in evaluation: the checkpoint that it adapts, if that has moved.
    """

    path: str
    mode: Literal["latest", "specific"] = "latest"
    fallback_to_scratch: bool = False
    params_only: bool = False
    base_path: str | None = None


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
      logical_axis_rules: which logical axis goes over which mesh axes: a table of `sharding.TABLES` by name (`split_residual`
        also splits what layers hand on and keep), or rules that replace those of the standard one.
    """

    num_partitions: int = 1
    fsdp_partitions: int = 1
    logical_axis_rules: str | Mapping[str, Any] | Sequence[Any] | None = None

    def mesh(self, devices: Sequence[Any] | None = None) -> Any:
        """Returns the mesh over `devices`, by default every device of every process."""
        return sharding.make_mesh(data=-1, fsdp=self.fsdp_partitions, model=self.num_partitions, devices=devices)

    @property
    def rules(self) -> sharding.Rules:
        return sharding.table(self.logical_axis_rules)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How a step is done (t5x: `trainer.Trainer`).

    Attributes:
      learning_rate_fn: step -> learning rate.
      num_microbatches: pieces that a batch is cut into, one after the other; None does it whole.
      nonfinite: what to do about a step whose loss or gradient is not finite: `stop` the run, or `skip` its update.
    """

    learning_rate_fn: Callable[[jax.Array], jax.Array | float]
    num_microbatches: int | None = None
    nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if self.nonfinite not in ("stop", "skip"):
            raise errors.unknown("value of trainer.Trainer.nonfinite", self.nonfinite, ("stop", "skip"))


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The architecture (t5x: `network.Transformer`)."""

    config: api.T5Config


@dataclasses.dataclass(frozen=True)
class DecoderWrapper:
    """The architecture of a decoder-only model (t5x: `network.DecoderWrapper`)."""

    config: api.DecoderOnlyConfig


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """What t5x calls a model: architecture, vocabularies, optimizer and loss (t5x: `models.EncoderDecoderModel`).

    Attributes:
      module: the architecture.
      input_vocabulary: of `seqio.SentencePieceVocabulary`, or a seqio vocabulary.
      output_vocabulary: the same; must equal the input's.
      optimizer_def: see `training.optim`.
      z_loss: coefficient of log(Z)^2.
      label_smoothing: mass given to all pieces evenly.
      loss_normalizing_factor: a number, `NUM_REAL_TARGET_TOKENS`, `NUM_TOTAL_TARGET_TOKENS`, `AVERAGE_PER_SEQUENCE`, or
        None for the sum.
      logits_chunk: target positions whose logits exist at a time, the same loss and gradients with less memory; 0 for all,
        None for 512 where the vocabulary has 100,000 pieces or more, else all.
    """

    module: Transformer
    input_vocabulary: vocabulary_lib.Vocabulary
    output_vocabulary: vocabulary_lib.Vocabulary
    optimizer_def: optim.Optimizer
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None
    logits_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.input_vocabulary != self.output_vocabulary:
            raise errors.FlanError(
                f"input_vocabulary {self.input_vocabulary} and output_vocabulary {self.output_vocabulary} differ; expected equal ones"
            )
        _check_pieces(self.input_vocabulary, self.config.vocab_size, "network.T5Config.vocab_size")

    @property
    def config(self) -> api.T5Config:
        return self.module.config

    @property
    def feature_converter(self) -> features.Converter:
        """How training examples become its features."""
        return features.ENCODER_DECODER

    @property
    def question_converter(self) -> features.Converter:
        """How questions and answers become its features in evaluation."""
        return features.ENCODER_DECODER


@dataclasses.dataclass(frozen=True)
class DecoderOnlyModel:
    """The same for a decoder-only architecture (t5x: `models.DecoderOnlyModel`).

    Attributes:
      module: the architecture.
      vocabulary: a seqio vocabulary.
      optimizer_def: see `training.optim`.
      inputs_bidirectional_attention: whether the tokens of the inputs see each other in both directions; that is
        `prefix_lm` of the architecture, which may be set in either place.
      feature_converter_cls: makes the features of training: `@seqio.PrefixLMFeatureConverter`, inputs and targets in one
        stream, where None, or `@seqio.LMFeatureConverter`, targets only. Evaluation always asks with the former.
      z_loss: as in `EncoderDecoderModel`.
      label_smoothing: likewise.
      loss_normalizing_factor: likewise.
      logits_chunk: likewise.
    """

    module: DecoderWrapper
    vocabulary: vocabulary_lib.Vocabulary
    optimizer_def: optim.Optimizer
    inputs_bidirectional_attention: bool = False
    feature_converter_cls: Callable[[], features.Converter] | None = None
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None
    logits_chunk: int | None = None

    def __post_init__(self) -> None:
        _check_pieces(self.vocabulary, self.config.vocab_size, "network.TransformerConfig.vocab_size")
        made = self.feature_converter
        if not isinstance(made, features.PrefixLM | features.LM):
            raise errors.FlanError(
                f"feature_converter_cls makes {made}; a decoder-only model expects "
                "@seqio.PrefixLMFeatureConverter or @seqio.LMFeatureConverter"
            )
        if self.config.prefix_lm and isinstance(made, features.LM):
            raise errors.FlanError(
                "inputs_bidirectional_attention needs inputs, which @seqio.LMFeatureConverter leaves out; "
                "expected False, or @seqio.PrefixLMFeatureConverter"
            )

    @functools.cached_property
    def config(self) -> api.DecoderOnlyConfig:
        both = self.inputs_bidirectional_attention or self.module.config.prefix_lm
        return dataclasses.replace(self.module.config, prefix_lm=both)

    @functools.cached_property
    def feature_converter(self) -> features.PrefixLM | features.LM:
        """How training examples become its features."""
        return (self.feature_converter_cls or features.PrefixLM)()  # type: ignore[return-value]  # checked above

    @property
    def question_converter(self) -> features.Converter:
        """How questions and answers become its features in evaluation."""
        return features.PrefixLM(bos_id=self.feature_converter.bos_id)

    @property
    def input_vocabulary(self) -> vocabulary_lib.Vocabulary:
        return self.vocabulary

    @property
    def output_vocabulary(self) -> vocabulary_lib.Vocabulary:
        return self.vocabulary


Model = EncoderDecoderModel | DecoderOnlyModel


def _check_pieces(vocabulary: Any, vocab_size: int, field: str) -> None:
    """Refuses a vocabulary with pieces beyond the embedding: they would silently read its last row."""
    pieces = getattr(vocabulary, "vocab_size", 0)
    if pieces > vocab_size:
        raise errors.FlanError(
            f"the vocabulary has {pieces} pieces, but {field} is {vocab_size}; expected at least {pieces}"
        )
