"""A row of every dataset in every template and in other styles gives exactly the text that was read and kept
(tests/golden/rendered)."""

import pytest

from flan_jax.data import mixtures

SPECS = {dataset.name: dataset for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs}


def test_every_dataset_has_its_file(script):
    assert {path.stem for path in script.FOLDER.iterdir()} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_texts_are_those_that_were_read(name, script, sample_dir):
    kept = (script.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert script.rendered(SPECS[name], sample_dir) == kept, "changed on purpose? python scripts/update_rendered.py"
