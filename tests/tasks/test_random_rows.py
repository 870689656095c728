"""Whatever a row of a dataset's own features holds, it is dropped or becomes an example that every template can render."""

import functools
import re
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from flan_jax.data import features_json, mixtures, sources, spec, templates

SPECS = {dataset.name: dataset for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs}

_SLOW: Collection[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

# Templates and records must not be confused, so field names in braces are among the texts.
_TEXT = st.one_of(
    st.sampled_from(
        ["", " ", "\n", "{", "}", "{}", "{answer}", "{options}", "{{premise}}", "OPTIONS:\n- yes", "%s \\n"]
    ),
    st.sampled_from(
        ["It rained.", "a_b [c] <d> | e", "“Ünïcödé” 🦙 日本語", "\x00\u200b\ufeff", "5 . UNK #", '"a ""b"" c"']
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
# What the sources promise about single columns beyond their types, by TFDS name. Without the marks all rows are dropped.
_YES_NO = st.sampled_from(["yes", "no", "no "])
_PROMISED: dict[str, dict[str, Any]] = {
    "super_glue/copa": {"question": st.sampled_from(["cause", "effect"])},
    "super_glue/record": {
        "query": st.tuples(_TEXT, _TEXT).map("@placeholder".join),
        "entities": st.lists(_TEXT, max_size=4),
        "answers": st.lists(st.sampled_from(["", "It rained.", "{answer}"]), max_size=2),
    },
    "super_glue/wsc": {"text": _TEXT.map("Then {} He left, he said.".format), "span2_text": st.just("he")},
    "glue/stsb": {"label": st.floats(-1, 5)},
    "gsm8k": {"answer": st.tuples(_TEXT, _TEXT).map("\n#### ".join)},
    "hellaswag": {"endings": st.lists(_TEXT, min_size=3, max_size=4)},
    "story_cloze/2016": {"endings": st.lists(_TEXT, min_size=2, max_size=2), "label": st.integers(-1, 2)},
    "definite_pronoun_resolution": {"candidates": st.lists(_TEXT, min_size=2, max_size=2)},
    "sentiment140": {"polarity": st.sampled_from([0, 2, 4])},
}
# Exactly four choices, none of them blank, is all that gets through.
_CHOICE = st.sampled_from(["a comb", "a lens", "{answer}", " {b}\n", ""])
_CHOICES = st.lists(_CHOICE, min_size=4, max_size=5).map(lambda texts: {"text": texts, "label": [*range(len(texts))]})
_QASC = _CHOICES.map(lambda choices: choices | {"label": [*"ABCDE"][: len(choices["text"])]})
_PROMISED |= {
    "cot_aqua": {
        "question": _TEXT.map("{}\nOptions:\n(A) one\n(B) {{b}}\n(C) 3".format),
        "answer": st.sampled_from(["(A)", "(C)", "(D)"]),
    },
    "cot_creak": {"question": _TEXT.map('Is it so?\n"{}"'.format), "answer": _YES_NO},
    "cot_ecqa": {"question": _TEXT.map("{}\nOptions:\n- ice\n- {{answer}}".format), "answer": st.just("{answer}")},
    "cot_sensemaking": {
        "question": st.tuples(_TEXT, _TEXT).map(lambda t: '- Sentence A: "{}"\n- Sentence B: "{}"\n'.format(*t)),
        "answer": st.sampled_from(["Sentence A", "Sentence B"]),
    },
    "cot_strategyqa": {"answer": _YES_NO},
    "unified_qa/ai2_science_middle": {
        "input": _TEXT.map("{}? \\n (A) ice (B) {{b}} (C) 3 (D) honey".format),
        "output": st.sampled_from(["ice", "{b}", "honey ", "tea"]),
    },
    "qasc": {"choices": _QASC, "answerKey": st.sampled_from(["A", "D", "E", ""])},
    # What else it holds is as the features say.
    "qed": {"annotation": lambda drawn: drawn.map(lambda found: found | {"explanation_type": "single_sentence"})},
}
_PROMISED["ai2_arc/ARC-Challenge"] = _PROMISED["ai2_arc/ARC-Easy"] = {"choices": _CHOICES}


def _values(schema: features_json.Schema, depth: int = 0, size: int | None = None) -> st.SearchStrategy:
    """Rows as `sources` decodes them: a list of objects as an object of equally long lists."""
    if isinstance(schema, features_json.Struct):
        return st.fixed_dictionaries({name: _values(inner, depth, size) for name, inner in schema.fields.items()})
    if isinstance(schema, features_json.List):
        assert schema.element is not None
        if size is None:
            return st.integers(0, 4).flatmap(lambda drawn: _values(schema.element, depth + 1, drawn))  # type: ignore[arg-type]
        return _values(schema.element, depth + 1, size)
    element = _scalar(schema)
    for level in range(depth):
        outer = level == depth - 1
        element = st.lists(element, min_size=size if outer else 0, max_size=size if outer else 2)  # type: ignore[arg-type]
    return element


def _scalar(schema: features_json.Schema) -> st.SearchStrategy:
    if isinstance(schema, features_json.Label):
        return st.integers(-1, schema.count - 1)
    assert isinstance(schema, features_json.Scalar), schema
    if schema.dtype == "string":
        return _TEXT
    if schema.dtype == "bool":
        return st.booleans()
    return st.floats(-1, 9, width=32) if schema.dtype.startswith("float") else st.integers(0, 9)


@functools.cache
def _rows(tfds_name: str, data_dir: str) -> st.SearchStrategy[dict[str, Any]]:
    import tensorflow_datasets as tfds

    directory = sources.PreparedDataset(data_dir, tfds_name).directory
    schema = features_json.from_features(tfds.builder_from_directory(directory).info.features)
    assert isinstance(schema, features_json.Struct)
    columns = {name: _values(inner) for name, inner in schema.fields.items()}
    for name, promised in _PROMISED.get(tfds_name.split(":")[0], {}).items():
        columns[name] = promised(columns[name]) if callable(promised) else promised
    return st.fixed_dictionaries(columns)


def _check(dataset: spec.DatasetSpec, example: spec.Example) -> None:
    loaded = templates.of(dataset)
    shown = any(template.shows_options for template in loaded)
    assert bool(example.options) == shown
    assert not shown or (example.answer in example.options and set(example.answers) & set(example.options))
    given_texts = "\n".join((*example.fields.values(), example.answer, *example.options))
    names = {name for template in loaded for name in template.fields()}
    placeholder = re.compile("{(?:" + "|".join(names) + ")}")
    for template in loaded:
        for options in (True, False):
            inputs, targets = templates.render(template, example, options=options)
            for found in placeholder.findall(f"{inputs}\n{targets}"):
                assert found in given_texts
            if not template.reversed and not dataset.rationale:
                assert targets == example.answer.strip()


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=15, deadline=None, suppress_health_check=_SLOW)
@given(data=st.data())
def test_any_row_is_dropped_or_rendered(name, sample_dir, data):
    dataset = SPECS[name]
    row = data.draw(_rows(dataset.tfds_name, sample_dir))
    example = dataset.example(row)
    assert example == dataset.example(row)
    if example is not None:
        _check(dataset, example)


@pytest.mark.parametrize("name", SPECS)
def test_random_rows_are_not_all_dropped(name, sample_dir):
    """Else the test above would show nothing."""
    generate = settings(
        max_examples=300, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=_SLOW
    )
    row = find(
        _rows(SPECS[name].tfds_name, sample_dir), lambda row: SPECS[name].example(row) is not None, settings=generate
    )
    assert row
