"""A checkout of Natural Instructions gives the rows that its files hold, one at a time; a bad file harms no other."""

import dataclasses
import gzip
import json
import pathlib

import niv2_files
import numpy as np
import pytest
from data_builders import LENGTHS, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import mixtures, natural_instructions, seqio_tasks, sources, spec, streams
from flan_jax.tasks import niv2

RENDERED = pathlib.Path(__file__).resolve().parent.parent / "golden" / "niv2" / "rendered.txt"
STYLES = (
    "template_0to10_zero_shot",
    "template_0to10_no_opt_zero_shot",
    "template_0to10_no_opt_positive_shot",
    "template_0to10_x_shot",
    "template_0to10_no_opt_x_shot",
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    natural_instructions.checkout.cache_clear()


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
INSTANCES = st.lists(
    st.fixed_dictionaries({"input": TEXTS, "output": st.lists(TEXTS, min_size=1, max_size=3)}), min_size=1
)


@given(
    instances=INSTANCES,
    definition=TEXTS,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 4]),
    last=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_file(tmp_path_factory, instances, definition, ascii_only, indent, last):
    """Whatever the texts, however the file is laid out, wherever its instances stand in it."""
    content = niv2_files.content(Definition=[f"Do: {definition}"], Instances=instances)
    if not last:
        content = {"Instances": content.pop("Instances"), **content}
    data_dir = niv2_files.checkout(
        tmp_path_factory.mktemp("data"), task1_x=json.dumps(content, ensure_ascii=ascii_only, indent=indent)
    )
    task = natural_instructions.Checkout(f"{data_dir}/natural-instructions").task("task1_x")
    rows = task.rows({"train": "train"}, "train")
    assert [(row["input"], row["output"]) for row in rows] == [(i["input"], i["output"]) for i in instances]
    assert rows[0]["definition"] == f"Do: {definition}".strip()
    assert [row["output"] for row in task.exemplars()] == [["two"]]


