"""Whether a gin value fits the annotation of the parameter it is bound to.

Only clear contradictions count: what cannot be judged without calling anything (type variables, names that cannot be
resolved, a reference whose return type is not annotated) is accepted. Of a protocol only its methods are looked for, since
attributes may be set when an object is made.
"""

import ast
import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from flan_jax import config, errors

_SEQUENCES = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (collections.abc.Mapping, collections.abc.MutableMapping, dict)


def expectations(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Returns (annotation, default) of every parameter of a function or class whose annotation can be resolved."""
    hints = _hints(target)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if name in hints
    }


def return_type(target: Callable[..., Any]) -> Any:
    """Returns what calling `target` gives: the class itself, the annotated return type, or Any."""
    return target if inspect.isclass(target) else _hints(target).get("return", Any)


def accepts(value: Any, annotation: Any, default: Any = inspect.Parameter.empty, unset: Any = None) -> bool:
    """Whether `value` may be bound to a parameter with this annotation and default.

    Args:
      value: a gin value without macros: literals, `config.Reference`, containers of these.
      annotation: a resolved annotation, as `typing.get_type_hints` gives it.
      default: the parameter's default; it may widen the annotation (`rate: float = None` also takes None).
      unset: the object that stands for a missing value; accepted, since another check reports it.
    """
    if _fits(value, annotation, unset):
        return True
    # An annotation that its own default contradicts (`rate: float = None`) also admits the default's type.
    defaulted = default is not inspect.Parameter.empty and type(value) is type(default)
    return defaulted and not _fits(default, annotation, unset)


def _fits(value: Any, annotation: Any, unset: Any) -> bool:
    if value is unset or annotation is Any or annotation is object:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option, unset) for option in args)
    if origin is typing.Annotated:
        return _fits(value, args[0], unset)
    if origin is typing.Literal:
        return isinstance(value, config.Reference) or any(type(value) is type(arg) and value == arg for arg in args)
    if isinstance(annotation, typing.NewType):
        return _fits(value, annotation.__supertype__, unset)
    if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12 on
        return _fits(value, annotation.__value__, unset)
    base = dict if typing.is_typeddict(annotation) else origin or annotation
    if not isinstance(base, type):
        return True
    if isinstance(value, config.Reference):
        return _reference_fits(value, annotation, base, args)
    if _is_protocol(base):
        return _has_methods(type(value), base)
    return _literal_fits(value, base, args, unset)


def _literal_fits(value: Any, base: type, args: tuple[Any, ...], unset: Any) -> bool:
    if base is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if base is tuple and isinstance(value, tuple) and args:
        if args[-1] is Ellipsis:
            return all(_fits(item, args[0], unset) for item in value)
        return len(value) == len(args) and all(_fits(item, arg, unset) for item, arg in zip(value, args, strict=True))
    if base is list and isinstance(value, list) and args:
        return all(_fits(item, args[0], unset) for item in value)
    if base in _SEQUENCES:
        return isinstance(value, (list, tuple)) and all(_fits(item, arg, unset) for arg in args for item in value)
    if base in _MAPPINGS:
        if not isinstance(value, dict):
            return False
        return not args or all(
            _fits(key, args[0], unset) and _fits(item, args[1], unset) for key, item in value.items()
        )
    if base is collections.abc.Callable or base is type:
        return callable(value)
    return isinstance(value, base)


def _reference_fits(reference: config.Reference, annotation: Any, base: type, args: tuple[Any, ...]) -> bool:
    try:
        configurable = config.find(reference.selector)
    except errors.FlanError:
        configurable = None
    if configurable is None:
        return True
    target = configurable.wrapped
    if reference.call:
        return _returned_fits(return_type(target), annotation)
    # A function may stand where a class is called, if it gives what the class would.
    if base is type:
        return not args or _returned_fits(return_type(target), args[0])
    if base is collections.abc.Callable:
        return not args or _returned_fits(return_type(target), args[-1])
    return _has_methods(type(target), base) if _is_protocol(base) else isinstance(target, base)


def _returned_fits(returned: Any, annotation: Any) -> bool:
    """Whether what is annotated as `returned` may stand where `annotation` is expected."""
    if annotation in (Any, object):
        return True
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_returned_fits(returned, option) for option in args)
    if origin is typing.Annotated:
        return _returned_fits(returned, args[0])
    base = type(None) if annotation is None else dict if typing.is_typeddict(annotation) else origin or annotation
    if typing.get_origin(returned) in (typing.Union, types.UnionType):
        return any(_returned_fits(option, annotation) for option in typing.get_args(returned))
    returned = type(None) if returned is None else typing.get_origin(returned) or returned
    # typing.Any is itself a class from Python 3.11 on
    if not isinstance(base, type) or not isinstance(returned, type) or returned in (Any, object):
        return True
    if _is_protocol(returned):
        return True
    if _is_protocol(base):
        return _has_methods(returned, base)
    if returned is collections.abc.Callable:
        return base is collections.abc.Callable or _instances_callable(base)
    if base is collections.abc.Callable:
        return _instances_callable(returned)
    return issubclass(returned, base) or (returned is int and base is float)


def _is_protocol(cls: Any) -> bool:
    return getattr(cls, "_is_protocol", False)


def _has_methods(cls: type, protocol: type) -> bool:
    """Whether a class has every method of a protocol, whatever its arguments."""
    asked = {
        name
        for parent in protocol.__mro__
        if _is_protocol(parent)
        for name, value in vars(parent).items()
        if inspect.isfunction(value) and (name == "__call__" or not name.startswith("_"))
    }
    return all(any(name in parent.__dict__ for parent in cls.__mro__) for name in asked)


def _instances_callable(cls: type) -> bool:
    return any("__call__" in parent.__dict__ for parent in cls.__mro__)


def describe(annotation: Any) -> str:
    """The annotation as it is written in the code, without module names."""
    text = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("NoneType", "None")


def show(value: Any) -> str:
    """A value with its type, for a message."""
    if isinstance(value, config.Reference):
        return f"the {'result of' if value.call else 'function or class'} {value!r}"
    return "None" if value is None else f"{value!r} ({type(value).__name__})"


def hint(value: Any, annotation: Any) -> str:
    """What would have been right, where the mistake is a common one: quotes, `()`, a float step count, a misspelt word."""
    if isinstance(value, config.Reference):
        other = config.Reference(value.scoped_selector, not value.call)
        if not _fits(other, annotation, object()):
            return ""
        return f"; write {other!r} to call it" if other.call else f"; write {other!r}, which is called later"
    if isinstance(value, str) and (words := _words(annotation)):
        return errors.nearest(value, words)
    candidates: list[Any] = []
    if isinstance(value, str):
        try:
            candidates.append(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            candidates.append({"true": True, "false": False, "none": None}.get(value.lower(), value))
        candidates.append((value,))
        candidates.append([value])
    elif isinstance(value, float) and value.is_integer():
        candidates.append(int(value))
    elif isinstance(value, (list, tuple)):
        candidates.append(tuple(value) if isinstance(value, list) else list(value))
    elif isinstance(value, int):
        candidates.extend([bool(value)] if value in (0, 1) else [])
    for candidate in candidates:
        if candidate is not value and _fits(candidate, annotation, object()):
            return f"; write {candidate!r}"
    return ""


def _words(annotation: Any) -> list[str]:
    """The strings of the literals that an annotation admits."""
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if isinstance(word, str)]
    return [word for option in typing.get_args(annotation) for word in _words(option)]


def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Resolved annotations; where one names something unknown, only those that are no strings."""
    sources = [target.__init__, target] if inspect.isclass(target) else [target]
    merged: dict[str, Any] = {}
    for source in sources:
        try:
            merged.update(typing.get_type_hints(source, include_extras=False))
        except Exception:  # A name that exists for type checkers only: fall back to what needs no resolving.
            raw = getattr(source, "__annotations__", {})
            merged.update({name: hint for name, hint in raw.items() if not isinstance(hint, str)})
    return merged
