"""Every task of a registry by its name."""

import difflib
import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import denoising, seqio_tasks, spec, styles, text_tasks

_MIXED = ("template_0to10_", "template_mix_", "opt_iml_")  # starts of the styles that collections are mixed in
_USUAL = "_10templates"
_LIKELY = 200  # names compared letter by letter with one that does not exist


class TaskTable:
    """Every task of a registry by its name, built when asked for."""

    def __init__(
        self, specs: spec.SpecRegistry, others: Callable[[], Mapping[str, spec.DatasetSpec]] | None = None
    ) -> None:
        """Args:
        specs: the datasets that are known by themselves.
        others: gives, by name, those of collections: thousands, read from files, so not before a name is none of the former's.
        """
        self._specs = specs
        self._others = others or dict
        self._starts: dict[str, tuple[spec.DatasetSpec, str]] = {}
        self._indexed = 0

    def __getitem__(self, name: str) -> seqio_tasks.FlanTask:
        found = self.find(name)
        if found is None:
            raise unknown("task", name, self.names(), [f"{dataset.name}_10templates" for dataset in self._specs])
        return found

    def find(self, name: str) -> seqio_tasks.FlanTask | None:
        """Returns the task of that name, or None where no dataset and style make it up."""
        if self._indexed != len(self._specs):
            self._starts = {start: (d, form) for d in self._specs for start, form in _starts(d)}
            self._indexed = len(self._specs)
        ends = [place for place, character in enumerate(name, start=1) if character == "_"]
        for end in ends:
            dataset, form = self._starts.get(name[:end], (None, ""))
            if dataset is not None and (found := _task(dataset, form + name[end:], name)) is not None:
                return found
        for end in ends:
            dataset = self._others().get(name[: end - 1])
            if dataset is not None and (found := _task(dataset, name[end:], name)) is not None:
                return found
        return None

    def names(self) -> list[str]:
        """Every task's name; of those that have two, the dataset's own first."""
        found = []
        for dataset in self._specs:
            known = seqio_tasks.dataset_styles(dataset)
            found += [f"{dataset.name}_{last}" for last in known]
            for start, form in _starts(dataset)[1:]:
                found += [start + last[len(form) :] for last in known if last.startswith(f"{form}template_")]
        for dataset in self._others().values():
            # Of these, the names under which collections mix them; `find` knows the others, too.
            if not dataset.templates:
                continue
            known = seqio_tasks.dataset_styles(dataset)
            found += [f"{dataset.name}_{last}" for last in known if last.startswith(_MIXED)]
        return found

    def text_names(self) -> list[str]:
        """Every task of plain text (`text_tasks`)."""
        texts = (dataset for dataset in self._others().values() if not dataset.templates)
        return [f"{dataset.name}_{objective}" for dataset in texts for objective in denoising.OBJECTIVES]


def _task(dataset: spec.DatasetSpec, last: str, name: str) -> Any:
    if not dataset.templates:
        return text_tasks.find(dataset, last)
    style = seqio_tasks.dataset_styles(dataset).get(last)
    if style is None:
        return None
    found = (seqio_tasks.MarkedTask if style.marked else seqio_tasks.FlanTask)(dataset, last, style)
    found.name = name
    return found


def _starts(dataset: spec.DatasetSpec) -> list[tuple[str, str]]:
    """How names of a dataset's tasks start, and what that stands for in a style's name.

    The Flan Collection has `cot_gsm8k_...` and, inverted, `cot_input_inversion_gsm8k_...`.
    """
    found = [(f"{dataset.name}_", "")]
    if dataset.prefix:
        forms = ("", styles.INVERSION) if dataset.inverted else ("",)
        found += [(f"{dataset.prefix}_{form}{dataset.name}_", form) for form in forms]
    return found


def unknown(kind: str, given: str, names: Sequence[str], examples: Sequence[str]) -> errors.FlanError:
    """`errors.unknown` out of some 15,000 names, for which difflib takes seconds: those with most in common are compared.

    Args:
      kind: what was looked up.
      given: the name as the user wrote it.
      names: every name that would have been accepted.
      examples: those to list when nothing is close.
    """
    thirds = {given[i : i + 3] for i in range(len(given) - 2)}
    likely = heapq.nlargest(
        _LIKELY, names, key=lambda name: 2 * sum(t in name for t in thirds) - abs(len(name) - len(given))
    )
    close = difflib.get_close_matches(given, likely, n=1, cutoff=0.6)
    if close:
        return errors.unknown(kind, given, likely)
    # `rte` and `rtee` are meant for rte_10templates, which has little in common with either.
    datasets = {example.removesuffix(_USUAL): example for example in examples if example.endswith(_USUAL)}
    if meant := errors.close_to(given, datasets):
        near = [datasets[name] for name in meant]
        return errors.FlanError(f"unknown {kind} {given!r}{errors.did_you_mean(near)}")
    return errors.unknown(kind, given, examples)