BAD = {
    "cut": ('{"Definition": ["x"], "Instances": [{"input": "a", "out', "not valid JSON"),
    "list": ("[]", "expected an object with 'Definition', 'Positive Examples' and 'Instances'"),
    "bytes": ('{"Definition": ["x"]} and more', "'Instances' is missing or empty; expected a list of objects"),
    "comma": ('{"Definition": ["x"] "Instances": []}', "not valid JSON at byte 21: expected ',' or '}'"),
    "no_definition": (niv2_files.content(Definition=None), "'Definition' is missing or empty"),
    "number": (niv2_files.content(Definition=7), "'Definition' is 7; expected a text or a list of texts"),
    "no_instances": (niv2_files.content(Instances=None), "'Instances' is missing or empty"),
    "empty": (niv2_files.content(Instances=[]), "'Instances' is missing or empty"),
    "dict": (niv2_files.content(Instances={}), "'Instances' is no list"),
    "no_output": (
        niv2_files.content(Instances=[{"input": "a", "output": ["b"]}, {"id": "t", "input": "c"}]),
        "Instances[1].output is missing; it has 'id', 'input'",
    ),
    "null": (
        niv2_files.content(Instances=[{"input": None, "output": ["b"]}]),
        "Instances[0].input is None; expected a text",
    ),
    "no_answer": (niv2_files.content(Instances=[{"input": "a", "output": []}]), "Instances[0].output is []"),
    "text": (niv2_files.content(Instances=["a"]), "Instances[0] is no object; expected 'input' and 'output'"),
    "example": (
        niv2_files.content(**{"Positive Examples": [{"input": "a"}]}),
        "Positive Examples[0].output is missing",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_field(tmp_path, kind):
    given, problem = BAD[kind]
    data_dir = niv2_files.checkout(tmp_path, task1_bad=given, task2_good=niv2_files.content())
    checkout = natural_instructions.checkout(data_dir)
    with pytest.raises(natural_instructions.Malformed) as raised:
        checkout.task("task1_bad")
    assert "task1_bad.json: " in str(raised.value)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(checkout.task("task2_good")) == 8


def test_only_that_task_is_left_out(tmp_path, caplog):
    data_dir = niv2_files.checkout(tmp_path, task1_bad="{", task2_good=niv2_files.content())
    catalogue = niv2_files.catalogue("task1_bad", "task2_good", "task3_absent")
    options = {"data_dir": data_dir, "split": "train", "tokenizer": tokenizer(), "lengths": LENGTHS, "seed": 0}
    with pytest.raises(
        errors.FlanError, match=r"(?s)2 of 3 tasks have no data.*task1_bad.json: not valid JSON.*task3_absent"
    ):
        catalogue.open("mine_zsnoopt", **options)
    opened = catalogue.open("mine_zsnoopt", missing="skip", **options)
    assert [member.name for member in opened.members] == ["niv2_task2_good_template_0to10_no_opt_zero_shot"]
    assert "task1_bad.json" in caplog.text


def test_no_checkout(tmp_path):
    with pytest.raises(sources.NotPrepared, match=r"git clone --depth 1 \S+/natural-instructions"):
        niv2_files.catalogue("task1_x").tasks["niv2_task1_x_template_0to10_zero_shot"].open(str(tmp_path), "train")


def test_files_are_passed_over_once(tmp_path, monkeypatch):
    data_dir = niv2_files.ten(tmp_path)
    directory = f"{data_dir}/natural-instructions"
    looked: list[str] = []
    real = natural_instructions.note
    monkeypatch.setattr(natural_instructions, "note", lambda path: looked.append(pathlib.Path(path).stem) or real(path))

    def rows() -> list[list[str]]:
        checkout = natural_instructions.Checkout(directory)
        checkout.note(niv2_files.names())
        return [
            [row["input"] for row in checkout.task(n).rows({"train": "train"}, "train")] for n in niv2_files.names()
        ]

    first = rows()
    assert looked == niv2_files.names()
    assert rows() == first
    assert looked == niv2_files.names()  # the notes were kept
    niv2_files.checkout(tmp_path, task9004_reverse_list=niv2_files.content(3))
    assert rows()[3] == ["input 0", "input 1", "input 2"]
    assert looked == [*niv2_files.names(), "task9004_reverse_list"]


def test_notes_hold_no_instance(tmp_path):
    directory = f"{niv2_files.checkout(tmp_path, task1_x=niv2_files.content(50))}/natural-instructions"
    found = natural_instructions.note(f"{directory}/tasks/task1_x.json")
    assert "input 7" not in str(found)
    assert found["offsets"].nbytes == 8 * 50


def test_several_processes_note_the_same(tmp_path, monkeypatch):
    folder = pathlib.Path(niv2_files.ten(tmp_path)) / "natural-instructions" / "tasks"
    paths = sorted(map(str, folder.iterdir()))
    alone = [natural_instructions.note(path) for path in paths]
    monkeypatch.setattr(natural_instructions, "_PARALLEL", 0)
    monkeypatch.setattr(natural_instructions.os, "cpu_count", lambda: 3)
    together = natural_instructions._note_all(paths)
    assert [n["head"] for n in together] == [n["head"] for n in alone]
    assert all(np.array_equal(a["offsets"], b["offsets"]) for a, b in zip(together, alone, strict=True))


def test_the_cap_is_real(tmp_path):
    """No row beyond the first 5,000 is ever read, and two epochs read each of these twice."""
    data_dir = niv2_files.checkout(tmp_path, task1_x=niv2_files.content(5_100))
    task = niv2_files.catalogue("task1_x").tasks["niv2_task1_x_template_0to10_zero_shot"]
    rows = task.open(data_dir, "train")
    assert rows.num_examples == 5_000
    drawn = [f.row for f in rows.draw(np.arange(10_000), 3)]
    assert sorted(drawn) == sorted([*range(5_000)] * 2)
    assert task.open(data_dir, "train", cap=100_000).num_examples == 5_100


def test_a_checkout_of_records(tmp_path):
    """What tests on real rows make their checkout of: an instance with several outputs is a line each."""
    folder = tmp_path / "records"
    head = {"task_name": "task1_x", "definition": "Do.", "source": ["s"], "categories": ["c"], "positive_examples": []}
    lines = [{"id": "a", "input": "1", "output": o} for o in "xy"] + [{"id": "b", "input": "1", "output": "z"}]
    for name, records in (("tasks/tasks", [head]), ("task1_x/train", lines)):
        (folder / name).parent.mkdir(parents=True)
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    task = natural_instructions.checkout(niv2_files.from_records(folder, tmp_path / "data")).task("task1_x")
    rows = task.rows({"train": "train"}, "train")
    assert [(row["input"], row["output"], row["definition"]) for row in rows] == [
        ("1", ["x", "y"], "Do."),
        ("1", ["z"], "Do."),
    ]
    assert (task.head["source"], task.head["categories"]) == (["s"], ["c"])


@pytest.mark.parametrize(
    ("of_blend", "of_part", "used"), [(None, None, 5_000), (6_000, None, 6_000), (6_000, 5_500, 5_500), (70, 80, 70)]
)
def test_caps_of_blends_and_their_parts(tmp_path, of_blend, of_part, used):
    """A blend's cap replaces the collection's, a part's limits it; rates count the share of rows that is kept."""
    data_dir = niv2_files.checkout(tmp_path, task1_x=niv2_files.content(6_100))
    dataset = dataclasses.replace(niv2.dataset("task1_x"), kept=0.5)
    mine = spec.Collection("mine", niv2.STYLES, datasets=lambda: (dataset,))
    part = spec.Part("mine", 1, kinds={spec.ZSOPT: 1}, cap=of_part)
    catalogue = mixtures.Catalogue([], collections=[mine], blended=[spec.Blend("both", (part,), cap=of_blend)])
    options = {"data_dir": data_dir, "split": "train", "tokenizer": tokenizer(), "lengths": LENGTHS, "seed": 0}
    (member,) = catalogue.open("both", **options).members
    assert member.rows == used
    assert member.rate == min(3_050, used)


def test_test_instances_are_apart(tmp_path):
    data_dir = niv2_files.checkout(tmp_path, big=niv2_files.content(1_000), small=niv2_files.content(20))
    for name, held, count in (("big", 100, 1_000), ("small", 5, 20)):
        file = natural_instructions.checkout(data_dir).task(name)
        test, train = (file.rows({"train": "train", "test": "train[:100]"}, split) for split in ("test", "train"))
        assert [row["input"] for row in test] == [f"input {n}" for n in range(held)]
        assert [row["input"] for row in train] == [f"input {n}" for n in range(held, count)]


def test_options_of_a_choice(tmp_path):
    data_dir = niv2_files.ten(tmp_path)
    found = {name: natural_instructions.checkout(data_dir).task(name).head["options"] for name in niv2_files.names()}
    assert {name: options for name, options in found.items() if options} == {
        "task9002_boat_or_train": ["boat", "train"],
        "task9006_is_sum_right": ["No", "Yes"],
    }


def rendered(data_dir: str) -> str:
    """Each of the ten tasks in each style, one draw."""
    catalogue = niv2_files.catalogue(*niv2_files.names())
    parts = []
    for number, name in enumerate(niv2_files.names()):
        for style in STYLES:
            rows = catalogue.tasks[f"niv2_{name}_{style}"].open(data_dir, "train")
            (f,) = rows.draw(np.asarray([number]), number)
            parts.append(f"### {name}, {style}, template {f.template}\n{f.prompt()}\n>>> {f.targets}\n")
    return "\n".join(parts)


def test_texts_are_those_that_were_read(tmp_path):
    """Read and kept; `python tests/data/test_natural_instructions.py` writes them anew."""
    assert rendered(niv2_files.ten(tmp_path)) == RENDERED.read_text(encoding="utf-8")


@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_are_those_of_the_text(tmp_path_factory, seed, position):
    """The definition first and once, then whole exemplars, then the query; never longer than the row."""
    data_dir = niv2_files.ten(tmp_path_factory.getbasetemp() / "ten")
    catalogue, tok = niv2_files.catalogue(*niv2_files.names()), tokenizer()
    for name in niv2_files.names()[:4]:
        rows = catalogue.tasks[f"niv2_{name}_template_0to10_x_shot"].open(data_dir, "train")
        (f,) = rows.draw(np.asarray([position]), seed)
        for length in (256, 96, 48):
            (found,) = seqio_tasks.tokenise([f], tok, {"inputs": length, "targets": 64})
            assert len(found.inputs) <= length
            if not found.cut[0]:
                said = tok.decode(found.inputs[:-1]).replace("\n", " ")
                assert said.split() == tok.decode(tok.encode([f.prompt(found.shots)])[0]).split()
                assert f.prompt(found.shots).count(f.example.fields["definition"]) == 1


def test_streams_of_both_stores_are_read_together(tmp_path):
    """One call draws from many tasks, and what it gives is what each gives alone."""
    data_dir = niv2_files.ten(tmp_path)
    catalogue = niv2_files.catalogue(*niv2_files.names())
    names = [f"niv2_{name}_{style}" for name in niv2_files.names() for style in STYLES]
    opened = [catalogue.tasks[name].open(data_dir, "train") for name in names]
    flan = [streams.FlanStream(rows, tokenizer(), {"inputs": 256, "targets": 64}, 5) for rows in opened]
    positions = np.asarray([0, 3, 11])
    together = streams.read_together([(stream, positions) for stream in flan])
    assert together == [stream.read(positions) for stream in flan]


def test_every_task_but_mmlu():
    """1,613 in TFDS; ids 664 to 667 and 685 to 737 are MMLU's; 119 are Natural Instructions' own test split."""
    names = [dataset.name for dataset in niv2.datasets()]
    assert len(names) == len(set(names)) == 1_613 - 57 == 1_556
    assert not any("mmmlu" in name for name in names)
    assert len(niv2.of_test_split()) == 119
    assert set(niv2.train_split()) | set(niv2.of_test_split()) == set(names)
    assert len(niv2.train_split()) == 1_437
    assert {d.name for d in niv2.datasets() if "test" in d.splits} == set(niv2.of_test_split())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        RENDERED.write_text(rendered(niv2_files.ten(pathlib.Path(folder))), encoding="utf-8")
