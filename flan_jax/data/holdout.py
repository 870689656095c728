"""FLAN's mixtures as one table, what is held out together, and a proof that nothing held out is trained on.

The 12 clusters of FLAN 2021 (figure 3) are held out one at a time. Its figure groups seven datasets as "Misc."; in its
experiments they are six clusters, held out apart (`misc` names them all). Names, with D one of `{n}templates[_K_shot]`,
`no_template` and `dataset_name` (see `styles`), n in 1, 2, 4, 7, 10:

    flan2021_D                  every dataset
    nli_D, misc_D, ...          one cluster: what is evaluated when it is held out
    flan_minus_nli_D, ...       every dataset but a held-out cluster, those held out with it, and those of its sources
    cot_D                       the chain-of-thought collection

FLAN's public names, each with `_train` and `_eval` behind it or, without, meaning the former:

    flan_inter_cluster_split_{i}_10templates[_K_shot]   one cluster held out, by its number in FLAN's code
    flan_diversity_split_{1..7}..., flan_inter_split_...  see `_by_number`

And those of the Flan Collection over the same datasets, examples capped at 30,000 (FLAN 2022, table 23):
`flan_zsopt`, `flan_zsnoopt`, `flan_fsopt`, `flan_fsnoopt`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flan_jax import errors
from flan_jax.data import spec, styles

# "Misc." of figure 3.
MISC = (
    "conversational_qa",
    "word_disambiguation",
    "question_classification",
    "linguistic_acceptability",
    "math",
    "text_formatting",
)
# Held out together (FLAN 2021, section 2.2): NLI and paraphrase, either way; reading comprehension and commonsense
# each without the cluster that needs both, and that cluster without either.
EXCLUDED_WITH = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "reading_comprehension": ("reading_comprehension_with_commonsense",),
    "commonsense": ("reading_comprehension_with_commonsense",),
    "reading_comprehension_with_commonsense": ("reading_comprehension", "commonsense"),
}
# Clusters by their number in FLAN's `flan_inter_cluster_split_{i}`.
INTER_CLUSTER = (
    "summarization",
    "structure_to_text",
    "reading_comprehension",
    "closed_book_qa",
    "paraphrase",
    "sentiment",
    "text_formatting",
    "commonsense",
    "translation",
    "coreference",
    "nli",
    "math",
    "conversational_qa",
    "word_disambiguation",
    "linguistic_acceptability",
    "question_classification",
    "reading_comprehension_with_commonsense",
)
# The order in which clusters are added to training (FLAN 2021, figure 6), and what is evaluated then.
ADDED = (
    "summarization",
    "translation",
    "reading_comprehension",
    "sentiment",
    "structure_to_text",
    "coreference",
    "conversational_qa",
)
EVALUATED = ("nli", "commonsense", "closed_book_qa")
DATASETS_A_CLUSTER = (1, 2, 3, 4)
RATE_MAXIMUM = 3_000  # "mixing rate maximum of 3k", FLAN 2021 section 2.1
RATE_MAXIMUM_2022 = 30_000
COLLECTION = {
    "flan_zsopt": ("template_0to10_zero_shot",),
    "flan_zsnoopt": ("template_0to10_no_opt_zero_shot",),
    "flan_fsopt": ("template_mix_five_shot", "template_0to10_x_shot"),
    "flan_fsnoopt": ("template_0to10_no_opt_x_shot",),
}
# Builders whose configs are datasets of their own; the configs of any other share their texts.
_SUITES = {"glue", "super_glue", "gem", "huggingface", "p3", "opinion_abstracts", "math_dataset"}
# The same dataset under another name.
_SAME = {
    "wsc.fixed": "wsc",
    "multi_nli": "mnli",
    "multi_nli_mismatch": "mnli",
    "esnli": "snli",
    "natural_questions_open": "natural_questions",
}


@dataclasses.dataclass(frozen=True)
class MixtureSpec:
    """A mixture as data.

    Attributes:
      name: what `MIXTURE_OR_TASK_NAME` says.
      tasks: names of its tasks.
      rate_maximum: the number of examples past which a task weighs no more.
      evaluates: whether its tasks are there to be evaluated rather than trained on.
    """

    name: str
    tasks: tuple[str, ...]
    rate_maximum: int | None = RATE_MAXIMUM
    evaluates: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a mixture of the table is made of: every one of the datasets in every one of the styles."""

    datasets: tuple[str, ...]
    styles: tuple[str, ...]
    rate_maximum: int | None = RATE_MAXIMUM
    evaluates: bool = False

    def mixture(self, name: str) -> MixtureSpec:
        tasks = tuple(f"{dataset}_{style}" for dataset in self.datasets for style in self.styles)
        return MixtureSpec(name, tasks, self.rate_maximum, self.evaluates)


