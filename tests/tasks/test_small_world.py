"""The small world: every answer follows from its record, by rules written here a second time, over several seeds."""

import collections
import random
import re

import pytest

from flan_jax.data import mixtures, template_lint, templates, vocabulary
from flan_jax.data.small_world import corpus, lexicon, make, pieces, records, world
from flan_jax.tasks import small_world

SEEDS = (0, 1, 2)
SIZES = {"train": 60, "validation": 20, "test": 40}
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.small_world")
PRAISE, BLAME = {*lexicon.PRAISE, *lexicon.LOVED}, {*lexicon.BLAME, *lexicon.HATED}


@pytest.fixture(scope="module")
def made():
    """Seed -> dataset -> split -> records."""
    return {seed: {name: records.splits(world.make(seed), name, SIZES) for name in records.MAKERS} for seed in SEEDS}


def every(made, name):
    """(the world, a record) of every seed and split of a dataset."""
    for seed in SEEDS:
        for rows in made[seed][name].values():
            for row in rows:
                yield world.make(seed), row


def told(passage):
    """What a passage says, sentence by sentence: {(who, what): value}."""
    found = {}
    for who, place in re.findall(r"(\w+) (?:is in|went to) the (\w+)\.", passage):
        found[who, "place"] = place
    for who, colour, thing in re.findall(r"(\w+) has a (\w+) (\w+)\.", passage):
        found[who, "thing"] = (colour, thing)
    for who, count, food in re.findall(r"(\w+) has (\d+) (\w+)\.", passage):
        found[who, food] = int(count)
    for who, count in re.findall(r"(\w+) is (\d+) years old\.", passage):
        found[who, "age"] = int(count)
    return found


def holds(passage, statement):
    """Whether a statement is true of a passage or of a list."""
    said = told(passage)
    if found := re.fullmatch(r"There (?:is|are) (\d+) (\w+)\.", statement):
        several = {many: one for one, (many, _) in lexicon.ANIMALS.items()}
        animal = several.get(found[2], found[2])
        return passage.split(", ").count(animal) == int(found[1])
    if found := re.fullmatch(r"(\w+) has (more|fewer) (\w+) than (\w+)\.", statement):
        first, second = said[found[1], found[3]], said[found[4], found[3]]
        return first > second if found[2] == "more" else first < second
    if found := re.fullmatch(r"Somebody is in the (\w+)\.", statement):
        return found[1] in said.values()
    if found := re.fullmatch(r"(\w+) is in the (\w+)\.", statement):
        return said[found[1], "place"] == found[2]
    found = re.fullmatch(r"(\w+) has a (\w+) (\w+)\.", statement)
    if met := re.match(r"(\w+) met (\w+) in the \w+\. (She|He) has a (\w+) (\w+)\.", passage):
        return (meant(met[1], met[2], met[3]), met[4], met[5]) == found.groups()
    return said[found[1], "thing"] == (found[2], found[3])


def meant(one, other, pronoun):
    woman, man = (one, other) if one in lexicon.WOMEN else (other, one)
    assert (woman in lexicon.WOMEN, man in lexicon.MEN) == (True, True)
    return woman if pronoun.lower() == "she" else man


def asked(passage, question):
    """The answer to a question about a passage."""
    said = told(passage)
    if found := re.fullmatch(r"Where is (\w+)\?", question):
        return said[found[1], "place"]
    if found := re.fullmatch(r"Who is in the (\w+)\?", question):
        (who,) = [who for (who, _), value in said.items() if value == found[1]]
        return who
    if found := re.fullmatch(r"What does (\w+) have\?", question):
        return said[found[1], "thing"][1]
    if found := re.fullmatch(r"Is (\w+) in the (\w+)\?", question):
        return "yes" if said[found[1], "place"] == found[2] else "no"
    if found := re.fullmatch(r"Does (\w+) have a (\w+) (\w+)\?", question):
        return "yes" if said[found[1], "thing"] == (found[2], found[3]) else "no"
    most = max if re.search(r"more|older", question) else min
    (first, second) = said
    return most((first, second), key=said.__getitem__)[0]


def liked(text):
    """Whether a review praises; it never does both."""
    words = set(re.findall(r"\w+", text))
    assert bool(words & PRAISE) != bool(words & BLAME)
    return bool(words & PRAISE)


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def solved(story, question):
    """The result of a story."""
    has = {}
    for who, what, count, rest in re.findall(r"(?:Then )?(\w+) (has|gets|gives) (\d+) ([\w ]+)\.", story):
        if what == "has" and " than " in rest:
            has[who] = has[rest.split()[-1]] + int(count)
        elif what == "has":
            has[who] = int(count)
        else:
            has[who] += int(count) if what == "gets" else -int(count)
    if question.endswith("do they have together?"):
        return sum(has.values())
    return has[re.search(r"does (\w+) have", question)[1]]


