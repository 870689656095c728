"""What can be wrong with a run beyond names and types: tasks, lengths, sizes, batch and mesh, vocabulary. Loads no data."""

import math
from collections.abc import Iterator, Mapping

from flan_jax import config, config_check, errors
from flan_jax.data import cache, cache_read, mixtures, vocabulary

# Macros of t5x's run files that a recipe may set for training and evaluation alike, read by one of them only.
SHARED_MACROS = (
    "MODEL", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS",
    "BATCH_SIZE", "DROPOUT_RATE", "INITIAL_CHECKPOINT_PATH", "USE_CACHED_TASKS", "LOSS_NORMALIZING_FACTOR", "EVAL_PERIOD",
    "RANDOM_SEED", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR", "EVAL_MIXTURE", "VOCABULARY", "Z_LOSS", "LABEL_SMOOTHING",
    "OPTIMIZER", "VOCABULARY_FILE", "EVAL_STEPS", "CHECKPOINT_PERIOD", "LEARNING_RATE", "EVAL_EXAMPLES", "EVAL_SPLIT",
    "EVAL_BATCH_SIZE", "INFER_OUTPUT_DIR", "PACKED_CACHE", "PACKED_EVAL_CACHE", "USE_HARDWARE_RNG",
    "TRAIN_STEPS_RELATIVE", "SHUFFLE_TRAIN_EXAMPLES", "EVALUATOR_NUM_EXAMPLES", "EVALUATOR_USE_MEMORY_CACHE",
    "JSON_WRITE_N_RESULTS",
)  # fmt: skip

_DATASET = "utils.DatasetConfig"
_FEATURES = ("inputs", "targets")
_SPLITS = ("train", "validation", "test")
_SENTENCEPIECE = "seqio.SentencePieceVocabulary"
_MODELS = ("models.EncoderDecoderModel", "models.DecoderOnlyModel")
# The least that a number may be. Evaluations are left out with a period of 0; checkpoints are not, since a run that cannot
# be continued is lost.
_LEAST = {
    "train_script.train": {"total_steps": 1, "relative_steps": 1, "stats_period": 1, "eval_period": 0, "eval_steps": 0},
    "utils.SaveCheckpointConfig": {"period": 1, "keep": 1},
    "trainer.Trainer": {"num_microbatches": 1},
    _DATASET: {"num_examples": 1, "data_processes": 0},
    **{model: {"label_smoothing": 0, "z_loss": 0, "logits_chunk": 0} for model in _MODELS},
}
# What is made of plain values in no time and says itself what it cannot be made of.
_MADE = (
    "network.T5Config",
    "network.TransformerConfig",
    "utils.create_learning_rate_scheduler",
    "decoding.Settings",
    "adapters.LoRA",
    "adapters.PromptTuning",
)
View = config_check.ResolvedView
Problems = Iterator[config_check.Problem]


def datasets(view: View) -> Problems:
    """Every dataset configuration that the run uses: its task, its split, its lengths, whether it asks for a cache."""
    for scope in view.scopes(_DATASET):
        if view.value(f"{_DATASET}.packed_cache", scope):
            yield from _packed_cache(view, scope)
        else:
            yield from _task(view, scope)
        split = view.value(f"{_DATASET}.split", scope)
        if isinstance(split, str) and split not in _SPLITS:
            yield _problem(view, "split", scope, str(errors.unknown("split", split, _SPLITS)))
        lengths = view.value(f"{_DATASET}.task_feature_lengths", scope)
        if isinstance(lengths, Mapping):
            for name in _features(view, scope):
                if not isinstance(lengths.get(name), int) or lengths[name] < 2:
                    message = f"task_feature_lengths has {dict(lengths)}; expected a length of at least 2 for {name!r}"
                    if slips := errors.close_to(name, [key for key in lengths if key not in _FEATURES]):
                        message += f", which may be meant by {slips[0]!r}"
                    yield _problem(view, "task_feature_lengths", scope, message)
        if view.value(f"{_DATASET}.use_cached", scope) is True:
            message = (
                "use_cached is True; expected False: tasks are read from prepared TFDS directories, not from a seqio cache; for "
                "rows made beforehand see `flan data cache` and PACKED_CACHE"
            )
            yield _problem(view, "use_cached", scope, message)


