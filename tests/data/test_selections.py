"""Mixtures chosen from others by the ends of their names."""

import itertools

import pytest

from flan_jax import errors
from flan_jax.data import holdout, mixtures, spec

FLAN = ("flan_jax.tasks.nli", "flan_jax.tasks.sentiment", "flan_jax.tasks.commonsense", "flan_jax.tasks.paraphrase")


@pytest.fixture(scope="module")
def catalogue():
    found = mixtures.Catalogue.from_modules(FLAN)
    blend = spec.Blend("mixed", (spec.Part("flan2021", 3.0, style="10templates"),))
    return mixtures.Catalogue(found.specs, blended=[blend])


def datasets(catalogue, name):
    found = [catalogue.tasks[task].dataset for task in catalogue.mixture(name).tasks]
    return list({dataset.name: dataset for dataset in found}.values())


def test_the_first_clusters_are_whole_and_in_the_mixtures_order(catalogue):
    every = datasets(catalogue, "flan2021_10templates")
    order = list(dict.fromkeys(dataset.cluster for dataset in every))
    for count in range(1, len(order) + 1):
        wanted = [dataset for dataset in every if dataset.cluster in order[:count]]
        assert datasets(catalogue, f"flan2021_10templates_clusters_{count}") == wanted
    with pytest.raises(errors.FlanError, match="has 4 clusters; expected at most 4, not 5"):
        catalogue.mixture("flan2021_10templates_clusters_5")


def test_so_many_of_each_cluster(catalogue):
    found = datasets(catalogue, "flan2021_10templates_per_cluster_2")
    clusters = [dataset.cluster for dataset in found]
    assert {clusters.count(cluster) for cluster in clusters} == {2}


def test_smaller_samples_are_parts_of_larger_ones(catalogue):
    sizes = (1, 4, 9, 16)
    samples = [{d.name for d in datasets(catalogue, f"flan2021_10templates_sample_{size}")} for size in sizes]
    assert [len(sample) for sample in samples] == list(sizes)
    assert all(small < large for small, large in itertools.pairwise(samples))
    with pytest.raises(errors.FlanError, match="datasets; expected at most"):
        catalogue.mixture("flan2021_10templates_sample_1000")


def test_one_cluster_and_all_but_it(catalogue):
    assert {d.cluster for d in datasets(catalogue, "flan2021_10templates_only_sentiment")} == {"sentiment"}
    held_out = "flan2021_10templates_heldout_nli"
    assert {d.cluster for d in datasets(catalogue, held_out)} == {"sentiment", "commonsense"}  # paraphrase goes with it
    assert holdout.heldout_leaks(catalogue, held_out, "nli") == []
    assert set(catalogue.mixture(held_out).tasks) == set(catalogue.mixture("flan_minus_nli_10templates").tasks)
    assert {d.cluster for d in datasets(catalogue, f"{held_out}_clusters_1")} < {"sentiment", "commonsense"}
    with pytest.raises(errors.FlanError, match="did you mean 'sentiment'"):
        catalogue.mixture("flan2021_10templates_only_sentimant")


def test_rates_follow_another_maximum_and_the_rows_another_cap(catalogue):
    def rates(name):
        found = catalogue.mixture(name).rates(lambda task, maximum: min(10_000, maximum or 10_000))
        return set(found.values())

    assert rates("nli_10templates") == {3_000}
    assert rates("nli_10templates_maximum_128") == {128}
    assert rates("mixed_maximum_128_only_nli") == {128}
    assert catalogue.mixture("nli_10templates_rows_32").cap == 32
    assert catalogue.mixture("nli_10templates_rows_32_rows_64").cap == 32


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_shares_are_the_percent(catalogue, percent):
    name = f"nli_10templates_with_{percent}_sentiment_no_template_sample_2"
    found = catalogue.mixture(name).rates(lambda task, maximum: 100.0)
    of_sentiment = sum(rate for task, rate in found.items() if task.endswith("_no_template"))
    assert 100 * of_sentiment / sum(found.values()) == pytest.approx(percent)
    assert sum(task.endswith("_no_template") for task in found) == (2 if percent else 0)


@pytest.mark.parametrize("name", ["nothing_clusters_2", "nli_10templates_with_5_nothing", "nli_10templates_sample_0"])
def test_what_is_not_known_is_an_unknown_name(catalogue, name):
    assert catalogue.find(name) is None
    with pytest.raises(errors.FlanError, match=f"unknown task or mixture '{name}'"):
        catalogue.mixture(name)
