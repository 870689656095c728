"""Predictions of a trained model: `flan infer`, from plain flags or a gin file (`python -m flan_jax.infer`)."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from flan_jax import errors, host_memory, launch, log
from flan_jax.checkpoint import adapted
from flan_jax.data import mixtures, seqio_tasks, sources, vocabulary
from flan_jax.evaluation import open_ended, protocols
from flan_jax.inference import generate, predictions, saved, settings
from flan_jax.training import configs

logger = logging.getLogger(__name__)

ROOT = "infer_script.infer"
_EPILOG = """
or, as t5x's users do, from a configuration: flan infer --gin_file=runs/infer.gin --gin_file=... --gin.NAME=VALUE
(`flan infer --gin_file=runs/infer.gin --help` lists its flags). A run that was killed is continued by the same command.
"""


def infer(
    model: configs.Model,
    dataset_cfg: configs.DatasetConfig,
    restore_checkpoint_cfg: configs.RestoreCheckpointConfig,
    partitioner: configs.Partitioner,
    output_dir: str,
    decoding: settings.Settings | None = None,
    mode: Literal["predict"] = "predict",
) -> None:
    """Answers every example of a task or mixture; what gin binds as `infer_script.infer`.

    Args:
      model: architecture and vocabularies.
      dataset_cfg: the tasks; a row is asked with one of its task's templates, as in training.
      restore_checkpoint_cfg: the checkpoint.
      partitioner: the device mesh.
      output_dir: gets `TASK-predict.jsonl` for each task (see `inference.predictions`).
      decoding: `@decoding.Settings()`; where None greedy, up to the targets' length.
      mode: `predict`.

    Raises:
      FlanError: for anything that the user can mend.
    """
    if mode != "predict":
        raise errors.unknown("mode", mode, ("predict",))
    lengths = dict(dataset_cfg.task_feature_lengths)
    how = decoding or settings.Settings(max_tokens=lengths["targets"])
    mesh = partitioner.mesh()
    checkpoint = adapted.locate(restore_checkpoint_cfg.path, restore_checkpoint_cfg.mode)[0]
    opened = _open(dataset_cfg)
    base = restore_checkpoint_cfg.base_path
    params = saved.restored(model, checkpoint, mesh, partitioner.rules, base)
    generator = saved.asked(model, params, mesh, inputs_length=lengths["inputs"], batch_size=dataset_cfg.batch_size)
    for name, rows in opened:
        out = os.path.join(output_dir, f"{name}-predict.jsonl")
        records = task_records(rows, generator.tokenizer, lengths, dataset_cfg.num_examples, dataset_cfg.seed or 0)
        about = {**saved.identity(checkpoint), "task": name, "split": dataset_cfg.split, "seed": dataset_cfg.seed or 0}
        total = min(rows.num_examples, dataset_cfg.num_examples or rows.num_examples)
        count = predictions.write(generator, records, out, how, about=about, total=total)
        print(f"{out}: {count} predictions")


def task_records(
    rows: seqio_tasks.TaskRows,
    tokenizer: vocabulary.Tokenizer,
    lengths: Mapping[str, int],
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[predictions.Record]:
    """The prompts of a task, with its exemplars; each brings its row, template and accepted answers along.

    Args:
      rows: of the task.
      tokenizer: of the model's vocabulary.
      lengths: `inputs` and `targets`, in tokens.
      limit: so many at most.
      seed: of templates and exemplars.
    """
    for example, tokens in protocols.read(rows.in_order(limit, seed=seed), tokenizer, lengths):
        yield predictions.Record(
            example.prompt(tokens.shots),
            generate.Prompt(tokens.inputs, cut=tokens.cut[0] if tokens.cut else 0),
            {"row": example.row, "template": example.template, "answers": list(example.example.answers)},
        )


def _open(cfg: configs.DatasetConfig) -> list[tuple[str, seqio_tasks.TaskRows]]:
    """The tasks of a configuration with their rows."""
    catalogue = mixtures.Catalogue.from_modules(cfg.module)
    names = catalogue.mixture(cfg.mixture_or_task_name).tasks
    foreign = [name for name in names if catalogue.tasks.find(name) is None]
    if foreign:
        raise errors.FlanError(
            f"{foreign[0]!r} is seqio's own task; flan infer reads flan_jax's tasks, or --prompts FILE"
        )
    tasks = [catalogue.tasks[name] for name in names]
    opened = mixtures.open_tasks(tasks, sources.resolve_data_dir(cfg.data_dir), cfg.split, cfg.missing)
    return [(name, rows) for name, rows in opened if rows is not None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flan infer",
        description="Answers prompts, or the examples of a task, with a trained model; writes JSON lines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_flags(parser)
    launch.add_process_flags(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--prompts", metavar="FILE", help="a prompt a line; JSON lines with 'inputs' if it ends in .jsonl; - is stdin"
    )
    asked.add_argument("--task", help="a task, such as rte_type_0")
    parser.add_argument("--out", required=True, metavar="FILE", help="gets a JSON line a prompt")
    parser.add_argument("--overwrite", action="store_true", help="start again, whatever FILE holds")
    parser.add_argument("--batch_size", type=int, default=32, help="prompts a step (default 32)")
    parser.add_argument("--tfds_data_dir", help="of --task: prepared TFDS datasets, or the word 'sample'")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="of --task (default test)"
    )
    parser.add_argument("--module", default="flan_jax.tasks.catalogue", help="of --task: module that defines SPECS")
    parser.add_argument("--num_examples", type=int, help="of --task: so many at most")
    parser.add_argument(
        "--open_ended",
        action="store_true",
        help="for questions without a right answer, as Flan 2022: of 5 samples at temperature 0.7 (--n, --temperature) those "
        "likelier than half the median are dropped, and the likeliest of the rest is the prediction",
    )
    settings.add_flags(parser)
    return parser


def add_model_flags(parser: argparse.ArgumentParser, or_else: str = "") -> None:
    """Adds the flags that say which model is asked; `or_else` is what else --checkpoint may be."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help=f"a run's MODEL_DIR, or a checkpoint_<step> in it; or what flan convert wrote{or_else}",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="its SentencePiece file, local or gs://; the one in its config.gin if not given",
    )
    parser.add_argument("--inputs", type=int, metavar="TOKENS", help="of a prompt at most; as in training if not given")
    parser.add_argument("--num_partitions", type=int, default=1, help="devices that share one copy of the model")
    parser.add_argument("--base", metavar="PATH", help="of an adapter's checkpoint: its base, if it has moved")


