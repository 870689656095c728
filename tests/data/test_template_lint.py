"""The linter: every rule fires on a template that breaks it, and no shipped file does."""

import dataclasses
import pathlib
import sys

import pytest
from data_builders import dataset, prepare, rows

from flan_jax import errors
from flan_jax.data import mixtures, spec, template_lint, templates

GOOD = "- inputs: |-\n    Say what follows from {text}\n    {options}\n  targets: '{answer}'\n"
SEEN = [spec.Example({"text": text}, "yes", ("yes", "no")) for text in ("a", "b")]
OTHER = "- inputs: |-\n    {text} Well?\n\n    {options}\n  targets: '{answer}'\n"


def test_shipped_templates_have_no_problem(sample_dir):
    catalogue = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")
    specs = list(catalogue.specs)
    assert len(specs) == 86
    seen = {found.name: template_lint.examples(found, [sample_dir]) for found in specs}
    assert all(len(found) > 10 for found in seen.values())
    assert [problem for found in specs for problem in template_lint.lint(found, seen[found.name])] == []
    # Those of collections share a few files; their rows are not in the sample.
    files = {found.templates: found for found in catalogue.blends.own.values() if found.templates}
    assert len(files) == 4
    assert [problem for found in files.values() for problem in template_lint.lint(found)] == []


def test_good_templates_have_no_problem(tmp_path):
    of = dataset(tmp_path, templates=GOOD + OTHER)
    assert template_lint.lint(of) == template_lint.lint(of, SEEN) == []


# --- Fields ---


def test_a_field_that_no_example_has(tmp_path):
    of = dataset(tmp_path, templates=GOOD + "- {inputs: 'Is it so? {txet}', targets: '{answer}'}\n")
    assert template_lint.lint(of, SEEN) == [
        "mini.yaml, template 1: unknown template field 'txet'; did you mean 'text'?"
    ]
    assert template_lint.lint(of) == []  # nothing to hold it against


def test_a_field_that_some_examples_lack(tmp_path):
    of = dataset(tmp_path, templates=GOOD + "- {inputs: '{title} says what?', targets: '{answer}'}\n")
    titled = spec.Example({"text": "b", "title": "t"}, "yes", ("yes", "no"))
    assert template_lint.lint(of, [*SEEN, titled]) == ["mini.yaml, template 1: 2 of 3 examples lack {title}"]


def test_a_field_that_no_template_uses(tmp_path):
    more = [spec.Example({"text": "b", "title": "t", "group": "1"}, "yes", ("yes", "no"))]
    of = dataset(tmp_path, templates=GOOD + OTHER)
    unused = "mini.yaml: no template uses {%s} of mini"
    assert template_lint.lint(of, more) == [unused % "group", unused % "title"]
    # `multirc` scores the examples of a group together.
    assert template_lint.lint(dataclasses.replace(of, metrics=("multirc",)), more) == [unused % "title"]


def test_options_that_no_example_has(tmp_path):
    of = dataset(tmp_path, templates="- {inputs: 'Say {text}', targets: '{answer}'}\n" + GOOD)
    free = [spec.Example({"text": "a"}, "yes")]
    assert template_lint.lint(of, free) == ["mini.yaml, template 1: {options} is shown, but no example has options"]


def test_a_field_that_is_the_answer(tmp_path):
    """A leak that no name gives away: only rows show it. One row that differs, and it is none."""
    leaking = "- {inputs: \"{text} Label {label}.\\n{options}\", targets: '{answer}'}\n"
    backwards = "- {inputs: 'Make up a text with label {label}.', targets: '{text}', reversed: true}\n"
    of = dataset(tmp_path, templates=OTHER + leaking + backwards)
    known = [spec.Example({"text": t, "label": a}, a, ("yes", "no")) for t, a in (("a", "yes"), ("b", "no"))]
    assert template_lint.lint(of, known) == [
        "mini.yaml, template 1: the inputs hold {label}, which is the answer of all 2 examples"
    ]
    other = spec.Example({"text": "c", "label": "no"}, "yes", ("yes", "no"))
    assert template_lint.lint(of, [*known, other]) == template_lint.lint(of) == []


def test_examples_come_from_the_first_directory_that_has_them(tmp_path, sample_dir):
    """Rows that the filter drops give none; a split that is not there is passed over."""
    records = [{"text": f"row {i}", "label": i % 2 if i else -1} for i in range(5)]
    (tmp_path / "mine").mkdir()
    prepared = prepare(tmp_path / "mine", "mini", train=records)
    found = template_lint.examples(dataset(tmp_path), [sample_dir, prepared])
    assert [example.fields["text"] for example in found] == ["row 1", "row 2", "row 3", "row 4"]
    assert template_lint.examples(dataset(tmp_path), [sample_dir]) == []


