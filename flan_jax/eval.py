"""Evaluation: `python -m flan_jax.eval --gin_file=...`, which is `flan eval`."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from flan_jax import errors, hosts, launch, preemption, sharding
from flan_jax import report as documents
from flan_jax.checkpoint import adapted
from flan_jax.data import mixtures, seqio_tasks, sources, vocabulary
from flan_jax.evaluation import protocols, report, seen
from flan_jax.inference import generate, predictions, saved
from flan_jax.training import configs

logger = logging.getLogger(__name__)

SEEN = ("warn", "refuse")
_SELECTION = "selection"  # rows that choose a template, in place of the split that is reported


def evaluate(
    model: configs.Model,
    dataset_cfg: configs.DatasetConfig,
    restore_checkpoint_cfg: configs.RestoreCheckpointConfig,
    partitioner: configs.Partitioner,
    output_dir: str,
    select_template_on: str | None = None,
    seen_in_training: Literal["warn", "refuse"] = "warn",
    normalize_by_target_length: bool = False,
    resume: bool = True,
    write_report: bool = True,
) -> None:
    """Evaluates a checkpoint; what gin binds as `eval_script.evaluate`.

    Args:
      model: architecture and vocabularies.
      dataset_cfg: the tasks; each dataset of a mixture is asked with each of its templates.
      restore_checkpoint_cfg: the checkpoint; of an adapter's, the base that it names is loaded as well.
      partitioner: the device mesh.
      output_dir: gets the predictions (JSON lines), `results.json` and `results.md`, and the report.
      select_template_on: split (`validation`) whose rows choose each dataset's best template, whose score is reported
        beside the mean over templates.
      seen_in_training: `warn` or `refuse`: what to do where the checkpoint's config.gin, or that of the one it began with,
        shows that what a dataset's cluster forbids was trained on.
      normalize_by_target_length: rank options by the mean log-likelihood of their tokens, not by the sum.
      resume: go on with what an evaluation with the same settings has left in OUTPUT_DIR; False asks everything again.
      write_report: also write `report.md` and `report.html`, as `flan report` does.

    Raises:
      FlanError: for anything that the user can mend.
    """
    if seen_in_training not in SEEN:
        raise errors.unknown("value of seen_in_training", seen_in_training, SEEN)
    checkpoint, step = adapted.locate(restore_checkpoint_cfg.path, restore_checkpoint_cfg.mode)
    _check_seen(checkpoint, dataset_cfg, seen_in_training)
    mesh, rules = partitioner.mesh(), partitioner.rules

    def load() -> Any:
        logger.info("evaluating %s", checkpoint)
        return saved.restored(model, checkpoint, mesh, rules, restore_checkpoint_cfg.base_path)

    with sharding.use(mesh, rules):
        found = _evaluate(
            [Asked(model, load, checkpoint, step or 0)],
            dataset_cfg,
            output_dir,
            mesh=mesh,
            checkpoint=checkpoint,
            select_template_on=select_template_on,
            normalize_by_target_length=normalize_by_target_length,
            resume=resume,
        )
    if hosts.first():
        print(report.table(found))
        if write_report:
            documents.write(output_dir, None, output_dir)


def evaluate_runs(
    chosen: Mapping[str, str],
    dataset_cfg: configs.DatasetConfig,
    partitioner: configs.Partitioner,
    output_dir: str,
    *,
    runs_dir: str,
    base_path: str | None = None,
    vocabulary_file: str | None = None,
    **how: Any,
) -> None:
    """Evaluates several checkpoints, each on datasets of its own, to one table; the config.gin of each says what its model is.

    Args:
      chosen: dataset -> the checkpoint that is asked it.
      dataset_cfg: as `evaluate`.
      partitioner: likewise.
      output_dir: likewise.
      runs_dir: where the checkpoints lie, for the results.
      base_path: of adapters, where their base has moved to.
      vocabulary_file: SentencePiece file in place of those that the config.gin name.
      how: as `evaluate`: `select_template_on`, `normalize_by_target_length`, `resume`.
    """
    mesh, rules = partitioner.mesh(), partitioner.rules

    def load(checkpoint: str, model: configs.Model) -> Any:
        logger.info("evaluating %s", checkpoint)
        return saved.restored(model, checkpoint, mesh, rules, base_path)

    asked = []
    for checkpoint in dict.fromkeys(chosen.values()):
        model = saved.read_run(checkpoint, vocabulary_file).model
        mine = frozenset(name for name, of in chosen.items() if of == checkpoint)
        step = adapted.locate(checkpoint)[1] or 0
        asked.append(Asked(model, functools.partial(load, checkpoint, model), checkpoint, step, mine))
    with sharding.use(mesh, rules):
        found = _evaluate(asked, dataset_cfg, output_dir, mesh=mesh, checkpoint=runs_dir, **how)
    if hosts.first():
        print(report.table(found))


def evaluate_params(
    model: configs.Model, params: Any, cfg: configs.DatasetConfig, output_dir: str, *, step: int, mesh: Any, **how: Any
) -> dict[str, Any]:
    """Asks a model that is there every task of a configuration, and everything anew; writes what came out.

    Args:
      model: architecture and vocabularies.
      params: its parameters, on their devices.
      cfg: the tasks.
      output_dir: gets `TASK-<step>.jsonl` (every prediction), `TASK-metrics.jsonl` (a line an evaluation), `results.json`
        and `results.md` (the last evaluation).
      step: of the parameters.
      mesh: the device mesh.
      how: as `evaluate`.

    Returns:
      What `results.json` holds: `report.summary` of the results, and how they were made.
    """
    asked = Asked(model, lambda: params, "", step)
    return _evaluate([asked], cfg, output_dir, mesh=mesh, keep=False, **how)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A checkpoint, and what it is asked.

    Attributes:
      model: architecture and vocabularies.
      load: gives its parameters, on their devices, when its turn comes.
      checkpoint: where they are from; may be empty.
      step: of it.
      datasets: names of those that it is asked; None for all.
    """

    model: configs.Model
    load: Callable[[], Any]
    checkpoint: str
    step: int
    datasets: Collection[str] | None = None


