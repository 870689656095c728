"""Which tensors of a T5X checkpoint are which parameters of a model, and which model they are the parameters of.

Layers lie one by one (`encoder/layers_0/...`) or stacked along axis 1: `encoder/layers/...` in what we write and in T5X's
scalable_t5 of 2022, `encoder/encoder/...` in today's. Heads are joined (kernels of two axes) or, in scalable_t5, apart.
scalable_t5 also keeps a table of relative positions in every layer (`relpos_bias`, in 2022 `relative_posemb`), where T5.1.1 has
one a stack: where all of a stack are equal they are that one, else the model is another.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from flan_jax import errors
from flan_jax.checkpoint import tensors as tensors_lib
from flan_jax.checkpoint.tensors import Place, Stored
from flan_jax.models import api, presets

PARAMS, STEP, SLOTS = "target.", "state.step", "state.param_states."
_BUCKETS = 32  # of relative positions, in all of T5
_MOST_LAYERS = 4096  # more are a damaged shape
_STACKED = "layers"
_TABLES = ("relpos_bias", "relative_posemb")
_ATTENTION = ("attention", "self_attention", "encoder_decoder_attention")

Shapes = Mapping[tuple[str, ...], tuple[int, ...]]


def places(config: api.Config, stored: Mapping[str, Stored], path: object) -> dict[tuple[str, ...], Place]:
    """Where every parameter of the model lies.

    Args:
      config: the model; whether its layers are stacked does not matter.
      stored: every tensor of the checkpoint.
      path: the checkpoint, for messages.

    Raises:
      FlanError: with the list of tensors that are missing, unknown or of another shape.
    """
    params = {name: value for name, value in stored.items() if name.startswith(PARAMS)}
    stacks = {name.split(".")[1]: within for name in params if (within := _stack(name))}
    shapes = tensors_lib.parameters(config)
    found, wanted = {}, {}
    for at, shape in shapes.items():
        names, layer = _of_layers(config, at, stacks, params) or ([_name(at, stacks)[0]], _name(at, stacks)[1])
        whole = shape if layer is None else (shape[0], _depth(config, at[0]), *shape[1:])
        if names[0] in params:
            whole = _apart(config, at, shape, params[names[0]].shape, layer is not None) or whole
        found[at] = Place(names[0], shape, layer)
        wanted |= dict.fromkeys(names, whole)
    kind = "encoder-decoder" if isinstance(config, api.T5Config) else "decoder-only"
    tensors_lib.check(path, kind, wanted, params)
    return found


def check_tables(config: api.Config, found: Mapping[tuple[str, ...], Place], reader: tensors_lib.Source) -> None:
    """Reads the tables of relative positions that a checkpoint keeps in every layer.

    Raises:
      FlanError: they differ, so that none of ours is all of them.
    """
    for at, place in found.items():
        if at[1] != _TABLES[0] or place.tensor == PARAMS + ".".join(at):
            continue
        if place.layer is not None:
            tables = np.moveaxis(reader.read(place.tensor), 1, 0)
        else:
            others = (place.tensor.replace("layers_0", f"layers_{layer}") for layer in range(_depth(config, at[0])))
            tables = np.stack([reader.read(name) for name in others])
        if (tables != tables[0]).any():
            raise errors.FlanError(
                f"{reader.path}: tensor {place.tensor}: {reader.tensors[place.tensor].file}: its {len(tables)} layers have a "
                "table of relative positions each, as umT5's; expected a T5.1.1, whose layers share one"
            )


def stacked(names: Iterable[str]) -> bool:
    """Whether the layers of a checkpoint with tensors of these names are stacked."""
    return any(_stack(name) for name in names)


def of_scalable_t5(names: Iterable[str]) -> bool:
    """Whether a checkpoint with tensors of these names is of T5X's scalable_t5, in whose layers lies what lies beside ours."""
    inside = ("".join(name.split(".")[3:4]) for name in names if name.startswith(PARAMS))
    return any(part in _TABLES for part in inside)


