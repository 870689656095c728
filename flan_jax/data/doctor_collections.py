"""What `flan data doctor` says of collections: thousands of datasets, so counts, and by name only what nobody can get."""

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence

from flan_jax.data import mixtures, natural_instructions, sources, spec, stores

_NAMED = 5  # datasets that are not there that are named in the text; JSON has all


@dataclasses.dataclass(frozen=True)
class CollectionFinding:
    """What is known about one collection.

    Attributes:
      collection: its name.
      published: tasks as its paper counts them.
      defined: its datasets here.
      there: how many of them have data.
      absent: those that have none.
      problems: what is wrong with data that is there, a line each.
      left_out: name -> why it is not there, for those that nobody can get.
      about: where its data comes from.
      fix: the shell command that gets or prepares it; empty where nothing needs to be done, or its datasets are examined by
        themselves.
      counts: whether the doctor was asked about it, so that its exit code depends on it.
    """

    collection: str
    published: int
    defined: int
    there: int
    absent: tuple[str, ...]
    problems: tuple[str, ...]
    left_out: Mapping[str, str]
    about: str
    fix: str = ""
    counts: bool = False

    @property
    def ready(self) -> bool:
        return not self.absent and not self.problems


def examine(catalogue: mixtures.Catalogue, data_dir: str, name: str | None = None) -> list[CollectionFinding]:
    """Looks at the collections of a mixture, or at all of the catalogue.

    Files of Natural Instructions are passed over where they have not been before (half a minute for all of them).
    """
    taken = None if name is None else set(catalogue.mixture(name).tasks)
    found = []
    for collection in catalogue.blends.collections.values():
        members = catalogue.blends.members(collection.name)
        if taken is not None:
            parts = {part.name for part, _ in catalogue.mixture(name or "").parts}
            if collection.name not in parts and collection.name != (name or "").rpartition("_")[0]:
                continue
        found.append(dataclasses.replace(_examine(collection, members, data_dir), counts=name is not None))
    return found


def _examine(collection: spec.Collection, members: Sequence[spec.DatasetSpec], data_dir: str) -> CollectionFinding:
    named = set(collection.members()) if collection.members else set()
    left_out = {name: why for name, why in collection.left_out().items() if _base(name) in named}
    stored = {dataset.store for dataset in members}
    if stores.NATURAL_INSTRUCTIONS in stored:
        absent, problems = _natural_instructions(members, data_dir)
        there = os.path.join(data_dir, natural_instructions.FOLDER)
        clone = f"git clone --depth 1 https://github.com/allenai/natural-instructions {shlex.quote(there)}"
        fix = clone if absent and not os.path.isdir(there) else ""
    else:
        absent, problems = [dataset.name for dataset in members if not _prepared(dataset, data_dir)], []
        fix = f"flan data import RECORDS --data_dir {shlex.quote(data_dir)}" if absent and not named else ""
    return CollectionFinding(
        collection=collection.name,
        published=collection.published,
        defined=len(members),
        there=len(members) - len(absent) - len(problems),
        absent=tuple(absent),
        problems=tuple(problems),
        left_out=left_out,
        about=collection.about,
        fix=fix,
    )


def _base(name: str) -> str:
    return name.removesuffix("_input_inversion").removeprefix("program_synthesis_")


def _prepared(dataset: spec.DatasetSpec, data_dir: str) -> bool:
    from etils import epath

    return (epath.Path(data_dir) / dataset.tfds_dataset / dataset.version / "dataset_info.json").exists()


def _natural_instructions(members: Sequence[spec.DatasetSpec], data_dir: str) -> tuple[list[str], list[str]]:
    """The datasets without a file, and what is wrong with the files of others."""
    stores.prepare(members, data_dir)
    absent, problems = [], []
    for dataset in members:
        try:
            stores.opened(dataset, data_dir)
        except natural_instructions.Malformed as problem:
            problems.append(str(problem))
        except sources.NotPrepared:
            absent.append(dataset.name)
    return absent, problems


def show(found: Sequence[CollectionFinding]) -> None:
    """Prints a paragraph a collection."""
    for finding in found:
        published = f" of {finding.published:,} as published" if finding.published else ""
        print(
            f"\ncollection {finding.collection}: {finding.defined:,} datasets{published}, {finding.there:,} with data"
        )
        if finding.about and not (finding.ready and finding.defined):
            print(f"  {finding.about}")
        if finding.left_out:
            reasons: dict[str, list[str]] = {}
            for name, reason in finding.left_out.items():
                reasons.setdefault(reason, []).append(name)
            for reason, names in reasons.items():
                print(f"  left out: {', '.join(names)} ({reason})")
        if finding.absent:
            more = len(finding.absent) - _NAMED
            listed = ", ".join(finding.absent[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
            print(f"  without data: {listed}")
        for problem in finding.problems:
            print(f"  {problem}")
        if finding.fix:
            print(f"  {finding.fix}")
