"""Published points, means and intervals, the table, the figure, the report."""

import csv
import io
import math
import re

import pytest

from flan_jax.ablation import figure, grid, page, published, scores, table
from flan_jax.evaluation import published as tables
from tests.ablation import ablation_grids

LOADED = published.load()


def series(key, metric, line=""):
    (found,) = [one for one in LOADED[key] if (one.line, one.metric) == (line, metric)]
    return found


# ---- what papers print, copied once more, by hand and in another form ----


@pytest.mark.parametrize(
    ("key", "line", "metric", "arm", "value"),
    [
        ("flan2021_figure6", "", "average", "3", 59.3),
        ("flan2021_figure6", "", "closed-book QA", "1", 38.9),
        ("flan2021_figure7", "instruction tuned", "average", "8B", 45.2),
        ("flan2021_figure8", "", "average", "name / instructions", 46.6),
        ("flan2021_figure9", "structure to text", "score", "few-shot", 49.4),
        ("flan2021_figure10", "32 examples", "SuperGLUE", "FLAN", 79.1),
        ("flan2022_table3", "540B", "MMLU CoT", "89", 66.7),
        ("flan2022_table3", "62B", "normalized average", "9", 29.0),
        ("flan2022_figure4", "8B", "normalized average", "682", 21.3),
        ("flan2022_figure5", "62B", "held-out CoT", "non-CoT only", 20.6),
        ("flan2022_figure6", "PaLM, step by step", "BBH", "62B", 0.8),
        ("flan2022_table4", "Flan-PaLM", "MMLU", "CoT, self-consistency", 75.2),
        ("flan_collection_table1", "", "BBH CoT, few-shot", "minus CoT", 12.0),
        ("flan_collection_table2", "", "CoT", "minus CoT", 29.1),
        ("flan_collection_figure3", "", "MMLU, few-shot", "90", 44.0),
        ("flan_collection_figure4", "XXL", "Held-In", "50", 81.1),
        ("opt_iml_table4", "", "word analogy, 0-shot", "none", 8.8),
        ("opt_iml_table4", "", "dialogue, 5-shot", "128", 17.5),
        ("opt_iml_table5", "", "NIV2, partly supervised, 5-shot", "2/1/35/25/30/5/2", 62.4),
        ("opt_iml_table16", "", "average, 5-shot", "1024", 56.9),
        ("opt_iml_table17", "", "average, 0-shot", "64", 44.3),
        ("opt_iml_table18", "", "average, 5-shot", "5", 59.4),
        ("opt_iml_table19", "", "reasoning, 0-shot", "1", 31.3),
    ],
)
def test_points_are_the_papers(key, line, metric, arm, value):
    assert series(key, metric, line).values[arm] == value


@pytest.mark.parametrize(
    ("key", "line", "metric", "total"),
    [
        ("flan2021_figure6", "", "average", 409.6),
        ("flan2021_figure7", "untuned", "average", 247.2),
        ("flan2021_figure8", "", "average", 186.1),
        ("flan_collection_table2", "", "MMLU", 373.3),
        ("flan_collection_figure4", "Small", "MMLU", 223.4),
        ("opt_iml_table4", "", "MMLU, 0-shot", 364.1),
        ("opt_iml_table5", "", "FLAN, held out, 0-shot", 859.6),
        ("opt_iml_table18", "", "average, 0-shot", 226.9),
    ],
)
def test_columns_add_up(key, line, metric, total):
    assert sum(series(key, metric, line).values.values()) == pytest.approx(total)


def test_the_average_of_figure_6_is_that_of_its_clusters():
    parts = [series("flan2021_figure6", name).values for name in ("commonsense", "NLI", "closed-book QA")]
    for arm, average in series("flan2021_figure6", "average").values.items():
        # Printed, beside what was read off within 0.4.
        assert sum(part[arm] for part in parts) / 3 == pytest.approx(average, abs=0.45)


def test_each_says_where_it_is_from_and_whether_it_was_printed():
    for one in (one for found in LOADED.values() for one in found):
        assert one.kind in published.KINDS
        assert bool(one.within) == (one.kind == published.READ_OFF)
        assert re.fullmatch(r"(Table|Figure) \d+", one.place)
        assert (one.source, one.arxiv) in {
            (source["title"], str(source["arxiv"])) for source in tables.sources().values()
        }
        assert one.values
    # "Below 60" is no value.
    assert "0" not in series("flan_collection_figure3", "Held-In, few-shot").values


# ---- means and intervals ----


def test_the_interval_is_students():
    # t(0.975) with 1, 2, 4 and 30 degrees of freedom, from tables.
    for count, quantile in ((2, 12.706), (3, 4.303), (5, 2.776), (31, 2.042)):
        values = [float(v) for v in range(count)]
        deviation = math.sqrt(sum((v - (count - 1) / 2) ** 2 for v in values) / (count - 1))
        assert scores.half_width(values) == pytest.approx(quantile * deviation / math.sqrt(count), rel=1e-3)
    assert scores.half_width([3.0]) is None


