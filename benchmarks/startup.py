"""How long the command line and `import clrkit` take, beside `import torch`, which both do without.

    python -m benchmarks.startup --json

`ratio_to_torch` is a command's time over that of `import torch`; `loads_torch` says whether a command did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from typing import Any

import torch

from benchmarks.timing import contestant, interleaved, machine, ratio, report, summary

COMMANDS = {
    "help": ["-m", "clrkit", "--help"],
    "import clrkit": ["-c", "import clrkit"],
    "pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
}
ROUNDS = 7
ONCE = 1e-3  # seconds of a turn: every process takes longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    report("startup", measure(ROUNDS), parser.parse_args().json)


def measure(rounds: int) -> dict[str, Any]:
    """The record: seconds of a whole process, interpreter and all; files are in the system's cache."""
    processes = {name: contestant(partial(run, command)) for name, command in COMMANDS.items()}
    taken = interleaved(processes, ONCE, warmup=1, rounds=rounds)
    return {
        "ratio_to_torch": {
            name: ratio(taken, name, "import torch") for name in ("help", "import clrkit", "pass")
        },
        "seconds": {name: summary(rounds) for name, rounds in taken.items()},
        "loads_torch": {name: loads_torch(command) for name, command in COMMANDS.items()},
        "machine": machine(torch.device("cpu")),
    }


def run(command: list[str], *options: str) -> str:
    """What the interpreter writes to its standard error."""
    done = subprocess.run([sys.executable, *options, *command], capture_output=True, text=True, check=True)
    return done.stderr


def loads_torch(command: list[str]) -> bool:
    """Whether torch is among the modules that the command imports."""
    imported = (line.rsplit("|", 1)[-1].strip() for line in run(command, "-X", "importtime").splitlines())
    return "torch" in imported


if __name__ == "__main__":
    main()
