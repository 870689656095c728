"""Suites on the embedded sample: what a prompt is made of, what is left out where it is too long, what the papers ask for."""

import collections
import re

import pytest

from flan_jax import cli, errors
from flan_jax.data import benchmarks, sources
from flan_jax.evaluation.suites import base, bbh, flan2022, mgsm, mmlu, tydiqa


@pytest.fixture(scope="module")
def reader(sample_dir):
    return benchmarks.Reader(sample_dir)


def asked(reader, suite, **how):
    chosen = base.How(**how)
    return [q for name in suite.present(reader, chosen) for q in suite.questions(reader, name, chosen)]


def test_mmlu_direct(reader):
    questions = asked(reader, mmlu.SUITE, limit=1)
    assert [q.subtask for q in questions] == ["astronomy", "elementary_mathematics", "high_school_geography"]
    text = questions[1].text()
    assert text.startswith(
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\nQ: What is 7 times 8?\n"
        "(A) 54\n(B) 56\n(C) 63\n(D) 48\nA: (B)\n\nQ: A rope"
    )
    assert text.endswith("\n\nQ: What is 15 plus 27?\n(A) 42\n(B) 32\n(C) 52\n(D) 41\nA:")
    assert len(questions[1].exemplars) == 5
    assert questions[1].targets == ("(A)",)
    assert questions[1].choices == ("(A)", "(B)", "(C)", "(D)")


def test_mmlu_with_reasons(reader):
    question = asked(reader, mmlu.SUITE, cot=True)[0]
    assert question.exemplars[0].endswith("Of the four only the Moon does. The answer is (A).")
    assert question.query.endswith("\nA: Let's think step by step.")
    assert mmlu.notes(reader, base.How(cot=True)) == []
    assert mmlu.parse(question.exemplars[0], "astronomy", True) == "(A)"


def test_the_published_splits_and_numbers():
    assert (mmlu.SUITE.split, mmlu.SUITE.shots, len(mmlu.SUITE.subtasks)) == ("validation", 5, 57)
    assert (bbh.SUITE.shots, len(bbh.SUITE.subtasks)) == (3, 27)
    assert (tydiqa.SUITE.shots, len(tydiqa.SUITE.subtasks), "en" in tydiqa.SUITE.subtasks) == (1, 8, False)
    assert (mgsm.SUITE.shots, len(mgsm.SUITE.subtasks), "en" in mgsm.SUITE.subtasks) == (8, 10, False)
    assert set(bbh.CHANCE) | set(bbh.NUMBERS) | set(bbh.TEXTS) | {"geometric_shapes"} == set(bbh.SUITE.subtasks)
    assert flan2022.RUNS == ("mmlu_direct", "mmlu_cot", "bbh_direct", "bbh_cot", "tydiqa_direct", "mgsm_cot")


def test_big_bench_hard_directly_and_with_reasons(reader):
    direct = asked(reader, bbh.SUITE, subtasks=("object_counting",))
    reasoned = asked(reader, bbh.SUITE, cot=True)
    assert direct[4].subtask == "object_counting"
    assert (
        direct[4]
        .text()
        .startswith(
            "Count the objects.\n\nQ: I have a drum and two flutes. How many instruments do I have?\nA: 3\n\nQ: "
        )
    )
    assert direct[4].query == "Q: I have two spoons, a fork, and three plates. How many objects do I have?\nA:"
    assert "1 + 2 = 3. So the answer is 3." in reasoned[4].text()
    assert reasoned[4].query.endswith("\nA: Let's think step by step.")
    assert direct[4].targets == ("6",)


def test_without_exemplars_the_trigger_alone_asks_for_reasons(reader):
    question = asked(reader, bbh.SUITE, shots=0, cot=True, trigger="Think first.")[0]
    assert question.text() == "Say whether an expression is true or false.\n\nQ: True and not False is\nA: Think first."


