"""What a suite of benchmarks is made of, and how a prompt is cut to what a model can read."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from flan_jax.data import benchmarks

# Before every rationale in the published prompts of MMLU and BBH (after Kojima et al. 2022).
TRIGGER = "Let's think step by step."
# What Flan 2022 asks for reasons with where there is no exemplar (its section on zero-shot chain of thought).
ZERO_SHOT_TRIGGER = "let's think step-by-step"
_GAP = "\n\n"  # between header, exemplars and question


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with everything that may stand before it.

    Attributes:
      subtask: the subject, task or language it belongs to.
      row: its number among the rows of its subtask.
      header: what the subtask is about; may be empty.
      exemplars: answered questions, in order.
      query: the question, up to where the answer begins.
      targets: accepted answers; the first is shown.
      choices: what the answer is one of, in the words in which it would follow the query; empty where it is free.
      words: the row's own, without those of the prompt: the text in which contamination is looked for.
    """

    subtask: str
    row: int
    header: str
    exemplars: tuple[str, ...]
    query: str
    targets: tuple[str, ...]
    choices: tuple[str, ...] = ()
    words: str = ""

    def text(self, shots: int | None = None) -> str:
        """The prompt with its first `shots` exemplars (all of them where None)."""
        parts = [self.header, *self.exemplars[:shots], self.query]
        return _GAP.join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class How:
    """How a suite is asked.

    Attributes:
      shots: exemplars before the question; None for the paper's number.
      cot: whether answers are reasoned.
      trigger: with `cot`, the phrase that the answer begins with; empty for the paper's.
      split: of the questions; empty for the paper's.
      limit: questions of each subtask at most, the first ones; None for all.
      subtasks: only these; empty for all.
      seed: of exemplars that are drawn.
    """

    shots: int | None = None
    cot: bool = False
    trigger: str = ""
    split: str = ""
    limit: int | None = None
    subtasks: tuple[str, ...] = ()
    seed: int = 0

    def phrase(self, exemplars: int) -> str:
        """What an answer with reasons begins with, behind so many exemplars; nothing where none are asked for."""
        return (self.trigger or (TRIGGER if exemplars else ZERO_SHOT_TRIGGER)) if self.cot else ""


class Questions(Protocol):
    """Reads the questions of one subtask."""

    def __call__(self, reader: benchmarks.Reader, subtask: str, how: How) -> Iterator[Question]: ...


@dataclasses.dataclass(frozen=True)
class Suite:
    """One benchmark as a paper evaluates it.

    Attributes:
      name: `mmlu`.
      title: for people.
      subtasks: all that the paper averages over.
      shots: the paper's number of exemplars.
      split: that the paper's tables are made of.
      cot: whether it is asked directly (False), with reasons (True), or both, in this order.
      present: the subtasks that a data directory has.
      questions: reads questions.
      parse: (output, subtask, whether it was asked for reasons) -> the answer in it, or None.
      right: (parsed answer, accepted answers, subtask) -> whether it is right.
      chance: subtask -> score of a guess, in percent, as the normalised average takes it.
      max_tokens: of a direct answer.
      stop: strings that begin another question.
      notes: (reader, how) -> what differs from the paper's protocol with these data, one sentence each.
    """

    name: str
    title: str
    subtasks: tuple[str, ...]
    shots: int
    split: str
    cot: tuple[bool, ...]
    present: Callable[[benchmarks.Reader, How], list[str]]
    questions: Questions
    parse: Callable[[str, str, bool], str | None]
    right: Callable[[str, Sequence[str], str], bool]
    chance: Callable[[str], float]
    max_tokens: int
    stop: tuple[str, ...]
    notes: Callable[[benchmarks.Reader, How], list[str]] = lambda reader, how: []


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A prompt that fits.

    Attributes:
      text: what the model reads.
      tokens: of it, without the end token.
      shots: exemplars in it.
      dropped: exemplars that did not fit.
      cut: tokens that did not fit even without exemplars; they are gone from the front, so that the question stays.
    """

    text: str
    tokens: tuple[int, ...]
    shots: int
    dropped: int
    cut: int = 0


def fit(questions: Sequence[Question], encode: Callable[[list[str]], list[list[int]]], room: int) -> list[Fitted]:
    """Drops the last exemplars of prompts that are too long, one by one, as MMLU's authors do.

    Args:
      questions: some, tokenised together.
      encode: texts -> token ids.
      room: tokens that a prompt may have.
    """
    found: list[Fitted | None] = [None] * len(questions)
    left = {number: len(question.exemplars) for number, question in enumerate(questions)}
    while left:
        texts = [questions[number].text(shots) for number, shots in left.items()]
        again = {}
        for (number, shots), text, ids in zip(left.items(), texts, encode(texts), strict=True):
            if len(ids) > room and shots:
                again[number] = shots - 1
                continue
            dropped = len(questions[number].exemplars) - shots
            cut = max(0, len(ids) - room)
            found[number] = Fitted(text, tuple(ids[cut:]), shots, dropped, cut)
        left = again
    return [fitted for fitted in found if fitted is not None]


def first(rows: int, limit: int | None) -> range:
    """The numbers of the rows that are asked."""
    return range(rows if limit is None else min(rows, limit))


def split_prompt(prompt: str) -> tuple[str, list[tuple[str, str]]]:
    """Takes a published few-shot prompt apart: (what it is about, [(question, answer)]).

    BBH's files begin with a canary and a line of dashes, which are no part of the prompt. A question begins with "Q: " after an
    empty line, its answer with "A: " on a line of its own.

    >>> split_prompt("Sum up.\\n\\nQ: 1 + 1\\nA: It is 2.\\n\\nQ: 1 + 2\\nA: It is 3.")
    ('Sum up.', [('1 + 1', 'It is 2.'), ('1 + 2', 'It is 3.')])
    """
    body = prompt.split("-----\n", 1)[-1].strip()
    header, *rest = ("\n\n" + body).split("\n\nQ: ")
    pairs = [part.partition("\nA: ") for part in rest]
    return header.strip(), [(question.strip(), answer.strip()) for question, _, answer in pairs]
