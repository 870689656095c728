"""Rank classification and generation of decoder-only models, against the model asked for one row at a time, unpadded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.data import features, seqio_tasks, spec
from flan_jax.evaluation import protocols
from flan_jax.inference import choices, generate, settings
from flan_jax.models import api, presets

LENGTHS = {"inputs": 48, "targets": 16}
EOS = 1
SIZES = {"vocab_size": 256, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "num_layers": 1, "mlp_dim": 64}
# Positions that are learned must begin where the prompt does; relative ones, under the prefix mask.
CONFIGS = {
    "causal": (presets.decoder_only_config("opt_125m", **SIZES, max_positions=64, dropout_rate=0.5), 2),
    "prefix": (presets.decoder_only_config("t5x_tiny", **SIZES, prefix_lm=True, dropout_rate=0.5), 0),
}


class Letters:
    """A vocabulary of single characters."""

    class vocabulary:
        eos_id = EOS

    def encode(self, texts):
        return [[ord(character) for character in text] for text in texts]

    def decode(self, ids):
        return "".join(map(chr, ids))


def question(inputs, *options):
    answer = options[0]
    return seqio_tasks.Formatted(inputs, answer, spec.Example({}, answer, options, (answer,)), 0, 0)


QUESTIONS = [
    question("Is it so?", "yes", "no, it is not"),
    question("Is it so that the moon is made of cheese?", "yes", "no!", "it is not"),
    question("IS IT SO?", "two"),
]


@pytest.fixture(scope="module", params=CONFIGS)
def asked(request):
    """(config, its parameters, the token that begins a sequence)."""
    config, begin = CONFIGS[request.param]
    rng = np.random.default_rng(5)

    def draw(leaf):  # far from the initial values, so that options and tokens are told apart
        return jnp.asarray(rng.standard_normal(leaf.shape) / 4, jnp.float32)

    return config, jax.tree.map(draw, api.abstract_params(config)), begin


@functools.partial(jax.jit, static_argnums=0)
def log_probabilities(config, params, batch):
    return jax.nn.log_softmax(api.logits(config, params, batch), axis=-1)


def alone(asked, inputs, target):
    """Log-probabilities [length of the target, V] of what follows the inputs and each token of the target."""
    config, params, begin = asked
    tokens = [*map(ord, inputs), EOS, *target]
    seen = len(inputs) + 2
    batch = {
        "decoder_input_tokens": jnp.asarray([[begin, *tokens[:-1]]]),
        "decoder_target_tokens": jnp.asarray([tokens]),
        "decoder_causal_attention": jnp.asarray([[1] * seen + [0] * (len(tokens) - seen)]),
    }
    return np.asarray(log_probabilities(config, params, batch)[0, len(inputs) + 1 :], np.float64)


def answers(asked, ranked, batch_size=4, examples=QUESTIONS):
    config, params, begin = asked
    generator = generate.Generator(
        config,
        params,
        Letters(),  # type: ignore[arg-type]
        inputs_length=LENGTHS["inputs"],
        batch_size=batch_size,
        put=functools.partial(jax.tree.map, jnp.asarray),
        converter=features.PrefixLM(bos_id=begin),
    )
    model = choices.Chooser(generator, targets_length=LENGTHS["targets"]) if ranked else generator
    prompts = [record.prompt for record in protocols.records(examples, generator.tokenizer, LENGTHS, ranked=ranked)]
    found = dict(model.answers(prompts, settings.Settings(max_tokens=LENGTHS["targets"])))  # type: ignore[arg-type]
    return [found[number] for number in range(len(examples))]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_options_score_as_they_do_alone(asked, batch_size):
    for answer, each in zip(answers(asked, True, batch_size), QUESTIONS, strict=True):
        of = dict(zip(answer.texts, answer.scores, strict=True))
        row = [of[option] for option in each.example.options]
        targets = [[*map(ord, option), EOS] for option in each.example.options]
        expected = [alone(asked, each.inputs, target)[np.arange(len(target)), target].sum() for target in targets]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_generation_takes_the_likeliest_token_again_and_again(asked):
    def by_hand(inputs):
        said = []
        while len(said) < LENGTHS["targets"]:
            # What stands behind a token is not seen; with it one shape is compiled.
            padded = [*said, *[3] * (LENGTHS["targets"] - len(said))]
            token = int(alone(asked, inputs, padded)[len(said)].argmax())
            if token in (0, EOS):
                break
            said.append(token)
        return "".join(map(chr, said))

    texts = [answer.text for answer in answers(asked, False, examples=QUESTIONS[:2])]
    assert all(texts)
    assert texts == [by_hand(each.inputs) for each in QUESTIONS[:2]]
