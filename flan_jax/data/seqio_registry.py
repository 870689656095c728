"""flan_jax's names in seqio's registries, for seqio clients other than flan_jax's own trainer, such as t5x.

There are some 15,000 names, of which a run uses a few: what stands behind a name is built when it is first looked at.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from flan_jax import errors
from flan_jax.data import mixtures, quiet, seqio_source, spec, vocabulary

VOCABULARY = "FLAN_JAX_VOCABULARY"  # environment variable: a SentencePiece file, local or gs://


def register(modules: str) -> tuple[int, int]:
    """Puts every task and mixture of a catalogue into `seqio.TaskRegistry` and `seqio.MixtureRegistry`.

    They are tokenised with the vocabulary that `$FLAN_JAX_VOCABULARY` names, else with the embedded one, and read from
    the directory that `seqio.set_tfds_data_dir_override` was given (t5x does so for `--tfds_data_dir`), else from
    `$TFDS_DATA_DIR`. The vocabulary is the model's, too: t5x refuses one that differs.

    Registering again changes nothing.

    Args:
      modules: what `mixtures.Catalogue.from_modules` takes.

    Returns:
      How many tasks and mixtures the catalogue has.

    Raises:
      FlanError: the vocabulary does not exist, or a name is taken by something else.
    """
    seqio = quiet.seqio()
    catalogue = mixtures.Catalogue.from_modules(modules)
    vocab = vocabulary.sentencepiece_vocabulary(os.environ.get(VOCABULARY) or None)
    lazy_task, lazy_mixture = _classes()

    def task(name: str) -> Any:
        return seqio_source.to_seqio(catalogue.tasks[name], vocab, _data_dir())

    def mixture(name: str) -> Any:
        found = catalogue.mixture(name)
        if name.endswith("_eval"):
            return seqio.Mixture(name, [(single.name, 1.0) for single in catalogue.eval_tasks(name)])
        return _mixture(found, {t: catalogue.tasks[t].dataset for t in found.tasks})

    counts = []
    for registry, names, lazy, build in (
        (seqio.TaskRegistry, catalogue.tasks.names(), lazy_task, task),
        (seqio.MixtureRegistry, catalogue.mixture_names(), lazy_mixture, mixture),
    ):
        known = registry.names()
        for name in names:
            if name not in known:
                registry.add_provider(name, lazy(name, build))
            elif not isinstance(registry.get(name), lazy):
                raise errors.FlanError(f"{name!r} is in seqio's registry already, and not flan_jax's")
        counts.append(len(names))
    return counts[0], counts[1]


def _data_dir() -> str | None:
    """The directory that seqio was told of; it has no public way to ask."""
    override = getattr(quiet.seqio().utils, "_TFDS_DATA_DIR_OVERRIDE", None)
    return override if isinstance(override, str) else None


def _mixture(found: mixtures.MixtureSpec, datasets: Mapping[str, spec.DatasetSpec]) -> Any:
    """A mixture, and those that it is made of, as seqio's."""
    seqio = quiet.seqio()
    if found.parts:
        return seqio.Mixture(found.name, [(_mixture(part, datasets), share) for part, share in found.parts])
    factors, trained = found.factors, [t for t in found.tasks if "train" in datasets[t].splits]
    return seqio.Mixture(
        found.name,
        [
            (
                t,
                functools.partial(
                    _rate, maximum=found.rate_maximum, weight=datasets[t].weight, factor=factors.get(t, 1.0)
                ),
            )
            for t in trained
        ],
    )


def _rate(task: Any, maximum: int | None, weight: int | None, factor: float) -> float:
    return factor * min(weight or task.num_input_examples("train"), maximum or float("inf"))


@functools.cache
def _classes() -> tuple[type, type]:
    """A seqio task and a seqio mixture that know their name, and the rest when it is asked for."""
    seqio = quiet.seqio()

    class Late:
        """Takes over the attributes of what `build(name)` returns when one of them is missed."""

        def __init__(self, name: str, build: Callable[[str], Any]) -> None:
            self._name = name
            self._build = build

        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__") or "_build" not in self.__dict__:
                raise AttributeError(attribute)
            built = self._build(self._name)
            del self._build
            self.__dict__.update(built.__dict__)
            self._built = built
            return getattr(self, attribute)

        def get_dataset(self, *args: Any, **options: Any) -> Any:
            return self._built.get_dataset(*args, **options)

    class Task(Late, seqio.Task):
        pass

    class Mixture(Late, seqio.Mixture):
        pass

    return Task, Mixture
