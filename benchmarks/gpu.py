"""Training speed on a GPU: Flan-T5-large, Flan-T5-XL and a decoder of 1.3B, in bfloat16, beside transformers on the same GPU.

    python benchmarks/gpu.py [--models flan_t5_large flan_t5_xl opt_1.3b] [--steps 20] [--no_peer] [--json OUT]
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --tiny        # toy models on a CPU: whether it runs

Each in a process of its own, one after the other, so that each has the whole memory. Ours trains on packed rows of a
mixture's lengths; real tokens count. transformers has no packing for T5: its rows are full, without any padding, which is the
best that it can do, and torch.compile is on. Both keep parameters in float32 and compute in bfloat16, with the same optimizer
(Adafactor for T5, Adam for the decoder). Model FLOPs are those of `models/flops.py` over all positions, for both; MFU divides
by the GPU's dense bfloat16 peak. Needs `flan_jax[cuda]`, and the extra `parity` for the peer.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULT = "result: "  # begins the line of a worker that holds its figures
WARM_UP = 3  # steps that are not counted


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes:
    family: `t5` or `decoder`.
    preset: of `models/presets.py`.
    rows: of a batch.
    inputs: tokens of a row.
    targets: likewise; a decoder's rows are the sum of both.
    microbatches: pieces of a batch, for either side.
    overrides: fields of the configuration.
    """

    family: str
    preset: str
    rows: int
    inputs: int
    targets: int
    microbatches: int
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def lengths(self) -> dict[str, int]:
        return {"inputs": self.inputs, "targets": self.targets}

    @property
    def positions(self) -> int:
        return self.rows * (self.inputs + self.targets)


# Rows and pieces for 80 GB: XL in float32 with its gradients is 23 GB.
CASES = {
    "flan_t5_large": Case("t5", "large", 64, 512, 128, 2),
    "flan_t5_xl": Case("t5", "xl", 64, 512, 128, 4),
    "opt_1.3b": Case("decoder", "opt_1.3b", 16, 1536, 512, 4),
}
_SMALL = (("vocab_size", 8192), ("emb_dim", 32), ("num_heads", 2), ("head_dim", 16), ("mlp_dim", 64))
TINY = {
    "tiny_t5": Case("t5", "tiny", 4, 64, 32, 2, (*_SMALL, ("num_encoder_layers", 1), ("num_decoder_layers", 1))),
    "tiny_decoder": Case("decoder", "opt_125m", 4, 64, 32, 2, (*_SMALL, ("num_layers", 2))),
}


# --- Ours ---


def our_model(case: Case) -> Any:
    """The model, its layers stacked and looped over, what is cheap computed again in the backward pass."""
    from flan_jax.data import vocabulary
    from flan_jax.models import presets
    from flan_jax.training import configs, optim

    fields: dict[str, Any] = {
        "dtype": "bfloat16",
        "scan_layers": True,
        "remat_policy": "minimal",
        "dropout_rate": 0.0,
        **dict(case.overrides),
    }
    pieces = vocabulary.sentencepiece_vocabulary()  # a model has one; no text is read
    settings: dict[str, Any] = {"loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"}
    if case.family == "t5":
        adafactor = optim.Adafactor(logical_factor_rules=optim.standard_logical_factor_rules())
        config = presets.t5_config(case.preset, **fields)
        return configs.EncoderDecoderModel(configs.Transformer(config), pieces, pieces, adafactor, **settings)
    config = presets.decoder_only_config(case.preset, **fields)
    return configs.DecoderOnlyModel(configs.DecoderWrapper(config), pieces, optim.adamw(weight_decay=0.0), **settings)


