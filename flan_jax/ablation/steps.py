"""From a grid to the steps that make it: trainings and evaluations, each known by the hash of its resolved configuration.

The hash is of `config.config_str`, defaults and all, with the hash of the step before in place of a checkpoint's path and nothing
in place of the step's own folder. Cells that agree in a step therefore share it, and a second call finds what it needs.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flan_jax import config, config_check, errors, run_check
from flan_jax.ablation import grid as grid_lib
from flan_jax.data import mixtures

TRAIN, EVALUATE, SUITE, CONTAMINATION = "train", "evaluate", grid_lib.SUITE, grid_lib.CONTAMINATION
_ROOTS = {TRAIN: "train_script.train", EVALUATE: "eval_script.evaluate"}
# What a plan can do without: whose pieces, and where the papers' own parameters are.
_PLACEHOLDERS = {"VOCABULARY_FILE": None, "INITIAL_CHECKPOINT_PATH": "checkpoint_0"}
_SEED = "RANDOM_SEED"
_MODULE_DEFAULT = "flan_jax.tasks.catalogue"


@dataclasses.dataclass(frozen=True)
class Step:
    """One process: a training or an evaluation.

    Attributes:
      key: hash of its configuration; the name of its folder.
      kind: `TRAIN`, `EVALUATE`, `SUITE` or `CONTAMINATION`.
      name: of the phase or evaluation.
      files: gin files.
      settings: gin's names or flags, with their values; of a checkpoint that another step makes, nothing.
      start: (key of a training, its last step), or a path, or None where it starts from nothing.
      of: key of the evaluation whose predictions are read, of `CONTAMINATION` alone.
      data_dir: prepared datasets.
      steps: updates at its end, of `TRAIN` alone.
      about: what is trained on or asked: a mixture's name, or flags.
      label: the first cell that asked for it.
    """

    key: str
    kind: str
    name: str
    files: tuple[str, ...]
    settings: Mapping[str, Any]
    start: tuple[str, int] | str | None
    of: str | None
    data_dir: str | None
    steps: int
    about: str
    label: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the steps that must be finished before."""
        return tuple(key for key in (self.start[0] if isinstance(self.start, tuple) else None, self.of) if key)

    def argv(self, root: pathlib.PurePath | str) -> list[str]:
        """What comes after `flan`; `root` is the folder of all steps' folders."""
        own, start = f"{root}/{self.key}", self.start
        if isinstance(start, tuple):
            start = f"{root}/{start[0]}/checkpoint_{start[1]}"
        if self.kind in _ROOTS:
            bound = {**self.settings, **_places(self.kind, own, start)}
            data = [f"--tfds_data_dir={self.data_dir}"] if self.data_dir else []
            files = [f"--gin_file={name}" for name in self.files]
            command = "train" if self.kind == TRAIN else "eval"
            return [command, *files, *data, *(f"--gin.{name}={value!r}" for name, value in bound.items())]
        flags = {**self.settings, **({"tfds_data_dir": self.data_dir} if self.data_dir else {}), "out": own}
        if self.kind == SUITE:
            return ["eval", *_flags({**flags, "checkpoint": start})]
        return ["contamination", *_flags({**flags, "predictions": f"{root}/{self.of}"})]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All steps of a grid.

    Attributes:
      grid: the grid.
      steps: by key, what is needed before what needs it.
      asked: for each cell, evaluation -> key.
      trained: for each cell, its trainings' keys in order.
    """

    grid: grid_lib.Grid
    steps: Mapping[str, Step]
    asked: Mapping[grid_lib.Cell, Mapping[str, str]]
    trained: Mapping[grid_lib.Cell, Sequence[str]]


def build(grid: grid_lib.Grid, data_dir: str | None = None, *, placeholders: bool = False) -> Sweep:
    """Resolves every configuration of a grid, and checks it: names, types, what is required, mixtures.

    Args:
      grid: what is to be run.
      data_dir: prepared datasets, in place of the grid's own.
      placeholders: stand in for the vocabulary and checkpoint that must be given to run.

    Raises:
      FlanError: the first configuration that is wrong, with all that is wrong with it.
    """
    config.register()
    maker = _Maker(grid, data_dir or grid.data_dir, placeholders)
    asked: dict[grid_lib.Cell, dict[str, str]] = {}
    trained: dict[grid_lib.Cell, list[str]] = {}
    for cell in grid.cells():
        start: tuple[str, int] | str | None = grid.initial_of(cell) or None
        trained[cell], asked[cell] = [], {}
        for phase in grid.phases_of(cell):
            step = maker.train(cell, phase, start)
            trained[cell].append(step.key)
            start = (step.key, step.steps)
        for name in grid.evaluations:
            asked[cell][name] = maker.evaluation(cell, name, start, asked[cell], trained[cell]).key
    return Sweep(grid, maker.found, asked, trained)


class _Maker:
    """Makes each step once."""

    def __init__(self, grid: grid_lib.Grid, data_dir: str | None, placeholders: bool) -> None:
        self.found: dict[str, Step] = {}
        self._checked: set[Any] = set()
        self._grid, self._data_dir, self._placeholders = grid, data_dir, placeholders

    def train(self, cell: grid_lib.Cell, phase: str, start: tuple[str, int] | str | None) -> Step:
        settings = self._grid.merged(cell, grid_lib.ALL, phase)
        files = settings.pop(grid_lib.FILES)
        settings = {**settings, _SEED: cell.seed}
        view, text, settings = self._resolved(TRAIN, f"{cell}: {phase}", files, settings, start)
        updates = view.value("train_script.train.total_steps")
        _check_start(f"{cell}: {phase}", view, start, updates)
        name, module = (view.value(f"utils.DatasetConfig.{of}", "train") for of in ("mixture_or_task_name", "module"))
        _check_mixture(f"{cell}: {phase}", module, name, False)
        return self._add(TRAIN, phase, files, settings, start, cell, text, steps=updates, about=name)

    def evaluation(
        self,
        cell: grid_lib.Cell,
        name: str,
        start: tuple[str, int] | str | None,
        asked: Mapping[str, str],
        trained: Sequence[str],
    ) -> Step:
        given = self._grid.merged(cell, grid_lib.ALL, grid_lib.EVALUATE, name)
        is_suite = grid_lib.SUITE in given
        if start is None:
            raise errors.FlanError(f"{cell}: nothing is trained and `initial` is not set, so there is nothing to ask")
        if not is_suite and grid_lib.CONTAMINATION not in given:
            files = given.pop(grid_lib.FILES)
            view, text, settings = self._resolved(EVALUATE, f"{cell}: {name}", files, given, start)
            scope = "infer_eval"
            mixture, module = (
                view.value(f"utils.DatasetConfig.{of}", scope) for of in ("mixture_or_task_name", "module")
            )
            _check_mixture(f"{cell}: {name}", module, mixture, True)
            return self._add(EVALUATE, name, files, settings, start, cell, text, about=mixture)
        # Of a command without gin, `all` says nothing: the model is in the run's config.gin.
        flags = self._grid.merged(cell, grid_lib.EVALUATE, name)
        flags.pop(grid_lib.FILES)
        if is_suite:
            _check_flags(f"{cell}: {name}", flags)
            if "tasks" in flags:
                _check_mixture(f"{cell}: {name}", flags.get("module", _MODULE_DEFAULT), flags["tasks"], True)
            return self._add(SUITE, name, (), flags, start, cell, json.dumps(flags, sort_keys=True), about=_told(flags))
        evaluation = flags.pop(grid_lib.CONTAMINATION)
        if evaluation not in asked:
            raise errors.FlanError(f"{cell}: {name}: {errors.unknown('earlier evaluation', evaluation, asked)}")
        of = self.found[asked[evaluation]]
        last = self.found[trained[-1]] if trained else None
        flags = {"train": last.about if last else "", "eval": of.about, **flags}
        for mixture, evaluated in ((flags["train"], False), (flags["eval"], True)):
            _check_mixture(f"{cell}: {name}", flags.get("module", _MODULE_DEFAULT), mixture, evaluated)
        text = json.dumps(flags, sort_keys=True)
        return self._add(CONTAMINATION, name, (), flags, None, cell, text, of=of.key, about=_told(flags))

    def _resolved(
        self,
        kind: str,
        label: str,
        files: Sequence[str],
        settings: Mapping[str, Any],
        start: tuple[str, int] | str | None,
    ) -> tuple[config_check.ResolvedView, str, dict[str, Any]]:
        """The checked configuration, its text, and the settings with what stands in for what must be given."""
        given = dict(settings)
        places = _places(kind, "", start[0] if isinstance(start, tuple) else start)
        try:
            parsed = _parsed(tuple(files), {**given, **places})
        except errors.FlanError as error:
            raise errors.FlanError(f"{label}: {error}") from None
        if self._placeholders:
            required = config.Macro("gin.REQUIRED")
            macros = {setting.param: setting.value for setting in parsed.settings if not setting.selector}
            wanted = {name: value for name, value in _PLACEHOLDERS.items() if macros.get(name) == required}
            parsed = _parsed(tuple(files), {**given, **places, **wanted})
        root = _ROOTS[kind]
        # Names and types are checked here, values elsewhere: cells that differ in values alone are checked once.
        form = (root, tuple(files), tuple((name, _type(value)) for name, value in (given | places).items()))
        if form not in self._checked:
            try:
                problems = config_check.check(parsed, root, known_macros=(*run_check.SHARED_MACROS, *places))
                config_check.raise_errors(problems)
            except errors.FlanError as error:
                raise errors.FlanError(f"{label}: {error}") from None
            self._checked.add(form)
        return config_check.ResolvedView(parsed, root), config.config_str(parsed), given

    def _add(
        self,
        kind: str,
        name: str,
        files: Sequence[str],
        settings: Mapping[str, Any],
        start: tuple[str, int] | str | None,
        cell: grid_lib.Cell,
        text: str,
        *,
        of: str | None = None,
        steps: int = 0,
        about: str,
    ) -> Step:
        # A folder is of one name on every machine, so data is told by what it was called.
        parts = (kind, str(self._data_dir), str(start), str(of), text)
        key = config.config_hash("\n".join(parts))
        step = Step(key, kind, name, tuple(files), settings, start, of, self._data_dir, steps, about, f"{cell}: {name}")
        return self.found.setdefault(key, step)


def _places(kind: str, own: str, start: str | None) -> dict[str, Any]:
    """Where a step writes, and where it starts from."""
    if kind == TRAIN:
        return {"MODEL_DIR": own, **({} if start is None else {"INITIAL_CHECKPOINT_PATH": start})}
    places = {"EVAL_OUTPUT_DIR": own, "CHECKPOINT_PATH": start}
    return {**places, "utils.RestoreCheckpointConfig.mode": "specific"}


def _type(value: Any) -> Any:
    """The types of a value and of all in it."""
    if isinstance(value, Mapping):
        return tuple((name, _type(item)) for name, item in value.items())
    return tuple(map(_type, value)) if isinstance(value, list | tuple) else type(value)


def _parsed(files: tuple[str, ...], settings: Mapping[str, Any]) -> config.ParsedConfig:
    """Files with settings behind them; the files, which cells share, are read once."""
    return _read(files).with_settings_of(config.parse((), bindings(settings)))


@functools.lru_cache(maxsize=64)
def _read(files: tuple[str, ...]) -> config.ParsedConfig:
    return config.parse(files)


def bindings(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """`NAME = value` of each."""
    return tuple(f"{name} = {value!r}" for name, value in settings.items())


def _check_start(
    label: str, view: config_check.ResolvedView, start: tuple[str, int] | str | None, updates: int
) -> None:
    """A phase that follows another must start from it, and have something left to do."""
    if not isinstance(start, tuple):
        return
    if view.value("utils.CheckpointConfig.restore") is None:
        raise errors.FlanError(
            f"{label}: it follows another phase and starts from nothing; expected a file that includes runs/finetune.gin, "
            "or an adapter's"
        )
    anew = view.value("utils.RestoreCheckpointConfig.params_only") is True or view.scopes("adapters.LoRA")
    if not anew and not view.scopes("adapters.PromptTuning") and updates <= start[1]:
        raise errors.FlanError(
            f"{label}: TRAIN_STEPS is {updates}, and it goes on from step {start[1]}; expected more, or "
            "utils.RestoreCheckpointConfig.params_only = True, by which steps count from 0"
        )


def _flags(values: Mapping[str, Any]) -> list[str]:
    """`{'shots': 0, 'cot': True}` as command-line flags; None and False are none."""
    found = []
    for name, value in values.items():
        if value is True:
            found.append(f"--{name}")
        elif value is not None and value is not False:
            found.append(f"--{name}={value}")
    return found


def _told(flags: Mapping[str, Any]) -> str:
    return " ".join(_flags(flags)).replace("--", "")


@functools.lru_cache(maxsize=4)
def _catalogue(modules: str | tuple[str, ...]) -> mixtures.Catalogue:
    return mixtures.Catalogue.from_modules(modules)


@functools.lru_cache(maxsize=1024)
def _problem(modules: str | tuple[str, ...], name: str, evaluated: bool) -> str:
    """What is wrong with a mixture's name; catalogues take a second to make, and hundreds of cells name a few."""
    try:
        catalogue = _catalogue(modules)
        if evaluated:
            catalogue.eval_tasks(name)
        elif not catalogue.mixture(name).tasks:
            return f"mixture {name!r} has no task"
    except errors.FlanError as error:
        return str(error)
    return ""


def _check_mixture(label: str, modules: Any, name: Any, evaluated: bool) -> None:
    wrong = _problem(modules if isinstance(modules, str) else tuple(modules), name, evaluated)
    if wrong:
        raise errors.FlanError(f"{label}: {wrong}")


def _check_flags(label: str, flags: Mapping[str, Any]) -> None:
    """What `flan eval --suite` would say of its flags, before anything is trained."""
    from flan_jax import eval_suite

    try:
        eval_suite.check(_flags({**flags, "checkpoint": "checkpoint_0", "out": "out"}))
    except errors.FlanError as error:
        raise errors.FlanError(f"{label}: {error}") from None


def in_order(steps: Iterable[Step], kinds: Sequence[str] = ()) -> list[Step]:
    """Steps of these kinds, all if none is given, as they were added: what is needed first."""
    return [step for step in steps if not kinds or step.kind in kinds]


def slug(text: str) -> str:
    """A label as part of a file's or a job's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
