"""Batches of prompts: how long their rows are, and the features of prompts alone. Shared by generating and scoring."""

from collections.abc import Sequence

from flan_jax.data import features, seqio_tasks

SMALLEST_BUCKET = 32  # tokens; lengths are padded to powers of two from here on, so that few shapes are compiled


def bucket(length: int, longest: int) -> int:
    """The length that so many tokens are padded to, where none is longer than `longest`."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(longest, length))


def prompt_rows(
    prompts: Sequence[Sequence[int] | None], end: int, length: int, converter: features.Converter
) -> list[features.Features]:
    """The features that a model reads prompts by, a row each.

    Args:
      prompts: their tokens; None for a row of padding.
      end: any token of a target: a decoder-only row goes as far as its last input only where there is a target.
      length: tokens of a row's inputs.
      converter: lays a prompt out as the model's family reads it.
    """
    lengths = {"inputs": length, "targets": 1}
    rows = [
        converter.row([] if tokens is None else [seqio_tasks.Tokenised(list(tokens), [end])], lengths, packed=False)
        for tokens in prompts
    ]
    names = ("encoder_input_tokens",)
    if "encoder_input_tokens" not in rows[0]:
        names = ("decoder_input_tokens", "decoder_causal_attention")
    return [{name: row[name] for name in names} for row in rows]
