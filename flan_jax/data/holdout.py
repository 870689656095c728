"""FLAN's mixtures as one table, what is held out together, and a proof that nothing held out is trained on.

The 12 clusters of FLAN 2021 (figure 3) are held out one at a time. Its figure groups seven datasets as "Misc."; in its
experiments they are six clusters, held out apart (`misc` names them all). Names, with D one of `{n}templates[_K_shot]`,
`no_template` and `dataset_name` (see `styles`), n in 1, 2, 4, 7, 10:

    flan2021_D                  every dataset
    nli_D, misc_D, ...          one cluster: what is evaluated when it is held out
    flan_minus_nli_D, ...       every dataset but a held-out cluster, those held out with it, and those of its sources
    flan2021_eval_D             the 25 datasets that are compared with other models (FLAN 2021, section 3)
    flan2021_eval_nli_D, ...    those of one cluster
    cot_D                       the chain-of-thought collection

The names of FLAN's public code, all 938, each with `_train` and `_eval` behind it or, without, meaning the former. They
stand for the datasets that they have there: `PUBLIC`, which has WSC, true casing and word segmentation beside the
paper's, and no WSC273.

    flan_inter_cluster_split_{0..16}_10templates[_K_shot]           one cluster held out, by its number
    flan_intra_cluster_split_{0..9}_10templates[_K_shot]            one dataset of every cluster held out
    flan_all_overlap_10templates[_K_shot]                           nothing held out
    flan_superglue_split_{n}templates[_K_shot]                      SuperGLUE held out
    flan_superglue_split[_K_shot]_10templates_{t}train_tasks        the same; t in 5, 10, ..., 55 datasets to train on
    flan_diversity_split{1..7}_{n}templates[_15task_limit][_K_shot]   the first clusters of `ADDED`
    flan_inter_split_{n}templates_{1..4}tpc[_K_shot]                so many datasets of each of these

And those of the Flan Collection over the same datasets, examples capped at 30,000 (FLAN 2022, table 23):
`flan_zsopt`, `flan_zsnoopt`, `flan_fsopt`, `flan_fsnoopt`. Over the datasets with rationales, by their published counts:

    cot_zsopt, cot_fsopt        zero-shot and few-shot, each with its inverted forms at 0.3
    cot_submix, cot             both, at equal shares
    cot_zsnoopt, cot_fsnoopt    the former without options; not in the public release
    cot_D, and D with `_trigger` behind `{n}templates`
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import seqio_tasks, spec, styles

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
# FLAN's public clusters, by their number in `flan_inter_cluster_split_{i}`; members in its order, on which depends which
# of them its ablations take first.
PUBLIC = {
    "summarization": (
        *("aeslc", "cnn_dailymail", "gigaword", "multi_news", "newsroom", "samsum", "xsum", "ag_news_subset"),
        *("opinion_abstracts_rotten_tomatoes", "opinion_abstracts_idebate", "wiki_lingua_english_en"),
    ),
    "structure_to_text": ("web_nlg_en", "common_gen", "e2e_nlg", "dart"),
    "reading_comprehension": ("squad_v1", "squad_v2", "drop", "multirc", "openbookqa", "bool_q"),
    "closed_book_qa": ("trivia_qa", "natural_questions", "arc_challenge", "arc_easy"),
    "paraphrase": ("glue_mrpc", "glue_qqp", "paws_wiki", "stsb"),
    "sentiment": ("imdb_reviews", "sentiment140", "yelp_polarity_reviews", "sst2"),
    "text_formatting": ("true_case", "fix_punct", "word_segment"),
    "commonsense": ("copa", "hellaswag", "story_cloze", "piqa"),
    "translation": (
        *("para_crawl_enes", "wmt14_enfr", "wmt16_translate_deen", "wmt16_translate_tren", "wmt16_translate_csen"),
        *("wmt16_translate_fien", "wmt16_translate_roen", "wmt16_translate_ruen"),
    ),
    "coreference": ("definite_pronoun_resolution", "winogrande", "wsc"),
    "nli": ("anli_r1", "anli_r2", "anli_r3", "cb", "rte", "mnli_matched", "mnli_mismatched", "qnli", "wnli", "snli"),
    "math": ("math_dataset",),
    "conversational_qa": ("quac", "coqa"),
    "word_disambiguation": ("wic",),
    "linguistic_acceptability": ("cola",),
    "question_classification": ("trec",),
    "reading_comprehension_with_commonsense": ("record", "cosmos_qa"),
}
# What FLAN 2021 evaluates beside GPT-3, by the cluster that is held out for it. A translation task has one direction here.
COMPARED = {
    "nli": ("anli_r1", "anli_r2", "anli_r3", "cb", "rte"),
    "reading_comprehension": ("bool_q", "multirc", "openbookqa"),
    "closed_book_qa": ("arc_challenge", "arc_easy", "natural_questions", "trivia_qa"),
    "commonsense": ("copa", "hellaswag", "piqa", "story_cloze"),
    "coreference": ("wsc273", "winogrande"),
    "reading_comprehension_with_commonsense": ("record",),
    "translation": (
        *("wmt14_enfr", "wmt14_fren", "wmt16_translate_deen", "wmt16_translate_de_to_en"),
        *("wmt16_translate_roen", "wmt16_translate_ro_to_en"),
    ),
}
# Kinds of one dataset, which an intra-cluster split never parts.
TOGETHER = ("anli", "arc", "mnli", "opinion_abstracts", "squad")
SUPERGLUE = ("bool_q", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
SUPERGLUE_SIZES = range(5, 60, 5)
INTRA_CLUSTER_SPLITS = 10
TASK_LIMIT = 15  # of `_15task_limit`
# The order in which clusters are added to training (FLAN 2021, figure 6; the paper counts 11, 20, 26, 30, 34, 37 and 39
# datasets, FLAN's code has 8 of translation and so one fewer from there on), and what is evaluated then.
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
    "flan_zsopt": ("template_0to10_non_deter_opt_zero_shot",),
    "flan_zsnoopt": ("template_0to10_no_opt_zero_shot",),
    "flan_fsopt": ("template_mix_five_shot", "template_0to10_x_shot"),
    "flan_fsnoopt": ("template_0to10_no_opt_x_shot",),
}
RATE_MAXIMUM_COT = 100_000
INVERTED_SHARE = 0.3  # of inverted forms, where the forward ones have 1 (`CoT-II` in FLAN's public code)
# Style of the forward forms; that of the inverted ones follows by its name, options or not.
COT = {
    "cot_zsopt": ("template_0to10_zero_shot",),
    "cot_fsopt": ("template_mix_five_shot", "template_0to10_x_shot"),
    "cot_zsnoopt": ("template_0to10_no_opt_zero_shot",),
    "cot_fsnoopt": ("template_mix_no_opt_five_shot", "template_0to10_no_opt_x_shot"),
}
# What stands in for a style in datasets that have no options to show.
WITHOUT_OPTIONS = {"template_0to10_non_deter_opt_zero_shot": "template_0to10_zero_shot"}
# Builders whose configs are datasets of their own; the configs of any other share their texts.
_SUITES = {"glue", "super_glue", "gem", "huggingface", "p3", "opinion_abstracts", "math_dataset"}
# The same dataset under another name.
_SAME = {
    "wsc.fixed": "wsc",
    "multi_nli": "mnli",
    "multi_nli_mismatch": "mnli",
    "esnli": "snli",
    "natural_questions_open": "natural_questions",
    "qed": "natural_questions",  # its questions and passages, explained
    "cot_ecqa": "commonsense_qa",  # its questions, explained
    "cos_e": "commonsense_qa",
    "cot_aqua": "aqua_rat",
    "cot_creak": "creak",
    "cot_esnli": "snli",
    "cot_gsm8k": "gsm8k",
    "mgsm": "gsm8k",  # 250 of its test rows, translated
    "cot_qasc": "qasc",
    "cot_qed": "natural_questions",
    "cot_sensemaking": "sensemaking",
    "cot_strategyqa": "strategyqa",
}


@dataclasses.dataclass(frozen=True)
class MixtureSpec:
    """A mixture as data.

    Attributes:
      name: what `MIXTURE_OR_TASK_NAME` says.
      tasks: names of its tasks.
      rate_maximum: the number of examples past which a task weighs no more.
      evaluates: whether its tasks are there to be evaluated rather than trained on.
      parts: the mixtures that it is made of, each with its share of the draws (shares need not sum to 1), where it is
        made of any; `tasks` are then theirs, and `rate_maximum` holds in them (see `blend`).
      factors: what the weights of some tasks are multiplied by.
      cap: rows that are used of a dataset, at most, instead of what its collection uses.
      left_out: what should be there and is not, a sentence each.
      held_out: clusters that it holds nothing of as far as names tell; `Catalogue.open` asks a checkout's files, too.
    """

    name: str
    tasks: tuple[str, ...]
    rate_maximum: int | None = RATE_MAXIMUM
    evaluates: bool = False
    parts: tuple[tuple["MixtureSpec", float], ...] = ()
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cap: int | None = None
    left_out: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    def rates(self, weigh: Callable[[str, int | None], float]) -> dict[str, float]:
        """The rate of each task, not normalised; the first task's is its weight.

        Args:
          weigh: (task, rate maximum) -> its weight; 0 for a task that is left out.
        """
        if not self.parts:
            return {task: weigh(task, self.rate_maximum) * self.factors.get(task, 1.0) for task in self.tasks}
        found: dict[str, float] = {}
        scale = None
        for part, share in self.parts:
            own = part.rates(weigh)
            whole = sum(own.values())
            if not whole:
                continue
            scale = scale or whole / share
            for task, rate in own.items():
                found[task] = found.get(task, 0.0) + scale * share * rate / whole
        return found


def blend(name: str, parts: Sequence[tuple[MixtureSpec, float]]) -> MixtureSpec:
    """A mixture of mixtures: each part has its share of the draws, and its own rates within that share."""
    tasks = dict.fromkeys(task for part, _ in parts for task in part.tasks)
    return MixtureSpec(name, tuple(tasks), None, all(part.evaluates for part, _ in parts), tuple(parts))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a mixture of the table is made of: every one of the datasets in every one of the styles."""

    datasets: tuple[spec.DatasetSpec, ...]
    styles: tuple[str, ...]
    rate_maximum: int | None = RATE_MAXIMUM
    evaluates: bool = False

    def mixture(self, name: str) -> MixtureSpec:
        tasks = tuple(
            f"{dataset.name}_{self._style(dataset, style)}" for dataset in self.datasets for style in self.styles
        )
        return MixtureSpec(name, tasks, self.rate_maximum, self.evaluates)

    @staticmethod
    def _style(dataset: spec.DatasetSpec, style: str) -> str:
        plain = WITHOUT_OPTIONS.get(style)  # only these need to know what templates show, so others read no file
        return style if plain is None or seqio_tasks.scores(dataset) else plain


