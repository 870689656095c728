"""Templates: cut once, rendered by joins, nothing in them or in the data executed."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax import errors
from flan_jax.data import mixtures, spec, templates

SHIPPED = sorted({dataset.templates for dataset in mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue").specs})


def template(inputs: str, targets: str = "{answer}") -> templates.Template:
    return templates.Template(templates._segments(inputs, "here"), templates._segments(targets, "here"))


def example(**fields: str) -> spec.Example:
    return spec.Example(fields=fields, answer="yes", options=("yes", "no"))


def test_worked_examples():
    assert templates._segments("Is {a} it?", "here") == (("Is ", "a"), (" it?", None))
    assert templates.options_block(("yes", "no")) == "OPTIONS:\n- yes\n- no"
    assert templates.options_block(()) == ""


def test_render():
    asked = template("{premise}\n\nDoes it follow that {hypothesis}\n\n{options}")
    given_example = example(premise="It rains.", hypothesis="it is wet?")
    assert templates.render(asked, given_example) == (
        "It rains.\n\nDoes it follow that it is wet?\n\nOPTIONS:\n- yes\n- no",
        "yes",
    )
    assert templates.render(asked, given_example, options=False) == (
        "It rains.\n\nDoes it follow that it is wet?",
        "yes",
    )


def test_an_empty_field_leaves_no_gap():
    asked = template("Background: {background}\n\nPassage: {passage}\n{options}\n\nAnswer:")
    found, _ = templates.render(asked, example(background="", passage="It rains."), options=False)
    assert found == "Background:\n\nPassage: It rains.\n\nAnswer:"


def test_braces_and_white_space():
    assert templates.render(template("{{{a}}} {{b}}"), example(a="x"))[0] == "{x} {b}"
    assert templates.render(template("  {a}\n", " {answer}\n"), example(a=" x "))[0] == "x"
    assert templates.render(template("  {a}\n", " {answer}\n"), example(a=" x "))[1] == "yes"


@given(st.text(), st.text(), st.text())
def test_text_of_a_field_stays_as_it_is(a, b, answer):
    """Whatever is in a field, `{b}` or `%s` too, is in the result, and nothing else is."""
    rendered = templates.render(
        template("<{a}|{b}|{a}>", "[{answer}]"), spec.Example(fields={"a": a, "b": b}, answer=answer, options=("x",))
    )
    assert rendered == (f"<{a}|{b}|{a}>", f"[{answer}]")


text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)


@pytest.mark.parametrize("name", SHIPPED)
@given(text=text, options=st.booleans())
def test_shipped_templates_render_any_record(name, text, options):
    for entry in templates.load(name):
        fields = {field: f"<<{field}{text}>>" for field in entry.fields() - {"answer", "options"}}
        shown = ("<<first>>", "<<second>>")
        record = spec.Example(fields=fields, answer="<<right>>", options=shown)
        inputs, targets = templates.render(entry, record, options=options)
        asked = {field for _, field in entry.inputs if field and field != "options"}
        assert all(fields[field] in inputs for field in asked & set(fields))
        assert ("<<right>>" in targets) == (not entry.reversed or "answer" in {field for _, field in entry.targets})
        assert ("OPTIONS:\n- <<first>>\n- <<second>>" in inputs) == (options and entry.shows_options)
        assert not inputs.endswith((" ", "\n"))
        for side in (inputs, targets):
            for value in (*fields.values(), *shown, "<<right>>"):
                side = side.replace(value, "")
            assert "{" not in side
            assert "}" not in side


def test_unknown_field_names_the_nearest():
    with pytest.raises(errors.FlanError, match="unknown template field 'premis'; did you mean 'premise'"):
        templates.render(template("{premis}"), example(premise="x"))


def written(tmp_path: pathlib.Path, content: str | bytes) -> str:
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_file_of_the_users_own(tmp_path):
    path = written(tmp_path, "- inputs: '{q}?'\n  targets: '{answer}'\n- {inputs: a, targets: '{q}', reversed: true}\n")
    loaded = templates.load(path)
    assert [entry.reversed for entry in loaded] == [False, True]
    assert templates.render(loaded[0], example(q="what")) == ("what?", "yes")
    mapping = written(tmp_path / "..", "templates:\n- inputs: a\n  targets: b\n")
    assert len(templates.load(mapping)) == 1


REASONED = """\
- inputs: |-
    {trigger}

    {q}
  trigger: " Think first. "
  targets: "{why} So: {answer}"
