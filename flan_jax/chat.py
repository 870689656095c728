"""`flan chat`: one prompt after the other, each answered by itself, token by token.

Instruction-tuned models of the papers answer single turns, so that nothing of the conversation is given to the next prompt. On
a terminal prompts are typed; otherwise every line of stdin is one, and stdout holds the answers, a line each.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from flan_jax import errors, infer
from flan_jax.inference import decode, generate, settings

HELP = """commands:
  /settings            shows how answers are made
  /NAME VALUE          changes a setting: /temperature 0.7, /top_p 0.9, /beams 4, /n 3, /stop "." (/stop alone: none)
  /reset               the settings of the command line again
  /help, /quit         this text; the end (or Ctrl-D)
Everything else is a prompt, answered without regard to the ones before. Ctrl-C stops an answer."""


class Session:
    """The settings of a conversation, and what its lines do."""

    def __init__(self, generator: generate.Generator, how: settings.Settings, out: TextIO) -> None:
        """Args:
        generator: the model.
        how: the settings to begin with.
        out: where answers go.
        """
        self._generator, self._first, self._how, self._out = generator, how, how, out
        self._turn = 0

    def say(self, line: str) -> bool:
        """Does what a line asks for; returns whether to go on.

        Raises:
          FlanError: an unknown command, or a setting that cannot be.
        """
        text = line.strip()
        if not text.startswith("/"):
            if text:
                self._answer(text)
            return True
        name, _, value = text[1:].partition(" ")
        commands: dict[str, Callable[[], Any]] = {
            "help": lambda: self._print(HELP),
            "settings": self._show,
            "reset": self._reset,
            "quit": lambda: None,
        }
        fields = [field.name for field in dataclasses.fields(settings.Settings)]
        if name in commands:
            commands[name]()
        elif name in fields:
            self._how = self._how.changed(**{name: _value(name, value.strip())})
            self._show()
        else:
            raise errors.unknown("command", text.split()[0], [f"/{known}" for known in (*commands, *fields)])
        return name != "quit"

    def _answer(self, text: str) -> None:
        # Each turn draws anew, and the whole conversation is the same for the same seed.
        how = self._how.changed(seed=int(decode.row_seeds(self._how.seed, [self._turn])[0]))
        self._turn += 1
        for piece in self._pieces(text, how):
            print(piece, end="", file=self._out, flush=True)
        self._print("")

    def _pieces(self, text: str, how: settings.Settings) -> Iterator[str]:
        if how.n == 1 and not how.beams:
            yield from self._generator.stream(text, how)
            return
        answer = self._generator.generate(text, how)[0]
        if how.n == 1:
            yield answer.text
            return
        yield "\n".join(f"{number}. {said}" for number, said in enumerate(answer.texts, start=1))

    def _show(self) -> None:
        self._print("  ".join(f"{name} {value!r}" for name, value in dataclasses.asdict(self._how).items()))

    def _reset(self) -> None:
        self._how, self._turn = self._first, 0
        self._show()

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def _value(name: str, given: str) -> Any:
    """What was typed behind a command, as the setting's type."""
    if name == "stop":
        return tuple(string for string in [given.strip('"')] if string)
    kind = type(getattr(settings.Settings, name))
    try:
        return kind(given)
    except ValueError:
        example = "0.7" if kind is float else "4"
        raise errors.FlanError(f"/{name} was given {given!r}; expected a number, e.g. /{name} {example}") from None


def converse(session: Session, lines: TextIO, *, prompt: str = "") -> int:
    """Does what each line asks for until there are no more.

    Args:
      session: the conversation.
      lines: stdin.
      prompt: shown before each line is read; on a terminal.

    Returns:
      1 if a line was a mistake, which is told on stderr, else 0.
    """
    code = 0
    while True:
        try:
            line = input(prompt) + "\n" if prompt else lines.readline()
        except EOFError:
            line = ""
        except UnicodeDecodeError as error:
            raise errors.FlanError(f"stdin is not UTF-8: {error}") from None
        if not line:
            break
        try:
            if not session.say(line):
                break
        except errors.FlanError as error:
            print(f"flan: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            if not prompt:
                raise
            print()
    return 0 if prompt else code


def main(argv: Sequence[str]) -> int:
    """Entry point of `flan chat`."""
    parser = argparse.ArgumentParser(
        prog="flan chat",
        description="Answers prompts that are typed, or the lines of stdin, token by token.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    infer.add_model_flags(parser)
    settings.add_flags(parser)
    given = parser.parse_args(argv)
    how = settings.from_flags(given)
    generator = infer.load_model(given, 1)
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401  # gives input() a history and line editing

        print(f"{given.checkpoint}; /help lists the commands", file=sys.stderr)
    return converse(Session(generator, how, sys.stdout), sys.stdin, prompt="> " if typed else "")
