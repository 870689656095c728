"""The names of FLAN's public code stand for what they stand for there: members, order, rates, styles.

Sizes and members are counted on google-research/FLAN (2021: `flan/task_splits.py`; 2022: `flan/v2/tasks.py`).
"""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data import holdout, mixtures, seqio_tasks, spec, styles

CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
SHOTS = ("", "_one_shot", "_two_shot", "_three_shot", "_five_shot", "_ten_shot", "_multi_shot")
EVERY = {name for members in holdout.PUBLIC.values() for name in members}


def members(mixture: str) -> list[str]:
    """The datasets of a mixture, all in the style that its name says."""
    found = [CATALOGUE.tasks[name] for name in CATALOGUE.mixture(mixture).tasks]
    assert len({task.name for task in found}) == len(found)
    (said,) = {task.name.removeprefix(f"{task.dataset.name}_") for task in found}
    count, _, shot = said.partition("templates")
    assert f"_{count}templates" in mixture
    assert shot == next(s for s in reversed(SHOTS) if s in mixture)
    return [task.dataset.name for task in found]


def splits() -> list[str]:
    """Every split's name, without `_train` and `_eval`."""
    public = ("flan_inter_", "flan_intra_", "flan_all_", "flan_superglue_", "flan_diversity_")
    listed = [name for name in CATALOGUE.mixture_names() if name.startswith(public)]
    return [name.removesuffix("_train") for name in listed if name.endswith("_train")]


def test_938_splits():
    """A shot form: 17 inter-cluster, 10 intra-cluster, 1 of all, 5 + 11 of SuperGLUE, 5 x (14 + 4) by number."""
    assert len(splits()) == 7 * (17 + 10 + 1 + 5 + 11 + 5 * 18) == 938
    for name in splits():
        train, evaluated = CATALOGUE.mixture(f"{name}_train"), CATALOGUE.mixture(f"{name}_eval")
        assert train.rate_maximum == 3_000
        assert evaluated.rate_maximum is None
        assert evaluated.evaluates
        assert not train.evaluates
        assert CATALOGUE.mixture(name).tasks == train.tasks
        assert "all_overlap" in name or not set(train.tasks) & set(evaluated.tasks)


def test_the_69_datasets():
    """Those of FLAN's clusters: the paper's and three extras, without WSC273."""
    flan = {dataset.name for dataset in CATALOGUE.specs if dataset.collection == "flan2021"}
    assert flan - {"wsc273"} | {"wsc", "true_case", "word_segment"} == EVERY
    assert len(EVERY) == 69
    for cluster, names in holdout.PUBLIC.items():
        assert {CATALOGUE.specs[name].cluster for name in names} == {cluster}
    assert tuple(map(len, holdout.PUBLIC.values())) == (11, 4, 6, 4, 4, 4, 3, 4, 8, 3, 10, 1, 2, 1, 1, 1, 2)


@pytest.mark.parametrize("shot", SHOTS)
def test_all_overlap(shot):
    name = f"flan_all_overlap_10templates{shot}"
    assert set(members(f"{name}_train")) == set(members(f"{name}_eval")) == EVERY


@pytest.mark.parametrize("shot", ["", "_five_shot", "_multi_shot"])
def test_intra_cluster(shot):
    names = [f"flan_intra_cluster_split_{i}_10templates{shot}" for i in range(10)]
    held = [set(members(f"{name}_eval")) for name in names]
    alike = [{n for n in EVERY if n.startswith(f"{kind}_")} for kind in holdout.TOGETHER]
    for name, out in zip(names, held, strict=True):
        assert set(members(f"{name}_train")) == EVERY - out
        assert all(kinds <= out or not kinds & out for kinds in alike)
        for cluster in holdout.PUBLIC.values():
            lost = out & set(cluster)
            assert (len(lost) == 1 or lost in alike) if len(cluster) > 1 else not lost
    for cluster in holdout.PUBLIC.values():
        apart = len({holdout._kind(name) for name in cluster})
        if apart > 1:  # each in turn, then from the first again
            turns = [frozenset(out & set(cluster)) for out in held]
            assert len(set(turns[:apart])) == min(apart, 10)
            assert turns[apart:] == turns[: 10 - apart] or apart >= 10


