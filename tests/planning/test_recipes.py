"""Recipes for slices: the mesh divides devices and batch, the whole step is traced, and the figures are the papers'."""

import functools
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from flan_jax import config, config_check, plan, run_check, sharding
from flan_jax.data import vocabulary
from flan_jax.planning import runs, slices
from flan_jax.training import optim, step
from tests import slice_recipes

FLOPS_A_RUN = {  # arXiv 2210.11416, table 2
    "flan_t5_large": 2.4e19,
    "flan_t5_xl": 5.6e19,
    "flan_t5_xxl": 7.6e19,
    "flan_palm_8b": 1.6e20,
    "flan_palm_62b": 1.2e21,
    "flan_palm_540b": 5.6e21,
    "flan_cont_palm_62b": 1.8e21,
}


@functools.cache
def read(name: str) -> runs.Run:
    with config.isolated(empty_registry=True):
        return plan.read(config.GinFlags((f"recipes/{name}.gin",), (), ()))


@pytest.mark.parametrize("name", slice_recipes.SLICES)
def test_the_whole_step_is_traced_on_the_recipes_mesh(name):
    run, devices = read(name), slices.device_count(slice_recipes.SLICES[name])
    layout = run.layout(devices)
    run.check(layout, devices)
    mesh = sharding.abstract_mesh(layout.data, layout.fsdp, layout.model)
    optimizer, shapes, places = run.state(mesh)
    held = runs.bytes_on_a_device(shapes, places)
    assert held < 1.05 * runs.num_bytes(shapes) / devices + 2**20  # nothing of size is left whole
    update = step.make_train_step(run.model, optimizer, run.trainer.learning_rate_fn, run.trainer.num_microbatches)
    batch = {
        feature: jax.ShapeDtypeStruct((run.dataset.batch_size, length), jnp.int32)
        for feature, length in run.lengths.items()
    }
    with sharding.use(mesh, run.partitioner.rules):
        after, sums = jax.eval_shape(update, shapes, batch, jax.random.key(0))
    assert jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, shapes) == jax.tree.map(
        lambda _: True, shapes
    )
    assert sums["loss"].shape == ()


@pytest.mark.parametrize("name", FLOPS_A_RUN)
def test_a_run_costs_what_the_paper_says(name):
    run = read(name)
    # Rounded to two digits there; attention, which their 6 x parameters x tokens leaves out, is up to a quarter here.
    assert run.flops * run.steps == pytest.approx(FLOPS_A_RUN[name], rel=0.3)


@pytest.mark.parametrize("name", slice_recipes.SLICES)
def test_the_head_names_the_recipe_and_its_slice(name):
    text = (config.shipped_gin_dir() / "recipes" / f"{name}.gin").read_text()
    assert f"--gin_file=recipes/{name}.gin" in text
    assert re.search(r"arXiv \d{4}\.\d{5}", text)


def test_what_a_head_calls_planned_is_in_the_table_of_plans():
    table = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "SCALE.md").read_text()
    planned = set(re.findall(r"`(\w+)`", "\n".join(line for line in table.splitlines() if line.startswith("| `"))))
    heads = {name: (slice_recipes.RECIPES / f"{name}.gin").read_text() for name in slice_recipes.SLICES}
    claimed = {name for name, text in heads.items() if "checked by `flan plan`" in text}
    assert claimed <= planned
    assert claimed


