"""Rank classification and generation against asking one pair at a time, unpadded."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.data import seqio_tasks, spec, styles
from flan_jax.evaluation import metrics, protocols
from flan_jax.inference import batches, choices, decode, generate, score, settings
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

    def encode_again(self, text):
        return self.encode([text])[0]

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


def answers(params, ranked, batch_size=4, examples=QUESTIONS, lengths=LENGTHS, **given) -> list[Any]:
    """(the question as asked, the answer) of each example."""
    put = functools.partial(jax.tree.map, jnp.asarray)
    generator = generate.Generator(
        CONFIG,
        params,
        Letters(),  # type: ignore[arg-type]
        inputs_length=lengths["inputs"],
        batch_size=batch_size,
        put=put,
    )
    model = choices.Chooser(generator, targets_length=lengths["targets"], **given) if ranked else generator
    prompts = [record.prompt for record in protocols.records(examples, generator.tokenizer, lengths, ranked=ranked)]
    found = dict(model.answers(prompts, settings.Settings(max_tokens=lengths["targets"])))  # type: ignore[arg-type]
    return [(examples[number], found[number]) for number in range(len(examples))]


def option_scores(params, batch_size=4, **given):
    """The scores of each question's options, in the order of the options."""
    found = []
    for asked, answer in answers(params, True, batch_size, **given):
        of = dict(zip(answer.texts, answer.scores, strict=True))
        found.append([of[option] for option in asked.example.options])
    return found


def texts_of(params, batch_size=4, **given):
    return [answer.text for _, answer in answers(params, False, batch_size, **given)]


def test_options_score_as_they_do_alone(params):
    scores = option_scores(params)
    assert [len(row) for row in scores] == [len(q.example.options) for q in QUESTIONS]
    for row, asked in zip(scores, QUESTIONS, strict=True):
        expected = [alone(params, asked.inputs, option) for option in asked.example.options]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "bucket"), [(1, 64), (5, 8), (32, 32)])
def test_neither_batches_nor_buckets_change_an_answer(params, monkeypatch, batch_size, bucket):
    scores, texts = option_scores(params), texts_of(params)
    assert any(texts)
    monkeypatch.setattr(batches, "SMALLEST_BUCKET", bucket)
    for ours, expected in zip(option_scores(params, batch_size), scores, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert texts_of(params, batch_size) == texts


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

    texts = texts_of(params, examples=QUESTIONS[:2])
    assert texts == [by_hand(SHORT), by_hand(LONG)]


def test_an_answer_ends_where_the_model_ends_it(params, monkeypatch):
    said = np.asarray([[104, 105, EOS, 0, 0], [EOS, 0, 0, 0, 0], [104, 105, 104, 105, 104], [104, 0, 105, EOS, 0]])
    monkeypatch.setattr(decode, "advance", lambda config, params, state, *_, **__: state._replace(tokens=said))
    found = texts_of(params, examples=[question(SHORT)] * 4, lengths={"inputs": 64, "targets": 5})
    assert found == ["hi", "", "hihih", "h"]


def test_a_batch_is_as_long_as_its_examples_need(params, monkeypatch):
    read, rows = [], []
    reads, follows = score.read, score.continuation_log_likelihood

    def seen(config, params, inputs):
        read.append(inputs["encoder_input_tokens"].shape)
        return reads(config, params, inputs)

    def followed(config, params, cache, first_B, batch):
        rows.append(batch["decoder_target_tokens"].shape)
        return follows(config, params, cache, first_B, batch)

    monkeypatch.setattr(score, "read", seen)
    monkeypatch.setattr(score, "continuation_log_likelihood", followed)
    option_scores(params, batch_size=3)
    # Three short questions, which take 32 of the 64 tokens, and two long ones, each read once. Options of 4 + 14, 4 and
    # 4 + 4 + 4 + 4 tokens share a row of 24, the next multiple of 8; of 4 + 4 + 14 and 14 + 4, too.
    assert (read, rows) == ([(3, 32), (3, 64)], [(3, 24), (3, 24)])


def test_options_that_fill_more_than_a_row_score_the_same(params, monkeypatch):
    expected = option_scores(params)
    monkeypatch.setattr(score, "ROW", 6)  # one option a row, and one that is longer than a row
    monkeypatch.setattr(score, "PROJECTED", 8)  # and their logits in pieces
    jax.clear_caches()
    for ours, whole in zip(option_scores(params), expected, strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5)


def test_the_mean_of_a_token_is_asked_for_by_name(params):
    asked = [question(SHORT, ("yes", "no, it is not"))]
    ((_, answer),) = answers(params, True, examples=asked)
    assert dict(zip(answer.texts, map(len, answer.tokens), strict=True)) == {"yes": 4, "no, it is not": 14}
    ((first, second),) = option_scores(params, examples=asked)
    assert option_scores(params, examples=asked, normalize_by_target_length=True) == [[first / 4, second / 14]]


def test_too_long_inputs_are_cut_and_keep_their_end_token(params):
    long = question("x" * 100, ("yes", "no!"))
    cut = question("x" * 63, ("yes", "no!"))
    assert option_scores(params, examples=[long]) == option_scores(params, examples=[cut])


@pytest.fixture
def likes_short_options(monkeypatch):
    """In place of the model: the score of an option is minus its length in tokens, its end token included."""

    def scored(config, params, cache, first, batch):
        tokens = np.asarray(batch["decoder_target_tokens"] > 0)
        return -tokens.astype(np.float32), tokens

    monkeypatch.setattr(score, "read", lambda *_: (None, None))
    monkeypatch.setattr(score, "continuation_log_likelihood", scored)


def test_hand_made_scores_give_the_accuracy_counted_by_hand(likes_short_options):
    examples = [
        question(SHORT, ("no", "yes"), ("no",)),  # right
        question(LONG, ("maybe", "yes"), ("maybe",)),  # wrong
        question(SHORT, ("entailment", "it is", "x"), ("x",)),  # right
        question(LONG, ("ab", "cd", "efg"), ("cd",)),  # two options tie: half
    ]
    scores = option_scores(None, examples=examples)
    assert scores == [[-3, -4], [-6, -4], [-11, -6, -2], [-3, -3, -4]]
    right = [{list(e.example.options).index(e.example.answer)} for e in examples]
    assert metrics.rank_classification_accuracy(scores, right) == {"accuracy": 62.5, "ties": 25.0, "near_ties": 0.0}


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
    found = option_scores(params, examples=examples, lengths=lengths)
    for scores, prompt in zip(found, prompts, strict=True):
        np.testing.assert_allclose(scores, [alone(params, prompt, option) for option in ("yes", "no")], atol=2e-4)
