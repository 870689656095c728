"""What a stream of packed rows is a function of, as plain values: a run, a cache or another process opens the same from it."""

import dataclasses
import functools
from typing import Any

from flan_jax.data import features, loader, mixtures
from flan_jax.data import vocabulary as vocabularies


@dataclasses.dataclass(frozen=True)
class Request:
    """What a stream of rows is made of; hashable and plain, so that it travels to other processes.

    Attributes:
      mixture: a task or mixture.
      module: modules that define tasks, imported by name.
      data_dir: of prepared TFDS datasets.
      vocabulary: of the model; the embedded one where None.
      inputs: tokens of a row's inputs.
      targets: tokens of a row's targets.
      split: `train`, `validation` or `test`.
      seed: of every choice.
      shuffle: whether every epoch of a task has a new order.
      pack: whether rows hold several examples.
      missing: `error` or `skip`: what to do about tasks whose data is not there.
      converter: lays rows out as a family of models reads them.
      threads: of the tokenizer, in each process.
    """

    mixture: str
    module: str | tuple[str, ...] | None = None
    data_dir: str | None = None
    vocabulary: Any = None
    inputs: int = 512
    targets: int = 128
    split: str = "train"
    seed: int = 0
    shuffle: bool = True
    pack: bool = True
    missing: str = "error"
    converter: features.Converter = features.ENCODER_DECODER
    threads: int = 1

    @property
    def lengths(self) -> dict[str, int]:
        return {"inputs": self.inputs, "targets": self.targets}

    @functools.cached_property
    def tokenizer(self) -> vocabularies.Tokenizer:
        chosen = vocabularies.sentencepiece_vocabulary() if self.vocabulary is None else self.vocabulary
        return vocabularies.Tokenizer(chosen, self.threads)

    def open(self) -> mixtures.OpenMixture:
        """Opens the mixture.

        Raises:
          FlanError: as `mixtures.Catalogue.open`.
        """
        return mixtures.Catalogue.from_modules(self.module).open(
            self.mixture,
            data_dir=self.data_dir,
            split=self.split,
            tokenizer=self.tokenizer,
            lengths=self.lengths,
            seed=self.seed,
            missing=self.missing,
            shuffle=self.shuffle,
            row=self.converter.capacity(self.lengths)[-1],
        )

    def lane(self, mixture: mixtures.OpenMixture, shard: int, shards: int) -> loader.Lane:
        """The stream that a shard is cut from."""
        lanes = self.lanes(mixture)
        lanes.start({shard: ()}, shards, {})
        return lanes.open[shard]

    def lanes(self, mixture: mixtures.OpenMixture) -> loader.Lanes:
        """What makes rows of the open mixture in this process."""
        return loader.Lanes(mixture, self.lengths, self.seed, self.pack, self.converter)
