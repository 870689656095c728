"""Tasks: every row once an epoch, filters made up for, templates drawn by hash, names understood."""

import collections

import numpy as np
import pytest
from data_builders import OPTIONS, TEMPLATES, dataset, example, prepare, rows, task, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import mixtures, seqio_tasks, sources, spec, styles

CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return task(dataset(tmp_path_factory.mktemp("templates")))


def drop_every(of, count: int):
    """The dataset without the rows whose number is a multiple of `count`."""

    def build(row: spec.Row) -> spec.Example | None:
        return None if int(row["text"].split()[1]) % count == 0 else example(row)

    return dataset(of, f"without{count}", build=build)


# --- Draws ---


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 60), epoch=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_every_row_once_an_epoch(mini, count, epoch, seed):
    taken = seqio_tasks.TaskRows(mini, rows(count), cap=None)
    drawn = taken.draw(np.arange(epoch * count, (epoch + 1) * count), seed)
    assert sorted(f.row for f in drawn) == list(range(count))


def test_new_order_and_templates_each_epoch_and_seed(mini):
    taken = seqio_tasks.TaskRows(mini, rows(200), cap=None)
    epochs = [taken.draw(np.arange(200) + 200 * epoch, seed) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    orders = [[f.row for f in drawn] for drawn in epochs]
    chosen = [[f.template for f in sorted(drawn, key=lambda f: f.row)] for drawn in epochs]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Of 200 rows one stays in its place by chance, and a quarter of the templates.
        assert sum(a == b for a, b in zip(orders[one], orders[other], strict=True)) < 10
        assert 20 < sum(a == b for a, b in zip(chosen[one], chosen[other], strict=True)) < 90


def test_without_shuffling_every_epoch_is_in_the_order_of_the_file(mini):
    taken = seqio_tasks.TaskRows(mini, rows(30), cap=None)
    drawn = taken.draw(np.arange(75), 1, shuffle=False)
    assert [f.row for f in drawn] == [i % 30 for i in range(75)]
    assert [f.template for f in drawn[:30]] != [f.template for f in drawn[30:60]]


@settings(max_examples=25, deadline=None)
@given(positions=st.lists(st.integers(0, 10**6), max_size=30), shuffle=st.booleans(), data=st.data())
def test_a_draw_is_a_function_of_its_position(mini, positions, shuffle, data):
    """Not of the batch it is read in, nor of what was read before."""
    kept = seqio_tasks.TaskRows(mini, rows(50), cap=None)
    cut = data.draw(st.integers(0, len(positions)))
    whole = kept.draw(np.asarray(positions, np.int64), 3, shuffle)
    parts = kept.draw(np.asarray(positions[cut:], np.int64), 3, shuffle)
    parts = kept.draw(np.asarray(positions[:cut], np.int64), 3, shuffle) + parts
    fresh = seqio_tasks.TaskRows(mini, rows(50), cap=None)
    assert whole == parts == [fresh.draw(np.asarray([p]), 3, shuffle)[0] for p in positions]


def test_template_follows_the_row_not_its_place(mini):
    """A row keeps its template when other rows come before it; all are drawn equally often."""
    taken = seqio_tasks.TaskRows(mini, rows(4000), cap=None)
    shuffled = {f.row: f.template for f in taken.draw(np.arange(4000), 9)}
    assert shuffled == {f.row: f.template for f in taken.draw(np.arange(4000), 9, shuffle=False)}
    assert shuffled == {f.row: f.template for f in taken.in_order(seed=9)}
    counts = collections.Counter(shuffled.values())
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(count - 1000) < 5 * np.sqrt(750) for count in counts.values())


def test_datasets_draw_independently(tmp_path):
    one, other = (seqio_tasks.TaskRows(task(dataset(tmp_path, name)), rows(100), cap=None) for name in ("one", "other"))
    assert [f.row for f in one.draw(np.arange(100), 0)] != [f.row for f in other.draw(np.arange(100), 0)]


def test_text(mini):
    taken = seqio_tasks.TaskRows(mini, rows(8), cap=None)
    asks = ("Is it so?", "Would you agree?", "Say yes or no.", "True?")
    for f in taken.draw(np.arange(8), 0):
        assert f.inputs == f"{asks[f.template]} {rows(8)[f.row]['text']}\n\nOPTIONS:\n- yes\n- no"
        assert f.targets == OPTIONS[f.row % 2]
        assert f.example.answers == (f.targets,)


