"""The coreference cluster of FLAN 2021: what does a pronoun, or a blank, stand for? (Figure 3)

The figure lists WSC273, which has a test split and nothing to train on. FLAN's public code puts SuperGLUE's WSC in its
place; that is here too, outside the 62 datasets of the paper.
"""

import re
from collections.abc import Mapping, Sequence

from flan_jax.data import spec

_WSC_ANSWERS = ("no", "yes")  # False, True
_PERSONAL = {"he", "him", "she", "they", "them"}  # pronouns that stand for a name without 's; "her" may be possessive


def _choice(fields: Mapping[str, str], options: Sequence[str], right: int) -> spec.Example | None:
    """An example whose answer is one of its own options; `None` for a row without a label, which has -1."""
    if not 0 <= right < len(options):
        return None
    shown = tuple(option.strip() for option in options)
    return spec.Example(fields=fields, answer=shown[right], options=shown)


def _definite_pronoun_resolution(row: spec.Row) -> spec.Example | None:
    fields = {"sentence": row["sentence"].strip(), "pronoun": row["pronoun"].strip()}
    return _choice(fields, row["candidates"], row["label"])


def _winogrande(row: spec.Row) -> spec.Example | None:
    # Partial evaluation (https://arxiv.org/abs/1806.02847): the text up to the blank, then each option with the rest.
    context, _, rest = row["sentence"].partition("_")
    return _choice({"context": context.strip()}, (row["option1"] + rest, row["option2"] + rest), row["label"])


def _wsc273(row: spec.Row) -> spec.Example | None:
    # FLAN joins option and rest with a space, so that 18 of its 273 rows end in "the stage ."; the text's own spacing
    # is kept here. 18 more rows write a person as the text first does, "Ann's", where "she" asks for "Ann": "because Ann's
    # told her about it". Offsets count characters.
    context, rest = row["text"][: row["pronoun_start"]], row["text"][row["pronoun_end"] :]
    names = (row["option1_normalized"], row["option2_normalized"])
    if row["pronoun_text"].lower() in _PERSONAL:
        names = tuple(name.removesuffix("'s") for name in names)
    return _choice({"context": context.strip()}, [name + rest for name in names], row["label"])


def _wsc(row: spec.Row) -> spec.Example | None:
    text = _marked(row["text"], row["span2_text"], row["span2_index"])
    if text is None or row["label"] < 0:
        return None
    fields = {"text": text, "pronoun": row["span2_text"], "candidate": " ".join(row["span1_text"].split())}
    answer = _WSC_ANSWERS[row["label"]]
    return spec.Example(fields=fields, answer=answer, options=_WSC_ANSWERS)


def _marked(text: str, pronoun: str, index: int) -> str | None:
    """Puts asterisks around one pronoun of a text: of the like ones, the nearest to word `index`. `None` without any.

    `_marked("Al met Bo. He hid. He ran.", "He", 5) == "Al met Bo. He hid. *He* ran."`. The index is a word off in 1
    of the 658 labelled rows.
    """
    found = re.finditer(rf"\b{re.escape(pronoun)}\b", text)
    nearest = min(found, key=lambda match: abs(len(text[: match.start()].split()) - index), default=None)
    if nearest is None:
        return None
    return f"{text[: nearest.start()]}*{nearest[0]}*{text[nearest.end() :]}".strip()


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="definite_pronoun_resolution",
        cluster="coreference",
        tfds_name="definite_pronoun_resolution:1.1.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"},
        example=_definite_pronoun_resolution,
        metrics=("accuracy",),
        train_rows=1_322,
        templates="definite_pronoun_resolution",
    ),
    spec.DatasetSpec(
        name="winogrande",
        cluster="coreference",
        # FLAN pins 1.1.0, which today's TFDS cannot build.
        tfds_name="winogrande:1.2.0",
        splits={"train": "train_xl[:30000]", "validation": "train_xl[-200:]", "test": "validation"},
        example=_winogrande,
        metrics=("accuracy",),
        train_rows=40_398,
        templates="winogrande",
    ),
    spec.DatasetSpec(
        name="wsc273",
        cluster="coreference",
        tfds_name="wsc273:1.0.0",
        splits={"test": "test"},
        example=_wsc273,
        metrics=("accuracy",),
        train_rows=0,
        templates="wsc273",
    ),
    spec.DatasetSpec(
        name="wsc",
        cluster="coreference",
        # FLAN 2021's config, whose code names the pronoun without saying which of several it is. Flan 2022 marks the
        # pronoun, for which it takes the config `wsc.fixed`; marking by nearest word does with either.
        tfds_name="super_glue/wsc:1.0.2",
        splits={"train": "train[:-50]", "validation": "train[-50:]", "test": "validation"},
        example=_wsc,
        metrics=("accuracy",),
        train_rows=554,
        templates="wsc",
        collection="extra",
    ),
)
