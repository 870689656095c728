"""A checkpoint asked in every way, on whatever devices there are: ranked, greedily, up to a stop string, with beams and samples.

`python -m tests.e2e.evaluations RUN DATA_DIR OUT [ADDRESS INDEX]`; with the last two it is process INDEX of two.
"""

import pathlib
import sys

import jax

from flan_jax import eval_suite, infer

SUITES = {
    "flan2021": ("--tasks=flan2021_eval_closed_book_qa_1templates", "--limit=3", "--seen_in_training=warn"),
    "mmlu": ("--limit=1", "--shots=1"),  # generates in pieces, up to a stop string
    "opt_iml": ("--tasks=rte_1templates", "--limit=3", "--shots=0"),
}
INFERRED = {
    "greedy": (),
    "beams": ("--beams=3", "--n=2"),
    "samples": ("--temperature=0.9", "--n=2", "--stop=e"),
}


def run(run_dir: str, data_dir: str, out: pathlib.Path) -> None:
    """Leaves OUT/SUITE/results.json, and OUT/WAY.jsonl, each with predictions."""
    asked = [f"--checkpoint={run_dir}", f"--tfds_data_dir={data_dir}", "--batch_size=4", "--inputs=64"]
    asked.append("--max_tokens=20")  # more than `generate.LOOK_EVERY`
    for name, flags in SUITES.items():
        assert eval_suite.main([f"--suite={name}", *asked, *flags, f"--out={out / name}"]) == 0
    for name, flags in INFERRED.items():
        task = ["--task=sst2_type_0", "--num_examples=5", f"--out={out / name}.jsonl"]
        assert infer.main([*asked, *task, *flags]) == 0


def main(run_dir: str, data_dir: str, out: str, address: str = "", index: str = "0") -> None:
    if address:
        jax.distributed.initialize(address, 2, int(index))
        assert (jax.process_count(), jax.device_count()) == (2, 2)
    run(run_dir, data_dir, pathlib.Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
