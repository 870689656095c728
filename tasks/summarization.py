"""Summarization: eleven datasets, from email subject lines to digests of several articles (FLAN 2021, figure 3).

Versions, splits and filters are those of FLAN's public task files. CNN/DailyMail and Multi-News are pinned there to
versions that TFDS no longer builds, XSum to a copy outside TFDS: these three take the version that TFDS builds now. AG
News sorts articles by topic; FLAN files it here, so it is held out with the summaries.
"""

import functools
import re

from flan_jax.data import spec

# The order of the class ids of AG News. The last class is "Sci/Tech" in the source; FLAN spells the first half out.
_TOPICS = ("World", "Sports", "Business", "Science/Tech")

# What ends a dateline: "LONDON (CNN) -- " at CNN, "PUBLISHED: . 09:12 EST, 3 May 2013 . " in the Daily Mail.
_DATELINE = re.compile(r"\) -- |\b20\d\d \. ")
_DATELINE_CHARS = 200
# Highlights are tokenised only at the end of a sentence: "The bridge reopened ."
_SPACE_BEFORE_STOP = re.compile(r" +\.(?=\s|$)")
# Stand-ins for attachments: <file_photo>, <file_gif>, <link>. Hearts, <3, are text.
_SAMSUM_TAG = re.compile(r"<[a-z][^<>\n]*>", re.IGNORECASE)

_MULTI_NEWS_SEPARATOR = "|||||"
_SHOWN_OPINIONS = 10  # arguments of a claim, reviews of a film


def _example(fields: dict[str, str], answer: str) -> spec.Example | None:
    """An example with stripped texts, or `None` where one of them is blank: Multi-News and XSum have such rows."""
    texts = {name: text.strip() for name, text in fields.items()}
    answer = answer.strip()
    if not answer or not all(texts.values()):
        return None
    return spec.Example(fields=texts, answer=answer)


def _document_summary(row: spec.Row, *, document: str = "document", summary: str = "summary") -> spec.Example | None:
    return _example({"text": row[document]}, row[summary])


def _join_lines(text: str) -> str:
    return " ".join(text.split())


def _aeslc(row: spec.Row) -> spec.Example | None:
    # AESLC writes a sentence a line. FLAN means to drop empty emails, but tests body and subject joined, which drops
    # nothing that has a subject; a row needs both here.
    return _example({"body": _join_lines(row["email_body"])}, _join_lines(row["subject_line"]))


def _ag_news_subset(row: spec.Row) -> spec.Example | None:
    if row["label"] < 0:
        return None
    fields = {"title": row["title"].strip(), "text": row["description"].strip()}
    return spec.Example(fields=fields, answer=_TOPICS[row["label"]], options=_TOPICS)


def _cnn_dailymail(row: spec.Row) -> spec.Example | None:
    # FLAN kept the text before the dateline's end, in effect the dateline alone; the 2022 code keeps what follows the
    # last separator wherever it stands. A separator far into an article is part of a sentence, and cutting there would
    # lose the news: only the first 200 characters are searched.
    article = row["article"]
    ends = [match.end() for match in _DATELINE.finditer(article[:_DATELINE_CHARS])]
    highlights = (_SPACE_BEFORE_STOP.sub(".", line.strip()) for line in row["highlights"].splitlines())
    return _example({"text": article[max(ends, default=0) :]}, " ".join(line for line in highlights if line))


def _gigaword(row: spec.Row) -> spec.Example | None:
    # UNK stands for a rare word and # for a digit; nobody should learn to write either.
    if any(mark in text for mark in ("UNK", "#") for text in (row["document"], row["summary"])):
        return None
    return _document_summary(row)


def _multi_news(row: spec.Row) -> spec.Example | None:
    # FLAN leaves the separator where it stands, at times at the very end; here it is a line between two articles.
    articles = (article.strip() for article in row["document"].split(_MULTI_NEWS_SEPARATOR))
    text = f"\n\n{_MULTI_NEWS_SEPARATOR}\n\n".join(article for article in articles if article)
    return _example({"text": text}, row["summary"])


def _newsroom(row: spec.Row) -> spec.Example | None:
    return _example({"title": row["title"], "text": row["text"]}, row["summary"])


def _numbered(texts: list[str]) -> str:
    """`_numbered(["Too long.", "", "Fun."]) == "1. Too long.\\n2. Fun."`; the first ten are shown."""
    shown = [text for text in map(_join_lines, texts) if text][:_SHOWN_OPINIONS]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(shown, start=1))


