"""Records that need what only pre-training tells, facts and the invented language, and sentences made of tables.

Makers as in `passages`. Of a record about a fact, `PLACE` says where the person stands in an order of all people: a split asks
about people whom no other split asks about.
"""

import random
from collections.abc import Mapping

from flan_jax.data.small_world import lexicon, passages
from flan_jax.data.small_world.passages import Record
from flan_jax.data.small_world.world import World, generator

PLACE = "_place"  # in a record: a number from 0 to 1 that decides its split, where a hash of its text does not
OPTIONS = 4


def _fact(world: World, of: Mapping[str, str], question: str, rng: random.Random) -> Record:
    who = rng.choice(lexicon.PEOPLE)
    values = sorted(set(of.values()))
    wrong = rng.sample([value for value in values if value != of[who]], OPTIONS - 1)
    return {
        "question": question.format(who),
        "answer": of[who],
        "options": passages.shuffled(rng, [of[who], *wrong]),
        PLACE: world.place[who],
    }


def fact_home(world: World, rng: random.Random, number: int) -> Record:
    return _fact(world, world.home, "Where does {} live?", rng)


def fact_job(world: World, rng: random.Random, number: int) -> Record:
    return _fact(world, world.job, "What is the job of {}?", rng)


def fact_pet(world: World, rng: random.Random, number: int) -> Record:
    return _fact(world, world.pet, "Which pet does {} have?", rng)


def fact_true(world: World, rng: random.Random, number: int) -> Record:
    """A true statement, or one of the same person that is always the same false one: there are as many of either."""
    who = rng.choice(lexicon.PEOPLE)
    of, said = rng.choice(
        ((world.home, "{} lives in {}."), (world.job, "The job of {} is {}."), (world.pet, "The pet of {} is a {}."))
    )
    wrong = generator(world.seed, said, lexicon.PEOPLE.index(who)).choice(sorted({*of.values()} - {of[who]}))
    return {
        "statement": said.format(who, of[who] if passages.yes_no(number) == "yes" else wrong),
        "answer": passages.yes_no(number),
        "options": passages.YES_NO,
        PLACE: world.place[who],
    }


def translate_phrase(world: World, rng: random.Random, number: int) -> Record:
    colour, noun = rng.choice(lexicon.COLOURS), rng.choice((*lexicon.ANIMALS, *lexicon.THINGS))
    return {"text": f"{colour} {noun}", "answer": world.phrase(colour, noun)}


def _sentence(world: World, rng: random.Random) -> tuple[str, str]:
    colour, noun = rng.choice(lexicon.COLOURS), rng.choice(list(lexicon.ANIMALS))
    verb, thing = rng.choice(lexicon.VERBS), rng.choice(lexicon.THINGS)
    return f"The {colour} {noun} {verb} the {thing}.", world.sentence((colour, noun), verb, thing)


def translate_sentence(world: World, rng: random.Random, number: int) -> Record:
    english, invented = _sentence(world, rng)
    return {"text": english, "answer": invented}


def translate_back(world: World, rng: random.Random, number: int) -> Record:
    english, invented = _sentence(world, rng)
    return {"text": invented, "answer": english}


def translate_word(world: World, rng: random.Random, number: int) -> Record:
    """One word of a phrase is asked for, so that there are more questions than words."""
    colour, noun = rng.choice(lexicon.COLOURS), rng.choice((*lexicon.ANIMALS, *lexicon.THINGS))
    asked = (colour, noun)[number % 2]
    wrong = rng.sample([word for word in lexicon.TRANSLATED if word != asked], OPTIONS - 1)
    options = passages.shuffled(rng, [world.words[word] for word in (asked, *wrong)])
    return {"text": f"{colour} {noun}", "word": asked, "answer": world.words[asked], "options": options}


def table_place(world: World, rng: random.Random, number: int) -> Record:
    (who,), place = passages.people(rng, 1), rng.choice(lexicon.PLACES)
    return {"table": f"person: {who} | place: {place}", "answer": f"{who} is in the {place}."}


def table_thing(world: World, rng: random.Random, number: int) -> Record:
    (who,), colour, thing = passages.people(rng, 1), rng.choice(lexicon.COLOURS), rng.choice(lexicon.THINGS)
    return {"table": f"person: {who} | thing: {thing} | colour: {colour}", "answer": f"{who} has a {colour} {thing}."}


def table_count(world: World, rng: random.Random, number: int) -> Record:
    (who,), food, count = passages.people(rng, 1), rng.choice(lexicon.FOODS), rng.choice(lexicon.NUMBERS)
    return {"table": f"person: {who} | food: {food} | number: {count}", "answer": f"{who} has {count} {food}."}


def table_two(world: World, rng: random.Random, number: int) -> Record:
    (first, second), (here, there) = passages.people(rng, 2), rng.sample(lexicon.PLACES, 2)
    return {
        "table": f"person: {first} | place: {here}\nperson: {second} | place: {there}",
        "answer": f"{first} is in the {here} and {second} is in the {there}.",
    }
