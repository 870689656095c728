"""Our tasks as seqio tasks: the same examples in the same order, for any client of seqio."""

import numpy as np
import pytest
from data_builders import dataset, example, prepare, rows, task, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data import mixtures, seqio_source, seqio_tasks, styles, vocabulary
from flan_jax.evaluation import metrics

LENGTHS = {"inputs": 24, "targets": 8}


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seqio")
    data_dir = prepare(folder, "mini", train=rows(23), validation=[*rows(7), {"text": "bad", "label": -1}, *rows(2)])
    return task(dataset(folder)), data_dir, folder


def read(mini, **options) -> list[dict]:
    wrapped = seqio_source.to_seqio(mini[0], vocabulary.sentencepiece_vocabulary(), mini[1])
    return list(wrapped.get_dataset(LENGTHS, **options).as_numpy_iterator())


def expected(mini, count: int, seed: int) -> list[seqio_tasks.Tokenised]:
    drawn = mini[0].open(mini[1], "train").draw(np.arange(count), seed)
    return seqio_tasks.tokenise(drawn, tokenizer(), LENGTHS)


def ids(found: list[dict]) -> list[tuple[list[int], list[int]]]:
    return [(element["inputs"].tolist(), element["targets"].tolist()) for element in found]


@pytest.mark.parametrize("epochs", [1, 3])
def test_same_examples_in_the_same_order_as_our_stream(mini, epochs):
    found = read(mini, split="train", shuffle=True, seed=5, num_epochs=epochs)
    assert ids(found) == [(e.inputs, e.targets) for e in expected(mini, 23 * epochs, 5)]


def test_endless(mini):
    wrapped = seqio_source.to_seqio(mini[0], vocabulary.sentencepiece_vocabulary(), mini[1])
    found = wrapped.get_dataset(LENGTHS, split="train", shuffle=True, seed=5, num_epochs=None).take(100)
    assert ids(list(found.as_numpy_iterator())) == [(e.inputs, e.targets) for e in expected(mini, 100, 5)]


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_partition_the_stream(mini, shards):
    import seqio

    whole = ids(read(mini, split="train", shuffle=True, seed=5, num_epochs=2))
    for index in range(shards):
        info = seqio.ShardInfo(index, shards)
        assert (
            ids(read(mini, split="train", shuffle=True, seed=5, num_epochs=2, shard_info=info)) == whole[index::shards]
        )


def test_evaluation_reads_the_rows_that_pass_in_order(mini):
    found = read(mini, split="validation", shuffle=False)
    kept = list(mini[0].open(mini[1], "validation").in_order())
    assert [element["inputs_pretokenized"].decode() for element in found] == [f.inputs for f in kept]
    assert [f.row for f in kept] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [element["answers"].tolist() for element in found] == [[f.targets.encode()] for f in kept]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_batches_partition_any_stream(tmp_path_factory, count, shards, epochs, shuffle):
    def build(row):
        return None if row["text"].startswith("row 3 ") and count > 1 else example(row)

    taken = seqio_tasks.TaskRows(task(dataset(tmp_path_factory.getbasetemp(), build=build)), rows(count), cap=None)
    reader = seqio_source._shuffled if shuffle else seqio_source._in_order
    whole = [f for batch in reader(taken, 1, 0, 1, epochs) for f in batch]
    parts = [[f for batch in reader(taken, 1, shard, shards, epochs) for f in batch] for shard in range(shards)]
    assert parts == [whole[shard::shards] for shard in range(shards)]
    per_epoch = count if shuffle or count < 4 else count - 1
    assert len(whole) == epochs * per_epoch


