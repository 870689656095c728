"""`flan data ...`, as functions."""

import logging
import os
from collections.abc import Sequence

from flan_jax import progress
from flan_jax.data import importer

logger = logging.getLogger(__name__)


def import_data(
    source: str,
    data_dir: str | None,
    keys: Sequence[str] | None,
    overwrite: bool,
    columns: Sequence[str] | None = None,
) -> int:
    """Imports a folder of JSON lines and TSV and reports what became of each dataset.

    Returns:
      The exit code: 1 if a dataset failed.
    """
    target = data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    with _Told() as told:
        report = importer.import_datasets(
            source, target, keys=keys, overwrite=overwrite, columns=columns, progress=told
        )
    for dataset in report.datasets:
        if dataset.note:
            logger.info("%s: %s", dataset.key, dataset.note)
    for failure in report.failures:
        logger.error("%s: %s", failure.key, failure.problem)
    rows = sum(dataset.rows for dataset in report.datasets)
    count = len(report.datasets) - len(report.failures)
    print(
        f"{count} datasets, {rows:,} rows in {target}" + (f"; {len(report.failures)} failed" if report.failures else "")
    )
    return report.exit_code


class _Told:
    """Passes the importer's progress on to a bar."""

    def __init__(self) -> None:
        self._bar: progress.Progress | None = None

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)  # type: ignore[arg-type]  # the triple of a context manager

    def on_start(self, total: int) -> None:
        self._bar = progress.Progress("import", total, unit="datasets").__enter__()

    def on_dataset(self, key: str, status: str, rows: int, seconds: float) -> None:
        assert self._bar is not None
        self._bar.advance(1, dataset=key, status=status, rows=rows)
