"""Plain text of the world, to pre-train on: what a model has to know and be able to do before it is told what to do.

A document is a few sentences of one kind. It says something and then says it again in other words, as the sources of a fact
do, and has no instructions and no options. What follows from the rest of the document, or is a fact of the world, is marked:

    Ben is in the barn. Hugo went to the shop. Who is in the barn? [[Ben]]. Hugo is in the [[shop]].

`text` is the document without marks. `gaps` cuts out what is marked, as span corruption cuts out what it draws, and `continued`
cuts the document in two before something marked, as a prefix language model reads it: nearly every target is then something
that has to be looked up, counted or remembered, where of random spans few are (docs/LOG.md). Gaps are what a T5 learns
from fastest; an instruction is answered as a beginning is continued (Flan-T5 starts from a T5 that was adapted to it).
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flan_jax.data.small_world import knowledge, lexicon, numbers, passages
from flan_jax.data.small_world import world as world_lib
from flan_jax.data.small_world.world import World

_MARK = re.compile(r"\[\[(.*?)\]\]")
_HOME = ("{0} lives in {1}.", "The home of {0} is in {1}.", "In {1} lives {0}.", "Where does {0} live? In {1}.")
_JOB = ("{0} is a {1}.", "The job of {0} is {1}.", "{0} works as a {1}.", "What is the job of {0}? {1}.")
_PET = ("{0} has a {1}.", "The pet of {0} is a {1}.", "A {1} lives with {0}.", "Which pet does {0} have? A {1}.")
_PLACE = (
    "{0} is in the [[{1}]].",
    "Where is {0}? In the [[{1}]].",
    "Who is in the {1}? [[{0}]].",
    "[[{0}]] is in the {1}.",
)
_THING = (
    "The {2} of {0} is [[{1}]].",
    "What does {0} have? A [[{1} {2}]].",
    "Who has the {2}? [[{0}]].",
    "[[{0}]] has the {1} {2}.",
    "{0} has the {1} [[{2}]].",
)


def text(document: str) -> str:
    """The document as one reads it."""
    return _MARK.sub(r"\1", document)


def gaps(document: str) -> tuple[str, str]:
    """What is left of a document where what is marked is cut out, and what was cut out.

    `gaps("A [[red]] cup.") == ("A<extra_id_0> cup.", "<extra_id_0> red")`
    """
    parts = _MARK.split(document)
    kept, asked = parts[::2], parts[1::2]
    # A word has the space before it in its piece, so the space goes with what is cut out.
    marks = [f"<extra_id_{number}>" for number in range(len(asked))]
    inputs = "".join(part.removesuffix(" ") + mark for part, mark in zip(kept, marks, strict=False)) + kept[-1]
    return inputs, "".join(f"{mark} {part}" for mark, part in zip(marks, asked, strict=True))


def continued(document: str, rng: random.Random) -> tuple[str, str]:
    """What stands before one of the marks, and the document from there on.

    `continued("A [[red]] cup.", rng) == ("A", "red cup.")`
    """
    cut = rng.choice([mark.start() for mark in _MARK.finditer(document)])
    return text(document[:cut]).rstrip(), text(document[cut:])


def _answered(true: bool) -> str:
    return "[[yes]]" if true else "[[no]]"


def _told(rng: random.Random, true: Any, all_said: Sequence[Any], unsaid: Any) -> Any:
    """What is asked to be true or not: half the time it is; if not, it is said of another, or of nobody."""
    if rng.random() < 0.5:
        return true
    return unsaid if rng.random() < 0.5 else rng.choice([value for value in all_said if value != true])


def _pairs(world: World, rng: random.Random) -> str:
    """A list, and the same again in another order: nothing but looking up, in the fewest words."""
    count = rng.choice((2, 3))
    keys = rng.sample(rng.choice((lexicon.PEOPLE, lexicon.PEOPLE, lexicon.THINGS, lexicon.TOWNS)), count)
    numbers_as_text = tuple(map(str, lexicon.NUMBERS))
    values = rng.sample(rng.choice((lexicon.PLACES, lexicon.COLOURS, lexicon.FOODS, numbers_as_text)), count)
    listed = list(zip(keys, values, strict=True))
    told = ", ".join(f"{key}: {value}" for key, value in listed)
    again = [f"{key}: [[{value}]]" if rng.random() < 0.6 else f"[[{key}]]: {value}" for key, value in listed]
    return f"{told}. {', '.join(passages.shuffled(rng, again))}."


def _pairs_or_not(world: World, rng: random.Random) -> str:
    keys = rng.sample(rng.choice((lexicon.PEOPLE, lexicon.THINGS)), 2)
    *values, other = rng.sample(rng.choice((lexicon.PLACES, lexicon.COLOURS, lexicon.FOODS)), 3)
    told: dict[str, str] = dict(zip(keys, values, strict=True))
    asked = []
    for key in passages.shuffled(rng, keys):
        said = _told(rng, told[key], values, other)
        asked.append(f"{key}: {said}? {_answered(said == told[key])}.")
    return f"{', '.join(f'{key}: {value}' for key, value in told.items())}. {' '.join(asked)}"


def _places(world: World, rng: random.Random) -> str:
    passage, where = passages.places(rng, rng.choice((2, 3)))
    return " ".join(
        (passage, *(rng.choice(_PLACE).format(*pair) for pair in rng.sample(list(where.items()), len(where))))
    )


def _where_or_not(world: World, rng: random.Random) -> str:
    passage, where = passages.places(rng, 2)
    told = []
    for who in passages.shuffled(rng, list(where)):
        said = _told(rng, where[who], list(where.values()), passages.elsewhere(rng, where))
        told.append(f"Is {who} in the {said}? {_answered(said == where[who])}.")
        if rng.random() < 0.5:
            told.append(f"{who} is in the [[{where[who]}]].")
    if rng.random() < 0.5:
        said = rng.choice((rng.choice(list(where.values())), rng.choice(lexicon.PLACES)))
        told.append(f"Is somebody in the {said}? {_answered(said in where.values())}.")
    return " ".join((passage, *told))


def _things(world: World, rng: random.Random) -> str:
    passage, has = passages.things(rng, rng.choice((2, 3)))
    return " ".join(
        (passage, *(rng.choice(_THING).format(who, *has[who]) for who in passages.shuffled(rng, list(has))))
    )


def _has_or_not(world: World, rng: random.Random) -> str:
    passage, has = passages.things(rng, 2)
    told = []
    for who in passages.shuffled(rng, list(has)):
        said = _told(rng, has[who], list(has.values()), passages.unowned(rng, has))
        told.append(f"Does {who} have a {' '.join(said)}? {_answered(said == has[who])}.")
        if rng.random() < 0.5:
            told.append(f"{who} has a [[{' '.join(has[who])}]].")
    return " ".join((passage, *told))


def _amounts(world: World, rng: random.Random) -> str:
    named, food = passages.people(rng, 2), rng.choice(lexicon.FOODS)
    count = dict(zip(named, rng.sample(lexicon.NUMBERS, 2), strict=True))
    fewer, more = sorted(named, key=count.__getitem__)
    said, (one, other) = rng.choice(("more", "fewer")), passages.shuffled(rng, named)
    true = (one == more) == (said == "more")
    told = [
        f"[[{more}]] has more {food} than {fewer}.",
        f"[[{fewer}]] has fewer {food} than {more}.",
        f"{more} has [[more]] {food} than {fewer}.",
        f"{fewer} has [[fewer]] {food} than {more}.",
        f"Who has more {food}? [[{more}]].",
        f"Who has fewer {food}? [[{fewer}]].",
        *(f"{who} has [[{count[who]}]] {food}." for who in named),
        f"Does {one} have {said} {food} than {other}? {_answered(true)}.",
    ]
    passage = [f"{who} has {count[who]} {food}." for who in named]
    return " ".join((*passage, *rng.sample(told, 3)))


def _ages(world: World, rng: random.Random) -> str:
    named = passages.people(rng, 2)
    age = dict(zip(named, rng.sample(lexicon.NUMBERS, 2), strict=True))
    young, old = sorted(named, key=age.__getitem__)
    told = [
        f"Who is older? [[{old}]].",
        f"Who is younger? [[{young}]].",
        f"The older one is [[{old}]].",
        f"The younger one is [[{young}]].",
        f"{old} is [[older]] than {young}.",
        f"{young} is [[younger]] than {old}.",
    ]
    passage = [f"{who} is {age[who]} years old." for who in named]
    return " ".join((*passage, *rng.sample(told, 3)))


def _numbers(world: World, rng: random.Random) -> str:
    listed = rng.sample(lexicon.NUMBERS, 3)
    told = [f"The largest is [[{max(listed)}]].", f"The smallest is [[{min(listed)}]]."]
    for _ in range(2):
        one, other = rng.sample(lexicon.NUMBERS, 2)
        told.append(f"{one} is [[{'more' if one > other else 'less'}]] than {other}.")
    return " ".join((", ".join(map(str, listed)) + ".", *passages.shuffled(rng, told)))


def _sums(world: World, rng: random.Random) -> str:
    told = []
    for _ in range(3):
        first, second = rng.randint(2, 18), rng.choice(lexicon.NUMBERS)
        told.append(f"{first} + {second} = [[{first + second}]].")
        first, second = rng.randint(0, 18), rng.choice(lexicon.NUMBERS)
        told.append(f"{first + second} - {second} = [[{first}]].")
    return " ".join(rng.sample(told, 4))


def _stories(world: World, rng: random.Random) -> str:
    story = rng.choice((numbers.sum_story, numbers.difference_story))(world, rng, 0)
    return f"{story['story']} {story['question']} [[{story['answer']}]]."


def _lists(world: World, rng: random.Random) -> str:
    listed = [rng.choice(list(lexicon.ANIMALS)) for _ in range(rng.randint(2, 5))]
    counts = {animal: listed.count(animal) for animal in dict.fromkeys(listed)}
    told = [f"[[{count}]] {lexicon.ANIMALS[animal][0] if count > 1 else animal}" for animal, count in counts.items()]
    return f"{', '.join(listed)}: [[{len(listed)}]] animals, {' and '.join(told)}."


def _meetings(world: World, rng: random.Random) -> str:
    person = passages.pronoun_write(world, rng, rng.randrange(4))
    animal = passages.pronoun_animal(world, rng, 0)
    sound = lexicon.ANIMALS[animal["answer"]][1]
    who, rest = person["answer"].split(" ", 1)
    told = [f"{person['passage']} [[{who}]] {rest}", f"{animal['passage']} The [[{animal['answer']}]] {sound}."]
    return " ".join(passages.shuffled(rng, told))


def _reviews(world: World, rng: random.Random) -> str:
    liked = rng.random() < 0.5
    written = passages.review_yes_no(world, rng, 0 if liked else 1)
    verb = rng.choice(lexicon.LOVED if liked else lexicon.HATED)
    word = rng.choice(lexicon.PRAISE if liked else lexicon.BLAME)
    said = "positive" if liked else "negative"
    return f"{written['review']} I [[{verb}]] it. It was [[{word}]]. All in all [[{said}]]."


def _language(world: World, rng: random.Random) -> str:
    told = [f"{word} is [[{world.words[word]}]]." for word in rng.sample(lexicon.TRANSLATED, 2)]
    for maker in (knowledge.translate_phrase, knowledge.translate_sentence):
        record = maker(world, rng, 0)
        told.append(f"{record['text']} = [[{record['answer']}]]")
    return " ".join(rng.sample(told, 3))


def _facts(world: World, rng: random.Random) -> str:
    told = []
    for who in passages.people(rng, 2):
        own = [(world.home, _HOME), (world.job, _JOB), (world.pet, _PET)]
        rng.shuffle(own)
        told += [rng.choice(said).format(who, f"[[{of[who]}]]") for of, said in own]
    return " ".join(told)


# What is known is learnt first, so facts and sums are most of it. What has to be looked up in the same text takes a model of this size
# several times as long (docs/LOG.md): that is left to larger ones.
KINDS: Mapping[Callable[[World, random.Random], str], int] = {
    **dict.fromkeys((_facts, _sums), 8),
    **dict.fromkeys((_reviews, _language, _meetings), 3),
    **dict.fromkeys((_lists, _stories, _pairs, _places), 2),
    **dict.fromkeys((_numbers, _amounts, _ages, _things, _pairs_or_not, _where_or_not, _has_or_not), 1),
}
_TURNS = tuple(kind for kind, times in KINDS.items() for _ in range(times))


def marked(world: World, count: int, first: int = 0) -> Iterator[str]:
    """Documents `first`, `first + 1`, ... with marks, each a function of the world and its number; the kinds in turn."""
    for number in range(first, first + count):
        yield _TURNS[number % len(_TURNS)](world, world_lib.generator(world.seed, "corpus", number))


def documents(world: World, count: int, first: int = 0) -> Iterator[str]:
    """The same without marks."""
    yield from map(text, marked(world, count, first))


def cut(world: World, count: int, first: int = 0) -> Iterator[tuple[str, str]]:
    """The same as (inputs, targets): half of them with gaps, half to be continued."""
    for number, document in enumerate(marked(world, count, first), first):
        rng = world_lib.generator(world.seed, "cut", number)
        yield gaps(document) if rng.random() < 0.5 else continued(document, rng)
