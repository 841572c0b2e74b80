"""The command `completion`: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from functools import partial

from clrkit.cli.options import AddCommand
from clrkit.config import STAGES
from clrkit.experiments.fields import places

ABOUT = 'Print a completion script for `clrkit`: eval "$(clrkit completion bash)".'
BASH = """\
_clrkit() {{
    local words="{commands}"
    (( COMP_CWORD > 1 )) && case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _clrkit clrkit
"""
START = {"bash": "", "zsh": "autoload -U bashcompinit && bashcompinit\n"}  # zsh runs the script of bash


def add(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    """Add the command; it completes what `parser` reads."""
    made = command("completion", partial(completion, parser), ABOUT)
    made.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")


def completion(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print the script."""
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    values = {name: values_by_option(each) for name, each in commands.choices.items()}
    if options.shell == "fish":
        print("\n".join(fish(values)))
        return 0
    cases = []
    for name, found in values.items():
        cases += [f'"{name} {option}") words="{" ".join(texts)}"' for option, texts in found.items() if texts]
        cases.append(f'"{name} "*) words="{" ".join(found)}"')
    indented = "\n".join(f"        {case};;" for case in cases)
    print(START[options.shell] + BASH.format(commands=" ".join(values), cases=indented), end="")
    return 0


def values_by_option(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """The words that can follow a command, and the values that can follow each of them."""
    found: dict[str, list[str]] = {}
    for action in parser._actions:
        braces = re.fullmatch(r"{(.*)}", str(action.metavar))
        values = list(map(str, action.choices or ())) or (braces[1].split(",") if braces else [])
        if not action.option_strings:
            found |= {value: [] for value in values}
        elif action.help != argparse.SUPPRESS:
            found[action.option_strings[-1 if action.option_strings[0] == "-h" else 0]] = values
    if parser.get_default("fields") is not None:
        for address in sorted({place.address for kind in STAGES for place in places(kind())}):
            found.setdefault(f"--{address}", found.get(f"--{address.partition('.')[2]}", []))
    return found


def fish(commands: Mapping[str, Mapping[str, list[str]]]) -> Iterator[str]:
    """The lines of the script for fish."""
    yield f"complete -c clrkit -n __fish_use_subcommand -f -a '{' '.join(commands)}'"
    for name, found in commands.items():
        for word, values in found.items():
            what = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            only = f" -x -a '{' '.join(values)}'" if values else ""
            yield f"complete -c clrkit -n '__fish_seen_subcommand_from {name}' {what}{only}"
