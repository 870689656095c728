"""What stands around exemplars: a written table, a row of which each example draws, the same in text and in tokens."""

import collections

import numpy as np
import pytest
from data_builders import OPTIONS, dataset, example, prepare, rows, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import delimiters, seqio_tasks, spec, styles, vocabulary

LENGTHS = {"inputs": 512, "targets": 32}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delimiters")
    data_dir = prepare(folder, "mini", train=rows(60), validation=rows(4), test=rows(4))
    style = styles.Style((0, 1, 2, 3), shots=3, delimiters=delimiters.FLAN_2022, budget=400)
    return seqio_tasks.FlanTask(dataset(folder), "4templates", style).open(data_dir, "train")


@pytest.mark.parametrize("name", [delimiters.FLAN_2022, delimiters.OPT_IML])
def test_rows_of_a_table_differ_and_say_something(name):
    found = delimiters.table(name)
    assert len(set(found)) == len(found)
    for row in found:
        assert (row.between + row.target).strip(), row
        # Where neither side of the targets has a mark, white space alone would part them: T5's vocabulary has no newline.
        assert row.exemplar.strip() or row.input.strip() or row.target.strip() or name == delimiters.OPT_IML, row


def test_opt_iml_has_eight():
    said = {row.between + row.target for row in delimiters.table(delimiters.OPT_IML)}
    assert said == {"\nAnswer:", " Answer:", "\nA:", " A:", "\nOutput:", " Output:", "\nanswer:", "\noutput:"}


def test_an_unknown_table_is_named():
    with pytest.raises(errors.FlanError, match=r"flan2021.*did you mean 'flan2022'"):
        delimiters.table("flan2021")


def test_a_query_is_closed_and_labels_are_not_doubled():
    row = delimiters.Delimiter("Q: ", "\n", "A: ", "\n\n")
    assert row.query("Why?") == "Q: Why?\nA:"
    assert row.query("Premise: It rains.\nIs it wet?") == "Premise: It rains.\nIs it wet?\nA:"
    assert row.around("Why?", "So.") == "Q: Why?\nA: So.\n\n"
    (after,) = (row for row in delimiters.table(delimiters.OPT_IML) if row.target == "Output:" and row.between == " ")
    assert after.query("Translate: Hund") == "Translate: Hund Output:"
    assert after.query("Translate this: Hund\nEnglish:") == "Translate this: Hund\nEnglish:"
    assert after.query("So?\nOPTIONS:\n- yes\n- no") == "So?\nOPTIONS:\n- yes\n- no\nOutput:"  # not one more option
    assert delimiters.FLAN_2021.query("Why?") == "Why?"


@given(st.integers(0, 2**40), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_tokens_are_those_of_the_text(opened, seed, position):
    (f,) = opened.draw(np.asarray([position]), seed)
    tok = tokenizer()
    (found,) = seqio_tasks.tokenise([f], tok, LENGTHS)
    assert found.shots == 3
    expected = tok.decode(tok.encode([f.prompt()])[0])
    assert tok.decode(found.inputs[:-1]).split() == expected.split()
    assert f.inputs in f.prompt()


def test_every_row_is_drawn_and_the_same_for_the_same_example(opened):
    drawn = opened.draw(np.arange(6_000), 1)
    counts = collections.Counter(f.shots.delimiter for f in drawn)
    table = delimiters.table(delimiters.FLAN_2022)
    assert set(counts) == set(table)
    # 125 expected of each of 48; chi-squared with 47 degrees of freedom is above 100 once in 100,000 times.
    mean = len(drawn) / len(table)
    assert sum((counts[row] - mean) ** 2 / mean for row in table) < 100
    again = opened.draw(np.arange(6_000)[::-1], 1)[::-1]
    assert [f.shots.delimiter for f in again] == [f.shots.delimiter for f in drawn]
    other = opened.draw(np.arange(6_000), 2)
    assert sum(a.shots.delimiter == b.shots.delimiter for a, b in zip(drawn, other, strict=True)) < 400


def test_opt_iml_closes_zero_shot_inputs(tmp_path):
    folder = tmp_path
    data_dir = prepare(folder, "mini", train=rows(40))

    def free(row: spec.Row) -> spec.Example | None:
        found = example(row)
        return found and spec.Example(fields=found.fields, answer=found.answer)

    of = dataset(folder, build=free, splits={"train": "train"})
    style = styles.Style((0, 1), options=False, delimiters=delimiters.OPT_IML)
    plain = seqio_tasks.FlanTask(of, "plain", styles.Style((0, 1), options=False)).open(data_dir, "train")
    closed = seqio_tasks.FlanTask(of, "closed", style).open(data_dir, "train")
    ends = collections.Counter()
    for a, b in zip(plain.draw(np.arange(800), 0), closed.draw(np.arange(800), 0), strict=True):
        assert b.inputs.startswith(a.inputs)
        assert b.targets == a.targets
        ends[b.inputs.removeprefix(a.inputs)] += 1
    assert set(ends) == {row.between + row.target for row in delimiters.table(delimiters.OPT_IML)}


def test_exemplars_around_options_of_the_t5_vocabulary_stay_apart(opened):
    """In tokens of a vocabulary without a newline, every exemplar still ends in a mark or is followed by a label."""
    without = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary())
    for row in delimiters.table(delimiters.FLAN_2022):
        text = row.around("x", OPTIONS[0]) + row.query("y")
        assert " ".join(text.split()) != f"x {OPTIONS[0]} y"
        assert without.decode(without.encode([text])[0]).split() == text.split()