def batch_and_mesh(view: View) -> Problems:
    """The mesh fits the devices, and batches fit the mesh and the microbatches."""
    import jax

    devices = jax.device_count()
    sizes = {
        name: view.value(f"partitioning.PjitPartitioner.{name}", scope)
        for scope in view.scopes("partitioning.PjitPartitioner")
        for name in ("num_partitions", "fsdp_partitions")
    }
    model = math.prod(size for size in sizes.values() if isinstance(size, int))
    if any(isinstance(size, int) and size < 1 for size in sizes.values()) or devices % max(model, 1):
        given = " x ".join(f"{name}={size}" for name, size in sizes.items())
        message = f"{given} does not divide {_count(devices, 'device')}; expected a divisor of {devices}"
        yield view.problem(message, "partitioning.PjitPartitioner.num_partitions")
        return
    num_partitions = sizes.get("num_partitions", 1)
    ways = devices // num_partitions if isinstance(num_partitions, int) else 1
    pieces = view.value("trainer.Trainer.num_microbatches")
    pieces = pieces if isinstance(pieces, int) and pieces > 0 else 1
    for scope in view.scopes(_DATASET):
        batch = view.value(f"{_DATASET}.batch_size", scope)
        needed = ways * (pieces if scope == "train" else 1)
        if isinstance(batch, int) and (batch < 1 or batch % needed):
            below, above = batch // needed * needed, -(-max(batch, 1) // needed) * needed
            nearest = f"{below} or {above}" if below else f"{above}"
            by = f"{_count(ways, 'device')} that share the batch" + (
                f" x {pieces} microbatches" if needed > ways else ""
            )
            yield _problem(
                view,
                "batch_size",
                scope,
                f"batch_size is {batch}; expected a multiple of {needed} ({by}), e.g. {nearest}",
            )


def numbers(view: View) -> Problems:
    """Steps, periods and counts are not below what they can be."""
    for selector, least in _LEAST.items():
        for scope in view.scopes(selector):
            for name, lowest in least.items():
                value = view.value(f"{selector}.{name}", scope)
                if isinstance(value, int | float) and value < lowest:
                    message = f"{name} is {value}; expected at least {lowest}"
                    yield view.problem(message, f"{selector}.{name}", scope)


def models(view: View) -> Problems:
    """Architecture, schedule, decoding, axes and the loss's divisor can be made of what is set."""
    from flan_jax import sharding
    from flan_jax.training import loss

    for selector in _MADE:
        for scope in view.scopes(selector):
            yield from _made(view, selector, scope)
    for selector in _MODELS:
        path = f"{selector}.loss_normalizing_factor"
        for scope in view.scopes(selector):
            factor = view.value(path, scope)
            if isinstance(factor, str) and factor.upper() not in loss.NORMALIZING_FACTORS:
                message = str(errors.unknown("loss_normalizing_factor", factor, loss.NORMALIZING_FACTORS))
                yield view.problem(message, path, scope)
            elif isinstance(factor, int | float) and factor <= 0:
                yield view.problem(f"loss_normalizing_factor is {factor}; expected more than 0", path, scope)
    path = "partitioning.PjitPartitioner.logical_axis_rules"
    for scope in view.scopes("partitioning.PjitPartitioner"):
        rules = view.value(path, scope)
        if not any(leaf is config_check.UNSET or isinstance(leaf, config.Reference) for leaf in config.leaves(rules)):
            try:
                sharding.table(rules)
            except errors.FlanError as error:
                yield view.problem(str(error), path, scope)


def vocabularies(view: View) -> Problems:
    """A local vocabulary is there and is one; of others it shows when they are fetched."""
    for scope in view.scopes(_SENTENCEPIECE):
        path = view.value(f"{_SENTENCEPIECE}.sentencepiece_model_file", scope)
        if isinstance(path, str) and "://" not in path:
            try:
                _ = vocabulary.sentencepiece_vocabulary(path).tokenizer
            except errors.FlanError as error:
                yield view.problem(str(error), f"{_SENTENCEPIECE}.sentencepiece_model_file", scope)


