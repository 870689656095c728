"""Mixtures that are chosen from another by what stands behind its name.

    M_heldout_CLUSTER    without what the cluster forbids (`blends.Blends.held_out`)
    M_only_CLUSTER       the tasks of one cluster
    M_clusters_N         those of its first N clusters, in the order in which M names them
    M_per_cluster_N      those of the first N datasets of each cluster
    M_sample_N           those of N datasets, an arbitrary but fixed choice; a smaller one is part of a larger
    M_maximum_N          a task weighs N examples at most (EPS of OPT-IML)
    M_rows_N             N rows of a dataset are used at most
    M_with_P_OTHER       P percent of OTHER, any task or mixture, the rest M

Endings can follow each other: `flan2021_10templates_heldout_nli_clusters_4`. What stands behind `_with_P_` belongs to OTHER. A
name that a mixture or task has by itself means that one.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from flan_jax import errors
from flan_jax.data import blends, holdout, spec, stateless

MixtureSpec = holdout.MixtureSpec
_BLENDED = re.compile(r"(.+?)_with_(\d+)_(.+)")
_NUMBERED = re.compile(r"(.+)_(clusters|per_cluster|sample|maximum|rows)_([1-9]\d*)")
_CLUSTERED = re.compile(r"(.+)_(heldout|only)_(.+)")


def find(catalogue: Any, name: str) -> MixtureSpec | None:
    """Returns the mixture of that name; None where it has no such ending, or nothing is known by what stands before it.

    Args:
      catalogue: a `mixtures.Catalogue`.
      name: of a mixture.

    Raises:
      FlanError: there are fewer clusters or datasets than are asked for, no such cluster, or nothing would be left.
    """
    if match := _BLENDED.fullmatch(name):
        base, percent, other = catalogue.find(match[1]), int(match[2]), catalogue.find(match[3])
        if base is None or other is None:
            return None
        if percent > 100:
            raise errors.FlanError(f"mixture {name!r}: {percent} percent; expected 0 to 100")
        parts = [(part, share) for part, share in ((base, 100 - percent), (other, percent)) if share]
        return dataclasses.replace(holdout.blend(name, parts), cap=base.cap)
    for pattern, choose in ((_NUMBERED, _numbered), (_CLUSTERED, _clustered)):
        # From the right: each ending is one of what stands before it.
        if (match := pattern.fullmatch(name)) and (base := catalogue.find(match[1])) is not None:
            found = dataclasses.replace(choose(catalogue, base, match[2], match[3]), name=name)
            if not found.tasks:
                raise errors.FlanError(f"mixture {name!r} has no task: {base.name!r} has none of that kind")
            return found
    return None


def _clustered(catalogue: Any, base: MixtureSpec, kind: str, cluster: str) -> MixtureSpec:
    if kind == "heldout":
        return catalogue.blends.held_out(base, base.name, cluster)
    datasets = _datasets(catalogue, base)
    known = {dataset.cluster for dataset in datasets.values()}
    if not known & set(holdout.members_of(cluster)):
        raise errors.unknown(f"cluster of {base.name}", cluster, known)
    return _kept(base, datasets, lambda dataset: dataset.cluster in holdout.members_of(cluster))


def _numbered(catalogue: Any, base: MixtureSpec, kind: str, number: str) -> MixtureSpec:
    count = int(number)
    if kind == "maximum":
        return blends.limited(base, count)
    if kind == "rows":
        return dataclasses.replace(base, cap=min(count, base.cap or count))
    datasets = _datasets(catalogue, base)
    by_cluster: dict[str, dict[str, None]] = {}
    for dataset in datasets.values():
        by_cluster.setdefault(dataset.cluster, {})[dataset.name] = None
    if kind == "per_cluster":
        first = {name for names in by_cluster.values() for name in list(names)[:count]}
        return _kept(base, datasets, lambda dataset: dataset.name in first)
    if kind == "clusters":
        chosen = _first(base, "clusters", list(by_cluster), count)
        return _kept(base, datasets, lambda dataset: dataset.cluster in chosen)
    names = {name for of in by_cluster.values() for name in of}
    drawn = sorted(names, key=lambda name: int(stateless.hash64(stateless.name_key(name))))
    sampled = _first(base, "datasets", drawn, count)
    return _kept(base, datasets, lambda dataset: dataset.name in sampled)


def _first(base: MixtureSpec, what: str, names: list[str], count: int) -> frozenset[str]:
    if count > len(names):
        raise errors.FlanError(
            f"mixture {base.name!r} has {len(names)} {what}; expected at most {len(names)}, not {count}"
        )
    return frozenset(names[:count])


def _datasets(catalogue: Any, base: MixtureSpec) -> dict[str, spec.DatasetSpec]:
    """Task -> dataset; in the mixture's order."""
    found = {}
    for name in base.tasks:
        task = catalogue.tasks.find(name)
        if task is None:
            raise errors.FlanError(
                f"{name!r} of mixture {base.name!r} is seqio's own task, of which no cluster is known"
            )
        found[name] = task.dataset
    return found


def _kept(
    base: MixtureSpec, datasets: dict[str, spec.DatasetSpec], allowed: Callable[[spec.DatasetSpec], bool]
) -> MixtureSpec:
    return blends.filtered(base, lambda task: allowed(datasets[task]))
