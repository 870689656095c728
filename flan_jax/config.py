"""gin for flan_jax: which names can be bound, how files and flags are read, and how they reach gin.

The way of a run's configuration:

    register()                  the table below becomes gin configurables, under the selectors that t5x users write
    parsed = parse(files, ...)  files, includes and `--gin.X=value` flags -> settings in order; gin is not touched
    config_check.check(parsed)  every mistake at once, before anything is loaded
    bind(parsed)                the settings become gin's global configuration
    config_str(), config_hash() the text that is saved as MODEL_DIR/config.gin, and its fingerprint

Settings are read with gin's own parser (literals, `%macros`, `@references`), so a value is data: nothing is evaluated.
gin's dynamic registration is not used: the import lines of files written for t5x are accepted and dropped, and a
selector such as `utils.DatasetConfig` means the table's entry. An import of any other module is carried out, so that
the `@gin.configurable` functions of a user's own module can be bound.
"""

import contextlib
import hashlib
import importlib
import inspect
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from flan_jax import errors
from flan_jax.config_read import (
    Delegate,
    GinFlags,
    Location,
    Macro,
    ParsedConfig,
    Reference,
    Setting,
    find_file,
    leaves,
    map_leaves,
    parse,
    shipped_gin_dir,
    split_argv,
)

# What the rest of flan_jax uses: reading is in config_read, all of it is reached as `config.parse` and so on.
__all__ = [
    "CONFIGURABLES",
    "GinFlags",
    "Location",
    "Macro",
    "ParsedConfig",
    "Reference",
    "Setting",
    "bind",
    "config_hash",
    "config_str",
    "configurables",
    "constant",
    "find",
    "find_file",
    "isolated",
    "leaves",
    "map_leaves",
    "parameters",
    "parse",
    "register",
    "shipped_gin_dir",
    "split_argv",
]

# Selector that a gin file writes -> the object it configures, imported by `register()` only.
CONFIGURABLES: dict[str, str] = {
    "train_script.train": "flan_jax.train:train",
    "eval_script.evaluate": "flan_jax.eval:evaluate",
    "infer_script.infer": "flan_jax.infer:infer",
    "ablation.Ablation": "flan_jax.ablation.grid:Ablation",
    "ablation.Grid": "flan_jax.ablation.grid:Grid",
    "decoding.Settings": "flan_jax.inference.settings:Settings",
    "utils.DatasetConfig": "flan_jax.training.configs:DatasetConfig",
    "utils.CheckpointConfig": "flan_jax.training.configs:CheckpointConfig",
    "utils.SaveCheckpointConfig": "flan_jax.training.configs:SaveCheckpointConfig",
    "utils.RestoreCheckpointConfig": "flan_jax.training.configs:RestoreCheckpointConfig",
    "utils.create_learning_rate_scheduler": "flan_jax.training.optim:create_learning_rate_scheduler",
    "trainer.Trainer": "flan_jax.training.configs:Trainer",
    "partitioning.PjitPartitioner": "flan_jax.training.configs:Partitioner",
    "partitioning.standard_logical_axis_rules": "flan_jax.sharding:standard_logical_axis_rules",
    "adapters.LoRA": "flan_jax.training.adapters:LoRA",
    "adapters.PromptTuning": "flan_jax.training.adapters:PromptTuning",
    "adafactor.Adafactor": "flan_jax.training.optim:Adafactor",
    "adafactor.standard_logical_factor_rules": "flan_jax.training.optim:standard_logical_factor_rules",
    "optimizers.adamw": "flan_jax.training.optim:adamw",
    "models.EncoderDecoderModel": "flan_jax.training.configs:EncoderDecoderModel",
    "models.DecoderOnlyModel": "flan_jax.training.configs:DecoderOnlyModel",
    "network.T5Config": "flan_jax.models.presets:t5_config",
    "network.Transformer": "flan_jax.training.configs:Transformer",
    "network.TransformerConfig": "flan_jax.models.presets:decoder_only_config",
    "network.DecoderWrapper": "flan_jax.training.configs:DecoderWrapper",
    "seqio.PrefixLMFeatureConverter": "flan_jax.data.features:PrefixLM",
    "seqio.LMFeatureConverter": "flan_jax.data.features:LM",
    "seqio.SentencePieceVocabulary": "flan_jax.data.vocabulary:sentencepiece_vocabulary",
}


