"""The gin surface: t5x-style files are read, every kind of mistake has its message, the saved text reproduces."""

import dataclasses
import string
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import hypothesis
import pytest
from hypothesis import strategies as st

from flan_jax import config, config_check, config_read, errors


@dataclasses.dataclass(frozen=True)
class Dataset:
    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    seed: int | None
    shuffle: bool = True
    pack: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    emb_dim: int = 512
    dropout_rate: float = 0.1
    mlp_activations: tuple[str, ...] = ("relu",)
    remat: "str | None" = None


@dataclasses.dataclass
class Model:
    module: Network
    z_loss: float = 0.0
    decode_fn: Callable[..., Any] | None = None


def trainer(rate: float = 1.0, schedule: Callable[[int], float] | None = None) -> float:
    return rate


def untyped_loss(weight=1):
    return weight


def train(
    model: Model,
    train_dataset_cfg: Dataset,
    train_eval_dataset_cfg: Dataset | None,
    trainer_cls: Callable[..., float],
    model_dir: str,
    total_steps: int,
    eval_period: int = 1000,
    stops: Sequence[str] = (),
):
    return (model, train_dataset_cfg, train_eval_dataset_cfg, trainer_cls(), model_dir, total_steps)


TABLE = {
    "train_script.train": f"{__name__}:train",
    "utils.DatasetConfig": f"{__name__}:Dataset",
    "network.T5Config": f"{__name__}:Network",
    "models.EncoderDecoderModel": f"{__name__}:Model",
    "trainer.Trainer": f"{__name__}:trainer",
    "losses.untyped_loss": f"{__name__}:untyped_loss",
}

MODEL = """
from __gin__ import dynamic_registration
from t5x import models
from t5x.examples.t5 import network

DROPOUT_RATE = %gin.REQUIRED
MODEL = @models.EncoderDecoderModel()
models.EncoderDecoderModel.module = @network.T5Config()
network.T5Config:
  emb_dim = 64  # narrow
  dropout_rate = %DROPOUT_RATE
  mlp_activations = ('gelu', 'linear')
"""

RUN = """
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
from t5x import trainer
from t5x import utils as t5x_utils

include 'toy_model.gin'

TRAIN_STEPS = %gin.REQUIRED
BATCH_SIZE = 16
MODEL_DIR = %gin.REQUIRED
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 16}

train_script.train:
  model = %MODEL
  train_dataset_cfg = @train/t5x_utils.DatasetConfig()
  train_eval_dataset_cfg = @train_eval/t5x_utils.DatasetConfig()
  trainer_cls = @trainer.Trainer
  model_dir = %MODEL_DIR
  total_steps = %TRAIN_STEPS
  eval_period = 100
  stops = ['stop']

t5x_utils.DatasetConfig:
  mixture_or_task_name = 'rte'
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  batch_size = %BATCH_SIZE
  seed = None
train/t5x_utils.DatasetConfig.split = 'train'
train_eval/t5x_utils.DatasetConfig.split = 'validation'
trainer.Trainer.rate = 2
"""

FLAGS = ["--gin.TRAIN_STEPS=100", "--gin.MODEL_DIR='/tmp/run'", "--gin.DROPOUT_RATE=0.0"]


@pytest.fixture(autouse=True)
def _gin() -> Iterator[None]:
    with config.isolated(empty_registry=True):
        config.register(TABLE)
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "toy_model.gin").write_text(MODEL)
    (tmp_path / "toy_run.gin").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(folder, extra: str = "", flags: Sequence[str] = FLAGS, **options) -> list[str]:
    """The problems of the sound configuration followed by the lines of `extra`, from line 2 of extra.gin on."""
    (folder / "extra.gin").write_text("include 'toy_run.gin'\n" + textwrap.dedent(extra).strip("\n") + "\n")
    parsed = config.parse(["extra.gin"], flags)
    return [str(problem) for problem in config_check.check(parsed, **options)]