# (split or `_SELECTION`, task, its rows)
_Work = Sequence[tuple[str, seqio_tasks.FlanTask, seqio_tasks.TaskRows]]


def _evaluate(
    asked: Sequence[Asked],
    cfg: configs.DatasetConfig,
    output_dir: str,
    *,
    mesh: Any,
    checkpoint: str = "",
    select_template_on: str | None = None,
    normalize_by_target_length: bool = False,
    resume: bool = False,
    keep: bool = True,
) -> dict[str, Any]:
    """Asks every checkpoint its tasks and writes what came out; the answers as they came are kept, to go on with, or not.

    Returns:
      What `results.json` holds.
    """
    tasks = mixtures.Catalogue.from_modules(cfg.module).eval_tasks(cfg.mixture_or_task_name)
    # All at once: a missing one shows before the work.
    work = _open(tasks, cfg, select_template_on)
    hosts.agree("tasks", [[split, task.name, rows.num_examples] for split, task, rows in work])
    made_with = {
        "task_feature_lengths": dict(cfg.task_feature_lengths),
        "batch_size": cfg.batch_size,
        "num_examples": cfg.num_examples,
        "select_template_on": select_template_on,
        "normalize_by_target_length": normalize_by_target_length,
    }
    os.makedirs(output_dir, exist_ok=True)
    graded: dict[tuple[str, str], protocols.Graded] = {}
    files: dict[str, str] = {}
    by_dataset: dict[str, str] = {}
    for one in asked:
        mine = [what for what in work if one.datasets is None or what[1].dataset.name in one.datasets]
        by_dataset |= {task.dataset.name: one.checkpoint for _, task, _ in mine}
        files |= {task.name: _file(task.name, one.step) for split, task, _ in mine if split == cfg.split}
        graded |= _answers(one, mine, cfg, output_dir, mesh, normalize_by_target_length, resume, keep)
    in_order = [(split, graded[split, task.name]) for split, task, _ in work]
    results = [of for split, of in in_order if split == cfg.split]
    found = {
        "suite": cfg.mixture_or_task_name,
        "checkpoint": checkpoint,
        "step": max(one.step for one in asked),
        "split": cfg.split,
        "settings": made_with,
        "versions": report.versions(),
        "seed": cfg.seed or 0,
        **report.summary([of.result for of in results], [of.result for split, of in in_order if split == _SELECTION]),
        "predictions": [files[of.result.task] for of in results],
    }
    if len(asked) > 1:
        found["checkpoints"] = by_dataset
        found["scores"] = [{**score, "checkpoint": by_dataset[score["name"]]} for score in found["scores"]]
    found["notes"] += _notes(tasks, results, by_dataset if len(asked) > 1 else {})
    if hosts.first():
        _write_results(output_dir, found)
    return found