def test_intra_cluster_as_flan_draws_it():
    """The permutation of numpy's RandomState(number of the cluster) over the datasets in FLAN's order."""
    held = (
        "wiki_lingua_english_en e2e_nlg squad_v1 squad_v2 trivia_qa glue_qqp sentiment140 fix_punct hellaswag "
        "para_crawl_enes definite_pronoun_resolution mnli_matched mnli_mismatched coqa cosmos_qa"
    )
    assert members("flan_intra_cluster_split_1_10templates_eval") == held.split()


def test_superglue():
    superglue = {"bool_q", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"}
    for shot in SHOTS:
        for n in styles.TEMPLATE_COUNTS:
            assert set(members(f"flan_superglue_split_{n}templates{shot}_eval")) == superglue
            assert set(members(f"flan_superglue_split_{n}templates{shot}_train")) == EVERY - superglue
    assert len(EVERY - superglue) == 61
    before: list[str] = []
    for size in range(5, 60, 5):
        found = members(f"flan_superglue_split_five_shot_10templates_{size}train_tasks_train")
        assert len(found) == size
        assert found[: len(before)] == before  # what is trained on only grows
        assert not set(found) & superglue
        assert set(members(f"flan_superglue_split_five_shot_10templates_{size}train_tasks_eval")) == superglue
        before = found
    # random.Random(42) shuffles the 69 in FLAN's order.
    assert before[:5] == ["squad_v1", "sentiment140", "snli", "ag_news_subset", "natural_questions"]


def test_by_number_of_clusters():
    sizes = (11, 19, 25, 29, 33, 36, 38)
    for shot in ("", "_three_shot"):
        for n in styles.TEMPLATE_COUNTS:
            for k, size in enumerate(sizes, start=1):
                whole = members(f"flan_diversity_split{k}_{n}templates{shot}")
                assert len(whole) == size
                clusters = {CATALOGUE.specs[name].cluster for name in whole}
                assert clusters == set(holdout.ADDED[:k])
                limited = members(f"flan_diversity_split{k}_{n}templates_15task_limit{shot}")
                assert limited == whole[:15]
                assert {CATALOGUE.specs[name].cluster for name in limited} == clusters
                counts = {c: sum(CATALOGUE.specs[name].cluster == c for name in limited) for c in clusters}
                most = max(counts.values())
                assert all(count in (most, most - 1, len(holdout.PUBLIC[c])) for c, count in counts.items())


def test_by_datasets_a_cluster():
    for t, size in enumerate((7, 14, 20, 25), start=1):
        found = members(f"flan_inter_split_4templates_{t}tpc_one_shot")
        assert len(found) == size
        for cluster in holdout.ADDED:
            mine = [name for name in found if CATALOGUE.specs[name].cluster == cluster]
            assert mine == list(holdout.PUBLIC[cluster][:t])
    assert members("flan_inter_split_1templates_1tpc") == [
        *("aeslc", "para_crawl_enes", "squad_v1", "imdb_reviews", "web_nlg_en"),
        *("definite_pronoun_resolution", "quac"),
    ]


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("rte_template_0_zero_shot", {"templates": (0,)}),
        ("rte_template_0_five_shot", {"templates": (0,), "shots": 5}),
        ("rte_template_1_two_shot", {"templates": (1,), "shots": 2}),
        ("squad_v1_template_2_one_shot", {"templates": (2,), "shots": 1}),
        ("rte_template_0_no_opt_five_shot", {"templates": (0,), "shots": 5, "options": False}),
        ("rte_template_2_no_opt_one_shot", {"templates": (2,), "shots": 1, "options": False}),
        (
            "rte_template_mix_no_opt_five_shot",
            {"templates": tuple(range(10)), "shots": 5, "options": False, "exemplars": styles.OWN},
        ),
    ],
)
def test_tasks_of_the_flan_collection(name, style):
    drawn = "flan2022" if style.get("shots") else ""  # what stands around exemplars
    assert CATALOGUE.tasks[name].style == styles.Style(**style, budget=1920, delimiters=drawn)


@pytest.mark.parametrize("name", ["rte_template_1_five_shot", "rte_template_3_one_shot", "wsc273_template_0_five_shot"])
def test_what_the_flan_collection_does_not_have(name):
    """Template 1 has two exemplars and 2 one; without a train split there are none to draw."""
    assert CATALOGUE.tasks.find(name) is None


# --- `non_deter_opt`: options laid out anew for every example ---

MARKED = "template_0to10_non_deter_opt_zero_shot"
WORDS = st.text("abcdefghij", min_size=3, max_size=8)  # no mark is a part of them


