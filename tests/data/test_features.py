"""Features: the docstring's arrays, and any packed row unpacks to its examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data import features, seqio_tasks

LENGTHS = {"inputs": 8, "targets": 6}
EXAMPLES = [seqio_tasks.Tokenised([7, 8, 1], [5, 1]), seqio_tasks.Tokenised([9, 1], [6, 4, 1])]
PACKED = {
    "encoder_input_tokens": [7, 8, 1, 9, 1, 0, 0, 0],
    "encoder_segment_ids": [1, 1, 1, 2, 2, 0, 0, 0],
    "encoder_positions": [0, 1, 2, 0, 1, 0, 0, 0],
    "decoder_target_tokens": [5, 1, 6, 4, 1, 0],
    "decoder_input_tokens": [0, 5, 0, 6, 4, 0],
    "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
    "decoder_segment_ids": [1, 1, 2, 2, 2, 0],
    "decoder_positions": [0, 1, 0, 1, 2, 0],
}


def test_worked_example():
    row = features.encoder_decoder_row(EXAMPLES, LENGTHS, packed=True)
    assert {name: values.tolist() for name, values in row.items()} == PACKED
    assert {values.dtype for values in row.values()} == {np.dtype(np.int32)}


def test_worked_example_unpacked():
    row = features.encoder_decoder_row(EXAMPLES[:1], LENGTHS, packed=False)
    assert {name: values.tolist() for name, values in row.items()} == {
        "encoder_input_tokens": [7, 8, 1, 0, 0, 0, 0, 0],
        "decoder_target_tokens": [5, 1, 0, 0, 0, 0],
        "decoder_input_tokens": [0, 5, 0, 0, 0, 0],
        "decoder_loss_weights": [1, 1, 0, 0, 0, 0],
    }


@pytest.mark.parametrize("packed", [True, False])
def test_no_example_is_all_padding(packed):
    row = features.encoder_decoder_row([], LENGTHS, packed)
    assert not any(values.any() for values in row.values())
    assert {name: len(values) for name, values in row.items()} == {
        name: 8 if name.startswith("encoder") else 6 for name in (PACKED if packed else list(row))
    }


ids = st.lists(st.integers(1, 50), min_size=1, max_size=12)


@given(st.lists(st.tuples(ids, ids), max_size=6))
def test_a_packed_row_unpacks_to_its_examples(pairs):
    examples = [seqio_tasks.Tokenised(*pair) for pair in pairs]
    row = features.encoder_decoder_row(examples, {"inputs": 80, "targets": 75}, packed=True)
    for number, example in enumerate(examples, start=1):
        mine, target = row["encoder_segment_ids"] == number, row["decoder_segment_ids"] == number
        assert row["encoder_input_tokens"][mine].tolist() == example.inputs
        assert row["encoder_positions"][mine].tolist() == list(range(len(example.inputs)))
        assert row["decoder_target_tokens"][target].tolist() == example.targets
        assert row["decoder_input_tokens"][target].tolist() == [0, *example.targets[:-1]]
        assert row["decoder_positions"][target].tolist() == list(range(len(example.targets)))
        assert row["decoder_loss_weights"][target].all()
    for side in ("encoder", "decoder"):
        padding = row[f"{side}_segment_ids"] == 0
        assert padding.sum() == len(padding) - sum(len(e.inputs if side == "encoder" else e.targets) for e in examples)
        assert not any(values[padding].any() for name, values in row.items() if name.startswith(side))


@given(ids, ids)
def test_a_row_of_one_example_is_the_same_packed_or_not(inputs, targets):
    example = seqio_tasks.Tokenised(inputs, targets)
    lengths = {"inputs": 12, "targets": 12}
    packed = features.encoder_decoder_row([example], lengths, packed=True)
    for name, values in features.encoder_decoder_row([example], lengths, packed=False).items():
        np.testing.assert_array_equal(values, packed[name])


def test_stack():
    rows = [features.encoder_decoder_row(EXAMPLES[:n], LENGTHS, packed=True) for n in (0, 1, 2)]
    batch = features.stack(rows)
    assert batch.keys() == PACKED.keys()
    for name, values in batch.items():
        assert values.shape == (3, len(PACKED[name]))
        assert values[2].tolist() == PACKED[name]
