"""The ablation lab: controls that choose among recorded runs, their figure, and what makes missing ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from html import escape
from time import monotonic
from typing import Any
from weakref import WeakSet

import ipywidgets as w

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import FACTORS, OUTCOMES, depends, text_of
from clrkit.notebook import controls
from clrkit.notebook.ablation_figures import as_published, beside, compare
from clrkit.notebook.progress import REDRAW_SECONDS, Course, expected, name_of, told
from clrkit.results.ablation import Ablation
from clrkit.results.style import encode
from clrkit.runs.local_workers import missing
from clrkit.runs.run import run_or_load
from clrkit.runs.store import Progress, Store

BAR_SECONDS = 0.2  # between changes of the progress bar
DPI = 100
WRAPPED, WIDE, HIDDEN, SHOWN = {"flex_flow": "row wrap"}, {"width": "320px"}, "none", ""
CELL = 'style="text-align: left; vertical-align: top; line-height: 1.4; padding: 2px 12px 2px 0"'

TURN = threading.Lock()  # two runs at a time on the same cores would take as long as one after the other


class Column:
    """A slider for every setting: one point of the lab."""

    def __init__(self, lab: Ablation, name: str, redraw: Callable[[Any], None]) -> None:
        self.sliders = {each: self.slider(lab, f"{name} {FACTORS[each].name}", each) for each in FACTORS}
        for slider in self.sliders.values():
            slider.observe(redraw, "value")
        self.note = w.HTML()
        self.box = w.VBox([*self.sliders.values(), self.note], layout={"width": "400px"})

    def slider(self, lab: Ablation, description: str, name: str) -> w.SelectionSlider:
        options = [(text_of(name, value), value) for value in lab.choices[name]]
        return controls.slider(description, options, lab.standard[name])

    @property
    def point(self) -> dict[str, Any]:
        return {name: slider.value for name, slider in self.sliders.items()}

    def enable(self, outcome: str, along: str) -> None:
        """Leave the sliders that count, and say why the others do not."""
        idle = [name for name in FACTORS if not depends(outcome, name)]
        for name, slider in self.sliders.items():
            slider.disabled = name == along or name in idle
        why = [f"{FACTORS[along].name}: on the horizontal axis."]
        if idle:
            names = ", ".join(FACTORS[name].name for name in idle)
            why.append(f"Of no effect on the accuracy measured ({OUTCOMES[outcome]}): {names}.")
        self.note.value = f'<div style="line-height: 1.3">{escape(" ".join(why))}</div>'


class TrainingControls:
    """Buttons that make runs in a thread of its own, which sets traits of widgets and nothing else.

    Args:
        store: where runs are kept.
        made: called after every run, and at the end; perhaps from the thread.
    """

    def __init__(self, store: Store, made: Callable[[], None]) -> None:
        self.store, self.made = store, made
        self.lock, self.stopping = threading.RLock(), threading.Event()
        self.thread: threading.Thread | None = None
        self.wanted: Sequence[Stage] = ()
        self.run = w.Button(button_style="primary", layout=WIDE)
        self.stop = w.Button(description="Stop", disabled=True)
        self.bar = w.FloatProgress(max=1, layout=WIDE)
        self.status, self.course = controls.status(), w.HTML()
        self.run.on_click(lambda _: self.start())
        self.stop.on_click(lambda _: self.halt())
        TRAININGS.add(self)
        buttons = w.HBox([self.run, self.stop, self.bar], layout=WRAPPED)
        self.box = w.VBox([buttons, self.status, self.course])

    def offer(self, wanted: Sequence[Stage], seconds: float | None) -> None:
        """Set the buttons to what can be done now."""
        with self.lock:
            self.wanted, working = wanted, self.thread is not None
            about = expected([seconds])
            self.run.description = (
                f"Run the missing {len(wanted)}, {about}" if wanted else "Nothing is missing"
            )
            self.run.disabled, self.stop.disabled = working or not wanted, not working

    def start(self) -> None:
        """Make what is offered in the background."""
        with self.lock:
            if self.thread is None and self.wanted:
                self.stopping.clear()
                self.bar.value, self.course.value = 0.0, ""
                self.thread = threading.Thread(target=self.work, args=(self.wanted,), daemon=True)
                self.run.disabled, self.stop.disabled = True, False
                self.thread.start()

    def halt(self) -> None:
        """Stop at the next step."""
        self.stopping.set()
        controls.say(self.status, "Stopping.")

    def end(self) -> None:
        """Stop, and wait for the state to be saved: a kernel that is closed loses nothing."""
        self.stopping.set()
        if thread := self.thread:
            thread.join()

    def work(self, configs: Sequence[Stage]) -> None:
        """In the thread: make runs one after another, until the end or Stop, and say how it ended."""
        try:
            ended = "Done." if self.make(configs) else "Stopped; Run goes on from there."
        except ConfigError as error:
            ended = str(error)
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
            raise
        finally:
            with self.lock:
                self.thread = None
                self.run.disabled, self.stop.disabled = not self.wanted, True
            controls.say(self.status, ended)
            self.made()

    def make(self, configs: Sequence[Stage]) -> bool:
        """Make runs and what they build on; False if stopped before the end."""
        todo = missing(configs, self.store)
        for done, config in enumerate(todo):
            beneath = " (with what they build on)" if len(todo) > len(configs) else ""
            controls.say(self.status, f"run {done + 1} of {len(todo)}{beneath}: {name_of(config)}")
            if not self.wait_turn():
                return False
            try:
                if not self.follow(config, done, len(todo)):
                    return False
            finally:
                TURN.release()
            self.made()
        self.bar.value, self.course.value = 1.0, ""
        return True

    def wait_turn(self) -> bool:
        """Wait while another panel of this kernel trains; false if stopped meanwhile."""
        while not TURN.acquire(timeout=BAR_SECONDS):
            controls.say(self.status, "Another panel of this notebook is training; waiting for it.")
            if self.stopping.is_set():
                return False
        return True

    def follow(self, config: Stage, done: int, total: int) -> bool:
        """Make one run, showing its course; False if stopped."""
        course, drawn, moved = Course(config), 0.0, 0.0
        with closing(run_or_load(config, self.store)) as steps:
            for progress in steps:
                if self.stopping.is_set():
                    return False
                course.note(progress)
                now = monotonic()
                if now - moved > BAR_SECONDS:
                    moved, self.bar.value = now, (done + progress.step / progress.total) / total
                if now - drawn > REDRAW_SECONDS:
                    drawn = now
                    self.show(course, progress)
        return True

    def show(self, course: Course, progress: Progress) -> None:
        if progress.elsewhere:
            controls.say(self.status, told(progress))
            return
        picture = course.picture(told(progress), progress.total)
        self.course.value = controls.figure(picture.png(), picture.alt)


TRAININGS = WeakSet[TrainingControls]()


def end_all() -> None:
    """Stop what trains, and wait for the states to be saved."""
    for training in [*TRAININGS]:
        training.end()


# There is no public way: atexit is too late, as executors, one of which writes states, take no more work by
# then. They end this way too, and first what was registered last: after they were imported above.
threading._register_atexit(end_all)  # type: ignore[attr-defined]


class AblationPanel:
    """Controls that choose among recorded runs, their figure, and buttons that make the missing ones.

    Callbacks may be called from more than one thread (it depends on the version of ipykernel), so the lock
    guards what they share.

    Args:
        lab: the settings and what is recorded.
        outcome: what is measured at first.
        along: the setting on the horizontal axis at first.
    """

    def __init__(self, lab: Ablation, outcome: str = "finetuned", along: str = "tap_layer") -> None:
        self.lab, self.lock = lab, threading.RLock()
        self.published_of = ""
        outcomes = [(text, name) for name, text in OUTCOMES.items()]
        self.outcome = controls.choice("outcome", outcomes, outcome)
        self.along = controls.choice("horizontal axis", axes_of(outcome), along)
        self.both = w.Checkbox(description="compare A with B", indent=False)
        self.columns = [Column(lab, name, self.redraw) for name in ("A", "B")]
        self.warning = controls.status()
        self.figure, self.published, self.beside = w.HTML(), w.HTML(), w.HTML()
        self.training = TrainingControls(lab.recorded.store, self.redraw)
        self.outcome.observe(self.choose_outcome, "value")
        for control in (self.along, self.both):
            control.observe(self.redraw, "value")
        self.redraw()

    @property
    def box(self) -> w.VBox:
        """Everything, to be shown."""
        first = w.HBox([self.outcome, self.along, self.both], layout=WRAPPED)
        columns = [column.box for column in self.columns]
        return w.VBox(
            [
                first,
                self.warning,
                self.figure,  # above the sliders: on a small screen it is seen while one moves
                w.HBox(columns, layout=WRAPPED),
                self.training.box,
                self.beside,
                self.published,
            ]
        )

    def choose_outcome(self, _: Any) -> None:
        """Offer the axes that the outcome depends on, the present one if it is among them."""
        with self.lock:
            options, along = axes_of(self.outcome.value), self.along.value
            self.along.unobserve(self.redraw, "value")  # else the first option would be drawn too
            self.along.options = options
            self.along.value = along if along in dict(options).values() else "temperature"
            self.along.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, _: Any = None) -> None:
        """Draw the runs of the chosen settings, and say how many are missing, or why this cannot be done."""
        with self.lock:
            try:
                self.lab.recorded.refresh()
                self.draw(self.outcome.value, self.along.value)
                controls.say(self.warning, self.lab.recorded.left_out)
            except (ConfigError, OSError) as error:
                controls.say(self.warning, str(error))
            except Exception as error:
                # Jupyter shows a callback's traceback in its log alone; the figure is of the last settings.
                failed = f"{type(error).__name__}: {error}. The figure is not of these settings."
                controls.say(self.warning, failed)
                raise

    def draw(self, outcome: str, along: str) -> None:
        self.columns[1].box.layout.display = SHOWN if self.both.value else HIDDEN
        columns = self.columns if self.both.value else self.columns[:1]
        for column in self.columns:
            column.enable(outcome, along)
        points = [column.point for column in columns]
        found = [self.lab.series(outcome, along, **point) for point in points]
        drawing = compare(self.lab, outcome, along, points)
        self.figure.value = controls.figure(encode(drawing.figure, "png", DPI), drawing.alt)
        self.beside.value = table(beside(self.lab, found))
        self.show_published(along)
        wanted = list(dict.fromkeys(config for series in found for _, config in series.missing))
        self.training.offer(wanted, self.lab.recorded.todo(wanted)[1])

    def show_published(self, along: str) -> None:
        if along != self.published_of:
            drawing, self.published_of = as_published(along), along
            png = encode(drawing.figure, "png", DPI) if drawing else b""
            self.published.value = controls.figure(png, drawing.alt) if drawing else ""


def axes_of(outcome: str) -> list[tuple[str, str]]:
    """The settings that an outcome depends on, by the name of their control."""
    return [(setting.name, name) for name, setting in FACTORS.items() if depends(outcome, name)]


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Who found what, as an HTML table."""
    cells = "".join(
        f'<tr><th scope="row" {CELL}>{escape(who)}</th><td {CELL}>{escape(what)}</td></tr>'
        for who, what in rows
    )
    return f"<table>{cells}</table>"