Members = Sequence[spec.DatasetSpec]


def table(specs: spec.SpecRegistry) -> dict[str, Recipe]:
    """Every mixture that follows from the datasets' clusters and collections, by name."""
    flan = [dataset for dataset in specs if dataset.collection == "flan2021"]
    found: dict[str, Recipe] = {}

    def add(
        name: str, members: Members, *in_styles: str, evaluates: bool = False, rate: int | None = RATE_MAXIMUM
    ) -> None:
        # What has no train split has no exemplars either.
        shot = any(style.endswith("_shot") and "zero_shot" not in style for style in in_styles)
        names = tuple(d.name for d in members if "train" in d.splits or (evaluates and not shot))
        if names:
            found[name] = Recipe(names, in_styles, rate, evaluates)

    def both(name: str, train: Members, evaluated: Members, style: str) -> None:
        add(name, train, style)
        add(f"{name}_train", train, style)
        add(f"{name}_eval", evaluated, style, evaluates=True, rate=None)

    cot = [dataset for dataset in specs if dataset.collection == "cot"]
    clusters = [cluster for cluster in (*dict.fromkeys(d.cluster for d in flan), "misc") if _of(flan, cluster)]
    rest = {cluster: list(_without(flan, cluster)) for cluster in clusters}
    for style in _training_styles():
        add(f"flan2021_{style}", flan, style)
        add(f"cot_{style}", cot, style)
        for cluster in clusters:
            add(f"{cluster}_{style}", _of(flan, cluster), style, evaluates=True)
            add(f"flan_minus_{cluster}_{style}", rest[cluster], style)
    for number, cluster in enumerate(INTER_CLUSTER):
        together = {cluster, *EXCLUDED_WITH.get(cluster, ())}
        train = [dataset for dataset in flan if dataset.cluster not in together]
        for shot in _shots():
            both(
                f"flan_inter_cluster_split_{number}_10templates{shot}", train, _of(flan, cluster), f"10templates{shot}"
            )
    for name, train, style in _by_number(flan):
        both(name, train, [d for cluster in EVALUATED for d in _of(flan, cluster)], style)
    for name, in_styles in COLLECTION.items():
        add(name, flan, *in_styles, rate=RATE_MAXIMUM_2022)
    return found


def _by_number(flan: Members) -> Iterator[tuple[str, Members, str]]:
    """`flan_diversity_split{k}_{n}templates`: the first k clusters; `flan_inter_split_{n}templates_{t}tpc`: t of each.

    The paper counts 11, 20, 26, 30, 34, 37 and 39 datasets as clusters are added; here are 11, 19, 25, 29, 33, 35 and
    37 (8 of translation, as in FLAN's code, and 2 of coreference that can be trained on), SQuAD's two versions apart.
    """
    clusters = [[d for d in _of(flan, cluster) if "train" in d.splits] for cluster in ADDED]
    for n in styles.TEMPLATE_COUNTS:
        for k in range(1, len(ADDED) + 1):
            yield f"flan_diversity_split{k}_{n}templates", [d for c in clusters[:k] for d in c], f"{n}templates"
        for t in DATASETS_A_CLUSTER:
            yield f"flan_inter_split_{n}templates_{t}tpc", [d for c in clusters for d in c[:t]], f"{n}templates"


def _shots() -> tuple[str, ...]:
    return ("", *(f"_{name}" for name in styles.SHOTS))


def _training_styles() -> Iterator[str]:
    yield from (f"{n}templates{shot}" for n in styles.TEMPLATE_COUNTS for shot in _shots())
    yield from ("all_prompts", "no_template", "dataset_name")


