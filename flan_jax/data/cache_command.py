"""`flan data cache`: its flags, and what it prints."""

import argparse
import os
from typing import Any

from flan_jax import errors
from flan_jax.data import cache, cache_verify, cache_write, features, row_request, vocabulary

_CONVERTERS: dict[str, Any] = {made.name: made for made in (features.EncoderDecoder, features.PrefixLM, features.LM)}


def add_parser(commands: Any, default_module: str) -> None:
    """Adds `flan data cache` to the subcommands of `flan data`."""
    parser = commands.add_parser(
        "cache",
        help="tokenised, packed rows on disk, to train from without TensorFlow",
        description="Writes the packed rows of a mixture as ArrayRecord shards. Interrupted, the same command goes on.",
    )
    parser.add_argument("name", nargs="?", help="a task or mixture, such as flan_minus_nli_10templates")
    parser.add_argument(
        "--out", metavar="DIR", help="where the cache goes: local, mounted, or gs:// to be copied later"
    )
    parser.add_argument("--verify", metavar="DIR", help="check every shard of a cache instead")
    size = parser.add_argument_group("size, one of")
    size.add_argument("--rows", type=int, help="so many rows")
    size.add_argument("--steps", type=int, help="what so many updates of --batch rows read")
    size.add_argument("--batch", type=int, help="rows a batch, with --steps")
    size.add_argument("--epochs", type=float, help="passes: each task's rows, or as many as the mixture's limit")
    parser.add_argument("--inputs", type=int, default=512, help="tokens of a row's inputs")
    parser.add_argument("--targets", type=int, default=128, help="tokens of a row's targets")
    parser.add_argument("--split", default="train", choices=("train", "validation", "test"))
    parser.add_argument("--seed", type=int, default=0, help="of drawing, templates and exemplars")
    parser.add_argument("--no_shuffle", action="store_true", help="each task in the order of its file")
    parser.add_argument("--no_pack", action="store_true", help="one example a row")
    parser.add_argument("--features", default="encoder_decoder", choices=_CONVERTERS, help="for which family of models")
    parser.add_argument("--bos_id", type=int, default=0, help="first token of an example, for prefix_lm and lm")
    parser.add_argument("--loss_on_inputs", action="store_true", help="prefix_lm: inputs carry loss, too")
    parser.add_argument("--module", default=default_module, help="module that defines SPECS, or registers seqio tasks")
    parser.add_argument("--tfds_data_dir", help="directory of prepared TFDS datasets, or the word 'sample'")
    parser.add_argument("--vocabulary", help="SentencePiece file, local or gs://; the embedded one if not given")
    parser.add_argument("--missing", default="error", choices=("error", "skip"), help="tasks whose data is not there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; the result is the same for any")
    parser.add_argument(
        "--shards", type=int, help="files; by default 8,192 rows a file, and 16 files where that fills them"
    )
    parser.add_argument(
        "--runner",
        help="make the shards with Apache Beam: DirectRunner, or 'DataflowRunner --project=... --region=...'",
    )


def run(given: argparse.Namespace) -> int:
    """Writes or checks a cache, as the flags say; returns the exit code."""
    if given.verify:
        print(cache_verify.verify(given.verify))
        return 0
    for flag, value in (("MIXTURE", given.name), ("--out DIR", given.out)):
        if value is None:
            raise errors.FlanError(f"flan data cache needs {flag}; or --verify DIR, to check a cache")
    request = row_request.Request(
        mixture=given.name,
        module=given.module,
        data_dir=given.tfds_data_dir,
        vocabulary=vocabulary.sentencepiece_vocabulary(given.vocabulary),
        inputs=given.inputs,
        targets=given.targets,
        split=given.split,
        seed=given.seed,
        shuffle=not given.no_shuffle,
        pack=not given.no_pack,
        missing=given.missing,
        converter=_converter(given),
        threads=2 if given.jobs == 1 else 1,
    )
    made = cache_write.build(
        request, given.out, _rows(given, request), shards=given.shards, jobs=given.jobs, runner=given.runner
    )
    print(_summary(made))
    return 0


def _converter(given: argparse.Namespace) -> features.Converter:
    settings: dict[str, Any] = {}
    if given.features != "encoder_decoder":
        settings["bos_id"] = given.bos_id
    elif given.bos_id:
        raise errors.FlanError("--bos_id is for --features prefix_lm and lm: T5's decoders begin with 0")
    if given.features == "prefix_lm":
        settings["loss_on_targets_only"] = not given.loss_on_inputs
    elif given.loss_on_inputs:
        raise errors.FlanError(f"--loss_on_inputs is for --features prefix_lm, not {given.features}")
    return _CONVERTERS[given.features](**settings)


def _rows(given: argparse.Namespace, request: row_request.Request) -> int:
    """The one size that was given, in rows."""
    asked = [name for name in ("rows", "steps", "epochs") if getattr(given, name) is not None]
    if len(asked) != 1:
        said = " and ".join(f"--{name}" for name in asked) or "none"
        raise errors.FlanError(f"give one of --rows, --steps with --batch, and --epochs; given {said}")
    if (given.steps is None) != (given.batch is None):
        raise errors.FlanError("--steps and --batch go together: rows = steps x batch")
    if given.epochs is not None:
        if given.epochs <= 0:
            raise errors.FlanError(f"--epochs {given.epochs:g}; expected more than 0")
        return cache_write.rows_of_epochs(request, given.epochs)
    rows = given.rows if given.rows is not None else given.steps * given.batch
    if rows < 1:
        raise errors.FlanError(f"{rows} rows; expected at least 1")
    return rows


def _summary(made: cache.Cache) -> str:
    found = made.manifest
    size = sum(shard.bytes for shard in made.shards) / 2**20
    return (
        f"{found['mixture']}: {found['rows']:,} rows, {found['examples']:,} examples, {found['tokens']:,} tokens in "
        f"{len(made.shards)} shards of {made.directory}, {size:,.1f} MiB\n"
        f"train from it with --gin.PACKED_CACHE=\"'{made.directory}'\""
    )