def test_options_can_be_left_out(tmp_path):
    taken = seqio_tasks.TaskRows(task(dataset(tmp_path), (2,), options=False), rows(3), cap=None)
    assert [f.inputs for f in taken.in_order()] == ["Say yes or no. " + row["text"].strip() for row in rows(3)]


# --- Filters and the cap ---


def test_dropped_rows_are_made_up_by_the_next(tmp_path):
    taken = seqio_tasks.TaskRows(task(drop_every(tmp_path, 5)), rows(20), cap=None)
    assert taken.num_examples == 20
    counts = collections.Counter(f.row for f in taken.draw(np.arange(20), 0))
    assert counts == {**dict.fromkeys((i for i in range(20) if i % 5), 1), **dict.fromkeys((1, 6, 11, 16), 2)}


def test_the_cap_counts_rows_that_are_kept(tmp_path):
    """Rows that the filter drops are made up from beyond the cap."""
    taken = seqio_tasks.TaskRows(task(drop_every(tmp_path, 2)), rows(4000), cap=100)
    assert taken.num_examples == 100
    drawn = [f.row for f in taken.draw(np.arange(100), 0)]
    assert all(row % 2 for row in drawn)
    assert {row for row in drawn if row < 100} == set(range(1, 100, 2))
    beyond = [row for row in drawn if row >= 100]
    assert len(beyond) == 50
    assert len(set(beyond)) > 45
    # The same stand-in for the same row in every epoch.
    assert {f.row for f in taken.draw(np.arange(100, 200), 0)} == set(drawn)


def test_a_single_row_that_passes_is_found(tmp_path):
    only = dataset(tmp_path, build=lambda row: example(row) if row["text"].startswith("row 777 ") else None)
    taken = seqio_tasks.TaskRows(task(only), rows(1000), cap=100)
    assert {f.row for f in taken.draw(np.arange(5), 0)} == {777}


def test_a_filter_that_drops_everything_is_named_at_once(tmp_path):
    data_dir = prepare(tmp_path, "mini", train=rows(30), validation=rows(3))
    empty = task(dataset(tmp_path, build=lambda row: None))
    for split in ("train", "validation"):
        with pytest.raises(errors.FlanError, match=r"'mini_4templates' is empty: its filter drops every one of"):
            empty.open(data_dir, split)


def test_a_split_without_rows_is_named(tmp_path):
    """A single row stays in train, so that the validation rows that are cut from it are none."""
    data_dir = prepare(tmp_path, "mini", train=rows(1))
    empty = dataset(tmp_path, splits={"train": "train", "validation": "train[-1:]"})
    with pytest.raises(errors.FlanError, match=r"'mini_4templates' is empty: no rows in 'train\[-1:\]'"):
        task(empty).open(data_dir, "validation")
    with pytest.raises(errors.FlanError, match=r"unknown split 'valid'; did you mean 'validation'"):
        task(empty).open(data_dir, "valid")
    with pytest.raises(sources.NotPrepared):
        task(empty).open(str(tmp_path), "train")


def test_the_head_slice_caps_the_train_split_alone(tmp_path):
    data_dir = prepare(tmp_path, "mini", train=rows(40))
    capped = task(dataset(tmp_path, splits={"train": "train[:10]", "validation": "train[-8:]"}))
    assert capped.open(data_dir, "train").num_examples == 10
    assert capped.open(data_dir, "validation").num_examples == 8
    assert {f.row for f in capped.open(data_dir, "train").draw(np.arange(10), 0)} == set(range(10))


def test_training_is_capped_at_thirty_thousand(mini, monkeypatch):
    """FLAN 2021, section 2.1; evaluation reads every row."""
    assert seqio_tasks.TRAIN_CAP == 30_000
    many = rows(10) * 4000

    class Prepared:
        directory = "somewhere"

        def __init__(self, data_dir, name):
            pass

        def rows(self, splits, split):
            return many

    monkeypatch.setattr(sources, "PreparedDataset", Prepared)
    assert mini.open("", "train").num_examples == 30_000
    assert mini.open("", "test").num_examples == 40_000


