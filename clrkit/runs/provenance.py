"""The provenance of a run: versions, git revision, hardware."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clrkit.device import available_cores

PACKAGES = ("clrkit", "torch", "torchvision", "numpy")


def provenance() -> dict[str, Any]:
    """Versions, git revision and machine, as plain JSON values."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": available_cores(),
        "git": git_revision(),
        **{package: version(package) for package in PACKAGES},
    }


@cache
def cpu_name() -> str:
    """The name of the processor, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def git_revision() -> str:
    """Git revision of clrkit's checkout, with "+" if it has changes; "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
