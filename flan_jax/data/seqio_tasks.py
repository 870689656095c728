"""One task per (dataset, style): rows in, tokenised examples out, by index; and the same as a `seqio.Task`.

Names follow FLAN's public ones, so that configs keep working; `styles` has the table:

    rte_10templates                  ten templates, drawn per row (training); also 1, 2, 4 and 7
    rte_10templates_five_shot        the same with five exemplars before the query
    rte_type_3                       template 3 only
    rte_type_3_scoring_eval          template 3, rank classification over the OPTIONS that the input shows
    rte_type_3_score_eval_no_options the same, options not shown
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from flan_jax import errors
from flan_jax.data import delimiters, fewshot, sources, spec, stateless, stores, styles, templates, vocabulary

TRAIN_CAP = 30_000  # training examples a dataset, FLAN 2021 section 2.1
# Of other collections (FLAN 2022, table 23; that of dialogue is its public code's).
CAPS = {"cot": 100_000, "t0": 20_000, "niv2": 5_000, "dialog": 200_000}
SPLITS = ("train", "validation", "test")
# Choices that must not follow each other get their own salt in the hash.
_SALT_ORDER, _SALT_TEMPLATE, _SALT_SUBSTITUTE, _SALT_DELIMITER = 1, 2, 3, 4
_SUBSTITUTE_TRIES = 64
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
      preamble: what is said once, before the exemplars; empty where there are none, as the inputs then start with it.
    """

    inputs: str
    targets: str
    example: spec.Example
    row: int
    template: int
    shots: fewshot.Shots | None = None
    preamble: str = ""

    def prompt(self, shots: int | None = None) -> str:
        """The inputs behind the first `shots` exemplars; behind all of them where None."""
        return self.inputs if self.shots is None else self.preamble + self.shots.text(shots) + self.inputs


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
        loaded = templates.of(dataset) if style.wording == styles.TEMPLATES else (plain(dataset, style),)
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
        own = len(templates.load(self.dataset.templates))
        forward = [i for i in self.style.templates if not self._templates[i].reversed]
        names = [styles.evaluation(self.style, i, scored, own) for i in forward]
        return [FlanTask(self.dataset, name, known[name]) for name in names]

    def open(self, data_dir: str, split: str, cap: int | None = None) -> "TaskRows":
        """Opens a split (`train`, `validation`, `test`) of the prepared dataset.

        Args:
          data_dir: of prepared datasets.
          split: the split.
          cap: training examples that are used, at most, instead of what the dataset's collection uses.

        Raises:
          FlanError: the split name is unknown, the dataset is not prepared, it has no such split, or no row of the
            split passes the dataset's filter.
        """
        _require(self.dataset, split)
        if self.style.shots:
            _require(self.dataset, "train")
        prepared = stores.opened(self.dataset, data_dir)
        rows = prepared.rows(self.dataset.splits, split)
        if not rows:
            raise errors.FlanError(
                f"task {self.name!r} is empty: no rows in {self.dataset.splits[split]!r} of {prepared.directory}"
            )
        cap = cap or train_cap(self.dataset)
        pool = None
        if self.style.positive and (written := prepared.exemplars()):
            pool = self.pool(written, None)
        elif self.style.shots:
            pool = self.pool(rows if split == "train" else prepared.rows(self.dataset.splits, "train"), cap)
        opened = TaskRows(
            self, rows, cap if split == "train" else None, pool, own=split == "train" and not self.style.positive
        )
        opened.check()
        return opened

    def pool(self, rows: Sequence[spec.Row], cap: int | None) -> fewshot.Pool:
        """The exemplars of the task, given the rows of the train split and how many of them are used."""
        size = min(len(rows), cap or len(rows))
        return fewshot.Pool(rows, size, self.key, self.style, self.dataset.example, self._text)

    def format(self, example: spec.Example, row: int, template: int, shots: fewshot.Shots | None = None) -> Formatted:
        """Renders an example with one of the style's templates."""
        return self._formatted(self._templates[template], example, row, template, shots)

    def _formatted(
        self, pattern: templates.Template, example: spec.Example, row: int, template: int, shots: fewshot.Shots | None
    ) -> Formatted:
        alone = shots is None
        inputs, targets = templates.render(pattern, example, options=self.style.options, preamble=alone)
        if alone:
            return Formatted(inputs, targets, example, row, template)
        said = templates.introduce(pattern, example)
        preamble = f"{said}\n\n" if said else ""
        return Formatted(shots.delimiter.query(inputs), targets, example, row, template, shots, preamble)

    def _text(self, example: spec.Example, template: int) -> tuple[str, str]:
        """An exemplar as text."""
        return templates.render(self._templates[template], example, options=self.style.options, preamble=False)


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
        self.cap, self._size = cap, min(len(rows), cap or len(rows))

    @property
    def num_examples(self) -> int:
        """Rows after the cap: as long as an epoch is. Rows that the dataset's filter drops still count."""
        return self._size

    @property
    def counted(self) -> int:
        """Rows that the filter keeps, after the cap: what rates are computed from."""
        return counted(self.task.dataset, len(self._rows), self.cap)

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

    @property
    def pool(self) -> tuple[fewshot.Pool, bool] | None:
        """What exemplars are drawn from, and whether that is these very rows; None for no exemplars."""
        return None if self._pool is None else (self._pool, self._own)

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
            yield from _format([self] * len(kept), numbers, list(kept.values()), chosen, seed, epoch)

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
    formatted = iter(_format(asked, rows, [example for _, example in found], chosen, seed, epochs))
    return [list(itertools.islice(formatted, count)) for count in counts]


