"""Every file of gin/ablations at every scale: its grid, its configurations, its mixtures and evaluations. Nothing is trained."""

import dataclasses
import itertools

import pytest

from flan_jax import ablate, config
from flan_jax.ablation import published
from flan_jax.ablation import steps as steps_lib

FOLDER = config.shipped_gin_dir() / "ablations"
FILES = sorted(path.name for path in FOLDER.glob("*.gin"))
SCALES = ("full", "host", "tiny")
# Papers whose values were not found, or that print none.
WITHOUT_VALUES = ("contamination", "datasets_x_templates")


def read(name: str, scale: str | None = None):
    return ablate.read(config.GinFlags((f"gin/ablations/{name}",), (), ()), scale)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", FILES)
def test_all_of_it_resolves(name, scale):
    ablation = read(name, scale)
    assert f"{ablation.name}.gin" == name
    # Seeds change a number and nothing else.
    grid = dataclasses.replace(ablation.grid, seeds=tuple(ablation.grid.seeds)[:1])
    sweep = steps_lib.build(grid, placeholders=True)
    for cell, trained in sweep.trained.items():
        phases = [sweep.steps[key] for key in trained]
        assert [step.name for step in phases] == grid.phases_of(cell)
        for before, after in itertools.pairwise(phases):
            assert after.start == (before.key, before.steps)
        if scale == "full" and phases:
            assert grid.topology_of(cell)
    assert all(set(step.needs) <= set(sweep.steps) for step in sweep.steps.values())
    assert not [step.about for step in sweep.steps.values() if "{" in step.about]  # every word was filled in
    distinct = {(tuple(sweep.trained[cell]), tuple(sweep.asked[cell].values())) for cell in sweep.asked}
    assert len(distinct) == len(sweep.asked)  # no two cells are the same run
    assert grid.about
    assert grid.differs


@pytest.mark.parametrize("name", ["clusters.gin", "prompt_tuning.gin", "zero_shot_cot.gin"])
def test_a_plan_and_a_dry_run_speak_of_the_sweeps_own_steps(name):
    grid = dataclasses.replace(read(name, "tiny").grid, seeds=(1,))
    assert list(steps_lib.build(grid, placeholders=True).steps) == list(steps_lib.build(grid).steps)


@pytest.mark.parametrize("name", FILES)
def test_it_is_drawn_with_the_papers_values(name):
    full = read(name, "full")
    series = published.of(full.published)
    assert bool(series) == (full.name not in WITHOUT_VALUES)
    metrics = {metric for grid in full.scales.values() for metric in grid.metrics} | {one.metric for one in series}
    assert set(full.drawn) <= metrics
    arms = {arm for one in series for arm in one.values}
    if series:
        assert set(full.scales["full"].arms) & arms  # of the paper's own models
    assert any(metric in full.scales["tiny"].metrics for metric in full.drawn or metrics)


def test_the_files_are_the_issues():
    wanted = """clusters scale instructions few_shot prompt_tuning datasets_x_templates contamination tasks_x_size cot zero_shot_cot
        self_consistency minus_method minus_source few_shot_share number_of_tasks eps proportions opt_iml_tasks
        opt_iml_clusters pretraining_share reasoning_share"""
    assert [name.removesuffix(".gin") for name in FILES] == sorted(wanted.split())
