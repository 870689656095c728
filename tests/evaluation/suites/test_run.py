"""From questions to results.json with a model that knows the answers: scored right, resumed without repeating, memory flat."""

import argparse
import json
import re
from typing import Any

import pytest

from flan_jax import errors, eval_suite
from flan_jax.data import benchmarks
from flan_jax.evaluation.suites import base, flan2022, run
from flan_jax.inference import choices, generate, score, settings

NAMES = {f"{name}_{'cot' if cot else 'direct'}" for name, cot in flan2022.SIX}


@pytest.fixture(scope="module")
def reader(sample_dir):
    return benchmarks.Reader(sample_dir)


class Letters:
    """In place of a vocabulary: a token a character."""

    class vocabulary:
        eos_id = 1

    def encode(self, texts):
        return [[ord(c) + 2 for c in text] for text in texts]


class Knowing:
    """In place of a model: knows the questions of the sample, and may die."""

    tokenizer, batch_size, inputs_length = Letters(), 4, 4000

    def __init__(self, reader, say=lambda target, number: f"Well. So the answer is {target}.", dies_after=None):
        self.say, self.dies_after, self.asked = say, dies_after, []
        self.known = {}
        for name, cot in flan2022.SIX:
            suite, how = flan2022.SUITES[name], base.How(cot=cot)
            for subtask in suite.present(reader, how):
                for question in suite.questions(reader, subtask, how):
                    self.known[question.query] = (subtask, question.targets[0])

    def prompts(self, texts):
        assert not texts, "every prompt brings its tokens"
        return []

    def answers(self, prompts, how):
        for number, prompt in sorted(enumerate(prompts), key=lambda pair: len(pair[1].tokens)):
            if self.dies_after is not None and len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            text = "".join(chr(token - 2) for token in prompt.tokens[:-1])
            self.asked.append(text)
            subtask, target = next(known for query, known in self.known.items() if text.endswith(query))
            marked = {"de": "Die Antwort ist {}.", "es": "La respuesta es {}.", "fr": "La réponse est {}."}
            texts = tuple(
                target if "Passage:" in text else marked.get(subtask, "{}").format(self.say(target, place))
                for place in range(how.n)
            )
            yield number, generate.Answer(texts, ((1,),) * how.n, (-0.5,) * how.n, (True,) * how.n)

    def options(self, questions):
        for number, asked in enumerate(questions):
            text, *said = (
                "".join(chr(token - 2) for token in tokens[:-1]) for tokens in (asked.inputs, *asked.options)
            )
            right = next(known for query, known in self.known.items() if text.endswith(query))[1]
            scores = tuple(0.0 if right == given else -1.0 - len(given) for given in said)
            yield number, score.Scored(scores, tuple(map(len, asked.options)))


def flags(*argv):
    return eval_suite._parser().parse_args(["--checkpoint", "x", "--out", "y", *argv])


