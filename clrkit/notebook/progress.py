"""What notebooks show while they work: a plan, and the course of a run."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from time import monotonic
from typing import Any

from IPython.display import display

from clrkit.config import Pretrain, Stage, to_dict
from clrkit.experiments.describe import duration
from clrkit.notebook import illustrations
from clrkit.results.records import chain_columns, fraction_name
from clrkit.runs.reproduce import plan as planned
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.signals import catch_signals
from clrkit.runs.store import Progress, Run, Store

REDRAW_SECONDS = 1.5  # between pictures of a run under way: drawing one takes 40 ms


class Interrupted(KeyboardInterrupt):
    """A run was stopped by an interrupt of the kernel; shown as one line, not as a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def name_of(config: Stage) -> str:
    """A run in a few words: stage, network, head, labels, teacher, seed."""
    told = chain_columns(config.name, to_dict(config), 0.0)
    words = {
        "pretrain": f"{told['head_layers']}-layer head",
        "finetune": f"from layer {told['tap_layer']} of {told['head_layers']}",
        "distill": f"taught by {told['teacher']}",
    }
    labels = [f"{fraction_name(told['fraction'])} of the labels"] if told["fraction"] > 0 else []
    about = [words[config.name]] if config.name in words else []
    return ", ".join([f"{config.name} {told['network']}", *about, *labels, f"seed {config.seed}"])


def plan(configs: Sequence[Stage], store: Store) -> None:
    """Say what runs would take, with what they build on: cached, partial or to be trained, and how long."""
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
    begun = f"partial {row['share']:.0%}, will go on" if row["state"] == "partial" else "will train"
    return f"{begun}, {expected([row['seconds']])}"


def expected(seconds: Sequence[float | None]) -> str:
    """A time in words; runs that were never made anywhere have none."""
    known = [each for each in seconds if each is not None]
    return f"about {duration(sum(known))}" if len(known) == len(seconds) else "time not known yet"


def follow(config: Stage, store: Store, device: str = "auto") -> Run:
    """Make a run, showing its course in one place, or show the course of the run that is there.

    Interrupting the kernel leaves a state, and the next call goes on from there.

    Raises:
        Interrupted: where the kernel was interrupted.
        RunError, ConfigError: as `clrkit.runs.run.run_or_load`.
    """
    shown = CourseDisplay(config)
    with catch_signals(signal.SIGINT) as stopped, closing(run_or_load(config, store, device)) as work:
        run = finish(work, lambda progress: shown.show(progress, bool(stopped)))
    shown.conclude(run)
    return run


class Course:
    """Loss and kNN accuracy of a run so far; another run begins anew."""

    def __init__(self, config: Stage) -> None:
        self.config, self.steps, self.loss = config, list[int](), list[float]()
        self.knn = list[list[float]]()

    def note(self, progress: Progress) -> None:
        if progress.config != self.config:
            Course.__init__(self, progress.config)
        # The loss is logged every few steps, and not known (NaN) before the first and of other processes.
        if progress.loss == progress.loss and progress.loss not in self.loss[-1:]:
            self.steps.append(progress.step)
            self.loss.append(progress.loss)
        knn, step = progress.metrics.get("knn"), monitored_at(progress)
        if knn is not None and (not self.knn or self.knn[-1][0] < step):
            self.knn.append([step, knn])

    def picture(self, text: str, total: int) -> illustrations.Picture:
        return illustrations.course(text, self.steps, self.loss, total, self.knn)


def monitored_at(progress: Progress) -> int:
    """The step at which a run was last monitored; where it stands, if it is not."""
    config = progress.config
    if not isinstance(config, Pretrain) or progress.step == progress.total:
        return progress.step
    return progress.step - progress.step % (config.monitor_epochs * progress.total // config.epochs)


def told(progress: Progress) -> str:
    """Where a run stands, in words."""
    text = f"{name_of(progress.config)}: {progress.step / progress.total:.0%}"
    if progress.elsewhere:
        return f"{text}, made by another process; waiting for it"
    rate = f"{progress.rate:,.0f} images/s, {duration(progress.seconds_left)} left"
    return f"{text}, {rate}{measured(progress.metrics)}"


class CourseDisplay:
    """A course that is drawn anew in place."""

    def __init__(self, config: Stage) -> None:
        self.course = Course(config)
        beginning = self.course.picture(f"{name_of(config)}: beginning", 1)
        self.handle, self.drawn = display(beginning, display_id=True), monotonic()

    def show(self, progress: Progress, stopped: bool) -> None:
        """Note where the run, or one it builds on, stands. Raises Interrupted where it is to stop."""
        if stopped:
            text = f"{name_of(progress.config)}: {progress.step / progress.total:.0%}"
            raise Interrupted(f"Stopped, {text}; run this cell again and it goes on from there.")
        self.course.note(progress)
        if monotonic() - self.drawn > REDRAW_SECONDS:
            self.draw(told(progress), progress.total)

    def conclude(self, run: Run) -> None:
        """The picture that stays: the whole course, from the record."""
        history, source, course = run.history, run.record["provenance"], self.course
        course.steps, course.loss, course.knn = history["step"], history["loss"], history.get("knn", [])
        took = f"{duration(source['seconds'])} on {source['device']}"
        self.draw(f"{name_of(course.config)}: {took}{measured(run.metrics)}", course.steps[-1])

    def draw(self, text: str, total: int) -> None:
        self.handle.update(self.course.picture(text, total))
        self.drawn = monotonic()


def measured(metrics: Mapping[str, float]) -> str:
    """Metrics in words; those between 0 and 1 that are shares, as percentages."""
    names = {"top1": "accuracy", "knn": "kNN accuracy"}
    return "".join(f", {words} {metrics[name]:.1%}" for name, words in names.items() if name in metrics)