def test_a_file_written_for_t5x_is_sound_and_runs(folder):
    parsed = config.parse(["toy_run.gin"], FLAGS)
    assert config_check.check(parsed) == []
    config.bind(parsed)
    model, train_data, eval_data, rate, model_dir, steps = gin.get_configurable("train_script.train")()
    assert model.module == Network(emb_dim=64, dropout_rate=0.0, mlp_activations=("gelu", "linear"))
    assert (train_data.split, eval_data.split, train_data.batch_size) == ("train", "validation", 16)
    assert train_data.task_feature_lengths == {"inputs": 64, "targets": 16}
    assert (rate, model_dir, steps) == (2, "/tmp/run", 100)


MISTAKES = [
    (
        "utils.DatasetConfg.shuffle = False",
        "extra.gin:2: unknown configurable 'utils.DatasetConfg'; did you mean 'utils.DatasetConfig'?",
    ),
    (
        "network.T5Confg:\n  emb_dim = 3",
        "extra.gin:2: unknown configurable 'network.T5Confg'; did you mean 'network.T5Config'?",
    ),
    (
        "network.T5Config:\n  emb_dm = 3",
        "extra.gin:3: network.T5Config has no parameter 'emb_dm'; did you mean 'emb_dim'?",
    ),
    (
        "trainer.Trainer.schedule = @losses.untyped_los",
        "extra.gin:2: trainer.Trainer.schedule = @losses.untyped_los: unknown configurable; "
        "did you mean 'losses.untyped_loss'?",
    ),
    (
        "TRAIN_STPES = 5",
        "extra.gin:2: macro 'TRAIN_STPES' is set and nothing refers to it; did you mean 'TRAIN_STEPS'?",
    ),
    (
        "trainer.Trainer.rate = %DROPOUT_RAT",
        "extra.gin:2: trainer.Trainer.rate = %DROPOUT_RAT: macro 'DROPOUT_RAT' is not set; "
        "did you mean 'DROPOUT_RATE'?",
    ),
    (
        "BATCH_SIZE = '16'",
        "extra.gin:2: utils.DatasetConfig.batch_size expects int, got '16' (str) from macro BATCH_SIZE; write 16",
    ),
    (
        "train/utils.DatasetConfig.shuffle = 'false'",
        "extra.gin:2: train/utils.DatasetConfig.shuffle expects bool, got 'false' (str); write False",
    ),
    (
        "train_script.train.eval_period = 1e3",
        "extra.gin:2: train_script.train.eval_period expects int, got 1000.0 (float); write 1000",
    ),
    ("utils.DatasetConfig.seed = 'x'", "extra.gin:2: utils.DatasetConfig.seed expects int | None, got 'x' (str)"),
    (
        "network.T5Config.mlp_activations = ['gelu']",
        "extra.gin:2: network.T5Config.mlp_activations expects tuple[str, ...], got ['gelu'] (list); write ('gelu',)",
    ),
    (
        "TASK_FEATURE_LENGTHS = {'inputs': '64'}",
        "extra.gin:2: utils.DatasetConfig.task_feature_lengths expects Mapping[str, int], "
        "got {'inputs': '64'} (dict) from macro TASK_FEATURE_LENGTHS",
    ),
    (
        "train_script.train.stops = 'stop'",
        "extra.gin:2: train_script.train.stops expects Sequence[str], got 'stop' (str); write ('stop',)",
    ),
    (
        "MODEL = @models.EncoderDecoderModel",
        "extra.gin:2: train_script.train.model expects Model, got the function or class @models.EncoderDecoderModel "
        "from macro MODEL; write @models.EncoderDecoderModel() to call it",
    ),
    (
        "train_script.train.model = @network.T5Config()",
        "extra.gin:2: train_script.train.model expects Model, got the result of @network.T5Config()",
    ),
    (
        "trainer.Trainer.schedule = 3",
        "extra.gin:2: trainer.Trainer.schedule expects Callable[[int], float] | None, got 3 (int)",
    ),
    (
        "BATCH_SIZE = %gin.REQUIRED",
        "extra.gin:2: macro 'BATCH_SIZE' is required and not set (used by train/utils.DatasetConfig.batch_size, "
        "train_eval/utils.DatasetConfig.batch_size); give --gin.BATCH_SIZE=...",
    ),
    (
        "models.EncoderDecoderModel.module = %gin.REQUIRED",
        "extra.gin:2: models.EncoderDecoderModel.module is required and not set",
    ),
    (
        "trian/utils.DatasetConfig.pack = True",
        "extra.gin:2: scope 'trian' of trian/utils.DatasetConfig.pack is never used; did you mean 'train'?",
    ),
]


