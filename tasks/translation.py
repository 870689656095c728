"""Translation: eight language pairs, each of English and another language (FLAN 2021, Figure 3).

The answer is the sentence in the other language. FLAN's templates go both ways within a task, five of eight from
English; here a task has one direction, so that its BLEU measures one thing. Reversed templates train the way back.

Figure 3 lists nine pairs, with ParaCrawl EN/DE and EN/FR and without WMT-14 EN/FR; FLAN's public task files define
these eight, which are followed here.
"""

import dataclasses
import functools

from flan_jax.data import spec

_LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "ro": "Romanian",
    "ru": "Russian",
    "tr": "Turkish",
}
_WMT_SPLITS = {"train": "train[:30000]", "validation": "validation[:200]", "test": "test"}


def _from_english(row: spec.Row, *, code: str) -> spec.Example | None:
    """An English sentence, to be put into the language with that ISO 639-1 code; `None` where either side is blank.

    FLAN keeps all rows; crawled corpora have some without a source or a target.
    """
    english, other = row["en"].strip(), row[code].strip()
    if not (english and other):
        return None
    fields = {"source": english, "source_language": "English", "target_language": _LANGUAGES[code]}
    return spec.Example(fields=fields, answer=other)


def _to_english(row: spec.Row, *, code: str) -> spec.Example | None:
    """The way back, which FLAN 2021 evaluates as a dataset of its own."""
    there = _from_english(row, code=code)
    if there is None:
        return None
    fields = {
        "source": there.answer,
        "source_language": there.fields["target_language"],
        "target_language": there.fields["source_language"],
    }
    return spec.Example(fields=fields, answer=there.fields["source"])


def _back(name: str, there: spec.DatasetSpec, code: str) -> spec.DatasetSpec:
    """The same rows asked the other way round: for evaluation, and so in no mixture that is trained on."""
    example = functools.partial(_to_english, code=code)
    return dataclasses.replace(there, name=name, example=example, collection="extra")


def _wmt16(code: str, train_rows: int) -> spec.DatasetSpec:
    """A WMT-16 pair. Its rows are counted as TFDS does, with the corpora that have to be fetched by hand.

    Those are CzEng for Czech and Yandex's for Russian; other copies, which lack them, count 997,240 and 1,516,162 rows.
    """
    return spec.DatasetSpec(
        name=f"wmt16_translate_{code}en",
        cluster="translation",
        tfds_name=f"wmt16_translate/{code}-en:1.0.0",
        splits=_WMT_SPLITS,
        example=functools.partial(_from_english, code=code),
        metrics=("bleu",),
        train_rows=train_rows,
        templates="wmt16_translate",
    )


SPECS: tuple[spec.DatasetSpec, ...] = (
    spec.DatasetSpec(
        name="para_crawl_enes",
        cluster="translation",
        tfds_name="para_crawl/enes:1.2.0",
        # Published as one split: the last 1,000 rows are the test split, the 200 before them validation.
        splits={"train": "train[:30000]", "validation": "train[-1200:-1000]", "test": "train[-1000:]"},
        example=functools.partial(_from_english, code="es"),
        metrics=("bleu",),
        train_rows=21_987_267,
        templates="para_crawl",
    ),
    _wmt16("cs", train_rows=52_335_651),
    _wmt16("de", train_rows=4_548_885),
    _wmt16("fi", train_rows=2_073_394),
    _wmt16("ro", train_rows=610_320),
    _wmt16("ru", train_rows=2_516_162),
    _wmt16("tr", train_rows=205_756),
    spec.DatasetSpec(
        name="wmt14_enfr",
        cluster="translation",
        tfds_name="wmt14_translate/fr-en:1.0.0",
        splits=_WMT_SPLITS,
        example=functools.partial(_from_english, code="fr"),
        metrics=("bleu",),
        train_rows=40_836_715,
        templates="wmt16_translate",
    ),
)

_PAIRS = {dataset.name: dataset for dataset in SPECS}
SPECS += (
    _back("wmt14_fren", _PAIRS["wmt14_enfr"], "fr"),
    _back("wmt16_translate_de_to_en", _PAIRS["wmt16_translate_deen"], "de"),
    _back("wmt16_translate_ro_to_en", _PAIRS["wmt16_translate_roen"], "ro"),
)
