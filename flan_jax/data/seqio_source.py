"""flan_jax's tasks as seqio tasks and data sources, for seqio clients other than flan_jax's own trainer."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flan_jax.data import quiet, seqio_tasks, sources, vocabulary

_BATCH = 256  # rows rendered and tokenised at a time; 256 reads 3.1M tokens/s where single rows read 0.7M


def make(
    task: Any, vocab: Any, data_dir: str | None, epochs: int | None = 1, lengths: Mapping[str, int] | None = None
) -> Any:
    """Builds the `seqio.DataSource` of a `seqio_tasks.FlanTask`.

    Its datasets yield token ids without EOS (`inputs`, `targets`), the texts (`*_pretokenized`), the accepted answers and
    the number of the example. Shuffled, it yields the same draws, in the same order, as flan_jax's loader with the same
    seed. In order, a task of rank classification yields each example once an option, with the option as its target.

    Args:
      task: the task.
      vocab: a seqio vocabulary.
      data_dir: of prepared TFDS datasets; see `sources.resolve_data_dir`.
      epochs: how many it goes through; endless where None. Each has its own order and draws its own templates, which a
        `repeat` of one epoch would not.
      lengths: `inputs` and `targets`, in tokens: how many exemplars fit; the style's own budget where None.
    """
    seqio = quiet.seqio()
    tf = quiet.tensorflow()

    signature = {
        "inputs": tf.TensorSpec([None], tf.int32),
        "targets": tf.TensorSpec([None], tf.int32),
        "inputs_pretokenized": tf.TensorSpec([], tf.string),
        "targets_pretokenized": tf.TensorSpec([], tf.string),
        "answers": tf.TensorSpec([None], tf.string),
        "number": tf.TensorSpec([], tf.int64),
    }
    length = lengths["inputs"] if lengths else None

    class FlanSource(seqio.DataSource):
        """Rows by index, out of prepared TFDS directories."""

        def __init__(self) -> None:
            super().__init__(splits=tuple(task.dataset.splits), performs_internal_shuffling=True)

        @property
        def supports_arbitrary_sharding(self) -> bool:
            return True

        def list_shards(self, split: str) -> list[str]:
            return [f"{task.name}-{split}"]

        def num_input_examples(self, split: str) -> int:
            return self._open(split).counted  # seqio asks for it to make rates

        def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None) -> Any:
            rows = self._open(split)
            shard, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
            expand = task.style.scoring and not shuffle

            def examples() -> Iterator[dict[str, Any]]:
                tokenizer = vocabulary.Tokenizer(vocab)
                read = _shuffled if shuffle else _in_order
                for batch in read(rows, seed or 0, shard, shards, epochs):
                    encoded = seqio_tasks.encode(batch, [""] * len(batch), tokenizer, length)
                    said = [f.example.options if expand else (f.targets,) for f in batch]
                    targets = iter(tokenizer.encode(list(itertools.chain(*said))))
                    for f, ((inputs, shots), _), texts in zip(batch, encoded, said, strict=True):
                        for text in texts:
                            yield {
                                "inputs": inputs,
                                "targets": next(targets),
                                "inputs_pretokenized": f.prompt(shots),
                                "targets_pretokenized": text,
                                "answers": list(f.example.answers),
                                "number": f.row,
                            }

            return tf.data.Dataset.from_generator(examples, output_signature=signature)

        def _open(self, split: str) -> Any:
            return task.open(sources.resolve_data_dir(data_dir), split)

    return FlanSource()


def _shuffled(rows: Any, seed: int, shard: int, shards: int, epochs: int | None) -> Iterator[list[Any]]:
    """Yields every `shards`-th draw, starting with the `shard`-th, in batches of formatted examples."""
    positions = itertools.count() if epochs is None else range(epochs * rows.num_examples)
    mine = itertools.islice(positions, shard, None, shards)
    while batch := list(itertools.islice(mine, _BATCH)):
        yield rows.draw(np.asarray(batch, np.int64), seed)


def _in_order(rows: Any, seed: int, shard: int, shards: int, epochs: int | None) -> Iterator[list[Any]]:
    """Yields every `shards`-th row that passes the filter, as evaluation reads them, in batches."""
    numbers = itertools.count() if epochs is None else range(epochs)
    kept = itertools.chain.from_iterable(rows.in_order(seed=seed, epoch=epoch) for epoch in numbers)
    mine = itertools.islice(kept, shard, None, shards)
    while batch := list(itertools.islice(mine, _BATCH)):
        yield batch


def to_seqio(task: seqio_tasks.FlanTask, vocab: Any, data_dir: str | None = None) -> Any:
    """Wraps a task as a `seqio.Task` for other seqio clients (unregistered; `seqio.TaskRegistry.add` names it).

    Its source reads the same draws as flan_jax's own loader, in the same order, so both train on the same text. It
    shuffles by itself: seqio's buffer is left out, and so is its copy of small datasets in memory, which would repeat
    the first epoch's order and templates.
    """
    seqio = quiet.seqio()

    from flan_jax.evaluation import metrics

    feature = seqio.Feature(vocabulary=vocabulary.as_seqio(vocab), add_eos=True)
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
                source=make(task, vocab, data_dir, epochs, lengths),
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
