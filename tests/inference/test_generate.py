"""Answers to lists of prompts: the same whatever they are batched with, cut at stop strings, and in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax import errors, sharding
from flan_jax.data import features, vocabulary
from flan_jax.inference import batches, decode, generate, settings
from flan_jax.models import api, presets

Settings = settings.Settings
EOS = 1
TOY = {"emb_dim": 24, "num_heads": 2, "head_dim": 8, "mlp_dim": 40, "dropout_rate": 0.0}
ENCODER_DECODER = presets.t5_config(**TOY, vocab_size=256, num_encoder_layers=1, num_decoder_layers=1)
DECODER_ONLY = presets.decoder_only_config(**TOY, vocab_size=256, num_layers=1, prefix_lm=True)
LIKED = "abcde fgh"  # the model says little else


class Letters:
    """A vocabulary of single characters."""

    class vocabulary:
        eos_id = EOS

    def encode(self, texts):
        return [[ord(character) for character in text] for text in texts]

    def decode(self, ids):
        return "".join(map(chr, ids))


def params_of(config):
    """Random ones that prefer some letters and the end, so that answers differ in text and length."""
    params = jax.tree.map(lambda leaf: 1.5 * leaf, api.init(config, jax.random.key(3)))
    wanted = jnp.asarray([EOS, *map(ord, LIKED)])
    if "token_embedder" in params:
        kernel = params["decoder"]["logits_dense"]["kernel"]
        params["decoder"]["logits_dense"]["kernel"] = jnp.full_like(kernel, 0).at[:, wanted].set(kernel[:, wanted])
    return params


PARAMS = dict.fromkeys((ENCODER_DECODER, DECODER_ONLY))


def asked(config=ENCODER_DECODER, batch_size=4, **options):
    if PARAMS[config] is None:
        PARAMS[config] = params_of(config)
    converter = features.PrefixLM() if config is DECODER_ONLY else features.ENCODER_DECODER
    options = {"inputs_length": 64, "converter": converter, **options}
    return generate.Generator(config, PARAMS[config], Letters(), batch_size=batch_size, **options)


TEXTS = ["Is it so?", "Is it so that the moon is made of green cheese?", "Is it?", "so", "What is it then, if not so?"]
HOW = Settings(max_tokens=8)
DRAWN = Settings(max_tokens=8, temperature=1.0, top_p=0.9, n=2, seed=5)


@pytest.mark.parametrize("config", PARAMS, ids=["encoder_decoder", "decoder_only"])
def test_neither_batches_nor_buckets_change_an_answer(config, monkeypatch):
    found = asked(config).generate(TEXTS, DRAWN)
    assert len({text for answer in found for text in answer.texts}) > 6
    monkeypatch.setattr(batches, "SMALLEST_BUCKET", 64)
    monkeypatch.setattr(generate, "WINDOW", 1)
    again = asked(config, batch_size=2).generate(TEXTS, DRAWN)
    assert [answer.tokens for answer in again] == [answer.tokens for answer in found]
    scores = ([answer.scores for answer in answers] for answers in (again, found))
    np.testing.assert_allclose(*scores, rtol=1e-4)


@pytest.mark.parametrize("config", PARAMS, ids=["encoder_decoder", "decoder_only"])
def test_a_prompt_is_laid_out_as_in_training(config):
    inputs = [*map(ord, TEXTS[0]), EOS]
    if config is DECODER_ONLY:
        batch = {"decoder_input_tokens": jnp.asarray([[0, *inputs]])}
    else:
        batch = {"encoder_input_tokens": jnp.asarray([inputs])}
    asked(config)
    found = decode.decode(config, PARAMS[config], batch, HOW)
    (answer,) = asked(config).generate(TEXTS[0], HOW)
    assert list(answer.tokens[0]) == [token for token in found.tokens[0, 0].tolist() if token]
    np.testing.assert_allclose(answer.scores[0], found.scores[0, 0], rtol=1e-5)


def test_few_shapes_are_compiled(monkeypatch):
    shapes = []
    start = decode.start

    def noted(config, params, batch, *args, **options):
        shapes.append(batch["encoder_input_tokens"].shape)
        return start(config, params, batch, *args, **options)

    monkeypatch.setattr(decode, "start", noted)
    prompts = [generate.Prompt([7] * length) for length in range(1, 65)]
    assert len(list(asked(batch_size=8).answers(prompts[:-3], HOW))) == 61
    # The shorter half in the smallest bucket; the last batch has five prompts, which take eight rows.
    assert shapes == [(8, 32)] * 4 + [(8, 64)] * 4
    shapes.clear()
    asked(batch_size=8).generate(["x"], HOW)
    assert shapes == [(1, 32)]


def test_prompts_are_read_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr(generate, "WINDOW", 2)
    read = []

    def prompts():
        for number in range(12):
            read.append(number)
            yield generate.Prompt([65 + number, EOS])

    answers = asked(batch_size=2).answers(prompts(), HOW)
    assert read == []
    numbers = [next(answers)[0]]
    assert len(read) == 4
    numbers += [number for number, _ in answers]
    assert sorted(numbers) == read == list(range(12))


def test_a_prompt_may_bring_its_own_seed_and_limit():
    tokens = [*map(ord, TEXTS[1]), EOS]
    how = Settings(max_tokens=8, temperature=1.0)
    alone = dict(asked().answers([generate.Prompt(tokens, seed=11)], how))[0]
    among = [generate.Prompt(tokens), generate.Prompt(tokens, seed=11), generate.Prompt(tokens, seed=11, max_tokens=3)]
    found = dict(asked().answers(among, how))
    assert found[1].tokens == alone.tokens
    assert found[2].tokens[0] == alone.tokens[0][:3]
    assert found[0].tokens != alone.tokens
    assert len(found[2].tokens[0]) <= 3
    assert found[2].finished == (EOS in found[2].tokens[0],)


def test_too_long_prompts_are_cut_and_keep_their_end_token():
    (cut, whole) = asked(inputs_length=5).prompts(["abcdefg", "abcd"])
    assert (cut.tokens, cut.cut) == ([*map(ord, "abcd"), EOS], 3)
    assert (whole.tokens, whole.cut) == (cut.tokens, 0)


LONG = Settings(max_tokens=40, temperature=1.5, seed=2)


def test_an_answer_ends_before_a_stop_string():
    free = asked().generate(TEXTS, LONG)
    long = max((answer.text for answer in free), key=len)
    assert len(long) > 6
    stop = (long[3:5], "never said")
    stopped = asked().generate(TEXTS, LONG, stop=stop)
    for before, after in zip(free, stopped, strict=True):
        place = before.text.find(stop[0])
        assert after.text == (before.text if place < 0 else before.text[:place])
        if place >= 0:
            assert after.finished == (True,)
            # Looked for every so many tokens, one character each here.
            assert len(after.tokens[0]) <= -(-(place + 2) // generate.LOOK_EVERY) * generate.LOOK_EVERY


@pytest.mark.parametrize("text", TEXTS[:3])
def test_pieces_together_are_the_answer(text):
    free = asked().generate(text, LONG)[0].text
    pieces = list(asked().stream(text, LONG))
    assert "".join(pieces) == free
    assert len(pieces) == len(free)  # a character a token
    stop = free[4:6] or "x"
    assert "".join(asked().stream(text, LONG, stop=stop)) == asked().generate(text, LONG, stop=stop)[0].text


def test_pieces_of_sentencepiece_have_their_spaces_and_whole_characters():
    """Random pieces of the embedded vocabulary; white space belongs to the beginning of the next piece."""
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary())
    config = presets.t5_config(**TOY, vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)
    generator = generate.Generator(config, api.init(config, jax.random.key(0)), tokenizer, inputs_length=16)
    for seed in range(3):
        how = Settings(max_tokens=12, temperature=1.0, seed=seed)
        pieces = list(generator.stream("The dog runs.", how))
        assert len(pieces) > 4
        assert "".join(pieces) == generator.generate("The dog runs.", how)[0].text
        assert not any("\ufffd" in piece for piece in pieces)


def test_what_may_still_change_waits():
    assert generate._settled("so it\ufffd", ()) == "so it"
    assert generate._settled("so it end", ("ending", "zzz")) == "so it "
    assert generate._settled("so it e", ("ending", " e!")) == "so it"
    assert generate._settled("so it", ("ending",)) == "so it"


def test_beams_come_best_first_and_fill_no_batch_with_their_own():
    how = Settings(max_tokens=6, beams=3, n=3)
    together = asked(batch_size=4).generate(TEXTS[:3], how)
    for text, answer in zip(TEXTS[:3], together, strict=True):
        alone = asked().generate(text, how)[0]
        assert alone.texts == answer.texts
        assert list(answer.scores) == sorted(answer.scores, reverse=True)


def test_a_mesh_of_eight_devices_answers_as_one():
    mesh = sharding.make_mesh(data=4, model=2)
    on_mesh = asked(batch_size=4, mesh=mesh)
    on_mesh.params = jax.device_put(
        on_mesh.params, sharding.param_shardings(mesh, api.logical_axes(ENCODER_DECODER), on_mesh.params)
    )
    # Five prompts: a batch that divides the mesh, and one of a single row that does not.
    for ours, expected in zip(on_mesh.generate(TEXTS, HOW), asked().generate(TEXTS, HOW), strict=True):
        assert ours.tokens == expected.tokens


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asked(inputs_length=1), "inputs_length is 1; expected at least 2"),
        (lambda: asked(batch_size=0), "batch_size is 0; expected at least 1"),
        (lambda: list(asked().stream("x", DRAWN)), "can be streamed with n 1 and beams 0 only"),
        (lambda: asked().generate("x", temprature=1.0), "did you mean 'temperature'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_clear_line(call, message):
    with pytest.raises(errors.FlanError, match=message):
        call()
