"""The browsable catalogue in a real browser: it shows what is rendered, runs nothing, and can be used."""

import itertools
import pathlib
from collections.abc import Iterator

import headless
import pytest
from data_builders import dataset, prepare, tokenizer
from html_records import FREE, NASTY, SCRIPT, TEMPLATES, build, free, records

from flan_jax.data import html_catalogue, mixtures, spec, templates

pytestmark = pytest.mark.xdist_group("chromium")  # one browser for all of them

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
    examples = {
        one.name: [example for row in records(*texts[one.name]) if (example := one.example(row)) is not None]
        for one in specs
        if one.name in texts
    }
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
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []


def test_the_policy_stops_what_gets_past_the_page(browser, site):
    browser.open(site[0])
    assert browser.js("try { document.body.innerHTML = '<b>x</b>'; 'set' } catch (error) { error.name }") == "TypeError"
    browser.js(
        "const s = document.createElement('img'); s.src = 'https://example.invalid/x'; document.body.append(s);"
        "new Promise(done => s.onerror = done).then(() => 0)"
    )
    assert any("example.invalid" in line and "Content Security Policy" in line for line in browser.complaints())
    blocked = [event["params"].get("blockedReason") for event in browser.events if "Failed" in event.get("method", "")]
    assert blocked == ["csp"]


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
    browser.wait("document.querySelectorAll('#asks[open] .template').length === 3")


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
    browser.js("location.hash = '#asks'")
    browser.wait("document.getElementById('asks').open")
    assert "asks" in browser.js(VISIBLE)
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
