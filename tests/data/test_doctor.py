"""`flan data doctor` on the embedded sample, and on copies of it with one thing wrong."""

import argparse
import ast
import dataclasses
import json
import pathlib
import re
import shlex
import shutil

import pytest
import yaml

from flan_jax import errors, shipped
from flan_jax.data import doctor, mixtures, sample, spec

CATALOGUE = "flan_jax.tasks.catalogue"
BY_HAND = {
    "newsroom": "summari.es",
    "samsum": "1911.12237",
    "story_cloze/2016": "cloze_test_val__spring2016.csv",
    "xsum": "xsum-extracts-from-downloads.tar.gz",
    "wmt16_translate/cs-en": "czeng16pre.deduped-ignoring-sections.txt.gz",
    "wmt16_translate/ru-en": "1mcorpus.zip",
}


def dataset(name, tfds_name, splits=None, train_rows=2490, templates="rte"):
    return spec.DatasetSpec(
        name=name,
        cluster="nli",
        tfds_name=tfds_name,
        splits=splits or {"train": "train[:-200]", "validation": "train[-200:]", "test": "validation"},
        example=lambda row: None,
        metrics=("accuracy",),
        train_rows=train_rows,
        templates=templates,
    )


RTE = dataset("rte", "super_glue/rte:1.0.2")


def examine_one(of_spec, data_dir, **options):
    (finding,) = doctor.examine(mixtures.Catalogue([of_spec]), str(data_dir), **options)
    return finding


def run(*flags):
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers(), CATALOGUE)
    return doctor.run(parser.parse_args(["doctor", *flags]))


@pytest.fixture
def rte_copy(sample_dir, tmp_path):
    """A data directory with the sample's RTE alone, and its dataset_info.json."""
    there = tmp_path / "super_glue/rte/1.0.2"
    shutil.copytree(pathlib.Path(sample_dir) / "super_glue/rte/1.0.2", there)
    return tmp_path, there / "dataset_info.json"


def rewrite(info, change):
    content = json.loads(info.read_text())
    change(content)
    info.write_text(json.dumps(content))


def arguments_of(command):
    """The call that a `python -c` command makes: what the shell hands over, as Python reads it."""
    program, flag, code = shlex.split(command)
    assert (program, flag) == ("python", "-c")
    load = ast.parse(code).body[1]
    assert isinstance(load, ast.Expr)
    assert isinstance(load.value, ast.Call)
    assert ast.unparse(load.value.func) == "tfds.load"
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in load.value.keywords}
    return ast.literal_eval(load.value.args[0]), keywords


def test_a_prepared_mixture_is_ready(sample_dir, capsys):
    found = doctor.examine(mixtures.Catalogue.from_modules(CATALOGUE), sample_dir, "nli_10templates")
    assert len(found) == 10
    for finding in found:
        assert finding.ready
        assert finding.imported
        assert finding.problems == finding.steps == ()
        assert not finding.fix
        # Rows and size, counted anew: the sample's lines, and the files on disk.
        records = sample.source() / finding.tfds_name.split(":")[0]
        lines = {file.stem: len(file.read_text(encoding="utf-8").splitlines()) for file in records.glob("*.jsonl")}
        assert finding.splits == lines
        prepared = pathlib.Path(sample_dir) / finding.tfds_name.replace(":", "/")
        assert finding.bytes == sum(len(file.read_bytes()) for file in prepared.iterdir())
    assert run("nli_10templates", "--tfds_data_dir", sample_dir) == 0
    printed = capsys.readouterr().out
    assert "10 of 10 datasets are ready" in printed
    rte = next(finding for finding in found if finding.dataset == "rte")
    assert re.search(rf"rte .*prepared .*train {rte.splits['train']} of 2,490", printed)
    assert run("rte_type_3", "--tfds_data_dir", sample_dir, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ready"]
    assert [entry["dataset"] for entry in content["datasets"]] == ["rte"]
    assert content["datasets"][0]["splits"] == rte.splits


def test_a_missing_dataset_comes_with_the_command_that_downloads_it(tmp_path, capsys):
    data_dir = tmp_path / "my data's"
    data_dir.mkdir()
    finding = examine_one(dataset("snli", "snli:1.1.0"), data_dir)
    assert (finding.status, finding.splits, finding.bytes) == ("download", {}, 0)
    name, keywords = arguments_of(finding.fix)
    assert name == "snli:1.1.0"
    assert ast.literal_eval(keywords.pop("data_dir")) == str(data_dir)
    assert not keywords
    assert run("nli_10templates", "--tfds_data_dir", str(data_dir)) == 1
    printed = capsys.readouterr().out
    assert "0 of 10 datasets are ready" in printed
    assert printed.count("glue/mnli:2.0.0 is not prepared") == 1
    assert "mnli_matched, mnli_mismatched: glue/mnli:2.0.0 is not prepared\n  python -c" in printed


def test_a_wrong_version_is_named(rte_copy):
    data_dir, info = rte_copy
    (data_dir / "super_glue/rte/1.0.9.incompleteABC").mkdir()
    info.parent.rename(info.parent.with_name("1.0.1"))
    finding = examine_one(RTE, data_dir)
    assert finding.status == "wrong version"
    assert finding.problems == ("version 1.0.2 is asked for; prepared: 1.0.1",)
    assert arguments_of(finding.fix)[0] == "super_glue/rte:1.0.2"


def test_a_missing_split_matters_where_it_is_needed(rte_copy, capsys):
    data_dir, info = rte_copy
    rewrite(info, lambda content: content.update(splits=[s for s in content["splits"] if s["name"] == "train"]))
    assert examine_one(RTE, data_dir, splits=("train", "validation")).ready
    finding = examine_one(RTE, data_dir)
    assert finding.status == "incomplete"
    assert finding.problems == ("test is 'validation': unknown split 'validation'; known: train",)
    # The importer wrote it, so the importer mends it.
    assert shlex.split(finding.fix)[:4] == ["flan", "data", "import", "RECORDS"]
    assert shlex.split(finding.fix)[-2:] == ["--keys", "super_glue/rte"]
    (info.parent / "flan_jax_import.json").unlink()
    # TFDS takes a directory that is there for the whole, unless it is told not to.
    _, keywords = arguments_of(examine_one(RTE, data_dir).fix)
    assert "REUSE_CACHE_IF_EXISTS" in keywords["download_and_prepare_kwargs"]
    assert run("rte_type_3", "--tfds_data_dir", str(data_dir), "--splits", "train") == 0
    assert run("rte_type_3", "--tfds_data_dir", str(data_dir)) == 1
    assert "rte: test is 'validation': unknown split" in capsys.readouterr().out


def test_published_rows_stand_where_there_are_none(tmp_path, capsys):
    """Marked, so that nobody takes them for rows that are there; WSC273 has nothing to train on."""
    assert run("coreference_10templates", "--tfds_data_dir", str(tmp_path)) == 1
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("\u2502 ")}
    assert "train_xl 40,398 (published)" in lines["winogrande"]
    assert "published" not in lines["wsc273"]
    assert "train_xl" not in lines["definite_pronoun_resolution"]