- inputs: |-
    Q: {q}
    A: {trigger}
  trigger: Let's see.
  targets: "{why} So: {answer}"
- inputs: |-
    Well? {trigger}
    {q}

    {options}
  trigger: Why?
  targets: "{why} So: {answer}"
- {inputs: "Ask for {answer}", targets: "{q}", reversed: true}
"""
TURNED = '- {inputs: "{why}", targets: "{q}", reversed: true}\n'


def test_a_phrase_that_asks_for_reasons_comes_and_goes(tmp_path):
    path, turned = written(tmp_path, REASONED), tmp_path / "turned.yaml"
    turned.write_text(TURNED)
    dataset = spec.DatasetSpec("d", "c", "d:1.0.0", {}, lambda row: None, (), 1, path, inverted=str(turned))
    loaded = templates.of(dataset)
    asked = [templates.render(t, example(q="Is it?", why="It is."))[0] for t in loaded]
    assert asked == [
        *("Is it?", "Q: Is it?\nA:", "Well?\nIs it?\n\nOPTIONS:\n- yes\n- no", "Ask for yes"),
        *("Think first.\n\nIs it?", "Q: Is it?\nA: Let's see.", "Well? Why?\nIs it?\n\nOPTIONS:\n- yes\n- no"),
        *("Ask for yes", "It is."),
    ]
    assert [t.reversed for t in loaded] == [False, False, False, True] * 2 + [True]
    assert not any(field == "trigger" for t in loaded for _, field in (*t.inputs, *t.targets))


def test_unknown_file():
    with pytest.raises(errors.FlanError, match="unknown template file 'rtee'; did you mean 'rte'"):
        templates.load("rtee")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- inputs: [", "not valid YAML"),
        (b"- inputs: \xff", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("", "expected a list of templates"),
        ("[]", "expected a list of templates"),
        ("other: []", "expected a list of templates"),
        ("- text", "template 0: expected a mapping with `inputs` and `targets`, got 'text'"),
        ("- inputs: a", "template 0: expected a mapping"),
        (
            "- {inputs: a, targets: b}\n- {inputs: a, targets: b, reverse: true}",
            "1: unknown key 'reverse'; did you mean 'reversed'",
        ),
        ("- {inputs: a, targets: b, reversed: maybe}", "`reversed` expects true or false, got 'maybe'"),
        ("- {inputs: 3, targets: b}", "expected text, got 3"),
        ("- {inputs: '{a', targets: b}", "write {{ and }} for braces"),
        ("- {inputs: 'a}', targets: b}", "write {{ and }} for braces"),
        ("- {inputs: '{trigger}', targets: b}", "expected `trigger: TEXT` and {trigger} once in the inputs"),
        ("- {inputs: a, targets: b, trigger: c}", "expected `trigger: TEXT` and {trigger} once in the inputs"),
        ("- {inputs: '{trigger} {trigger}', targets: b, trigger: c}", "once in the inputs"),
        ("- {inputs: '{trigger}', targets: '{trigger}', trigger: c}", "once in the inputs"),
        ("- {inputs: '{trigger}', targets: b, trigger: 3}", "`trigger` expects text, got 3"),
        ("- {inputs: '{}', targets: b}", "expected a plain field name in braces, got ''"),
        ("- {inputs: '{0}', targets: b}", "got '0'"),
        ("- {inputs: '{a.__class__}', targets: b}", "got 'a.__class__'"),
        ("- {inputs: '{a[0]}', targets: b}", "got 'a[0]'"),
        ("- {inputs: '{a!r}', targets: b}", "got 'a!r'"),
        ("- {inputs: '{a:>9}', targets: b}", "got 'a:>9'"),
        ("- {inputs: '{a b}', targets: b}", "got 'a b'"),
    ],
)
def test_bad_files(tmp_path, content, problem):
    with pytest.raises(errors.FlanError) as caught:
        templates.load(written(tmp_path, content))
    assert problem in str(caught.value)
    assert "own.yaml" in str(caught.value)
