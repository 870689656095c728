"""Reading gin files and flags into an ordered list of settings; gin's global state is not touched.

gin's own parser reads the text, so that a file that t5x accepts has the same form here; names are not looked up.
"""

import dataclasses
import importlib
import io
import os
import pathlib
import re
import shlex
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gin import config_parser

from flan_jax import errors, shipped, t5x_lines

# Files written for t5x import these to make names visible; here the names are in the table, so the lines are dropped.
_DROPPED_IMPORTS = ("__gin__", "__main__", "t5x", "t5", "seqio", "optax")
# Where t5x keeps the files that its users include -> where ours are, under the shipped gin directory.
_T5X_FOLDERS = {
    "t5x/configs/runs/pretrain.gin": "runs/train.gin",
    "t5x/configs/runs/": "runs/",
    "t5x/examples/t5/t5_1_1/": "models/t5_1_1/",
    "t5x/examples/scalable_t5/t5_1_1/": "models/t5_1_1/",
}
_FLAG_NAME = re.compile(r"[A-Za-z_]\w*([./][A-Za-z_]\w*)*")


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a setting was written: a file and a line, or a command-line flag (line 0)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/selector` or, with `call`, `@scope/selector()`, as a gin file writes it."""

    scoped_selector: str
    call: bool

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(self.scoped_selector.split("/")[:-1])

    @property
    def selector(self) -> str:
        return self.scoped_selector.split("/")[-1]

    def __repr__(self) -> str:
        return f"@{self.scoped_selector}{'()' if self.call else ''}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME`: the value of a macro or of a gin constant such as gin.REQUIRED."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One statement. A macro has the empty selector and its name as `param`; `param` is empty for a block's head line.

    `value` is a gin literal in which `Reference` and `Macro` objects stand for references.
    """

    scope: str
    selector: str
    param: str
    value: Any
    location: Location

    @property
    def key(self) -> str:
        """The left-hand side as a gin file writes it."""
        name = ".".join(part for part in (self.selector, self.param) if part)
        return f"{self.scope}/{name}" if self.scope else name


@dataclasses.dataclass(frozen=True)
class ParsedConfig:
    """Every setting in order (a later one of the same name overrides), and the user modules that were imported.

    `t5x` are lines for which there is nothing to set here (`t5x_lines`); the check says what is wrong with them.
    """

    settings: tuple[Setting, ...]
    imports: tuple[str, ...] = ()
    t5x: tuple[Setting, ...] = ()

    def with_settings_of(self, other: "ParsedConfig") -> "ParsedConfig":
        """These settings, and the other's behind them."""
        imports = tuple(dict.fromkeys((*self.imports, *other.imports)))
        return ParsedConfig((*self.settings, *other.settings), imports, (*self.t5x, *other.t5x))


@dataclasses.dataclass(frozen=True)
class GinFlags:
    """The gin part of a command line."""

    files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]


def shipped_gin_dir() -> pathlib.Path:
    """Returns the directory of the gin files that come with flan_jax: of a checkout, else of the installed package."""
    return shipped.directory("gin")


def find_file(name: str, search_paths: Sequence[str | os.PathLike[str]] = ()) -> pathlib.Path:
    """Returns the first existing file: in `search_paths`, the current directory, then the shipped gin directory.

    Under the shipped directory `gin/models/x.gin` and `models/x.gin` are the same file, and so are t5x's folders
    (`t5x/configs/runs/`, `t5x/examples/t5/t5_1_1/`).

    Raises:
      FlanError: when no directory has it; the error lists the directories and the nearest shipped name.
    """
    own = shipped_gin_dir()
    candidates = [pathlib.Path(folder, name) for folder in (*search_paths, "", own)]
    for prefix, folder in {"gin/": "", **_T5X_FOLDERS}.items():
        if name.startswith(prefix):
            candidates.append(own / folder / name.removeprefix(prefix))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    folders = ", ".join(str(folder) for folder in (*search_paths, pathlib.Path.cwd(), own))
    known = [path.relative_to(own).as_posix() for path in own.rglob("*.gin")]
    raise errors.FlanError(f"no gin file {name!r} in {folders}{errors.nearest(name, known)}")


