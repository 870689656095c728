"""One task per (dataset, style): rows in, tokenised examples out, by index; and the same as a `seqio.Task`.

Names follow FLAN's public ones, so that configs keep working:

    rte_10templates                  ten templates, drawn per row (training); also 1, 2, 4 and 7
    rte_type_3                       template 3 only
    rte_type_3_scoring_eval          template 3, rank classification over the OPTIONS that the input shows
    rte_type_3_score_eval_no_options the same, options not shown
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import quiet, sources, spec, stateless, templates, vocabulary

TRAIN_CAP = 30_000  # training examples a dataset, FLAN 2021 section 2.1
TEMPLATE_COUNTS = (1, 2, 4, 7, 10)
SPLITS = ("train", "validation", "test")
# Choices that must not follow each other get their own salt in the hash.
_SALT_ORDER, _SALT_TEMPLATE, _SALT_SUBSTITUTE = 1, 2, 3
_SUBSTITUTE_TRIES = 64


@dataclasses.dataclass(frozen=True)
class Style:
    """How the rows of a dataset are asked for.

    Attributes:
      templates: indices into the dataset's template file.
      options: whether the inputs show the options.
      scoring: whether an answer is chosen by the likelihood of each option rather than generated.
    """

    templates: tuple[int, ...]
    options: bool = True
    scoring: bool = False


def styles(num_templates: int = 10) -> dict[str, Style]:
    """The table of styles: suffix of the task name -> style."""
    table = {f"{n}templates": Style(tuple(range(n))) for n in TEMPLATE_COUNTS if n <= num_templates}
    for i in range(num_templates):
        table[f"type_{i}"] = Style((i,))
        table[f"type_{i}_scoring_eval"] = Style((i,), scoring=True)
        table[f"type_{i}_score_eval_no_options"] = Style((i,), options=False, scoring=True)
    return table


@dataclasses.dataclass(frozen=True)
class Formatted:
    """One example as text.

    Attributes:
      inputs: what the model reads.
      targets: what it is trained to say.
      example: the row's fields, options and accepted answers.
      row: index of the row in its split.
      template: index of the template in its file.
    """

    inputs: str
    targets: str
    example: spec.Example
    row: int
    template: int


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """One example as token ids, EOS at the end of both; `inputs` and `targets` are at most their feature lengths.

    `cut` is how many tokens each side lost to that limit, or None where that is not known.
    """

    inputs: list[int]
    targets: list[int]
    cut: tuple[int, int] | None = None


class FlanTask:
    """A dataset in a style, read by index."""

    def __init__(self, dataset: spec.DatasetSpec, style_name: str, style: Style) -> None:
        self.dataset, self.style = dataset, style
        self.name = f"{dataset.name}_{style_name}"
        self.key = stateless.name_key(dataset.name)  # the dataset's part of every hash
        loaded = templates.load(dataset.templates)
        if max(style.templates) >= len(loaded):
            raise errors.FlanError(
                f"task {self.name!r}: template {max(style.templates)} asked for, {len(loaded)} exist"
            )
        self._templates = {i: loaded[i] for i in style.templates}

    @property
    def reversed(self) -> bool:
        """Whether every template of the style asks for something other than the answer, so that no metric applies."""
        return all(template.reversed for template in self._templates.values())

    def evaluations(self) -> list["FlanTask"]:
        """This task itself where it has one template, else one task a template; none for reversed ones."""
        scored = any(template.shows_options for template in templates.load(self.dataset.templates))
        if self.style.scoring:
            return [] if self.reversed else [self]
        suffix = "_scoring_eval" if scored else ""
        table = styles(len(templates.load(self.dataset.templates)))
        singles = [
            FlanTask(self.dataset, f"type_{i}{suffix}", table[f"type_{i}{suffix}"]) for i in self.style.templates
        ]
        return [task for task in singles if not task.reversed]

    def open(self, data_dir: str, split: str) -> "TaskRows":
        """Opens a split (`train`, `validation`, `test`) of the prepared dataset.

        Raises:
          FlanError: the split name is unknown, the dataset is not prepared, it has no such split, or no row of the
            split passes the dataset's filter.
        """
        if split not in self.dataset.splits:
            raise errors.unknown("split", split, self.dataset.splits)
        prepared = sources.PreparedDataset(data_dir, self.dataset.tfds_name)
        rows = prepared.rows(self.dataset.splits, split)
        if not rows:
            raise errors.FlanError(
                f"task {self.name!r} is empty: no rows in {self.dataset.splits[split]!r} of {prepared.directory}"
            )
        cap = None
        if split == "train":
            cap = min(TRAIN_CAP, sources.slice_rows(self.dataset.splits[split]) or TRAIN_CAP)
        opened = TaskRows(self, rows, cap=cap)
        opened.check()
        return opened

    def choose(self, rows: np.ndarray, seed: int, epochs: int | np.ndarray) -> list[int]:
        """Returns the index of the template that (seed, epoch, dataset, row) picks, for each of the rows [N]."""
        choices = self.style.templates
        numbers = stateless.below(len(choices), seed, _SALT_TEMPLATE, self.key, rows, epochs)
        return [choices[number] for number in np.broadcast_to(numbers, np.shape(rows)).tolist()]

    def format(self, example: spec.Example, row: int, template: int) -> Formatted:
        """Renders an example with one of the style's templates."""
        inputs, targets = templates.render(self._templates[template], example, options=self.style.options)
        return Formatted(inputs, targets, example, row, template)


