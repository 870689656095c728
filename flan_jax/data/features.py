"""Packed or single examples as the arrays that a model reads, under T5X's feature names.

`inputs [7, 8, 1]`, `targets [5, 1]` and `inputs [9, 1]`, `targets [6, 4, 1]`, packed into rows of 8 and 6:

    encoder_input_tokens   7 8 1 9 1 0 0 0
    encoder_segment_ids    1 1 1 2 2 0 0 0
    encoder_positions      0 1 2 0 1 0 0 0
    decoder_target_tokens  5 1 6 4 1 0
    decoder_input_tokens   0 5 0 6 4 0      # shifted right, starting again with 0 at every segment
    decoder_loss_weights   1 1 1 1 1 0
    decoder_segment_ids    1 1 2 2 2 0
    decoder_positions      0 1 0 1 2 0
"""

from collections.abc import Sequence

import numpy as np

from flan_jax.data import seqio_tasks

Features = dict[str, np.ndarray]


def encoder_decoder_row(examples: Sequence[seqio_tasks.Tokenised], lengths: dict[str, int], packed: bool) -> Features:
    """Lays the examples of one row out.

    Args:
      examples: those of the row, in order; one at most where `packed` is false; none gives a row of padding.
      lengths: `inputs` (S) and `targets` (T).
      packed: whether to add segment ids and positions.

    Returns:
      int32 arrays [S] and [T].
    """
    encoder = _Layout([e.inputs for e in examples], lengths["inputs"])
    decoder = _Layout([e.targets for e in examples], lengths["targets"])
    shifted = np.zeros_like(decoder.tokens)
    shifted[1:] = np.where(decoder.positions[1:] > 0, decoder.tokens[:-1], 0)
    row = {
        "encoder_input_tokens": encoder.tokens,
        "decoder_target_tokens": decoder.tokens,
        "decoder_input_tokens": shifted,
        "decoder_loss_weights": (decoder.segments > 0).astype(np.int32),
    }
    if packed:
        row |= {
            "encoder_segment_ids": encoder.segments,
            "decoder_segment_ids": decoder.segments,
            "encoder_positions": encoder.positions,
            "decoder_positions": decoder.positions,
        }
    return row


def stack(rows: Sequence[Features]) -> Features:
    """Stacks rows into a batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class _Layout:
    """Sequences laid one after the other, padded with 0."""

    def __init__(self, sequences: Sequence[Sequence[int]], length: int) -> None:
        self.tokens = np.zeros(length, np.int32)
        self.segments = np.zeros(length, np.int32)
        self.positions = np.zeros(length, np.int32)
        start = 0
        for number, ids in enumerate(sequences, start=1):
            stop = start + len(ids)
            self.tokens[start:stop] = ids
            self.segments[start:stop] = number
            self.positions[start:stop] = np.arange(len(ids))
            start = stop
