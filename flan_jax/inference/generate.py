"""Answers to any number of prompts: batches of like length, text, stop strings, tokens as they come.

Few shapes are compiled: prompts are padded to powers of two (`batches.bucket`), and a batch is full, or as large as the next power of
two where fewer prompts are left. Nothing but one window of prompts is held in memory. Shapes: B prompts, n answers, T tokens.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flan_jax import errors, hosts, sharding
from flan_jax.data import features, vocabulary
from flan_jax.inference import batches, decode, sampling, score, settings
from flan_jax.models import api

WINDOW = 32  # batches of prompts that are sorted by length together
LOOK_EVERY = 16  # tokens between two looks for stop strings: at most so many, less one, are generated in vain
_UNFINISHED = "\ufffd"  # what SentencePiece decodes an incomplete UTF-8 character to

Put = Callable[[dict[str, np.ndarray]], Any]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt as the model reads it.

    Attributes:
      tokens: of the inputs, with what ends them.
      seed: of its draws, uint32; where None it follows from the settings' seed and the prompt's number.
      max_tokens: its own limit, where that is below the settings'.
      cut: tokens that did not fit and are not there.
    """

    tokens: Sequence[int]
    seed: int | None = None
    max_tokens: int | None = None
    cut: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out for one prompt, `n` times each; of a beam search best first.

    Attributes:
      texts: up to the end token or the stop string.
      tokens: as generated, the end token included, and what came before a stop string was noticed.
      scores: see `decode.Decoded`; of all of `tokens`.
      finished: whether the model ended it, or a stop string did; if not, the limit.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]
    finished: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The first of the texts."""
        return self.texts[0]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some of an answer, as it comes.

    Attributes:
      text: what is new.
      tokens: generated up to here.
      finished: whether the model or a stop string has ended the answer.
    """

    text: str
    tokens: int
    finished: bool


