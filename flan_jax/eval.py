"""Evaluation: `python -m flan_jax.eval --gin_file=...`, which is `flan eval`."""

import json
import logging
import os
import sys
from typing import Any

import jax

from flan_jax import errors, launch, progress, sharding
from flan_jax.checkpoint import manager
from flan_jax.data import mixtures, seqio_tasks, sources, vocabulary
from flan_jax.evaluation import metrics, protocols, report
from flan_jax.models import api
from flan_jax.training import configs

logger = logging.getLogger(__name__)


def evaluate(
    model: configs.EncoderDecoderModel,
    dataset_cfg: configs.DatasetConfig,
    restore_checkpoint_cfg: configs.RestoreCheckpointConfig,
    partitioner: configs.Partitioner,
    output_dir: str,
) -> None:
    """Evaluates a checkpoint; what gin binds as `eval_script.evaluate`.

    Args:
      model: architecture and vocabularies.
      dataset_cfg: the tasks; each dataset of a mixture is asked with each of its templates.
      restore_checkpoint_cfg: the checkpoint.
      partitioner: the device mesh.
      output_dir: gets the predictions (JSON lines), `results.json` and `results.md`.

    Raises:
      FlanError: for anything that the user can mend.
    """
    mesh = partitioner.mesh()
    # No run of this name is there to continue: where OUTPUT_DIR is the MODEL_DIR, its newest checkpoint must not win over
    # the one that is asked for.
    nowhere = os.path.join(output_dir, "checkpoints")
    decision = manager.resolve_restore(nowhere, restore_checkpoint_cfg.path, restore_checkpoint_cfg.mode)
    axes, shapes = api.logical_axes(model.config), api.abstract_params(model.config)
    places = sharding.param_shardings(mesh, axes, shapes, partitioner.rules)
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, places
    )
    if decision.path is None:
        raise errors.FlanError(f"no checkpoint in {restore_checkpoint_cfg.path!r}")
    params = manager.restore_from(decision.path, {"target": placed}, params_only=True)["target"]
    logger.info("evaluating %s", decision.path)
    with sharding.use(mesh):
        found = evaluate_params(model, params, dataset_cfg, output_dir, step=decision.step or 0, mesh=mesh)
    print(report.table(found))


def evaluate_params(
    model: configs.EncoderDecoderModel,
    params: Any,
    cfg: configs.DatasetConfig,
    output_dir: str,
    *,
    step: int,
    mesh: Any,
) -> dict[str, Any]:
    """Asks a model every task of a configuration and writes what came out.

    Args:
      model: architecture and vocabularies.
      params: its parameters, on their devices.
      cfg: the tasks.
      output_dir: gets `TASK-<step>.jsonl` (every prediction), `TASK-metrics.jsonl` (a line an evaluation), `results.json`
        and `results.md` (the last evaluation).
      step: of the checkpoint.
      mesh: the device mesh.

    Returns:
      `report.summary` of the results.
    """
    catalogue = mixtures.Catalogue.from_modules(cfg.module)
    tasks = catalogue.eval_tasks(cfg.mixture_or_task_name)
    data_dir = sources.resolve_data_dir(cfg.data_dir)
    tokenizer = vocabulary.Tokenizer(model.input_vocabulary)
    by_name = {task.name: task for task in tasks}
    # All at once: a missing one shows before the work.
    opened = mixtures.open_tasks(tasks, data_dir, cfg.split, cfg.missing)
    os.makedirs(output_dir, exist_ok=True)
    results = []
    with progress.Progress("evaluate", len(opened), unit="tasks") as bar:
        for name, rows in opened:
            assert rows is not None  # evaluation tasks are flan_jax's own
            task = by_name[name]
            examples = list(rows.in_order(cfg.num_examples, seed=cfg.seed or 0))
            if not examples:
                raise errors.FlanError(
                    f"task {task.name!r} has no examples in split {cfg.split!r}: its filter drops every row"
                )
            result, lines = _ask(model, params, task, examples, tokenizer, cfg, mesh)
            _write(output_dir, task.name, step, result, lines)
            results.append(result)
            bar.advance(1, task=task.name)
    found = {"step": step, "split": cfg.split, **report.summary(results)}
    if jax.process_index() == 0:
        with open(os.path.join(output_dir, "results.json"), "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        with open(os.path.join(output_dir, "results.md"), "w", encoding="utf-8") as file:
            file.write(report.table(found) + "\n")
    return found


def _ask(
    model: configs.EncoderDecoderModel,
    params: Any,
    task: seqio_tasks.FlanTask,
    examples: list[seqio_tasks.Formatted],
    tokenizer: vocabulary.Tokenizer,
    cfg: configs.DatasetConfig,
    mesh: Any,
) -> tuple[report.TaskResult, list[dict[str, Any]]]:
    """Runs one task; returns its result and one line per example."""
    where = sharding.batch_sharding(mesh)
    lengths = dict(cfg.task_feature_lengths)
    answers = [list(f.example.answers) for f in examples]
    options = [f.example.options for f in examples]
    chance = None

    def put(batch: dict[str, Any]) -> Any:
        return jax.device_put(batch, where)

    ask = (model.config, params, examples, tokenizer, lengths, cfg.batch_size, put)
    if task.style.scoring:
        scores = list(protocols.option_scores(*ask))
        right = [
            {i for i, option in enumerate(shown) if option in accepted}
            for shown, accepted in zip(options, answers, strict=True)
        ]
        predictions = [shown[max(range(len(s)), key=s.__getitem__)] for shown, s in zip(options, scores, strict=True)]
        values = metrics.rank_classification_accuracy(scores, right)
        chance = 100 * sum(len(r) / len(o) for r, o in zip(right, options, strict=True)) / len(options)
        extra = [{"options": list(o), "scores": s} for o, s in zip(options, scores, strict=True)]
        main = "accuracy"
    else:
        predictions = protocols.generate(*ask)
        values, extra, main = {}, [{} for _ in examples], metrics.get(task.dataset.metrics[0]).main
    for name in task.dataset.metrics:
        metric = metrics.get(name)
        # What the option scores have given already, with ties shared, is not overwritten by the first option's.
        values = {**metric.function([metric.target(f.example) for f in examples], predictions), **values}
    prompts = seqio_tasks.prompts(examples, tokenizer, lengths)
    lines = [
        {"row": f.row, "inputs": prompt, "answers": a, "prediction": p, **e}
        for f, prompt, a, p, e in zip(examples, prompts, answers, predictions, extra, strict=True)
    ]
    template = task.style.templates[0]
    return (
        report.TaskResult(
            task.name, task.dataset.name, task.dataset.cluster, template, len(examples), chance, values, main
        ),
        lines,
    )


def _write(output_dir: str, name: str, step: int, result: report.TaskResult, lines: list[dict[str, Any]]) -> None:
    if jax.process_index() != 0:
        return
    path = os.path.join(output_dir, f"{name}-{step:06d}.jsonl")
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    os.replace(path + ".tmp", path)  # whoever finds the file finds all of it
    with open(os.path.join(output_dir, f"{name}-metrics.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "examples": result.examples, **result.values}) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m flan_jax.eval` and `flan eval`."""
    about = "Asks a checkpoint the tasks of a mixture."
    return launch.run("eval_script.evaluate", "flan eval", about, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