def evaluate(model, reader, out, *argv, **options):
    given = flags(*argv)
    return run.evaluate(
        model,
        reader,
        eval_suite.planned(given),
        str(out),
        name=given.suite,
        checkpoint="run/checkpoint_7",
        step=7,
        **options,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_that_knows_all_has_a_hundred_everywhere(reader, tmp_path):
    results = evaluate(Knowing(reader), reader, tmp_path, "--suite=flan2022")
    assert {average["name"]: average["value"] for average in results["averages"]} == dict.fromkeys(
        [*flan2022.RUNS, flan2022.AVERAGE], 100.0
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert {score["group"] for score in results["scores"]} == NAMES
    assert sum(score["examples"] for score in results["scores"]) == 40
    for path in results["predictions"]:
        for index, line in enumerate(lines(tmp_path / path)):
            assert {"index", "prompt", "output", "parsed", "target", "score"} <= line.keys()
            assert (line["index"], line["score"]) == (index, 1.0)
            assert line["prompt"].endswith(("A:", "step.", "Answer:", "Antwort:", "paso:", "étape :"))
    assert "mmlu_direct: 3 of 57 subtasks are in the data" in results["notes"]
    assert "normalized_average        100.0" in run.table(results)


def test_a_model_that_is_wrong_has_nothing_and_falls_below_chance(reader, tmp_path):
    results = evaluate(Knowing(reader, say=lambda target, place: "none"), reader, tmp_path, "--suite=mmlu", "--cot")
    assert results["averages"] == [{"name": "mmlu_cot", "value": 0.0}]
    assert [(score["value"], score["unparsed"], score["chance"]) for score in results["scores"]] == [(0.0, 2, 25.0)] * 3
    assert flan2022.normalized_mean([(0.0, 25.0)] * 3) == pytest.approx(-100 / 3)


def test_a_killed_evaluation_goes_on_where_it_was(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "WINDOW", 1)
    dying, whole, rest = Knowing(reader, dies_after=5), Knowing(reader), Knowing(reader)
    with pytest.raises(KeyboardInterrupt):
        evaluate(dying, reader, tmp_path / "killed", "--suite=bbh")
    resumed = evaluate(rest, reader, tmp_path / "killed", "--suite=bbh")
    assert resumed == evaluate(whole, reader, tmp_path / "whole", "--suite=bbh")
    assert (len(dying.asked), len(rest.asked)) == (5, 3)
    assert sorted(dying.asked + rest.asked) == sorted(whole.asked)
    for name in ("generated", "predictions"):
        killed, uninterrupted = (tmp_path / path / name / "bbh_direct.jsonl" for path in ("killed", "whole"))
        assert killed.read_bytes() == uninterrupted.read_bytes()
    again = Knowing(reader, dies_after=0)
    assert evaluate(again, reader, tmp_path / "killed", "--suite=bbh") == resumed  # nothing is asked


def test_other_settings_do_not_mix_with_what_is_there(reader, tmp_path):
    evaluate(Knowing(reader), reader, tmp_path, "--suite=bbh", "--limit=1")
    with pytest.raises(errors.FlanError, match=r"was begun with limit = 1, now it is 2; .*--overwrite"):
        evaluate(Knowing(reader), reader, tmp_path, "--suite=bbh", "--limit=2")
    results = evaluate(Knowing(reader), reader, tmp_path, "--suite=bbh", "--limit=2", overwrite=True)
    assert [score["examples"] for score in results["scores"]] == [2] * 4


def test_exemplars_that_do_not_fit_are_left_out_and_counted(reader, tmp_path):
    model = Knowing(reader)
    model.inputs_length = 200  # characters here
    results = evaluate(model, reader, tmp_path, "--suite=bbh", "--subtasks=object_counting")
    found = lines(tmp_path / "predictions" / "bbh_direct.jsonl")
    assert [(line["shots"], line["dropped"]) for line in found] == [(1, 2), (1, 2)]
    assert all(len(line["prompt"]) < 200 for line in found)
    assert results["notes"][0].startswith("bbh_direct: 2 of 2 prompts have fewer exemplars than asked for")
    assert results["averages"] == [{"name": "bbh_direct", "value": 100.0}]


def test_the_likeliest_letter(reader, tmp_path):
    model = Knowing(reader)
    results = evaluate(model, reader, tmp_path, "--suite=mmlu", "--scoring=likelihood")
    assert results["averages"] == [{"name": "mmlu_direct", "value": 100.0}]
    line = lines(tmp_path / "predictions" / "mmlu_direct.jsonl")[0]
    assert sorted(line["outputs"]) == ["(A)", "(B)", "(C)", "(D)"]
    assert line["log_probs"] == sorted(line["log_probs"], reverse=True)
    assert model.asked == []


@pytest.mark.parametrize(("normalized", "value"), [(False, 25.0), (True, 100.0)])
def test_letters_that_tie_share_the_answer_and_are_told(reader, tmp_path, normalized, value):
    class Unsure(Knowing):
        """All four letters have the same sum, and the right one the fewest tokens."""

        def options(self, questions):
            for number, scored in super().options(questions):
                lengths = tuple(1 if of == 0.0 else 2 for of in scored.log_likelihoods)
                yield number, score.Scored((2.0,) * 4 if normalized else (-2.0,) * 4, lengths)

    flag = ["--normalize_by_target_length"] if normalized else []
    results = evaluate(Unsure(reader), reader, tmp_path, "--suite=mmlu", "--scoring=likelihood", *flag)
    assert results["averages"] == [{"name": "mmlu_direct", "value": value}]
    ties = 0.0 if normalized else 100.0
    assert [(of["ties"], of["near_ties"]) for of in results["scores"]] == [(ties, 0.0)] * 3
    note = "mmlu_direct: the best options tie in 100.0% of the answers, and are within 0.01 nats of each other in 0.0%"
    assert (note in results["notes"]) is not normalized
    assert results["settings"]["runs"]["mmlu_direct"]["normalize_by_target_length"] is normalized


def test_a_prompt_without_choices_cannot_be_ranked(reader):
    model: Any = Knowing(reader)
    chooser = choices.Chooser(model)
    with pytest.raises(errors.FlanError, match="no choices"):
        list(chooser.answers([generate.Prompt([5, 1])], settings.Settings()))


def test_self_consistency_takes_the_majority(reader, tmp_path):
    def say(target, place):
        return f"So the answer is {target if place in (1, 3, 4) else '(Z)'}."

    results = evaluate(Knowing(reader, say), reader, tmp_path, "--suite=bbh", "--cot", "--samples=5")
    assert results["averages"] == [{"name": "bbh_cot", "value": 100.0}]
    made = results["settings"]["runs"]["bbh_cot"]["decoding"]
    assert (made["n"], made["temperature"], made["top_k"]) == (5, 0.7, 40)
    line = lines(tmp_path / "predictions" / "bbh_cot.jsonl")[2]
    assert line["votes"] == ["(Z)", "(B)", "(Z)", "(B)", "(B)"]
    assert line["parsed"] == "(B)"


def test_majority():
    assert run.majority(["a", "b", "b"], [0.0, -5.0, -6.0]) == "b"
    assert run.majority(["a", "b", "b", "a"], [-3.0, -2.0, -9.0, -4.0]) == "b"  # as many votes, the likelier sample
    assert run.majority([None, "a", None], [0.0, -1.0, 0.0]) == "a"
    assert run.majority([None, None], [0.0, 0.0]) is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite=mmul"], "unknown suite 'mmul'.*did you mean 'mmlu'"),
        (["--suite=tydiqa", "--cot"], "--cot with --suite tydiqa"),
        (["--suite=flan2022", "--shots=2"], "of one benchmark"),
        (["--suite=mmlu", "--samples=3"], "--samples is for reasoned answers"),
        (["--suite=bbh", "--scoring=likelihood"], "needs given options"),
        (["--suite=mmlu", "--normalize_by_target_length"], "which generates; expected --scoring likelihood with it"),
        (["--suite=bbh", "--limit=0"], "--limit is 0; expected at least 1"),
        (["--suite=bbh", "--cot", "--samples=3", "--temperature=0"], "temperature 0 all samples are the same"),
    ],
)
def test_flags_that_do_not_go_together(argv, message):
    with pytest.raises(errors.FlanError, match=message):
        eval_suite.planned(flags(*argv))


