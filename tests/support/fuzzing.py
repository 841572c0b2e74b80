"""Outside files damaged by chance and by intent.

Run by itself (`python tests/support/fuzzing.py COUNT SEED`), it damages every sample
so often, in little memory.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from parsers import PARSERS, Parser

from clrkit.errors import ConfigError

MEMORY = 3 * 2**29  # bytes that reading may take beyond what the interpreter has


@dataclass
class Outcome:
    """How many damaged samples were read all the same, and how many refused."""

    read: int = 0
    refused: int = 0


class EscapedError(AssertionError):
    """A parser raised what it should not; the message says what it was given."""


def damage(parser: Parser, rng: random.Random, outcome: Outcome) -> None:
    """Damage one file of the sample, and have it read. Raises EscapedError for all but a ConfigError."""
    victim = rng.choice(list(parser.mutations))
    given = rng.choice(parser.mutations[victim])(parser.files[victim], rng)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "files"
        for file, data in (parser.files | {victim: given}).items():  # type: ignore[operator]
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        try:
            parser.read(folder)
            outcome.read += 1
        except ConfigError:
            outcome.refused += 1
        except BaseException as error:
            shown = given if len(given) < 3000 else given[:3000] + b"..."
            raise EscapedError(f"{type(error).__name__}: {error}, given as {victim}: {shown!r}") from error


def damage_all(count: int, seed: int) -> dict[str, Outcome]:
    """Damage the samples of all parsers in turn, each so often."""
    rng = random.Random(seed)
    parsers = {name: make() for name, make in PARSERS.items()}
    outcomes = {name: Outcome() for name in parsers}
    for _ in range(count):
        for name, parser in parsers.items():
            damage(parser, rng, outcomes[name])
    return outcomes


def main() -> None:
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    outcomes = damage_all(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({name: [outcome.read, outcome.refused] for name, outcome in outcomes.items()}))


if __name__ == "__main__":
    main()
