"""Finds the answer in an output: where "the answer is" stands, behind it; else the first of a direct answer, the last of a
reasoned one.

    letter("So the answer is (B).", cot=True)                "(B)"
    letter("(A) because (B) is not", cot=False)              "(A)"
    letter("The answer is option D, not B.", cot=True)       "(D)"
    word("Yes, so No it is", ("Yes", "No"), cot=True)        "No"
    integer("5+6=11。答えは11です。", markers)                 "11"
    clause("So the answer is ] } ].", cot=True)              "] } ]"
"""

import functools
import re
import unicodedata
from collections.abc import Sequence

ANSWER_IS = re.compile(
    r"(?:\banswer|\bchoice|\bconclusion)\b[\"*]*(?:\s+(?:is|was|must be|should be|would be)\b\s*:?|\s*:)", re.I
)
# How MGSM's rationales name their result, by language; several forms are in use within one language.
RESULT_IS = {
    "bn": r"(?:উত্তর|উত্তরটি)\s*(?:হল|হলো|হচ্ছে|হবে|:)",
    "de": r"antwort\s*(?:ist|lautet|:)|lautet die antwort",
    "en": r"answer\s*(?:is|:)",
    "es": r"respuesta\s*(?:es|:)",
    "fr": r"réponse\s*(?:est|:)",
    "ja": r"答え(?:は|:|：)",
    "ru": r"ответ\s*(?:[—–:-]|равен|будет)",
    "sw": r"jibu\s*(?:ni|:)",
    "te": r"సమాధానం\s*(?::|=)?",
    "th": r"คำตอบ(?:คือ|\s*:)",
    "zh": r"答案\s*(?:是|为|為|:|：)",
}
# Marks between groups of three digits; German and Spanish write 1.250, French and Russian 1 250.
_GROUPED = {"de": ".", "es": ".", "fr": " \u00a0\u202f", "ru": " \u00a0\u202f"}
_LETTER = re.compile(r"\(([A-Z])\)")
_BARE_LETTER = re.compile(r"\W*\(?([A-Z])(?=\)|\W*$|[.,:;]|\s-)")
# "option D", "the correct choice is C".
_NAMED_LETTER = re.compile(r"\b(?i:option|choice|letter)(?:\s+is)?\s*:?\s+([A-Z])\b")
_END = ".。।!?\u3002 \t\n"


def after_marker(text: str, marker: re.Pattern[str] = ANSWER_IS) -> str | None:
    """What follows the last marker on its line, or None."""
    found = list(marker.finditer(text))
    if not found:
        return None
    lines = text[found[-1].end() :].strip().splitlines()
    return lines[0] if lines else ""


def letter(text: str, *, cot: bool) -> str | None:
    """An option letter as "(B)"."""
    behind = after_marker(text)
    part = behind or text  # where the marker names something else than a letter, letters before it are no answer
    found = _LETTER.findall(part)
    bare = None if found else _BARE_LETTER.match(part)
    if bare:
        return f"({bare[1]})"
    found = found or _NAMED_LETTER.findall(part)
    return f"({found[0] if behind or not cot else found[-1]})" if found else None


def word(text: str, words: Sequence[str], *, cot: bool) -> str | None:
    """One of a few words, in the spelling of `words`."""
    spelling = {word.lower(): word for word in words}
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, spelling))})\b", re.I)
    behind = after_marker(text)
    found = pattern.findall(behind) if behind else []
    if found:
        return spelling[found[0].lower()]
    found = pattern.findall(text)
    return spelling[found[-1 if cot else 0].lower()] if found else None


def clause(text: str, *, cot: bool) -> str | None:
    """A free answer: behind the marker, else the first line of a direct answer or the last line of a reasoned one."""
    behind = after_marker(text)
    if behind is None:
        lines = [line for line in text.strip().splitlines() if line.strip()]
        behind = (lines[-1] if cot else lines[0]) if lines else ""
    return behind.strip().rstrip(".").strip() or None


def integer(text: str, language: str) -> str | None:
    """The result of a sum in words: a number in ASCII digits without group marks, decimals kept unless they are zeros."""
    text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    behind = after_marker(text, _patterns(language)[0])
    if behind is not None:
        # "The answer is 3 * 4 = 12": the result stands behind the last "=".
        tail = behind.rpartition("=")[2]
        found = _numbers(tail, language) or _numbers(behind, language)
        if found:
            return found[0]
    found = _numbers(text, language)
    return found[-1] if found else None


def _numbers(text: str, language: str) -> list[str]:
    found = []
    for match in _patterns(language)[1].finditer(text):
        whole = re.sub(r"\D", "", match[2]).lstrip("0") or "0"
        decimals = (match[3] or "").rstrip("0")
        sign = "-" if match[1] and (whole != "0" or decimals) else ""
        found.append(f"{sign}{whole}{'.' + decimals if decimals else ''}")
    return found


@functools.cache
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """How a language names its result, and how it writes numbers."""
    marks = ",\uff0c" + _GROUPED.get(language, "")
    grouped = rf"\d{{1,3}}(?:[{re.escape(marks)}]\d{{3}})+(?![\d])"
    number = rf"((?<![\d)\]])[-\u2212])?({grouped}|\d+)(?:\.(\d+))?"
    return re.compile(RESULT_IS[language], re.IGNORECASE), re.compile(number)


def plain(text: str) -> str:
    """Single spaces, no full stop at the end: what free answers are compared in."""
    return " ".join(text.split()).rstrip(_END)
