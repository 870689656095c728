"""Plain text as tasks: `c4_span_corruption`, `c4_ul2r`, `c4_prefix_lm`, `c4_lm` ... (`denoising.OBJECTIVES` has the names).

A dataset of plain text is a `DatasetSpec` without templates whose examples have the field `text`. Its documents are cut by
`denoising`, a window of each that is too long; a task is read by position as any other, so it may stand in a mixture
beside tasks with instructions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import denoising, quiet, seqio_tasks, spec, stateless, stores, styles, vocabulary

FIELD = "text"
_SALT_ORDER, _SALT_CUT, _SALT_SUBSTITUTE = 61, 62, 63
_TRIES = 64  # documents looked at for one that is long enough


class TextTask:
    """A dataset of plain text under an objective."""

    def __init__(self, dataset: spec.DatasetSpec, objective: str) -> None:
        self.dataset, self.objective = dataset, objective
        self.name = f"{dataset.name}_{objective}"
        self.key = stateless.name_key(self.name)
        self.style = styles.Style(())

    def evaluations(self) -> list[Any]:
        """None: no metric scores it."""
        return []

    def open(self, data_dir: str, split: str, cap: int | None = None) -> "TextRows":
        """Opens a split of the prepared dataset.

        Args:
          data_dir: of prepared datasets.
          split: the split.
          cap: documents that are used, at most.

        Raises:
          FlanError: the dataset is not prepared, it has no such split, or no row of it has a text.
        """
        if split not in self.dataset.splits:
            raise errors.unknown("split", split, self.dataset.splits)
        rows = stores.opened(self.dataset, data_dir).rows(self.dataset.splits, split)
        if not rows or self.dataset.example(rows[0]) is None:
            raise errors.FlanError(f"task {self.name!r} is empty: no text in {self.dataset.splits[split]!r}")
        return TextRows(self, rows, min(len(rows), cap or len(rows)))


@dataclasses.dataclass(frozen=True)
class TextRows:
    """The documents of a split."""

    task: TextTask
    rows: Sequence[spec.Row]
    num_examples: int

    @property
    def counted(self) -> int:
        """What rates are computed from."""
        return self.num_examples

    def text(self, row: int) -> str:
        """The text of a document; of another one where it has none."""
        for attempt in range(_TRIES):
            found = self.task.dataset.example(self.rows[row])
            if found is not None and found.fields[FIELD].strip():
                return found.fields[FIELD]
            row = int(stateless.below(self.num_examples, _SALT_SUBSTITUTE, self.task.key, row, attempt))
        raise errors.FlanError(f"task {self.task.name!r}: {_TRIES} documents in a row have no text")


class TextStream:
    """The stream of a text task; position p is document `permute(p mod n)` of epoch `p // n`, cut anew every epoch."""

    def __init__(
        self,
        rows: TextRows,
        tokenizer: vocabulary.Tokenizer,
        lengths: dict[str, int],
        seed: int,
        shuffle: bool = True,
        row: int | None = None,
    ) -> None:
        """Args: as of `streams.FlanStream`, and `row` as of `mixtures.Catalogue.open`.

        Raises:
          FlanError: the objective needs sentinels, and the vocabulary has none.
        """
        self.rows, self.tokenizer, self.lengths, self.seed, self.shuffle = rows, tokenizer, lengths, seed, shuffle
        # A language model reads inputs and targets in one row, all of which is there for text without inputs.
        self._whole = {**lengths, "targets": row or lengths["targets"]}
        listed = [objective for objective, _ in denoising.OBJECTIVES[rows.task.objective]]
        self._sentinels: list[int] = []
        if any(isinstance(objective, denoising.Corruption) for objective in listed):
            self._sentinels = sentinels(tokenizer.vocabulary)
        self._modes: Mapping[str, list[int]] = {o.mode: tokenizer.encode_again(o.mode) for o in listed}

    def seek(self, first: Mapping[int, int], lanes: int) -> None:
        """Nothing to do: any position is read at once."""

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        task = self.rows.task
        epochs, order = np.divmod(np.asarray(positions, np.int64), self.rows.num_examples)
        if self.shuffle:
            order = stateless.permute(
                order, self.rows.num_examples, stateless.hash64(self.seed, _SALT_ORDER, task.key, epochs)
            )
        keys = stateless.hash64(self.seed, _SALT_CUT, task.key, order, epochs).tolist()
        ids = self.tokenizer.encode([self.rows.text(row) for row in order.tolist()])
        return [self._cut(tokens, key) for tokens, key in zip(ids, keys, strict=True)]

    def _cut(self, tokens: Sequence[int], key: int) -> seqio_tasks.Tokenised:
        eos = self.tokenizer.vocabulary.eos_id
        objective = denoising.draw(self.rows.task.objective, key)
        # A text may spell a sentinel; it would stand for a span that was never cut.
        marks = set(self._sentinels)
        tokens = [token for token in tokens if token not in marks]
        lengths = self._whole if isinstance(objective, denoising.Whole) else self.lengths
        made = denoising.make(tokens, objective, lengths, key, self._sentinels, self._modes[objective.mode])
        if made is None:  # a document of one token: nothing can be cut out of it
            made = ([], list(tokens))
        inputs, targets = made
        return seqio_tasks.Tokenised([*inputs, eos] if inputs else [], [*targets, eos], (0, 0))


def preprocessor(objective: str, seed: int = 0) -> Callable[..., Any]:
    """An objective as a seqio preprocessor, for tasks of one's own in seqio's registry.

    It takes datasets of tokenised `targets` and gives `inputs` and `targets` without EOS, which
    `seqio.preprocessors.append_eos` adds after it:

        seqio.Task(..., preprocessors=[functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
                                       seqio.preprocessors.tokenize, text_tasks.preprocessor("ul2r"),
                                       seqio.preprocessors.append_eos])

    Args:
      objective: a name out of `denoising.OBJECTIVES`.
      seed: of every draw; an element's are those of its place in the dataset.

    Raises:
      FlanError: there is no such objective.
    """
    denoising.draw(objective, 0)  # says if there is none
    tf = quiet.tensorflow()

    def apply(dataset: Any, sequence_length: Mapping[str, int], output_features: Mapping[str, Any]) -> Any:
        vocab = output_features["targets"].vocabulary
        marks = sentinels(vocab)
        tokenizer = vocabulary.Tokenizer(vocab)

        def cut(place: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            key = int(stateless.hash64(seed, _SALT_CUT, place))
            drawn = denoising.draw(objective, key)
            mode = tokenizer.encode_again(drawn.mode)
            made = denoising.make(tokens.tolist(), drawn, sequence_length, key, marks, mode) or ([], tokens)
            return np.asarray(made[0], np.int32), np.asarray(made[1], np.int32)

        def one(place: Any, element: Mapping[str, Any]) -> dict[str, Any]:
            inputs, targets = tf.numpy_function(cut, [place, element["targets"]], [tf.int32, tf.int32])
            return {"inputs": tf.ensure_shape(inputs, [None]), "targets": tf.ensure_shape(targets, [None])}

        return dataset.enumerate().map(one, num_parallel_calls=tf.data.AUTOTUNE)

    return apply


def find(dataset: spec.DatasetSpec, objective: str) -> TextTask | None:
    """The task of a dataset of plain text under that objective; None where there is no such objective."""
    return TextTask(dataset, objective) if objective in denoising.OBJECTIVES else None


def sentinels(vocab: Any) -> list[int]:
    """The ids of `<extra_id_0>`, `<extra_id_1>` ... of a vocabulary, in this order.

    Raises:
      FlanError: it has none.
    """
    processor = getattr(vocab, "tokenizer", None)
    found: list[int] = []
    while processor is not None:
        # seqio writes them with the mark of a space before, SentencePiece's own trainer without.
        ids = {processor.piece_to_id(f"{space}<extra_id_{len(found)}>") for space in ("", "\u2581")}
        ids.discard(processor.unk_id())
        if not ids:
            break
        found.append(ids.pop())
    if not found:
        raise errors.FlanError(
            "the vocabulary has no sentinels <extra_id_0>, <extra_id_1> ..., which stand for what is cut out; "
            "expected T5's, or `seqio.SentencePieceVocabulary.extra_ids = 100`"
        )
    return found
