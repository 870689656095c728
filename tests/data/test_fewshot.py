"""Few-shot: exemplars come from the train split, never the query; they fit; the same key gives the same text."""

import numpy as np
import pytest
from data_builders import LENGTHS, dataset, example, prepare, rows, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import delimiters, fewshot, loader, mixtures, seqio_tasks, spec, streams, styles

FIVE = styles.Style((0, 1, 2, 3), shots=5)


def few(folder, style: styles.Style = FIVE, build=example) -> seqio_tasks.FlanTask:
    return seqio_tasks.FlanTask(dataset(folder, build=build), "4templates_five_shot", style)


def train(of: seqio_tasks.FlanTask, count: int, cap: int | None = None) -> seqio_tasks.TaskRows:
    taken = rows(count)
    return seqio_tasks.TaskRows(of, taken, cap, of.pool(taken, cap), own=True)


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return few(tmp_path_factory.mktemp("five"))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    positions=st.lists(st.integers(0, 400), min_size=1, max_size=20),
)
def test_exemplars_are_other_rows_of_the_train_split(five, count, seed, positions):
    for f in train(five, count).draw(np.asarray(positions), seed):
        assert f.shots is not None
        found = f.shots.exemplars()
        assert len(found) == min(5, count - 1)
        assert f.row not in [e.row for e in found]
        assert len({e.row for e in found}) == len(found)
        assert all(0 <= e.row < count for e in found)
        assert {e.template for e in found} <= {f.template}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(0, 5), st.data())
def test_a_draw_is_a_function_of_its_position(five, positions, seed, data):
    """Whatever batch it is in: so any number of hosts reads the same text."""
    cut = data.draw(st.integers(0, len(positions)))
    whole = train(five, 30).draw(np.asarray(positions), seed)
    taken = train(five, 30)
    parts = [f for part in (positions[cut:], positions[:cut]) for f in taken.draw(np.asarray(part, np.int64), seed)]
    parts = parts[len(positions) - cut :] + parts[: len(positions) - cut]
    assert [f.prompt() for f in parts] == [f.prompt() for f in whole]
    tokens = seqio_tasks.tokenise(whole, tokenizer(), {"inputs": 200, "targets": 16})
    apart = [seqio_tasks.tokenise([f], tokenizer(), {"inputs": 200, "targets": 16})[0] for f in parts]
    assert tokens == apart


def test_exemplars_change_with_epoch_seed_and_row(five):
    taken = train(five, 200)
    draws = [taken.draw(np.arange(200) + 200 * epoch, seed, shuffle=False) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    first, *others = [[tuple(e.row for e in f.shots.exemplars()) for f in drawn] for drawn in draws]
    assert len(set(first)) == 200
    assert all(sum(a == b for a, b in zip(first, other, strict=True)) == 0 for other in others)


def test_exemplars_are_drawn_evenly(five):
    drawn = train(five, 50).draw(np.arange(2000), 0)
    counts = np.bincount([e.row for f in drawn for e in f.shots.exemplars()], minlength=50)
    assert counts.sum() == 10_000
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_rows_that_say_the_same_as_the_query_are_no_exemplars(tmp_path):
    of = few(tmp_path)
    twice = [*rows(4), *rows(4)]
    taken = seqio_tasks.TaskRows(of, twice, None, of.pool(twice, None), own=True)
    for f in taken.draw(np.arange(8), 0):
        assert {e.row % 4 for e in f.shots.exemplars()} == {0, 1, 2, 3} - {f.row % 4}


def test_the_filter_and_the_cap_hold_for_exemplars(tmp_path):
    def rarely(row: spec.Row) -> spec.Example | None:
        return example(row) if int(row["text"].split()[1]) % 20 == 0 else None

    taken = train(few(tmp_path, build=rarely), 400, cap=200)
    for f in taken.draw(np.arange(50), 0):
        found = [e.row for e in f.shots.exemplars()]
        assert len(found) == 5
        assert all(row % 20 == 0 and row < 200 for row in found)


def test_evaluation_takes_exemplars_from_the_train_split(tmp_path):
    marked = [{"text": f"test {i}", "label": i % 2} for i in range(6)]
    data_dir = prepare(tmp_path, "mini", train=rows(30), validation=marked, test=marked)
    of = few(tmp_path)
    found = list(of.open(data_dir, "test").in_order(seed=3))
    assert [f.row for f in found] == list(range(6))
    for f in found:
        assert f.prompt().count("row ") == 5
        assert f.prompt().count("test ") == 1
        assert f.prompt().endswith(f.inputs)
    assert [f.prompt() for f in of.open(data_dir, "test").in_order(limit=2, seed=3)] == [f.prompt() for f in found[:2]]


def test_text(tmp_path):
    of = few(tmp_path, styles.Style((0,), shots=2))
    taken = train(of, 3)
    (f,) = taken.draw(np.asarray([0]), 0)
    whole = rows(3)
    parts = [
        f"Is it so? {whole[e.row]['text']}\n\nOPTIONS:\n- yes\n- no\n=\n{('yes', 'no')[e.row % 2]}\n###\n"
        for e in f.shots.exemplars()
    ]
    assert f.prompt() == "".join(parts) + f.inputs
    assert f.prompt(1) == parts[0] + f.inputs
    assert f.prompt(0) == f.inputs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shots=st.sampled_from([1, 2, 3, 5, 10, 16]),
    length=st.integers(1, 1100),
    budget=st.sampled_from([styles.BUDGET_2021, 50]),
)
def test_the_budget_is_used_and_never_exceeded(tmp_path_factory, seed, shots, length, budget):
    of = few(tmp_path_factory.getbasetemp(), styles.Style((0, 1, 2, 3), shots=shots, budget=budget))
    (f,) = train(of, 60).draw(np.asarray([seed]), seed)
    (found,) = seqio_tasks.tokenise([f], tokenizer(), {"inputs": length, "targets": 16})
    query = tokenizer().encode([f.inputs])[0]
    around = tokenizer().encode([delimiters.FLAN_2021.between, delimiters.FLAN_2021.exemplar])
    expected, own = [], []
    for e in f.shots.exemplars():  # the same, one exemplar after the other
        x, y = tokenizer().encode(list(f.shots.pool.text(e)))
        fits = sum(own) + len(x) + len(y) + len(query) <= min(budget, length - 64)
        joined = [*x, *around[0], *y, *around[1]]
        if not fits or len(expected) + len(joined) + len(query) + 1 > length:
            break
        expected += joined
        own.append(len(x) + len(y))
    assert found.shots == len(own)
    assert found.inputs == [*expected, *query[: length - 1], 1]
    assert len(found.inputs) <= length


