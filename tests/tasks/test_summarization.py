"""The summarization specs: hand-made rows of each builder give exactly these examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.data import sources, spec
from flan_jax.tasks import summarization

SPECS = {entry.name: entry for entry in summarization.SPECS}

TOPICS = ("World", "Sports", "Business", "Science/Tech")
# TFDS label names in the builder's order, each with the answer it must give.
AG_NEWS_LABELS = {"World": "World", "Sports": "Sports", "Business": "Business", "Sci/Tech": "Science/Tech"}


def _pair(document: str, summary: str) -> dict:
    return {"document": document, "summary": summary}


def _example(answer: str, **fields: str) -> spec.Example:
    return spec.Example(fields=fields, answer=answer)


def _cnn(article: str, highlights: str) -> dict:
    return {"article": article, "highlights": highlights, "id": "a1", "publisher": "x"}


def _newsroom(title: str, text: str, summary: str) -> dict:
    return {"title": title, "text": text, "summary": summary, "url": "", "date": "", "density": 1.5}


def _idebate(debate: str, sentences: list[str], claim: str) -> dict:
    keys = [str(number) for number in range(len(sentences))]
    opinions = {"key": keys, "value": sentences}
    return {"_debate_name": debate, "_claim": claim, "_claim_id": "c1", "_argument_sentences": opinions}


def _film(name: str, reviews: list[str], consensus: str) -> dict:
    opinions = {"key": [str(number) for number in range(len(reviews))], "value": reviews}
    return {"_movie_name": name, "_movie_id": "m1", "_critic_consensus": consensus, "_critics": opinions}


def _wiki(source: str, target: str) -> dict:
    return {"gem_id": "g1", "source": source, "target": target, "references": [target]}


CASES = {
    "aeslc": [
        (
            {"email_body": "Ann,  the van is here.\nPlease send two men.\n", "subject_line": "Van\n"},
            _example("Van", body="Ann, the van is here. Please send two men."),
        ),
        (
            {"email_body": "The server restarts at noon.", "subject_line": " Server\nrestart "},
            _example("Server restart", body="The server restarts at noon."),
        ),
    ],
    "ag_news_subset": [
        (
            {"title": "Home Side Wins ", "description": " The rowers won by a length.", "label": 1},
            spec.Example({"title": "Home Side Wins", "text": "The rowers won by a length."}, "Sports", TOPICS),
        ),
        (
            {"title": "New Chip", "description": "It draws half the power.", "label": 3},
            spec.Example({"title": "New Chip", "text": "It draws half the power."}, "Science/Tech", TOPICS),
        ),
    ],
    "cnn_dailymail": [
        (
            _cnn(
                "OSLO, Norway (CNN) -- The bridge is open. It cost .5 billion.", "Bridge opens .\nIt cost 0.5 billion ."
            ),
            _example("Bridge opens. It cost 0.5 billion.", text="The bridge is open. It cost .5 billion."),
        ),
        (
            _cnn(
                "By . A. Hill . PUBLISHED: . 09:12 EST, 3 May 2013 . | . UPDATED: . 10:01 EST, 4 May 2013 . Snow fell.",
                "Snow in May .\n\nRoads are shut",
            ),
            _example("Snow in May. Roads are shut", text="Snow fell."),
        ),
    ],
    "gigaword": [
        (
            _pair("the port reopened on monday .", "port reopens"),
            _example("port reopens", text="the port reopened on monday ."),
        ),
        (_pair("a bank cut its rate .\n", " bank cuts rate"), _example("bank cuts rate", text="a bank cut its rate .")),
    ],
    "multi_news": [
        (
            _pair("A dam held. \n\nNobody was hurt. ||||| The dam stood firm. |||||", "– The dam held."),
            _example("– The dam held.", text="A dam held. \n\nNobody was hurt.\n\n|||||\n\nThe dam stood firm."),
        ),
        (_pair("One report only.", "– One."), _example("– One.", text="One report only.")),
    ],
    "newsroom": [
        (
            _newsroom("Tram Line Opens", "The first tram left at six.", "A tram line opened."),
            _example("A tram line opened.", title="Tram Line Opens", text="The first tram left at six."),
        ),
        (
            _newsroom(" Figs ", "Figs need sun.\n\nAnd time.", " How figs grow.\n"),
            _example("How figs grow.", title="Figs", text="Figs need sun.\n\nAnd time."),
        ),
    ],
    "opinion_abstracts_idebate": [
        (
            _idebate("Ban cars in cities", ["Air gets cleaner.", "Streets get quiet."], "Bans help health."),
            _example(
                "Bans help health.",
                debate="Ban cars in cities",
                arguments="1. Air gets cleaner.\n2. Streets get quiet.",
            ),
        ),
        (
            _idebate("Vote at 16", [f"Reason {number}." for number in range(1, 13)], "The young are ready."),
            _example(
                "The young are ready.",
                debate="Vote at 16",
                arguments="\n".join(f"{number}. Reason {number}." for number in range(1, 11)),
            ),
        ),
    ],
    "opinion_abstracts_rotten_tomatoes": [
        (
            _film("the_long_quay", ["Too\nlong.", " ", "Well acted."], "Well acted but long."),
            _example("Well acted but long.", movie="the long quay", reviews="1. Too long.\n2. Well acted."),
        ),
        (_film("Salt Road", ["A joy."], "Joyful."), _example("Joyful.", movie="Salt Road", reviews="1. A joy.")),
    ],
    "samsum": [
        (
            {
                "id": "1",
                "dialogue": "Eva: <file_photo> look! <file_gif>\r\nTom: <3 wow",
                "summary": "Eva shows Tom a photo.",
            },
            _example("Eva shows Tom a photo.", dialogue="Eva: look!\nTom: <3 wow"),
        ),
        (
            {"id": "2", "dialogue": "Eva: <link>\n\nTom: I <3 it >:)", "summary": "Tom likes the link."},
            _example("Tom likes the link.", dialogue="Eva:\nTom: I <3 it >:)"),
        ),
    ],
    "wiki_lingua_english_en": [
        (
            _wiki("Warm the pan first. Then add oil.", "Warm the pan. Add oil."),
            _example("Warm the pan. Add oil.", text="Warm the pan first. Then add oil."),
        ),
        (_wiki(" Sand the board. ", "Sand it."), _example("Sand it.", text="Sand the board.")),
    ],
    "xsum": [
        (
            _pair("The ferry was late.\nIt rained.", "A ferry ran late."),
            _example("A ferry ran late.", text="The ferry was late.\nIt rained."),
        ),
        (_pair("Sales rose. ", "Sales are up."), _example("Sales are up.", text="Sales rose.")),
    ],
}

# Rows that a spec drops.
DROPPED = [
    ("aeslc", {"email_body": " \n", "subject_line": "Lunch"}),
    ("aeslc", {"email_body": "Lunch is at one.", "subject_line": "\n"}),
    ("ag_news_subset", {"title": "Ties", "description": "The match ended 1-1.", "label": -1}),
    ("cnn_dailymail", _cnn("", "Something happened .")),
    ("cnn_dailymail", _cnn("Something happened.", " \n")),
    ("gigaword", _pair("the firm sold UNK for cash .", "firm sells unit")),
    ("gigaword", _pair("the firm sold a unit .", "UNK sold")),
    ("gigaword", _pair("shares fell ## percent .", "shares fall")),
    ("gigaword", _pair("shares fell .", "shares fall # percent")),
    ("multi_news", _pair(" ||||| ", "– Nothing.")),
    ("newsroom", _newsroom("", "The first tram left at six.", "A tram line opened.")),
    ("opinion_abstracts_idebate", _idebate("Vote at 16", [" "], "The young are ready.")),
    ("opinion_abstracts_rotten_tomatoes", _film("Salt Road", [], "Joyful.")),
    ("samsum", {"id": "3", "dialogue": "<file_photo>", "summary": "A photo is sent."}),
    ("wiki_lingua_english_en", _wiki("Warm the pan.", " ")),
    ("xsum", _pair("", "A ferry ran late.")),
]


def test_cluster_holds_these_specs_in_one_cluster():
    assert [entry.name for entry in summarization.SPECS] == list(CASES)
    assert {entry.cluster for entry in summarization.SPECS} == {"summarization"}
    registry = spec.SpecRegistry()
    registry.add(summarization.SPECS)
    registry.add(summarization.SPECS)
    assert len(registry) == 11


@pytest.mark.parametrize(("name", "row", "expected"), [(name, *case) for name, pair in CASES.items() for case in pair])
def test_row_becomes_example(name, row, expected):
    assert SPECS[name].example(row) == expected


@pytest.mark.parametrize(("name", "row"), DROPPED)
def test_row_without_a_text_or_with_masked_words_is_dropped(name, row):
    assert SPECS[name].example(row) is None


def test_ag_news_topics_stand_in_the_builders_order():
    row = CASES["ag_news_subset"][0][0]
    for label, answer in enumerate(AG_NEWS_LABELS.values()):
        example = SPECS["ag_news_subset"].example({**row, "label": label})
        assert example is not None
        assert (example.answer, example.options) == (answer, tuple(AG_NEWS_LABELS.values()))


def test_cnn_dailymail_keeps_an_article_whose_text_holds_a_separator_far_in():
    article = "(CNN)" + "The harbour froze over. " * 20 + "It froze (in 1963) -- and in 2012 . Boats stayed in."
    example = SPECS["cnn_dailymail"].example(_cnn(article, "Harbour freezes ."))
    assert example is not None
    assert example.fields["text"] == article


@given(body=st.text(alphabet="abc .-()|2013\n", min_size=1).filter(str.strip))
def test_cnn_dailymail_never_loses_the_end_of_an_article(body):
    article = "LIMA, Peru (CNN) -- " + body.strip() + " The end"
    example = SPECS["cnn_dailymail"].example(_cnn(article, "Over ."))
    assert example is not None
    assert article.endswith(example.fields["text"])
    assert example.fields["text"].endswith("The end")


@given(words=st.lists(st.sampled_from(["hi", "<3", "<file_photo>", "ok", ">:(", "<link>"]), min_size=1, max_size=8))
def test_samsum_loses_its_tags_and_no_word(words):
    example = SPECS["samsum"].example({"id": "4", "dialogue": "Eva: " + " ".join(words), "summary": "They chat."})
    assert example is not None
    kept = [word for word in words if word not in ("<file_photo>", "<link>")]
    assert example.fields["dialogue"].split() == ["Eva:", *kept]


def test_summaries_are_scored_by_rouge_and_ag_news_by_accuracy():
    metrics = {entry.name: entry.metrics for entry in summarization.SPECS}
    assert metrics.pop("ag_news_subset") == ("accuracy",)
    assert set(metrics.values()) == {("rouge",)}


@pytest.mark.parametrize("name", ["opinion_abstracts_idebate", "opinion_abstracts_rotten_tomatoes"])
def test_opinion_splits_are_three_parts_of_the_one_published_split(name):
    splits, end = SPECS[name].splits, SPECS[name].train_rows
    assert sources.resolve_splits(splits, {"train": end}) == {
        "train": ("train", 0, end - 600),
        "validation": ("train", end - 600, end - 500),
        "test": ("train", end - 500, end),
    }
