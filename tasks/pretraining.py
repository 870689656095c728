"""Plain text: for span corruption, UL2R and language modelling, and OPT-IML's share of pre-training data."""

from flan_jax.data import spec


def _text(row: spec.Row) -> spec.Example | None:
    text = row["text"].strip()
    return spec.Example(fields={"text": text}, answer="") if text else None


def dataset(name: str, tfds_name: str, *, rows: int, train: str = "train", validation: str = "") -> spec.DatasetSpec:
    """A dataset of plain text in the column `text`.

    Args:
      name: its tasks are `{name}_ul2r`, `{name}_span_corruption`, `{name}_prefix_lm`, `{name}_lm` ...
      tfds_name: `name[/config]:version`.
      rows: of the train split, as published.
      train: the split to train on.
      validation: the one to compute a held-back loss on; none if empty.
    """
    return spec.DatasetSpec(
        name=name,
        cluster="pretraining",
        tfds_name=tfds_name,
        splits={"train": train, **({"validation": validation} if validation else {})},
        example=_text,
        metrics=(),
        train_rows=rows,
        templates="",
        collection="pretraining",
    )


def datasets() -> tuple[spec.DatasetSpec, ...]:
    """C4, on which T5 was trained: 364,868,892 documents of English (https://arxiv.org/abs/1910.10683, section 2.2)."""
    return (dataset("c4", "c4/en:3.1.0", rows=364_868_892, validation="validation"),)


COLLECTIONS = (
    spec.Collection(
        "pretraining",
        {},
        datasets=datasets,
        published=1,
        about="plain text; a `Collection` of this name in a module of yours puts your own in its place",
    ),
)