def test_the_phrase_is_the_papers_with_and_without_exemplars(reader):
    def ends(suite, **how):
        return {question.query.rpartition("\nA:")[2] for question in asked(reader, suite, **how)}

    assert ends(bbh.SUITE, shots=0, cot=True) == {" let's think step-by-step"}
    assert ends(mmlu.SUITE, shots=0, cot=True) == {" let's think step-by-step"}
    assert " Let's think step by step." in ends(bbh.SUITE, cot=True)
    assert ends(bbh.SUITE) == ends(mmlu.SUITE, shots=0) == {""}
    assert base.How(cot=True, trigger="Why?").phrase(0) == base.How(cot=True, trigger="Why?").phrase(3) == "Why?"


def test_tydiqa_has_one_exemplar_in_the_language_and_no_english(reader):
    questions = asked(reader, tydiqa.SUITE)
    assert collections.Counter(q.subtask for q in questions) == {"fi": 2, "id": 2, "sw": 2}
    assert questions[0].exemplars[0].endswith("Question: Mikä on Suomen suurin järvi?\nAnswer: Saimaa")
    assert questions[0].query.endswith("Question: Mitä kiville heitetään?\nAnswer:")
    assert tydiqa.right("Vettä.", questions[0].targets, "fi")
    assert not tydiqa.right("kuumaa vettä", questions[0].targets, "fi")


def test_mgsm_asks_in_the_words_of_its_language(reader):
    questions = asked(reader, mgsm.SUITE)
    assert [q.subtask for q in questions] == ["de", "de", "es", "es", "fr", "fr"]
    assert questions[0].query == (
        "Frage: Ein Korb hat 12 Birnen. Lena nimmt 5 heraus. Wie viele bleiben?\nSchritt-für-Schritt-Antwort:"
    )
    assert questions[4].query.endswith("\nRéponse étape par étape :")
    assert questions[0].exemplars[1].endswith("30 - 18 = 12. Die Antwort lautet 12.")


def test_the_answer_of_every_exemplar_is_found_in_it(reader):
    for code, pairs in mgsm.exemplars(reader).items():
        assert [mgsm.parse(answer, code, True) for _, answer in pairs] == ["7", "12", "20"]
    for name in bbh.present(reader, base.How()):
        for _, answer in bbh.prompt(reader, name)[1]:
            gold = answer.rpartition("So the answer is ")[2].removesuffix(".")
            assert bbh.gold(answer) == gold
            assert bbh.right(bbh.parse(answer, name, True) or "", [gold], name)


def words(texts):
    return [[len(word) for word in text.split()] for text in texts]


def test_prompts_that_are_too_long_lose_their_last_exemplars():
    question = base.Question("x", 0, "head", ("one", "two two", "three three three"), "q q", ("t",))
    for room, shots in ((9, 3), (8, 2), (6, 2), (5, 1), (4, 1), (3, 0)):
        (found,) = base.fit([question], words, room)
        assert (found.shots, found.dropped, found.cut) == (shots, 3 - shots, 0)
        assert found.text == question.text(shots)
        assert len(found.tokens) <= room
    (found,) = base.fit([question], words, 2)
    assert (found.shots, found.dropped, found.cut, found.tokens) == (0, 3, 1, (1, 1))  # the question stays, "head" goes


def test_each_prompt_loses_only_what_it_must():
    short = base.Question("x", 0, "", ("e e",), "q", ("t",))
    long = base.Question("x", 1, "", ("e e",), "q q q q", ("t",))
    assert [(f.shots, f.text) for f in base.fit([long, short, long], words, 4)] == [
        (0, "q q q q"),
        (1, "e e\n\nq"),
        (0, "q q q q"),
    ]


def test_a_canary_is_no_part_of_a_prompt():
    header, pairs = base.split_prompt(
        "DO NOT TRAIN guid\n-----\nAbout it.\n\nIn two parts.\n\nQ: one?\nB: no\nA: It is 1.\n"
    )
    assert header == "About it.\n\nIn two parts."
    assert pairs == [("one?\nB: no", "It is 1.")]


