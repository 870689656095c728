"""One task per (dataset, style): rows in, tokenised examples out, by index; and the same as a `seqio.Task`.

Names follow FLAN's public ones, so that configs keep working; `styles` has the table:

    rte_10templates                  ten templates, drawn per row (training); also 1, 2, 4 and 7
    rte_10templates_five_shot        the same with five exemplars before the query
    rte_type_3                       template 3 only
    rte_type_3_scoring_eval          template 3, rank classification over the OPTIONS that the input shows
    rte_type_3_score_eval_no_options the same, options not shown
"""

import dataclasses
import difflib
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import fewshot, quiet, sources, spec, stateless, styles, templates, vocabulary

TRAIN_CAP = 30_000  # training examples a dataset, FLAN 2021 section 2.1
SPLITS = ("train", "validation", "test")
# Choices that must not follow each other get their own salt in the hash.
_SALT_ORDER, _SALT_TEMPLATE, _SALT_SUBSTITUTE = 1, 2, 3
_SUBSTITUTE_TRIES = 64
_LIKELY = 200  # names compared letter by letter with one that does not exist
_READ = 256  # rows formatted at a time where they are read in order
# Fields that say what to do with the others: no part of a dataset's plain inputs (FLAN 2021 section 4.2: "for
# translation the input would be 'The dog runs.'").
_INSTRUCTIONS = {"source_language", "target_language"}

Style = styles.Style


@dataclasses.dataclass(frozen=True)
class Formatted:
    """One example as text.

    Attributes:
      inputs: what the model reads.
      targets: what it is trained to say.
      example: the row's fields, options and accepted answers.
      row: index of the row in its split.
      template: index of the template in its file.
      shots: the exemplars before the query, as many as the style asks for; fewer may fit.
    """

    inputs: str
    targets: str
    example: spec.Example
    row: int
    template: int
    shots: fewshot.Shots | None = None

    def prompt(self, shots: int | None = None) -> str:
        """The inputs behind the first `shots` exemplars; behind all of them where None."""
        return self.inputs if self.shots is None else self.shots.text(shots) + self.inputs


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """One example as token ids, EOS at the end of both; `inputs` and `targets` are at most their feature lengths.

    `cut` is how many tokens each side lost to that limit, or None where that is not known; `shots` is how many
    exemplars the inputs hold.
    """

    inputs: list[int]
    targets: list[int]
    cut: tuple[int, int] | None = None
    shots: int = 0


class FlanTask:
    """A dataset in a style, read by index."""

    def __init__(self, dataset: spec.DatasetSpec, style_name: str, style: Style) -> None:
        self.dataset, self.style = dataset, style
        self.name = f"{dataset.name}_{style_name}"
        self.key = stateless.name_key(dataset.name)  # the dataset's part of every hash
        loaded = templates.load(dataset.templates) if style.wording == styles.TEMPLATES else (plain(dataset, style),)
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
        if self.style.scoring:
            return [] if self.reversed else [self]
        known, scored = dataset_styles(self.dataset), scores(self.dataset)
        names = [styles.evaluation(self.style, i, scored) for i in self.style.templates]
        singles = [FlanTask(self.dataset, name, known[name]) for name in names]
        return [task for task in singles if not task.reversed]

    def open(self, data_dir: str, split: str) -> "TaskRows":
        """Opens a split (`train`, `validation`, `test`) of the prepared dataset.

        Raises:
          FlanError: the split name is unknown, the dataset is not prepared, it has no such split, or no row of the
            split passes the dataset's filter.
        """
        _require(self.dataset, split)
        if self.style.shots:
            _require(self.dataset, "train")
        prepared = sources.PreparedDataset(data_dir, self.dataset.tfds_name)
        rows = prepared.rows(self.dataset.splits, split)
        if not rows:
            raise errors.FlanError(
                f"task {self.name!r} is empty: no rows in {self.dataset.splits[split]!r} of {prepared.directory}"
            )
        cap = min(TRAIN_CAP, sources.slice_rows(self.dataset.splits.get("train", "")) or TRAIN_CAP)
        pool = None
        if self.style.shots:
            pool = self.pool(rows if split == "train" else prepared.rows(self.dataset.splits, "train"), cap)
        opened = TaskRows(self, rows, cap if split == "train" else None, pool, own=split == "train")
        opened.check()
        return opened

    def pool(self, rows: Sequence[spec.Row], cap: int | None) -> fewshot.Pool:
        """The exemplars of the task, given the rows of the train split and how many of them are used."""
        size = min(len(rows), cap or len(rows))
        return fewshot.Pool(rows, size, self.key, self.style, self.dataset.example, self._text)

    def format(self, example: spec.Example, row: int, template: int, shots: fewshot.Shots | None = None) -> Formatted:
        """Renders an example with one of the style's templates."""
        return Formatted(*self._text(example, template), example, row, template, shots)

    def _text(self, example: spec.Example, template: int) -> tuple[str, str]:
        return templates.render(self._templates[template], example, options=self.style.options)


