"""The chain-of-thought specs: hand-made rows give exactly these examples, and targets parse to their own answers."""

import re

import numpy as np
import pytest

from flan_jax.data import holdout, loader, mixtures, seqio_tasks, sources, spec, styles, templates, vocabulary
from flan_jax.evaluation import answers, metrics
from flan_jax.tasks import cot

SPECS = {dataset.name: dataset for dataset in cot.SPECS}
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
NAMES = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")


def made(name, row):
    return SPECS[name].example(row)


def tsv(question, answer, rationale):
    return {"question": question, "answer": answer, "chain_of_thought": rationale}


# --- What the collection is ---


def test_nine_datasets_of_one_collection():
    assert tuple(SPECS) == NAMES
    for dataset in cot.SPECS:
        assert (dataset.collection, dataset.cluster, dataset.rationale) == ("cot", "chain_of_thought", True)
        assert dataset.inverted == "cot_inverted"
        assert set(dataset.splits) == {"train", "validation", "test"}


def test_published_counts():
    """Flan 2022's table of cases: the lines of its files, less those that do not fill a last group of templates."""
    assert sum(cot.EXAMPLES.values()) == 74_730
    for name, lines in cot.LINES.items():
        group = 15 if name in ("aqua", "qed") else 10
        assert cot.EXAMPLES[name] == lines // group * group
        assert SPECS[name].weight == cot.EXAMPLES[name]
    # As many rows as its files have lines are drawn, of datasets that are larger here.
    for name in ("esnli", "qasc", "qed"):
        assert seqio_tasks.train_cap(SPECS[name]) == cot.LINES[name] < SPECS[name].train_rows
    for name in set(NAMES) - {"esnli", "qasc", "qed"}:
        assert SPECS[name].train_rows == cot.LINES[name] < seqio_tasks.train_cap(SPECS[name]) == 100_000


@pytest.mark.parametrize("name", NAMES)
def test_templates(name):
    """Ten with rationale before answer, each without and with a phrase; 6, 5, 4 and 3 inverted forms."""
    loaded = templates.of(SPECS[name])
    assert len(loaded) == 10 + 10 + 18
    for plain, prompted in zip(loaded[:10], loaded[10:20], strict=True):
        assert plain.targets == prompted.targets
        asked, with_phrase = ("".join(f"{text}{{{f}}}" for text, f in side.inputs) for side in (plain, prompted))
        assert len(with_phrase) > len(asked)
        said = [field for _, field in plain.targets if field]
        assert said == ["rationale", "answer"]
    kinds = [(frozenset(f for _, f in t.inputs if f), tuple(f for _, f in t.targets if f)) for t in loaded[20:]]
    whole = {"question", "answer"}
    assert kinds.count((frozenset({"rationale"}), ("question", "answer"))) == 6
    assert kinds.count((frozenset(whole), ("rationale",))) == 5
    assert kinds.count((frozenset({"solution"}), ("question", "rationale"))) == 4
    assert kinds.count((frozenset({"answer", "rationale"}), ("question",))) == 3
    assert all(template.reversed for template in loaded[20:])


def test_the_best_known_phrase_is_there():
    for name in NAMES:
        assert any(
            "Let's think step by step." in text for t in templates.of(SPECS[name])[10:20] for text, _ in t.inputs
        )


# --- Mixtures ---


def rates(name):
    found = CATALOGUE.mixture(name).rates(
        lambda task, top: float(min(CATALOGUE.tasks[task].dataset.weight or 0, top or 0))
    )
    return {task: rate / sum(found.values()) for task, rate in found.items()}


def test_zero_shot_mixture():
    found = rates("cot_zsopt")
    for name, count in cot.EXAMPLES.items():
        assert found[f"{name}_template_0to10_zero_shot"] == pytest.approx(count / 74_730 / 1.3)
        inverted = found[f"{name}_input_inversion_template_0to10_zero_shot"]
        assert inverted == pytest.approx(0.3 * count / 74_730 / 1.3)
    assert len(found) == 18