def test_a_slice_beyond_the_rows_is_no_data(rte_copy, capsys):
    data_dir, _ = rte_copy
    far = {"train": "train", "validation": "validation[30000:30200]", "test": "train[-5:]"}
    found = doctor.examine(mixtures.Catalogue([dataset("far[red]", "super_glue/rte:1.0.2", far)]), str(data_dir))
    assert found[0].problems == ("validation is 'validation[30000:30200]': no rows",)
    assert doctor.show(found, str(data_dir), as_json=False) == 1
    printed = capsys.readouterr().out
    assert "validation[30000:30200]" in printed
    assert "│ far[red] " in printed  # which rich could take for a colour


def test_missing_and_damaged_files_are_found(rte_copy):
    data_dir, info = rte_copy
    next(info.parent.glob("*-validation.tfrecord*")).unlink()
    assert examine_one(RTE, data_dir).problems == ("split 'validation' has 0 of 1 files",)
    rewrite(info, lambda content: content.update(fileFormat="array_record"))
    assert examine_one(RTE, data_dir).problems == ("stored as array_record; expected tfrecord",)
    info.write_text("{")
    finding = examine_one(RTE, data_dir)
    assert finding.status == "incomplete"
    assert "not a dataset_info.json that TFDS wrote" in finding.problems[0]


@pytest.mark.parametrize("tfds_dataset", BY_HAND)
def test_what_tfds_cannot_fetch_comes_with_steps(tfds_dataset, tmp_path, capsys):
    wanted = dataset("by_hand", f"{tfds_dataset}:1.0.0")
    manual_dir = tmp_path / "downloads" / "manual"
    finding = examine_one(wanted, tmp_path)
    assert finding.status == "manual"
    steps = " ".join(finding.steps)
    assert BY_HAND[tfds_dataset] in steps
    assert str(manual_dir) in steps
    assert "MANUAL_DIR" not in steps
    assert doctor.show([finding], str(tmp_path), as_json=False) == 1
    printed = capsys.readouterr().out
    # In order, the command that prepares it last.
    assert [printed.index(line) for line in [*finding.steps, finding.fix]] == sorted(
        printed.index(line) for line in [*finding.steps, finding.fix]
    )
    # With one of the files in its place, the others are asked for; with all, TFDS has what it needs.
    manual_dir.mkdir(parents=True)
    files = manual_files()[tfds_dataset]
    for number, file in enumerate(files, 1):
        (manual_dir / file).touch()
        now = examine_one(wanted, tmp_path)
        lacking = [problem for problem in now.problems if "lacks" in problem]
        assert lacking == ([f"{manual_dir} lacks {', '.join(files[number:])}"] if number < len(files) else [])
    assert now.status == "download"
    assert now.steps == ()


def manual_files():
    content = yaml.safe_load((shipped.directory("tasks") / "manual_downloads.yaml").read_text(encoding="utf-8"))
    return {name: entry["files"] for name, entry in content.items() if "files" in entry}


