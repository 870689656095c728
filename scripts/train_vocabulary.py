"""Trains the vocabulary that ships with flan_jax on the project's own text.

    python scripts/train_vocabulary.py [--out flan_jax/data/vocabulary/flan_jax_8k.model]

The text is the embedded sample, the templates, the documentation and the docstrings. The layout is T5's: pad 0, end 1,
unknown 2, and 100 sentinels at the end, `<extra_id_0>` last. Unlike T5's, it keeps newlines, tabs and braces, and spells
what it has no piece for in bytes, so that any text survives encoding.
"""

import argparse
import ast
import io
import json
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = 8192
SENTINELS = 100
KEPT = ("\n", "\t", "{", "}", "<", ">", "OPTIONS:", "\n- ")


def texts() -> Iterator[str]:
    """Yields every text that the vocabulary is trained on."""
    import yaml

    for path in sorted((ROOT / "flan_jax/data/sample").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from _strings(json.loads(line))
    for path in sorted((ROOT / "tasks/templates").glob("*.yaml")):
        yield from _strings(yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        yield path.read_text(encoding="utf-8")
    for folder in ("flan_jax", "tasks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _docstrings(ast.parse(path.read_text(encoding="utf-8")))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def train() -> bytes:
    """Trains the model and appends the sentinels; returns the serialised model."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    lines = [line for text in texts() for line in text.splitlines() if line.strip()]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        vocab_size=SIZE - SENTINELS,
        model_type="bpe",  # unigram stops at about 6,000 pieces on a text of this size
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=list(KEPT),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        max_sentence_length=65536,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(buffer.getvalue())
    for number in reversed(range(SENTINELS)):
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = f"<extra_id_{number}>", 0.0, type(piece).USER_DEFINED
    model.trainer_spec.vocab_size = SIZE
    model.trainer_spec.ClearField("input")
    return model.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default=str(ROOT / "flan_jax/data/vocabulary/flan_jax_8k.model"))
    out = pathlib.Path(parser.parse_args().out)
    content = train()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    print(f"wrote {out}: {SIZE} pieces, {len(content):,} bytes")


if __name__ == "__main__":
    main()
