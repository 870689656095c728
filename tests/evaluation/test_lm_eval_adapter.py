"""lm-evaluation-harness asks our models: its numbers are our scorer's and our generator's own."""

import gzip
import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from flan_jax import errors, inference
from flan_jax.data import features, seqio_tasks, vocabulary
from flan_jax.evaluation import metrics
from flan_jax.inference import generate, score
from flan_jax.models import api, presets

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the harness's own, and what it imports

ROWS = [
    {"ctx": "The dog runs to the", "endings": ["park.", "moon, and then it sings.", "a", "dogs"], "label": 0},
    {"ctx": "She opens a book and", "endings": ["reads it.", "eats it.", "flies.", "swims in the sea."], "label": 3},
    {"ctx": "Water is", "endings": ["wet", "dry", "a colour of the night", "loud"], "label": 1},
    {"ctx": "Two and two are", "endings": ["four", "five", "four and five", "none of these"], "label": 2},
    {"ctx": "Water is", "endings": ["wet", "old"], "label": 0},
]


@pytest.fixture(scope="module")
def adapter():
    import flan_jax.evaluation.lm_eval_adapter as module

    return module


@pytest.fixture(scope="module")
def model(run_dir):
    return inference.load(run_dir, inputs_length=32, batch_size=4)


@pytest.fixture(scope="module")
def decoder_only():
    """A toy language model with the embedded vocabulary."""
    tokenizer = vocabulary.Tokenizer(vocabulary.sentencepiece_vocabulary(vocabulary.embedded_path()))
    sizes = {"num_layers": 1, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    config = presets.decoder_only_config(
        "t5x_tiny", vocab_size=tokenizer.vocabulary.vocab_size, prefix_lm=False, **sizes
    )
    params = jax.tree.map(lambda leaf: 3.0 * leaf, api.init(config, jax.random.key(0)))
    return generate.Generator(config, params, tokenizer, inputs_length=32, converter=features.PrefixLM())


class Request:
    def __init__(self, *args):
        self.args = args


def ours(model, row, end=True):
    (prompt,) = model.prompts([row["ctx"]])
    said = model.tokenizer.encode(row["endings"])
    return score.Question(prompt.tokens, [[*ids, *([1] if end else [])] for ids in said])


def test_a_task_of_the_harness_gives_our_accuracy_and_log_likelihoods(adapter, run_dir):
    import datasets
    from lm_eval.api.task import ConfigurableTask

    task = ConfigurableTask(
        config={
            "task": "local_endings",
            "custom_dataset": lambda **_: {"validation": datasets.Dataset.from_list(ROWS)},
            "validation_split": "validation",
            "output_type": "multiple_choice",
            "doc_to_text": "{{ctx}}",
            "doc_to_target": "{{label}}",
            "doc_to_choice": "{{endings}}",
            "metric_list": [{"metric": "acc"}],
        }
    )
    found = lm_eval.simple_evaluate(
        model="flan_jax",
        model_args={"checkpoint": str(run_dir), "inputs": 32},
        tasks=[task],
        batch_size=4,
        log_samples=True,
        bootstrap_iters=0,
    )
    model = inference.load(run_dir, inputs_length=32, batch_size=4)
    # The two rows of one context are read as one question.
    merged = [*ROWS[:2], {**ROWS[2], "endings": [*ROWS[2]["endings"], "old"]}, ROWS[3]]
    scored = [one.log_likelihoods for one in model.option_scores([ours(model, row) for row in merged])]
    expected = [*scored[:2], scored[2][:4], scored[3], (scored[2][0], scored[2][4])]
    samples = sorted(found["samples"]["local_endings"], key=lambda sample: sample["doc_id"])
    assert [tuple(answer[0] for answer in sample["filtered_resps"]) for sample in samples] == expected
    right = [int(np.argmax(of)) == row["label"] for of, row in zip(expected, ROWS, strict=True)]
    assert found["results"]["local_endings"]["acc,none"] == np.mean(right)


def of_the_harness(name):
    """The configuration of one of the harness's own tasks, with the functions that it names."""
    folder = pathlib.Path(importlib.import_module("lm_eval.tasks").__file__).parent / name

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, _, attribute = loader.construct_scalar(node).rpartition(".")
        return getattr(importlib.import_module(f"lm_eval.tasks.{name}.{module}"), attribute)

    Loader.add_constructor("!function", function)
    return yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), Loader)


