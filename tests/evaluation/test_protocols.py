"""Rank classification and generation against asking one pair at a time, unpadded."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.data import seqio_tasks, spec, styles
from flan_jax.evaluation import metrics, protocols
from flan_jax.inference import decode, score
from flan_jax.models import api, presets

CONFIG = presets.t5_config("tiny", vocab_size=256, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.5)
LENGTHS = {"inputs": 64, "targets": 16}
EOS = 1


class Letters:
    """A vocabulary of single characters."""

    class vocabulary:
        eos_id = EOS

    def encode(self, texts):
        return [[ord(character) for character in text] for text in texts]

    def decode(self, ids):
        return "".join(map(chr, ids))


def question(inputs, options=(), answers=("yes",), row=0):
    return seqio_tasks.Formatted(inputs, answers[0], spec.Example({}, answers[0], tuple(options), answers), row, 0)


# Few different lengths, as the oracle compiles each; some reach beyond the smallest bucket.
SHORT, LONG = "Is it so?", "Is it so that the moon is made of green cheese?"
QUESTIONS = [
    question(SHORT, ("yes", "no, it is not")),
    question(LONG, ("yes", "no!", "no, it is not")),
    question(LONG.upper(), ("no, it is not", "one")),
    question(SHORT.upper(), ("two",)),
    question(SHORT.lower(), ("two", "yes", "six", "ten")),
]


@pytest.fixture(scope="module")
def params():
    drawn = api.init(CONFIG, jax.random.key(11))
    # Logits of random parameters are close to each other; larger ones tell options and tokens apart.
    return jax.tree.map(lambda leaf: 2.0 * leaf, drawn)


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(config, params, batch):
    return jax.nn.log_softmax(api.logits(config, params, batch), axis=-1)


def alone(params, inputs, option):
    """Log-likelihood of one option by the chain rule: one row, nothing padded."""
    source, target = ([*map(ord, text), EOS] for text in (inputs, option))
    batch = {
        "encoder_input_tokens": jnp.asarray([source]),
        "decoder_input_tokens": jnp.asarray([[0, *target[:-1]]]),
        "decoder_target_tokens": jnp.asarray([target]),
    }
    logs = np.asarray(log_probabilities(CONFIG, params, batch)[0], np.float64)
    return sum(logs[place, token] for place, token in enumerate(target))


def ask(params, protocol, batch_size=4, examples=QUESTIONS, lengths=LENGTHS) -> Any:
    put = functools.partial(jax.tree.map, jnp.asarray)
    return list(protocol(CONFIG, params, examples, Letters(), lengths, batch_size, put))


def test_options_score_as_they_do_alone(params):
    scores = ask(params, protocols.option_scores)
    assert [len(row) for row in scores] == [len(q.example.options) for q in QUESTIONS]
    for row, asked in zip(scores, QUESTIONS, strict=True):
        expected = [alone(params, asked.inputs, option) for option in asked.example.options]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "bucket"), [(1, 64), (5, 8), (32, 32)])
def test_neither_batches_nor_buckets_change_an_answer(params, monkeypatch, batch_size, bucket):
    scores, texts = ask(params, protocols.option_scores), ask(params, protocols.generate)
    assert any(texts)
    monkeypatch.setattr(protocols, "SMALLEST_BUCKET", bucket)
    for ours, expected in zip(ask(params, protocols.option_scores, batch_size), scores, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert ask(params, protocols.generate, batch_size) == texts


def test_generation_takes_the_likeliest_token_again_and_again(params):
    def by_hand(inputs):
        source, said = [*map(ord, inputs), EOS], []
        # The decoder's inputs are padded at the end, which causality makes invisible, so that one shape is compiled.
        while len(said) < LENGTHS["targets"]:
            fed = [0, *said] + [0] * (LENGTHS["targets"] - 1 - len(said))
            batch = {
                "encoder_input_tokens": jnp.asarray([source]),
                "decoder_input_tokens": jnp.asarray([fed]),
                "decoder_target_tokens": jnp.ones((1, LENGTHS["targets"]), jnp.int32),
            }
            token = int(jnp.argmax(log_probabilities(CONFIG, params, batch)[0, len(said)]))
            if token in (0, EOS):
                break
            said.append(token)
        return "".join(map(chr, said))

    texts = ask(params, protocols.generate, examples=QUESTIONS[:2])
    assert texts == [by_hand(SHORT), by_hand(LONG)]


def test_an_answer_ends_where_the_model_ends_it(params, monkeypatch):
    said = np.asarray([[104, 105, EOS, 0, 0], [EOS, 0, 0, 0, 0], [104, 105, 104, 105, 104], [104, 0, 105, EOS, 0]])
    monkeypatch.setattr(decode, "greedy", lambda *args, **kwargs: said)
    assert ask(params, protocols.generate, examples=[question(SHORT)] * 4) == ["hi", "", "hihih", "h"]


def test_a_batch_is_as_long_as_its_examples_need(params, monkeypatch):
    shapes = []

    def scored(config, params, batch):
        shapes.append({name: value.shape for name, value in batch.items()})
        return np.zeros(4)

    monkeypatch.setattr(score, "score_targets", scored)
    ask(params, protocols.option_scores)
    # Seven short pairs and five long ones: a batch of short ones takes 32 of the 64 tokens. Targets take all 16 allowed.
    assert [shape["encoder_input_tokens"] for shape in shapes] == [(4, 32), (4, 64), (4, 64)]
    assert {shape["decoder_target_tokens"] for shape in shapes} == {(4, 16)}


def test_too_long_inputs_are_cut_and_keep_their_end_token(params):
    long = question("x" * 100, ("yes", "no!"))
    cut = question("x" * 63, ("yes", "no!"))
    assert ask(params, protocols.option_scores, examples=[long]) == ask(params, protocols.option_scores, examples=[cut])


@pytest.fixture
def likes_short_options(monkeypatch):
    """In place of the model: the score of an option is minus its length in tokens, its end token included."""

    def scored(config, params, batch):
        return -np.asarray(batch["decoder_target_tokens"] > 0).sum(axis=1).astype(np.float32)

    monkeypatch.setattr(score, "score_targets", scored)


def test_hand_made_scores_give_the_accuracy_counted_by_hand(likes_short_options):
    examples = [
        question(SHORT, ("no", "yes"), ("no",)),  # right
        question(LONG, ("maybe", "yes"), ("maybe",)),  # wrong
        question(SHORT, ("entailment", "it is", "x"), ("x",)),  # right
        question(LONG, ("ab", "cd", "efg"), ("cd",)),  # two options tie: half
    ]
    scores = ask(None, protocols.option_scores, examples=examples)
    assert scores == [[-3, -4], [-6, -4], [-11, -6, -2], [-3, -3, -4]]
    right = [{list(e.example.options).index(e.example.answer)} for e in examples]
    assert metrics.rank_classification_accuracy(scores, right) == {"accuracy": 62.5, "ties": 25.0}


def test_options_and_answers_are_asked_for_behind_the_exemplars(params, tmp_path):
    """Every option of a query follows the same exemplars, joined once."""
    style = styles.Style((0,), scoring=True, shots=2)
    (tmp_path / "mini.yaml").write_text("- {inputs: 'Is {text} so?', targets: '{answer}'}\n")
    rows = [{"text": f"r{i}"} for i in range(6)]

    def example(row):
        return spec.Example({"text": row["text"]}, "yes", ("yes", "no"))

    of = spec.DatasetSpec("mini", "mine", "mini:1.0.0", {"train": "train"}, example, (), 6, str(tmp_path / "mini.yaml"))
    task = seqio_tasks.FlanTask(of, "type_0_scoring_eval_two_shot", style)
    taken = seqio_tasks.TaskRows(task, rows, None, task.pool(rows, None), own=True)
    examples, lengths = list(taken.in_order()), {"inputs": 160, "targets": 16}
    prompts = seqio_tasks.prompts(examples, Letters(), lengths)
    assert all(prompt.count("Is r") == 3 for prompt in prompts)
    found = ask(params, protocols.option_scores, examples=examples, lengths=lengths)
    for scores, prompt in zip(found, prompts, strict=True):
        np.testing.assert_allclose(scores, [alone(params, prompt, option) for option in ("yes", "no")], atol=2e-4)
