"""What a seed draws: the facts that only pre-training tells, and the invented language's dictionary."""

import dataclasses
import random
from collections.abc import Mapping

from flan_jax.data.small_world import lexicon


def generator(seed: int, name: str, number: int = 0) -> random.Random:
    """The generator of a dataset's records, or of one document: a function of the world's seed and of what it is for."""
    return random.Random(f"{seed} {name} {number}")  # hashed by SHA-512, not by Python's own hash


@dataclasses.dataclass(frozen=True)
class World:
    """The facts of a seed.

    Attributes:
      seed: what they are drawn from.
      home: the town of every person.
      job: what every person works as.
      pet: the kind of animal that every person keeps.
      place: where every person stands, from 0 to 1, in an order that decides who is asked about in which split.
      words: the invented language's word for each of `lexicon.TRANSLATED`.
    """

    seed: int
    home: Mapping[str, str]
    job: Mapping[str, str]
    pet: Mapping[str, str]
    place: Mapping[str, float]
    words: Mapping[str, str]

    def phrase(self, colour: str, noun: str) -> str:
        """The invented language puts the colour last: `bako rimu` for "red dog"."""
        return f"{self.words[noun]} {self.words[colour]}"

    def sentence(self, subject: tuple[str, str], verb: str, thing: str) -> str:
        """Its verb ends the sentence, and it has no articles."""
        return f"{self.phrase(*subject)} {self.words[thing]} {self.words[verb]}."


def make(seed: int) -> World:
    """Draws the world of a seed."""
    rng = generator(seed, "world")

    def shared_out(values: tuple[str, ...]) -> dict[str, str]:
        # Every value as often as any other, so that none is right more often than chance.
        dealt = [values[number % len(values)] for number in range(len(lexicon.PEOPLE))]
        rng.shuffle(dealt)
        return dict(zip(lexicon.PEOPLE, dealt, strict=True))

    home, job = shared_out(lexicon.TOWNS), shared_out(lexicon.JOBS)
    pet = shared_out(tuple(lexicon.ANIMALS))
    order = rng.sample(lexicon.PEOPLE, len(lexicon.PEOPLE))
    place = {who: number / len(order) for number, who in enumerate(order)}
    every = [first + second for first in lexicon.SYLLABLES for second in lexicon.SYLLABLES if first != second]
    words = dict(zip(lexicon.TRANSLATED, rng.sample(every, len(lexicon.TRANSLATED)), strict=True))
    return World(seed, home, job, pet, place, words)