@pytest.mark.parametrize(("extra", "message"), MISTAKES, ids=[extra.split("\n")[-1].strip() for extra, _ in MISTAKES])
def test_each_mistake_has_its_message(folder, extra, message):
    found = problems_of(folder, extra)
    assert [problem for problem in found if not problem.startswith("warning")] == [message]


def test_macros_that_refer_to_each_other(folder):
    flags = ["--gin.MODEL_DIR='/tmp/run'", "--gin.DROPOUT_RATE=0.0"]
    assert problems_of(folder, "BATCH_SIZE = %TRAIN_STEPS\nTRAIN_STEPS = %BATCH_SIZE", flags) == [
        "extra.gin:2: macros refer to each other: BATCH_SIZE -> TRAIN_STEPS -> BATCH_SIZE"
    ]


def test_all_problems_come_at_once_and_flags_are_their_own_location(folder):
    found = problems_of(folder, "network.T5Config.emb_dim = '64'", ["--gin.TRAIN_STPES=5", "--gin.DROPOUT_RATE='0'"])
    assert found == [
        "--gin.TRAIN_STPES=5: macro 'TRAIN_STPES' is set and nothing refers to it; did you mean 'TRAIN_STEPS'?",
        "extra.gin:2: network.T5Config.emb_dim expects int, got '64' (str); write 64",
        "--gin.DROPOUT_RATE='0': network.T5Config.dropout_rate expects float, got '0' (str) from macro DROPOUT_RATE; "
        "write 0",
        "toy_run.gin:12: macro 'MODEL_DIR' is required and not set (used by train_script.train.model_dir); "
        "give --gin.MODEL_DIR=...",
        "toy_run.gin:10: macro 'TRAIN_STEPS' is required and not set (used by train_script.train.total_steps); "
        "give --gin.TRAIN_STEPS=...",
    ]
    with pytest.raises(errors.FlanError, match=r"the configuration has 1 problem:\n  here:3: wrong"):
        config_check.raise_errors(
            [
                config_check.Problem("wrong", config.Location("here", 3)),
                config_check.Problem("odd", level="warning"),
            ]
        )


def test_missing_parameters_are_found_through_references_and_scopes(folder):
    (folder / "bare.gin").write_text(
        "train_script.train.train_dataset_cfg = @train/utils.DatasetConfig()\n"
        "train_script.train.trainer_cls = @trainer.Trainer\n"
        "train/utils.DatasetConfig.batch_size = 4\n"
    )
    found = [str(problem) for problem in config_check.check(config.parse(["bare.gin"]))]
    assert found == [
        "train_script.train.model (Model) is required and not set",
        "train_script.train.train_eval_dataset_cfg (Dataset | None) is required and not set",
        "train_script.train.model_dir (str) is required and not set",
        "train_script.train.total_steps (int) is required and not set",
        "bare.gin:1: train/utils.DatasetConfig.mixture_or_task_name (str) is required and not set",
        "bare.gin:1: train/utils.DatasetConfig.task_feature_lengths (Mapping[str, int]) is required and not set",
        "bare.gin:1: train/utils.DatasetConfig.split (str) is required and not set",
        "bare.gin:1: train/utils.DatasetConfig.seed (int | None) is required and not set",
    ]


