"""Every dataset of flan_jax: what `MIXTURE_OR_TASK_MODULE = "flan_jax.tasks.catalogue"` makes known to a run."""

from flan_jax.tasks import (
    closed_book_qa,
    commonsense,
    coreference,
    cot,
    misc,
    nli,
    paraphrase,
    reading_comprehension,
    reading_comprehension_with_commonsense,
    sentiment,
    structure_to_text,
    summarization,
    translation,
)

SPECS = (
    *nli.SPECS,
    *commonsense.SPECS,
    *sentiment.SPECS,
    *paraphrase.SPECS,
    *closed_book_qa.SPECS,
    *structure_to_text.SPECS,
    *reading_comprehension.SPECS,
    *reading_comprehension_with_commonsense.SPECS,
    *coreference.SPECS,
    *misc.SPECS,
    *translation.SPECS,
    *summarization.SPECS,
    *cot.SPECS,
)
