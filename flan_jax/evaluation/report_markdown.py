"""A report as Markdown."""

import re
from collections.abc import Iterator

from flan_jax.evaluation import report_view, results

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def render(view: report_view.View) -> str:
    """The whole report."""
    return "\n".join(_lines(view)) + "\n"


def _lines(view: report_view.View) -> Iterator[str]:
    yield from (f"# {_plain(view.title)}", "")
    yield from (f"- {_plain(what)}: {_plain(text)}" for what, text in view.facts)
    if view.notes:
        yield from ("", "## Notes", "", *(f"- {_plain(note)}" for note in view.notes))
    for shown in (view.averages, *(group.table for group in view.groups), *view.published):
        yield from ("", f"## {_plain(shown.title)}", "", *table(shown))
    if view.compared:
        yield from ("", "## What changed", "")
        rows = [(c.subtask, *map(str, (c.shared, c.better, c.worse, c.other_prompts))) for c in view.changes]
        head = ("", "examples of both", "better in B", "worse in B", "with other prompts")
        yield from table(report_view.Table("", head, tuple(rows)))
        for changes in view.changes:
            for before, after in changes.shown:
                yield from ("", f"### {_plain(changes.subtask)}, example {_plain(str(after.line['index']))}", "")
                yield from _fenced("prompt", report_view.shortened(before.line["prompt"]))
                yield from _fenced("target", report_view.shortened(before.line["target"]))
                yield from _fenced(f"A, score {results.points(before):.2f}", report_view.answer(before))
                yield from _fenced(f"B, score {results.points(after):.2f}", report_view.answer(after))
    yield from ("", "## Predictions", "")
    for subtask, shown in view.samples.items():
        for one in shown:
            yield from ("", f"### {_plain(subtask)}, example {_plain(str(one.line['index']))}", "")
            yield from _fenced("prompt", report_view.shortened(one.line["prompt"]))
            yield from _fenced("target", report_view.shortened(one.line["target"]))
            yield from _fenced(f"output, score {results.points(one):.2f}", report_view.answer(one))


def table(of: report_view.Table) -> Iterator[str]:
    """The lines of a table."""
    yield _row([_plain(cell) for cell in of.head])
    yield _row(["---" if at < of.words else "---:" for at in range(len(of.head))])
    yield from (_row([_plain(cell) for cell in row]) for row in of.rows)
    if of.note:
        yield from ("", _plain(of.note))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """A text in one line, that means nothing to Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _fenced(label: str, text: str) -> Iterator[str]:
    ticks = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    yield from (f"{label}:", "", fence, text, fence, "")
