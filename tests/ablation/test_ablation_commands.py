"""What `flan ablate` prints: the script for other machines runs every step after what it needs; mistakes are one line."""

import subprocess

import pytest

from flan_jax import ablate, config, errors
from flan_jax.ablation import commands, grid
from flan_jax.ablation import steps as steps_lib
from tests.ablation import ablation_grids

# Stand-ins: flan notes what it is asked to write, sbatch runs an array's tasks at once, srun what it is given.
FLAN = """#!/bin/bash
for word in "$@"; do case $word in --gin.MODEL_DIR=*|--gin.EVAL_OUTPUT_DIR=*) echo "${word##*/}" >> "$NOTES";; esac; done
"""
SBATCH = """#!/bin/bash
cat > "$NOTES.script.$$"
for word in "$@"; do case $word in --array=*) last=${word##*-};; esac; done
for task in $(seq $last); do SLURM_ARRAY_TASK_ID=$task bash "$NOTES.script.$$" || exit 1; done
echo $$
"""
SRUN = '#!/bin/bash\nexec "$@"\n'


@pytest.fixture
def programs(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"flan": FLAN, "sbatch": SBATCH, "srun": SRUN}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.mark.parametrize("form", ["commands", "slurm"])
def test_the_script_runs_each_step_once_after_what_it_needs(form, programs, tmp_path):
    made = ablation_grids.grid(seeds=(0, 1))
    sweep = steps_lib.build(made)
    ablation = grid.Ablation("x", "X", "tiny", {"tiny": made}, "x", "y")
    script = "\n".join(commands.lines(ablation, sweep, tmp_path / "runs", form))
    subprocess.run(["bash", "-euc", script], check=True, stdout=subprocess.DEVNULL)
    ran = [line.strip("'") for line in programs.read_text().splitlines()]
    assert sorted(ran) == sorted(sweep.steps)
    assert all(ran.index(need) < ran.index(key) for key, step in sweep.steps.items() for need in step.needs)


def test_cells_share_what_they_agree_in_and_nothing_else():
    sweep = steps_lib.build(ablation_grids.grid(seeds=(0, 1)))
    # Of each seed a pre-training and a tuning, which both arms are asked of.
    kinds = [step.name for step in sweep.steps.values()]
    assert {name: kinds.count(name) for name in kinds} == {"pretrain": 2, "tune": 2, "heldout": 4}
    again = steps_lib.build(ablation_grids.grid(seeds=(0, 1)))
    assert list(again.steps) == list(sweep.steps)
    longer = ablation_grids.grid(seeds=(0, 1), settings={"tune": {"TRAIN_STEPS": 9}})
    assert set(steps_lib.build(longer).steps).isdisjoint(
        key for key, step in sweep.steps.items() if step.name != "pretrain"
    )


def test_quickly_is_one_seed_and_two_arms():
    made = ablation_grids.grid(
        arms={"a": {}, "b": {}, "c": {}}, seeds=(3, 4), quick={"tune": {"TRAIN_STEPS": 1}}, quick_arms=("b", "c")
    )
    quick = made.quickly()
    assert (list(quick.arms), tuple(quick.seeds)) == (["b", "c"], (3,))
    assert quick.merged(quick.cells()[0], "tune")["TRAIN_STEPS"] == 1
    assert quick.merged(quick.cells()[0], "all")["network.T5Config.num_encoder_layers"] == 1


def test_words_in_braces_are_filled_in():
    made = ablation_grids.grid(
        lines={"sst2": {"fill": {"mixture": "{line}_{n}templates"}}}, arms={"4": {"fill": {"n": "{arm}"}}}
    )
    made = ablation_grids.steps_lib.dataclasses.replace(made, settings={"tune": {"MIXTURE_OR_TASK_NAME": "{mixture}"}})
    assert made.merged(made.cells()[0], "tune")["MIXTURE_OR_TASK_NAME"] == "sst2_4templates"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": {"a": {"tone": {}}}}, "'a' of an ablation: unknown part 'tone'; did you mean 'tune'"),
        ({"arms": {"a": {"skip": ("tune1",)}}}, "unknown phase 'tune1'; did you mean 'tune'"),
        ({"metrics": {"m": ("helout/nli",)}}, "metric 'm': unknown evaluation 'helout'; did you mean 'heldout'"),
        ({"arms": {}}, "arms are empty"),
        (
            {"arms": {"a": {"tune": {"TRAIN_STEPZ": 1}}}},
            "sst2_10templates, a, seed 0: tune: (?s:.*)'TRAIN_STEPZ' is set",
        ),
        (
            {
                "lines": {"sst3_10templates": {}},
                "settings": {"tune": {"MIXTURE_OR_TASK_MODULE": "flan_jax.tasks.sentiment"}},
            },
            "unknown task or mixture 'sst3_10templates'",
        ),
        ({"arms": {"a": {"tune": {"TRAIN_STEPS": 4}}}}, "TRAIN_STEPS is 4, and it goes on from step 4"),
        ({"arms": {"a": {"skip": ("pretrain", "tune")}}}, "nothing is trained and `initial` is not set"),
        (
            {"phases": {name: {"gin_file": "recipes/demo.gin"} for name in ("pretrain", "tune")}, "lines": {"": {}}},
            "it follows another phase and starts from nothing",
        ),
    ],
)
def test_mistakes_are_named_before_anything_runs(given, message):
    with pytest.raises(errors.FlanError, match=message):
        steps_lib.build(ablation_grids.grid(**given))


def test_the_command_line_says_what_is_wrong(capsys):
    flags = config.GinFlags(("gin/ablations/clusters.gin",), (), ())
    with pytest.raises(errors.FlanError, match="unknown scale 'tinny'; did you mean 'tiny'"):
        ablate.read(flags, "tinny")
    with pytest.raises(SystemExit) as ended:
        ablate.main([])
    assert ended.value.code == 2
    assert "expected --gin_file=PATH" in capsys.readouterr().err


def test_an_evaluation_is_what_it_asks():
    step = ablation_grids.step("key", "other")
    assert step.argv("/runs")[-1] == "--gin.utils.RestoreCheckpointConfig.mode='specific'"
    assert "--gin.CHECKPOINT_PATH='/runs/other/checkpoint_1'" in step.argv("/runs")
    suite = steps_lib.Step(
        "key", "suite", "s", (), {"suite": "bbh", "cot": True, "shots": 0, "samples": None}, "/c", None, "d", 0, "", ""
    )
    flags = ["--suite=bbh", "--cot", "--shots=0", "--tfds_data_dir=d", "--out=/runs/key", "--checkpoint=/c"]
    assert suite.argv("/runs") == ["eval", *flags]
