"""Time of a training step of T5.1.1-small beside transformers and beside a plain matrix product, in one run.

    python benchmarks/step_time.py [--steps 13] [--packed] [--json OUT]

Batch 8, inputs 512, targets 114, float32, dropout 0.1, Adafactor, two threads. The three take turns, each in a process of
its own, because the machine drifts. The step is about 0.85 TFLOP (counted below), so that the matrix product's rate tells
how long it would take with nothing but matrix products. Needs the extra `parity` (torch, transformers).
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, SOURCE, TARGET, VOCABULARY = 8, 512, 114, 32000


def flops(config: Any, batch: int = BATCH, source: int = SOURCE, target: int = TARGET) -> float:
    """Multiply-adds of matrix products in one update, times two; backward counts double. No recomputation."""
    d, inner, ffn = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    attention = 4 * d * inner
    encoder = source * (attention + 3 * d * ffn) + 2 * source * source * inner
    cross = target * 2 * d * inner + source * 2 * d * inner + 2 * target * source * inner
    decoder = target * (attention + 3 * d * ffn) + 2 * target * target * inner + cross
    forward = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder + target * d * config.vocab_size
    return 3 * 2.0 * batch * forward


def ours(batch: dict[str, np.ndarray]) -> tuple[Callable[[], object], dict[str, float]]:
    """Returns (a step, which blocks) and what its compilation took."""
    import jax

    from flan_jax import host_memory
    from flan_jax.data import vocabulary
    from flan_jax.models import api, presets
    from flan_jax.training import configs, optim, state, step

    host_memory.keep_freed()
    config = presets.t5_config("small", dropout_rate=0.1)
    optimizer = optim.Adafactor(logical_factor_rules=optim.standard_logical_factor_rules())
    model = configs.EncoderDecoderModel(
        configs.Transformer(config),
        vocabulary.sentencepiece_vocabulary(),
        vocabulary.sentencepiece_vocabulary(),
        optimizer,
        z_loss=1e-4,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )
    optimizer = optimizer.with_axes(api.logical_axes(config))
    key = jax.random.key(0)
    current = jax.jit(lambda k: state.create(config, optimizer, k))(key)
    schedule = optim.create_learning_rate_scheduler("constant", 1e-3)
    device_batch = jax.device_put(batch)
    began = time.perf_counter()
    update = jax.jit(step.make_train_step(model, optimizer, schedule), donate_argnums=0)
    compiled = update.lower(current, device_batch, key).compile()
    seconds = time.perf_counter() - began
    holder = [current]

    def one() -> None:
        holder[0], sums = compiled(holder[0], device_batch, key)
        jax.block_until_ready((holder[0], sums))

    return one, {"compile_seconds": seconds, "flops_a_step": flops(config)}


def peer(batch: dict[str, np.ndarray]) -> tuple[Callable[[], object], dict[str, float]]:
    """The same step in transformers: T5ForConditionalGeneration, torch.optim.Adafactor."""
    import torch
    import transformers

    from flan_jax.models import presets

    config = presets.t5_config("small")
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=0.1,
            use_cache=False,
            decoder_start_token_id=0,
        )
    )
    model.train()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    inputs = torch.from_numpy(batch["encoder_input_tokens"].astype(np.int64))
    labels = torch.from_numpy(batch["decoder_target_tokens"].astype(np.int64))
    mask = (inputs != 0).long()
    labels = labels.masked_fill(labels == 0, -100)

    def one() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return one, {}


def matrix_product(size: int = 2048, repeats: int = 20) -> tuple[Callable[[], object], dict[str, float]]:
    """The machine's ceiling: float32 matrix products of torch, and their FLOPs."""
    import torch

    a, b = torch.rand(size, size), torch.rand(size, size)

    def one() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    return one, {"flops_a_turn": 2.0 * size**3 * repeats}