class TaskRows:
    """The rows of one task and split: how many there are, any draw of an endless shuffled stream, and all in order."""

    def __init__(
        self,
        task: FlanTask,
        rows: Sequence[spec.Row],
        cap: int | None,
        pool: fewshot.Pool | None = None,
        own: bool = False,
    ) -> None:
        """Args:
        task: whose they are.
        rows: of the split.
        cap: how many of them are used; all where None.
        pool: what exemplars are drawn from, where the style has some.
        own: whether that is these very rows.
        """
        self.task, self._rows, self._pool, self._own = task, rows, pool, own
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
        return draw_together([(self, positions)], seed, shuffle)[0]

    def read(self, row: int) -> tuple[int, spec.Example]:
        """The example of a row; or where the filter drops it, the row that stands in for it and its example."""
        example = self.task.dataset.example(self._rows[row])
        return self._substitute(row) if example is None else (row, example)

    def format(
        self,
        rows: np.ndarray,
        examples: Sequence[spec.Example],
        chosen: Sequence[int],
        seed: int,
        epochs: int | np.ndarray,
    ) -> list[Formatted]:
        """Renders rows [N] with the templates that were chosen for them, and draws the exemplars of each."""
        shots: Sequence[fewshot.Shots | None] = [None] * len(rows)
        if self._pool is not None:
            shots = self._pool.draw(rows, seed, epochs, chosen, examples, self._own)
        return list(map(self.task.format, examples, rows.tolist(), chosen, shots))

    def in_order(self, limit: int | None = None, seed: int = 0, epoch: int = 0) -> Iterator[Formatted]:
        """Yields the rows that pass the filter, in file order, each once: what evaluation reads."""
        return itertools.islice(self._in_order(seed, epoch), limit)

    def _in_order(self, seed: int, epoch: int) -> Iterator[Formatted]:
        for start in range(0, self._size, _READ):
            rows = range(start, min(start + _READ, self._size))
            passed = ((row, self.task.dataset.example(self._rows[row])) for row in rows)
            kept = {row: example for row, example in passed if example is not None}
            numbers = np.asarray(list(kept), np.int64)
            chosen = choose([self.task.style] * len(kept), self.task.key, numbers, seed, epoch)
            yield from self.format(numbers, list(kept.values()), chosen, seed, epoch)

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


def draw_together(
    requests: Sequence[tuple[TaskRows, np.ndarray]], seed: int, shuffle: bool = True
) -> list[list[Formatted]]:
    """Returns draws of several tasks' endless streams; see `TaskRows.draw`.

    A look-ahead of 64 examples asks each of 62 tasks for one or two: their choices are hashed in one call, because numpy
    takes as long for two numbers as for hundreds.

    Args:
      requests: a task's rows, and int64 positions [N] in its stream.
      seed: of the run.
      shuffle: whether each epoch has a new order, rather than the file's.
    """
    counts = [len(positions) for _, positions in requests]
    sizes = np.repeat([task.num_examples for task, _ in requests], counts)
    keys = np.repeat(np.asarray([task.task.key for task, _ in requests], np.int64), counts)
    epochs, order = np.divmod(np.concatenate([np.asarray(positions, np.int64) for _, positions in requests]), sizes)
    if shuffle:
        order = stateless.permute(order, sizes, stateless.hash64(seed, _SALT_ORDER, keys, epochs))
    asked = [task for (task, _), count in zip(requests, counts, strict=True) for _ in range(count)]
    found = [task.read(row) for task, row in zip(asked, order.tolist(), strict=True)]
    rows = np.asarray([row for row, _ in found], np.int64)
    chosen = choose([task.task.style for task in asked], keys, rows, seed, epochs)
    ends = np.cumsum(counts).tolist()
    return [
        task.format(
            rows[start:end], [example for _, example in found[start:end]], chosen[start:end], seed, epochs[start:end]
        )
        for (task, _), start, end in zip(requests, [0, *ends], ends, strict=False)
    ]


