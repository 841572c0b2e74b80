"""The ablation lab: sliders that select recorded runs, their figure, and buttons that train missing runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from html import escape
from typing import Any
from weakref import WeakSet

import ipywidgets as w

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import FACTORS, OUTCOMES, depends, text_of
from clrkit.notebook import controls
from clrkit.notebook.ablation_figures import as_published, compare, findings
from clrkit.notebook.progress import Course, describe_progress, expected, name_of
from clrkit.results.ablation import Ablation
from clrkit.results.style import FigureWithData, encode
from clrkit.runs.run import run_or_load
from clrkit.runs.store import Progress, Store

POLL_SECONDS = 0.2  # while another panel trains
DPI = 100
WRAPPED, WIDE = {"flex_flow": "row wrap"}, {"width": "320px"}
CELL = 'style="text-align: left; vertical-align: top; line-height: 1.4; padding: 2px 12px 2px 0"'

TURN = threading.Lock()  # one run at a time: two on the same cores would not be faster


class TrainingControls:
    """Run and Stop buttons, and the thread that trains. The thread only sets traits of widgets.

    Args:
        store: where runs are kept.
        redraw: called from the thread, once after each run and after Stop.
    """

    def __init__(self, store: Store, redraw: Callable[[], None]) -> None:
        self.store, self.redraw = store, redraw
        self.lock, self.stopping = threading.RLock(), threading.Event()
        self.thread: threading.Thread | None = None
        self.todo: Sequence[Stage] = ()
        self.run = w.Button(button_style="primary", layout=WIDE)
        self.stop = w.Button(description="Stop", disabled=True)
        self.bar = w.FloatProgress(max=1, layout=WIDE)
        self.status, self.course = controls.status(), w.HTML()
        self.run.on_click(lambda _: self.start())
        self.stop.on_click(lambda _: self.halt())
        buttons = w.HBox([self.run, self.stop, self.bar], layout=WRAPPED)
        self.box = w.VBox([buttons, self.status, self.course])
        ALL_CONTROLS.add(self)

    def offer(self, missing: int, todo: Sequence[Stage], seconds: float | None) -> None:
        """Offer to train the missing runs.

        Args:
            missing: how many runs the figure lacks.
            todo: these runs and the runs they build on, in the order of training.
            seconds: expected time, None if unknown.
        """
        with self.lock:
            self.todo, working = todo, self.thread is not None
            text = f"Run the missing {missing}, {expected([seconds])}" if missing else "Nothing is missing"
            self.run.description = text
            self.run.disabled, self.stop.disabled = working or not todo, not working

    def start(self) -> None:
        """Train what is offered, in the background."""
        with self.lock:
            if self.thread is None and self.todo:
                self.stopping.clear()
                self.bar.value, self.course.value = 0.0, ""
                self.thread = threading.Thread(target=self.work, args=(self.todo,), daemon=True)
                self.run.disabled, self.stop.disabled = True, False
                self.thread.start()

    def halt(self) -> None:
        """Stop at the next step."""
        self.stopping.set()
        controls.say(self.status, "Stopping.")

    def end(self) -> None:
        """Stop, and wait until the state is saved."""
        self.stopping.set()
        if thread := self.thread:
            thread.join()

    def work(self, configs: Sequence[Stage]) -> None:
        """In the thread: train the runs one after another, then report how it ended."""
        try:
            ended = "Done." if self.train(configs) else "Stopped. Press Run to resume from here."
        except ConfigError as error:
            ended = str(error)
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
            raise
        finally:
            with self.lock:
                self.thread = None
                self.run.disabled, self.stop.disabled = not self.todo, True
            controls.say(self.status, ended)
            self.redraw()

    def train(self, configs: Sequence[Stage]) -> bool:
        """Train runs; False if stopped before the end."""
        for done, config in enumerate(configs):
            if done:
                self.redraw()
            controls.say(self.status, f"run {done + 1} of {len(configs)}: {name_of(config)}")
            if not self.wait_turn():
                return False
            try:
                if not self.follow(config, done, len(configs)):
                    return False
            finally:
                TURN.release()
        self.bar.value, self.course.value = 1.0, ""
        return True

    def wait_turn(self) -> bool:
        """Wait while another panel of this kernel trains; False if stopped while waiting."""
        while not TURN.acquire(timeout=POLL_SECONDS):
            controls.say(self.status, "Another panel of this notebook is training; waiting for it.")
            if self.stopping.is_set():
                return False
        return True

    def follow(self, config: Stage, done: int, total: int) -> bool:
        """Train one run and show its course; False if stopped."""
        course = Course(config)
        with closing(run_or_load(config, self.store)) as steps:
            for progress in steps:
                if self.stopping.is_set():
                    return False
                if course.note(progress):
                    self.bar.value = (done + progress.step / progress.total) / total
                    self.show(course, progress)
        return True

    def show(self, course: Course, progress: Progress) -> None:
        text = describe_progress(progress)
        if progress.elsewhere:
            controls.say(self.status, text)
        else:
            picture = course.picture(text, progress.total)
            self.course.value = controls.figure(picture.png(), picture.alt)


ALL_CONTROLS = WeakSet[TrainingControls]()


def end_all() -> None:
    """Stop all training, and wait until the states are saved: closing the kernel loses nothing."""
    for each in [*ALL_CONTROLS]:
        each.end()


# Python has no public hook for this. atexit runs too late: the executor that writes states has then closed.
# These hooks run last in, first out; the executors registered theirs when they were imported above.
threading._register_atexit(end_all)  # type: ignore[attr-defined]


class Column:
    """One point of the lab: a slider for every setting."""

    def __init__(self, lab: Ablation, name: str, redraw: Callable[[Any], None]) -> None:
        self.sliders: dict[str, w.SelectionSlider] = {}
        for setting, factor in FACTORS.items():
            options = [(text_of(setting, value), value) for value in lab.choices[setting]]
            made = controls.slider(f"{name} {factor.name}", options, lab.standard[setting])
            made.observe(redraw, "value")
            self.sliders[setting] = made
        self.note = w.HTML()
        self.box = w.VBox([*self.sliders.values(), self.note], layout={"width": "400px"})

    @property
    def point(self) -> dict[str, Any]:
        return {name: slider.value for name, slider in self.sliders.items()}

    def enable(self, outcome: str, along: str) -> None:
        """Enable the sliders that have an effect, and explain why the others are disabled."""
        idle = [name for name in FACTORS if not depends(outcome, name)]
        for name, slider in self.sliders.items():
            slider.disabled = name == along or name in idle
        text = f"On the horizontal axis: {FACTORS[along].name}."
        if idle:
            names = ", ".join(FACTORS[name].name for name in idle)
            text += f" No effect on this outcome ({OUTCOMES[outcome]}): {names}."
        self.note.value = f'<div style="line-height: 1.3">{escape(text)}</div>'


class AblationPanel:
    """Sliders, the figure of the runs they select, and buttons to train the runs that are missing.

    Callbacks may come from several threads (this depends on the version of ipykernel), so a lock guards them.

    Args:
        lab: the settings and the recorded runs.
        outcome: what is measured at first.
        along: the setting on the horizontal axis at first.
    """

    def __init__(self, lab: Ablation, outcome: str = "finetuned", along: str = "tap_layer") -> None:
        self.lab, self.lock = lab, threading.RLock()
        outcomes = [(text, name) for name, text in OUTCOMES.items()]
        self.outcome = controls.choice("outcome", outcomes, outcome)
        self.along = controls.choice("horizontal axis", axes_of(outcome), along)
        self.both = w.Checkbox(description="compare A with B", indent=False)
        self.columns = [Column(lab, name, self.redraw) for name in ("A", "B")]
        self.warning = controls.status()
        self.figure, self.published, self.findings = w.HTML(), w.HTML(), w.HTML()
        self.training = TrainingControls(lab.recorded.store, self.redraw)
        self.outcome.observe(self.choose_outcome, "value")
        for control in (self.along, self.both):
            control.observe(self.redraw, "value")
        self.redraw()

    @property
    def box(self) -> w.VBox:
        """The whole panel, for `clrkit.notebook.controls.show`."""
        choices = w.HBox([self.outcome, self.along, self.both], layout=WRAPPED)
        sliders = w.HBox([column.box for column in self.columns], layout=WRAPPED)
        # The figure is above the sliders: it stays in view on a small screen while a slider moves.
        shown = [self.figure, sliders, self.training.box, self.findings, self.published]
        return w.VBox([choices, self.warning, *shown])

    def choose_outcome(self, _: Any) -> None:
        """Offer the axes that the new outcome depends on, and keep the present one if possible."""
        with self.lock:
            options, along = axes_of(self.outcome.value), self.along.value
            self.along.unobserve(self.redraw, "value")  # setting options selects the first one
            self.along.options = options
            self.along.value = along if along in dict(options).values() else "temperature"
            self.along.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, _: Any = None) -> None:
        """Draw the selected runs and offer to train the missing ones, or report why this is impossible."""
        with self.lock:
            try:
                self.lab.recorded.refresh()
                self.draw(self.outcome.value, self.along.value)
                controls.say(self.warning, self.lab.recorded.left_out)
            except (ConfigError, OSError) as error:
                controls.say(self.warning, str(error))
            except Exception as error:
                # Jupyter shows the traceback of a callback only in its log.
                failed = f"{type(error).__name__}: {error}. The figure does not show these settings."
                controls.say(self.warning, failed)
                raise

    def draw(self, outcome: str, along: str) -> None:
        self.columns[1].box.layout.display = "" if self.both.value else "none"
        for column in self.columns:
            column.enable(outcome, along)
        columns = self.columns if self.both.value else self.columns[:1]
        found = [self.lab.series(outcome, along, **column.point) for column in columns]
        self.figure.value = as_html(compare(self.lab, found))
        self.findings.value = table(findings(self.lab, found))
        self.published.value = published_html(along)
        missing = list(dict.fromkeys(config for series in found for _, config in series.missing))
        self.training.offer(len(missing), *self.lab.recorded.todo(missing))


def as_html(drawing: FigureWithData) -> str:
    return controls.figure(encode(drawing.figure, "png", DPI), drawing.alt)


@cache
def published_html(along: str) -> str:
    """The published numbers of a setting as an image, or "" if none were published."""
    drawing = as_published(along)
    return as_html(drawing) if drawing else ""


def axes_of(outcome: str) -> list[tuple[str, str]]:
    """The settings that an outcome depends on, as pairs of label and name."""
    return [(setting.name, name) for name, setting in FACTORS.items() if depends(outcome, name)]


def table(rows: Sequence[tuple[str, str]]) -> str:
    """HTML table of findings: published, A, B."""
    cells = "".join(
        f'<tr><th scope="row" {CELL}>{escape(source)}</th><td {CELL}>{escape(text)}</td></tr>'
        for source, text in rows
    )
    return f"<table>{cells}</table>"
