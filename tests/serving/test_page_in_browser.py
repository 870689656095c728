"""The page of `flan serve` in a real browser: a prompt is asked, the answer is text and nothing else, mistakes are told."""

import pytest

from flan_jax.inference import generate
from tests.data import headless
from tests.serving import toy_server

pytestmark = pytest.mark.xdist_group("chromium")  # one browser for all of them

NASTY = (
    '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script> & \u202e \u0000 \U0001f600 café\n  two spaces'
)


class Says(toy_server.Held):
    """Says what a page must not obey, in pieces where it is streamed."""

    def __init__(self):
        super().__init__()
        self.go.set()

    def answers(self, prompts, how):
        self.asked.append((prompts, how))
        rest = how.n - 2
        for number, _ in enumerate(prompts):
            texts, finished = (NASTY, "", *["x"] * rest), (True, False, *[True] * rest)
            yield number, generate.Answer(texts, ((5, 6, 1),) * how.n, (0.0,) * how.n, finished)

    def pieces(self, prompt, how):
        self.asked.append(([prompt], how))
        for at, character in enumerate(NASTY):
            assert self.go.wait(60)
            yield generate.Piece(character, at + 1, at + 1 == len(NASTY))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with headless.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(browser):
    model = Says()
    with toy_server.serving(model, max_tokens=4096) as running:
        browser.screen(1280, 900)
        browser.visit(running.url)
        browser.wait("document.getElementById('name').textContent === 'toy'")
        yield browser, model, running


def fill(browser, **values):
    for name, value in values.items():
        browser.js(f"document.getElementById('{name}').value = {value!r}")


def ask(browser, **values):
    fill(browser, **values)
    browser.js("document.getElementById('ask').click()")
    browser.wait("!document.getElementById('ask').disabled")


OUTPUTS = "[...document.querySelectorAll('.card:first-child .output')].map(node => node.textContent)"
META = "document.querySelector('.card .meta').textContent"


def test_a_prompt_is_typed_and_answered_in_pieces(page):
    browser, model, running = page
    browser.keys("Is it so?")  # the prompt has the focus
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, modifiers=2)
    browser.wait("document.querySelector('.card .meta')?.textContent.includes('stop')")
    assert browser.js(OUTPUTS) == [NASTY]
    assert browser.js("document.querySelector('.card .asked').textContent") == "Is it so?"
    meta = browser.js(META)
    assert f"{len(NASTY)} tokens (prompt 9)" in meta
    assert " s" in meta
    assert (model.asked[0][1].temperature, model.asked[0][0][0].max_tokens) == (0.0, 64)
    assert browser.js("typeof window.ran") == "undefined"
    assert browser.js("document.querySelectorAll('main img, main script').length") == 0
    assert {url.removeprefix(running.url) for url in browser.requests() if not url.startswith("data:")} == {
        *("/", "/page.css", "/page.js", "/about", "/v1/completions")
    }
    assert browser.complaints() == []


def test_several_answers_and_their_seed(page):
    browser, model, _ = page
    ask(browser, prompt="Name a colour.", n="3", temperature="0.7", top_p="0.5", stop="x\n\ny", max_tokens="9")
    assert browser.js(OUTPUTS) == [NASTY, "(no text)", "x"]
    how = model.asked[0][1]
    assert (how.n, how.temperature, how.top_p, how.stop) == (3, 0.7, 0.5, ("x", "y"))
    assert "9 tokens" in browser.js(META)
    assert "2 × stop" in browser.js(META)
    assert "1 × length" in browser.js(META)
    browser.js("document.querySelector('.card button').click()")
    seed = browser.js("document.getElementById('seed').value")
    ask(browser)
    assert browser.js(META).count(f"seed {seed}") == 1
    assert [prompt.seed for prompt in model.asked[0][0]] == [prompt.seed for prompt in model.asked[1][0]]
    assert browser.js("document.querySelectorAll('.card').length") == 2


def test_what_the_server_refuses_is_told(page):
    browser, model, _ = page
    ask(browser, prompt="x" * 65)
    assert browser.js("document.getElementById('error').textContent") == "the prompt has 65 tokens; expected at most 64"
    assert browser.js("document.querySelectorAll('.card').length") == 0
    ask(browser, prompt="short")
    assert browser.js("document.getElementById('error').hidden")
    assert len(model.asked) == 1


def test_an_answer_can_be_stopped(page):
    browser, model, _ = page
    model.go.clear()
    fill(browser, prompt="a")
    browser.js("document.getElementById('ask').click()")
    browser.wait("!document.getElementById('halt').hidden")
    browser.js("document.getElementById('halt').click()")
    browser.wait("document.getElementById('halt').hidden")
    assert browser.js(META) == "stopped here"
    model.go.set()
    ask(browser, prompt="b")
    assert browser.js(OUTPUTS) == [NASTY]


def test_nothing_is_markup_and_nothing_else_is_loaded(page):
    browser, _, _ = page
    assert browser.js("try { document.body.innerHTML = '<b>x</b>'; 'set' } catch (error) { error.name }") == "TypeError"
    refused = browser.js("fetch('https://example.invalid/x').then(() => 'sent', error => error.name)")
    assert refused == "TypeError"
    assert any("example.invalid" in line and "Content Security Policy" in line for line in browser.complaints())


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    browser, _, _ = page
    browser.screen(width, 844)
    ask(browser, prompt="unbroken" * 8, temperature="0.7", n="2")
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("[...document.querySelectorAll('input, textarea')].every(node => node.labels.length === 1)")