@dataclasses.dataclass(frozen=True)
class Blend:
    """What a mixture of mixtures is made of: by name, each with its share of the draws.

    The name of a recipe is the last part of a mixture's name, that of a blend the whole of it.
    """

    parts: Mapping[str, tuple["Recipe | Blend", float]]

    def mixture(self, name: str) -> MixtureSpec:
        made = [
            (part.mixture(f"{name}_{own}" if isinstance(part, Recipe) else own), share)
            for own, (part, share) in self.parts.items()
        ]
        return blend(name, made)


Members = Sequence[spec.DatasetSpec]


def table(specs: spec.SpecRegistry) -> dict[str, Recipe | Blend]:
    """Every mixture that follows from the datasets' clusters and collections, by name."""
    flan = [dataset for dataset in specs if dataset.collection == "flan2021"]
    found: dict[str, Recipe | Blend] = {}

    def add(
        name: str, members: Members, *in_styles: str, evaluates: bool = False, rate: int | None = RATE_MAXIMUM
    ) -> None:
        # What has no train split has no exemplars either.
        shot = any(style.endswith("_shot") and "zero_shot" not in style for style in in_styles)
        kept = tuple(d for d in members if "train" in d.splits or (evaluates and not shot))
        if kept:
            found[name] = Recipe(kept, in_styles, rate, evaluates)

    def both(name: str, train: Members, evaluated: Members, style: str) -> None:
        add(name, train, style)
        if name in found:
            found[f"{name}_train"] = found[name]
        add(f"{name}_eval", evaluated, style, evaluates=True, rate=None)

    clusters = [cluster for cluster in (*dict.fromkeys(d.cluster for d in flan), "misc") if _of(flan, cluster)]
    rest = {cluster: list(_without(flan, cluster)) for cluster in clusters}
    for style in _training_styles():
        add(f"flan2021_{style}", flan, style)
        for cluster in clusters:
            add(f"{cluster}_{style}", _of(flan, cluster), style, evaluates=True)
            add(f"flan_minus_{cluster}_{style}", rest[cluster], style)
        for cluster in ("", *COMPARED):
            names = [name for key, of in COMPARED.items() if cluster in ("", key) for name in of if name in specs]
            part = f"{cluster}_" if cluster else ""
            add(f"flan2021_eval_{part}{style}", [specs[n] for n in names], style, evaluates=True, rate=None)
    public = {name: specs[name] for members in PUBLIC.values() for name in members if name in specs}
    for name, train, evaluated, style in _public_splits():
        both(name, [public[d] for d in train if d in public], [public[d] for d in evaluated if d in public], style)
    for name, in_styles in COLLECTION.items():
        add(name, list(public.values()), *in_styles, rate=RATE_MAXIMUM_2022)
    return found | _chain_of_thought([dataset for dataset in specs if dataset.collection == "cot"])


