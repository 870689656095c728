"""`flan preview`: examples of a task or mixture as the model will see them."""

from collections.abc import Sequence

import numpy as np

from flan_jax.data import features, loader, mixtures, seqio_tasks, vocabulary


def show(
    name: str,
    *,
    module: str | None,
    data_dir: str | None,
    vocabulary_file: str | None,
    lengths: dict[str, int],
    split: str,
    count: int,
    seed: int,
    missing: str,
    pack: bool,
    converter: features.Converter = features.ENCODER_DECODER,
) -> None:
    """Prints the first rows of a task or mixture: text, tokens, segments, loss mask, and what was cut off.

    Args:
      name: a task or mixture.
      module: where tasks are defined.
      data_dir: of prepared TFDS datasets, or `sample`.
      vocabulary_file: a SentencePiece file; the embedded one where None.
      lengths: `inputs` and `targets`, in tokens.
      split: `train`, `validation` or `test`.
      count: rows to show.
      seed: of the stream.
      missing: `error` or `skip`, for tasks whose data is not there.
      pack: whether rows hold several examples.
      converter: of the model's family.
    """
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file))
    mixture = mixtures.Catalogue.from_modules(module).open(
        name,
        data_dir=data_dir,
        split=split,
        tokenizer=tokenizer,
        lengths=lengths,
        seed=seed,
        missing=missing,
    )
    lane = loader.Lane(mixture, 0, 1, lengths, seed, pack, converter)
    for number in range(count):
        row = lane.row()
        print(f"=== row {number} of {name}, {split}: {len(row)} example{'s' if len(row) != 1 else ''}")
        _show_row(row, mixture, tokenizer, lengths, pack, converter)
    if not pack:
        print("one example a row, without segments; --pack shows rows as training packs them")


def _show_row(
    row: Sequence[tuple[int, seqio_tasks.Tokenised]],
    mixture: mixtures.OpenMixture,
    tokenizer: vocabulary.Tokenizer,
    lengths: dict[str, int],
    pack: bool,
    converter: features.Converter,
) -> None:
    for segment, (task, example) in enumerate(row, start=1):
        print(f"--- segment {segment}: {mixture.members[task].name}")
        for side, ids in (("inputs", example.inputs), ("targets", example.targets)):
            print(f"{side}, {len(ids)} of {lengths[side]} tokens{_cut(example, side, lengths)}:")
            print(_indented(tokenizer.decode(ids[:-1] if ids[-1:] == [tokenizer.vocabulary.eos_id] else ids)))
            print("  tokens: " + " ".join(_pieces(tokenizer, ids)))
    print("--- features")
    for name, values in converter.row([example for _, example in row], lengths, pack).items():
        used = int(np.flatnonzero(values)[-1]) + 1 if values.any() else 0
        shown = " ".join(str(value) for value in values[: min(used, 48)])
        print(f"  {name:24}[{len(values)}] {shown}{' ...' if used > 48 else ''}")


def _cut(example: seqio_tasks.Tokenised, side: str, lengths: dict[str, int]) -> str:
    if example.cut is None:  # seqio trims its own tasks and does not say
        full = len(example.inputs if side == "inputs" else example.targets) == lengths[side]
        return " (as long as allowed: its tail may be cut off)" if full else ""
    lost = example.cut[side == "targets"]
    return f" (cut: the last {lost} tokens did not fit)" if lost else ""


def _pieces(tokenizer: vocabulary.Tokenizer, ids: Sequence[int]) -> list[str]:
    processor = getattr(tokenizer.vocabulary, "tokenizer", None)
    if processor is None:
        return [str(i) for i in ids]
    return [processor.id_to_piece(i).replace("\n", "\\n") for i in ids]


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.split("\n"))
