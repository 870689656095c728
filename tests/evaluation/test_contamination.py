"""Clean and dirty examples of made-up rows, of the embedded sample, and what predictions score on each."""

import io
import json

import pytest

from flan_jax import cli, errors
from flan_jax.data import benchmarks, ngrams
from flan_jax.evaluation import contamination, results
from flan_jax.evaluation.suites import flan2022
from tests.evaluation import report_files

TRAINED = "the quick brown fox jumps over the lazy dog and sleeps"
EXAMPLES = [
    (4, "They say: The quick, brown fox jumps over the lazy cat"),  # five words in a row, whatever the marks
    (5, "the quick brown cat jumps over the small dog"),  # three and three
    (7, "over the lazy dog and sleeps"),
    (8, "quick brown fox"),  # too short to tell
]


@pytest.fixture
def index(tmp_path):
    builder = ngrams.Builder(tmp_path / "index", 5)
    builder.add([TRAINED, "another document that is not asked for"])
    return builder.finish()


def test_an_example_is_dirty_by_one_n_gram(index):
    written = io.StringIO()
    found = contamination.split("made_up", iter(EXAMPLES), index, written)
    assert found == {"dataset": "made_up", "examples": 4, "clean": 1, "dirty": 2, "short": 1}
    assert [json.loads(line) for line in written.getvalue().splitlines()] == [
        # Of 11 words seven n-grams, of which four are in the document.
        {"dataset": "made_up", "index": 4, "overlap": 4 / 7, "ngram": "the quick brown fox jumps"},
        {"dataset": "made_up", "index": 7, "overlap": 1.0, "ngram": "over the lazy dog and"},
    ]


def test_scores_are_of_the_examples_of_each_kind(index):
    scores = {4: [1.0, 0.0], 5: [0.0], 7: [1.0, 1.0]}  # two templates; row 8 was not asked
    found = contamination.split("made_up", iter(EXAMPLES), index, io.StringIO(), scores)
    assert found["score"] == {"clean": 0.0, "dirty": 75.0, "short": None}
    assert (found["difference_error"], found["without_prediction"]) == (None, 1)
    both = [*EXAMPLES, (9, EXAMPLES[1][1])]
    found = contamination.split("made_up", iter(both), index, io.StringIO(), {**scores, 9: [1.0]})
    # Variances 5,000 and 1,250 over two examples each.
    assert found["difference_error"] == pytest.approx((5000 / 2 + 1250 / 2) ** 0.5)


def test_predictions_belong_to_the_longest_name(tmp_path):
    lines = {f"{name}_type_0-000010.jsonl": [report_files.line(3, "yes", "yes")] for name in ("arc", "arc_easy", "rte")}
    lines["arc_type_1-000010.jsonl"] = [report_files.line(3, "no", "yes")]
    found = results.load(report_files.write(tmp_path / "r", [], lines))
    assert contamination.points(found, ["arc", "arc_easy"]) == {"arc": {3: [1.0, 0.0]}, "arc_easy": {3: [1.0]}}
    with pytest.raises(errors.FlanError, match=r"predictions of arc_easy_type_0, .*; expected some of cb"):
        contamination.points(found, ["cb"])


def test_predictions_of_opt_imls_suite_belong_to_their_datasets(tmp_path):
    lines = [
        report_files.line(at, "yes", target, dataset=name, row=row)
        for at, (name, row, target) in enumerate(
            [("rte", 3, "yes"), ("cb", 3, "no"), ("rte", 3, "no"), ("rte", 8, "no")]
        )
    ]
    found = results.load(report_files.write(tmp_path / "r", [], {"predictions/opt_iml_ranked.jsonl": lines}))
    assert contamination.points(found, ["rte", "cb"]) == {"rte": {3: [1.0, 0.0], 8: [0.0]}, "cb": {3: [0.0]}}


def test_a_suite_is_its_own_words_subtask_by_subtask(sample_dir):
    reader = benchmarks.Reader(sample_dir)
    assert contamination.runs_of("mmlu") == ("mmlu_direct", "mmlu_cot")
    assert contamination.runs_of("bbh_cot") == ("bbh_cot",)
    assert contamination.runs_of("flan2022") == flan2022.RUNS
    assert contamination.runs_of("rte_10templates") == ()
    for suite in flan2022.SUITES.values():
        found = contamination.of_suites(reader, contamination.runs_of(suite.name), None, 2, None)
        assert (found.split, list(found.wholes)) == (suite.split, [suite.name])
        assert found.wholes[suite.name] == list(found.texts)
        words = [text for name in found.texts for _, text in found.texts[name]()]
        assert words
        assert all(text.strip() for text in words)
        assert not [text for text in words if "Question:" in text or "\nA:" in text or "step by step" in text]
        assert [text for _, text in found.whole(suite.name)[0]] == words
    (mmlu, *_) = (text for _, text in contamination.of_suites(reader, ["mmlu_cot"], "dev", 1, None).whole("mmlu")[0])
    row = reader.rows("mmlu", "dev")[0]
    assert all(row[field] in mmlu for field in ("question", "A", "B", "C", "D"))
    assert f"({row['answer']})" not in mmlu  # letters are the prompt's
    with pytest.raises(
        errors.FlanError, match=r"no questions of BIG-Bench Hard in .*, split 'train'; `flan data doctor"
    ):
        contamination.of_suites(reader, ["bbh_cot"], "train", None, None)


