"""From a command line to one bound call: parse gin, check everything, then run."""

import argparse
import logging
import shlex
from collections.abc import Sequence

from flan_jax import config, config_check, errors, host_memory, log, run_check
from flan_jax.data import quiet

logger = logging.getLogger(__name__)

GIN_HELP = """
gin flags:
  --gin_file=PATH            a configuration file; may be given several times, later ones override
  --gin.NAME=VALUE           one binding, e.g. --gin.BATCH_SIZE=64 or --gin.MODEL_DIR="'/tmp/run'"
  --gin_search_paths=A,B     where files and includes are looked for, before . and the shipped gin/
"""


def run(root: str, program: str, about: str, argv: Sequence[str], *, check_only: bool = False) -> int:
    """Parses flags, checks the configuration, binds it and calls its root.

    Args:
      root: selector of the function to call, such as `train_script.train`.
      program: name for the help text.
      about: what it does, for the help text.
      argv: the flags.
      check_only: stop after the check.

    Returns:
      The exit code.

    Raises:
      FlanError: every mistake in the configuration, in one message.
    """
    import gin

    log.set_up()
    flags, rest = config.split_argv(argv)
    parser = argparse.ArgumentParser(
        prog=program, description=about, epilog=GIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--seqio_additional_cache_dirs", help="comma-separated directories of seqio's own task cache")
    parser.add_argument("--dry_run", action="store_true", help="check the configuration, print it, and stop")
    given = parser.parse_args(rest)
    if not flags.files and not flags.bindings:
        parser.error("no configuration: expected --gin_file=PATH, e.g. --gin_file=recipes/demo.gin")
    if given.seqio_additional_cache_dirs:
        quiet.seqio().add_global_cache_dirs(given.seqio_additional_cache_dirs.split(","))
    bindings = list(flags.bindings)
    if given.tfds_data_dir:
        bindings.append(f"utils.DatasetConfig.data_dir = {given.tfds_data_dir!r}")
    config.register()
    parsed = config.parse(flags.files, bindings, flags.search_paths)
    problems = config_check.check(parsed, root, semantic_checks=run_check.CHECKS, known_macros=run_check.SHARED_MACROS)
    for problem in problems:
        if problem.level != "error":
            logger.warning("%s", problem.message if problem.location is None else problem)
    config_check.raise_errors(problems)
    if check_only:
        print(f"ok: {len(parsed.settings)} settings, no problems")
        return 0
    config.bind(parsed)
    if given.dry_run:
        print(config.config_str())
        return 0
    logger.info("%s %s", program, shlex.join(argv))
    host_memory.keep_freed()
    try:
        gin.get_configurable(root)()
    except errors.FlanError as error:
        # gin appends a line for each configurable that was being called; the user's mistake is in the line before them.
        raise errors.FlanError(str(error).partition("\n  In call to configurable ")[0]) from error
    return 0
