"""`flan preview --html OUT`: every dataset and template of a catalogue as one page that needs no network.

The page is a file of its own: its style, its script and the data as JSON. Each row's fields and each template are in it
once, and the script joins them as `templates.render` does, so that 62 datasets take about 1 MB, not the 10 MB of every
rendered text. Dataset text is never markup: the JSON holds no `<`, the script makes text nodes only, and the page's
Content-Security-Policy lets no other script run and no string become markup.
"""

import base64
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from flan_jax import errors, shipped
from flan_jax.data import mixtures, seqio_tasks, sources, spec, templates, vocabulary

PAGE = "index.html"
_MARK = '<meta name="generator" content="flan_jax catalogue">'  # of pages that may be written over
_LONGEST_FIELD = 8_000  # characters of a field that the page holds; a whole MultiNews row has up to 500,000
_LOOKED_AT = 64  # rows among which different answers are looked for
_MOST_ACCEPTED = 8  # accepted answers that the page lists


def show(
    out: str, *, module: str | None, data_dir: str | None, vocabulary_file: str | None, rows: int, missing: str
) -> None:
    """Writes the page and prints where it is.

    Args: as `flan preview --help` says.
    """
    page = write(
        out,
        mixtures.Catalogue.from_modules(module),
        sources.resolve_data_dir(data_dir),
        rows=rows,
        tokenizer=vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary_file)),
        missing=missing,
    )
    print(page)


