"""From a run's directory to a model that can be asked: its config.gin says what it is, its checkpoint what it has learned."""

import dataclasses
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from flan_jax import config as config_lib
from flan_jax import errors, launch, sharding
from flan_jax.checkpoint import adapted, families, folders, manager, sources, tensors
from flan_jax.data import vocabulary
from flan_jax.inference import generate
from flan_jax.models import api, presets

CONFIG = "config.gin"
DEFAULT_INPUTS = 512  # tokens of a prompt where the run does not say
# The roots whose argument `model` says what a run's model is, and a scope that says how long its inputs were.
_ROOTS = ("train_script.train", "eval_script.evaluate", "infer_script.infer")
_LENGTHS = ("train", "infer_eval", "")
_VOCABULARY = ("seqio.SentencePieceVocabulary", "sentencepiece_model_file")
UNKNOWN = "%gin.REQUIRED"  # what config.gin says of a vocabulary that nothing names
_T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
# How Hugging Face calls the SentencePiece files of T5 and of LLaMA.
_THEIR_VOCABULARIES = ("spiece.model", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class Run:
    """What config.gin says.

    Attributes:
      model: architecture and vocabularies.
      lengths: the features' lengths in training, empty if not said.
    """

    model: Any
    lengths: Mapping[str, int]


def load(
    path: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    inputs_length: int | None = None,
    num_partitions: int = 1,
    base_path: str | os.PathLike[str] | None = None,
    vocabulary_file: str | None = None,
) -> generate.Generator:
    """Opens a trained model, on all devices.

    Args:
      path: a run's MODEL_DIR, whose newest checkpoint is taken, or one `checkpoint_<step>` in it. The config.gin in the
        checkpoint, which `flan convert` writes, or in MODEL_DIR, from `flan train`, says which model and vocabulary it is.
      batch_size: prompts a step at most.
      inputs_length: tokens of a prompt at most; as in training where None.
      num_partitions: devices that share one copy of the model.
      base_path: of an adapter's checkpoint, where its base has moved to.
      vocabulary_file: SentencePiece file in place of the one that config.gin names.

    Returns:
      Something to `generate` and `stream` with.

    Raises:
      FlanError: nothing is there, or the model cannot be made of it.
    """
    checkpoint = adapted.locate(_existing(path))[0]
    run = read_run(checkpoint, vocabulary_file)
    mesh = sharding.make_mesh(model=num_partitions)
    params = restored(run.model, checkpoint, mesh, base_path=base_path)
    return asked(
        run.model,
        params,
        mesh,
        inputs_length=inputs_length or run.lengths.get("inputs", DEFAULT_INPUTS),
        batch_size=batch_size,
    )


def read_run(checkpoint: str | os.PathLike[str], vocabulary_file: str | None = None) -> Run:
    """Reads the config.gin in a checkpoint, or beside it. gin's own configuration stays as it is.

    Raises:
      FlanError: there is none, or it names no model or no vocabulary.
    """
    path = manager.absolute(checkpoint)
    file = next((folder / CONFIG for folder in (path, path.parent) if (folder / CONFIG).exists()), None)
    if file is None:
        raise errors.FlanError(
            f"{path.parent / CONFIG} does not exist; expected a checkpoint in the MODEL_DIR of `flan train`, or one of "
            f"`flan convert`, whose {CONFIG} names the model"
        )
    with config_lib.isolated(), tempfile.TemporaryDirectory() as folder:
        config_lib.register()
        config_lib.register({"inference.Run": f"{__name__}:Run"})
        local = os.path.join(folder, CONFIG)  # files are parsed from local disks, and a run may be on gs://
        with open(local, "w", encoding="utf-8") as copy:
            copy.write(file.read_text())
        parsed = config_lib.parse([local])
        values = {setting.key: setting for setting in parsed.settings}
        models = [values[f"{root}.model"] for root in _ROOTS if f"{root}.model" in values]
        if not models:
            raise errors.FlanError(f"{file} names no model; expected {' or '.join(f'{root}.model' for root in _ROOTS)}")
        scopes = (f"{scope}/" if scope else "" for scope in _LENGTHS)
        names = [f"{scope}utils.DatasetConfig.task_feature_lengths" for scope in scopes]
        lengths = next((values[name].value for name in names if name in values), {})
        wanted = {"model": models[0].value, "lengths": lengths}
        settings = [
            config_lib.Setting("", "inference.Run", name, value, models[0].location) for name, value in wanted.items()
        ]
        named = values.get(".".join(_VOCABULARY))
        if vocabulary_file is not None:
            if named is None:
                raise errors.FlanError(
                    f"{file} names no SentencePiece vocabulary that {vocabulary_file!r} could replace"
                )
            settings.append(config_lib.Setting("", *_VOCABULARY, vocabulary_file, named.location))
        elif "VOCABULARY_FILE" in values and repr(values["VOCABULARY_FILE"].value) == UNKNOWN:
            raise errors.FlanError(f"{file} names no vocabulary; expected --vocabulary FILE, of SentencePiece")
        config_lib.bind(dataclasses.replace(parsed, settings=(*parsed.settings, *settings)))
        return launch.call("inference.Run")


def described(source: sources.Opened, scan_layers: bool, vocabulary_file: str | None = None) -> str:
    """The config.gin of a checkpoint that is made of another one, by which `read_run` knows it.

    Args:
      source: what it is made of. Where that is a run's, its config.gin is taken over, so that it also says what the run was
        trained on.
      scan_layers: whether the layers of what is made are stacked.
      vocabulary_file: its SentencePiece file; where None the one in a folder of Hugging Face, T5's or the embedded one for as
        many pieces, or none: then whoever asks the model has to name it.
    """
    decoder_only = isinstance(source.config, api.DecoderOnlyConfig)
    network = "network.TransformerConfig" if decoder_only else "network.T5Config"
    model = "models.DecoderOnlyModel" if decoder_only else "models.EncoderDecoderModel"
    bindings = [f"{network}.scan_layers = {scan_layers}"]
    if vocabulary_file is not None:
        bindings.append(f"VOCABULARY_FILE = {os.path.abspath(vocabulary_file)!r}")
    with config_lib.isolated():
        config_lib.register()
        run = _config_of_run(source)
        if run is not None:
            return config_lib.config_str(config_lib.parse([run], bindings))
        if vocabulary_file is None:
            bindings.append(f"VOCABULARY_FILE = {_vocabulary_of(source)}")
        for field in dataclasses.fields(source.config):
            value = getattr(source.config, field.name)
            if field.name != "scan_layers" and value is not None:
                bindings.append(f"{network}.{field.name} = {value!r}")
        bindings.append(f"{_ROOTS[-1]}.model = @{model}()")
        return config_lib.config_str(config_lib.parse([_base_file(source.config)], bindings))


def _config_of_run(source: sources.Opened) -> str | None:
    """The config.gin that already describes the model of a checkpoint, if one does."""
    path = source.reader.path
    if source.kind == "hf" or "://" in os.fspath(path):
        return None
    try:
        same = tensors.parameters(read_run(path).model.config) == tensors.parameters(source.config)
    except errors.FlanError:  # there is none, or it is t5x's own with what only t5x has
        return None
    return (
        os.fspath(next(folder / CONFIG for folder in (path, path.parent) if (folder / CONFIG).exists()))
        if same
        else None
    )


def _base_file(config: api.Config) -> str:
    """What the shipped files of a model's family have in common: for one, the token that begins a sequence."""
    if isinstance(config, api.T5Config):
        return "models/t5_1_1/base_model.gin"
    palm_like = config.block == "parallel" or (config.positions == "rotary" and config.norm == "layer")
    if config.positions == "relative" or palm_like:
        return "models/decoder_only/base_model.gin"
    return f"models/{families.family_of(config)}/base_model.gin"


def _vocabulary_of(source: sources.Opened) -> str:
    """The vocabulary of a model that no run describes, as gin reads it."""
    theirs = [source.reader.path / name for name in _THEIR_VOCABULARIES if source.kind == "hf"]
    found = next((os.fspath(file) for file in theirs if file.exists()), None)
    if found is None and isinstance(source.config, api.T5Config) and source.config.vocab_size == presets.T5_VOCAB_SIZE:
        found = _T5_VOCABULARY
    if found is not None:
        return repr(found)
    return "None" if source.config.vocab_size == vocabulary.sentencepiece_vocabulary().vocab_size else UNKNOWN


def restored(
    model: Any,
    checkpoint: str | os.PathLike[str],
    mesh: Any,
    rules: sharding.Rules = sharding.STANDARD_RULES,
    base_path: str | os.PathLike[str] | None = None,
) -> api.Params:
    """The parameters of one checkpoint, on the mesh; of an adapter's, applied to its base."""
    shapes = api.abstract_params(model.config)
    places = sharding.param_shardings(mesh, api.logical_axes(model.config), shapes, rules)
    placed = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places)
    return adapted.load_params(checkpoint, placed, mesh=mesh, base_path=base_path)


