"""The config check: every mistake in a parsed configuration at once, before anything is loaded.

gin binds whatever it is given: a misspelt macro is set and never read, a string goes where a number belongs, and a
missing value shows after the data has been loaded. `check` follows the references from one configurable (the root, such
as `train_script.train`) as gin would when it is called, and compares every setting with the signatures on the way.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import gin
from gin import config as gin_config

from flan_jax import config, config_types, errors, t5x_lines

Scope = tuple[str, ...]


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


# Stands for a value that is not set, still REQUIRED, or of the wrong type.
UNSET: Any = _Unset()


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake. A problem of level "error" stops the run, a "warning" is only shown."""

    message: str
    location: config.Location | None = None
    level: str = "error"

    def __str__(self) -> str:
        text = f"{self.location}: {self.message}" if self.location else self.message
        return f"warning: {text}" if self.level == "warning" else text


@dataclasses.dataclass(frozen=True)
class Node:
    """A configurable that the root reaches: in which scope, whether gin calls it, and which setting asks for it."""

    scope: Scope
    selector: str
    called: bool
    asked_by: config.Location | None


class ResolvedView:
    """What a configuration means, seen from the root: for semantic checks and for printing.

    Selectors are complete ones; a scope is written as in a gin file ("train", "a/b", "" for none).
    """

    def __init__(self, parsed: config.ParsedConfig, root_selector: str):
        self.root_selector = root_selector
        self.macros: dict[str, config.Setting] = {}
        self.bindings: dict[tuple[Scope, str], dict[str, config.Setting]] = {}
        self._mistyped: set[config.Location] = set()
        for setting in parsed.settings:
            if not setting.selector:
                self.macros[setting.param] = setting
            elif setting.param and (configurable := _find(setting.selector)):
                key = (_split(setting.scope), configurable.selector)
                self.bindings.setdefault(key, {})[setting.param] = setting
        self.nodes: list[Node] = list(self._walk())

    def bound(self, selector: str, scope: Scope) -> dict[str, config.Setting]:
        """The settings that gin supplies to `selector` in `scope`: outer scopes' first, overridden by inner ones'."""
        merged: dict[str, config.Setting] = {}
        for depth in range(len(scope) + 1):
            merged.update(self.bindings.get((scope[:depth], selector), {}))
        return merged

    def scopes(self, selector: str) -> list[str]:
        """The scopes in which the root reaches `selector`, in the order in which it does."""
        return list(dict.fromkeys("/".join(node.scope) for node in self.nodes if node.selector == _complete(selector)))

    def setting(self, path: str, scope: str = "") -> config.Setting | None:
        """The setting that decides `selector.param`, followed through macros; None when nothing is bound."""
        selector, _, param = path.rpartition(".")
        setting = self.bound(_complete(selector), _split(scope)).get(param)
        return self._last(setting) if setting else None

    def value(self, path: str, scope: str = "") -> Any:
        """The value of `utils.DatasetConfig.batch_size` in `scope`: bound, macros followed, or else the default.

        Returns:
          A literal, a `config.Reference`, a container of these, a default from Python, or UNSET when there is no value,
          when it is still REQUIRED or when the check reports its type.
        """
        selector, _, param = path.rpartition(".")
        configurable = _find(selector)
        if configurable is None:
            return UNSET
        setting = self.bound(configurable.selector, _split(scope)).get(param)
        if setting is not None:
            return UNSET if self._last(setting).location in self._mistyped else self.resolve(setting.value)
        parameter = config.parameters(configurable).get(param)
        if parameter is None or parameter.default is parameter.empty or parameter.default is gin.REQUIRED:
            return UNSET
        return parameter.default

    def macro(self, name: str) -> Any:
        """The value of a macro with the macros in it followed, or UNSET."""
        return self.resolve(config.Macro(name))

    def problem(self, message: str, path: str, scope: str = "", level: str = "error") -> Problem:
        """A problem located where `selector.param` got its value."""
        setting = self.setting(path, scope)
        return Problem(message, setting.location if setting else None, level)

    def resolve(self, value: Any) -> Any:
        """Replaces every macro in a gin value by its value; REQUIRED, unset and circular macros become UNSET."""
        return config.map_leaves(lambda leaf: self._resolve_leaf(leaf, ()), value)

    def _resolve_leaf(self, leaf: Any, seen: tuple[str, ...]) -> Any:
        if not isinstance(leaf, config.Macro):
            return leaf
        known, value = config.constant(leaf.name)
        if known:
            return UNSET if value is gin.REQUIRED else value
        if leaf.name in seen or leaf.name not in self.macros:
            return UNSET
        return config.map_leaves(
            lambda inner: self._resolve_leaf(inner, (*seen, leaf.name)), self.macros[leaf.name].value
        )

    def _last(self, setting: config.Setting) -> config.Setting:
        """The macro's setting at the end of `a.b = %X`, `X = %Y`, ..., or the setting itself."""
        seen: set[str] = set()
        while isinstance(setting.value, config.Macro) and setting.value.name in self.macros:
            if setting.value.name in seen:
                break
            seen.add(setting.value.name)
            setting = self.macros[setting.value.name]
        return setting

    def references(
        self, setting: config.Setting, scope: Scope
    ) -> Iterator[tuple[config.Reference, Scope, config.Setting]]:
        """Every reference in a setting with the scope gin evaluates it in and the setting that holds it.

        A macro is evaluated in the scope of its own name, and a reference without a scope in the scope around it.
        """
        pending, seen = [(setting, scope)], set()
        while pending:
            holder, around = pending.pop()
            for leaf in config.leaves(holder.value):
                if isinstance(leaf, config.Reference):
                    yield leaf, leaf.scopes or around, holder
                elif isinstance(leaf, config.Macro) and leaf.name in self.macros and leaf.name not in seen:
                    seen.add(leaf.name)
                    pending.append((self.macros[leaf.name], _split(leaf.name)))

    def _walk(self) -> Iterator[Node]:
        pending, seen = [Node((), _complete(self.root_selector), True, None)], set()
        while pending:
            node = pending.pop(0)
            if (node.scope, node.selector, node.called) in seen:
                continue
            seen.add((node.scope, node.selector, node.called))
            yield node
            for setting in self.bound(node.selector, node.scope).values():
                for reference, scope, holder in self.references(setting, node.scope):
                    if configurable := _find(reference.selector):
                        pending.append(Node(scope, configurable.selector, reference.call, holder.location))


