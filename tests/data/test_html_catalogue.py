"""The browsable catalogue: what it counts, that dataset text stays text, and that it works in a real browser."""

import html.parser
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import headless
import pytest
from data_builders import dataset, prepare, tokenizer
from hypothesis import example, given
from hypothesis import strategies as st

from flan_jax import cli, errors
from flan_jax.data import html_catalogue, mixtures, spec, templates

pytestmark = pytest.mark.xdist_group("chromium")  # one browser for all of them

SCRIPT = "<script>window.ran = 1; alert(1)</script>"
NASTY = (
    SCRIPT,
    "</script><script>window.ran = 1</script>",
    "<!--<script>",
    "--> ]]> </style></main></body></html>",
    "<img src=x onerror='window.ran = 1'> <a href=\"javascript:window.ran = 1\">x</a>",
    "&lt;b&gt; &amp;amp; &#60;",
    "@@data@@ @@script@@ \\u003c \\ \" ' ` ${window.ran = 1} {answer} {{options}}",
    "\u2028 \u2029 \x00 \x1b \x7f \r\n \ud800 \ufffe \U0001f9ea \u202e",
)
TEMPLATES = """
- inputs: "Is it so? {text}\\n\\n{options}"
  targets: "{answer}"
- inputs: "{text} Truly, {aside}?\\n{options}"
  targets: "{answer}"
- inputs: "Somebody answered {answer}. What was said?"
  targets: "{text}"
  reversed: true
"""
FREE = """
- inputs: "Name it: {text}"
  targets: "{answer}"
"""


def build(row: spec.Row) -> spec.Example | None:
    if row["label"] < 0:
        return None
    fields = {"text": row["text"], "aside": f"said row {row['label']}"}
    return spec.Example(fields=fields, answer=("yes", "no")[row["label"] % 2], options=("yes", "no"))


def free(row: spec.Row) -> spec.Example | None:
    return spec.Example(fields={"text": row["text"]}, answer="a name", answers=tuple(f"name {i}" for i in range(12)))


