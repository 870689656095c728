"""A vocabulary of the world's words: each word and number is one piece, so that a small model is not mostly embedding.

It is a SentencePiece model as any other, laid out as T5's: pad 0, end 1, unknown 2, the sentinels last, and no newline, which
the tokenizer reads as a space. It is put together, not trained: the words are known, and BPE would spend a third of the
pieces on beginnings of words. What is no word of the world is spelt in letters.
"""

import collections
import re
from collections.abc import Iterable

SIZE = 640
SENTINELS = 16  # of the longest document, 15% in spans of 3 are six
_WORD = re.compile(r" ?(?:[A-Za-z]+|\d+|[^\sA-Za-z\d])")
# Any text of ASCII can be said.
_CHARACTERS = ("\u2581", *map(chr, range(33, 127)))
_SPACE = "\u2581"


def make(texts: Iterable[str], size: int = SIZE) -> bytes:
    """Makes a SentencePiece model of the words of some texts, the most frequent ones if there are more than fit.

    Args:
      texts: of the world: records, templates, documents.
      size: of the vocabulary, characters and sentinels included.

    Returns:
      The serialised model; the same for the same texts.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    counted = collections.Counter(word for text in texts for word in _WORD.findall(" " + " ".join(text.split())))
    words = [word.replace(" ", _SPACE) for word, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]
    words = [word for word in words if len(word) > 1][: size - 3 - len(_CHARACTERS) - SENTINELS]
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    model.trainer_spec.pad_id, model.trainer_spec.eos_id, model.trainer_spec.unk_id = 0, 1, 2
    model.trainer_spec.bos_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    kind = proto.ModelProto.SentencePiece

    def add(piece: str, score: float, of: int) -> None:
        model.pieces.add(piece=piece, score=score, type=of)  # type: ignore[arg-type]  # an enum's number

    add("<pad>", 0.0, kind.CONTROL)
    add("</s>", 0.0, kind.CONTROL)
    add("<unk>", 0.0, kind.UNKNOWN)
    for word in words:
        add(word, -1.0, kind.NORMAL)
    for character in _CHARACTERS:
        add(character, -10.0, kind.NORMAL)  # a word is likelier than any spelling of it
    for number in reversed(range(SENTINELS)):
        add(f"<extra_id_{number}>", 0.0, kind.USER_DEFINED)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()
