"""The small world: 12 clusters of generated tasks that a model of less than a million parameters learns on a CPU.

`flan data small-world --out DIR` makes the records, prepares them, and writes text to pre-train on and a vocabulary; a run names
this module in `MIXTURE_OR_TASK_MODULE`. It is not part of the catalogue, and none of its names is used there, so mixtures
are named as FLAN 2021's: `flan2021_10templates` is all of the small world, `flan_minus_facts_10templates` all but one
cluster. What it stands for, by FLAN's figure 3: entailment is NLI, reading is reading comprehension, facts closed-book QA,
comparison and counting what commonsense is there; the others have the names of their clusters.

Two steps of arithmetic are asked in two ways over the same rows: for the answer (`direct_change`, one of this collection) and
for reasons before it (`steps_change`, of the collection `cot`). `two_step_total` is a cluster of its own, so that it can be
held out: both its steps occur in other datasets, not together.
"""

import dataclasses
import functools

from flan_jax.data import spec

_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
# Cluster -> dataset -> (template file, fields, share of right answers by guessing; 0 where the answer is free text).
CLUSTERS: dict[str, dict[str, tuple[str, tuple[str, ...], float]]] = {
    "entailment": dict.fromkeys(
        ("entail_place", "entail_thing", "entail_somebody", "entail_number"),
        ("entailment", ("premise", "statement"), 1 / 2),
    ),
    "reading": {
        "read_where": ("reading", ("passage", "question"), 1 / 3),
        "read_who": ("reading", ("passage", "question"), 1 / 3),
        "read_what": ("reading", ("passage", "question"), 1 / 3),
        "read_yes_no": ("reading_yes_no", ("passage", "question"), 1 / 2),
    },
    "facts": {
        "fact_home": ("facts", ("question",), 1 / 4),
        "fact_job": ("facts", ("question",), 1 / 4),
        "fact_pet": ("facts", ("question",), 1 / 4),
        "fact_true": ("fact_true", ("statement",), 1 / 2),
    },
    "comparison": {
        "compare_who": ("comparison", ("passage", "question"), 1 / 2),
        "compare_age": ("comparison", ("passage", "question"), 1 / 2),
        "compare_list": ("largest", ("numbers", "asked"), 1 / 3),
        "compare_true": ("check", ("passage", "statement"), 1 / 2),
    },
    "counting": {
        "count_animals": ("counting", ("list", "question"), 1 / 4),
        "count_people": ("counting", ("list", "question"), 1 / 4),
        "count_things": ("counting", ("list", "question"), 1 / 4),
        "count_true": ("check", ("passage", "statement"), 1 / 2),
    },
    "sentiment": {
        "review_art": ("review", ("review", "subject"), 1 / 2),
        "review_meal": ("review", ("review", "subject"), 1 / 2),
        "review_yes_no": ("review_yes_no", ("review", "question"), 1 / 2),
        "review_who": ("review_who", ("reviews", "subject"), 1 / 2),
    },
    "coreference": {
        "pronoun_who": ("pronoun", ("passage", "pronoun"), 1 / 2),
        "pronoun_animal": ("pronoun", ("passage", "pronoun"), 1 / 2),
        "pronoun_write": ("pronoun_write", ("passage", "pronoun"), 0),
        "pronoun_true": ("check", ("passage", "statement"), 1 / 2),
    },
    "translation": {
        "translate_word": ("translate_word", ("text", "word"), 1 / 4),
        "translate_phrase": ("translate", ("text",), 0),
        "translate_sentence": ("translate", ("text",), 0),
        "translate_back": ("translate_back", ("text",), 0),
    },
    "structure_to_text": dict.fromkeys(
        ("table_place", "table_thing", "table_count", "table_two"), ("table", ("table",), 0)
    ),
    "arithmetic": {
        "sum_plain": ("expression", ("expression",), 0),
        "difference_plain": ("expression", ("expression",), 0),
        "sum_story": ("story", ("story", "question"), 0),
        "difference_story": ("story", ("story", "question"), 0),
    },
}
# Cluster -> what is asked, once for the answer alone and once for reasons before it.
STEPS = {"two_step": ("change", "gather", "chain"), "two_step_total": ("total",)}
# Share of right answers by guessing, by dataset, where there are options.
CHANCE = {name: chance for datasets in CLUSTERS.values() for name, (_, _, chance) in datasets.items() if chance}
TRAIN_ROWS = 1_000  # what `flan data small-world` makes of a dataset if it is not told otherwise


