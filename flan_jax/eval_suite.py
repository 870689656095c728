"""`flan eval --suite NAME`: a checkpoint asked the benchmarks of the papers' tables, from plain flags."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence

from flan_jax import errors, host_memory, hosts, infer, launch, log
from flan_jax import eval as eval_lib
from flan_jax import report as documents
from flan_jax.checkpoint import adapted
from flan_jax.data import benchmarks, mixtures, provenance, seqio_tasks, sources
from flan_jax.evaluation import seen
from flan_jax.evaluation.suites import base, flan2021, flan2022, opt_iml, run
from flan_jax.inference import saved, settings
from flan_jax.training import configs

SUITES = (flan2021.NAME, *flan2022.SUITES, flan2022.NAME, opt_iml.NAME)
COT_TOKENS = 512  # of a reasoned answer: the targets' length of Flan 2022's public code
# Self-consistency as Wang et al. 2022 sample from PaLM; how often, their paper says, Flan 2022 does not.
_TEMPERATURE, _TOP_K = 0.7, 40
_ABOUT = """Asks a checkpoint a benchmark as its paper does and writes every answer with its score.

mmlu: 57 subjects, 5 exemplars.  bbh: 27 subtasks, 3 exemplars.  tydiqa: 8 languages, 1 exemplar.  mgsm: 10 languages, 8
exemplars that reason.  flan2022: the six scores of Flan 2022's tables (MMLU and BBH directly and with reasons) and their
normalised average.  flan2021: FLAN 2021's 25 datasets with each of their templates, zero-shot.  opt_iml: the tasks of --tasks by
OPT-IML's protocol.  Exemplars that do not fit into the model's input are left out, the last first, and the results say so."""
_EPILOG = "A run that was killed is continued by the same command."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flan eval --suite",
        description=_ABOUT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", required=True, help=f"one of {', '.join(SUITES)}")
    infer.add_model_flags(parser, "; of flan2021 also a directory of runs, of which each held a cluster out")
    launch.add_process_flags(parser)
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets results.json, the predictions and a report")
    parser.add_argument("--no_report", action="store_true", help="leave out report.md and report.html")
    parser.add_argument("--overwrite", action="store_true", help="ask again, whatever DIR holds")
    parser.add_argument("--dry_run", action="store_true", help="say what would be asked, and stop")
    asked = parser.add_argument_group("questions")
    asked.add_argument("--shots", type=int, metavar="K", help="exemplars; as in the paper if not given")
    asked.add_argument("--cot", action="store_true", help="ask mmlu or bbh for reasons before the answer")
    asked.add_argument(
        "--trigger",
        default="",
        help=f"what reasons begin with (default {base.TRIGGER!r}, without exemplars {base.ZERO_SHOT_TRIGGER!r})",
    )
    asked.add_argument("--split", default="", help="of the questions, such as test for mmlu; the paper's if not given")
    asked.add_argument("--limit", type=int, metavar="N", help="the first N questions of each subtask only")
    asked.add_argument("--subtasks", default="", metavar="A,B", help="only these subjects, tasks or languages")
    asked.add_argument(
        "--scoring",
        default=run.SCORING[0],
        choices=run.SCORING,
        help="of mmlu: the letter that is generated, as in Flan 2022, or the likeliest of the four, as in MMLU's own code",
    )
    asked.add_argument(
        "--normalize_by_target_length",
        action="store_true",
        help="where options are ranked: compare the mean log-likelihoods of their tokens, not the sums",
    )
    own = parser.add_argument_group("flan2021 and opt_iml only")
    own.add_argument(
        "--tasks",
        metavar="NAME",
        help=f"a task or mixture whose datasets are asked, such as nli_10templates; of flan2021 {flan2021.TASKS} if not given",
    )
    own.add_argument(
        "--seen_in_training",
        choices=eval_lib.SEEN,
        default="refuse",
        help="of flan2021: what to do where the checkpoint was trained on what a dataset's cluster forbids (default refuse)",
    )
    own.add_argument(
        "--trained_on", metavar="NAME", help="of opt_iml: the model's mixture, for averages by level of generalisation"
    )
    own.add_argument("--module", default="flan_jax.tasks.catalogue", help="module that defines SPECS")
    made = parser.add_argument_group("answers")
    made.add_argument(
        "--samples", type=int, default=1, metavar="N", help="self-consistency: the majority of N reasoned answers"
    )
    made.add_argument("--temperature", type=float, help=f"of samples (default {_TEMPERATURE}); without samples 0")
    made.add_argument("--top_k", type=int, help=f"of samples (default {_TOP_K})")
    made.add_argument("--top_p", type=float, default=1.0, help="of samples")
    made.add_argument("--max_tokens", type=int, help=f"of an answer at most; {COT_TOKENS} with reasons if not given")
    made.add_argument("--seed", type=int, default=0, help="of samples and drawn exemplars")
    made.add_argument("--batch_size", type=int, default=32, help="prompts a step (default 32)")
    return parser


def planned(given: argparse.Namespace) -> list[run.Run]:
    """The runs that the flags ask for.

    Raises:
      FlanError: flags that do not go together.
    """
    if given.suite not in SUITES:
        raise errors.unknown("suite", given.suite, SUITES)
    for name in ("shots", "limit", "samples"):
        value, least = getattr(given, name), 0 if name == "shots" else 1
        if value is not None and value < least:
            raise errors.FlanError(f"--{name} is {value}; expected at least {least}")
    if given.tasks or given.trained_on:
        raise errors.FlanError(
            f"--tasks and --trained_on are of --suite flan2021 and opt_iml; given --suite {given.suite}"
        )
    pairs = flan2022.SIX
    if given.suite != flan2022.NAME:
        suite = flan2022.SUITES[given.suite]
        if given.cot and True not in suite.cot:
            raise errors.FlanError(
                f"--cot with --suite {given.suite}, which is asked directly only; expected mmlu or bbh"
            )
        pairs = ((given.suite, given.cot or suite.cot == (True,)),)
    elif given.cot or given.subtasks or given.split or given.shots:
        raise errors.FlanError(
            "--cot, --shots, --split and --subtasks are of one benchmark; expected --suite mmlu, bbh, tydiqa or mgsm with them"
        )
    if given.samples > 1 and not any(cot for _, cot in pairs):
        raise errors.FlanError(
            "--samples is for reasoned answers; expected --cot with --suite mmlu or bbh, or --suite mgsm"
        )
    if given.scoring == "likelihood" and pairs != (("mmlu", False),) and given.suite != flan2022.NAME:
        raise errors.FlanError(
            "--scoring likelihood needs given options; expected --suite mmlu without --cot, or flan2022"
        )
    if given.normalize_by_target_length and given.scoring != "likelihood":
        raise errors.FlanError(
            f"--normalize_by_target_length with --suite {given.suite}, which generates; expected --scoring likelihood with it"
        )
    return [_run(given, flan2022.SUITES[name], cot) for name, cot in pairs]


def _run(given: argparse.Namespace, suite: base.Suite, cot: bool) -> run.Run:
    sampled = cot and given.samples > 1
    temperature = given.temperature if given.temperature is not None else (_TEMPERATURE if sampled else 0.0)
    top_k = given.top_k if given.top_k is not None else (_TOP_K if sampled else 0)
    decoding = settings.Settings(
        max_tokens=given.max_tokens or (COT_TOKENS if cot else suite.max_tokens),
        temperature=temperature,
        top_k=top_k,
        top_p=given.top_p,
        n=given.samples if sampled else 1,
        stop=suite.stop,
        seed=given.seed,
    )
    subtasks = tuple(name for name in given.subtasks.split(",") if name)
    how = base.How(given.shots, cot, given.trigger, given.split, given.limit, subtasks, given.seed)
    by_likelihood = given.scoring == "likelihood" and suite.name == "mmlu" and not cot
    return run.Run(
        flan2022.run_name(suite.name, cot),
        suite,
        how,
        decoding,
        "likelihood" if by_likelihood else "generate",
        given.normalize_by_target_length and by_likelihood,
    )


def check(argv: Sequence[str]) -> None:
    """Says what is wrong with flags, before there is a model to ask.

    Raises:
      FlanError: a flag that does not exist, or flags that do not go together.
    """
    given, rest = _parser().parse_known_args(argv)
    if rest:
        raise errors.FlanError(f"flan eval --suite has no flag {rest[0]}")
    if given.suite != opt_iml.NAME:
        planned(given)


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan eval --suite`."""
    given = _parser().parse_args(argv)
    log.set_up()
    if not given.dry_run:
        launch.join(given)
    if given.suite == opt_iml.NAME:
        return _opt_iml(given)
    if given.suite == flan2021.NAME:
        return _flan2021(given)
    # What is asked first: a mistake in it shows before a model is loaded.
    runs = planned(given)
    reader = benchmarks.Reader(sources.resolve_data_dir(given.tfds_data_dir))
    found = {asked.name: run.subtasks(reader, asked) for asked in runs}
    checkpoint, step = adapted.locate(given.checkpoint)
    if given.dry_run:
        for asked in runs:
            count = sum(1 for name in found[asked.name] for _ in asked.suite.questions(reader, name, asked.how))
            how = asked.settings()
            print(
                f"{asked.name}: {count} questions of {len(found[asked.name])} subtasks, split {how['split']}, {how['shots']} "
                f"exemplars, {how['scoring']}, up to {asked.decoding.max_tokens} tokens"
            )
        return 0
    generator = infer.load_model(given, given.batch_size)
    results = run.evaluate(
        generator,
        reader,
        runs,
        given.out,
        name=given.suite,
        checkpoint=checkpoint,
        step=step or 0,
        overwrite=given.overwrite,
    )
    print(run.table(results))
    print(f"{os.path.join(given.out, 'results.json')}: {len(results['scores'])} scores")
    return _reported(given)


