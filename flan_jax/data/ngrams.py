"""Which n-grams of words many documents hold, on disk, so that memory does not grow with them.

A document is cut into words (runs of letters and digits of any script, in lower case); every n words in a row are one 64-bit
number. `Builder` sorts numbers in runs of what memory allows and writes each run; `Builder.finish` merges the runs into one sorted
file without repeats, a part of the range of all numbers at a time. As numbers are hashes, parts are equally full. `Index` finds
numbers in that file through a memory map.

8 bytes an n-gram: 10 million documents of 120 words make 10.8 GB where no 13-gram repeats, and as much again while runs are merged.
That one given n-gram is found without being there has a probability of their number over 2^64, below 1e-10.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence

import numpy as np

from flan_jax import errors

DEFAULT_N = 13  # words, as GPT-3 (appendix C) and after it FLAN and OPT-IML
_WORD = re.compile(r"[^\W_]+")
_FILE, _ABOUT = "ngrams.u64", "index.json"
_VERSION = 1
_NUMBER = np.dtype("<u8")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word of an n-gram loses bits
_COPIES = 4  # of a buffer that sorting and merging hold at once, at most
_KNOWN_WORDS = 1 << 20
_LOOKED_UP = 4096  # n-grams, each of which may bring in some pages of the file


class _Words(dict):
    """Word -> 64 bits, the same in every process; forgets all where there are too many."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = found = int.from_bytes(digest, "little")
        return found


