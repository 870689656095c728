"""Which datasets a dataset's texts come from, and how far an evaluated dataset is from what a model was trained on.

The collections of Flan 2022 ask the same datasets again under other names: `p3/quoref_Find_Answer` is Quoref,
`task190_snli_classification` of Natural Instructions is SNLI. A prompt of P3 says so in its spec; a task of Natural Instructions
by its name, which starts with the dataset's, and in full in its file (`Source`), where there is a checkout.
"""

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from flan_jax import shipped
from flan_jax.data import holdout, sources, spec, stores

# How Natural Instructions calls datasets that TFDS calls otherwise; letters and digits only.
_ALIASES = {
    "arc": "ai2arc",
    "glueentailment": "rte",
    "imdb": "imdbreviews",
    "mathdataset": "algebralinear1d",
    "naturalquestion": "naturalquestions",
    "rocstories": "storycloze",  # the stories that Story Cloze ends
    "squad11": "squad",
    "squad20": "squad",
    "webnlg": "webnlgen",
    "wscfixed": "wsc",
    "enhancedwsc": "wsc",
    "wsc273": "wsc",
    "yelp": "yelppolarityreviews",
}
# Categories of Natural Instructions that are clusters of FLAN 2021.
_CATEGORIES = {
    "Textual Entailment": "nli",
    "Sentiment Analysis": "sentiment",
    "Paraphrasing": "paraphrase",
    "Translation": "translation",
    "Summarization": "summarization",
    "Title Generation": "summarization",
    "Coreference Resolution": "coreference",
    "Data to Text": "structure_to_text",
    "Word Semantics": "word_disambiguation",
    "Grammar Error Detection": "linguistic_acceptability",
    "Grammar Error Correction": "linguistic_acceptability",
    "Punctuation Error Detection": "text_formatting",
    "Commonsense Classification": "commonsense",
    "Coherence Classification": "commonsense",
    "Question Answering": "reading_comprehension",
    "Answerability Classification": "reading_comprehension",
    "Mathematics": "math",
    "Dialogue Generation": "dialog",
}
_LONGEST = 3  # words of a dataset's name within a task's
LEVELS = FULLY_HELD_OUT, PARTIALLY_SUPERVISED, FULLY_SUPERVISED = (
    "fully held-out",
    "partially supervised",
    "fully supervised",
)