def test_what_has_no_effect_is_a_warning_and_known_names_are_let_through(folder):
    assert problems_of(folder, "losses.untyped_loss.weight = 2") == [
        "warning: extra.gin:2: losses.untyped_loss (weight) is bound, and train_script.train never reaches it"
    ]
    # An overridden reference still names its scope, so that switching evaluation off is no error.
    assert problems_of(folder, "train_script.train.train_eval_dataset_cfg = None") == [
        "warning: toy_run.gin:31: train_eval/utils.DatasetConfig (split) is bound, "
        "and train_script.train never reaches it"
    ]
    assert problems_of(folder, "LABEL_SMOOTHING = 0.1", known_macros=["LABEL_SMOOTHING"])[0].startswith("warning: ")
    scoped = problems_of(folder, "infer/utils.DatasetConfig.pack = True", known_scopes=["infer"])
    assert [problem.split(":")[0] for problem in scoped] == ["warning"]


def test_unknown_root(folder):
    with pytest.raises(
        errors.FlanError, match=r"unknown configurable 'train_script\.trian'; did you mean 'train_script"
    ):
        config_check.check(config.parse([]), "train_script.trian")


def test_semantic_checks_see_resolved_values(folder):
    seen = {}

    def batch_fits(view: config_check.ResolvedView):
        seen["scopes"] = view.scopes("utils.DatasetConfig")
        seen["batch"] = view.value("utils.DatasetConfig.batch_size", scope="train")
        seen["default"] = view.value("utils.DatasetConfig.pack", scope="train")
        seen["mistyped"] = view.value("network.T5Config.emb_dim")
        seen["missing"] = view.value("train_script.train.model_dir")
        seen["lengths"] = view.macro("TASK_FEATURE_LENGTHS")
        seen["model"] = view.value("train_script.train.model")
        if seen["batch"] % 8:
            yield view.problem(f"batch size {seen['batch']} % 8", "utils.DatasetConfig.batch_size", "train")

    flags = ["--gin.TRAIN_STEPS=5", "--gin.BATCH_SIZE=20", "--gin.DROPOUT_RATE=0.5"]
    found = problems_of(folder, "T5Config.emb_dim = '3'", flags, semantic_checks=[batch_fits])
    assert found[-1] == "--gin.BATCH_SIZE=20: batch size 20 % 8"
    assert seen == {
        "scopes": ["train", "train_eval"],
        "batch": 20,
        "default": False,
        "mistyped": config_check.UNSET,
        "missing": config_check.UNSET,
        "lengths": {"inputs": 64, "targets": 16},
        "model": config.Reference("models.EncoderDecoderModel", True),
    }


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        (
            "--gin.MODEL_DIR=/tmp/x",
            "--gin.MODEL_DIR=/tmp/x: '/tmp/x' is not a gin value; write --gin.MODEL_DIR=\"'/tmp/x'\"",
        ),
        ("--gin.PACK=true", "--gin.PACK=true: 'true' is not a gin value; write --gin.PACK=True"),
        ("NAME=rte", "--gin.NAME=rte: 'rte' is not a gin value; write --gin.NAME=\"'rte'\""),
        ("--gin.X=$HOME/a", "--gin.X=$HOME/a: '$HOME/a' is not a gin value; write '--gin.X='\"'\"'$HOME/a'\"'\"''"),
        ("--gin.X=1 + 1", "--gin.X=1 + 1: '1 + 1' is not a gin value; write --gin.X=\"'1 + 1'\""),
        ("--gin.X=1\nY=2", "--gin.X=1\nY=2: '1\\nY=2' is not a gin value; write '--gin.X='\"'\"'1\\nY=2'\"'\"''"),
        ("--gin.X=", "--gin.X=: '' is not a gin value; write --gin.X=\"''\""),
        ("--gin.X", "--gin.X: expected --gin.NAME=value, NAME a macro or scope/configurable.parameter"),
        ("--gin.a b=1", "--gin.a b=1: expected --gin.NAME=value, NAME a macro or scope/configurable.parameter"),
    ],
)
def test_a_flag_that_is_no_gin_value_says_what_to_type(binding, message):
    with pytest.raises(errors.FlanError) as raised:
        config.parse([], [binding])
    assert str(raised.value) == message