def test_the_harness_own_hellaswag_on_real_rows_gives_our_accuracy(adapter, run_dir, shared_dir):
    import datasets
    from lm_eval.api.task import ConfigurableTask

    path = shared_dir / "data" / "hellaswag" / "validation.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == 500
    # TFDS joins the two halves of a context, which the hub's copy keeps apart and the harness joins.
    kept = ("activity_label", "endings", "label")
    hub = [{**{key: row[key] for key in kept}, "ctx_a": row["context"], "ctx_b": ""} for row in rows]
    task = ConfigurableTask(
        config={
            **of_the_harness("hellaswag"),
            "custom_dataset": lambda **_: {split: datasets.Dataset.from_list(hub) for split in ("train", "validation")},
        }
    )
    args = {"checkpoint": str(run_dir), "inputs": 160}
    given = {"model": "flan_jax", "model_args": args, "tasks": [task], "batch_size": 32}
    found = lm_eval.simple_evaluate(**given, bootstrap_iters=0)
    # The same rows by our own scorer and metric: options, the end token with them, the likeliest.
    model = inference.load(run_dir, inputs_length=160, batch_size=32)
    asked = [ours(model, {"ctx": doc["query"], "endings": doc["choices"]}) for doc in task.validation_docs()]
    scores = [one.log_likelihoods for one in model.option_scores(asked)]
    accuracy = metrics.rank_classification_accuracy(scores, [{row["label"]} for row in rows])["accuracy"]
    print(f"hellaswag, {len(rows)} rows: {accuracy:.1f}")
    assert 100 * found["results"]["hellaswag"]["acc,none"] == pytest.approx(accuracy)
    assert accuracy % 25  # neither all nor none


def test_greedy_answers_are_told(adapter, model):
    text = model.generate("Is it so?", max_tokens=4)[0]
    lm = adapter.FlanJax(generator=model, end_token=False)
    said = [text.text, "dogs run"]
    found = lm.loglikelihood([Request("Is it so?", continuation) for continuation in said])
    # What is generated, tokenised again, need not be the same tokens.
    again = tuple(model.tokenizer.encode([text.text])[0]) == text.tokens[0][: len(text.tokens[0])]
    assert [likeliest for _, likeliest in found] == [again, False]
    (question,) = [ours(model, {"ctx": "Is it so?", "endings": said}, end=False)]
    assert [value for value, _ in found] == list(model.option_scores([question])[0].log_likelihoods)


def test_likeliest_means_that_greedy_decoding_gives_it(model):
    (prompt,) = model.prompts(["Is it so?"])
    tokens = model.generate("Is it so?", max_tokens=6)[0].tokens[0]
    other = [*tokens[:-1], tokens[-1] + 1]
    (scored,) = model.option_scores([score.Question(prompt.tokens, [list(tokens), other, list(tokens[:2])])])
    assert scored.likeliest == (True, False, True)


def test_rolling_is_the_sum_over_tokens_each_predicted_once(adapter, decoder_only):
    texts = ["The dog runs.", " ".join(["The dog runs in the park and sings."] * 9), ""]
    ids = decoder_only.tokenizer.encode(texts)
    assert len(ids[0]) < 32 < 64 < len(ids[1])
    lm = adapter.FlanJax(generator=decoder_only)
    found = lm.loglikelihood_rolling([Request(text) for text in texts])

    def of_tokens(tokens, last):
        row = features.LM().row([seqio_tasks.Tokenised([], tokens)], {"targets": len(tokens)}, packed=False)
        batch = {name: jnp.asarray(value)[None] for name, value in row.items()}
        return float(score.token_log_likelihood(decoder_only.config, decoder_only.params, batch)[0, -last:].sum())

    long, done = ids[1], 32
    expected = of_tokens(long[:32], 32)
    while done < len(long):
        until = min(done + 32, len(long))
        expected += of_tokens(long[until - 33 : until], until - done)
        done = until
    assert found == pytest.approx([of_tokens(ids[0], len(ids[0])), expected, 0.0], rel=1e-5)


def test_an_encoder_decoder_has_no_rolling_likelihood(adapter, model):
    with pytest.raises(errors.FlanError, match="asked of an encoder-decoder"):
        adapter.FlanJax(generator=model).loglikelihood_rolling([Request("a text")])


def test_answers_are_the_generators(adapter, model):
    lm = adapter.FlanJax(generator=model)
    texts = ["Is it so?", "The dog runs.", "Name a colour."]
    asked = [Request(text, {"until": ["a"], "max_gen_toks": 8, "do_sample": False}) for text in texts]
    asked.append(Request(texts[0] + " ", {"until": "\n\n", "max_gen_toks": 5, "temperature": 0.0}))
    expected = [answer.text for answer in model.generate(texts, max_tokens=8, stop=("a",))]
    assert lm.generate_until(asked) == [*expected, model.generate(texts[0], max_tokens=5)[0].text]
    with pytest.raises(errors.FlanError, match="unknown setting of generation 'max_gen_tok'"):
        lm.generate_until([Request("x", {"max_gen_tok": 3})])


def test_long_contexts_keep_their_end(adapter, model, caplog):
    lm = adapter.FlanJax(generator=model)
    long = "word " * 60 + "Is it so?"
    ids = model.tokenizer.encode([long])[0]
    ((value, _),) = lm.loglikelihood([Request(long, "yes")])
    question = score.Question([*ids[-31:], 1], [[*model.tokenizer.encode(["yes"])[0], 1]])
    assert value == model.option_scores([question])[0].log_likelihoods[0]


def test_a_checkpoint_is_needed(adapter):
    with pytest.raises(errors.FlanError, match="no checkpoint; expected --model_args checkpoint=MODEL_DIR"):
        adapter.FlanJax()