class Generator:
    """A model with its parameters and vocabulary, to be asked. `inference.load` makes one from a run's directory."""

    def __init__(
        self,
        config: api.Config,
        params: api.Params,
        tokenizer: vocabulary.Tokenizer,
        *,
        inputs_length: int = 512,
        batch_size: int = 8,
        converter: features.Converter = features.ENCODER_DECODER,
        put: Put | None = None,
        mesh: Any = None,
    ) -> None:
        """Args:
        config: the model.
        params: its parameters, on their devices.
        tokenizer: of its vocabulary.
        inputs_length: tokens of a prompt, EOS counted; longer ones are cut at the end.
        batch_size: prompts a step at most.
        converter: lays a prompt out as the model's family was trained to read it.
        put: turns the host arrays of a full batch into device arrays; where None a batch may be smaller, and is split
            over the mesh if it divides.
        mesh: the device mesh; None for one device, or where one is in scope already.
        """
        if inputs_length < 2:
            raise errors.FlanError(f"inputs_length is {inputs_length}; expected at least 2: a token and EOS")
        if batch_size < 1:
            raise errors.FlanError(f"batch_size is {batch_size}; expected at least 1")
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.inputs_length, self.batch_size = inputs_length, batch_size
        self._converter, self._mesh = converter, mesh
        self._put = put
        self._eos = int(tokenizer.vocabulary.eos_id)

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """Tokenises texts, cuts them and appends EOS, as inputs of training are (seqio's `append_eos_after_trim`)."""
        room = self.inputs_length - 1
        return [
            Prompt([*ids[:room], self._eos], cut=max(0, len(ids) - room)) for ids in self.tokenizer.encode(list(texts))
        ]

    def generate(
        self, texts: str | Sequence[str], how: settings.Settings | None = None, **changes: Any
    ) -> list[Answer]:
        """Answers texts, in their order.

        Args:
          texts: one, or several.
          how: the settings; greedy where None.
          changes: settings that differ, such as `temperature=0.7, n=3`.

        Raises:
          FlanError: a setting that cannot be, or more positions than the model has.
        """
        how = (how or settings.Settings()).changed(**changes)
        asked = self.prompts([texts] if isinstance(texts, str) else texts)
        found = dict(self.answers(asked, how))
        return [found[index] for index in range(len(asked))]

    def answers(self, prompts: Iterable[Prompt], how: settings.Settings) -> Iterator[tuple[int, Answer]]:
        """Yields (number of the prompt, answer) batch by batch; within a window those of like length come together.

        Args:
          prompts: read window by window, `WINDOW` batches at a time.
          how: the settings.
        """
        numbered = enumerate(prompts)
        while window := list(itertools.islice(numbered, WINDOW * self.batch_size)):
            window.sort(key=lambda pair: len(pair[1].tokens))
            for start in range(0, len(window), self.batch_size):
                numbers, chosen = zip(*window[start : start + self.batch_size], strict=True)
                yield from zip(numbers, self._batch(numbers, chosen, how), strict=True)

    def stream(self, text: str, how: settings.Settings | None = None, **changes: Any) -> Iterator[str]:
        """Yields the answer to one text in pieces, as soon as the model has decided on them; together they are `generate`'s.

        Args: as `generate`; `n` must be 1, and beams 0.
        """
        how = (how or settings.Settings()).changed(**changes)
        if how.n > 1 or how.beams:
            raise errors.FlanError(
                f"n is {how.n} and beams {how.beams}; an answer can be streamed with n 1 and beams 0 only"
            )
        return (piece.text for piece in self.pieces(self.prompts([text])[0], how) if piece.text)

    def option_scores(self, questions: Sequence[score.Question]) -> list[score.Scored]:
        """Scores given answers, each question read once (see `score.options`), in the order of the questions."""
        found = dict(self.options(questions))
        return [found[number] for number in range(len(questions))]

    def options(self, questions: Sequence[score.Question]) -> Iterator[tuple[int, score.Scored]]:
        """Yields (number of the question, what its options scored) batch by batch; those of like length come together."""
        found = score.options(
            self.config,
            self.params,
            questions,
            inputs_length=self.inputs_length,
            batch_size=self.batch_size,
            put=self._put or self._spread,
            converter=self._converter,
        )
        while True:
            with self._on_mesh():  # not while the caller does something else
                one = next(found, None)
            if one is None:
                return
            yield one

    def pieces(self, prompt: Prompt, how: settings.Settings) -> Iterator[Piece]:
        """Yields the answer to one prompt as `stream` does, and what is known of it; the last piece may have no text.

        Args:
          prompt: what is asked.
          how: the settings; `n` is 1, and beams 0.
        """
        state, kind = self._start((0,), [prompt], how)
        shown, ids = "", []
        for step in range(how.max_tokens):
            with self._on_mesh():
                state = self._advance(state, step + 1, kind)
            token, ended = hosts.fetch((state.token, state.ended))
            ids.append(int(token[0]))
            text, finished = self._text(ids, how.stop)
            over = finished or bool(ended[0])
            # What may still turn out to be another character, or the beginning of a stop string, waits.
            ready = text if over else _settled(text, how.stop)
            new = ready[len(shown) :] if ready.startswith(shown) else ""
            if new or over:
                yield Piece(new, len(ids), finished)
                shown += new
            if over:
                return

    def _batch(self, numbers: Sequence[int], prompts: Sequence[Prompt], how: settings.Settings) -> list[Answer]:
        if how.beams:
            with self._on_mesh():
                found = decode.decode(self.config, self.params, self._inputs(prompts), how, eos_ids=(self._eos,))
            tokens_BxnxT, scores_Bxn = hosts.fetch((found.tokens, found.scores))
        else:
            state, kind = self._start(numbers, prompts, how)
            state = self._finish(state, how, kind)
            tokens_NxT, log_probs_NxT = hosts.fetch((state.tokens, state.log_probs))
            tokens_BxnxT = tokens_NxT.reshape(-1, how.n, how.max_tokens)
            scores_Bxn = log_probs_NxT.sum(axis=1).reshape(-1, how.n)
        limits = [min(prompt.max_tokens or how.max_tokens, how.max_tokens) for prompt in prompts]
        return [
            self._answer(tokens[:, :limit], scores, how)
            for tokens, scores, limit in zip(tokens_BxnxT, scores_Bxn, limits, strict=False)
        ]

    def _start(
        self, numbers: Sequence[int], prompts: Sequence[Prompt], how: settings.Settings
    ) -> tuple[decode.State, sampling.Kind]:
        """Reads the prompts of a batch."""
        rows, size = self._rows(len(prompts)), len(prompts)
        seeds = decode.row_seeds(how.seed, np.resize(np.asarray(numbers), rows))
        own = [(row, prompt.seed) for row, prompt in enumerate(prompts) if prompt.seed is not None]
        for row, seed in own:
            seeds[row] = seed
        # Rows that only fill the batch have ended before they begin.
        limits = np.zeros(rows, np.int32)
        limits[:size] = [min(prompt.max_tokens or how.max_tokens, how.max_tokens) for prompt in prompts]
        asked = decode.controls(how, rows, seeds, limits)
        with self._on_mesh():
            inputs = self._inputs(prompts)
            state = decode.start(self.config, self.params, inputs, asked, max_tokens=how.max_tokens, copies=how.n)
        return state, sampling.kind_of(asked)

    def _advance(self, state: decode.State, until: int, kind: sampling.Kind) -> decode.State:
        return decode.advance(self.config, self.params, state, until, kind=kind, eos_ids=(self._eos,))

    def _finish(self, state: decode.State, how: settings.Settings, kind: sampling.Kind) -> decode.State:
        """Generates until every row has ended; a row in whose text a stop string is found is ended from here."""
        if not how.stop:
            with self._on_mesh():
                return self._advance(state, how.max_tokens, kind)
        at = 0
        while at < how.max_tokens:
            at = min(at + LOOK_EVERY, how.max_tokens)
            with self._on_mesh():
                state = self._advance(state, at, kind)
            ended, tokens = hosts.fetch((state.ended, state.tokens))
            ended = ended.copy()
            for row in np.flatnonzero(~ended):
                ended[row] = self._text(tokens[row, :at].tolist(), how.stop)[1]
            if ended.all():
                break
            state = state._replace(ended=hosts.put(ended, state.ended.sharding))
        return state

    def _answer(self, tokens_nxT: np.ndarray, scores_n: np.ndarray, how: settings.Settings) -> Answer:
        texts = [self._text(ids, how.stop) for ids in tokens_nxT.tolist()]
        return Answer(
            texts=tuple(text for text, _ in texts),
            tokens=tuple(tuple(self._until_end(ids)) for ids in tokens_nxT.tolist()),
            scores=tuple(map(float, scores_n)),
            finished=tuple(finished for _, finished in texts),
        )

    def _text(self, ids: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
        """The text up to the end, and whether there is an end."""
        said = list(itertools.takewhile(lambda i: i not in (0, self._eos), ids))
        text = self.tokenizer.decode(said)
        found = [place for place in (text.find(string) for string in stop) if place >= 0]
        return (text[: min(found)], True) if found else (text, len(said) < len(ids))

    def _until_end(self, ids: Sequence[int]) -> list[int]:
        """The tokens with the end token, without what stands behind it."""
        said = list(itertools.takewhile(lambda i: i not in (0, self._eos), ids))
        return [*said, self._eos] if self._eos in ids[len(said) : len(said) + 1] else said

    def _rows(self, count: int) -> int:
        """The batch that so many prompts are filled up to."""
        rows = 1 if self._put is None else self.batch_size
        while rows < count:
            rows *= 2
        return min(rows, self.batch_size)

    def _inputs(self, prompts: Sequence[Prompt]) -> Any:
        """The features of a batch; the first prompt again in the rows that only fill it."""
        length = batches.bucket(max(len(prompt.tokens) for prompt in prompts), self.inputs_length)
        rows = batches.prompt_rows([prompt.tokens for prompt in prompts], self._eos, length, self._converter)
        rows += [rows[0]] * (self._rows(len(prompts)) - len(prompts))
        return (self._put or self._spread)(features.stack(rows))

    def _spread(self, batch: dict[str, np.ndarray]) -> Any:
        if self._mesh is None:
            return batch
        where = sharding.batch_sharding(self._mesh)
        rows = next(iter(batch.values())).shape[0]
        if rows % (self._mesh.shape["data"] * self._mesh.shape["fsdp"]):
            where = sharding.replicated(self._mesh)
        return hosts.put(batch, where)

    def _on_mesh(self) -> Any:
        return contextlib.nullcontext() if self._mesh is None else sharding.use(self._mesh)


def _settled(text: str, stop: Sequence[str]) -> str:
    """As much of an unfinished text as no further token can change, nor a stop string take away."""
    text = text.rstrip(_UNFINISHED)
    keep = len(text)
    for string in stop:
        for size in range(min(len(string) - 1, len(text)), 0, -1):
            if text.endswith(string[:size]):
                keep = min(keep, len(text) - size)
                break
    return text[:keep]