def test_in_order_gives_each_kept_row_once(tmp_path):
    taken = seqio_tasks.TaskRows(task(drop_every(tmp_path, 3)), rows(10), cap=None)
    assert [f.row for f in taken.in_order()] == [1, 2, 4, 5, 7, 8]
    assert [f.row for f in taken.in_order(limit=3)] == [1, 2, 4]


# --- Tokens ---


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20)), max_size=5), st.integers(1, 20), st.integers(1, 8)
)
def test_tokenise_trims_and_ends_in_eos(pairs, inputs, targets):
    formatted = [seqio_tasks.Formatted(*pair, spec.Example({}, ""), 0, 0) for pair in pairs]
    found = seqio_tasks.tokenise(formatted, tokenizer(), {"inputs": inputs, "targets": targets})
    for pair, tokens in zip(pairs, found, strict=True):
        assert tokens.cut is not None
        for text, ids, room, cut in zip(
            pair, (tokens.inputs, tokens.targets), (inputs, targets), tokens.cut, strict=True
        ):
            whole = tokenizer().encode([text])[0]
            assert ids == [*whole[: room - 1], 1]
            assert cut == len(whole) - len(ids) + 1


# --- Names and styles ---


def test_every_listed_name_is_found_and_names_itself():
    names = CATALOGUE.tasks.names()
    assert len(names) == len(set(names))
    assert all(CATALOGUE.tasks[name].name == name for name in names)


def test_how_many_names_there_are():
    """FLAN registers 10,984, with continuations in GPT-3's style among them, and without the Flan Collection's."""
    counts = {d.name: sum(t.startswith(f"{d.name}_") for t in CATALOGUE.tasks.names()) for d in CATALOGUE.specs}
    free = 7 * (5 + 10) + 1 + 2 + 6 + 1 + 6 + 1  # templates, shots; all_prompts; baselines; Flan Collection; OPT-IML
    scored = free + 7 * (10 + 10) + 10 + 2 + 1
    assert counts["natural_questions"] == free
    assert counts["rte"] == scored
    assert counts["wsc273"] == (5 + 10) + 20 + 1 + 4 + 10 + 2 + 2 + 1  # without a train split nothing gives exemplars


@pytest.mark.parametrize(
    ("name", "templates", "options", "scoring"),
    [
        ("rte_10templates", tuple(range(10)), True, False),
        ("rte_4templates", (0, 1, 2, 3), True, False),
        ("rte_type_3", (3,), True, False),
        ("anli_r1_type_9_scoring_eval", (9,), True, True),
        ("rte_type_0_score_eval_no_options", (0,), False, True),
    ],
)
def test_styles(name, templates, options, scoring):
    assert CATALOGUE.tasks[name].style == seqio_tasks.Style(templates, options, scoring)


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("rte_10templates_five_shot", {"templates": tuple(range(10)), "shots": 5}),
        ("rte_1templates_multi_shot", {"templates": (0,), "shots": 16}),
        ("anli_r1_type_9_scoring_eval_one_shot", {"templates": (9,), "scoring": True, "shots": 1}),
        ("squad_v1_type_2_ten_shot", {"templates": (2,), "shots": 10}),
        ("rte_type_1_score_flan_no_options", {"templates": (1,), "options": False, "scoring": True}),
        ("rte_all_prompts", {"templates": tuple(range(10))}),
        ("rte_template_0to10_no_opt_zero_shot", {"templates": tuple(range(10)), "options": False, "budget": 1920}),
        (
            "rte_template_0to10_x_shot",
            {
                "templates": tuple(range(10)),
                "shots": 25,
                "exemplars": styles.MATCHING,
                "delimiters": "flan2022",
                "budget": 1920,
            },
        ),
        (
            "rte_template_mix_five_shot",
            {
                "templates": tuple(range(10)),
                "shots": 5,
                "exemplars": styles.OWN,
                "delimiters": "flan2022",
                "budget": 1920,
            },
        ),
        ("rte_no_template", {"templates": (0,), "options": False, "wording": styles.NOTHING}),
        ("rte_dataset_name", {"templates": (0,), "options": False, "wording": styles.NAME}),
    ],
)
def test_styles_beyond_zero_shot(name, style):
    assert CATALOGUE.tasks[name].style == styles.Style(**style)


