"""Chain of thought: the nine datasets whose targets give the reasoning before the answer (Flan 2022, section 2.1, table 24).

Five are the Flan Collection's own TSV files, of question, answer and chain of thought, where the choices are part of the
question; they are taken out of it, so that templates can word the question, show the choices or leave them out. GSM8K,
e-SNLI and QASC are TFDS's, QED is its authors' JSON lines. The Flan Collection has files of these four, too; of e-SNLI's
549,367 rows it takes 36,174 and of QASC's 8,134 only 1,084, and a train slice makes as many here.

Every example has the fields `question`, whole with its choices, and `rationale`: the inverted forms, which ask for either,
are the same for all nine (`templates/cot_inverted.yaml`).
"""

import re
from collections.abc import Callable, Sequence

from flan_jax.data import spec

# Examples in the Flan Collection's zero-shot tasks, 74,730 together: the lines of its files (`LINES`) but for those that
# do not fill a last group of templates, ten (15 for AQuA and QED). Rates are made of these.
EXAMPLES = {
    "aqua": 2_715,
    "creak": 6_910,
    "ecqa": 7_110,
    "esnli": 36_170,
    "gsm8k": 7_470,
    "qasc": 1_080,
    "qed": 5_145,
    "sensemaking": 6_070,
    "strategyqa": 2_060,
}
LINES = {
    "aqua": 2_728,
    "creak": 6_915,
    "ecqa": 7_112,
    "esnli": 36_174,
    "gsm8k": 7_473,
    "qasc": 1_084,
    "qed": 5_154,
    "sensemaking": 6_070,
    "strategyqa": 2_061,
}
# "Stream" is the Flan Collection's word for rationales that are less good.
_STREAM = ("aqua", "qed")
# GSM8K marks each computation for a calculator, `<<48/2=24>>24`, and puts the result after `####` on the last line.
CALCULATION = re.compile(r"<<[^<>]*>>")
ANSWER_MARK = "####"
_CHOICES = "\nOptions:\n"
_CHOICE = re.compile(r"\([A-Z]\) ?\S.*")
_SENTENCES = re.compile(r'- Sentence A: "(?P<a>.*)"\n- Sentence B: "(?P<b>.*)"', re.DOTALL)
_QUOTED = re.compile(r'"(.*)"', re.DOTALL)
# AQuA's writers often begin with the letter: "Answer = D. 130 miles", "Correct Answer: (E)", "Option 'E'".
_GIVEN_AWAY = re.compile(
    r"(?:(?i:(?:correct )?answer *(?:[:=]|is|will be)? *(?:option)?) *\(?[A-E](?:[.):]+| *=|(?=\n|$))"
    r"|(?i:option) *['\"]?[A-E]['\"]?(?=\n|$))\s*"
)
_YES_NO = ("yes", "no")
_ESNLI_ANSWERS = ("yes", "it is not possible to tell", "no")  # entailment, neutral, contradiction; as SNLI's


def _sentence(text: str) -> str:
    """The text with one full stop, if it ends in a word or in two; within closing quotation marks counts."""
    if text.endswith("..") and not text.endswith("..."):
        return text[:-1]
    return text if text.rstrip("\"'\u201d\u2019) ").endswith((".", "!", "?", ":", ";", ",")) else text + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lines(text: str) -> list[str]:
    """The lines of a text that hold anything, with single spaces."""
    return [joined for line in text.splitlines() if (joined := " ".join(line.split()))]


def _example(answer: str, options: tuple[str, ...] = (), solution: str = "", **fields: str) -> spec.Example | None:
    """An example, or `None` where a field, the answer or a choice is blank or the answer is not among the choices.

    `solution` is the answer in full where `answer` only points to it: inverted forms ask for a question that has it.
    """
    if not answer or not all(fields.values()) or not all(options) or (options and answer not in options):
        return None
    return spec.Example(fields=fields | {"solution": solution or answer}, answer=answer, options=options)


def _gsm8k(row: spec.Row) -> spec.Example | None:
    worked, mark, final = row["answer"].rpartition(ANSWER_MARK)
    # One paragraph: T5's vocabulary has no newline, and most of the lines end without a full stop.
    rationale = " ".join(map(_sentence, _lines(CALCULATION.sub("", worked))))
    if not mark:
        return None
    return _example(final.strip().replace(",", ""), question=row["question"].strip(), rationale=rationale)


