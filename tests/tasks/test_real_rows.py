"""With real rows imported, every dataset gives examples in all of its styles.

    FLAN_JAX_REAL_DATA=DIR pytest tests/tasks/test_real_rows.py

DIR holds prepared TFDS datasets, such as `flan data import` makes; `flan data doctor --tfds_data_dir DIR` lists them.
"""

import os
import re

import numpy as np
import pytest

from flan_jax.data import mixtures, seqio_tasks, sources, templates, vocabulary

SPECS = {dataset.name: dataset for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs}
VARIABLE = "FLAN_JAX_REAL_DATA"
DRAWS, FEW_SHOT_DRAWS = 10, 2


@pytest.fixture(scope="module")
def real_dir() -> str:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} does not name a directory of prepared datasets with real rows")
    return sources.resolve_data_dir(os.environ[VARIABLE])


@pytest.fixture(scope="module")
def tokenizer() -> vocabulary.Tokenizer:
    return vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary())


@pytest.mark.parametrize("name", SPECS)
def test_real_rows_in_every_style(name, real_dir, tokenizer):
    dataset = SPECS[name]
    split = "train" if "train" in dataset.splits else "test"
    try:
        rows = sources.PreparedDataset(real_dir, dataset.tfds_name).rows(dataset.splits, split)
    except sources.NotPrepared as error:
        pytest.skip(str(error))
    assert len(rows)
    names = {field for template in templates.load(dataset.templates) for field in template.fields()}
    placeholder = re.compile("{(?:" + "|".join(names) + ")}")
    targets = set()
    for style_name, style in seqio_tasks.dataset_styles(dataset).items():
        task = seqio_tasks.FlanTask(dataset, style_name, style)
        drawn = task.open(real_dir, split).draw(np.arange(FEW_SHOT_DRAWS if style.shots else DRAWS), seed=0)
        assert drawn
        for formatted in drawn:
            example, prompt = formatted.example, formatted.prompt()
            assert formatted.inputs, task.name
            assert formatted.targets, task.name
            assert not placeholder.search(prompt + formatted.targets), (task.name, formatted.row)
            assert not example.options or example.answer in example.options, (task.name, formatted.row)
            block = templates.options_block(example.options)
            asks = style.wording == "templates" and templates.load(dataset.templates)[formatted.template].shows_options
            assert (block in formatted.inputs) == (style.options and asks) or not block, (task.name, formatted.row)
            targets.add(formatted.targets)
    # An id of its own for every piece: nothing of a target is lost to "unknown".
    unknown = tokenizer.vocabulary.unk_id
    for text, ids in zip(sorted(targets), tokenizer.encode(sorted(targets)), strict=True):
        assert ids, text
        assert unknown not in ids, text
