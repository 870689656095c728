"""Checkpoints of adapters: loaded onto their base or refused with another, merged, and taken away again."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import cli, errors, sharding
from flan_jax.checkpoint import adapted, fingerprint, manager
from flan_jax.models import api, presets
from flan_jax.training import adapters, configs, optim, state

CONFIG = presets.t5_config(
    "tiny", vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=1, num_decoder_layers=1
)
LORA = adapters.LoRA(rank=2, alpha=4.0, targets=["*/query", "*/wo"])
PROMPT = adapters.PromptTuning(length=4)
OPTIMIZER = optim.Adafactor(multiply_by_parameter_scale=False)
MESH_SIZES = {"data": 2, "fsdp": 2, "model": 2}


def save(directory, step, tree, notes=None):
    with manager.CheckpointManager(directory, keep=None, period=1, async_save=False, notes=notes) as checkpoints:
        assert checkpoints.save(step, tree, {"row": step}, force=True)
    return f"{directory}/checkpoint_{step}"


def mesh(devices=1):
    return sharding.make_mesh(**(MESH_SIZES if devices == 8 else {}), devices=jax.devices()[:devices])


def restored(path, mode="specific"):
    return configs.RestoreCheckpointConfig(str(path), mode)


def tuning_of(adapter, path):
    found = adapted.open_base(adapter, CONFIG, restored(path), mesh())
    assert found is not None
    return found


def placed(devices=1):
    shapes = api.abstract_params(CONFIG)
    where = sharding.param_shardings(mesh(devices), api.logical_axes(CONFIG), shapes)
    return jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, where)


def assert_equal(ours, theirs, atol=0.0):
    ours, theirs = (dict(fingerprint.named_leaves(tree)) for tree in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base of step 30, another one of the same shapes, and a run of each adapter on the first."""
    folder = tmp_path_factory.mktemp("runs")
    whole = state.create(CONFIG, OPTIMIZER, jax.random.key(1))
    save(folder / "base", 30, whole.checkpoint_tree())
    save(folder / "other", 30, state.create(CONFIG, OPTIMIZER, jax.random.key(2)).checkpoint_tree())
    for name, adapter in (("lora", LORA), ("prompt", PROMPT)):
        tuning = tuning_of(adapter, folder / "base/checkpoint_30")
        first = state.create(CONFIG, OPTIMIZER, jax.random.key(3), adapter, tuning.base)
        params = jax.tree.map(
            lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), first.params
        )
        trained = state.TrainState(jnp.int32(5), params, first.opt_state)
        save(folder / name, 5, trained.checkpoint_tree(), tuning.record)
    return folder


def own_of(folder, name, adapter):
    shapes = state.abstract(CONFIG, OPTIMIZER, adapter).checkpoint_tree()
    return manager.restore_from(folder / name / "checkpoint_5", shapes)["target"]


def base_of(folder):
    return manager.restore_from(folder / "base/checkpoint_30", {"target": placed()}, params_only=True)["target"]


def size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "adapter"), [("lora", LORA), ("prompt", PROMPT)])
def test_a_checkpoint_holds_the_adapter_and_names_its_base(runs, name, adapter):
    notes = manager.notes(runs / name / "checkpoint_5")
    assert adapters.from_settings(notes["adapter"]) == adapter
    assert notes["base"]["path"] == str(runs / "base/checkpoint_30")
    assert notes["base"]["step"] == 30
    assert notes["base"]["fingerprint"] == adapted.digest(base_of(runs))
    assert all(("lora_" in key) or ("soft_prompt" in key) or key == "state.step" for key in notes["fingerprints"])
    assert "adapter" not in manager.notes(runs / "base/checkpoint_30")


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("name", "adapter"), [("lora", LORA), ("prompt", PROMPT)])
def test_an_adapter_is_loaded_onto_its_base(runs, name, adapter, devices):
    path = runs / name / "checkpoint_5"
    loaded = adapted.load_params(path, placed(devices), mesh=mesh(devices))
    assert_equal(loaded, adapter.apply(base_of(runs), own_of(runs, name, adapter)), atol=1e-6)
    with sharding.use(mesh(devices)):  # on one mesh, as evaluation computes with it
        tokens = jnp.ones((8, 4), jnp.int32)
        batch = dict.fromkeys(api.ENCODER_DECODER_FEATURES, tokens)
        assert jax.jit(api.logits, static_argnums=0)(CONFIG, loaded, batch).shape == (8, 4, 64)


def test_a_plain_checkpoint_is_loaded_as_it_is(runs):
    assert_equal(adapted.load_params(runs / "base/checkpoint_30", placed()), base_of(runs))


def test_another_base_is_refused(runs, tmp_path):
    path = runs / "lora/checkpoint_5"
    with pytest.raises(
        errors.FlanError, match=r"base/checkpoint_30 \(step 30.*other/checkpoint_30, whose parameters are others"
    ):
        adapted.load_params(path, placed(), base_path=runs / "other/checkpoint_30")
    # It is known by its parameters, not by its path.
    shutil.copytree(runs / "base", tmp_path / "moved")
    moved = adapted.load_params(path, placed(), base_path=tmp_path / "moved")
    assert_equal(moved, adapted.load_params(path, placed()))
    alone = tmp_path / "alone"
    shutil.copytree(runs / "lora", alone)
    metadata = alone / "checkpoint_5" / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace(str(runs / "base"), str(tmp_path / "gone")))
    with pytest.raises(errors.FlanError, match=r"gone/checkpoint_30, which does not exist; say where it is now"):
        adapted.load_params(alone / "checkpoint_5", placed())


