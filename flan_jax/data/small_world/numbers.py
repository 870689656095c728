"""Records with numbers: who has more, how many there are, sums, and problems of two steps with their reasons.

Makers as in `passages`.
"""

import random

from flan_jax.data.small_world import lexicon, passages
from flan_jax.data.small_world.passages import Record
from flan_jax.data.small_world.world import World

_LISTED = 5  # animals in a list


def _two(rng: random.Random) -> tuple[int, int]:
    first, second = rng.sample(lexicon.NUMBERS, 2)
    return first, second


def compare_who(world: World, rng: random.Random, number: int) -> Record:
    first, second = passages.people(rng, 2)
    food, counts = rng.choice(lexicon.FOODS), _two(rng)
    more = number % 2 == 0
    answer = first if (counts[0] > counts[1]) == more else second
    return {
        "passage": f"{first} has {counts[0]} {food}. {second} has {counts[1]} {food}.",
        "question": f"Who has {'more' if more else 'fewer'} {food}?",
        "answer": answer,
        "options": passages.shuffled(rng, [first, second]),
    }


def compare_age(world: World, rng: random.Random, number: int) -> Record:
    first, second = passages.people(rng, 2)
    ages = _two(rng)
    older = number % 2 == 0
    answer = first if (ages[0] > ages[1]) == older else second
    return {
        "passage": f"{first} is {ages[0]} years old. {second} is {ages[1]} years old.",
        "question": f"Who is {'older' if older else 'younger'}?",
        "answer": answer,
        "options": passages.shuffled(rng, [first, second]),
    }


def compare_list(world: World, rng: random.Random, number: int) -> Record:
    listed = rng.sample(lexicon.NUMBERS, 3)
    largest = number % 2 == 0
    return {
        "numbers": ", ".join(map(str, listed)),
        "asked": "largest" if largest else "smallest",
        "answer": str(max(listed) if largest else min(listed)),
        "options": passages.shuffled(rng, list(map(str, listed))),
    }


def compare_true(world: World, rng: random.Random, number: int) -> Record:
    """A statement about what two people have, in the words of a passage that gives the numbers."""
    first, second = passages.people(rng, 2)
    food = rng.choice(lexicon.FOODS)
    small, large = sorted(_two(rng))
    more = number // 2 % 2 == 0
    ahead = (passages.yes_no(number) == "yes") == more  # whether the one that the statement starts with has more
    counts = (large, small) if ahead else (small, large)
    said = [f"{who} has {count} {food}." for who, count in zip((first, second), counts, strict=True)]
    return {
        "passage": " ".join(passages.shuffled(rng, said)),
        "statement": f"{first} has {'more' if more else 'fewer'} {food} than {second}.",
        "answer": passages.yes_no(number),
        "options": passages.YES_NO,
    }


def _list(rng: random.Random, count: int) -> tuple[str, str]:
    """A list of five animals, and the one of which there are so many."""
    counted, *others = rng.sample(list(lexicon.ANIMALS), 4)
    listed = [counted] * count + [rng.choice(others) for _ in range(_LISTED - count)]
    return ", ".join(passages.shuffled(rng, listed)), counted


def count_animals(world: World, rng: random.Random, number: int) -> Record:
    count = 1 + number % 4
    listed, counted = _list(rng, count)
    return {
        "list": listed,
        "question": f"How many {lexicon.ANIMALS[counted][0]} are there?",
        "answer": str(count),
        "options": ("1", "2", "3", "4"),
    }


def count_people(world: World, rng: random.Random, number: int) -> Record:
    count = number % 4
    named = passages.people(rng, 3)
    place, *others = rng.sample(lexicon.PLACES, 4)
    chosen = passages.shuffled(rng, [place] * count + others[: 3 - count])
    return {
        "list": " ".join(f"{who} is in the {where}." for who, where in zip(named, chosen, strict=True)),
        "question": f"How many people are in the {place}?",
        "answer": str(count),
        "options": ("0", "1", "2", "3"),
    }


def count_things(world: World, rng: random.Random, number: int) -> Record:
    count = 2 + number % 4
    listed = rng.sample(lexicon.THINGS, count)
    return {
        "list": ", ".join(listed),
        "question": "How many things are there?",
        "answer": str(count),
        "options": ("2", "3", "4", "5"),
    }