def load_model(given: argparse.Namespace, batch_size: int) -> generate.Generator:
    """Opens the model that the flags of `add_model_flags` name, to be asked so many prompts at a time."""
    host_memory.keep_freed()
    return saved.load(
        given.checkpoint,
        batch_size=batch_size,
        inputs_length=given.inputs,
        num_partitions=given.num_partitions,
        base_path=given.base,
        vocabulary_file=given.vocabulary,
    )


def _plain(argv: Sequence[str]) -> int:
    given = _parser().parse_args(argv)
    log.set_up()
    launch.join(given)
    if given.open_ended:
        given.n = given.n if given.n > 1 else open_ended.SAMPLES
        given.temperature = given.temperature or open_ended.TEMPERATURE
    how = settings.from_flags(given)
    # What is asked first: a mistake in it shows before a model is loaded.
    total, rows = None, None
    if given.task:
        rows = _one_task(given)
        total = min(rows.num_examples, given.num_examples or rows.num_examples)
    elif given.prompts != "-":
        total = sum(1 for _ in predictions.read_prompts(given.prompts))
    generator = load_model(given, given.batch_size)
    about = saved.identity(adapted.locate(given.checkpoint)[0])
    if rows is None:
        records = predictions.read_prompts(given.prompts)
    else:
        lengths = {"inputs": generator.inputs_length, "targets": how.max_tokens}
        records = task_records(rows, generator.tokenizer, lengths, given.num_examples)
        about |= {"task": given.task, "split": given.split}
    select = None
    if given.open_ended:
        about, select = {**about, "select": "open_ended"}, open_ended.select
    count = predictions.write(
        generator, records, given.out, how, about=about, total=total, overwrite=given.overwrite, select=select
    )
    print(f"{given.out}: {count} predictions")
    return 0


def _one_task(given: argparse.Namespace) -> seqio_tasks.TaskRows:
    cfg = configs.DatasetConfig(
        given.task, {}, given.split, given.batch_size, module=given.module, data_dir=given.tfds_data_dir
    )
    opened = _open(cfg)
    if len(opened) > 1:
        raise errors.FlanError(
            f"{given.task!r} is a mixture of {len(opened)} tasks; expected one task, or --gin_file=runs/infer.gin"
        )
    return opened[0][1]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m flan_jax.infer` and `flan infer`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(flag.startswith("--gin") for flag in argv):
        about = "Answers the examples of a task or mixture with a trained model."
        return launch.run(ROOT, "flan infer", about, argv)
    return _plain(argv)


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
