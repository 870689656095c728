"""The next batches of a mixture as one of several processes reads them, and where the reading then is.

`python -m tests.e2e.batches_of_hosts DATA_DIR OUT ADDRESS POSITION INDEX OF` is process INDEX of so many, of one device each;
POSITION is a file of a position to go on from, or `start`. Process 0 writes OUT: the global batches and, as JSON, the position.
"""

import itertools
import json
import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from flan_jax import hosts, train
from flan_jax.training import configs
from tests.e2e import five_steps

BATCHES = 3


def opened(data_dir: str):
    """The loader of this process."""
    cfg = configs.DatasetConfig(
        "nli_10templates", {"inputs": 64, "targets": 16}, "train", batch_size=8, pack=True, module="flan_jax.tasks.nli",
        data_dir=data_dir, missing="skip",
    )  # fmt: skip
    return train.open_loader(cfg, five_steps.model_of("encoder_decoder"), seed=0)


def text(position) -> str:
    """A position as a checkpoint keeps it."""
    return json.dumps(position, sort_keys=True)


def main(data_dir: str, out: str, address: str, position: str, index: str, of: str) -> None:
    jax.distributed.initialize(address, int(of), int(index))
    assert (jax.process_count(), jax.device_count()) == (int(of), int(of))
    loader = opened(data_dir)
    if position != "start":
        loader.restore(json.loads(pathlib.Path(position).read_text()))
    found = {}
    for number, batch in enumerate(itertools.islice(loader, BATCHES)):
        whole = multihost_utils.process_allgather(batch.features, tiled=True)
        found |= {f"{number}/{name}": np.asarray(value) for name, value in whole.items()}
        after = loader.merge(hosts.gather(batch.state))
    if index == "0":
        np.savez(out, position=text(after), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
