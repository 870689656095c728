"""Mixtures: rates, hold-outs, and every way in which a member may be wrong, named before anything runs."""

import logging
from typing import Any

import numpy as np
import pytest
from data_builders import LENGTHS, TEMPLATES, dataset, prepare, rows, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_streams import seqio_task

from flan_jax import errors
from flan_jax.data import holdout, loader, mixtures, streams

MODULE = "flan_jax.tasks.catalogue"
CATALOGUE = mixtures.Catalogue.from_modules(MODULE)


def opened(catalogue: mixtures.Catalogue, name: str, data_dir: str | None, **options) -> mixtures.OpenMixture:
    options = {"split": "train", "tokenizer": tokenizer(), "lengths": LENGTHS, "seed": 0} | options
    return catalogue.open(name, data_dir=data_dir, **options)


# --- Rates ---


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12), st.one_of(st.none(), st.integers(1, 10_000)))
def test_rates(sizes, maximum):
    tasks = tuple(f"t{number}" for number in range(len(sizes)))
    spec = mixtures.MixtureSpec("m", tasks) if maximum is None else mixtures.MixtureSpec("m", tasks, maximum)
    stream: Any = None
    found = spec.rates(weigh(dict(zip(tasks, sizes, strict=True))))
    members = [mixtures.Member(task, n, found[task], stream) for task, n in zip(tasks, sizes, strict=True)]
    expected = np.minimum(sizes, maximum or 3000) / np.minimum(sizes, maximum or 3000).sum()
    np.testing.assert_allclose(mixtures.OpenMixture("m", members).probabilities, expected, rtol=1e-12)


def weigh(sizes):
    """As `Catalogue.open` weighs tasks of so many rows."""
    return lambda task, maximum: float(min(sizes.get(task, 0), maximum or sizes.get(task, 0)))


def test_rate_without_a_maximum():
    assert mixtures.MixtureSpec("m", ("t",), None).rates(weigh({"t": 29_000})) == {"t": 29_000}


def test_a_blend_keeps_shares_whatever_the_rows():
    """Caps hold within a part; the first task keeps its weight; a task of two parts has both its rates."""
    small, large = mixtures.MixtureSpec("small", ("a", "b"), 30), mixtures.MixtureSpec("large", ("b", "c"), None)
    spec = holdout.blend("m", [(small, 1.0), (large, 3.0)])
    assert spec.tasks == ("a", "b", "c")
    found = spec.rates(weigh({"a": 10, "b": 40, "c": 160}))
    assert found == {"a": 10.0, "b": 30.0 + 3 * 40 * 40 / 200, "c": 3 * 40 * 160 / 200}
    # A part without data leaves its share to the others.
    assert spec.rates(weigh({"a": 10})) == {"a": 10.0, "b": 0.0}
    assert spec.rates(weigh({"b": 40, "c": 160})) == {"a": 0.0, "b": 30.0 + 3 * 30 * 40 / 200, "c": 3 * 30 * 160 / 200}


@given(st.lists(st.tuples(st.integers(1, 40_000), st.floats(0.01, 10)), min_size=1, max_size=8))
def test_parts_are_drawn_by_their_shares(parts):
    names = [(f"{n}a", f"{n}b") for n in range(len(parts))]
    spec = holdout.blend(
        "m", [(mixtures.MixtureSpec("p", n), share) for n, (_, share) in zip(names, parts, strict=True)]
    )
    sizes = {a: count for (a, _), (count, _) in zip(names, parts, strict=True)} | {b: 7 for _, b in names}
    found = spec.rates(weigh(sizes))
    whole = sum(found.values())
    for pair, (count, share) in zip(names, parts, strict=True):
        np.testing.assert_allclose(found[pair[0]] + found[pair[1]], whole * share / sum(s for _, s in parts), rtol=1e-9)
        np.testing.assert_allclose(found[pair[0]] * 7, found[pair[1]] * min(count, 3000), rtol=1e-9)