def choose(
    of: Sequence[Style], keys: int | np.ndarray, rows: np.ndarray, seed: int, epochs: int | np.ndarray
) -> list[int]:
    """Returns the index of the template that (seed, epoch, dataset, row) picks, for each of N rows.

    Args:
      of: [N], the style of each row's task.
      keys: of the datasets, one or an array [N].
      rows: int64 array [N].
      seed: of the run.
      epochs: one, or an array [N].
    """
    limits = np.asarray([len(style.templates) for style in of], np.int64)
    numbers = stateless.below(limits, seed, _SALT_TEMPLATE, keys, rows, epochs)
    return [style.templates[number] for style, number in zip(of, numbers.tolist(), strict=True)]


def tokenise(
    formatted: Sequence[Formatted], tokenizer: vocabulary.Tokenizer, lengths: dict[str, int]
) -> list[Tokenised]:
    """Encodes a batch of examples in one call, joins exemplars, trims each side and appends EOS.

    Trimming and EOS are seqio's `append_eos_after_trim`; exemplars take what room the query leaves (`fewshot.join`).

    Args:
      formatted: the examples.
      tokenizer: of the model's vocabulary.
      lengths: `inputs` and `targets`, in tokens, EOS counted.
    """
    eos = tokenizer.vocabulary.eos_id
    ids = tokenizer.encode([f.inputs for f in formatted] + [f.targets for f in formatted])
    half = len(formatted)
    room = (lengths["inputs"] - 1, lengths["targets"] - 1)
    before = fewshot.join([f.shots for f in formatted], list(map(len, ids[:half])), tokenizer, lengths["inputs"])
    return [
        Tokenised(
            [*exemplars, *inputs[: room[0]], eos],
            [*targets[: room[1]], eos],
            (max(0, len(inputs) - room[0]), max(0, len(targets) - room[1])),
            shots,
        )
        for inputs, targets, (exemplars, shots) in zip(ids[:half], ids[half:], before, strict=True)
    ]


def prompts(formatted: Sequence[Formatted], tokenizer: vocabulary.Tokenizer, lengths: dict[str, int]) -> list[str]:
    """The inputs of examples as text, with the exemplars that fit; what is cut off at the end is there."""
    return [
        f.prompt(tokens.shots) for f, tokens in zip(formatted, tokenise(formatted, tokenizer, lengths), strict=True)
    ]


def dataset_styles(dataset: spec.DatasetSpec) -> dict[str, Style]:
    """The styles that a dataset can be asked for in, by the last part of the task's name; reads its template file."""
    return styles.table(len(templates.load(dataset.templates)), scores(dataset), "train" in dataset.splits)


def scores(dataset: spec.DatasetSpec) -> bool:
    """Whether the dataset is scored by rank classification: its templates show options."""
    return any(template.shows_options for template in templates.load(dataset.templates))


def plain(dataset: spec.DatasetSpec, style: Style) -> templates.Template:
    """The pattern of the baselines: the fields that the dataset's templates ask with, a line each, and the answer."""
    asking = [template for template in templates.load(dataset.templates) if not template.reversed]
    used = (field for template in asking for _, field in template.inputs if field)
    fields = [field for field in dict.fromkeys(used) if field != templates.OPTIONS and field not in _INSTRUCTIONS]
    title = f"[{dataset.cluster}: {dataset.name}] ".replace("_", " ") if style.wording == styles.NAME else ""
    starts = [title, *["\n"] * (len(fields) - 1)]
    return templates.Template(tuple(zip(starts, fields, strict=True)), (("", templates.ANSWER),))


