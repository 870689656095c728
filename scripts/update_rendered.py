"""Writes tests/golden/rendered/<dataset>.txt: a row of the embedded sample as each of its dataset's templates asks it, then
without the options, without a template, and behind exemplars.

Where targets reason before they answer, the templates come with and without the phrase that asks for the reasoning, and the
inverted forms after them.

    python scripts/update_rendered.py [--module flan_jax.tasks.catalogue]

Read what changed before keeping it: these texts are what a model is trained on.

    python scripts/update_rendered.py --real DIR --texts FILE

does the same for a real row of every dataset that is prepared in DIR. The texts go to FILE, to be read, and are not the
project's to publish; tests/golden/real_rows.txt keeps what they hash to.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence

from flan_jax import errors
from flan_jax.data import mixtures, seqio_tasks, sources, spec, styles, task_table, templates

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
FOLDER, REAL = GOLDEN / "rendered", GOLDEN / "real_rows.txt"

# One style of each kind that there is beside a template alone: without options or template, options laid out anew, delimiters.
FURTHER = (
    *("type_0_score_eval_no_options", "no_template", "dataset_name", "template_0to10_non_deter_opt_zero_shot"),
    *("opt_iml_zero_shot", "10templates_two_shot", "template_1_two_shot"),
)
# The same of datasets with rationales.
REASONED = ("template_0to10_no_opt_zero_shot", "no_template", "dataset_name", "opt_iml_zero_shot")
SHOTS = ("10templates_two_shot", "10templates_trigger_two_shot", "template_mix_five_shot", "template_0to10_x_shot")


def rendered(dataset: spec.DatasetSpec, data_dir: str) -> str:
    """Returns the first row of a dataset that its filter keeps, in every template, options shown.

    The row is of the first split that the dataset has: train, but for datasets which are only tested on.
    """
    split, rows = prepared(dataset, data_dir)
    examples = ((number, dataset.example(row)) for number, row in enumerate(rows))
    number, example = next((number, example) for number, example in examples if example is not None)
    parts = [f"# {dataset.name}: row {number} of {split}, {dataset.tfds_name}"]
    if example.answers != (example.answer,):
        parts.append("# accepted: " + " | ".join(example.answers))
    own = len(templates.load(dataset.templates))
    prompted = own if any(template.prompted for template in templates.load(dataset.templates)) else 0
    for index, template in enumerate(templates.of(dataset)):
        inputs, targets = templates.render(template, example)
        mark = ", reversed" if template.reversed and index < own else ""
        title = f"template {index}{mark}"
        if index >= own:
            shown = index - own
            title = f"template {shown} with its trigger" if shown < prompted else f"inverted form {shown - prompted}"
        parts += [f"===== {title}", inputs, "----- targets", targets]
    for task, formatted in _asked(dataset, data_dir, split, further(dataset)):
        parts += [f"===== {task}", formatted.prompt(), "----- targets", formatted.targets]
    return "\n".join(parts) + "\n"


def further(dataset: spec.DatasetSpec) -> list[str]:
    """The styles beside a template alone that a row of a dataset is shown in, one of each kind."""
    names = [*REASONED, *SHOTS, *(styles.INVERSION + name for name in SHOTS[2:] if dataset.inverted)]
    known = seqio_tasks.dataset_styles(dataset)
    return [name for name in (names if dataset.rationale else FURTHER) if name in known]


def real(dataset: spec.DatasetSpec, data_dir: str) -> tuple[str, dict[str, str]]:
    """A prepared row of a dataset in every template and further style.

    Returns:
      What tells the row and its exemplars from those of another copy, and the text of each task (inputs and targets).

    Raises:
      NotPrepared: there is no row.
    """
    split, rows = prepared(dataset, data_dir)
    known = seqio_tasks.dataset_styles(dataset)
    alone = (f"{start}type_{i}{end}" for start in ("", styles.INVERSION) for end in ("", "_trigger") for i in range(20))
    texts, row = {}, 0
    for task, formatted in _asked(dataset, data_dir, split, [*(n for n in alone if n in known), *further(dataset)]):
        texts[task] = f"{formatted.prompt()}\n----- targets\n{formatted.targets}\n"
        row = formatted.row
    content = json.dumps(dict(rows[row]), sort_keys=True)
    return f"{split} {row} of {len(rows)} {digest(content)}", texts


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepared(dataset: spec.DatasetSpec, data_dir: str) -> tuple[str, Sequence[spec.Row]]:
    """The first split that is there, and its rows: a copy may lack train."""
    found = sources.PreparedDataset(data_dir, dataset.tfds_name)
    splits = [name for name in ("train", "validation", "test") if name in dataset.splits]
    for split in splits[:-1]:
        with contextlib.suppress(sources.NotPrepared):
            return split, found.rows(dataset.splits, split)
    return splits[-1], found.rows(dataset.splits, splits[-1])


def _asked(
    dataset: spec.DatasetSpec, data_dir: str, split: str, names: list[str]
) -> Iterator[tuple[str, seqio_tasks.Formatted]]:
    """The first row that is kept, in each of some styles, with all the exemplars that are drawn."""
    known, registry = seqio_tasks.dataset_styles(dataset), spec.SpecRegistry()
    registry.add([dataset])
    tasks = task_table.TaskTable(registry)
    for name in names:
        if known[name].shots and split != "train":  # the only split that exemplars come from
            continue
        task = tasks[f"{dataset.name}_{name}"]
        (formatted,) = task.open(data_dir, split).in_order(1)
        yield task.name, formatted


def _write_real(module: str, data_dir: str, texts_file: str | None) -> None:
    lines, texts = [], []
    for dataset in mixtures.Catalogue.from_modules(module).specs:
        try:
            row, found = real(dataset, data_dir)
        except sources.NotPrepared:
            continue
        lines += [f"# {dataset.name}: {row}", *(f"{task} {digest(text)}" for task, text in found.items())]
        texts += [f"===== {task}\n{text}" for task, text in found.items()]
    if texts_file:
        pathlib.Path(texts_file).write_text("\n".join(texts), encoding="utf-8")
    REAL.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines) - len(texts)} datasets, {len(texts)} texts")


def main() -> None:
    parser = argparse.ArgumentParser(description="Renders a row of the embedded sample in every template.")
    parser.add_argument("--module", default="flan_jax.tasks.catalogue", help="module that defines SPECS")
    parser.add_argument("--real", metavar="DIR", help="of prepared datasets; hashes of real rows are written instead")
    parser.add_argument("--texts", metavar="FILE", help="where the texts of real rows go")
    given = parser.parse_args()
    if given.real:
        _write_real(given.module, sources.resolve_data_dir(given.real), given.texts)
    else:
        _write_sample(given.module)


def _write_sample(module: str) -> None:
    data_dir = sources.resolve_data_dir(sources.SAMPLE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = {f"{d.name}.txt": rendered(d, data_dir) for d in mixtures.Catalogue.from_modules(module).specs}
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