def _chain_of_thought(datasets: Members) -> dict[str, Recipe | Blend]:
    """The mixtures over the datasets with rationales."""
    found: dict[str, Recipe | Blend] = {}
    if not datasets:
        return found
    every = tuple(datasets)
    turned = tuple(dataset for dataset in every if dataset.inverted)
    for name, forward in COT.items():
        inverted = tuple(styles.INVERSION + style.replace("_no_opt", "") for style in forward)
        parts: dict[str, tuple[Recipe | Blend, float]] = {"forward": (Recipe(every, forward, RATE_MAXIMUM_COT), 1.0)}
        if turned:
            parts["inverted"] = (Recipe(turned, inverted, RATE_MAXIMUM_COT), INVERTED_SHARE)
        found[name] = Blend(parts)
    found["cot"] = found["cot_submix"] = Blend({name: (found[name], 1.0) for name in ("cot_zsopt", "cot_fsopt")})
    for style in _training_styles():
        count, _, shot = style.partition("templates")
        for name in (style, f"{count}templates_trigger{shot}") if count.isdigit() else (style,):
            found[f"cot_{name}"] = Recipe(every, (name,), RATE_MAXIMUM_COT)
    return found


_Split = tuple[str, Sequence[str], Sequence[str]]  # name, datasets to train on, datasets to evaluate