def write(
    out: str | os.PathLike[str],
    catalogue: mixtures.Catalogue,
    data_dir: str,
    *,
    rows: int = 2,
    tokenizer: vocabulary.Tokenizer,
    missing: str = "error",
) -> pathlib.Path:
    """Writes the page of a catalogue.

    Args:
      out: a file that ends in `.html`, or a directory, which gets an `index.html`; made where it is not there.
      catalogue: whose datasets are shown.
      data_dir: of prepared TFDS datasets.
      rows: rows shown of each dataset.
      tokenizer: that counts tokens.
      missing: what to do about datasets whose data is not there: `error` names them all; `skip` shows their templates
        with the names of the fields, and says what is missing.

    Returns:
      The page.

    Raises:
      FlanError: data is missing; `out` cannot be written, or is a file that this function did not write.
    """
    if rows < 1:
        raise errors.FlanError(f"{rows} rows of each dataset asked for; expected 1 or more")
    page = _destination(out)
    found = describe(catalogue, data_dir, rows=rows, tokenizer=tokenizer, missing=missing)
    content = html(found)
    partial = page.with_name(f".{page.name}.{os.getpid()}")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(page)
    except OSError as error:
        raise errors.FlanError(f"{page}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
    return page


def describe(
    catalogue: mixtures.Catalogue, data_dir: str, *, rows: int, tokenizer: vocabulary.Tokenizer, missing: str
) -> dict[str, Any]:
    """Returns what the page shows, JSON-ready; arguments and errors are those of `write`."""
    if missing not in ("error", "skip"):
        raise errors.unknown("value of missing", missing, ("error", "skip"))
    if not len(catalogue.specs):
        raise errors.FlanError("the catalogue has no dataset; expected a --module that defines SPECS")
    clusters = [
        {"name": name, "datasets": [_dataset(dataset, data_dir, rows, tokenizer) for dataset in datasets]}
        for name, datasets in catalogue.specs.clusters().items()
    ]
    reasons = [dataset["missing"] for cluster in clusters for dataset in cluster["datasets"] if dataset["missing"]]
    if reasons and missing == "error":
        listed = "\n".join(f"  {reason}" for reason in dict.fromkeys(reasons))
        raise errors.FlanError(
            f"{len(reasons)} of {len(catalogue.specs)} datasets have no data:\n{listed}\n"
            "`flan data doctor` says how to get each; --missing=skip shows their templates without rows"
        )
    lost = tokenizer.unrepresentable("".join(vocabulary.FALLBACKS))
    return {
        "vocabulary": {
            "name": vocabulary.name(tokenizer.vocabulary),
            "size": int(tokenizer.vocabulary.vocab_size),
            "stand_ins": [[character, vocabulary.FALLBACKS[character]] for character in lost],
        },
        "train_cap": seqio_tasks.TRAIN_CAP,
        "clusters": clusters,
    }


def html(found: dict[str, Any]) -> bytes:
    """Returns the page, UTF-8, that shows what `describe` found."""
    assets = shipped.directory("data/html")
    script, style = ((assets / f"catalogue.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    parts = {
        "generator": _MARK,
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "script": script,
        "style": style,
        "data": _json_without_markup(found),
    }
    # One pass over the skeleton, so that nothing in the parts, data least of all, is taken for a slot.
    skeleton = (assets / "catalogue.html").read_text(encoding="utf-8")
    page = re.sub(r"@@(\w+)@@", lambda slot: parts[slot[1]], skeleton)
    # Half of a surrogate pair has no UTF-8; what stands for it, \ud800, is its JSON too.
    return page.encode("utf-8", "backslashreplace")


def _json_without_markup(value: Any) -> str:
    """JSON in which no text can end a script element or open a comment: `<`, `>` and `&` occur as escapes only."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows one inline script or style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _destination(out: str | os.PathLike[str]) -> pathlib.Path:
    page = pathlib.Path(out)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        if page.is_file():
            raise errors.FlanError(f"{page} is a file; expected a directory or a name that ends in .html")
        page = page / PAGE
    if page.is_file() and _MARK.encode() not in page.read_bytes()[:2_000]:
        raise errors.FlanError(
            f"{page} is there and was not written by `flan preview --html`; remove it or choose another"
        )
    return page


def _dataset(dataset: spec.DatasetSpec, data_dir: str, rows: int, tokenizer: vocabulary.Tokenizer) -> dict[str, Any]:
    loaded = templates.load(dataset.templates)
    splits, shown, missing = _read(dataset, data_dir, rows)
    examples = [example for _, _, example in shown]
    counts = _token_counts(dataset, loaded, examples, tokenizer)
    return {
        "name": dataset.name,
        "tfds_name": dataset.tfds_name,
        "collection": dataset.collection,
        "kind": "classification" if seqio_tasks.scores(dataset) else "generation",
        "rationale": dataset.rationale,
        "metrics": list(dataset.metrics),
        "published": dataset.train_rows,
        "splits": splits,
        "fields": _fields(loaded),
        "missing": missing,
        "rows": [_row(*row) for row in shown],
        "templates": [
            {"reversed": template.reversed, "inputs": template.inputs, "targets": template.targets, "tokens": tokens}
            for template, tokens in zip(loaded, counts, strict=True)
        ],
    }


def _read(
    dataset: spec.DatasetSpec, data_dir: str, count: int
) -> tuple[list[dict[str, Any]], list[tuple[str, int, spec.Example]], str]:
    """Returns the splits with their rows on disk, (split, row, example) of the rows to show, and why there are none."""
    splits: list[dict[str, Any]] = [
        {"name": name, "slice": dataset.splits[name], "rows": None}
        for name in seqio_tasks.SPLITS
        if name in dataset.splits
    ]
    shown: list[tuple[str, int, spec.Example]] = []
    try:
        prepared = sources.PreparedDataset(data_dir, dataset.tfds_name)
    except sources.NotPrepared as error:
        return splits, shown, str(error)
    problems = []
    for split in splits:
        try:
            rows = prepared.rows(dataset.splits, split["name"])
        except sources.NotPrepared as error:
            problems.append(str(error))
            continue
        split["rows"] = len(rows)
        if not shown:
            shown = [(split["name"], row, example) for row, example in _choose(dataset, rows, count)]
    if shown:
        return splits, shown, ""
    dropped = f"dataset {dataset.tfds_name!r} in {prepared.directory} has no row that {dataset.name!r} keeps"
    return splits, shown, problems[0] if len(problems) == len(splits) else dropped


def _choose(dataset: spec.DatasetSpec, rows: Sequence[spec.Row], count: int) -> list[tuple[int, spec.Example]]:
    """The first rows that the dataset keeps, those with an answer that no earlier one has before the others."""
    built = ((row, dataset.example(rows[row])) for row in range(len(rows)))
    kept = ((row, example) for row, example in built if example is not None)
    looked_at = list(itertools.islice(kept, max(_LOOKED_AT, count)))
    answers: set[str] = set()
    new, others = [], []
    for row, example in looked_at:
        (others if example.answer in answers else new).append((row, example))
        answers.add(example.answer)
    return sorted([*new, *others][:count], key=lambda chosen: chosen[0])


def _row(split: str, index: int, example: spec.Example) -> dict[str, Any]:
    fields = {**example.fields, templates.ANSWER: example.answer}
    return {
        "split": split,
        "index": index,
        "fields": {
            **{name: text[:_LONGEST_FIELD] for name, text in fields.items()},
            templates.OPTIONS: templates.options_block(example.options),
        },
        "cut": {name: len(text) - _LONGEST_FIELD for name, text in fields.items() if len(text) > _LONGEST_FIELD},
        "choices": list(example.options),
        "accepted": list(example.answers[:_MOST_ACCEPTED]),
        "num_accepted": len(example.answers),
    }


def _fields(loaded: Sequence[templates.Template]) -> list[str]:
    """The fields that the templates use, in the order in which they first occur; the answer and the options last."""
    segments = itertools.chain.from_iterable((*template.inputs, *template.targets) for template in loaded)
    found = list(dict.fromkeys(field for _, field in segments if field is not None))
    return sorted(found, key=lambda field: (field == templates.OPTIONS, field == templates.ANSWER))


def _token_counts(
    dataset: spec.DatasetSpec,
    loaded: Sequence[templates.Template],
    examples: Sequence[spec.Example],
    tokenizer: vocabulary.Tokenizer,
) -> list[list[tuple[int, int]]]:
    """Tokens of (inputs, targets), EOS counted, of each template for each example."""
    try:
        texts = [text for template in loaded for example in examples for text in templates.render(template, example)]
    except errors.FlanError as error:
        raise errors.FlanError(f"dataset {dataset.name!r}: {error}") from None
    lengths = iter([len(ids) + 1 for ids in tokenizer.encode(texts)] if texts else [])
    return [[(next(lengths), next(lengths)) for _ in examples] for _ in loaded]