def _format(
    of: Sequence[TaskRows],
    rows: np.ndarray,
    examples: Sequence[spec.Example],
    chosen: Sequence[int],
    seed: int,
    epochs: int | np.ndarray,
) -> list[Formatted]:
    """Renders rows [N] of their tasks with the templates that were chosen for them, and draws the exemplars of each."""
    shots: list[fewshot.Shots | None] = [None] * len(rows)
    pools = [(number, pool) for number, task in enumerate(of) if (pool := task.pool) is not None]
    if pools:
        few = [number for number, _ in pools]
        drawn = fewshot.draw(
            [pool for _, pool in pools],
            rows[few],
            seed,
            np.broadcast_to(epochs, rows.shape)[few],
            [chosen[number] for number in few],
            [examples[number] for number in few],
        )
        for number, found in zip(few, drawn, strict=True):
            shots[number] = found
    formatted = [
        task.task.format(example, row, template, found)
        for task, example, row, template, found in zip(of, examples, rows.tolist(), chosen, shots, strict=True)
    ]
    closed = [number for number, task in enumerate(of) if task.task.style.delimiters and shots[number] is None]
    if closed:
        keys = np.asarray([of[number].task.key for number in closed], np.int64)
        points = stateless.hash64(
            seed, _SALT_DELIMITER, keys, rows[closed], np.broadcast_to(epochs, rows.shape)[closed]
        )
        for number, point in zip(closed, points.tolist(), strict=True):
            found = formatted[number]
            delimiter = delimiters.draw(of[number].task.style.delimiters, point)
            formatted[number] = dataclasses.replace(found, inputs=delimiter.query(found.inputs))
    return formatted


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
    encoded = encode(formatted, [f.targets for f in formatted], tokenizer, lengths["inputs"])
    room = (lengths["inputs"] - 1, lengths["targets"] - 1)
    return [
        Tokenised(
            [*inputs[: room[0]], eos],
            [*targets[: room[1]], eos],
            (max(0, len(inputs) - room[0]), max(0, len(targets) - room[1])),
            shots,
        )
        for (inputs, shots), targets in encoded
    ]


def encode(
    formatted: Sequence[Formatted], texts: Sequence[str], tokenizer: vocabulary.Tokenizer, length: int | None
) -> list[tuple[tuple[list[int], int], list[int]]]:
    """Encodes examples, and as many texts that go with them, in one call.

    Args:
      formatted: the examples.
      texts: [N].
      tokenizer: of the model's vocabulary.
      length: of the inputs, which limits the exemplars; see `fewshot.join`.

    Returns:
      Of each: preamble, exemplars and query as ids, and how many exemplars there are; and the ids of its text.
    """
    count = len(formatted)
    ids = tokenizer.encode([f.inputs for f in formatted] + list(texts) + [f.preamble for f in formatted if f.preamble])
    said = iter(ids[2 * count :])
    heads = [next(said) if f.preamble else [] for f in formatted]
    sizes = [len(head) + len(query) for head, query in zip(heads, ids[:count], strict=True)]
    before = fewshot.join([f.shots for f in formatted], sizes, tokenizer, length)
    return [
        (([*head, *exemplars, *query], shots), text)
        for head, query, text, (exemplars, shots) in zip(
            heads, ids[:count], ids[count : 2 * count], before, strict=True
        )
    ]


def prompts(formatted: Sequence[Formatted], tokenizer: vocabulary.Tokenizer, lengths: dict[str, int]) -> list[str]:
    """The inputs of examples as text, with the exemplars that fit; what is cut off at the end is there."""
    return [
        f.prompt(tokens.shots) for f, tokens in zip(formatted, tokenise(formatted, tokenizer, lengths), strict=True)
    ]


def dataset_styles(dataset: spec.DatasetSpec) -> dict[str, Style]:
    """The styles that a dataset can be asked for in, by the last part of the task's name; reads its template file."""
    own = templates.load(dataset.templates)
    return styles.table(
        len(own),
        scores(dataset),
        "train" in dataset.splits,
        any(template.prompted for template in own),
        len(templates.load(dataset.inverted)) if dataset.inverted else 0,
        dataset.store == stores.NATURAL_INSTRUCTIONS,
    )


def train_cap(dataset: spec.DatasetSpec) -> int:
    """Training examples that are used of a dataset, at most: its collection's cap, or its train slice."""
    cap = CAPS.get(dataset.collection, TRAIN_CAP)
    return min(cap, sources.slice_rows(dataset.splits.get("train", "")) or cap)


def counted(dataset: spec.DatasetSpec, rows: int, cap: int | None) -> int:
    """What so many rows of a dataset count in rates: those that its filter keeps, as far as they are used."""
    return min(max(1, round(rows * dataset.kept)), cap or rows)


def scores(dataset: spec.DatasetSpec) -> bool:
    """Whether the dataset is scored by rank classification: its templates show options, and targets are bare answers."""
    return not dataset.rationale and any(template.shows_options for template in templates.load(dataset.templates))


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
        return self._formatted(pattern, example, row, template, shots)