def test_missing_data_and_unknown_subtasks_are_named(reader, tmp_path):
    (asked,) = eval_suite.planned(flags("--suite=mgsm"))
    with pytest.raises(
        errors.FlanError, match=r"no questions of MGSM in .*, split 'test'; expected .* mgsm, mgsm_exemplars"
    ):
        run.subtasks(benchmarks.Reader(str(tmp_path)), asked)
    (asked,) = eval_suite.planned(flags("--suite=bbh", "--subtasks=word_sortin"))
    with pytest.raises(errors.FlanError, match=re.compile("unknown subtask of bbh .*'word_sortin'.*word_sorting")):
        run.subtasks(reader, asked)


def test_the_paper_is_the_default():
    (mmlu,) = eval_suite.planned(flags("--suite=mmlu"))
    assert mmlu.settings()["shots"] == 5
    assert mmlu.settings()["split"] == "validation"
    assert (mmlu.decoding.temperature, mmlu.decoding.max_tokens, mmlu.scoring) == (0.0, 16, "generate")
    (mgsm,) = eval_suite.planned(flags("--suite=mgsm"))
    assert (mgsm.how.cot, mgsm.decoding.max_tokens, mgsm.settings()["shots"]) == (True, 512, 8)
    six = eval_suite.planned(flags("--suite=flan2022", "--samples=3"))
    assert [asked.name for asked in six] == list(flan2022.RUNS)
    assert [asked.decoding.n for asked in six] == [1, 3, 1, 3, 1, 3]
    assert isinstance(flags("--suite=mmlu"), argparse.Namespace)
