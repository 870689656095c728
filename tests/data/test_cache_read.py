"""Reading a packed cache: the same global batches for any number of hosts, from any step on, in a new order every epoch."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import cache, cache_read, cache_write, features, loader, row_request, vocabulary

ROWS = 30


@pytest.fixture(scope="module")
def request_(sample_dir) -> row_request.Request:
    return row_request.Request("sentiment_10templates", "flan_jax.tasks.catalogue", sample_dir, inputs=96, targets=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory, request_) -> cache.Cache:
    return cache_write.build(request_, str(tmp_path_factory.mktemp("cache")), ROWS, shards=4)


def open_loader(made: cache.Cache, batch_size: int = 8, **options) -> cache_read.CachedLoader:
    return cache_read.CachedLoader(made, **{"batch_size": batch_size, "seed": 0, **options})


def read(opened: cache_read.CachedLoader, count: int) -> list[cache_read.Batch]:
    batches = iter(opened)
    return [next(batches) for _ in range(count)]


def rows_of(batches: list[cache_read.Batch]) -> list[bytes]:
    """Each row of some batches, all its features, as one key."""
    names = sorted(batches[0].features)
    return [
        b"".join(batch.features[name][i].tobytes() for name in names)
        for batch in batches
        for i in range(len(batch.features[names[0]]))
    ]


# --- The order ---


def test_an_epoch_is_every_row_once_and_the_next_one_has_another_order(made):
    whole = rows_of(read(open_loader(made, 10), 9))
    epochs = [whole[start : start + ROWS] for start in range(0, 3 * ROWS, ROWS)]
    in_file = rows_of(read(open_loader(made, 10, shuffle=False), 3))
    assert len(set(in_file)) == ROWS
    for epoch in epochs:
        assert sorted(epoch) == sorted(in_file)
    assert len({tuple(epoch) for epoch in [*epochs, in_file]}) == 4
    assert rows_of(read(open_loader(made, 10, seed=1), 9)) != whole


def test_rows_are_those_of_the_files(made):
    from array_record.python import array_record_module

    (batch,) = read(open_loader(made, ROWS, shuffle=False), 1)
    records = []
    for shard in made.shards:
        records += array_record_module.ArrayRecordReader(f"{made.directory}/{shard.file}").read_all()
    found, tokens, _ = made.records.decode(records)
    for name, values in found.items():
        np.testing.assert_array_equal(batch.features[name], values)
    assert batch.tokens == sum(tokens) == made.manifest["tokens"]
    assert batch.examples.tolist() == [task["examples"] for task in made.manifest["tasks"]]
    lengths = loader.feature_lengths(made.manifest["lengths"], True)
    assert {name: values.shape for name, values in batch.features.items()} == {
        name: (ROWS, length) for name, length in lengths.items()
    }


# --- Hosts and steps ---


@settings(max_examples=15, deadline=None)
@given(
    before=st.sampled_from([1, 2, 4]),
    after=st.sampled_from([1, 2, 4]),
    step=st.integers(0, 12),
    batch_size=st.sampled_from([4, 8, 12]),
)
def test_a_run_goes_on_the_same_with_any_number_of_hosts(made, before, after, step, batch_size):
    whole = read(open_loader(made, batch_size), step + 3)
    saved = [read(open_loader(made, batch_size, host=h, hosts=before), step + 1)[-1].state for h in range(before)]
    position = json.loads(json.dumps(cache_read.CachedLoader.merge(saved)))
    assert all(state == position for state in saved)
    parts = []
    for host in range(after):
        resumed = open_loader(made, batch_size, host=host, hosts=after)
        resumed.restore(position)
        parts.append(read(resumed, 2))
    for number, batch in enumerate(whole[step + 1 :]):
        for name, values in batch.features.items():
            np.testing.assert_array_equal(np.concatenate([part[number].features[name] for part in parts]), values)
        np.testing.assert_array_equal(sum(part[number].examples for part in parts), batch.examples)
        assert sum(part[number].tokens for part in parts) == batch.tokens
        assert all(part[number].state == batch.state for part in parts)


def test_a_position_is_a_number_however_far_it_is(made):
    """Nothing is replayed: the batch at row 3 * 10^12 is read as the first one is, and only the files it lies in."""
    opened = open_loader(made)
    (first,) = read(opened, 1)
    opened.restore({**first.state, "rows": 3 * 10**12})
    (far,) = read(opened, 1)
    # 10^11 epochs of 30 rows: the start of an epoch.
    assert far.state["rows"] == 3 * 10**12 + 8
    assert set(rows_of([far])) < set(rows_of(read(open_loader(made, ROWS), 1)))
    assert len(json.dumps(far.state)) < 200


def test_the_batch_may_change_where_a_run_is_continued(made):
    whole = rows_of(read(open_loader(made, 4), 9))
    resumed = open_loader(made, 12)
    resumed.restore(read(open_loader(made, 4), 3)[-1].state)
    assert rows_of(read(resumed, 2)) == whole[12:]


def test_restoring_leaves_what_is_being_read_alone(made):
    opened = open_loader(made)
    batches = iter(opened)
    first = next(batches)
    opened.restore({**first.state, "rows": 800})
    assert next(batches).state["rows"] == 16
    assert next(iter(opened)).state["rows"] == 808


def test_a_batch_that_hosts_cannot_share(made):
    with pytest.raises(errors.FlanError, match="batch size 8 cannot be shared by 3 hosts; expected a multiple of 3"):
        open_loader(made, hosts=3)


# --- Refused ---


def test_a_position_of_something_else_is_refused(made, request_, tmp_path):
    (batch,) = read(open_loader(made), 1)
    with pytest.raises(errors.FlanError, match="has seed = 0, this run has 1; continue with the same value"):
        open_loader(made, seed=1).restore(batch.state)
    with pytest.raises(errors.FlanError, match="has shuffle = True, this run has False"):
        open_loader(made, shuffle=False).restore(batch.state)
    other = cache_write.build(request_, str(tmp_path / "other"), ROWS - 1, shards=4)
    with pytest.raises(errors.FlanError, match=f"packed_cache = '{made.digest}', this run has '{other.digest}'"):
        open_loader(other).restore(batch.state)


def test_online_and_cached_input_do_not_continue_each_other(made, request_):
    online = loader.TrainLoader(request_.open(), lengths=request_.lengths, batch_size=8, seed=0, pack=True)
    with pytest.raises(errors.FlanError, match=r"was not reached with a packed cache, this run reads .*PACKED_CACHE"):
        open_loader(made).restore(next(iter(online)).state)
    with pytest.raises(errors.FlanError, match="was reached with a packed cache; continue with the same PACKED_CACHE"):
        online.restore(next(iter(open_loader(made))).state)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mixture": "nli_10templates"}, 'mixture: "sentiment_10templates" there, "nli_10templates" here'),
        ({"split": "validation"}, 'split: "train" there, "validation" here'),
        ({"lengths": {"inputs": 512, "targets": 16}}, 'lengths: {"inputs": 96, "targets": 16} there, {"inputs": 512'),
        ({"pack": False}, "pack: true there, false here"),
        (
            {"converter": features.PrefixLM(bos_id=1)},
            'converter: {"name": "encoder_decoder"} there, {"name": "prefix_lm"',
        ),
        (
            {"vocabulary": vocabulary.sentencepiece_vocabulary(extra_ids=3)},
            "flan_jax_8k.model (8192 pieces, SHA-256 1874e7545076...) there, flan_jax_8k.model (8195 pieces, ",
        ),
    ],
)
def test_a_cache_of_something_else_is_refused(made, change, named):
    asked = {
        "mixture": "sentiment_10templates",
        "split": "train",
        "lengths": {"inputs": 96, "targets": 16},
        "pack": True,
        "converter": features.ENCODER_DECODER,
        "vocabulary": vocabulary.sentencepiece_vocabulary(),
        "batch_size": 8,
        "seed": 0,
    }
    assert cache_read.open_loader(made.directory, **asked).tasks == made.tasks
    with pytest.raises(errors.FlanError) as caught:
        cache_read.open_loader(made.directory, **{**asked, **change})
    assert f"packed cache {made.directory} does not fit this run: " in str(caught.value)
    assert named in str(caught.value)


def test_no_cache(tmp_path, made):
    with pytest.raises(
        errors.FlanError, match=r"no packed cache in .*: it has no manifest\.json; `flan data cache` writes"
    ):
        cache.open_cache(str(tmp_path / "nowhere"))


def test_damage_is_named_where_it_is_read(made, tmp_path):
    for path in pathlib.Path(made.directory).iterdir():
        content = bytearray(path.read_bytes())
        if path.name == made.shards[2].file:
            content[70:1000] = bytes(930)
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(errors.FlanError, match=f"packed cache {tmp_path} cannot be read: .*--verify {tmp_path}` names"):
        read(open_loader(cache.open_cache(str(tmp_path))), 4)
