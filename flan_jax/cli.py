"""The `flan` command: parses, checks and calls one function. `flan COMMAND --help` says what each takes."""

import argparse
import sys
from collections.abc import Callable, Sequence

from flan_jax import errors, log

DEFAULT_MODULE = "flan_jax.tasks.catalogue"


def _train(argv: Sequence[str]) -> int:
    from flan_jax import train

    return train.main(list(argv))


def _eval(argv: Sequence[str]) -> int:
    from flan_jax import eval as eval_lib

    return eval_lib.main(list(argv))


def _check(argv: Sequence[str]) -> int:
    from flan_jax import launch

    root = "train_script.train"
    if "--eval" in argv:
        root, argv = "eval_script.evaluate", [flag for flag in argv if flag != "--eval"]
    about = "Checks a configuration and stops; --eval checks it as one for `flan eval`."
    return launch.run(root, "flan check", about, argv, check_only=True)


def _data(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="flan data", description="Prepares data.")
    commands = parser.add_subparsers(dest="command", required=True)
    imports = commands.add_parser("import", help="JSON lines -> prepared TFDS directories")
    imports.add_argument("source", help="folder of <key>/<split>.jsonl[.gz], perhaps with MANIFEST.json")
    imports.add_argument(
        "--data_dir", help="where prepared datasets go; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given"
    )
    imports.add_argument("--keys", help="comma-separated keys to import; all if not given")
    imports.add_argument("--overwrite", action="store_true", help="replace directories that flan did not write")
    from flan_jax.data import commands as data_commands
    from flan_jax.data import doctor

    doctor.add_parser(commands, DEFAULT_MODULE)
    given = parser.parse_args(argv)
    if given.command == "doctor":
        return doctor.run(given)

    keys = given.keys.split(",") if given.keys else None
    return data_commands.import_data(given.source, given.data_dir, keys, given.overwrite)


def _preview(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="flan preview", description="Shows examples of a task or mixture as the model will see them."
    )
    _add_mixture_flags(parser, name="?")
    parser.add_argument("--split", default="train", choices=("train", "validation", "test"))
    parser.add_argument("--n", type=int, default=2, help="how many rows")
    parser.add_argument("--pack", action="store_true", help="pack several examples into a row")
    parser.add_argument(
        "--html", metavar="OUT", help="write every dataset and template as a page: a file or a directory"
    )
    parser.add_argument("--rows", type=int, default=2, help="rows of each dataset in the page")
    given = parser.parse_args(argv)
    if given.html:
        from flan_jax.data import html_catalogue

        html_catalogue.show(
            given.html,
            module=given.module,
            data_dir=given.tfds_data_dir,
            vocabulary_file=given.vocabulary,
            rows=given.rows,
            missing=given.missing,
        )
        return 0
    if given.name is None:
        parser.error("give the name of a task or mixture, or --html OUT")
    from flan_jax.data import preview

    preview.show(
        given.name,
        module=given.module,
        data_dir=given.tfds_data_dir,
        vocabulary_file=given.vocabulary,
        lengths={"inputs": given.inputs, "targets": given.targets},
        split=given.split,
        count=given.n,
        seed=given.seed,
        missing=given.missing,
        pack=given.pack,
    )
    return 0


def _mixture(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="flan mixture",
        description="Shows each task's rows, cap and rate, and what a run of so many steps would read of it.",
    )
    _add_mixture_flags(parser)
    parser.add_argument("--steps", type=int, default=1000, help="updates of the run")
    parser.add_argument("--batch", type=int, default=128, help="rows a batch")
    parser.add_argument("--no_pack", action="store_true", help="one example a row")
    parser.add_argument(
        "--check-heldout", metavar="CLUSTER", help="say whether data of a held-out cluster is in training"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(argv)
    if given.check_heldout:
        from flan_jax.data import holdout, mixtures

        leaks = holdout.heldout_leaks(mixtures.Catalogue.from_modules(given.module), given.name, given.check_heldout)
        print("\n".join(map(str, leaks)) or f"{given.name} holds nothing of {given.check_heldout}")
        return 1 if leaks else 0
    from flan_jax.data import mixture_table

    mixture_table.show(
        given.name,
        module=given.module,
        data_dir=given.tfds_data_dir,
        vocabulary_file=given.vocabulary,
        lengths={"inputs": given.inputs, "targets": given.targets},
        steps=given.steps,
        batch_size=given.batch,
        seed=given.seed,
        missing=given.missing,
        pack=not given.no_pack,
        as_json=given.json,
    )
    return 0


def _check_templates(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="flan check-templates", description="Lints template files against their datasets and a vocabulary."
    )
    parser.add_argument("--module", default=DEFAULT_MODULE, help="module that defines SPECS")
    parser.add_argument("--vocabulary", help="SentencePiece file; the embedded one if not given")
    parser.add_argument("--tfds_data_dir", help="prepared datasets whose rows the fields are held against")
    given = parser.parse_args(argv)
    from flan_jax.data import template_lint

    return template_lint.main(given.module, given.vocabulary, given.tfds_data_dir)


def _new_task(argv: Sequence[str]) -> int:
    from flan_jax.data import new_task

    return new_task.run(argv, DEFAULT_MODULE)


def _add_mixture_flags(parser: argparse.ArgumentParser, name: str | None = None) -> None:
    parser.add_argument(
        "name", nargs=name, help="a task or mixture, such as rte_10templates or flan_minus_nli_10templates"
    )
    parser.add_argument("--module", default=DEFAULT_MODULE, help="module that defines SPECS, or registers seqio tasks")
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--vocabulary", help="SentencePiece file, local or gs://; the embedded one if not given")
    parser.add_argument("--inputs", type=int, default=512, help="tokens of a row's inputs")
    parser.add_argument("--targets", type=int, default=128, help="tokens of a row's targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing", default="error", choices=("error", "skip"), help="tasks whose data is not there")


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train a model from a gin configuration"),
    "eval": (_eval, "evaluate a checkpoint on held-out tasks"),
    "check": (_check, "check a gin configuration without running it"),
    "data": (_data, "import JSON lines as TFDS datasets; see what is there and what is missing"),
    "preview": (_preview, "show examples as the model sees them"),
    "mixture": (_mixture, "show what a mixture is made of"),
    "new-task": (_new_task, "start a task for a dataset of your own"),
    "check-templates": (_check_templates, "lint template files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A user's mistake ends with one message and code 1."""
    argv = list(sys.argv[1:] if argv is None else argv)
    log.set_up()
    with errors.reported():
        if not argv or argv[0] in ("-h", "--help"):
            listed = "\n".join(f"  {name:16}{about}" for name, (_, about) in COMMANDS.items())
            print(f"usage: flan COMMAND [flags]\n\ncommands:\n{listed}\n\n`flan COMMAND --help` says more.")
            return 0 if argv else 2
        if argv[0] not in COMMANDS:
            raise errors.unknown("command", argv[0], COMMANDS)
        return COMMANDS[argv[0]][0](argv[1:])
    return 1


if __name__ == "__main__":
    sys.exit(main())
