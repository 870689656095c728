"""The tables of collections and blends say what the papers and the public code say; sources in the comments."""

import csv
import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data import holdout, loader, mixture_table, mixtures, seqio_tasks, spec
from flan_jax.tasks import collections, muffin, niv2, t0_sf

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
DRAWS = 5_000_000


def examples(name: str) -> int:
    return mixture_table.published_rows(CATALOGUE.specs[name])


def weighing(mixture: holdout.MixtureSpec):
    return mixture_table.weighing(CATALOGUE, mixture)


def rates_of(mixture: holdout.MixtureSpec) -> dict[str, float]:
    return mixture.rates(weighing(mixture))


def shares(name: str) -> dict[str, float]:
    """What each part of a mixture is drawn at."""
    mixture = CATALOGUE.mixture(name)
    rates = rates_of(mixture)
    whole = sum(rates.values())
    found = {part.name: sum(rates[task] for task in part.tasks) / whole for part, _ in mixture.parts}
    assert sum(found.values()) == pytest.approx(1)
    return found


# --- Task counts ---


def test_flan_2022_has_1836_tasks():
    """80 + 193 + 1,554 + 9 in the paper; 7 of Muffin are not public, and of NIV2 the public code has two more."""
    counts = {name: len(CATALOGUE.blends.members(name)) for name in ("muffin", "t0", "niv2")}
    assert counts == {"muffin": 80 - 7, "t0": 193, "niv2": 1_556}
    assert len(CATALOGUE.mixture("cot_zsopt").parts[0][0].tasks) == 9
    assert muffin.PUBLISHED + t0_sf.PUBLISHED + niv2.PUBLISHED + 9 == 1_836


def test_muffin_is_what_is_public_of_80_and_its_inverted_forms():
    assert len(muffin.members()) == 80
    assert set(muffin.of("flan2021")) == {name for names in holdout.PUBLIC.values() for name in names}
    assert [len(muffin.of(group)) for group in ("flan2021", "added", "dialog", "program_synthesis")] == [69, 3, 3, 5]
    gone = muffin.left_out()
    assert set(gone) & set(muffin.members()) == {
        *("trivia_qa_wiki_missing", "task_master", "dmcc_python"),
        *(f"dr_repair_{kind}" for kind in ("error_comments", "line_numbers", "no_errors", "plain_code")),
    }
    assert len(gone) == 7 + 6  # and six of the eight inverted forms
    assert all(reason for reason in gone.values())
    turned = {task for task in CATALOGUE.mixture("muffin").tasks if "input_inversion" in task}
    assert {task.split("_input_inversion")[0] for task in turned} == {"wiki_dialog", "qrecc"}
    assert CATALOGUE.blends.members("program_synthesis") == ()


def test_t0_sf_is_the_193_of_23_datasets():
    found = t0_sf.datasets()
    assert len({dataset.name for dataset in found}) == 193
    assert len({dataset.sources for dataset in found}) == 23
    forms = [dataset.templates for dataset in found]
    assert [
        forms.count(f"t0_{form}")
        for form in ("question_answer", "multiple_choice", "multiple_choice_separated_options")
    ] == [*(104, 70, 19)]
    # "T0 2,724,840": capped sizes, which the public code rounds down to tens.
    whole = sum(min(d.train_rows // 10 * 10, 20_000) for d in found)
    assert whole == 2_724_840
    flan = {holdout.source(d.tfds_dataset) for d in CATALOGUE.specs if d.collection == "flan2021"}
    assert not flan & {source for dataset in found for source in dataset.sources}


def test_scaling_by_number_of_tasks():
    """9, 89, 282, 682 and 1,836 tasks, each with the former ones, always in the same ratios."""
    before: set[str] = set()
    for count in collections.SCALING:
        tasks = [CATALOGUE.tasks[task].dataset.name for task in CATALOGUE.mixture(f"flan2022_{count}_tasks").tasks]
        datasets = set(tasks)
        assert before <= datasets
        absent = 7 if count > 9 else 0
        assert len(datasets) == count - absent + (2 if count == 1_836 else 0)
        before = datasets
        found = shares(f"flan2022_{count}_tasks")
        for one in found:
            assert found[one] / found["cot"] == pytest.approx(collections.A[one] / collections.A["cot"])


# --- Rates ---


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("flan2022_a", {"muffin": 52, "t0": 15, "cot": 3, "niv2": 30}),
        ("flan2022_b", {"muffin": 46.0, "t0": 27.9, "cot": 1.8, "niv2": 24.2}),
        ("flan2022", {"muffin": 46.0, "t0": 27.9, "cot": 1.8, "niv2": 24.2}),
        ("flan2022_submix", {"flan": 40, "t0": 32, "niv2": 20, "cot": 5, "dialog": 3}),
        ("flan2022_minus_niv2", {"muffin": 46.0, "t0": 27.9, "cot": 1.8}),
        ("flan2022_submix_minus_dialog", {"flan": 40, "t0": 32, "niv2": 20, "cot": 5}),
        ("flan2022_noncot_only", {"muffin": 52, "t0": 15, "niv2": 30}),
        ("flan2022_cot_only", {"cot": 1}),
        ("flan2022_niv2_train", {"muffin": 46.0, "t0": 27.9, "cot": 1.8, "niv2_train": 24.2}),
        ("flan2022_submix_equal", {"flan": 1, "t0": 1, "niv2": 1, "cot": 1, "dialog": 1}),
    ],
)
def test_proportions(name, percent):
    found = shares(name)
    assert found == pytest.approx({part: share / sum(percent.values()) for part, share in percent.items()})


