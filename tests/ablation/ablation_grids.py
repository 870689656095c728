"""Small grids and steps, for tests."""

import json
import pathlib

from flan_jax.ablation import grid as grid_lib
from flan_jax.ablation import steps as steps_lib


def grid(**given) -> grid_lib.Grid:
    """Two phases, an evaluation, two arms."""
    made = {
        "phases": {
            "pretrain": {"gin_file": "recipes/demo.gin", "TRAIN_STEPS": 4},
            "tune": {
                "gin_file": ("recipes/demo.gin", "runs/finetune.gin"),
                "MIXTURE_OR_TASK_NAME": "{line}",
                "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16},
                "TRAIN_STEPS": 8,
                "BATCH_SIZE": 8,
            },
        },
        "evaluations": {"heldout": {"gin_file": "recipes/demo_eval.gin", "EVAL_MIXTURE": "rte_{asked}"}},
        "metrics": {"average": ("heldout/nli",)},
        "lines": {"sst2_10templates": {}},
        "arms": {
            "one": {"fill": {"asked": "1templates"}},
            "all": {"fill": {"asked": "10templates"}},
        },
        "settings": {"all": {"network.T5Config.num_encoder_layers": 1}},
    }
    return grid_lib.Grid(**{**made, **given})


def step(key: str, *needs: str, label: str = "") -> steps_lib.Step:
    """An evaluation of nothing; it needs at most two others."""
    start, of = [*needs, None, None][:2]
    return steps_lib.Step(
        key, steps_lib.EVALUATE, "heldout", (), {}, (start, 1) if start else None, of, None, 0, "", label or key
    )


def sweep() -> steps_lib.Sweep:
    """Two arms with three seeds; a seed's cells share a step."""
    made = grid_lib.Grid(
        phases={},
        evaluations={"heldout": {}},
        metrics={"average": ("heldout",), "nli": ("heldout/nli",)},
        arms={"one": {}, "all": {}},
        seeds=(0, 1, 2),
    )
    steps = {f"shared{seed}": step(f"shared{seed}") for seed in made.seeds}
    asked = {}
    for cell in made.cells():
        key = f"{cell.arm}{cell.seed}"
        steps[key] = step(key, f"shared{cell.seed}", label=str(cell))
        asked[cell] = {"heldout": key}
    return steps_lib.Sweep(made, steps, asked, {cell: [] for cell in asked})


def results(value: float) -> str:
    """A results.json."""
    score = {"name": "rte", "group": "nli", "metric": "accuracy", "value": value, "examples": 4, "chance": 50.0}
    about = {"suite": "x", "checkpoint": "", "step": 0, "predictions": []}
    return json.dumps({**about, "scores": [score], "averages": [{"name": "nli", "value": value}]})


def write(folder: pathlib.Path, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results(value), encoding="utf-8")
