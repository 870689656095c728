"""Packing beside seqio's packer, in one run: how full the rows are, and examples per second.

    python benchmarks/packing.py [--examples 2000] [--json OUT]

Lengths are drawn as a FLAN mixture has them: log-normal, the medians about 115 and 15, cut at 512 and 114.
"""

import argparse
import json
import os
import time

import numpy as np

LENGTHS = {"inputs": 512, "targets": 114}


def draw(count: int, seed: int = 0) -> np.ndarray:
    """Lengths [count, 2] of inputs and targets."""
    rng = np.random.default_rng(seed)
    inputs = np.clip(rng.lognormal(np.log(118), 0.9, count), 4, LENGTHS["inputs"])
    targets = np.clip(rng.lognormal(np.log(15), 0.85, count), 2, LENGTHS["targets"])
    return np.stack([inputs, targets], axis=1).astype(np.int64)


def ours(sizes: np.ndarray, tokens: dict[str, list[list[int]]]) -> tuple[int, float]:
    """Rows and seconds: packing, and laying the rows out as a model reads them."""
    from flan_jax.data import features, packing, seqio_tasks

    examples = [seqio_tasks.Tokenised(i, t) for i, t in zip(tokens["inputs"], tokens["targets"], strict=True)]
    began = time.perf_counter()
    rows = 0
    for indices in packing.pack(sizes.tolist(), list(LENGTHS.values())):
        features.encoder_decoder_row([examples[i] for i in indices], LENGTHS, packed=True)
        rows += 1
    return rows, time.perf_counter() - began


def peer(tokens: dict[str, list[list[int]]]) -> tuple[int, float]:
    """The same with seqio's TensorFlow ops."""
    from flan_jax.data import quiet

    seqio, tf = quiet.seqio(), quiet.tensorflow()
    ragged = {name: tf.ragged.constant(ids, dtype=tf.int32) for name, ids in tokens.items()}
    dataset = tf.data.Dataset.from_tensor_slices(ragged)
    packed = seqio.trim_and_pack_dataset(dataset, LENGTHS, use_custom_ops=False)
    began = time.perf_counter()
    rows = sum(1 for _ in packed.as_numpy_iterator())
    return rows, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sizes = draw(given.examples)
    rng = np.random.default_rng(1)
    tokens = {
        name: [rng.integers(2, 8000, size).tolist() for size in sizes[:, column]]
        for column, name in enumerate(("inputs", "targets"))
    }
    report: dict[str, object] = {
        "examples": given.examples,
        "medians": np.median(sizes, axis=0).tolist(),
        "rows_if_only_inputs_counted": int(-(-sizes[:, 0].sum() // LENGTHS["inputs"])),
    }
    for name, run in (("ours", lambda: ours(sizes, tokens)), ("seqio", lambda: peer(tokens))):
        runs = [run() for _ in range(3)]
        rows, seconds = runs[0][0], sorted(seconds for _, seconds in runs)[1]
        report[name] = {
            "rows": rows,
            "inputs_filled": float(sizes[:, 0].sum() / (rows * LENGTHS["inputs"])),
            "real_tokens": float(sizes.sum() / (rows * sum(LENGTHS.values()))),
            "examples_per_second": given.examples / seconds,
        }
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
