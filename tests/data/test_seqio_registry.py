"""flan_jax's names in seqio's registries, as another program finds them."""

import json
import subprocess
import sys

import pytest

# Run in a fresh interpreter: what the registries hold after the import, and what comes out of them.
LOOK = """
import json, sys
import seqio
import flan_jax.tasks.register
from flan_jax.data import seqio_registry
again = seqio_registry.register("flan_jax.tasks.catalogue")
seqio.set_tfds_data_dir_override(sys.argv[1])
mixture = seqio.get_mixture_or_task("flan_minus_nli_10templates")
lengths = {"inputs": 128, "targets": 32}
first = next(mixture.get_dataset(lengths, split="train", shuffle=True, seed=1).as_numpy_iterator())
evaluation = seqio.get_mixture_or_task("flan_inter_cluster_split_9_10templates_eval")
rte = seqio.get_mixture_or_task("rte_type_3")
intra = seqio.get_mixture_or_task("flan_intra_cluster_split_0_10templates_two_shot_train")
json.dump({
    "counts": [len(seqio.TaskRegistry.names()), len(seqio.MixtureRegistry.names())],
    "again": again,
    "features": sorted(first),
    "members": len(mixture.tasks),
    "rates": sorted({mixture.get_rate(task) for task in mixture.tasks}),
    "evaluation": sorted({task.name.split("_type_")[0] for task in evaluation.tasks}),
    "intra": [len(intra.tasks), sorted({intra.get_rate(task) for task in intra.tasks})[-1] <= 3000],
    "rows": rte.num_input_examples("test"),
    "metrics": [function.__name__ for function in rte.metric_fns],
    "vocabulary": mixture.output_features["inputs"].vocabulary.sentencepiece_model_file,
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def found(sample_dir):
    ran = subprocess.run([sys.executable, "-c", LOOK, sample_dir], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_every_name_once(found):
    assert found["counts"] == found["again"]
    assert found["counts"][0] > 13_500
    assert found["counts"][1] > 4_200


def test_a_mixture_reads(found):
    assert found["features"] == ["inputs", "targets"]
    assert found["members"] == 52
    assert 0 < min(found["rates"]) <= max(found["rates"]) <= 3000
    assert found["intra"] == [56, True]
    assert found["vocabulary"].endswith("flan_jax_8k.model")


def test_evaluation_is_a_task_a_template(found):
    assert found["evaluation"] == ["definite_pronoun_resolution", "winogrande", "wsc"]
    assert found["rows"] > 0
    assert found["metrics"] == ["accuracy"]


def test_a_vocabulary_that_does_not_exist(sample_dir, monkeypatch):
    from flan_jax import errors
    from flan_jax.data import seqio_registry

    monkeypatch.setenv(seqio_registry.VOCABULARY, "nowhere.model")
    with pytest.raises(errors.FlanError, match=r"vocabulary 'nowhere.model' does not exist"):
        seqio_registry.register("flan_jax.tasks.catalogue")


def test_a_name_that_is_taken(monkeypatch):
    import seqio
    from test_streams import seqio_task

    from flan_jax import errors
    from flan_jax.data import seqio_registry

    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {"rte_10templates": seqio_task("rte_10templates")})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    with pytest.raises(errors.FlanError, match="'rte_10templates' is in seqio's registry already"):
        seqio_registry.register("flan_jax.tasks.catalogue")
