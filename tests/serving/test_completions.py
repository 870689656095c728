"""What a request of the completions endpoint may say."""

import math

import hypothesis
import pytest
from hypothesis import strategies

from flan_jax.inference import settings
from flan_jax.serving import completions

LIMITS = completions.Limits(max_tokens=64, answers=6)


def read(**body):
    return completions.read({"model": "toy", **body}, "toy", LIMITS)


def test_the_defaults_are_openais():
    request = read(prompt="Is it so?")
    assert request.prompts == ("Is it so?",)
    assert (request.how.max_tokens, request.how.temperature, request.how.top_p, request.how.n) == (16, 1.0, 1.0, 1)
    assert not request.stream
    assert len({read(prompt="x").how.seed for _ in range(4)}) > 1  # drawn anew where none is given


def test_settings_reach_the_model():
    request = read(
        prompt=["a", ""],
        max_tokens=5.0,
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        n=2,
        stop=["x", "\n"],
        seed=-1,
        best_of=2,
        echo=False,
        logprobs=None,
        suffix=None,
        user="me",
        logit_bias={},
        presence_penalty=0,
        stream=False,
    )
    assert request.prompts == ("a", "")
    assert request.how == settings.Settings(
        max_tokens=5, temperature=0.5, top_p=0.25, top_k=3, n=2, stop=("x", "\n"), seed=2**32 - 1
    )
    streamed = read(prompt="a", stream=True, stream_options={"include_usage": True}, stop="x")
    assert (streamed.stream, streamed.include_usage, streamed.how.stop) == (True, True, ("x",))


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "no prompt; expected a string, or a list of strings"),
        ({"prompt": []}, "prompt", "no prompt"),
        ({"prompt": [1, 2]}, "prompt", "tokens are not read"),
        ({"prompt": ["a", None]}, "prompt", "the prompt is not text"),
        ({"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),
        ({"max_token": 3}, "max_token", "unknown field 'max_token'; did you mean 'max_tokens'"),
        ({"max_tokens": 65}, "max_tokens", "max_tokens is 65; expected 1 to 64"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; expected 1 to 64"),
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens is a number; expected a whole number"),
        ({"max_tokens": True}, "max_tokens", "max_tokens is true or false; expected a whole number"),
        ({"temperature": "hot"}, "temperature", "temperature is a string; expected a number"),
        ({"temperature": 2.5}, "temperature", "temperature is 2.5; expected 0 to 2.0"),
        ({"temperature": math.inf}, "temperature", "expected a number"),
        ({"top_p": 1.5}, "top_p", "top_p is 1.5; expected 0 to 1"),
        ({"top_p": 0}, None, "top_p is 0.0; expected more than 0"),
        ({"n": 7}, "n", "n is 7; expected at most 6 answers a request"),
        ({"prompt": ["a", "b", "c", "d"], "n": 2}, "n", "4 prompts with n 2; expected at most 6"),
        ({"n": 2, "temperature": 0}, None, "temperature 0 all samples are the same"),
        ({"best_of": 3}, "best_of", "best_of is 3; expected it left out, or n, 1"),
        ({"echo": True}, "echo", "echo is True, but prompts are not repeated"),
        ({"logprobs": 0}, "logprobs", "log-probabilities of tokens are not given"),
        ({"suffix": "x"}, "suffix", "suffix is 'x', but nothing can be inserted"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "logits are not changed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty is 0.5"),
        ({"stop": ["a"] * 5}, "stop", "nor a list of at most 4 strings"),
        ({"stop": [1]}, "stop", "stop is not a string"),
        ({"stop": ""}, None, "stop has an empty string"),
        ({"stop": {"a": 1}}, "stop", "stop is not a string"),
        ({"seed": "x"}, "seed", "seed is a string; expected a whole number"),
        ({"stream": 1}, "stream", "stream is a number; expected true or false"),
        ({"stream": True, "n": 2}, "stream", "expected one prompt and n 1"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options without stream"),
        ({"stream": True, "stream_options": []}, "stream_options", "not an object with include_usage"),
    ],
)
def test_what_cannot_be_is_named(body, param, message):
    with pytest.raises(completions.Refused) as refused:
        read(**({"prompt": "a"} if body and "prompt" not in body else {}), **body)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert message in refused.value.message


def test_another_model_is_not_here():
    with pytest.raises(completions.Refused) as refused:
        completions.read({"model": "gpt", "prompt": "a"}, "toy", LIMITS)
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert refused.value.body()["error"] == {
        "message": "no model 'gpt' here; this is 'toy'",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


NAMES = ("prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "stream", "best_of", "model")
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.given(JSON | strategies.dictionaries(strategies.sampled_from(NAMES), JSON))
def test_any_json_is_read_or_refused(body):
    try:
        request = completions.read(body, "toy", LIMITS)
    except completions.Refused as refused:
        status = refused.status
    else:
        status = 200
        assert len(request.prompts) * request.how.n <= LIMITS.answers
        assert request.how.max_tokens <= LIMITS.max_tokens
    assert status in (200, 400, 404)
