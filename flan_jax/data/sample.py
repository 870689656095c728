"""The embedded sample: about 60 records a dataset, written for flan_jax, imported into a cache directory on first use."""

import hashlib
import logging
import pathlib

from flan_jax import errors, shipped
from flan_jax.data import cache_dir as cache_dir_lib
from flan_jax.data import importer

logger = logging.getLogger(__name__)

_DONE = "flan_jax_sample_complete"


def prepare(cache_dir: str | None = None) -> str:
    """Returns the TFDS directory of the embedded sample, making it where it is not there yet (about 15 s).

    Args:
      cache_dir: where to keep it; see `cache_dir.root`.

    Raises:
      FlanError: the sample does not import (a damaged installation).
    """
    records = source()
    # The name carries the content, so that a new version of the sample never meets an old copy of it.
    data_dir = pathlib.Path(cache_dir_lib.root(cache_dir)) / f"sample-{_digest(records)}"
    if not (data_dir / _DONE).exists():
        logger.info("importing the embedded sample into %s", data_dir)
        report = importer.import_datasets(records, data_dir)
        if report.failures:
            raise errors.FlanError(
                "the embedded sample does not import: " + "; ".join(f.problem or f.key for f in report.failures)
            )
        (data_dir / _DONE).touch()
    return str(data_dir)


def source() -> pathlib.Path:
    """The folder of the sample's records."""
    return shipped.directory("data/sample")


def _digest(records: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*records.rglob("*.jsonl"), *records.rglob("*.tsv")]):
        digest.update(str(path.relative_to(records)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
