"""The commonsense cluster of FLAN 2021: which cause, continuation, method or ending makes sense? (Figure 3)

Every row brings its own options. Where the public test labels are withheld (COPA, HellaSwag, PIQA), validation rows are
carved out of `train` and the published validation split is the test split; Story Cloze has no train split at all.
"""

import re
from collections.abc import Mapping, Sequence

from flan_jax.data import spec

# HellaSwag's half from WikiHow marks the parts of an article so. FLAN drops whatever stands in brackets, which loses
# words of the text ("uneven or lumpy [not recommended]"); only the marks are dropped here.
_TAG = re.compile(r"\s*\[(?:header|title|step|substeps)\]\s*")
_HELLASWAG_ENDINGS = 4


def _choice(fields: Mapping[str, str], options: Sequence[str], right: int) -> spec.Example | None:
    """An example whose answer is one of its own options; `None` for a row without a label, which has -1."""
    if not 0 <= right < len(options):
        return None
    shown = tuple(option.strip() for option in options)
    return spec.Example(fields=fields, answer=shown[right], options=shown)


def _copa(row: spec.Row) -> spec.Example | None:
    premise = row["premise"].strip()
    connective = {"cause": " because", "effect": ", so"}[row["question"]]
    fields = {"premise": premise, "question": row["question"], "opening": premise.rstrip(".") + connective}
    return _choice(fields, (row["choice1"], row["choice2"]), row["label"])


def _hellaswag(row: spec.Row) -> spec.Example | None:
    # The filter of FLAN keeps labels 0 to 3; its comment speaks of the number of endings, which it does not look at.
    if len(row["endings"]) != _HELLASWAG_ENDINGS:
        return None
    context = _TAG.sub("\n", row["context"]).strip()
    endings = [_TAG.sub(" ", ending) for ending in row["endings"]]
    return _choice({"context": context, "activity_label": row["activity_label"].strip()}, endings, row["label"])


def _piqa(row: spec.Row) -> spec.Example | None:
    return _choice({"goal": row["goal"].strip()}, (row["sol1"], row["sol2"]), row["label"])


def _story_cloze(row: spec.Row) -> spec.Example | None:
    # The source counts its endings from 1.
    return _choice({"context": row["context"].strip()}, row["endings"], row["label"] - 1)


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="copa",
        cluster="commonsense",
        tfds_name="super_glue/copa:1.0.2",
        splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
        example=_copa,
        metrics=("accuracy",),
        train_rows=400,
        templates="copa",
    ),
    spec.DatasetSpec(
        name="hellaswag",
        cluster="commonsense",
        tfds_name="hellaswag:1.1.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_hellaswag,
        metrics=("accuracy",),
        train_rows=39_905,
        templates="hellaswag",
    ),
    spec.DatasetSpec(
        name="piqa",
        cluster="commonsense",
        tfds_name="piqa:1.0.0",
        splits={"train": "train[:-100]", "validation": "train[-100:]", "test": "validation"},
        example=_piqa,
        metrics=("accuracy",),
        train_rows=16_113,
        templates="piqa",
    ),
    spec.DatasetSpec(
        name="story_cloze",
        cluster="commonsense",
        # The labels of the 2018 config are wrong in TFDS.
        tfds_name="story_cloze/2016:1.0.0",
        splits={"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"},
        example=_story_cloze,
        metrics=("accuracy",),
        train_rows=1_871,  # of `validation`
        templates="story_cloze",
    ),
)