def test_lora_is_merged_into_a_plain_checkpoint_and_taken_away_again(runs, tmp_path, capsys):
    assert cli.main(["merge", "--in", str(runs / "lora"), "--out", str(tmp_path / "merged")]) == 0
    written = tmp_path / "merged" / "checkpoint_35"  # 30 steps of the base and 5 of the adapter
    assert capsys.readouterr().out == f"wrote {written}\n"
    merged = manager.restore_from(written, {"target": placed()}, params_only=True)["target"]
    assert_equal(merged, adapted.load_params(runs / "lora/checkpoint_5", placed()), atol=1e-6)
    assert manager.resolve_restore(tmp_path / "new", tmp_path / "merged", "latest").path == str(written)
    assert manager.notes(written)["merged_from"]["path"] == str(runs / "lora/checkpoint_5")
    adapted.check(manager.resolve_restore(tmp_path / "new", written), None)  # a model to start from

    undo = ["--undo", str(written), "--out", str(tmp_path / "back")]
    assert cli.main(["merge", "--in", str(runs / "lora"), *undo]) == 0
    back = manager.restore_from(tmp_path / "back" / "checkpoint_30", {"target": placed()}, params_only=True)["target"]
    assert_equal(back, base_of(runs), atol=1e-6)

    before = size(tmp_path / "merged")
    with pytest.raises(errors.FlanError, match="checkpoint_35 exists already"):
        adapted.merge(runs / "lora", tmp_path / "merged")
    assert size(tmp_path / "merged") == before


@pytest.mark.parametrize(
    ("source", "base", "message"),
    [
        ("prompt", None, "PromptTuning, which changes no weight of the model and cannot be merged"),
        ("base", None, "holds no adapter"),
        ("lora", "other", "whose parameters are others"),
        ("lara", None, "did you mean 'lora'"),
    ],
)
def test_what_cannot_be_merged_writes_nothing(runs, tmp_path, source, base, message):
    with pytest.raises(errors.FlanError, match=message):
        adapted.merge(runs / source, tmp_path / "out", base_path=base and runs / base)
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_no_base(runs):
    for adapter in (LORA, PROMPT):
        with pytest.raises(errors.FlanError, match=r"holds an adapter.*flan merge --in"):
            adapted.open_base(adapter, CONFIG, restored(runs / "lora", "latest"), mesh())
    with pytest.raises(errors.FlanError, match="INITIAL_CHECKPOINT_PATH"):
        adapted.open_base(LORA, CONFIG, None, mesh())
    assert adapted.open_base(None, CONFIG, None, mesh()) is None


@pytest.mark.parametrize(
    ("directory", "adapter", "base", "message"),
    [
        ("lora", None, None, "holds a run of the adapter LoRA, and this run has none"),
        ("base", LORA, "base", "holds checkpoints of a whole model, which an adapter cannot continue"),
        ("lora", LORA, "other", "an adapter of .*base/checkpoint_30 .*the base given is .*other/checkpoint_30"),
        ("lora", adapters.LoRA(rank=2, alpha=8.0, targets=LORA.targets), "base", "alpha = 4.0, this run has 8.0"),
        ("lora", PROMPT, "base", "kind = 'LoRA', this run has 'PromptTuning'"),
        ("lora", LORA, "base", None),
        ("prompt", PROMPT, "base", None),
        ("base", None, None, None),
    ],
)
def test_a_run_is_continued_as_what_it_is(runs, directory, adapter, base, message):
    decision = manager.resolve_restore(runs / directory, None, fallback_to_scratch=True)
    tuning = None if adapter is None else tuning_of(adapter, runs / base / "checkpoint_30")
    if message is None:
        adapted.check(decision, tuning)
        return
    with pytest.raises(errors.FlanError, match=message):
        adapted.check(decision, tuning)


def test_training_does_not_start_from_an_adapter(runs, tmp_path):
    decision = manager.resolve_restore(tmp_path, runs / "lora/checkpoint_5")
    with pytest.raises(errors.FlanError, match="flan merge --in"):
        adapted.check(decision, None)


def test_a_damaged_newest_checkpoint_does_not_hide_whose_run_it_is(runs, tmp_path):
    shutil.copytree(runs / "lora", tmp_path / "run")
    shutil.copytree(tmp_path / "run/checkpoint_5", tmp_path / "run/checkpoint_6")
    (tmp_path / "run/checkpoint_6/_CHECKPOINT_METADATA").write_text('{"custom_')
    decision = manager.RestoreDecision("model_dir", str(tmp_path / "run/checkpoint_6"), 6)
    adapted.check(decision, tuning_of(LORA, runs / "base/checkpoint_30"))
    with pytest.raises(errors.FlanError, match="whose parameters are others"):
        adapted.check(decision, tuning_of(LORA, runs / "other/checkpoint_30"))
