"""Features of decoder-only models: seqio's own, packed or not, in batches that do not depend on hosts or restarts."""

import itertools
import json

import numpy as np
import pytest
from data_builders import LENGTHS, mixture, rows
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import features, loader, mixtures, quiet, seqio_tasks, streams, vocabulary
from tests import golden_numbers

EXAMPLES = [seqio_tasks.Tokenised([7, 8, 1], [5, 1]), seqio_tasks.Tokenised([9, 1], [6, 4, 1])]
PREFIX_LM, LM = features.PrefixLM(), features.LM()
ids = st.lists(st.integers(1, 50), min_size=1, max_size=12)


def listed(row: features.Features) -> dict[str, list[int]]:
    assert {values.dtype for values in row.values()} == {np.dtype(np.int32)}
    return {name: values.tolist() for name, values in row.items()}


# --- Rows ---


def test_worked_example():
    assert listed(PREFIX_LM.row(EXAMPLES, {"inputs": 8, "targets": 6}, packed=True)) == {
        "decoder_target_tokens": [7, 8, 1, 5, 1, 9, 1, 6, 4, 1, 0, 0, 0, 0],
        "decoder_input_tokens": [0, 7, 8, 1, 5, 0, 9, 1, 6, 4, 0, 0, 0, 0],
        "decoder_loss_weights": [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0],
        "decoder_causal_attention": [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0],
        "decoder_positions": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0, 0, 0],
    }


def test_language_modelling_reads_targets_alone():
    assert listed(features.LM(bos_id=2).row(EXAMPLES, {"targets": 6}, packed=True)) == {
        "decoder_target_tokens": [5, 1, 6, 4, 1, 0],
        "decoder_input_tokens": [2, 5, 2, 6, 4, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 2, 0],
        "decoder_positions": [0, 1, 0, 1, 2, 0],
    }


@pytest.mark.parametrize("name", ["packed", "lm"])
def test_packed_rows_are_those_of_t5x(name):
    """The examples are read off its rows: every other array, and where its parts begin and end, must follow from them."""
    batch = {key: np.asarray(value) for key, value in golden_numbers.batch(name, "deconly").items()}
    converter = PREFIX_LM if name == "packed" else LM
    lengths = {"inputs": 40, "targets": 24} if name == "packed" else {"targets": 64}
    for number in range(len(batch["decoder_target_tokens"])):
        row = {key: value[number] for key, value in batch.items()}
        examples = []
        for segment in range(1, row["decoder_segment_ids"].max() + 1):
            tokens = row["decoder_target_tokens"][row["decoder_segment_ids"] == segment].tolist()
            start = tokens.index(1) + 1 if name == "packed" else 0  # inputs end in EOS
            examples.append(seqio_tasks.Tokenised(tokens[:start], tokens[start:]))
        ours = converter.row(examples, lengths, packed=True)
        assert ours.keys() == row.keys()
        for key, values in row.items():
            np.testing.assert_array_equal(ours[key], values, err_msg=key)


@pytest.mark.parametrize(
    ("converter", "theirs", "options"),
    [
        (features.PrefixLM(), "PrefixLMFeatureConverter", {}),
        (features.PrefixLM(False, bos_id=2), "PrefixLMFeatureConverter", {"loss_on_targets_only": False, "bos_id": 2}),
        (features.LM(bos_id=1), "LMFeatureConverter", {"bos_id": 1}),
    ],
)
def test_rows_of_one_example_are_those_of_seqio(converter, theirs, options):
    import tensorflow as tf

    draw = np.random.default_rng(0)
    found = [
        seqio_tasks.Tokenised(*(draw.integers(2, 50, draw.integers(low, 9)).tolist() for low in (0, 1)))
        for _ in range(16)
    ]
    assert any(not example.inputs for example in found)
    lengths = {"inputs": 10, "targets": 8} if isinstance(converter, features.PrefixLM) else {"targets": 8}
    dataset = tf.data.Dataset.from_generator(
        lambda: ({name: getattr(example, name) for name in lengths} for example in found),
        output_signature={name: tf.TensorSpec([None], tf.int32) for name in lengths},
    )
    made = getattr(quiet.seqio(), theirs)(pack=False, **options)
    for example, expected in zip(found, made(dataset, lengths).as_numpy_iterator(), strict=True):
        ours = converter.row([example], lengths, packed=False)
        assert ours.keys() == expected.keys()
        real = ours["decoder_target_tokens"] > 0
        for name, values in ours.items():
            # seqio shifts the last token into the padding, where no model looks.
            np.testing.assert_array_equal(values[real], expected[name][real], err_msg=name)
            assert not values[~real].any()


