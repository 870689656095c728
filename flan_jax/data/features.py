"""Packed or single examples as the arrays that a model reads, under T5X's feature names.

A `Converter` lays them out for a family of models; gin knows each by the name of seqio's feature converter that gives the
same arrays.

Encoder-decoder (`EncoderDecoder`): `inputs [7, 8, 1]`, `targets [5, 1]` and `inputs [9, 1]`, `targets [6, 4, 1]`, packed into
rows of 8 and 6:

    encoder_input_tokens   7 8 1 9 1 0 0 0
    encoder_segment_ids    1 1 1 2 2 0 0 0
    encoder_positions      0 1 2 0 1 0 0 0
    decoder_target_tokens  5 1 6 4 1 0
    decoder_input_tokens   0 5 0 6 4 0      # shifted right, starting again with 0 at every segment
    decoder_loss_weights   1 1 1 1 1 0
    decoder_segment_ids    1 1 2 2 2 0
    decoder_positions      0 1 0 1 2 0

Decoder-only (`PrefixLM`): the same two in a row of 8 + 6, one stream:

    decoder_target_tokens     7 8 1 5 1 9 1 6 4 1 0 0 0 0
    decoder_input_tokens      0 7 8 1 5 0 9 1 6 4 0 0 0 0
    decoder_loss_weights      0 0 0 1 1 0 0 1 1 1 0 0 0 0   # targets only
    decoder_causal_attention  1 1 1 1 0 1 1 1 0 0 0 0 0 0   # the prompt, whose first token is the one that begins it
    decoder_segment_ids       1 1 1 1 1 2 2 2 2 2 0 0 0 0
    decoder_positions         0 1 2 3 4 0 1 2 3 4 0 0 0 0

Language modelling (`LM`) reads the targets alone, and all of them count.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from flan_jax.data import seqio_tasks

Features = dict[str, np.ndarray]


class Converter(Protocol):
    """How examples become the features of a family of models."""

    name: ClassVar[str]

    def capacity(self, lengths: Mapping[str, int]) -> list[int]:
        """Tokens of a row, one number a stream of the packer."""
        ...

    def sizes(self, example: seqio_tasks.Tokenised) -> list[int]:
        """Tokens of an example in each of these streams."""
        ...

    def row(self, examples: Sequence[seqio_tasks.Tokenised], lengths: Mapping[str, int], packed: bool) -> Features:
        """Lays the examples of one row out.

        Args:
          examples: those of the row, in order; one at most where `packed` is false; none gives a row of padding.
          lengths: `inputs` and `targets`, in tokens.
          packed: whether to add segment ids and positions.

        Returns:
          int32 arrays [length], T5X's names.
        """
        ...


@dataclasses.dataclass(frozen=True)
class EncoderDecoder:
    """Inputs for the encoder, targets for the decoder: rows of S and T tokens (seqio: `EncDecFeatureConverter`)."""

    name: ClassVar[str] = "encoder_decoder"

    def capacity(self, lengths: Mapping[str, int]) -> list[int]:
        return [lengths["inputs"], lengths["targets"]]

    def sizes(self, example: seqio_tasks.Tokenised) -> list[int]:
        return [len(example.inputs), len(example.targets)]

    def row(self, examples: Sequence[seqio_tasks.Tokenised], lengths: Mapping[str, int], packed: bool) -> Features:
        encoder = _Layout([e.inputs for e in examples], lengths["inputs"])
        decoder = _Layout([e.targets for e in examples], lengths["targets"])
        row = {"encoder_input_tokens": encoder.tokens, **_decoder(decoder, packed, bos_id=0)}
        if packed:
            row |= {"encoder_segment_ids": encoder.segments, "encoder_positions": encoder.positions}
        return row


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """Inputs and targets in one stream: rows of inputs + targets tokens (seqio: `PrefixLMFeatureConverter`).

    Whether the inputs see each other in both directions is the model's business (`inputs_bidirectional_attention`).

    Attributes:
      loss_on_targets_only: whether the inputs carry no loss.
      bos_id: the token that begins every example; 0 in T5X, LLaMA's is 1, OPT's 2.
    """

    name: ClassVar[str] = "prefix_lm"
    loss_on_targets_only: bool = True
    bos_id: int = 0

    def capacity(self, lengths: Mapping[str, int]) -> list[int]:
        return [lengths["inputs"] + lengths["targets"]]

    def sizes(self, example: seqio_tasks.Tokenised) -> list[int]:
        return [len(example.inputs) + len(example.targets)]

    def row(self, examples: Sequence[seqio_tasks.Tokenised], lengths: Mapping[str, int], packed: bool) -> Features:
        decoder = _Layout([[*e.inputs, *e.targets] for e in examples], *self.capacity(lengths))
        row = _decoder(decoder, packed, self.bos_id)
        # Of each place, how many inputs its example has; -1 at padding.
        inputs = np.asarray([-1, *(len(e.inputs) for e in examples)])[decoder.segments]
        # The tokens that go in are one place behind those that come out.
        row["decoder_causal_attention"] = (decoder.positions <= inputs).astype(np.int32)
        if self.loss_on_targets_only:
            row["decoder_loss_weights"] = ((inputs >= 0) & (decoder.positions >= inputs)).astype(np.int32)
        return row


@dataclasses.dataclass(frozen=True)
class LM:
    """Targets alone, in rows of so many tokens (seqio: `LMFeatureConverter`).

    Attributes:
      bos_id: as in `PrefixLM`.
    """

    name: ClassVar[str] = "lm"
    bos_id: int = 0

    def capacity(self, lengths: Mapping[str, int]) -> list[int]:
        return [lengths["targets"]]

    def sizes(self, example: seqio_tasks.Tokenised) -> list[int]:
        return [len(example.targets)]

    def row(self, examples: Sequence[seqio_tasks.Tokenised], lengths: Mapping[str, int], packed: bool) -> Features:
        return _decoder(_Layout([e.targets for e in examples], lengths["targets"]), packed, self.bos_id)


ENCODER_DECODER = EncoderDecoder()
CONVERTERS: dict[str, type[EncoderDecoder] | type[PrefixLM] | type[LM]] = {
    made.name: made for made in (EncoderDecoder, PrefixLM, LM)
}


def encoder_decoder_row(
    examples: Sequence[seqio_tasks.Tokenised], lengths: Mapping[str, int], packed: bool
) -> Features:
    """A row of `ENCODER_DECODER`."""
    return ENCODER_DECODER.row(examples, lengths, packed)


def _decoder(layout: "_Layout", packed: bool, bos_id: int) -> Features:
    """The features of a decoder that every family has; every place that is not padding counts."""
    real = layout.segments > 0
    shifted = np.zeros_like(layout.tokens)
    shifted[1:] = layout.tokens[:-1]
    row = {
        "decoder_target_tokens": layout.tokens,
        "decoder_input_tokens": np.where(layout.positions > 0, shifted, bos_id * real).astype(np.int32),
        "decoder_loss_weights": real.astype(np.int32),
    }
    if packed:
        row |= {"decoder_segment_ids": layout.segments, "decoder_positions": layout.positions}
    return row


def stack(rows: Sequence[Features]) -> Features:
    """Stacks rows into a batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def task_ids(found: Features, tasks: Sequence[Sequence[int]]) -> np.ndarray:
    """At every target token of a batch, one more than the number of its task; 0 at padding of a packed row.

    Args:
      found: the batch, [B, length] each.
      tasks: of each row, the task of each of its examples, in order.

    Returns:
      int32 [B, T], what training calls `decoder_task_ids`.
    """
    tables = [np.asarray([0, *(task + 1 for task in row)], np.int32) for row in tasks]
    if "decoder_segment_ids" in found:
        return np.stack([table[row] for table, row in zip(tables, found["decoder_segment_ids"], strict=True)])
    shape = found["decoder_target_tokens"].shape
    alone = np.asarray([table[-1] for table in tables], np.int32)  # one example a row, or none
    return np.ascontiguousarray(np.broadcast_to(alone[:, None], shape))


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
