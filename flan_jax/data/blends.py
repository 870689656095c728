"""Collections and blends of them as mixtures: from the tables of `spec.Collection` and `spec.Blend` to names and shares.

With `_heldout_CLUSTER` behind its name, any mixture gives the same without the tasks that must not be trained on when that cluster
is held out (`flan2022_heldout_nli`): those of the cluster, those held out with it, and those of the same texts as far as
names tell (`provenance`); when it is opened, as far as the files of Natural Instructions tell. `selections` has more of such
endings.

Every collection C gives the mixtures `C_zsopt`, `C_zsnoopt`, `C_fsopt` and `C_fsnoopt`, as far as it has these kinds, and `C`
(also `C_submix`), all of them at equal shares. A blend gives a mixture of its own name.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flan_jax import errors
from flan_jax.data import holdout, provenance, seqio_tasks, spec, stateless, stores, styles

MixtureSpec = holdout.MixtureSpec


class Blends:
    """The collections and blends of a catalogue."""

    def __init__(
        self,
        collections: Iterable[spec.Collection],
        blends: Iterable[spec.Blend],
        specs: spec.SpecRegistry,
        derived: Mapping[str, holdout.Recipe | holdout.Blend],
    ) -> None:
        """Args:
        collections: by which blends are made; a later one of a name replaces an earlier.
        blends: the same.
        specs: the datasets that are known by themselves.
        derived: mixtures that follow from these; a part may name one as `COLLECTION_KIND`.
        """
        self.collections = {collection.name: collection for collection in collections}
        self._blends = {blend.name: blend for blend in blends}
        self._specs, self._derived = specs, derived
        self._members: dict[str, tuple[spec.DatasetSpec, ...]] = {}
        self._found: dict[str, MixtureSpec] = {}

    @functools.cached_property
    def own(self) -> dict[str, spec.DatasetSpec]:
        """The datasets that collections define by themselves, by name."""
        return {dataset.name: dataset for c in self.collections.values() for dataset in c.datasets()}

    def names(self) -> list[str]:
        """Every mixture's name; none is made for it."""
        there = (c for c in self.collections.values() if c.styles and self.members(c.name))
        return [*self._blends, *(name for collection in there for name in _names(collection))]

    def members(self, collection: str) -> tuple[spec.DatasetSpec, ...]:
        """The datasets of a collection, in its order, without those that nobody can get.

        Raises:
          FlanError: there is no such collection, or one of its members is not defined.
        """
        if collection not in self._members:
            if collection not in self.collections:
                raise errors.unknown("collection", collection, self.collections)
            self._members[collection] = tuple(self._listed(self.collections[collection]))
        return self._members[collection]

    def _listed(self, collection: spec.Collection) -> Iterator[spec.DatasetSpec]:
        if collection.members is None:
            alike = [dataset for dataset in self._specs if dataset.collection == collection.name]
            yield from collection.datasets() or alike
            return
        left_out = collection.left_out()
        for name in collection.members():
            if name in self._specs:
                yield self._specs[name]
            elif name in self.own:
                yield self.own[name]
            elif name not in left_out:
                known = [*(dataset.name for dataset in self._specs), *self.own]
                raise errors.FlanError(f"collection {collection.name!r}: {errors.unknown('dataset', name, known)}")

    def find(self, name: str) -> MixtureSpec | None:
        """Returns the mixture of that name, or None."""
        if name not in self._found:
            made = self._make(name)
            if made is None:
                return None
            self._found[name] = made
        return self._found[name]

    def _make(self, name: str) -> MixtureSpec | None:
        if name in self._blends:
            return self._blend(self._blends[name])
        for collection in self.collections.values():
            kind = name.removeprefix(f"{collection.name}_")
            if kind != name and kind in collection.styles and self.members(collection.name):
                return self._kind(spec.Part(collection.name, 1.0), kind)
        whole = self.collections.get(name.removesuffix("_submix"))
        if whole is None or not whole.styles or not self.members(whole.name):
            return None
        part = spec.Part(whole.name, 1.0, kinds=dict.fromkeys(whole.styles, 1.0))
        return self._blend(spec.Blend(name, (part,)))

    def held_out(self, mixture: MixtureSpec, name: str, cluster: str) -> MixtureSpec:
        """The mixture without the tasks that the cluster forbids.

        Raises:
          FlanError: there is no such cluster.
        """
        clusters = {dataset.cluster for dataset in self._specs} | {"misc"}
        if cluster not in clusters:
            raise errors.unknown("cluster", cluster, clusters)
        kept = filtered(mixture, self._allowed(cluster))
        return dataclasses.replace(kept, name=name, held_out=(*mixture.held_out, cluster))

    def as_files_say(self, mixture: MixtureSpec, data_dir: str) -> MixtureSpec:
        """The same without the tasks whose files say that a cluster held out of it forbids them.

        Args:
          mixture: any; parts of it may hold out clusters of their own.
          data_dir: where a checkout of Natural Instructions may lie.
        """
        if not _holds_out(mixture):
            return mixture
        parts = tuple((self.as_files_say(part, data_dir), share) for part, share in mixture.parts)
        tasks = dict.fromkeys(task for part, _ in parts for task in part.tasks) if parts else mixture.tasks
        found = dataclasses.replace(mixture, tasks=tuple(tasks), parts=parts)
        if mixture.held_out:
            datasets = self._datasets
            stores.prepare((_dataset(task, datasets) for task in found.tasks), data_dir)
        for cluster in mixture.held_out:
            found = filtered(found, self._allowed(cluster, data_dir))
        return found

    @property
    def _datasets(self) -> dict[str, spec.DatasetSpec]:
        return {dataset.name: dataset for dataset in self._specs} | self.own

    def _allowed(self, cluster: str, data_dir: str | None = None) -> Callable[[str], bool]:
        """Whether a task may be trained on when the cluster is held out."""
        names = provenance.forbidden(cluster)
        held = provenance.held_out(dataset for dataset in self._specs if dataset.cluster in names)
        datasets = self._datasets
        kept: dict[str, bool] = {}

        def allowed(task: str) -> bool:
            dataset = _dataset(task, datasets)
            if dataset.name not in kept:
                kept[dataset.name] = provenance.reason(dataset, held, cluster, data_dir) is None
            return kept[dataset.name]

        return allowed

    def _blend(self, blend: spec.Blend) -> MixtureSpec:
        total = sum(part.share for part in blend.parts)
        parts: list[tuple[MixtureSpec, float]] = []
        left_out = []
        for part in blend.parts:
            made = self._part(part)
            if made is not None:
                parts.append((made, part.share / total))
            elif part.share:
                collection = self.collections.get(part.collection)
                reason = (collection and collection.about) or "no dataset of it is defined"
                left_out.append(f"{part.collection}, {100 * part.share / total:.3g}% of {blend.name}: {reason}")
        made = holdout.blend(blend.name, parts)
        return dataclasses.replace(made, cap=blend.cap, left_out=tuple(left_out))

    def _part(self, part: spec.Part) -> MixtureSpec | None:
        """What a blend takes of a collection; None where the collection has nothing."""
        if part.style:
            found = [(self._styled(part, (part.style,)), 1.0)]
        else:
            found = [(self._kind(part, kind), share) for kind, share in part.kinds.items() if share]
        made = [(kind, share) for kind, share in found if kind.tasks]
        if not made or not part.share:
            return None
        return dataclasses.replace(holdout.blend(part.collection, made), cap=part.cap)

    def _kind(self, part: spec.Part, kind: str) -> MixtureSpec:
        name = f"{part.collection}_{kind}"
        collection = self.collections.get(part.collection)
        if collection is not None:
            return self._styled(part, collection.styles.get(kind, ()), name)
        if name not in self._derived:
            known = [*self.collections, *(n.removesuffix(f"_{kind}") for n in self._derived if n.endswith(f"_{kind}"))]
            raise errors.unknown("collection", part.collection, known)
        return _without(limited(self._derived[name].mixture(name), part.maximum), part.without)

    def _styled(self, part: spec.Part, in_styles: Sequence[str], name: str = "") -> MixtureSpec:
        """Every dataset of a collection in each of these styles, and its inverted form where it has one."""
        collection = self.collections.get(part.collection)
        if collection is not None:
            datasets, maximum, inverted = self.members(part.collection), collection.maximum, collection.inverted
        else:
            datasets = tuple(dataset for dataset in self._specs if dataset.collection == part.collection)
            maximum, inverted = None, 0.0
        datasets = _some(datasets, part.datasets)
        tasks: list[str] = []
        factors: dict[str, float] = {}
        for dataset in datasets:
            own = [f"{dataset.name}_{_style(dataset, style)}" for style in in_styles]
            turned = _inverted(dataset, in_styles) if inverted and dataset.inverted and not part.style else []
            tasks += own + turned
            # Rows that are asked in two ways, forward, are so inverted, too; what counts is 0.3 of the forward ones.
            factors |= dict.fromkeys(turned, inverted * len(own) / len(turned) if turned else 1.0)
        made = MixtureSpec(name or part.collection, tuple(tasks), part.maximum or maximum, factors=factors)
        return _without(made, part.without)