def test_within_a_part_tasks_weigh_their_rows_up_to_the_cap():
    """Caps 30,000 / 20,000 / 100,000 / 5,000 / 200,000; rows of inverted dialogue count 0.3."""
    maxima = {name: CATALOGUE.blends.collections[name].maximum for name in ("muffin", "t0", "niv2", "dialog")}
    assert maxima == {"muffin": 30_000, "t0": 20_000, "niv2": 5_000, "dialog": 200_000}
    mixture = CATALOGUE.mixture("muffin_zsnoopt")
    rates = rates_of(mixture)
    assert rates["rte_template_0to10_no_opt_zero_shot"] == 2_290  # 200 of 2,490 are for validation
    assert rates["mnli_matched_template_0to10_no_opt_zero_shot"] == 30_000
    assert rates["lambada_template_0to10_no_opt_zero_shot"] == 4_869
    dialog = rates_of(CATALOGUE.mixture("dialog_fsopt"))
    for style in ("template_mix_five_shot", "template_0to10_x_shot"):
        assert dialog[f"wiki_dialog_{style}"] == 200_000
        assert dialog[f"wiki_dialog_input_inversion_{style}"] == pytest.approx(60_000)
        assert dialog[f"qrecc_{style}"] == 10_170  # of 63,501 rows those after the sixth turn
    assert set(rates_of(CATALOGUE.mixture("niv2_zsnoopt")).values()) == {5_000}


def test_what_datasets_weigh_is_what_the_public_collection_counts():
    """Its counts are rounded down to tens. 71 tasks of FLAN come to 1,495,430 of them, dialogue to 210,170."""
    with open(ROOT / "tasks" / "muffin.csv", encoding="utf-8", newline="") as file:
        listed = [row for row in csv.DictReader(file) if row["inverted"] == "no" and row["public_cases"]]
    theirs, ours = {"flan": 0, "dialog": 0}, {"flan": 0, "dialog": 0}
    for row in listed:
        name, group = row["task"], "dialog" if row["group"] == "dialog" else "flan"
        public = min(int(row["public_cases"]), seqio_tasks.train_cap(CATALOGUE.specs[name]))
        # The two that are not equal drop a few rows whose options are not as they should be.
        drops = {"arc_easy": 10, "unified_qa_science_inst": 10}.get(name, 0)
        assert examples(name) // 10 * 10 - drops == public, name
        theirs[group] += public
        ours[group] += examples(name)
    assert len(listed) == 71 + 2
    assert theirs == {"flan": 1_495_430, "dialog": 210_170}
    assert ours["flan"] == pytest.approx(theirs["flan"], rel=1e-3)
    forward = rates_of(CATALOGUE.mixture("dialog_zsopt"))["qrecc_template_0to10_zero_shot"]
    assert forward / ours["dialog"] == pytest.approx(0.048, abs=5e-4)


def test_every_kind_has_its_share():
    """Zero-shot and few-shot are equal, and so are options shown and not shown, where a collection has both."""
    mixture = CATALOGUE.mixture("flan2022_submix")
    for part, _ in mixture.parts:
        kinds = [(kind.name.rpartition("_")[2], share) for kind, share in part.parts]
        assert len({share for _, share in kinds}) == 1
        want = {"flan": 4, "t0": 4}.get(part.name, 2)
        assert len(kinds) == want, part.name


