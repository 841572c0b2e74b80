"""python -m clrkit report: the results of a preset as one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Command = Callable[[argparse.Namespace], int]


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    made = command("report", write, "Make one HTML page of the results, to read on a phone or to send.")
    made.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the preset's results")


def write(options: argparse.Namespace) -> int:
    """Write the page (in the results: with figures and index) and print its path."""
    from clrkit.experiments.presets import preset
    from clrkit.notebook.publish import REPORT, draw, write_page
    from clrkit.runs.store import Store

    chosen = preset(options.preset)
    store = Store(options.results, chosen.name)
    if options.out:
        write_page(chosen, store, options.out)
    else:
        draw(chosen, store)
    print(options.out or store.folder / REPORT)
    return 0