def translated(of, text):
    """English word by word: the colour behind its noun, the verb last, no articles."""
    back = {word: own for own, word in of.words.items()}
    words = text.strip(".").split()
    if words[-1] in back:
        noun, colour, thing, verb = (back[word] for word in words)
        return f"The {colour} {noun} {verb} the {thing}."
    if len(words) == 2:
        return f"{of.words[words[1]]} {of.words[words[0]]}"
    _, colour, noun, verb, _, thing = words
    return f"{of.words[noun]} {of.words[colour]} {of.words[thing]} {of.words[verb]}."


def in_words(table):
    """The sentence that a table says."""
    if "\n" in table:
        return " and ".join(in_words(line).rstrip(".") for line in table.split("\n")) + "."
    cells = dict(cell.split(": ") for cell in table.split(" | "))
    match cells:
        case {"place": place}:
            return f"{cells['person']} is in the {place}."
        case {"thing": thing}:
            return f"{cells['person']} has a {cells['colour']} {thing}."
    return f"{cells['person']} has {cells['number']} {cells['food']}."


def true_of(of, text):
    """What the world's facts say to a question or a statement."""
    who = re.search("|".join(lexicon.PEOPLE), text)[0]
    kind = of.home if "live" in text else of.job if "job" in text else of.pet
    return kind[who]


def right(of, name, row):
    """The answer to a record, found from what it asks alone."""
    match name.partition("_")[0]:
        case "entail":
            return "yes" if holds(row["premise"], row["statement"]) else "no"
        case "read":
            return asked(row["passage"], row["question"])
        case "fact" if "statement" in row:
            return "yes" if row["statement"].endswith(f" {true_of(of, row['statement'])}.") else "no"
        case "fact":
            return true_of(of, row["question"])
        case "compare" if "numbers" in row:
            return str((max if row["asked"] == "largest" else min)(numbers(row["numbers"])))
        case "translate":
            return of.words[row["word"]] if "word" in row else translated(of, row["text"])
        case "table":
            return in_words(row["table"])
        case "sum" | "difference" if "expression" in row:
            first, sign, second = row["expression"].split()
            return str(int(first) + int(second) if sign == "+" else int(first) - int(second))
        case "sum" | "difference" | "steps":
            return str(solved(row["story"], row["question"]))
        case "review" if "reviews" in row:
            (who,) = [line.partition(":")[0] for line in row["reviews"].split("\n") if liked(line)]
            return who
        case "review":
            yes, no = row["options"]
            return yes if liked(row["review"]) else no
        case "pronoun" if row.get("pronoun") == "it":
            sound = re.search(r"it (\w+)\.", row["passage"])[1]
            return next(animal for animal, (_, own) in lexicon.ANIMALS.items() if own == sound)
        case "pronoun" if "pronoun" in row:
            one, other, said, rest = re.match(r"(\w+) met (\w+) in the \w+\. (\w+) (.*)", row["passage"]).groups()
            assert said.lower() == row["pronoun"]
            who = meant(one, other, said)
            return who if "options" in row else f"{who} {rest}"
        case "count" if "question" in row:
            if place := re.search(r"in the (\w+)\?", row["question"]):
                return str(list(told(row["list"]).values()).count(place[1]))
            several = {many: one for one, (many, _) in lexicon.ANIMALS.items()}
            kind = re.fullmatch(r"How many (\w+) are there\?", row["question"])[1]
            listed = row["list"].split(", ")
            return str(len(listed) if kind == "things" else listed.count(several[kind]))
    if "statement" in row:
        return "yes" if holds(row["passage"], row["statement"]) else "no"
    return asked(row["passage"], row["question"])


@pytest.mark.parametrize("name", records.MAKERS)
def test_every_answer_is_right(made, name):
    for of, row in every(made, name):
        assert row["answer"] == right(of, name, row), row
        if "options" in row:
            assert list(row["options"]).count(row["answer"]) == 1
            assert len(set(row["options"])) == len(row["options"])


@pytest.mark.parametrize("name", [name for name in records.MAKERS if name.startswith("steps_")])
def test_reasons_are_two_true_sums_that_end_in_the_answer(made, name):
    for _, row in every(made, name):
        found = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)\. (\d+) ([+-]) (\d+) = (\d+)\.", row["rationale"])
        for first, sign, second, result in (found.groups()[:4], found.groups()[4:]):
            assert int(result) == int(first) + int(second) * (1 if sign == "+" else -1)
        assert found[4] in (found[5], found[7])
        assert found[8] == row["answer"]