def asked(text: str, options: list[str], right: int) -> spec.Example:
    return spec.Example({"text": text}, options[right], tuple(options))


@settings(deadline=None)
@given(st.text(max_size=20), st.lists(WORDS, min_size=2, max_size=26, unique=True), st.integers(0, 9), st.data())
def test_marks_lead_to_the_right_option(text, options, template, data):
    example = asked(text, options, data.draw(st.integers(0, len(options) - 1)))
    block, marked = styles.mark(example, template)
    assert (block, marked) == styles.mark(example, template)
    (header,) = [h for h in styles.HEADERS if h and block.startswith(h)] or [""]
    listed = block.removeprefix(header)
    starts, ends = zip(*(re.search(rf"\b{option}\b", listed).span() for option in options), strict=True)  # type: ignore
    assert list(starts) == sorted(starts)
    if marked.answer == example.answer:
        assert marked == example
        return
    assert marked.answers == (marked.answer,)
    assert marked.options == example.options
    before = [listed[end:start] for end, start in zip((0, *ends[:-1]), starts, strict=True)]
    found = [option for option, mark in zip(options, before, strict=True) if mark.split()[-1:] == [marked.answer]]
    assert found == [example.answer]


def test_layouts_vary():
    """Header, marks and ends each take all their values; most examples are answered by a mark."""
    drawn = [styles.mark(asked(f"text {i}", ["yes", "no"], i % 2), template=i % 10) for i in range(2000)]
    blocks = {block for block, _ in drawn}
    assert len(blocks) > 500
    for header in filter(None, styles.HEADERS):
        assert any(block.startswith(header) for block in blocks)
    for mark in styles.BULLETS:
        assert any(f"{mark}yes" in block for block in blocks)
    by_mark = sum(marked.answer not in ("yes", "no") for _, marked in drawn)
    share = 25 / 35  # numberings in five shapes, and ten bullets
    assert abs(by_mark - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5


def test_sentences_keep_their_own_ends():
    blocks = [styles.mark(asked(f"{i}", ["It rained.", "Did it?", "no"], 0), i % 10)[0] for i in range(300)]
    assert not any(end in block for block in blocks for end in ("rained..", "rained.;", "it?.", "it?;"))
    assert {block[-1] for block in blocks} == {"o", ".", ";"}


def test_more_options_than_letters_get_bullets():
    options = [f"option{i}" for i in range(27)]
    for i in range(50):
        example = asked(f"{i}", options, 26)
        block, marked = styles.mark(example, 0)
        assert marked == example
        assert all(option in block for option in options)


def test_the_task_asks_with_its_marks(sample_dir):
    """The text, the target and what a metric accepts go together; reversed templates show no options and stay."""
    plain, marked = (CATALOGUE.tasks[f"anli_r1_{last}"] for last in ("template_0to10_zero_shot", MARKED))
    assert marked.style == dataclasses.replace(plain.style, marked=True)
    pairs = list(
        zip(plain.open(sample_dir, "train").in_order(), marked.open(sample_dir, "train").in_order(), strict=True)
    )
    assert len({f.template for f, _ in pairs}) == 10
    for before, after in pairs:
        assert (before.row, before.template) == (after.row, after.template)
        question, header, _ = before.inputs.partition("OPTIONS:")
        if not header:
            assert after == before
            continue
        block, example = styles.mark(before.example, before.template)
        assert after.inputs == question + block
        assert after.example == example
        assert after.targets == before.targets.replace(before.example.answer, example.answer)
    assert sum(before.targets != after.targets for before, after in pairs) > len(pairs) / 3


def test_marked_options_where_there_are_some():
    """As in FLAN, the zero-shot mixture has marked options where a dataset has any, else the plain style."""
    tasks = CATALOGUE.mixture("flan_zsopt").tasks
    assert f"rte_{MARKED}" in tasks
    assert "cnn_dailymail_template_0to10_zero_shot" in tasks
    assert CATALOGUE.tasks.find(f"cnn_dailymail_{MARKED}") is None
    with_options = {task.removesuffix(f"_{MARKED}") for task in tasks if task.endswith(MARKED)}
    assert with_options == {name for name in EVERY if seqio_tasks.scores(CATALOGUE.specs[name])}
    assert len(tasks) == 69
    evaluated = {task.name for task in CATALOGUE.tasks[f"rte_{MARKED}"].evaluations()}
    assert "rte_type_0_scoring_eval" in evaluated