def test_exemplars_are_tokenised_once_and_held_within_bounds(tmp_path, monkeypatch):
    of = few(tmp_path)
    taken, texts = train(of, 10), []
    counted = tokenizer()
    real = counted.encode
    monkeypatch.setattr(counted, "encode", lambda given: texts.extend(given) or real(given))
    lengths = {"inputs": 1024, "targets": 16}
    whole = seqio_tasks.tokenise(taken.draw(np.arange(200), 0), counted, lengths)
    assert sum(text.startswith("Is it so? row 3 ") for text in texts) <= 20 + 1  # its own turns as a query, and once
    monkeypatch.setattr(fewshot, "CACHE_TOKENS", 100)
    small = train(of, 10)
    assert seqio_tasks.tokenise(small.draw(np.arange(200), 0), counted, lengths) == whole
    assert small._pool._held <= 100


def test_exemplars_in_templates_of_their_own_and_matching_ones(tmp_path):
    own = train(few(tmp_path, styles.Style((0, 1, 2, 3), shots=5, exemplars=styles.OWN)), 100).draw(np.arange(200), 0)
    assert len({tuple(e.template for e in f.shots.exemplars()) for f in own}) > 100
    style = styles.Style((0, 1, 2, 3), shots=25, exemplars=styles.MATCHING)
    matching = train(few(tmp_path, style), 100).draw(np.arange(1000), 0)
    counts = [len(f.shots) for f in matching]
    assert all({e.template for e in f.shots.exemplars()} == {f.template} for f in matching)
    assert min(counts) >= 1
    assert abs(np.mean(counts) - 25 / 4) < 0.4


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_do_not_depend_on_the_hosts(tmp_path, hosts):
    of = few(tmp_path)
    lengths = {"inputs": 256, "targets": 16}

    def batches(host: int, of_hosts: int) -> list:
        stream = streams.FlanStream(train(of, 40), tokenizer(), lengths, 0)
        mixture = mixtures.OpenMixture("m", [mixtures.Member(of.name, 40, 40.0, stream)])
        found = loader.TrainLoader(mixture, lengths=lengths, batch_size=8, seed=0, pack=True, host=host, hosts=of_hosts)
        return [batch.features for batch, _ in zip(found, range(3), strict=False)]

    whole = batches(0, 1)
    parts = [batches(host, hosts) for host in range(hosts)]
    for number, batch in enumerate(whole):
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[number][name] for part in parts]), values)
    assert any((batch["encoder_input_tokens"] > 0).sum() > 8 * 100 for batch in whole)


def test_a_dataset_without_a_train_split_has_no_exemplars(tmp_path):
    data_dir = prepare(tmp_path, "mini", test=rows(5))
    of = seqio_tasks.FlanTask(dataset(tmp_path, splits={"test": "test"}), "type_0_five_shot", FIVE)
    with pytest.raises(
        errors.FlanError, match=r"dataset 'mini' has no train split, only test: it cannot be trained on"
    ):
        of.open(data_dir, "test")


def test_short_inputs_leave_no_room(five):
    drawn = train(five, 20).draw(np.arange(5), 0)
    assert [found.shots for found in seqio_tasks.tokenise(drawn, tokenizer(), LENGTHS)] == [0] * 5


def test_many_pools_share_what_they_keep(tmp_path):
    """Of one, what fits; of very many, the least that each may keep, and the same exemplars."""
    lengths = {"inputs": 1024, "targets": 16}
    alone, crowded = train(few(tmp_path), 60), train(few(tmp_path), 60)
    crowded.pool[0].bound(1_000_000)
    first = seqio_tasks.tokenise(alone.draw(np.arange(300), 0), tokenizer(), lengths)
    assert seqio_tasks.tokenise(crowded.draw(np.arange(300), 0), tokenizer(), lengths) == first
    kept, few_kept = alone.pool[0], crowded.pool[0]
    assert kept._held > few_kept._held > 0
    assert few_kept._held <= fewshot._LEAST_TOKENS
    assert len(few_kept._examples) <= fewshot._LEAST_ROWS < len(kept._examples)
