"""A server to ask, and a model in place of one that does what a test says."""

import contextlib
import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request

from flan_jax import errors, serve
from flan_jax.inference import generate
from flan_jax.serving import completions


class Held:
    """In place of a model: answers with the prompt's length, once it is let go."""

    inputs_length, batch_size = 64, 4

    def __init__(self):
        self.go, self.begun, self.asked = threading.Event(), threading.Semaphore(0), []
        self.fails, self.longest = False, 10_000

    def prompts(self, texts):
        return [generate.Prompt([2] * min(len(text), 64), cut=max(0, len(text) - 64)) for text in texts]

    def answers(self, prompts, how):
        self.asked.append((len(prompts), how))
        self.begun.release()
        assert self.go.wait(60)
        if how.max_tokens > self.longest:
            raise errors.FlanError(f"{how.max_tokens} tokens; the model has room for {self.longest}")
        if self.fails:
            raise ValueError("something secret")
        for number, prompt in enumerate(prompts):
            text = f"{len(prompt.tokens)}"
            yield number, generate.Answer((text,) * how.n, ((5, 1),) * how.n, (-1.0,) * how.n, (True,) * how.n)

    def pieces(self, prompt, how):
        self.begun.release()
        for number in range(how.max_tokens):
            assert self.go.wait(60)
            yield generate.Piece(f"{number} ", number + 1, False)


@contextlib.contextmanager
def serving(model, *, max_tokens=32, answers=4, **options):
    with serve.serving(model, "toy", "runs/toy", completions.Limits(max_tokens, answers), **options) as running:
        yield running


def ask(running, body, path="/v1/completions", method="POST", **headers):
    """(status, JSON, headers) of a request; `body` as it is where it is bytes."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(running.url + path, data, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            raw, status, of = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        raw, status, of = error.read(), error.code, error.headers
    return status, json.loads(raw) if of.get_content_type() == "application/json" else raw.decode(), of


def connection(running):
    return http.client.HTTPConnection(urllib.parse.urlsplit(running.url).netloc, timeout=60)


def events(raw):
    """The events of a stream but the last, which is checked."""
    *found, done, rest = raw.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]
