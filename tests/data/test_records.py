"""TSV as records: what a line means, what is refused and how, and the same dataset as from JSON lines."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importer_records import manifest, problem_of, read

from flan_jax import errors
from flan_jax.data import import_plan, importer, records

NAMES = ("question", "answer")


def lines(path, content, names=None):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(records.read(path, names))


def test_the_first_line_names_the_columns(tmp_path):
    found = lines(tmp_path / "train.tsv", "question\tanswer\nDo fish swim?\tyes\n\tno\n")
    assert found == [(2, {"question": "Do fish swim?", "answer": "yes"}), (3, {"question": "", "answer": "no"})]


def test_given_names_leave_no_line_out(tmp_path):
    found = lines(tmp_path / "train.tsv", "question\tanswer\n", NAMES)
    assert found == [(1, {"question": "question", "answer": "answer"})]


def test_cells_are_taken_as_they_are(tmp_path):
    r"""Quotes stand for themselves; only the two characters `\n` stand for a newline; CR and a byte order mark go."""
    content = '\ufeffSay "no"\\nor \\times\t""\r\n a\u2028b \t\'c\'\n'
    assert lines(tmp_path / "train.tsv", content, NAMES) == [
        (1, {"question": 'Say "no"\nor \\times', "answer": '""'}),
        (2, {"question": " a\u2028b ", "answer": "'c'"}),
    ]


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\\\ufeff"), max_size=20)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_any_cells_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tsv") / "train.tsv.gz"
    path.write_bytes(gzip.compress("".join("\t".join(row) + "\n" for row in rows).encode()))
    found = [tuple(record.values()) for _, record in records.read(path, ("a", "b", "c"))]
    assert found == rows


@pytest.mark.parametrize(
    ("content", "names", "problem"),
    [
        (
            "a\tb\tc\n",
            NAMES,
            "line 1: given 3 cells, the list ['a', 'b', 'c']; expected 2, separated by tabs: question, answer",
        ),
        ("a\tb\n\n", NAMES, "line 2: given 1 cells"),
        (b"a\t\xff\n", NAMES, "line 1: not UTF-8 at byte 2"),
        ("", NAMES, "no records; expected one record a line"),
        ("question\tanswer\n", None, "no records after the names of its columns"),
        ("Do fish swim?\tyes\n", None, "line 1, which has to name the columns: given 'Do fish swim?'"),
        ("a\ta\nb\tc\n", None, "expected different names"),
        ("Do fish swim?\tyes\n", None, "--columns"),
    ],
)
def test_what_is_no_record(tmp_path, content, names, problem):
    with pytest.raises(errors.FlanError) as caught:
        lines(tmp_path / "train.tsv", content, names)
    assert str(tmp_path / "train.tsv") in str(caught.value)
    assert problem in str(caught.value)


def test_tsv_and_json_lines_make_the_same_dataset(tmp_path):
    rows = [{"question": f"Is {n} odd?\nSay so.", "answer": "yes" if n % 2 else "no"} for n in range(5)]
    for key in ("as_json", "as_tsv", "with_names"):
        (tmp_path / "in" / key).mkdir(parents=True)
    (tmp_path / "in/as_json/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = "".join("\t".join(row.values()).replace("\n", "\\n") + "\n" for row in rows)
    (tmp_path / "in/as_tsv/train.tsv").write_text(cells)
    (tmp_path / "in/with_names/train.tsv").write_text("question\tanswer\n" + cells)
    (tmp_path / "in/with_names/test.tsv").write_text("question\tanswer\n" + cells)
    for keys, names in ((("as_json", "with_names"), None), (("as_tsv",), NAMES)):
        report = importer.import_datasets(tmp_path / "in", tmp_path / "out", keys=keys, columns=names)
        assert report.exit_code == 0, report.failures
        assert [read(dataset.directory) for dataset in report.datasets] == [rows] * len(keys)
    assert dict(report.datasets[0].splits) == {"train": 5}


def test_importing_again_changes_nothing_but_other_columns_do(tmp_path):
    folder = tmp_path / "in" / "quiz"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("a\tb\n")

    def status(names):
        (found,) = importer.import_datasets(tmp_path / "in", tmp_path / "out", columns=names).datasets
        return found.status, [list(row) for row in read(found.directory)]

    assert status(("x", "y")) == ("imported", [["x", "y"]])
    assert status(("x", "y")) == ("unchanged", [["x", "y"]])
    assert status(("x", "z")) == ("imported", [["x", "z"]])


def test_a_manifest_may_name_the_columns(tmp_path):
    source = manifest(tmp_path / "in", {"key": "quiz", "columns": ["x", "y"]})
    (source / "quiz").mkdir()
    (source / "quiz/train.tsv").write_text("a\tb\n")
    (found,) = importer.import_datasets(source, tmp_path / "out", columns=("not", "these")).datasets
    assert read(found.directory) == [{"x": "a", "y": "b"}]


def test_public_files_need_no_columns(tmp_path):
    """`tasks/manual_downloads.yaml` knows how the files of a `cot_` folder are made up."""
    folder = tmp_path / "in" / "cot_ecqa"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("What is warm?\\nOptions:\\n- ice\\n- fire\tfire\tFire gives heat.\n")
    (found,) = importer.import_datasets(tmp_path / "in", tmp_path / "out").datasets
    (row,) = read(found.directory)
    assert row == {
        "question": "What is warm?\nOptions:\n- ice\n- fire",
        "answer": "fire",
        "chain_of_thought": "Fire gives heat.",
    }


def test_a_split_is_there_once(tmp_path):
    folder = tmp_path / "in" / "quiz"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("a\tb\n1\t2\n")
    (folder / "train.jsonl").write_text('{"a": "1"}\n')
    report = importer.import_datasets(tmp_path / "in", tmp_path / "out")
    assert "the split 'train' is there twice" in problem_of(report)


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a b"], ["1st"], "question", [3]])
def test_names_of_columns(names):
    with pytest.raises(errors.FlanError, match=r"columns: given .*; expected different names"):
        import_plan.column_names(names, "columns")
