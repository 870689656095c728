"""Time of a training step of T5.1.1-small beside transformers and beside a plain matrix product, in one run.

    python benchmarks/step_time.py [--steps 13] [--packed] [--json OUT]

Batch 8, inputs 512, targets 114, float32, dropout 0.1, Adafactor, two threads. The three take turns, because the machine
drifts. The step is about 0.85 TFLOP (counted below), so the matrix product's rate tells how long it would take with nothing
but matrix products. Needs the extra `parity` (torch, transformers).
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, SOURCE, TARGET = 8, 512, 114


def flops(config: Any, batch: int = BATCH, source: int = SOURCE, target: int = TARGET) -> float:
    """Multiply-adds of matrix products in one update, times two; backward counts double. No recomputation."""
    d, inner, ffn = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    attention = 4 * d * inner
    encoder = source * (attention + 3 * d * ffn) + 2 * source * source * inner
    cross = target * 2 * d * inner + source * 2 * d * inner + 2 * target * source * inner
    decoder = target * (attention + 3 * d * ffn) + 2 * target * target * inner + cross
    forward = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder + target * d * config.vocab_size
    return 3 * 2.0 * batch * forward


def ours(config_overrides: dict[str, Any], batch: dict[str, np.ndarray]) -> tuple[Callable[[], float], float, Any]:
    """Returns (a step that blocks and returns its loss, seconds to compile, the config)."""
    import jax

    from flan_jax.models import presets
    from flan_jax.training import configs, optim, state, step

    config = presets.t5_config("small", dropout_rate=0.1, **config_overrides)
    optimizer = optim.Adafactor(logical_factor_rules=optim.standard_logical_factor_rules())
    model = configs.EncoderDecoderModel(
        configs.Transformer(config),
        None,
        None,
        optimizer,
        z_loss=1e-4,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )
    from flan_jax.models import api

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

    def one() -> float:
        holder[0], sums = compiled(holder[0], device_batch, key)
        jax.block_until_ready(holder[0])
        return float(sums["loss"])

    return one, seconds, config


def peer(config: Any, batch: dict[str, np.ndarray], threads: int) -> Callable[[], float]:
    """The same step in transformers: T5ForConditionalGeneration, torch.optim.Adafactor."""
    import torch
    import transformers

    torch.set_num_threads(threads)
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

    return one


def matrix_product(size: int = 2048) -> tuple[Callable[[], float], float]:
    """The machine's ceiling: a float32 matrix product of torch on the same threads, and its FLOPs."""
    import torch

    a, b = torch.rand(size, size), torch.rand(size, size)

    def one() -> float:
        return float((a @ b)[0, 0])

    return one, 2.0 * size**3


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
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--packed", action="store_true", help="ours on packed rows, the peer on padded ones")
    parser.add_argument("--no_peer", action="store_true", help="only ours and the matrix product")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    batch = peer_batch = full_batch(32000)
    our_tokens = peer_tokens = float(BATCH * (SOURCE + TARGET))
    if given.packed:
        batch, peer_batch, our_tokens, peer_tokens = packed_and_padded(32000)
    step, compile_seconds, config = ours({}, batch)
    work = flops(config)
    product, product_flops = matrix_product()
    runs: dict[str, Callable[[], float]] = {"ours": step, "matrix product": product}
    if not given.no_peer:
        runs["transformers"] = peer(config, peer_batch, given.threads)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.steps + 1):
        for name, run in runs.items():
            repeats = 20 if name == "matrix product" else 1
            began = time.perf_counter()
            for _ in range(repeats):
                run()
            times[name].append((time.perf_counter() - began) / repeats)
    times = {name: values[1:] for name, values in times.items()}  # the first of each warms up
    rates = [product_flops / seconds / 1e9 for seconds in times["matrix product"]]
    report = {
        "flops_a_step": work,
        "compile_seconds": compile_seconds,
        "peak_memory_gib_of_all_in_this_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **{name: {"min": min(v), "median": statistics.median(v)} for name, v in times.items()},
        "ceiling_gflops": {"max": max(rates), "median": statistics.median(rates)},
        "ours_of_ceiling": work / statistics.median(times["ours"]) / 1e9 / statistics.median(rates),
    }
    if "transformers" in times:
        report["ours_over_transformers"] = {
            "median": statistics.median(times["ours"]) / statistics.median(times["transformers"]),
            "min": min(times["ours"]) / min(times["transformers"]),
        }
        report["real_tokens_per_second"] = {
            "ours": our_tokens / statistics.median(times["ours"]),
            "transformers": peer_tokens / statistics.median(times["transformers"]),
            "ratio": our_tokens / peer_tokens / report["ours_over_transformers"]["median"],
        }
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