# --- Lists that are not shown, targets that are not ranked ---


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ("{text} Is it (A) or (B)?", "(A)"),
        ("Which of the options above follows from {text}", "options"),
        ("{text} Which of the choices below is right?", "choices"),
        ("Take the best choice. {text}", "choice"),
        ("{text} Which of the four endings is it?", "four endings"),
        ("{text} Which option is right?", "Which option"),
        ("{text} One option below is right.", "option below"),
        ("Which of the phrases listed comes after {text}", "phrases listed"),
    ],
)
def test_a_list_that_is_not_shown(tmp_path, inputs, named):
    """Where a template shows the options, there are tasks that leave them out."""
    problem = f"template 1: {named!r} points at a list that is not shown"
    never = dataset(tmp_path, name="never", templates=GOOD + f"- {{inputs: '{inputs}', targets: '{{answer}}'}}\n")
    assert template_lint.lint(never, SEEN) == template_lint.lint(never) == [f"never.yaml, {problem}"]
    text = GOOD + f'- {{inputs: "{inputs}\\n{{options}}", targets: "{{answer}}"}}\n'
    some = dataset(tmp_path, name="some", templates=text)
    assert template_lint.lint(some, SEEN) == [f"some.yaml, {problem} where options are left out"]
    text = f"- {{inputs: '{inputs.replace('text', 'answer')}', targets: '{{text}}', reversed: true}}\n"
    backwards = dataset(tmp_path, name="backwards", templates=GOOD + text)
    assert template_lint.lint(backwards, SEEN) == []


def test_a_list_that_rows_bring_along(tmp_path):
    """As a field; or in chain-of-thought questions, which are given the benefit of the doubt where nothing is read."""
    listed = dataset(tmp_path, name="listed", templates="- {inputs: 'Of the choices {choices}?', targets: '{answer}'}")
    assert template_lint.lint(listed) == []
    text = "- {inputs: '{question} Which of the choices? {trigger}', targets: '{rationale} So {answer}.', trigger: Why so}\n"
    of = dataclasses.replace(dataset(tmp_path, templates=text), rationale=True)
    fields = {"question": "What is it?\n(A) a cat\n(B) a dog", "rationale": "It barks."}
    assert template_lint.lint(of, [spec.Example(fields, "(B)")]) == template_lint.lint(of) == []
    without = spec.Example({**fields, "question": "What is it?"}, "(B)")
    assert "'choices' points at a list that is not shown" in template_lint.lint(of, [without])[0]


def test_targets_that_are_not_what_is_ranked(tmp_path):
    wordy = "- {inputs: 'Say of {text} if it is so.', targets: 'I say {answer}.'}\n"
    backwards = "- {inputs: 'Write something.', targets: 'I write {text}.', reversed: true}\n"
    of = dataset(tmp_path, templates=GOOD + wordy + backwards)
    assert template_lint.lint(of) == [
        "mini.yaml, template 1: the targets are 'I say {answer}.'; expected {answer} alone, since options are ranked bare"
    ]
    # Where no template shows options, answers are generated and nothing is ranked.
    assert template_lint.lint(dataset(tmp_path, name="free", templates=wordy)) == []


# --- Rules of single templates ---


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("- {inputs: \"{text} \\nis it?\", targets: '{answer}'}", "inputs have trailing space"),
        ("- {inputs: '{text}', targets: \"{answer}.  \\nEnd\"}", "targets have trailing space"),
        ("- {inputs: \" {text}\", targets: '{answer}'}", "inputs start or end with white space"),
        ('- {inputs: "{text}", targets: "{answer}\\n"}', "targets start or end with white space"),
        ("- {inputs: \"{options}\\n{text}\", targets: '{answer}'}", "{options} must be last"),
        ("- {inputs: \"{text} {options}\", targets: '{answer}'}", "{options} must be last"),
        ("- {inputs: \"{text}\\n{options}\\nSo?\", targets: '{answer}'}", "{options} must be last"),
        ("- {inputs: \"Write.\\n{options}\", targets: '{text}', reversed: true}", "a reversed template shows options"),
        ("- {inputs: '{text} is {answer}', targets: '{answer}'}", "the inputs hold {answer}"),
        ("- {inputs: 'Ask.', targets: '{text}'}", "the targets lack {answer}"),
        ("- {inputs: '{text}', targets: 'It is so.'}", "the targets use no field"),
        ("- {inputs: '{text}', targets: '{answer} {options}'}", "the targets hold {options}"),
        ("- {inputs: '{text}', targets: '{answer} as {text}'}", "the targets repeat text of the inputs"),
    ],
)
def test_each_rule_fires(tmp_path, bad, problem):
    found = template_lint.lint(dataset(tmp_path, templates=GOOD + bad + "\n"))
    assert any(problem in line for line in found), found
    assert all("template 1: " in line for line in found), found


