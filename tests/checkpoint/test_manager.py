"""Checkpoints come back bit for bit, or say why not."""

import errno
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flan_jax import errors
from flan_jax.checkpoint import fingerprint, manager


def make_state(step=1, more=None):
    """A small state in T5X's layout: 2-D and 1-D, float32 and bfloat16, a NaN, a denormal, a negative zero."""
    random = np.random.default_rng(step)
    kernel_DxF = random.normal(size=(64, 32)).astype(np.float32)
    kernel_DxF[0, :3] = np.nan, 1e-42, -0.0
    target = {
        "encoder": {"layers_0": {"mlp": {"wi": {"kernel": jnp.asarray(kernel_DxF)}}}},
        "token_embedder": {"embedding": jnp.asarray(random.normal(size=(48, 64)), jnp.bfloat16)},
        "scale": jnp.asarray(random.normal(size=(64,)), jnp.float32),
        **(more or {}),
    }
    slots = jax.tree.map(
        lambda x: {
            "v": jnp.zeros((1,), jnp.float32),
            "v_row": jnp.asarray(random.normal(size=x.shape[:1]), jnp.float32),
        },
        target,
    )
    return {"target": target, "state": {"step": jnp.int32(step), "param_states": slots}}


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def assert_same_bits(given, expected):
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    for name, leaf in fingerprint.named_leaves(given).items():
        other = fingerprint.named_leaves(expected)[name]
        assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape), name
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), name


def saved(directory, steps=(10, 20), keep=None):
    with manager.CheckpointManager(directory, keep=keep, period=10) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step), {"row": 7 * step})
    return directory


def restore(directory, step=None, state=None):
    with manager.CheckpointManager(directory, keep=None, period=10) as checkpoints:
        return checkpoints.restore(abstract(state or make_state()), step)