def adapter(view: View) -> Problems:
    """An adapter has a model to adapt, and a soft prompt one example a row to stand before."""
    kinds = [kind for kind in ("adapters.LoRA", "adapters.PromptTuning") if view.scopes(kind)]
    if kinds and view.value("utils.CheckpointConfig.restore") is None:
        message = (
            f"@{kinds[0]}() needs the model that it adapts; expected utils.CheckpointConfig.restore = "
            "@utils.RestoreCheckpointConfig() with its path, as in adapters/lora.gin"
        )
        yield view.problem(message, "train_script.train.adapter")
    for scope in view.scopes(_DATASET) if "adapters.PromptTuning" in kinds else ():
        if view.value(f"{_DATASET}.pack", scope) is True:
            message = "pack is True; expected False: @adapters.PromptTuning() puts its prompt before one example"
            yield _problem(view, "pack", scope, message)


def _made(view: View, selector: str, scope: str) -> Problems:
    configurable = config.find(selector)
    assert configurable is not None, selector  # of the table
    names = config.parameters(configurable)
    bound = {
        name: view.value(f"{selector}.{name}", scope) for name in names if view.setting(f"{selector}.{name}", scope)
    }
    if any(
        leaf is config_check.UNSET or isinstance(leaf, config.Reference) for leaf in config.leaves(list(bound.values()))
    ):
        return  # reported as what it is, or not known yet
    try:
        configurable.wrapped(**bound)
    except errors.FlanError as error:
        message = str(error)
        # The value that the message is about; an architecture as a whole has no line.
        about = next((name for name, value in bound.items() if name in message or repr(value) in message), None)
        yield view.problem(f"{selector}: {message}", f"{selector}.{about}", scope)


def _task(view: View, scope: str) -> Problems:
    name = view.value(f"{_DATASET}.mixture_or_task_name", scope)
    module = view.value(f"{_DATASET}.module", scope)
    try:
        catalogue = mixtures.Catalogue.from_modules(module or None)
    except errors.FlanError as error:
        yield _problem(view, "module", scope, str(error))
        return
    if not isinstance(name, str):
        return
    try:
        if scope == "infer_eval":
            catalogue.eval_tasks(name)
        else:
            catalogue.mixture(name)
    except errors.FlanError as error:
        yield _problem(view, "mixture_or_task_name", scope, str(error))


def _packed_cache(view: View, scope: str) -> Problems:
    """A packed cache is whole and holds what the run asks for; whether its vocabulary is the model's shows when it is opened."""
    directory, *asked = (
        view.value(f"{_DATASET}.{name}", scope)
        for name in ("packed_cache", "mixture_or_task_name", "split", "task_feature_lengths", "pack")
    )
    if scope == "infer_eval":
        message = "packed_cache is set; expected None: evaluation asks a task's examples one by one, out of prepared TFDS directories"
        yield _problem(view, "packed_cache", scope, message)
        return
    name, split, lengths, pack = asked
    if not (
        isinstance(directory, str) and isinstance(name, str) and isinstance(split, str) and isinstance(lengths, Mapping)
    ):
        return  # reported as what they are
    try:
        cache.require_local(directory)
        manifest = cache.open_cache(directory).manifest
    except errors.FlanError as error:
        yield _problem(view, "packed_cache", scope, str(error))
        return
    for line in cache_read.mismatch(manifest, mixture=name, split=split, lengths=lengths, pack=bool(pack)):
        yield _problem(view, "packed_cache", scope, f"packed cache {directory} does not fit this run: {line}")


def _features(view: View, scope: str) -> tuple[str, ...]:
    """The features that need a length: a language model is trained on targets alone, but asked with inputs."""
    alone = any(node.selector == "seqio.LMFeatureConverter" for node in view.nodes)
    return ("targets",) if alone and scope != "infer_eval" else _FEATURES


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _problem(view: View, param: str, scope: str, message: str) -> config_check.Problem:
    return view.problem(message, f"{_DATASET}.{param}", scope)


CHECKS = (datasets, numbers, models, vocabularies, batch_and_mesh, adapter)