def _open(tasks: Sequence[seqio_tasks.FlanTask], cfg: configs.DatasetConfig, select_template_on: str | None) -> _Work:
    """The rows of the tasks whose data is there: those that are reported, then those that choose a template."""
    data_dir, by_name = sources.resolve_data_dir(cfg.data_dir), {task.name: task for task in tasks}
    found = [(cfg.split, one) for one in mixtures.open_tasks(tasks, data_dir, cfg.split, cfg.missing)]
    if select_template_on is not None:
        there = {name for _, (name, _) in found}  # of what is not reported no template is chosen
        several = [task for task in tasks if task.name in there and select_template_on in task.dataset.splits]
        found += [(_SELECTION, one) for one in mixtures.open_tasks(several, data_dir, select_template_on, cfg.missing)]
    return [(split, by_name[name], rows) for split, (name, rows) in found if rows is not None]


def _answers(
    asked: Asked,
    work: _Work,
    cfg: configs.DatasetConfig,
    output_dir: str,
    mesh: Any,
    normalized: bool,
    resume: bool,
    keep: bool,
) -> dict[tuple[str, str], protocols.Graded]:
    """Asks one checkpoint; returns what came of each task, by its rows and name."""
    where, lengths = sharding.batch_sharding(mesh), dict(cfg.task_feature_lengths)

    def put(batch: dict[str, Any]) -> Any:
        preemption.check()
        return hosts.put(batch, where)

    generator = generate.Generator(
        asked.model.config,
        asked.load(),
        vocabulary.Tokenizer(asked.model.input_vocabulary),
        inputs_length=lengths["inputs"],
        batch_size=cfg.batch_size,
        converter=asked.model.question_converter,
        put=put,
    )
    about = {**saved.identity(asked.checkpoint), "step": asked.step} if asked.checkpoint else {"step": asked.step}
    about |= {"num_examples": cfg.num_examples, "seed": cfg.seed or 0}
    folder, found = os.path.join(output_dir, "generated"), {}
    for number, (split, task, rows) in enumerate(work, start=1):
        logger.info("task %d of %d: %s (%s)", number, len(work), task.name, split)
        name = _file(task.name if split == cfg.split else f"{task.name}-{split}", asked.step)
        made = os.path.join(folder, name)
        protocols.ask(
            generator,
            task,
            rows.in_order(cfg.num_examples, seed=cfg.seed or 0),
            made,
            targets_length=lengths["targets"],
            about={**about, "rows": split},
            normalize_by_target_length=normalized,
            total=min(rows.num_examples, cfg.num_examples or rows.num_examples),
            overwrite=not resume,
        )
        graded = os.path.join(output_dir, name) if split == cfg.split else None
        found[split, task.name] = _grade(task, made, graded, asked.step)
        if not keep and hosts.first():
            predictions.remove(made)
    if not keep and hosts.first():
        with contextlib.suppress(OSError):  # there are answers of another evaluation
            os.rmdir(folder)
    return found


