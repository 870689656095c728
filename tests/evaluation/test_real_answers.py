"""Answers of real rows: what is found in their own texts is their gold answer, in every row.

`test_suites.py` has the published exemplars and rows of BBH and MGSM. Skipped where the real rows are not beside the checkout.
"""

import gzip
import itertools
import json
import re

import pytest

from flan_jax.data import templates
from flan_jax.evaluation import answers, metrics
from flan_jax.evaluation.suites import mgsm, mmlu
from flan_jax.tasks import cot

COT = ("aqua", "creak", "ecqa", "gsm8k", "qasc", "sensemaking", "strategyqa")
SPECS = {dataset.name: dataset for dataset in cot.SPECS}


def rows(shared_dir, key, *splits):
    found = []
    for split in splits:
        path = shared_dir / "data" / key / f"{split}.jsonl.gz"
        if not path.is_file():
            pytest.skip(f"no real rows of {key}, split {split}")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found += map(json.loads, lines)
    return found


def test_every_result_of_gsm8k(shared_dir):
    """GSM8K's own reading of its answers: a number, with commas, after the last ####."""
    found = rows(shared_dir, "gsm8k", "train", "test")
    assert len(found) == 2500
    gold = [re.search(r"#### (-?[0-9.,]+)", row["answer"])[1].replace(",", "") for row in found]
    assert [answers.extract(row["answer"], "number") for row in found] == gold
    # As Flan 2022's targets and MGSM's exemplars end, behind the row's own sums.
    worked = [cot.CALCULATION.sub("", row["answer"].rpartition(cot.ANSWER_MARK)[0]).strip() for row in found]
    said = [f"{text}\nThe answer is {answer}." for text, answer in zip(worked, gold, strict=True)]
    assert [answers.extract(text, "number") for text in said] == gold
    assert [mgsm.parse(text, "en", True) for text in said] == gold
    assert metrics.get("answer_accuracy").function([[answer] for answer in gold], said)["answer_accuracy"] == 100


@pytest.mark.parametrize("name", COT)
def test_the_answers_of_published_rationales(name, shared_dir):
    found = rows(shared_dir, f"cot_{name}", "train")
    assert len(found) == (1084 if name == "qasc" else 2000)
    for row in found:
        right, text = row["answer"], row["chain_of_thought"]
        for said in (f"{text} The answer is {right}.", f"{text}\nSo the answer is: {right}", right):
            assert answers.same_answer(right, said) is True, said
    # No row's rationale gives another row's answer away: the next one that differs is wrong.
    for row, other in itertools.pairwise(found):
        right, wrong = row["answer"], other["answer"]
        if answers.normal_form(wrong) != answers.normal_form(right) and answers.kind_of(right) != "text":
            assert answers.same_answer(right, f"{row['chain_of_thought']} The answer is {wrong}.") is not True


@pytest.mark.parametrize("name", ["aqua", "creak", "ecqa", "sensemaking", "strategyqa"])
def test_our_targets_of_real_rows_end_in_their_answers(name, shared_dir):
    patterns = [pattern for pattern in templates.of(SPECS[name]) if not pattern.reversed]
    examples = [example for row in rows(shared_dir, f"cot_{name}", "train") if (example := SPECS[name].example(row))]
    assert len(examples) > 1900
    for number, example in enumerate(examples):
        _, target = templates.render(patterns[number % len(patterns)], example)
        assert answers.same_answer(example.answer, target) is True, target


def test_every_letter_of_mmlu(shared_dir):
    """However it is said, and whatever else the question's own options hold: "(A) and (C) only" is an option's text."""
    found = rows(shared_dir, "mmlu", "dev", "validation", "test")
    assert len({row["subject"].replace(" ", "_") for row in found}) == len(mmlu.SUBJECTS)
    assert len(found) > 1900
    for row in found:
        letter = row["answer"]
        wrong = next(other for other in mmlu.LETTERS if other != letter)
        direct = [f"({letter})", letter, f" ({letter}) {row[letter]}", f"({letter}).\n\nQ: ({wrong})"]
        direct += [f"The answer is ({letter}).", f"Answer: {letter}", f"The answer is option {letter}"]
        for text in direct:
            assert mmlu.parse(text, row["subject"], False) == f"({letter})", text
        reasons = f"{row['question']} ({wrong}) {row[wrong]} does not fit."
        for end in (
            f"The answer is ({letter}).",
            f"So the answer is {letter}.",
            f"Hence the answer is option {letter}.",
        ):
            assert mmlu.parse(f"{reasons} {end}", row["subject"], True) == f"({letter})", (reasons, end)
        assert mmlu.right(f"({letter})", [f"({letter})"], row["subject"])
        assert not mmlu.right(f"({wrong})", [f"({letter})"], row["subject"])
