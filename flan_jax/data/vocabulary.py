"""Vocabularies: the embedded one, any SentencePiece file by name, and batched encoding.

A run's vocabulary is read with SentencePiece alone, so that training from a packed cache needs no TensorFlow; seqio's own
object of the same vocabulary is made where seqio asks for it (`as_seqio`).
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from flan_jax import errors, shipped
from flan_jax.data import quiet

EMBEDDED = "flan_jax_8k.model"

# What stands in for a character that a vocabulary has no piece for. T5's own has no newline, tab or braces, among
# others.
FALLBACKS = {
    "\n": " ",
    "\t": " ",
    "{": "(",
    "}": ")",
    "<": "(",
    ">": ")",
    "~": "-",
    "^": "**",
    "`": "'",
    "\\": "/",
    "\u2013": "-",
    "\u2014": "-",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2026": "...",
}


class Vocabulary(Protocol):
    """What a model asks of a vocabulary: ours below, or any of seqio's."""

    @property
    def vocab_size(self) -> int:
        """Pieces, sentinels included."""
        ...

    def encode(self, text: str, /) -> Sequence[int]:
        """The piece ids of a text, without EOS."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of the ids up to the first EOS."""
        ...


def embedded_path() -> str:
    """Path of the vocabulary that ships with flan_jax: 8,192 SentencePiece pieces, the last 100 of them sentinels."""
    return str(shipped.directory("data/vocabulary") / EMBEDDED)


class SentencePieceVocabulary:
    """A SentencePiece file, with the attributes of a `seqio.SentencePieceVocabulary` and its ids."""

    def __init__(self, sentencepiece_model_file: str, extra_ids: int = 0) -> None:
        """Args: as `sentencepiece_vocabulary`. The file is read when it is first needed."""
        self.sentencepiece_model_file = sentencepiece_model_file
        self.extra_ids = extra_ids

    def __getstate__(self) -> dict[str, Any]:
        # gin copies what it binds, and a processor cannot be copied.
        return {"sentencepiece_model_file": self.sentencepiece_model_file, "extra_ids": self.extra_ids}

    @functools.cached_property
    def model(self) -> bytes:
        """The file's content."""
        from etils import epath

        return epath.Path(self.sentencepiece_model_file).read_bytes()

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The `SentencePieceProcessor`, sentinels included."""
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_proto=_with_sentinels(self.model, self.extra_ids))
        except Exception as error:  # RuntimeError here, protobuf's own where sentinels are added
            raise errors.FlanError(
                f"vocabulary {self.sentencepiece_model_file!r} is no SentencePiece .model file: {' '.join(str(error).split())}"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Pieces, sentinels included."""
        return self.tokenizer.get_piece_size()

    @property
    def pad_id(self) -> int:
        """0, as in all of T5's vocabularies."""
        return 0

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id()

    @property
    def unk_id(self) -> int:
        return self.tokenizer.unk_id()

    def encode(self, text: str) -> list[int]:
        """The piece ids of a text, without EOS."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids up to the first EOS; ids beyond the vocabulary are read as unknown."""
        known = [int(i) if i < self.vocab_size else self.unk_id for i in ids]
        if self.eos_id in known:
            known = known[: known.index(self.eos_id) + 1]
        return self.tokenizer.decode(known)

    def __eq__(self, other: object) -> bool:
        """Equal where the pieces are, whatever the file is called; also to seqio's object of the same pieces."""
        theirs = _identity(other)
        return theirs is not None and theirs == _identity(self)

    def __hash__(self) -> int:
        return hash(_identity(self))

    def __repr__(self) -> str:
        return f"SentencePieceVocabulary({self.sentencepiece_model_file!r}, extra_ids={self.extra_ids})"


def sentencepiece_vocabulary(
    sentencepiece_model_file: str | None = None, extra_ids: int = 0
) -> SentencePieceVocabulary:
    """Opens a SentencePiece vocabulary (gin: `seqio.SentencePieceVocabulary`).

    Args:
      sentencepiece_model_file: a local or `gs://` path; the embedded vocabulary where None.
      extra_ids: sentinels to add after the model's own pieces (T5's `cc_all.32000.100extra` has its 100 inside: 0).

    Raises:
      FlanError: there is no such file.
    """
    from etils import epath

    path = sentencepiece_model_file or embedded_path()
    if not epath.Path(path).exists():
        raise errors.FlanError(
            f"vocabulary {path!r} does not exist; expected a SentencePiece .model file, local or gs://"
        )
    return SentencePieceVocabulary(path, extra_ids)