class Hasher:
    """Turns texts into n-grams."""

    def __init__(self, n: int = DEFAULT_N) -> None:
        if n < 1:
            raise errors.FlanError(f"n-grams of {n} words; expected 1 or more")
        self.n = n
        self._words = _Words()

    def words(self, text: str) -> list[str]:
        """The words of a text."""
        return _WORD.findall(text.lower())

    def hashes(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of texts, none of which reaches from one text into the next.

        Returns:
          uint64 [G], all n-grams in order; int64 [texts], how many each text has: its words less n - 1, and none if it has
          fewer words than n.
        """
        known = self._words
        words = [[known[word] for word in self.words(text)] for text in texts]
        sizes = np.asarray([len(of) for of in words], np.int64)
        flat = np.fromiter((word for of in words for word in of), np.uint64, int(sizes.sum()))
        counts = np.maximum(sizes - self.n + 1, 0)
        if not counts.any():
            return np.zeros(0, np.uint64), counts
        rolled = np.zeros(len(flat) - self.n + 1, np.uint64)
        for place in range(self.n):
            rolled = rolled * _MULTIPLIER + flat[place : place + len(rolled)]
        ends = np.cumsum(sizes)
        firsts = np.repeat(ends - sizes, counts)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return _mixed(rolled[firsts + within]), counts


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spreads numbers over the whole range (splitmix64's last steps), one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Builder:
    """Writes an index. What it has written is no index before `finish`."""

    def __init__(self, directory: str | os.PathLike[str], n: int = DEFAULT_N, memory: int = 512 << 20) -> None:
        """Args:
        directory: where the index will be; must hold nothing but an earlier index, which is replaced.
        n: words of an n-gram.
        memory: bytes that sorting and merging may take.

        Raises:
          FlanError: the directory holds something else.
        """
        self.directory, self.hasher = pathlib.Path(directory), Hasher(n)
        if self.directory.exists() and not {path.name for path in self.directory.iterdir()} <= {_FILE, _ABOUT}:
            raise errors.FlanError(f"{self.directory} holds something else than an index; expected a new directory")
        self._room = max(1024, memory // _NUMBER.itemsize // _COPIES)
        self._runs_in = self.directory.with_name(f"{self.directory.name}.runs")
        shutil.rmtree(self._runs_in, ignore_errors=True)  # of a build that was killed
        self._runs_in.mkdir(parents=True)
        self._buffer = np.empty(self._room, _NUMBER)
        self._held, self._documents = 0, 0
        self._runs: list[pathlib.Path] = []

    def add(self, texts: Iterable[str]) -> None:
        """Adds documents."""
        chunk: list[str] = []
        for text in texts:
            chunk.append(text)
            if len(chunk) == 256:
                self._add(chunk)
                chunk = []
        self._add(chunk)

    def _add(self, texts: list[str]) -> None:
        values, _ = self.hasher.hashes(texts)
        self._documents += len(texts)
        start = 0
        while start < len(values):
            part = values[start : start + self._room - self._held]
            self._buffer[self._held : self._held + len(part)] = part
            self._held += len(part)
            start += len(part)
            if self._held == self._room:
                self._write_run()

    def _write_run(self) -> None:
        held = self._buffer[: self._held]
        held.sort()
        path = self._runs_in / f"{len(self._runs):06d}"
        held[_firsts(held)].tofile(path)
        self._runs.append(path)
        self._held = 0

    def finish(self) -> "Index":
        """Merges the runs; returns the index."""
        if self._held:
            self._write_run()
        self._buffer = np.empty(0, _NUMBER)
        sizes = [path.stat().st_size // _NUMBER.itemsize for path in self._runs]
        partial = self._runs_in / _FILE
        # A part is as full as the others but for chance: half of the room leaves place for what repeats in all runs.
        parts = -(-2 * sum(sizes) // self._room)
        count, starts = 0, [0] * len(sizes)
        with open(partial, "wb") as file:
            for number in range(1, parts + 1):
                limit = np.uint64(number * (1 << 64) // parts - 1)
                ends = [int(np.searchsorted(_mapped(path), limit, side="right")) for path in self._runs]
                merged = np.concatenate([_read(*given) for given in zip(self._runs, starts, ends, strict=True)])
                merged.sort()
                merged = merged[_firsts(merged)]
                merged.tofile(file)
                count, starts = count + len(merged), ends
        about = {"version": _VERSION, "n": self.hasher.n, "documents": self._documents, "ngrams": count}
        (self._runs_in / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        for run in self._runs:
            run.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._runs_in.rename(self.directory)
        return Index(self.directory)


def _firsts(ordered: np.ndarray) -> np.ndarray:
    """Where a sorted array has a number for the first time."""
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _read(path: pathlib.Path, start: int, end: int) -> np.ndarray:
    return np.fromfile(path, _NUMBER, end - start, offset=start * _NUMBER.itemsize)


def _mapped(path: pathlib.Path) -> np.ndarray:
    if not path.stat().st_size:  # nothing cannot be mapped
        return np.zeros(0, _NUMBER)
    return np.memmap(path, _NUMBER, mode="r")


class Index:
    """The n-grams of many documents, opened for looking up.

    Attributes:
      n: words of an n-gram.
      documents: how many were added.
      ngrams: how many different n-grams they have.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Args:
        directory: what `Builder.finish` has made.

        Raises:
          FlanError: it is no whole index.
        """
        folder = pathlib.Path(directory)
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            self.n, self.documents, self.ngrams = about["n"], about["documents"], about["ngrams"]
            size = (folder / _FILE).stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.FlanError(
                f"{folder} holds no index of n-grams ({error}); expected {_ABOUT} and {_FILE}"
            ) from None
        if about.get("version") != _VERSION or size != self.ngrams * _NUMBER.itemsize:
            raise errors.FlanError(
                f"{folder}: {size} bytes of version {about.get('version')}; expected {self.ngrams * _NUMBER.itemsize} "
                f"of version {_VERSION}: build it again"
            )
        self.hasher = Hasher(self.n)
        self._file = folder / _FILE

    def contains(self, values: np.ndarray) -> np.ndarray:
        """Which of some n-grams are there: bool [G] of uint64 [G]."""
        found = np.zeros(len(values), bool)
        if not self.ngrams:
            return found
        order = np.argsort(values)  # so that the file is read from front to back
        for start in range(0, len(values), _LOOKED_UP):
            some = order[start : start + _LOOKED_UP]
            held = _mapped(self._file)  # anew, so that what was looked at earlier is memory no more
            places = np.searchsorted(held, values[some])
            found[some] = held[np.minimum(places, self.ngrams - 1)] == values[some]
        return found
