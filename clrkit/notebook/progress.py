"""What notebooks show while they work: a plan of runs, and the course of a run under way."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import isnan
from time import monotonic
from typing import Any

from IPython.display import display

from clrkit.config import Pretrain, Stage
from clrkit.experiments.describe import duration
from clrkit.experiments.fields import to_dict
from clrkit.notebook import illustrations
from clrkit.results.records import chain_columns, fraction_name
from clrkit.runs.reproduce import plan as planned
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.signals import catch_signals
from clrkit.runs.store import Progress, Run, Store

REDRAW_SECONDS = 1.5  # between pictures of a run under way


class Interrupted(KeyboardInterrupt):
    """The kernel was interrupted during a run; a notebook shows one line and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def name_of(config: Stage) -> str:
    """A run in a few words: stage, network, head, labels, teacher, seed."""
    columns = chain_columns(config.name, to_dict(config), 0.0)
    words = {
        "pretrain": f"{columns['head_layers']}-layer head",
        "finetune": f"from layer {columns['tap_layer']} of {columns['head_layers']}",
        "distill": f"taught by {columns['teacher']}",
    }
    about = [words[config.name]] if config.name in words else []
    labels = [f"{fraction_name(columns['fraction'])} of the labels"] if columns["fraction"] > 0 else []
    return ", ".join([f"{config.name} {columns['network']}", *about, *labels, f"seed {config.seed}"])


def plan(configs: Sequence[Stage], store: Store) -> None:
    """Print each run with those it builds on: cached, partial or to be trained, and the expected time."""
    rows = planned(configs, store)
    names = [name_of(link) for link in dict.fromkeys(link for config in configs for link in config.chain)]
    width = max(map(len, names))
    for name, row in zip(names, rows, strict=True):
        print(f"{name:<{width}}  {state_of(row)}")
    seconds = [row["seconds"] for row in rows if row["state"] != "cached"]
    print(f"{'together':<{width}}  {expected(seconds) if seconds else 'nothing to train'}")


def state_of(row: Mapping[str, Any]) -> str:
    if row["state"] == "cached":
        return "cached"
    if row["state"] == "damaged":
        return "damaged, see: python -m clrkit check"
    begun = f"partial {row['share']:.0%}, will resume" if row["state"] == "partial" else "will train"
    return f"{begun}, {expected([row['seconds']])}"


def expected(seconds: Sequence[float | None]) -> str:
    """The sum of expected times in words; unknown if one of them is None."""
    known = [each for each in seconds if each is not None]
    return f"about {duration(sum(known))}" if len(known) == len(seconds) else "time not known yet"


def follow(config: Stage, store: Store, device: str = "auto") -> Run:
    """Train a run and show its course in one place, or load the run and show its recorded course.

    After an interrupt of the kernel, the next call resumes from the same step.

    Raises:
        Interrupted: if the kernel was interrupted.
        RunError, ConfigError: as `clrkit.runs.run.run_or_load`.
    """
    course = Course(config)
    handle = display(course.picture(f"{name_of(config)}: starting", 1), display_id=True)

    with catch_signals(signal.SIGINT) as stopped, closing(run_or_load(config, store, device)) as work:

        def show(progress: Progress) -> None:
            if stopped:
                text = f"{name_of(progress.config)}: {progress.step / progress.total:.0%}"
                raise Interrupted(f"Stopped, {text}. Run this cell again to resume from there.")
            if course.note(progress):
                handle.update(course.picture(describe_progress(progress), progress.total))

        run = finish(work, show)
    handle.update(recorded_course(config, run))
    return run


class Course:
    """Loss and kNN accuracy of a run so far; starts again when another run begins."""

    def __init__(self, config: Stage) -> None:
        self.config, self.drawn = config, float("-inf")
        self.steps, self.loss, self.knn = list[int](), list[float](), list[list[float]]()

    def note(self, progress: Progress) -> bool:
        """Add a step; True if the picture is due."""
        if progress.config != self.config:
            Course.__init__(self, progress.config)
        # The loss is logged every few steps. It is NaN before the first log and for runs of other processes.
        if not isnan(progress.loss) and progress.loss not in self.loss[-1:]:
            self.steps.append(progress.step)
            self.loss.append(progress.loss)
        knn, step = progress.metrics.get("knn"), monitored_at(progress)
        if knn is not None and (not self.knn or self.knn[-1][0] < step):
            self.knn.append([step, knn])
        due = monotonic() - self.drawn > REDRAW_SECONDS
        if due:
            self.drawn = monotonic()
        return due

    def picture(self, text: str, total: int) -> illustrations.Picture:
        return illustrations.course(text, self.steps, self.loss, total, self.knn)


def monitored_at(progress: Progress) -> int:
    """The step of the last monitoring; the present step for a stage that is not monitored."""
    config = progress.config
    if not isinstance(config, Pretrain) or progress.step == progress.total:
        return progress.step
    return progress.step - progress.step % (config.monitor_epochs * progress.total // config.epochs)


def describe_progress(progress: Progress) -> str:
    """Run, share done, speed, time left and metrics in one line."""
    text = f"{name_of(progress.config)}: {progress.step / progress.total:.0%}"
    if progress.elsewhere:
        return f"{text}, in training by another process; waiting for it"
    rate = f"{progress.rate:,.0f} images/s, {duration(progress.seconds_left)} left"
    return f"{text}, {rate}{describe_metrics(progress.metrics)}"


def recorded_course(config: Stage, run: Run) -> illustrations.Picture:
    """The whole course of a finished run, from its record."""
    history, source = run.history, run.record["provenance"]
    took = f"{duration(source['seconds'])} on {source['device']}"
    text = f"{name_of(config)}: {took}{describe_metrics(run.metrics)}"
    steps = history["step"]
    return illustrations.course(text, steps, history["loss"], steps[-1], history.get("knn", []))


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Accuracies as percentages."""
    names = {"top1": "accuracy", "knn": "kNN accuracy"}
    return "".join(f", {words} {metrics[name]:.1%}" for name, words in names.items() if name in metrics)
