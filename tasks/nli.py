"""The NLI cluster of FLAN 2021: does one text follow from another? (https://arxiv.org/abs/2109.01652, figure 3)

Names, versions, splits and the order of the answers are those of FLAN's public task files. The order of the labels is
the TFDS builder's and differs between datasets: CB puts the contradiction second, WNLI puts the negative first.
Where the public test labels are withheld (GLUE, SuperGLUE), validation rows are carved out of `train` and the published
validation split is the test split.
"""

import functools
from collections.abc import Mapping

from flan_jax.data import spec

# Columns of the TFDS features, by the name that the templates use.
_PREMISE_HYPOTHESIS = {"premise": "premise", "hypothesis": "hypothesis"}
_ANLI_COLUMNS = {"premise": "context", "hypothesis": "hypothesis"}
_QNLI_COLUMNS = {"question": "question", "sentence": "sentence"}
_WNLI_COLUMNS = {"sentence1": "sentence1", "sentence2": "sentence2"}

# Answers by label number.
_ANLI_ANSWERS = ("Yes", "It's impossible to say", "No")  # e, n, c
_CB_ANSWERS = ("Yes", "No", "It's impossible to say")  # entailment, contradiction, neutral
_MNLI_ANSWERS = ("yes", "it is not possible to tell", "no")  # entailment, neutral, contradiction; SNLI's too
_RTE_ANSWERS = ("yes", "no")  # entailment, not_entailment; QNLI's too
_WNLI_ANSWERS = ("no", "yes")  # not_entailment, entailment


def _labelled_pair(row: spec.Row, *, columns: Mapping[str, str], answers: tuple[str, ...]) -> spec.Example | None:
    """An example whose answer is the label's text, or `None` for label -1 (no label).

    SNLI has such rows where its annotators reached no majority (https://arxiv.org/abs/1508.05326, section 2).
    """
    label = row["label"]
    if label < 0:
        return None
    # About 1 in 7 of MNLI's hypotheses ends in a space, which would stand before a closing quotation mark.
    fields = {name: row[column].strip() for name, column in columns.items()}
    return spec.Example(fields=fields, answer=answers[label], options=answers)


def _anli(round_number: int, train_split: str, train_rows: int) -> spec.DatasetSpec:
    return spec.DatasetSpec(
        name=f"anli_r{round_number}",
        cluster="nli",
        tfds_name=f"anli/r{round_number}:0.1.0",
        splits={"train": train_split, "validation": "validation[:200]", "test": "test"},
        example=functools.partial(_labelled_pair, columns=_ANLI_COLUMNS, answers=_ANLI_ANSWERS),
        metrics=("accuracy",),
        train_rows=train_rows,
        templates="anli",
    )


def _mnli(genres: str) -> spec.DatasetSpec:
    """MNLI tested on genres seen ("matched") or not seen ("mismatched") in training; the train rows are the same."""
    return spec.DatasetSpec(
        name=f"mnli_{genres}",
        cluster="nli",
        tfds_name="glue/mnli:2.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": f"validation_{genres}"},
        example=functools.partial(_labelled_pair, columns=_PREMISE_HYPOTHESIS, answers=_MNLI_ANSWERS),
        metrics=("accuracy",),
        train_rows=392702,
        templates="mnli",
    )


SPECS: tuple[spec.DatasetSpec, ...] = (
    _anli(1, train_split="train", train_rows=16946),
    _anli(2, train_split="train[:30000]", train_rows=45460),
    _anli(3, train_split="train[:30000]", train_rows=100459),
    spec.DatasetSpec(
        name="cb",
        cluster="nli",
        tfds_name="super_glue/cb:1.0.2",
        splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
        example=functools.partial(_labelled_pair, columns=_PREMISE_HYPOTHESIS, answers=_CB_ANSWERS),
        metrics=("mean_3class_f1", "accuracy"),
        train_rows=250,
        templates="cb",
    ),
    _mnli("matched"),
    _mnli("mismatched"),
    spec.DatasetSpec(
        name="qnli",
        cluster="nli",
        tfds_name="glue/qnli:2.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=functools.partial(_labelled_pair, columns=_QNLI_COLUMNS, answers=_RTE_ANSWERS),
        metrics=("accuracy",),
        train_rows=104743,
        templates="qnli",
    ),
    spec.DatasetSpec(
        name="rte",
        cluster="nli",
        tfds_name="super_glue/rte:1.0.2",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=functools.partial(_labelled_pair, columns=_PREMISE_HYPOTHESIS, answers=_RTE_ANSWERS),
        metrics=("accuracy",),
        train_rows=2490,
        templates="rte",
    ),
    spec.DatasetSpec(
        name="snli",
        cluster="nli",
        tfds_name="snli:1.1.0",
        splits={"train": "train[:30000]", "validation": "validation[:200]", "test": "test"},
        example=functools.partial(_labelled_pair, columns=_PREMISE_HYPOTHESIS, answers=_MNLI_ANSWERS),
        metrics=("accuracy",),
        train_rows=550152,
        templates="snli",
    ),
    spec.DatasetSpec(
        name="wnli",
        cluster="nli",
        tfds_name="glue/wnli:2.0.0",
        splits={"train": "train[:-30]", "validation": "train[-30:]", "test": "validation"},
        example=functools.partial(_labelled_pair, columns=_WNLI_COLUMNS, answers=_WNLI_ANSWERS),
        metrics=("accuracy",),
        train_rows=635,
        templates="wnli",
    ),
)