def _of(datasets: Iterable[spec.DatasetSpec], cluster: str) -> list[spec.DatasetSpec]:
    names = members_of(cluster)
    return [dataset for dataset in datasets if dataset.cluster in names]


def members_of(cluster: str) -> tuple[str, ...]:
    """The clusters that a name stands for: itself, or the six of `misc`."""
    return MISC if cluster == "misc" else (cluster,)


def _without(datasets: Iterable[spec.DatasetSpec], cluster: str) -> Iterator[spec.DatasetSpec]:
    """Every dataset that may be trained on when a cluster is held out."""
    datasets = list(datasets)
    held = _of(datasets, cluster)
    return (d for d in datasets if _reason(d.name, d.cluster, d.tfds_dataset, cluster, held) is None)


def source(tfds_dataset: str) -> str:
    """What tells datasets with common texts: `super_glue/rte` and `glue/rte` are `rte`, `para_crawl/*` `para_crawl`."""
    builder, _, config = tfds_dataset.partition("/")
    name = config.split("/")[0] if builder in _SUITES and config else builder
    return _SAME.get(name, name)


@dataclasses.dataclass(frozen=True)
class Leak:
    """A task of a training mixture that a held-out cluster forbids, or that nothing is known of."""

    task: str
    dataset: str
    reason: str

    def __str__(self) -> str:
        return f"{self.task}: {self.reason}"


def heldout_leaks(catalogue: Any, mixture: str, cluster: str) -> list[Leak]:
    """Looks for tasks of a mixture that must not be trained on when a cluster is held out.

    These are tasks of the cluster itself, of the clusters held out with it, and of any dataset with a data source in
    common with the cluster's. A task out of seqio's registries is judged by the TFDS dataset that it reads; one that
    reads something else is reported, as nothing can be shown of it.

    Args:
      catalogue: a `mixtures.Catalogue`.
      mixture: the mixture, or task, that a model is trained on.
      cluster: what is held out; `misc` for the six clusters under "Misc." of the paper's figure.

    Returns:
      One entry a task; empty if nothing leaks.

    Raises:
      FlanError: no such mixture, or no such cluster.
    """
    known = {dataset.cluster for dataset in catalogue.specs}
    if not known & set(members_of(cluster)):
        raise errors.unknown("cluster", cluster, known | {"misc"})
    held = _of(catalogue.specs, cluster)
    found = []
    for name in catalogue.mixture(mixture).tasks:
        for task, dataset, of_cluster, tfds_dataset in _members(catalogue, name):
            if tfds_dataset is None:
                reason = "it reads no TFDS dataset, so what it holds cannot be shown"
            else:
                reason = _reason(dataset, of_cluster, tfds_dataset, cluster, held)
            if reason is not None:
                found.append(Leak(task, dataset, reason))
    return found


def _reason(dataset: str, of_cluster: str | None, tfds_dataset: str, cluster: str, held: Members) -> str | None:
    """Why a dataset may not be trained on when a cluster is held out; None if it may."""
    if of_cluster in members_of(cluster):
        return f"of the held-out cluster {of_cluster}"
    if of_cluster in EXCLUDED_WITH.get(cluster, ()):
        return f"of cluster {of_cluster}, which is held out with {cluster}"
    for other in held:
        if source(other.tfds_dataset) == source(tfds_dataset):
            held_out = f"{other.name} ({other.tfds_dataset}) of the held-out cluster {other.cluster}"
            return f"it reads {tfds_dataset}, the source of {held_out}"
    return None


def _members(catalogue: Any, name: str) -> Iterator[tuple[str, str, str | None, str | None]]:
    """(task, dataset, cluster, TFDS dataset) of one of flan_jax's tasks, or of those behind a name of seqio's."""
    task = catalogue.tasks.find(name)
    if task is not None:
        yield name, task.dataset.name, task.dataset.cluster, task.dataset.tfds_dataset
        return
    for foreign in catalogue.seqio_tasks(name):
        described = getattr(foreign.source, "tfds_dataset", None)
        tfds_name = described.name.split(":")[0] if described is not None and described.name else None
        yield foreign.name, foreign.name, None, tfds_name