def test_splits_are_disjoint_and_hold_no_row_twice(made):
    for datasets in made.values():
        for name, splits in datasets.items():
            asked_in = {
                split: [str({key: text for key, text in row.items() if key != "options"}) for row in rows]
                for split, rows in splits.items()
            }
            assert all(asked_in.values())
            everywhere = collections.Counter(text for rows in asked_in.values() for text in set(rows))
            assert set(everywhere.values()) == {1}
            if name.startswith("fact_"):  # whoever is asked about in a test is asked about nowhere else
                of = {s: set(re.findall("|".join(lexicon.PEOPLE), " ".join(rows))) for s, rows in asked_in.items()}
                assert not of["train"] & of["test"]
                assert not of["train"] & of["validation"]


def test_guessing_is_right_as_often_as_is_stated(made):
    """The right option is as often one as another, by its text where the texts are fixed, else by its place."""
    for name, chance in small_world.CHANCE.items():
        rows = [row for datasets in made.values() for row in datasets[name]["train"]]
        fixed = len({tuple(row["options"]) for row in rows}) == 1
        found = collections.Counter(
            row["answer"] if fixed else list(row["options"]).index(row["answer"]) for row in rows
        )
        assert len(rows[0]["options"]) == round(1 / chance) == len(found)
        # Five standard deviations of so many draws.
        room = 5 * (chance * (1 - chance) / len(rows)) ** 0.5
        assert all(abs(count / len(rows) - chance) < room for count in found.values()), name
    # As many statements as there are, of which most could be false.
    for seed in SEEDS:
        every_one = records.splits(world.make(seed), "fact_true", {"test": 200})["test"]
        assert collections.Counter(row["answer"] for row in every_one) == {"yes": 36, "no": 36}
    assert set(small_world.CHANCE) == {name for name, splits in made[0].items() if "options" in splits["train"][0]}


def test_a_seed_is_the_same_world_and_another_is_another(made):
    again = world.make(1)
    assert again == world.make(1)
    for name in ("read_where", "fact_home", "steps_total"):
        assert records.splits(again, name, SIZES) == made[1][name]
    assert list(corpus.documents(again, 30)) == list(corpus.documents(world.make(1), 30))
    for facts in ("home", "job", "pet", "words", "place"):
        assert getattr(world.make(0), facts) != getattr(again, facts)
    # A larger world has the rows of a smaller one.
    assert records.splits(again, "read_who", {"train": 90, "test": 40})["train"][:60] == made[1]["read_who"]["train"]


def test_text_tells_what_is_asked_of_memory():
    """Of a test's facts there is nothing in training rows: pre-training has to have told them, and the whole dictionary."""
    of = world.make(0)
    text = " ".join(corpus.documents(of, 6_000))
    for who in lexicon.PEOPLE:
        assert f"{who} lives in {of.home[who]}." in text
        assert f"The job of {who} is {of.job[who]}." in text
        assert f"The pet of {who} is a {of.pet[who]}." in text
    assert all(f"{word} is {own}." in text for word, own in of.words.items())
    assert "OPTIONS" not in text


def test_gaps_are_filled_by_what_was_cut_out():
    for document in corpus.marked(world.make(0), 300):
        inputs, targets = corpus.gaps(document)
        text = inputs
        for mark, filling in re.findall(r"(<extra_id_\d+>)([^<]+)", targets):
            assert text.count(mark) == 1
            text = text.replace(mark, filling)
        assert text.strip() == corpus.text(document)
        assert 1 <= targets.count("<extra_id_") <= pieces.SENTINELS
        assert "[" not in corpus.text(document)


def test_a_continuation_is_the_rest_of_the_document_from_a_mark_on():
    starts = collections.Counter()
    for number, document in enumerate(corpus.marked(world.make(0), 300)):
        inputs, targets = corpus.continued(document, random.Random(number))
        assert f"{inputs} {targets}".strip() == corpus.text(document)
        assert any(targets.startswith(asked) for asked in re.findall(r"\[\[(.*?)\]\]", document))
        starts[inputs == ""] += 1
    assert starts[False] > 250  # nearly always there is something to be continued


def test_text_is_cut_in_both_ways_whatever_its_kind():
    of = world.make(0)
    cut = list(corpus.cut(of, 600))
    assert cut[200:] == list(corpus.cut(of, 400, first=200))
    filled = [number for number, (inputs, _) in enumerate(cut) if "<extra_id_0>" in inputs]
    assert 250 < len(filled) < 350
    for document, (inputs, targets) in zip(corpus.marked(of, 600), cut, strict=True):
        assert (inputs, targets) == corpus.gaps(document) or f"{inputs} {targets}".strip() == corpus.text(document)