def _esnli(row: spec.Row) -> spec.Example | None:
    if row["label"] < 0:  # its annotators reached no majority
        return None
    premise, hypothesis = row["premise"].strip(), row["hypothesis"].strip()
    return _example(
        _ESNLI_ANSWERS[row["label"]] if premise and hypothesis else "",
        _ESNLI_ANSWERS,
        premise=premise,
        hypothesis=hypothesis,
        question=f"Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis?",
        # Rows of train have one explanation, others three.
        rationale=_paragraph([row["explanation_1"]]),
    )


def _qasc(row: spec.Row) -> spec.Example | None:
    labels, texts = row["choices"]["label"], [text.strip() for text in row["choices"]["text"]]
    question, facts = row["question"].strip(), [row["fact1"], row["fact2"], row["combinedfact"]]
    # The test split has neither answers nor facts.
    if row["answerKey"] not in labels or not question or not all(texts) or not all(map(str.strip, facts)):
        return None
    choices = [f"({label}) {text}" for label, text in zip(labels, texts, strict=True)]
    return _example(
        f"({row['answerKey']})",
        solution=choices[labels.index(row["answerKey"])],
        question="\n".join((question, *choices)),
        rationale=_paragraph(facts),
    )


def _paragraph(sentences: Sequence[str]) -> str:
    """Sentences written apart from each other, as one text."""
    stripped = (" ".join(sentence.split()) for sentence in sentences)
    return " ".join(_capital(_sentence(sentence)) for sentence in stripped if sentence)


def _qed(row: spec.Row) -> spec.Example | None:
    """A question that one sentence of a passage answers, with what in it stands for what (Lamm et al. 2020, section 2)."""
    annotation = row["annotation"]
    passage, query = " ".join(row["paragraph_text"].split()), " ".join(row["question_text"].split())
    said_as, answers = (
        # "Rollins Jr ." would meet the full stop of its sentence.
        [text.strip().rstrip(" .") for text in annotation["answer"][place]["string"]]
        for place in ("sentence_reference", "paragraph_reference")
    )
    sentence = " ".join(annotation["selected_sentence"]["string"].split())
    if annotation["explanation_type"] != "single_sentence" or not all((passage, query, sentence, answers, *answers)):
        return None
    query += "?"
    told = [
        f'The passage says: "{sentence}"',
        *_references(annotation["referential_equalities"]),
        *(f'"{word}" refers to {name}.' for word, name in zip(said_as, answers, strict=True) if word not in ("", name)),
    ]
    answer = ", ".join(answers)
    # What other annotators of Natural Questions gave counts as well.
    others = (", ".join(map(str.strip, texts)) for texts in row["original_nq_answers"]["string"])
    return spec.Example(
        fields={
            "passage": passage,
            "query": query,
            "question": f"{passage}\nQuestion: {query}",
            "rationale": " ".join(told),
            "solution": answer,
        },
        answer=answer,
        answers=tuple(dict.fromkeys((answer, *filter(None, others)))),
    )


def _references(equalities: spec.Row) -> list[str]:
    """What the question calls one thing and the sentence another, a sentence each; what both name alike is left out.

    A bridge is a preposition: the sentence's "the finale" is one *of* the question's "lost", or the sentence leaves out
    that all this happens *in* "lost".
    """
    asked, told = equalities["question_reference"]["string"], equalities["sentence_reference"]["string"]
    found = []
    for ours, theirs, bridge in zip(asked, told, equalities["sentence_reference"]["bridge"], strict=True):
        ours, theirs = ours.strip(), theirs.strip()
        if ours and theirs and ours.casefold() != theirs.casefold():
            verb = "stands for" if bridge == "false" else "goes with"
            found.append(f'"{theirs}" {verb} "{ours}".')
        elif ours and not theirs:
            found.append(f'It holds {bridge} "{ours}".' if bridge not in ("", "false") else f'It is about "{ours}".')
    return found


def _aqua(row: spec.Row) -> spec.Example | None:
    question, _, listed = row["question"].rpartition(_CHOICES)
    choices = [line.removeprefix("- ") for line in _lines(listed)]
    question, answer = question.strip(), row["answer"].strip()
    solution = next((choice for choice in choices if choice[:3] == answer), "")
    if not question or not all(map(_CHOICE.fullmatch, choices)) or not solution:
        return None
    # The lines of a computation stay lines.
    worked = "\n".join(_lines(row["chain_of_thought"]))
    given_away = _GIVEN_AWAY.match(worked)
    worked = (worked[given_away.end() :] if given_away else worked).rstrip(" =")
    rationale = _sentence(worked) if worked else ""
    return _example(answer, solution=solution, question="\n".join((question, *choices)), rationale=rationale)


