"""`--suite flan2021`: gin's protocol by plain flags, with the files of every suite; a killed one asks nothing twice."""

import json
import shutil

import pytest

from flan_jax import config, config_read, errors, eval_suite
from flan_jax import eval as eval_lib
from flan_jax.evaluation import results
from flan_jax.evaluation.suites import flan2021
from flan_jax.inference import generate, score

TASKS = "rte_2templates"


@pytest.fixture
def ask(run_dir, sample_dir, tmp_path):
    def run(*argv, suite="flan2021"):
        flags = [f"--suite={suite}", f"--checkpoint={run_dir}", f"--tfds_data_dir={sample_dir}", f"--out={tmp_path}"]
        return eval_suite.main([*flags, *argv])

    return run


@pytest.fixture
def asked(monkeypatch):
    """The questions that a model was asked, answered without one: the first option is likeliest; after `dies_after` it is killed."""

    class Asked(list):
        dies_after = None

    found = Asked()

    def options(self, questions):
        for number, question in enumerate(questions):
            if len(found) == found.dies_after:
                raise KeyboardInterrupt
            found.append(tuple(question.inputs))
            scores = tuple(-float(place) for place in range(len(question.options)))
            yield number, score.Scored(scores, tuple(map(len, question.options)))

    monkeypatch.setattr(generate.Generator, "options", options)
    return found


def test_it_is_the_protocol_of_the_gin_file(ask, monkeypatch):
    calls = []
    # Whatever another test registered: gin would take the stand-in for a second `eval_script.evaluate`.
    with monkeypatch.context() as replaced, config.isolated(empty_registry=True):
        replaced.setattr(eval_lib, "evaluate", lambda *given, **named: calls.append((given, named)))
        ask("--limit=3", "--max_tokens=32", "--inputs=64", "--seed=5", "--no_report")
    ((_, cfg, restore, partitioner, _), named) = calls[0]
    with config.isolated():
        config.register()
        parsed = config_read.parse(["models/t5_1_1/tiny.gin", "runs/flan2021.gin"], [])
        macros = {one.param: one.value for one in parsed.settings if one.selector == "gin.macro"}
        bound = {one.key: one.value for one in parsed.settings}
    macros |= {one.key: one.value for one in parsed.settings if one.key.isupper()}
    assert cfg.mixture_or_task_name == flan2021.TASKS == macros["EVAL_MIXTURE"]
    assert macros["TASK_FEATURE_LENGTHS"]["targets"] == flan2021.TARGETS
    assert cfg.split == macros["EVAL_SPLIT"]
    assert named["seen_in_training"] == macros["SEEN_IN_TRAINING"]
    assert named["select_template_on"] == bound["eval_script.evaluate.select_template_on"]
    assert (cfg.num_examples, dict(cfg.task_feature_lengths), cfg.seed) == (3, {"inputs": 64, "targets": 32}, 5)
    assert (restore.path.rsplit("/", 1)[-1], restore.mode, partitioner.num_partitions) == (
        "checkpoint_7",
        "specific",
        1,
    )


def test_a_model_is_asked_and_a_report_made(ask, tmp_path, capsys):
    ask(f"--tasks={TASKS}", "--limit=2", "--batch_size=8", "--max_tokens=8", "--inputs=128")
    written = [str(tmp_path / name) for name in ("results.json", "report.md", "report.html")]
    assert capsys.readouterr().out.splitlines()[-3:] == written
    assert "| rte | accuracy |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    found = results.load(tmp_path)
    (score,) = found.scores
    assert (score.name, score.group, score.examples, score.chance) == ("rte", "nli", 2, 50.0)
    assert score.best_dev is not None
    assert (found.about["step"], found.about["suite"]) == (7, TASKS)
    assert [one.line["index"] for one in results.predictions(found)] == [0, 1] * 2


