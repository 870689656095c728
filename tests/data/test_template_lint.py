"""The linter: every rule fires on a template that breaks it, and no shipped file does."""

import sys

import pytest
from data_builders import dataset

from flan_jax import errors
from flan_jax.data import mixtures, template_lint

GOOD = "- inputs: |-\n    Say what follows from {text}\n    {options}\n  targets: '{answer}'\n"
OTHER = "- inputs: |-\n    {text} Well?\n\n    {options}\n  targets: '{answer}'\n"


def test_shipped_templates_have_no_problem():
    specs = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs
    assert len(specs) >= 18
    assert [problem for found in specs for problem in template_lint.lint(found)] == []


def test_good_templates_have_no_problem(tmp_path):
    assert template_lint.lint(dataset(tmp_path, templates=GOOD + OTHER)) == []


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


def module(tmp_path, monkeypatch, templates: str) -> str:
    dataset(tmp_path, templates=templates)
    (tmp_path / "linted_tasks.py").write_text(
        "from flan_jax.data import spec\n"
        "SPECS = (spec.DatasetSpec('mini', 'mine', 'mini:1.0.0', {'train': 'train'}, dict, ('accuracy',), 1, "
        f"{str(tmp_path / 'mini.yaml')!r}),)\n"
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
    assert capsys.readouterr().out == "1 datasets, 0 problems\n"


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