@given(st.lists(st.tuples(ids, ids), max_size=6), st.booleans())
def test_a_packed_row_holds_the_rows_of_its_examples(pairs, targets_only):
    examples = [seqio_tasks.Tokenised(*pair) for pair in pairs]
    converter = features.PrefixLM(targets_only, bos_id=3)
    row = converter.row(examples, {"inputs": 80, "targets": 75}, packed=True)
    for number, example in enumerate(examples, start=1):
        mine = row["decoder_segment_ids"] == number
        alone = converter.row([example], {"inputs": 12, "targets": 12}, packed=True)
        for name in row.keys() - {"decoder_segment_ids"}:
            np.testing.assert_array_equal(row[name][mine], alone[name][: mine.sum()], err_msg=name)
    padding = row["decoder_segment_ids"] == 0
    assert padding.sum() == 155 - sum(converter.sizes(example)[0] for example in examples)
    assert not any(values[padding].any() for values in row.values())


# --- Batches ---


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return mixture(tmp_path_factory.mktemp("decoder_only"), {"one": 30, "two": 50, "three": 20})


def open_loader(mixed, converter, **options) -> loader.TrainLoader:
    options = {"lengths": LENGTHS, "seed": 0, "pack": True, "batch_size": 8} | options
    return loader.TrainLoader(mixed, converter=converter, **options)


def read(opened: loader.TrainLoader, count: int) -> list[loader.Batch]:
    return list(itertools.islice(opened, count))


def assert_same(ours: list[loader.Batch], theirs: list[loader.Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.features.keys() == other.features.keys()
        for name, values in one.features.items():
            np.testing.assert_array_equal(values, other.features[name], err_msg=name)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("converter", [PREFIX_LM, LM], ids=lambda converter: converter.name)
def test_a_batch_counts_what_it_holds(mixed, converter, pack):
    for batch in read(open_loader(mixed, converter, pack=pack), 4):
        expected = loader.feature_lengths(LENGTHS, pack, converter)
        assert set(expected.values()) == {80 if converter is PREFIX_LM else 16}
        assert {name: values.shape for name, values in batch.features.items()} == {
            name: (8, length) for name, length in expected.items()
        }
        assert batch.tokens == int((batch.features["decoder_target_tokens"] != 0).sum())
        assert batch.examples.sum() == (batch.features["decoder_segment_ids"].max(axis=1).sum() if pack else 8)


def test_one_stream_fills_rows_better_than_two(mixed):
    filled = {}
    for converter in (PREFIX_LM, features.ENCODER_DECODER):
        real = sum(batch.tokens for batch in read(open_loader(mixed, converter), 20))
        filled[converter.name] = real / (20 * 8 * sum(LENGTHS.values()))
    assert filled["prefix_lm"] > filled["encoder_decoder"]


@pytest.mark.parametrize(("batch_size", "hosts"), [(8, 2), (8, 8), (12, 3)])
@pytest.mark.parametrize("converter", [PREFIX_LM, LM], ids=lambda converter: converter.name)
def test_any_number_of_hosts_gives_the_same_global_batches(mixed, converter, batch_size, hosts):
    whole = read(open_loader(mixed, converter, batch_size=batch_size), 3)
    parts = [
        read(open_loader(mixed, converter, batch_size=batch_size, host=host, hosts=hosts), 3) for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        for name, values in batch.features.items():
            np.testing.assert_array_equal(np.concatenate([part[step].features[name] for part in parts]), values)
        assert loader.merge_states([part[step].state for part in parts]) == batch.state


@pytest.mark.parametrize("pack", [True, False])
def test_a_restored_loader_continues_to_the_bit(mixed, pack):
    whole = read(open_loader(mixed, PREFIX_LM, pack=pack), 9)
    resumed = open_loader(mixed, PREFIX_LM, pack=pack)
    resumed.restore(json.loads(json.dumps(whole[4].state)))
    assert_same(read(resumed, 4), whole[5:])


def test_a_position_of_the_other_family_is_refused(mixed):
    (batch,) = read(open_loader(mixed, features.ENCODER_DECODER), 1)
    with pytest.raises(errors.FlanError, match="features = 'encoder_decoder', this run has 'prefix_lm'"):
        open_loader(mixed, PREFIX_LM).restore(batch.state)


def test_a_seqio_task_of_targets_alone_is_read(tmp_path):
    import tensorflow as tf

    seqio = quiet.seqio()
    vocab = vocabulary.as_seqio(vocabulary.sentencepiece_vocabulary())
    texts = [row["text"] for row in rows(20, words=9)]
    task = seqio.Task(
        "documents",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"targets": texts}),
            splits=["train"],
            num_input_examples={"train": 20},
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"targets": seqio.Feature(vocab, add_eos=True)},
    )
    lengths = {"inputs": 1, "targets": 24}  # as `train.open_loader` gives them where no length of inputs is set
    stream = streams.SeqioStream(task, "train", lengths, 0, shuffle=False)
    mixed = mixtures.OpenMixture("documents", [mixtures.Member("documents", 20, 20.0, stream)])
    (batch,) = read(open_loader(mixed, LM, lengths=lengths, pack=False), 1)
    found = [vocab.decode(row[row > 0].tolist()) for row in batch.features["decoder_target_tokens"]]
    assert found == texts[:8]
