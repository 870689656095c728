"""Requests and answers of the completions endpoint, in OpenAI's form: JSON in, what to ask out, and back. No HTTP here."""

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.inference import generate, settings

STOPS = 4  # strings at most, as OpenAI has it
_MAX_TOKENS, _TEMPERATURE = 16, 1.0  # OpenAI's defaults
_HOTTEST = 2.0
_TAKEN = ("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "stream")
# What OpenAI's endpoint takes and this one does not: (name, values that change nothing, what is to be said).
_WITHOUT: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("echo", (False,), "prompts are not repeated"),
    ("logprobs", (), "log-probabilities of tokens are not given"),
    ("suffix", ("",), "nothing can be inserted before a suffix"),
    ("logit_bias", ({},), "logits are not changed"),
    ("presence_penalty", (0,), "logits are not changed"),
    ("frequency_penalty", (0,), "logits are not changed"),
)
_LEFT_ALONE = ("user", "best_of", "stream_options")


class Refused(Exception):
    """A request that is not answered: an HTTP status and what OpenAI's clients read."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
      max_tokens: of an answer.
      answers: prompts times n.
    """

    max_tokens: int = 512
    answers: int = 16


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that makes sense.

    Attributes:
      prompts: at least one.
      how: how they are answered.
      stream: whether pieces are sent as they come; then there is one prompt and one answer.
      include_usage: whether the stream ends with counts of tokens.
    """

    prompts: tuple[str, ...]
    how: settings.Settings
    stream: bool = False
    include_usage: bool = False


def read(body: Any, model: str, limits: Limits) -> Request:
    """Reads the JSON of a request.

    Args:
      body: as it was parsed.
      model: the name of the model that is served.
      limits: of a request.

    Raises:
      Refused: it asks for what cannot be; the message names the field.
    """
    if not isinstance(body, dict):
        raise Refused(400, f"the body is {_kind(body)}; expected a JSON object")
    known = (*_TAKEN, *_LEFT_ALONE, *(name for name, _, _ in _WITHOUT))
    for name in body:
        if name not in known:
            raise Refused(400, str(errors.unknown("field", name, known)), param=name)
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("model", model) != model:
        raise Refused(
            404, f"no model {given['model']!r} here; this is {model!r}", param="model", code="model_not_found"
        )
    prompts = _prompts(given.get("prompt"))
    n = _whole(given, "n", 1, 1, None)
    for name, harmless, why in _WITHOUT:
        if name in given and given[name] not in harmless:
            raise Refused(400, f"{name} is {given[name]!r}, but {why}; expected it left out", param=name)
    if given.get("best_of", n) != n:
        raise Refused(400, f"best_of is {given['best_of']!r}; expected it left out, or n, {n}", param="best_of")
    if len(prompts) * n > limits.answers:
        asked = f"{len(prompts)} prompts with n {n}" if len(prompts) > 1 else f"n is {n}"
        raise Refused(400, f"{asked}; expected at most {limits.answers} answers a request", param="n")
    seed = _whole(given, "seed", None, -(2**63), 2**63 - 1)
    try:
        how = settings.Settings(
            max_tokens=_whole(given, "max_tokens", min(_MAX_TOKENS, limits.max_tokens), 1, limits.max_tokens),
            temperature=_number(given, "temperature", _TEMPERATURE, 0, _HOTTEST),
            top_k=_whole(given, "top_k", 0, 0, None),
            top_p=_number(given, "top_p", 1.0, 0, 1),
            n=n,
            stop=_stops(given.get("stop", ())),
            seed=secrets.randbits(32) if seed is None else seed & settings.LARGEST_SEED,
        )
    except errors.FlanError as error:
        raise Refused(400, str(error)) from None
    stream = _flag(given, "stream")
    if stream and (len(prompts) > 1 or n > 1):
        raise Refused(400, f"stream with {len(prompts)} prompts and n {n}; expected one prompt and n 1", param="stream")
    return Request(prompts, how, stream, _include_usage(given, stream))


def answered(
    request: Request, prompts: Sequence[generate.Prompt], answers: Sequence[generate.Answer], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON of all answers.

    Args:
      request: what was asked.
      prompts: as the model read them.
      answers: one a prompt.
      about: `id`, `created` and `model`.
    """
    choices = [
        _choice(place, text, "stop" if finished else "length")
        for place, (text, finished) in enumerate(
            pair for answer in answers for pair in zip(answer.texts, answer.finished, strict=True)
        )
    ]
    counts = usage(prompts, sum(len(tokens) for answer in answers for tokens in answer.tokens))
    return {**about, "object": "text_completion", "choices": choices, "usage": counts, "seed": request.how.seed}


def piece(text: str, finish_reason: str | None, about: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The JSON of a piece of an answer."""
    return {**about, "object": "text_completion", "choices": [_choice(0, text, finish_reason)], "seed": seed}


def usage(prompts: Sequence[generate.Prompt], completion: int) -> dict[str, int]:
    """Counts of tokens; a prompt's end token is one of them, and an answer's."""
    read_tokens = sum(len(prompt.tokens) for prompt in prompts)
    return {"prompt_tokens": read_tokens, "completion_tokens": completion, "total_tokens": read_tokens + completion}


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _prompts(given: Any) -> tuple[str, ...]:
    prompts = [given] if isinstance(given, str) else given
    if prompts is None or prompts == []:
        raise Refused(400, "no prompt; expected a string, or a list of strings", param="prompt")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise Refused(
            400, "the prompt is not text (tokens are not read); expected a string, or a list of them", param="prompt"
        )
    if any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt):
        raise Refused(400, "the prompt holds half of a surrogate pair; expected Unicode text", param="prompt")
    return tuple(prompts)


def _stops(given: Any) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else given
    if not isinstance(stops, list | tuple) or len(stops) > STOPS or not all(isinstance(stop, str) for stop in stops):
        raise Refused(400, f"stop is not a string, nor a list of at most {STOPS} strings", param="stop")
    return tuple(stops)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    if not isinstance(given.get(name, False), bool):
        raise Refused(400, f"{name} is {_kind(given[name])}; expected true or false", param=name)
    return bool(given.get(name, False))


def _include_usage(given: Mapping[str, Any], stream: bool) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise Refused(400, "stream_options is not an object with include_usage", param="stream_options")
    if options and not stream:
        raise Refused(400, "stream_options without stream", param="stream_options")
    return _flag(options, "include_usage")


def _whole(given: Mapping[str, Any], name: str, default: Any, least: int, most: int | None) -> Any:
    value = given.get(name, default)
    if name not in given:
        return value
    if isinstance(value, float) and value.is_integer():  # JavaScript has no other numbers
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(400, f"{name} is {_kind(value)}; expected a whole number", param=name)
    return _within(name, value, least, most)


def _number(given: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = given.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Refused(400, f"{name} is {_kind(value)}; expected a number", param=name)
    return float(_within(name, value, least, most))


def _within(name: str, value: Any, least: float, most: float | None) -> Any:
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise Refused(400, f"{name} is {value}; expected {expected}", param=name)
    return value


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