SemanticCheck = Callable[[ResolvedView], Iterable[Problem]]


def check(
    parsed: config.ParsedConfig,
    root_selector: str = "train_script.train",
    *,
    semantic_checks: Sequence[SemanticCheck] = (),
    known_macros: Collection[str] = (),
    known_scopes: Collection[str] = (),
) -> list[Problem]:
    """Finds every mistake in a configuration; nothing is called, loaded or bound.

    Args:
      parsed: what `config.parse` returned.
      root_selector: the configurable that the run calls; what it does not reach has no effect.
      semantic_checks: further checks, run last on the resolved values (unknown task, batch not divisible, ...). A value
        that is unset or of the wrong type reads as UNSET there.
      known_macros: macros that may be set without being referenced (a recipe shared by training and evaluation).
      known_scopes: scopes that Python code opens itself.

    Returns:
      The problems in the order of the sections below, errors and warnings; empty for a sound configuration.

    Raises:
      FlanError: when the root is not registered.
    """
    if _find(root_selector) is None:
        raise errors.unknown("configurable", root_selector, config.configurables())
    view = ResolvedView(parsed, root_selector)
    problems = [
        *_unknown_names(parsed),
        *_t5x_lines(parsed, view),
        *_macros(parsed, view, known_macros),
        *_types(view),
        *_required(view),
        *_scopes(parsed, known_scopes),
        *_unreached(view, parsed),
    ]
    for semantic_check in semantic_checks:
        problems.extend(semantic_check(view))
    # A misspelt scope is an error; that its binding is then never reached says nothing more.
    wrong = {problem.location for problem in problems if problem.level == "error" and problem.location}
    return [problem for problem in dict.fromkeys(problems) if problem.level == "error" or problem.location not in wrong]


def raise_errors(problems: Sequence[Problem]) -> None:
    """Raises one FlanError that lists every problem of level "error", one a line; returns when there is none."""
    wrong = [problem for problem in problems if problem.level == "error"]
    if wrong:
        count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
        raise errors.FlanError(f"the configuration has {count}:\n" + "\n".join(f"  {problem}" for problem in wrong))


