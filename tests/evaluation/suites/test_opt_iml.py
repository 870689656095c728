"""OPT-IML's protocol on the embedded sample with a model that knows the answers."""

import json

import pytest

from flan_jax import errors, eval_suite
from flan_jax.data import mixtures, provenance, vocabulary
from flan_jax.evaluation import results as results_lib
from flan_jax.evaluation.suites import opt_iml
from flan_jax.inference import generate, score, settings

MIXTURES = ("rte_10templates", "aeslc_10templates")  # candidates; free text


class Knowing:
    """In place of a model: knows the answer to every prompt, by its tokens; generates only the first `says` words of it."""

    batch_size = 8

    def __init__(self, tasks, says=None, inputs_length=512, dies_after=None):
        self.inputs_length, self.dies_after = inputs_length, dies_after
        self.tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary.embedded_path()))
        self.says, self.asked, self.known = says, 0, {}
        for ranked in (True, False):
            for record in opt_iml.records(self, tasks, 0, ranked=ranked):  # type: ignore[arg-type]
                assert record.prompt is not None
                self.known[tuple(record.prompt.tokens)] = record.extra["targets"]

    def prompts(self, texts):
        assert not texts
        return []

    def answers(self, prompts, how):
        assert (how.max_tokens, how.temperature, how.n) == (256, 0.0, 1)
        for number, prompt in enumerate(prompts):
            self.count()
            text = " ".join(self.known[tuple(prompt.tokens)][0].split()[: self.says])
            yield number, generate.Answer((text,), ((1,),), (-0.5,), (True,))

    def count(self):
        if self.asked == self.dies_after:
            raise KeyboardInterrupt
        self.asked += 1

    def options(self, questions):
        for number, asked in enumerate(questions):
            self.count()
            right = self.tokenizer.encode(self.known[tuple(asked.inputs)])
            scores = tuple(0.0 if list(said[:-1]) in right else -1.0 for said in asked.options)
            yield number, score.Scored(scores, tuple(map(len, asked.options)))


@pytest.fixture(scope="module")
def catalogue():
    return mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")


@pytest.fixture(scope="module")
def tasks(catalogue, sample_dir):
    return [
        one for name in MIXTURES for one in opt_iml.asked(catalogue, name, sample_dir, limit=12, split="validation")
    ]


def evaluate(model, tasks, out, **options):
    return opt_iml.evaluate(model, tasks, str(out), name="x", split="validation", checkpoint="run", step=3, **options)


def test_what_is_asked(tasks, catalogue, sample_dir):
    assert {one.shots for one in tasks} == {0, 5}
    assert {one.task.dataset.name for one in tasks} == {"rte", "aeslc"}
    assert all(one.task.style.scoring == (one.task.dataset.name == "rte") for one in tasks)
    model = Knowing([])
    for ranked, name in ((True, "rte"), (False, "aeslc")):
        for shots in (0, 5):
            mine = [one for one in tasks if (one.task.dataset.name, one.shots) == (name, shots)]
            found = [record.extra for record in opt_iml.records(model, mine, 0, ranked=ranked)]  # type: ignore[arg-type]
            assert len({extra["row"] for extra in found}) == len(found) == min(12, mine[0].rows.num_examples)
            assert len({extra["template"] for extra in found}) == len(mine)
    (whole,) = {one.limit for one in opt_iml.asked(catalogue, "rte_10templates", sample_dir, limit=None, split="test")}
    assert whole == 250


def test_a_model_that_knows_all(tasks, tmp_path):
    model = Knowing(tasks)
    results = evaluate(model, tasks, tmp_path)
    assert {(s["name"], s["group"], s["metric"], s["shots"]) for s in results["scores"]} == {
        ("rte_0_shot", "nli", "accuracy", 0),
        ("rte_5_shot", "nli", "accuracy", 5),
        ("aeslc_0_shot", "summarization", "rougeL", 0),
        ("aeslc_5_shot", "summarization", "rougeL", 5),
    }
    assert {average["name"] for average in results["averages"]} == {
        *(f"{category}_{shots}_shot" for category in ("nli", "summarization") for shots in (0, 5)),
        *("0_shot", "5_shot", "average"),
    }
    assert [average["value"] for average in results["averages"]] == pytest.approx([100.0] * 7)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    for path in results["predictions"]:
        for index, raw in enumerate((tmp_path / path).read_text().splitlines()):
            line = json.loads(raw)
            assert {"index", "prompt", "output", "parsed", "target", "score"} <= line.keys()
            assert (line["index"], line["score"]) == (index, pytest.approx(1.0))
    # A report shows some predictions of every score, not of every file.
    shown = results_lib.samples(results_lib.load(tmp_path), 1)
    assert {name.partition(": ")[2] for name in shown} == {score["name"] for score in results["scores"]}
    asked = model.asked
    assert evaluate(model, tasks, tmp_path) == results
    assert model.asked == asked  # nothing is asked again


