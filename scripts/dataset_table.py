"""Writes the table of docs/DATASETS.md from the datasets themselves and the facts in tasks/.

    python scripts/dataset_table.py [--check]

`--check` changes nothing and fails where the table is not up to date.
"""

import argparse
import csv
import pathlib
import sys
from collections.abc import Iterable

import yaml

from flan_jax import errors
from flan_jax.data import mixtures, spec, templates

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "DATASETS.md"
BEGIN, END = "<!-- table: python scripts/dataset_table.py -->\n", "<!-- end of table -->\n"
SPLITS = ("train", "validation", "test")
COLUMNS = ("name", "paper", "TFDS", "; ".join(SPLITS), "train rows", "metric", "answers", "by hand")
COLLECTIONS = {
    "flan2021": "FLAN 2021",
    "extra": "Outside the 62",
    "cot": "Chain of thought",
    "muffin": "Flan 2022: Muffin",
    "dialog": "Flan 2022: dialogue",
}


def paper_names() -> dict[str, str]:
    """Number and name in figure 3 of the paper, by task: `5 RTE`."""
    with open(ROOT / "tasks" / "flan62.csv", encoding="utf-8", newline="") as file:
        return {row["task"]: f"{row['paper_no']} {row['paper_name']}".strip() for row in csv.DictReader(file)}


def table(datasets: Iterable[spec.DatasetSpec]) -> str:
    """Returns a Markdown table a collection and cluster, in the order of registration."""
    names = paper_names()
    by_hand = set(yaml.safe_load((ROOT / "tasks" / "manual_downloads.yaml").read_text(encoding="utf-8")))
    groups: dict[tuple[str, str], list[spec.DatasetSpec]] = {}
    for dataset in datasets:
        groups.setdefault((dataset.collection, dataset.cluster), []).append(dataset)
    parts = []
    for (collection, cluster), members in sorted(groups.items(), key=lambda group: _order(group[0][0])):
        rows = [_row(d, names.get(d.name, ""), d.tfds_dataset in by_hand) for d in members]
        lines = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
        parts.append(f"### {COLLECTIONS.get(collection, collection)}: `{cluster}`\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _order(collection: str) -> int:
    names = list(COLLECTIONS)
    return names.index(collection) if collection in names else len(names)


def _row(dataset: spec.DatasetSpec, paper_name: str, by_hand: bool) -> list[str]:
    splits = [f"`{dataset.splits[name]}`" if name in dataset.splits else "-" for name in SPLITS]
    shown = any(template.shows_options for template in templates.load(dataset.templates))
    return [
        f"`{dataset.name}`",
        paper_name,
        f"`{dataset.tfds_name}`",
        "; ".join(splits),
        f"{dataset.train_rows:,}",
        ", ".join(dataset.metrics),
        "rationale" if dataset.rationale else "options" if shown else "free text",
        "yes" if by_hand else "",
    ]


def updated(page: str, made: str) -> str:
    """Returns the page with its table replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise errors.FlanError(f"{PAGE}: expected the lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the table of docs/DATASETS.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the table is not up to date")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = updated(page, table(mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs))
    if given.check and page != wanted:
        print(f"{PAGE}: the table is not up to date; run python scripts/dataset_table.py", file=sys.stderr)
        return 1
    if not given.check:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
