"""The small world: generated instruction tasks that a model of less than a million parameters learns on a CPU.

    lexicon      the words
    world        the facts that a seed draws: who lives where, what dogs are called in the invented language
    passages     records of reading, entailment, coreference and sentiment
    numbers      records of comparison, counting, arithmetic and problems of two steps
    knowledge    records of facts, translation and structure to text
    records      all of them as a table, and their splits
    corpus       plain text of the same world, to pre-train on, and what can be asked of it
    pieces       a vocabulary of its words
    make         `flan data small-world`

What the datasets are to the rest of flan_jax stands in `tasks/small_world.py`, as for any other dataset.
"""