@pytest.mark.parametrize("dies_after", [5, 30])  # among the tasks with candidates, and among those without
def test_a_killed_evaluation_goes_on_where_it_was(tasks, tmp_path, monkeypatch, dies_after):
    monkeypatch.setattr(generate, "WINDOW", 1)
    whole, dying, rest = Knowing(tasks), Knowing(tasks, dies_after=dies_after), Knowing(tasks)
    expected = evaluate(whole, tasks, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(dying, tasks, tmp_path / "killed")
    assert not (tmp_path / "killed" / "results.json").exists()
    assert evaluate(rest, tasks, tmp_path / "killed") == expected
    assert (dying.asked, rest.asked) == (dies_after, whole.asked - dies_after)
    for path in expected["predictions"]:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_what_does_not_fit_what_ties_and_what_is_not_there_is_noted(tasks, tmp_path):
    class Unsure(Knowing):
        """All candidates score the same."""

        def options(self, questions):
            for number, scored in super().options(questions):
                yield number, score.Scored((-1.0,) * len(scored.tokens), scored.tokens)

    results = evaluate(Unsure(tasks, inputs_length=40), tasks, tmp_path, absent=["cb", "snli"])
    by_name = {of["name"]: of for of in results["scores"]}
    assert (by_name["rte_0_shot"]["value"], by_name["rte_0_shot"]["ties"]) == (50.0, 100.0)
    assert "ties" not in by_name["aeslc_0_shot"]
    counts = {"fewer_shots": 0, "cut": 0}
    for path in results["predictions"]:
        for line in map(json.loads, (tmp_path / path).read_text().splitlines()):
            counts["fewer_shots"] += line["shots"] < line["asked_shots"]
            counts["cut"] += "cut" in line
    assert counts == {key: sum(of[key] for of in results["scores"]) for key in counts}
    assert all(counts.values())
    with_exemplars = sum(of["examples"] for of in results["scores"] if of["shots"])
    assert results["notes"][0] == "2 datasets have no data and were not asked: cb, snli"
    assert any(
        note.startswith(f"5_shot: {counts['fewer_shots']} of {with_exemplars} prompts have fewer exemplars than asked")
        for note in results["notes"]
    )
    assert results["notes"][-1].startswith("the best options tie in 100.0% of the answers")


def test_answers_in_part(tasks, tmp_path):
    results = evaluate(
        Knowing(tasks, says=1), tasks, tmp_path, levels={"nli": {"rte": "a"}, "summarization": {"aeslc": "b"}}
    )
    by_name = {score["name"]: score for score in results["scores"]}
    assert by_name["rte_0_shot"]["value"] == 100.0
    assert 0 < by_name["aeslc_0_shot"]["value"] < 90
    assert by_name["rte_0_shot"]["chance"] == 50.0
    assert by_name["aeslc_0_shot"]["chance"] is None
    assert (by_name["rte_5_shot"]["level"], by_name["aeslc_5_shot"]["level"]) == ("a", "b")


def test_categories_count_alike_whatever_they_hold():
    def score(group, shots, value, level):
        return {"group": group, "shots": shots, "value": value, "level": level}

    held_out, seen = provenance.FULLY_HELD_OUT, provenance.FULLY_SUPERVISED
    scores = [
        score("a", 0, 10.0, held_out),
        score("a", 0, 30.0, seen),
        score("b", 0, 80.0, seen),
        score("b", 5, 40.0, seen),
    ]
    assert {average["name"]: average["value"] for average in opt_iml.averages(scores)} == {
        "a_0_shot": 20.0,
        "b_0_shot": 80.0,
        "0_shot": 50.0,
        "b_5_shot": 40.0,
        "5_shot": 40.0,
        held_out: 10.0,
        seen: 50.0,
        "average": pytest.approx(140 / 3),
    }


def test_rouge_l_is_of_the_closest_answer():
    assert opt_iml.rouge_l(["a red house", "the green hill"], "The green hill!") == 1.0
    assert opt_iml.rouge_l(["a b c d"], "a b x d") == pytest.approx(0.75)
    assert opt_iml.rouge_l(["a"], "") == 0.0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite=opt_iml"], "without --tasks; expected a task or mixture"),
        (["--suite=opt_iml", "--tasks=rte_10templates", "--cot"], "--cot with --suite opt_iml"),
        (["--suite=opt_iml", "--tasks=rte_10templates", "--shots=3"], "--shots is 3; expected 0 or 5"),
        (["--suite=mmlu", "--tasks=rte_10templates"], "--tasks and --trained_on are of --suite flan2021 and opt_iml"),
    ],
)
def test_flags_that_do_not_go_together(argv, message, sample_dir):
    with pytest.raises(errors.FlanError, match=message):
        eval_suite.main([*argv, "--checkpoint=x", "--out=y", f"--tfds_data_dir={sample_dir}"])


def test_the_papers_numbers():
    assert (opt_iml.LIMIT, opt_iml.MAX_TOKENS, opt_iml.SHOTS, opt_iml.SPLIT) == (250, 256, (0, 5), "validation")
    assert settings.Settings(max_tokens=opt_iml.MAX_TOKENS).temperature == 0
