"""Sentiment: four binary datasets, from whole film reviews to tweets (FLAN 2021, Figure 3).

All four ask for one of the same two options. The sources write the label in four ways; each is mapped here.
"""

from flan_jax.data import spec

# The order of the class ids of IMDB, SST-2 and Yelp, and the order in which options are shown.
LABELS = ("negative", "positive")


def _labelled(field: str, text: str, label: int) -> spec.Example | None:
    """An example whose class id is 0 (negative) or 1 (positive); -1 marks a row without a label."""
    if label not in (0, 1):
        return None
    return spec.Example(fields={field: text.strip()}, answer=LABELS[label], options=LABELS)


def _imdb_reviews(row: spec.Row) -> spec.Example | None:
    return _labelled("text", row["text"], row["label"])


def _sst2(row: spec.Row) -> spec.Example | None:
    return _labelled("sentence", row["sentence"], row["label"])


def _yelp_polarity_reviews(row: spec.Row) -> spec.Example | None:
    # The classes are named "1" (id 0: one or two stars) and "2" (id 1: three or four). FLAN drops blank bodies.
    if not row["text"].strip():
        return None
    return _labelled("text", row["text"], row["label"])


def _sentiment140(row: spec.Row) -> spec.Example | None:
    # Train has the polarities 0 and 4; some test tweets carry 2, neutral. FLAN reads all but 3 and 4 as negative, so it
    # scores neutral tweets as negative ones. They are neither of the two options, and are dropped here.
    if row["polarity"] == 2:
        return None
    return _labelled("text", row["text"], int(row["polarity"] in (3, 4)))


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="imdb_reviews",
        cluster="sentiment",
        tfds_name="imdb_reviews/plain_text:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=_imdb_reviews,
        metrics=("accuracy",),
        train_rows=25_000,
        templates="imdb_reviews",
    ),
    spec.DatasetSpec(
        name="sentiment140",
        cluster="sentiment",
        tfds_name="sentiment140:1.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "test"},
        example=_sentiment140,
        metrics=("accuracy",),
        train_rows=1_600_000,
        templates="sentiment140",
    ),
    spec.DatasetSpec(
        name="sst2",
        cluster="sentiment",
        tfds_name="glue/sst2:2.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_sst2,
        metrics=("accuracy",),
        train_rows=67_349,
        templates="sst2",
    ),
    spec.DatasetSpec(
        name="yelp_polarity_reviews",
        cluster="sentiment",
        tfds_name="yelp_polarity_reviews:0.2.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "test"},
        example=_yelp_polarity_reviews,
        metrics=("accuracy",),
        train_rows=560_000,
        templates="yelp_polarity_reviews",
    ),
)
