"""Draws the loss curves of a run from its logs.

python scripts/plot_run.py MODEL_DIR [--out MODEL_DIR/loss.png]
"""

import argparse
import pathlib

from flan_jax import errors
from flan_jax.training import metrics

TAG = "loss_per_target_token"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model_dir")
    parser.add_argument("--out", help="the picture; MODEL_DIR/loss.png if not given")
    given = parser.parse_args()
    model_dir = pathlib.Path(given.model_dir)
    out = pathlib.Path(given.out or model_dir / "loss.png")
    curves = {"training": model_dir / "train"}
    curves |= {f"held-back rows of {path.name}": path for path in sorted(model_dir.glob("training_eval/*"))}
    if not (model_dir / "train" / metrics.METRICS_FILE).exists():
        raise errors.FlanError(f"{model_dir} has no train/{metrics.METRICS_FILE}; expected the MODEL_DIR of a run")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for (label, folder), style in zip(curves.items(), ("-", "o--", "s--", "^--"), strict=False):
        points = [(line["step"], line[TAG]) for line in metrics.read(str(folder)) if TAG in line]
        if not points and folder.name == "train":
            raise errors.FlanError(f"{folder} has no {TAG} yet: the run wrote no line of metrics")
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), style, color="black", markersize=4, linewidth=1, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per target token)")
    axes.set_title(str(model_dir.name))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=150)
    print(f"wrote {out}")


if __name__ == "__main__":
    with errors.reported():
        main()