def _holds_out(mixture: MixtureSpec) -> bool:
    return bool(mixture.held_out) or any(_holds_out(part) for part, _ in mixture.parts)


def _names(collection: spec.Collection) -> list[str]:
    return [collection.name, f"{collection.name}_submix", *(f"{collection.name}_{kind}" for kind in collection.styles)]


def _style(dataset: spec.DatasetSpec, style: str) -> str:
    plain = holdout.WITHOUT_OPTIONS.get(style)  # only these need to know what templates show, so others read no file
    return style if plain is None or seqio_tasks.scores(dataset) else plain


def _inverted(dataset: spec.DatasetSpec, in_styles: Sequence[str]) -> list[str]:
    """The tasks of a dataset's inverted form in such styles: there are no options to show or not to show."""
    plain = (style.replace("_non_deter_opt", "").replace("_no_opt", "") for style in in_styles)
    return [f"{dataset.name}_{styles.INVERSION}{style}" for style in dict.fromkeys(plain)]


def _some(datasets: Sequence[spec.DatasetSpec], count: int | None) -> tuple[spec.DatasetSpec, ...]:
    """So many of the datasets, in their order: which, follows from their names alone."""
    if count is None or count >= len(datasets):
        return tuple(datasets)
    drawn = sorted(datasets, key=lambda dataset: int(stateless.hash64(stateless.name_key(dataset.name))))[:count]
    taken = {dataset.name for dataset in drawn}
    return tuple(dataset for dataset in datasets if dataset.name in taken)