@pytest.mark.parametrize("percent", collections.FEW_SHOT)
def test_few_shot_share(percent):
    rates = rates_of(CATALOGUE.mixture(f"flan2022_fewshot_{percent}"))
    few = {task: CATALOGUE.tasks[task].style.shots > 0 for task in rates}
    found = sum(rate for task, rate in rates.items() if few[task]) / sum(rates.values())
    assert found == pytest.approx(percent / 100)
    if percent:
        assert shares(f"flan2022_fewshot_{percent}") == pytest.approx(shares("flan2022"))


def test_without_inversion_nothing_is_inverted():
    assert not [
        task for task in CATALOGUE.mixture("flan2022_submix_minus_inversion").tasks if "input_inversion" in task
    ]
    assert [task for task in CATALOGUE.mixture("flan2022_submix").tasks if "input_inversion" in task]


def test_niv2s_own_test_tasks_can_be_kept_apart():
    tested = set(niv2.of_test_split())
    datasets = {CATALOGUE.tasks[task].dataset.name for task in CATALOGUE.mixture("flan2022_niv2_train").tasks}
    assert not datasets & tested
    assert tested <= {CATALOGUE.tasks[task].dataset.name for task in CATALOGUE.mixture("flan2022").tasks}


# --- OPT-IML ---


def test_opt_iml_has_the_benchmarks_that_are_here():
    mixture = CATALOGUE.mixture("opt_iml")
    assert [line.split(",")[0] for line in mixture.left_out][:4] == ["crossfit", "exmix", "t5", "unifiedskg"]
    found = shares("opt_iml_base")
    assert found == pytest.approx({"flan": 20 / 90, "niv2": 25 / 90, "promptsource": 45 / 90})
    with_reasoning = shares("opt_iml_reasoning_1")
    assert with_reasoning["cot"] == pytest.approx(0.01 / (0.01 + 0.99 * 0.9))
    assert mixture.cap == 100_000
    assert {CATALOGUE.tasks[task].style.delimiters for task in CATALOGUE.mixture("opt_iml_base").tasks} == {"opt_iml"}


def test_opt_iml_table_5_and_eps():
    assert len(collections.PROPORTIONS) == 10
    assert all(len(row) == 7 for row in collections.PROPORTIONS)
    assert collections.CHOSEN in collections.PROPORTIONS
    for eps in collections.EPS_TRIED:
        mixture = CATALOGUE.mixture(f"opt_iml_eps_{eps}")
        rates = mixture.parts[0][0].rates(weighing(mixture))
        assert max(rates.values()) == eps
        assert min(rates.values()) <= eps
    # Without a limit to weights, 100,000 rows of a task are used, and FLAN's 30,000 of its own.
    mixture = CATALOGUE.mixture("opt_iml_eps_none")
    weights = {part.name: max(part.rates(weighing(mixture)).values()) for part, _ in mixture.parts}
    assert weights == {"flan": 30_000, "niv2": 100_000, "promptsource": 100_000}


# --- Effective sampling ---


BLENDED = ["flan2022", "flan2022_submix", "opt_iml"]


class Numbered:
    """A stream whose examples say which task and position they are of."""

    def __init__(self, task: int) -> None:
        self._task = task

    def read(self, positions: np.ndarray) -> list[seqio_tasks.Tokenised]:
        return [seqio_tasks.Tokenised([self._task], [int(position)]) for position in positions]

    def seek(self, first, lanes: int) -> None:
        """Nothing to do."""


@functools.cache
def opened(name: str) -> mixtures.OpenMixture:
    """A mixture as if everything were there in its published size."""
    rates = rates_of(CATALOGUE.mixture(name))
    members = [mixtures.Member(task, 1, rate, Numbered(n)) for n, (task, rate) in enumerate(rates.items())]
    return mixtures.OpenMixture(name, members)


def lane_of(name: str, lane: int, seed: int) -> loader.Lane:
    return loader.Lane(opened(name), lane, 8, {"inputs": 4, "targets": 4}, seed, pack=False)