class TaskRows:
    """The rows of one task and split: how many there are, any draw of an endless shuffled stream, and all in order."""

    def __init__(self, task: FlanTask, rows: Sequence[spec.Row], cap: int | None) -> None:
        self.task, self._rows = task, rows
        self._size = min(len(rows), cap or len(rows))

    @property
    def num_examples(self) -> int:
        """Rows after the cap: what rates are computed from. Rows that the dataset's filter drops still count."""
        return self._size

    def check(self) -> None:
        """Looks for a first row that passes the filter, so that a task of none fails before a run and not in it.

        Raises:
          FlanError: the filter drops every row.
        """
        if self.task.dataset.example(self._rows[0]) is None:
            self._substitute(0)

    def draw(self, positions: np.ndarray, seed: int, shuffle: bool = True) -> list[Formatted]:
        """Returns draws of an endless stream that goes through all rows once an epoch.

        Args:
          positions: int64 array [N] of positions in the stream; epoch = position // num_examples.
          seed: of the run.
          shuffle: whether each epoch has a new order, rather than the file's.

        Raises:
          FlanError: the filter drops every row.
        """
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self._size)
        order = offsets
        if shuffle:
            keys = stateless.hash64(seed, _SALT_ORDER, self.task.key, epochs)
            order = stateless.permute(offsets, self._size, keys)
        rows, examples = [], []
        for row in order.tolist():
            example = self.task.dataset.example(self._rows[row])
            if example is None:
                row, example = self._substitute(row)
            rows.append(row)
            examples.append(example)
        # One hash for all rows: row by row it takes longer than reading and rendering them.
        chosen = self.task.choose(np.asarray(rows, np.int64), seed, epochs)
        return [self.task.format(e, row, template) for e, row, template in zip(examples, rows, chosen, strict=True)]

    def in_order(self, limit: int | None = None, seed: int = 0, epoch: int = 0) -> Iterator[Formatted]:
        """Yields the rows that pass the filter, in file order, each once: what evaluation reads."""
        chosen = self.task.choose(np.arange(self._size), seed, epoch)
        passed = ((row, self.task.dataset.example(self._rows[row])) for row in range(self._size))
        kept = (self.task.format(example, row, chosen[row]) for row, example in passed if example is not None)
        return itertools.islice(kept, limit)

    def _substitute(self, row: int) -> tuple[int, spec.Example]:
        """Finds the row that stands in for one that the filter drops.

        The cap counts rows that are kept, so the stand-in comes from beyond the cap where there are more; else it is
        the next row that passes.
        """
        spare = len(self._rows) - self._size
        beyond = (
            self._size + int(stateless.below(spare, _SALT_SUBSTITUTE, self.task.key, row, attempt))
            for attempt in range(_SUBSTITUTE_TRIES if spare else 0)
        )
        following = ((row + step) % len(self._rows) for step in range(1, len(self._rows)))
        for candidate in itertools.chain(beyond, following):
            example = self.task.dataset.example(self._rows[candidate])
            if example is not None:
                return candidate, example
        raise errors.FlanError(
            f"task {self.task.name!r} is empty: "
            f"its filter drops every one of {len(self._rows)} rows of {self.task.dataset.tfds_name}"
        )


