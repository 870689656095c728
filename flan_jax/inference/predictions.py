"""Predictions of many prompts as JSON lines, written as they come, resumed after a kill.

    OUT                 a line a prompt, in the order of the prompts; there once all are answered
    OUT.partial         the same lines in the order in which they were answered
    OUT.settings.json   what they were made with: an interrupted file is continued with the same only

A line: {"index": 0, "inputs": "...", "prediction": "...", "score": -1.2, "finished": true}, and whatever the record brought
along; with n above 1 also "predictions", "scores" and "lengths" in tokens. Memory holds a window of prompts, and two numbers for
each done. Of several processes all answer the same prompts; process 0 has the files.
"""

import array
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from flan_jax import errors, hosts, progress
from flan_jax.inference import decode, generate, settings

logger = logging.getLogger(__name__)

_OWN = ("index", "inputs", "prediction", "score", "finished", "predictions", "scores", "lengths", "cut")


@dataclasses.dataclass(frozen=True)
class Record:
    """One prompt with what its line is to carry besides.

    Attributes:
      inputs: the text.
      prompt: its tokens, where they are not simply those of the text (exemplars are joined as tokens).
      extra: JSON, such as the accepted answers.
    """

    inputs: str
    prompt: generate.Prompt | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Model(Protocol):
    """What can be asked: a `generate.Generator`, or a `choices.Chooser`."""

    inputs_length: int
    batch_size: int

    def prompts(self, texts: Sequence[str]) -> list[generate.Prompt]: ...

    def answers(
        self, prompts: Iterable[generate.Prompt], how: settings.Settings
    ) -> Iterator[tuple[int, generate.Answer]]: ...


def write(
    generator: Model,
    records: Iterable[Record],
    out: str,
    how: settings.Settings,
    *,
    about: Mapping[str, Any],
    total: int | None = None,
    overwrite: bool = False,
    select: Callable[[Sequence[float]], int] | None = None,
    what: str = "infer",
) -> int:
    """Answers every record and writes OUT.

    Args:
      generator: the model.
      records: the prompts, read as they are needed; again from the first after a kill.
      out: path of the file.
      how: the settings.
      about: JSON that says what else the predictions depend on (the checkpoint); compared when a file is continued.
      total: how many records there are, if known.
      overwrite: start again, whatever is there.
      select: scores of several answers -> number of the one that is the prediction; the first where None.
      what: is going on, in a word or two, for the progress bar.

    Returns:
      How many lines OUT has.

    Raises:
      FlanError: what is there was made with other settings or of other prompts, or a record uses a name of ours.
    """
    made_with = {"decoding": dataclasses.asdict(how), "inputs_length": generator.inputs_length, **about}
    finished = hosts.from_first(lambda: _claim(out, made_with, overwrite=overwrite))
    if finished is not None:
        lines, mark = finished
        first = next(iter(records), None)
        if lines and first is not None and _mark(first.inputs) != mark:
            raise _changed(0, out)
        logger.info("%s has %d predictions: nothing to do", out, lines)
        return lines
    done = _Done(_partial(out))
    if done.numbers:
        logger.info("%s: %d predictions are there", _partial(out), len(done.numbers))
    with progress.Progress(what, total, start=len(done.numbers), unit="examples") as bar:
        _answer(generator, records, how, done, bar, select or _first)
    done.put_in_order(out)
    return len(done.numbers)


def remove(out: str) -> None:
    """Takes away OUT and what belongs to it."""
    for path in (out, _partial(out), _notes(out)):
        if os.path.exists(path):
            os.remove(path)


def _claim(out: str, made_with: Mapping[str, Any], *, overwrite: bool = False) -> tuple[int, int | None] | None:
    """Makes OUT's directory and writes OUT.settings.json, or finds that it says the same.

    Args:
      out: path of the file that is to be written or continued.
      made_with: JSON that says what its lines depend on.
      overwrite: take away what is there.

    Returns:
      How many lines OUT has, and `_mark` of its first prompt; None where it is not finished.

    Raises:
      FlanError: what is there was made with something else, or is not ours.
    """
    made_with = json.loads(json.dumps(made_with))  # as it will be read back
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    if overwrite:
        remove(out)
    _check_notes(out, made_with)
    with open(_notes(out) + ".tmp", "w", encoding="utf-8") as file:
        json.dump(made_with, file, indent=1)
    os.replace(_notes(out) + ".tmp", _notes(out))
    return _lines(out) if os.path.exists(out) else None


