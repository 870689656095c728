"""What the processes of a run tell each other, with one process and with the collectives of three replaced."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from flan_jax import errors, hosts, sharding


def refuse():
    raise errors.FlanError("no room")


def test_one_process_hears_itself():
    assert hosts.first()
    assert hosts.gather({"a": 1}) == [{"a": 1}]
    assert hosts.from_first(lambda: [(1, 2)]) == [(1, 2)]
    hosts.agree("tasks", 1)
    with pytest.raises(errors.FlanError, match="no room"):
        hosts.from_first(refuse)


@pytest.fixture
def second_of_three(monkeypatch):
    """This is process 1 of three; what process 0 broadcasts is `said`, in turn."""
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda given: said.pop(0))
    return said


@pytest.mark.parametrize(("text", "made"), [('{"made": [[3, 4]]}', [[3, 4]]), ('{"made": null}', None)])
def test_another_process_takes_what_the_first_one_made(second_of_three, text, made):
    raw = np.frombuffer(text.encode(), np.uint8)
    second_of_three += [np.int32(raw.size), raw]
    assert hosts.from_first(lambda: pytest.fail("files are process 0's")) == made


def test_what_is_wrong_in_the_first_process_ends_all(second_of_three):
    raw = np.frombuffer(b'{"error": "OUT was begun with another seed"}', np.uint8)
    second_of_three += [np.int32(raw.size), raw]
    with pytest.raises(errors.FlanError, match="another seed"):
        hosts.from_first(refuse)


def test_processes_that_are_asked_something_else_are_named(monkeypatch):
    monkeypatch.setattr(hosts, "gather", lambda value: [value, value, ["tasks", ["cb"]]])
    with pytest.raises(errors.FlanError, match=r"process 0 has tasks: \['rte'\]; process 2 has tasks: \['cb'\]"):
        hosts.agree("tasks", ["rte"])


def test_what_lies_on_several_devices_comes_back_whole():
    mesh = sharding.make_mesh()
    rows = np.arange(32.0).reshape(8, 4)
    spread = hosts.put({"rows": rows}, sharding.batch_sharding(mesh))
    assert len(spread["rows"].addressable_shards) == 8
    (back,) = jax.tree.leaves(hosts.fetch(spread))
    np.testing.assert_array_equal(back, rows)
    assert isinstance(back, np.ndarray)
