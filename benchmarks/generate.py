"""Greedy generation beside transformers, in one run: T5.1.1-small and OPT-125M with random weights.

    python benchmarks/generate.py [--turns 5] [--models t5,opt] [--json OUT]

Batch 8, 128 tokens in, 128 new, float32, no end token, two threads. Ours and theirs take turns, each in a process of its own,
because the machine drifts. Needs the extra `parity` (torch, transformers).
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import step_time  # the benchmark beside this one

BATCH, PROMPT, NEW = 8, 128, 128
SIZES = {"t5": "small", "opt": "opt_125m"}
NEVER = 300_000  # a token beyond every vocabulary: nothing ends before its time


def prompts() -> np.ndarray:
    """int32 [8, 128], without padding and without special tokens."""
    return np.random.default_rng(0).integers(4, 32_000, (BATCH, PROMPT)).astype(np.int32)


def config_of(family: str) -> Any:
    from flan_jax.models import presets

    make = presets.t5_config if family == "t5" else presets.decoder_only_config
    return make(SIZES[family], dropout_rate=0.0, dtype="float32")


def ours(family: str) -> tuple[Callable[[], object], dict[str, float]]:
    """Returns (a whole generation, which blocks) and nothing about it."""
    import jax

    from flan_jax import host_memory
    from flan_jax.inference import decode, settings
    from flan_jax.models import api

    host_memory.keep_freed()
    config = config_of(family)
    params = api.init(config, jax.random.key(0))
    side = "encoder" if family == "t5" else "decoder"
    batch = jax.device_put({f"{side}_input_tokens": prompts()})
    how = settings.Settings(max_tokens=NEW)

    def one() -> None:
        found = decode.decode(config, params, batch, how, eos_ids=(NEVER,))
        if found.tokens.shape != (BATCH, 1, NEW):
            raise AssertionError(f"{found.tokens.shape} tokens; expected {(BATCH, 1, NEW)}")
        jax.block_until_ready(found)

    return one, {}


def peer(family: str) -> tuple[Callable[[], object], dict[str, float]]:
    """The same in transformers: `generate` with its cache."""
    import torch
    import transformers

    config = config_of(family)
    torch.manual_seed(0)
    if family == "t5":
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
                decoder_start_token_id=0,
            )
        )
    else:
        model = transformers.OPTForCausalLM(
            transformers.OPTConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.emb_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                ffn_dim=config.mlp_dim,
            )
        )
    model.eval()
    inputs = torch.from_numpy(prompts().astype(np.int64))
    mask = torch.ones_like(inputs)

    def one() -> None:
        with torch.inference_mode():
            found = model.generate(
                input_ids=inputs,
                attention_mask=mask,
                do_sample=False,
                num_beams=1,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
            )
        new = found.shape[1] - (1 if family == "t5" else PROMPT)
        if new != NEW:
            raise AssertionError(f"{new} new tokens; expected {NEW}")

    return one, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="timed generations of each, taken in turn")
    parser.add_argument("--models", default="t5,opt", help="comma-separated: t5 (T5.1.1-small), opt (OPT-125M)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="of torch; JAX takes every core")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu", OMP_NUM_THREADS=str(given.threads))
    report: dict[str, Any] = {}
    for family in given.models.split(","):
        workers = {"ours": step_time.Worker(ours, family), "transformers": step_time.Worker(peer, family)}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(given.turns + 1):
            for name, worker in workers.items():
                times[name].append(worker.turn())
        timed = {name: values[1:] for name, values in times.items()}  # the first of each compiles and warms up
        median = {name: statistics.median(values) for name, values in timed.items()}
        least = {name: min(values) for name, values in timed.items()}
        report[family] = {
            "seconds": {name: {"min": least[name], "median": median[name], "all": timed[name]} for name in workers},
            "first_seconds": {name: values[0] for name, values in times.items()},
            "tokens_per_second": {name: BATCH * NEW / median[name] for name in workers},
            "speed_over_transformers": {
                "median": median["transformers"] / median["ours"],
                "min": least["transformers"] / least["ours"],
            },
            "peak_memory_gib": {name: worker.finish() for name, worker in workers.items()},
        }
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