def _plain(name: str) -> str:
    """Letters and digits alone: `super_glue/cb` and `Super-GLUE CB` look alike then."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(plain, plain)


def texts(dataset: spec.DatasetSpec, data_dir: str | None = None) -> frozenset[str]:
    """What a dataset's texts may be taken from: names of letters and digits, to be compared with each other.

    Args:
      dataset: of any store.
      data_dir: where a checkout of Natural Instructions may lie, whose files say it in full.
    """
    if dataset.store != stores.NATURAL_INSTRUCTIONS:
        named = dataset.sources or (holdout.source(dataset.tfds_dataset),)
        return frozenset(_plain(holdout.source(name)) for name in named)
    words = dataset.sources
    runs = ("_".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + _LONGEST, len(words)) + 1))
    said = (name.strip() for text in _head(dataset, data_dir).get("source", ()) for name in re.split("[;,]", text))
    return frozenset(_plain(holdout.source(name)) for name in (*runs, *said) if name)


def clusters(dataset: spec.DatasetSpec, data_dir: str | None = None) -> frozenset[str]:
    """The clusters that a dataset is of: its own, and for a task of Natural Instructions those of its categories."""
    found = (_CATEGORIES.get(category.split(" -> ")[0]) for category in _head(dataset, data_dir).get("categories", ()))
    return frozenset({dataset.cluster, *(cluster for cluster in found if cluster)})


def _head(dataset: spec.DatasetSpec, data_dir: str | None) -> Mapping[str, Any]:
    if data_dir is not None and dataset.store == stores.NATURAL_INSTRUCTIONS:
        with contextlib.suppress(sources.NotPrepared):
            return getattr(stores.opened(dataset, data_dir), "head", {})
    return {}


def forbidden(cluster: str) -> frozenset[str]:
    """The clusters that may not be trained on when one is held out: those that its name stands for, those held out with it."""
    return frozenset({*holdout.members_of(cluster), *holdout.EXCLUDED_WITH.get(cluster, ())})


Held = Sequence[tuple[spec.DatasetSpec, frozenset[str]]]


def held_out(datasets: Iterable[spec.DatasetSpec]) -> Held:
    """Datasets that are held out, each with what its texts are taken from."""
    return [(dataset, texts(dataset)) for dataset in datasets]


def reason(dataset: spec.DatasetSpec, held: Held, cluster: str, data_dir: str | None = None) -> str | None:
    """Why a dataset of a collection may not be trained on when others are held out; None if it may.

    Args:
      dataset: that would be trained on.
      held: that are held out (`held_out`).
      cluster: under which name they are held out together.
      data_dir: as of `texts`.
    """
    found = clusters(dataset, data_dir) & forbidden(cluster)
    if found & set(holdout.members_of(cluster)):
        return f"of the held-out cluster {cluster}"
    if found:
        return f"of cluster {min(found)}, which is held out with {cluster}"
    own = texts(dataset, data_dir)
    for other, theirs in held:
        if own & theirs:
            return (
                f"its texts are of {holdout.source(other.tfds_dataset)}, the source of {other.name} of {other.cluster}"
            )
    return None


def shared(catalogue: Any, mixture: str, cluster: str, data_dir: str | None = None) -> list[str]:
    """Datasets that may be trained on when a cluster is held out, though they were made from the same texts as its own.

    Mixtures keep them, as the paper's do: WNLI is of `nli` and stays when `coreference` is held out. What must not be there at
    all is `holdout.heldout_leaks`'s to say, and is left out here.

    Args:
      catalogue: a `mixtures.Catalogue`.
      mixture: what is trained on.
      cluster: what is held out.
      data_dir: as of `texts`.

    Returns:
      A sentence a dataset and corpus: "wnli shares texts with wsc273, wsc (Winograd schemas: ...)".
    """
    leaking = {leak.dataset for leak in holdout.heldout_leaks(catalogue, mixture, cluster, data_dir)}
    held = [dataset.name for dataset in catalogue.specs if dataset.cluster in holdout.members_of(cluster)]
    found = []
    for dataset in trained_on(catalogue, mixture, data_dir):
        if dataset.name in leaking:
            continue
        own = None if dataset.name in catalogue.specs else texts(dataset, data_dir)
        for name, corpus in _corpora().items():
            others = [other for other in held if other in corpus["datasets"]]
            if others and _made_from(dataset.name, own, corpus["datasets"], catalogue):
                found.append(f"{dataset.name} shares texts with {', '.join(others)} ({name}: {corpus['why']})")
    return found


def _made_from(name: str, own: frozenset[str] | None, members: Sequence[str], catalogue: Any) -> bool:
    """Whether a dataset is one of those, or, where only its texts are known by name, has the texts of one."""
    if own is None:
        return name in members
    return any(own & texts(catalogue.specs[member]) for member in members if member in catalogue.specs)


@functools.cache
def _corpora() -> Mapping[str, Mapping[str, Any]]:
    """By name of a corpus: the datasets that were made from it, and what they share."""
    return yaml.safe_load((shipped.directory("tasks") / "corpora.yaml").read_text(encoding="utf-8"))


def trained_on(catalogue: Any, mixture: str, data_dir: str | None = None) -> list[spec.DatasetSpec]:
    """The datasets of a mixture's own tasks, each once."""
    found = (catalogue.tasks.find(task) for task in catalogue.mixture(mixture, data_dir).tasks)
    return list({task.dataset.name: task.dataset for task in found if task is not None}.values())


def prepare(catalogue: Any, mixture: str, data_dir: str | None) -> None:
    """Passes over the files of a mixture's tasks together, which would take longer one by one."""
    if data_dir is not None:
        stores.prepare(trained_on(catalogue, mixture), data_dir)


def by_name_alone(catalogue: Any, mixture: str, data_dir: str | None = None) -> list[str]:
    """The tasks of Natural Instructions in a mixture whose files, which say in full what their texts are, are not there."""
    prepare(catalogue, mixture, data_dir)
    datasets = trained_on(catalogue, mixture, data_dir)
    return [d.name for d in datasets if d.store == stores.NATURAL_INSTRUCTIONS and not _head(d, data_dir)]


def levels(catalogue: Any, mixture: str, data_dir: str | None = None) -> dict[str, dict[str, str]]:
    """How far every dataset that is known by itself is from training, in OPT-IML's three levels (section 2.3).

    `fully supervised` where its own texts are trained on, under whatever name; else `partially supervised` where other
    datasets of its cluster are; else `fully held-out`.

    Args:
      catalogue: a `mixtures.Catalogue`.
      mixture: what is trained on.
      data_dir: as of `texts`.

    Returns:
      By cluster and dataset: `{"nli": {"rte": "fully held-out", ...}, ...}`.
    """
    prepare(catalogue, mixture, data_dir)
    trained = trained_on(catalogue, mixture, data_dir)
    own = {dataset.name: (texts(dataset, data_dir), clusters(dataset, data_dir)) for dataset in trained}
    known_texts = frozenset().union(*(found for found, _ in own.values()))
    known_clusters = frozenset().union(*(found for _, found in own.values()))
    found: dict[str, dict[str, str]] = {}
    for dataset in catalogue.specs:
        if dataset.name in own or texts(dataset) & known_texts:
            of = FULLY_SUPERVISED
        else:
            of = PARTIALLY_SUPERVISED if dataset.cluster in known_clusters else FULLY_HELD_OUT
        found.setdefault(dataset.cluster, {})[dataset.name] = of
    return found