def test_few_shot_mixture():
    found = rates("cot_fsopt")
    for style in ("template_mix_five_shot", "template_0to10_x_shot"):
        for name, count in cot.EXAMPLES.items():
            assert found[f"{name}_{style}"] == pytest.approx(count / 74_730 / 1.3 / 2)
            assert found[f"{name}_input_inversion_{style}"] == pytest.approx(0.3 * count / 74_730 / 1.3 / 2)
    assert len(found) == 36


@pytest.mark.parametrize("name", ["cot", "cot_submix"])
def test_the_whole_is_half_zero_shot_and_half_few_shot(name):
    found = rates(name)
    halves = (rates("cot_zsopt"), rates("cot_fsopt"))
    assert found.keys() == halves[0].keys() | halves[1].keys()
    for half in halves:
        for task, rate in half.items():
            assert found[task] == pytest.approx(rate / 2)


def test_draws_follow_the_published_counts(sample_dir):
    """100,000 draws within 1% of all draws, and five standard deviations; the sample's 27 to 48 rows a set do not matter."""
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary())
    lengths = {"inputs": 256, "targets": 128}
    opened = CATALOGUE.open("cot", data_dir=sample_dir, split="train", tokenizer=tokenizer, lengths=lengths, seed=3)
    expected = np.asarray([rates("cot")[member.name] for member in opened.members])
    np.testing.assert_allclose(opened.probabilities, expected, rtol=1e-9)
    lane = loader.Lane(opened, 0, 1, lengths, 3, True)
    lane._add = lambda tasks, places: None  # type: ignore[method-assign]  # the draws alone
    for _ in range(100):
        lane._draw(1000)
    drawn = np.asarray(lane.position().counts) / 100_000
    assert np.abs(drawn - expected).max() < 0.01
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected / 100_000)).all()


def test_names_of_the_public_release():
    for name, public in (("gsm8k", "cot"), ("aqua", "stream"), ("qed", "stream"), ("esnli", "cot")):
        for style in ("template_0to10_zero_shot", "template_mix_five_shot", "template_0to10_x_shot"):
            forward, inverted = (CATALOGUE.tasks[f"{public}_{form}{name}_{style}"] for form in ("", styles.INVERSION))
            assert forward.style == CATALOGUE.tasks[f"{name}_{style}"].style
            assert inverted.style == CATALOGUE.tasks[f"{name}_input_inversion_{style}"].style
            assert (forward.dataset.name, inverted.dataset.name) == (name, name)
            assert inverted.reversed
            assert forward.name == f"{public}_{name}_{style}"  # seqio looks tasks up by the name that they bear
    assert CATALOGUE.tasks.find("stream_gsm8k_template_0to10_zero_shot") is None
    assert CATALOGUE.tasks.find("cot_gsm8k_no_such_style") is None


def test_evaluation_asks_each_template_apart():
    trained = CATALOGUE.tasks["gsm8k_template_0to10_zero_shot"].evaluations()
    assert [task.name for task in trained] == [
        *(f"gsm8k_type_{i}" for i in range(10)),
        *(f"gsm8k_type_{i}_trigger" for i in range(10)),
    ]
    shot = CATALOGUE.tasks["gsm8k_4templates_trigger_five_shot"].evaluations()
    assert [task.name for task in shot] == [f"gsm8k_type_{i}_trigger_five_shot" for i in range(4)]
    assert CATALOGUE.tasks["gsm8k_input_inversion_type_17"].evaluations() == []


@pytest.mark.parametrize(
    ("cluster", "leaks"),
    [("nli", {"esnli"}), ("paraphrase", {"esnli"}), ("closed_book_qa", {"qed"}), ("sentiment", set())],
)
def test_what_is_held_out_with_a_cluster(cluster, leaks):
    """e-SNLI explains rows of SNLI, QED questions of Natural Questions."""
    assert {leak.dataset for leak in holdout.heldout_leaks(CATALOGUE, "cot_submix", cluster)} == leaks


# --- What a row becomes ---