def tokenise(
    formatted: Sequence[Formatted], tokenizer: vocabulary.Tokenizer, lengths: dict[str, int]
) -> list[Tokenised]:
    """Encodes a batch of examples in one call, trims each side and appends EOS (as seqio's `append_eos_after_trim`).

    Args:
      formatted: the examples.
      tokenizer: of the model's vocabulary.
      lengths: `inputs` and `targets`, in tokens, EOS counted.
    """
    eos = tokenizer.vocabulary.eos_id
    ids = tokenizer.encode([f.inputs for f in formatted] + [f.targets for f in formatted])
    half = len(formatted)
    room = (lengths["inputs"] - 1, lengths["targets"] - 1)
    return [
        Tokenised(
            [*inputs[: room[0]], eos],
            [*targets[: room[1]], eos],
            (max(0, len(inputs) - room[0]), max(0, len(targets) - room[1])),
        )
        for inputs, targets in zip(ids[:half], ids[half:], strict=True)
    ]


class TaskTable:
    """Every task of a registry by its name, built when asked for."""

    def __init__(self, specs: spec.SpecRegistry) -> None:
        self._specs = specs

    def __getitem__(self, name: str) -> FlanTask:
        found = self.find(name)
        if found is None:
            raise errors.unknown("task", name, self.names())
        return found

    def find(self, name: str) -> FlanTask | None:
        """Returns the task of that name, or None where no dataset and style make it up."""
        match = re.match(
            r"^(?P<dataset>.+?)_(?P<style>\d+templates|type_\d+(_scoring_eval|_score_eval_no_options)?)$", name
        )
        if not match or match["dataset"] not in self._specs:
            return None
        dataset = self._specs[match["dataset"]]
        style = styles(len(templates.load(dataset.templates))).get(match["style"])
        return FlanTask(dataset, match["style"], style) if style else None

    def names(self) -> list[str]:
        return [f"{dataset.name}_{suffix}" for dataset in self._specs for suffix in styles()]


def to_seqio(task: FlanTask, vocab: Any, data_dir: str | None = None) -> Any:
    """Wraps a task as a `seqio.Task` for other seqio clients (unregistered; `seqio.TaskRegistry.add` names it).

    Its source reads the same draws as flan_jax's own loader, in the same order, so both train on the same text. It
    shuffles by itself: seqio's buffer is left out, and so is its copy of small datasets in memory, which would repeat
    the first epoch's order and templates.
    """
    seqio = quiet.seqio()

    from flan_jax.data import seqio_source
    from flan_jax.evaluation import metrics

    feature = seqio.Feature(vocabulary=vocab, add_eos=True)
    scored = [] if task.reversed else [metrics.get(name) for name in task.dataset.metrics]

    def answer(output: Any, *, example: Any = None, is_target: bool = False) -> Any:
        """Gives a metric the right answer, or all accepted ones, in place of the target text."""
        if not is_target:
            return output
        accepted = [value.decode("utf-8") for value in example["answers"]]
        return accepted if any(metric.all_answers for metric in scored) else accepted[0]

    class Task(seqio.Task):
        """A seqio task whose every epoch is drawn anew."""

        def __init__(self, epochs: int | None = 1) -> None:
            super().__init__(
                task.name,
                source=seqio_source.make(task, vocab, data_dir, epochs),
                output_features={"inputs": feature, "targets": feature},
                preprocessors=[seqio.preprocessors.append_eos_after_trim],
                postprocess_fn=answer,
                metric_fns=[metric.function for metric in scored],
                shuffle_buffer_size=None,
            )

        def get_dataset(self, *args: Any, num_epochs: int | None = 1, **options: Any) -> Any:
            options["try_in_mem_cache"] = False
            if num_epochs != 1:
                return Task(num_epochs).get_dataset(*args, **options)
            return super().get_dataset(*args, **options)

    return Task()
