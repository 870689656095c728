"""The same random weights here and in transformers: the same tokens, greedy and by beams."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.checkpoint import families
from flan_jax.inference import decode, settings
from flan_jax.models import presets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOY = {"vocab_size": 67, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 48, "dropout_rate": 0.0}
NEW, BEAMS = 6, 4
LENGTHS = np.array([9, 4, 7])  # tokens of each prompt
TOKENS = np.random.default_rng(0).integers(10, 67, (3, 9))
ENDS = (2, 3, 4, 5, 6, 7, 8)  # so many end tokens that beams of random weights meet one


def t5():
    config = presets.t5_config(**TOY, num_encoder_layers=2, num_decoder_layers=2)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=67,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
    )
    return config, model


def opt():
    config = presets.decoder_only_config("opt_1.3b", **TOY, num_layers=2, max_positions=40)
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=67,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=40,
            word_embed_proj_dim=32,
        )
    )
    return config, model


@pytest.fixture(scope="module", params=["t5", "opt"])
def pair(request):
    """(config, our parameters, batch, a function that generates with transformers)."""
    family = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config, model = {"t5": t5, "opt": opt}[family]()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.1 * noise if "norm.weight" in name else 0.2 * noise)
        model.eval()
    params = families.to_ours(config, family, {name: value.numpy() for name, value in model.state_dict().items()})
    real = np.arange(9)[None, :] < LENGTHS[:, None]
    side = "encoder" if family == "t5" else "decoder"
    batch = {f"{side}_input_tokens": jnp.asarray(np.where(real, TOKENS, 0))}
    # A decoder-only model goes on behind the last token of each prompt: theirs are moved to the right end.
    theirs, mask = TOKENS.copy(), real.copy()
    if family == "opt":
        for row, length in enumerate(LENGTHS):
            theirs[row, 9 - length :], mask[row] = TOKENS[row, :length], np.arange(9) >= 9 - length

    def generate(**options):
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            found = model.generate(
                input_ids=torch.from_numpy(np.where(mask, theirs, 0)),
                attention_mask=torch.from_numpy(mask.astype(np.int64)),
                do_sample=False,
                max_new_tokens=NEW,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        tokens = found.sequences.numpy()[:, 1 if family == "t5" else 9 :]
        tokens = np.pad(tokens, ((0, 0), (0, NEW - tokens.shape[1])))
        scores = found.sequences_scores.numpy() if "num_return_sequences" in options else None
        return tokens, scores

    return config, params, batch, generate


def test_greedy_tokens_are_the_same(pair):
    config, params, batch, generate = pair
    for ends in ((300,), ENDS):
        found = decode.decode(config, params, batch, settings.Settings(max_tokens=NEW), eos_ids=ends)
        expected, _ = generate(num_beams=1, eos_token_id=list(ends))
        np.testing.assert_array_equal(found.tokens[:, 0], expected)


def test_beams_are_the_same_where_none_ends(pair):
    config, params, batch, generate = pair
    how = settings.Settings(max_tokens=NEW, beams=BEAMS, n=BEAMS, alpha=0.0)
    found = decode.decode(config, params, batch, how, eos_ids=(300,))
    tokens, scores = generate(num_beams=BEAMS, num_return_sequences=BEAMS, length_penalty=0.0, eos_token_id=[300])
    np.testing.assert_array_equal(found.tokens.reshape(-1, NEW), tokens)
    np.testing.assert_allclose(found.scores.reshape(-1), scores, rtol=1e-5)


def test_the_best_beam_is_the_same_where_it_ends(pair):
    """The third token of the likeliest answer to the first prompt is declared to be the end.

    transformers lets a beam end only where it is among the K best at the time, and lets those that have not ended by the last
    token compete; where the best one ends, it is the same one.
    """
    config, params, batch, generate = pair
    eos = int(decode.decode(config, params, batch, settings.Settings(max_tokens=3)).tokens[0, 0, 2])
    how = settings.Settings(max_tokens=NEW, beams=BEAMS, alpha=0.0)
    found = decode.decode(config, params, batch, how, eos_ids=(eos,))
    tokens, scores = generate(num_beams=BEAMS, num_return_sequences=1, length_penalty=0.0, eos_token_id=[eos])
    ended = np.any(tokens == eos, axis=1)
    assert ended[0]
    # transformers fills up with the end token.
    behind = np.cumsum(tokens == eos, axis=1) - (tokens == eos) > 0
    tokens = np.where(behind, 0, tokens)
    np.testing.assert_array_equal(found.tokens[ended, 0], tokens[ended])
    np.testing.assert_allclose(found.scores[ended, 0], scores[ended], rtol=1e-5)
