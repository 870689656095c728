"""Vocabularies: the embedded one keeps every text; any other gets stand-ins for what it lacks."""

import string

import pytest
from data_builders import tokenizer
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import mixtures, templates, vocabulary

text = st.text(alphabet=st.characters(exclude_categories=("Cs",)))


@pytest.fixture(scope="module")
def t5(shared_dir):
    path = shared_dir / "vocab" / "cc_all.32000.100extra.model"
    if not path.is_file():
        pytest.skip("T5's vocabulary is not there")
    return vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(str(path)))


def test_embedded_special_pieces():
    vocab = tokenizer().vocabulary
    pieces = vocab.tokenizer
    assert vocab.vocab_size == 8192
    assert (vocab.pad_id, vocab.eos_id, vocab.unk_id) == (0, 1, 2)
    assert [pieces.id_to_piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    # As in T5: the first sentinel is the last piece.
    assert [pieces.id_to_piece(8191 - i) for i in range(100)] == [f"<extra_id_{i}>" for i in range(100)]
    assert sum(pieces.is_byte(i) for i in range(8192)) == 256


def test_embedded_has_one_piece_for_newline_tab_and_braces():
    for character in "\n\t{}":
        assert len(tokenizer().encode([f"a{character}"])[0]) == 1 + len(tokenizer().encode(["a"])[0])


@given(text)
def test_embedded_keeps_every_text(given_text):
    """To the character, white space included; only U+2581, SentencePiece's own mark for a space, comes back as one."""
    (ids,) = tokenizer().encode([given_text])
    assert tokenizer().decode(ids) == given_text.replace("\u2581", " ")
    assert tokenizer().vocabulary.unk_id not in ids
    assert tokenizer().vocabulary.eos_id not in ids
    assert tokenizer().adapt(given_text) == given_text


@given(st.lists(text, max_size=8))
def test_a_batch_is_encoded_as_its_texts_one_by_one(texts):
    assert tokenizer().encode(texts) == [tokenizer().encode([one])[0] for one in texts]
    assert tokenizer().encode(texts) == [list(tokenizer().vocabulary.encode(one)) for one in texts]


def test_embedded_loses_no_character_of_any_template():
    specs = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs
    literal = {
        c for spec in specs for t in templates.load(spec.templates) for part, _ in (*t.inputs, *t.targets) for c in part
    }
    assert "\n" in literal
    assert tokenizer().unrepresentable("".join(sorted(literal | set(vocabulary.FALLBACKS)))) == []


def test_stand_ins_need_no_stand_in():
    """They are put in one after the other, so none may be replaced again."""
    assert not {c for stand_in in vocabulary.FALLBACKS.values() for c in stand_in} & set(vocabulary.FALLBACKS)


def test_t5_lacks_newline_and_braces(t5):
    assert set(t5.unrepresentable("ab \n\t{}<")) == set("\n\t{}<")
    assert t5.adapt("{x}\n\n~a~\t\\") == "(x)  -a-\t\\".replace("\t", " ").replace("\\", "/")


@given(st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " \n\t"))
def test_t5_represents_every_adapted_text(t5, given_text):
    (ids,) = t5.encode([given_text])
    assert t5.vocabulary.unk_id not in ids
    assert t5.decode(ids).split() == t5.adapt(given_text).split()


def test_byte_vocabulary():
    import seqio

    taken = vocabulary.Tokenizer(seqio.ByteVocabulary())
    given_texts = ["a{b}\n", "\u00e9", ""]
    assert [taken.decode(ids) for ids in taken.encode(given_texts)] == given_texts


def test_missing_file_is_named(tmp_path):
    with pytest.raises(errors.FlanError, match=r"vocabulary '.*absent.model' does not exist"):
        vocabulary.sentencepiece_vocabulary(str(tmp_path / "absent.model"))


def test_same_file_gives_equal_vocabularies():
    one, other = vocabulary.sentencepiece_vocabulary(), vocabulary.sentencepiece_vocabulary(vocabulary.embedded_path())
    assert one == other
    assert one != vocabulary.sentencepiece_vocabulary(extra_ids=10)


@pytest.mark.parametrize("extra_ids", [0, 7])
def test_it_is_seqios_vocabulary_without_seqio(extra_ids):
    import seqio

    ours = vocabulary.sentencepiece_vocabulary(extra_ids=extra_ids)
    theirs = seqio.SentencePieceVocabulary(vocabulary.embedded_path(), extra_ids=extra_ids)
    for name in ("vocab_size", "pad_id", "eos_id", "unk_id", "extra_ids"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for given_text in ("Is it so? <extra_id_0> yes\n{a}", "", f"<extra_id_{extra_ids}> \u00e9"):
        assert ours.encode(given_text) == list(theirs.encode(given_text))
    ids = [5, 4000, ours.vocab_size - 1, ours.vocab_size + 3, 17, 1, 6]
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours == theirs == vocabulary.as_seqio(ours)
    assert vocabulary.fingerprint(ours) == vocabulary.fingerprint(theirs)
    assert vocabulary.as_seqio(theirs) is theirs


def test_another_vocabulary_has_another_fingerprint(tmp_path):
    import seqio

    one = vocabulary.sentencepiece_vocabulary()
    copy = tmp_path / "renamed.model"
    copy.write_bytes(one.model)
    assert vocabulary.fingerprint(vocabulary.sentencepiece_vocabulary(str(copy))) == vocabulary.fingerprint(one)
    others = [
        vocabulary.sentencepiece_vocabulary(extra_ids=7),
        seqio.ByteVocabulary(),
        seqio.ByteVocabulary(extra_ids=9),
    ]
    assert len({vocabulary.fingerprint(found) for found in [one, *others]}) == 4
    assert one != seqio.SentencePieceVocabulary(vocabulary.embedded_path(), extra_ids=7, reverse_extra_ids=False)
    assert [vocabulary.name(found) for found in [one, others[1]]] == ["flan_jax_8k.model", "ByteVocabulary"]
