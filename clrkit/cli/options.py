"""Make options of all fields of all stages, and refuse a wrong command line in one sentence."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clrkit.config import STAGES, Stage
from clrkit.errors import ConfigError
from clrkit.experiments import fields
from clrkit.experiments.fields import address, places, value_at, with_fields
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import PRESETS, preset

S = TypeVar("S", bound=Stage)
Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[[str, Command, str], argparse.ArgumentParser]

VALUES = {int: "N", float: "X", str: "TEXT", bool: "{true,false}"}
EPILOG = (
    "If several stages of the chain have a field, write its stage too: --pretrain.epochs, "
    "--finetune.epochs, --distill.temperature. --seed sets the seed of the whole chain. "
    "Defaults are those of preset {name}; --preset NAME --help shows others."
)


class UsageError(ConfigError):
    """A wrong command line; exit status 2."""


class Parser(argparse.ArgumentParser):
    """Raise UsageError for a wrong command line; name the nearest option for an unknown one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        known = self._option_string_actions
        for word in itertools.takewhile(lambda word: word != "--", words):
            option = word.partition("=")[0]
            # Checked first: argparse would take an unknown option's value for the stage.
            if self._subparsers is None and option.startswith("--") and option not in known:
                near = nearest(option, known)
                hint = f"did you mean {near}?" if near else f"see: {self.prog} --help."
                raise UsageError(f"{self.prog.split()[-1]} has no option {one_line(option)}; {hint}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(message)}; see: {self.prog} --help.")


def one_line(text: str) -> str:
    return " ".join(text.split())


def nearest(option: str, options: Iterable[str]) -> str:
    """The option that was probably meant, by initials (--lr), beginning (--temp) or letters; "" if none."""
    word, *names = (text.lstrip("-").replace("-", "_") for text in (option, *sorted(options, key=len)))
    initials = [name for name in names if "".join(part[:1] for part in name.split("_")) == word]
    begun = [name for name in names if word and name.startswith(word)]
    near = (initials if len(word) > 1 else []) or begun or difflib.get_close_matches(word, names, n=1)
    return f"--{near[0]}" if near else ""


def add_option(parser: argparse.ArgumentParser, name: str, help: str, **settings: Any) -> None:
    """Add an option that may be written with underscores or dashes."""
    parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), help=help, **settings)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of results."""
    about = "folder of results (default results)"
    add_option(parser, "results", about, type=Path, default=Path("results"), metavar="DIR")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option for the device."""
    add_option(parser, "device", "auto, cpu, cuda or mps (default auto)", default="auto")


class SetField(argparse.Action):
    """Keep the text of a field by the name that it was given by."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name = str(option_string).removeprefix("--").replace("-", "_")
        if name in namespace.fields:
            raise UsageError(f"--{name} is given twice; write it once.")
        namespace.fields = {**namespace.fields, name: values}


@cache
def spellings() -> dict[str, set[str]]:
    """All options of every field, by the field: --epochs, --teacher.epochs, --distill.teacher.epochs, ..."""
    found: dict[str, set[str]] = {}
    for place in itertools.chain.from_iterable(places(kind()) for kind in STAGES):
        for way in itertools.product(*(("", *names) for names in place.names)):
            name = ".".join([*filter(None, way), place.path[-1]])
            found.setdefault(place.path[-1], set()).update((f"--{name}", f"--{name.replace('_', '-')}"))
    return found


def add_fields(parser: argparse.ArgumentParser, chosen: Preset | None = None) -> None:
    """Add an option for every field; its help shows the defaults of a preset, or nothing without one."""
    parser.set_defaults(fields={})
    setting: dict[str, Any] = {"action": SetField, "dest": "fields", "default": argparse.SUPPRESS}
    shown = show_fields(parser, chosen, setting) if chosen else set()
    for name, options in spellings().items():
        hidden = parser.add_argument(*sorted(options - shown), help=argparse.SUPPRESS, **setting)
        hidden.option_strings = [f"--{name}"]  # what error messages call it


def show_fields(parser: argparse.ArgumentParser, chosen: Preset, setting: Mapping[str, Any]) -> set[str]:
    """Add a group for the fields of the same stages; return the options in them."""
    rows: dict[dataclasses.Field[Any], dict[str, Any]] = {}  # values by stage; stages share Field objects
    for kind in STAGES:
        stage = getattr(chosen, kind.name)
        for place in places(stage):
            if place.stage == kind.name:
                group = value_at(stage, place.path[:-1])
                item = type(group).__dataclass_fields__[place.path[-1]]
                rows.setdefault(item, {})[kind.__name__] = getattr(group, item.name)
    groups: dict[str, Any] = {}
    shown, names = set[str](), [item.name for item in rows]
    for item, values in rows.items():
        title = "Every stage" if len(values) == len(STAGES) else ", ".join(values)
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        alone = names.count(item.name) == 1
        option = f"--{item.name}" if alone else f"--{next(iter(values)).lower()}.{item.name}"
        choices = ",".join(map(str, item.metadata["choices"]))
        metavar = f"{{{choices}}}" if choices else VALUES[type(item.default)]
        about = f"{item.metadata['help']}{default_of(values)}".replace("%", "%%")
        groups[title].add_argument(option, metavar=metavar, help=about, **setting)
        shown.add(option)
    return shown


def default_of(values: Mapping[str, Any]) -> str:
    """The default of a field in words, for each stage if they differ."""
    texts = {
        stage: str(value).lower() if type(value) is bool else str(value) for stage, value in values.items()
    }
    if len({*texts.values()}) > 1:
        return f" (default: {', '.join(f'{stage} {text}' for stage, text in texts.items())})"
    text = next(iter(texts.values()))
    return f" (default {text})" if text else ""


def add_stage(parser: argparse.ArgumentParser, arguments: Iterable[str]) -> None:
    """Add a stage and its fields, with the defaults of the preset that the arguments name."""
    names = [kind.name for kind in STAGES]
    parser.add_argument("stage", choices=names, metavar="STAGE", help=", ".join(names))
    parser.usage = "%(prog)s [OPTION ...] STAGE [OPTION ...]"
    words = [word for text in arguments for word in text.split("=", 1)]
    asked = words[words.index("--preset") + 1 :][:1] if "--preset" in words else []
    name = next((make.__name__ for make in PRESETS if [make.__name__] == asked), "mini")
    add_fields(parser, preset(name))
    parser.epilog = EPILOG.format(name=name)


def resolved(stage: S, given: Mapping[str, str]) -> S:
    """The stage with the fields that were given. Raises UsageError."""
    paths_of(stage, given)
    try:
        return with_fields(stage, given, address)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def paths_of(stage: Stage, names: Iterable[str]) -> dict[str, fields.Path]:
    """Paths to fields by their names; () for `seed`, which means that of all stages.

    Raises UsageError for a name with several meanings, and for two names of one field.
    """
    paths: dict[str, fields.Path] = {}
    for name in names:
        try:
            path = () if name == "seed" else address(stage, name)
        except ConfigError as error:
            raise UsageError(f"--{error}") from None
        for other in (other for other in paths if paths[other] == path):
            raise UsageError(f"--{other} and --{name} are the same field; write one of them.")
        paths[name] = path
    return paths