def _public_splits() -> Iterator[tuple[str, Sequence[str], Sequence[str], str]]:
    """The splits of FLAN's public code: name, datasets to train on, datasets to evaluate, style."""
    every = [name for members in PUBLIC.values() for name in members]
    ten = [*_inter_cluster(), *_intra_cluster(), ("flan_all_overlap", every, every)]
    shuffled = list(every)
    random.Random(42).shuffle(shuffled)
    others = [name for name in shuffled if name not in SUPERGLUE]
    for shot in _shots():
        for name, train, evaluated in ten:
            yield f"{name}_10templates{shot}", train, evaluated, f"10templates{shot}"
        for size in SUPERGLUE_SIZES:
            name = f"flan_superglue_split{shot}_10templates_{size}train_tasks"
            yield name, others[:size], SUPERGLUE, f"10templates{shot}"
        for n in styles.TEMPLATE_COUNTS:
            yield f"flan_superglue_split_{n}templates{shot}", others, SUPERGLUE, f"{n}templates{shot}"
            for name, train, evaluated in _by_number(n):
                yield f"{name}{shot}", train, evaluated, f"{n}templates{shot}"


def _inter_cluster() -> Iterator[_Split]:
    for number, (cluster, held) in enumerate(PUBLIC.items()):
        together = {cluster, *EXCLUDED_WITH.get(cluster, ())}
        train = [name for other, members in PUBLIC.items() if other not in together for name in members]
        yield f"flan_inter_cluster_split_{number}", train, held


