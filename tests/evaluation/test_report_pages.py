"""Reports of results: what they say, that no text becomes markup, and the page in a real browser."""

import html.parser
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flan_jax import cli, errors, report
from flan_jax.evaluation import report_markdown, report_page, report_view, results

sys.path.append(str(Path(__file__).parents[1] / "data"))
import headless

from tests.evaluation import report_files

pytestmark = pytest.mark.xdist_group("chromium")  # one browser for all of them


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The results of two checkpoints, and their report."""
    folder = tmp_path_factory.mktemp("results")
    first, second = report_files.two(folder)
    assert cli.main(["report", str(first), str(second), "--out", str(folder / "out")]) == 0
    return first, second, folder / "out"


def printed(name, group, **how):
    """What papers print, as `evaluation.published` gives it."""
    about = {"source": "A paper", "table": "Table 1", "note": "of <2021>", "group": "", "shots": None}
    known = {("rte", "nli"): [("T5", 60.0), ("GPT", 63.5)], ("nli", ""): [("GPT", 42.9)]}
    about |= {"group": group}
    return [SimpleNamespace(model=model, value=value, **about) for model, value in known.get((name, group), ())]


def test_scores_stand_with_deviation_chance_and_the_chosen_template(written):
    lines = (written[2] / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| rte | accuracy | 25.0 | 4.5 | 50.0 | +25.0 | 61.5 | 3 | 50.0 | 4 |" in lines
    assert "| cb | f1 | 40.0 |  | 40.0 | +0.0 |  |  |  | 4 |" in lines
    assert "| nli | 32.5 | 45.0 | +12.5 |" in lines


def test_examples_that_changed_are_counted_where_both_were_asked_the_same(written):
    rte, cb = results.compare(results.load(written[0]), results.load(written[1]), shown=2)
    assert (rte.subtask, rte.shared, rte.better, rte.worse, rte.other_prompts) == ("rte_type_0", 3, 2, 1, 1)
    assert (cb.shared, cb.better, cb.worse, cb.shown) == (2, 0, 0, [])
    # One of each kind where two are shown.
    assert [(before.line["index"], after.line["output"]) for before, after in rte.shown] == [(0, "yes"), (2, "no")]
    assert len(results.compare(results.load(written[0]), results.load(written[1]), shown=6)[0].shown) == 3


def test_samples_are_wrong_and_right_ones(tmp_path):
    of = [report_files.line(at, "yes" if at in (5, 7) else "no", "yes") for at in range(9)]
    folder = report_files.write(tmp_path / "r", [], {"a.jsonl": of}, averages=[])
    for count, expected in ((1, [0]), (4, [0, 1, 5, 7]), (5, [0, 1, 2, 5, 7]), (20, list(range(9))), (0, [])):
        shown = results.samples(results.load(folder), count)["a"]
        assert [one.line["index"] for one in shown] == expected


def test_published_rows_stand_below_ours(written):
    view = report_view.view(results.load(written[0]), results.load(written[1]), published=printed)
    mean, of_group = view.published
    assert (mean.title, mean.note) == ("Beside A paper, Table 1", "of <2021>")
    assert mean.head == ("", "nli")
    assert mean.rows == (("A", "32.5"), ("B", "45.0"), ("GPT", "42.9"))
    assert of_group.title == "Beside A paper, Table 1: nli"
    assert of_group.head == ("", "rte")
    assert of_group.rows == (("A", "25.0"), ("B", "50.0"), ("T5", "60.0"), ("GPT", "63.5"))
    assert "of &lt;2021&gt;" in report_page.render(view)


def test_where_there_are_more_scores_than_models_they_go_down_the_page(written):
    first = results.load(written[0])
    about = {"source": "A paper", "table": "Table 1", "note": "", "group": "", "shots": None}
    view = report_view.view(first, published=lambda *_, **__: [SimpleNamespace(model="GPT", value=42.9, **about)])
    assert view.published[0].head == ("", "this one", "GPT")
    assert [row[::2] for row in view.published[0].rows] == [("nli", "42.9"), ("rte", "42.9"), ("cb", "42.9")]


def beside(folder, names, **more):
    """The published tables of made-up results: title -> models."""
    scores = [report_files.score(name, group, 50.0) for name, group in names]
    view = report_view.view(results.load(report_files.write(folder, scores, {}, **more)))
    found = {}
    for table in view.published:
        across = set(table.head[1:]) | {row[0] for row in table.rows}
        found[table.title] = across
    return found, view.published


def run(**how):
    return {"averages": [{"name": "mmlu_direct", "value": 50.0}], "settings": {"runs": {"mmlu_direct": how}}}


def test_a_split_stands_beside_its_own_tables(tmp_path):
    asked = [("anatomy", "mmlu_direct")]
    of_five = "Beside Scaling Instruction-Finetuned Language Models, Table 5"
    of_four = "Beside Scaling Instruction-Finetuned Language Models, Table 4"
    validation, _ = beside(tmp_path / "a", asked, **run(split="validation", shots=5))
    test, _ = beside(tmp_path / "b", asked, **run(split="test", shots=5))
    assert of_five in validation
    assert of_four not in validation
    assert of_four in test
    assert of_five not in test
    assert "Flan-PaLM 540B direct" in test[of_four]
    assert "Flan-PaLM 540B CoT" not in test[of_four]
    assert "OPT-IML-Max 30B" in test["Beside OPT-IML, Table 14"]


def test_what_is_asked_without_exemplars_stands_beside_the_like(tmp_path):
    asked, average = [("navigate", "bbh_cot")], [{"name": "bbh_cot", "value": 50.0}]
    how = {"split": "test", "cot": True}
    without, (table,) = beside(
        tmp_path / "a", asked, averages=average, settings={"runs": {"bbh_cot": {**how, "shots": 0}}}
    )
    assert list(without) == ["Beside The Flan Collection, Table 1"]
    assert ("T5-XL, Flan 2022", "33.9") in table.rows
    few, tables = beside(tmp_path / "b", asked, averages=average, settings={"runs": {"bbh_cot": {**how, "shots": 2}}})
    subtasks = "Beside Scaling Instruction-Finetuned Language Models, Tables 17 to 19: bbh_cot"
    assert subtasks in few
    (noted,) = [table.note for table in tables if table.title == subtasks]
    assert noted.endswith("asked with 2 exemplars here, with 3 there: bbh_cot")
    (collection,) = [table for table in tables if table.title.startswith("Beside The Flan Collection")]
    assert ("T5-XL, Flan 2022", "35.2") in collection.rows


def test_subtasks_of_two_runs_do_not_mix(tmp_path):
    names = ["bbh_direct", "bbh_cot"]
    scores = [report_files.score("navigate", name, value) for name, value in zip(names, (10.0, 20.0), strict=True)]
    settings = {"runs": {name: {"split": "test", "shots": 3} for name in names}}
    folder = report_files.write(tmp_path / "r", scores, {}, averages=[], settings=settings)
    found = {table.title.partition(": ")[2]: table for table in report_view.view(results.load(folder)).published}
    assert list(found) == names
    for name, own, theirs in zip(names, ("10.0", "20.0"), ("58.4", "60.0"), strict=True):
        assert found[name].rows[0] == ("this one", own)
        assert ("Flan-T5-XXL", theirs) in found[name].rows


def test_flan_2021s_rows_are_found_under_its_own_names(tmp_path):
    clusters = ("nli", "closed_book_qa", "commonsense")
    names = [("rte", "nli"), ("copa", "commonsense"), ("wmt16_translate_deen", "translation")]
    averages = [{"name": name, "value": value} for name, value in zip(clusters, (40.0, 50.0, 63.0), strict=True)]
    more = {"averages": averages, "split": "test"}
    zero, tables = beside(tmp_path / "a", names, suite="flan2021_eval_10templates", **more)
    assert {"GPT-3 175B zero-shot", "copa"} <= zero["Beside Language Models are Few-Shot Learners, Tables 3.2 to 3.7"]
    assert "GLaM 64B/64E zero-shot" in zero["Beside UL2, Table 10"]
    assert "FLAN 137B zero-shot" in zero["Beside Finetuned Language Models Are Zero-Shot Learners, Figure 1"]
    assert not any("few-shot" in name for names in zero.values() for name in names)
    (six,) = [table for table in tables if table.title.endswith("Figure 6")]
    assert six.head == ("", "mean of nli, closed_book_qa, commonsense")
    assert six.rows[0] == ("this one", "51.0")
    few, _ = beside(tmp_path / "b", names, suite="flan2021_eval_10templates_multi_shot", **more)
    assert "FLAN 137B few-shot" in few["Beside OPT-IML, Table 11"]
    assert not any("zero-shot" in name for names in few.values() for name in names)


def test_opt_imls_tasks_stand_beside_flans(tmp_path):
    names = [("rte_0_shot", "nli"), ("rte_5_shot", "nli"), ("qnli_0_shot", "nli")]
    more = {"suite": "opt_iml", "averages": [{"name": "nli_0_shot", "value": 1.0}], "settings": {"split": "validation"}}
    _, tables = beside(tmp_path / "r", names, **more)
    (table,) = [table for table in tables if table.title == "Beside OPT-IML, Table 11"]
    assert table.head == ("", "rte_0_shot", "rte_5_shot")
    assert ("FLAN 137B zero-shot", "78.3", "") in table.rows
    assert ("FLAN 137B few-shot", "", "79.9") in table.rows


def test_a_report_is_whole_without_published_rows_and_another_checkpoint(written, tmp_path):
    markdown, page = report.write(str(written[0]), None, str(tmp_path))
    assert "What changed" not in markdown.read_text() + page.read_text()
    assert "| rte | accuracy | 25.0 | 4.5 | 61.5 | 3 | 50.0 | 4 |" in markdown.read_text()


def test_what_must_be_known_stands_open_and_settings_are_words(tmp_path):
    runs = {"mmlu_direct": {"shots": 0, "cot": False, "decoding": {"temperature": 0.0, "stop": ["Q:"], "beams": 0}}}
    scores = [report_files.score(f"subject_{number}", "mmlu_direct", 1.0) for number in range(13)]
    folder = report_files.write(tmp_path / "r", scores, {}, averages=[{"name": "mmlu_direct", "value": 1.0}])
    content = json.loads((folder / "results.json").read_text())
    content |= {"notes": ["3 of 5 <prompts> cut"], "settings": {"batch_size": 4, "runs": runs}}
    content["checkpoint"] = "/a/long/path/runs/demo/checkpoint_7"
    (folder / "results.json").write_text(json.dumps(content))
    view = report_view.view(results.load(folder), published=lambda *_, **__: [])
    assert view.title.endswith(": demo/checkpoint_7")
    assert ("mmlu_direct", "shots 0; decoding: temperature 0.0; stop “Q:”; beams 0") in view.facts
    assert view.averages.head == ("", "score", "subtasks", "examples")
    assert view.averages.rows[0][:3] == ("mmlu_direct", "1.0", "13")
    # One metric for all: said once, below, not in a column.
    assert "metric" not in view.groups[0].table.head
    assert view.groups[0].table.note.startswith("metric: ")
    page = report_page.render(view)
    assert page.index("<li>3 of 5 &lt;prompts&gt; cut</li>") < page.index('id="averages"')
    assert "- 3 of 5 \\<prompts\\> cut" in report_markdown.render(view)


def test_no_text_ends_a_fence_or_a_cell(written):
    text = report_markdown.render(report_view.view(results.load(written[0]), published=lambda *_, **__: []))
    outside, fence = [], ""
    for line in text.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line
        else:
            outside.append(line)
    assert fence == ""
    assert not [line for line in outside if "script" in line or line == "# c"]


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "style")], (tag, attrs)


def test_texts_never_become_markup(written):
    tags = Tags()
    tags.feed((written[2] / "report.html").read_text(encoding="utf-8"))
    assert not tags.seen & {"script", "img", "iframe", "link", "form", "object"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "has no suite, checkpoint, step, scores, averages, predictions"),
        ('{"suite": 1, "checkpoint": 1, "step": 1, "scores": [{}], "averages": [], "predictions": []}', "not whole"),
        (
            '{"suite": 1, "checkpoint": 1, "step": 1, "scores": [], "averages": [], "predictions": ["../x.jsonl"]}',
            "outside",
        ),
        (
            '{"suite": 1, "checkpoint": 1, "step": 1, "scores": [], "averages": [], "predictions": ["x.jsonl"]}',
            "names it",
        ),
        (
            '{"suite": 1, "checkpoint": 1, "step": 1, "scores": [], "averages": [], "predictions": ["y.jsonl"]}',
            "y.jsonl:1: a prediction without prompt",
        ),
    ],
)
def test_what_is_not_whole_is_refused_in_a_sentence(tmp_path, content, said):
    (tmp_path / "results.json").write_text(content)
    (tmp_path / "y.jsonl").write_text(json.dumps({"index": 1, "output": "", "target": "", "score": 0}) + "\n")
    with pytest.raises(errors.FlanError, match=said):
        report.write(str(tmp_path), None, str(tmp_path / "out"))
    with pytest.raises(errors.FlanError, match="does not exist; expected the output directory"):
        report.write(str(tmp_path / "nowhere"), None, str(tmp_path / "out"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[headless.Browser]:
    with headless.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_the_page_shows_everything_and_asks_for_nothing(browser, written):
    page = written[2] / "report.html"
    browser.open(page)
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.js("typeof window.ran") == "undefined"
    assert browser.js("document.scripts.length") == 0
    # The nasty text is there, letter by letter, as text.
    shown = browser.js("[...document.querySelectorAll('pre')].map(pre => pre.textContent)")
    assert shown.count(report_files.NASTY) == 3  # as a prompt that changed, as a sample's prompt and as an output
    assert browser.js("[...document.querySelectorAll('svg text')].map(t => t.textContent)").count("25.0 / 50.0") == 1


def test_bars_are_as_long_as_their_values(browser, written):
    browser.open(written[2] / "report.html")
    widths = browser.js("[...document.querySelectorAll('svg g.bar rect.value')].map(r => r.width.baseVal.value / 3.6)")
    assert widths == pytest.approx([25.0, 50.0, 40.0, 40.0], abs=0.1)
    # The second differs by a pattern, so that it is told apart without colours.
    fills = browser.js(
        "[...document.querySelectorAll('svg g.bar rect.value')].map(r => getComputedStyle(r).fill.slice(0, 4))"
    )
    assert fills[1::2] == ["url("] * 2
    assert "url(" not in fills[::2]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser, written, width):
    browser.screen(width, 844)
    browser.open(written[2] / "report.html")
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.js("document.documentElement.scrollWidth") <= width
    # Labels of a plot are legible on a phone: at least 10 CSS pixels.
    assert browser.js("document.querySelector('svg').getBoundingClientRect().width / 360 * 12") >= 9.5