def test_templates_that_are_nearly_the_same(tmp_path):
    twice = GOOD + OTHER + GOOD.replace("what follows", "what follow")
    (problem,) = template_lint.lint(dataset(tmp_path, templates=twice))
    assert "template 0 and 2 are nearly the same" in problem


def test_too_many_reversed_templates(tmp_path):
    lines = [
        "Make one up.",
        "Write a text about weather",
        "What might this be the answer to: {answer}",
        "Text, please!",
    ]
    backwards = "".join(f"- {{inputs: '{line}', targets: '{{text}}', reversed: true}}\n" for line in lines)
    (problem,) = template_lint.lint(dataset(tmp_path, templates=GOOD + backwards))
    assert "4 reversed templates; expected 3 at most" in problem


@pytest.fixture(autouse=True)
def where_rows_are(sample_dir, tmp_path, monkeypatch):
    """The sample is not made a second time, and what the machine holds elsewhere is not looked at."""
    monkeypatch.setenv("FLAN_JAX_CACHE", str(pathlib.Path(sample_dir).parent))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def module(tmp_path, monkeypatch, text: str) -> str:
    dataset(tmp_path, templates=text)
    (tmp_path / "linted_tasks.py").write_text(
        "import data_builders\n"
        "from flan_jax.data import spec\n"
        "SPECS = (spec.DatasetSpec('mini', 'mine', 'mini:1.0.0', {'train': 'train'}, data_builders.example, "
        f"('accuracy',), 1, {str(tmp_path / 'mini.yaml')!r}),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "linted_tasks", raising=False)
    return "linted_tasks"


def test_main_prints_every_problem_and_fails(tmp_path, monkeypatch, capsys):
    name = module(tmp_path, monkeypatch, GOOD + "- {inputs: 'Ask.', targets: '{text}'}\n")
    assert template_lint.main(name, None) == 1
    printed = capsys.readouterr().out
    assert "mini.yaml, template 1: the targets lack {answer}" in printed
    assert printed.endswith("1 datasets, 1 problems\n")


def test_main_passes_good_files(tmp_path, monkeypatch, capsys):
    assert template_lint.main(module(tmp_path, monkeypatch, GOOD), None) == 0
    assert capsys.readouterr().out == (
        "note: no row of mini is at hand, so fields are not checked; name a directory by --tfds_data_dir\n1 datasets, 0 problems\n"
    )


def test_main_checks_fields_where_there_are_rows(tmp_path, monkeypatch, capsys):
    prepare(tmp_path, "mini", train=rows(3))
    assert template_lint.main(module(tmp_path, monkeypatch, GOOD), None) == 0
    assert capsys.readouterr().out == "1 datasets, 0 problems\n"
    templates.load.cache_clear()
    assert template_lint.main(module(tmp_path, monkeypatch, GOOD.replace("{text}", "{txet}")), None) == 1
    printed = capsys.readouterr().out
    assert "mini.yaml, template 0: unknown template field 'txet'; did you mean 'text'?" in printed
    assert "mini.yaml: no template uses {text} of mini" in printed


def test_main_refuses_unknown_modules():
    with pytest.raises(errors.FlanError, match="'no_such_tasks' cannot be imported"):
        template_lint.main("no_such_tasks", None)


def test_main_reports_what_a_vocabulary_lacks(shared_dir, tmp_path, monkeypatch, capsys):
    t5 = str(shared_dir / "vocab" / "cc_all.32000.100extra.model")
    assert template_lint.main(module(tmp_path, monkeypatch, GOOD + OTHER), t5) == 0
    assert r"note: the vocabulary has no piece for '\n' -> ' '" in capsys.readouterr().out
    unmapped = GOOD.replace("Say", "\u4e16\u754c") + OTHER
    other = tmp_path / "other"
    other.mkdir()
    assert template_lint.main(module(other, monkeypatch, unmapped), t5) == 1
    assert "'\u4e16' -> 'unknown piece'" in capsys.readouterr().out
