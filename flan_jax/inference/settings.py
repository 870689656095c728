"""How answers are made, as a user says it: one record for gin, the command line and Python."""

import argparse
import dataclasses
from typing import Any

from flan_jax import errors

LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Greedy, sampling or beam search (gin: `decoding.Settings`). The defaults are greedy.

    Attributes:
      max_tokens: at most so many tokens are generated, the end token counted.
      temperature: what logits are divided by before a token is drawn; 0 takes the likeliest token.
      top_k: draw among the so many likeliest tokens only; 0 among all.
      top_p: draw among the fewest tokens that together have this probability (Holtzman et al. 2020); 1 among all. With
        `top_k`, of the probability of those k.
      beams: width of a beam search; 0 for none.
      alpha: exponent of the beam search's length penalty ((5 + length) / 6) ** alpha (Wu et al. 2016), as in T5X.
      n: answers to a prompt: so many samples, or the best so many beams.
      stop: strings before which an answer is cut. They are looked for in the decoded text, on the host, every few
        tokens (`generate.LOOK_EVERY`); a beam search ends at the end token only and is cut afterwards.
      seed: of all draws, 0 to 2^32 - 1.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 0
    alpha: float = 0.6
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        _at_least("max_tokens", self.max_tokens, 1)
        _at_least("temperature", self.temperature, 0)
        _at_least("top_k", self.top_k, 0)
        _at_least("beams", self.beams, 0)
        _at_least("alpha", self.alpha, 0)
        _at_least("n", self.n, 1)
        if not 0 < self.top_p <= 1:
            raise errors.FlanError(f"top_p is {self.top_p}; expected more than 0 and at most 1, which turns it off")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise errors.FlanError(f"seed is {self.seed}; expected 0 to {LARGEST_SEED}")
        if "" in self.stop:
            raise errors.FlanError(
                "stop has an empty string, which every text holds; expected strings of some characters"
            )
        if self.beams and self.temperature:
            raise errors.FlanError(
                f"beams is {self.beams} and temperature {self.temperature}; a beam search does not draw: expected one of them 0"
            )
        if self.beams and self.n > self.beams:
            raise errors.FlanError(
                f"n is {self.n}; a search with {self.beams} beams gives at most {self.beams} answers"
            )
        if self.n > 1 and not self.beams and not self.temperature:
            raise errors.FlanError(
                f"n is {self.n}, but with temperature 0 all samples are the same; expected a temperature above 0, or beams"
            )

    def changed(self, **changes: Any) -> "Settings":
        """These settings with some of them replaced.

        Raises:
          FlanError: a setting of another name, or of a value that cannot be.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise errors.unknown("decode setting", name, names)
        return dataclasses.replace(self, **changes)


# Flag, type, help; the names are those of `Settings`.
_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("max_tokens", int, "tokens of an answer at most"),
    ("temperature", float, "0 takes the likeliest token, 1 draws by the model's probabilities"),
    ("top_k", int, "draw among so many tokens; 0: among all"),
    ("top_p", float, "draw among the likeliest tokens of this probability; 1: among all"),
    ("beams", int, "width of a beam search; 0: none"),
    ("alpha", float, "length penalty of the beam search"),
    ("n", int, "answers to a prompt"),
    ("seed", int, "of all draws"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting; those that are not given keep their defaults (see `from_flags`)."""
    group = parser.add_argument_group("decoding")
    for name, kind, about in _FLAGS:
        default = getattr(Settings, name)
        group.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default {default})")
    group.add_argument("--stop", action="append", default=[], help="a string that ends the answer; may be repeated")


def from_flags(given: argparse.Namespace) -> Settings:
    """The settings that `add_flags` read.

    Raises:
      FlanError: a value that cannot be.
    """
    return Settings(**{name: getattr(given, name) for name, _, _ in _FLAGS}, stop=tuple(given.stop))


def _at_least(name: str, value: float, least: float) -> None:
    # A NaN is refused too.
    if not value >= least:
        raise errors.FlanError(f"{name} is {value}; expected at least {least}")
