"""`flan serve` over HTTP: a toy model asked by urllib and by OpenAI's client, and what a server must withstand."""

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from flan_jax import errors, inference, serve
from flan_jax.serving import server
from tests import markdown_commands
from tests.serving import toy_server

TEXTS = ["Is it so?", "The dog runs. Is it true?"]


@pytest.fixture(scope="module")
def model(run_dir):
    return inference.load(run_dir, inputs_length=64)


@pytest.fixture(scope="module")
def running(model):
    with toy_server.serving(model) as found:
        yield found


def test_greedy_answers_are_the_models(running, model):
    status, found, _ = toy_server.ask(running, {"prompt": TEXTS, "max_tokens": 5, "temperature": 0})
    assert status == 200
    expected = model.generate(TEXTS, max_tokens=5)
    assert [choice["text"] for choice in found["choices"]] == [answer.text for answer in expected]
    ends = ["stop" if answer.finished[0] else "length" for answer in expected]
    assert [(choice["index"], choice["finish_reason"]) for choice in found["choices"]] == list(enumerate(ends))
    read = sum(len(prompt.tokens) for prompt in model.prompts(TEXTS))
    made = sum(len(answer.tokens[0]) for answer in expected)
    assert found["usage"] == {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    assert (found["object"], found["model"]) == ("text_completion", "toy")


def test_samples_follow_their_seed(running, model):
    how = {"max_tokens": 6, "temperature": 0.9, "top_p": 0.8, "n": 2, "seed": 11}
    first, again = (toy_server.ask(running, {"prompt": TEXTS, **how})[1] for _ in range(2))
    expected = [text for answer in model.generate(TEXTS, **how) for text in answer.texts]
    assert [choice["text"] for choice in first["choices"]] == expected
    assert again["choices"] == first["choices"]
    assert first["seed"] == 11


def test_a_stream_is_the_answer_in_pieces(running):
    asked = {"prompt": TEXTS[1], "max_tokens": 6, "temperature": 0.7, "seed": 3}
    whole = toy_server.ask(running, asked)[1]
    status, raw, headers = toy_server.ask(running, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert (status, headers.get_content_type()) == (200, "text/event-stream")
    *pieces, counts = toy_server.events(raw)
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert {piece["choices"][0]["finish_reason"] for piece in pieces[:-1]} == {None}
    assert (counts["usage"], counts["choices"]) == (whole["usage"], [])


def test_models_are_listed(running):
    status, found, _ = toy_server.ask(running, None, "/v1/models", "GET")
    assert (status, [one["id"] for one in found["data"]]) == (200, ["toy"])
    assert toy_server.ask(running, None, "/v1/models/toy", "GET")[1] == found["data"][0]
    status, found, _ = toy_server.ask(running, None, "/v1/models/gpt", "GET")
    assert (status, found["error"]["code"]) == (404, "model_not_found")


def test_openais_client(running, model):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list()] == ["toy"]
    asked = {"model": "toy", "prompt": TEXTS[0], "max_tokens": 5, "temperature": 0}
    found = client.completions.create(**asked)
    assert found.choices[0].text == model.generate(TEXTS[0], max_tokens=5)[0].text
    streamed = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    pieces = list(streamed)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == found.choices[0].text
    assert pieces[-1].usage == found.usage
    with pytest.raises(openai.BadRequestError, match="max_tokens is 33; expected 1 to 32") as refused:
        client.completions.create(**{**asked, "max_tokens": 33})
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt' here"):
        client.completions.create(**{**asked, "model": "gpt"})
    with pytest.raises(openai.NotFoundError, match="nothing at '/v1/chat/completions'"):
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "x"}])
    client.close()


@pytest.mark.parametrize(
    ("body", "path", "method", "headers", "status", "message"),
    [
        (b"{", "", "POST", {}, 400, "the body is not JSON"),
        (b"[" * 100_000, "", "POST", {}, 400, "the body is not JSON"),
        (b'{"prompt": NaN}', "", "POST", {}, 400, "NaN is no JSON number"),
        (b"\xff", "", "POST", {}, 400, "the body is not JSON"),
        (b"[]", "", "POST", {}, 400, "the body is a list; expected a JSON object"),
        (b" " * (server.BODY + 1), "", "POST", {}, 413, "bytes; expected at most 1048576"),
        (b"{}", "", "POST", {"Content_Type": "text/plain"}, 415, "expected Content-Type: application/json"),
        (b"{}", "", "POST", {"Content_Length": "-1"}, 411, "expected a Content-Length"),
        (b"{}", "", "POST", {"Transfer_Encoding": "chunked"}, 411, "no Transfer-Encoding"),
        (None, "", "GET", {}, 405, "GET at /v1/completions; expected POST"),
        (b"{}", "/", "POST", {}, 405, "POST at /; expected GET"),
        (None, "/v1/models", "DELETE", {}, 405, "DELETE at /v1/models; expected GET"),
        (None, "/../../etc/passwd", "GET", {}, 404, "nothing at '/../../etc/passwd'"),
        (b"{}", "/v1/embeddings", "POST", {}, 404, "expected /, /v1/models or /v1/completions"),
        (
            None,
            "/",
            "GET",
            {"Host": "evil.example"},
            403,
            "answers to localhost only; the request is to 'evil.example'",
        ),
        ({"prompt": "a " * 100}, "", "POST", {}, 400, "tokens; expected at most 64"),
    ],
)
def test_mistakes_are_told_as_openai_does(running, body, path, method, headers, status, message):
    found, told, of = toy_server.ask(running, body, path or "/v1/completions", method, **headers)
    assert found == status
    assert message in told["error"]["message"]
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert (of["Allow"] is not None) == (status == 405)