def test_the_command_scores_a_suite_on_clean_and_dirty_questions(tmp_path, sample_dir, capsys):
    questions = list(
        flan2022.SUITES["mmlu"].questions(benchmarks.Reader(sample_dir), "astronomy", contamination.base.How())
    )
    others = flan2022.SUITES["mmlu"].present(benchmarks.Reader(sample_dir), contamination.base.How())
    builder = ngrams.Builder(tmp_path / "index", 4)
    builder.add([f"As I read: {questions[0].words}"])
    builder.finish()
    files = {
        f"predictions/{run}.jsonl": [
            report_files.line(number, said, "(A)", subtask="astronomy", row=question.row)
            for number, question in enumerate(questions)
        ]
        for run, said in (("mmlu_direct", "(A)"), ("mmlu_cot", "(B)"))
    }
    folder = report_files.write(tmp_path / "r", [], files, averages=[])
    given = [
        "contamination",
        f"--index={tmp_path / 'index'}",
        f"--tfds_data_dir={sample_dir}",
        f"--predictions={folder}",
    ]
    assert cli.main([*given, "--eval=mmlu", f"--out={tmp_path / 'both'}"]) == 0
    both = json.loads((tmp_path / "both/contamination.json").read_text())
    entries = {entry["dataset"]: entry for entry in both["datasets"]}
    assert list(entries) == [f"mmlu/{name}" for name in others]
    assert entries["mmlu/astronomy"]["dirty"] == 1
    assert entries["mmlu/astronomy"]["score"]["dirty"] == 50.0  # right directly, wrong with reasons
    (whole,) = both["wholes"]
    assert (whole["dataset"], whole["dirty"]) == ("mmlu", 1)
    assert whole["examples"] == sum(entry["examples"] for entry in both["datasets"])
    assert whole["without_prediction"] == whole["examples"] - len(questions)
    assert len((tmp_path / "both/dirty.jsonl").read_text().splitlines()) == 1  # said once
    assert f"1 of {whole['examples']} examples of mmlu share 4 words" in capsys.readouterr().out
    assert (tmp_path / "both/contamination.md").read_text().index("| mmlu |") > 0
    assert cli.main([*given, "--eval=mmlu_cot", f"--out={tmp_path / 'cot'}"]) == 0
    (whole,) = json.loads((tmp_path / "cot/contamination.json").read_text())["wholes"]
    assert whole["score"]["dirty"] == 0.0
    with pytest.raises(SystemExit):
        cli.main([*given, "--eval=bbh_cot", f"--out={tmp_path / 'none'}"])
    assert "has predictions of mmlu_cot, mmlu_direct; expected some of bbh_cot" in capsys.readouterr().err


def test_the_command_finds_what_is_trained_on(tmp_path, sample_dir, capsys):
    folder, data = str(tmp_path / "out"), f"--tfds_data_dir={sample_dir}"
    common = [data, "--module=flan_jax.tasks.nli", "--n=8"]
    # Rows that are trained on are dirty, and what is too short for an n-gram of eight is said to be.
    given = ["contamination", "--train=rte_10templates", "--eval=rte_1templates", "--split=train", f"--out={folder}"]
    assert cli.main([*given, *common]) == 0
    found = json.loads((tmp_path / "out/contamination.json").read_text())
    (rte,) = found["datasets"]
    assert rte["dirty"] + rte["short"] == rte["examples"] > 20
    assert rte["dirty"] > rte["examples"] / 2
    assert found["documents"] == 2 * rte["examples"]  # fields and answer of each
    assert "share 8 words in a row with rte_10templates" in capsys.readouterr().out
    dirty = (tmp_path / "out/dirty.jsonl").read_text().splitlines()
    assert len(dirty) == rte["dirty"]
    assert all(json.loads(line)["overlap"] == 1.0 for line in dirty)
    # The index serves again; other rows share nothing that long.
    again = ["contamination", f"--index={folder}/index", "--eval=cb_1templates", f"--out={tmp_path / 'cb'}"]
    assert cli.main([*again, *common]) == 0
    (cb,) = json.loads((tmp_path / "cb/contamination.json").read_text())["datasets"]
    assert (cb["dirty"], cb["dataset"]) == (0, "cb")
    assert "| cb |" in (tmp_path / "cb/contamination.md").read_text()


def test_a_dataset_is_read_once_whatever_asks_for_it(tmp_path, sample_dir):
    common = [f"--tfds_data_dir={sample_dir}", "--module=flan_jax.tasks.nli", "--limit=3"]
    found = []
    for train in ("rte_10templates", "rte_type_0"):
        given = [
            "contamination",
            f"--train={train}",
            "--eval=nli_10templates",
            "--split=validation",
            f"--out={tmp_path / train}",
        ]
        assert cli.main([*given, *common]) == 0
        found.append(json.loads((tmp_path / train / "contamination.json").read_text()))
    assert found[0]["documents"] == found[1]["documents"]
    assert found[0]["ngrams"] == found[1]["ngrams"]
    assert len(found[0]["datasets"]) == 10
    assert all(entry["examples"] <= 3 for entry in found[0]["datasets"])
