"""Muffin of Flan 2022: the datasets of FLAN 2021's public code, two more that are public, and dialogue.

`muffin.csv` lists the 80 tasks of the paper and the inverted forms of those of dialogue and program synthesis, and why some
are not there: their rows were left out of the public release. The datasets of FLAN 2021 are in the modules of their
clusters, those here are the others (https://arxiv.org/abs/2210.11416, appendix; Flan 2022's public task files).
"""

import csv
import functools
import pathlib
import re
import zlib
from collections.abc import Sequence

from flan_jax.data import spec

PUBLISHED = 80
_LABELS = "ABCD"
_OPTION = re.compile(r"\(([A-Z])\)\s*")
# UnifiedQA's files write a newline as a backslash and an n.
_LINE = re.compile(r"\s*(?:\\n|\n)\s*")
_MOST_TURNS = 40  # "up to 20 pairs"
_FIRST_TURN = 6  # rows of QReCC at this turn or before have too little to go on; Flan 2022 drops them
# How the two speakers of a dialogue are marked: one pair for each dialogue.
_SPEAKERS = (
    *(("A: ", "B: "), ("Person 1: ", "Person 2: "), ("User: ", "Assistant: "), ("Speaker A: ", "Speaker B: ")),
    *(("Q: ", "A: "), ("You: ", "Me: "), ("First: ", "Second: "), ("Customer: ", "Agent: "), ("Student: ", "Tutor: ")),
    *(("- ", "- "), ("[1] ", "[2] "), ("(a) ", "(b) "), ("Reader: ", "Writer: "), ("Guest: ", "Host: ")),
)


def _lambada(row: spec.Row) -> spec.Example | None:
    """The last word of a passage is what is asked for (https://arxiv.org/abs/1606.06031)."""
    sentence, _, word = " ".join(row["passage"].split()).rpartition(" ")
    return spec.Example(fields={"sentence": sentence}, answer=word) if sentence else None


def _science(row: spec.Row) -> spec.Example | None:
    """Question and options out of UnifiedQA's one text; None unless there are four options, (A) to (D), and the answer."""
    question, *rest = _LINE.split(row["input"].strip(), maxsplit=1)
    parts = _OPTION.split(rest[0]) if rest else [""]
    labels, options = parts[1::2], tuple(text.strip() for text in parts[2::2])
    answer = row["output"].strip()
    if "".join(labels) != _LABELS or answer not in options or len(set(options)) < len(options):
        return None
    return spec.Example(fields={"question": question}, answer=answer, options=options)


def _wiki_dialog(row: spec.Row) -> spec.Example | None:
    """What comes next in a dialogue about a passage, whose first utterance only introduces it."""
    return _next_turn(row["utterances"][1:])


def _qrecc(row: spec.Row) -> spec.Example | None:
    return _next_turn(row["context"]) if row["turn_id"] > _FIRST_TURN else None


def _next_turn(turns: Sequence[str]) -> spec.Example | None:
    """Cuts a dialogue before one of its answers; which one, and how speakers are marked, follows from what is said."""
    said = [" ".join(turn.split()) for turn in turns]
    count = min(len(said), _MOST_TURNS) // 2
    if not count or not all(said[: 2 * count]):
        return None
    drawn = zlib.crc32("\n".join(said).encode("utf-8"))
    end = 2 * (drawn % count) + 1
    marks = _SPEAKERS[drawn // count % len(_SPEAKERS)]
    lines = [marks[number % 2] + turn for number, turn in enumerate(said[:end])]
    return spec.Example(fields={"dialog": "\n".join(lines), "speaker": marks[1].strip()}, answer=said[end])


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="lambada",
        cluster="language_modeling",
        tfds_name="lambada:1.0.0",
        splits={"train": "train", "test": "test"},
        example=_lambada,
        metrics=("accuracy",),
        train_rows=4_869,
        templates="lambada",
        collection="muffin",
    ),
    spec.DatasetSpec(
        name="unified_qa_science_inst",
        cluster="closed_book_qa",
        tfds_name="unified_qa/ai2_science_middle:1.0.0",
        splits={"train": "train", "validation": "validation", "test": "test"},
        example=_science,
        metrics=("accuracy",),
        train_rows=605,
        templates="unified_qa_science_inst",
        collection="muffin",
    ),
    spec.DatasetSpec(
        name="wiki_dialog",
        cluster="dialog",
        tfds_name="wiki_dialog/OQ:1.0.0",
        splits={"train": "train", "validation": "validation"},
        example=_wiki_dialog,
        metrics=("rouge",),
        train_rows=11_264_129,
        templates="dialog",
        collection="dialog",
        inverted="dialog_inverted",
    ),
    spec.DatasetSpec(
        name="qrecc",
        cluster="dialog",
        tfds_name="q_re_cc:1.0.0",
        splits={"train": "train", "test": "test"},
        example=_qrecc,
        metrics=("rouge",),
        train_rows=63_501,
        kept=10_170 / 63_501,
        templates="dialog",
        collection="dialog",
        inverted="dialog_inverted",
    ),
)


def members() -> tuple[str, ...]:
    """The 80 tasks of the paper, in the order of its list; those that are not public are among them."""
    return tuple(row["task"] for row in _listed() if row["inverted"] == "no")


def left_out() -> dict[str, str]:
    """Why a task is not there, inverted forms included."""
    return {row["task"]: row["left_out"] for row in _listed() if row["left_out"]}


def of(group: str) -> tuple[str, ...]:
    """The tasks of `flan2021`, `added`, `dialog` or `program_synthesis`."""
    return tuple(row["task"] for row in _listed() if row["group"] == group and row["inverted"] == "no")


@functools.cache
def _listed() -> tuple[dict[str, str], ...]:
    path = pathlib.Path(__file__).with_name("muffin.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


_FEW_SHOT = ("template_mix_five_shot", "template_0to10_x_shot")
STYLES = {
    spec.ZSOPT: ("template_0to10_non_deter_opt_zero_shot",),
    spec.ZSNOOPT: ("template_0to10_no_opt_zero_shot",),
    spec.FSOPT: _FEW_SHOT,
    spec.FSNOOPT: ("template_0to10_no_opt_x_shot",),
}
# Flan 2022 asks dialogue in one way: there are no options that could be shown.
DIALOG_STYLES = {spec.ZSOPT: ("template_0to10_zero_shot",), spec.FSOPT: _FEW_SHOT}

# Examples past which a task weighs no more (FLAN 2022, table 23); dialogue's are of Flan 2022's public mixtures.
COLLECTIONS = (
    spec.Collection(
        "muffin", STYLES, members=members, left_out=left_out, published=PUBLISHED, maximum=30_000, inverted=0.3
    ),
    spec.Collection("flan", STYLES, members=functools.partial(of, "flan2021"), published=69, maximum=30_000),
    spec.Collection(
        "dialog",
        DIALOG_STYLES,
        members=functools.partial(of, "dialog"),
        left_out=left_out,
        published=3,
        maximum=200_000,
        inverted=0.3,
    ),
    spec.Collection(
        "program_synthesis",
        DIALOG_STYLES,
        members=functools.partial(of, "program_synthesis"),
        left_out=left_out,
        published=5,
        maximum=30_000,
        inverted=0.3,
    ),
)