def test_a_connection_is_kept(running):
    link = toy_server.connection(running)
    for _ in range(3):
        link.request("POST", "/v1/completions", b'{"n": 0, "prompt": "a"}', {"Content-Type": "application/json"})
        answer = link.getresponse()
        assert answer.status == 400
        answer.read()
    link.close()
    link = toy_server.connection(running)
    link.putrequest("NONSENSE", "/")
    link.endheaders()
    assert link.getresponse().status == 501
    link.close()


def in_threads(running, bodies):
    found = [None] * len(bodies)

    def one(number):
        found[number] = toy_server.ask(running, bodies[number])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, found


def wait_for_line(running, length):
    with running.asked._changed:
        assert running.asked._changed.wait_for(lambda: len(running.asked._waiting) == length, 60)


def test_those_who_wait_are_asked_together_and_a_full_line_is_refused():
    held = toy_server.Held()
    with toy_server.serving(held, line=3) as running:
        first, _ = in_threads(running, [{"prompt": "first"}])
        held.begun.acquire()
        # Two that go together though their limits differ, and one with another temperature.
        alike = [{"prompt": "ab", "max_tokens": 9}, {"prompt": ["abc", "abcd"], "max_tokens": 16}]
        threads, found = in_threads(running, [*alike, {"prompt": "e", "temperature": 0}])
        wait_for_line(running, 3)
        status, told, headers = toy_server.ask(running, {"prompt": "late"})
        assert (status, told["error"]["type"], headers["Retry-After"]) == (429, "rate_limit_error", "1")
        assert told["error"]["message"] == "3 requests are waiting; try again later"
        held.go.set()
        for thread in [*first, *threads]:
            thread.join()
    texts = [[choice["text"] for choice in one[1]["choices"]] for one in found if one]
    assert texts == [["2"], ["3", "4"], ["1"]]
    assert sorted(count for count, _ in held.asked) == [1, 1, 3]
    assert {how.max_tokens for _, how in held.asked} == {16}


def test_stopping_finishes_what_is_under_way_and_turns_away_who_waits():
    held = toy_server.Held()
    with toy_server.serving(held) as running:
        threads, found = in_threads(running, [{"prompt": "first"}])
        held.begun.acquire()
        waits, turned_away = in_threads(running, [{"prompt": "second"}])
        wait_for_line(running, 1)
        threading.Timer(0.2, held.go.set).start()
    for thread in [*threads, *waits]:
        thread.join()
    assert [one[0] for one in [*found, *turned_away] if one] == [200, 503]
    with pytest.raises(urllib.error.URLError):
        toy_server.ask(running, {"prompt": "late"})


def test_an_error_inside_is_not_shown_and_the_next_request_is_answered(caplog):
    held = toy_server.Held()
    held.go.set()
    held.fails = True
    with toy_server.serving(held) as running:
        status, told, _ = toy_server.ask(running, {"prompt": "a"})
        assert (status, "secret" in str(told)) == (500, False)
        held.fails = False
        assert toy_server.ask(running, {"prompt": "a"})[0] == 200


def test_room_for_longer_answers_is_given_up_where_the_model_has_none():
    held = toy_server.Held()
    held.go.set()
    held.longest = 9
    with toy_server.serving(held) as running:
        assert toy_server.ask(running, {"prompt": "a", "max_tokens": 9})[0] == 200
        status, told, _ = toy_server.ask(running, {"prompt": "a", "max_tokens": 10})
        assert (status, told["error"]["message"]) == (400, "10 tokens; the model has room for 9")
    assert [how.max_tokens for _, how in held.asked] == [16, 9, 16, 10]


def test_a_reader_who_leaves_a_stream_frees_the_model():
    held = toy_server.Held()
    with toy_server.serving(held, max_tokens=1_000_000) as running:
        link = toy_server.connection(running)
        body = b'{"prompt": "a", "stream": true, "max_tokens": 1000000}'
        link.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        held.begun.acquire()
        held.go.set()
        assert link.getresponse().read(20)
        link.close()
        assert toy_server.ask(running, {"prompt": "abc"})[1]["choices"][0]["text"] == "3"


def test_an_address_that_is_taken_is_told():
    held = toy_server.Held()
    with toy_server.serving(held) as running:
        port = running.server_address[1]
        with pytest.raises(errors.FlanError, match=f"cannot listen on 127.0.0.1, port {port}: "):
            serve.serving(held, "x", "y", running.limits, port=port).__enter__()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_in_order(run_dir, number):
    command = [sys.executable, "-m", "flan_jax.cli", "serve", f"--checkpoint={run_dir}", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(markdown_commands.ROOT), "XLA_FLAGS": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith(f"serving demo ({run_dir}/checkpoint_7) at http://127.0.0.1:")
    with urllib.request.urlopen(said.split(" at ")[1].split()[0] + "/about", timeout=60) as answer:
        assert answer.status == 200
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, "Traceback" in err) == (0, "stopping\n", False)


def test_a_server_for_the_network_answers_to_any_name():
    held = toy_server.Held()
    held.go.set()
    with toy_server.serving(held, host="0.0.0.0") as running:
        assert not running.local_only
        assert toy_server.ask(running, {"prompt": "a"}, Host="my.machine")[0] == 200


@pytest.mark.parametrize(
    ("host", "inside"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_is_local(host, inside):
    assert server.loopback(host) == inside