# The order in which clusters are added to training for FLAN's figure 6; what is asked then is held out.
ADDED = ("counting", "translation", "reading", "comparison", "structure_to_text", "coreference", "entailment")
HELD_OUT = ("facts", "sentiment")
NUMBERS_OF_CLUSTERS = (1, 2, 4, 7)


def _example(row: spec.Row, *, columns: tuple[str, ...]) -> spec.Example:
    fields = {column: row[column] for column in columns}
    return spec.Example(fields=fields, answer=row["answer"], options=tuple(row.get("options", ())))


def _reasons(row: spec.Row) -> spec.Example:
    fields = {"question": f"{row['story']} {row['question']}", "rationale": row["rationale"]}
    return spec.Example(fields=fields, answer=row["answer"])


def _dataset(name: str, cluster: str, template: str, columns: tuple[str, ...], source: str) -> spec.DatasetSpec:
    return spec.DatasetSpec(
        name=name,
        cluster=cluster,
        tfds_name=f"small_world_{source}:1.0.0",
        splits=_SPLITS,
        example=functools.partial(_example, columns=columns),
        metrics=("accuracy",),
        train_rows=TRAIN_ROWS,
        templates=f"small_world/{template}",
    )


def _with_reasons(name: str, cluster: str) -> spec.DatasetSpec:
    return spec.DatasetSpec(
        name=name,
        cluster=cluster,
        tfds_name=f"small_world_{name}:1.0.0",
        splits=_SPLITS,
        example=_reasons,
        metrics=("answer_accuracy",),
        train_rows=TRAIN_ROWS,
        templates="small_world/steps",
        collection="cot",
        rationale=True,
        prefix="cot",
    )


SPECS: tuple[spec.DatasetSpec, ...] = (
    *(
        _dataset(name, cluster, template, columns, name)
        for cluster, datasets in CLUSTERS.items()
        for name, (template, columns, _) in datasets.items()
    ),
    *(
        _dataset(f"direct_{name}", cluster, "story", ("story", "question"), f"steps_{name}")
        for cluster, names in STEPS.items()
        for name in names
    ),
    *(_with_reasons(f"steps_{name}", cluster) for cluster, names in STEPS.items() for name in names),
)


def _document(row: spec.Row) -> spec.Example:
    return spec.Example(fields={"text": row["text"]}, answer="")


def _cut(row: spec.Row) -> spec.Example:
    return spec.Example(fields={"text": row["text"]}, answer=row["answer"])


def _text() -> tuple[spec.DatasetSpec, ...]:
    """Plain text, in the place of C4: `small_world_text_span_corruption`, `small_world_text_prefix_lm` ..."""
    text = spec.DatasetSpec(
        name="small_world_text",
        cluster="pretraining",
        tfds_name="small_world_text:1.0.0",
        splits={"train": "train", "validation": "validation"},
        example=_document,
        metrics=(),
        train_rows=30 * TRAIN_ROWS,
        templates="",
        collection="pretraining",
    )
    # The same text in two parts, of which the second can be told from the first: `small_world_cut_1templates`.
    cut = dataclasses.replace(
        text, name="small_world_cut", tfds_name="small_world_cut:1.0.0", example=_cut, templates="small_world/cut"
    )
    return (text, cut)


def _first(count: int) -> spec.Collection:
    """The first clusters of `ADDED`: `first_4_clusters_10templates`, or without instructions (figure 8)."""
    return spec.Collection(
        f"first_{count}_clusters",
        {style: (style,) for style in ("10templates", "dataset_name", "no_template")},
        members=lambda: tuple(name for cluster in ADDED[:count] for name in CLUSTERS[cluster]),
        about=f"the first {count} of the clusters that are added one after the other",
    )


COLLECTIONS = (
    spec.Collection("pretraining", {}, datasets=_text, published=1, about="plain text of the small world"),
    *map(_first, NUMBERS_OF_CLUSTERS),
)
# For Flan 2022's figure 5; with `_heldout_two_step_total` behind it, none has the task that is asked.
_ANSWERS = spec.Part("flan2021", 0.75, style="10templates")
_REASONS = spec.Part("cot", 0.25, style="template_0to10_zero_shot")
BLENDS = (
    spec.Blend("answers_only", (_ANSWERS,), about="no reasons before any answer"),
    spec.Blend("reasons_only", (_REASONS,), about="reasons before every answer"),
    spec.Blend("answers_and_reasons", (_ANSWERS, _REASONS), about="both"),
)
