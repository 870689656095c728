"""Answers by likelihood: of each prompt's choices the likeliest, in the form in which generated answers come.

A `Chooser` may stand wherever `predictions.write` asks a `generate.Generator`, so that scored files stream and resume as generated
ones do.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from flan_jax import errors
from flan_jax.inference import generate, score, settings


@dataclasses.dataclass(frozen=True)
class ChoicePrompt(generate.Prompt):
    """A prompt with the answers that it allows.

    Attributes:
      choices: their texts, at least one.
    """

    choices: tuple[str, ...] = ()


class Chooser:
    """A model that ranks given answers (FLAN 2021 section 2.3): summed log-likelihood, the end token included."""

    def __init__(
        self,
        generator: generate.Generator,
        *,
        normalize_by_target_length: bool = False,
        targets_length: int | None = None,
    ) -> None:
        """Args:
        generator: the model.
        normalize_by_target_length: rank by the mean log-likelihood of an answer's tokens, not by the sum.
        targets_length: tokens of an answer, the end token counted; longer ones are cut. None for no limit.
        """
        self._generator, self._normalized = generator, normalize_by_target_length
        self.inputs_length, self.batch_size = generator.inputs_length, generator.batch_size
        self._room = None if targets_length is None else targets_length - 1
        self._eos = int(generator.tokenizer.vocabulary.eos_id)

    def prompts(self, texts: Sequence[str]) -> list[generate.Prompt]:
        """Prompts without choices cannot be ranked."""
        if texts:
            raise errors.FlanError(f"the prompt {texts[0][:60]!r} has no choices; expected some to rank")
        return []

    def answers(
        self, prompts: Iterable[generate.Prompt], how: settings.Settings
    ) -> Iterator[tuple[int, generate.Answer]]:
        """Yields (number of the prompt, its choices from the likeliest on with their scores), batch by batch.

        Choices that score the same come in the order in which they were given.

        Args:
          prompts: each a `ChoicePrompt`; read a window at a time.
          how: not needed; nothing is drawn.
        """
        numbered = enumerate(prompts)
        while window := list(itertools.islice(numbered, generate.WINDOW * self.batch_size)):
            choices = [_choices(prompt) for _, prompt in window]
            encoded = iter(self._generator.tokenizer.encode(list(itertools.chain(*choices))))
            questions = [
                score.Question(prompt.tokens, [[*next(encoded)[: self._room], self._eos] for _ in mine])
                for (_, prompt), mine in zip(window, choices, strict=True)
            ]
            for place, scored in self._generator.options(questions):
                found, mine, tokens = scored.values(self._normalized), choices[place], questions[place].options
                order = sorted(range(len(mine)), key=lambda choice: -found[choice])
                yield (
                    window[place][0],
                    generate.Answer(
                        texts=tuple(mine[choice] for choice in order),
                        tokens=tuple(tuple(tokens[choice]) for choice in order),
                        scores=tuple(found[choice] for choice in order),
                        finished=(True,) * len(order),
                    ),
                )


def _choices(prompt: generate.Prompt) -> tuple[str, ...]:
    choices = prompt.choices if isinstance(prompt, ChoicePrompt) else ()
    if not choices:
        raise errors.FlanError("a prompt has no choices; expected some to rank")
    return choices
