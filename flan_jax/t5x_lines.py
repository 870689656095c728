"""Lines of t5x's gin files that set what cannot be set here: which values mean what flan_jax does, and what to write for others.

t5x's users copy these lines from file to file, mostly with t5x's own defaults. A line whose value means what is done here in
any case is accepted and dropped, as t5x's import lines are; any other value is an error that says what asks for it here.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

from flan_jax import errors


@dataclasses.dataclass(frozen=True)
class Line:
    """One parameter of t5x's.

    Attributes:
      accepted: the values that mean what is done here. A reference is given as it is written: `@seqio.Evaluator`.
      instead: what to write for another value, or why there is none; a function is given the value.
      several: whether a value is a list of those accepted.
    """

    accepted: Collection[Any]
    instead: str | Callable[[Any], str]
    several: bool = False


_SUMMARY = Line(
    ("@gin_utils.summarize_gin_config", None), "the configuration is always written to MODEL_DIR/config.gin"
)
_EVALUATOR = Line(
    ("@seqio.Evaluator", None), "tasks are always asked by flan_jax.eval; a task's metric_fns say what is measured"
)
_EITHER = Line((True, False), "it changes no result")
_BEAMS = Line(
    (1,),
    lambda value: f"answers are greedy in evaluation; `flan infer` searches with decoding.Settings.beams = {value}",
)
_ONE_ANSWER = Line((False,), "evaluation scores one answer; `flan infer` writes several with decoding.Settings.n")

LINES: dict[str, Line] = {
    "train_script.train.summarize_config_fn": _SUMMARY,
    "eval_script.evaluate.summarize_config_fn": _SUMMARY,
    "infer_script.infer.summarize_config_fn": _SUMMARY,
    "train_script.train.inference_evaluator_cls": _EVALUATOR,
    "eval_script.evaluate.inference_evaluator_cls": _EVALUATOR,
    "train_script.train.actions": Line(
        (None, {}), "of steps whose loss is not finite trainer.Trainer.nonfinite says what becomes: 'stop' or 'skip'"
    ),
    "train_script.train.concurrent_metrics": _EITHER,
    "train_script.train.use_orbax": Line((True,), "checkpoints are Orbax's; `flan convert` writes T5X's older ones"),
    "seqio.Evaluator.logger_cls": Line(
        ("@seqio.PyLoggingLogger", "@seqio.TensorBoardLogger", "@seqio.JSONLogger"),
        "results are always logged, written as JSON lines and as TensorBoard's events",
        several=True,
    ),
    "seqio.Evaluator.num_examples": Line(
        (None,), lambda value: f"infer_eval/utils.DatasetConfig.num_examples = {value!r} limits what is asked"
    ),
    "seqio.Evaluator.use_memory_cache": _EITHER,
    "seqio.JSONLogger.write_n_results": Line((None,), "all predictions are written"),
    "utils.DatasetConfig.use_custom_packing_ops": Line((False,), "rows are packed by flan_jax's own packer"),
    "utils.DatasetConfig.use_memory_cache": _EITHER,
    "utils.DatasetConfig.trim_output_features": Line((True,), "features are always cut to task_feature_lengths"),
    "utils.SaveCheckpointConfig.dtype": Line(
        ("float32",), "parameters are saved as they are trained, in float32; `flan convert --dtype` writes others"
    ),
    "utils.SaveCheckpointConfig.save_dataset": Line((True,), "the position in the data is in every checkpoint"),
    "utils.RestoreCheckpointConfig.dtype": Line(
        ("float32", None), lambda value: f"parameters are float32; activations are {value} with network.T5Config.dtype"
    ),
    "utils.RestoreCheckpointConfig.strict": Line((True,), "a checkpoint has to fit the model"),
    "partitioning.PjitPartitioner.model_parallel_submesh": Line(
        (None,), lambda value: f"partitioning.PjitPartitioner.num_partitions = {_devices(value)} does it"
    ),
    "partitioning.PjitPartitioner.params_on_devices": Line((True,), "parameters are always on the devices"),
    "partitioning.PjitPartitioner.backend": Line((None,), "the environment variable JAX_PLATFORMS says it"),
    "partitioning.standard_logical_axis_rules.activation_partitioning_dims": Line(
        (1,), "partitioning.PjitPartitioner.logical_axis_rules = 'split_residual' splits activations further"
    ),
    "partitioning.standard_logical_axis_rules.parameter_partitioning_dims": Line(
        (1,), "partitioning.PjitPartitioner.fsdp_partitions says over how many devices parameters are split further"
    ),
    "partitioning.standard_logical_axis_rules.additional_rules": Line(
        (None,), "partitioning.PjitPartitioner.logical_axis_rules takes the rules themselves"
    ),
    "models.EncoderDecoderModel.predict_batch_with_aux.num_decodes": _BEAMS,
    "models.EncoderDecoderModel.predict_batch_with_aux.return_all_decodes": _ONE_ANSWER,
    "models.DecoderOnlyModel.predict_batch_with_aux.num_decodes": _BEAMS,
    "models.DecoderOnlyModel.predict_batch_with_aux.return_all_decodes": _ONE_ANSWER,
}
# Of these there is nothing else here.
_FOREIGN = (
    "seqio.Evaluator",
    "seqio.JSONLogger",
    "models.EncoderDecoderModel.predict_batch_with_aux",
    "models.DecoderOnlyModel.predict_batch_with_aux",
)


def is_one(selector: str, param: str) -> bool:
    """Whether a setting, or the head of a block (without a parameter), is one that only t5x has."""
    return f"{selector}.{param}" in LINES or selector in _FOREIGN


def problem(selector: str, param: str, value: Any) -> str | None:
    """What is wrong with such a line; None where it says what is done in any case.

    Args:
      selector: as `is_one` knows it.
      param: the parameter; empty for the head of a block.
      value: a gin value without macros.
    """
    key = f"{selector}.{param}"
    if not param:
        return None
    if key not in LINES:
        names = [name.removeprefix(f"{selector}.") for name in LINES if name.startswith(f"{selector}.")]
        return f"{selector} has no parameter {param!r} here{errors.nearest(param, names)}"
    line = LINES[key]
    given = value if line.several and isinstance(value, list | tuple) else [value]
    if all(_among(item, line.accepted) for item in given):
        return None
    words = ", ".join(word if isinstance(word, str) and word.startswith("@") else repr(word) for word in line.accepted)
    instead = line.instead if isinstance(line.instead, str) else line.instead(value)
    return f"{key} is {value!r}; expected {words}, or no such line: {instead}"


def _among(value: Any, accepted: Collection[Any]) -> bool:
    written = str(value) if str(value).startswith("@") else value
    return any(type(written) is type(one) and written == one for one in accepted)


def _devices(submesh: Any) -> Any:
    whole = isinstance(submesh, list | tuple) and all(isinstance(size, int) for size in submesh)
    return math.prod(submesh) if whole else "N"