def test_values_are_never_evaluated(folder):
    for value in ("__import__('os').getcwd()", "[x for x in (1,)]", "open('toy_run.gin')", "1 if True else 2"):
        with pytest.raises(errors.FlanError, match="is not a gin value"):
            config.parse([], [f"--gin.X={value}"])


def test_user_modules_are_imported_and_known_by_alias(folder, monkeypatch):
    (folder / "toy_project").mkdir()
    (folder / "toy_project" / "losses.py").write_text(
        "import gin\n\n\n@gin.configurable\ndef focal(gamma: float = 2.0) -> float:\n    return gamma\n"
    )
    monkeypatch.syspath_prepend(folder)
    for module in ("toy_project", "toy_project.losses"):
        # An entry to be forgotten again after the test, so that a repetition registers anew.
        monkeypatch.setitem(sys.modules, module, sys)
        del sys.modules[module]
    found = problems_of(
        folder,
        "import toy_project.losses\nfrom toy_project import losses as mine\n"
        "trainer.Trainer.schedule = @mine.focal\nmine.focal.gama = 1.0",
    )
    assert found == [
        "extra.gin:5: toy_project.losses.focal has no parameter 'gama'; did you mean 'gamma'?",
    ]
    parsed = config.parse(["extra.gin"])
    assert parsed.imports == ("toy_project.losses",)


def test_errors_of_files_come_together(folder):
    (folder / "broken.gin").write_text(
        "import toy_missing.module\ninclude 'toy_modl.gin'\ninclude 'broken.gin'\nX = = 3\n"
    )
    with pytest.raises(errors.FlanError) as raised:
        config.parse(["broken.gin", "absent.gin"], ["--gin.Y=word"])
    lines = str(raised.value).splitlines()
    assert lines[0] == (
        "broken.gin:1: 'import toy_missing.module' failed: ModuleNotFoundError: No module named 'toy_missing'; "
        "is its folder on PYTHONPATH?"
    )
    assert lines[1].startswith(f"broken.gin:2: no gin file 'toy_modl.gin' in {folder}, ")
    assert lines[2] == "broken.gin:3: gin files include each other: broken.gin -> broken.gin"
    assert lines[3].startswith("broken.gin:4: Unable to parse value")
    assert lines[4].startswith("no gin file 'absent.gin'")
    assert lines[5].startswith("--gin.Y=word: 'word' is not a gin value")
    assert len(lines) == 6


def test_files_are_found_in_order(tmp_path, monkeypatch):
    shipped, user, here = tmp_path / "shipped", tmp_path / "user", tmp_path / "here"
    for directory in (shipped / "models" / "t5_1_1", shipped / "runs", user / "models" / "t5_1_1", here):
        directory.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(config_read, "shipped_gin_dir", lambda: shipped)
    name = "models/t5_1_1/tiny.gin"
    (shipped / name).write_text("WIDTH = 1\n")
    (shipped / "runs" / "finetune.gin").write_text(f"include 'gin/{name}'\nDEPTH = 2\n")
    (user / name).write_text("WIDTH = 3\n")

    def width(file: str, paths: Sequence[str] = ()) -> Any:
        return {item.param: item.value for item in config.parse([file], (), paths).settings}["WIDTH"]

    assert width(name) == width(f"gin/{name}") == width(f"t5x/examples/t5/t5_1_1/{name.split('/')[-1]}") == 1
    assert width("t5x/configs/runs/finetune.gin") == 1
    assert width(name, [str(user)]) == 3
    (here / "models" / "t5_1_1").mkdir(parents=True)
    (here / name).write_text("WIDTH = 4\n")
    assert width(name) == 4
    assert width(name, [str(user)]) == 3


