"""All records of a world, by dataset and split."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flan_jax.data.small_world import knowledge, numbers, passages
from flan_jax.data.small_world import world as world_lib

Maker = Callable[[world_lib.World, Any, int], passages.Record]

_MODULES = {
    passages: (
        *("entail_place", "entail_thing", "entail_somebody", "entail_number"),
        *("read_where", "read_who", "read_what", "read_yes_no"),
        *("pronoun_who", "pronoun_animal", "pronoun_write", "pronoun_true"),
        *("review_art", "review_meal", "review_yes_no", "review_who"),
    ),
    numbers: (
        *("compare_who", "compare_age", "compare_list", "compare_true"),
        *("count_animals", "count_people", "count_things", "count_true"),
        *("sum_plain", "difference_plain", "sum_story", "difference_story"),
        *("steps_change", "steps_gather", "steps_chain", "steps_total"),
    ),
    knowledge: (
        *("fact_home", "fact_job", "fact_pet", "fact_true"),
        *("translate_word", "translate_phrase", "translate_sentence", "translate_back"),
        *("table_place", "table_thing", "table_count", "table_two"),
    ),
}
MAKERS: Mapping[str, Maker] = {name: getattr(module, name) for module, names in _MODULES.items() for name in names}
# Records up to these places, from 0 to 1, are of the split. Of 24 people half are asked about in tests: a score of facts that are
# held out would else hang on five.
SPLITS = {"test": 0.2, "validation": 0.3, "train": 1.0}
SPLITS_OF_PEOPLE = {"test": 0.5, "validation": 0.6, "train": 1.0}
_TRIES = 1000  # records in a row that are no new ones, after which a dataset is taken to have no more


def splits(world: world_lib.World, name: str, sizes: Mapping[str, int]) -> dict[str, list[passages.Record]]:
    """Makes the records of a dataset.

    A record's split follows from what it says, so that none is in two; within a split none is there twice. A dataset that
    has not so many different records (there are 144 sums of two numbers to 12) has as many as it has.

    Args:
      world: whose facts they ask for.
      name: of `MAKERS`.
      sizes: split -> records wanted.
    """
    found: dict[str, dict[str, passages.Record]] = {split: {} for split in sizes}
    rng = world_lib.generator(world.seed, name)
    number = last = 0
    while number - last < _TRIES and any(len(found[split]) < size for split, size in sizes.items()):
        record = MAKERS[name](world, rng, number)
        place = record.pop(knowledge.PLACE, None)
        content = "\n".join(texts(record))
        ends = SPLITS_OF_PEOPLE
        if place is None:
            ends = SPLITS
            # Without the options, so that the same question is not asked elsewhere with others in another order.
            asked = "\n".join(text for key, text in record.items() if key != "options")
            place = zlib.crc32(f"{name} {asked}".encode()) / 2**32
        split = next(split for split, end in ends.items() if place < end)
        if len(found.get(split, ())) < sizes.get(split, 0) and content not in found[split]:
            found[split][content] = record
            last = number
        number += 1
    return {split: list(records.values()) for split, records in found.items()}


def texts(record: passages.Record) -> Iterator[str]:
    """Every text in a record."""
    for value in record.values():
        yield from (value,) if isinstance(value, str) else value