def test_rates_follow_the_prepared_rows(tmp_path):
    data_dir = prepare(tmp_path, "small", train=rows(10), validation=rows(2), test=rows(2))
    prepare(tmp_path, "large", train=rows(40), validation=rows(2), test=rows(2))
    members = [dataset(tmp_path, name) for name in ("small", "large")]
    tasks = ("small_4templates", "large_4templates")
    catalogue = mixtures.Catalogue(members, [mixtures.MixtureSpec("both", tasks, 30)])
    found = opened(catalogue, "both", data_dir)
    assert [(m.name, m.rows, m.rate) for m in found.members] == [(tasks[0], 10, 10.0), (tasks[1], 40, 30.0)]
    np.testing.assert_allclose(found.probabilities, [0.25, 0.75])
    assert [m.rows for m in opened(catalogue, "both", data_dir, split="validation").members] == [2, 2]


# --- Contents (hold-outs: test_holdout.py) ---


def test_nli_is_the_ten_tasks_of_the_paper():
    names = ["anli_r1", "anli_r2", "anli_r3", "cb", "mnli_matched", "mnli_mismatched", "qnli", "rte", "snli", "wnli"]
    assert CATALOGUE.mixture("nli_10templates").tasks == tuple(f"{name}_10templates" for name in names)


def test_chain_of_thought_is_a_collection_of_its_own():
    names = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
    for style in ("10templates", "4templates_trigger", "2templates_trigger_five_shot"):
        assert CATALOGUE.mixture(f"cot_{style}").tasks == tuple(f"{name}_{style}" for name in names)
    assert not set(CATALOGUE.mixture("cot_10templates").tasks) & set(CATALOGUE.mixture("flan2021_10templates").tasks)


def test_a_dataset_without_a_train_split_is_evaluated_and_not_trained_on(sample_dir):
    name = "coreference_10templates"
    members = [m.name for m in opened(CATALOGUE, name, sample_dir).members]
    assert members == ["definite_pronoun_resolution_10templates", "winogrande_10templates"]
    assert "wsc273_type_0_scoring_eval" in [task.name for task in CATALOGUE.eval_tasks(name)]
    asked = mixtures.MixtureSpec("m", ("rte_1templates", "wsc273_1templates"))
    with pytest.raises(errors.FlanError, match=r"dataset 'wsc273' has no train split"):
        opened(mixtures.Catalogue(CATALOGUE.specs, [asked]), "m", sample_dir)


def test_evaluation_asks_each_template_that_is_not_reversed():
    for name in ("rte_10templates", "nli_10templates", "closed_book_qa_4templates"):
        found = CATALOGUE.eval_tasks(name)
        assert found
        assert not any(template.reversed for task in found for template in task._templates.values())
        expected = sum(
            not CATALOGUE.tasks[f"{CATALOGUE.tasks[task].dataset.name}_type_{i}"].reversed
            for task in CATALOGUE.mixture(name).tasks
            for i in CATALOGUE.tasks[task].style.templates
        )
        assert len(found) == len({task.name for task in found}) == expected


def test_evaluation_of_reversed_templates_alone():
    (backwards, *_) = [name for name in CATALOGUE.tasks.names() if "_type_" in name and CATALOGUE.tasks[name].reversed]
    with pytest.raises(errors.FlanError, match=r"only reversed templates"):
        CATALOGUE.eval_tasks(backwards)


# --- What can be wrong ---


def test_unknown_names_name_the_nearest():
    with pytest.raises(
        errors.FlanError, match=r"unknown task or mixture 'flan_minus_nl_10templates'; did you mean 'flan_minus_nli_10"
    ):
        CATALOGUE.mixture("flan_minus_nl_10templates")
    assert CATALOGUE.mixture("rte_type_3").tasks == ("rte_type_3",)


def test_a_mixture_with_an_unknown_task(tmp_path):
    catalogue = mixtures.Catalogue(
        [dataset(tmp_path)], [mixtures.MixtureSpec("m", ("mini_4templates", "mini_4template"))]
    )
    with pytest.raises(
        errors.FlanError, match=r"mixture 'm': unknown task 'mini_4template'; did you mean 'mini_4templates'"
    ):
        opened(catalogue, "m", str(tmp_path))


