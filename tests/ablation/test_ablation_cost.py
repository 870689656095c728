"""`flan ablate --plan` without a slice: what each training of a grid holds and reads, without a vocabulary or data."""

import pytest

from flan_jax import ablate, cli, config
from flan_jax.ablation import cost
from flan_jax.ablation import steps as steps_lib
from flan_jax.models import api, presets

WIDTHS = {16: 1, 32: 2, 64: 4}  # of the small world's models, with their heads


def groups(name, root, scale="tiny"):
    grid = ablate.read(config.GinFlags((f"gin/ablations/{name}.gin",), (), ()), scale).grid
    return cost.groups(steps_lib.build(grid, placeholders=True), root)


def test_sizes_of_the_small_world(tmp_path):
    found = groups("scale", tmp_path)
    sizes = [
        api.num_params(
            presets.t5_config(
                vocab_size=640,
                emb_dim=width,
                num_heads=heads,
                head_dim=16,
                num_encoder_layers=2,
                num_decoder_layers=1,
                mlp_dim=2 * width,
                mlp_activations=("gelu", "linear"),
                logits_via_embedding=False,
            )
        )
        for width, heads in WIDTHS.items()
    ]
    for phase, steps, row in (("pretrain", 3000, 80 + 28), ("tune", 600, 96 + 32)):
        own = [group for group in found if group.phase == phase]
        assert [group.cost.params for group in own] == sizes
        assert {(len(group.steps), group.left) for group in own} == {(5, 5)}  # one for each seed
        assert {group.cost.updates for group in own} == {steps}
        assert {group.cost.tokens for group in own} == {steps * 16 * row}


def test_the_papers_model(tmp_path):
    (tune,) = groups("clusters", tmp_path, "full")
    assert tune.cost.params == pytest.approx(137.4e9, rel=0.01)
    assert (tune.cost.updates, len(tune.steps)) == (30_000, 7)


def test_the_command_needs_no_data_and_no_vocabulary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ablate", "--gin_file=gin/ablations/scale.gin", "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.count("| pretrain | 5 | 5 |") == said.count("| tune | 5 | 5 |") == 3