def test_opt_iml_warms_up_for_60_steps_and_ends_at_zero():
    for name, last in (("opt_iml_30b", 4000), ("opt_iml_175b", 8000)):
        rate = read(name).trainer.learning_rate_fn
        assert float(rate(30)) == pytest.approx(2.5e-5)
        assert float(rate(60)) == pytest.approx(5e-5)
        assert float(rate((last + 60) // 2)) == pytest.approx(2.5e-5, rel=1e-3)
        assert float(rate(last)) < 1e-8 * 1.01


TABLE_22 = {  # arXiv 2210.11416, appendix E: batch in rows, dropout, constant rate, steps
    "flan_t5_small": (64, 0.05, 5e-4, 98_000),
    "flan_t5_base": (64, 0.05, 5e-4, 84_000),
    "flan_t5_large": (64, 0.05, 5e-4, 64_000),
    "flan_t5_xl": (64, 0.05, 5e-4, 38_000),
    "flan_t5_xxl": (64, 0.05, 5e-4, 14_000),
    "flan_palm_8b": (32, 0.05, 3e-3, 40_000),
    "flan_palm_62b": (32, 0.05, 3e-3, 40_000),
    "flan_palm_540b": (32, 0.1, 1e-3, 21_000),
    "flan_cont_palm_62b": (32, 0.05, 3e-3, 60_000),
    "flan_u_palm_540b": (32, 0.1, 1e-3, 30_000),
}
OTHERS = {  # arXiv 2109.01652, section 2.4 (8,192 tokens as rows of 1,024 inputs); arXiv 2212.12017, table 3 and section 3.3
    "flan_137b": (8, None, 3e-5, 30_000),
    "opt_iml_30b": (256, 0.1, 5e-5, 4_000),
    "opt_iml_175b": (128, 0.1, 5e-5, 8_000),
}


@pytest.mark.parametrize("name", [*TABLE_22, *OTHERS])
def test_hyperparameters_are_the_papers(name):
    """What the recipe comes to, not what it says: steps are those after the checkpoint, and the rate is the step's own."""
    run = read(name)
    batch, dropout, rate, steps = (TABLE_22 | OTHERS)[name]
    assert (run.dataset.batch_size, run.steps) == (batch, steps)
    if dropout is not None:
        assert run.model.config.dropout_rate == dropout
    schedule = run.trainer.learning_rate_fn
    if name in TABLE_22 or name == "flan_137b":
        assert isinstance(run.model.optimizer_def, optim.Adafactor)
        assert [float(schedule(at)) for at in (0, 1, steps, 2_000_000)] == pytest.approx([rate] * 4)
    else:
        assert max(float(schedule(at)) for at in range(0, steps, 20)) == pytest.approx(rate)
    assert run.dataset.pack


def test_every_recipe_of_a_slice_is_held_against_its_paper():
    """LLaMA-I's hyperparameters were never published."""
    assert set(slice_recipes.SLICES) == {*TABLE_22, *OTHERS, "llama_i"}


def test_a_step_of_flan_137b_is_8192_tokens_of_inputs():
    run = read("flan_137b")
    assert run.dataset.batch_size * run.dataset.task_feature_lengths["inputs"] == 8192
    assert run.tokens == 10_240


class Bytes:
    """In place of `tokenizers.ByteLevelBPETokenizer`, which is no dependency: OPT's four special pieces and a piece a byte."""

    def __init__(self, vocabulary, merges):
        self.files = (vocabulary, merges)

    def get_vocab_size(self):
        return 260

    def encode(self, text):
        return types.SimpleNamespace(ids=[byte + 4 for byte in text.encode()])

    def decode(self, ids):
        return bytes(number - 4 for number in ids).decode()


def test_opts_vocabulary_is_bound_as_the_documentation_says(tmp_path, monkeypatch):
    """The two files of docs/MODELS.md, and a recipe of OPT's."""
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "MODELS.md").read_text()
    module, settings = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / "opt_bpe.py").write_text(module)
    (tmp_path / "opt_bpe.gin").write_text(settings)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", types.SimpleNamespace(ByteLevelBPETokenizer=Bytes))
    monkeypatch.setitem(sys.modules, "opt_bpe", None)  # forgotten afterwards
    del sys.modules["opt_bpe"]
    with config.isolated(empty_registry=True):
        config.register()
        parsed = config.parse(["recipes/opt_iml_30b.gin", str(tmp_path / "opt_bpe.gin")], ["MODEL_DIR = 'run'"])
        problems = config_check.check(parsed, plan.ROOT, known_macros=run_check.SHARED_MACROS)
        assert [str(problem) for problem in problems if problem.level == "error"] == []
        config.bind(parsed)
        words = plan.bound_run().model.input_vocabulary
    assert words._bpe.files == ("OPT_FOLDER/vocab.json", "OPT_FOLDER/merges.txt")
    tokenizer = vocabulary.Tokenizer(words)
    (ids,) = tokenizer.encode(["Is it so?\nYes."])
    assert (len(ids), words.vocab_size, words.eos_id) == (14, 260, 2)
    assert tokenizer.decode([*ids, 2, ids[0]]) == "Is it so?\nYes."
