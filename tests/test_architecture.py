"""The rules of the tree: who may import whom, what an import may do, how long files are, what is never used."""

import ast
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONGEST_FILE = 500  # lines
LONGEST_FUNCTION = 80  # lines without the docstring
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}
FROM_OR_INTO_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}

# Package -> what nothing in it may import.
FORBIDDEN = {
    "flan_jax.data": ("flan_jax.models", "flan_jax.training", "flan_jax.checkpoint", "flan_jax.inference"),
    "flan_jax.models": (
        "flan_jax.data",
        "flan_jax.training",
        "flan_jax.evaluation",
        "flan_jax.checkpoint",
        "flan_jax.inference",
    ),
    "flan_jax.training": (
        "flan_jax.tasks",
        "flan_jax.data.spec",
        "flan_jax.data.templates",
        "flan_jax.data.seqio_tasks",
        "flan_jax.data.mixtures",
    ),
    "flan_jax": ("flan_jax.tasks",),  # runs name it in MIXTURE_OR_TASK_MODULE, as users name their own modules
}


def sources() -> dict[str, pathlib.Path]:
    """Every module of the library by its dotted name; tasks/ is installed as flan_jax.tasks."""
    found = {}
    for folder, package in (("flan_jax", "flan_jax"), ("tasks", "flan_jax.tasks")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = sources()
# The one module that does something when it is imported: t5x's MIXTURE_OR_TASK_MODULE, which fills seqio's registries.
REGISTERS = "flan_jax.tasks.register"
# The one module that needs an extra (lm-eval), which it registers itself with; nothing else imports it.
ADAPTER = "flan_jax.evaluation.lm_eval_adapter"


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """(what is imported, line, whether inside a function); `from flan_jax import x` counts as `flan_jax.x`."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, inside
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno} imports relatively"
                for alias in child.names:
                    yield f"{child.module}.{alias.name}", child.lineno, inside
            yield from walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(parsed(MODULES[module]), False)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_tree_is_found():
    assert {"flan_jax", "flan_jax.cli", "flan_jax.data.spec", "flan_jax.models.api", "flan_jax.tasks.nli"} <= set(
        MODULES
    )
    assert "flan_jax.data.spec" in {name for name, _, _ in imports("flan_jax.tasks.nli")}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if within(module, package) and not within(module, "flan_jax.tasks")
        for name, line, _ in imports(module)
        if any(within(name, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert wrong == []


def test_tasks_know_the_specification_of_a_dataset_and_nothing_else():
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if within(module, "flan_jax.tasks") and module != REGISTERS
        for name, line, _ in imports(module)
        if within(name, "flan_jax")
        and not within(name, "flan_jax.data.spec")
        and not (module == "flan_jax.tasks.catalogue" and within(name, "flan_jax.tasks"))
    ]
    assert wrong == []


def test_only_models_know_flax():
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if not within(module, "flan_jax.models")
        for name, line, _ in imports(module)
        if within(name, "flax")
    ]
    assert wrong == []


def test_tensorflow_is_imported_under_data_only_and_late():
    wrong = [
        f"{module}:{line} imports {name}{'' if inside else ' when it is imported itself'}"
        for module in MODULES
        for name, line, inside in imports(module)
        if name.split(".")[0] in TENSORFLOW and not (within(module, "flan_jax.data") and inside)
    ]
    assert wrong == []


# Run in a fresh interpreter: imports every module and reports what that did.
WATCH = """
import json, os, sys, threading
done = []

def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and str(path) != os.devnull:
            done.append(f"opened {path} for writing")
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.mkdir"):
        done.append(f"{event} {arguments[:2]}")

sys.addaudithook(hook)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
import jax
from jax._src import xla_bridge
json.dump({
    "done": done,
    "tensorflow": sorted(set(sys.modules) & {"tensorflow", "tensorflow_datasets", "seqio"}),
    "backends": sorted(xla_bridge._backends),
    "threads": [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()],
}, sys.stdout)
"""


def test_importing_any_other_module_does_nothing():
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", WATCH, *(set(MODULES) - {REGISTERS, ADAPTER})],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"done": [], "tensorflow": [], "backends": [], "threads": []}
    assert ran.stderr == ""


def test_nothing_imports_the_adapter_of_an_extra():
    assert [module for module in MODULES for name, _, _ in imports(module) if within(name, ADAPTER)] == []
    assert [module for module in MODULES for name, _, _ in imports(module) if within(name, "lm_eval")] != []


def test_the_folder_gin_is_no_package():
    # One with an __init__.py would be imported in place of gin-config by whatever runs in the checkout.
    assert list((ROOT / "gin").rglob("*.py")) == []


def test_files_and_functions_stay_short():
    long = []
    for path in MODULES.values():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node, clean=False) is not None
                size = (node.end_lineno or 0) - node.lineno + 1
                size -= (first.end_lineno or 0) - first.lineno + 1 if documented else 0
                if size > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {size} lines")
    assert long == []


def test_no_module_is_called_utils():
    assert [name for name in MODULES if name.rsplit(".", 1)[-1] in ("utils", "util", "helpers")] == []


def test_nothing_is_executed_from_data():
    paths = [*MODULES.values(), *(ROOT / "scripts").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    wrong = []
    for path in paths:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                names = []
            wrong += [f"{path}:{node.lineno} {name}" for name in names if name.split(".")[0] in FROM_OR_INTO_CODE]
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            pickled = any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)
            unsafe = called.startswith("yaml.") and called not in ("yaml.safe_load", "yaml.safe_dump")
            if called in ("eval", "exec", "compile", "__import__") or unsafe or pickled:
                wrong.append(f"{path}:{node.lineno} {called}")
    assert wrong == []


def test_make_parity_runs_every_test_that_asks_a_peer():
    """They are skipped where the extras are not installed, so that one that is not named would run nowhere."""
    asks = re.compile(r"importorskip\(\"(?:torch|transformers|lm_eval)\"")
    asking = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py") if asks.search(path.read_text())
    }
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (named,) = re.findall("^PARITY := (.*)$", makefile, re.MULTILINE)
    assert set(named.split()) == asking
