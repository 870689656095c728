"""The sentiment specs: hand-made rows of each builder give exactly these examples."""

import pytest

from flan_jax.data import spec
from flan_jax.tasks import sentiment

SPECS = {entry.name: entry for entry in sentiment.SPECS}
OPTIONS = ("negative", "positive")


def _tweet(text: str, polarity: int) -> dict:
    return {
        "date": "Mon May 04 07:13:29 UTC 2009",
        "polarity": polarity,
        "query": "NO_QUERY",
        "text": text,
        "user": "pebble_1",
    }


# Per dataset: a negative and a positive row, the field that the text becomes, and the two texts.
ROWS = {
    "imdb_reviews": (
        {"text": "A dull film.", "label": 0},
        {"text": "A fine film.", "label": 1},
        ("text", "A dull film.", "A fine film."),
    ),
    "sentiment140": (
        _tweet("missed my bus :(", 0),
        _tweet("sunshine at last :)", 4),
        ("text", "missed my bus :(", "sunshine at last :)"),
    ),
    "sst2": (
        # SST-2's sentences end in a space.
        {"sentence": "a tired plot ", "label": 0, "idx": 0},
        {"sentence": "a sly , tender comedy ", "label": 1, "idx": 1},
        ("sentence", "a tired plot", "a sly , tender comedy"),
    ),
    "yelp_polarity_reviews": (
        {"text": "Cold soup, rude staff.", "label": 0},
        {"text": "Best pie in town!\\nGo early.", "label": 1},
        ("text", "Cold soup, rude staff.", "Best pie in town!\\nGo early."),
    ),
}


def test_every_dataset_has_rows_here():
    assert list(ROWS) == list(SPECS)


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_examples(name):
    negative, positive, (field, negative_text, positive_text) = ROWS[name]
    example = SPECS[name].example
    assert example(negative) == spec.Example({field: negative_text}, "negative", OPTIONS, ("negative",))
    assert example(positive) == spec.Example({field: positive_text}, "positive", OPTIONS, ("positive",))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("imdb_reviews", {"text": "No label.", "label": -1}),
        ("sst2", {"sentence": "no label ", "label": -1, "idx": 0}),
        ("yelp_polarity_reviews", {"text": "", "label": 1}),
        ("yelp_polarity_reviews", {"text": " \n", "label": 0}),
        ("sentiment140", _tweet("the library opens at nine", 2)),
    ],
)
def test_dropped_rows(name, row):
    assert SPECS[name].example(row) is None


def test_polarity_three_is_positive_and_one_is_negative():
    # The five-point scale of the Sentiment140 files; only 0, 2 and 4 occur in them.
    examples = [SPECS["sentiment140"].example(_tweet("x", polarity)) for polarity in (0, 1, 3, 4)]
    assert [entry and entry.answer for entry in examples] == ["negative", "negative", "positive", "positive"]
