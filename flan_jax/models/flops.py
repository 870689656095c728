"""Model FLOPs: what the mathematics of a step asks for, whatever a compiler makes of it.

A product of [a, b] and [b, c] is 2abc. Counted are products with parameters and of attention, forward and twice that
backward; looking up embeddings, norms and activations are not, nor anything that is computed again (Chowdhery et al.
2022, appendix B). Attention counts all pairs of positions, also those that a mask hides, as they do.
"""

from flan_jax.models import api, decoder_only, encoder_decoder


def train_step(config: api.Config, rows: int, source: int, target: int) -> float:
    """FLOPs of one update.

    Args:
      config: the model.
      rows: of the batch, padding included.
      source: encoder tokens of a row; of a decoder-only model they are not read.
      target: decoder tokens of a row; all of them for a decoder-only model.
    """
    return 3.0 * forward(config, rows, source, target)


def forward(config: api.Config, rows: int, source: int, target: int) -> float:
    """FLOPs of teacher forcing without gradients; arguments as in `train_step`."""
    if isinstance(config, decoder_only.DecoderOnlyConfig):
        return _decoder_only(config, rows, target)
    return _encoder_decoder(config, rows, source, target)


def attention(config: api.Config, rows: int, source: int, target: int) -> float:
    """FLOPs of a forward pass in products of activations, queries with keys and weights with values; arguments as in `train_step`."""
    joined = config.num_heads * config.head_dim
    if isinstance(config, decoder_only.DecoderOnlyConfig):
        return 4.0 * rows * config.num_layers * target**2 * joined
    pairs = config.num_encoder_layers * source**2 + config.num_decoder_layers * target * (target + source)
    return 4.0 * rows * pairs * joined


def _encoder_decoder(config: encoder_decoder.T5Config, rows: int, source: int, target: int) -> float:
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    projection, feed_forward = width * joined, (len(config.mlp_activations) + 1) * width * config.mlp_dim
    encoder = config.num_encoder_layers * source * (4 * projection + feed_forward + 2 * source * joined)
    own = target * (6 * projection + feed_forward + 2 * target * joined)
    decoder = config.num_decoder_layers * (own + source * 2 * projection + 2 * target * source * joined)
    return 2.0 * rows * (encoder + decoder + target * width * config.vocab_size)


def _decoder_only(config: decoder_only.DecoderOnlyConfig, rows: int, target: int) -> float:
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    shared = (config.num_kv_heads or config.num_heads) * config.head_dim
    attention = 2 * width * (joined + shared) + 2 * target * joined
    layer = attention + (len(config.mlp_activations) + 1) * width * config.mlp_dim
    inner = config.embedding_dim or width
    ends = inner * config.vocab_size + (2 * width * inner if config.embedding_dim else 0)
    return 2.0 * rows * target * (config.num_layers * layer + ends)