def split_argv(argv: Sequence[str]) -> tuple[GinFlags, list[str]]:
    """Takes t5x's gin flags out of a command line.

    `--gin_file=F` and `--gin_bindings=X=1` (repeatable), `--gin_search_paths=A,B` and `--gin.X=1`; the value of the
    first three may also be the next argument.

    Returns:
      The gin flags, and every other argument in its order.

    Raises:
      FlanError: for a flag without a value.
    """
    taken: dict[str, list[str]] = {"gin_file": [], "gin_bindings": [], "gin_search_paths": []}
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--gin."):
            if not equals:
                raise errors.FlanError(f"{argument}: expected --gin.NAME=value")
            taken["gin_bindings"].append(argument)
        elif name.startswith("--") and name[2:] in taken:
            value = value if equals else next(arguments, None)
            if value is None:
                raise errors.FlanError(f"{argument}: expected a value after it")
            taken[name[2:]].append(value)
        else:
            rest.append(argument)
    paths = tuple(path for value in taken["gin_search_paths"] for path in value.split(",") if path)
    return GinFlags(tuple(taken["gin_file"]), tuple(taken["gin_bindings"]), paths), rest


def parse(
    gin_files: Sequence[str | os.PathLike[str]],
    gin_bindings: Sequence[str] = (),
    search_paths: Sequence[str | os.PathLike[str]] = (),
) -> ParsedConfig:
    """Reads files with their includes, then bindings; a later setting of the same name counts.

    Args:
      gin_files: names of gin files, looked up as in `find_file`.
      gin_bindings: `--gin.NAME=value` or `NAME=value`, NAME a macro or `scope/selector.param`, value a gin literal.
      search_paths: directories to look in before the current one.

    Returns:
      The settings, not yet bound to anything; names are not looked up (see `config_check.check`).

    Raises:
      FlanError: every file that cannot be read or parsed, import that fails and flag that is no gin value, one a line.
    """
    reader = _Reader(search_paths)
    for name in gin_files:
        reader.read_file(os.fspath(name), asked_by=None)
    for binding in gin_bindings:
        reader.read_binding(binding)
    if reader.problems:
        raise errors.FlanError("\n".join(reader.problems))
    own, t5x = [], []
    for setting in reader.settings:
        (t5x if t5x_lines.is_one(setting.selector, setting.param) else own).append(setting)
    return ParsedConfig(tuple(own), tuple(dict.fromkeys(reader.imports)), tuple(t5x))


