"""With real rows at hand, every prompt of P3 and task of Natural Instructions that is there gives examples in all its styles.

    python tests/data/niv2_files.py RECORDS/natural_instructions DIR      # where there is no checkout
    FLAN_JAX_REAL_DATA=DIR pytest tests/tasks/test_real_collections.py

DIR holds prepared TFDS datasets `p3/PROMPT` and a checkout `natural-instructions`, or one of the two. Prompts that are none of
T0-SF's 193 are asked as questions.
"""

import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import pytest

from flan_jax.data import mixtures, natural_instructions, seqio_tasks, sources, spec, stores, templates
from flan_jax.tasks import t0_sf

VARIABLE = "FLAN_JAX_REAL_DATA"
OWN = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").blends.own
DRAWS, FEW_SHOT_DRAWS = 10, 2


@pytest.fixture(scope="module")
def real_dir() -> str:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} does not name a directory of real rows")
    return sources.resolve_data_dir(os.environ[VARIABLE])


def prompts(data_dir: str) -> list[spec.DatasetSpec]:
    """Those of P3 that are prepared, whether or not T0-SF has them; not one whose rows all lack a completion."""
    found = sorted(path.name for path in (pathlib.Path(data_dir) / "p3").glob("*"))
    datasets = (
        OWN.get(t0_sf.PREFIX + name)
        or t0_sf.dataset(name, of=name, form="question_answer", rows=0, tfds_name=f"p3/{name}:1.0.0")
        for name in found
    )
    return [d for d in datasets if any(map(d.example, stores.opened(d, data_dir).rows(d.splits, "train")))]


def instructions(data_dir: str) -> list[spec.DatasetSpec]:
    """The tasks of Natural Instructions whose files are there."""
    try:
        there = set(natural_instructions.checkout(data_dir).names)
    except sources.NotPrepared:
        return []
    return [dataset for name, dataset in OWN.items() if name.removeprefix("niv2_") in there]


def draws(
    dataset: spec.DatasetSpec, data_dir: str
) -> Iterator[tuple[str, seqio_tasks.FlanTask, seqio_tasks.Formatted]]:
    """Some examples of a dataset in each of its styles."""
    for name, style in seqio_tasks.dataset_styles(dataset).items():
        task = seqio_tasks.FlanTask(dataset, name, style)
        count = FEW_SHOT_DRAWS if style.shots else DRAWS
        for formatted in task.open(data_dir, "train").draw(np.arange(count), seed=0):
            yield task.name, task, formatted


@pytest.mark.parametrize("kind", [prompts, instructions])
def test_real_rows_in_every_style(kind, real_dir):
    datasets = kind(real_dir)
    if not datasets:
        pytest.skip(f"no {kind.__name__} in {real_dir}")
    for dataset in datasets:
        names = {field for template in templates.of(dataset) for field in template.fields()}
        placeholder = re.compile("{(?:" + "|".join(names) + ")}")
        for name, task, formatted in draws(dataset, real_dir):
            example, prompt, style = formatted.example, formatted.prompt(), task.style
            where = (name, formatted.row)
            assert formatted.inputs, where
            assert formatted.targets, where
            assert not placeholder.search(prompt + formatted.targets), where
            assert not example.options or example.answer in example.options, where
            block = templates.options_block(example.options)
            asks = style.wording == "templates" and templates.of(dataset)[formatted.template].shows_options
            if block and not style.marked:
                assert (block in formatted.inputs) == (style.options and asks), where
            if kind is instructions and style.wording == "templates":
                assert prompt.count(example.fields["definition"]) == 1, where
            if style.shots and formatted.shots is not None:
                assert len(prompt) > len(formatted.inputs), where
