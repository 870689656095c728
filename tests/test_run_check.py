"""What the check before a run finds, and the exact words in which it says so."""

import pathlib

import pytest

from flan_jax import cli, config

GIN = config.shipped_gin_dir()
DEMO = ["--gin_file=recipes/demo.gin", "--gin.MODEL_DIR='run'"]


def said(arguments, capsys) -> str:
    """What `flan check` prints on stderr; it must fail, without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check", *arguments])
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def problems(setting, capsys) -> list[str]:
    head, *lines = said([*DEMO, *setting], capsys).splitlines()
    assert head == f"flan: the configuration has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    return [line.removeprefix("  ") for line in lines]


RECIPES = sorted(GIN.glob("recipes/*.gin"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes(recipe, capfd):
    evaluates = "include 'runs/eval.gin'" in recipe.read_text()
    given = (
        ["--eval", "--gin.CHECKPOINT_PATH='run'", "--gin.EVAL_OUTPUT_DIR='run/eval'"]
        if evaluates
        else ["--gin.MODEL_DIR='run'"]
    )
    assert cli.main(["check", f"--gin_file={recipe}", "--tfds_data_dir=sample", *given]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("ok: ")
    # A warning says that a setting has no effect: not in a file that people copy.
    assert "warning" not in shown.err


def test_a_check_loads_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", *DEMO, "--tfds_data_dir=nowhere"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 64}",
            "task_feature_lengths has {'inputs': 64}; expected a length of at least 2 for 'targets'",
        ),
        # The tests run on 8 devices.
        (
            "--gin.BATCH_SIZE=12",
            "batch_size is 12; expected a multiple of 8 (8 devices that share the batch), e.g. 8 or 16",
        ),
        ("--gin.BATCH_SIZE=0", "batch_size is 0; expected a multiple of 8 (8 devices that share the batch), e.g. 8"),
        (
            "--gin.USE_CACHED_TASKS=True",
            "use_cached is True; expected False: tasks are read from prepared TFDS directories, not from a seqio cache",
        ),
        (
            "--gin.TRAIN_STEP=100",
            "macro 'TRAIN_STEP' is set and nothing refers to it; did you mean 'TRAIN_STEPS' or 'EVAL_STEPS'?",
        ),
        (
            "--gin.train/utils.DatasetConfig.splt='train'",
            "utils.DatasetConfig has no parameter 'splt'; did you mean 'split'?",
        ),
        ("--gin.train/utils.DatasetConfig.split='trian'", "unknown split 'trian'; did you mean 'train'?"),
        (
            "--gin.trane/utils.DatasetConfig.split='train'",
            "scope 'trane' of trane/utils.DatasetConfig.split is never used; did you mean 'train' or 'train_eval'?",
        ),
        (
            "--gin.partitioning.PjitPartitioner.num_partitions=3",
            "num_partitions=3 x fsdp_partitions=1 does not divide 8 devices; expected a divisor of 8",
        ),
        (
            "--gin.MIXTURE_OR_TASK_MODULE='flan_jax.task'",
            "MIXTURE_OR_TASK_MODULE 'flan_jax.task' cannot be imported: No module named 'flan_jax.task'",
        ),
        (
            "--gin.BATCH_SIZE='8'",
            "train/utils.DatasetConfig.batch_size expects int, got '8' (str) from macro BATCH_SIZE; write 8",
        ),
    ],
)
def test_one_mistake_is_one_line(setting, problem, capsys):
    assert problems([setting], capsys) == [f"{setting}: {problem}"]


def test_an_unknown_task_brings_the_nearest_name_first(capsys):
    (line,) = problems(["--gin.MIXTURE_OR_TASK_NAME='rte_10template'"], capsys)
    start = "--gin.MIXTURE_OR_TASK_NAME='rte_10template': unknown task or mixture 'rte_10template'; did you mean 'rte_10templates' or "
    assert line.startswith(start)


def test_microbatches_count_for_training_alone(capsys):
    # The line is that of the batch size, which the held-back rows share; they are not cut.
    assert problems(["--gin.trainer.Trainer.num_microbatches=3"], capsys) == [
        "gin/recipes/demo.gin:8: batch_size is 8; expected a multiple of 24 (8 devices that share the batch x 3 microbatches), e.g. 24"
    ]


def test_a_mesh_that_shares_tensors_needs_fewer_rows(capsys):
    mesh = "--gin.partitioning.PjitPartitioner.num_partitions=4"
    assert cli.main(["check", *DEMO, mesh, "--gin.BATCH_SIZE=6"]) == 0


def test_required_macros_are_named_all_at_once(capsys):
    lines = said(["--gin_file=models/t5_1_1/tiny.gin", "--gin_file=runs/finetune.gin"], capsys).splitlines()[1:]
    missing = {line.split("'")[1] for line in lines}
    assert missing == {
        "MODEL_DIR",
        "MIXTURE_OR_TASK_NAME",
        "TASK_FEATURE_LENGTHS",
        "TRAIN_STEPS",
        "INITIAL_CHECKPOINT_PATH",
    }
    assert all(f"give --gin.{line.split(chr(39))[1]}=..." in line for line in lines)


def test_mistakes_of_every_kind_are_told_together(capsys):
    found = problems(
        ["--gin.TRAIN_STEP=3", "--gin.RANDOM_SEED='a'", "--gin.BATCH_SIZE=9", "--gin.MIXTURE_OR_TASK_NAME='rtee'"],
        capsys,
    )
    assert [line.split("=")[0] for line in found] == [
        "--gin.TRAIN_STEP",
        "--gin.RANDOM_SEED",
        "--gin.MIXTURE_OR_TASK_NAME",
        "--gin.BATCH_SIZE",
    ]


def test_a_file_that_does_not_exist_brings_the_nearest(capsys):
    message = said(["--gin_file=recipes/dmeo.gin"], capsys)
    assert message.startswith("flan: no gin file 'recipes/dmeo.gin' in ")
    assert "did you mean 'recipes/demo.gin'" in message
    assert len(message.splitlines()) == 1


def test_a_mistake_in_a_file_is_located(tmp_path: pathlib.Path, capsys):
    file = tmp_path / "mine.gin"
    file.write_text("include 'recipes/demo.gin'\nMODEL_DIR = 'run'\n\nEVAL_STEP = 3\n")
    head, line = said([f"--gin_file={file}"], capsys).splitlines()
    assert head == "flan: the configuration has 1 problem:"
    assert line.startswith(f"  {file}:4: macro 'EVAL_STEP' is set and nothing refers to it; did you mean 'EVAL_STEPS'")