def public_files():
    content = yaml.safe_load((shipped.directory("tasks") / "manual_downloads.yaml").read_text(encoding="utf-8"))
    return {name: entry for name, entry in content.items() if "files" not in entry}


@pytest.mark.parametrize("name", public_files())
def test_what_no_builder_reads_is_imported_from_public_files(name, tmp_path, capsys):
    """The steps put files into a folder of records; the command under them makes the dataset, `columns` or `fields` known."""
    wanted = dataset("public", f"{name}:1.0.0")
    finding = examine_one(wanted, tmp_path, builders=True)
    assert (finding.status, finding.builder_version) == ("manual", None)
    assert finding.problems == (f"{name}:1.0.0 is not prepared",)
    assert finding.fix == f"flan data import RECORDS --data_dir {tmp_path} --keys {name}"
    paths = re.findall(rf"{name}/\w+\.(?:tsv|jsonl)", " ".join(finding.steps))
    assert paths
    assert "https://" in finding.steps[0]
    assert ("columns" in public_files()[name]) == all(path.endswith(".tsv") for path in paths)
    assert doctor.show([finding], str(tmp_path), as_json=False) == 1
    assert finding.fix in capsys.readouterr().out


def test_every_manual_dataset_is_tested():
    assert set(manual_files()) == set(BY_HAND)
    datasets = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs
    assert {name for name in public_files() if name.startswith("cot_") or name == "qed"} == {
        d.tfds_dataset for d in datasets if d.collection == "cot" and d.tfds_dataset not in ("gsm8k", "esnli", "qasc")
    }


def test_licences_are_given_or_said_to_be_unstated(tmp_path):
    licences = yaml.safe_load((shipped.directory("tasks") / "licences.yaml").read_text(encoding="utf-8"))
    for name, entry in licences.items():
        assert re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?", name)
        assert set(entry) == {"licence", "use", "basis"}
        assert entry["use"] in ("open", "research", "unstated")
        assert entry["basis"] in ("seen", "recalled")
        # "none stated" and only that is no statement; a Creative Commons licence says itself what it allows.
        assert ("stated" in entry["licence"]) == (entry["use"] == "unstated"), name
        if entry["licence"].startswith("CC BY"):
            assert entry["use"] == ("research" if "NC" in entry["licence"] else "open"), name
    finding = examine_one(dataset("anli", "anli/r1:0.1.0"), tmp_path)
    assert (finding.licence, finding.use, finding.licence_basis) == ("CC BY-NC 4.0", "research", "seen")
    finding = examine_one(dataset("mine", "my_own_data:1.0.0"), tmp_path)
    assert (finding.licence, finding.use, finding.licence_basis) == ("unstated", "unstated", "")


def test_builders_are_compared_with_the_version_asked_for(rte_copy):
    data_dir, _ = rte_copy
    specs = [
        RTE,
        dataset("snli", "snli:1.1.0"),
        dataset("old", "cnn_dailymail:3.1.0"),
        dataset("mine", "my_own_data:1.0.0"),
    ]
    found = doctor.examine(mixtures.Catalogue(specs), str(data_dir), builders=True)
    rte, snli, old, mine = found
    assert rte == dataclasses.replace(examine_one(RTE, data_dir), builder_version="1.0.2")
    assert snli.builder_version == "1.1.0"
    assert arguments_of(snli.fix)[0] == "snli:1.1.0"
    assert re.fullmatch(r"the installed TFDS builds version [\d., ]+, not 3\.1\.0", old.problems[-1])
    assert "no builder that can be used: Dataset my_own_data not found." in mine.problems[-1]
    assert mine.builder_version is None
    for finding in (old, mine):  # no version of TFDS's own would do
        assert finding.fix.startswith("flan data import RECORDS")


def test_a_mixture_of_other_tasks_says_what_it_leaves_out(sample_dir, capsys):
    mixture = mixtures.MixtureSpec("both", ("rte_type_3", "somebody_elses_task"))
    catalogue = mixtures.Catalogue([RTE], [mixture])
    found = doctor.examine(catalogue, sample_dir, "both")
    assert [finding.dataset for finding in found] == ["rte"]
    assert doctor.show(found, sample_dir, as_json=False, not_examined=["somebody_elses_task"]) == 0
    assert "not examined, as seqio's registries hold them: somebody_elses_task" in capsys.readouterr().out


def test_unknown_names_are_refused(tmp_path):
    catalogue = mixtures.Catalogue([RTE])
    with pytest.raises(errors.FlanError, match="unknown split 'trian'; did you mean 'train'"):
        doctor.examine(catalogue, str(tmp_path), splits=("trian",))
    with pytest.raises(errors.FlanError, match="unknown task or mixture 'rte_10template'"):
        doctor.examine(catalogue, str(tmp_path), "rte_10template")
    with pytest.raises(errors.FlanError, match="does not exist"):
        run("--tfds_data_dir", str(tmp_path / "nowhere"))