def array_file(checkpoint):
    """The biggest file of the state, which holds array data."""
    return max(
        (path for path in (checkpoint / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def mesh_shardings(state):
    """Shards every matrix over (fsdp, model) of a (2, 2, 2) mesh, vectors over data, the rest replicated."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]).reshape(2, 2, 2), ("data", "fsdp", "model"))
    by_rank = {2: PartitionSpec("fsdp", "model"), 1: PartitionSpec("data"), 0: PartitionSpec()}
    return jax.tree.map(
        lambda x: NamedSharding(mesh, by_rank[x.ndim] if x.ndim != 1 or x.shape[0] % 2 == 0 else PartitionSpec()), state
    )


def test_round_trip_across_meshes_is_bit_exact(tmp_path):
    state = make_state(10)
    shardings = mesh_shardings(state)
    sharded = jax.device_put(state, shardings)
    for name, first, wanted in [("to_one", sharded, state), ("to_many", state, sharded), ("same", sharded, sharded)]:
        with manager.CheckpointManager(tmp_path / name, keep=1, period=10) as checkpoints:
            assert checkpoints.save(10, first, {"epoch": 1, "rows": [3, 4]})
            restored, position = checkpoints.restore(abstract(wanted))
        assert_same_bits(restored, state)
        assert position == {"epoch": 1, "rows": [3, 4]}
        for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda x: x + jnp.ones_like(x), state), donate_argnums=0)
    state = make_state(10)
    expected = jax.tree.map(np.array, state)
    position = {"row": 1}
    with manager.CheckpointManager(tmp_path, keep=None, period=10) as checkpoints:
        assert checkpoints.save(10, state, position)
        position["row"] = 2
        state = update(state)
        restored, stored_position = checkpoints.restore(abstract(state))
    assert_same_bits(restored, expected)
    assert stored_position == {"row": 1}


def test_period_keep_and_order(tmp_path):
    with manager.CheckpointManager(tmp_path, keep=2, period=10) as checkpoints:
        assert checkpoints.latest_step() is None
        done = [step for step in range(101) if checkpoints.save(step, make_state(step), {}, force=step == 95)]
        checkpoints.wait()
        assert done == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
        # 100 sorts before 95 as text.
        assert checkpoints.all_steps() == [95, 100]
        assert checkpoints.latest_step() == 100
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_100", "checkpoint_95"]
        restored, _ = checkpoints.restore(abstract(make_state()))
        assert int(restored["state"]["step"]) == 100
        assert not checkpoints.save(100, make_state(1), {}), "an existing step is skipped"
        assert int(checkpoints.restore(abstract(make_state()), 95)[0]["state"]["step"]) == 95
        with pytest.raises(errors.FlanError, match=r"no checkpoint of step 94 in .*steps there: 95, 100"):
            checkpoints.restore(abstract(make_state()), 94)


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved("runs/a")
    assert (tmp_path / "runs/a/checkpoint_20/commit_success.txt").exists()
    assert_same_bits(restore("runs/a")[0], make_state(20))
    assert_same_bits(manager.restore_from("runs/a/checkpoint_10", abstract(make_state())), make_state(10))
    assert manager.resolve_restore("runs/a", None).path == str(tmp_path / "runs/a/checkpoint_20")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "commit marker": (lambda c: (c / "commit_success.txt").unlink(), "commit_success.txt is missing"),
    "metadata": (lambda c: (c / "_CHECKPOINT_METADATA").unlink(), "_CHECKPOINT_METADATA is missing"),
    "dataset": (lambda c: (c / "dataset" / "metadata").unlink(), "dataset/metadata is missing"),
    "dataset cut": (lambda c: truncate(c / "dataset" / "metadata"), "dataset/metadata is not JSON"),
    "tree": (lambda c: (c / "state" / "_METADATA").unlink(), "state/_METADATA is missing"),
    "tree cut": (lambda c: truncate(c / "state" / "_METADATA"), "metadata cannot be read"),
    "manifest": (lambda c: (c / "state" / "manifest.ocdbt").unlink(), "cannot be read"),
    "array deleted": (lambda c: array_file(c).unlink(), "array data cannot be read"),
    "array cut": (lambda c: truncate(array_file(c)), "array data cannot be read"),
    "bit flipped": (lambda c: flip(array_file(c)), "array data was altered after it was saved"),
}


# When one array fails to read, Orbax drops the coroutines that read the others; Python reports their errors when they
# are collected, which the fixture makes happen inside the test that exempts them.
drops_coroutines = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def collected():
    yield
    gc.collect()


@drops_coroutines
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_on_the_one_before(tmp_path, caplog, damage):
    spoil, reason = DAMAGE[damage]
    saved(tmp_path)
    spoil(tmp_path / "checkpoint_20")
    caplog.set_level(logging.WARNING, logger="flan_jax")
    with manager.CheckpointManager(tmp_path, keep=None, period=10) as checkpoints:
        restored, position = checkpoints.restore(abstract(make_state()))
        assert_same_bits(restored, make_state(10))
        assert position == {"row": 70}
        # The step can be reached and written again, and the broken one is still there.
        assert checkpoints.save(20, make_state(20), {"row": 140})
        assert_same_bits(checkpoints.restore(abstract(make_state()))[0], make_state(20))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("flan_jax")]
    assert len(ours) == 1
    assert reason in ours[0]
    assert str(tmp_path / "checkpoint_20") in ours[0]
    assert (tmp_path / "broken_checkpoint_20").is_dir()


def test_when_every_checkpoint_is_damaged_nothing_is_made_up(tmp_path):
    saved(tmp_path)
    for step in (10, 20):
        flip(array_file(tmp_path / f"checkpoint_{step}"))
    with pytest.raises(manager.BrokenCheckpoint, match="altered"):
        manager.restore_from(tmp_path / "checkpoint_10", abstract(make_state()))
    for _ in range(2):  # a second start says the same
        assert manager.resolve_restore(tmp_path, None, "latest", True).source == "model_dir"
        with pytest.raises(
            manager.BrokenCheckpoint, match=r"none of the 2 checkpoints.*checkpoint_10: .*another MODEL_DIR"
        ):
            restore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_10", "checkpoint_20"]


@pytest.mark.parametrize("spoil", ["dataset", "named broken"])
def test_a_run_whose_checkpoints_are_all_lost_is_not_started_anew(tmp_path, spoil):
    initial, run = saved(tmp_path / "initial") / "checkpoint_10", saved(tmp_path / "run")
    for step in (10, 20):
        if spoil == "dataset":
            DAMAGE[spoil][0](run / f"checkpoint_{step}")
        else:
            (run / f"checkpoint_{step}").rename(run / f"broken_checkpoint_{step}")
    for _ in range(2):
        with manager.CheckpointManager(run, keep=None, period=10):
            for restore_path, mode in [(None, "specific"), (initial, "specific"), (initial.parent, "latest")]:
                with pytest.raises(
                    errors.FlanError, match=r"holds no .*checkpoint_10, (broken_)?checkpoint_20: .*MODEL_DIR"
                ):
                    manager.resolve_restore(run, restore_path, mode, True)
    if spoil == "named broken":
        (run / "broken_checkpoint_10").rename(run / "checkpoint_10")  # the way out that the message names
        assert_same_bits(restore(run)[0], make_state(10))


def test_a_run_that_was_killed_in_its_first_save_starts_anew(tmp_path):
    """Where a rename is not atomic (gs://), a killed save leaves a checkpoint without its marker."""
    saved(tmp_path, steps=(10,))
    (tmp_path / "checkpoint_10/commit_success.txt").unlink()
    with manager.CheckpointManager(tmp_path, keep=None, period=10) as checkpoints:
        assert manager.resolve_restore(tmp_path, None, "latest", True).source == "scratch"
        assert checkpoints.save(10, make_state(10), {})
    assert (tmp_path / "broken_checkpoint_10").is_dir()


class UnavailableError(Exception):
    """As TensorFlow's file systems call it."""


OUTAGES = {
    "503": Exception("UNAVAILABLE: Error reading gs://bucket/checkpoint_20: HTTP response code: 503"),
    "deadline": ValueError("DEADLINE_EXCEEDED: no answer in 60 s"),
    "permission": ValueError(
        'PERMISSION_DENIED: Error opening local file "d/1" [OS error 13: EACCES Permission denied]'
    ),
    "input/output": ValueError('UNKNOWN: Error reading local file "d/1" [OS error 5: EIO Input/output error]'),
    "TensorFlow": UnavailableError("no route to the bucket"),
    "timeout": TimeoutError("timed out"),
    "operating system": OSError(errno.ESTALE, "Stale file handle"),
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("where", ["restore", "metadata"])
def test_storage_that_does_not_answer_is_not_a_damaged_checkpoint(tmp_path, monkeypatch, outage, where):
    saved(tmp_path)

    def fail(*_, **__):
        raise OUTAGES[outage]

    with monkeypatch.context() as during:
        during.setattr(ocp.PyTreeCheckpointHandler, where, fail)
        for _ in range(2):
            with pytest.raises(
                manager.StorageUnavailable, match=r"checkpoint_20: .* cannot be read now.*nothing was moved"
            ):
                restore(tmp_path)
        with pytest.raises(manager.StorageUnavailable, match="checkpoint_10"):
            manager.restore_from(tmp_path / "checkpoint_10", abstract(make_state()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_10", "checkpoint_20"]
    assert_same_bits(restore(tmp_path)[0], make_state(20))


class NotFoundError(Exception):
    """As TensorFlow's file systems call it."""


def test_a_bucket_without_the_directory_is_a_run_that_has_not_begun(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(NotFoundError("no such object")))
    assert manager.resolve_restore(tmp_path / "run", None, "latest", True).source == "scratch"


@pytest.mark.parametrize("where", ["", "checkpoint_20", "checkpoint_20/state"])
def test_a_directory_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch, where):
    """A stale handle of a network's disk: nothing of it seems to exist."""
    saved(tmp_path)
    listed, stale = os.listdir, str(tmp_path / where)

    def fail(path="."):
        if os.fspath(path).rstrip("/") == stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return listed(path)

    with monkeypatch.context() as during:
        during.setattr(os, "listdir", fail)
        for ask in (lambda: manager.resolve_restore(tmp_path, None, "latest", True), lambda: restore(tmp_path)):
            with pytest.raises(manager.StorageUnavailable, match="list of checkpoints cannot be read now"):
                ask()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_10", "checkpoint_20"]


def test_an_outage_after_a_damaged_checkpoint_moves_neither(tmp_path, monkeypatch):
    saved(tmp_path)
    flip(array_file(tmp_path / "checkpoint_20"))
    read = manager._read_state

    def fail(path, *args, **settings):
        if path.name == "checkpoint_10":
            raise manager.StorageUnavailable("checkpoint_10 cannot be read now")
        return read(path, *args, **settings)

    with monkeypatch.context() as during:
        during.setattr(manager, "_read_state", fail)
        with pytest.raises(manager.StorageUnavailable):
            restore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_10", "checkpoint_20"]
    assert_same_bits(restore(tmp_path)[0], make_state(10))
    assert (tmp_path / "broken_checkpoint_20").is_dir()


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    saved(tmp_path)
    leftover = tmp_path / "checkpoint_30.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    assert manager.resolve_restore(tmp_path, None).step == 20
    restored, _ = restore(tmp_path)
    assert_same_bits(restored, make_state(20))
    assert not leftover.exists()


KILLED = """
    import os, signal, sys, threading, time
    import jax.numpy as jnp
    from flan_jax.checkpoint import manager

    directory, delay = sys.argv[1], float(sys.argv[2])
    ones = jnp.ones((1500, 1000), jnp.float32)
    state = lambda step: {"target": {"w": ones * step}, "state": {"step": jnp.int32(step)}}
    checkpoints = manager.CheckpointManager(directory, keep=3, period=1)
    checkpoints.save(1, state(1), {"row": 1})
    checkpoints.wait()
    second = state(2)
    threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    checkpoints.save(2, second, {"row": 2})
    checkpoints.save(3, state(3), {"row": 3})
    time.sleep(60)
"""


@pytest.mark.parametrize("delay", ["0.0", "0.02", "0.06"])
def test_sigkill_in_an_async_save_leaves_a_checkpoint(tmp_path, delay):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), delay]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
    like = {"target": {"w": jnp.zeros((1500, 1000))}, "state": {"step": jnp.int32(0)}}
    restored, position = restore(tmp_path, state=like)
    step = int(restored["state"]["step"])
    assert step in (1, 2, 3)
    assert position == {"row": step}
    assert np.all(np.asarray(restored["target"]["w"]) == step)


def test_a_checkpoint_of_another_model_names_the_tensors(tmp_path):
    saved(tmp_path, steps=(10,))
    other = make_state(10)
    target = other["target"]
    target["encoder"] = {
        "layers_0": {"mlp": {"wi_0": {"kernel": target["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]}}}
    }
    target["scale"] = jnp.zeros((128,))
    with pytest.raises(errors.FlanError) as caught:
        manager.restore_from(tmp_path / "checkpoint_10", abstract(other), params_only=True)
    text = str(caught.value)
    assert not isinstance(caught.value, manager.BrokenCheckpoint)
    assert "1 missing in the checkpoint: target.encoder.layers_0.mlp.wi_0.kernel (64, 32)" in text
    assert "did you mean 'target.encoder.layers_0.mlp.wi.kernel'?" in text
    assert "1 not in the model: target.encoder.layers_0.mlp.wi.kernel (64, 32)" in text
    assert "1 of another shape: target.scale: checkpoint (64), model (128)" in text
    assert "param_states" not in text
    with pytest.raises(errors.FlanError, match="does not fit the model"):
        restore(tmp_path, state=other)
    assert (tmp_path / "checkpoint_10").exists(), "a changed model is no reason to set a checkpoint aside"


def test_long_lists_are_cut_at_ten(tmp_path):
    saved(tmp_path, steps=(10,))
    more = make_state(10, {f"extra_{number:02d}": jnp.zeros((2,)) for number in range(13)})
    with pytest.raises(
        errors.FlanError, match=r"13 missing in the checkpoint: target.extra_00 .*\.\.\. \(3 more\)"
    ) as caught:
        manager.restore_from(tmp_path / "checkpoint_10", abstract(more), params_only=True)
    assert "extra_09" in str(caught.value)
    assert "extra_10" not in str(caught.value)


def test_dtypes_convert_only_where_asked(tmp_path):
    saved(tmp_path, steps=(10,))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim else x, make_state(10))
    restored = manager.restore_from(tmp_path / "checkpoint_10", abstract(half), params_only=True)
    for name, leaf in fingerprint.named_leaves(restored).items():
        like = fingerprint.named_leaves(half)[name]
        assert leaf.dtype == like.dtype
        # Not by bits: the two conversions give NaNs of different payloads.
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.asarray(like, np.float32))
    with pytest.raises(errors.FlanError, match=r"target\.scale: checkpoint float32, model bfloat16"):
        restore(tmp_path, state=half)


def test_params_only_asks_nothing_of_the_optimizer(tmp_path):
    saved(tmp_path, steps=(10,))
    state = make_state(10)
    wanted = {
        "target": abstract(state["target"]),
        "state": {"step": None, "param_states": {"momentum": jnp.zeros((3,))}},
    }
    assert_same_bits(
        manager.restore_from(tmp_path / "checkpoint_10", wanted, params_only=True), {"target": state["target"]}
    )


def test_restore_order(tmp_path):
    ours, theirs, nothing = saved(tmp_path / "ours"), saved(tmp_path / "theirs", (30, 100)), tmp_path / "nothing"
    specific = theirs / "checkpoint_30"
    order = [
        # (1) the run's own checkpoint wins over everything else.
        ((ours, specific, "specific", True), ("model_dir", ours / "checkpoint_20", 20)),
        ((ours, nothing, "latest", False), ("model_dir", ours / "checkpoint_20", 20)),
        # (2) the initial checkpoint.
        ((nothing, specific, "specific", True), ("initial_checkpoint", specific, 30)),
        ((nothing, theirs, "latest", False), ("initial_checkpoint", theirs / "checkpoint_100", 100)),
        # (3) scratch.
        ((nothing, None, "specific", True), ("scratch", None, None)),
        ((nothing, nothing, "latest", True), ("scratch", None, None)),
    ]
    for given, (source, path, step) in order:
        decision = manager.resolve_restore(*given)
        assert (decision.source, decision.path, decision.step) == (source, path and str(path), step)
    refused = [
        ((nothing, None, "specific", False), "INITIAL_CHECKPOINT_PATH is not set"),
        ((nothing, theirs / "checkpoint_3O", "specific", True), "has no 'checkpoint_3O'; did you mean 'checkpoint_30'"),
        ((nothing, tmp_path / "their" / "checkpoint_30", "specific", True), "has no 'their'; did you mean 'theirs'"),
        ((nothing, nothing, "latest", False), "has no 'nothing'"),
        ((nothing, theirs, "specific", True), "is a model directory, not a checkpoint.*checkpoint_100"),
        ((nothing, specific, "latest", False), "is itself a checkpoint: use mode 'specific'"),
        (
            (nothing, specific / "dataset", "specific", True),
            "is not a checkpoint.*it holds: commit_success.txt, metadata",
        ),
        ((nothing, specific, "newest", True), "unknown restore mode 'newest'"),
    ]
    for given, message in refused:
        with pytest.raises(errors.FlanError, match=message):
            manager.resolve_restore(*given)
    (ours / "checkpoint_20" / "dataset" / "metadata").unlink()
    (theirs / "checkpoint_100" / "commit_success.txt").unlink()
    decision = manager.resolve_restore(ours, None)
    assert decision.step == 10
    assert "checkpoint_20: half written: dataset/metadata is missing" in decision.skipped[0]
    assert manager.resolve_restore(nothing, theirs, "latest").step == 30


@pytest.mark.parametrize("layout", ["legacy", "orbax"])
def test_a_run_of_t5x_is_refused_and_left_as_it_is(tmp_path, layout):
    theirs = tmp_path / "checkpoint_10"
    if layout == "legacy":
        theirs.mkdir()
        (theirs / "checkpoint").write_bytes(b"msgpack")
    else:
        saved(tmp_path, steps=(10,))
        (theirs / "dataset" / "metadata").unlink()
        metadata = json.loads((theirs / "_CHECKPOINT_METADATA").read_text())
        (theirs / "_CHECKPOINT_METADATA").write_text(json.dumps({**metadata, "custom_metadata": {}}))
    with pytest.raises(errors.FlanError, match="checkpoint_10 was written by another program"):
        manager.resolve_restore(tmp_path, None, "specific", True)
    with pytest.raises(errors.FlanError, match="INITIAL_CHECKPOINT_PATH"):
        manager.CheckpointManager(tmp_path, keep=1, period=1)
    assert theirs.exists()
    if layout == "orbax":
        restored = manager.restore_from(theirs, abstract(make_state()))
        assert_same_bits(restored, make_state(10))


def test_bad_settings(tmp_path):
    (tmp_path / "file").write_text("x")
    for directory, keep, period, message in [
        (tmp_path, 0, 1, "keep is 0"),
        (tmp_path, 1, 0, "period is 0"),
        (tmp_path / "file", 1, 1, "is a file"),
    ]:
        with pytest.raises(errors.FlanError, match=message):
            manager.CheckpointManager(directory, keep=keep, period=period)


def test_fingerprint_is_the_definition_and_sees_every_single_bit():
    random = np.random.default_rng(0)
    for dtype, words in [(np.float32, np.uint32), (np.float16, np.uint16), (np.uint8, np.uint8), (np.int32, np.uint32)]:
        array = (random.normal(size=(3, 4)) * 50).astype(dtype)
        bits = [int(word) for word in array.view(words).ravel()]
        expected = sum(bit * (2 * index + 1) for index, bit in enumerate(bits)) % 2**32
        given = fingerprint.fingerprints([("x", jnp.asarray(array))])["x"]
        assert given == expected
        seen = set()
        for bit in range(array.nbytes * 8):
            data = bytearray(array.tobytes())
            data[bit // 8] ^= 1 << bit % 8
            changed = np.frombuffer(bytes(data), dtype).reshape(array.shape)
            seen.add(fingerprint.fingerprints([("x", jnp.asarray(changed))])["x"])
        assert expected not in seen


def test_fingerprint_is_the_same_for_every_sharding():
    state = make_state(3)
    sharded = jax.device_put(state, mesh_shardings(state))
    one, many = (fingerprint.fingerprints(fingerprint.named_leaves(tree).items()) for tree in (state, sharded))
    assert one == many
    assert json.loads(json.dumps(one)) == one
