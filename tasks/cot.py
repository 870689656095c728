"""Chain of thought: datasets whose targets give the reasoning before the answer (Flan 2022, section 2.1)."""

import re

from flan_jax.data import spec

# GSM8K marks each computation for a calculator, `<<48/2=24>>24`, and puts the result after `####` on the last line.
CALCULATION = re.compile(r"<<[^<>]*>>")
ANSWER_MARK = "####"


def _sentence(line: str) -> str:
    return line if line.endswith((".", "!", "?", ":", ";", ",")) else line + "."


def _gsm8k(row: spec.Row) -> spec.Example | None:
    worked, mark, final = row["answer"].rpartition(ANSWER_MARK)
    answer = final.strip().replace(",", "")
    # One paragraph: T5's vocabulary has no newline, and most of the lines end without a full stop.
    lines = (" ".join(line.split()) for line in CALCULATION.sub("", worked).splitlines())
    rationale = " ".join(_sentence(line) for line in lines if line)
    if not (mark and answer and rationale):
        return None
    return spec.Example(fields={"question": row["question"].strip(), "rationale": rationale}, answer=answer)


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="gsm8k",
        cluster="chain_of_thought",
        tfds_name="gsm8k:1.0.0",
        # The 200 validation rows are carved from train, as FLAN does for datasets without a split of their own.
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=_gsm8k,
        metrics=("answer_accuracy",),
        train_rows=7_473,
        templates="gsm8k",
        collection="cot",
        rationale=True,
    ),
)