def test_a_mixture_of_nothing(tmp_path):
    catalogue = mixtures.Catalogue([], [mixtures.MixtureSpec("m", ())])
    with pytest.raises(errors.FlanError, match=r"mixture 'm' names no task"):
        opened(catalogue, "m", str(tmp_path))


def test_missing_data_is_named_all_at_once_or_skipped(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flan_jax"), "propagate", True)  # the command line turns it off
    data_dir = prepare(tmp_path, "here", train=rows(10))
    members = [dataset(tmp_path, name, splits={"train": "train"}) for name in ("here", "gone", "lost")]
    tasks = tuple(f"{name}_4templates" for name in ("here", "gone", "lost"))
    catalogue = mixtures.Catalogue(members, [mixtures.MixtureSpec("m", tasks)])
    with pytest.raises(errors.FlanError, match=r"(?s)2 of 3 tasks have no data:.*gone:1.0.0.*lost:1.0.0"):
        opened(catalogue, "m", data_dir)
    assert [m.name for m in opened(catalogue, "m", data_dir, missing="skip").members] == ["here_4templates"]
    assert "gone:1.0.0" in caplog.text
    with pytest.raises(errors.FlanError, match=r"1 of 1 tasks have no data"):
        opened(catalogue, "gone_4templates", data_dir, missing="skip")
    with pytest.raises(errors.FlanError, match=r"unknown value of missing 'skipp'; did you mean 'skip'"):
        opened(catalogue, "m", data_dir, missing="skipp")


def test_an_empty_task_fails_even_where_missing_ones_are_skipped(tmp_path):
    data_dir = prepare(tmp_path, "mini", train=rows(10))
    empty = dataset(tmp_path, build=lambda row: None)
    catalogue = mixtures.Catalogue([empty], [mixtures.MixtureSpec("m", ("mini_4templates",))])
    with pytest.raises(errors.FlanError, match=r"'mini_4templates' is empty"):
        opened(catalogue, "m", data_dir, missing="skip")


# --- Tasks of the user's own ---


def test_a_users_module(tmp_path, monkeypatch):
    (tmp_path / "weather.yaml").write_text(TEMPLATES)
    (tmp_path / "weather_tasks.py").write_text(
        "import pathlib\n"
        "from flan_jax.data import mixtures, spec\n"
        "def build(row):\n"
        "    return spec.Example({'text': row['text']}, ('no', 'yes')[row['label']], ('no', 'yes'))\n"
        "SPLITS = {'train': 'train', 'validation': 'train[-5:]'}\n"
        "SPECS = (spec.DatasetSpec('weather', 'sky', 'weather:1.0.0', SPLITS, build, ('accuracy',), 20,\n"
        "         str(pathlib.Path(__file__).parent / 'weather.yaml'), collection='mine'),)\n"
        "MIXTURES = (mixtures.MixtureSpec('sky_and_rte', ('weather_4templates', 'rte_10templates')),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    catalogue = mixtures.Catalogue.from_modules([MODULE, "weather_tasks"])
    assert catalogue.mixture("sky_and_rte").tasks == ("weather_4templates", "rte_10templates")
    assert "weather_10templates" not in catalogue.mixture("flan2021_10templates").tasks
    found = opened(catalogue, "weather_4templates", prepare(tmp_path, "weather", train=rows(20)))
    assert [m.rows for m in found.members] == [15]
    (example,) = found.members[0].stream.read(np.asarray([3]))
    assert "OPTIONS:\n- no\n- yes" in tokenizer().decode(example.inputs)


def test_a_module_that_cannot_be_imported():
    with pytest.raises(errors.FlanError, match=r"MIXTURE_OR_TASK_MODULE 'no.such.tasks' cannot be imported"):
        mixtures.Catalogue.from_modules("no.such.tasks")


@pytest.fixture
def registry():
    """seqio's registries, emptied of this test's tasks afterwards."""
    import seqio

    before = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
    yield seqio
    for known, names in zip((seqio.TaskRegistry, seqio.MixtureRegistry), before, strict=True):
        for name in set(known.names()) - names:
            known.remove(name)


def test_a_seqio_task_trains_beside_ours(tmp_path, registry):
    registry.TaskRegistry.add_provider("foreign", seqio_task())
    data_dir = prepare(tmp_path, "mini", train=rows(20))
    both = mixtures.MixtureSpec("both", ("mini_4templates", "foreign"))
    catalogue = mixtures.Catalogue([dataset(tmp_path, splits={"train": "train"})], [both])
    found = opened(catalogue, "both", data_dir)
    assert [(m.name, m.rows, m.rate) for m in found.members] == [("mini_4templates", 20, 20.0), ("foreign", 20, 20.0)]
    assert isinstance(found.members[1].stream, streams.SeqioStream)
    batch = next(iter(loader.TrainLoader(found, lengths=LENGTHS, batch_size=8, seed=0, pack=True)))
    assert (batch.examples > 0).all()
    alone = opened(catalogue, "foreign", data_dir)
    assert [m.name for m in alone.members] == ["foreign"]


def test_a_seqio_mixture_keeps_its_own_rates(tmp_path, registry):
    for name, count in (("one", 10), ("two", 30)):
        registry.TaskRegistry.add_provider(name, seqio_task(name, count, keep=count))
    registry.MixtureRegistry.add("pair", [("one", 3.0), ("two", 1.0)])
    data_dir = prepare(tmp_path, "mini", train=rows(20))
    catalogue = mixtures.Catalogue(
        [dataset(tmp_path, splits={"train": "train"})], [mixtures.MixtureSpec("both", ("mini_4templates", "pair"))]
    )
    assert [(m.name, m.rate) for m in opened(catalogue, "pair", data_dir).members] == [("one", 30.0), ("two", 10.0)]
    np.testing.assert_allclose(opened(catalogue, "both", data_dir).probabilities, [20 / 60, 30 / 60, 10 / 60])


def test_seqio_tasks_alone_need_no_directory_of_tfds(tmp_path, registry, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    registry.TaskRegistry.add_provider("foreign", seqio_task())
    own = mixtures.Catalogue([dataset(tmp_path, splits={"train": "train"})])
    assert [m.rows for m in opened(own, "foreign", None).members] == [20]
    with pytest.raises(errors.FlanError, match="no data directory"):
        opened(own, "mini_4templates", None)


def test_evaluation_says_that_a_seqio_task_is_none_of_ours(registry):
    registry.TaskRegistry.add_provider("foreign", seqio_task())
    with pytest.raises(errors.FlanError, match=r"^'foreign' is seqio's own task; evaluation asks flan_jax's tasks"):
        mixtures.Catalogue([]).eval_tasks("foreign")


def test_a_seqio_task_in_another_vocabulary(tmp_path, registry):
    registry.TaskRegistry.add_provider("foreign", seqio_task(vocab=registry.ByteVocabulary()))
    with pytest.raises(
        errors.FlanError, match=r"inputs of seqio task 'foreign' are tokenised with .*they must be equal"
    ):
        opened(mixtures.Catalogue([]), "foreign", str(tmp_path))


def test_a_seqio_task_without_that_split(tmp_path, registry):
    registry.TaskRegistry.add_provider("foreign", seqio_task())
    with pytest.raises(
        errors.FlanError, match=r"'foreign' is empty: no rows in split 'validation'; it has \['train'\]"
    ):
        opened(mixtures.Catalogue([]), "foreign", str(tmp_path), split="validation")


def test_a_seqio_task_that_does_not_know_its_rows(tmp_path, registry):
    task = seqio_task()
    task.source._num_input_examples = None
    registry.TaskRegistry.add_provider("foreign", task)
    with pytest.raises(errors.FlanError, match=r"'foreign' does not know its row count.*num_input_examples=\{'train'"):
        opened(mixtures.Catalogue([]), "foreign", str(tmp_path))