def packed_batch(case: Case, model: Any) -> tuple[dict[str, np.ndarray], int]:
    """A batch of packed rows with the lengths of benchmarks/packing.py, and its tokens that are not padding."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import packing as lengths

    from flan_jax.data import features, packing, seqio_tasks

    converter, capacity = model.feature_converter, model.feature_converter.capacity(case.lengths)
    drawn = np.minimum(lengths.draw(120 * case.rows), [case.inputs, case.targets])
    rng = np.random.default_rng(0)
    examples = [
        seqio_tasks.Tokenised(*(rng.integers(2, model.config.vocab_size, size).tolist() for size in pair))
        for pair in drawn.tolist()
    ]
    sizes = [converter.sizes(example) for example in examples]
    rows = [row for row, _ in zip(packing.pack(sizes, capacity), range(case.rows), strict=False)]
    batch = features.stack([converter.row([examples[i] for i in row], case.lengths, True) for row in rows])
    return dict(batch), sum(sum(sizes[i]) for row in rows for i in row)


def ours(case: Case, steps: int) -> dict[str, Any]:
    """Trains; returns seconds, tokens and memory."""
    import jax

    from flan_jax.models import api
    from flan_jax.training import figures, optim, state, step

    model = our_model(case)
    batch, tokens = packed_batch(case, model)
    optimizer = model.optimizer_def.with_axes(api.logical_axes(model.config))
    schedule = optim.create_learning_rate_scheduler("constant", 1e-4)
    key = jax.random.key(0)
    holder = [jax.jit(lambda k: state.create(model.config, optimizer, k))(key)]
    update = jax.jit(step.make_train_step(model, optimizer, schedule, case.microbatches), donate_argnums=0)
    began = time.perf_counter()
    rows = jax.device_put(batch)
    compiled = update.lower(holder[0], rows, key).compile()
    compilation = time.perf_counter() - began

    def one() -> float:
        holder[0], sums = compiled(holder[0], rows, key)
        return float(sums["loss"])

    return {**timed(one, steps), "tokens": tokens, "compile_seconds": compilation, **figures.memory()}


# --- The peer ---


def peer_model(case: Case, config: Any) -> Any:
    """The same architecture in transformers, random parameters."""
    import transformers

    if case.family == "t5":
        return transformers.T5ForConditionalGeneration(
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
                dropout_rate=0.0,
                use_cache=False,
                decoder_start_token_id=0,
            )
        )
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.emb_dim,
            word_embed_proj_dim=config.emb_dim,
            ffn_dim=config.mlp_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.max_positions,
            dropout=0.0,
            use_cache=False,
        )
    )


def peer(case: Case, steps: int, compiled: bool = True) -> dict[str, Any]:
    """The same steps in transformers on full rows, with gradients added over the same microbatches."""
    import torch

    config = our_model(case).config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    model: Any = peer_model(case, config).to(device).train()
    make = torch.optim.Adafactor if case.family == "t5" else torch.optim.AdamW
    fused: dict[str, Any] = {"fused": True} if device.type == "cuda" and case.family == "decoder" else {}
    optimizer = make(model.parameters(), lr=1e-4, weight_decay=0.0, **fused)
    called = torch.compile(model) if compiled else model
    length = case.inputs if case.family == "t5" else case.inputs + case.targets
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(3, config.vocab_size, (case.rows, length))).to(device)
    labels = tokens
    if case.family == "t5":
        labels = torch.from_numpy(rng.integers(3, config.vocab_size, (case.rows, case.targets))).to(device)

    def one() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss: Any = None
        for rows, wanted in zip(tokens.chunk(case.microbatches), labels.chunk(case.microbatches), strict=True):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = called(input_ids=rows, labels=wanted).loss / case.microbatches
            loss.backward()
        optimizer.step()
        return float(loss.detach())  # waits for the device

    found = {**timed(one, steps), "tokens": case.positions}
    if device.type == "cuda":
        found["memory/device_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


# --- What both share ---


def timed(one: Callable[[], float], steps: int) -> dict[str, Any]:
    """Seconds of each step, the first few left out, and the last loss, which must be a number."""
    began = time.perf_counter()
    one()
    first = time.perf_counter() - began
    loss = [one() for _ in range(WARM_UP - 1)][-1]
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        loss = one()
        seconds.append(time.perf_counter() - began)
    if not np.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "first_step_seconds": first, "loss": loss}


def summary(case: Case, found: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """Adds rates to what a side measured."""
    from flan_jax.models import flops

    config, seconds = our_model(case).config, found["seconds"]
    target = case.targets if case.family == "t5" else case.inputs + case.targets
    work = flops.train_step(config, case.rows, case.inputs, target)
    rates = {"tokens_per_second": found["tokens"] / seconds, "tflops_per_second": work / seconds / 1e12}
    return {**found, **rates, "mfu": work / seconds / peak if peak else None, "flops_a_step": work}


def worker(side: str, name: str, steps: int, eager: bool) -> None:
    case = {**CASES, **TINY}[name]
    found = ours(case, steps) if side == "ours" else peer(case, steps, compiled=not eager)
    print(RESULT + json.dumps(found), flush=True)


def device() -> tuple[str, float | None]:
    """What JAX finds here, and its peak; asked in a process of its own, since JAX keeps the memory of what it has seen."""
    code = "import json\nfrom flan_jax.planning import slices\nhere = slices.own_devices()\n"
    code += "print(json.dumps([here.name, slices.peak_of(here)]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return tuple(json.loads(ran.stdout.splitlines()[-1]))


def start(side: str, name: str, steps: int, eager: bool) -> dict[str, Any] | None:
    """One side of one case in a process of its own; None, and what it said, where it fails."""
    command = [sys.executable, __file__, "--worker", side, name, "--steps", str(steps), *(["--eager"] if eager else [])]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(RESULT)]
    if ran.returncode or not lines:
        print(f"{name}: {side} failed with exit code {ran.returncode}", file=sys.stderr)
        return None
    return json.loads(lines[-1].removeprefix(RESULT))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--no_peer", action="store_true")
    parser.add_argument("--eager", action="store_true", help="the peer without torch.compile")
    parser.add_argument("--tiny", action="store_true", help="toy models, two steps, no torch.compile")
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if given.worker:
        worker(*given.worker, given.steps, given.eager)
        return 0
    names, steps = (list(TINY), 2) if given.tiny else (given.models, given.steps)
    name, peak = device()
    report: dict[str, Any] = {"device": name, "peak_tflops": peak and peak / 1e12, "cases": {}}
    for case_name in names:
        case, sides = {**CASES, **TINY}[case_name], {}
        for side in ("ours",) if given.no_peer else ("ours", "peer"):
            found = start(side, case_name, steps, given.eager or given.tiny)
            sides[side] = found and summary(case, found, peak)
            if found:
                mfu = f", MFU {sides[side]['mfu']:.1%}" if peak else ""
                rates = (
                    f"{sides[side]['tokens_per_second']:,.0f} tokens/s, {sides[side]['tflops_per_second']:.3g} TFLOP/s"
                )
                print(f"{case_name}: {side}: {found['seconds']:.3f} s a step, {rates}{mfu}", flush=True)
        report["cases"][case_name] = sides
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0 if all(all(sides.values()) for sides in report["cases"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
