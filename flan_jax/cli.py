"""The `flan` command: parses, checks and calls one function. `flan COMMAND --help` says what each takes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from flan_jax import errors, log

DEFAULT_MODULE = "flan_jax.tasks.catalogue"


def _train(argv: Sequence[str]) -> int:
    from flan_jax import preemption

    with preemption.handled():  # before JAX is imported, which takes seconds
        from flan_jax import train

        return train.main(list(argv))


def _eval(argv: Sequence[str]) -> int:
    from flan_jax import eval as eval_lib

    return eval_lib.main(list(argv))


def _report(argv: Sequence[str]) -> int:
    from flan_jax import report

    return report.main(argv)


def _contamination(argv: Sequence[str]) -> int:
    from flan_jax import contamination

    return contamination.main(argv)


def _infer(argv: Sequence[str]) -> int:
    from flan_jax import infer

    return infer.main(argv)


def _chat(argv: Sequence[str]) -> int:
    from flan_jax import chat

    return chat.main(argv)


def _serve(argv: Sequence[str]) -> int:
    from flan_jax import serve

    return serve.main(argv)


def _check(argv: Sequence[str]) -> int:
    from flan_jax import launch

    about = "Checks a configuration as what its files are for, or as a flag says, and stops."
    return launch.run(launch.ROOTS["train"], "flan check", about, argv, check_only=True)


def _plan(argv: Sequence[str]) -> int:
    # With libtpu installed JAX would otherwise look for a TPU, and take one where there is one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from flan_jax import plan

    return plan.main(argv)


def _ablate(argv: Sequence[str]) -> int:
    from flan_jax import ablate

    return ablate.main(argv)


def _data(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="flan data", description="Prepares data.")
    commands = parser.add_subparsers(dest="command", required=True)
    imports = commands.add_parser("import", help="JSON lines or TSV -> prepared TFDS directories")
    imports.add_argument(
        "source", help="folder of <key>/<split>.jsonl[.gz] or <key>/<split>.tsv[.gz], perhaps with MANIFEST.json"
    )
    imports.add_argument(
        "--data_dir", help="where prepared datasets go; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given"
    )
    imports.add_argument("--keys", help="comma-separated keys to import; all if not given")
    imports.add_argument(
        "--columns", help="comma-separated names of the columns of TSV files that do not start with them"
    )
    imports.add_argument("--overwrite", action="store_true", help="replace directories that flan did not write")
    from flan_jax.data import cache_command, doctor
    from flan_jax.data import commands as data_commands
    from flan_jax.data.small_world import make as small_world

    doctor.add_parser(commands, DEFAULT_MODULE)
    small_world.add_parser(commands)
    cache_command.add_parser(commands, DEFAULT_MODULE)
    given = parser.parse_args(argv)
    if given.command == "doctor":
        return doctor.run(given)
    if given.command == "cache":
        return cache_command.run(given)
    if given.command == small_world.NAME:
        return small_world.run(given)

    keys, columns = (text.split(",") if text else None for text in (given.keys, given.columns))
    return data_commands.import_data(given.source, given.data_dir, keys, given.overwrite, columns)


def _preview(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="flan preview",
        description="Shows examples of a task or mixture as the model will see them. Segments and positions are features of packed "
        "rows: --pack shows them.",
    )
    _add_mixture_flags(parser, name="?")
    parser.add_argument("--split", default="train", choices=("train", "validation", "test"))
    parser.add_argument("--n", type=int, default=2, help="how many rows")
    parser.add_argument("--pack", action="store_true", help="pack several examples into a row, as training does")
    families = ("encoder_decoder", "prefix_lm", "lm")
    parser.add_argument("--features", default=families[0], choices=families, help="for which family of models")
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
    from flan_jax.data import features, preview

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
        converter=features.CONVERTERS[given.features](),
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
        "--check-heldout",
        metavar="CLUSTER",
        help="say whether data of a held-out cluster is in training, and exit 1 if it is; a dataset that only shares texts"
        " with the cluster is warned of and changes no exit code",
    )
    parser.add_argument(
        "--levels",
        action="store_true",
        help="say how far each dataset is from training: held out, in part, or not at all",
    )
    parser.add_argument(
        "--published", action="store_true", help="the table at published sizes: rows and rates; reads no data"
    )
    parser.add_argument("--tasks", action="store_true", help="a line each task, where there are collections of them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(argv)
    if given.check_heldout:
        from flan_jax.data import mixture_table

        return mixture_table.check_heldout(
            given.name, given.check_heldout, module=given.module, data_dir=given.tfds_data_dir
        )
    if given.levels:
        from flan_jax.data import mixtures, provenance

        catalogue = mixtures.Catalogue.from_modules(given.module)
        for cluster, found in provenance.levels(catalogue, given.name, given.tfds_data_dir).items():
            for level in sorted(set(found.values())):
                print(f"{cluster}: {level}: {', '.join(name for name, of in found.items() if of == level)}")
        return 0
    from flan_jax.data import mixture_table

    if given.published:
        mixture_table.show_published(given.name, module=given.module, as_json=given.json, every_task=given.tasks)
        return 0
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
        every_task=given.tasks,
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


def _convert(argv: Sequence[str]) -> int:
    from flan_jax import convert

    return convert.main(argv)


def _merge(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="flan merge", description="Adds a LoRA adapter to the model that it was trained on: one plain checkpoint."
    )
    parser.add_argument(
        "--in", dest="source", required=True, help="MODEL_DIR of the adapter's run, or a checkpoint in it"
    )
    parser.add_argument("--out", required=True, help="directory that gets checkpoint_<step>")
    parser.add_argument("--base", help="checkpoint of the base, if it has moved since")
    parser.add_argument("--undo", metavar="MERGED", help="take the adapter away from this merged checkpoint instead")
    given = parser.parse_args(argv)
    from flan_jax.checkpoint import adapted

    print(f"wrote {adapted.merge(given.source, given.out, base_path=given.base, undo=given.undo)}")
    return 0


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
    "report": (_report, "results of an evaluation, or of two, as Markdown and as a page"),
    "contamination": (_contamination, "which evaluated examples share n-grams with a training mixture"),
    "infer": (_infer, "answer prompts, or a task's examples, into JSON lines"),
    "chat": (_chat, "talk to a trained model"),
    "serve": (_serve, "a page to try a model, and OpenAI's completions endpoint, on this machine"),
    "check": (_check, "check a gin configuration without running it"),
    "plan": (_plan, "compile a run's step for a TPU slice that is not there: memory, time, what to change"),
    "ablate": (_ablate, "run a paper's ablation: a grid of runs, a table and a figure"),
    "convert": (_convert, "checkpoints between T5X, Hugging Face and flan_jax"),
    "merge": (_merge, "add a LoRA adapter to its base"),
    "data": (_data, "import JSON lines as TFDS datasets; see what is there; cache packed rows"),
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
