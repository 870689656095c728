"""LoRA and prompt tuning as transforms of parameter trees: no model, loss or optimizer knows of them.

An adapter has a few parameters of its own and one function, `apply`: (frozen parameters, its own) -> the parameters that the
model computes with. The training step differentiates by the adapter's own, so the others get neither gradients nor
optimizer state. A recipe switches one on by `train_script.train.adapter`.

What `apply` costs: LoRA's effective kernels exist beside the frozen ones while a step runs, and the gradient of each is as large
as the kernel before it shrinks to the factors'. What is saved is the optimizer's state and the checkpoint.
"""

import dataclasses
import fnmatch
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from flan_jax import errors
from flan_jax.models import api

Tree = Any

# Lester et al. 2021, section 3.2: pieces stand in a SentencePiece vocabulary by likelihood, and 5,000 are common ones.
COMMON_PIECES = 5000
FIRST_PIECE = 3  # after padding, end and unknown
UNIFORM_LIMIT = 0.5  # likewise: drawn from [-0.5, 0.5]


class Adapter(Protocol):
    """What training, evaluation and merging ask of an adapter. All but `kind` are pure functions of trees."""

    kind: ClassVar[str]

    def init(self, base: Tree, rng: jax.Array) -> Tree:
        """Its parameters before the first step, float32; may be traced, with `base` as shapes."""
        ...

    def axes(self, base_axes: Tree) -> Tree:
        """The logical axes of its parameters, given those of the frozen ones."""
        ...

    def apply(self, base: Tree, params: Tree) -> Tree:
        """The parameters that the model computes with."""
        ...


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Adds `alpha / rank * a @ b` to chosen kernels (Hu et al. 2021, section 4.1).

    `a` [in, rank] starts as normal numbers of variance 1 / in, `b` [rank, out] as zeros: the first step sees the frozen model.
    Its parameters are a tree with {'lora_a', 'lora_b'} in the place of each chosen kernel. Of stacked kernels [in, L, out]
    (`scan_layers`) every layer has factors of its own: a [in, L, rank], b [rank, L, out]. There is no dropout on the adapter's
    branch: there is no branch.

    Attributes:
      rank: r.
      alpha: the update is scaled by alpha / rank, so that a learning rate found at one rank serves others.
      targets: which kernels, as shell patterns of the paths of their layers, such as `decoder/layers_0/*/query`. Queries and
        values by default: for a given number of parameters the best pair in Hu et al., table 5.
    """

    kind: ClassVar[str] = "LoRA"
    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("*/query", "*/value")

    def __post_init__(self) -> None:
        # A gin file or a record may give a list.
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1:
            raise errors.FlanError(f"adapters.LoRA.rank must be at least 1, given {self.rank}")
        if not self.targets:
            raise errors.FlanError("adapters.LoRA.targets is empty; expected patterns such as '*/query'")

    def init(self, base: Tree, rng: jax.Array) -> Tree:
        adapted: Tree = {}
        for path, kernel in self._chosen(base).items():
            # By its name, so that a kernel starts the same whatever else is adapted.
            key = jax.random.fold_in(rng, zlib.crc32(path.encode()))
            a = jax.random.normal(key, (*kernel.shape[:-1], self.rank), jnp.float32) * kernel.shape[0] ** -0.5
            b = jnp.zeros((self.rank, *kernel.shape[1:]), jnp.float32)
            _put(adapted, path, {"lora_a": a, "lora_b": b})
        return adapted

    def axes(self, base_axes: Tree) -> Tree:
        adapted: Tree = {}
        for path, names in self._chosen(base_axes).items():
            _put(adapted, path, {"lora_a": (*names[:-1], "lora_rank"), "lora_b": ("lora_rank", *names[1:])})
        return adapted

    def apply(self, base: Tree, params: Tree) -> Tree:
        return self._add(base, params, self.alpha / self.rank)

    def unapply(self, merged: Tree, params: Tree) -> Tree:
        """The frozen parameters back from the effective ones, up to one rounding of each number."""
        return self._add(merged, params, -self.alpha / self.rank)

    def _add(self, base: Tree, params: Tree, scale: float) -> Tree:
        if set(params) == {"lora_a", "lora_b"}:
            return _plus_product(base, params["lora_a"], params["lora_b"], scale)
        return {name: self._add(node, params[name], scale) if name in params else node for name, node in base.items()}

    def _chosen(self, base: Tree) -> dict[str, Any]:
        """Path of each kernel that a pattern fits -> its leaf."""
        kernels = {path.removesuffix("/kernel"): leaf for path, leaf in _leaves(base) if path.endswith("/kernel")}
        for pattern in self.targets:
            if not fnmatch.filter(kernels, pattern):
                near = errors.nearest(pattern, {"*/" + path.rsplit("/", 1)[-1] for path in kernels})
                raise errors.FlanError(f"adapters.LoRA.targets: no kernel's path fits {pattern!r}{near}")
        return {
            f"{path}/kernel": leaf
            for path, leaf in kernels.items()
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.targets)
        }


@dataclasses.dataclass(frozen=True)
class PromptTuning:
    """P learned vectors before the input; everything else is frozen (Lester et al. 2021).

    Its parameters are {'soft_prompt': [P, D]}. The vectors stand before the encoder's input, or before a decoder-only
    model's sequence, and have positions as tokens there would: in T5 all that follows is P places further right, and distances
    within it stay. Needs one example a row, as in the authors' code: in a packed row only one example would stand next to it.

    Attributes:
      length: P. FLAN's comparison (section 4.5) uses 10, Lester et al. 100.
      init_from: `vocabulary`, vectors of tokens drawn without repetition from the 5,000 most common, or `uniform`, numbers
        in [-0.5, 0.5] (Lester et al., section 3.2; at XXL it makes no difference, section 4).
    """

    kind: ClassVar[str] = "PromptTuning"
    INITIAL: ClassVar[tuple[str, ...]] = ("vocabulary", "uniform")
    length: int = 100
    init_from: str = "vocabulary"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise errors.FlanError(f"adapters.PromptTuning.length must be at least 1, given {self.length}")
        if self.init_from not in self.INITIAL:
            raise errors.unknown("adapters.PromptTuning.init_from", self.init_from, self.INITIAL)

    def init(self, base: Tree, rng: jax.Array) -> Tree:
        table_VxD = api.token_embedding(base)
        if self.init_from == "uniform":
            shape = (self.length, table_VxD.shape[1])
            return {"soft_prompt": jax.random.uniform(rng, shape, jnp.float32, -UNIFORM_LIMIT, UNIFORM_LIMIT)}
        pieces = min(COMMON_PIECES, table_VxD.shape[0]) - FIRST_PIECE
        if self.length > pieces:
            raise errors.FlanError(
                f"adapters.PromptTuning.length is {self.length}; expected at most {pieces}, the tokens to draw from, "
                "or init_from = 'uniform'"
            )
        drawn_P = FIRST_PIECE + jax.random.choice(rng, pieces, (self.length,), replace=False)
        return {"soft_prompt": jnp.take(table_VxD, drawn_P, axis=0).astype(jnp.float32)}

    def axes(self, base_axes: Tree) -> Tree:
        return {"soft_prompt": ("prompt", api.token_embedding(base_axes)[1])}

    def apply(self, base: Tree, params: Tree) -> Tree:
        return api.with_soft_prompt(base, params["soft_prompt"])


KINDS: Mapping[str, type] = {kind.kind: kind for kind in (LoRA, PromptTuning)}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """An adapter on the parameters that it leaves alone.

    Attributes:
      adapter: what is trained.
      base: the frozen parameters, on their devices.
      record: what a checkpoint says of both (`checkpoint.adapted`).
    """

    adapter: Adapter
    base: Tree
    record: Mapping[str, Any]

    def effective(self, params: Tree) -> Tree:
        """The parameters that the model computes with, given the adapter's own."""
        return self.adapter.apply(self.base, params)