def limited(mixture: MixtureSpec, maximum: int | None) -> MixtureSpec:
    """The same with another rate maximum throughout."""
    if maximum is None:
        return mixture
    parts = tuple((limited(part, maximum), share) for part, share in mixture.parts)
    return dataclasses.replace(mixture, rate_maximum=maximum, parts=parts)


def _without(mixture: MixtureSpec, patterns: Sequence[str]) -> MixtureSpec:
    """The same without the tasks whose names match one of the patterns."""
    if not patterns:
        return mixture
    return filtered(mixture, lambda task: not any(fnmatch.fnmatchcase(task, pattern) for pattern in patterns))


def filtered(mixture: MixtureSpec, allowed: Callable[[str], bool]) -> MixtureSpec:
    """The same without some of its tasks."""
    parts = tuple((filtered(part, allowed), share) for part, share in mixture.parts)
    return dataclasses.replace(mixture, tasks=tuple(filter(allowed, mixture.tasks)), parts=parts)


def _dataset(task: str, datasets: Mapping[str, spec.DatasetSpec]) -> spec.DatasetSpec:
    """The dataset of a task of a collection: the longest one whose name the task's starts with."""
    end = len(task)
    while (end := task.rfind("_", 0, end)) > 0:
        if task[:end] in datasets:
            return datasets[task[:end]]
    raise errors.FlanError(f"task {task!r} is of no dataset")
