"""The three files that `flan new-task` writes, as text, and what it says to do next."""

import pathlib
from collections.abc import Mapping, Sequence

from flan_jax.data import scaffold, spec
from flan_jax.data import templates as templates_lib

_SLOTS = 10  # templates a dataset, FLAN 2021 section 2.1
_NO_YES = ("no", "yes")
_SUMMARIES = ("summary", "highlights", "abstract", "headline", "subject_line")


def module(
    name: str, cluster: str, tfds_name: str, plan: scaffold.Plan, splits: Mapping[str, str], rows: Mapping[str, int]
) -> str:
    """Returns the module that defines `SPECS`."""
    train = splits.get("train", "").partition("[")[0]
    lines = [
        f'"""{name}: how rows of {tfds_name} become examples.',
        "",
        "Written by `flan new-task` from the names of the features; now it is yours to correct.",
        '"""',
        "",
        "import pathlib",
        "",
        "from flan_jax.data import spec",
        "",
        *_answers(plan),
        "",
        "def example(row: spec.Row) -> spec.Example | None:",
        '    """A row as named texts and an answer; `None` drops the row."""',
        *_body(plan),
        "",
        "",
        "SPECS = (",
        "    spec.DatasetSpec(",
        f"        name={scaffold.quoted(name)},",
        f"        cluster={scaffold.quoted(cluster)},",
        f"        tfds_name={scaffold.quoted(tfds_name)},",
        *_splits(splits, known=bool(rows)),
        "        example=example,",
        f"        metrics=({scaffold.quoted(_metric(plan))},),  # names of flan_jax.evaluation.metrics",
        f"        train_rows={rows.get(train, 0)},  # as published; shown where the data is not there",
        f'        templates=str(pathlib.Path(__file__).with_name("{name}.yaml")),',
        '        collection="extra",  # in no mixture of FLAN 2021',
        "    ),",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _answers(plan: scaffold.Plan) -> list[str]:
    if plan.kind == "flag":
        return [f"ANSWERS = {_tuple(_NO_YES)}  # False, True", ""]
    if plan.kind != "labels":
        return []
    shown = _tuple([label.replace("_", " ") for label in plan.labels])
    return [
        f"# By label number; TFDS names the labels {', '.join(plan.labels)}. Better: what a person would say.",
        f"ANSWERS = {shown}",
        "",
    ]


def _tuple(texts: Sequence[str]) -> str:
    one_line = "(" + ", ".join(map(scaffold.quoted, texts)) + ("," if len(texts) == 1 else "") + ")"
    if len(one_line) < 100:
        return one_line
    return "(\n" + "".join(f"    {scaffold.quoted(text)},\n" for text in texts) + ")"


def _body(plan: scaffold.Plan) -> list[str]:
    answer = plan.answer.code
    fields = ["    fields = {"]
    for name, leaf in plan.fields.items():
        value = f'"\\n".join({leaf.code})' if leaf.listed else f"{leaf.code}.strip()"
        fields.append(f"        {scaffold.quoted(name)}: {value},")
    fields.append("    }")
    match plan.kind:
        case "labels":
            drop = [f"    if {answer} < 0:  # no label", "        return None"]
            made = [f"    return spec.Example(fields=fields, answer=ANSWERS[{answer}], options=ANSWERS)"]
        case "flag":
            drop, made = [], [f"    return spec.Example(fields=fields, answer=ANSWERS[{answer}], options=ANSWERS)"]
        case "columns" | "list":
            if plan.kind == "list":
                drop = [f"    options = tuple({plan.choices[0].code})"]
            else:
                drop = ["    options = (", *(f"        {leaf.code}.strip()," for leaf in plan.choices), "    )"]
            drop += [f"    if not 0 <= {answer} < len(options):  # no label; counted from 0", "        return None"]
            made = [f"    return spec.Example(fields=fields, answer=options[{answer}], options=options)"]
        case "texts":
            drop = [f"    answers = tuple({answer})", "    if not answers:", "        return None"]
            made = ["    return spec.Example(fields=fields, answer=answers[0], answers=answers)"]
        case "text":
            drop = [f"    if not {answer}.strip():", "        return None"]
            made = [f"    return spec.Example(fields=fields, answer={answer}.strip())"]
        case "number":
            drop, made = [], [f'    return spec.Example(fields=fields, answer=format({answer}, "g"))']
    return [*drop, *fields, *made]


def _splits(splits: Mapping[str, str], known: bool) -> list[str]:
    shown = ", ".join(f"{scaffold.quoted(name)}: {scaffold.quoted(value)}" for name, value in splits.items())
    guess = "        # A guess, as the dataset is not prepared here; `flan data doctor` tells its splits."
    return [*([] if known else [guess]), f"        splits={{{shown}}},"]


def _metric(plan: scaffold.Plan) -> str:
    if plan.has_options or plan.kind == "number":
        return "accuracy"
    if plan.answer.path[-1] in _SUMMARIES:
        return "rouge"
    return "squad"


def templates(name: str, plan: scaffold.Plan) -> str:
    """Returns the template file: four templates, and room for as many more as make ten."""
    pairs = _templates(plan)
    fields = ", ".join(f"{{{field}}}" for field in plan.fields)
    shown = f", {{{templates_lib.OPTIONS}}}" if plan.has_options else ""
    head = [
        f"# Templates of {name}: room for ten. The first {len(pairs)} come from the names of its features. Reword them,",
        f"# and write the other {_SLOTS - len(pairs)}, in varied, natural English; then run",
        f"#   flan check-templates --module={name}_task",
        "#",
        f"# Fields: {fields}; {{{templates_lib.ANSWER}}}{shown}.",
    ]
    if plan.has_options:
        head.append("# {options} stands last, on a line of its own, so that it can be left out.")
    head.append("# At most three may be `reversed: true`: {answer} in the inputs, a field in the targets.")
    slots = []
    for number in range(len(pairs), _SLOTS):
        slots += [f"# Template {number}: yours to write.", "# - inputs: |-", *(f"#     {{{f}}}" for f in plan.fields)]
        slots += ["#", f"#     {{{templates_lib.OPTIONS}}}"] if plan.has_options else []
        slots.append('#   targets: "{answer}"')
    blocks = [_entry(inputs) for inputs in pairs]
    return "\n".join([*head, "", *blocks, "", *slots]) + "\n"


def _entry(inputs: str) -> str:
    body = "\n".join(f"    {line}" if line else "" for line in inputs.split("\n"))
    return f'- inputs: |-\n{body}\n  targets: "{{answer}}"'


def _templates(plan: scaffold.Plan) -> list[str]:
    names = {field: scaffold.words(field) for field in plan.fields}
    plain = "\n\n".join(f"{{{field}}}" for field in plan.fields)
    headed = "\n".join(f"{words.capitalize()}: {{{field}}}" for field, words in names.items())
    parted = "\n\n".join(f"{words.capitalize()}:\n{{{field}}}" for field, words in names.items())
    what = _listed([f"the {words}" for words in names.values()])
    these = "this" if len(names) == 1 else "these"
    if plan.has_options:
        chosen = [
            f"{plain}\n\nWhat is the right answer?",
            f"{headed}\nRight answer:",
            f"Read {what}, then give the answer.\n\n{parted}",
            f"Only one answer goes with {these}. Give it, and nothing else.\n\n{headed}",
        ]
        return [f"{text}\n\n{{{templates_lib.OPTIONS}}}" for text in chosen]
    wanted = scaffold.words(_wanted(plan))
    return [
        f"{plain}\n\nWhat is the {wanted}?",
        f"{headed}\n{wanted.capitalize()}:",
        f"Read {what}, then give the {wanted}.\n\n{parted}",
        f"Reply with the {wanted} that belongs to {these}, and with nothing else.\n\n{headed}",
    ]


def _wanted(plan: scaffold.Plan) -> str:
    """What the answer is called: `summary`; `answer` for one deep in a row or in a list."""
    name = plan.answer.path[-1]
    if len(plan.answer.path) > 1 or plan.kind == "texts" or not any(character.isalpha() for character in name):
        return "answer"
    return name.strip("_").replace("-", " ")


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def test(name: str, plan: scaffold.Plan, dataset: spec.DatasetSpec, data_dir: str | None) -> str:
    """Returns the test: two made-up rows and their exact text, and the real rows where they are prepared."""
    rows = [scaffold.sample_row(plan, number) for number in (0, 1)]
    expected = []
    for row in rows:
        example = dataset.example(row)
        assert example is not None
        expected.append(templates_lib.render(templates_lib.load(dataset.templates)[0], example))
    where = scaffold.quoted(data_dir) if data_dir else "None"
    lines = [
        f'"""{name}: two rows give exactly this text, and every row that is prepared here gives some."""',
        "",
        "import os",
        "",
        "import pytest",
        "",
        f"import {name}_task",
        "from flan_jax import errors",
        "from flan_jax.data import sources, template_lint, templates",
        "",
        f"SPEC = {name}_task.SPECS[0]",
        f'DATA_DIR = os.environ.get("TFDS_DATA_DIR", {where})',
        "MOST_ROWS = 200",
        "",
        "# Put two short rows here that look like the real ones.",
        "ROWS = [",
        *(line for row in rows for line in _dictionary(row)),
        "]",
        "# What template 0 makes of them: (inputs, targets).",
        "TEXTS = [",
        *(line for inputs, targets in expected for line in _pair(inputs, targets)),
        "]",
        "",
        "",
        '@pytest.mark.parametrize(("row", "text"), list(zip(ROWS, TEXTS, strict=True)))',
        "def test_a_row_becomes_this_text(row, text):",
        "    assert templates.render(templates.load(SPEC.templates)[0], SPEC.example(row)) == text",
        "",
        "",
        "def test_templates_have_no_problem():",
        "    assert template_lint.lint(SPEC) == []",
        "",
        "",
        '@pytest.mark.parametrize("split", list(SPEC.splits))',
        "def test_every_prepared_row_fits_every_template(split):",
        "    try:",
        "        prepared = sources.PreparedDataset(sources.resolve_data_dir(DATA_DIR), SPEC.tfds_name)",
        "    except errors.FlanError as problem:",
        '        pytest.skip(f"no rows to look at: {problem}")',
        "    rows = prepared.rows(SPEC.splits, split)",
        "    examples = [SPEC.example(rows[i]) for i in range(min(len(rows), MOST_ROWS))]",
        "    kept = [example for example in examples if example is not None]",
        '    assert kept, "the filter drops every row"',
        "    for example in kept:",
        "        assert not example.options or example.answer in example.options",
        "        for template in templates.load(SPEC.templates):",
        "            inputs, targets = templates.render(template, example)",
        "            assert inputs",
        "            assert targets",
    ]
    return "\n".join(lines) + "\n"


def _dictionary(row: Mapping[str, object]) -> list[str]:
    return ["    {", *(f"        {scaffold.quoted(name)}: {_literal(value)}," for name, value in row.items()), "    },"]


def _literal(value: object) -> str:
    if isinstance(value, str):
        return scaffold.quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scaffold.quoted(name)}: {_literal(inner)}" for name, inner in value.items()) + "}"
    return repr(value)


def _pair(inputs: str, targets: str) -> list[str]:
    """A pair of texts as Python code, a line of code for each line of text."""
    lines = [f"        {scaffold.quoted(line)}" for line in inputs.splitlines(keepends=True)]
    return ["    (", *lines[:-1], f"{lines[-1]},", f"        {scaffold.quoted(targets)},", "    ),"]


def next_steps(name: str, files: Sequence[pathlib.Path], data_dir: str | None) -> str:
    """Returns what the user is told to do with the files."""
    task, yaml, test_file = files
    folder = task.parent
    where = f" --tfds_data_dir={data_dir}" if data_dir else ""
    return f"""\
next (with {folder} on the path: export PYTHONPATH="{folder}:$PYTHONPATH"):
  1. read {task}: the answers, the fields, the splits
  2. write the missing templates in {yaml}
     flan check-templates --module={name}_task{where}
  3. flan preview {name}_type_0 --module={name}_task{where}
  4. python -m pytest {test_file}
  5. flan train --gin_file=recipes/demo.gin{where} --gin.MIXTURE_OR_TASK_MODULE="'{name}_task'" \\
       --gin.MIXTURE_OR_TASK_NAME="'{name}_4templates'" --gin.MODEL_DIR="'runs/{name}'\""""
