"""Finds the final answer in a generated chain of thought.

What is looked for follows from the right answer (`kind_of`): a number, an option letter ("Sentence A" is one, too), yes
or no (or that it cannot be told, e-SNLI's third answer), or any text. `extract` looks

  1. after the last "answer is", "answer:" or "####" (GSM8K's mark), up to the end of the line, and takes the first
     answer of that kind; in an equation, the first after its last "="; of kind text, the line; choice, verdict, decision,
     reply and conclusion are as good as answer;
  2. where that gives nothing, at the whole text, and takes the last such answer; of kind text, the last sentence.

Step 2 is the usual reading of GSM8K (the last number is the result); step 1 keeps "The answer is 5, which is 2 more
than 3." from being read as 3. Both give a normal form, so that equality of strings is equality of answers:

    "Each pays 1,250 / 2 = $625.00."                        number   "625"
    "He lost 30 - 45 = -15 points. The answer is -15."      number   "-15"
    "Sex is how living things reproduce. So it is (D)."     letter   "(D)"
    "There is no doubt that it burns. The answer is yes."   yes_no   "yes"
    "He may be her son. It is not possible to tell."        yes_no   "unknown"
    "Plates get full. The answer is: Stress."               text     "stress"
"""

import decimal
import re
from collections.abc import Callable
from typing import Literal

Kind = Literal["number", "letter", "yes_no", "text"]

# Digits with or without thousands commas, decimals, a sign before or after the currency; "5-3" is 5 and 3, not -3.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![\d)])[-\u2212])?[$\u20ac\u00a3]?(?P<sign2>(?<=[$\u20ac\u00a3])[-\u2212])?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
# "(D)", "d)", "sentence D" or a capital by itself before punctuation or the end; "A dog" is no option.
_LETTER = re.compile(
    r"\(([A-Za-z])\)|(?<![\w(])([A-Za-z])\)|(?i:\b(?:sentence|option|choice) )([A-Z])\b"
    r"|(?<![\w'\u2019])([A-Z])(?=[.,:;!?\"]|\s*$)"
)
_NAMED_LETTER = re.compile(r"(?i:(?:sentence|option|choice) )?\(?[A-Z]\)?")
_YES_NO = re.compile(
    r"\b(?:(yes|no)|(?:not possible|impossible) to (?:tell|say|know)|(?:cannot|can't|can not) be told)\b", re.IGNORECASE
)
_UNKNOWN = "unknown"
_CONNECTIVE = re.compile(
    r"\b(?:answer|choice|verdict|decision|reply|conclusion)\b[\"*]*"
    r"(?:\s+(?:is|was|must be|should be|would be|will be|equals|comes to)\b\s*:?|\s*[:=])|####",
    re.IGNORECASE,
)
# What may follow a text answer without being part of it.
_AFTERTHOUGHT = re.compile(r"\W*[.;!?]\s|\W*\s(?:because|since)\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_EDGES = " \t\n.,:;!?\"'`*()[]{}\u2018\u2019\u201c\u201d"


def kind_of(answer: str) -> Kind:
    """Returns what kind of answer a right answer is: `24` number, `(B)` letter, `no` yes_no, anything else text."""
    answer = answer.strip()
    match = _NUMBER.match(answer)
    if match and answer[match.end() :] in ("", "%", "."):
        return "number"
    if _NAMED_LETTER.fullmatch(answer):
        return "letter"
    return "yes_no" if _YES_NO.fullmatch(answer.lower().removeprefix("it is ")) or answer == _UNKNOWN else "text"


def extract(text: str, kind: Kind) -> str | None:
    """Returns the final answer of `text` in normal form, or None where it holds none of that kind."""
    find = _FIND[kind]
    parts = _CONNECTIVE.split(text)
    if len(parts) > 1:
        clause = (parts[-1].strip().splitlines() or [""])[0]
        if kind == "number" and "=" in clause:
            clause = clause.rpartition("=")[2] if _numbers(clause.rpartition("=")[2]) else clause
        found = find(clause)
        if found:
            return found[0]
    if kind == "text":
        sentences = [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence.strip(_EDGES)]
        return _plain(sentences[-1]) if sentences else None
    found = find(text)
    return found[-1] if found else None


def same_answer(right: str, generated: str) -> bool | None:
    """Returns whether a generated text ends in the right answer; None where no answer of its kind was found."""
    kind = kind_of(right)
    found, wanted = extract(generated, kind), normal_form(right)
    if found is None:
        return None
    reasons = kind == "text" and found.startswith(wanted) and _AFTERTHOUGHT.match(found[len(wanted) :])
    return found == wanted or bool(reasons)


def normal_form(answer: str) -> str:
    """Returns a bare right answer in the form in which `extract` returns answers: `$1,250.00` -> `1250`."""
    if answer.strip() == _UNKNOWN:
        return _UNKNOWN
    found = _FIND[kind_of(answer)](answer.strip())
    return found[0] if found else ""


def _numbers(text: str) -> list[str]:
    found = []
    for match in _NUMBER.finditer(text):
        value = decimal.Decimal(match["digits"].replace(",", ""))
        # Not Decimal.normalize: it rounds to 28 digits.
        digits = f"{value:f}"
        digits = (digits.rstrip("0").rstrip(".") if "." in digits else digits).lstrip("0")
        digits = f"0{digits}" if digits.startswith(".") or not digits else digits
        negative = (match["sign"] or match["sign2"]) and value != 0
        found.append(f"-{digits}" if negative else digits)
    return found


def _letters(text: str) -> list[str]:
    return [f"({''.join(filter(None, match.groups())).upper()})" for match in _LETTER.finditer(text)]


def _yes_no(text: str) -> list[str]:
    return [word.lower() or _UNKNOWN for word in _YES_NO.findall(text)]


def _text(text: str) -> list[str]:
    plain = _plain(text)
    return [plain] if plain else []


def _plain(text: str) -> str:
    """Lower case, single spaces, no punctuation at either end."""
    return " ".join(text.lower().split()).strip(_EDGES)


_FIND: dict[Kind, Callable[[str], list[str]]] = {
    "number": _numbers,
    "letter": _letters,
    "yes_no": _yes_no,
    "text": _text,
}
