"""`flan plan` on a slice that is not there, and `flan train --precompile`: with the real compilers, one small step each."""

import importlib.util
import json

import pytest

from flan_jax import cli, config, plan
from flan_jax.training import program

SMALL = [
    "--gin_file=recipes/decoder_only_demo.gin",
    "--gin.network.TransformerConfig.num_layers=1",
    "--gin.BATCH_SIZE=8",
]
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.fixture(scope="module")
def planned():
    """Exit code and JSON of a plan for four chips."""
    with pytest.MonkeyPatch.context() as patch, config.isolated(empty_registry=True):
        said = []
        patch.setattr("builtins.print", lambda text: said.append(text))
        code = plan.main(
            [*SMALL, "--topology=v4:2x2x1", "--gin.partitioning.PjitPartitioner.fsdp_partitions=2", "--json"]
        )
    return code, json.loads(said[0])["plans"][0]


@needs_libtpu
def test_a_step_is_compiled_for_chips_that_are_not_there(planned):
    code, found = planned
    assert code == 0
    assert (found["chips"], found["devices"], found["layout"]["data"], found["layout"]["fsdp"]) == (4, 4, 2, 2)
    assert found["memory"]["arguments"] < found["memory"]["peak"] < found["memory"]["capacity"]
    assert found["steps"] == 200


@needs_libtpu
def test_compiled_products_are_those_of_the_mathematics(planned):
    assert planned[1]["recomputation"] == pytest.approx(1.0, abs=0.02)
    assert planned[1]["notes"] == []


@needs_libtpu
def test_parameters_are_gathered_and_gradients_summed(planned):
    kinds = {one["kind"] for one in planned[1]["exchanges"]}
    assert "all-gather" in kinds
    assert kinds & {"all-reduce", "reduce-scatter"}
    assert 0 < planned[1]["time"]["fast"] <= planned[1]["time"]["slow"]


def test_precompile_reports_on_the_devices_here(capsys, tmp_path):
    with config.isolated(empty_registry=True):
        code = cli.main(
            ["train", *SMALL, "--tfds_data_dir=sample", f"--gin.MODEL_DIR='{tmp_path}/run'", "--precompile"]
        )
    shown = capsys.readouterr().out
    assert code == 0
    assert "8 x cpu: 8 chips, 8 devices" in shown
    assert "peak" in shown
    assert not (tmp_path / "run").exists()


def test_a_run_finds_what_precompile_compiled(capsys, tmp_path, monkeypatch):
    """The step with its sums by task, which are a run's default: lowered to the same text, which the compilation cache goes by."""
    lowered = []
    lower = program.lower

    class Stopped(Exception):
        pass

    def kept(*args, **settings):
        lowered.append(lower(*args, **settings).as_text())
        raise Stopped

    monkeypatch.setattr(program, "lower", kept)
    given = ["train", *SMALL, "--tfds_data_dir=sample", f"--gin.MODEL_DIR='{tmp_path}/run'"]
    for flags in (["--precompile"], []):
        with config.isolated(empty_registry=True), pytest.raises(Stopped):
            cli.main([*given, *flags])
    assert lowered[0] == lowered[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v9:2x2", *SMALL], "unknown chip 'v9'"),
        (["--topology=v3:2x2", *SMALL, "--gin.DROPUT_RATE=0.1"], "did you mean 'DROPOUT_RATE'"),
    ],
)
def test_mistakes_end_in_one_message(flags, message, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if importlib.util.find_spec("libtpu") is None and "v9" not in flags[0]:
        pytest.skip("libtpu is not installed")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", *flags])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
