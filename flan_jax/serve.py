"""`flan serve`: a page to try a model in a browser, and OpenAI's completions endpoint, on this machine."""

import argparse
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence

from flan_jax import errors, infer, log
from flan_jax.checkpoint import adapted
from flan_jax.inference import generate
from flan_jax.serving import completions, desk, server

logger = logging.getLogger(__name__)

_ABOUT = """Serves a trained model on this machine: a page at / to type a prompt and look at what the model says, and
OpenAI's GET /v1/models and POST /v1/completions. Ctrl-C or SIGTERM stops it."""
_LAST_WORDS = 60.0  # seconds that answers under way have when the server is stopped


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan serve`."""
    parser = argparse.ArgumentParser(
        prog="flan serve", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    infer.add_model_flags(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default 8000)")
    parser.add_argument("--name", help="of the model, as clients call it; the name of the run's directory if not given")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts that are answered together (default 8)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max_tokens", type=int, default=512, help="of an answer (default 512)")
    limits.add_argument("--max_answers", type=int, default=16, help="of a request: prompts times n (default 16)")
    limits.add_argument("--queue", type=int, default=16, help="requests that may wait; more are refused (default 16)")
    given = parser.parse_args(argv)
    log.set_up()
    for flag in ("max_tokens", "max_answers", "queue"):
        if getattr(given, flag) < 1:
            raise errors.FlanError(f"--{flag} is {getattr(given, flag)}; expected at least 1")
    if not 0 <= given.port < 65536:
        raise errors.FlanError(f"--port is {given.port}; expected 0 to 65535")
    checkpoint = adapted.locate(given.checkpoint)[0]
    generator = infer.load_model(given, given.batch_size)
    name = given.name or os.path.basename(os.path.dirname(checkpoint.rstrip("/"))) or "model"
    allowed = completions.Limits(given.max_tokens, given.max_answers)
    with serving(generator, name, checkpoint, allowed, host=given.host, port=given.port, line=given.queue) as running:
        if not running.local_only:
            logger.warning(
                "listening on %s: whoever reaches this machine over the network can ask the model; there is no password",
                given.host,
            )
        asked = _stop_signal()
        print(f"serving {name} ({checkpoint}) at {running.url} (Ctrl-C stops)", flush=True)
        asked.wait()
        print("stopping", flush=True)
    return 0


@contextlib.contextmanager
def serving(
    generator: generate.Generator,
    name: str,
    checkpoint: str,
    limits: completions.Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    line: int = 16,
) -> Iterator[server.Server]:
    """Serves a model inside the block; at its end the answers under way are finished and those who wait are turned away.

    Args:
      generator: the model.
      name: as clients call it.
      checkpoint: where it is from; the page shows it.
      limits: of a request.
      host: address to listen on.
      port: 0 for any that is free.
      line: requests that may wait.

    Raises:
      FlanError: the address cannot be had.
    """
    about = {
        "name": name,
        "checkpoint": checkpoint,
        "inputs_length": generator.inputs_length,
        "max_tokens": limits.max_tokens,
        "max_answers": limits.answers,
        "stops": completions.STOPS,
    }
    asked = desk.Desk(generator, limits, line=line)
    try:
        try:
            found = server.Server(host, port, name=name, asked=asked, limits=limits, about=about)
        except OSError as error:
            raise errors.FlanError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
        listening = threading.Thread(target=found.serve_forever, name="flan serve: listen", daemon=True)
        listening.start()
        try:
            yield found
        finally:
            asked.close()  # first: who comes now is told so
            found.shutdown()
            found.finish(_LAST_WORDS)
            found.server_close()
            listening.join()
    finally:
        asked.close()


def _stop_signal() -> threading.Event:
    """An event that SIGINT or SIGTERM sets; a second one ends the process as if it were not caught."""
    came = threading.Event()

    def stop(number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        came.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return came
