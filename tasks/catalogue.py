"""Every dataset of flan_jax: what `MIXTURE_OR_TASK_MODULE = "flan_jax.tasks.catalogue"` makes known to a run."""

from flan_jax.tasks import closed_book_qa, cot, nli, sentiment

SPECS = (*nli.SPECS, *sentiment.SPECS, *closed_book_qa.SPECS, *cot.SPECS)
