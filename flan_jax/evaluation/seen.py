"""What a checkpoint was trained on, by the config.gin beside it, and what it must therefore not be asked."""

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Sequence

from flan_jax import config as config_lib
from flan_jax import config_check, errors
from flan_jax.checkpoint import folders, manager
from flan_jax.data import holdout, mixtures, spec

CONFIG = "config.gin"
_ROOT = "train_script.train"
_LISTED = 3  # leaks that an error names of each dataset


@dataclasses.dataclass(frozen=True)
class Training:
    """One run of `flan train` in a checkpoint's past.

    Attributes:
      config: its config.gin.
      mixture: what it was trained on.
      modules: where the mixture is defined.
    """

    config: str
    mixture: str
    modules: tuple[str, ...]


def trained_on(checkpoint: str | os.PathLike[str]) -> list[Training]:
    """The runs that led to a checkpoint: its own, the one whose checkpoint that began with, and so on.

    Args:
      checkpoint: a `checkpoint_<step>`, or the MODEL_DIR of a run.

    Returns:
      The last first; it ends where no config.gin lies beside a checkpoint (pre-trained, converted).
    """
    found: list[Training] = []
    start: str | os.PathLike[str] | None = checkpoint
    while start is not None:
        path = manager.absolute(start)
        file = next((folder / CONFIG for folder in (path, path.parent) if (folder / CONFIG).exists()), None)
        if file is None or any(one.config == os.fspath(file) for one in found):
            break
        run, start = _read(os.fspath(file), file.read_text())
        if run is not None:
            found.append(run)
    return found


def leaks(
    checkpoint: str | os.PathLike[str],
    datasets: Iterable[spec.DatasetSpec],
    modules: str | Sequence[str] | None,
    data_dir: str | None = None,
) -> dict[str, list[str]]:
    """Looks for what a checkpoint was trained on and the cluster of a dataset forbids (`holdout.heldout_leaks`).

    Args:
      checkpoint: as in `trained_on`.
      datasets: what it is to be asked.
      modules: where these are defined.
      data_dir: see `heldout_leaks`.

    Returns:
      For each dataset that is not held out, by name, a sentence each task that was trained on; empty if all are held out, or
      where nothing shows what was trained on.
    """
    found: dict[str, list[str]] = {}
    own = _names(modules)
    for run in trained_on(checkpoint):
        catalogue = mixtures.Catalogue.from_modules(list(dict.fromkeys((*run.modules, *own))))
        by_cluster: dict[str, list[str]] = {}
        for dataset in datasets:
            if dataset.cluster not in by_cluster:
                leaked = holdout.heldout_leaks(catalogue, run.mixture, dataset.cluster, data_dir)
                by_cluster[dataset.cluster] = [f"{leak} ({run.mixture})" for leak in leaked]
            if by_cluster[dataset.cluster]:
                found.setdefault(dataset.name, []).extend(by_cluster[dataset.cluster])
    return found


def runs(folder: str | os.PathLike[str]) -> list[str]:
    """The runs that lie in a directory: what has a config.gin and a checkpoint. None where it is a run or checkpoint itself."""
    path = manager.absolute(folder)
    if not path.is_dir() or folders.is_checkpoint(path) or folders.checkpoints(path):
        return []
    return sorted(
        os.fspath(run)
        for run in path.iterdir()
        if (run / CONFIG).exists() and run.is_dir() and folders.checkpoints(run)
    )


