"""The browsable catalogue: what it counts, where it goes, and that dataset text stays text."""

import html.parser
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from data_builders import dataset, prepare, tokenizer
from html_records import FREE, NASTY, TEMPLATES, build, free, records
from hypothesis import example, given
from hypothesis import strategies as st

from flan_jax import cli, errors
from flan_jax.data import html_catalogue, mixtures, templates


def describe(catalogue: mixtures.Catalogue, data_dir: str, *, rows: int = 2, missing: str = "error") -> dict[str, Any]:
    return html_catalogue.describe(catalogue, data_dir, rows=rows, tokenizer=tokenizer(), missing=missing)


def datasets(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for cluster in found["clusters"] for one in cluster["datasets"]}


class Page(html.parser.HTMLParser):
    """The elements of a page, and the text of its scripts by their type."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.scripts: dict[str | None, str] = {}
        self.comments: list[str] = []
        self.feed(page.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        if tag == "script":
            self.scripts[dict(attrs).get("type")] = ""

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[dict(self.tags[-1][1]).get("type")] += data

    def handle_comment(self, data):
        self.comments.append(data)


def strings(value: Any) -> Iterator[str]:
    """Every string inside a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def found_with(text: str) -> dict[str, Any]:
    return {"clusters": [{"name": "c", "datasets": [{"rows": [{"fields": {"text": text, "answer": "yes"}}]}]}]}


# What is in a page that shows no text of any dataset.
PLAIN = Page(html_catalogue.html(found_with("")))


@given(st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from("<>/!-scriptSCRIPT\"'& \\u2028")))
@example(NASTY[0])
@example(NASTY[1])
@example(NASTY[2])
@example(NASTY[3])
@example(NASTY[6])
@example(NASTY[7])
def test_any_text_is_in_the_page_once_and_is_no_markup(text):
    text = "unique:" + text
    page = html_catalogue.html(found_with(text))
    read = Page(page)
    decoded = json.loads(read.scripts["application/json"])
    assert decoded == found_with(text)
    assert list(strings(decoded)).count(text) == 1
    assert page.count(b"unique:") == 1
    assert (read.tags, read.comments) == (PLAIN.tags, PLAIN.comments)
    assert "<" not in read.scripts["application/json"]