def settings(adapter: Adapter) -> dict[str, Any]:
    """The adapter as JSON values: its kind and its attributes."""
    fields = {field.name: getattr(adapter, field.name) for field in dataclasses.fields(adapter)}  # type: ignore[arg-type]
    return {"kind": adapter.kind, **{name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}}


def from_settings(values: Mapping[str, Any]) -> Adapter:
    """The adapter that `settings` described.

    Raises:
      FlanError: an unknown kind, or attributes that it does not have.
    """
    attributes = dict(values)
    kind = attributes.pop("kind", None)
    if kind not in KINDS:
        raise errors.unknown("adapter", str(kind), KINDS)
    try:
        return KINDS[kind](**attributes)
    except TypeError as error:
        raise errors.FlanError(f"adapter {kind} cannot be built from {attributes}: {error}") from error


@jax.jit
def _plus_product(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """kernel + scale * a @ b, layer by layer where they are stacked along axis 1."""
    product = a @ b if a.ndim == 2 else jnp.einsum("ilr,rlo->ilo", a, b)
    return kernel + (scale * product).astype(kernel.dtype)


def _leaves(tree: Tree, path: str = "") -> list[tuple[str, Any]]:
    """(path joined by /, leaf) of nested dicts; a leaf may be a tuple of axis names."""
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [found for name in sorted(tree) for found in _leaves(tree[name], f"{path}/{name}" if path else name)]


def _put(tree: Tree, path: str, value: Any) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value
