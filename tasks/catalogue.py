"""Every dataset of flan_jax: what `MIXTURE_OR_TASK_MODULE = "flan_jax.tasks.catalogue"` makes known to a run."""

from flan_jax.tasks import (
    closed_book_qa,
    collections,
    commonsense,
    coreference,
    cot,
    misc,
    muffin,
    niv2,
    nli,
    paraphrase,
    pretraining,
    reading_comprehension,
    reading_comprehension_with_commonsense,
    sentiment,
    structure_to_text,
    summarization,
    t0_sf,
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
    *muffin.SPECS,
)
COLLECTIONS = (
    *muffin.COLLECTIONS,
    *t0_sf.COLLECTIONS,
    *niv2.COLLECTIONS,
    *pretraining.COLLECTIONS,
    *collections.COLLECTIONS,
)
BLENDS = collections.BLENDS
