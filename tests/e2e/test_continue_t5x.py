"""`flan train` goes on from T5X's legacy checkpoints, optimizer state included, to t5x's own numbers."""

import jax
import numpy as np
import pytest
import sentencepiece
from etils import epath

from flan_jax import cli, config, sharding, train
from flan_jax.checkpoint import manager, t5x_write, tensors
from flan_jax.data import cache_read
from flan_jax.training import configs, metrics
from tests import golden_numbers
from tests.checkpoint import toy_checkpoints as toy


class Golden:
    """In place of a loader: the batch that t5x trained on, again and again."""

    def __init__(self):
        self.identity, self.tasks, self.clusters = {}, ["golden"], [None]

    def restore(self, state):
        raise AssertionError(f"another program's checkpoint has no position: {state}")

    @staticmethod
    def merge(states):
        return states[0]

    def __iter__(self):
        batch = {name: np.asarray(value) for name, value in golden_numbers.batch("packed").items()}
        tasks = [[0] * int(row.max()) for row in batch["decoder_segment_ids"]]
        tokens = int(sum((batch[f"{side}_segment_ids"] > 0).sum() for side in ("encoder", "decoder")))
        examples = np.asarray([sum(map(len, tasks))])
        while True:
            yield cache_read.Batch(batch, examples, tokens, tasks, {})


@pytest.fixture
def flags(tmp_path, sample_dir, monkeypatch):
    """Of `flan train`: t5x's model and settings; the words do not matter, but that they are 256 at most."""
    monkeypatch.setattr(train, "open_loader", lambda *_: Golden())
    # One device: on a machine that is busy, eight of one process wait too long for each other.
    alone = sharding.make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(configs.Partitioner, "mesh", lambda *_: alone)
    words = tmp_path / "words"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["to be or not to be that is the question"] * 9),
        model_prefix=str(words),
        **{"vocab_size": 40, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        hard_vocab_limit=False,
        minloglevel=2,
    )
    bindings = {
        "VOCABULARY_FILE": f"{words}.model",
        "network.T5Config.vocab_size": 256,
        "MIXTURE_OR_TASK_NAME": "rte_10templates",
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 24},
        "BATCH_SIZE": 4,
        "EVAL_PERIOD": 0,
        "CHECKPOINT_PERIOD": 5,
        "DROPOUT_RATE": 0.0,
        "LOSS_NORMALIZING_FACTOR": None,
        "partitioning.PjitPartitioner.num_partitions": 2,  # for the check, which counts eight devices
        "train_script.train.stats_period": 1,
        "train_script.train.train_eval_dataset_cfg": None,
    }
    with config.isolated():
        yield [
            "--gin_file=runs/finetune.gin",
            "--gin_file=models/t5_1_1/tiny.gin",
            f"--tfds_data_dir={sample_dir}",
            *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
        ]


def run(flags, folder, start, steps):
    """Trains on from a checkpoint; the losses of the steps, as t5x's, summed."""
    given = {"MODEL_DIR": str(folder), "INITIAL_CHECKPOINT_PATH": str(start), "TRAIN_STEPS": steps}
    assert cli.main(["train", *flags, *(f"--gin.{name}={value!r}" for name, value in given.items())]) == 0
    return [line["loss"] for line in metrics.read(str(folder / "train")) if "loss" in line]


@pytest.mark.slow
def test_ten_steps_in_two_runs_are_those_of_t5x(flags, tmp_path):
    of = golden_numbers.config()
    params = golden_numbers.params()
    tree = {"target": params, "state": {"step": np.int32(0), "param_states": toy.adafactor(of).init(params)}}
    first = tmp_path / "t5x" / "checkpoint_0"
    first.mkdir(parents=True)
    leaves = {".".join(at): np.asarray(leaf) for at, leaf in tensors.flat(tree).items()}
    specs = {name: tensors.Stored(value.shape, value.dtype) for name, value in leaves.items()}
    sink = t5x_write.LegacySink(epath.Path(first), specs, set())
    for name, value in leaves.items():
        sink.write(name, value)
    sink.close()

    losses = run(flags, tmp_path / "one", first, 5)
    # As t5x keeps it, with the optimizer's state after five steps.
    half = tmp_path / "t5x" / "checkpoint_5"
    written = ["--in", str(tmp_path / "one" / "checkpoint_5"), "--out", str(half), "--to=t5x", "--no_verify"]
    assert cli.main(["convert", *written]) == 0
    losses += run(flags, tmp_path / "two", half, 10)

    expected = golden_numbers.summary()["encdec"]["adafactor_losses_before_each_step"]
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    last = manager.restore_from(tmp_path / "two" / "checkpoint_10", toy.abstract(of))
    assert int(last["state"]["step"]) == 10
    params, slots = (golden_numbers.expected(f"adafactor_step10_{name}") for name in ("params", "param_states"))
    np.testing.assert_allclose(golden_numbers.sampled(last["target"]), params, rtol=0, atol=1e-5)
    np.testing.assert_allclose(golden_numbers.sampled(last["state"]["param_states"]), slots, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_a_checkpoint_that_t5x_wrote_is_trained_on(flags, tmp_path):
    """T5X's own file at step 10; beyond it there are no numbers of t5x's but that its last loss was higher."""
    legacy = golden_numbers.full("encdec/ckpt/legacy/checkpoint_10")
    losses = run(flags, tmp_path / "run", legacy, 13)
    before = golden_numbers.summary()["encdec"]["adafactor_losses_before_each_step"]
    falls = np.diff([*before[-2:], *losses])
    assert len(losses) == 3
    # A step takes off about 7.3 of 312: a slot or the step's number lost would show at once.
    np.testing.assert_allclose(falls[1:], falls[0], rtol=0.02)
