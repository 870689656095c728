"""Rows of a checkout of Natural Instructions v2 (https://arxiv.org/abs/2204.07705), by index.

    git clone --depth 1 https://github.com/allenai/natural-instructions DATA_DIR/natural-instructions

Its 1,600 files hold a task each, 3.3 GB of JSON. None is kept in memory: one pass over a file checks it and notes where
each instance lies, and an instance is read from there when it is drawn. The notes of all files are kept in the cache
directory (50 MB for all of them), so that a file is passed over again only after it has changed.
"""

import functools
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import errors
from flan_jax.data import cache_dir, sources, spec

logger = logging.getLogger(__name__)

FOLDER = "natural-instructions"  # in the data directory; a link will do
HELD_OUT = 100  # "100 instances from each task", the first ones, are the test instances (splits/README.md)
MOST_OPTIONS, LONGEST_OPTION = 10, 60  # outputs and characters up to which a task counts as a choice
_ROWS_AN_OPTION = 4  # instances an output that it takes to call it an option
_FORMAT = 1  # of the kept notes: raise it when a file would now be noted differently
_PARALLEL = 200_000_000  # bytes from which files are noted by several processes
_SPACE = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder()

Note = dict[str, Any]  # size, time, and either a problem, or rows, head and offsets


class Malformed(sources.NotPrepared):
    """A task's file that cannot be used: what is wrong, with the file and the field."""


class Checkout:
    """A checkout: its files, and the notes of those looked at."""

    def __init__(self, directory: str) -> None:
        """Args:
        directory: holds `tasks/*.json`.

        Raises:
          NotPrepared: it is not there.
        """
        self.directory = directory
        if not _is_directory(_join(directory, "tasks")):
            raise sources.NotPrepared(
                f"no checkout of Natural Instructions in {directory}; "
                f"git clone --depth 1 https://github.com/allenai/natural-instructions {directory}"
            )
        self._notes: dict[str, Note] | None = None

    @functools.cached_property
    def names(self) -> list[str]:
        """The tasks that there are files for, sorted."""
        found = _list(_join(self.directory, "tasks"))
        return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))

    def split(self, name: str, track: str = "default") -> list[str]:
        """The tasks of `train`, `test` or `excluded` of a track, as the checkout's `splits/` has them.

        Raises:
          NotPrepared: there is no such file.
        """
        path = _join(self.directory, "splits", track, f"{name}_tasks.txt")
        try:
            return _read(path).decode("utf-8").split()
        except OSError as error:
            raise sources.NotPrepared(f"{path}: cannot be read ({error.strerror or error})") from None

    def task(self, name: str) -> "TaskFile":
        """Opens a task.

        Raises:
          NotPrepared: there is no file of that name.
          Malformed: the file cannot be used.
        """
        self.note([name])
        assert self._notes is not None
        note = self._notes.get(name)
        if note is None:
            raise sources.NotPrepared(f"Natural Instructions task {name!r} has no file in {self.directory}")
        if "problem" in note:
            raise Malformed(note["problem"])
        return TaskFile(self._path(name), note)

    def note(self, names: Iterable[str]) -> None:
        """Makes the notes of these tasks, where they are not there yet, and keeps them for the next time."""
        if self._notes is None:
            self._notes = _load(self._kept())
        new = [name for name in dict.fromkeys(names) if name not in self._checked and self._is_stale(name)]
        self._checked.update(names)
        if not new:
            return
        started = time.monotonic()
        for name, note in zip(new, _note_all([self._path(name) for name in new]), strict=True):
            self._notes[name] = note
        logger.info("noted %d files of %s in %.0f s", len(new), self.directory, time.monotonic() - started)
        _save(self._kept(), self._notes)

    @functools.cached_property
    def _checked(self) -> set[str]:
        return set()

    def _is_stale(self, name: str) -> bool:
        assert self._notes is not None
        try:
            size, when = _stat(self._path(name))
        except OSError:
            self._notes.pop(name, None)
            return False
        note = self._notes.get(name)
        return note is None or (note["size"], note["time"]) != (size, when)

    def _path(self, name: str) -> str:
        return _join(self.directory, "tasks", f"{name}.json")

    def _kept(self) -> str:
        place = self.directory if "://" in self.directory else os.path.realpath(self.directory)
        return os.path.join(cache_dir.root(), f"niv2-{hashlib.sha256(place.encode()).hexdigest()[:12]}.npz")


