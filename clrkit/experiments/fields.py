"""Find and change fields of a config by name, as the command line and the lab address them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from clrkit.config import KINDS, STAGES, Config, Stage, types_of
from clrkit.errors import ConfigError, known

C = TypeVar("C", bound=Config)
Path = tuple[str, ...]  # of field names, from a stage to a field


@dataclass(frozen=True)
class Place:
    """A field of a chain of stages.

    Attributes:
        path: leads to it from the last stage of the chain.
        stage: the stage that it belongs to.
        names: what each stage and group on the way may be called, the last stage first.
    """

    path: Path
    stage: str
    names: tuple[tuple[str, ...], ...]

    @property
    def address(self) -> str:
        """The stage and the field, as `finetune.epochs`."""
        return f"{self.stage}.{self.path[-1]}"

    def is_called(self, parts: list[str]) -> bool:
        """True if a dotted name ends in this field and names stages and groups on the way, in order."""
        way = iter(self.names)
        return parts[-1] == self.path[-1] and all(any(part in names for names in way) for part in parts[:-1])

    def is_of(self, parts: list[str]) -> bool:
        """True if a dotted name names the field's own stage."""
        return any(self.stage in names for part in parts[:-1] for names in self.names if part in names)


def places(stage: Stage) -> list[Place]:
    """Every field of a chain of stages, those of the last stage first."""
    return sorted(places_in(stage, stage, (), ((stage.name,),)), key=lambda place: len(place.path))


def places_in(node: Config, stage: Stage, path: Path, names: tuple[tuple[str, ...], ...]) -> Iterator[Place]:
    for name in field_names(node):
        value = getattr(node, name)
        if isinstance(value, Stage):
            called = (value.name,) if name == value.name else (value.name, name)
            yield from places_in(value, value, (*path, name), (*names, called))
        elif isinstance(value, Config):
            yield from places_in(value, stage, (*path, name), (*names, (name,)))
        else:
            yield Place((*path, name), stage.name, names)


def called(name: str, stage: Stage) -> list[Place]:
    """The fields of a chain that a name can mean, those of the stage in the name first of all."""
    parts = name.split(".")
    found = [place for place in places(stage) if place.is_called(parts)]
    return [place for place in found if place.is_of(parts)] or found


def address(stage: Stage, name: str) -> Path:
    """Path to the only field of a chain that `name` can mean: `epochs`, `finetune.epochs`, `teacher.epochs`.

    Raises ConfigError for a name that several fields have, naming all, or that none has, naming the nearest.
    """
    found = called(name, stage)
    if len(found) > 1:
        meant = " or ".join(place.address for place in found)
        raise ConfigError(f"{name} means {meant} here; write one of them.")
    if found:
        return found[0].path
    if owners := {place.stage: 0 for kind in STAGES for place in called(name, kind())}:
        raise ConfigError(f"{name} is a field of {' and '.join(owners)}, not of {stage.name}.")
    return locate(stage, name)  # a group of fields, or unknown


def locate(config: Config, name: str) -> Path:
    """Find the path of field names to a field; a short name goes to the stage nearest to `config`.

    Args:
        config: usually a stage with its parents.
        name: an address (`pretrain.epochs`), a path (`teacher.pretrain.epochs`), or a short name (`epochs`).

    Raises:
        ConfigError: for an unknown name, or two equally near.
    """
    stages = {node.name: path for path, node in walk(config) if isinstance(node, Stage)}
    first, _, rest = name.partition(".")
    if rest and first in stages:
        return (*stages[first], *nearest(value_at(config, stages[first]), rest))
    return nearest(config, name)


def nearest(config: Config, name: str) -> Path:
    """The path to a field by breadth-first search."""
    first, _, rest = name.partition(".")
    level: list[tuple[Path, Config]] = [((), config)]
    while level:
        hits = [path for path, node in level if first in field_names(node)]
        if len(hits) > 1:
            options = " or ".join(".".join((*path, name)) for path in hits)
            raise ConfigError(f"{name} is in more than one place; write {options}.")
        if hits:
            path = (*hits[0], first)
            inner = value_at(config, path)
            if rest and not isinstance(inner, Config):
                raise ConfigError(f"{first} is not a group of fields, so {name} does not exist.")
            if isinstance(inner, Config) and not rest and first in field_names(inner):
                rest = first  # optimizer means optimizer.optimizer
            return (*path, *nearest(inner, rest)) if rest else path
        level = [((*path, key), inner) for path, node in level for key, inner in groups(node)]
    known(first, sorted({key for _, node in walk(config) for key in field_names(node)}), "field")
    raise AssertionError(first)


def groups(config: Config) -> list[tuple[str, Config]]:
    """The nested configs by field name."""
    values = [(name, getattr(config, name)) for name in field_names(config)]
    return [(name, value) for name, value in values if isinstance(value, Config)]


def value_at(config: Config, path: Path) -> Any:
    """The value of the field that a path leads to."""
    for name in path:
        config = getattr(config, name)
    return config


def with_fields(config: C, settings: Mapping[str, Any], find: Callable[[C, str], Path] = locate) -> C:
    """Copy a config with single fields changed by name. Texts are parsed; None changes nothing.

    Args:
        config: usually a stage with its parents.
        settings: values by name, see `locate`; `seed` is set along the whole chain, `pretrain.seed` in one
            stage.
        find: `address` refuses a name that several fields have.

    Raises:
        ConfigError: for an unknown or ambiguous name, or an impossible value.
    """
    values = to_dict(config)
    for name, value in sorted(settings.items(), key=lambda setting: setting[0] != "seed"):  # seed first
        if value is None:
            continue
        if name == "seed":
            paths = [(*path, "seed") for path, node in walk(config) if isinstance(node, Stage)]
        else:
            paths = [find(config, name)]
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


def stage_class(name: str) -> type[Stage]:
    """The config class of a stage. Raises ConfigError for an unknown name."""
    return {stage.name: stage for stage in STAGES}[known(name, [s.name for s in STAGES], "stage")]


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON values, nested as the dataclasses are."""
    return dataclasses.asdict(config)


def from_dict(kind: type[C], values: Any) -> C:
    """The inverse of `to_dict`. Raises ConfigError for unknown fields and impossible values."""
    hints = types_of(kind)  # type: ignore[arg-type]
    names = {item.name for item in fields(kind)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__.lower()} is a group of fields, not {values!r}.")
    for name in values:
        known(name, sorted(names), "field")
    read = {
        name: from_dict(hints[name], value) if issubclass(hints[name], Config) else value
        for name, value in values.items()
    }
    return kind(**read)