def _answer(
    generator: Model,
    records: Iterable[Record],
    how: settings.Settings,
    done: "_Done",
    bar: Any,
    select: Callable[[Sequence[float]], int],
) -> None:
    """Answers what is not done yet, a window at a time, and writes a line as soon as its batch is done."""
    left = done.without(enumerate(records))
    while window := list(itertools.islice(left, generate.WINDOW * generator.batch_size)):
        marks = _mark("\n".join(record.inputs for _, record in window))
        hosts.agree(f"checksum of prompts {window[0][0]} to {window[-1][0]}", marks)
        texts = [record.inputs for _, record in window if record.prompt is None]
        encoded = iter(generator.prompts(texts))
        seeds = decode.row_seeds(how.seed, np.asarray([index for index, _ in window]))
        prompts = [
            dataclasses.replace(record.prompt or next(encoded), seed=int(seed))
            for (_, record), seed in zip(window, seeds, strict=True)
        ]
        for number, answer in generator.answers(prompts, how):
            index, record = window[number]
            done.add(index, _line(index, record, prompts[number], answer, select(answer.scores)))
            bar.advance(1)


def _first(scores: Sequence[float]) -> int:
    return 0


def _line(index: int, record: Record, prompt: generate.Prompt, answer: generate.Answer, chosen: int) -> dict[str, Any]:
    clash = [name for name in record.extra if name in _OWN]
    if clash:
        raise errors.FlanError(
            f"record {index} has a field {clash[0]!r}, which the prediction is written under; rename it"
        )
    line = {"index": index, **record.extra, "inputs": record.inputs, "prediction": answer.texts[chosen]}
    line |= {"score": answer.scores[chosen], "finished": answer.finished[chosen]}
    if len(answer.texts) > 1:
        line |= {"predictions": list(answer.texts), "scores": list(answer.scores)}
        line["lengths"] = [len(tokens) for tokens in answer.tokens]
    return {**line, "cut": prompt.cut} if prompt.cut else line