def test_gsm8k_calculator_marks_and_newlines_go():
    row = {
        "question": "Ida has 3 boxes of 12 eggs and sells 6 eggs. How many are left? ",
        # The first line ends without a full stop, as most of the published ones do.
        "answer": "Ida has 3*12 = <<3*12=36>>36 eggs\nShe has 36 - 6 = <<36-6=30>>30 left.\n#### 30",
    }
    assert made("gsm8k", row) == spec.Example(
        fields={
            "question": "Ida has 3 boxes of 12 eggs and sells 6 eggs. How many are left?",
            "rationale": "Ida has 3*12 = 36 eggs. She has 36 - 6 = 30 left.",
            "solution": "30",
        },
        answer="30",
        answers=("30",),
    )


def test_gsm8k_answer_loses_its_thousands_commas():
    row = {"question": "What do 25 tons cost?", "answer": "They cost 25*$50 = $<<25*50=1250>>1,250.\n#### 1,250"}
    assert made("gsm8k", row) == spec.Example(
        fields={"question": "What do 25 tons cost?", "rationale": "They cost 25*$50 = $1,250.", "solution": "1250"},
        answer="1250",
    )


@pytest.mark.parametrize(
    "answer", ["No mark, 30.", "It is 30.\n#### ", "#### 30", ""], ids=["no mark", "no number", "no rationale", "empty"]
)
def test_incomplete_rows_of_gsm8k_are_dropped(answer):
    assert made("gsm8k", {"question": "How many?", "answer": answer}) is None


AQUA = "What is 2 + 3?\nOptions:\n(A) 4\n(B) 5\n(C) 6\n(D) 7\n(E) 8"


@pytest.mark.parametrize(
    ("written", "rationale"),
    [
        ("2 + 3 = 5", "2 + 3 = 5."),
        (" Count on:\n\n2,  3, 4, 5 =", "Count on:\n2, 3, 4, 5."),
        ("Answer = B. 5\n2 + 3 = 5", "5\n2 + 3 = 5."),
        ("Correct Answer: (B)\nAdd them.", "Add them."),
        ("Option 'B'\nAdd them.", "Add them."),
        ("Answer: A. Adding gives 5.", "Adding gives 5."),
        ("Option A: 4 is too small.", "Option A: 4 is too small."),
        ("Answers are found by adding.", "Answers are found by adding."),
    ],
)
def test_aqua_gives_the_letter_after_the_reasoning(written, rationale):
    assert made("aqua", tsv(AQUA, "(B)", written)) == spec.Example(
        fields={
            "question": "What is 2 + 3?\n(A) 4\n(B) 5\n(C) 6\n(D) 7\n(E) 8",
            "rationale": rationale,
            "solution": "(B) 5",
        },
        answer="(B)",
    )


@pytest.mark.parametrize(
    "row",
    [
        tsv(AQUA, "(F)", "It is 5."),
        tsv("What is 2 + 3?", "(B)", "It is 5."),
        tsv(AQUA, "(B)", "Answer: B"),
        tsv("Options:\n(A) 4\n(B) 5", "(B)", "It is 5."),
    ],
    ids=["no such letter", "no choices", "nothing but the letter", "no question"],
)
def test_rows_of_aqua_that_are_dropped(row):
    assert made("aqua", row) is None


@pytest.mark.parametrize(
    "asked", ['Is this so?\n"{}"', '"{}"\nIs the above claim true?\nOptions:\n- yes\n- no', 'Claim: "{}"\nTrue?']
)
def test_creak(asked):
    claim = 'The song is called "Rain".'
    assert made("creak", tsv(asked.format(claim), "yes", "it has that name")) == spec.Example(
        fields={
            "claim": claim,
            "question": f'Is this true? "{claim}"',
            "rationale": "It has that name.",
            "solution": "yes",
        },
        answer="yes",
        options=("yes", "no"),
    )
    assert made("creak", tsv("Is this so?", "yes", "It is.")) is None
    assert made("creak", tsv('Is this so?\n"It is."', "maybe", "It is.")) is None


def test_ecqa():
    row = tsv("What is warm?\nOptions:\n- ice\n- a stove", "a stove", "Stoves give heat.")
    assert made("ecqa", row) == spec.Example(
        fields={"question": "What is warm?", "rationale": "Stoves give heat.", "solution": "a stove"},
        answer="a stove",
        options=("ice", "a stove"),
    )
    assert made("ecqa", row | {"answer": "the sun"}) is None
    assert made("ecqa", row | {"question": "What is warm?"}) is None


