"""A trained model out of a run's directory."""

import dataclasses
import shutil
import sys

import jax
import pytest

from flan_jax import config, errors, inference
from flan_jax.inference import saved

TEXT = "The dog runs. Is it true?"


@pytest.fixture(scope="module")
def model(run_dir):
    return inference.load(run_dir)


def test_the_newest_checkpoint_of_a_run_is_taken_or_the_one_that_is_named(model, run_dir):
    named = inference.load(run_dir / "checkpoint_7", batch_size=2)
    other = inference.load(f"{run_dir}/checkpoint_3/")
    assert model.config.num_encoder_layers == 1  # as config.gin says, not as the recipe does
    assert (model.inputs_length, named.inputs_length) == (256, 256)
    assert (model.batch_size, named.batch_size) == (8, 2)
    assert inference.load(run_dir, inputs_length=64).inputs_length == 64
    for same, params in ((True, named.params), (False, other.params)):
        leaf, theirs = (tree["decoder"]["logits_dense"]["kernel"] for tree in (model.params, params))
        assert bool((leaf == theirs).all()) == same


def test_it_answers(model):
    first, second = model.generate([TEXT, "Is it?"], max_tokens=6)
    alone = model.generate(TEXT, max_tokens=6)[0]
    assert dataclasses.replace(alone, scores=first.scores) == first
    assert alone.scores == pytest.approx(first.scores, rel=1e-5)  # rows of a batch round otherwise than one alone
    assert "".join(model.stream(TEXT, max_tokens=6)) == first.text
    assert first.tokens != second.tokens


def test_a_model_is_split_over_devices(run_dir):
    split = inference.load(run_dir, num_partitions=2)
    kernel = split.params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert kernel.sharding.shard_shape(kernel.shape)[0] == kernel.shape[0] // 2
    assert jax.device_count() == 8


def test_gin_is_left_as_it_was(run_dir):
    with config.isolated():
        config.register()
        config.bind(config.parse(["recipes/demo.gin"], ["MODEL_DIR = 'elsewhere'"]))
        before = config.config_str()
        saved.read_run(run_dir / "checkpoint_3")
        assert config.config_str() == before
        assert "inference.Run" not in config.configurables()


def test_no_tensorflow_is_needed(run_dir):
    code = f"import sys; from flan_jax.inference import saved; saved.read_run({str(run_dir / 'checkpoint_3')!r}); "
    code += "assert not {'tensorflow', 'seqio'} & set(sys.modules), 'imported'"
    import subprocess

    from tests import markdown_commands

    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=markdown_commands.ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def without_config(run_dir, tmp_path):
    shutil.copytree(run_dir / "checkpoint_3", tmp_path / "run" / "checkpoint_3")
    return tmp_path / "run"


def without_model(run_dir, tmp_path):
    folder = without_config(run_dir, tmp_path)
    (folder / saved.CONFIG).write_text("TRAIN_STEPS = 3\n")
    return folder


def with_another_model(run_dir, tmp_path):
    folder = without_config(run_dir, tmp_path)
    text = (run_dir / saved.CONFIG).read_text()
    (folder / saved.CONFIG).write_text(text.replace("network.T5Config.mlp_dim = None", "network.T5Config.mlp_dim = 96"))
    return folder


def with_a_lost_vocabulary(run_dir, tmp_path):
    folder = without_config(run_dir, tmp_path)
    text = (run_dir / saved.CONFIG).read_text()
    (folder / saved.CONFIG).write_text(text.replace("VOCABULARY_FILE = None", "VOCABULARY_FILE = '/no/such.model'"))
    return folder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            lambda run, tmp: run.parent / "dmo",
            r"no run or checkpoint at .*/dmo: it does not exist; did you mean 'demo'\?",
        ),
        (lambda run, tmp: run / "checkpoint_8", "checkpoint_8: it does not exist; did you mean 'checkpoint_"),
        (lambda run, tmp: run / "config.gin", r"config\.gin is a file; expected a run's MODEL_DIR"),
        (lambda run, tmp: tmp, "no complete checkpoint_<step> in"),
        (without_config, r"run/config\.gin does not exist; expected a checkpoint in the MODEL_DIR of `flan train`"),
        (without_model, r"config\.gin names no model; expected train_script\.train\.model"),
        (with_another_model, "does not fit the model: .*of another shape"),
        (with_a_lost_vocabulary, r"vocabulary '/no/such\.model' does not exist"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(path, message, run_dir, tmp_path):
    with pytest.raises(errors.FlanError, match=message) as caught:
        inference.load(path(run_dir, tmp_path))
    assert "\n" not in str(caught.value)
