"""`flan preview`: what it shows is what the model gets."""

import re

import pytest
from data_builders import dataset, prepare, rows, tokenizer

from flan_jax import cli, errors
from flan_jax.data import features as features_lib
from flan_jax.data import mixtures, preview


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Calls `preview.show` on the rows of one task of a user's; returns what was printed."""
    data_dir = prepare(tmp_path, "mini", train=rows(20), validation=rows(4))
    catalogue = mixtures.Catalogue([dataset(tmp_path)])
    monkeypatch.setattr(mixtures.Catalogue, "from_modules", lambda modules: catalogue)

    def call(name: str = "mini_4templates", inputs: int = 64, targets: int = 16, **options) -> str:
        options = {"split": "train", "count": 2, "seed": 0, "missing": "error", "pack": False} | options
        lengths = {"inputs": inputs, "targets": targets}
        preview.show(name, module=None, data_dir=data_dir, vocabulary_file=None, lengths=lengths, **options)
        return capsys.readouterr().out

    return call


def features(printed: str, name: str) -> list[list[int]]:
    found = re.findall(rf"^  {name} +\[\d+\] ?(.*)$", printed, re.MULTILINE)
    return [[int(value) for value in line.split()] for line in found]


def test_text_tokens_and_loss_mask(show):
    printed = show(count=3)
    assert printed.count("=== row ") == printed.count("--- segment 1: mini_4templates") == 3
    assert "=== row 0 of mini_4templates, train: 1 example\n" in printed
    assert printed.count("  | OPTIONS:\n  | - yes\n  | - no\n") == 3
    tokens = re.findall(r"^  tokens: (.*)$", printed, re.MULTILINE)
    pieces = tokenizer().vocabulary.tokenizer
    for ids, line in zip(features(printed, "encoder_input_tokens"), tokens[::2], strict=True):
        assert [pieces.id_to_piece(i).replace("\n", "\\n") for i in ids] == line.split(" ")
        assert line.endswith(" </s>")
        assert "\\n" in line
    for ids, weights in zip(
        features(printed, "decoder_target_tokens"), features(printed, "decoder_loss_weights"), strict=True
    ):
        assert weights == [1] * len(ids)
        assert tokenizer().decode(ids) in ("yes", "no")
    assert "segment_ids" not in printed
    assert printed.endswith("without segments; --pack shows rows as training packs them\n")
    assert "cut" not in printed


def test_a_decoder_only_model_sees_one_stream(show):
    printed = show(count=1, converter=features_lib.PrefixLM())
    assert "encoder" not in printed
    (tokens,), (weights,) = features(printed, "decoder_target_tokens"), features(printed, "decoder_loss_weights")
    said = [int(count) for count in re.findall(r"^(?:inputs|targets), (\d+) of", printed, re.MULTILINE)]
    assert (len(tokens), weights) == (sum(said), [0] * said[0] + [1] * said[1])


def test_packed_rows_show_their_segments(show):
    printed = show(pack=True, inputs=120, count=1)
    examples = int(re.findall(r"train: (\d+) examples", printed)[0])
    assert examples > 1
    assert re.findall(r"--- segment (\d+)", printed) == [str(i) for i in range(1, examples + 1)]
    assert "--pack" not in printed
    (segments,) = features(printed.replace(" ...", ""), "encoder_segment_ids")
    assert segments == sorted(segments)
    assert segments[0] == 1
    (targets,) = features(printed, "decoder_segment_ids")
    assert set(targets) == set(range(1, examples + 1))


def test_what_was_cut_is_said(show):
    printed = show(inputs=5, count=1)
    whole = int(re.findall(r"inputs, (\d+) of 64", show(count=1))[0])
    assert f"inputs, 5 of 5 tokens (cut: the last {whole - 5} tokens did not fit):" in printed
    assert re.search(r"^targets, \d+ of 16 tokens:$", printed, re.MULTILINE)


def test_a_side_that_just_fits_is_not_cut(show):
    whole = int(re.findall(r"inputs, (\d+) of 64", show(count=1))[0])
    assert "cut" not in show(inputs=whole, count=1)


def test_split_and_seed(show):
    assert "row 19" not in show(split="validation", count=8)
    assert show(seed=1) != show(seed=2)
    assert show(seed=1) == show(seed=1)


def test_unknown_task(show):
    with pytest.raises(errors.FlanError, match="did you mean 'mini_4templates'"):
        show("mini_4template")


def test_command_line(sample_dir, capsys):
    assert cli.main(["preview", "rte_type_3", "--tfds_data_dir", sample_dir, "--n", "1", "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert "--- segment 1: rte_type_3" in printed
    assert "  | - yes\n  | - no" in printed