@pytest.mark.parametrize(("label", "answer"), [(0, "yes"), (1, "it is not possible to tell"), (2, "no")])
def test_esnli(label, answer):
    row = {"premise": "A man sleeps . ", "hypothesis": "A man rests .", "label": label}
    assert made("esnli", row | {"explanation_1": "sleeping is\nresting ."}) == spec.Example(
        fields={
            "premise": "A man sleeps .",
            "hypothesis": "A man rests .",
            "question": "Premise: A man sleeps .\nHypothesis: A man rests .\nDoes the premise entail the hypothesis?",
            "rationale": "Sleeping is resting .",
            "solution": answer,
        },
        answer=answer,
        options=("yes", "it is not possible to tell", "no"),
    )
    assert made("esnli", row | {"explanation_1": " "}) is None
    assert made("esnli", row | {"explanation_1": "It is.", "label": -1}) is None


def test_qasc():
    row = {
        "question": "What eats grass? ",
        "choices": {"label": ["A", "B"], "text": ["a stone", "a cow "]},
        "answerKey": "B",
        "fact1": "cows are grazers",
        "fact2": "Grazers eat grass.",
        "combinedfact": "Cows eat grass",
    }
    assert made("qasc", row) == spec.Example(
        fields={
            "question": "What eats grass?\n(A) a stone\n(B) a cow",
            "rationale": "Cows are grazers. Grazers eat grass. Cows eat grass.",
            "solution": "(B) a cow",
        },
        answer="(B)",
    )
    assert (
        made("qasc", row | {"answerKey": "", "fact1": "", "fact2": "", "combinedfact": ""}) is None
    )  # of the test split


def qed(equalities=(), answer=(("1874", "1874"),), others=(), kind="single_sentence"):
    """A row as it is read: sequences of objects are objects of sequences."""
    spans = [{"string": [text]} for text in others]
    return {
        "paragraph_text": "The tower is high . It was built in 1874 .",
        "question_text": "when was vellin tower built",
        "original_nq_answers": {"string": [span["string"] for span in spans]},
        "annotation": {
            "explanation_type": kind,
            "selected_sentence": {"string": "It was built in 1874 . "},
            "referential_equalities": {
                "question_reference": {"string": [asked for asked, _, _ in equalities]},
                "sentence_reference": {
                    "string": [said for _, said, _ in equalities],
                    "bridge": [bridge for _, _, bridge in equalities],
                },
            },
            "answer": {
                "sentence_reference": {"string": [said for said, _ in answer]},
                "paragraph_reference": {"string": [named for _, named in answer]},
            },
        },
    }


@pytest.mark.parametrize(
    ("equalities", "answer", "explained"),
    [
        ([("vellin tower", "It", "false")], [("1874", "1874")], ' "It" stands for "vellin tower".'),
        ([("vellin tower", "Vellin tower", "false")], [("1874", "1874")], ""),
        ([("vellin", "The stairs", "of")], [("1874", "1874")], ' "The stairs" goes with "vellin".'),
        ([("vellin", "", "in")], [("1874", "1874")], ' It holds in "vellin".'),
        ([("last year", "", "")], [("1874", "1874")], ' It is about "last year".'),
        ([], [("then", "1874")], ' "then" refers to 1874.'),
    ],
)
def test_qed(equalities, answer, explained):
    example = made("qed", qed(equalities, answer, others=["in 1874", "1874"]))
    passage, query = "The tower is high . It was built in 1874 .", "when was vellin tower built?"
    assert example == spec.Example(
        fields={
            "passage": passage,
            "query": query,
            "question": f"{passage}\nQuestion: {query}",
            "rationale": f'The passage says: "It was built in 1874 ."{explained}',
            "solution": "1874",
        },
        answer="1874",
        answers=("1874", "in 1874"),
    )


def test_qed_has_reasons_in_single_sentences_only():
    assert made("qed", qed(kind="multi_sentence")) is None
    assert made("qed", qed(answer=[])) is None
    assert made("qed", qed(answer=[("a", "a"), ("b", "b")])).answer == "a, b"


