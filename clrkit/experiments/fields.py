"""Find and change fields of a config by name, as the command line and the lab address them.

Every field of a chain of stages has one address: its stage and its name, as in `pretrain.temperature`. The
group of the field may stand in between: `pretrain.optimizer.momentum`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from clrkit.config import KINDS, Config, Stage, from_dict, known, to_dict
from clrkit.errors import ConfigError

C = TypeVar("C", bound=Config)


def locate(config: Config, name: str, strict: bool = False) -> tuple[str, ...]:
    """Find the path of field names to a field.

    Args:
        config: usually a stage with its parents.
        name: an address, a path (`teacher.pretrain.epochs`), or a short name (`epochs`).
        strict: refuse a short name that several stages have; otherwise the stage nearest to `config` counts.

    Raises:
        ConfigError: for an unknown or ambiguous name.
    """
    stages = {node.name: path for path, node in walk(config) if isinstance(node, Stage)}
    first, _, rest = name.partition(".")
    if rest and first in stages:
        path = stages[first]
        return (*path, *nearest(value_at(config, path), rest, strict))
    if strict:
        owners = {stage: path for stage, path in stages.items() if owns(value_at(config, path), first)}
        if len(owners) > 1:
            raise ambiguous(name, [f"{stage}.{name}" for stage in owners])
        for path in owners.values():
            return (*path, *nearest(value_at(config, path), name, strict))
    return nearest(config, name)


def nearest(config: Config, name: str, within: bool = False) -> tuple[str, ...]:
    """The path to a field by breadth-first search; `within` leaves out the parents of a stage."""
    first, _, rest = name.partition(".")
    level: list[tuple[tuple[str, ...], Config]] = [((), config)]
    while level:
        hits = [path for path, node in level if first in field_names(node)]
        if len(hits) > 1:
            raise ambiguous(name, [".".join((*path, name)) for path in hits])
        if hits:
            path = (*hits[0], first)
            inner = value_at(config, path)
            if rest and not isinstance(inner, Config):
                raise ConfigError(f"{first} is not a group of fields, so {name} does not exist.")
            if isinstance(inner, Config) and not rest and first in field_names(inner):
                rest = first  # optimizer means optimizer.optimizer
            return (*path, *nearest(inner, rest, within)) if rest else path
        level = [((*path, key), inner) for path, node in level for key, inner in groups(node, within)]
    known(first, sorted({key for _, node in walk(config) for key in field_names(node)}), "field")
    raise ConfigError(f"{config.__class__.__name__.lower()} has no field {name}.")


def ambiguous(name: str, addresses: list[str]) -> ConfigError:
    return ConfigError(f"{name} is in more than one place; write {' or '.join(addresses)}.")


def owns(stage: Config, name: str) -> bool:
    """True if a stage has a field of this name, itself or in one of its groups."""
    return name in field_names(stage) or any(owns(inner, name) for _, inner in groups(stage, within=True))


def groups(config: Config, within: bool = False) -> list[tuple[str, Config]]:
    """The nested configs by field name; `within` leaves out stages."""
    values = [(name, getattr(config, name)) for name in field_names(config)]
    return [
        (name, value)
        for name, value in values
        if isinstance(value, Config) and not (within and isinstance(value, Stage))
    ]


def value_at(config: Config, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def with_fields(config: C, settings: Mapping[str, Any], strict: bool = False) -> C:
    """Copy a config with single fields changed by name. Texts are parsed; None changes nothing.

    `seed` is set along the whole chain, `pretrain.seed` in one stage.

    Args:
        config: usually a stage with its parents.
        settings: values by name, see `locate`.
        strict: refuse ambiguous names and a field that is given twice, as the command line does.

    Raises:
        ConfigError: for an unknown or ambiguous name, or an impossible value.
    """
    values = to_dict(config)
    given: dict[tuple[str, ...], str] = {}
    for name, value in sorted(settings.items(), key=lambda setting: setting[0] != "seed"):  # seed first
        if value is None:
            continue
        if name == "seed":
            paths = [(*path, "seed") for path, node in walk(config) if isinstance(node, Stage)]
        else:
            paths = [locate(config, name, strict)]
            if strict and (other := given.setdefault(paths[0], name)) != name:
                raise ConfigError(f"{other} and {name} are the same field; give one of them.")
        for path in paths:
            inner = values
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = parse(path, value, value_at(config, path))
    return from_dict(type(config), values)  # checked together: fields that bound each other come in any order


def parse(path: tuple[str, ...], value: Any, current: Any) -> Any:
    """Convert a text or number to the type of the field's current value. Raises ConfigError."""
    kind, name = type(current), path[-1]
    if isinstance(current, Config):
        raise ConfigError(f"{name} is a group of fields; set one of {', '.join(field_names(current))}.")
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or kind is str:
        return value
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return truths[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise ConfigError(f"{name} must be {KINDS[kind]}, not {value!r}.") from None


def field_names(config: Config) -> list[str]:
    return [item.name for item in fields(config)]


def walk(config: Config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Every config of a tree with its path, the outermost first."""
    yield path, config
    for name, inner in groups(config):
        yield from walk(inner, (*path, name))