def _require(dataset: spec.DatasetSpec, split: str) -> None:
    if split not in dataset.splits and split in SPLITS:
        what = {"train": "be trained on, nor give exemplars"}.get(split, f"be read for {split}")
        raise errors.FlanError(
            f"dataset {dataset.name!r} has no {split} split, only {', '.join(dataset.splits)}: it cannot {what}"
        )
    if split not in dataset.splits:
        raise errors.unknown("split", split, dataset.splits)


class MarkedTask(FlanTask):
    """A task whose options each example lays out in a way of its own (`styles.mark`)."""

    def format(self, example: spec.Example, row: int, template: int, shots: fewshot.Shots | None = None) -> Formatted:
        pattern = self._templates[template]
        if pattern.shows_options and example.options:
            block, example = styles.mark(example, template)
            inputs = tuple(
                (text + block, None) if field == templates.OPTIONS else (text, field) for text, field in pattern.inputs
            )
            pattern = dataclasses.replace(pattern, inputs=inputs)
        return Formatted(*templates.render(pattern, example), example, row, template, shots)


class TaskTable:
    """Every task of a registry by its name, built when asked for."""

    def __init__(self, specs: spec.SpecRegistry) -> None:
        self._specs = specs

    def __getitem__(self, name: str) -> FlanTask:
        found = self.find(name)
        if found is None:
            raise unknown("task", name, self.names(), [f"{dataset.name}_10templates" for dataset in self._specs])
        return found

    def find(self, name: str) -> FlanTask | None:
        """Returns the task of that name, or None where no dataset and style make it up."""
        for dataset in self._specs:
            if name.startswith(dataset.name + "_"):
                last = name[len(dataset.name) + 1 :]
                style = dataset_styles(dataset).get(last)
                if style is not None:
                    return (MarkedTask if style.marked else FlanTask)(dataset, last, style)
        return None

    def names(self) -> list[str]:
        return [f"{dataset.name}_{last}" for dataset in self._specs for last in dataset_styles(dataset)]


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
    return errors.unknown(kind, given, likely if close else examples)


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

    def rank_classification(targets: Any, scores: Any) -> dict[str, float]:
        """Accuracy of the likeliest option; a target is (number of the example, whether the option is right)."""
        options: dict[int, list[tuple[float, bool]]] = {}
        for (number, right), score in zip(targets, scores, strict=True):
            options.setdefault(number, []).append((float(score), right))
        right = [{i for i, (_, is_right) in enumerate(found) if is_right} for found in options.values()]
        return metrics.rank_classification_accuracy([[s for s, _ in found] for found in options.values()], right)

    def option(output: Any, *, example: Any = None, is_target: bool = False) -> Any:
        return (int(example["number"]), output.encode("utf-8") in list(example["answers"])) if is_target else output

    def answer(output: Any, *, example: Any = None, is_target: bool = False) -> Any:
        """Gives a metric the right answer, or all accepted ones, in place of the target text."""
        if not is_target:
            return output
        accepted = [value.decode("utf-8") for value in example["answers"]]
        return accepted if any(metric.all_answers for metric in scored) else accepted[0]

    class Task(seqio.Task):
        """A seqio task whose every epoch is drawn anew."""

        def __init__(self, epochs: int | None = 1, lengths: Mapping[str, int] | None = None) -> None:
            super().__init__(
                task.name,
                source=seqio_source.make(task, vocab, data_dir, epochs, lengths),
                output_features={"inputs": feature, "targets": feature},
                preprocessors=[seqio.preprocessors.append_eos_after_trim],
                postprocess_fn=option if task.style.scoring else answer,
                metric_fns=[rank_classification] if task.style.scoring else [metric.function for metric in scored],
                shuffle_buffer_size=None,
            )

        def get_dataset(
            self, sequence_length: Any = None, *args: Any, num_epochs: int | None = 1, **options: Any
        ) -> Any:
            options["try_in_mem_cache"] = False
            # The lengths say how many exemplars fit, which a source is not told.
            drawn = super(Task, Task(num_epochs, sequence_length))
            return drawn.get_dataset(sequence_length, *args, **options)

    return Task()
