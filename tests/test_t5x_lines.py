"""Gin files as t5x's users have them: what means what is done here is accepted, and all else is refused by name."""

import pytest

from flan_jax import config, config_check, t5x_lines

# The shape of a recipe of t5x's users: its includes, and lines that are copied from file to file.
RECIPE = """
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
from t5x import gin_utils
from t5x import models
from t5x import partitioning
from t5x import utils

include "t5x/examples/t5/t5_1_1/small.gin"
include "t5x/configs/runs/{run}.gin"

MODEL_DIR = "/run"
MIXTURE_OR_TASK_NAME = "rte_10templates"
TASK_FEATURE_LENGTHS = {{"inputs": 64, "targets": 16}}
TRAIN_STEPS = 10
VOCABULARY_FILE = "gs://somewhere/t5.model"
USE_HARDWARE_RNG = True
SHUFFLE_TRAIN_EXAMPLES = False
train_script.train:
  summarize_config_fn = @gin_utils.summarize_gin_config
  inference_evaluator_cls = @seqio.Evaluator
  actions = {{}}
seqio.Evaluator:
  logger_cls = [@seqio.PyLoggingLogger, @seqio.TensorBoardLogger, @seqio.JSONLogger]
  use_memory_cache = True
train/utils.DatasetConfig.use_custom_packing_ops = False
utils.SaveCheckpointConfig:
  dtype = 'float32'
  save_dataset = True
utils.RestoreCheckpointConfig.dtype = 'float32'
models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 1
partitioning.PjitPartitioner:
  model_parallel_submesh = None
  logical_axis_rules = @partitioning.standard_logical_axis_rules()
"""


@pytest.fixture(autouse=True)
def _gin():
    with config.isolated():
        config.register()
        yield


def parsed(folder, text: str = RECIPE, run: str = "pretrain", bindings=()) -> config.ParsedConfig:
    (folder / "mine.gin").write_text(text.format(run=run))
    return config.parse([folder / "mine.gin"], bindings)


def problems(found: config.ParsedConfig) -> list[str]:
    return [problem.message for problem in config_check.check(found) if problem.level == "error"]


def test_a_recipe_of_t5x_is_accepted_and_sets_what_it_says(tmp_path):
    found = parsed(tmp_path)
    assert problems(found) == []
    view = config_check.ResolvedView(found, "train_script.train")
    assert view.value("train_script.train.use_hardware_rng") is True
    assert view.value("utils.DatasetConfig.shuffle", "train") is False
    relative = parsed(tmp_path, bindings=["TRAIN_STEPS_RELATIVE = 5"])
    assert config_check.ResolvedView(relative, "train_script.train").value("train_script.train.relative_steps") == 5


@pytest.mark.parametrize("run", ["pretrain", "finetune"])
def test_what_is_saved_is_sound_by_itself(run, tmp_path):
    given = ["INITIAL_CHECKPOINT_PATH = '/old/checkpoint_5'", "EVALUATOR_USE_MEMORY_CACHE = False"]
    found = parsed(tmp_path, run=run, bindings=given if run == "finetune" else ())
    assert problems(found) == []
    saved = tmp_path / "config.gin"
    saved.write_text(config.config_str(found))
    again = config.parse([saved])
    assert (problems(again), again.t5x) == ([], ())
    assert config.config_str(again) == saved.read_text()


REFUSED = [
    ("JSON_WRITE_N_RESULTS=5", "seqio.JSONLogger.write_n_results is 5", "all predictions are written"),
    ("EVALUATOR_NUM_EXAMPLES=7", "num_examples is 7; expected None", "infer_eval/utils.DatasetConfig.num_examples = 7"),
    ("utils.SaveCheckpointConfig.dtype='bfloat16'", "is 'bfloat16'; expected 'float32'", "flan convert --dtype"),
    ("utils.RestoreCheckpointConfig.dtype='bfloat16'", "'float32', None", "bfloat16 with network.T5Config.dtype"),
    (
        "utils.SaveCheckpointConfig.save_dataset=False",
        "expected True",
        "the position in the data is in every checkpoint",
    ),
    ("partitioning.PjitPartitioner.model_parallel_submesh=(2, 1, 2)", "(2, 1, 2)", "num_partitions = 4 does it"),
    ("partitioning.standard_logical_axis_rules.parameter_partitioning_dims=2", "is 2; expected 1", "fsdp_partitions"),
    ("models.EncoderDecoderModel.predict_batch_with_aux.num_decodes=4", "expected 1", "decoding.Settings.beams = 4"),
    ("train_script.train.summarize_config_fn=@mine.summarize", "@gin_utils.summarize_gin_config", "config.gin"),
    ("train_script.train.inference_evaluator_cls=@mine.Evaluator", "is @mine.Evaluator", "metric_fns"),
    ("train_script.train.actions={'train': 1}", "expected None, {}", "trainer.Trainer.nonfinite"),
    (
        "seqio.Evaluator.logger_cls=[@seqio.JSONLogger, @mine.Logger]",
        "[@seqio.JSONLogger, @mine.Logger]",
        "TensorBoard",
    ),
    ("seqio.Evaluator.num_example=3", "seqio.Evaluator has no parameter 'num_example' here", "'num_examples'"),
]


@pytest.mark.parametrize(("line", "given", "instead"), REFUSED, ids=[line for line, _, _ in REFUSED])
def test_what_asks_for_something_else_is_refused_with_what_to_write(line, given, instead, tmp_path):
    found = parsed(tmp_path, run="finetune", bindings=["INITIAL_CHECKPOINT_PATH = '/old'", line])
    (problem,) = problems(found)
    assert given in problem
    assert instead in problem.partition(given)[2]


def test_the_last_line_of_a_name_counts(tmp_path):
    name = "utils.SaveCheckpointConfig.dtype"
    assert problems(parsed(tmp_path, bindings=[f"{name} = 'bfloat16'", f"{name} = 'float32'"])) == []


def test_no_line_hides_a_parameter_of_ours():
    for key in t5x_lines.LINES:
        selector, _, param = key.rpartition(".")
        configurable = config.configurables().get(selector)
        assert configurable is None or param not in config.parameters(configurable), key