@pytest.mark.parametrize("name", BLENDED)
def test_draws_follow_the_table(name):
    """Of 5,000,000 draws every part has its share to 1% of it, and every task what chance allows it."""
    mixture, open_mixture = CATALOGUE.mixture(name), opened(name)
    counts = np.bincount(lane_of(name, 3, 11).drawn(np.arange(DRAWS)), minlength=len(open_mixture.members))
    found = {member.name: count / DRAWS for member, count in zip(open_mixture.members, counts.tolist(), strict=True)}
    for part, share in shares(name).items():
        tasks = next(p for p, _ in mixture.parts if p.name == part).tasks
        assert sum(found[task] for task in tasks) == pytest.approx(share, rel=0.01), part
    expected = open_mixture.probabilities * DRAWS
    assert expected.min() > 30
    assert counts.min() > 0
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()
    # All of them together: chi-squared, of whose mean and deviation the number of tasks tells.
    degrees = len(counts) - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("name", BLENDED)
@given(seed=st.integers(0, 2**31 - 1), lane=st.integers(0, 7))
@settings(max_examples=5, deadline=None)
def test_no_task_starves(name, seed, lane):
    """Whatever seed and lane: while the rarest task is expected 30 times, each is drawn (not to be: one in 10^9)."""
    probabilities = opened(name).probabilities
    needed = int(30 / probabilities.min())
    assert needed < 10**7
    assert len(np.unique(lane_of(name, lane, seed).drawn(np.arange(needed)))) == len(probabilities)


@pytest.mark.parametrize("name", BLENDED)
def test_a_lane_gives_what_it_draws(name):
    """Row by row, the examples are of the tasks drawn, each at the next of the lane's positions in its stream."""
    lane, places = lane_of(name, 3, 11), dict[int, int]()
    for drawn in lane.drawn(np.arange(1_000)).tolist():
        ((task, example),) = lane.row()
        assert (task, example.inputs) == (drawn, [drawn])
        assert example.targets == [8 * places.get(task, 0) + 3]
        places[task] = places.get(task, 0) + 1


# --- The machinery ---


def test_a_users_blend_beside_the_table(tmp_path):
    mine = spec.Blend(
        "mine",
        (
            spec.Part("niv2", 1, kinds={spec.ZSNOOPT: 1}, datasets=3),
            spec.Part("t0", 3, maximum=7, style="template_0to10_zero_shot"),
        ),
    )
    catalogue = mixtures.Catalogue(CATALOGUE.specs, collections=CATALOGUE.blends.collections.values(), blended=[mine])
    mixture = catalogue.mixture("mine")
    assert [(part.name, share, len(part.tasks)) for part, share in mixture.parts] == [
        ("niv2", 0.25, 3),
        ("t0", 0.75, 193),
    ]
    assert mixture.parts[1][0].rates(weighing(mixture))[mixture.parts[1][0].tasks[0]] == 7


def test_mistakes_are_named():
    bad = spec.Blend("bad", (spec.Part("niv", 1, kinds={spec.ZSNOOPT: 1}),))
    catalogue = mixtures.Catalogue(CATALOGUE.specs, collections=CATALOGUE.blends.collections.values(), blended=[bad])
    with pytest.raises(mixtures.errors.FlanError, match="unknown collection 'niv'; did you mean 'niv2'"):
        catalogue.mixture("bad")
    gone = dataclasses.replace(muffin.COLLECTIONS[0], left_out=dict)
    with pytest.raises(
        mixtures.errors.FlanError, match="collection 'muffin': unknown dataset 'trivia_qa_wiki_missing'"
    ):
        mixtures.Catalogue(CATALOGUE.specs, collections=[gone]).mixture("muffin")


def test_the_table_of_muffin_is_the_facts():
    """Every name, group and count, as a digest of the table that was held against the public code's lists."""
    with open(ROOT / "tasks" / "muffin.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 88
    assert sum(row["inverted"] == "yes" for row in rows) == 8
    totals: dict[str, int] = dict.fromkeys(("flan2021", "added", "dialog", "program_synthesis"), 0)
    for row in rows:
        totals[row["group"]] += int(row["public_cases"] or 0)
    assert totals == {"flan2021": 114_395_010, "added": 5_450, "dialog": 2 * 11_274_170, "program_synthesis": 0}
    listed = "\n".join(f"{row['task']} {row['group']} {row['inverted']} {row['public_cases']}" for row in rows)
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "026982d46fa989be"