@pytest.mark.parametrize(
    ("name", "evaluated"),
    [
        ("rte_1templates", "rte_type_0_scoring_eval"),
        ("rte_1templates_multi_shot", "rte_type_0_scoring_eval_multi_shot"),
        ("rte_type_2_scoring_eval_five_shot", "rte_type_2_scoring_eval_five_shot"),
        ("rte_type_2_score_eval_no_options", "rte_type_2_score_eval_no_options"),
        ("natural_questions_1templates_two_shot", "natural_questions_type_0_two_shot"),
        ("rte_no_template", "rte_no_template_scoring_eval"),
        ("natural_questions_dataset_name", "natural_questions_dataset_name"),
    ],
)
def test_what_evaluates_a_style(name, evaluated):
    assert [task.name for task in CATALOGUE.tasks[name].evaluations()] == [evaluated]


def test_what_evaluates_the_flan_collection():
    for name, last in (("0to10_x_shot", "scoring_eval_five_shot"), ("0to10_no_opt_zero_shot", "score_eval_no_options")):
        found = [task.name for task in CATALOGUE.tasks[f"rte_template_{name}"].evaluations()]
        assert found == [f"rte_type_{i}_{last}" for i in range(9)]  # the tenth is reversed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rte_no_template", "{premise}\n{hypothesis}"),
        ("rte_dataset_name", "[nli: rte] {premise}\n{hypothesis}"),
        ("wmt16_translate_deen_no_template", "{source}"),
        ("imdb_reviews_dataset_name", "[sentiment: imdb reviews] {text}"),
    ],
)
def test_baselines(name, text):
    """FLAN 2021, section 4.2: inputs and outputs only, or behind the name of the task and the dataset."""
    task = CATALOGUE.tasks[name]
    fields = {"premise": "P", "hypothesis": "H", "source": "S", "text": "T", "target_language": "German"}
    found = task.format(spec.Example(fields, "yes", ("yes", "no")), 0, 0)
    assert (found.inputs, found.targets) == (text.format(**fields), "yes")
    assert not task.reversed


def test_every_baseline_renders(sample_dir):
    for found in CATALOGUE.specs:
        plain = CATALOGUE.tasks[f"{found.name}_no_template"]
        split = "test" if "test" in found.splits else "validation"
        f = next(plain.open(sample_dir, split).in_order())
        assert f.inputs
        assert f.targets == f.example.answer.strip()


def test_a_dataset_without_a_train_split_is_not_trained_on(sample_dir):
    with pytest.raises(errors.FlanError, match=r"dataset 'wsc273' has no train split, only test: it cannot be trained"):
        CATALOGUE.tasks["wsc273_10templates"].open(sample_dir, "train")
    assert CATALOGUE.tasks.find("wsc273_10templates_five_shot") is None
    assert CATALOGUE.tasks["wsc273_10templates"].open(sample_dir, "test").num_examples > 0


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rte_10template", "did you mean 'rte_10templates'"),
        ("rte_type_10", "did you mean 'rte_type_1'"),
        ("rt_10templates", "'rte_10templates'"),
        ("rte_3templates", "did you mean 'rte_"),
        ("rte", "unknown task 'rte'"),
        ("", "unknown task ''; known: "),
    ],
)
def test_unknown_names(name, near):
    assert CATALOGUE.tasks.find(name) is None
    with pytest.raises(errors.FlanError, match=r"^unknown task") as caught:
        CATALOGUE.tasks[name]
    assert near in str(caught.value)


def test_a_style_that_asks_for_more_templates_than_there_are(tmp_path):
    with pytest.raises(errors.FlanError, match=r"template 4 asked for, 4 exist"):
        task(dataset(tmp_path), (0, 4))


def test_evaluations(tmp_path):
    backwards = "- {inputs: 'Make up a text.', targets: '{text}', reversed: true}\n"
    mixed = dataset(tmp_path, templates=TEMPLATES + backwards)
    assert [t.name for t in task(mixed, (0, 1, 4)).evaluations()] == [
        "mini_type_0_scoring_eval",
        "mini_type_1_scoring_eval",
    ]
    assert task(mixed, (4,)).reversed
    assert not task(mixed, (3, 4)).reversed
    assert task(mixed, (4,)).evaluations() == []
    free = dataset(tmp_path, "free", templates="- {inputs: '{text}', targets: '{answer}'}\n")
    assert [t.name for t in task(free, (0,)).evaluations()] == ["free_type_0"]
