"""Memory and speed of the index of n-grams, on synthetic documents.

    python benchmarks/contamination.py [--documents 200000] [--memory_mb 128] [--json OUT]

Documents of 120 words, drawn as in natural text (rank to the power of -1, 50,000 words), so that nearly no 13-gram repeats: the
worst case for the index. Every tenth of 20,000 documents that are then looked for holds 20 words of one that was indexed.
"""

import argparse
import json
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator

import numpy as np

WORDS, LENGTH, ASKED, SOME = 50_000, 120, 20_000, 100_000


def documents(count: int, seed: int) -> Iterator[str]:
    """Synthetic documents."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, WORDS + 1)
    up_to = np.cumsum(weights / weights.sum())
    names = [f"w{number}" for number in range(WORDS + 1)]
    for start in range(0, count, 1000):
        drawn = np.searchsorted(up_to, rng.random((min(1000, count - start), LENGTH)))
        for row in drawn.tolist():
            yield " ".join([names[word] for word in row])


def peak() -> float:
    """MiB that this process had at most, mapped pages of files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--memory_mb", type=int, default=128)
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    from flan_jax.data import ngrams

    began, base = time.process_time(), peak()
    # What making the documents costs, of some of them.
    some = min(given.documents, SOME)
    making = (sum(len(text) for text in documents(some, 0)) and time.process_time() - began) * given.documents / some
    with tempfile.TemporaryDirectory() as folder:
        builder = ngrams.Builder(pathlib.Path(folder) / "index", memory=given.memory_mb << 20)
        began = time.process_time()
        builder.add(documents(given.documents, 0))
        adding = time.process_time() - began - making
        began, before = time.process_time(), peak()
        index = builder.finish()
        merging, after = time.process_time() - began, peak()
        copied = [
            text.split()[50:70] for text, _ in zip(documents(given.documents, 0), range(ASKED // 10), strict=False)
        ]
        asked = list(documents(ASKED, 1))
        for at, words in enumerate(copied):
            asked[10 * at] += " " + " ".join(words)
        began = time.process_time()
        dirty = 0
        for start in range(0, ASKED, 1024):
            values, counts = index.hasher.hashes(asked[start : start + 1024])
            found = np.repeat(np.arange(len(counts)), counts)[index.contains(values)]
            dirty += len(np.unique(found))
        asking = time.process_time() - began
        size = sum(path.stat().st_size for path in (pathlib.Path(folder) / "index").iterdir())
    report = {
        "documents": given.documents,
        "ngrams": index.ngrams,
        "index_bytes": size,
        "processor_seconds": {"adding": adding, "merging": merging, "asking": asking},
        "documents_per_processor_second": {"building": given.documents / (adding + merging), "asking": ASKED / asking},
        "dirty_found": dirty,
        "dirty_made": len(copied),
        "peak_mib": {"before": base, "adding": before, "merging": after, "asking": peak()},
    }
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