def test_a_killed_one_goes_on_with_the_next_question(ask, asked, tmp_path):
    flags = (f"--tasks={TASKS}", "--limit=4")
    asked.dies_after = 6  # in the middle of the second template
    with pytest.raises(KeyboardInterrupt):
        ask(*flags)
    assert not (tmp_path / "results.json").exists()
    asked.dies_after = None
    ask(*flags)
    assert len(asked) == len(set(asked)) == 16  # 4 test rows and 4 that choose a template, each with 2: none twice
    found = json.loads((tmp_path / "results.json").read_text())
    (entry,) = found["scores"]
    assert (entry["examples"], entry["templates"]) == (4, 2)
    lines = (tmp_path / "rte_type_1_scoring_eval-metrics.jsonl").read_text().splitlines()
    ask(*flags)
    assert len(asked) == 16
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert (tmp_path / "rte_type_1_scoring_eval-metrics.jsonl").read_text().splitlines() == lines
    with pytest.raises(errors.FlanError, match=r"begun with num_examples = 4, now it is 5; .*--overwrite"):
        ask(f"--tasks={TASKS}", "--limit=5")
    ask(f"--tasks={TASKS}", "--limit=5", "--overwrite")
    assert len(asked) == 16 + 20


def test_of_what_is_not_reported_no_template_is_chosen(ask, asked, monkeypatch, tmp_path):
    opened = eval_lib.mixtures.open_tasks

    def without_test_rows(tasks, data_dir, split, missing):
        kept = [task for task in tasks if split != "test" or task.dataset.name == "rte"]
        return opened(kept, data_dir, split, missing)

    monkeypatch.setattr(eval_lib.mixtures, "open_tasks", without_test_rows)
    ask("--tasks=nli_1templates", "--limit=1")
    assert len(asked) == 2  # a test row of RTE, and one that chooses a template
    assert [of["name"] for of in json.loads((tmp_path / "results.json").read_text())["scores"]] == ["rte"]


def test_rows_that_are_reported_choose_no_template(ask, asked, tmp_path):
    ask(f"--tasks={TASKS}", "--limit=4", "--split=validation")
    assert len(asked) == 8
    (entry,) = json.loads((tmp_path / "results.json").read_text())["scores"]
    assert (entry["examples"], "best_dev" in entry) == (4, False)


