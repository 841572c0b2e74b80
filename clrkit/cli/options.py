"""Options: every field of every stage as an option of its own, and refusals in one sentence."""

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

from clrkit.config import STAGES, Stage, known
from clrkit.errors import ConfigError
from clrkit.experiments.fields import address, places, value_at, with_fields
from clrkit.experiments.grid import Preset

S = TypeVar("S", bound=Stage)
Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[[str, Command, str], argparse.ArgumentParser]

TITLES = {
    "pretrain": "Pretrain",
    "probe": "Linear probe",
    "supervised": "Supervised",
    "finetune": "Fine-tune",
    "distill": "Distill",
}
VALUES = {int: "N", float: "X", str: "TEXT", bool: "{true,false}"}
FIELDS_HELP = (
    "Write a field that several stages of the chain have with its stage: --pretrain.epochs, "
    "--finetune.epochs, --distill.temperature. --seed sets the seed of the whole chain. Defaults are those "
    "of preset {preset}; add --preset NAME to --help to see others."
)


class UsageError(ConfigError):
    """A command line that cannot be carried out; exit status 2."""


class Parser(argparse.ArgumentParser):
    """Refuse a command line in one sentence, and an unknown option with the nearest that exists."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # before argparse takes an unknown option's value for a positional
            for word in itertools.takewhile(lambda word: word != "--", words):
                if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                    self.refuse(word.partition("=")[0])
        return super().parse_known_args(words, namespace)

    def refuse(self, option: str) -> NoReturn:
        near = nearest(option, self._option_string_actions)
        hint = f"did you mean {near}?" if near else f"see: {self.prog} --help."
        raise UsageError(f"{self.prog.split()[-1]} has no option {one_line(option)}; {hint}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{one_line(message).rstrip('.')}; see: {self.prog} --help.")


def one_line(text: str) -> str:
    return " ".join(text.split())


def nearest(option: str, options: Iterable[str]) -> str:
    """The option that was probably meant: by initials (--lr), beginning (--temp) or letters; "" if none."""
    word = option.lstrip("-").replace("-", "_")
    names = sorted({each.lstrip("-").replace("-", "_") for each in options if each != "-h"}, key=len)
    initials = {"".join(part[:1] for part in name.split("_")): name for name in reversed(names)}
    begun = [name for name in names if word and name.startswith(word)]
    near = [initials[word]] if word in initials and len(word) > 1 else begun
    near = near or difflib.get_close_matches(word, names, n=1)
    return f"--{near[0]}" if near else ""


class SetField(argparse.Action):
    """Note a field's name and text in `fields`; one that was given before is refused."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name = (option_string or "").removeprefix("--").replace("-", "_")
        if name in namespace.fields:
            raise UsageError(f"{option_string} is given twice; write it once.")
        namespace.fields = {**namespace.fields, name: values}


@cache
def spellings() -> dict[str, tuple[str, ...]]:
    """Every name of every field of every chain, by the field: `epochs`, `teacher.pretrain.epochs`, ..."""
    found: dict[str, dict[str, None]] = {}
    for kind in STAGES:
        for place in places(kind()):
            own = found.setdefault(place.path[-1], {})
            for way in itertools.product(*(("", *names) for names in place.names)):
                own[".".join([*filter(None, way), place.path[-1]])] = None
    return {name: tuple(own) for name, own in found.items()}


def add_fields(parser: argparse.ArgumentParser, chosen: Preset | None) -> None:
    """Add every field as an option, in the help by the stages that have it; without a preset, not in it."""
    parser.set_defaults(fields={})
    shown = show_fields(parser, chosen) if chosen else set()
    for names in spellings().values():
        texts = {f"--{text}" for name in names for text in (name, name.replace("_", "-"))}
        hidden = sorted(texts - shown)
        parser.add_argument(
            *hidden, action=SetField, dest="fields", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def show_fields(parser: argparse.ArgumentParser, chosen: Preset) -> set[str]:
    """Add an option with a help text for every field; a name with two meanings has its stage before it."""
    defaults: dict[tuple[str, str], dict[str, Any]] = {}
    items: dict[tuple[str, str], dataclasses.Field[Any]] = {}
    for kind in STAGES:
        stage = getattr(chosen, kind.name)
        for place in places(stage):
            if place.stage == stage.name:
                group = value_at(stage, place.path[:-1])
                item = {item.name: item for item in dataclasses.fields(group)}[place.path[-1]]
                meaning = item.name, item.metadata["help"]
                items[meaning] = item
                defaults.setdefault(meaning, {})[stage.name] = getattr(group, item.name)
    groups: dict[tuple[str, ...], Any] = {}
    shown = set()
    for (name, help), values in defaults.items():
        stages, alone = tuple(values), sum(other == name for other, _ in defaults) == 1
        if stages not in groups:
            title = "Every stage" if len(stages) == len(STAGES) else ", ".join(TITLES[s] for s in stages)
            groups[stages] = parser.add_argument_group(title)
        option = f"--{name}" if alone else f"--{stages[0]}.{name}"
        choices = items[name, help].metadata["choices"]
        groups[stages].add_argument(
            option,
            action=SetField,
            dest="fields",
            default=argparse.SUPPRESS,
            metavar=f"{{{','.join(map(str, choices))}}}"
            if choices
            else VALUES[type(next(iter(values.values())))],
            help=f"{help}{default_text(values)}".replace("%", "%%"),
        )
        shown.add(option)
    return shown


def default_text(values: Mapping[str, Any]) -> str:
    """The default of a field, by stage if they differ."""
    texts = {
        stage: str(value).lower() if type(value) is bool else str(value) for stage, value in values.items()
    }
    if len({*texts.values()}) > 1:
        return f" (default: {', '.join(f'{stage} {text}' for stage, text in texts.items())})"
    (text,) = {*texts.values()}
    return f" (default {text})" if text else ""


def stage_name(text: str) -> str:
    """A stage's name, for argparse."""
    try:
        return known(text, [kind.name for kind in STAGES], "stage")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def resolved(stage: S, given: Mapping[str, str]) -> S:
    """The stage with the fields that were given. Raises UsageError for what cannot be."""
    try:
        refuse_repeated(stage, given)
        return with_fields(stage, given, address)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def refuse_repeated(stage: Stage, names: Iterable[str]) -> None:
    """Raise ConfigError if two names mean the same field; `seed` means that of the whole chain."""
    first: dict[tuple[str, ...], str] = {}
    for name in names:
        path = ("the chain's seed",) if name == "seed" else address(stage, name)
        if path in first:
            raise ConfigError(f"--{first[path]} and --{name} are the same field; write one of them.")
        first[path] = name


def add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of results (default results)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
