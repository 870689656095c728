"""The paraphrase cluster of FLAN 2021: do two texts mean the same, and how nearly? (Figure 3)

MRPC, QQP and PAWS ask for yes or no, STS-B for a degree from 0 to 5.
"""

import functools

from flan_jax.data import spec

# By label number: not_equivalent, not_duplicate and different_meaning come first in the three builders.
_ANSWERS = ("no", "yes")
_STSB_SCORES = ("0", "1", "2", "3", "4", "5")


def _pair(row: spec.Row, *, columns: tuple[str, str]) -> spec.Example | None:
    """An example that asks whether two texts mean the same; `None` for label -1 (no label)."""
    if row["label"] < 0:
        return None
    fields = {column: _unquoted(row[column]) for column in columns}
    return spec.Example(fields=fields, answer=_ANSWERS[row["label"]], options=_ANSWERS)


def _unquoted(text: str) -> str:
    """Undoes CSV quoting: `"What is ""dark"" matter?"` loses the outer quotes and halves the inner ones.

    About 2% of QQP's questions kept it when the file was made. FLAN writes ' for the doubled quotes and leaves the
    outer ones.
    """
    text = text.strip()
    if '""' in text and len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def _stsb(row: spec.Row) -> spec.Example | None:
    # Scores are means over annotators (2.5, 1.714). FLAN formats them with no decimals, which rounds halves to the even
    # number, as Python does: 0.5 is 0 and 2.5 is 2.
    score = round(float(row["label"]))
    if not 0 <= score < len(_STSB_SCORES):
        return None
    fields = {column: row[column].strip() for column in ("sentence1", "sentence2")}
    return spec.Example(fields=fields, answer=_STSB_SCORES[score], options=_STSB_SCORES)


_sentences = functools.partial(_pair, columns=("sentence1", "sentence2"))
_questions = functools.partial(_pair, columns=("question1", "question2"))

SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="glue_mrpc",
        cluster="paraphrase",
        tfds_name="glue/mrpc:2.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=_sentences,
        metrics=("f1_and_accuracy",),
        train_rows=3_668,
        templates="glue_mrpc",
    ),
    spec.DatasetSpec(
        name="glue_qqp",
        cluster="paraphrase",
        tfds_name="glue/qqp:2.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_questions,
        metrics=("f1_and_accuracy",),
        train_rows=363_849,
        templates="glue_qqp",
    ),
    spec.DatasetSpec(
        name="paws_wiki",
        cluster="paraphrase",
        tfds_name="paws_wiki/labeled_final_tokenized:1.1.0",
        splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
        example=_sentences,
        metrics=("accuracy",),
        train_rows=49_401,
        templates="paws_wiki",
    ),
    spec.DatasetSpec(
        name="stsb",
        cluster="paraphrase",
        tfds_name="glue/stsb:2.0.0",
        splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
        example=_stsb,
        metrics=("pearson_spearman",),
        train_rows=5_749,
        templates="stsb",
    ),
)
