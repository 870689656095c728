"""Reading comprehension with commonsense (FLAN 2021, figure 3): what a passage does not say has to be supplied."""

from flan_jax.data import spec

COSMOS_QA_ANSWERS = ("answer0", "answer1", "answer2", "answer3")
PLACEHOLDER = "@placeholder"
HIGHLIGHT = "\n@highlight"


def _cosmos_qa(row: spec.Row) -> spec.Example | None:
    # The published test split has no labels.
    if row["label"] < 0:
        return None
    options = tuple(row[answer].strip() for answer in COSMOS_QA_ANSWERS)
    fields = {"context": row["context"].strip(), "question": row["question"].strip()}
    return spec.Example(fields=fields, answer=options[row["label"]], options=options)


def _record(row: spec.Row) -> spec.Example | None:
    """A cloze sentence cut at the gap: the input ends before it, an option is an entity and the rest of the sentence.

    A query that begins with the gap gives an empty field `query`. The news summary's highlights below the passage are
    left out, as FLAN's code does (the paper is silent), so that more passages fit into 1,024 tokens.
    """
    query, gap, _ = row["query"].partition(PLACEHOLDER)
    if not gap or not row["answers"]:
        return None

    def endings(entities: list[str]) -> tuple[str, ...]:
        # Replacing in the whole query fills a second gap, too; dict.fromkeys: repeated entities once.
        filled = (row["query"].replace(PLACEHOLDER, entity)[len(query) :] for entity in entities)
        return tuple(dict.fromkeys(text.strip() for text in filled))

    options, answers = endings(row["entities"]), endings(row["answers"])
    # Whoever scores options can find no answer but an entity.
    if answers[0] not in options:
        return None
    fields = {"passage": row["passage"].partition(HIGHLIGHT)[0].strip(), "query": query.strip()}
    return spec.Example(fields=fields, answer=answers[0], options=options, answers=answers)


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="cosmos_qa",
        cluster="reading_comprehension_with_commonsense",
        tfds_name="cosmos_qa:1.0.0",
        splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=_cosmos_qa,
        metrics=("accuracy",),
        train_rows=25_262,
        templates="cosmos_qa",
    ),
    spec.DatasetSpec(
        name="record",
        cluster="reading_comprehension_with_commonsense",
        tfds_name="super_glue/record:1.0.2",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "validation"},
        example=_record,
        metrics=("record",),
        train_rows=100_730,
        templates="record",
    ),
)
