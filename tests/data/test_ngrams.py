"""n-grams on disk against sets of words in memory."""

import json
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import ngrams

# Few words, so that n-grams repeat; beside them what is no word and what is one in another case or script.
TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "b", "A", "Été", "été", "7", "_", "--", "\n", "日本", "a_b", "\ud800"])).map(
        " ".join
    ),
    max_size=12,
)


def grams(hasher, texts):
    """The n-grams of each text as tuples of words, spelt out."""
    words = [[word.lower() for word in hasher.words(text)] for text in texts]
    return [[tuple(of[at : at + hasher.n]) for at in range(len(of) - hasher.n + 1)] for of in words]


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 4))
def test_what_is_found_is_what_a_set_of_words_holds(documents, asked, n):
    with tempfile.TemporaryDirectory() as folder:
        builder = ngrams.Builder(f"{folder}/index", n)
        builder.add(documents)
        index = builder.finish()
        held = {gram for of in grams(index.hasher, documents) for gram in of}
        assert (index.ngrams, index.documents, index.n) == (len(held), len(documents), n)
        values, counts = index.hasher.hashes(asked)
        wanted = grams(index.hasher, asked)
        assert counts.tolist() == list(map(len, wanted))
        assert index.contains(values).tolist() == [gram in held for of in wanted for gram in of]


def test_words_are_runs_of_letters_and_digits():
    assert ngrams.Hasher().words("It's a_test: 3.5 ÉTÉ!") == ["it", "s", "a", "test", "3", "5", "été"]


def test_runs_are_merged_as_if_all_had_been_in_memory(tmp_path):
    rng = np.random.default_rng(2)
    documents = [" ".join(rng.choice(list("abcdefghij"), 40)) for _ in range(400)]
    whole = ngrams.Builder(tmp_path / "whole", 4)
    whole.add(documents)
    cut = ngrams.Builder(tmp_path / "cut", 4, memory=1)  # the least: runs of 1,024 n-grams
    cut.add(documents)
    assert len(list((tmp_path / "cut.runs").iterdir())) == 14
    assert whole.finish().ngrams == cut.finish().ngrams == len({g for of in grams(cut.hasher, documents) for g in of})
    assert (tmp_path / "whole/ngrams.u64").read_bytes() == (tmp_path / "cut/ngrams.u64").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}


def test_an_index_is_replaced_and_nothing_else_is(tmp_path):
    for documents in (["a b c"], ["d e f", "d e g"]):
        builder = ngrams.Builder(tmp_path / "index", 2)
        builder.add(documents)
        builder.finish()
    assert (ngrams.Index(tmp_path / "index").ngrams, ngrams.Index(tmp_path / "index").documents) == (3, 2)
    (tmp_path / "index" / "notes.txt").write_text("mine")
    with pytest.raises(errors.FlanError, match="holds something else than an index"):
        ngrams.Builder(tmp_path / "index")


def test_a_build_that_was_killed_is_no_index_and_is_begun_anew(tmp_path):
    ngrams.Builder(tmp_path / "index", 2, memory=1).add(["a b " * 3000])
    with pytest.raises(errors.FlanError, match="holds no index"):
        ngrams.Index(tmp_path / "index")
    builder = ngrams.Builder(tmp_path / "index", 2)
    builder.add(["c d"])
    assert builder.finish().ngrams == 1


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    builder = ngrams.Builder(tmp_path / "index", 2)
    builder.add(["a b c d"])
    builder.finish()
    (tmp_path / "index" / "ngrams.u64").write_bytes(b"12345678")
    with pytest.raises(errors.FlanError, match="8 bytes of version 1; expected 24 of version 1"):
        ngrams.Index(tmp_path / "index")
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**about, "ngrams": 1, "version": 0}))
    with pytest.raises(errors.FlanError, match="of version 0; expected 8 of version 1"):
        ngrams.Index(tmp_path / "index")