def map_leaves(fn: Callable[[Any], Any], value: Any) -> Any:
    """Applies `fn` to everything in a gin value that is not itself a list, tuple or dict."""
    if isinstance(value, dict):
        return {map_leaves(fn, key): map_leaves(fn, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_leaves(fn, item) for item in value)
    return fn(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yields everything in a gin value that is not itself a list, tuple or dict."""
    if isinstance(value, dict):
        for pair in value.items():
            yield from leaves(pair)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


class Delegate(config_parser.ParserDelegate):
    """Keeps references as data while gin's parser reads a value."""

    def __init__(self, aliases: Mapping[str, str]):
        self._aliases = aliases

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        *scopes, selector = scoped_configurable_name.split("/")
        return Reference("/".join([*scopes, canonical_selector(selector, self._aliases)]), evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def canonical_selector(selector: str, aliases: Mapping[str, str]) -> str:
    """Undoes `import ... as` aliases and t5x's own package names: `t5x.utils.get` becomes `utils.get`."""
    head, dot, tail = selector.partition(".")
    if head in aliases and dot:
        selector = f"{aliases[head]}.{tail}"
    return re.sub(r"^t5x\.(examples\.\w+\.)?", "", selector)


class _Reader:
    """Collects the settings of files and flags, and what is wrong with their form."""

    def __init__(self, search_paths: Sequence[str | os.PathLike[str]]):
        self.settings: list[Setting] = []
        self.imports: list[str] = []
        self.problems: list[str] = []
        self._search_paths = search_paths
        self._open_files: list[pathlib.Path] = []

    def read_file(self, name: str, asked_by: Location | None) -> None:
        where = f"{asked_by}: " if asked_by else ""
        try:
            path = find_file(name, self._search_paths).resolve()
            text = path.read_text(encoding="utf-8")
        except (errors.FlanError, OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{where}{error}")
            return
        if path in self._open_files:
            chain = " -> ".join(item.name for item in (*self._open_files, path))
            self.problems.append(f"{where}gin files include each other: {chain}")
            return
        self._open_files.append(path)
        self._read_text(text, _shown(path))
        self._open_files.pop()

    def _read_text(self, text: str, file: str) -> None:
        stream = io.StringIO(text)
        aliases: dict[str, str] = {}
        try:
            for statement in config_parser.ConfigParser(stream, Delegate(aliases)):
                location = Location(file, statement.location.line_num)
                if isinstance(statement, config_parser.ImportStatement):
                    self._import(statement, aliases, location)
                elif isinstance(statement, config_parser.IncludeStatement):
                    self.read_file(statement.filename, asked_by=location)
                else:
                    self.settings.append(_setting(statement, aliases, location))
        except SyntaxError as error:
            self.problems.append(f"{Location(file, error.lineno or 0)}: {_one_line(error.msg)}")
        except tokenize.TokenError as error:
            self.problems.append(f"{Location(file, error.args[1][0])}: {error.args[0]}")
        except ValueError as error:
            self.problems.append(f"{file}: {_one_line(str(error))}")

    def _import(self, statement: config_parser.ImportStatement, aliases: dict[str, str], location: Location) -> None:
        module = statement.module
        root = module.split(".")[0]
        if root in _DROPPED_IMPORTS:
            if statement.alias and root != "__main__":
                aliases[statement.alias] = re.sub(r"^t5x\.", "", module).rpartition(".")[2]
            return
        try:
            importlib.import_module(module)
        except Exception as error:  # A user's module may raise anything; its own message is what helps.
            hint = "; is its folder on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
            problem = _one_line(f"{type(error).__name__}: {error}")
            self.problems.append(f"{location}: '{statement.format()}' failed: {problem}{hint}")
            return
        self.imports.append(module)
        if statement.alias:
            aliases[statement.alias] = module

    def read_binding(self, binding: str) -> None:
        name, equals, value = binding.removeprefix("--gin.").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _FLAG_NAME.fullmatch(name):
            self.problems.append(f"{binding}: expected --gin.NAME=value, NAME a macro or scope/configurable.parameter")
            return
        flag = f"--gin.{name}={value}"
        try:
            statements = list(config_parser.ConfigParser(f"{name} = {value}\n", Delegate({})))
        except (SyntaxError, ValueError, tokenize.TokenError):
            statements = []
        if len(statements) != 1:
            self.problems.append(f"{flag}: {value!r} is not a gin value; write {_corrected(name, value)}")
            return
        self.settings.append(_setting(statements[0], {}, Location(flag)))


def _setting(statement: Any, aliases: Mapping[str, str], location: Location) -> Setting:
    if isinstance(statement, config_parser.BlockDeclaration):
        return Setting(statement.scope, canonical_selector(statement.selector, aliases), "", None, location)
    scope, selector, param = statement.scope, statement.selector, statement.arg_name
    if not param or (selector in ("macro", "gin.macro") and param == "value" and scope):
        name = "/".join(part for part in (scope, "" if param else selector) if part)
        return Setting("", "", name, statement.value, location)
    return Setting(scope, canonical_selector(selector, aliases), param, statement.value, location)


def _corrected(name: str, value: str) -> str:
    """The flag as the user has to type it into a shell: Python's constants, or the words as a quoted string."""
    if value.lower() in ("true", "false", "none"):
        return f"--gin.{name}={value.capitalize()}"
    literal = repr(value)
    if literal.startswith("'") and not re.search(r"[\"$`\\!]", literal):
        return f'--gin.{name}="{literal}"'
    return shlex.quote(f"--gin.{name}={literal}")


def _shown(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _one_line(text: str) -> str:
    return " ".join(text.split())