def test_sensemaking():
    asked = 'Which is absurd?\nOptions:\n- Sentence A: "Dogs bark."\n- Sentence B: "He said "no" to a wall."\n'
    assert made("sensemaking", tsv(asked, "Sentence B", "Walls do not listen.")) == spec.Example(
        fields={
            "sentence_a": "Dogs bark.",
            "sentence_b": 'He said "no" to a wall.',
            "question": "Which sentence goes against common sense?\nSentence A: Dogs bark.\n"
            'Sentence B: He said "no" to a wall.',
            "rationale": "Walls do not listen.",
            "solution": 'Sentence B: He said "no" to a wall.',
        },
        answer="Sentence B",
    )
    assert made("sensemaking", tsv(asked, "Sentence C", "Walls do not listen.")) is None
    assert made("sensemaking", tsv("Which is absurd?", "Sentence A", "Both.")) is None


def test_strategyqa():
    row = tsv("Do fish fly? ", "no", "Fish swim.  Flying needs wings ")
    assert made("strategyqa", row) == spec.Example(
        fields={"question": "Do fish fly?", "rationale": "Fish swim. Flying needs wings.", "solution": "no"},
        answer="no",
        options=("yes", "no"),
    )
    assert made("strategyqa", row | {"chain_of_thought": " "}) is None


# --- Targets and their answers ---


def examples(name, data_dir):
    prepared = sources.PreparedDataset(data_dir, SPECS[name].tfds_name)
    rows = (prepared.read(split, row) for split, size in prepared.sizes.items() for row in range(size))
    return [example for row in rows if (example := SPECS[name].example(row)) is not None]


@pytest.mark.parametrize("name", NAMES)
def test_every_target_parses_to_its_own_answer_and_to_no_other(name, sample_dir):
    found = examples(name, sample_dir)
    assert len(found) >= 30
    others = {
        "aqua": [f"({letter})" for letter in "ABCDE"],
        "qasc": [f"({letter})" for letter in "ABCDEFGH"],
        "sensemaking": ["Sentence A", "Sentence B"],
    }
    for example in found:
        wrong = [a for a in (example.options or others.get(name, ["12345"])) if a not in example.answers]
        for template in templates.of(SPECS[name])[:20]:
            _, target = templates.render(template, example)
            assert answers.same_answer(example.answer, target) is True, target
            assert not any(answers.same_answer(answer, target) for answer in wrong), target
            scores = metrics.answer_accuracy([example.answers], [target])
            assert scores == {"answer_accuracy": 100.0, "unparsed": 0.0}


def test_a_trigger_comes_and_goes_in_training(sample_dir):
    """The Flan Collection's styles draw templates with and without the phrase; ours by name have it or not."""
    drawn = {name: CATALOGUE.tasks[f"strategyqa_{name}"].open(sample_dir, "train") for name in (
        "template_0to10_zero_shot", "10templates", "10templates_trigger", "10templates_trigger_two_shot"
    )}  # fmt: skip
    used = {name: [f.template for f in rows.draw(np.arange(400), seed=0)] for name, rows in drawn.items()}
    with_phrase = sum(template >= 10 for template in used["template_0to10_zero_shot"])
    assert 150 < with_phrase < 250
    assert set(used["template_0to10_zero_shot"]) == set(range(20))
    assert set(used["10templates"]) == set(range(10))
    assert set(used["10templates_trigger"]) == set(used["10templates_trigger_two_shot"]) == set(range(10, 20))


@pytest.mark.parametrize("name", NAMES)
def test_exemplars_carry_rationales(name, sample_dir):
    (formatted,) = CATALOGUE.tasks[f"{name}_template_mix_five_shot"].open(sample_dir, "train").in_order(1)
    assert formatted.shots is not None
    shown = [example for example in examples(name, sample_dir) if example.fields["rationale"] in formatted.prompt()]
    assert len(shown) == 5
    for example in shown:
        after = formatted.prompt().partition(example.fields["rationale"])[2]
        assert re.match(rf"[^\n]*\n?[^\n]*{re.escape(example.answer)}", after)
    assert formatted.targets not in formatted.prompt()