def test_the_page_asks_for_nothing_and_allows_its_own_script_only():
    page = html_catalogue.html(found_with("")).decode()
    policy = next(dict(attrs)["content"] for tag, attrs in PLAIN.tags if dict(attrs).get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.findall(r"https?:|//[a-z]+\.|url\(|@import|\bsrc=|\blink\b.*href", page)
    assert "innerHTML" not in page


def test_counts(tmp_path):
    texts = [f"row {i}" for i in range(6)]
    data_dir = prepare(tmp_path, "asks", train=records(*texts), validation=records(*texts[:3]))
    data_dir = prepare(tmp_path, "names", train=records(*texts), test=records(*texts[:2]))
    catalogue = mixtures.Catalogue(
        [
            dataset(tmp_path, "asks", build=build, templates=TEMPLATES),
            dataset(tmp_path, "names", build=free, templates=FREE, cluster="other"),
        ]
    )
    found = describe(catalogue, data_dir, rows=3)
    assert [cluster["name"] for cluster in found["clusters"]] == ["mine", "other"]
    asks, names = datasets(found).values()
    assert [len(one["templates"]) for one in (asks, names)] == [3, 1]
    assert [t["reversed"] for t in asks["templates"]] == [False, False, True]
    assert (asks["kind"], names["kind"]) == ("classification", "generation")
    assert [split["rows"] for split in asks["splits"]] == [6, 3, None]
    assert [split["rows"] for split in names["splits"]] == [6, None, 2]
    assert asks["fields"] == ["text", "aside", "answer", "options"]
    assert [len(one["rows"]) for one in (asks, names)] == [3, 3]
    assert (len(names["rows"][0]["accepted"]), names["rows"][0]["num_accepted"]) == (8, 12)
    assert [one["missing"] for one in (asks, names)] == ["", ""]


def test_tokens_are_those_that_the_model_reads(tmp_path):
    data_dir = prepare(tmp_path, "asks", train=records("a row", "another {row} of <text>"))
    one = dataset(tmp_path, "asks", build=build, templates=TEMPLATES)
    catalogue = mixtures.Catalogue([one])
    lengths = {"inputs": 200, "targets": 100}
    for number, template in enumerate(datasets(describe(catalogue, data_dir))["asks"]["templates"]):
        opened = catalogue.open(
            f"asks_type_{number}",
            data_dir=data_dir,
            split="train",
            tokenizer=tokenizer(),
            lengths=lengths,
            seed=0,
            shuffle=False,
        )
        read = opened.members[0].stream.read(np.arange(2))
        assert template["tokens"] == [(len(row.inputs), len(row.targets)) for row in read]


def test_rows_that_are_kept_and_differ_in_their_answer_come_first(tmp_path):
    data_dir = prepare(tmp_path, "asks", train=records(*"abcdef", labels=(-1, 2, 0, 4, 1, -1)))
    catalogue = mixtures.Catalogue([dataset(tmp_path, "asks", build=build, templates=TEMPLATES)])

    def indices(rows: int) -> list[int]:
        return [row["index"] for row in datasets(describe(catalogue, data_dir, rows=rows))["asks"]["rows"]]

    assert [indices(rows) for rows in (1, 2, 3, 9)] == [[1], [1, 4], [1, 2, 4], [1, 2, 3, 4]]


def test_a_dataset_without_a_train_split_shows_what_it_has(tmp_path):
    data_dir = prepare(tmp_path, "asks", test=records("one", "two"))
    one = dataset(tmp_path, "asks", build=build, templates=TEMPLATES, splits={"test": "test"})
    (shown,) = datasets(describe(mixtures.Catalogue([one]), data_dir)).values()
    assert [(row["split"], row["index"]) for row in shown["rows"]] == [("test", 0), ("test", 1)]


def test_long_fields_say_what_is_left_out(tmp_path):
    data_dir = prepare(tmp_path, "asks", train=records("x" * 9_001, "short"))
    catalogue = mixtures.Catalogue([dataset(tmp_path, "asks", build=build, templates=TEMPLATES)])
    (shown,) = datasets(describe(catalogue, data_dir)).values()
    assert [len(row["fields"]["text"]) for row in shown["rows"]] == [8_000, 5]
    assert [row["cut"] for row in shown["rows"]] == [{"text": 1_001}, {}]


def gappy(folder: pathlib.Path) -> tuple[mixtures.Catalogue, str]:
    """A catalogue of three: one that is there, one that is not, one whose every row is dropped."""
    data_dir = prepare(folder, "asks", train=records("one", "two"))
    data_dir = prepare(folder, "empty", train=records("one", "two", labels=(-1, -1)))
    return mixtures.Catalogue(
        [dataset(folder, name, build=build, templates=TEMPLATES) for name in ("asks", "absent", "empty")]
    ), data_dir


def test_missing_data_is_named_all_at_once(tmp_path):
    catalogue, data_dir = gappy(tmp_path)
    with pytest.raises(errors.FlanError) as raised:
        html_catalogue.write(tmp_path / "out.html", catalogue, data_dir, tokenizer=tokenizer())
    message = str(raised.value)
    assert "2 of 3 datasets have no data" in message
    assert "'absent:1.0.0' is not prepared" in message
    assert "no row that 'empty' keeps" in message
    assert "--missing=skip" in message
    assert not (tmp_path / "out.html").exists()


def test_missing_data_is_said_in_the_page(tmp_path):
    catalogue, data_dir = gappy(tmp_path)
    found = datasets(describe(catalogue, data_dir, missing="skip"))
    assert {name: bool(one["missing"]) for name, one in found.items()} == {"asks": False, "absent": True, "empty": True}
    assert (found["absent"]["rows"], len(found["absent"]["templates"])) == ([], 3)
    with pytest.raises(errors.FlanError, match="did you mean 'skip'"):
        describe(catalogue, data_dir, missing="skipp")


def test_where_the_page_goes(tmp_path):
    data_dir = prepare(tmp_path, "asks", train=records("one", "two"))
    catalogue = mixtures.Catalogue([dataset(tmp_path, "asks", build=build, templates=TEMPLATES)])

    def write(out: pathlib.Path, rows: int = 1) -> pathlib.Path:
        return html_catalogue.write(out, catalogue, data_dir, rows=rows, tokenizer=tokenizer())

    assert write(tmp_path / "site" / "new") == tmp_path / "site" / "new" / "index.html"
    assert write(tmp_path / "page.html") == tmp_path / "page.html"
    once = (tmp_path / "page.html").read_bytes()
    assert write(tmp_path / "page.html", rows=2).read_bytes() != once
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    (tmp_path / "notes").write_text("mine")
    for taken in ("mine.html", "notes"):
        with pytest.raises(errors.FlanError, match=taken):
            write(tmp_path / taken)
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(errors.FlanError, match="0 rows"):
        write(tmp_path / "page.html", rows=0)
    assert not list(tmp_path.glob(".*"))


def test_the_whole_catalogue_on_the_sample(tmp_path, sample_dir, capsys):
    html_catalogue.show(
        str(tmp_path / "all.html"),
        module=cli.DEFAULT_MODULE,
        data_dir=sample_dir,
        vocabulary_file=None,
        rows=2,
        missing="error",
    )
    page = pathlib.Path(capsys.readouterr().out.strip())
    clusters = mixtures.Catalogue.from_modules(cli.DEFAULT_MODULE).specs.clusters()
    specs = [one for members in clusters.values() for one in members]
    shown = datasets(json.loads(Page(page.read_bytes()).scripts["application/json"]))
    assert list(shown) == [one.name for one in specs]
    assert [len(shown[one.name]["templates"]) for one in specs] == [len(templates.load(one.templates)) for one in specs]
    assert {len(one["rows"]) for one in shown.values()} == {2}
    assert page.stat().st_size < 5_000_000
