"""Run every check, whatever fails on the way, and sum them up: `make test`.

    python tools/test.py [PART ...]

Without a name all parts run. The output ends in a line a part, what failed, and a total as pytest writes it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

ROOT, BIN = Path(__file__).parents[1], Path(sys.executable).parent
PYTEST = (sys.executable, "-m", "pytest", "--check-faults", "--durations", "15")
AT_ONCE = ("--numprocesses", "auto", "--dist", "loadfile")
PARTS: dict[str, tuple[str, ...]] = {
    "format": (str(BIN / "ruff"), "format", "--check", "."),
    "lint": (str(BIN / "ruff"), "check", "."),
    "types": (str(BIN / "mypy"),),
    "unit": (*PYTEST, *AT_ONCE, "--check-exactness", "-m", "not slow and not notebooks and not ui"),
    "slow": (*PYTEST, *AT_ONCE, "-m", "(slow or notebooks) and not ui"),
    "browser": (*PYTEST, "-m", "ui"),  # alone: it looks at how long things take
}
CLOSING = re.compile(r"^=* ?((?:\d+ \w+, )*\d+ \w+) in [\d.]+s")
FAILED = re.compile(r"^(?:FAILED|ERROR) \S+")


@dataclass(frozen=True)
class Outcome:
    """How a part ended: exit status, seconds, pytest's counts by word, and the lines that name failures."""

    status: int
    seconds: float
    counts: Counter[str]
    failures: Sequence[str]


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"Unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    outcomes = {name: run(name) for name in names or PARTS}
    print("\n".join(summary(outcomes)), flush=True)
    return int(any(outcome.status for outcome in outcomes.values()))


def run(name: str) -> Outcome:
    """Run a part, passing on what it prints."""
    print(f"\n--- {name}: {' '.join(map(str, PARTS[name]))}", flush=True)
    begun, lines = time.monotonic(), list[str]()
    with subprocess.Popen(
        PARTS[name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as part:
        assert part.stdout is not None
        for line in part.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    counts = Counter[str]()
    for line in lines:
        if found := CLOSING.match(line):
            words = (each.split() for each in found[1].split(", "))
            counts = Counter({word: int(number) for number, word in words})
    failures = [line for line in lines if FAILED.match(line)]
    return Outcome(part.returncode, time.monotonic() - begun, counts, failures)


def summary(outcomes: dict[str, Outcome]) -> list[str]:
    """One line a part, what failed, and the total in the form of pytest's closing line."""
    lines = ["", "--- summary"]
    total, seconds = Counter[str](), sum(outcome.seconds for outcome in outcomes.values())
    for name, outcome in outcomes.items():
        verdict = "failed" if outcome.status else "passed"
        numbers = ", ".join(f"{number} {word}" for word, number in outcome.counts.items())
        lines.append(f"{name:<10} {verdict}  {minutes(outcome.seconds)}  {numbers}".rstrip())
        lines += [f"  {failure}" for failure in outcome.failures]
        # A part without tests of its own counts as one, so that its failure is in the total.
        total += outcome.counts or Counter({verdict: 1})
    ordered = ["failed", "passed", *sorted(total.keys() - {"failed", "passed"})]
    numbers = ", ".join(f"{total[word]} {word}" for word in ordered if total[word])
    return [*lines, f"===== {numbers} in {seconds:.2f}s ({timedelta(seconds=int(seconds))}) ====="]


def minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
