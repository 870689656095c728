"""Records for the tests of the browsable catalogue: what a careless page would take for markup."""

from typing import Any

from flan_jax.data import spec

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
