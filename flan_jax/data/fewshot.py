"""Exemplars before the query, joined as tokens: `instruct(x1) + y1 + instruct(x2) + y2 + ... + instruct(x)`.

As FLAN 2021 section 4.4 has it, the exemplars of a query are random rows of the train split, worded by the query's own
template (the public code lets each have another; Flan 2022's `mix` styles do that here, too). Which rows is a hash of
(seed, task, row, epoch), so every host and every resumed run finds the same ones; the query's own row is never among
them, nor another row of the same content.

Exemplars are tokenised apart from the query and from each other. A rendered exemplar is tokenised once and kept, within
bounds, and as many are joined as fit: 960 tokens for query and exemplars at an input length of 1024, 64 being left for
separators and EOS.
"""

import array
import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flan_jax.data import spec, stateless, styles, vocabulary

RESERVED = 64  # tokens of the input length that query and exemplars leave for separators and EOS
CACHE_TOKENS = 2_500_000  # a task: 10 MB; RTE's 2,290 rows in ten templates are 2.4 million
CACHE_ROWS = 2_048  # examples a task
_SALT_EXEMPLAR, _SALT_WORDING, _SALT_COUNT = 21, 22, 23
_SPARE = 4  # candidates computed beyond those needed, for rows that the filter drops
_MORE = 64  # candidates computed at a time where those do not do
_TRIES = 64  # candidates looked at an exemplar, at most: a filter may drop nearly all rows
_CHARACTERS_A_TOKEN = 4.5  # a guess of how many exemplars fit, so that no others are tokenised


@dataclasses.dataclass(frozen=True)
class Separators:
    """What stands between an exemplar's inputs and its targets, and after the targets.

    FLAN 2021 uses role markers of its own vocabulary, which others lack. White space alone would not do: T5's
    vocabulary has no newline.
    """

    target: str = "\n=\n"
    exemplar: str = "\n###\n"


SEPARATORS = Separators()


@dataclasses.dataclass(frozen=True)
class Exemplar:
    """A row of the train split, worded.

    Attributes:
      row: its index there.
      template: index of its template.
    """

    row: int
    template: int


class _Piece(NamedTuple):
    """An exemplar as tokens, separators included; `own` is how many there are without them."""

    tokens: "array.array[int]"
    own: int


