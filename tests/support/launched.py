"""`python -m clrkit` as `torchrun` starts it, with a fault in one process (test_torchrun.py).

FAULT is "RANK KIND STEP": at that step of the first attempt the process fails (error) or is killed (kill).
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clrkit import stages
from clrkit.cli.main import main
from clrkit.errors import ConfigError
from clrkit.runs import run as making

SAVED_EVERY = 0.05  # seconds, so that a short run has states


def faulty(*arguments: Any) -> Iterator[Any]:
    """The steps of a stage, with the fault; notes from which step each attempt of a process goes on."""
    rank, kind, step = os.environ.get("FAULT", "-1 none 0").split()
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{os.environ['RANK']} {arguments[2].steps_done}\n")
    for each in real_steps(*arguments):
        yield each
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and os.environ["RANK"] == rank and each.step == int(step):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConfigError(f"an image that only process {rank} reads is broken")


making.STATE_SECONDS = SAVED_EVERY
real_steps = stages.steps
stages.steps = faulty
sys.exit(main())