def identity(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """What answers depend on: where the checkpoint lies, and a mark of its weights, as a run may be trained anew in its place."""
    marks = json.dumps(folders.notes(checkpoint).get("fingerprints", {}), sort_keys=True)
    return {"checkpoint": os.fspath(checkpoint), "weights": f"{zlib.crc32(marks.encode()):08x}"}


def asked(model: Any, params: api.Params, mesh: Any, *, inputs_length: int, batch_size: int) -> generate.Generator:
    """A generator of a model's own vocabulary and layout.

    Args:
      model: `training.configs.EncoderDecoderModel` or `DecoderOnlyModel`.
      params: its parameters.
      mesh: where they are.
      inputs_length: tokens of a prompt at most.
      batch_size: prompts a step at most.
    """
    return generate.Generator(
        model.config,
        params,
        vocabulary.Tokenizer(model.input_vocabulary),
        inputs_length=inputs_length,
        batch_size=batch_size,
        converter=model.question_converter,
        mesh=mesh,
    )


def _existing(path: str | os.PathLike[str]) -> str:
    """The path itself, if it is a directory; the checkpoint's own errors then say what."""
    found = manager.absolute(path)
    if found.is_dir():
        return os.fspath(found)
    if found.exists():
        raise errors.FlanError(f"{found} is a file; expected a run's MODEL_DIR, or a checkpoint_<step> in it")
    parent = found.parent
    names = [child.name for child in parent.iterdir()] if parent.is_dir() else []
    raise errors.FlanError(f"no run or checkpoint at {found}: it does not exist{errors.nearest(found.name, names)}")
