"""Structure to text: four datasets of GEM that put concepts, attributes or triples into words (FLAN 2021, Figure 3).

GEM's train rows carry a target and no references, the others a target and all references, the target among them. The
exception is E2E, whose rows carry one reference each although several rows share their input. GEM withholds CommonGen's
test targets, so FLAN carves validation rows out of `train` and tests all four on the published validation split.
"""

import re
from collections.abc import Callable

from flan_jax.data import spec

_E2E_ATTRIBUTE = re.compile(r"\[([^\]]*)\]")
# DART joins a table's title and its rows to a root node by these names, which no reader ever sees.
_DART_ROOT, _DART_TITLE = "[TABLECONTEXT] ", "[TITLE]"


def _described(field: str, structure: str, row: spec.Row) -> spec.Example | None:
    """An example whose answer is the row's target; `None` where there is nothing to describe or no target."""
    target = row["target"].strip()
    if not (structure and target):
        return None
    # dict.fromkeys: the target first, each reference once.
    answers = dict.fromkeys((target, *(reference.strip() for reference in row["references"])))
    return spec.Example(fields={field: structure}, answer=target, answers=tuple(text for text in answers if text))


def _common_gen(row: spec.Row) -> spec.Example | None:
    return _described("concepts", ", ".join(row["concepts"]), row)


def _dart(row: spec.Row) -> spec.Example | None:
    # TFDS has flattened each triple to "subject RELATION value". FLAN deletes whatever is in brackets; that costs the
    # title its relation, and some values a part of theirs.
    triples = (triple.replace(_DART_ROOT, "").replace(_DART_TITLE, "TITLE") for triple in row["tripleset"])
    return _described("triples", "; ".join(triple.replace("_", " ").strip() for triple in triples), row)


def _e2e_nlg(row: spec.Row) -> spec.Example | None:
    # "name[Blue Spice], area[riverside]" -> "name = Blue Spice, area = riverside"
    return _described("attributes", _E2E_ATTRIBUTE.sub(r" = \1", row["meaning_representation"]).strip(), row)


def _web_nlg_en(row: spec.Row) -> spec.Example | None:
    # FLAN puts commas for the bars, but names such as "Abilene,_Texas" have commas of their own.
    triples = "; ".join(triple.replace("_", " ").replace('"', "").strip() for triple in row["input"])
    return _described("triples", triples, row)


def _gem(name: str, example: Callable[[spec.Row], spec.Example | None], train_rows: int) -> spec.DatasetSpec:
    return spec.DatasetSpec(
        name=name,
        cluster="structure_to_text",
        tfds_name=f"gem/{name}:1.1.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=example,
        metrics=("multi_reference_rouge",),
        train_rows=train_rows,
        templates=name,
    )


SPECS: tuple[spec.DatasetSpec, ...] = (
    _gem("common_gen", _common_gen, train_rows=67_389),
    _gem("dart", _dart, train_rows=62_659),
    _gem("e2e_nlg", _e2e_nlg, train_rows=33_525),
    _gem("web_nlg_en", _web_nlg_en, train_rows=35_426),
)
