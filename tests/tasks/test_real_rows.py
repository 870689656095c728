"""With real rows imported, every dataset gives examples in all of its styles, and the texts that were read.

    FLAN_JAX_REAL_DATA=DIR pytest tests/tasks/test_real_rows.py

DIR holds prepared TFDS datasets, such as `flan data import` makes; `flan data doctor --tfds_data_dir DIR` lists them. Of the texts
of one row a dataset, hashes are kept: they are not ours to publish.
"""

import os
import re

import numpy as np
import pytest

from flan_jax.data import mixtures, seqio_tasks, sources, templates, vocabulary
from flan_jax.evaluation import answers

CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
SPECS = {dataset.name: dataset for dataset in CATALOGUE.specs}
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
def test_real_rows_in_every_style(name, real_dir, tokenizer, script):
    dataset = SPECS[name]
    try:
        split, rows = script.prepared(dataset, real_dir)
    except sources.NotPrepared as error:
        pytest.skip(str(error))
    assert len(rows)
    names = {field for template in templates.of(dataset) for field in template.fields()}
    placeholder = re.compile("{(?:" + "|".join(names) + ")}")
    targets = set()
    for style_name, style in seqio_tasks.dataset_styles(dataset).items():
        if style.shots and split != "train":  # a copy without rows that could be exemplars
            continue
        task = CATALOGUE.tasks[f"{name}_{style_name}"]
        drawn = task.open(real_dir, split).draw(np.arange(FEW_SHOT_DRAWS if style.shots else DRAWS), seed=0)
        assert drawn
        for formatted in drawn:
            example, prompt = formatted.example, formatted.prompt()
            assert formatted.inputs, task.name
            assert formatted.targets, task.name
            assert not placeholder.search(prompt + formatted.targets), (task.name, formatted.row)
            targets.add(formatted.targets)
            if style.marked and example.answer not in example.options:  # a mark, which the inputs have to show
                assert f"\n{example.answer}" in formatted.inputs or f" {example.answer}" in formatted.inputs, task.name
                continue
            assert not example.options or example.answer in example.options, (task.name, formatted.row)
            block = templates.options_block(example.options)
            asks = style.wording == "templates" and templates.of(dataset)[formatted.template].shows_options
            shown = style.options and asks and not style.marked
            assert style.marked or (block in formatted.inputs) == shown or not block, (task.name, formatted.row)
    # An id of its own for every piece: nothing of a target is lost to "unknown".
    unknown = tokenizer.vocabulary.unk_id
    for text, ids in zip(sorted(targets), tokenizer.encode(sorted(targets)), strict=True):
        assert ids, text
        assert unknown not in ids, text


@pytest.mark.parametrize("name", SPECS)
def test_texts_of_a_real_row_are_those_that_were_read(name, real_dir, script):
    kept = read(script.REAL.read_text(encoding="utf-8"))
    try:
        row, texts = script.real(SPECS[name], real_dir)
    except sources.NotPrepared as error:
        pytest.skip(str(error))
    if kept.get(name, ("", {}))[0] != row:
        pytest.skip(f"{real_dir} has another first row of {name}, or another number of rows, than those that were read")
    found = {task: script.digest(text) for task, text in texts.items()}
    assert found == kept[name][1], "changed on purpose? python scripts/update_rendered.py --real DIR --texts FILE"


def read(hashes: str) -> dict[str, tuple[str, dict[str, str]]]:
    """For each dataset what tells its row, and the hash of each task's text."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for line in hashes.splitlines():
        if line.startswith("# "):
            name, _, row = line[2:].partition(": ")
            found[name] = row, {}
        else:
            task, _, digest = line.partition(" ")
            found[name][1][task] = digest
    return found


def test_hashes_are_kept_of_every_style_of_most_datasets(script):
    """Of FLAN 2021's 62, and of every template: whether or not the rows are at hand."""
    kept = read(script.REAL.read_text(encoding="utf-8"))
    assert set(kept) <= set(SPECS)
    assert len(kept) > 70
    for name, (row, digests) in kept.items():
        own = templates.load(SPECS[name].templates)
        assert {f"{name}_type_{i}" for i in range(len(own))} <= set(digests), name
        expected = {f"{name}_{style}" for style in script.further(SPECS[name])}
        lacking = expected - set(digests)
        assert not lacking or not row.startswith("train "), (name, lacking)
        assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests.values()), name


@pytest.mark.parametrize("name", [name for name, dataset in SPECS.items() if dataset.rationale])
def test_targets_of_real_rows_parse_to_their_own_answers(name, real_dir):
    dataset = SPECS[name]
    try:
        prepared = sources.PreparedDataset(real_dir, dataset.tfds_name)
    except sources.NotPrepared as error:
        pytest.skip(str(error))
    rows = (prepared.read(split, row) for split, size in prepared.sizes.items() for row in range(size))
    patterns = [template for template in templates.of(dataset) if not template.reversed]
    for example in filter(None, map(dataset.example, rows)):
        for pattern in patterns:
            _, target = templates.render(pattern, example)
            assert answers.same_answer(example.answer, target) is True, target