def test_shipped_gin_dir_is_not_gin_config():
    assert config.shipped_gin_dir().name == "gin"
    assert not (config.shipped_gin_dir() / "__init__.py").exists()


@pytest.mark.parametrize("name", ["models/t5_1_1/tiny.gin", "gin/models/t5_1_1/tiny.gin"])
def test_the_shipped_tiny_model_resolves_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert config.find_file(name) == config.shipped_gin_dir() / "models" / "t5_1_1" / "tiny.gin"


def test_gin_flags_are_taken_out_of_a_command_line():
    flags, rest = config.split_argv(
        [
            "--gin_file=a.gin",
            "--gin_file",
            "b.gin",
            "--gin.X=1",
            "--gin_bindings=Y = 2",
            "--seed=3",
            "--gin_search_paths=p,q",
        ]
    )
    assert flags == config.GinFlags(("a.gin", "b.gin"), ("--gin.X=1", "Y = 2"), ("p", "q"))
    assert rest == ["--seed=3"]
    with pytest.raises(errors.FlanError, match="--gin_file: expected a value after it"):
        config.split_argv(["--gin_file"])


def test_the_saved_text_reproduces_the_run(folder):
    parsed = config.parse(["toy_run.gin"], FLAGS)
    config.bind(parsed)
    expected = gin.get_configurable("train_script.train")()
    text = config.config_str()
    assert "network.T5Config.remat = None\n" in text, "defaults belong to the record"
    (folder / "config.gin").write_text(text)
    again = config.parse(["config.gin"])
    assert config_check.check(again) == []
    assert config.config_str(again) == text
    config.bind(again)
    assert gin.get_configurable("train_script.train")() == expected
    assert config.config_hash(text) == config.config_hash("# a comment\n\n" + text)
    other = config.config_str(config.parse(["toy_run.gin"], [*FLAGS, "--gin.BATCH_SIZE=17"]))
    assert config.config_hash(other) != config.config_hash(text)


def test_isolation_restores_settings_and_registry():
    gin.bind_parameter("trainer.Trainer.rate", 5.0)
    with config.isolated(empty_registry=True):
        assert config.configurables() == {}
        config.register({"trainer.Trainer": f"{__name__}:untyped_loss"})
        gin.bind_parameter("trainer.Trainer.weight", 1)
    assert gin.query_parameter("trainer.Trainer.rate") == 5.0
    assert config.find("Trainer").wrapped is trainer  # pyright: ignore[reportOptionalMemberAccess]


def _names(text: str) -> list[tuple[int, int, str]]:
    """(start, end, name) of every macro and parameter that the text sets, apart from import lines."""
    found, start = [], 0
    for line in text.splitlines(keepends=True):
        left, equals, _ = line.partition("=")
        name = left.strip().rpartition(".")[2]
        if equals and name and not line.startswith(("from", "import", "include")):
            position = start + line.index(left.strip()) + left.strip().rindex(name)
            found.append((position, position + len(name), name))
        start += len(line)
    return found


EDITED = RUN + "".join(flag.removeprefix("--gin.") + "\n" for flag in FLAGS)


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_any_one_letter_slip_is_reported_with_the_right_name(folder, data):
    start, end, name = data.draw(st.sampled_from(_names(EDITED)))
    index = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from(string.ascii_letters + "_"))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    tail = name[index:] if kind == "insert" else name[index + 1 :]
    edited = name[:index] + ("" if kind == "delete" else letter) + tail
    hypothesis.assume(edited not in {known for _, _, known in _names(EDITED)})
    (folder / "edited.gin").write_text(EDITED[:start] + edited + EDITED[end:])
    found = [problem.message for problem in config_check.check(config.parse(["edited.gin"]))]
    named = [message for message in found if repr(edited) in message and repr(name) in message.partition("did you")[2]]
    assert named, found
