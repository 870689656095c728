"""T0-SF of Flan 2022: the 193 prompts of P3 whose datasets FLAN 2021 does not have (https://arxiv.org/abs/2110.08207).

P3 comes with its prompts applied: a row is an instruction and what it asks for. `t0_sf.csv` lists the 193 with the size of
their train splits and the form that the Flan Collection gives them: a question, or a question with options, which its
public code asks in other words than those whose options are kept apart. The templates here put little around a text that is
an instruction already.

Two spellings of a row are read: `inputs_pretokenized`, `targets_pretokenized` and `answer_choices`, as P3 is published;
`prompt` and `completion`, as in copies made for fine-tuning.
"""

import csv
import functools
import pathlib
import re
from collections.abc import Sequence

from flan_jax.data import spec

PREFIX = "t0_"
PUBLISHED = 193
MAXIMUM = 20_000  # FLAN 2022, table 23; also how many rows of a prompt are used
STYLES = {
    spec.ZSOPT: ("template_0to10_non_deter_opt_zero_shot",),
    spec.ZSNOOPT: ("template_0to10_no_opt_zero_shot",),
    spec.FSOPT: ("template_mix_five_shot", "template_0to10_x_shot"),
    spec.FSNOOPT: ("template_0to10_no_opt_x_shot",),
}
# The clusters of FLAN 2021 that P3's datasets would be in, so that they are held out with them.
CLUSTERS = {
    "adversarial_qa": "reading_comprehension",
    "amazon_polarity": "sentiment",
    "app_reviews": "sentiment",
    "cos_e": "commonsense",
    "dbpedia_14": "question_classification",
    "dream": "reading_comprehension",
    "duorc": "reading_comprehension",
    "kilt_tasks": "closed_book_qa",
    "qasc": "closed_book_qa",
    "quail": "reading_comprehension",
    "quarel": "commonsense",
    "quartz": "reading_comprehension",
    "quoref": "reading_comprehension",
    "race_high": "reading_comprehension",
    "race_middle": "reading_comprehension",
    "ropes": "reading_comprehension",
    "sciq": "closed_book_qa",
    "social_i_qa": "commonsense",
    "web_questions": "closed_book_qa",
    "wiki_bio": "structure_to_text",
    "wiki_hop": "reading_comprehension",
    "wiki_qa": "closed_book_qa",
    "wiqa": "commonsense",
}
_END = "<|endoftext|>"
_BULLET = re.compile(r"\s*[-*\u2022]\s+(\S.*)")
_CALL = re.compile(r"\s*\w{1,10}:\s*")  # "A:", "Answer:" after the options
_HEADER = 60  # characters of a line of its own that announces options


def example(row: spec.Row) -> spec.Example | None:
    """A prompt and its completion; or None where either is empty.

    Options are those that the row has as choices, or that end the prompt as a list in which the answer is. They leave the
    question, so that styles may show them or not; a prompt that names its choices in a sentence stays as it is.
    """
    whole = question(row)
    if whole is None:
        return None
    prompt, answer = whole.fields["question"], whole.answer
    choices = tuple(choice.strip() for choice in row["answer_choices"]) if "answer_choices" in row else ()
    asked, options = listed(prompt, answer)
    if not options and answer in choices and not all(choice in prompt for choice in choices):
        options = tuple(dict.fromkeys(choices))
    return spec.Example(fields={"question": asked}, answer=answer, options=options)


def question(row: spec.Row) -> spec.Example | None:
    """The same with the prompt whole, whatever it lists: templates of questions would not show what is cut off."""
    published = "inputs_pretokenized" in row
    prompt = _clean(row["inputs_pretokenized" if published else "prompt"])
    answer = _clean(row["targets_pretokenized" if published else "completion"])
    return spec.Example(fields={"question": prompt}, answer=answer) if prompt and answer else None


def listed(prompt: str, answer: str) -> tuple[str, tuple[str, ...]]:
    """Cuts the list of options that a prompt ends with.

    `listed("Where do fish live?\\nOptions:\\n- in trees\\n- in water", "in water")` is
    `("Where do fish live?", ("in trees", "in water"))`.

    Returns:
      The prompt without them and without the line that announces them, and the options; the prompt and none where it ends
      with no list, the answer is not in it, or what announces it is part of a sentence.
    """
    lines = prompt.split("\n")
    end = len(lines) - 1 if _CALL.fullmatch(lines[-1]) else len(lines)
    start, options = end, list[str]()
    while start and (not lines[start - 1].strip() or _BULLET.fullmatch(lines[start - 1])):
        start -= 1
        if lines[start].strip():
            options.insert(0, _BULLET.fullmatch(lines[start])[1].strip())  # type: ignore[index]  # it matched above
    kept = "\n".join(lines[:start]).rstrip()
    rest, _, last = kept.rpartition("\n")
    if kept.endswith(":"):
        kept = rest.rstrip() if rest.strip() and len(last) <= _HEADER else ""
    if answer not in options or len(options) < 2 or len(set(options)) < len(options) or not kept:
        return prompt, ()
    return kept, tuple(options)


def _clean(text: str) -> str:
    return text.strip().removesuffix(_END).strip()


def dataset(name: str, *, of: str, form: str, rows: int, tfds_name: str, cluster: str = "") -> spec.DatasetSpec:
    """The dataset of one prompt.

    Args:
      name: of the prompt.
      of: the dataset that it is applied to.
      form: `question_answer`, `multiple_choice` or `multiple_choice_separated_options`.
      rows: of the train split, as published.
      tfds_name: where its rows are.
      cluster: the cluster that it is held out with; that of `CLUSTERS`, or `of` itself, if empty.
    """
    return spec.DatasetSpec(
        name=PREFIX + name,
        cluster=cluster or CLUSTERS.get(of, of),
        tfds_name=tfds_name,
        splits={"train": "train"},
        example=question if form == "question_answer" else example,
        metrics=("rouge",) if form == "question_answer" else ("accuracy",),
        train_rows=rows,
        templates=f"t0_{form}",
        collection="t0",
        sources=(of,),
    )


@functools.cache
def datasets() -> tuple[spec.DatasetSpec, ...]:
    """The 193, in the order of their names."""
    path = pathlib.Path(__file__).with_name("t0_sf.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(_listed(list(csv.DictReader(file))))


def _listed(rows: Sequence[dict[str, str]]) -> list[spec.DatasetSpec]:
    return [
        dataset(
            row["task"],
            of=row["dataset"],
            form=row["form"],
            rows=int(row["train_rows"]),
            tfds_name=f"p3/{row['task']}:1.0.0",
        )
        for row in rows
    ]


def names() -> tuple[str, ...]:
    """The names of the 193 datasets."""
    return tuple(dataset.name for dataset in datasets())


COLLECTIONS = (
    spec.Collection(
        name="t0",
        styles=STYLES,
        datasets=datasets,
        published=PUBLISHED,
        maximum=MAXIMUM,
        about="T0-SF: rows of P3 (huggingface.co/datasets/bigscience/P3; Apache-2.0, the texts under the terms of their own "
        "datasets) as JSON lines, RECORDS/p3/PROMPT/train.jsonl with the fields prompt and completion",
    ),
    # OPT-IML's PromptSource has 280 tasks; these of its prompts are at hand.
    spec.Collection("promptsource", STYLES, members=names, published=280, maximum=MAXIMUM),
)
