"""`flan new-task`: what it guesses from features, the files it writes, and what it refuses."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml
from importer_records import RTE, write

from flan_jax import errors
from flan_jax.data import features_json, importer, mixtures, new_task, scaffold, sources, templates

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs
TEXT, INTEGER = features_json.Scalar("string"), features_json.Scalar("int64")


def made(folder: pathlib.Path, name: str, tfds_name: str, data_dir: str | None, **options):
    files = new_task.create(name, tfds_name, out=folder, data_dir=data_dir, **options)
    assert [file.name for file in files] == [f"{name}_task.py", f"{name}.yaml", f"test_{name}_task.py"]
    return new_task._load(files[0]), files


def plan(**fields: features_json.Schema) -> scaffold.Plan:
    return scaffold.plan(features_json.Struct(fields))


@pytest.mark.parametrize(
    "name", ["rte", "copa", "openbookqa", "definite_pronoun_resolution", "bool_q", "ag_news_subset"]
)
def test_the_guess_is_right_where_the_features_say_it_all(name, tmp_path, sample_dir):
    """The same rows give the same choice as the dataset of ours that was written by hand."""
    ours = CATALOGUE[name]
    guessed, _ = made(tmp_path, f"my_{name}", ours.tfds_name, sample_dir)
    rows = sources.PreparedDataset(sample_dir, ours.tfds_name).rows(ours.splits, "train")
    seen = set()
    for row in rows:
        right, guess = ours.example(row), guessed.example(row)
        assert right is not None
        assert guess is not None
        assert guess.options.index(guess.answer) == right.options.index(right.answer)
        assert set(right.fields.values()) & set(guess.fields.values())
        seen.add(guess.options.index(guess.answer))
    assert len(seen) > 1


@pytest.mark.parametrize("name", ["squad_v1", "natural_questions", "samsum", "stsb", "common_gen", "trec"])
def test_generated_tests_pass_as_they_are(name, tmp_path, sample_dir):
    _, files = made(tmp_path, f"my_{name}", CATALOGUE[name].tfds_name, sample_dir)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(files[2])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout
    assert "skipped" not in ran.stdout


def test_names_splits_and_a_file_with_room_for_ten(tmp_path, sample_dir):
    dataset, files = made(tmp_path / "new" / "folder", "my_rte", "super_glue/rte", sample_dir, cluster="nli")
    assert (dataset.name, dataset.cluster, dataset.tfds_name) == ("my_rte", "nli", "super_glue/rte:1.0.2")
    assert dataset.splits == {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"}
    assert dataset.templates == str(files[1])
    text = files[1].read_text(encoding="utf-8")
    assert text.count("yours to write") == 6
    uncommented = "\n".join(
        line.removeprefix("# ") for line in text.split("\n") if not line.startswith(("# Te", "# F"))
    )
    uncommented = uncommented[uncommented.index("- inputs") :].replace("\n#\n", "\n\n")
    assert len(yaml.safe_load(uncommented)) == 10
    catalogue = mixtures.Catalogue([dataset])
    assert catalogue.tasks.find("my_rte_4templates") is not None
    assert catalogue.tasks.find("my_rte_7templates") is None


def test_a_builder_that_is_not_prepared_is_asked_offline(tmp_path):
    (tmp_path / "empty").mkdir()
    dataset, files = made(tmp_path, "mine", "paws_wiki", str(tmp_path / "empty"))
    assert dataset.tfds_name == "paws_wiki/labeled_final_tokenized:1.1.0"
    assert "A guess, as the dataset is not prepared here" in files[0].read_text(encoding="utf-8")
    assert dataset.cluster == "mine"


@pytest.mark.parametrize("name", ["rte", "wsc273", "drop"])
def test_the_catalogue_knows_the_splits_of_a_dataset_that_is_not_prepared(name, tmp_path):
    """RTE's own test split has no labels: a guess would name it."""
    (tmp_path / "empty").mkdir()
    ours = CATALOGUE[name]
    module = "flan_jax.tasks.catalogue"
    dataset, files = made(tmp_path, f"my_{name}", ours.tfds_name, str(tmp_path / "empty"), module=module)
    assert (dataset.splits, dataset.train_rows) == (ours.splits, ours.train_rows)
    assert "A guess, as the dataset" not in files[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"train": 9, "validation": 3, "test": 2}, ("train", "validation", "test")),
        ({"train": 9, "test": 2}, ("train[:-200]", "train[-200:]", "test")),
        ({"train": 9, "dev": 2}, ("train[:-200]", "train[-200:]", "dev")),
        ({"train": 9}, ("train[:-400]", "train[-400:-200]", "train[-200:]")),
        ({"train_xl": 9, "train_s": 2, "test": 1}, ("train_xl[:-200]", "train_xl[-200:]", "test")),
        ({"validation": 9, "test": 2}, ("validation[:-200]", "validation[-200:]", "test")),
    ],
)
def test_splits(rows, expected):
    builder = new_task.Builder("mini:1.0.0", features_json.Struct({}), rows, None)
    splits = new_task.choose_splits(builder, plan(text=TEXT, answer=TEXT))
    assert tuple(splits[name] for name in ("train", "validation", "test")) == expected