def test_differences_are_of_the_same_seeds():
    first = scores.Point("", "a", "m", {0: 10.0, 1: 50.0, 2: 90.0})
    second = scores.Point("", "b", "m", {1: 52.0, 2: 94.0, 3: 0.0})
    mean, half = scores.difference(first, second)
    assert mean == 3
    assert half == pytest.approx(12.706, rel=1e-3)  # deviation sqrt(2), n 2
    assert scores.difference(first, scores.Point("", "c", "m", {7: 1.0})) is None


@pytest.fixture
def swept(tmp_path):
    """Cells with values of their own; one evaluation of six is missing."""
    sweep = ablation_grids.sweep()
    for at, (cell, asked) in enumerate(sweep.asked.items()):
        if (cell.arm, cell.seed) != ("all", 2):
            ablation_grids.write(tmp_path / asked["heldout"], 40 + at)
    return sweep, tmp_path


def an_ablation(swept_grid, **given):
    made = {
        "name": "x",
        "title": "A <title>",
        "scale": "tiny",
        "scales": {"tiny": swept_grid},
        "x": "arms",
        "y": "percent",
    }
    return grid.Ablation(**{**made, **given})


def test_the_table_has_our_points_beside_the_papers(swept):
    sweep, root = swept
    points = scores.points(sweep, root)
    paper = published.Series(
        "k", "T", "1", "Table 1", "percent", "", "", "nli", "printed", 0, {"all": 99.5, "none": 1.0}
    )
    rows = list(csv.DictReader(io.StringIO(table.to_csv(table.rows(points, [paper])))))
    found = {(row["arm"], row["metric"]): row for row in rows}
    assert float(found["one", "average"]["mean"]) == pytest.approx((40 + 42 + 44) / 3)
    assert found["one", "average"]["seeds"] == "3"
    assert {found["one", metric]["chance"] for metric in ("average", "nli")} == {"50.0"}
    assert found["all", "nli"]["by seed"] == "0:41.0 1:43.0"
    assert float(found["all", "nli"]["low"]) == pytest.approx(42 - 12.706, rel=1e-3)
    assert (found["all", "nli"]["paper"], found["all", "nli"]["of the paper"]) == ("99.5", "Table 1, printed")
    assert (found["none", "nli"]["mean"], found["none", "nli"]["paper"]) == ("", "1.0")
    assert found["one", "nli"]["paper"] == ""
    assert table.to_markdown(table.rows(points, [paper])).count("\n") == 2 + len(rows)
    assert table.differences(points)[0][2:4] == ("all against one", 1.0)


def test_arms_are_in_order():
    assert table.in_order(["9", "1836", "682", "9"]) == ["9", "682", "1836"]
    assert table.in_order(["8B", "none", "62B", "none"]) == ["8B", "none", "62B"]


def test_lines_are_averaged_where_each_holds_another_cluster_out(tmp_path):
    made = ablation_grids.grid(
        evaluations={"heldout": {}}, metrics={"average": ("heldout",)}, lines={"nli": {}, "qa": {}}, mean_of_lines=True
    )
    asked = {cell: {"heldout": f"{cell.line}{cell.arm}"} for cell in made.cells()}
    sweep = ablation_grids.steps_lib.Sweep(made, {}, asked, {})
    for key, value in {"nlione": 10, "qaone": 30, "nliall": 7}.items():
        ablation_grids.write(tmp_path / key, value)
    (point,) = scores.points(sweep, tmp_path)  # of the other arm one cluster is missing
    assert (point.line, point.arm, dict(point.values)) == ("", "one", {0: 20.0})


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_figure_and_report_are_whole(kind, swept):
    pytest.importorskip("matplotlib")
    sweep, root = swept
    ablation = an_ablation(sweep.grid, kind=kind, published=("flan2021_figure6",), drawn=("average", "nli"))
    points = scores.points(sweep, root)
    rows = table.rows(points, published.of(ablation.published))
    paths = figure.draw(ablation, rows, root)
    assert [path.name for path in paths] == list(figure.FILES)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    drawing = paths[1].read_text()
    for text in ("percent", "arms", "paper: Figure 6 (printed)", "ours, scale tiny"):
        assert f"<!-- {text} -->" in drawing
    again = root / "again"
    again.mkdir()
    assert figure.draw(ablation, rows, again)[1].read_text() == drawing
    text = page.render(ablation, sweep, root, rows, points, paths[0])
    assert "A &lt;title&gt;" in text
    assert "<script" not in text
    assert "default-src 'none'; style-src 'sha256-" in text
    assert "1 of 6 are missing" in text
    assert "2109.01652v5" in text
    assert not re.search(r"""(?:src|href)=["']?https?:""", text)


def test_a_metric_of_an_unknown_score_is_named(swept):
    sweep, root = swept
    made = ablation_grids.steps_lib.dataclasses.replace(sweep.grid, metrics={"x": ("heldout/nly",)})
    with pytest.raises(Exception, match="unknown score 'nly'; did you mean 'nli'"):
        scores.points(ablation_grids.steps_lib.dataclasses.replace(sweep, grid=made), root)
