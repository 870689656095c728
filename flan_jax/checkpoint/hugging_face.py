"""Folders of Hugging Face models: `config.json` and safetensors, in one file or in shards with an index."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from flan_jax import errors
from flan_jax.checkpoint import families, hugging_face_config, safetensors_files
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Place, Stored
from flan_jax.models import api

CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack", "tf_model.h5")


def is_folder(path: epath.Path) -> bool:
    return any((path / name).is_file() for name in (SINGLE, INDEX, *_PICKLED))


class Reader:
    """A folder that is open for reading. Opening it reads config, index and headers.

    Args:
      path: the folder, local.

    Attributes:
      path: the same, absolute.
      tensors: every tensor by its name with a head's prefix, also under the name of a tensor of which only a copy was saved.
      config: the model.
      family: the family of its names.

    Raises:
      FlanError: there is no such folder, or its model is none of ours.
      BrokenCheckpoint: one of its files cannot be read, is not all there, or holds other tensors than the index says.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = tensors_lib.absolute(path)
        if "://" in str(self.path):
            raise errors.FlanError(f"{self.path}: expected a local folder of a Hugging Face model")
        config = self._json(CONFIG)
        self.family, self.config = hugging_face_config.read(config, self.path / CONFIG)
        self._shards: dict[str, safetensors_files.File] = {}
        if (self.path / INDEX).is_file():
            self._read_index()
        elif (self.path / SINGLE).is_file():
            self._add(self._file(SINGLE))
        else:
            found = [name for name in _PICKLED if (self.path / name).is_file()]
            hint = f"; it holds {found[0]}, which is not read: save it with safe_serialization=True" if found else ""
            raise errors.FlanError(f"{self.path} has neither {SINGLE} nor {INDEX}{hint}")
        # Our name -> that in the file, where a model was saved without its head's prefix (opt-350m, opt-6.7b on the hub).
        self._saved_as = {families.whole_name(self.family, name): name for name in self._shards}
        if len(self._saved_as) < len(self._shards):
            twice = [name for name in self._shards if name not in self._saved_as.values()]
            raise errors.FlanError(f"{self.path} holds {tensors_lib.listed(twice)} twice, with prefix and without")
        self._shards = {name: self._shards[saved] for name, saved in self._saved_as.items()}
        self._aliases = dict(self._stand_ins(config))
        there = {name: file.tensors[self._saved_as[name]] for name, file in self._shards.items()}
        self.tensors: Mapping[str, Stored] = there | {name: there[copy] for name, copy in self._aliases.items()}

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns a tensor, or a part of it; see `tensors.Source`."""
        name = self._aliases.get(name, name)
        return self._shards[name].read(self._saved_as[name])[index]

    def layers_at_once(self, name: str) -> int:
        raise AssertionError(f"{name}: Hugging Face stacks no layers")

    def places(self) -> dict[tuple[str, ...], Place]:
        """Where every parameter lies.

        Raises:
          FlanError: the tensors are not those of the model; or what must be a copy of another tensor is none.
        """
        pairs = families.check(self.config, self.family, self.tensors, self.path)
        used = {pair.theirs for pair in pairs}
        for name in self._shards:
            original = families.copy_of(self.family, name)[1]
            repeats = name not in used and original in self._shards and name not in self._aliases.values()
            if repeats and not self._same(name, original):
                raise errors.FlanError(
                    f"{self.path}: {name} is not a copy of {original}, as {CONFIG} says (tie_word_embeddings): "
                    f"{self.tensors[name].file}"
                )
        return {pair.ours: Place(pair.theirs, pair.shape, transposed=pair.transposed) for pair in pairs}

    def _same(self, name: str, other: str | None) -> bool:
        return other is not None and np.array_equal(self.read(name), self.read(other))

    def _stand_ins(self, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Tensors that are not there, each with the one that holds the same."""
        for name in self._shards:
            original = families.copy_of(self.family, name)[1]
            needed = name == "lm_head.weight" and not getattr(self.config, "logits_via_embedding", True)
            if original is not None and original not in self._shards and not needed:
                yield original, name
        # T5 with a tied head whose logits are not scaled, as transformers 5 makes it, is to us an untied one.
        untied = self.family == "t5" and not self.config.logits_via_embedding
        if untied and config.get("tie_word_embeddings", True) and "lm_head.weight" not in self._shards:
            yield "lm_head.weight", "shared.weight"

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise errors.FlanError(f"{self.path} is not the folder of a Hugging Face model: it has no {name}")
        try:
            content = json.loads(path.read_text())
        except (ValueError, OSError) as error:
            raise tensors_lib.BrokenCheckpoint(
                f"checkpoint {self.path}: {path}: cannot be read: {tensors_lib.first_line(error)}"
            ) from error
        if not isinstance(content, dict):
            raise tensors_lib.BrokenCheckpoint(f"checkpoint {self.path}: {path}: expected a JSON object")
        return content

    def _file(self, name: str) -> safetensors_files.File:
        return safetensors_files.File(pathlib.Path(self.path / name), self.path)

    def _add(self, file: safetensors_files.File) -> None:
        self._shards |= dict.fromkeys(file.tensors, file)

    def _read_index(self) -> None:
        index = self.path / INDEX
        shards = self._json(INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise tensors_lib.BrokenCheckpoint(f"checkpoint {self.path}: {index}: its weight_map is empty")
        files: dict[str, safetensors_files.File] = {}
        for name, shard in shards.items():
            if not isinstance(shard, str) or os.path.basename(shard) != shard:
                raise tensors_lib.broken(self.path, name, index, f"its shard is {shard!r}; expected a file beside it")
            if not (self.path / shard).is_file():
                raise tensors_lib.broken(self.path, name, self.path / shard, "the file is missing")
            if shard not in files:
                files[shard] = self._file(shard)
            if name not in files[shard].tensors:
                raise tensors_lib.broken(self.path, name, self.path / shard, f"not in the file, where {INDEX} has it")
        for shard, file in files.items():
            for name in file.tensors:
                if shards.get(name) != shard:
                    raise tensors_lib.broken(self.path, name, self.path / shard, f"in the file, but not so in {INDEX}")
            self._add(file)


class Sink:
    """Writes a folder that transformers loads.

    Args:
      folder: an empty one.
      config: the model.
      family: the family of its names.
      specs: shape and dtype of every tensor.
      shard_bytes: most bytes of tensors in a file; a tensor that has more is alone in one.
    """

    def __init__(
        self, folder: epath.Path, config: api.Config, family: str, specs: Mapping[str, Stored], shard_bytes: int
    ) -> None:
        self._folder = folder
        groups: list[dict[str, Stored]] = [{}]
        room = shard_bytes
        for name, spec in specs.items():
            if spec.nbytes > room and groups[-1]:
                groups.append({})
                room = shard_bytes
            groups[-1][name] = spec
            room -= spec.nbytes
        count = len(groups)
        self._names = (
            [SINGLE] if count == 1 else [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        )
        self._groups = groups
        self._writers: dict[str, safetensors_files.Writer] = {}
        for file, group in zip(self._names, groups, strict=True):
            self._writers |= dict.fromkeys(group, safetensors_files.Writer(pathlib.Path(folder / file), group))
        dtype = next(iter(specs.values())).dtype.name
        content = hugging_face_config.write(config, family, dtype)
        for file, about in ((CONFIG, content), (GENERATION, hugging_face_config.generation(config))):
            (folder / file).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")

    def write(self, name: str, value: np.ndarray, layer: int | None = None) -> None:
        assert layer is None, f"{name}: Hugging Face stacks no layers"
        self._writers[name].write(name, value)

    def close(self) -> None:
        if len(self._groups) > 1:
            shards = {name: file for file, group in zip(self._names, self._groups, strict=True) for name in group}
            total = sum(spec.nbytes for group in self._groups for spec in group.values())
            index = {"metadata": {"total_size": total}, "weight_map": shards}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
