"""Exemplars before the query, joined as tokens: `instruct(x1) + y1 + instruct(x2) + y2 + ... + instruct(x)`.

As FLAN 2021 section 4.4 has it, the exemplars of a query are random rows of the train split, worded by the query's own
template (the public code lets each have another; Flan 2022's `mix` styles do that here, too). Which rows is a hash of
(seed, task, row, epoch), so every host and every resumed run finds the same ones; the query's own row is never among
them, nor another row of the same content.

Exemplars are tokenised apart from the query and from each other. A rendered exemplar is tokenised once and kept, within
bounds, and as many are joined as fit: 960 tokens for query and exemplars at an input length of 1024, 64 being left for
delimiters and EOS. What stands around them is the same for all examples of FLAN 2021's styles; in the Flan Collection's each
example draws it (`delimiters`).
"""

import array
import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flan_jax.data import delimiters, spec, stateless, styles, vocabulary

RESERVED = 64  # tokens of the input length that query and exemplars leave for delimiters and EOS
CACHE_TOKENS = 2_500_000  # a task: 10 MB; RTE's 2,290 rows in ten templates are 2.4 million
CACHE_ROWS = 2_048  # examples a task
CACHE_CONTENTS = 30_000  # rows a task that are known by their content
# What all tasks of a mixture keep together, at most: thousands of them would keep 10 GB.
ALL_TOKENS, ALL_ROWS, ALL_CONTENTS = 60_000_000, 60_000, 1_000_000
_LEAST_TOKENS, _LEAST_ROWS = 4_096, 16
_SALT_EXEMPLAR, _SALT_WORDING, _SALT_COUNT, _SALT_DELIMITER = 21, 22, 23, 24
_SPARE = 4  # candidates computed beyond those needed, for rows that the filter drops
_MORE = 64  # candidates computed at a time where those do not do
_TRIES = 64  # candidates looked at an exemplar, at most: a filter may drop nearly all rows
_CHARACTERS_A_TOKEN = 4.5  # a guess of how many exemplars fit, so that no others are tokenised


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
    """An exemplar as tokens, without what stands around it."""

    inputs: "array.array[int]"
    targets: "array.array[int]"
    labelled: bool  # whether the inputs start with a label, so that no delimiter's precedes them

    @property
    def size(self) -> int:
        return len(self.inputs) + len(self.targets)


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
        self._most_tokens, self._most_rows, self._most_contents = CACHE_TOKENS, CACHE_ROWS, CACHE_CONTENTS

    def bound(self, pools: int) -> None:
        """Says how many pools share what all may keep together."""
        self._most_tokens = min(CACHE_TOKENS, max(_LEAST_TOKENS, ALL_TOKENS // pools))
        self._most_rows = min(CACHE_ROWS, max(_LEAST_ROWS, ALL_ROWS // pools))
        self._most_contents = min(CACHE_CONTENTS, max(_LEAST_ROWS, ALL_CONTENTS // pools))

    @property
    def key(self) -> int:
        """The dataset's part of every hash."""
        return self._key

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
            if len(self._contents) >= self._most_contents:
                self._contents.pop(next(iter(self._contents)))
            self._contents[row] = None if example is None else content(example)
        return self._contents[row]

    def _read(self, row: int) -> spec.Example | None:
        """A row's example, kept for a while: most rows are asked for in several templates."""
        if row in self._examples:
            return self._examples[row]
        example = self._example(self._rows[row])
        if example is not None:
            self._examples[row] = example
            if len(self._examples) > self._most_rows:
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
        self._held += piece.size
        while self._held > self._most_tokens:
            _, oldest = self._pieces.popitem(last=False)
            self._held -= oldest.size


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
        delimiter: delimiters.Delimiter = delimiters.FLAN_2021,
    ) -> None:
        self.pool, self.count, self.delimiter = pool, count, delimiter
        self._key, self._template, self._query, self._example = key, template, query, example
        self._candidates = candidates
        self._looked = 0
        self._found: list[Exemplar] = []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shots):
            return NotImplemented
        same = self.exemplars() == other.exemplars() and self.count == other.count
        return same and self.delimiter == other.delimiter

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
        """The first exemplars (all, where None) as text, delimiters included: what stands before the query."""
        chosen = self.exemplars()[:count]
        return "".join(self.delimiter.around(*self.pool.text(exemplar)) for exemplar in chosen)


def draw(
    pools: Sequence[tuple[Pool, bool]],
    rows: np.ndarray,
    seed: int,
    epochs: int | np.ndarray,
    templates: Sequence[int],
    examples: Sequence[spec.Example],
) -> list[Shots]:
    """Chooses the exemplars of N queries, whatever pools they draw from; reads no row yet.

    All are hashed in one call: numpy takes as long for two numbers as for hundreds.

    Args:
      pools: [N], where each query draws from, and whether the query is itself of these rows.
      rows: int64 array [N]: the queries' rows in their split.
      seed: of the run.
      epochs: one, or an array [N].
      templates: [N], the queries' templates.
      examples: [N], the queries.
    """
    if not pools:
        return []
    of = np.asarray([pool.key for pool, _ in pools], np.int64)
    keys = np.broadcast_to(stateless.hash64(seed, _SALT_EXEMPLAR, of, rows, epochs), (len(rows),))
    counts = _counts(keys, [pool.style for pool, _ in pools])
    sizes = np.asarray([pool.size for pool, _ in pools], np.int64)
    # As many candidates of each query as it probably needs, end to end.
    first = np.minimum(sizes, counts + _SPARE)
    ends = np.cumsum(first)
    places = np.arange(ends[-1]) - np.repeat(ends - first, first)
    candidates = stateless.permute(places, np.repeat(sizes, first), np.repeat(keys, first))
    around = stateless.hash64(keys, _SALT_DELIMITER).tolist()
    return [
        Shots(
            pool,
            key,
            count,
            template,
            candidates[end - size : end],
            row if own else None,
            example,
            _delimiter(pool.style, point),
        )
        for (pool, own), key, count, template, end, size, row, example, point in zip(
            pools,
            keys.tolist(),
            counts.tolist(),
            templates,
            ends.tolist(),
            first.tolist(),
            rows.tolist(),
            examples,
            around,
            strict=True,
        )
    ]


def _counts(keys: np.ndarray, of: Sequence[styles.Style]) -> np.ndarray:
    """How many exemplars each query asks for."""
    counts = np.asarray([style.shots for style in of], np.int64)
    matching = [n for n, style in enumerate(of) if style.exemplars == styles.MATCHING]
    if matching:
        # Of `shots` rows that each draw a template, those that draw the query's; none at all are drawn again.
        drawn = np.arange(counts[matching].max())
        points = stateless.uniform(keys[matching][:, None], _SALT_COUNT, drawn[None, :])
        chance = np.asarray([1 / len(of[n].templates) for n in matching])
        hits = (points < chance[:, None]) & (drawn[None, :] < counts[matching][:, None])
        counts[matching] = np.maximum(1, hits.sum(axis=1))
    return counts


def _delimiter(style: styles.Style, point: int) -> delimiters.Delimiter:
    if not style.delimiters:
        return delimiters.FLAN_2021
    return delimiters.draw(style.delimiters, point)


@dataclasses.dataclass
class _Open:
    """A query whose exemplars are being joined."""

    shots: Shots
    around: "_Around"
    room: int  # tokens for further exemplars
    whole: int  # tokens for further exemplars with their delimiters
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
      queries: tokens of each query, its preamble counted.
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
            opened[number] = _Open(drawn, _around(drawn.delimiter, tokenizer), room, whole)
    waiting = list(opened.values())
    while waiting:
        # Those that will surely not fit are neither rendered nor tokenised: the first guess is right for most queries,
        # and few need a third round.
        texts: dict[_Place, tuple[str, str]] = {}
        ahead = [_likely(query, tokenizer, texts) for query in waiting]
        fresh = _encode(texts, tokenizer)
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
            room -= piece.size
            continue
        place = (pool, exemplar.row, exemplar.template)
        if place not in texts:
            texts[place] = pool.text(exemplar)
        found.append(place)
        room -= sum(map(len, texts[place])) / _CHARACTERS_A_TOKEN
    return found


class _Around(NamedTuple):
    """The tokens of a delimiter; `size` is how many there are."""

    input: list[int]
    between: list[int]
    exemplar: list[int]
    size: int


def _around(delimiter: delimiters.Delimiter, tokenizer: vocabulary.Tokenizer) -> _Around:
    texts = (delimiter.input, delimiter.between + delimiter.target, delimiter.exemplar)
    ids = [tokenizer.encode_again(text) for text in texts]
    return _Around(*ids, sum(map(len, ids)))


def _encode(texts: dict[_Place, tuple[str, str]], tokenizer: vocabulary.Tokenizer) -> dict[_Place, _Piece]:
    ids = tokenizer.encode([inputs for inputs, _ in texts.values()] + [targets for _, targets in texts.values()])
    return {
        place: _Piece(array.array("i", inputs), array.array("i", targets), delimiters.labelled(texts[place][0]))
        for place, inputs, targets in zip(texts, ids[: len(texts)], ids[len(texts) :], strict=True)
    }


def _take(query: _Open, pieces: Sequence[_Piece | _Place], fresh: dict[_Place, _Piece]) -> bool:
    """Appends exemplars while they fit; returns whether all did, so that the next may fit, too."""
    around = query.around
    for found in pieces:
        piece = found if isinstance(found, _Piece) else fresh[found]
        size = piece.size + around.size - (len(around.input) if piece.labelled else 0)
        if piece.size > query.room or size > query.whole:
            return False
        ids = query.ids
        if not piece.labelled:
            ids += around.input
        ids += piece.inputs
        ids += around.between
        ids += piece.targets
        ids += around.exemplar
        query.room -= piece.size
        query.whole -= size
        query.kept += 1
    return True


def content(example: spec.Example) -> int:
    """A hash of what an example says; only ever compared with others of the same process."""
    return hash((tuple(example.fields.items()), example.options))