def count_true(world: World, rng: random.Random, number: int) -> Record:
    count = 1 + number // 2 % 4
    listed, counted = _list(rng, count)
    said = count if passages.yes_no(number) == "yes" else rng.choice([other for other in range(1, 5) if other != count])
    one, several = counted, lexicon.ANIMALS[counted][0]
    return {
        "passage": listed,
        "statement": f"There is {said} {one}." if said == 1 else f"There are {said} {several}.",
        "answer": passages.yes_no(number),
        "options": passages.YES_NO,
    }


def sum_plain(world: World, rng: random.Random, number: int) -> Record:
    first, second = rng.randint(1, 12), rng.randint(1, 12)
    return {"expression": f"{first} + {second}", "answer": str(first + second)}


def difference_plain(world: World, rng: random.Random, number: int) -> Record:
    result, second = rng.randint(0, 12), rng.randint(1, 12)
    return {"expression": f"{result + second} - {second}", "answer": str(result)}


def sum_story(world: World, rng: random.Random, number: int) -> Record:
    (who,), food = passages.people(rng, 1), rng.choice(lexicon.FOODS)
    first, second = rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS)
    return {
        "story": f"{who} has {first} {food}. {who} gets {second} more.",
        "question": f"How many {food} does {who} have now?",
        "answer": str(first + second),
    }


def difference_story(world: World, rng: random.Random, number: int) -> Record:
    (who,), food = passages.people(rng, 1), rng.choice(lexicon.FOODS)
    result, second = rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS)
    return {
        "story": f"{who} has {result + second} {food}. {who} gives {second} away.",
        "question": f"How many {food} does {who} have now?",
        "answer": str(result),
    }


def steps_change(world: World, rng: random.Random, number: int) -> Record:
    """Something is added, then something taken."""
    (who,), food = passages.people(rng, 1), rng.choice(lexicon.FOODS)
    first, second = rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS)
    third = rng.randint(2, min(9, first + second - 2))
    between, result = first + second, first + second - third
    return {
        "story": f"{who} has {first} {food}. {who} gets {second} more. Then {who} gives {third} away.",
        "question": f"How many {food} does {who} have now?",
        "rationale": f"{first} + {second} = {between}. {between} - {third} = {result}.",
        "answer": str(result),
    }


def steps_gather(world: World, rng: random.Random, number: int) -> Record:
    """Three people put together what they have."""
    named, food = passages.people(rng, 3), rng.choice(lexicon.FOODS)
    counts = [rng.choice(lexicon.NUMBERS) for _ in named]
    between, result = counts[0] + counts[1], sum(counts)
    return {
        "story": " ".join(f"{who} has {count} {food}." for who, count in zip(named, counts, strict=True)),
        "question": f"How many {food} do they have together?",
        "rationale": f"{counts[0]} + {counts[1]} = {between}. {between} + {counts[2]} = {result}.",
        "answer": str(result),
    }


def steps_chain(world: World, rng: random.Random, number: int) -> Record:
    """The second has some more than the first, the third some more than the second."""
    named, food = passages.people(rng, 3), rng.choice(lexicon.FOODS)
    first, second, third = rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS)
    between, result = first + second, first + second + third
    return {
        "story": f"{named[0]} has {first} {food}. {named[1]} has {second} more than {named[0]}. "
        f"{named[2]} has {third} more than {named[1]}.",
        "question": f"How many {food} does {named[2]} have?",
        "rationale": f"{first} + {second} = {between}. {between} + {third} = {result}.",
        "answer": str(result),
    }


def steps_total(world: World, rng: random.Random, number: int) -> Record:
    """The second has some more than the first, and both put together what they have: the task that is held out."""
    named, food = passages.people(rng, 2), rng.choice(lexicon.FOODS)
    first, second = rng.choice(lexicon.NUMBERS), rng.choice(lexicon.NUMBERS)
    between, result = first + second, first + first + second
    return {
        "story": f"{named[0]} has {first} {food}. {named[1]} has {second} more than {named[0]}.",
        "question": f"How many {food} do they have together?",
        "rationale": f"{first} + {second} = {between}. {first} + {between} = {result}.",
        "answer": str(result),
    }