def _intra_cluster() -> Iterator[_Split]:
    """Every cluster of several datasets gives one, in an order drawn once: each in turn, then the first again."""
    for split in range(INTRA_CLUSTER_SPLITS):
        train, held = [], []
        for number, members in enumerate(PUBLIC.values()):
            kinds = [(name, _kind(name)) for name in members]
            apart = [kind for name, kind in kinds if kind == name] + sorted({k for name, k in kinds if k != name})
            order = np.random.RandomState(number).permutation(len(apart))
            out = apart[order[split % len(apart)]] if len(apart) > 1 else None
            train += [name for name, kind in kinds if kind != out]
            held += [name for name, kind in kinds if kind == out]
        yield f"flan_intra_cluster_split_{split}", train, held


def _kind(name: str) -> str:
    return next((kind for kind in TOGETHER if name.startswith(f"{kind}_")), name)


def _by_number(n: int) -> Iterator[_Split]:
    """By the number of clusters, whole and with 15 datasets from all in turn; and by datasets a cluster."""
    evaluated = [name for cluster in EVALUATED for name in PUBLIC[cluster]]
    for k in range(1, len(ADDED) + 1):
        clusters = [members for cluster, members in PUBLIC.items() if cluster in ADDED[:k]]
        in_turn = [name for row in itertools.zip_longest(*clusters) for name in row if name is not None]
        yield f"flan_diversity_split{k}_{n}templates", in_turn, evaluated
        yield f"flan_diversity_split{k}_{n}templates_{TASK_LIMIT}task_limit", in_turn[:TASK_LIMIT], evaluated
    for t in DATASETS_A_CLUSTER:
        train = [name for cluster in ADDED for name in PUBLIC[cluster][:t]]
        yield f"flan_inter_split_{n}templates_{t}tpc", train, evaluated


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


def _held(datasets: Iterable[spec.DatasetSpec], cluster: str) -> list[spec.DatasetSpec]:
    """The datasets of a cluster, then those of the clusters that are held out with it."""
    datasets = list(datasets)
    return [d for other in (cluster, *EXCLUDED_WITH.get(cluster, ())) for d in _of(datasets, other)]


def _without(datasets: Iterable[spec.DatasetSpec], cluster: str) -> Iterator[spec.DatasetSpec]:
    """Every dataset that may be trained on when a cluster is held out."""
    datasets = list(datasets)
    held = _held(datasets, cluster)
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


def heldout_leaks(catalogue: Any, mixture: str, cluster: str, data_dir: str | None = None) -> list[Leak]:
    """Looks for tasks of a mixture that must not be trained on when a cluster is held out.

    These are tasks of the cluster itself, of the clusters held out with it, and of any dataset with a data source in
    common with theirs: e-SNLI explains rows of SNLI, QED questions of Natural Questions. A task out of seqio's registries
    is judged by the TFDS dataset that it reads; one that reads something else is reported, as nothing can be shown of it.

    Args:
      catalogue: a `mixtures.Catalogue`.
      mixture: the mixture, or task, that a model is trained on.
      cluster: what is held out; `misc` for the six clusters under "Misc." of the paper's figure.
      data_dir: where a checkout of Natural Instructions may lie: its files say of each task what its texts are taken from,
        its name only where it starts with it.

    Returns:
      One entry a task; empty if nothing leaks.

    Raises:
      FlanError: no such mixture, or no such cluster.
    """
    from flan_jax.data import provenance  # which asks this module what a source is called

    known = {dataset.cluster for dataset in catalogue.specs}
    if not known & set(members_of(cluster)):
        raise errors.unknown("cluster", cluster, known | {"misc"})
    held, own = _held(catalogue.specs, cluster), catalogue.blends.own
    theirs = provenance.held_out(held)
    provenance.prepare(catalogue, mixture, data_dir)
    found = []
    for name in catalogue.mixture(mixture, data_dir).tasks:
        for task, dataset, of_cluster, tfds_dataset in _members(catalogue, name):
            if tfds_dataset is None:
                reason = "it reads no TFDS dataset, so what it holds cannot be shown"
            else:
                reason = _reason(dataset, of_cluster, tfds_dataset, cluster, held)
            if reason is None and dataset in own:
                reason = provenance.reason(own[dataset], theirs, cluster, data_dir)
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
            if other.cluster not in members_of(cluster):
                held_out = f"{other.name} ({other.tfds_dataset}) of {other.cluster}, which is held out with {cluster}"
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
