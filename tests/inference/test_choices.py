"""Answers by likelihood: the scores are those of rank classification, whatever the batch."""

import json

import jax
import numpy as np
import pytest

from flan_jax import inference
from flan_jax.data import features, seqio_tasks
from flan_jax.inference import choices, predictions, score, settings

PROMPTS = ["Is it true that dogs run?", "Name a colour that is seen at dusk on the hills behind the town."]
CHOICES = (("yes", "no", "it is not possible to tell"), ("red", "a very pale green"))


@pytest.fixture(scope="module")
def model(run_dir):
    return inference.load(run_dir, batch_size=4)


def one_by_one(model, prompt, answer):
    """The score of one answer, in a batch of its own."""
    (read,), (said,) = model.tokenizer.encode([prompt]), model.tokenizer.encode([answer])
    row = features.ENCODER_DECODER.row(
        [seqio_tasks.Tokenised([*read, 1], [*said, 1])], {"inputs": 32, "targets": 32}, packed=False
    )
    return float(score.score_targets(model.config, model.params, jax.tree.map(lambda x: x[None], row))[0])


def test_choices_come_likeliest_first_with_the_scores_of_rank_classification(model, tmp_path):
    out = tmp_path / "out.jsonl"
    records = [
        predictions.Record(text, choices.ChoicePrompt(model.prompts([text])[0].tokens, choices=given))
        for text, given in zip(PROMPTS, CHOICES, strict=True)
    ]
    predictions.write(choices.Chooser(model), records, str(out), settings.Settings(), about={})
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for prompt, given, line in zip(PROMPTS, CHOICES, lines, strict=True):
        expected = {answer: one_by_one(model, prompt, answer) for answer in given}
        assert line["predictions"] == sorted(expected, key=lambda answer: -expected[answer])
        np.testing.assert_allclose(line["scores"], [expected[answer] for answer in line["predictions"]], rtol=2e-5)
        assert line["prediction"] == line["predictions"][0]


def test_scores_by_token_choose_otherwise_and_long_choices_are_cut(model):
    prompt = choices.ChoicePrompt(model.prompts([PROMPTS[0]])[0].tokens, choices=CHOICES[0])
    ((_, summed),) = choices.Chooser(model).answers([prompt], settings.Settings())
    ((_, by_token),) = choices.Chooser(model, normalize_by_target_length=True).answers([prompt], settings.Settings())
    lengths = dict(zip(summed.texts, map(len, summed.tokens), strict=True))
    assert lengths == {
        text: len(ids) + 1 for text, ids in zip(CHOICES[0], model.tokenizer.encode(CHOICES[0]), strict=True)
    }
    means = {text: total / lengths[text] for text, total in zip(summed.texts, summed.scores, strict=True)}
    assert dict(zip(by_token.texts, by_token.scores, strict=True)) == pytest.approx(means)
    assert list(by_token.texts) == sorted(means, key=lambda text: -means[text])
    ((_, cut),) = choices.Chooser(model, targets_length=3).answers([prompt], settings.Settings())
    assert max(map(len, cut.tokens)) == 3
    assert all(ids[-1] == 1 for ids in cut.tokens)