def test_a_column_of_choices_without_a_label(tmp_path):
    """They are a field like any other, and its name is no list that templates fail to show."""
    records = [{"question": f"Which one, {i}?", "choices": ["a", "b"], "answer": "a"} for i in range(4)]
    folder = write(tmp_path / "records", "quiz", train=records, test=records)
    assert importer.import_datasets(folder, tmp_path / "tfds").exit_code == 0
    _, files = made(tmp_path, "mine", "quiz", str(tmp_path / "tfds"))
    assert "Choices: {choices}" in files[1].read_text(encoding="utf-8")


def test_only_a_test_split():
    builder = new_task.Builder("mini:1.0.0", features_json.Struct({}), {"test": 5}, None)
    assert new_task.choose_splits(builder, plan(text=TEXT, answer=TEXT)) == {"test": "test"}


def test_a_split_without_labels_is_passed_over(tmp_path):
    hidden = [{**row, "label": -1} for row in RTE]
    records = write(tmp_path / "records", "super_glue/rte", train=RTE, validation=RTE, test=hidden)
    assert importer.import_datasets(records, tmp_path / "tfds").exit_code == 0
    dataset, _ = made(tmp_path, "mine", "super_glue/rte", str(tmp_path / "tfds"))
    assert dataset.splits["test"] == "validation"


def test_columns_are_put_in_order_however_the_features_are():
    found = plan(choice2=TEXT, label=features_json.Label(2, ("choice1", "choice2")), choice1=TEXT, premise=TEXT)
    assert [leaf.path for leaf in found.choices] == [("choice1",), ("choice2",)]
    assert list(found.fields) == ["premise"]


def test_names_of_labels_count_for_more_than_numbered_columns():
    found = plan(sentence1=TEXT, sentence2=TEXT, label=features_json.Label(2, ("different", "same")))
    assert (found.kind, found.labels) == ("labels", ("different", "same"))
    assert list(found.fields) == ["sentence1", "sentence2"]


def test_fields_have_names_that_templates_can_use():
    found = plan(**{"answer": TEXT, "label": features_json.Label(2, ("a b", "c d")), "e-mail": TEXT, "class": TEXT})
    assert set(found.fields) == {"answer_text", "e_mail", "text_class"}
    for name in found.fields:
        assert templates._segments(f"{{{name}}}", "here") == (("", name),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": TEXT, "id": TEXT}, "no text to ask about beside the answer 'answer'"),
        ({"image": features_json.Opaque(None), "size": features_json.Scalar("float32")}, "no class label and no text"),
    ],
)
def test_rows_that_nothing_can_be_asked_about(fields, message):
    with pytest.raises(errors.FlanError, match=message):
        plan(**fields)


@pytest.mark.parametrize("text", ['say "so"', "back\\slash", "line\nbreak", "{brace}", "naïve 🎈", "'''\"\"\""])
def test_any_text_becomes_a_literal_of_itself(text):
    import ast

    assert ast.literal_eval(scaffold.quoted(text)) == text


def test_nothing_is_overwritten(tmp_path, sample_dir):
    (tmp_path / "mine.yaml").write_text("precious")
    with pytest.raises(errors.FlanError, match=r"mine\.yaml exists and is left as it is"):
        new_task.create("mine", "super_glue/rte", out=tmp_path, data_dir=sample_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "tfds_name", "message"),
    [
        ("My Set", "super_glue/rte", "dataset name 'My Set' is refused; expected lower-case letters"),
        ("../x", "super_glue/rte", "is refused"),
        ("mine_type_0", "super_glue/rte", "no ending of a task's name"),
        ("rte", "super_glue/rte", r"'rte' is taken: super_glue/rte:1\.0\.2 in .*; expected e\.g\. 'my_rte'"),
        ("mine", "super glue", "expected NAME"),
        ("mine", "super_glu/rte", "unknown dataset 'super_glu/rte'; did you mean"),
        ("mine", "super_glue/rtee", "unknown config of super_glue 'rtee'; did you mean 'rte'"),
        ("mine", "billsum:0.0.1", r"unknown version of billsum '0\.0\.1'"),
        ("mine", "super_glue/rte:9.9.9", r"is prepared in .* in version 1\.0\.2, not 9\.9\.9"),
        ("mine", "mnist", "mnist:3.0.1: no text to ask about"),
    ],
)
def test_refusals_name_what_is_wrong_and_write_nothing(name, tfds_name, message, tmp_path, sample_dir):
    with pytest.raises(errors.FlanError, match=message):
        new_task.create(name, tfds_name, out=tmp_path / "out", data_dir=sample_dir, module="flan_jax.tasks.catalogue")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_comes_next(tmp_path, sample_dir, capsys):
    arguments = [
        "mine",
        "--tfds=super_glue/rte",
        f"--out={tmp_path}",
        f"--tfds_data_dir={sample_dir}",
        "--cluster=nlii",
    ]
    assert new_task.run(arguments, "flan_jax.tasks.catalogue") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {tmp_path / 'mine_task.py'}, ")
    assert "flan check-templates --module=mine_task" in said
    assert "note: cluster 'nlii' is new; did you mean 'nli'?" in said