_LAST_BOUND: list[ParsedConfig] = []


def register(table: Mapping[str, str] | None = None) -> None:
    """Makes every entry of `table` (CONFIGURABLES when None) a gin configurable; a second call changes nothing."""
    for selector, target in (CONFIGURABLES if table is None else table).items():
        module_name, _, attribute = target.partition(":")
        target_object = getattr(importlib.import_module(module_name), attribute)
        existing = configurables().get(selector)
        if existing is None or existing.wrapped is not target_object:
            module, _, name = selector.rpartition(".")
            gin.external_configurable(target_object, name=name, module=module)


def configurables() -> dict[str, gin_config.Configurable]:
    """Returns every registered configurable by its complete selector, without gin's own."""
    # gin has no public way to list its registry; the private name is used in this module only.
    registered = dict(gin_config._REGISTRY.items())
    return {selector: value for selector, value in registered.items() if not selector.startswith("gin.")}


def find(selector: str) -> gin_config.Configurable | None:
    """Returns the configurable that a complete or shortened selector names, None when there is none.

    Raises:
      FlanError: when a shortened selector fits several configurables.
    """
    matches = gin_config._REGISTRY.matching_selectors(selector)
    if len(matches) > 1:
        raise errors.FlanError(f"{selector!r} is ambiguous; it fits {', '.join(sorted(matches))}")
    return gin_config._REGISTRY[matches[0]] if matches else None