class TaskFile:
    """One task's file: what it says of the task, and its instances by index."""

    def __init__(self, path: str, note: Note) -> None:
        self.directory = path  # what errors name, as of a prepared dataset
        self.head: Mapping[str, Any] = note["head"]
        self._offsets: np.ndarray = note["offsets"]

    def __len__(self) -> int:
        return len(self._offsets)

    def rows(self, splits: Mapping[str, str], name: str) -> "_Instances":
        """Returns the instances of a split.

        Where the task is tested on (`test` is among its splits), its first 100 instances, but a quarter at most, are for
        that, and no training reads them.

        Args:
          splits: the dataset's.
          name: `train` or `test`.
        """
        held = min(HELD_OUT, len(self) // 4) if "test" in splits else 0
        start, stop = (0, held) if name == "test" else (held, len(self))
        return _Instances(self, start, stop)

    def exemplars(self) -> Sequence[spec.Row]:
        """The positive examples that were written for the task, as rows; none where the file has none."""
        return [self._row(example) for example in self.head["positive_examples"]]

    def read(self, index: int) -> spec.Row:
        """Reads one instance: `input`, `output` (all accepted ones), and the task's `definition` and `options`."""
        start, stop = self._offsets[index].tolist()
        try:
            with _open(self.directory) as file:
                file.seek(start)
                instance = json.loads(file.read(stop - start))
            return self._row(instance)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise errors.FlanError(f"{self.directory}: changed while it was in use ({problem})") from None

    def _row(self, instance: Mapping[str, Any]) -> spec.Row:
        output = instance["output"]
        return {
            "input": instance["input"],
            "output": [output] if isinstance(output, str) else output,
            "definition": self.head["definition"],
            "options": self.head["options"],
        }


class _Instances(Sequence[spec.Row]):
    """A run of a file's instances."""

    def __init__(self, file: TaskFile, start: int, stop: int) -> None:
        self._file, self._start, self._stop = file, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index):  # rows are read one by one; slices are not needed by the loader
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._file.read(self._start + index)

    def __iter__(self) -> Iterator[spec.Row]:
        return (self[index] for index in range(len(self)))


@functools.lru_cache(maxsize=8)
def checkout(data_dir: str) -> Checkout:
    """The checkout of a data directory. Raises NotPrepared where there is none."""
    return Checkout(_join(data_dir, FOLDER))


def note(path: str) -> Note:
    """Passes over a file once: checks it, and notes what it says of the task and where each instance lies.

    Returns:
      Its size and time; `head` and `offsets`, uint32 [rows, 2]: first byte of each instance and the byte after it. A file
      that cannot be used has a `problem` instead of these.
    """
    size, when = _stat(path)
    found: Note = {"size": size, "time": when}
    try:
        head, offsets = _pass_over(_read(path))
    except _Problem as problem:
        return found | {"problem": f"{path}: {problem}"}
    except UnicodeDecodeError as problem:
        return found | {"problem": f"{path}: not valid UTF-8 at byte {problem.start}"}
    except (OSError, ValueError, RecursionError) as problem:
        return found | {"problem": f"{path}: not valid JSON: {problem}"}
    return found | {"head": head, "offsets": offsets}


class _Problem(Exception):
    """What is wrong with a file."""


def _pass_over(data: bytes) -> tuple[Note, np.ndarray]:
    """Goes through the members of the object that a file is: returns what it says of the task, and its offsets."""
    data.decode("utf-8")
    # Every byte one character, so that places in the text are places in the file; JSON's own characters are ASCII.
    text = data.decode("latin-1")
    values: dict[str, Any] = {}
    offsets, options = np.zeros((0, 2), np.uint32), []
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise _Problem("expected an object with 'Definition', 'Positive Examples' and 'Instances'")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, end = _decoder.raw_decode(text, at)
        at = _skip(text, end)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise _Problem(f"not valid JSON at byte {at}: expected a key and a colon")
        at = _skip(text, at + 1)
        if key == "Instances":
            offsets, options, end = _instances(data, text, at)
        else:
            _, end = _decoder.raw_decode(text, at)
            values[key] = json.loads(data[at:end])
        at = _next(text, end, "}")
    if not len(offsets):
        raise _Problem("'Instances' is missing or empty; expected a list of objects")
    return _head(values) | {"options": options}, offsets