def test_other_weights_under_the_same_name_are_not_taken_for_those_that_answered(asked, run_dir, sample_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    flags = [f"--checkpoint={copy}", f"--tfds_data_dir={sample_dir}", f"--out={tmp_path / 'out'}", f"--tasks={TASKS}"]
    eval_suite.main(["--suite=flan2021", *flags, "--limit=1"])
    shutil.rmtree(copy / "checkpoint_7")
    shutil.copytree(copy / "checkpoint_3", copy / "checkpoint_7")
    with pytest.raises(errors.FlanError, match="was begun with weights = "):
        eval_suite.main(["--suite=flan2021", *flags, "--limit=1"])


def test_what_has_no_data_is_left_out_and_told(ask, asked, tmp_path, monkeypatch):
    opened = eval_lib.mixtures.open_tasks

    def without_cb(tasks, *rest):
        return opened([task for task in tasks if task.dataset.name != "cb"], *rest)

    monkeypatch.setattr(eval_lib.mixtures, "open_tasks", without_cb)
    ask("--tasks=nli_1templates", "--limit=1")
    assert (
        "1 datasets have no data and were not asked: cb" in json.loads((tmp_path / "results.json").read_text())["notes"]
    )


@pytest.fixture(scope="module")
def runs_dir(run_dir, tmp_path_factory):
    """A run that held NLI out, and one that held sentiment out."""
    folder = tmp_path_factory.mktemp("runs")
    for cluster, step in (("nli", 7), ("sentiment", 3)):
        run = folder / cluster
        shutil.copytree(run_dir / f"checkpoint_{step}", run / f"checkpoint_{step}")
        text = (run_dir / "config.gin").read_text()
        assert "flan_minus_nli_10templates" in text
        (run / "config.gin").write_text(text.replace("flan_minus_nli_10templates", f"flan_minus_{cluster}_10templates"))
    return folder


def test_of_a_directory_of_runs_each_answers_what_was_held_out_for_it(
    ask, runs_dir, sample_dir, tmp_path, capsys, monkeypatch
):
    module = tmp_path / "two_clusters.py"
    module.write_text(
        "from flan_jax.data import spec\nfrom flan_jax.tasks import nli, sentiment\n"
        "SPECS = spec.SpecRegistry()\n"
        "SPECS.add([d for d in (*nli.SPECS, *sentiment.SPECS) if d.name in ('rte', 'sst2')])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = [
        "--suite=flan2021",
        f"--checkpoint={runs_dir}",
        f"--tfds_data_dir={sample_dir}",
        "--tasks=flan2021_1templates",
    ]
    flags += ["--module=two_clusters", "--limit=2", "--batch_size=8", "--max_tokens=8", "--inputs=128"]
    out = tmp_path / "out"
    eval_suite.main([*flags, f"--out={out}", "--dry_run"])
    nli, sentiment = str(runs_dir / "nli" / "checkpoint_7"), str(runs_dir / "sentiment" / "checkpoint_3")
    assert capsys.readouterr().out.splitlines() == [
        f"rte: 1 templates, split test, up to 2 questions each, {nli}",
        f"sst2: 1 templates, split test, up to 2 questions each, {sentiment}",
    ]
    eval_suite.main([*flags, f"--out={out}"])
    found = results.load(out)
    assert found.about["checkpoint"] == str(runs_dir)
    assert found.about["checkpoints"] == {"rte": nli, "sst2": sentiment}
    assert [score.name for score in found.scores] == ["rte", "sst2"]
    assert f"{nli} was asked rte" in found.about["notes"]
    assert found.predictions == ("rte_type_0_scoring_eval-000007.jsonl", "sst2_type_0_scoring_eval-000003.jsonl")
    # Each as the run alone would have answered.
    for name, checkpoint in (("rte", nli), ("sst2", sentiment)):
        alone = tmp_path / name
        flags[1], flags[3] = f"--checkpoint={checkpoint}", f"--tasks={name}_1templates"
        eval_suite.main([*flags, f"--out={alone}"])
        (expected,) = results.load(alone).predictions
        assert (out / expected).read_text() == (alone / expected).read_text()
    assert "| rte " in (out / "results.md").read_text()
    assert "| sst2 " in (out / "results.md").read_text()


def test_a_cluster_that_no_run_held_out_is_refused(runs_dir, sample_dir, tmp_path):
    flags = [f"--checkpoint={runs_dir}", f"--tfds_data_dir={sample_dir}", f"--out={tmp_path}"]
    with pytest.raises(errors.FlanError, match=r"linguistic_acceptability \(cola\) was held out of none"):
        eval_suite.main(["--suite=flan2021", *flags, "--tasks=cola_1templates"])


@pytest.mark.parametrize(
    ("suite", "flags", "told"),
    [
        ("flan2021", [f"--tasks={TASKS}", "--limit=3"], "rte: 2 templates, split test, up to 3 questions each\n"),
        (
            "mmlu",
            ["--limit=1"],
            "mmlu_direct: 3 questions of 3 subtasks, split validation, 5 exemplars, generate, up to 16 tokens\n",
        ),
        (
            "opt_iml",
            [f"--tasks={TASKS}", "--shots=0", "--limit=6"],
            "0 exemplars, 6 questions of a dataset, spread over its templates:\n"
            "rte: 2 templates, split validation, up to 6 questions each\n",
        ),
    ],
)
def test_a_dry_run_says_what_would_be_asked(ask, suite, flags, told, tmp_path, capsys):
    assert ask(*flags, "--dry_run", suite=suite) == 0
    assert capsys.readouterr().out == told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--shots=5", "--shots with --suite flan2021, which is zero-shot; expected --tasks .*_multi_shot"),
        ("--cot", "--cot with --suite flan2021, which ranks options"),
        ("--subtasks=rte", "--subtasks with --suite flan2021, which asks the datasets of --tasks"),
        ("--tasks=rte_2template", "unknown task or mixture 'rte_2template'; did you mean"),
        ("--batch_size=3", "--batch_size is 3; expected a multiple of 8, the devices"),
        ("--tasks=cola_1templates", "trained on what it is to be asked.*--seen_in_training warn"),
    ],
)
def test_mistakes_are_told(ask, flag, message):
    with pytest.raises(errors.FlanError, match=f"(?s){message}"):
        ask(flag)