def _opinion_abstracts_idebate(row: spec.Row) -> spec.Example | None:
    arguments = _numbered(row["_argument_sentences"]["value"])
    return _example({"debate": row["_debate_name"], "arguments": arguments}, row["_claim"])


def _opinion_abstracts_rotten_tomatoes(row: spec.Row) -> spec.Example | None:
    reviews = _numbered(row["_critics"]["value"])
    return _example({"movie": row["_movie_name"].replace("_", " "), "reviews": reviews}, row["_critic_consensus"])


def _samsum(row: spec.Row) -> spec.Example | None:
    # FLAN's `<.*>` reaches from the first tag of a line to the end of the last one, and takes the words between.
    lines = (_join_lines(_SAMSUM_TAG.sub("", line)) for line in row["dialogue"].splitlines())
    return _example({"dialogue": "\n".join(line for line in lines if line)}, row["summary"])


# Most have their own validation split, of which FLAN takes 200 rows.
_OWN_SPLITS = {"train": "train[:30000]", "validation": "validation[:200]", "test": "test"}
_OPINION_SPLITS = {"train": "train[:-600]", "validation": "train[-600:-500]", "test": "train[-500:]"}
_summarization = functools.partial(spec.DatasetSpec, cluster="summarization", metrics=("rouge",))

SPECS: tuple[spec.DatasetSpec, ...] = (
    _summarization(
        name="aeslc",
        tfds_name="aeslc:1.0.0",
        splits={"train": "train", "validation": "validation[-200:]", "test": "test"},
        example=_aeslc,
        train_rows=14_436,
        templates="aeslc",
    ),
    spec.DatasetSpec(
        name="ag_news_subset",
        cluster="summarization",
        tfds_name="ag_news_subset:1.0.0",
        splits={"train": "train[:30000]", "validation": "train[-200:]", "test": "test"},
        example=_ag_news_subset,
        metrics=("accuracy",),
        train_rows=120_000,
        templates="ag_news_subset",
    ),
    _summarization(
        name="cnn_dailymail",
        tfds_name="cnn_dailymail:3.4.0",
        splits=_OWN_SPLITS,
        example=_cnn_dailymail,
        train_rows=287_113,
        templates="cnn_dailymail",
    ),
    _summarization(
        name="gigaword",
        tfds_name="gigaword:1.2.0",
        splits=_OWN_SPLITS,
        example=_gigaword,
        train_rows=3_803_957,
        templates="gigaword",
    ),
    _summarization(
        name="multi_news",
        tfds_name="multi_news:2.1.0",
        splits=_OWN_SPLITS,
        example=_multi_news,
        train_rows=44_972,
        templates="multi_news",
    ),
    _summarization(
        name="newsroom",
        tfds_name="newsroom:1.0.0",
        splits=_OWN_SPLITS,
        example=_newsroom,
        train_rows=995_041,
        templates="newsroom",
    ),
    _summarization(
        name="opinion_abstracts_idebate",
        tfds_name="opinion_abstracts/idebate:1.0.0",
        splits=_OPINION_SPLITS,
        example=_opinion_abstracts_idebate,
        train_rows=2_259,
        templates="opinion_abstracts_idebate",
    ),
    _summarization(
        name="opinion_abstracts_rotten_tomatoes",
        tfds_name="opinion_abstracts/rotten_tomatoes:1.0.0",
        splits=_OPINION_SPLITS,
        example=_opinion_abstracts_rotten_tomatoes,
        train_rows=3_731,
        templates="opinion_abstracts_rotten_tomatoes",
    ),
    _summarization(
        name="samsum",
        tfds_name="samsum:1.0.0",
        splits={"train": "train", "validation": "validation[:200]", "test": "test"},
        example=_samsum,
        train_rows=14_732,
        templates="samsum",
    ),
    _summarization(
        name="wiki_lingua_english_en",
        tfds_name="gem/wiki_lingua_english_en:1.1.0",
        splits=_OWN_SPLITS,
        example=functools.partial(_document_summary, document="source", summary="target"),
        train_rows=99_020,
        templates="wiki_lingua_english_en",
    ),
    _summarization(
        name="xsum",
        tfds_name="xsum:1.1.0",
        splits=_OWN_SPLITS,
        example=_document_summary,
        train_rows=204_045,
        templates="xsum",
    ),
)