def as_written(
    config: api.Config, found: Mapping[tuple[str, ...], Place], stored: Mapping[str, Stored], stacked_layers: bool
) -> bool:
    """Whether every parameter lies as in the trees that we write: under the same name, with heads joined."""
    return all(
        place.tensor == found[at].tensor
        and len(stored[place.tensor].shape) == len(place.shape) + (place.layer is not None)
        for at, place in written(config, stacked_layers).items()
    )


def written(config: api.Config, stacked_layers: bool) -> dict[tuple[str, ...], Place]:
    """Where every parameter lies in a tree of ours."""
    shapes = tensors_lib.parameters(config)
    stacks = {at[0]: _STACKED for at in shapes if at[1].startswith("layers_")} if stacked_layers else {}
    return {at: Place(name, shape, layer) for at, shape in shapes.items() for name, layer in (_name(at, stacks),)}


def whole_shape(config: api.Config, at: tuple[str, ...], place: Place) -> tuple[int, ...]:
    """The shape of the tensor of a place of `written`."""
    return place.shape if place.layer is None else (place.shape[0], _depth(config, at[0]), *place.shape[1:])


def infer(stored: Mapping[str, Stored], path: object) -> tuple[api.Config, str]:
    """The model that a checkpoint's names and shapes are of, and how it was found, in a sentence.

    The number of heads comes from the table of relative positions, [heads, 32]; what has none is recognised by the sizes
    of a preset. Activations cannot be seen: one projection is taken for ReLU (T5), two for gated GELU (T5.1.1).

    Raises:
      FlanError: shapes alone do not tell.
    """
    shapes = dict(_separate(stored))
    sizes = _sizes(shapes)
    if not sizes:
        raise errors.FlanError(
            f"{path}: not a model of ours: one has token_embedder/embedding and kernels of mlp/wi or mlp/wi_0, of two axes; "
            f"there are {tensors_lib.listed('/'.join(at) for at in shapes)}"
        )
    stack = "encoder" if ("encoder", "encoder_norm", "scale") in shapes else "decoder"
    tables = ((stack, *inside, name, "rel_embedding") for inside in ((), ("layers_0",)) for name in _TABLES)
    table = next((shapes[at] for at in tables if at in shapes), None)
    query = next((shape for at, shape in shapes.items() if at[-2:] == ("query", "kernel")), ())
    if table is not None and (table[1:] != (_BUCKETS,) or not query or math.prod(query[1:]) % max(table[0], 1)):
        raise errors.FlanError(
            f"{path}: {stack}/relpos_bias/rel_embedding is {table} and a query kernel {query}; "
            f"expected [heads, {_BUCKETS}] and [width, heads * size of a head]"
        )
    if table is None:
        return _by_preset(shapes, sizes, path)
    heads = max(table[0], 1)
    common = {
        **{name: size for name, size in sizes.items() if name in ("vocab_size", "emb_dim", "mlp_dim")},
        "num_heads": heads,
        "head_dim": math.prod(query[1:]) // heads,
        "mlp_activations": ("relu",) if any(at[-2] == "wi" for at in shapes) else ("gelu", "linear"),
        "logits_via_embedding": ("decoder", "logits_dense", "kernel") not in shapes,
    }
    if stack == "encoder":
        config: api.Config = presets.t5_config(
            **common, num_encoder_layers=sizes["encoder"], num_decoder_layers=sizes["decoder"]
        )
    else:
        config = presets.decoder_only_config(**common, num_layers=sizes["decoder"])
    activation = " x ".join(common["mlp_activations"])
    return config, f"inferred from names and shapes, heads from relpos_bias; the activation ({activation}) is assumed"


def _stack(name: str) -> str:
    """Under what a tensor's stacked layers lie within encoder or decoder; '' if it has none."""
    _, stack, within, *inside = (name if name.startswith(PARAMS) else "").split(".") + [""] * 3
    return within if within in (_STACKED, stack) and inside[0] else ""


def _name(at: tuple[str, ...], stacks: Mapping[str, str]) -> tuple[str, int | None]:
    """The tensor of a parameter, and its layer there, where layers are stacked: those of a stack under `stacks[stack]`."""
    if at[0] in stacks and at[1].startswith("layers_"):
        return PARAMS + ".".join((at[0], stacks[at[0]], *at[2:])), int(at[1].removeprefix("layers_"))
    return PARAMS + ".".join(at), None


