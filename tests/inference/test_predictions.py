"""Files of predictions: every prompt once, in order, whatever happens in between."""

import io
import itertools
import json
import sys

import pytest

from flan_jax import errors
from flan_jax.inference import generate, predictions, settings

HOW = settings.Settings(max_tokens=4)


class Echo:
    """In place of a model: answers in batches of three, the shortest of a window first, and counts what it is asked."""

    batch_size, inputs_length = 3, 16

    def __init__(self, dies_after=None):
        self.asked, self.dies_after = [], dies_after

    def prompts(self, texts):
        return [generate.Prompt([*map(ord, text)], cut=max(0, len(text) - 16)) for text in texts]

    def answers(self, prompts, how):
        for number, prompt in sorted(enumerate(prompts), key=lambda pair: len(pair[1].tokens)):
            if self.dies_after is not None and len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            text = "".join(map(chr, prompt.tokens))
            self.asked.append(text)
            texts = tuple(f"{text.upper()} {prompt.seed} {place}" for place in range(how.n))
            yield number, generate.Answer(texts, ((1,),) * how.n, (-0.5,) * how.n, (True,) * how.n)


# Of falling length, so that they are answered in another order than they come in.
RECORDS = [predictions.Record("x" * (20 - number) + f" {number}", extra={"row": 100 + number}) for number in range(20)]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(generate, "WINDOW", 2)


def write(out, echo, records=RECORDS, how=HOW, **options):
    return predictions.write(echo, iter(records), str(out), how, about={"checkpoint": "run/checkpoint_7"}, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_a_prompt_in_their_order(tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    assert write(out, Echo(), total=20) == 20
    found = lines(out)
    assert [line["index"] for line in found] == list(range(20))
    assert [line["inputs"] for line in found] == [record.inputs for record in RECORDS]
    assert found[7]["prediction"].startswith(RECORDS[7].inputs.upper())
    assert found[7]["row"] == 107
    assert (found[7]["score"], found[7]["finished"], "predictions" in found[7]) == (-0.5, True, False)
    assert found[0]["cut"] == 6
    assert "cut" not in found[19]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]
    # Each has a seed of its own.
    assert len({line["prediction"].split()[-2] for line in found}) == 20


def test_several_answers_to_a_prompt_are_all_there(tmp_path):
    write(tmp_path / "out", Echo(), RECORDS[:2], HOW.changed(temperature=1.0, n=2))
    line = lines(tmp_path / "out")[1]
    assert [text.split()[-1] for text in line["predictions"]] == ["0", "1"]
    assert line["prediction"] == line["predictions"][0]
    assert line["scores"] == [-0.5, -0.5]


@pytest.mark.parametrize("dies_after", [0, 1, 6, 11, 19])
def test_after_a_kill_nothing_is_repeated_and_the_file_is_the_same(tmp_path, dies_after):
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, Echo())
    first, second, third = Echo(dies_after), Echo(), Echo()
    with pytest.raises(KeyboardInterrupt):
        write(out, first)
    assert not out.exists()
    partial = tmp_path / "out.partial"
    if dies_after:
        # A kill in the middle of a write leaves half a line.
        with partial.open("ab") as file:
            file.write(b'{"index": 19, "inputs": "x')
    assert write(out, second) == 20
    assert sorted(first.asked + second.asked) == sorted(record.inputs for record in RECORDS)
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    # Once it is done there is nothing to do.
    assert write(out, third) == 20
    assert third.asked == []


