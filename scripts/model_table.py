"""Writes the tables of docs/MODELS.md from the presets.

    python scripts/model_table.py [--check]

`--check` changes nothing and fails where the tables are not up to date.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping

from flan_jax import errors
from flan_jax.models import api, presets

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "MODELS.md"
BEGIN, END = "<!-- tables: python scripts/model_table.py -->\n", "<!-- end of tables -->\n"
COLUMNS = (
    "preset", "gin file", "layers", "d_model", "heads", "head dim", "d_ff", "vocabulary", "parameters", "published",
    "positions", "norm", "feed-forward", "block",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Family:
    """Attributes:
    title: of its table.
    source: where its sizes and its making are published.
    published: parameters as the source states them, by preset.
    folder: of its gin files.
    """

    title: str
    source: str
    published: Mapping[str, str]
    folder: str


FAMILIES = {
    "": Family(
        "T5.1.1, LM-adapted T5, Flan-T5",
        "T5X `examples/t5/t5_1_1/*.gin`; Chung et al. 2022 (arXiv 2210.11416), tables 2 and 26",
        {"small": "80M", "base": "250M", "large": "780M", "xl": "3B", "xxl": "11B"},
        "t5_1_1",
    ),
    "t5x": Family("T5X's decoder-only example", "T5X `examples/decoder_only`", {}, "decoder_only"),
    "lamda": Family(
        "LaMDA-PT, which FLAN 2021 tuned",
        "Thoppilan et al. 2022 (arXiv 2201.08239), section 3",
        {"lamda_137b": "137B without the embedding"},
        "lamda",
    ),
    "palm": Family(
        "PaLM",
        "Chowdhery et al. 2022 (arXiv 2204.02311), table 1 and section 2",
        {"palm_8b": "8.63B", "palm_62b": "62.50B", "palm_540b": "540.35B"},
        "palm",
    ),
    "opt": Family(
        "OPT",
        "Zhang et al. 2022 (arXiv 2205.01068), table 1 and section 2, where sizes are names; metaseq",
        {name: name.removeprefix("opt_").upper() for name in presets.DECODER_ONLY if name.startswith("opt_")},
        "opt",
    ),
    "llama": Family(
        "LLaMA",
        "Touvron et al. 2023 (arXiv 2302.13971), table 2 and section 2; its released code and model card",
        {"llama_7b": "6.7B", "llama_13b": "13.0B", "llama_30b": "32.5B", "llama_65b": "65.2B"},
        "llama",
    ),
}
ACTIVATIONS = {("gelu", "linear"): "gated GELU", ("swish", "linear"): "SwiGLU", ("relu",): "ReLU"}
NORMS = {"rms": "RMS", "layer": "layer norm"}
BLOCKS = {"pre_norm": "norm first", "post_norm": "norm last", "parallel": "parallel"}


def tables() -> str:
    """Returns a Markdown table a family."""
    configs: dict[str, api.Config] = {name: presets.t5_config(name, scan_layers=True) for name in presets.T5_1_1}
    configs |= {name: presets.decoder_only_config(name, scan_layers=True) for name in presets.DECODER_ONLY}
    parts = []
    for prefix, family in FAMILIES.items():
        rows = [_row(name, config, family) for name, config in configs.items() if _prefix(name) == prefix]
        lines = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
        parts.append(f"### {family.title}\n\nSource: {family.source}.\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _prefix(name: str) -> str:
    family, _, size = name.rpartition("_")
    return family if size else ""


def _row(name: str, config: api.Config, family: Family) -> list[str]:
    size = name.rpartition("_")[2]
    layers, heads, norm, positions, block = "", str(config.num_heads), "RMS", "relative", "norm first"
    if isinstance(config, api.DecoderOnlyConfig):
        layers = str(config.num_layers)
        if config.num_kv_heads is not None:
            heads += f", {config.num_kv_heads} of keys"
        bias = ", with biases" if config.use_bias else ", without bias" if config.norm == "layer" else ""
        norm, positions, block = NORMS[config.norm] + bias, config.positions, BLOCKS[config.block]
        if config.positions == "learned":
            positions += f", {config.max_positions}"
        width = f"{config.emb_dim}, embedding {config.embedding_dim}" if config.embedding_dim else str(config.emb_dim)
    else:
        layers, width = f"{config.num_encoder_layers} + {config.num_decoder_layers}", str(config.emb_dim)
    tied = "tied" if config.logits_via_embedding else "untied"
    return [
        f"`{name}`",
        f"`models/{family.folder}/{size}.gin`",
        layers,
        width,
        heads,
        str(config.head_dim),
        str(config.mlp_dim),
        f"{config.vocab_size}, {tied}",
        f"{api.num_params(config):,}",
        family.published.get(name, "-"),
        positions,
        norm,
        ACTIVATIONS[config.mlp_activations],
        block,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the page is not up to date")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise errors.FlanError(f"{PAGE} has no tables between {BEGIN!r} and {END!r}")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n{tables()}\n{END}{tail}"
    if given.check:
        if new != page:
            raise errors.FlanError(f"{PAGE.name} is not up to date; write it with: python scripts/model_table.py")
        return
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    with errors.reported():
        sys.exit(main())
