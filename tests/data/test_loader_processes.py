"""Rows made by other processes: the same batches as this one makes, resumed too; what goes wrong there is told here."""

import itertools
import os
import signal

import numpy as np
import pytest

from flan_jax import errors
from flan_jax.data import loader, loader_processes, row_request

# Templates with exemplars, so that every kind of draw is in it.
MIXTURE = "cb_10templates_two_shot"
ROWS = 8


@pytest.fixture(scope="module")
def request_(sample_dir) -> row_request.Request:
    return row_request.Request(MIXTURE, "flan_jax.tasks.catalogue", sample_dir, inputs=192, targets=16, seed=3)


@pytest.fixture(scope="module")
def mixture(request_):
    return request_.open()


def open_loader(request_, mixture, processes: int = 0, **options) -> loader.TrainLoader:
    source = loader_processes.Processes(request_, processes) if processes else None
    settings = {"lengths": request_.lengths, "batch_size": ROWS, "seed": request_.seed, "pack": request_.pack}
    return loader.TrainLoader(mixture, source=source, **settings, **options)


def assert_same(one: loader.Batch, other: loader.Batch) -> None:
    assert one.state == other.state
    assert (one.tokens, one.tasks, one.examples.tolist()) == (other.tokens, other.tasks, other.examples.tolist())
    assert one.features.keys() == other.features.keys()
    for name, values in one.features.items():
        np.testing.assert_array_equal(values, other.features[name], err_msg=name)
        assert values.dtype == other.features[name].dtype


def test_three_processes_make_what_one_makes_and_go_on_where_they_were(request_, mixture):
    alone = list(itertools.islice(open_loader(request_, mixture), 6))
    shared = open_loader(request_, mixture, processes=3)
    batches = iter(shared)
    for expected in alone[:3]:
        assert_same(next(batches), expected)
    batches.close()
    assert not shared._source._workers, "the processes end with their reader"
    for expected, found in zip(alone[3:5], shared, strict=False):  # new ones, from there on
        assert_same(found, expected)
    shared._source.close()


def test_processes_of_a_host_continue_a_saved_position(request_, mixture):
    alone = list(itertools.islice(open_loader(request_, mixture), 4))
    theirs = open_loader(request_, mixture, processes=1, host=1, hosts=2)
    theirs.restore(alone[1].state)
    batches = iter(theirs)
    for expected in alone[2:]:
        found = next(batches)
        for name, values in found.features.items():
            np.testing.assert_array_equal(values, expected.features[name][ROWS // 2 :], err_msg=name)
    batches.close()


def test_a_process_that_is_killed_is_named(request_, mixture):
    shared = open_loader(request_, mixture, processes=2)
    batches = iter(shared)
    next(batches)
    killed = shared._source._workers[1].process
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(errors.FlanError, match=r"data process flan-data-1 ended with exit code -9 \(out of memory\?\)"):
        for _ in batches:  # what it had made before
            pass
    assert not killed.is_alive()


def test_what_a_process_finds_wrong_is_told_as_if_it_had_happened_here(request_, mixture, tmp_path):
    import dataclasses

    gone = dataclasses.replace(request_, data_dir=str(tmp_path))
    batches = iter(open_loader(gone, mixture, processes=1))
    with pytest.raises(errors.FlanError, match="1 of 1 tasks have no data"):
        next(batches)


def test_their_number_must_make_sense(request_):
    with pytest.raises(errors.FlanError, match="-1 data processes; expected 1 or more"):
        loader_processes.Processes(request_, -1)
