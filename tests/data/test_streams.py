"""Streams: our own by position, in any company; a foreign seqio task's from the front, keeping what it must."""

import numpy as np
import pytest
from data_builders import LENGTHS, dataset, example, rows, task, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import seqio_tasks, streams, vocabulary


def flan_stream(folder, name: str = "mini", count: int = 30, **options) -> streams.FlanStream:
    taken = seqio_tasks.TaskRows(task(dataset(folder, name)), rows(count), cap=None)
    return streams.FlanStream(taken, tokenizer(), LENGTHS, options.pop("seed", 0), **options)


def seqio_task(name: str = "foreign", count: int = 20, keep: int = 20, vocab=None):
    """A task as a user writes one: its own source, tokenised by seqio, without a filter on our side."""
    import seqio
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        return tf.data.Dataset.range(count).map(lambda i: {"inputs": tf.strings.as_string(i), "targets": "yes"})

    vocab = vocab or vocabulary.as_seqio(vocabulary.sentencepiece_vocabulary())
    feature = seqio.Feature(vocab, add_eos=True)
    return seqio.Task(
        name,
        source=seqio.FunctionDataSource(dataset_fn, splits=["train"], num_input_examples={"train": count}),
        preprocessors=[
            lambda ds: ds.filter(lambda row: tf.strings.to_number(row["inputs"]) < keep),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features={"inputs": feature, "targets": feature},
    )


def numbers(found: list[seqio_tasks.Tokenised]) -> list[int]:
    return [int(tokenizer().decode(e.inputs[:-1])) for e in found]


def test_shuffle_is_passed_on(tmp_path):
    shuffled, plain = flan_stream(tmp_path), flan_stream(tmp_path, shuffle=False)
    in_order = [tokenizer().decode(e.inputs).split("row ")[1].split()[0] for e in plain.read(np.arange(30))]
    assert in_order == [str(i) for i in range(30)]
    assert sorted(e.inputs for e in shuffled.read(np.arange(30))) != sorted(
        e.inputs for e in plain.read(np.arange(30, 60))
    )
    assert shuffled.read(np.arange(30)) != plain.read(np.arange(30))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 500), min_size=1, max_size=8)), max_size=4))
def test_reading_together_is_reading_one_by_one(tmp_path_factory, asked):
    folder = tmp_path_factory.getbasetemp()

    class Foreign:
        def read(self, positions):
            return [seqio_tasks.Tokenised([int(p)], [1]) for p in positions]

        def seek(self, first, lanes):
            raise AssertionError

    members = [flan_stream(folder, "one"), Foreign(), flan_stream(folder, "two", 7)]
    requests = [(members[which], np.asarray(positions)) for which, positions in asked]
    assert streams.read_together(requests) == [stream.read(positions) for stream, positions in requests]


def test_seqio_stream_is_shuffled_by_its_seed_and_endless():
    one, same, other = (
        numbers(streams.SeqioStream(seqio_task(), "train", LENGTHS, seed).read(np.arange(600))) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    # 30 epochs, out of seqio's buffer of 1,000 examples, where epochs mix.
    assert all(10 < one.count(row) < 60 for row in range(20))


def test_seqio_stream_without_shuffling():
    found = numbers(streams.SeqioStream(seqio_task(), "train", LENGTHS, 1, shuffle=False).read(np.arange(50)))
    assert found == [i % 20 for i in range(50)]


def test_seqio_stream_gives_positions_in_any_order():
    stream = streams.SeqioStream(seqio_task(), "train", LENGTHS, 1)
    front = stream.read(np.arange(40))
    again = streams.SeqioStream(seqio_task(), "train", LENGTHS, 1)
    assert again.read(np.asarray([30, 2, 17])) == [front[30], front[2], front[17]]
    assert again.read(np.asarray([1, 39])) == [front[1], front[39]]
    assert again.read(np.asarray([30])) == [front[30]], "read before: from the front again"


def test_seqio_stream_is_trimmed():
    (element,) = streams.SeqioStream(seqio_task(), "train", {"inputs": 1, "targets": 1}, 1).read(np.arange(1))
    assert (len(element.inputs), len(element.targets)) == (1, 1)


@pytest.mark.parametrize("first", [{}, {1: 100 * 4 + 1}])
def test_seqio_stream_keeps_only_what_its_lanes_will_ask_for(first):
    """Lane 1 of 4, at the start or resumed at its 100th example: the other lanes' are not kept."""
    stream = streams.SeqioStream(seqio_task(), "train", LENGTHS, 1)
    whole = stream.read(np.arange(600))
    stream = streams.SeqioStream(seqio_task(), "train", LENGTHS, 1)
    start = first.get(1, 1)
    stream.seek(first or {1: 1}, 4)
    for position in range(start, 600, 4):
        assert stream.read(np.asarray([position])) == [whole[position]]
        assert not stream._passed


def test_seqio_task_that_filters_everything_is_named():
    """seqio itself repeats an empty dataset for ever."""
    with pytest.raises(errors.FlanError, match="seqio task 'foreign' is empty: its preprocessors drop every row"):
        streams.SeqioStream(seqio_task(keep=0), "train", LENGTHS, 1)


def test_flan_stream_reads_what_the_task_draws(tmp_path):
    taken = seqio_tasks.TaskRows(task(dataset(tmp_path, build=example)), rows(9), cap=None)
    stream = streams.FlanStream(taken, tokenizer(), LENGTHS, 3)
    positions = np.asarray([4, 0, 25])
    assert stream.read(positions) == seqio_tasks.tokenise(taken.draw(positions, 3), tokenizer(), LENGTHS)