def _instances(data: bytes, text: str, at: int) -> tuple[np.ndarray, list[str], int]:
    """Returns where each instance lies, the options if the task is a choice, and where the list ends."""
    if text[at : at + 1] != "[":
        raise _Problem("'Instances' is no list; expected a list of objects")
    at = _skip(text, at + 1)
    places: list[tuple[int, int]] = []
    outputs: dict[str, tuple[int, int]] = {}  # with an instance that has it
    choice = True
    while text[at : at + 1] != "]":
        instance, end = _decoder.raw_decode(text, at)
        said = _outputs(instance, f"Instances[{len(places)}]")
        places.append((at, end))
        if choice:
            outputs.setdefault(said[0], places[-1])
            choice = len(said) == 1 and len(outputs) <= MOST_OPTIONS and len(said[0]) <= LONGEST_OPTION
        at = _next(text, end, "]")
    choice = choice and len(outputs) > 1 and len(places) >= _ROWS_AN_OPTION * len(outputs)
    read = (json.loads(data[start:stop])["output"] for start, stop in outputs.values()) if choice else ()
    options = sorted({(said if isinstance(said, str) else said[0]).strip() for said in read} - {""})
    return np.asarray(places, np.uint32).reshape(-1, 2), options, at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Goes past a comma, or to the closing bracket."""
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise _Problem(f"not valid JSON at byte {at}: expected ',' or {closing!r}")
    return at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def _outputs(instance: Any, where: str) -> list[str]:
    """The accepted outputs of an instance or example, whose fields are checked."""
    if not isinstance(instance, dict):
        raise _Problem(f"{where} is no object; expected 'input' and 'output'")
    for field in ("input", "output"):
        if field not in instance:
            raise _Problem(f"{where}.{field} is missing; it has {', '.join(map(repr, instance)) or 'no field'}")
    if not isinstance(instance["input"], str):
        raise _Problem(f"{where}.input is {instance['input']!r}; expected a text")
    said = instance["output"]
    said = [said] if isinstance(said, str) else said
    if not isinstance(said, list) or not said or not all(isinstance(text, str) for text in said):
        raise _Problem(f"{where}.output is {said!r}; expected a text or a list of texts")
    return said


def _head(values: Mapping[str, Any]) -> Note:
    def texts(field: str) -> list[str]:
        value = values.get(field, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise _Problem(f"{field!r} is {value!r}; expected a text or a list of texts")
        return value

    examples = values.get("Positive Examples", [])
    if not isinstance(examples, list):
        raise _Problem("'Positive Examples' is no list; expected a list of objects")
    for number, example in enumerate(examples):
        _outputs(example, f"Positive Examples[{number}]")
    definition = " ".join(texts("Definition")).strip()
    if not definition:
        raise _Problem("'Definition' is missing or empty; expected a text or a list of texts")
    return {
        "definition": definition,
        "categories": texts("Categories"),
        "source": texts("Source"),
        "positive_examples": [{"input": e["input"], "output": e["output"]} for e in examples],
    }


def _note_all(paths: Sequence[str]) -> list[Note]:
    workers = min(os.cpu_count() or 1, 16)
    if workers == 1 or sum(_stat(path)[0] for path in paths) < _PARALLEL:
        return list(map(note, paths))
    # Programs of their own: multiprocessing's would start the caller's script again where it has no `__main__` guard.
    shares = [paths[number::workers] for number in range(workers)]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number, share in enumerate(shares):
            command = [
                sys.executable,
                "-m",
                "flan_jax.data.natural_instructions",
                os.path.join(folder, f"{number}.npz"),
            ]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
            assert running[-1].stdin is not None
            running[-1].stdin.write("\n".join(share))
            running[-1].stdin.close()
        failed = [process.wait() for process in running]
        if any(failed):
            raise errors.FlanError(f"noting files of Natural Instructions failed with exit code {max(failed)}")
        found = [list(_load(os.path.join(folder, f"{number}.npz")).values()) for number in range(workers)]
    return [found[number % workers][number // workers] for number in range(len(paths))]


def main() -> int:
    """Notes the files that are named on the standard input, a line each, into the file that the only argument names."""
    paths = sys.stdin.read().splitlines()
    _save(sys.argv[1], {path: note(path) for path in paths})
    return 0


def _save(path: str, notes: Mapping[str, Note]) -> None:
    kept = {name: {key: value for key, value in n.items() if key != "offsets"} for name, n in notes.items()}
    counts = {name: len(n.get("offsets", ())) for name, n in notes.items()}
    content = json.dumps({"format": _FORMAT, "counts": counts, "notes": kept})
    offsets = [n["offsets"] for n in notes.values() if "offsets" in n]
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        half = f"{path}.{os.getpid()}.npz"
        np.savez(
            half,
            index=np.frombuffer(content.encode("utf-8"), np.uint8),
            offsets=np.concatenate([np.zeros((0, 2), np.uint32), *offsets]),
        )
        os.replace(half, path)
    except OSError as problem:
        logger.warning("%s: not kept (%s), so the files are passed over again the next time", path, problem)


def _load(path: str) -> dict[str, Note]:
    """The kept notes; none where there are none, or they are not what this version writes."""
    try:
        with np.load(path) as kept:
            content, offsets = json.loads(kept["index"].tobytes()), kept["offsets"]
    except (OSError, ValueError, KeyError, EOFError):
        return {}
    if content["format"] != _FORMAT:
        return {}
    found: dict[str, Note] = {}
    first = 0
    for name, entry in content["notes"].items():
        count = content["counts"][name]
        found[name] = entry | ({"offsets": offsets[first : first + count]} if "problem" not in entry else {})
        first += count
    return found


def _join(*parts: str) -> str:
    return "/".join((parts[0].rstrip("/"), *parts[1:])) if "://" in parts[0] else os.path.join(*parts)


def _remote(path: str) -> Any:
    from etils import epath

    return epath.Path(path)


def _open(path: str) -> Any:
    return _remote(path).open("rb") if "://" in path else open(path, "rb", buffering=0)


def _read(path: str) -> bytes:
    with _open(path) as file:
        return file.read()


def _stat(path: str) -> tuple[int, int]:
    """Bytes, and when it was last written."""
    if "://" in path:
        found = _remote(path).stat()
        return found.length, int(found.mtime)
    local = os.stat(path)
    return local.st_size, local.st_mtime_ns


def _is_directory(path: str) -> bool:
    return _remote(path).is_dir() if "://" in path else os.path.isdir(path)


def _list(path: str) -> list[str]:
    return [entry.name for entry in _remote(path).iterdir()] if "://" in path else os.listdir(path)


if __name__ == "__main__":
    sys.exit(main())