class Worker:
    """One of the three in a process of its own, so that memory, allocator and threads are its own."""

    def __init__(self, make: Callable[..., tuple[Callable[[], object], dict[str, float]]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        self.about: dict[str, float] = self._ours.recv()

    def turn(self) -> float:
        """Seconds of one step, which nothing else runs beside."""
        self._ours.send("step")
        return self._ours.recv()

    def finish(self) -> float:
        """Ends the process; its peak memory in GiB."""
        self._ours.send("finish")
        return self._ours.recv()


def _serve(pipe: Any, make: Callable[..., tuple[Callable[[], object], dict[str, float]]], arguments: Any) -> None:
    one, about = make(*arguments)
    pipe.send(about)
    while pipe.recv() == "step":
        began = time.perf_counter()
        one()
        pipe.send(time.perf_counter() - began)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def full_batch(vocab_size: int) -> dict[str, np.ndarray]:
    """A batch without padding."""
    rng = np.random.default_rng(0)
    source = rng.integers(2, vocab_size, (BATCH, SOURCE)).astype(np.int32)
    target = rng.integers(2, vocab_size, (BATCH, TARGET)).astype(np.int32)
    shifted = np.concatenate([np.zeros((BATCH, 1), np.int32), target[:, :-1]], axis=1)
    return {
        "encoder_input_tokens": source,
        "decoder_target_tokens": target,
        "decoder_input_tokens": shifted,
        "decoder_loss_weights": np.ones_like(target),
    }


def packed_and_padded(vocab_size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float, float]:
    """A batch of packed rows, one of padded rows, and the real tokens that each holds on average.

    The lengths are those of benchmarks/packing.py: 2,000 examples as a FLAN mixture has them.
    """
    import packing as lengths  # the benchmark beside this one

    from flan_jax.data import features, packing, seqio_tasks

    sizes = lengths.draw(2000)
    rng = np.random.default_rng(1)
    examples = [
        seqio_tasks.Tokenised(*(rng.integers(2, vocab_size, size).tolist() for size in pair)) for pair in sizes.tolist()
    ]
    rows = list(packing.pack(sizes.tolist(), [SOURCE, TARGET]))

    def batch(chosen: list[list[int]], packed: bool) -> dict[str, np.ndarray]:
        laid_out = [
            features.encoder_decoder_row([examples[i] for i in row], {"inputs": SOURCE, "targets": TARGET}, packed)
            for row in chosen
        ]
        return dict(features.stack(laid_out))

    tokens = float(sizes.sum())
    return (
        batch(rows[:BATCH], True),
        batch([[i] for i in range(BATCH)], False),
        tokens / len(rows) * BATCH,
        tokens / len(sizes) * BATCH,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=13, help="timed steps of each, taken in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="of torch; JAX takes every core")
    parser.add_argument("--packed", action="store_true", help="ours on packed rows, the peer on padded ones")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu", OMP_NUM_THREADS=str(given.threads))
    our_batch = peer_batch = full_batch(VOCABULARY)
    our_tokens = peer_tokens = float(BATCH * (SOURCE + TARGET))
    if given.packed:
        our_batch, peer_batch, our_tokens, peer_tokens = packed_and_padded(VOCABULARY)
    workers = {
        "ours": Worker(ours, our_batch),
        "transformers": Worker(peer, peer_batch),
        "matrix product": Worker(matrix_product),
    }
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(given.steps + 1):
        for name, worker in workers.items():
            times[name].append(worker.turn())
    times = {name: values[1:] for name, values in times.items()}  # the first of each warms up
    median = {name: statistics.median(values) for name, values in times.items()}
    least = {name: min(values) for name, values in times.items()}
    work, product = workers["ours"].about["flops_a_step"], workers["matrix product"].about["flops_a_turn"]
    # Of what the matrix product managed in the same turn, because the machine drifts.
    ceilings = [product / seconds for seconds in times["matrix product"]]
    shares = [work / mine / ceiling for mine, ceiling in zip(times["ours"], ceilings, strict=True)]
    report = {
        "flops_a_step": work,
        "compile_seconds": workers["ours"].about["compile_seconds"],
        "seconds": {name: {"min": least[name], "median": median[name], "all": times[name]} for name in workers},
        "peak_memory_gib": {name: worker.finish() for name, worker in workers.items()},
        "ceiling_gflops": {"max": max(ceilings) / 1e9, "median": statistics.median(ceilings) / 1e9},
        "ours_of_ceiling": statistics.median(shares),
        "ours_over_transformers": {
            "median": median["ours"] / median["transformers"],
            "min": least["ours"] / least["transformers"],
        },
        "real_tokens_per_second": {
            "ours": our_tokens / median["ours"],
            "transformers": peer_tokens / median["transformers"],
            "ratio": our_tokens / peer_tokens * median["transformers"] / median["ours"],
        },
    }
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