class Pool:
    """The rows that a task's exemplars are drawn from, and the tokens of those drawn lately."""

    def __init__(
        self,
        rows: Sequence[spec.Row],
        size: int,
        key: int,
        style: styles.Style,
        example: Callable[[spec.Row], spec.Example | None],
        render: Callable[[spec.Example, int], tuple[str, str]],
    ) -> None:
        """Args:
        rows: of the train split.
        size: how many of them are used.
        key: the dataset's part of every hash.
        style: how many exemplars, and how they are worded.
        example: the dataset's own function; drops a row by returning None.
        render: (example, template) -> (inputs, targets).
        """
        self.size, self.style = size, style
        self._rows, self._key, self._example, self._render = rows, key, example, render
        self._contents: dict[int, int | None] = {}  # row -> content; None for rows that the filter drops
        self._examples: collections.OrderedDict[int, spec.Example] = collections.OrderedDict()
        self._pieces: collections.OrderedDict[tuple[int, int], _Piece] = collections.OrderedDict()
        self._held = 0
        self._tokenizer: vocabulary.Tokenizer | None = None

    def draw(
        self,
        rows: np.ndarray,
        seed: int,
        epochs: int | np.ndarray,
        templates: Sequence[int],
        examples: Sequence[spec.Example],
        own: bool,
    ) -> list["Shots"]:
        """Chooses the exemplars of N queries; reads no row yet.

        Args:
          rows: int64 array [N]: the queries' rows in their split.
          seed: of the run.
          epochs: one, or an array [N].
          templates: [N], the queries' templates.
          examples: [N], the queries.
          own: whether the queries are of the train split, too.
        """
        keys = stateless.hash64(seed, _SALT_EXEMPLAR, self._key, rows, epochs)
        keys = np.broadcast_to(keys, (len(rows),))
        counts = self._counts(keys, templates)
        first = min(self.size, int(counts.max(initial=0)) + _SPARE)
        candidates = self.candidates(keys, 0, first)
        return [
            Shots(self, int(keys[n]), int(counts[n]), template, candidates[n], int(rows[n]) if own else None, example)
            for n, (template, example) in enumerate(zip(templates, examples, strict=True))
        ]

    def _counts(self, keys: np.ndarray, templates: Sequence[int]) -> np.ndarray:
        if self.style.exemplars != styles.MATCHING:
            return np.full(len(templates), self.style.shots)
        # Of `shots` rows that each draw a template, those that draw the query's; none at all are drawn again.
        points = stateless.uniform(keys[:, None], _SALT_COUNT, np.arange(self.style.shots)[None, :])
        return np.maximum(1, (points < 1 / len(self.style.templates)).sum(axis=1))

    def candidates(self, keys: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of each key's own order of the pool: int64 array [N, stop - start]."""
        places = np.broadcast_to(np.arange(start, stop)[None, :], (len(keys), stop - start))
        mixed = np.broadcast_to(keys[:, None], places.shape)
        return stateless.permute(places.ravel(), self.size, mixed.ravel()).reshape(places.shape)

    def template(self, key: int, number: int, template: int) -> int:
        """The template of a query's exemplar, given the query's."""
        if self.style.exemplars != styles.OWN:
            return template
        choices = self.style.templates
        return choices[int(stateless.below(len(choices), key, _SALT_WORDING, number))]

    def content(self, row: int) -> int | None:
        """A hash of what a row says, or None where the filter drops it."""
        if row not in self._contents:
            example = self._read(row)
            self._contents[row] = None if example is None else content(example)
        return self._contents[row]

    def _read(self, row: int) -> spec.Example | None:
        """A row's example, kept for a while: most rows are asked for in several templates."""
        if row in self._examples:
            return self._examples[row]
        example = self._example(self._rows[row])
        if example is not None:
            self._examples[row] = example
            if len(self._examples) > CACHE_ROWS:
                self._examples.popitem(last=False)
        return example

    def text(self, exemplar: Exemplar) -> tuple[str, str]:
        """Renders an exemplar: (inputs, targets)."""
        example = self._read(exemplar.row)
        assert example is not None  # it passed the filter when it was drawn
        return self._render(example, exemplar.template)

    def cached(self, exemplar: Exemplar, tokenizer: vocabulary.Tokenizer) -> _Piece | None:
        """The exemplar's tokens, or None if they are not kept."""
        if tokenizer is not self._tokenizer:
            self._pieces, self._held, self._tokenizer = collections.OrderedDict(), 0, tokenizer
        return self._pieces.get((exemplar.row, exemplar.template))

    def keep(self, row: int, template: int, piece: _Piece) -> None:
        """Keeps the tokens of an exemplar, at the cost of the oldest."""
        if (row, template) in self._pieces:
            return
        self._pieces[row, template] = piece
        self._held += len(piece.tokens)
        while self._held > CACHE_TOKENS:
            _, oldest = self._pieces.popitem(last=False)
            self._held -= len(oldest.tokens)


_Place = tuple[Pool, int, int]  # pool, row, template


class Shots:
    """The exemplars of one query, found one after the other as they are asked for."""

    def __init__(
        self,
        pool: Pool,
        key: int,
        count: int,
        template: int,
        candidates: np.ndarray,
        query: int | None,
        example: spec.Example,
    ) -> None:
        self.pool, self.count = pool, count
        self._key, self._template, self._query, self._example = key, template, query, example
        self._candidates = candidates
        self._looked = 0
        self._found: list[Exemplar] = []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shots):
            return NotImplemented
        return self.exemplars() == other.exemplars() and self.count == other.count

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __len__(self) -> int:
        return len(self.exemplars())

    def exemplars(self) -> list[Exemplar]:
        """All of them: `count`, or fewer where the pool has no more."""
        self.get(self.count - 1)
        return list(self._found)

    def get(self, number: int) -> Exemplar | None:
        """Exemplar `number`, or None where there is none."""
        while len(self._found) <= number < self.count:
            row = self._next()
            if row is None:
                self.count = len(self._found)
                return None
            found = self.pool.content(row)
            if row != self._query and found is not None and found != self._content:
                template = self.pool.template(self._key, len(self._found), self._template)
                self._found.append(Exemplar(row, template))
        return self._found[number] if 0 <= number < self.count else None

    @functools.cached_property
    def _content(self) -> int:
        return content(self._example)

    def _next(self) -> int | None:
        if self._looked >= min(self.pool.size, _TRIES * (self.count + 1)):
            return None
        if self._looked == len(self._candidates):
            stop = min(self.pool.size, self._looked + _MORE)
            key = np.asarray([self._key], np.uint64)
            more = self.pool.candidates(key, self._looked, stop)[0]
            self._candidates = np.concatenate([self._candidates, more])
        row = int(self._candidates[self._looked])
        self._looked += 1
        return row

    def text(self, count: int | None = None) -> str:
        """The first exemplars (all, where None) and their separators as text: what stands before the query."""
        chosen = self.exemplars()[:count]
        pairs = (self.pool.text(exemplar) for exemplar in chosen)
        return "".join(f"{x}{SEPARATORS.target}{y}{SEPARATORS.exemplar}" for x, y in pairs)