def test_what_text_answers_is_true():
    """Questions of documents have the answers that a second reading of their first sentences finds."""
    found = collections.Counter()
    for text in corpus.documents(world.make(0), 2_000):
        for one, than, other in re.findall(r"(\d+) is (more|less) than (\d+)\.", text):
            assert (int(one) > int(other)) == (than == "more")
            found[than] += 1
        for one, sign, other, result in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", text):
            assert int(result) == int(one) + int(other) * (1 if sign == "+" else -1)
            found[sign] += 1
        for one, word, food, other in re.findall(r"(?:^|\. )(\w+) has (more|fewer) (\w+) than (\w+)\.", text):
            assert holds(text, f"{one} has {word} {food} than {other}.")
            found["than"] += 1
        for who, place, answer in re.findall(r"Is (\w+) in the (\w+)\? (yes|no)\.", text):
            where = [at for (name, what), at in told(text).items() if what == "place" and who in (name, "somebody")]
            assert (place in where) == (answer == "yes"), text
            found["is in"] += 1
        for who, colour, thing, answer in re.findall(r"Does (\w+) have a (\w+) (\w+)\? (yes|no)\.", text):
            assert (told(text)[who, "thing"] == (colour, thing)) == (answer == "yes"), text
            found["has"] += 1
        praised = any(f"was {word}" in text.split("? ")[0].split(" I ")[0] for word in lexicon.PRAISE)
        for said in re.findall(r"All in all (positive|negative)\.", text):
            assert (said == "positive") == praised, text
            found["review"] += 1
    kinds = ("more", "less", "+", "-", "than", "is in", "has", "review")
    assert min(found[kind] for kind in kinds) > 30


def test_specs():
    clusters = CATALOGUE.specs.clusters()
    assert len(clusters) == 12
    assert sum(len(datasets) == 4 for datasets in clusters.values()) >= 10
    assert len(CATALOGUE.specs) == 48
    assert {f"small_world_{name}" for name in records.MAKERS} == {d.tfds_dataset for d in CATALOGUE.specs}
    for dataset in CATALOGUE.specs:
        assert len(templates.load(dataset.templates)) == 10


def test_templates_have_no_problem(made):
    for dataset in CATALOGUE.specs:
        rows = made[0][dataset.tfds_dataset.removeprefix(make.PREFIX)]["train"]
        assert template_lint.lint(dataset, [dataset.example(row) for row in rows]) == []


def test_every_text_is_made_of_words(made, tmp_path):
    """No unknown piece, and no word that is spelt, in anything that a task or the text of a world says."""
    of = world.make(2)
    (tmp_path / "v.model").write_bytes(pieces.make(make.vocabulary_texts(of)))
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(str(tmp_path / "v.model")))
    assert tokenizer.vocabulary.vocab_size <= pieces.SIZE
    texts = list(corpus.documents(of, 200, first=10_000))
    for dataset in CATALOGUE.specs:
        for row in made[2][dataset.tfds_dataset.removeprefix(make.PREFIX)]["test"][:10]:
            for template in templates.of(dataset):
                texts += templates.render(template, dataset.example(row))
    unknown = tokenizer.vocabulary.unk_id
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert unknown not in ids
        assert tokenizer.decode(ids) == " ".join(text.split())
        assert len(ids) <= len(re.findall(r"\w+|[^\w\s]", text)) + 3, text


def test_mixtures_hold_out_what_they_say():
    def datasets(name):
        return {CATALOGUE.tasks[task].dataset.name for task in CATALOGUE.mixture(name).tasks}

    for cluster in ("facts", "two_step_total"):
        own = {dataset.name for dataset in CATALOGUE.specs if dataset.cluster == cluster}
        for style in ("10templates", "no_template", "dataset_name", "10templates_multi_shot"):
            assert not own & datasets(f"flan_minus_{cluster}_{style}")
    assert datasets("facts_10templates") == set(small_world.CLUSTERS["facts"])
    for count in small_world.NUMBERS_OF_CLUSTERS:
        for style in ("10templates", "dataset_name", "no_template"):
            assert len(datasets(f"first_{count}_clusters_{style}")) == 4 * count
    assert not set(small_world.HELD_OUT) & set(small_world.ADDED)
    for name in ("answers_only", "answers_and_reasons"):
        assert {"direct_change", "direct_total"} <= datasets(name)
        assert not {"direct_total", "steps_total"} & datasets(f"{name}_heldout_two_step_total")
    assert datasets("reasons_only_heldout_two_step_total") == {"steps_change", "steps_gather", "steps_chain"}