def _grade(task: seqio_tasks.FlanTask, made: str, graded: str | None, step: int) -> protocols.Graded:
    """Scores a task in process 0, which writes predictions and metrics; every process hears what it scored."""

    def grade() -> dict[str, Any]:
        found = protocols.grade(task, made, graded)
        if graded is not None:
            _add_metrics(graded, found.result, step)
        return dataclasses.asdict(found)

    found = hosts.from_first(grade)
    return protocols.Graded(**{**found, "result": report.TaskResult(**found["result"])})


def _add_metrics(graded: str, result: report.TaskResult, step: int) -> None:
    """Adds a line to TASK-metrics.jsonl; a killed evaluation that is continued does not add it twice."""
    path = os.path.join(os.path.dirname(graded), f"{result.task}-metrics.jsonl")
    line = json.dumps({"step": step, "examples": result.examples, **result.values}) + "\n"
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        if line not in file.readlines():
            file.write(line)


def _notes(
    tasks: Sequence[seqio_tasks.FlanTask], results: Sequence[protocols.Graded], by_dataset: Mapping[str, str]
) -> Iterator[str]:
    """What is to be known of the scores beside ties."""
    for checkpoint in dict.fromkeys(by_dataset.values()):
        yield f"{checkpoint} was asked {', '.join(name for name, of in by_dataset.items() if of == checkpoint)}"
    there = {of.result.task for of in results}
    absent = dict.fromkeys(task.dataset.name for task in tasks if task.name not in there)
    if absent:
        yield f"{len(absent)} datasets have no data and were not asked: {', '.join(absent)}"
    total = sum(of.result.examples for of in results)
    yield from report.of_prompts(
        total, sum(of.fewer_shots for of in results), sum(of.cut for of in results), lost="end"
    )


def _check_seen(checkpoint: str | os.PathLike[str], cfg: configs.DatasetConfig, seen_in_training: str) -> None:
    """Warns of datasets that the checkpoint's training does not hold out, or refuses them."""
    if not seen.trained_on(checkpoint):
        logger.info("no config.gin shows what %s was trained on", checkpoint)
        return
    tasks = mixtures.Catalogue.from_modules(cfg.module).eval_tasks(cfg.mixture_or_task_name)
    datasets = {task.dataset.name: task.dataset for task in tasks}
    data_dir = sources.resolve_data_dir(cfg.data_dir)
    found = seen.leaks(checkpoint, datasets.values(), cfg.module, data_dir)
    if found and seen_in_training == "refuse":
        raise errors.FlanError(
            f"{seen.told(checkpoint, found)}\n"
            "expected a model for which they were held out (flan_minus_CLUSTER_10templates), or only datasets that were "
            "(flan2021_eval_CLUSTER_10templates); seen_in_training = 'warn', or --seen_in_training warn with --suite, "
            "evaluates all the same"
        )
    if found:
        logger.warning("%s", seen.told(checkpoint, found))


def _file(name: str, step: int) -> str:
    """The name of a task's file of predictions."""
    return f"{name}-{step:06d}.jsonl"


def _write_results(output_dir: str, found: dict[str, Any]) -> None:
    with open(os.path.join(output_dir, "results.json"), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
    with open(os.path.join(output_dir, "results.md"), "w", encoding="utf-8") as file:
        file.write(report.table(found) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m flan_jax.eval` and `flan eval`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(flag.partition("=")[0] == "--suite" for flag in argv):
        from flan_jax import eval_suite

        return eval_suite.main(argv)
    about = (
        "Asks a checkpoint the tasks of a mixture; with --suite NAME, a benchmark (`flan eval --suite mmlu --help`)."
    )
    return launch.run("eval_script.evaluate", "flan eval", about, argv)


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