def parameters(configurable: gin_config.Configurable) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a configurable that gin may bind; a key `**` stands for any further name."""
    named: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(configurable.wrapped).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named["**"] = parameter
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            if configurable.allowlist and name not in configurable.allowlist:
                continue
            if configurable.denylist and name in configurable.denylist:
                continue
            named[name] = parameter
    return named


def constant(name: str) -> tuple[bool, Any]:
    """Returns (True, value) when `%name` is a gin constant such as gin.REQUIRED, else (False, None)."""
    matches = gin_config._CONSTANTS.matching_selectors(name)
    return (True, gin_config._CONSTANTS[matches[0]]) if len(matches) == 1 else (False, None)


@contextlib.contextmanager
def isolated(*, empty_registry: bool = False) -> Iterator[None]:
    """gin without any setting inside the block, and everything as it was after it.

    Args:
      empty_registry: also hides the registered configurables inside the block. What is registered inside is forgotten
        after it in either case.
    """
    stores = (gin_config._INVERSE_REGISTRY, gin_config._CONFIG, gin_config._OPERATIVE_CONFIG, gin_config._SINGLETONS)
    maps = (gin_config._REGISTRY, gin_config._CONSTANTS)
    saved_stores = [dict(store) for store in stores]
    saved_maps = [dict(selector_map.items()) for selector_map in maps]
    saved_imports, saved_lock = set(gin_config._IMPORTS), gin_config.config_is_locked()
    saved_bound = list(_LAST_BOUND)
    try:
        # Rebinding to new inner dictionaries keeps the saved ones out of reach of bind_parameter.
        gin.clear_config()
        _LAST_BOUND.clear()
        if empty_registry:
            gin_config._REGISTRY.clear()
            gin_config._INVERSE_REGISTRY.clear()
            for selector, configurable in saved_maps[0].items():
                if selector.startswith("gin."):
                    gin_config._REGISTRY[selector] = configurable
                    gin_config._INVERSE_REGISTRY[configurable.wrapped] = configurable
        yield
    finally:
        for store, saved in zip(stores, saved_stores, strict=True):
            store.clear()
            store.update(saved)
        for selector_map, saved in zip(maps, saved_maps, strict=True):
            selector_map.clear()
            for selector, value in saved.items():
                selector_map[selector] = value
        gin_config._IMPORTS.clear()
        gin_config._IMPORTS.update(saved_imports)
        gin_config._set_config_is_locked(saved_lock)
        _LAST_BOUND[:] = saved_bound


def bind(parsed: ParsedConfig) -> None:
    """Makes `parsed` gin's whole global configuration, in place of what was bound before.

    Raises:
      FlanError: for a configurable or parameter that does not exist (`config_check.check` finds them all at once).
    """
    gin.clear_config()
    delegate = gin_config.ParserDelegate()

    def to_gin(leaf: Any) -> Any:
        if isinstance(leaf, Reference):
            return delegate.configurable_reference(leaf.scoped_selector, leaf.call)
        return delegate.macro(leaf.name) if isinstance(leaf, Macro) else leaf

    for setting in parsed.settings:
        if not setting.param:
            continue
        key = (setting.scope, setting.selector, setting.param)
        if not setting.selector:
            key = (setting.param, "gin.macro", "value")
        try:
            gin.bind_parameter(key, map_leaves(to_gin, setting.value))
        except (ValueError, KeyError) as error:
            raise errors.FlanError(f"{setting.location}: {setting.key}: {error}") from error
    _LAST_BOUND[:] = [parsed]


def config_str(parsed: ParsedConfig | None = None) -> str:
    """Returns the whole configuration as a gin file that reproduces the run.

    Macros first, then every binding that counts and, for the configurables it names or refers to, every default that is
    a literal, so that a later change of a default in the code does not change what the file means. Sorted: the text
    depends neither on the order of the settings nor on how they were spread over files.

    Args:
      parsed: the configuration; the one last given to `bind` when None.

    Raises:
      FlanError: when `parsed` is None and nothing was bound.
    """
    if parsed is None:
        if not _LAST_BOUND:
            raise errors.FlanError("no configuration was bound; expected bind(parsed) before config_str()")
        parsed = _LAST_BOUND[0]
    macros: dict[str, Any] = {}
    bound: dict[tuple[str, str], dict[str, Any]] = {}
    for setting in parsed.settings:
        if not setting.selector:
            macros[setting.param] = setting.value
        elif setting.param:
            selector = _complete(setting.selector)
            bound.setdefault((selector, setting.scope), {})[setting.param] = setting.value
    # Macros that only dropped lines of t5x read would be unused when the text is read again.
    for name in _mentioned(parsed.t5x) - _mentioned(parsed.settings):
        macros.pop(name, None)
    values = [*macros.values(), *(value for params in bound.values() for value in params.values())]
    referred = {_complete(leaf.selector) for leaf in leaves(values) if isinstance(leaf, Reference)}
    for selector in referred | {selector for selector, _ in bound}:
        unscoped = bound.setdefault((selector, ""), {})
        for name, default in _literal_defaults(selector).items():
            # In scopes that bind the parameter their own value still wins over this unscoped one.
            unscoped.setdefault(name, default)
    lines = [f"import {module}" for module in sorted(parsed.imports)]
    lines += [f"{name} = {value!r}" for name, value in sorted(macros.items())]
    for (selector, scope), params in sorted(bound.items()):
        if not params:
            continue
        lines.append("")
        prefix = f"{scope}/{selector}" if scope else selector
        lines += [f"{prefix}.{name} = {value!r}" for name, value in sorted(params.items())]
    return "\n".join(lines).strip("\n") + "\n"


def config_hash(text: str) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of a configuration text without its comment and blank lines."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _mentioned(settings: Iterable[Setting]) -> set[str]:
    """The macros and constants that settings refer to."""
    return {leaf.name for setting in settings for leaf in leaves(setting.value) if isinstance(leaf, Macro)}


def _complete(selector: str) -> str:
    configurable = find(selector)
    return configurable.selector if configurable else selector


def _literal_defaults(selector: str) -> dict[str, Any]:
    """The defaults that gin can read back to an equal value."""
    configurable = find(selector)
    literal: dict[str, Any] = {}
    for name, parameter in parameters(configurable).items() if configurable else ():
        if name == "**" or parameter.default is parameter.empty:
            continue
        with contextlib.suppress(SyntaxError, ValueError, tokenize.TokenError):
            # A function or a class may have a repr that parses, so the types are compared too.
            value = config_parser.ConfigParser(repr(parameter.default), Delegate({})).parse_value()
            if type(value) is type(parameter.default) and value == parameter.default:
                literal[name] = value
    return literal