def _unknown_names(parsed: config.ParsedConfig) -> Iterator[Problem]:
    """Bindings, blocks and references whose configurable or parameter does not exist."""
    selectors = config.configurables()
    reported: set[str] = set()
    for setting in parsed.settings:
        if setting.selector and setting.selector not in reported:
            try:
                configurable = config.find(setting.selector)
            except errors.FlanError as error:
                reported.add(setting.selector)
                yield Problem(str(error), setting.location)
                continue
            if configurable is None:
                reported.add(setting.selector)
                yield Problem(str(errors.unknown("configurable", setting.selector, selectors)), setting.location)
            elif setting.param:
                names = config.parameters(configurable)
                if setting.param not in names and "**" not in names:
                    hint = errors.nearest(setting.param, names)
                    yield Problem(f"{configurable.selector} has no parameter {setting.param!r}{hint}", setting.location)
        for leaf in config.leaves(setting.value):
            if isinstance(leaf, config.Reference):
                try:
                    if config.find(leaf.selector) is None:
                        hint = errors.nearest(leaf.selector, selectors)
                        yield Problem(f"{setting.key} = {leaf!r}: unknown configurable{hint}", setting.location)
                except errors.FlanError as error:
                    yield Problem(f"{setting.key} = {leaf!r}: {error}", setting.location)


def _t5x_lines(parsed: config.ParsedConfig, view: ResolvedView) -> Iterator[Problem]:
    """Lines of t5x's that ask for what cannot be set here; the last of a name counts."""
    last = {(setting.scope, setting.selector, setting.param): setting for setting in parsed.t5x}
    for setting in last.values():
        value = view.resolve(setting.value)
        message = None if value is UNSET else t5x_lines.problem(setting.selector, setting.param, value)
        if message:
            yield Problem(message, view._last(setting).location)


def _macros(parsed: config.ParsedConfig, view: ResolvedView, known_macros: Collection[str]) -> Iterator[Problem]:
    """Macros that are set and not referenced, referenced and not set, or defined by each other."""
    # A reference in an overridden setting counts: the name is then right, whatever became of the setting.
    mentioned = {
        leaf.name
        for setting in (*parsed.settings, *parsed.t5x)
        for leaf in config.leaves(setting.value)
        if isinstance(leaf, config.Macro)
    }
    for name, setting in view.macros.items():
        if name not in mentioned:
            hint = errors.nearest(name, {other for other in mentioned if not config.constant(other)[0]} - {name})
            level = "warning" if name in known_macros else "error"
            yield Problem(f"macro {name!r} is set and nothing refers to it{hint}", setting.location, level)
    effective = [*view.macros.values(), *(setting for params in view.bindings.values() for setting in params.values())]
    for setting in effective:
        for leaf in config.leaves(setting.value):
            if isinstance(leaf, config.Macro) and leaf.name not in view.macros and not config.constant(leaf.name)[0]:
                hint = errors.nearest(leaf.name, [*view.macros, "gin.REQUIRED"])
                yield Problem(
                    f"{setting.key} = {setting.value!r}: macro {leaf.name!r} is not set{hint}", setting.location
                )
    for name, setting in view.macros.items():
        chain = _cycle(name, view.macros)
        if chain and name == min(chain):
            yield Problem(f"macros refer to each other: {' -> '.join((*chain, name))}", setting.location)


def _cycle(start: str, macros: dict[str, config.Setting]) -> tuple[str, ...]:
    """The macros on a way from `start` back to itself; empty when there is none."""
    pending: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while pending:
        chain = pending.pop()
        for leaf in config.leaves(macros[chain[-1]].value):
            if isinstance(leaf, config.Macro) and leaf.name == start:
                return chain
            if isinstance(leaf, config.Macro) and leaf.name in macros and leaf.name not in seen:
                seen.add(leaf.name)
                pending.append((*chain, leaf.name))
    return ()


def _types(view: ResolvedView) -> Iterator[Problem]:
    """Values that contradict the annotation of their parameter."""
    reported: set[tuple[config.Location, str]] = set()
    for (scope, selector), params in view.bindings.items():
        configurable = _registered(selector)
        expected = config_types.expectations(configurable.wrapped)
        for name, setting in params.items():
            if name not in expected:
                continue
            value = view.resolve(setting.value)
            annotation, default = expected[name]
            if config_types.accepts(value, annotation, default, UNSET):
                continue
            source = view._last(setting)
            view._mistyped.add(source.location)
            wanted = config_types.describe(annotation)
            # BATCH_SIZE = '16' is one mistake, whatever number of scopes read it.
            if (source.location, wanted) in reported:
                continue
            reported.add((source.location, wanted))
            via = f" from macro {source.param}" if source is not setting else ""
            key = f"{'/'.join((*scope, selector))}.{name}"
            hint = config_types.hint(value, annotation)
            yield Problem(f"{key} expects {wanted}, got {config_types.show(value)}{via}{hint}", source.location)


