"""The loader: rates, the same batches for any number of hosts, resuming by seeking, errors across the thread."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
from data_builders import LENGTHS, dataset, mixture, prepare, rows, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_streams import seqio_task

from flan_jax import errors
from flan_jax.data import loader, mixtures, streams

SIZES = {"one": 30, "two": 50, "three": 20}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return mixture(tmp_path_factory.mktemp("loader"), SIZES)


def open_loader(mixed, batch_size: int = 8, **options) -> loader.TrainLoader:
    options = {"lengths": LENGTHS, "seed": 0, "pack": True} | options
    return loader.TrainLoader(mixed, batch_size=batch_size, **options)


def read(opened: loader.TrainLoader, count: int) -> list[loader.Batch]:
    return list(itertools.islice(opened, count))


def assert_same(ours: list[loader.Batch], theirs: list[loader.Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.features.keys() == other.features.keys()
        for name, values in one.features.items():
            np.testing.assert_array_equal(values, other.features[name], err_msg=name)


# --- What is in a batch ---


@pytest.mark.parametrize("pack", [True, False])
def test_a_batch_counts_what_it_holds(mixed, pack):
    for batch in read(open_loader(mixed, pack=pack), 5):
        assert {name: values.shape for name, values in batch.features.items()} == {
            name: (8, length) for name, length in loader.feature_lengths(LENGTHS, pack).items()
        }
        tokens = sum(
            int((batch.features[name] != 0).sum()) for name in ("encoder_input_tokens", "decoder_target_tokens")
        )
        assert batch.tokens == tokens
        examples = batch.features["encoder_segment_ids"].max(axis=1).sum() if pack else 8
        assert batch.examples.sum() == examples
        assert batch.examples.shape == (3,)


def row_numbers(batch: loader.Batch) -> list[int]:
    texts = [tokenizer().decode(ids.tolist()) for ids in batch.features["encoder_input_tokens"]]
    return [int(text.split("row ")[1].split()[0]) for text in texts]


def test_lanes_share_out_a_task(tmp_path):
    """8 lanes of one example a batch: 15 batches are 4 epochs of 30 rows, each row once in each."""
    batches = read(open_loader(mixture(tmp_path, {"one": 30}), pack=False), 15)
    numbers = [number for batch in batches for number in row_numbers(batch)]
    for epoch in range(4):
        assert sorted(numbers[30 * epoch : 30 * epoch + 30]) == list(range(30))


def test_tasks_are_drawn_at_their_rates(tmp_path):
    """100,000 draws of four tasks, two of them rare, against the binomial distribution."""
    rates = {"a": 3000.0, "b": 1000.0, "c": 30.0, "d": 970.0}
    mixed = mixture(tmp_path, dict.fromkeys(rates, 5), rates=rates)

    lane = loader.Lane(mixed, 3, 8, LENGTHS, 5, True)
    lane._add = lambda tasks, places: None  # type: ignore[method-assign]  # the draws alone
    for _ in range(100):
        lane._draw(1000)
    counts = np.asarray(lane.position().counts)
    assert counts.sum() == 100_000
    expected = mixed.probabilities * 100_000
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected * (1 - mixed.probabilities))).all()


def test_lanes_draw_differently(mixed):
    opened = open_loader(mixed, pack=False)
    first = read(opened, 1)[0].features["encoder_input_tokens"]
    assert len(np.unique(first, axis=0)) == 8


def test_packed_rows_are_nearly_full(mixed):
    batches = read(open_loader(mixed), 30)
    assert np.mean([(b.features["encoder_segment_ids"] > 0).mean() for b in batches]) > 0.9


def test_seed_and_order(tmp_path, mixed):
    first = read(open_loader(mixed), 2)
    assert_same(first, read(open_loader(mixture(tmp_path, SIZES)), 2))
    with pytest.raises(AssertionError):
        assert_same(first, read(open_loader(mixture(tmp_path, SIZES, seed=1), seed=1), 2))


def test_without_shuffling_tasks_go_through_their_rows_in_order(tmp_path):
    mixed = mixture(tmp_path, {"one": 30}, shuffle=False)
    numbers = [number for batch in read(open_loader(mixed, pack=False), 6) for number in row_numbers(batch)]
    assert numbers == [i % 30 for i in range(48)]


def test_validation_is_another_stream(tmp_path):
    marked = [{"text": f"held {i}", "label": i % 2} for i in range(6)]
    data_dir = prepare(tmp_path, "mini", train=rows(20), validation=marked)
    catalogue = mixtures.Catalogue([dataset(tmp_path)])
    texts = {}
    for split in ("train", "validation"):
        mixed = catalogue.open(
            "mini_4templates",
            data_dir=data_dir,
            split=split,
            tokenizer=tokenizer(),
            lengths=LENGTHS,
            seed=0,
            shuffle=False,
        )
        (batch,) = read(open_loader(mixed), 1)
        texts[split] = [tokenizer().decode(ids.tolist()) for ids in batch.features["encoder_input_tokens"]]
    assert all("held" in text and "row" not in text for text in texts["validation"])
    assert all("row" in text and "held" not in text for text in texts["train"])


# --- Hosts ---


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    ("batch_size", "hosts"), [(8, 2), (8, 4), (8, 8), (16, 16), (12, 3), (12, 6), (12, 12), (7, 7), (16, 8)]
)
def test_any_number_of_hosts_gives_the_same_global_batches(mixed, batch_size, hosts, pack):
    whole = read(open_loader(mixed, batch_size, pack=pack), 3)
    parts = [read(open_loader(mixed, batch_size, pack=pack, host=host, hosts=hosts), 3) for host in range(hosts)]
    for step, batch in enumerate(whole):
        for name, values in batch.features.items():
            np.testing.assert_array_equal(np.concatenate([part[step].features[name] for part in parts]), values)
        np.testing.assert_array_equal(sum(part[step].examples for part in parts), batch.examples)
        assert sum(part[step].tokens for part in parts) == batch.tokens
        assert loader.merge_states([part[step].state for part in parts]) == batch.state


def test_a_batch_that_hosts_cannot_share(mixed):
    with pytest.raises(errors.FlanError, match="batch size 8 cannot be shared by 3 hosts; expected a multiple of 3"):
        open_loader(mixed, hosts=3)


@given(st.integers(1, 5000))
def test_lanes_are_a_power_of_two_that_divides_the_batch(batch_size):
    lanes = loader.num_lanes(batch_size)
    assert lanes in (1, 2, 4, 8)
    assert batch_size % lanes == 0
    assert lanes == 8 or batch_size % (2 * lanes)


# --- Resuming ---


@settings(max_examples=12, deadline=None)
@given(
    step=st.integers(0, 40), pack=st.booleans(), batch_size=st.sampled_from([1, 3, 8]), hosts=st.sampled_from([1, 2])
)
def test_a_restored_loader_continues_to_the_bit(mixed, step, pack, batch_size, hosts):
    hosts = hosts if batch_size % hosts == 0 else 1
    whole = read(open_loader(mixed, batch_size, pack=pack), step + 4)
    saved = [
        read(open_loader(mixed, batch_size, pack=pack, host=h, hosts=hosts), step + 1)[-1].state for h in range(hosts)
    ]
    resumed = open_loader(mixed, batch_size, pack=pack)
    resumed.restore(json.loads(json.dumps(loader.merge_states(saved))))
    assert_same(read(resumed, 3), whole[step + 1 :])


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_goes_on_with_another_number_of_hosts(mixed, before, after):
    whole = read(open_loader(mixed), 6)
    saved = [read(open_loader(mixed, host=host, hosts=before), 3)[-1].state for host in range(before)]
    position = json.loads(json.dumps(loader.merge_states(saved)))
    assert position == whole[2].state
    parts = []
    for host in range(after):
        resumed = open_loader(mixed, host=host, hosts=after)
        resumed.restore(position)
        parts.append(read(resumed, 3))
    for step, batch in enumerate(whole[3:]):
        for name, values in batch.features.items():
            np.testing.assert_array_equal(np.concatenate([part[step].features[name] for part in parts]), values)


def test_a_loader_that_has_run_on_can_be_restored(mixed):
    opened = open_loader(mixed)
    batches = read(opened, 6)
    opened.restore(batches[1].state)
    again = read(opened, 4)
    assert_same(again, batches[2:])
    assert [batch.state for batch in again] == [batch.state for batch in batches[2:]]


def test_a_state_is_a_snapshot(mixed):
    """It is made when it is asked for, of where the stream was then."""
    opened = iter(open_loader(mixed))
    batch = next(opened)
    before = json.dumps(batch.state)
    for _ in range(10):
        next(opened)
    assert json.dumps(batch.state) == before


def test_seqio_tasks_resume_too(tmp_path):
    def mixed():
        stream = streams.SeqioStream(seqio_task(), "train", LENGTHS, 3)
        ours = mixture(tmp_path, {"one": 30})
        return mixtures.OpenMixture("m", [*ours.members, mixtures.Member("foreign", 20, 20.0, stream)])

    whole = read(open_loader(mixed()), 8)
    resumed = open_loader(mixed())
    resumed.restore(json.loads(json.dumps(whole[3].state)))
    assert_same(read(resumed, 4), whole[4:])
    parts = [read(open_loader(mixed(), host=host, hosts=2), 4) for host in (0, 1)]
    for name, values in whole[3].features.items():
        np.testing.assert_array_equal(np.concatenate([part[3].features[name] for part in parts]), values)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed = 0, this run has 1"),
        ({"batch_size": 16}, "batch_size = 8, this run has 16"),
        ({"pack": False}, "pack = True, this run has False"),
        ({"lengths": {"inputs": 64, "targets": 8}}, "lengths = {'inputs': 64, 'targets': 16}, this run has"),
    ],
)
def test_a_state_of_another_run_is_refused(mixed, change, named):
    (batch,) = read(open_loader(mixed), 1)
    with pytest.raises(errors.FlanError) as caught:
        open_loader(mixed, **change).restore(batch.state)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"sizes": {"one": 30, "two": 50}}, "has tasks = ['one', 'two', 'three'], this run has ['one', 'two']"),
        ({"sizes": SIZES | {"two": 49}}, "has rows = [30, 50, 20], this run has [30, 49, 20]"),
        (
            {"sizes": SIZES, "rates": {"one": 1, "two": 1, "three": 1}},
            "has rates = [30.0, 50.0, 20.0], this run has [1.0, 1.0, 1.0]",
        ),
        ({"sizes": SIZES, "shuffle": False}, "has shuffle = True, this run has False"),
    ],
)
def test_a_state_of_another_mixture_is_refused(tmp_path, mixed, other, named):
    (batch,) = read(open_loader(mixed), 1)
    with pytest.raises(errors.FlanError) as caught:
        open_loader(mixture(tmp_path, **other)).restore(batch.state)
    assert named in str(caught.value)


def test_a_state_of_one_of_several_hosts_is_refused(mixed):
    (batch,) = read(open_loader(mixed, host=0, hosts=2), 1)
    with pytest.raises(errors.FlanError, match=r"lanes \[0, 1, 2, 3\], this host also needs \[4, 5, 6, 7\]"):
        open_loader(mixed).restore(batch.state)
    open_loader(mixed, host=0, hosts=2).restore(batch.state)
    with pytest.raises(errors.FlanError, match="has mixture = None"):
        open_loader(mixed).restore({})


# --- Prefetch ---


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flan-loader"]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_prefetch_gives_everything_in_order():
    assert list(loader.prefetch(iter(range(50)))) == list(range(50))
    wait_until(lambda: not loader_threads())


def test_prefetch_raises_the_producers_error_after_what_it_produced():
    def broken():
        yield 1
        yield 2
        raise errors.FlanError("shard 7 is damaged")

    found = loader.prefetch(broken())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(errors.FlanError, match="shard 7 is damaged"):
        next(found)
    wait_until(lambda: not loader_threads())


def test_prefetch_stays_so_far_ahead_and_stops_with_its_reader():
    produced = []
    found = loader.prefetch((produced.append(i) or i for i in itertools.count()), depth=2)
    assert next(found) == 0
    wait_until(lambda: len(produced) >= 4)
    time.sleep(0.05)
    assert len(produced) == 4, "one read, two waiting, one in hand"
    found.close()
    wait_until(lambda: not loader_threads())
    assert len(produced) == 4


def test_prefetched_batches_are_the_same(mixed):
    found = loader.prefetch(iter(open_loader(mixed)))
    assert_same(list(itertools.islice(found, 5)), read(open_loader(mixed), 5))
    found.close()