def _reported(given: argparse.Namespace) -> int:
    """Writes the report of what OUT holds now."""
    if not given.no_report and hosts.first():
        print(*documents.write(given.out, None, given.out), sep="\n")
    return 0


def _refuse(given: argparse.Namespace, why: str, **unset: object) -> None:
    """Refuses flags that a suite has no use for."""
    for name, value in unset.items():
        if getattr(given, name) != value:
            raise errors.FlanError(f"--{name} with --suite {given.suite}, {why}")


def _flan2021(given: argparse.Namespace) -> int:
    why = "which ranks options by likelihood or generates greedily, without exemplars"
    _refuse(given, why, cot=False, samples=1, temperature=None, top_k=None, top_p=1.0, scoring=run.SCORING[0])
    _refuse(given, "which asks the datasets of --tasks", subtasks="", trained_on=None)
    _refuse(given, f"which is zero-shot; expected --tasks {flan2021.TASKS}_multi_shot for exemplars", shots=None)
    partitioner = configs.Partitioner(given.num_partitions)
    rows = math.prod(size for axis, size in partitioner.mesh().shape.items() if axis != "model")
    if given.batch_size % rows:
        raise errors.FlanError(
            f"--batch_size is {given.batch_size}; expected a multiple of {rows}, the devices that share a batch"
        )
    runs = seen.runs(given.checkpoint)
    checkpoint = adapted.locate(runs[0] if runs else given.checkpoint)[0]
    model = saved.read_run(checkpoint, given.vocabulary)
    split, lengths = given.split or flan2021.SPLIT, {"targets": given.max_tokens or flan2021.TARGETS}
    cfg = configs.DatasetConfig(
        given.tasks or flan2021.TASKS,
        {"inputs": given.inputs or model.lengths.get("inputs", saved.DEFAULT_INPUTS), **lengths},
        split,
        given.batch_size,
        shuffle=False,
        seed=given.seed,
        module=given.module,
        data_dir=given.tfds_data_dir,
        missing="skip",
        num_examples=given.limit,
    )
    chosen: dict[str, str] = {}
    if runs or given.dry_run:
        tasks = mixtures.Catalogue.from_modules(cfg.module).eval_tasks(cfg.mixture_or_task_name)
        data_dir = sources.resolve_data_dir(cfg.data_dir)
        opened = [rows for _, rows in mixtures.open_tasks(tasks, data_dir, split, cfg.missing) if rows is not None]
        if runs:
            datasets = {rows.task.dataset.name: rows.task.dataset for rows in opened}
            of = seen.choose(runs, datasets.values(), cfg.module, data_dir)
            chosen = {name: adapted.locate(run)[0] for name, run in of.items()}
        if given.dry_run:
            _tell_tasks(opened, given.limit, split, chosen)
            return 0
    host_memory.keep_freed()
    how = {
        # The rows that choose a template are no rows to report it on.
        "select_template_on": None if split == flan2021.SELECT_ON else flan2021.SELECT_ON,
        "normalize_by_target_length": given.normalize_by_target_length,
        "resume": not given.overwrite,
    }
    if runs:
        eval_lib.evaluate_runs(
            chosen,
            cfg,
            partitioner,
            given.out,
            runs_dir=given.checkpoint,
            base_path=given.base,
            vocabulary_file=given.vocabulary,
            **how,
        )
    else:
        restore = configs.RestoreCheckpointConfig(checkpoint, "specific", base_path=given.base)
        eval_lib.evaluate(
            model.model,
            cfg,
            restore,
            partitioner,
            given.out,
            seen_in_training=given.seen_in_training,
            write_report=False,
            **how,
        )
    print(os.path.join(given.out, "results.json"))
    return _reported(given)


