"""What a TFDS data directory holds, read from its `dataset_info.json` files alone (no TensorFlow)."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from flan_jax import errors

_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class PreparedDirectory:
    """One prepared TFDS directory, as listed (`sources` opens them).

    Attributes:
      name: `super_glue/rte:1.0.2`, as `tfds.load` takes it.
      directory: DATA_DIR/NAME[/CONFIG]/VERSION.
      splits: rows of each split, in the order of the file.
    """

    name: str
    directory: Path
    splits: Mapping[str, int]


def prepared_datasets(data_dir: str | Path) -> list[PreparedDirectory]:
    """Returns the prepared datasets under `data_dir`, by name; none where the directory does not exist.

    A directory that another program is still writing (TFDS's `1.0.0.incompleteXXX`, the importer's hidden ones) is not
    a version and is passed over.

    Raises:
      FlanError: for a `dataset_info.json` that cannot be read.
    """
    root = Path(data_dir)
    found = []
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json"):
        for info in root.glob(pattern):
            parts = info.relative_to(root).parts[:-1]
            if _VERSION.fullmatch(parts[-1]) and not any(part.startswith(".") for part in parts):
                name = "/".join(parts[:-1])
                found.append(PreparedDirectory(f"{name}:{parts[-1]}", info.parent, split_sizes(info)))
    return sorted(found, key=lambda dataset: dataset.name)


def split_sizes(info: Path) -> dict[str, int]:
    """Returns the rows of each split that a `dataset_info.json` names."""
    try:
        content = json.loads(info.read_text(encoding="utf-8"))
        return {
            split["name"]: sum(int(rows) for rows in split.get("shardLengths", ()))
            for split in content.get("splits", ())
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise errors.FlanError(f"{info}: not a dataset_info.json that TFDS wrote ({problem})") from None