def _of_layers(
    config: api.Config, at: tuple[str, ...], stacks: Mapping[str, str], params: Mapping[str, Stored]
) -> tuple[list[str], int | None] | None:
    """The tensors of a table of relative positions that lies in every layer, and the layer to read; None if none does."""
    if at[1] != _TABLES[0]:
        return None
    for table in _TABLES:
        inside = [(at[0], f"layers_{layer}", table, *at[2:]) for layer in range(_depth(config, at[0]))]
        places = [_name(one, stacks) for one in inside]
        if places[0][0] in params:
            return list(dict.fromkeys(name for name, _ in places)), places[0][1]
    return None


def _depth(config: api.Config, stack: str) -> int:
    if isinstance(config, api.DecoderOnlyConfig):
        return config.num_layers
    return config.num_encoder_layers if stack == "encoder" else config.num_decoder_layers


def _apart(
    config: api.Config, at: tuple[str, ...], shape: tuple[int, ...], there: tuple[int, ...], in_layers: bool
) -> tuple[int, ...] | None:
    """The shape with heads apart of an attention's kernel, if that is how it is stored."""
    if at[-1] != "kernel" or len(at) < 3 or at[-3] not in _ATTENTION or len(there) != len(shape) + 1 + in_layers:
        return None
    size = config.head_dim
    split = (shape[0] // size, size, shape[1]) if at[-2] == "out" else (shape[0], shape[1] // size, size)
    return (split[0], _depth(config, at[0]), *split[1:]) if in_layers else split


def _separate(stored: Mapping[str, Stored]) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Every parameter as in a tree of separate layers, with its shape as stored."""
    for name, value in stored.items():
        at = tuple(name.split("."))[1:]
        if not name.startswith(PARAMS) or len(at) < 2:
            continue
        if _stack(name) and len(value.shape) > 1 and value.shape[1] <= _MOST_LAYERS:
            shape = (value.shape[0], *value.shape[2:])
            yield from (((at[0], f"layers_{layer}", *at[2:]), shape) for layer in range(value.shape[1]))
        else:
            yield at, value.shape


def _sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes that every family shows alike: V, D, F, and the depth of each stack; {} where they cannot be seen."""
    embedding = next((shape for at, shape in shapes.items() if at[-2:] == ("token_embedder", "embedding")), ())
    feed = next(
        (s for at, s in shapes.items() if at[-3:-1] in (("mlp", "wi"), ("mlp", "wi_0")) and at[-1] == "kernel"), ()
    )
    if len(embedding) != 2 or len(feed) != 2:
        return {}
    layers = {at[:2] for at in shapes if at[1].startswith("layers_")}
    depth = {stack: sum(at[0] == stack for at in layers) for stack in ("encoder", "decoder")}
    return {"vocab_size": embedding[0], "emb_dim": feed[0], "mlp_dim": feed[1], **depth}


def _by_preset(shapes: Shapes, sizes: Mapping[str, int], path: object) -> tuple[api.Config, str]:
    """The one preset of these sizes."""
    learned = ("decoder", "position_embedder", "embedding") in shapes
    fitting = [
        name
        for name in presets.DECODER_ONLY
        for config in (presets.decoder_only_config(name),)
        if (config.vocab_size, config.emb_dim, config.mlp_dim, config.num_layers)
        == (sizes["vocab_size"], sizes["emb_dim"], sizes["mlp_dim"], sizes["decoder"])
        and (config.positions == "learned") == learned
    ]
    if len(fitting) != 1:
        raise errors.FlanError(
            f"{path}: shapes do not tell how many heads this model has (vocabulary {sizes['vocab_size']}, width "
            f"{sizes['emb_dim']}, feed-forward {sizes['mlp_dim']}, {sizes['decoder']} layers): give --model or --gin_file"
        )
    return presets.decoder_only_config(fitting[0]), f"recognised as the preset {fitting[0]} by its sizes"
