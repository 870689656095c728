"""HTTP: a page to try a model, and OpenAI's `/v1/models` and `/v1/completions`.

Every answer is JSON but the page's own files. Another site's page in the user's browser cannot ask: requests need a JSON content
type, which a browser sends nowhere without leave, and a server on a loopback address answers to loopback names only.
"""

import contextlib
import http.server
import ipaddress
import json
import logging
import secrets
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from flan_jax import shipped
from flan_jax.serving import completions, desk

logger = logging.getLogger(__name__)

BODY = 1 << 20  # bytes of a request
_PATIENCE = 30.0  # seconds that a client may be silent in the middle of a request
_LINGER, _DRAINED = 1.0, 8 << 20  # seconds and bytes that are waited for and thrown away after a refusal
# path -> (file, type)
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_COMPLETIONS, _MODELS = "/v1/completions", "/v1/models"


class Server(http.server.ThreadingHTTPServer):
    """Listens once it is made; `serve_forever` answers."""

    request_queue_size = 64

    def __init__(
        self, host: str, port: int, *, name: str, asked: desk.Desk, limits: completions.Limits, about: dict[str, Any]
    ) -> None:
        """Args:
          host: address or name to listen on.
          port: 0 for any that is free.
          name: of the model, as clients call it.
          asked: answers.
          limits: of a request.
          about: JSON that the page shows of the model.

        Raises:
          OSError: the address cannot be had.
        """
        self.name, self.asked, self.limits, self.about = name, asked, limits, about
        self.created = int(time.time())
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._at_work = threading.Condition()
        self._count = 0
        super().__init__((host, port), _Handler)
        self.local_only = loopback(self.server_address[0])

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self.server_address[:2]
        return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around a request that is being answered."""
        with self._at_work:
            self._count += 1
        try:
            yield
        finally:
            with self._at_work:
                self._count -= 1
                self._at_work.notify_all()

    def finish(self, seconds: float) -> None:
        """Waits until what was asked is answered, or so long."""
        with self._at_work:
            self._at_work.wait_for(lambda: not self._count, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""
        logger.debug("%s: gone", client_address, exc_info=True)


def loopback(host: Any) -> bool:
    """Whether an address is of this machine only."""
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return str(host) == "localhost"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "flan_jax", ""
    timeout = _PATIENCE
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def do_other(self) -> None:
        self._reply(self._get)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_other

    def _reply(self, answer: Any) -> None:
        """Answers one request, whatever comes."""
        began = time.monotonic()
        self._status, self._began_body = 0, False
        self._unread = "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"
        with self.server.at_work():
            try:
                self._check_host()
                answer()
            except completions.Refused as refused:
                self._json(refused.status, refused.body())
            except (ConnectionError, TimeoutError):
                self.close_connection = True
            except Exception:
                logger.exception("%s %s", self.command, self.path)
                self.close_connection = True
                if not self._began_body:
                    self._json(500, completions.Refused(500, "an error inside the server; its log says which").body())
        if self._unread:
            self._linger()
        logger.info("%s %r %d in %.2f s", self.command, self.path[:80], self._status, time.monotonic() - began)

    def _linger(self) -> None:
        """Takes in what the client still sends: it reads no answer before, and none at all from a connection that is cut."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER)
            left = _DRAINED
            while left > 0 and (read := self.connection.recv(1 << 16)):
                left -= len(read)

    def _check_host(self) -> None:
        host = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if self.server.local_only and not loopback(host):
            self.close_connection = True
            raise completions.Refused(403, f"this server answers to localhost only; the request is to {host!r}")

    def _route(self) -> tuple[str, str]:
        """The path and the method that it takes."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path == _COMPLETIONS:
            return path, "POST"
        if path in _FILES or path in (_MODELS, "/about") or path.startswith(_MODELS + "/"):
            return path, "GET"
        self.close_connection = True  # a body may follow
        raise completions.Refused(
            404, f"nothing at {path[:80]!r}; expected /, {_MODELS} or {_COMPLETIONS}", code="not_found"
        )

    def _method(self, path: str, method: str) -> None:
        if self.command != method:
            self.close_connection = True
            self._allowed = method
            raise completions.Refused(405, f"{self.command} at {path}; expected {method}", code="method_not_allowed")

    def _get(self) -> None:
        path, method = self._route()
        self._method(path, method)
        if path in _FILES:
            file, kind = _FILES[path]
            self._send(200, (shipped.directory("serving/html") / file).read_bytes(), kind)
        elif path == "/about":
            self._json(200, self.server.about)
        elif path == _MODELS:
            self._json(200, {"object": "list", "data": [self._model()]})
        elif path.removeprefix(_MODELS + "/") == self.server.name:
            self._json(200, self._model())
        else:
            name = path.removeprefix(_MODELS + "/")
            raise completions.Refused(
                404, f"no model {name[:80]!r} here; this is {self.server.name!r}", param="model", code="model_not_found"
            )

    def _model(self) -> dict[str, Any]:
        return {"id": self.server.name, "object": "model", "created": self.server.created, "owned_by": "flan_jax"}

    def _post(self) -> None:
        path, method = self._route()
        self._method(path, method)
        request = completions.read(self._body(), self.server.name, self.server.limits)
        about = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self.server.name}
        if request.stream:
            self._stream(request, about)
            return
        job, answers = self.server.asked.answers(request)
        self._json(200, completions.answered(request, job.prompts, answers, about))

    def _body(self) -> Any:
        """The JSON of the request."""
        self.close_connection = True  # unless the body is read to its end
        if self.headers.get_content_type() != "application/json":
            raise completions.Refused(
                415, f"the body is {self.headers.get_content_type()}; expected Content-Type: application/json"
            )
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            raise completions.Refused(411, "expected a Content-Length, in bytes, and no Transfer-Encoding")
        if int(length[:20]) > BODY:
            raise completions.Refused(413, f"the body has {length[:20]} bytes; expected at most {BODY}")
        raw = self.rfile.read(int(length))
        self._unread = False
        if len(raw) < int(length):
            raise ConnectionError("the body ends early")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        try:
            return json.loads(raw.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise completions.Refused(400, f"the body is not JSON: {error}") from None

    def _stream(self, request: completions.Request, about: dict[str, Any]) -> None:
        """Server-sent events: a piece each, then counts if they are asked for, then `[DONE]`."""
        job, pieces = self.server.asked.pieces(request)
        seed = request.how.seed
        try:
            last = next(pieces)  # what is refused is refused before a status is sent
            self.close_connection = True  # where the answer ends, the connection does
            self._head(200, "text/event-stream; charset=utf-8")
            self._event(completions.piece(last.text, None, about, seed))
            for last in pieces:
                self._event(completions.piece(last.text, None, about, seed))
            self._event(completions.piece("", "stop" if last.finished else "length", about, seed))
            if request.include_usage:
                counts = completions.usage(job.prompts, last.tokens)
                self._event({**about, "object": "text_completion", "choices": [], "usage": counts})
            self.wfile.write(b"data: [DONE]\n\n")
        finally:
            job.given_up = True

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content, ensure_ascii=False).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self._head(status, kind, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self._status, self._began_body = status, True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.close_connection or length is None:
            self.send_header("Connection", "close")
        if status == 405:
            self.send_header("Allow", self._allowed)
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (a line that is no request), in the form of everything else."""
        self.close_connection = True
        self.command = self.command or ""
        self._allowed = "GET, POST"
        self._json(code, completions.Refused(code, message or "not a request that can be read").body())

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are logged by `_reply`."""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