@dataclasses.dataclass
class _Open:
    """A query whose exemplars are being joined."""

    shots: Shots
    room: int  # tokens for further exemplars
    whole: int  # tokens for further exemplars with their separators
    ids: list[int] = dataclasses.field(default_factory=list)
    kept: int = 0


def join(
    shots: Sequence[Shots | None], queries: Sequence[int], tokenizer: vocabulary.Tokenizer, length: int | None
) -> list[tuple[list[int], int]]:
    """Returns the tokens that stand before each query, and how many exemplars they hold.

    The longest run of exemplars, from the first, whose tokens and the query's are at most
    `min(budget, length - RESERVED)` together; and which leaves room for the query and EOS.

    Args:
      shots: the exemplars of each query; None for none.
      queries: tokens of each query.
      tokenizer: of the model's vocabulary.
      length: of the inputs, EOS counted; None for no limit but the budget.
    """
    found: list[tuple[list[int], int]] = [([], 0)] * len(shots)
    opened: dict[int, _Open] = {}
    for number, (drawn, query) in enumerate(zip(shots, queries, strict=True)):
        if drawn is not None:
            budget = drawn.pool.style.budget
            room = (budget if length is None else min(budget, length - RESERVED)) - query
            whole = (budget + RESERVED if length is None else length) - 1 - query
            opened[number] = _Open(drawn, room, whole)
    waiting = list(opened.values())
    separators = tokenizer.encode([SEPARATORS.target, SEPARATORS.exemplar]) if waiting else []
    while waiting:
        # Those that will surely not fit are neither rendered nor tokenised: the first guess is right for most queries,
        # and few need a third round.
        texts: dict[_Place, tuple[str, str]] = {}
        ahead = [_likely(query, tokenizer, texts) for query in waiting]
        fresh = _encode(texts, tokenizer, separators)
        waiting = [
            query for query, pieces in zip(waiting, ahead, strict=True) if pieces and _take(query, pieces, fresh)
        ]
        for (pool, row, template), piece in fresh.items():
            pool.keep(row, template, piece)
    for number, query in opened.items():
        found[number] = (query.ids, query.kept)
    return found


def _likely(
    query: _Open, tokenizer: vocabulary.Tokenizer, texts: dict[_Place, tuple[str, str]]
) -> list[_Piece | _Place]:
    """The next exemplars that are likely to fit (one at least, where there is room for any).

    Each is its tokens, or where it will have them; the texts of those that have to be tokenised are added to `texts`.
    """
    found: list[_Piece | _Place] = []
    pool, room = query.shots.pool, float(query.room)
    while room > 0 and (exemplar := query.shots.get(query.kept + len(found))) is not None:
        piece = pool.cached(exemplar, tokenizer)
        if piece is not None:
            found.append(piece)
            room -= piece.own
            continue
        place = (pool, exemplar.row, exemplar.template)
        if place not in texts:
            texts[place] = pool.text(exemplar)
        found.append(place)
        room -= sum(map(len, texts[place])) / _CHARACTERS_A_TOKEN
    return found


def _encode(
    texts: dict[_Place, tuple[str, str]], tokenizer: vocabulary.Tokenizer, separators: Sequence[list[int]]
) -> dict[_Place, _Piece]:
    ids = tokenizer.encode([inputs for inputs, _ in texts.values()] + [targets for _, targets in texts.values()])
    return {
        place: _Piece(array.array("i", [*inputs, *separators[0], *targets, *separators[1]]), len(inputs) + len(targets))
        for place, inputs, targets in zip(texts, ids[: len(texts)], ids[len(texts) :], strict=True)
    }


def _take(query: _Open, pieces: Sequence[_Piece | _Place], fresh: dict[_Place, _Piece]) -> bool:
    """Appends exemplars while they fit; returns whether all did, so that the next may fit, too."""
    for found in pieces:
        piece = found if isinstance(found, _Piece) else fresh[found]
        if piece.own > query.room or len(piece.tokens) > query.whole:
            return False
        query.ids.extend(piece.tokens)
        query.room -= piece.own
        query.whole -= len(piece.tokens)
        query.kept += 1
    return True


def content(example: spec.Example) -> int:
    """A hash of what an example says; only ever compared with others of the same process."""
    return hash((tuple(example.fields.items()), example.options))
