"""What can be wrong with a run beyond names and types: tasks, lengths, batch and mesh, vocabulary. Loads no data."""

import math
from collections.abc import Iterator, Mapping

from flan_jax import config_check, errors
from flan_jax.data import mixtures

# Macros of t5x's run files that a recipe may set for training and evaluation alike, read by one of them only.
SHARED_MACROS = (
    "MODEL", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS",
    "BATCH_SIZE", "DROPOUT_RATE", "INITIAL_CHECKPOINT_PATH", "USE_CACHED_TASKS", "LOSS_NORMALIZING_FACTOR", "EVAL_PERIOD",
    "RANDOM_SEED", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR", "EVAL_MIXTURE", "VOCABULARY", "Z_LOSS", "LABEL_SMOOTHING",
    "OPTIMIZER", "VOCABULARY_FILE", "EVAL_STEPS", "CHECKPOINT_PERIOD", "LEARNING_RATE", "EVAL_EXAMPLES", "EVAL_SPLIT",
    "EVAL_BATCH_SIZE",
)  # fmt: skip

_DATASET = "utils.DatasetConfig"
_FEATURES = ("inputs", "targets")
_SPLITS = ("train", "validation", "test")
View = config_check.ResolvedView
Problems = Iterator[config_check.Problem]


def datasets(view: View) -> Problems:
    """Every dataset configuration that the run uses: its task, its split, its lengths, whether it asks for a cache."""
    for scope in view.scopes(_DATASET):
        yield from _task(view, scope)
        split = view.value(f"{_DATASET}.split", scope)
        if isinstance(split, str) and split not in _SPLITS:
            yield _problem(view, "split", scope, str(errors.unknown("split", split, _SPLITS)))
        lengths = view.value(f"{_DATASET}.task_feature_lengths", scope)
        if isinstance(lengths, Mapping):
            for name in _FEATURES:
                if not isinstance(lengths.get(name), int) or lengths[name] < 2:
                    message = f"task_feature_lengths has {dict(lengths)}; expected a length of at least 2 for {name!r}"
                    yield _problem(view, "task_feature_lengths", scope, message)
        if view.value(f"{_DATASET}.use_cached", scope) is True:
            message = "use_cached is True; expected False: tasks are read from prepared TFDS directories, not from a seqio cache"
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


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _problem(view: View, param: str, scope: str, message: str) -> config_check.Problem:
    return view.problem(message, f"{_DATASET}.{param}", scope)


CHECKS = (datasets, batch_and_mesh)
