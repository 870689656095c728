"""What the check before a run finds, and the exact words in which it says so."""

import pathlib

import pytest

from flan_jax import cli, config
from tests import slice_recipes

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
    # A value of the wrong kind may cut off what the files set for the right one: warnings, which stand first.
    head, *lines = said([*DEMO, *setting], capsys).partition("flan: ")[2].splitlines()
    assert head == f"the configuration has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    return [line.removeprefix("  ") for line in lines]


RECIPES = sorted(path for path in GIN.glob("recipes/*.gin") if path.stem not in slice_recipes.SLICES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes(recipe, capfd):
    evaluates = "include 'runs/eval.gin'" in recipe.read_text()
    given = (
        ["--gin.CHECKPOINT_PATH='run'", "--gin.EVAL_OUTPUT_DIR='run/eval'"] if evaluates else ["--gin.MODEL_DIR='run'"]
    )
    if recipe.stem.startswith("small_world"):  # the embedded vocabulary stands in for the world's
        given += ["--gin.VOCABULARY_FILE=None", "--gin.network.T5Config.vocab_size=8192"]
    if recipe.stem == "small_world_tune":
        given.append("--gin.INITIAL_CHECKPOINT_PATH='pretrained/checkpoint_6000'")
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
            "use_cached is True; expected False: tasks are read from prepared TFDS directories, not from a seqio cache; "
            "for rows made beforehand see `flan data cache` and PACKED_CACHE",
        ),
        (
            "--gin.TRAIN_STEP=100",
            "macro 'TRAIN_STEP' is set and nothing refers to it; did you mean 'TRAIN_STEPS' or 'TRAIN_STEPS_RELATIVE' or "
            "'EVAL_STEPS'?",
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
            "--gin.MIXTURE_OR_TASK_MODULE='flan_jax.tasks.nlii'",
            "MIXTURE_OR_TASK_MODULE 'flan_jax.tasks.nlii' cannot be imported: No module named 'flan_jax.tasks.nlii'; did you "
            "mean 'flan_jax.tasks.nli' or 'flan_jax.tasks.niv2' or 'flan_jax.tasks.misc'?",
        ),
        (
            "--gin.TASK_FEATURE_LENGTHS={'input': 64, 'targets': 64}",
            "task_feature_lengths has {'input': 64, 'targets': 64}; expected a length of at least 2 for 'inputs', which may be "
            "meant by 'input'",
        ),
        ("--gin.batch_size=8", "macro 'batch_size' is set and nothing refers to it; did you mean 'BATCH_SIZE'?"),
        ("--gin.MIXTURE_OR_TASK_NAME='sst2'", "unknown task or mixture 'sst2'; did you mean 'sst2_10templates'?"),
        ("--gin.MIXTURE_OR_TASK_NAME='rtee'", "unknown task or mixture 'rtee'; did you mean 'rte_10templates'?"),
        ("--gin.TRAIN_STEPS=-5", "total_steps is -5; expected at least 1"),
        ("--gin.EVAL_PERIOD=-1", "eval_period is -1; expected at least 0"),
        ("--gin.CHECKPOINT_PERIOD=0", "period is 0; expected at least 1"),
        ("--gin.utils.SaveCheckpointConfig.keep=0", "keep is 0; expected at least 1"),
        ("--gin.network.T5Config.preset='tinny'", "network.T5Config: unknown T5 preset 'tinny'; did you mean 'tiny'?"),
        (
            "--gin.network.T5Config.dtype='float31'",
            "network.T5Config: unknown dtype 'float31'; did you mean 'float32' or 'bfloat16'?",
        ),
        (
            "--gin.network.T5Config.remat_policy='fulll'",
            "network.T5Config: unknown remat_policy 'fulll'; did you mean 'full'?",
        ),
        (
            "--gin.network.T5Config.mlp_activations=('gleu', 'linear')",
            "network.T5Config: unknown mlp_activations 'gleu'; did you mean 'gelu'?",
        ),
        ("--gin.DROPOUT_RATE=2.0", "network.T5Config: dropout_rate must be in [0, 1), given 2.0"),
        (
            "--gin.utils.create_learning_rate_scheduler.factors='constnt'",
            "utils.create_learning_rate_scheduler: unknown learning-rate factor 'constnt'; did you mean 'constant'?",
        ),
        (
            "--gin.LOSS_NORMALIZING_FACTOR='NUM_REAL_TOKENS'",
            "unknown loss_normalizing_factor 'NUM_REAL_TOKENS'; did you mean 'NUM_REAL_TARGET_TOKENS' or "
            "'NUM_TOTAL_TARGET_TOKENS'?",
        ),
        (
            "--gin.partitioning.PjitPartitioner.logical_axis_rules='split_residul'",
            "unknown table of axes 'split_residul'; did you mean 'split_residual'?",
        ),
        (
            "--gin.train/utils.DatasetConfig.missing='skp'",
            "train/utils.DatasetConfig.missing expects Literal['error', 'skip'], got 'skp' (str); did you mean 'skip'?",
        ),
        (
            "--gin.VOCABULARY_FILE='nowhere.model'",
            "vocabulary 'nowhere.model' does not exist; expected a SentencePiece .model file, local or gs://",
        ),
        (
            "--gin.VOCABULARY=None",
            "models.EncoderDecoderModel.input_vocabulary expects Vocabulary, got None from macro VOCABULARY",
        ),
        (
            "--gin.VOCABULARY=@seqio.SentencePieceVocabulary",
            "models.EncoderDecoderModel.input_vocabulary expects Vocabulary, got the function or class "
            "@seqio.SentencePieceVocabulary from macro VOCABULARY; write @seqio.SentencePieceVocabulary() to call it",
        ),
        (
            "--gin.OPTIMIZER=@adafactor.Adafactor",
            "models.EncoderDecoderModel.optimizer_def expects Optimizer, got the function or class @adafactor.Adafactor from "
            "macro OPTIMIZER; write @adafactor.Adafactor() to call it",
        ),
        (
            "--gin.train_script.train.trainer_cls=@trainer.Trainer()",
            "train_script.train.trainer_cls expects Callable[[], Trainer], got the result of @trainer.Trainer(); write "
            "@trainer.Trainer, which is called later",
        ),
        (
            "--gin.trainer.Trainer.learning_rate_fn=@utils.create_learning_rate_scheduler",
            "trainer.Trainer.learning_rate_fn expects Callable[[Array], Array | float], got the function or class "
            "@utils.create_learning_rate_scheduler; write @utils.create_learning_rate_scheduler() to call it",
        ),
        (
            "--gin.BATCH_SIZE='8'",
            "train/utils.DatasetConfig.batch_size expects int, got '8' (str) from macro BATCH_SIZE; write 8",
        ),
    ],
)
def test_one_mistake_is_one_line(setting, problem, capsys):
    assert problems([setting], capsys) == [f"{setting}: {problem}"]


