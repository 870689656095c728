"""Prompts of PromptSource's files give the texts that Jinja gives, and nothing that is not a text."""

import pytest
from data_builders import prepare

from flan_jax import errors
from flan_jax.data import mixtures, promptsource
from flan_jax.tasks import t0_sf

FILE = """\
dataset: cloud_names
templates:
  3f-1: !Template
    answer_choices: cumulus ||| stratus ||| cirrus
    id: 3f-1
    jinja: |-
      {{ sky }} Which cloud is this?
      {% for name in answer_choices %}
      - {{ name }}{% endfor %}
      |||
      {{ answer_choices[label] }}
    metadata: !TemplateMetadata
      choices_in_prompt: true
      original_task: true
    name: which cloud?
    reference: ''
  3f-2: !Template
    answer_choices: null
    id: 3f-2
    jinja: '{% if words | length > 2 %}Join {{ words | join(", ") }}. ||| {{ words | choice | upper }}{% endif %}'
    metadata: !TemplateMetadata {}
    name: join_them
"""
ROW = {"sky": "Low and grey. a|||b", "label": 1, "words": ["x", "y", "z"]}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "templates.yaml"
    file.write_text(
        FILE.replace("metadata: !TemplateMetadata {}", "metadata: !TemplateMetadata\n      original_task: false")
    )
    return file


def test_a_file_gives_datasets(path):
    first, second = promptsource.specs(path, t0_sf.dataset, tfds_name="clouds/all:1.0.0", rows=7)
    assert (first.name, second.name) == ("t0_clouds_all_join_them", "t0_clouds_all_which_cloud_")
    assert (first.templates, second.templates) == ("t0_question_answer", "t0_multiple_choice")
    assert promptsource.specs(path, t0_sf.dataset, tfds_name="clouds/all:1.0.0", rows=7) == (first, second)
    example = second.example(ROW)
    assert example.fields == {"question": "Low and grey. a|||b Which cloud is this?"}
    assert (example.answer, example.options) == ("stratus", ("cumulus", "stratus", "cirrus"))
    found = first.example(ROW)
    assert found.fields == {"question": "Join x, y, z."}
    assert found.answer in ("X", "Y", "Z")
    assert first.example(ROW) == found
    assert first.example({**ROW, "words": ["x"]}) is None


def test_rows_of_a_prepared_dataset(path, tmp_path):
    data_dir = prepare(tmp_path, "clouds", train=[ROW, {**ROW, "label": 2}, {**ROW, "words": []}])
    specs = promptsource.specs(path, t0_sf.dataset, tfds_name="clouds:1.0.0", rows=3)
    catalogue = mixtures.Catalogue(specs)
    rows = catalogue.tasks["t0_clouds_which_cloud__template_0to10_zero_shot"].open(data_dir, "train")
    assert [f.targets for f in rows.in_order()] == ["stratus", "cirrus", "stratus"]
    assert [f.targets for f in catalogue.tasks["t0_clouds_join_them_type_0"].open(data_dir, "train").in_order()] != []


def prompt(jinja, choices=""):
    return promptsource.Prompt("p", "file, prompt 'p'", jinja, choices)


@pytest.mark.parametrize(
    ("jinja", "problem"),
    [
        ("{{ x.__class__ }} ||| y", "attribute '__class__' is not allowed"),
        ("{{ ''.join.__globals__ }} ||| y", "attribute '__globals__' is not allowed"),
        ("{{ x | attr('__class__') }} ||| y", "unknown filter 'attr'"),
        ("{{ x['__class__'].mro() }} ||| y", "unknown function 'mro'"),
        ("{{ cycler('a') }} ||| y", "unknown function 'cycler'"),
        ("{{ lipsum() }} ||| y", "unknown function 'lipsum'"),
        ("{% include 'secrets' %} ||| y", "Include is not allowed"),
        ("{% import 'os' as os %} ||| y", "Import is not allowed"),
        ("{% macro m() %}{% endmacro %} ||| y", "Macro is not allowed"),
        ("{{ 'a' * 1000000000 }} ||| y", "Mul is not allowed"),
        ("{{ 9 ** 9 ** 9 }} ||| y", "Pow is not allowed"),
        ("{{ x.format(y) }} ||| y", "unknown function 'format'"),
        ("{% if x %} ||| y", "file, prompt 'p', line 1"),
    ],
)
def test_what_a_prompt_may_not_do_is_refused_when_it_is_read(jinja, problem):
    with pytest.raises(errors.FlanError, match="file, prompt 'p', line 1") as raised:
        promptsource.template(prompt(jinja))
    assert problem in str(raised.value)


def test_long_ranges_and_absent_fields_are_refused():
    with pytest.raises(errors.FlanError, match="a range of 10,000; expected 1,000 at most"):
        promptsource.apply(prompt("{% for i in range(10000) %}{{ i }}{% endfor %} ||| y"), {"x": 1})
    with pytest.raises(errors.FlanError, match="file, prompt 'p': 'skies' is undefined; the row has 'sky'"):
        promptsource.apply(prompt("{{ skies }} ||| y"), {"sky": "grey"})


def test_jinja_that_is_allowed():
    jinja = (
        "{% set ns = namespace(n=0) %}{% for a, b in zip(x, y) %}{% if a != b %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}"
        "{{ ns.n }} of {{ x | length }} differ: {{ x[1].split('-')[0] | capitalize }} ||| {{ [1, 2, 2] | most_frequent | first }}"
    )
    found = promptsource.apply(prompt(jinja), {"x": ["a", "b-c"], "y": ["a", "d"]})
    assert found == {"inputs_pretokenized": "1 of 2 differ: B", "targets_pretokenized": "2"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2]", "expected a mapping with `templates:`"),
        ("templates: {a: {name: x}}", "prompt a: expected texts `name` and `jinja`"),
        ("templates: !!python/object/apply:os.system ['true']", "cannot be read as PromptSource's YAML"),
        ("templates: [", "cannot be read as PromptSource's YAML"),
    ],
)
def test_other_files_are_refused(tmp_path, text, problem):
    file = tmp_path / "templates.yaml"
    file.write_text(text)
    with pytest.raises(errors.FlanError) as raised:
        promptsource.read(str(file))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