def records(*texts: str, labels: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
    numbers = labels or tuple(i % 2 for i in range(len(texts)))
    return [{"text": text, "label": label} for text, label in zip(texts, numbers, strict=True)]


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
        read = opened.members[0].stream.read(range(2))
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
    specs = list(mixtures.Catalogue.from_modules(cli.DEFAULT_MODULE).specs)
    shown = datasets(json.loads(Page(page.read_bytes()).scripts["application/json"]))
    assert list(shown) == [one.name for one in specs]
    assert [len(shown[one.name]["templates"]) for one in specs] == [len(templates.load(one.templates)) for one in specs]
    assert {len(one["rows"]) for one in shown.values()} == {2}
    assert page.stat().st_size < 5_000_000


# In a real browser.

WHITE = "\x85\ufeff\x1c \xa0 between {text} \u200b\u3000"  # what Python strips and JavaScript does not, and the reverse
LONG = "".join(f"word{i} " for i in range(400)) + "end"
UNBROKEN = "unbroken" * 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[headless.Browser]:
    with headless.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[pathlib.Path, dict[str, spec.DatasetSpec], dict[str, list[spec.Example]]]:
    """A page of four datasets, their specifications, and the examples that it shows."""
    folder = tmp_path_factory.mktemp("site")
    kept = [text.replace("\ud800", "") for text in NASTY]
    texts = {"asks": [*kept, WHITE], "names": ["weather in winter", UNBROKEN], "wide": [LONG, UNBROKEN]}
    data_dir = ""
    for name, lines in texts.items():
        data_dir = prepare(folder, name, train=records(*lines))
    specs = [
        dataset(folder, "asks", build=build, templates=TEMPLATES),
        dataset(folder, "names", build=free, templates=FREE, cluster="other_things"),
        dataset(folder, "wide", build=build, templates=TEMPLATES, cluster="other_things"),
        dataset(folder, "absent", build=free, templates=FREE, cluster="other_things"),
    ]
    page = html_catalogue.write(
        folder / "page.html", mixtures.Catalogue(specs), data_dir, rows=9, tokenizer=tokenizer(), missing="skip"
    )
    examples = {one.name: [one.example(row) for row in records(*texts[one.name])] for one in specs if one.name in texts}
    return page, {one.name: one for one in specs}, examples


COUNT = "document.getElementById('page-count').textContent"
VISIBLE = "[...document.querySelectorAll('.dataset')].filter(d => !d.hidden).map(d => d.id)"
CARDS = "[...document.querySelectorAll('.template')].filter(c => !c.hidden).map(c => c.id)"


def test_the_browser_shows_every_row_as_it_is_rendered(browser, site):
    page, specs, examples = site
    browser.open(page)
    browser.js("document.getElementById('page-open').click()")
    browser.js("document.querySelectorAll('.more').forEach(button => button.click())")
    shown = browser.js(
        "Object.fromEntries([...document.querySelectorAll('.template')].map(card => [card.id,"
        " [...card.querySelectorAll('.rows .text')].map(text => text.textContent)]))"
    )
    compared = 0
    for name, rows in examples.items():
        for number, template in enumerate(templates.load(specs[name].templates)):
            expected = itertools.chain.from_iterable(templates.render(template, row) for row in rows)
            assert shown[f"{name}_type_{number}"] == list(expected)
            compared += 1
    assert compared == 7


def test_dataset_text_runs_no_script_and_loads_nothing(browser, site):
    page, _, _ = site
    browser.open(page, "#asks")
    assert SCRIPT in browser.js("document.getElementById('asks_type_0').textContent")
    browser.js("document.getElementById('page-open').click()")
    assert browser.js("typeof window.ran") == "undefined"
    assert browser.js("document.querySelectorAll('main script, main img, main style, main [onerror]').length") == 0
    assert browser.js("document.scripts.length") == 2
    assert browser.requests() == [page.as_uri() + "#asks"] or browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def test_the_policy_stops_what_gets_past_the_page(browser, site):
    browser.open(site[0])
    assert browser.js("try { document.body.innerHTML = '<b>x</b>'; 'set' } catch (error) { error.name }") == "TypeError"
    browser.js("const s = document.createElement('img'); s.src = 'https://example.invalid/x'; document.body.append(s)")
    assert any("Content Security Policy" in line for line in browser.complaints())


@pytest.mark.parametrize(
    ("fragment", "found", "cards"),
    [
        ("", ["asks", "names", "wide", "absent"], "8 of 8 templates"),
        ("#q=WEATHER", ["names"], "1 of 8 templates"),
        ("#q=name%20weather", ["names"], "1 of 8 templates"),
        ("#q=truly", ["asks", "wide"], "2 of 8 templates"),
        ("#q=%3Cscript%3E", ["asks"], "3 of 8 templates"),
        ("#q=other+things", ["names", "wide", "absent"], "5 of 8 templates"),
        ("#cluster=mine", ["asks"], "3 of 8 templates"),
        ("#cluster=other_things&kind=generation", ["names", "absent"], "2 of 8 templates"),
        ("#kind=classification&templates=reversed", ["asks", "wide"], "2 of 8 templates"),
        ("#templates=forward", ["asks", "names", "wide", "absent"], "6 of 8 templates"),
        ("#cluster=nowhere", ["asks", "names", "wide", "absent"], "8 of 8 templates"),
    ],
)
def test_search_and_filters(browser, site, fragment, found, cards):
    browser.open(site[0], fragment)
    assert browser.js(VISIBLE) == found
    assert browser.js(COUNT).endswith(cards)
    browser.js("document.getElementById('page-open').click()")
    assert len(browser.js(CARDS)) == int(cards.split()[0])


def test_searching_by_keyboard(browser, site):
    browser.open(site[0])
    browser.keys("/winter")
    assert browser.js(VISIBLE) == ["names"]
    assert browser.js("location.hash") == "#q=winter"
    browser.keys("x/")
    assert browser.js("document.getElementById('page-q').value") == "winterx/"
    assert browser.js(COUNT).startswith("Nothing fits")
    browser.js("document.getElementById('page-reset').click()")
    assert len(browser.js(VISIBLE)) == 4


def test_opening_a_dataset_by_keyboard(browser, site):
    browser.open(site[0])
    for _ in range(20):
        browser.keys("\t")
        if browser.js("document.activeElement.closest('.dataset')?.id") == "asks":
            break
    assert browser.js("document.activeElement.tagName") == "SUMMARY"
    assert browser.js("document.querySelectorAll('.template').length") == 0
    browser.keys("\n")
    assert browser.js("document.getElementById('asks').open")
    assert browser.js("document.querySelectorAll('.template').length") == 3


def test_deep_links(browser, site):
    page, _, _ = site
    browser.screen(390, 844)
    browser.open(page, "#wide_type_2")
    assert browser.js("document.getElementById('wide').open")
    assert browser.js("document.activeElement.id") == "wide_type_2"
    top = browser.js("document.getElementById('wide_type_2').getBoundingClientRect().top")
    assert 0 <= top < 844
    browser.keys("\t")
    assert browser.js("document.activeElement.textContent") == "wide_type_2"
    # A link to what a filter hides lifts the filter.
    browser.open(page, "#q=weather")
    browser.js("location.hash = '#asks'; new Promise(done => setTimeout(done, 50))")
    assert "asks" in browser.js(VISIBLE)
    assert browser.js("document.getElementById('asks').open")
    browser.open(page, "#%")
    assert len(browser.js(VISIBLE)) == 4
    assert browser.complaints() == []


def test_missing_data_is_told(browser, site):
    browser.open(site[0], "#absent")
    text = browser.js("document.getElementById('absent').textContent")
    assert "'absent:1.0.0' is not prepared" in text
    assert "flan data doctor absent" in text
    assert "Name it: {text}" in text


def test_long_fields_open_in_place(browser, site):
    browser.open(site[0], "#wide_type_0")
    text = "document.querySelector('#wide_type_0 .inputs .text')"
    assert "word399" in browser.js(f"{text}.textContent")
    assert "word200" not in browser.js(f"{text}.textContent")
    assert browser.js(f"{text}.querySelector('.more').textContent") == f"… {len(LONG) - 700:,} more characters …"
    browser.js(f"{text}.querySelector('.more').click()")
    assert LONG in browser.js(f"{text}.textContent")


@pytest.mark.parametrize("width", [320, 390, 700, 1280])
def test_nothing_is_wider_than_the_screen(browser, site, width):
    browser.screen(width, 844)
    browser.open(site[0])
    browser.js("document.getElementById('page-open').click()")
    browser.js("document.querySelectorAll('.more').forEach(button => button.click())")
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("innerWidth") == width


# The contrast ratio of WCAG 2.2: relative luminance of the lighter colour over that of the darker one.
CONTRAST = """(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = node => {
    const colour = getComputedStyle(node).backgroundColor;
    return channels(colour)[3] === 0 && node.parentElement ? background(node.parentElement) : colour;
  };
  const ratio = (a, b) => (Math.max(luminance(a), luminance(b)) + 0.05) / (Math.min(luminance(a), luminance(b)) + 0.05);
  const found = {text: 99, underline: 99, checked: 0};
  const probe = document.createElement("p");
  document.querySelector(".template").append(probe);
  for (const name of ["f0", "f1", "f2", "f3", "f4", "f5", "answer"]) {
    const span = document.createElement("span");
    span.className = "field " + name;
    span.append("x");
    probe.append(span);
  }
  for (const node of document.querySelectorAll("body *")) {
    const style = getComputedStyle(node);
    const inked = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!inked || !node.getClientRects().length || node.tagName === "OPTION") continue;
    found.checked += 1;
    found.text = Math.min(found.text, ratio(style.color, background(node)));
    if (node.matches(".field:not(.options)")) {
      found.underline = Math.min(found.underline, ratio(style.textDecorationColor, background(node)));
    }
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(browser, site, dark):
    browser.screen(1280, 900, dark=dark)
    browser.open(site[0])
    browser.js("document.getElementById('page-open').click()")
    found = browser.js(CONTRAST)
    page = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(255, 255, 255)") is not dark
    assert found["checked"] > 100
    assert found["text"] >= 4.5  # WCAG 2.2, 1.4.3
    assert found["underline"] >= 3  # 1.4.11


def test_fields_differ_without_colour(browser, site):
    browser.open(site[0], "#asks")
    lines = browser.js(
        "[...document.querySelectorAll('#asks .legend .field')].map(node => { const s = getComputedStyle(node);"
        " return [s.textDecorationLine, s.textDecorationStyle, s.textDecorationThickness, s.borderStyle].join() })"
    )
    assert len(lines) == len(set(lines)) == 4
    marked = browser.js(
        "[...document.querySelectorAll('#asks .template .reversed')].map(n => n.closest('.template').id)"
    )
    assert marked == ["asks_type_2"]
