"""Writes tests/golden/rendered/<dataset>.txt: a row of the embedded sample as each of its dataset's templates asks it.

    python scripts/update_rendered.py [--module flan_jax.tasks.catalogue]

Read what changed before keeping it: these texts are what a model is trained on.
"""

import argparse
import itertools
import pathlib

from flan_jax import errors
from flan_jax.data import mixtures, sources, spec, templates

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "rendered"


def rendered(dataset: spec.DatasetSpec, data_dir: str) -> str:
    """Returns the first row of a dataset that its filter keeps, in every template, options shown.

    The row is of the first split that the dataset has: train, but for datasets which are only tested on.
    """
    split = next(name for name in ("train", "validation", "test") if name in dataset.splits)
    rows = sources.PreparedDataset(data_dir, dataset.tfds_name).rows(dataset.splits, split)
    examples = ((number, dataset.example(row)) for number, row in enumerate(rows))
    number, example = next((number, example) for number, example in examples if example is not None)
    parts = [f"# {dataset.name}: row {number} of {split}, {dataset.tfds_name}"]
    if example.answers != (example.answer,):
        parts.append("# accepted: " + " | ".join(example.answers))
    for index, template in enumerate(templates.load(dataset.templates)):
        inputs, targets = templates.render(template, example)
        mark = ", reversed" if template.reversed else ""
        parts += [f"===== template {index}{mark}", inputs, "----- targets", targets]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Renders a row of the embedded sample in every template.")
    parser.add_argument("--module", default="flan_jax.tasks.catalogue", help="module that defines SPECS")
    given = parser.parse_args()
    data_dir = sources.resolve_data_dir(sources.SAMPLE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = {f"{d.name}.txt": rendered(d, data_dir) for d in mixtures.Catalogue.from_modules(given.module).specs}
    present = {path.name: path for path in FOLDER.glob("*.txt")}
    changed = 0
    for name in sorted(itertools.chain(wanted, present.keys() - wanted.keys())):
        if name not in wanted:
            present[name].unlink()
        elif name not in present or present[name].read_text(encoding="utf-8") != wanted[name]:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            continue
        changed += 1
        print(name if name in wanted else f"{name} (removed)")
    print(f"{len(wanted)} datasets, {changed} files changed")


if __name__ == "__main__":
    with errors.reported():
        main()