def _tell_tasks(
    rows: Sequence[seqio_tasks.TaskRows], limit: int | None, split: str, chosen: Mapping[str, str] | None = None
) -> None:
    """What would be asked of tasks of the catalogue, and of which checkpoint where there are several."""
    by_dataset: dict[str, list[int]] = {}
    for one in rows:
        most = one.num_examples if limit is None else min(limit, one.num_examples)
        by_dataset.setdefault(one.task.dataset.name, []).append(most)
    for name, counts in by_dataset.items():
        of = f", {chosen[name]}" if chosen else ""
        print(f"{name}: {len(counts)} templates, split {split}, up to {max(counts)} questions each{of}")


def _opt_iml(given: argparse.Namespace) -> int:
    if not given.tasks:
        raise errors.FlanError(
            "--suite opt_iml without --tasks; expected a task or mixture, such as --tasks nli_10templates"
        )
    why = "which ranks candidates or generates greedily"
    _refuse(given, why, cot=False, samples=1, subtasks="", temperature=None, top_k=None, scoring=run.SCORING[0])
    if given.shots not in (None, *opt_iml.SHOTS):
        raise errors.FlanError(f"--shots is {given.shots}; expected 0 or 5, or neither for both")
    data_dir = sources.resolve_data_dir(given.tfds_data_dir)
    catalogue = mixtures.Catalogue.from_modules(given.module)
    split = given.split or opt_iml.SPLIT
    shots = opt_iml.SHOTS if given.shots is None else (given.shots,)
    tasks = opt_iml.asked(catalogue, given.tasks, data_dir, limit=given.limit, split=split, shots=shots)
    there = {one.task.dataset.name for one in tasks}
    absent = dict.fromkeys(task.dataset.name for task in catalogue.eval_tasks(given.tasks))
    levels = provenance.levels(catalogue, given.trained_on, data_dir) if given.trained_on else None
    checkpoint, step = adapted.locate(given.checkpoint)
    if given.dry_run:
        for number in shots:
            print(
                f"{number} exemplars, {given.limit or opt_iml.LIMIT} questions of a dataset, spread over its templates:"
            )
            _tell_tasks([one.rows for one in tasks if one.shots == number], given.limit or opt_iml.LIMIT, split)
        return 0
    results = opt_iml.evaluate(
        infer.load_model(given, given.batch_size),
        tasks,
        given.out,
        name=given.tasks,
        split=split,
        checkpoint=checkpoint,
        step=step or 0,
        seed=given.seed,
        max_tokens=given.max_tokens or opt_iml.MAX_TOKENS,
        levels=levels,
        absent=[name for name in absent if name not in there],
        normalize_by_target_length=given.normalize_by_target_length,
        overwrite=given.overwrite,
    )
    for average in results["averages"]:
        print(f"{average['name']:40}{average['value']:>7.1f}")
    print(f"{os.path.join(given.out, 'results.json')}: {len(results['scores'])} scores")
    return _reported(given)
