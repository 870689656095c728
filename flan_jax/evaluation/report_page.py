"""A report as one HTML page that needs no network: no script at all, plots as inline SVG, every text escaped.

The page's Content-Security-Policy allows nothing but its own style. Bars differ in pattern, not only in colour, and every number
that is drawn is also in a table.
"""

import base64
import hashlib
import html
from collections.abc import Iterator, Sequence

from flan_jax.evaluation import report_view, results

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --ink: #1b1d21; --quiet: #535862; --line: #c9ced6;
  --link: #0b51b0; --first: #1f4f96; --second: #b35c00; --rail: #e6e9ee; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1d2026; --ink: #e8eaee; --quiet: #a9b0bc;
  --line: #40464f; --link: #8ab8ff; --first: #6aa8f7; --second: #f0a050; --rail: #30353d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 0 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 1.2rem 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-top: 1px solid var(--line); padding-top: .8rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
dl { margin: .5rem 0; } dt { font-weight: 600; } dd { margin: 0 0 .4rem; color: var(--quiet); }
.scroll { overflow-x: auto; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; overflow-wrap: normal; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th.word, td.word { text-align: left; }
td:not(.word) { white-space: nowrap; } td.word { min-width: 8rem; }
thead th { vertical-align: bottom; } tr.own { font-weight: 700; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
details th:first-child, details td:first-child { background: var(--card); } h3 { scroll-margin-top: .5rem; }
ul { margin: .4rem 0; padding-left: 1.2rem; } .example details { margin: .2rem 0 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; }
svg { display: block; width: 100%; max-width: 34rem; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .quiet { fill: var(--quiet); }
.rail { fill: var(--rail); } .first { fill: var(--first); } .second { fill: var(--page); }
.stripe { stroke: var(--second); stroke-width: 2.5; } .mark { stroke: var(--ink); stroke-width: 2; fill: none; }
.chance { stroke-dasharray: 3 2; }
.note { color: var(--quiet); font-size: .92rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; background: var(--card); }
summary { padding: .4rem .7rem; cursor: pointer; font-weight: 600; }
details > div { padding: 0 .7rem .6rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .1rem 0 .6rem; padding: .4rem .6rem; background: var(--page);
  border: 1px solid var(--line); border-radius: .3rem; font-size: .88rem; }
.label { font-size: .85rem; font-weight: 600; color: var(--quiet); margin: 0; }
.example { border-top: 1px solid var(--line); padding-top: .5rem; margin-top: .5rem; }
@media (max-width: 40rem) { th:first-child, td:first-child { max-width: 45vw; overflow-wrap: break-word; } }
@media print { details { break-inside: avoid; } }
"""
# Of a drawing, in units of which a phone's screen has about as many pixels.
_WIDTH, _LABEL, _BAR, _GAP = 360, 15, 9, 9
_SHORT = 12  # rows of a table that stand open below their plot
_LONG = 600  # characters of a prompt from which on it is opened where it is wanted
_STRIPED = "fill='url(#stripes)' stroke='currentColor' stroke-width='0.7'"


def render(view: report_view.View) -> str:
    """The whole page."""
    return document(view.title, "\n".join(_body(view)))


def document(title: str, body: str, *, images: bool = False) -> str:
    """A page around a body of which every text is escaped; with `images`, those that stand in it as data."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    policy += "; img-src data:" if images else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(view: report_view.View) -> Iterator[str]:
    yield f"<h1>{_name(view.title)}</h1>"
    parts = [("averages", "Averages"), ("scores", "Scores by subtask")]
    parts += [("published", "Beside published scores")] if view.published else []
    parts += [("changes", "What changed")] if view.compared else []
    parts.append(("predictions", "Predictions"))
    yield "<nav>" + "".join(f'<a href="#{key}">{name}</a>' for key, name in parts) + "</nav><main>"
    facts = "".join(f"<dt>{escaped(what)}</dt><dd>{escaped(text)}</dd>" for what, text in view.facts)
    yield f"<details><summary>How this was made</summary><div><dl>{facts}</dl></div></details>"
    if view.notes:
        yield '<h2 id="notes">Notes</h2><ul>' + "".join(f"<li>{escaped(note)}</li>" for note in view.notes) + "</ul>"
    if view.compared:
        yield f"<p>{escaped(view.facts[0][0])}: {escaped(view.facts[0][1])}<br>"
        yield (
            "".join(f"{escaped(what)}: {escaped(text)}" for what, text in view.facts if what == report_view.OTHER)
            + "</p>"
        )
    yield '<h2 id="averages">Averages</h2>' + tabled(view.averages)
    yield '<h2 id="scores">Scores by subtask</h2>'
    if len(view.groups) > 1:
        links = (f'<a href="#group-{at}">{_name(group.name)}</a>' for at, group in enumerate(view.groups))
        yield f'<nav aria-label="groups">{"".join(links)}</nav>'
    for at, group in enumerate(view.groups):
        yield f'<h3 id="group-{at}">{_name(group.name)}</h3>' + _plot(group, view.compared) + _numbers(group)
        if any(score.std is not None for score, _ in group.scores):
            yield '<p class="note">Std, drawn as a line with ends, is over templates.</p>'
    if view.published:
        yield '<h2 id="published">Beside published scores</h2>'
        for table in view.published:
            yield f"<h3>{escaped(table.title)}</h3>" + tabled(table, own=True)
    if view.compared:
        yield '<h2 id="changes">What changed</h2>' + "".join(_changes(view.changes))
    yield '<h2 id="predictions">Predictions' + (f" of {report_view.OURS}</h2>" if view.compared else "</h2>")
    yield from _samples(view)
    yield "</main>"


def _samples(view: report_view.View) -> Iterator[str]:
    """Predictions by subtask, and where a file holds many of those, by file."""
    by_file: dict[str, list[str]] = {}
    for subtask in view.samples:
        by_file.setdefault(subtask.partition(": ")[0], []).append(subtask)
    for name, subtasks in by_file.items():
        inside = "".join(
            f"<details><summary>{escaped(subtask)}</summary><div>{''.join(map(_example, view.samples[subtask]))}</div></details>"
            for subtask in subtasks
        )
        many = len(subtasks) > _SHORT
        yield (
            f"<details><summary>{escaped(name)}: {len(subtasks)} subtasks</summary><div>{inside}</div></details>"
            if many
            else inside
        )


def _numbers(group: report_view.Group) -> str:
    """The table below a plot; a long one is opened where it is wanted."""
    if len(group.table.rows) <= _SHORT:
        return tabled(group.table)
    about = f"The same as a table: {len(group.table.rows)} subtasks"
    return f"<details><summary>{about}</summary><div>{tabled(group.table)}</div></details>"


def tabled(table: report_view.Table, own: bool = False) -> str:
    """A table that scrolls by itself; with `own`, rows of ours are marked."""

    def cells(row: Sequence[str], tag: str) -> str:
        shown = (_name(cell) if at == 0 else escaped(cell) for at, cell in enumerate(row))
        return "".join(f"<{tag}{_word(at, table)}>{cell}</{tag}>" for at, cell in enumerate(shown))

    ours = (report_view.ALONE, report_view.OURS, report_view.OTHER)
    rows = "".join(f"<tr{' class=own' if own and row[0] in ours else ''}>{cells(row, 'td')}</tr>" for row in table.rows)
    note = f'<p class="note">{escaped(table.note)}</p>' if table.note else ""
    head = f"<thead><tr>{cells(table.head, 'th')}</tr></thead>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(table.title)}">'
        f"<table>{head}<tbody>{rows}</tbody></table></div>{note}"
    )


def _word(at: int, table: report_view.Table) -> str:
    return ' class="word"' if at < table.words else ""


def _plot(group: report_view.Group, compared: bool) -> str:
    """Bars from 0 to 100 with the deviation over templates and the chance level; a value below 0 has no bar."""
    each = _LABEL + (_BAR + 2) * (2 if compared else 1) + _GAP
    top = 18
    height = top + each * len(group.scores) + 4
    parts = [
        "<defs><pattern id='stripes' width='5' height='5' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
        "<rect width='5' height='5' class='second'/><line x1='0' y1='0' x2='0' y2='5' class='stripe'/>"
        "</pattern></defs>",
        _legend(compared, any(score.chance is not None for score, _ in group.scores)),
    ]
    for at, (score, other) in enumerate(group.scores):
        y = top + at * each
        values = " / ".join(report_view.number(one.value) for one in (score, other) if one is not None)
        parts.append(f'<text x="0" y="{y + 11}">{escaped(_clipped(score.name))}</text>')
        parts.append(f'<text x="{_WIDTH}" y="{y + 11}" text-anchor="end">{values}</text>')
        for number, one in enumerate((score, other) if compared else (score,)):
            if one is not None:
                parts.append(_bar(one, y + _LABEL + number * (_BAR + 2), second=number == 1))
    about = f"Scores of {group.name}; the table below holds the same numbers"
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escaped(about)}">{"".join(parts)}</svg>'


def _bar(score: results.Score, y: int, second: bool) -> str:
    def x(value: float) -> str:
        return f"{min(max(value, 0.0), 100.0) * _WIDTH / 100:.1f}"

    kind = f"class='value' {_STRIPED}" if second else "class='value first'"
    parts = [f"<rect class='rail' x='0' y='{y}' width='{_WIDTH}' height='{_BAR}'/>"]
    parts.append(f"<rect {kind} x='0' y='{y}' width='{x(score.value)}' height='{_BAR}'/>")
    if score.std:
        middle = y + _BAR / 2
        low, high = x(score.value - score.std), x(score.value + score.std)
        parts.append(
            f"<path class='mark' d='M{low} {middle}H{high}M{low} {y + 1}V{y + _BAR - 1}M{high} {y + 1}V{y + _BAR - 1}'/>"
        )
    if score.chance is not None:
        parts.append(f"<path class='mark chance' d='M{x(score.chance)} {y}V{y + _BAR + 4}'/>")
    return f"<g class='bar'>{''.join(parts)}</g>"


def _legend(compared: bool, chance: bool) -> str:
    texts = []
    at = 0
    if compared:
        texts.append("<rect class='first' x='0' y='2' width='14' height='9'/><text x='18' y='11'>A</text>")
        texts.append(f"<rect {_STRIPED} x='36' y='2' width='14' height='9'/>")
        texts.append("<text x='54' y='11'>B</text>")
        at = 74
    if chance:
        texts.append(f"<path class='mark chance' d='M{at + 3} 0V13'/><text x='{at + 9}' y='11'>chance</text>")
    return "".join(texts) + f"<text class='quiet' x='{_WIDTH}' y='11' text-anchor='end'>0 to 100</text>"


def _changes(found: Sequence[results.Changes]) -> Iterator[str]:
    if not found:
        yield '<p class="note">The two share no example.</p>'
    for changes in found:
        other = f"; {changes.other_prompts:,} with other prompts" if changes.other_prompts else ""
        told = f"{changes.better:,} better and {changes.worse:,} worse in B, of {changes.shared:,}{other}"
        examples = "".join(_example(before, after) for before, after in changes.shown)
        yield f"<details><summary>{escaped(changes.subtask)}: {told}</summary><div>{examples}</div></details>"


def _example(one: results.Prediction, after: results.Prediction | None = None) -> str:
    """What was said first, then what it should have been, then the prompt, which may be long."""
    said = [("output" if after is None else report_view.OURS, one)]
    said += [] if after is None else [(report_view.OTHER, after)]
    texts = [(f"{which}, score {results.points(of):.2f}", report_view.answer(of)) for which, of in said]
    texts.append(("target", report_view.shortened(one.line["target"])))
    parts = "".join(f'<p class="label">{escaped(label)}</p><pre>{escaped(text)}</pre>' for label, text in texts)
    prompt = f"<pre>{escaped(report_view.shortened(one.line['prompt']))}</pre>"
    length = len(str(one.line["prompt"]))
    if length > _LONG:
        prompt = f"<details><summary>prompt of {length:,} characters</summary><div>{prompt}</div></details>"
    else:
        prompt = f'<p class="label">prompt</p>{prompt}'
    return f'<div class="example"><p class="label">example {escaped(one.line["index"])}</p>{parts}{prompt}</div>'


def _clipped(name: str) -> str:
    """A label that leaves room for the numbers beside it."""
    return name if len(name) <= 40 else f"{name[:39]}\u2026"


def _name(text: str) -> str:
    """A name of several words, which a narrow screen breaks between them."""
    return escaped(text).replace("_", "_<wbr>").replace("/", "/<wbr>")


def escaped(text: object) -> str:
    """Text as HTML."""
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return html.escape(str(text)).encode("utf-8", "backslashreplace").decode("utf-8")