class _Done:
    """The lines of OUT.partial: where each begins, and for those of an earlier run whose prompt it was.

    Process 0 has the file and the places; the others know which prompts are done.
    """

    def __init__(self, path: str) -> None:
        """Opens the file; a last line that a kill cut off is taken away."""
        self._path, self._end = path, 0
        self._places = array.array("q")
        there = hosts.from_first(self._open)
        self._earlier: dict[int, int] = dict(there)
        self.numbers = array.array("q", [index for index, _ in there])

    def _open(self) -> list[tuple[int, int]]:
        """(number of the prompt, checksum of its text) of each line that is there."""
        found = []
        if os.path.exists(self._path):
            with open(self._path, "rb") as file:
                for raw in file:
                    line = _parsed(raw)
                    if line is None:
                        break
                    found.append((line["index"], _mark(line["inputs"])))
                    self._places.append(self._end)
                    self._end += len(raw)
            os.truncate(self._path, self._end)
        return found

    def add(self, index: int, line: Mapping[str, Any]) -> None:
        """Appends a line; once this returns a kill of the process does not lose it."""
        self.numbers.append(index)
        if not hosts.first():
            return
        raw = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with open(self._path, "ab") as file:
            file.write(raw)
        self._places.append(self._end)
        self._end += len(raw)

    def without(self, records: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        """The records that are not there yet.

        Raises:
          FlanError: a prompt is not the one that was answered under its number.
        """
        for index, record in records:
            mark = self._earlier.pop(index, None)
            if mark is None:
                yield index, record
            elif mark != _mark(record.inputs):
                raise _changed(index, self._path)
        if self._earlier:
            raise errors.FlanError(
                f"{self._path} has answers to {len(self._earlier)} prompts that are no longer there; "
                "give another output file, or --overwrite"
            )

    def put_in_order(self, out: str) -> None:
        """Writes OUT, line by line, and removes OUT.partial."""
        if not hosts.first():
            return
        order = np.argsort(np.asarray(self.numbers))
        # Nobody finds half of it.
        with open(out + ".tmp", "wb") as target:
            if len(order):
                with open(self._path, "rb") as source:
                    for number in order:
                        source.seek(self._places[number])
                        target.write(source.readline())
        os.replace(out + ".tmp", out)
        if os.path.exists(self._path):
            os.remove(self._path)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """A whole line of ours, or None."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    whole = isinstance(line, dict) and isinstance(line.get("index"), int) and isinstance(line.get("inputs"), str)
    return line if whole else None


def _check_notes(out: str, made_with: Mapping[str, Any]) -> None:
    """Refuses to continue a file that was begun with something else."""
    if not os.path.exists(_notes(out)):
        if os.path.exists(out):
            raise errors.FlanError(f"{out} exists and was not written by flan; give another file, or --overwrite")
        return
    try:
        with open(_notes(out), encoding="utf-8") as file:
            before = json.load(file)
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise errors.FlanError(f"{_notes(out)} is damaged; give another output file, or --overwrite")
    earlier, now = _flat(before), _flat(made_with)
    differ = [name for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]
    if differ:
        name = differ[0]
        raise errors.FlanError(
            f"{out} was begun with {name} = {earlier.get(name)!r}, now it is {now.get(name)!r}; "
            "give another output file, or --overwrite"
        )


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {
        path: leaf
        for key, child in tree.items()
        for path, leaf in _flat(child, f"{name}.{key}" if name else key).items()
    }


def _partial(out: str) -> str:
    return out + ".partial"


def _notes(out: str) -> str:
    return out + ".settings.json"


def _lines(path: str) -> tuple[int, int | None]:
    """How many there are, and the mark of the first one's prompt."""
    with open(path, "rb") as file:
        first = _parsed(file.readline())
        return sum(1 for _ in file) + (first is not None), None if first is None else _mark(first["inputs"])


def _mark(text: str) -> int:
    return zlib.crc32(text.encode())


def _changed(index: int, path: str) -> errors.FlanError:
    return errors.FlanError(
        f"prompt {index} is not the one that {path} has an answer to: the prompts have changed; "
        "give another output file, or --overwrite"
    )


def read_prompts(path: str) -> Iterator[Record]:
    """Reads prompts one by one.

    Args:
      path: a file of JSON lines (its name ends in .jsonl or .json), each an object whose `inputs` is the prompt and whose
        other fields are carried along, or a string; or of plain text, a prompt a line, blank ones left out. `-` is stdin,
        plain text.

    Raises:
      FlanError: there is no such file, or a line is not as described; it names the line.
    """
    if path != "-" and not os.path.isfile(path):
        folder = os.path.dirname(os.path.abspath(path))
        names = os.listdir(folder) if os.path.isdir(folder) else []
        raise errors.FlanError(f"no prompt file {path}{errors.nearest(os.path.basename(path), names)}")
    try:
        with contextlib.nullcontext(sys.stdin) if path == "-" else open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    text = line.rstrip("\n")
                    yield _record(text, f"{path}:{number}") if path.endswith((".jsonl", ".json")) else Record(text)
    except UnicodeDecodeError as error:
        raise errors.FlanError(f"{'stdin' if path == '-' else path} is not UTF-8: {error}") from None


def _record(line: str, where: str) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise errors.FlanError(f"{where} is not JSON: {error}") from None
    if isinstance(found, str):
        return Record(found)
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), str):
        has = f"an object with {', '.join(found) or 'nothing'}" if isinstance(found, dict) else type(found).__name__
        raise errors.FlanError(f"{where} is {has}; expected a string, or an object with a string 'inputs'")
    extra = {name: value for name, value in found.items() if name != "inputs"}
    clash = [name for name in extra if name in _OWN]
    if clash:
        raise errors.FlanError(f"{where} has a field {clash[0]!r}, which predictions are written under; rename it")
    return Record(found["inputs"], extra=extra)
