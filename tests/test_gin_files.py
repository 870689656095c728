"""Every gin file that ships: it parses, it passes the check, and the step it describes fits together."""

import functools
import inspect

import gin
import jax
import jax.numpy as jnp
import pytest

from flan_jax import config, config_check, infer, run_check, sharding, train
from flan_jax import eval as eval_lib
from flan_jax.data import loader
from flan_jax.inference import decode, score, settings
from flan_jax.training import state, step
from tests import slice_recipes

GIN = config.shipped_gin_dir()
FILES = sorted(str(path.relative_to(GIN)) for path in GIN.rglob("*.gin"))
MODELS = [name for name in FILES if name.startswith("models/") and "base_model" not in name]
RUNS = [name for name in FILES if name.startswith("runs/")]
# Those for slices of pods are traced on meshes of their own, in planning/test_recipes.py.
FOR_SLICES = [f"recipes/{name}.gin" for name in slice_recipes.SLICES]
RECIPES = [name for name in FILES if name.startswith("recipes/") and name not in FOR_SLICES]
ADAPTERS = [name for name in FILES if name.startswith("adapters/")]  # added to a recipe
ABLATIONS = [name for name in FILES if name.startswith("ablations/")]  # grids: ablation/test_ablation_files.py
FOR_T5X = [name for name in FILES if name.startswith("t5x/")]  # for the real t5x, whose modules they bind
DEEP = ("small", "base", "large", "xl", "xxl")  # traced with scanned layers: 24 + 24 unrolled ones take half a minute
# The other sizes of these families differ in numbers alone: their parameters are laid out, their step is not traced.
TRACED = {"palm": ("540b",), "opt": ("350m", "175b"), "llama": ("65b",)}
PROMPTS = ("encoder_input_tokens", "decoder_causal_attention", "decoder_input_tokens")
GIVEN = {
    "MODEL_DIR": "run",
    "MIXTURE_OR_TASK_NAME": "flan_minus_nli_10templates",
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16},
    "TRAIN_STEPS": 100,
    "INITIAL_CHECKPOINT_PATH": "pretrained/checkpoint_1",
    "CHECKPOINT_PATH": "run",
    "EVAL_OUTPUT_DIR": "run/eval",
    "INFER_OUTPUT_DIR": "run/infer",
    "EVAL_MIXTURE": "nli_10templates",
}


def caught(function):
    """A stand-in for a function that gin calls: same parameters; returns what it is given, defaults included."""

    @functools.wraps(function)
    def catch(*args, **kwargs):
        given = inspect.signature(function).bind(*args, **kwargs)
        given.apply_defaults()
        return given.arguments

    return catch


catch_train, catch_evaluate, catch_infer = (caught(root) for root in (train.train, eval_lib.evaluate, infer.infer))
TABLE = {
    **config.CONFIGURABLES,
    "train_script.train": f"{__name__}:catch_train",
    "eval_script.evaluate": f"{__name__}:catch_evaluate",
    "infer_script.infer": f"{__name__}:catch_infer",
}


def text_of(files) -> str:
    """The files with all that they include."""
    texts = [(GIN / name).read_text() for name in files]
    included = [line.split("'")[1] for text in texts for line in text.splitlines() if line.startswith("include")]
    return "\n".join([*texts, *([text_of(included)] if included else [])])


def resolved(*files, **settings):
    """What the files' root is called with, after the check."""
    text = text_of(files)
    roots = ("eval_script.evaluate", "infer_script.infer")
    root = next((root for root in roots if f"{root}:" in text), "train_script.train")
    required = {name: GIVEN[name] for name in GIVEN if f"\n{name} = %gin.REQUIRED" in text and name not in settings}
    if any(name.startswith("recipes/") for name in files):  # a recipe asks for nothing but where
        required = {
            name: value
            for name, value in required.items()
            if name in ("MODEL_DIR", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR", "INITIAL_CHECKPOINT_PATH")
        }
    if any("small_world" in name for name in files):  # the embedded vocabulary stands in for the world's
        settings = {"network.T5Config.vocab_size": 8192, **settings}
    # Vocabularies on gs:// cannot be opened here; the embedded one has fewer pieces than T5's.
    bindings = [f"{name} = {value!r}" for name, value in {**required, "VOCABULARY_FILE": None, **settings}.items()]
    with config.isolated(empty_registry=True):
        config.register(TABLE)
        parsed = config.parse(files, bindings)
        problems = config_check.check(
            parsed, root, semantic_checks=run_check.CHECKS, known_macros=run_check.SHARED_MACROS
        )
        assert [str(problem) for problem in problems if problem.level == "error"] == []
        config.bind(parsed)
        given = dict(gin.get_configurable(root)())
        if "trainer_cls" in given:  # a class whose arguments are bound, as long as the configuration is
            given["trainer_cls"] = given["trainer_cls"]()
        return root, given


def assert_step_fits(given) -> None:
    """Traces the update on the mesh and batch of the configuration: the state keeps its shapes, types and places."""
    model, cfg, trainer = given["model"], given["train_dataset_cfg"], given["trainer_cls"]
    mesh = given["partitioner"].mesh()
    adapter = given["adapter"]
    optimizer = model.optimizer_def.with_axes(state.trained_axes(model.config, adapter))
    shapes = state.abstract(model.config, optimizer, adapter)
    places = state.shardings(model.config, optimizer, mesh, given["partitioner"].rules, adapter)
    frozen = train.api.abstract_params(model.config)
    jax.tree.map(lambda shape, place: place.shard_shape(shape.shape), shapes, places)
    lengths = loader.feature_lengths(dict(cfg.task_feature_lengths), cfg.pack, model.feature_converter)
    batch = {name: jax.ShapeDtypeStruct((cfg.batch_size, length), jnp.int32) for name, length in lengths.items()}
    update = step.make_train_step(model, optimizer, trainer.learning_rate_fn, trainer.num_microbatches, adapter)
    with sharding.use(mesh):
        after, sums = jax.eval_shape(update, shapes, batch, jax.random.key(0), frozen)
        held = jax.eval_shape(step.make_eval_step(model), frozen, batch)
    assert jax.tree.structure(after) == jax.tree.structure(shapes)
    assert jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, shapes) == jax.tree.map(
        lambda _: True, shapes
    )
    assert set(sums) == {*held, "learning_rate", "gradient_norm", "nonfinite"}
    assert all(value.shape == () and value.dtype == jnp.float32 for value in sums.values())