def choose(
    candidates: Sequence[str],
    datasets: Iterable[spec.DatasetSpec],
    modules: str | Sequence[str] | None,
    data_dir: str | None = None,
) -> dict[str, str]:
    """For each dataset the run in whose training its cluster was held out, by the runs' config.gin.

    Where several held it out, the one that is named after it: `flan_minus_nli_...` leaves out paraphrase too, and
    `flan_minus_paraphrase_...` NLI.

    Args:
      candidates: MODEL_DIRs.
      datasets: what is to be asked.
      modules: where these are defined.
      data_dir: see `leaks`.

    Returns:
      Dataset -> MODEL_DIR.

    Raises:
      FlanError: no run held a cluster out, or several did and none, or more than one, is named after it.
    """
    clusters: dict[str, list[spec.DatasetSpec]] = {}
    for dataset in datasets:
        clusters.setdefault(dataset.cluster, []).append(dataset)
    asked = [dataset for of in clusters.values() for dataset in of]
    past = {run: trained_on(run) for run in candidates}
    leaking = {run: leaks(run, asked, modules, data_dir) for run in candidates if past[run]}
    found, problems = {}, []
    for cluster, mine in clusters.items():
        fit = [run for run, of in leaking.items() if not any(dataset.name in of for dataset in mine)]
        named = [run for run in fit if any(_named_after(one.mixture, cluster) for one in past[run])]
        chosen = named or fit
        names = ", ".join(dataset.name for dataset in mine)
        if len(chosen) == 1:
            found |= {dataset.name: chosen[0] for dataset in mine}
        elif chosen:
            problems.append(f"{cluster} ({names}) was held out of {', '.join(chosen)}; expected one of them")
        else:
            problems.append(f"{cluster} ({names}) was held out of none; expected flan_minus_{cluster}_10templates")
    if problems:
        listed = "; ".join(f"{run} ({past[run][0].mixture if past[run] else 'unknown'})" for run in candidates)
        raise errors.FlanError(
            "\n  ".join(["no run, or no single one, for some clusters:", *problems, f"runs: {listed}"])
        )
    return found


def _named_after(mixture: str, cluster: str) -> bool:
    """Whether a mixture's name says that it is there to hold this cluster out."""
    known = list(dict.fromkeys((*holdout.PUBLIC, cluster)))
    ways = {name: [f"_minus_{name}_", f"_heldout_{name}_"] for name in known}
    for number, name in enumerate(holdout.PUBLIC):
        ways[name].append(f"flan_inter_cluster_split_{number}_")
    said = [name for name in known if any(way in f"{mixture}_" for way in ways[name])]
    # Of names of which one begins with the other, the longer one is meant.
    return bool(said) and max(said, key=len) == cluster


def told(checkpoint: str | os.PathLike[str], found: dict[str, list[str]]) -> str:
    """`leaks` in words."""
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for dataset, reasons in found.items():
        by_reason.setdefault(tuple(reasons), []).append(dataset)
    lines = []
    for reasons, names in by_reason.items():
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        lines.append(f"  {', '.join(names)}: {'; '.join(reasons[:_LISTED])}{more}")
    return f"{checkpoint} was trained on what it is to be asked without having seen:\n" + "\n".join(lines)


def _names(modules: str | Sequence[str] | None) -> list[str]:
    return [modules] if isinstance(modules, str) else list(modules or [])


def _read(file: str, text: str) -> tuple[Training | None, str | None]:
    """The run that a config.gin describes, and the checkpoint that it began with."""
    with config_lib.isolated(), tempfile.TemporaryDirectory() as folder:
        config_lib.register()
        local = os.path.join(folder, CONFIG)  # files are parsed from local disks, and a run may be on gs://
        with open(local, "w", encoding="utf-8") as copy:
            copy.write(text)
        view = config_check.ResolvedView(config_lib.parse([local]), _ROOT)
        restored = view.value("utils.CheckpointConfig.restore")
        start = view.value("utils.RestoreCheckpointConfig.path") if restored else None
        dataset = view.value(f"{_ROOT}.train_dataset_cfg")
        if not isinstance(dataset, config_lib.Reference):
            return None, start or None
        scope = "/".join(dataset.scopes)
        mixture = view.value("utils.DatasetConfig.mixture_or_task_name", scope)
        modules = view.value("utils.DatasetConfig.module", scope)
    if not isinstance(mixture, str):
        raise errors.FlanError(
            f"{file} does not say what was trained on; expected utils.DatasetConfig.mixture_or_task_name"
        )
    return Training(file, mixture, tuple(_names(modules or None))), start or None
