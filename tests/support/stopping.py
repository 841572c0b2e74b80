"""Command lines in processes of their own that are stopped at a chosen moment.

The processes are forked from one that has imported everything, so that each takes a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTS = ("clrkit.cli.main", "clrkit.cli.progress", "clrkit.runs.run", "clrkit.fast.augment_numba")
CONTEXT.set_forkserver_preload([*IMPORTS, "torch._dynamo", "numba.np.arraymath"])
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
TO_WRITE = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Stop:
    """What ends a process, and when; by default nothing does.

    Attributes:
        number: the signal it is sent.
        step: of the stage that was asked for; it is sent after this step.
        delay: seconds after the step.
        change: of the results folder, counted from 1; it is sent before this one. A change is a file opened
            to be written, renamed or removed, or a folder made or removed. A file that SIGKILL leaves
            without its final name is cut in half, as if it was still being written.
    """

    number: signal.Signals = signal.SIGKILL
    step: int = 0
    delay: float = 0.0
    change: int = 0


NEVER = Stop()


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        status: exit status, or minus the signal that ended it.
        steps: those of the stage that was asked for, in the order they were done.
        changes: of the results folder, by name of the audit event and path.
        output: what it wrote, on both streams.
    """

    status: int
    steps: list[int]
    changes: list[str]
    output: str


def run(arguments: Sequence[str], results: Path, stop: Stop = NEVER, state_seconds: float = 0.0) -> End:
    """`python -m clrkit run` on the CPU, to its end or to where it is stopped.

    Args:
        arguments: the stage and its settings.
        results: folder of results.
        stop: what ends it.
        state_seconds: between saved states; at 0 there is one after every step.
    """
    output = results.with_name(f"{results.name}.output")
    command = ["run", *arguments, "--results", str(results), "--device", "cpu"]
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(command, results, output, stop, state_seconds, writer))
    process.start()
    writer.close()
    notes = list(iter(lambda: received(reader), None))
    process.join()
    assert process.exitcode is not None
    steps = [note for note in notes if isinstance(note, int)]
    changes = [note for note in notes if isinstance(note, str)]
    return End(process.exitcode, steps, changes, output.read_text())


def kill_with_workers_at_work(process: subprocess.Popen[Any]) -> None:
    """Kill the first process of a sweep; its workers end by themselves."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert workers
    assert not left


def received(reader: Connection) -> int | str | None:
    try:
        note: int | str = reader.recv()
        return note
    except EOFError:
        return None


def work(
    command: list[str], results: Path, output: Path, stop: Stop, state_seconds: float, notes: Connection
) -> None:
    """What the process does: the command line, noting its steps and changes."""
    import torch

    from clrkit.cli.main import main
    from clrkit.runs import run as making

    torch.set_num_threads(1)  # as in the workers of a sweep

    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    making.STATE_SECONDS, making.SPARED = state_seconds, 0
    making.run_or_load = watched(making.run_or_load, command[1], stop, notes)
    sys.addaudithook(noting_changes(results, stop, notes))
    sys.exit(main(command))


def watched(run_or_load: Callable[..., Any], stage: str, stop: Stop, notes: Connection) -> Callable[..., Any]:
    """`run_or_load` that notes the steps of a stage and stops after one of them."""

    def noting(*arguments: Any) -> Generator[Any, None, Any]:
        with closing(run_or_load(*arguments)) as steps:
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    return end.value
                if progress.config.name == stage and not progress.elsewhere:
                    notes.send(progress.step)
                    if progress.step == stop.step:
                        threading.Timer(stop.delay, os.kill, (os.getpid(), stop.number)).start()
                yield progress

    return noting


def noting_changes(results: Path, stop: Stop, notes: Connection) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes changes of a folder and stops before one of them."""
    numbers = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES and not (event == "open" and arguments[2] & TO_WRITE):
            return
        path = str(arguments[0])
        if not path.startswith(str(results)):
            return
        notes.send(f"{event} {path.removeprefix(str(results / 'smoke' / 'runs'))}")
        if next(numbers) == stop.change:
            if event == "os.rename" and path.endswith(".new") and stop.number == signal.SIGKILL:
                os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), stop.number)

    return hook