def test_metrics_give_a_hundred_for_right_answers(sample_dir):
    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
    vocab = vocabulary.sentencepiece_vocabulary()
    for name in (
        "rte_type_0",
        "cb_type_0",
        "trivia_qa_type_0",
        "natural_questions_type_1",
        "sst2_type_2",
        "gsm8k_type_0",
    ):
        wrapped = seqio_source.to_seqio(catalogue.tasks[name], vocab, sample_dir)
        mains = [metrics.get(metric).main for metric in catalogue.tasks[name].dataset.metrics]
        assert len(mains) == len(wrapped.metric_fns) > 0
        found = list(
            wrapped.get_dataset({"inputs": 512, "targets": 256}, split="test", shuffle=False).as_numpy_iterator()
        )
        targets = [wrapped.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=True) for e in found]
        right = [wrapped.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=False) for e in found]
        for metric, main in zip(wrapped.metric_fns, mains, strict=True):
            assert metric(targets, right)[main] == 100.0, name
            assert metric(targets, ["no such answer"] * len(found))[main] == 0.0, name


def test_metrics_accept_any_of_the_answers(sample_dir):
    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
    wrapped = seqio_source.to_seqio(
        catalogue.tasks["trivia_qa_type_0"], vocabulary.sentencepiece_vocabulary(), sample_dir
    )
    found = list(wrapped.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    targets = [wrapped.postprocess_fn("", example=e, is_target=True) for e in found]
    assert max(map(len, targets)) > 1
    (metric,) = wrapped.metric_fns
    assert set(metric(targets, [accepted[-1] for accepted in targets]).values()) == {100.0}


def test_reversed_tasks_have_no_metric(tmp_path):
    backwards = dataset(tmp_path, templates="- {inputs: 'Make up a text.', targets: '{text}', reversed: true}\n")
    data_dir = prepare(tmp_path, "mini", train=rows(3))
    assert not seqio_source.to_seqio(task(backwards, (0,)), vocabulary.sentencepiece_vocabulary(), data_dir).metric_fns


# --- Exemplars, and rank classification ---


def few(folder, name: str, **style):
    return seqio_tasks.FlanTask(dataset(folder), name, styles.Style((0, 1, 2, 3), **style))


def test_exemplars_are_those_of_our_stream(mini):
    of, lengths = few(mini[2], "4templates_five_shot", shots=5), {"inputs": 256, "targets": 8}
    wrapped = seqio_source.to_seqio(of, vocabulary.sentencepiece_vocabulary(), mini[1])
    for split, options in (("train", {"shuffle": True, "num_epochs": 2}), ("validation", {"shuffle": False})):
        found = list(wrapped.get_dataset(lengths, split=split, seed=5, **options).as_numpy_iterator())
        opened = of.open(mini[1], split)
        drawn = opened.draw(np.arange(46), 5) if split == "train" else list(opened.in_order(seed=5))
        ours = seqio_tasks.tokenise(drawn, tokenizer(), lengths)
        assert ids(found) == [(e.inputs, e.targets) for e in ours]
        assert min(e.shots for e in ours) > 0
        texts = [element["inputs_pretokenized"].decode() for element in found]
        assert texts == seqio_tasks.prompts(drawn, tokenizer(), lengths)


@pytest.mark.parametrize("shots", [0, 3])
def test_rank_classification(mini, shots):
    """Each option is scored behind the same inputs; the metric groups them again."""
    of = few(mini[2], "type_0_scoring_eval", scoring=True, shots=shots)
    wrapped = seqio_source.to_seqio(of, vocabulary.sentencepiece_vocabulary(), mini[1])
    lengths = {"inputs": 256, "targets": 8}
    found = list(wrapped.get_dataset(lengths, split="validation", shuffle=False).as_numpy_iterator())
    said = [element["targets_pretokenized"].decode() for element in found]
    assert said == ["yes", "no"] * 9
    assert all(a["inputs"].tolist() == b["inputs"].tolist() for a, b in zip(found[::2], found[1::2], strict=True))
    targets = [wrapped.postprocess_fn(text, example=e, is_target=True) for text, e in zip(said, found, strict=True)]
    (metric,) = wrapped.score_metric_fns
    assert metric(targets, [1.0 if right else 0.0 for _, right in targets])["accuracy"] == 100.0
    assert metric(targets, [0.0 if right else 1.0 for _, right in targets])["accuracy"] == 0.0
    assert not wrapped.predict_metric_fns