def test_a_file_is_continued_with_what_it_was_begun_with_only(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(out, Echo(dies_after=5))
    before = (tmp_path / "out.partial").read_bytes()
    with pytest.raises(errors.FlanError, match=r"begun with decoding.max_tokens = 4, now it is 5; .*--overwrite"):
        write(out, Echo(), how=HOW.changed(max_tokens=5))
    with pytest.raises(errors.FlanError, match=r"begun with checkpoint = 'run/checkpoint_7', now it is 'other'"):
        predictions.write(Echo(), iter(RECORDS), str(out), HOW, about={"checkpoint": "other"})
    changed = [*RECORDS[:3], predictions.Record("another"), *RECORDS[4:]]
    with pytest.raises(errors.FlanError, match="prompt 3 is not the one"):
        write(out, Echo(), changed)
    with pytest.raises(errors.FlanError, match="has answers to 3 prompts that are no longer there"):
        write(out, Echo(), RECORDS[:3])
    assert (tmp_path / "out.partial").read_bytes()[: len(before)] == before
    assert write(out, Echo(), how=HOW.changed(max_tokens=5), overwrite=True) == 20


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine\n")
    with pytest.raises(errors.FlanError, match="was not written by flan; give another file"):
        write(tmp_path / "out", Echo())
    assert (tmp_path / "out").read_text() == "mine\n"
    (tmp_path / "b.settings.json").write_text("{")
    with pytest.raises(errors.FlanError, match=r"b\.settings\.json is damaged"):
        write(tmp_path / "b", Echo())


def test_a_field_that_a_prediction_is_written_under_is_refused(tmp_path):
    with pytest.raises(errors.FlanError, match="record 0 has a field 'score'"):
        write(tmp_path / "out", Echo(), [predictions.Record("x", extra={"score": 1})])


def test_no_prompts_make_an_empty_file(tmp_path):
    assert write(tmp_path / "out", Echo(), []) == 0
    assert (tmp_path / "out").read_text() == ""


def test_prompts_come_as_text_or_json_lines(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one\n\n  two \n{three}\n")
    assert [record.inputs for record in predictions.read_prompts(str(tmp_path / "a.txt"))] == [
        "one",
        "  two ",
        "{three}",
    ]
    (tmp_path / "b.jsonl").write_text('{"inputs": "a\\nb", "id": 7}\n\n"c"\n')
    found = list(predictions.read_prompts(str(tmp_path / "b.jsonl")))
    assert [(record.inputs, dict(record.extra)) for record in found] == [("a\nb", {"id": 7}), ("c", {})]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo"))
    assert [record.inputs for record in predictions.read_prompts("-")] == ["one", "two"]
    # Read as they are needed.
    (tmp_path / "c.jsonl").write_text('"a"\nbroken\n')
    assert [record.inputs for record in itertools.islice(predictions.read_prompts(str(tmp_path / "c.jsonl")), 1)] == [
        "a"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "p.jsonl:1 is not JSON"),
        (
            b'"a"\n{"prompt": "x"}\n',
            "p.jsonl:2 is an object with prompt; expected a string, or an object with a string 'inputs'",
        ),
        (b"{}\n", "p.jsonl:1 is an object with nothing"),
        (b"[1]\n", "p.jsonl:1 is list"),
        (b'{"inputs": "x", "index": 3}\n', "p.jsonl:1 has a field 'index'"),
        (b'"\xff"\n', "p.jsonl is not UTF-8"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, content, message):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(errors.FlanError, match=message):
        list(predictions.read_prompts(str(tmp_path / "p.jsonl")))


def test_a_file_that_is_not_there_brings_a_hint(tmp_path):
    (tmp_path / "prompts.txt").write_text("x")
    with pytest.raises(errors.FlanError, match=r"no prompt file .*promts.txt; did you mean 'prompts.txt'"):
        list(predictions.read_prompts(str(tmp_path / "promts.txt")))


def test_a_function_may_choose_among_several_answers(tmp_path):
    write(tmp_path / "out.jsonl", Echo(), how=settings.Settings(temperature=1.0, n=3), select=lambda scores: 2)
    for line in lines(tmp_path / "out.jsonl"):
        assert len(line["predictions"]) == 3
        assert line["prediction"] == line["predictions"][2]


def test_a_finished_file_of_other_prompts_is_not_taken_for_these(tmp_path):
    out = tmp_path / "out.jsonl"
    write(out, Echo())
    again = Echo()
    assert write(out, again) == 20
    with pytest.raises(errors.FlanError, match=r"prompt 0 is not the one that .*out.jsonl has an answer to"):
        write(out, again, [predictions.Record("another"), *RECORDS[1:]])
    assert again.asked == []