def as_seqio(vocabulary: Any) -> Any:
    """Returns the seqio vocabulary of the same pieces, for seqio's features; one of seqio's own as it is."""
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return vocabulary
    return quiet.seqio().SentencePieceVocabulary(vocabulary.sentencepiece_model_file, extra_ids=vocabulary.extra_ids)


def fingerprint(vocabulary: Any) -> str:
    """Returns the SHA-256 of the pieces and what they are encoded with: 64 hexadecimal digits.

    Vocabularies that are not SentencePiece's are told apart by their class and size alone.
    """
    identity = _identity(vocabulary)
    if identity is None:
        return hashlib.sha256(f"{type(vocabulary).__name__} {vocabulary.vocab_size}".encode()).hexdigest()
    model, extra_ids = identity
    return hashlib.sha256(model + f" {extra_ids}".encode() if extra_ids else model).hexdigest()


def name(vocabulary: Any) -> str:
    """The vocabulary's file; only its name, so that a page or a manifest that is passed on tells no directory."""
    file = getattr(vocabulary, "sentencepiece_model_file", None)
    return str(file).rsplit("/", 1)[-1] if file else type(vocabulary).__name__


def _identity(vocabulary: Any) -> tuple[bytes, int] | None:
    """What two SentencePiece vocabularies share if they are the same; None for any other object."""
    if isinstance(vocabulary, SentencePieceVocabulary):
        return vocabulary.model, vocabulary.extra_ids
    file, extra_ids = getattr(vocabulary, "sentencepiece_model_file", None), getattr(vocabulary, "extra_ids", None)
    # seqio can also rewrite the normalizer and turn the sentinels round: then it is another vocabulary.
    if not file or getattr(vocabulary, "_normalizer_spec_overrides", None) is not None:
        return None
    if extra_ids and not getattr(vocabulary, "_reverse_extra_ids", True):
        return None
    return SentencePieceVocabulary(file).model, extra_ids or 0


def _with_sentinels(model: bytes, extra_ids: int) -> bytes:
    """Adds `<extra_id_N>` ... `<extra_id_0>` after the last piece, as seqio does: the first is the last piece."""
    if not extra_ids:
        return model
    from sentencepiece import sentencepiece_model_pb2 as proto

    edited = proto.ModelProto.FromString(model)
    for number in range(extra_ids - 1, -1, -1):
        piece = edited.pieces.add()
        piece.piece, piece.score = f"\u2581<extra_id_{number}>", 0.0
        piece.type = proto.ModelProto.SentencePiece.USER_DEFINED
    return edited.SerializeToString()


class Tokenizer:
    """Batched encoding with one vocabulary, after replacing the characters that it has no piece for."""

    def __init__(self, vocabulary: Any, threads: int = 2) -> None:
        """Args:
        vocabulary: one of `sentencepiece_vocabulary`, or any of seqio's.
        threads: threads of SentencePiece's batch call (on 2 it reads 4.4M tokens/s, text by text 0.7M).
        """
        self.vocabulary = vocabulary
        self._threads = threads
        self._again: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the piece ids of each text, without EOS."""
        adapted = [self.adapt(text) for text in texts]
        processor = getattr(self.vocabulary, "tokenizer", None)
        if processor is None:  # a byte vocabulary, say
            return [list(self.vocabulary.encode(text)) for text in adapted]
        return processor.encode(adapted, num_threads=self._threads)

    def encode_again(self, text: str) -> list[int]:
        """The piece ids of one of the few texts that come again and again, such as delimiters; they are kept."""
        if text not in self._again:
            (self._again[text],) = self.encode([text])
        return self._again[text]

    def decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode([int(i) for i in ids])

    def adapt(self, text: str) -> str:
        """Replaces the characters that the vocabulary cannot represent by their nearest stand-ins (see `FALLBACKS`)."""
        # Five times as fast as str.translate, which looks every character up in the table.
        for character, stand_in in self._stand_ins:
            if character in text:
                text = text.replace(character, stand_in)
        return text

    @functools.cached_property
    def _stand_ins(self) -> list[tuple[str, str]]:
        return [(c, FALLBACKS[c]) for c in self.unrepresentable("".join(FALLBACKS))]

    def unrepresentable(self, characters: str) -> list[str]:
        """Returns the characters that do not survive encoding between two letters, each once, in order."""
        return [c for c in dict.fromkeys(characters) if self._lost(c)]

    def _lost(self, character: str) -> bool:
        ids = [int(i) for i in self.vocabulary.encode(f"a{character}b")]
        if self.vocabulary.unk_id is not None and self.vocabulary.unk_id in ids:
            return True
        # White space that is normalised away gives no unknown piece, so it is looked for in what comes back.
        return character.isspace() and character != " " and character not in self.vocabulary.decode(ids)
