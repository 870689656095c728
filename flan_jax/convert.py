"""`flan convert`: checkpoints between T5X, Hugging Face and flan_jax. The work is in `checkpoint/convert.py`."""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence

import jax

from flan_jax import config, errors, log
from flan_jax.checkpoint import convert, sources
from flan_jax.inference import saved
from flan_jax.models import api, presets

_ABOUT = """Writes a checkpoint in another format, one tensor at a time.

  t5x    T5X's legacy layout: checkpoint_<step>/ with a msgpack index and a zarr folder for each array
  orbax  what flan_jax and newer T5X write: checkpoint_<step>/state/, one OCDBT database
  hf     a folder of Hugging Face: config.json and safetensors; T5, OPT and LLaMA

--to orbax gives what INITIAL_CHECKPOINT_PATH takes. t5x and orbax get a config.gin, by which flan chat, infer, serve and eval
know the model and where its vocabulary is. Tokenizers are not copied."""

# gin's names of what makes a model's config.
_MODELS = ("network.T5Config", "network.TransformerConfig")


def main(argv: Sequence[str]) -> int:
    """Parses flags, converts, and says what was done; returns the exit code."""
    log.set_up()
    gin_flags, rest = config.split_argv(argv)
    given = _parser().parse_args(rest)
    # A conversion needs no accelerator, and must not take one that trains.
    jax.config.update("jax_platforms", "cpu")
    result = convert.convert(
        given.source,
        given.out,
        to=given.to,
        from_=getattr(given, "from"),
        config=_model(given.model, gin_flags),
        layers=given.layers,
        dtype=given.dtype,
        shard_bytes=_shard_bytes(given.max_shard_gb),
        overwrite=given.overwrite,
        verify=not given.no_verify,
        dry_run=given.dry_run,
        describe=functools.partial(saved.described, vocabulary_file=given.vocabulary),
    )
    print("\n".join(report(result, str(given.out), given.dry_run)))
    return 0


def report(result: convert.Result, out: str, dry_run: bool = False) -> list[str]:
    """What was read, what was written, and how far both are apart, in lines."""
    source, plan = result.source, result.plan
    model = ", ".join(
        f"{field.name}={getattr(source.config, field.name)!r}"
        for field in dataclasses.fields(source.config)
        if field.default is dataclasses.MISSING or getattr(source.config, field.name) != field.default
    )
    dtype = next(iter(plan.specs.values())).dtype.name
    layers = "stacked" if plan.stacked else "separate"
    lines = [
        f"from       {source.kind} {source.reader.path}: {len(source.reader.tensors)} tensors, {source.nbytes / 1e9:.3f} GB",
        f"model      {type(source.config).__name__}({model})",
        f"           {source.found}",
        f"to         {plan.kind} {out}: {len(plan.specs)} tensors, {plan.nbytes / 1e9:.3f} GB, {dtype}, layers {layers}",
        f"optimizer  {plan.optimizer}",
    ]
    if result.description:
        nameless = f"VOCABULARY_FILE = {saved.UNKNOWN}" in result.description
        unknown = "; no vocabulary is known: give them --vocabulary FILE" if nameless else ""
        lines.append(f"config.gin names the model for flan chat, infer, serve and eval{unknown}")
    if dry_run:
        return [*lines, "dry run: nothing was written"]
    compared = "every tensor was read back and compared"
    if result.difference is None:
        return [*lines, f"written in {result.seconds:.1f} s; {compared}; logits were not (--no_verify)"]
    lines.append(f"written in {result.seconds:.1f} s; {compared}")
    apart = f"{result.difference:.3g} (logits up to {result.largest:.3g})"
    return [*lines, f"largest difference of logits on random input, float32: {apart}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flan convert", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in", dest="source", required=True, help="the checkpoint to read")
    parser.add_argument("--out", required=True, help="the folder to write, such as flan_t5/checkpoint_0")
    parser.add_argument("--to", required=True, help=f"format to write: {', '.join(sources.FORMATS)}")
    parser.add_argument("--from", default="auto", help="format to read; seen from the files if not given")
    parser.add_argument(
        "--model",
        help="model of a T5X checkpoint whose shapes do not tell, e.g. opt_1.3b, llama_7b, t5_1_1_xl; or --gin_file=... of a run",
    )
    parser.add_argument("--vocabulary", metavar="FILE", help="SentencePiece file that config.gin names")
    parser.add_argument(
        "--layers", help="separate or stacked (scan_layers), for t5x and orbax; as they are if not given"
    )
    parser.add_argument("--dtype", default="float32", help="of the parameters written: float32 or bfloat16")
    parser.add_argument("--max_shard_gb", type=float, default=convert.SHARD_GB, help="largest file of hf")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint at --out")
    parser.add_argument(
        "--no_verify",
        action="store_true",
        help="do not compare logits, which takes time; tensors are read back and compared in any case",
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and stop")
    return parser


def _shard_bytes(gigabytes: float) -> int:
    if not gigabytes > 0:
        raise errors.FlanError(f"--max_shard_gb is {gigabytes}; expected more than 0")
    return int(gigabytes * 1e9)


def _model(name: str | None, flags: config.GinFlags) -> api.Config | None:
    """The model that the flags name; None where they name none."""
    if flags.files or flags.bindings:
        if name:
            raise errors.FlanError("given both --model and --gin_file; expected one of them")
        return _from_gin(flags)
    if name is None:
        return None
    t5 = {f"t5_1_1_{size}": size for size in presets.T5_1_1}
    if name in t5:
        return presets.t5_config(t5[name])
    if name in presets.DECODER_ONLY:
        return presets.decoder_only_config(name)
    raise errors.unknown("model", name, (*t5, *presets.DECODER_ONLY))


def _from_gin(flags: config.GinFlags) -> api.Config:
    """The model of a gin configuration, such as MODEL_DIR/config.gin or models/opt/125m.gin."""
    import gin

    with config.isolated():
        config.register()
        parsed = config.parse(flags.files, flags.bindings, flags.search_paths)
        bound = {found.selector for setting in parsed.settings if (found := config.find(setting.selector))}
        models = [name for name in _MODELS if name in bound]
        if len(models) != 1:
            given = ", ".join(models) or "neither"
            raise errors.FlanError(f"the configuration binds {given}; expected one of {' and '.join(_MODELS)}")
        config.bind(parsed)
        try:
            return gin.get_configurable(models[0])()
        except (RuntimeError, ValueError, TypeError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise errors.FlanError(f"the configuration makes no model: {line}") from error


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main(sys.argv[1:]))