def _required(view: ResolvedView) -> Iterator[Problem]:
    """Parameters and macros that have no value although the root reaches them."""
    macro_users: dict[str, tuple[config.Setting, list[str]]] = {}
    for node in view.nodes:
        configurable = _registered(node.selector)
        bound = view.bound(node.selector, node.scope)
        named_scope = "/".join(node.scope) if node.scope and node.scope[-1] not in view.macros else ""
        prefix = f"{named_scope}/{node.selector}" if named_scope else node.selector
        for name, parameter in config.parameters(configurable).items():
            if name in bound:
                for holder in _required_holders(view, bound[name]):
                    if holder.selector:
                        yield Problem(f"{prefix}.{name} is required and not set", holder.location)
                    else:
                        users = macro_users.setdefault(holder.param, (holder, []))[1]
                        users.append(f"{prefix}.{name}")
            elif name == "**":
                continue
            # What is only referred to (@f) is called by Python code, which may supply what has no default.
            elif parameter.default is gin.REQUIRED or (node.called and parameter.default is parameter.empty):
                wanted = config_types.expectations(configurable.wrapped).get(name)
                kind = f" ({config_types.describe(wanted[0])})" if wanted else ""
                yield Problem(f"{prefix}.{name}{kind} is required and not set", node.asked_by)
    for name, (holder, users) in macro_users.items():
        used = ", ".join(dict.fromkeys(users))
        yield Problem(
            f"macro {name!r} is required and not set (used by {used}); give --gin.{name}=...", holder.location
        )


def _required_holders(view: ResolvedView, setting: config.Setting) -> Iterator[config.Setting]:
    """The settings, through macros, whose value still contains %gin.REQUIRED."""
    pending, seen = [setting], set()
    while pending:
        holder = pending.pop()
        for leaf in config.leaves(holder.value):
            if not isinstance(leaf, config.Macro):
                continue
            if config.constant(leaf.name) == (True, gin.REQUIRED):
                yield holder
            elif leaf.name in view.macros and leaf.name not in seen:
                seen.add(leaf.name)
                pending.append(view.macros[leaf.name])


def _scopes(parsed: config.ParsedConfig, known_scopes: Collection[str]) -> Iterator[Problem]:
    """Scoped bindings whose scope no reference names."""
    used = set(known_scopes)
    for setting in parsed.settings:
        for leaf in config.leaves(setting.value):
            if isinstance(leaf, config.Reference):
                used.update(leaf.scopes)
            elif isinstance(leaf, config.Macro):
                used.update(leaf.name.split("/"))  # gin evaluates a macro in the scope of its name
    macros = {setting.param for setting in parsed.settings if not setting.selector}
    known = {name for name in used - macros if not config.constant(name)[0]}
    for setting in parsed.settings:
        for part in _split(setting.scope) if setting.selector else ():
            if part not in used:
                used.add(part)  # once is enough
                hint = errors.nearest(part, known)
                yield Problem(f"scope {part!r} of {setting.key} is never used{hint}", setting.location)


def _unreached(view: ResolvedView, parsed: config.ParsedConfig) -> Iterator[Problem]:
    """Bindings of configurables that the root does not reach: without effect unless Python code calls them."""
    reached = {(node.scope[:depth], node.selector) for node in view.nodes for depth in range(len(node.scope) + 1)}
    for (scope, selector), params in view.bindings.items():
        if (scope, selector) not in reached:
            names = ", ".join(params)
            key = "/".join((*scope, selector))
            message = f"{key} ({names}) is bound, and {view.root_selector} never reaches it"
            yield Problem(message, next(iter(params.values())).location, "warning")


def _split(scope: str) -> Scope:
    return tuple(part for part in scope.split("/") if part)


def _find(selector: str) -> gin_config.Configurable | None:
    """As `config.find`, with None for an ambiguous selector: `_unknown_names` reports it."""
    try:
        return config.find(selector)
    except errors.FlanError:
        return None


def _registered(selector: str) -> gin_config.Configurable:
    configurable = config.find(selector)
    if configurable is None:
        raise errors.unknown("configurable", selector, config.configurables())
    return configurable


def _complete(selector: str) -> str:
    configurable = _find(selector)
    return configurable.selector if configurable else selector
