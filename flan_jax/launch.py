"""From a command line to one bound call: parse gin, check everything, then run."""

import argparse
import logging
import shlex
from collections.abc import Sequence
from typing import Any

from flan_jax import config, config_check, distributed, errors, host_memory, log, run_check

logger = logging.getLogger(__name__)

GIN_HELP = """
gin flags:
  --gin_file=PATH            a configuration file; may be given several times, later ones override
  --gin.NAME=VALUE           one binding, e.g. --gin.BATCH_SIZE=64 or --gin.MODEL_DIR="'/tmp/run'"
  --gin_search_paths=A,B     where files and includes are looked for, before . and the shipped gin/
"""


# What `flan check` can check a configuration as -> what gin then has to reach everything from.
ROOTS = {
    "train": "train_script.train",
    "eval": "eval_script.evaluate",
    "infer": "infer_script.infer",
    "ablate": "ablation.Ablation",
}


def run(root: str, program: str, about: str, argv: Sequence[str], *, check_only: bool = False) -> int:
    """Parses flags, checks the configuration, binds it and calls its root.

    Args:
      root: selector of the function to call, such as `train_script.train`; of a check alone, what is checked where neither a
        flag nor the files say it.
      program: name for the help text.
      about: what it does, for the help text.
      argv: the flags.
      check_only: stop after the check.

    Returns:
      The exit code.

    Raises:
      FlanError: every mistake in the configuration, in one message.
    """
    log.set_up()
    flags, rest = config.split_argv(argv)
    parser = _parser(root, program, about, check_only)
    given = parser.parse_args(rest)
    if not flags.files and not flags.bindings:
        parser.error("no configuration: expected --gin_file=PATH, e.g. --gin_file=recipes/demo.gin")
    if given.seqio_additional_cache_dirs:
        raise errors.FlanError(
            f"--seqio_additional_cache_dirs={given.seqio_additional_cache_dirs}: expected no such flag, since seqio's caches are "
            "not read; `flan data cache` makes rows beforehand, of seqio's own tasks, too, and PACKED_CACHE names them"
        )
    bindings = list(flags.bindings)
    if given.tfds_data_dir:
        bindings.append(f"utils.DatasetConfig.data_dir = {given.tfds_data_dir!r}")
    if getattr(given, "profile_steps", None):
        bindings.append(f"{root}.profile_steps = {given.profile_steps!r}")
    if not check_only and not given.dry_run:
        join(given)
    config.register()
    parsed = config.parse(flags.files, bindings, flags.search_paths)
    if check_only:
        root = given.root or _bound_root(parsed) or root
    problems = config_check.check(parsed, root, semantic_checks=run_check.CHECKS, known_macros=run_check.SHARED_MACROS)
    for problem in problems:
        if problem.level != "error":
            logger.warning("%s", problem.message if problem.location is None else problem)
    config_check.raise_errors(problems)
    if check_only:
        print(f"ok: {len(parsed.settings)} settings of {root}, no problems")
        return 0
    config.bind(parsed)
    if given.dry_run:
        print(config.config_str())
        return 0
    logger.info("%s %s", program, shlex.join(argv))
    distributed.compare("configuration and versions", {**_settings(parsed), **distributed.versions()})
    host_memory.keep_freed()
    if given.compilation_cache_dir:
        keep_compiled(given.compilation_cache_dir)
    if getattr(given, "precompile", False):
        from flan_jax import plan

        return plan.precompile()
    call(root)
    return 0


def _parser(root: str, program: str, about: str, check_only: bool) -> argparse.ArgumentParser:
    """The flags beside gin's own."""
    parser = argparse.ArgumentParser(
        prog=program, description=about, epilog=GIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--seqio_additional_cache_dirs", help="of t5x; refused: seqio's caches are not read")
    parser.add_argument(
        "--compilation_cache_dir",
        metavar="DIR",
        help="what is compiled once is found there by later runs, local or gs://",
    )
    parser.add_argument("--dry_run", action="store_true", help="check the configuration, print it, and stop")
    if root == "train_script.train" and not check_only:
        parser.add_argument(
            "--precompile",
            action="store_true",
            help="compile the step for the devices here, report what it needs, and stop",
        )
        parser.add_argument(
            "--profile_steps", metavar="FROM:TO", help="write a profiler trace of these steps to MODEL_DIR/train"
        )
    if check_only:
        _add_root_flags(parser)
    else:
        add_process_flags(parser)
    return parser


def _add_root_flags(parser: argparse.ArgumentParser) -> None:
    """What a configuration is checked as; by itself it is checked as what its files bind."""
    group = parser.add_mutually_exclusive_group()
    for name, root in ROOTS.items():
        about = f"check it as one for `flan {name}`, which calls {root}"
        group.add_argument(f"--{name}", dest="root", action="store_const", const=root, help=about)


def _bound_root(parsed: config.ParsedConfig) -> str | None:
    """The one root that a configuration binds arguments of, if there is one.

    Raises:
      FlanError: there are several.
    """
    named = {setting.selector for setting in parsed.settings}
    bound = {name: root for name, root in ROOTS.items() if root in named}
    if len(bound) > 1:
        flags = " or ".join(f"--{name}" for name in bound)
        raise errors.FlanError(f"{' and '.join(bound.values())} are bound; expected {flags}, to say which to check")
    return next(iter(bound.values()), None)


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of several processes: what SLURM, Kubernetes and TPU slices say by themselves."""
    parser.add_argument("--coordinator_address", metavar="HOST:PORT", help="where process 0 is; for several processes")
    parser.add_argument("--num_processes", type=int, help="how many there are")
    parser.add_argument("--process_id", type=int, help="the number of this one, from 0")
    parser.add_argument("--join_timeout", type=float, default=300.0, metavar="SECONDS", help="in which all must come")


def join(given: argparse.Namespace) -> None:
    """Joins the processes of the run by the flags of `add_process_flags`, before JAX touches a device."""
    distributed.join(given.coordinator_address, given.num_processes, given.process_id, given.join_timeout)


def _settings(parsed: config.ParsedConfig) -> dict[str, str]:
    """What gin was told, by name. Directories of data may be others on each host: what is in them is compared later."""
    return {
        setting.key: repr(setting.value)
        for setting in parsed.settings
        if setting.param not in ("data_dir", "packed_cache")
    }


def call(root: str) -> Any:
    """Calls a configurable with what gin binds for it."""
    import gin

    try:
        return gin.get_configurable(root)()
    except errors.FlanError as error:
        # gin appends a line for each configurable that was being called; the user's mistake is in the line before them.
        raise errors.FlanError(str(error).partition("\n  In call to configurable ")[0]) from error


def keep_compiled(directory: str) -> None:
    """Turns JAX's persistent compilation cache on, for small functions too: a restart compiles a dozen beside the step."""
    import jax

    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
