"""The command `completion`: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial

from clrkit.cli.options import AddCommand
from clrkit.config import STAGES
from clrkit.experiments.fields import places

BASH = """\
_clrkit() {{
    local words="{commands}" word="${{COMP_WORDS[COMP_CWORD]}}" last="${{COMP_WORDS[COMP_CWORD-1]}}"
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    (( COMP_CWORD == 1 )) && words="{commands}"
    case "${{COMP_WORDS[1]}} $last" in
{values}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _clrkit clrkit
"""
ABOUT = 'Print a completion script for `clrkit`: eval "$(clrkit completion bash)".'


def add(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    """Add the command; it completes what `parser` reads."""
    made = command("completion", partial(completion, parser), ABOUT)
    made.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")


def completion(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print the script; zsh runs that of bash."""
    commands = commands_of(parser)
    if options.shell == "fish":
        print("\n".join(fish(commands)))
        return 0
    cases = [
        f'        {name}) words="{" ".join([*options_of(each), *positional_values(each)])}";;'
        for name, each in commands.items()
    ]
    values = [
        f'        "{name} {option}") words="{" ".join(texts)}";;'
        for name, each in commands.items()
        for option, texts in options_of(each).items()
        if texts
    ]
    start = "autoload -U bashcompinit && bashcompinit\n" if options.shell == "zsh" else ""
    names = " ".join(commands)
    print(start + BASH.format(commands=names, cases="\n".join(cases), values="\n".join(values)), end="")
    return 0


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)


def options_of(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """One spelling of every option with the values it can have, and the fields with their stages."""
    found = {
        next(text for text in action.option_strings if text.startswith("--")): values_of(action)
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    }
    if parser.get_default("fields") is None:
        return found
    addresses = {place.address for kind in STAGES for place in places(kind())}
    return {f"--{text}": found.get(f"--{text.partition('.')[2]}", []) for text in sorted(addresses)} | found


def positional_values(parser: argparse.ArgumentParser) -> list[str]:
    return [text for each in parser._actions if not each.option_strings for text in values_of(each)]


def values_of(action: argparse.Action) -> list[str]:
    """The values of an option: its choices, or those in the braces of its help."""
    braces = re.fullmatch(r"{(.*)}", action.metavar if isinstance(action.metavar, str) else "")
    return (
        [str(each) for each in action.choices] if action.choices else braces[1].split(",") if braces else []
    )


def fish(commands: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    yield f"complete -c clrkit -n __fish_use_subcommand -f -a '{' '.join(commands)}'"
    for name, parser in commands.items():
        start = f"complete -c clrkit -n '__fish_seen_subcommand_from {name}'"
        for option, texts in options_of(parser).items():
            yield f"{start} -l {option[2:]}" + (f" -x -a '{' '.join(texts)}'" if texts else "")
        if values := positional_values(parser):
            yield f"{start} -a '{' '.join(values)}'"
