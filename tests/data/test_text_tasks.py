"""Plain text as tasks: every objective by its name, in a mixture beside others, read by position."""

import dataclasses

import numpy as np
import pytest
from data_builders import dataset, prepare, rows, tokenizer

from flan_jax import errors
from flan_jax.data import denoising, features, loader, mixtures, quiet, spec, text_tasks, vocabulary
from flan_jax.tasks import pretraining

LENGTHS = {"inputs": 64, "targets": 48}
TEXTS = [
    {"text": f"Document {n} begins. " + "It goes on and on with words of all kinds. " * (n % 11)} for n in range(40)
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    data_dir = prepare(folder, "notes", train=[*TEXTS, {"text": " "}])
    data_dir = prepare(folder, "mini", train=rows(30))
    own = pretraining.dataset("notes", "notes:1.0.0", rows=41)
    texts = spec.Collection("pretraining", {}, datasets=lambda: (own,))
    mixed = spec.Blend("mixed", (spec.Part("pretraining", 5, style="lm"), spec.Part("mine", 95, style="4templates")))
    mini = dataclasses.replace(dataset(folder, splits={"train": "train"}), collection="mine")
    return mixtures.Catalogue([mini], collections=[texts], blended=[mixed]), data_dir


def opened(catalogue, name):
    known, data_dir = catalogue
    return known.open(name, data_dir=data_dir, split="train", tokenizer=tokenizer(), lengths=LENGTHS, seed=3)


@pytest.mark.parametrize("objective", denoising.OBJECTIVES)
def test_documents_can_be_read_back(catalogue, objective):
    (member,) = opened(catalogue, f"notes_{objective}").members
    assert member.rows == 41
    tok = tokenizer()
    whole = {tok.decode(tok.encode([row["text"]])[0]).strip() for row in TEXTS}
    marks = text_tasks.sentinels(tok.vocabulary)
    for example in member.stream.read(np.arange(60)):
        assert len(example.inputs) <= LENGTHS["inputs"]
        assert len(example.targets) <= LENGTHS["targets"]
        assert example.targets[-1] == tok.vocabulary.eos_id
        inputs, targets = example.inputs[:-1], example.targets[:-1]
        for mode in ("[NLU]", "[NLG]", "[S2S]"):
            ids = tok.encode([mode])[0]
            if inputs[: len(ids)] == ids:
                inputs = inputs[len(ids) :]
        put_back = [*inputs, *targets] if targets[0] not in marks else denoising.restore(inputs, targets, marks)
        assert any(tok.decode(put_back).strip() in text for text in whole)


def test_positions_are_read_in_any_order(catalogue):
    (member,) = opened(catalogue, "notes_ul2r").members
    positions = np.asarray([100, 3, 41, 0, 7])
    found = member.stream.read(positions)
    assert found == [member.stream.read(np.asarray([position]))[0] for position in positions]
    epochs = [member.stream.read(np.arange(41) + 41 * epoch) for epoch in (0, 1)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("converter", [features.EncoderDecoder(), features.PrefixLM()])
def test_both_families_read_them_beside_instructions(catalogue, converter):
    """5% of the draws are text, and batches resume."""
    mixture = opened(catalogue, "mixed")
    assert dict(zip((m.name for m in mixture.members), mixture.probabilities, strict=True)) == pytest.approx(
        {"notes_lm": 0.05, "mini_4templates": 0.95}
    )
    make = lambda: loader.TrainLoader(mixture, lengths=LENGTHS, batch_size=4, seed=0, pack=True, converter=converter)  # noqa: E731
    batches = iter(make())
    first = [next(batches) for _ in range(3)]
    again = make()
    again.restore(first[0].state)
    following = next(iter(again))
    for name, value in first[1].features.items():
        np.testing.assert_array_equal(following.features[name], value)


@pytest.mark.parametrize(
    ("converter", "row"), [(features.EncoderDecoder(), 48), (features.LM(), 48), (features.PrefixLM(), 112)]
)
def test_text_for_a_language_model_fills_the_row_of_inputs_and_targets(catalogue, converter, row):
    known, data_dir = catalogue
    given = {"data_dir": data_dir, "split": "train", "tokenizer": tokenizer(), "lengths": LENGTHS, "seed": 3}
    (member,) = known.open("notes_lm", row=converter.capacity(LENGTHS)[-1], **given).members
    examples = member.stream.read(np.arange(41))
    assert not any(example.inputs for example in examples)
    assert max(len(example.targets) for example in examples) == row
    longest = max(examples, key=lambda example: len(example.targets))
    assert converter.row([longest], LENGTHS, packed=True)["decoder_loss_weights"].tolist() == [1] * row
    (cut,) = known.open("notes_prefix_lm", row=row, **given).members
    assert all(len(example.targets) <= LENGTHS["targets"] for example in cut.stream.read(np.arange(41)))


def test_a_vocabulary_without_sentinels_is_refused(catalogue):
    class Bytes:
        vocab_size, eos_id, unk_id = 259, 1, 2

        def encode(self, text):
            return [byte + 3 for byte in text.encode()]

        def decode(self, ids):
            return bytes(i - 3 for i in ids if i > 2).decode()

    known, data_dir = catalogue
    options = {"data_dir": data_dir, "split": "train", "lengths": LENGTHS, "seed": 0}
    with pytest.raises(errors.FlanError, match="the vocabulary has no sentinels"):
        known.open("notes_span_corruption", tokenizer=vocabulary.Tokenizer(Bytes()), **options)
    (member,) = known.open("notes_prefix_lm", tokenizer=vocabulary.Tokenizer(Bytes()), **options).members
    assert member.stream.read(np.arange(3))


def test_names(catalogue):
    known, _ = catalogue
    assert "notes_ul2r" in known.names()
    with pytest.raises(errors.FlanError, match="'notes_ul2'; did you mean 'notes_ul2r'"):
        known.mixture("notes_ul2")
    assert mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").mixture("c4_ul2r").tasks == ("c4_ul2r",)


def test_as_a_seqio_preprocessor():
    seqio, tf = quiet.seqio(), quiet.tensorflow()
    vocab = vocabulary.as_seqio(vocabulary.sentencepiece_vocabulary())
    tokens = [tokenizer().encode([row["text"]])[0] for row in TEXTS[5:15]]
    given = tf.data.Dataset.from_generator(
        lambda: ({"targets": ids} for ids in tokens), output_signature={"targets": tf.TensorSpec([None], tf.int32)}
    )
    feature = {name: seqio.Feature(vocab) for name in ("inputs", "targets")}
    cut = text_tasks.preprocessor("span_corruption")
    found = list(cut(given, {"inputs": 512, "targets": 114}, feature).as_numpy_iterator())
    again = list(cut(given, {"inputs": 512, "targets": 114}, feature).as_numpy_iterator())
    marks = text_tasks.sentinels(vocab)
    assert [denoising.restore(e["inputs"].tolist(), e["targets"].tolist(), marks) for e in found] == tokens
    assert all((a["inputs"] == b["inputs"]).all() for a, b in zip(found, again, strict=True))
    with pytest.raises(errors.FlanError, match="unknown objective 'span'"):
        text_tasks.preprocessor("span")