def _creak(row: spec.Row) -> spec.Example | None:
    claim = _QUOTED.search(row["question"].partition(_CHOICES)[0])
    text = claim[1].strip() if claim else ""
    return _example(
        row["answer"].strip() if text else "",
        _YES_NO,
        claim=text,
        question=f'Is this true? "{text}"',
        rationale=_paragraph([row["chain_of_thought"]]),
    )


def _ecqa(row: spec.Row) -> spec.Example | None:
    question, _, listed = row["question"].rpartition(_CHOICES)
    choices = tuple(line.removeprefix("- ") for line in _lines(listed))
    if not choices:
        return None
    rationale = _paragraph([row["chain_of_thought"]])
    return _example(row["answer"].strip(), choices, question=question.strip(), rationale=rationale)


def _sensemaking(row: spec.Row) -> spec.Example | None:
    found = _SENTENCES.search(row["question"])
    if not found or row["answer"].strip() not in ("Sentence A", "Sentence B"):
        return None
    first, second = found["a"].strip(), found["b"].strip()
    told = {"Sentence A": f"Sentence A: {first}", "Sentence B": f"Sentence B: {second}"}
    asked = "\n".join(("Which sentence goes against common sense?", *told.values()))
    return _example(
        row["answer"].strip(),
        solution=told[row["answer"].strip()],
        sentence_a=first,
        sentence_b=second,
        question=asked,
        rationale=_paragraph([row["chain_of_thought"]]),
    )


def _strategyqa(row: spec.Row) -> spec.Example | None:
    return _example(
        row["answer"].strip(),
        _YES_NO,
        question=row["question"].strip(),
        rationale=_paragraph([row["chain_of_thought"]]),
    )


def _dataset(
    name: str,
    tfds_name: str,
    example: Callable[[spec.Row], spec.Example | None],
    splits: dict[str, str],
    train_rows: int,
) -> spec.DatasetSpec:
    return spec.DatasetSpec(
        name=name,
        cluster="chain_of_thought",
        tfds_name=tfds_name,
        splits=splits,
        example=example,
        metrics=("answer_accuracy",),
        train_rows=train_rows,
        templates=name,
        collection="cot",
        rationale=True,
        inverted="cot_inverted",
        weight=EXAMPLES[name],
        prefix="stream" if name in _STREAM else "cot",
    )


def _file(name: str, example: Callable[[spec.Row], spec.Example | None]) -> spec.DatasetSpec:
    """A TSV file of the Flan Collection. It is one split; what is held back is carved from its end."""
    splits = {"train": "train[:-300]", "validation": "train[-300:-200]", "test": "train[-200:]"}
    return _dataset(name, f"cot_{name}:1.0.0", example, splits, LINES[name])


def _head(name: str) -> str:
    """As many rows of a train split as the Flan Collection has examples."""
    return f"train[:{LINES[name]}]"


# Where the public test split has no answers, or there is none, the validation split is tested on, as in FLAN 2021.
_FROM_TRAIN = {"validation": "train[-200:]", "test": "validation"}
SPECS: tuple[spec.DatasetSpec, ...] = (
    _file("aqua", _aqua),
    _file("creak", _creak),
    _file("ecqa", _ecqa),
    _dataset(
        "esnli",
        "esnli:0.1.0",
        _esnli,
        {"train": _head("esnli"), "validation": "validation[:200]", "test": "test"},
        train_rows=549_367,
    ),
    _dataset(
        "gsm8k",
        "gsm8k:1.0.0",
        _gsm8k,
        {"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        train_rows=7_473,
    ),
    _dataset("qasc", "qasc:0.1.0", _qasc, {"train": _head("qasc"), **_FROM_TRAIN}, train_rows=8_134),
    # 5,154 of them are answered by a single sentence, which is what the explanations are about.
    _dataset("qed", "qed:1.0.0", _qed, {"train": _head("qed"), **_FROM_TRAIN}, train_rows=7_638),
    _file("sensemaking", _sensemaking),
    _file("strategyqa", _strategyqa),
)
