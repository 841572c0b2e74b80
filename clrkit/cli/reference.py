"""python -m clrkit reference: one's own results of a preset as the reference that the repository holds."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Command = Callable[[argparse.Namespace], int]


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    command(
        "reference",
        make,
        "Make your own results of a preset the committed reference: no weights, no images but embedded ones.",
    )


def make(options: argparse.Namespace) -> int:
    """Replace the reference, print where it is."""
    from clrkit.cli.make_reference import make_reference
    from clrkit.experiments.presets import preset
    from clrkit.runs.store import Store

    chosen = preset(options.preset)
    reference = make_reference(chosen, Store(options.results, chosen.name))
    print(f"{reference.folder}: {len(reference.folders())} runs")
    return 0
