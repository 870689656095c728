"""Results of two made-up checkpoints, as `flan eval` leaves them."""

import json
from pathlib import Path
from typing import Any

# Text that is markup, to whom it is not escaped for.
NASTY = '</pre><script>window.ran = 1</script><img src="https://example.invalid/x" onerror="window.ran = 1"> `a` | b ```\n# c'


def line(index: int, output: str, target: str, prompt: str = "", **more: Any) -> dict[str, Any]:
    text = prompt or f"Question {index}?"
    score = float(output == target)
    return {
        "index": index,
        "prompt": text,
        "output": output,
        "parsed": output,
        "target": target,
        "score": score,
        **more,
    }


def score(name: str, group: str, value: float, **more: Any) -> dict[str, Any]:
    given = {"metric": "accuracy", "std": None, "examples": 4, "chance": 50.0, **more}
    return {"name": name, "group": group, "value": value, **given}


def write(folder: Path, scores: list[dict[str, Any]], files: dict[str, list[dict[str, Any]]], **more: Any) -> Path:
    """Writes a directory of results."""
    folder.mkdir(parents=True)
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    content = {
        "suite": "made_up",
        "checkpoint": f"runs/{folder.name}/checkpoint_10",
        "step": 10,
        "settings": {"batch_size": 4},
        "versions": {"jax": "0"},
        "seed": 3,
        "scores": scores,
        "averages": [{"name": "nli", "value": sum(one["value"] for one in scores) / max(1, len(scores))}],
        "predictions": list(files),
        **more,
    }
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def two(folder: Path) -> tuple[Path, Path]:
    """rte: two of four examples become right, one wrong; one is asked otherwise. cb: nothing changes."""
    best = {"template": 3, "selected_by": 70.0, "value": 61.5}
    first = write(
        folder / "first",
        [score("rte", "nli", 25.0, std=4.5, best_dev=best), score("cb", "nli", 40.0, chance=None, metric="f1")],
        {
            "rte_type_0-000010.jsonl": [
                line(0, "no", "yes", NASTY),
                line(1, "no", "yes"),
                line(2, "yes", "yes"),
                line(3, "no", "yes", "Asked so?"),
            ],
            "cb_type_0-000010.jsonl": [line(0, NASTY, "yes"), line(1, "so I said no", "no", parsed="no", score=1.0)],
        },
    )
    second = write(
        folder / "second",
        [score("rte", "nli", 50.0, std=1.5), score("cb", "nli", 40.0, chance=None, metric="f1")],
        {
            "rte_type_0-000020.jsonl": [
                line(0, "yes", "yes", NASTY),
                line(1, "yes", "yes"),
                line(2, "no", "yes"),
                line(3, "yes", "yes", "Asked otherwise?"),
            ],
            "cb_type_0-000020.jsonl": [line(0, NASTY, "yes"), line(1, "so I said no", "no", parsed="no", score=1.0)],
        },
    )
    return first, second