def assert_answering_fits(given) -> None:
    """Traces scoring and generation on the batch of the configuration."""
    model, cfg = given["model"], given["dataset_cfg"]
    shapes = train.api.abstract_params(model.config)
    lengths = loader.feature_lengths(dict(cfg.task_feature_lengths), False, model.question_converter)
    batch = {name: jax.ShapeDtypeStruct((cfg.batch_size, length), jnp.int32) for name, length in lengths.items()}
    scores = jax.eval_shape(functools.partial(score.score_targets, model.config), shapes, batch)
    assert (scores.shape, scores.dtype) == ((cfg.batch_size,), jnp.float32)
    targets = cfg.task_feature_lengths["targets"]
    ask = functools.partial(decode.decode, model.config, how=settings.Settings(max_tokens=targets))
    prompts = {name: batch[name] for name in PROMPTS if name in batch}
    found = jax.eval_shape(ask, shapes, prompts)
    assert (found.tokens.shape, found.tokens.dtype) == ((cfg.batch_size, 1, targets), jnp.int32)


def test_every_file_is_tried_below():
    base = [name for name in FILES if name.endswith("/base_model.gin")]
    assert sorted([*MODELS, *RUNS, *RECIPES, *FOR_SLICES, *ADAPTERS, *ABLATIONS, *FOR_T5X, *base]) == FILES
    assert set(base) <= {
        line.split("'")[1] for name in MODELS for line in (GIN / name).read_text().splitlines() if "include" in line
    }


@pytest.mark.parametrize("model", MODELS)
def test_a_step_of_every_model_fits_together(model):
    small = "small_world" in model
    deep = model.split("/")[-1].removesuffix(".gin") in DEEP and not small
    network = "T5Config" if "t5_1_1" in model else "TransformerConfig"
    root, given = resolved(model, "runs/train.gin", **({f"network.{network}.scan_layers": True} if deep else {}))
    assert root == "train_script.train"
    assert given["model"].config.dtype == ("float32" if "tiny" in model or small else "bfloat16")
    _, family, size = model.removesuffix(".gin").split("/")
    if size in TRACED.get(family, (size,)):
        assert_step_fits(given)
        return
    shapes, axes = (ask(given["model"].config) for ask in (train.api.abstract_params, train.api.logical_axes))
    places = sharding.param_shardings(given["partitioner"].mesh(), axes, shapes)
    jax.tree.map(lambda shape, place: place.shard_shape(shape.shape), shapes, places)


@pytest.mark.parametrize("run", RUNS)
def test_every_run_fits_together(run):
    root, given = resolved("models/t5_1_1/tiny.gin", run)
    if root != "train_script.train":
        assert_answering_fits(given)
        return
    assert_step_fits(given)
    restore = given["checkpoint_cfg"].restore
    assert (restore.path if restore else None) == (GIVEN["INITIAL_CHECKPOINT_PATH"] if "finetune" in run else None)
    assert given["model"].config.dropout_rate == (0.1 if "finetune" in run else 0.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits_together(recipe):
    root, given = resolved(recipe)
    (assert_answering_fits if root == "eval_script.evaluate" else assert_step_fits)(given)


@pytest.mark.parametrize("file", ADAPTERS)
def test_every_adapter_can_be_added_to_a_recipe(file):
    _, given = resolved("recipes/demo.gin", file)
    assert_step_fits(given)
    assert given["checkpoint_cfg"].restore.path == GIVEN["INITIAL_CHECKPOINT_PATH"]
    assert given["adapter"].kind == {"lora": "LoRA", "prompt_tuning": "PromptTuning"}[file.split("/")[-1][:-4]]
    assert not given["model"].optimizer_def.multiply_by_parameter_scale


@pytest.mark.parametrize("file", FOR_T5X)
def test_files_for_t5x_parse_and_set_what_they_refer_to(file):
    parsed = config.parse([file], search_paths=[GIN / "t5x"])
    macros = {setting.param for setting in parsed.settings if not setting.selector}
    read = {
        leaf.name
        for setting in (*parsed.settings, *parsed.t5x)
        for leaf in config.leaves(setting.value)
        if isinstance(leaf, config.Macro)
    }
    assert read <= macros | {"gin.REQUIRED"}
    assert macros <= read


def test_microbatches_and_tensor_parallelism_fit_together():
    _, given = resolved(
        "models/t5_1_1/tiny.gin",
        "runs/train.gin",
        **{"trainer.Trainer.num_microbatches": 4, "partitioning.PjitPartitioner.num_partitions": 2},
    )
    assert dict(given["partitioner"].mesh().shape) == {"data": 4, "fsdp": 1, "model": 2}
    assert_step_fits(given)
