"""Records about short passages: questions, statements that follow or not, pronouns, reviews.

A maker takes (world, generator, number) and gives a record: the named texts, `answer`, and `options` where there are some.
`number` counts the records that are tried, and decides which of the options is to be the right one, so that every answer is
right equally often.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.data.small_world import lexicon
from flan_jax.data.small_world.world import World

Record = dict[str, Any]
YES_NO = ("yes", "no")
_IS_IN = ("is in", "went to")


def yes_no(number: int) -> str:
    """The answer that record `number` is to have."""
    return YES_NO[number % 2]


def people(rng: random.Random, count: int) -> list[str]:
    return rng.sample(lexicon.PEOPLE, count)


def places(rng: random.Random, count: int) -> tuple[str, Mapping[str, str]]:
    """A passage that says where so many people are, and who is where."""
    where = dict(zip(people(rng, count), rng.sample(lexicon.PLACES, count), strict=True))
    return " ".join(f"{who} {rng.choice(_IS_IN)} the {place}." for who, place in where.items()), where


def things(rng: random.Random, count: int) -> tuple[str, Mapping[str, tuple[str, str]]]:
    """A passage that says what so many people have, and who has what: (colour, thing)."""
    colours, owned = rng.sample(lexicon.COLOURS, count), rng.sample(lexicon.THINGS, count)
    has = dict(zip(people(rng, count), zip(colours, owned, strict=True), strict=True))
    return " ".join(f"{who} has a {colour} {thing}." for who, (colour, thing) in has.items()), has


def shuffled(rng: random.Random, values: Sequence[str]) -> list[str]:
    """The options, in an order that tells nothing."""
    return rng.sample(list(values), len(values))


def _about_place(rng: random.Random, number: int) -> tuple[str, str, str]:
    """A passage, a person of it, and where that person is; for a no, where the other one is, or where nobody is."""
    passage, where = places(rng, 2)
    who, other = shuffled(rng, list(where))
    if yes_no(number) == "yes":
        return passage, who, where[who]
    return passage, who, where[other] if number // 2 % 2 else elsewhere(rng, where)


def _about_thing(rng: random.Random, number: int) -> tuple[str, str, str, str]:
    """A passage, a person of it, and what that person has; for a no, what the other one has, or nobody."""
    passage, has = things(rng, 2)
    who, other = shuffled(rng, list(has))
    if yes_no(number) == "yes":
        return passage, who, *has[who]
    return passage, who, *(has[other] if number // 2 % 2 else unowned(rng, has))


def elsewhere(rng: random.Random, where: Mapping[str, str]) -> str:
    """A place of which a passage says nothing."""
    return rng.choice([place for place in lexicon.PLACES if place not in where.values()])


def unowned(rng: random.Random, has: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """A colour and a thing of which a passage says nothing."""
    colours, owned = zip(*has.values(), strict=True)
    colour = rng.choice([colour for colour in lexicon.COLOURS if colour not in colours])
    return colour, rng.choice([thing for thing in lexicon.THINGS if thing not in owned])


def read_where(world: World, rng: random.Random, number: int) -> Record:
    passage, where = places(rng, 3)
    who = rng.choice(list(where))
    options = shuffled(rng, list(where.values()))
    return {"passage": passage, "question": f"Where is {who}?", "answer": where[who], "options": options}


def read_who(world: World, rng: random.Random, number: int) -> Record:
    passage, where = places(rng, 3)
    who = rng.choice(list(where))
    question = f"Who is in the {where[who]}?"
    return {"passage": passage, "question": question, "answer": who, "options": shuffled(rng, list(where))}


def read_what(world: World, rng: random.Random, number: int) -> Record:
    passage, has = things(rng, 3)
    who = rng.choice(list(has))
    owned = [thing for _, thing in has.values()]
    question = f"What does {who} have?"
    return {"passage": passage, "question": question, "answer": has[who][1], "options": shuffled(rng, owned)}


def read_yes_no(world: World, rng: random.Random, number: int) -> Record:
    if rng.random() < 0.5:
        passage, who, place = _about_place(rng, number)
        question = f"Is {who} in the {place}?"
    else:
        passage, who, colour, thing = _about_thing(rng, number)
        question = f"Does {who} have a {colour} {thing}?"
    return {"passage": passage, "question": question, "answer": yes_no(number), "options": YES_NO}


def entail_place(world: World, rng: random.Random, number: int) -> Record:
    passage, who, place = _about_place(rng, number)
    return _entail(passage, f"{who} is in the {place}.", number)


def entail_thing(world: World, rng: random.Random, number: int) -> Record:
    passage, who, colour, thing = _about_thing(rng, number)
    return _entail(passage, f"{who} has a {colour} {thing}.", number)


def entail_somebody(world: World, rng: random.Random, number: int) -> Record:
    """Whether there is anybody at a place, which the passage names or does not."""
    passage, where = places(rng, 2)
    place = rng.choice(list(where.values())) if yes_no(number) == "yes" else elsewhere(rng, where)
    return _entail(passage, f"Somebody is in the {place}.", number)


def entail_number(world: World, rng: random.Random, number: int) -> Record:
    first, second = people(rng, 2)
    food = rng.choice(lexicon.FOODS)
    small, large = sorted(rng.sample(lexicon.NUMBERS, 2))
    counts = (large, small) if yes_no(number) == "yes" else (small, large)
    passage = [f"{who} has {count} {food}." for who, count in zip((first, second), counts, strict=True)]
    return _entail(" ".join(shuffled(rng, passage)), f"{first} has more {food} than {second}.", number)


def _entail(premise: str, statement: str, number: int) -> Record:
    return {"premise": premise, "statement": statement, "answer": yes_no(number), "options": YES_NO}


def _meeting(rng: random.Random, number: int) -> tuple[str, str, str, str, str]:
    """Two sentences, of which the second has a pronoun; (both, its pronoun, the one meant, the other, what of the one)."""
    woman, man = rng.choice(lexicon.WOMEN), rng.choice(lexicon.MEN)
    met = (woman, man) if rng.random() < 0.5 else (man, woman)
    meant, other = (woman, man) if number // 2 % 2 else (man, woman)
    colour, thing = rng.choice(lexicon.COLOURS), rng.choice(lexicon.THINGS)
    said = lexicon.pronoun(meant)
    passage = f"{met[0]} met {met[1]} in the {rng.choice(lexicon.PLACES)}. {said.capitalize()} has a {colour} {thing}."
    return passage, said, meant, other, f"has a {colour} {thing}."


def pronoun_who(world: World, rng: random.Random, number: int) -> Record:
    passage, said, meant, other, _ = _meeting(rng, number)
    return {"passage": passage, "pronoun": said, "answer": meant, "options": shuffled(rng, [meant, other])}


def pronoun_animal(world: World, rng: random.Random, number: int) -> Record:
    """Which animal it was follows from the sound that it made."""
    meant, other = rng.sample(list(lexicon.ANIMALS), 2)
    met = shuffled(rng, [meant, other])
    passage = f"The {met[0]} met the {met[1]} in the {rng.choice(lexicon.PLACES)}. Then it {lexicon.ANIMALS[meant][1]}."
    return {"passage": passage, "pronoun": "it", "answer": meant, "options": shuffled(rng, [meant, other])}


def pronoun_write(world: World, rng: random.Random, number: int) -> Record:
    passage, said, meant, _, rest = _meeting(rng, number)
    return {"passage": passage, "pronoun": said, "answer": f"{meant} {rest}"}


def pronoun_true(world: World, rng: random.Random, number: int) -> Record:
    passage, _, meant, other, rest = _meeting(rng, number)
    who = meant if yes_no(number) == "yes" else other
    return {"passage": passage, "statement": f"{who} {rest}", "answer": yes_no(number), "options": YES_NO}


SENTIMENTS = ("positive", "negative")


def _review(rng: random.Random, subjects: dict[str, tuple[str, ...]], liked: bool) -> tuple[str, str]:
    """A review and what it is about: two parts judged, and sometimes the whole of it."""
    subject = rng.choice(list(subjects))
    words = rng.sample(lexicon.PRAISE if liked else lexicon.BLAME, 2)
    parts = rng.sample(subjects[subject], 2)
    review = f"The {parts[0]} of this {subject} was {words[0]} and the {parts[1]} was {words[1]}."
    if rng.random() < 0.5:
        review += f" I {rng.choice(lexicon.LOVED if liked else lexicon.HATED)} it."
    return review, subject


def _judged(subjects: dict[str, tuple[str, ...]], rng: random.Random, number: int) -> Record:
    answer = SENTIMENTS[number % 2]
    review, subject = _review(rng, subjects, answer == "positive")
    return {"review": review, "subject": subject, "answer": answer, "options": SENTIMENTS}


def review_art(world: World, rng: random.Random, number: int) -> Record:
    return _judged(lexicon.FILMS, rng, number)


def review_meal(world: World, rng: random.Random, number: int) -> Record:
    return _judged(lexicon.MEALS, rng, number)


def review_yes_no(world: World, rng: random.Random, number: int) -> Record:
    review, subject = _review(rng, lexicon.FILMS | lexicon.MEALS, yes_no(number) == "yes")
    question = f"Did the writer like the {subject}?"
    return {"review": review, "question": question, "answer": yes_no(number), "options": YES_NO}


def review_who(world: World, rng: random.Random, number: int) -> Record:
    """Of two short reviews of one thing, one is of somebody who liked it."""
    first, second = people(rng, 2)
    subjects = lexicon.FILMS | lexicon.MEALS
    subject = rng.choice(list(subjects))
    part = rng.choice(subjects[subject])
    liked = (first, second)[number % 2]
    said = [
        f"{who}: The {part} of the {subject} was {rng.choice(lexicon.PRAISE if who == liked else lexicon.BLAME)}."
        for who in (first, second)
    ]
    return {"reviews": "\n".join(said), "subject": subject, "answer": liked, "options": shuffled(rng, [first, second])}
