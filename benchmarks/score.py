"""Rank classification: options scored together, their question read once, beside each option with its own whole pass.

    python benchmarks/score.py [--turns 5] [--questions 8] [--models t5,opt] [--json OUT]
    python benchmarks/score.py --rows DIR [--vocabulary FILE] [--questions 64]

T5.1.1-small and OPT-125M with random weights, float32. Without --rows so many questions of 512 random tokens a turn, with 2 options
of 5 tokens, with 4, and with 4 of 40, all without padding. With --rows the first questions of real datasets in DIR, prepared by
`flan data import`, as the first template asks them: RTE and MultiRC (2 options; MultiRC's passages are long, its options yes and
no), ARC and HellaSwag (4). There both ways sort by length and pad to the same powers of two.

Both take turns in one process, because the machine drifts, and the whole passes go as many rows at a time as the other reads
questions. Seconds of the processor are compared too, as they tell less of what else runs beside. The scores of both are compared.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

INPUTS = 512
CASES = {"2 options of 5 tokens": (2, 5), "4 options of 5 tokens": (4, 5), "4 options of 40 tokens": (4, 40)}
# Datasets of --rows, by what they are like.
ROWS = {
    "rte": "2 options, a sentence or two",
    "multirc": "2 options of short text over a long input",
    "arc_challenge": "4 options, a question",
    "arc_easy": "4 options, a question",
    "hellaswag": "4 options of a sentence",
}
TARGETS = 128  # tokens of an option of --rows at most
SIZES = {"t5": "small", "opt": "opt_125m"}
Ask = Callable[[], np.ndarray]


def random_questions(count: int) -> Iterator[tuple[str, list[Any]]]:
    """(name, questions) of each case."""
    from flan_jax.inference import score

    for name, (options, size) in CASES.items():
        rng = np.random.default_rng(options + size)
        inputs = rng.integers(4, 32_000, (count, INPUTS)).tolist()
        targets = rng.integers(4, 32_000, (count, options, size)).tolist()
        yield name, [score.Question(one, of) for one, of in zip(inputs, targets, strict=True)]


def real_questions(data_dir: str, vocabulary_file: str | None, count: int) -> Iterator[tuple[str, list[Any]]]:
    """(name, questions) of each dataset that is there."""
    from flan_jax.data import mixtures, seqio_tasks, vocabulary
    from flan_jax.inference import score

    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
    given = vocabulary.sentencepiece_vocabulary(vocabulary_file)
    tokenizer, eos = vocabulary.Tokenizer(given), int(given.eos_id)
    for name, like in ROWS.items():
        tasks = catalogue.eval_tasks(f"{name}_1templates")
        ((_, rows),) = mixtures.open_tasks(tasks, data_dir, "test", "skip") or ((None, None),)
        if rows is None:
            print(f"{name}: no data in {data_dir}")
            continue
        examples = list(rows.in_order(count))
        lengths = {"inputs": INPUTS, "targets": TARGETS}
        inputs = [tokens.inputs for tokens in seqio_tasks.tokenise(examples, tokenizer, lengths)]
        ids = iter(tokenizer.encode([option for one in examples for option in one.example.options]))
        options = [[[*next(ids)[: TARGETS - 1], eos] for _ in one.example.options] for one in examples]
        yield f"{name} ({like})", [score.Question(one, of) for one, of in zip(inputs, options, strict=True)]


def ways(family: str, batch_size: int) -> Callable[[list[Any]], dict[str, Ask]]:
    """Returns questions -> the two ways to score their options, each giving the scores of all options in order."""
    import jax

    from flan_jax.data import features, seqio_tasks
    from flan_jax.inference import batches, score
    from flan_jax.models import api, presets

    make = presets.t5_config if family == "t5" else presets.decoder_only_config
    config = make(SIZES[family], dropout_rate=0.0, dtype="float32")
    params = api.init(config, jax.random.key(0))
    converter = features.ENCODER_DECODER if family == "t5" else features.PrefixLM(bos_id=2)

    def case(questions: list[score.Question]) -> dict[str, Ask]:
        longest = max(len(one.inputs) for one in questions)
        pairs = [seqio_tasks.Tokenised(list(one.inputs), list(of)) for one in questions for of in one.options]

        def together() -> np.ndarray:
            found = score.options(
                config,
                params,
                questions,
                inputs_length=longest,
                batch_size=batch_size,
                put=jax.device_put,
                converter=converter,
            )
            by_number = dict(found)
            return np.concatenate([by_number[number].log_likelihoods for number in range(len(questions))])

        def size(number: int) -> tuple[int, int]:
            return batches.bucket(len(pairs[number].inputs), longest), len(pairs[number].targets)

        def apart() -> np.ndarray:
            scores = np.zeros(len(pairs))
            order = sorted(range(len(pairs)), key=size)
            for start in range(0, len(pairs), batch_size):
                numbers = order[start : start + batch_size]
                chosen = [pairs[number] for number in numbers]
                of = max(len(pair.targets) for pair in chosen)
                lengths = {
                    "inputs": batches.bucket(max(len(pair.inputs) for pair in chosen), longest),
                    # Random options are all of one length; real ones are padded to a few lengths, to be compiled for.
                    "targets": of if len({len(pair.targets) for pair in pairs}) == 1 else -8 * (-of // 8),
                }
                rows = [converter.row([pair], lengths, packed=False) for pair in chosen]
                rows += rows[:1] * (batch_size - len(rows))
                found = np.asarray(score.score_targets(config, params, jax.device_put(features.stack(rows))))
                scores[numbers] = found[: len(numbers)]
            return scores

        return {"question read once": together, "a pass an option": apart}

    return case


def compared(questions: list[Any], both: dict[str, Ask], turns: int) -> dict[str, Any]:
    """Figures of one case."""
    scores = {way: ask() for way, ask in both.items()}  # compiles and warms up
    times: dict[str, list[float]] = {way: [] for way in both}
    work: dict[str, list[float]] = {way: [] for way in both}
    for _ in range(turns):
        for way, ask in both.items():
            began, worked = time.perf_counter(), time.process_time()
            ask()
            times[way].append(time.perf_counter() - began)
            work[way].append(time.process_time() - worked)
    once, apart = both
    return {
        "questions": len(questions),
        "median_tokens": {
            "input": statistics.median(len(one.inputs) for one in questions),
            "option": statistics.median(len(of) for one in questions for of in one.options),
        },
        "examples_per_second": {way: len(questions) / statistics.median(taken) for way, taken in times.items()},
        "speed_over_a_pass_an_option": {
            "median": statistics.median(times[apart]) / statistics.median(times[once]),
            "of_processor_seconds": statistics.median(work[apart]) / statistics.median(work[once]),
            "of_each_turn": [a / o for a, o in zip(times[apart], times[once], strict=True)],
        },
        "largest_difference_nats": float(np.abs(scores[once] - scores[apart]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each way, taken in turn")
    parser.add_argument("--questions", type=int, help="of a turn (default 8, with --rows 64)")
    parser.add_argument("--batch_size", type=int, default=8, help="questions, or whole passes, a step (default 8)")
    parser.add_argument("--models", default="t5,opt", help="comma-separated: t5 (T5.1.1-small), opt (OPT-125M)")
    parser.add_argument("--rows", metavar="DIR", help="prepared TFDS datasets, or the word 'sample': real questions")
    parser.add_argument("--datasets", default=",".join(ROWS), help="of --rows (default %(default)s)")
    parser.add_argument(
        "--vocabulary", metavar="FILE", help="SentencePiece model of --rows; the embedded one if not given"
    )
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu")
    from flan_jax import host_memory
    from flan_jax.data import sources

    host_memory.keep_freed()
    if given.rows:
        data_dir = sources.resolve_data_dir(given.rows)
        every = real_questions(data_dir, given.vocabulary, given.questions or 64)
        cases = [case for case in every if case[0].split(" ")[0] in given.datasets.split(",")]
    else:
        cases = list(random_questions(given.questions or 8))
    report: dict[str, Any] = {}
    for family in given.models.split(","):
        make = ways(family, given.batch_size)
        for name, questions in cases:
            found = compared(questions, make(questions), given.turns)
            report[f"{family}, {name}"] = found
            print(json.dumps({f"{family}, {name}": found}, indent=1), flush=True)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
