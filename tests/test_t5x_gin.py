"""The gin files for the real t5x: gin's own parser reads them, and what they name exists here."""

import re

import pytest
from gin import config_parser

from flan_jax import config
from flan_jax.data import mixtures

FOLDER = config.shipped_gin_dir() / "t5x"
FILES = sorted(FOLDER.glob("*.gin"))
CATALOGUE = mixtures.Catalogue.from_modules("flan_jax.tasks.catalogue")


class Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as text: nothing is imported or called."""

    def configurable_reference(self, scoped_name, evaluate):
        return f"@{scoped_name}{'()' if evaluate else ''}"

    def macro(self, name):
        return f"%{name}"


def statements(path) -> list:
    with open(path, encoding="utf-8") as file:
        return list(config_parser.ConfigParser(file, Delegate()))


def bindings(path) -> dict[str, object]:
    found: dict[str, object] = {}
    for statement in statements(path):
        if isinstance(statement, config_parser.IncludeStatement):
            found |= bindings(FOLDER / statement.filename)
        elif isinstance(statement, config_parser.BindingStatement):
            name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
            found[f"{name}.{statement.arg_name}" if statement.arg_name else name] = statement.value
    return found


def imported(path) -> set[str]:
    found = set()
    for statement in statements(path):
        if isinstance(statement, config_parser.IncludeStatement):
            found |= imported(FOLDER / statement.filename)
        elif isinstance(statement, config_parser.ImportStatement):
            found.add(statement.alias or statement.module.rsplit(".", 1)[-1])
    return found


def test_the_files_are_there():
    assert [path.stem for path in FILES] == ["decoder_only", "flan_t5_small", "flan_t5_xl"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_name_is_imported_and_every_macro_set(path):
    found, modules = bindings(path), imported(path)
    used = {name.split(".")[0].split("/")[-1] for name in found if "." in name}
    used |= {ref for value in found.values() for ref in re.findall(r"@(?:\w+/)?(\w+)\.", str(value))}
    assert used <= modules
    macros = {name for value in found.values() for name in re.findall(r"^%(\w+)$", str(value))}
    assert macros <= set(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mixtures_exist_and_do_not_leak(path):
    from flan_jax.data import holdout

    found = bindings(path)
    train, evaluated = str(found["MIXTURE_OR_TASK_NAME"]), str(found["EVAL_MIXTURE"])
    assert found["MIXTURE_OR_TASK_MODULE"] == "flan_jax.tasks.register"
    clusters = {CATALOGUE.tasks[task].dataset.cluster for task in CATALOGUE.mixture(evaluated).tasks}
    assert clusters == {"nli"}
    assert holdout.heldout_leaks(CATALOGUE, train, "nli") == []