def test_data_that_is_missing_is_named(tmp_path):
    empty = benchmarks.Reader(str(tmp_path))
    with pytest.raises(
        sources.NotPrepared, match=r"no split 'dev' of dataset 'mmlu' .*flan data import.*mmlu/dev.jsonl"
    ):
        empty.rows("mmlu", "dev")
    with pytest.raises(errors.FlanError, match=r"unknown suite 'mmul'.*mmlu"):
        benchmarks.of_suites(["mmul"])


def test_the_doctor_says_what_is_there(reader, tmp_path, capsys):
    assert benchmarks.show(reader.data_dir, ["tydiqa"]) == 0
    assert re.search(r"^tydi_qa/goldp +validation +7 rows$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["data", "doctor", "--suite=mgsm", f"--tfds_data_dir={reader.data_dir}"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^mgsm/bn +test +missing$", said, re.MULTILINE)
    assert re.search(r"^mgsm/en +test +missing \(optional\)$", said, re.MULTILINE)
    assert "RECORDS/mgsm/bn/test.jsonl, a record a line with question, answer:\n  flan data import RECORDS" in said
    assert "RECORDS/mgsm/en" not in said
    found = benchmarks.examine(str(tmp_path), ["flan2022"])
    assert [finding for finding in found if finding.rows] == []
    assert len(found) == len(benchmarks.BENCHMARKS)


def test_normalised_scores():
    assert flan2022.normalized(62.5, 25) == 50
    assert flan2022.normalized(0, 50) == -100
    runs = {name: [(40.0, 0.0)] for name in flan2022.RUNS}
    assert flan2022.normalized_average(runs) == 40
    assert flan2022.normalized_average({**runs, "bbh_cot": [(100.0, 50.0), (20.0, 20.0)]}) == pytest.approx(
        41.6667, abs=1e-4
    )


def test_real_exemplars_give_their_gold_answers(shared_dir, tmp_path):
    """Every published rationale, and every published answer as a model would give it."""
    from flan_jax.data import importer

    keys = ["bbh_cot_prompts", "mgsm_exemplars", "mmlu", *(f"bbh/{name}" for name in benchmarks.BBH_SUBTASKS)]
    keys += [f"mgsm/{code}" for code in benchmarks.MGSM_LANGUAGES]
    importer.import_datasets(shared_dir / "data", tmp_path, keys=keys)
    real = benchmarks.Reader(str(tmp_path))
    for name in benchmarks.BBH_SUBTASKS:
        pairs = bbh.prompt(real, name)[1]
        assert len(pairs) == 3
        for _, answer in pairs:
            gold = answer.rpartition("So the answer is ")[2].removesuffix(".")
            assert bbh.right(bbh.parse(answer, name, True) or "", [gold], name), (name, answer)
        for row in real.rows(f"bbh/{name}", "test"):
            target = row["target"].strip()
            for output, cot in ((f"Once (A) or True, 1 no. So the answer is {target}.", True), (target, False)):
                assert bbh.right(bbh.parse(output, name, cot) or "", [target], name), (name, output)
    exemplars = mgsm.exemplars(real)
    assert set(exemplars) == set(benchmarks.MGSM_LANGUAGES)
    for code, pairs in exemplars.items():  # the same eight problems in every language; the numbers are GSM8K's
        assert [mgsm.parse(answer, code, True) for _, answer in pairs] == [
            "11",
            "29",
            "39",
            "9",
            "33",
            "8",
            "8",
            "5",
        ], code
    for code in mgsm.SUITE.subtasks:
        for question in mgsm.questions(real, code, base.How()):
            assert mgsm.parse(f"1 + 2 = 3. {question.targets[0]}", code, True) == question.targets[0]
    assert mmlu.present(real, base.How()) == list(mmlu.SUBJECTS)