def test_a_restore_mode_is_one_of_two(capsys):
    given = ["--gin_file=runs/finetune.gin", "--gin.INITIAL_CHECKPOINT_PATH='run'", "--gin.TRAIN_STEPS=1"]
    mode = "--gin.utils.RestoreCheckpointConfig.mode='latst'"
    lengths = ["--gin.MIXTURE_OR_TASK_NAME='rte_10templates'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"]
    (line,) = problems([*given, *lengths, mode], capsys)
    assert line.endswith("expects Literal['latest', 'specific'], got 'latst' (str); did you mean 'latest'?")


def test_a_vocabulary_that_is_none(tmp_path, capsys):
    (tmp_path / "mine.model").write_text("not this\n")
    (line,) = problems([f"--gin.VOCABULARY_FILE='{tmp_path}/mine.model'"], capsys)
    assert f"vocabulary '{tmp_path}/mine.model' is no SentencePiece .model file: " in line


def test_a_configuration_is_checked_as_what_it_binds(capsys):
    infer = ["--gin_file=models/t5_1_1/tiny.gin", "--gin_file=runs/infer.gin"]
    assert "(used by infer_script.infer.output_dir)" in said(infer, capsys)
    assert "(used by eval_script.evaluate.output_dir)" in said(["--gin_file=recipes/demo_eval.gin"], capsys)
    assert cli.main(["check", "--gin_file=ablations/clusters.gin"]) == 0
    assert capsys.readouterr().out.endswith(" settings of ablation.Ablation, no problems\n")
    both = [*DEMO, "--gin_file=recipes/demo_eval.gin"]
    assert said(both, capsys) == (
        "flan: train_script.train and eval_script.evaluate are bound; expected --train or --eval, to say which to check\n"
    )
    assert "train_script.train" not in said([*both, "--eval"], capsys).partition("flan: ")[2]


def test_a_flag_of_t5x_that_would_have_no_effect_is_refused(capsys):
    message = said([*DEMO, "--seqio_additional_cache_dirs=/caches"], capsys)
    assert message.startswith("flan: --seqio_additional_cache_dirs=/caches: expected no such flag")
    assert "flan data cache" in message


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


def test_only_a_language_model_needs_no_length_of_inputs(capsys):
    given = ["--gin_file=recipes/decoder_only_demo.gin", "--gin.MODEL_DIR='run'"]
    lengths = "--gin.TASK_FEATURE_LENGTHS={'targets': 64}"
    (_, line) = said([*given, lengths], capsys).splitlines()
    assert line.endswith("task_feature_lengths has {'targets': 64}; expected a length of at least 2 for 'inputs'")
    alone = "--gin.models.DecoderOnlyModel.feature_converter_cls=@seqio.LMFeatureConverter"
    causal = "--gin.models.DecoderOnlyModel.inputs_bidirectional_attention=False"
    assert cli.main(["check", *given, lengths, alone, causal]) == 0


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


def test_an_adapter_needs_a_model_and_a_soft_prompt_rows_of_one_example(capsys):
    adapter = ["--gin_file=adapters/prompt_tuning.gin", "--gin.INITIAL_CHECKPOINT_PATH='base'"]
    found = problems([*adapter, "--gin.train/utils.DatasetConfig.pack=True"], capsys)
    assert [line.split(": ", 1)[1] for line in found] == [
        "pack is True; expected False: @adapters.PromptTuning() puts its prompt before one example"
    ]
    (found,) = problems(["--gin.train_script.train.adapter=@adapters.LoRA()"], capsys)
    assert "@adapters.LoRA() needs the model that it adapts; expected utils.CheckpointConfig.restore" in found
