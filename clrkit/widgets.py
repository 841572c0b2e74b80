"""What notebooks show while they work: a plan, the course of a run, and the ablation panel."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from html import escape
from time import monotonic
from typing import Any

import ipywidgets as w
from IPython.display import display

from clrkit import pictures
from clrkit.ablation import Ablation, label
from clrkit.config import ConfigError, Stage, to_dict
from clrkit.console import duration, noting
from clrkit.frames import chain_columns, fraction_name
from clrkit.materialise import finish, materialise
from clrkit.reproduce import plan as planned
from clrkit.runs import Progress, Run, Store
from clrkit.sweep import missing

REDRAW_SECONDS = 1.5  # between pictures of a run under way: drawing one takes 40 ms
STATUS_SECONDS = 0.2  # between changes of the panel's progress bar

# Layouts are dicts: a widget made on import would leave its state in every executed notebook.
CONTROL: dict[str, Any] = {"layout": {"width": "480px"}, "style": {"description_width": "130px"}}
FIGURE = {"width": "660px", "align_self": "flex-start"}
WIDE = {"width": "320px"}


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
        RunError, ConfigError: as `clrkit.materialise.materialise`.
    """
    course = Course(config)
    with noting(signal.SIGINT) as stopped, closing(materialise(config, store, device)) as work:
        run = finish(work, lambda progress: course.show(progress, bool(stopped)))
    course.conclude(run)
    return run


class Course:
    """The display of one run: a line of text, how far it is, and its loss, drawn anew in place."""

    def __init__(self, config: Stage) -> None:
        self.config, self.steps, self.loss = config, list[int](), list[float]()
        self.handle = display(pictures.course(f"{name_of(config)}: beginning", [], [], 1), display_id=True)
        self.drawn = monotonic()

    def show(self, progress: Progress, stopped: bool) -> None:
        """Note where the run, or one it builds on, stands. Raises Interrupted where it is to stop."""
        text = f"{name_of(progress.config)}: {progress.step / progress.total:.0%}"
        if stopped:
            raise Interrupted(f"Stopped, {text}; run this cell again and it goes on from there.")
        if progress.config != self.config:
            self.config, self.steps, self.loss = progress.config, [], []
        if not self.loss or progress.loss != self.loss[-1]:  # it is logged every few steps
            self.steps.append(progress.step)
            self.loss.append(progress.loss)
        if monotonic() - self.drawn > REDRAW_SECONDS:
            rate = f"{progress.rate:,.0f} images/s, {duration(progress.seconds_left)} left"
            self.draw(f"{text}, {rate}{measured(progress.metrics)}", progress.total)

    def conclude(self, run: Run) -> None:
        """The picture that stays: the whole course, from the record."""
        history, source = run.history, run.record["provenance"]
        self.steps, self.loss = history["step"], history["loss"]
        took = f"{duration(source['seconds'])} on {source['device']}"
        self.draw(f"{name_of(self.config)}: {took}{measured(run.metrics)}", self.steps[-1])

    def draw(self, text: str, total: int) -> None:
        self.handle.update(pictures.course(text, self.steps, self.loss, total))
        self.drawn = monotonic()


def measured(metrics: Mapping[str, float]) -> str:
    """Metrics in words; those between 0 and 1 that are shares, as percentages."""
    names = {"top1": "accuracy", "knn": "kNN accuracy"}
    return "".join(f", {words} {metrics[name]:.1%}" for name, words in names.items() if name in metrics)


class AblationPanel:
    """Controls that choose among recorded runs, their figure, and buttons that make the missing ones.

    Training runs in a thread of its own, which sets traits of widgets and nothing else. Callbacks may be
    called from more than one thread (it depends on the version of ipykernel), so the lock guards what they
    share.

    Args:
        ablation: the settings and what is recorded.
        along: the setting on the horizontal axis at first.
    """

    def __init__(self, ablation: Ablation, along: str = "tap_layer") -> None:
        self.ablation, self.lock, self.stopping = ablation, threading.RLock(), threading.Event()
        self.thread: threading.Thread | None = None
        names = dict.fromkeys([*ablation.varied, along])
        options = [(name.replace("_", " "), name) for name in names]
        self.along = w.Dropdown(options=options, value=along, description="horizontal axis", **CONTROL)
        self.sliders = {name: self.slider(name) for name in names}
        self.image = w.Image(layout=FIGURE)
        self.caption, self.status = w.HTML(), w.HTML()
        self.run = w.Button(button_style="primary", layout=WIDE)
        self.stop = w.Button(description="Stop", disabled=True)
        self.bar = w.FloatProgress(max=1, layout=WIDE)
        self.run.on_click(lambda _: self.start())
        self.stop.on_click(lambda _: self.stopping.set())
        for control in (self.along, *self.sliders.values()):
            control.observe(lambda _: self.redraw(), "value")
        self.image.add_class("clrkit-figure")
        self.status.add_class("clrkit-status")
        self.redraw()

    @property
    def box(self) -> w.VBox:
        """Everything, to be displayed."""
        making = w.VBox([w.HBox([self.run, self.stop]), w.HBox([self.bar, self.status])])
        return w.VBox([self.along, *self.sliders.values(), self.image, self.caption, making])

    def slider(self, name: str) -> w.SelectionSlider:
        """A slider that stops at the values a setting has and nowhere else."""
        options = [(label(name, value), value) for value in self.ablation.choices[name]]
        return w.SelectionSlider(
            options=options, value=self.ablation.standard[name], description=name.replace("_", " "), **CONTROL
        )

    def redraw(self) -> None:
        """Draw the runs of the chosen settings, and say how many are missing."""
        with self.lock:
            held = {name: slider.value for name, slider in self.sliders.items()}
            series = self.ablation.series(self.along.value, **held)
            drawing = self.ablation.draw(series)
            self.todo = [config for _, config in series.missing]
            self.image.value, self.caption.value = drawing._repr_png_()[0], escape(drawing.alt)
            for name, slider in self.sliders.items():
                slider.disabled = name == self.along.value
            self.offer()

    def offer(self) -> None:
        """Set the buttons to what can be done now."""
        working = self.thread is not None
        rows = planned(self.todo, self.ablation.store)
        seconds = [row["seconds"] for row in rows if row["state"] != "cached"]
        offer = f"Run the missing {len(self.todo)}, {expected(seconds)}"
        self.run.description = offer if self.todo else "Nothing is missing"
        self.run.disabled, self.stop.disabled = working or not self.todo, not working

    def start(self) -> None:
        """Make the missing runs in the background."""
        with self.lock:
            if self.thread is None and self.todo:
                self.stopping.clear()
                self.thread = threading.Thread(target=self.work, args=(self.todo,), daemon=True)
                self.offer()
                self.thread.start()

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
            self.redraw()
            self.status.value = escape(ended)

    def make(self, configs: Sequence[Stage]) -> bool:
        """Make runs and what they build on, showing progress; False if stopped before the end."""
        store, shown = self.ablation.store, 0.0
        todo = missing(configs, store)
        for done, config in enumerate(todo):
            with closing(materialise(config, store)) as steps:
                for progress in steps:
                    if self.stopping.is_set():
                        return False
                    if monotonic() - shown > STATUS_SECONDS:
                        shown = monotonic()
                        self.show(progress, done, len(todo))
            self.redraw()
        self.bar.value = 1.0
        return True

    def show(self, progress: Progress, done: int, total: int) -> None:
        share = progress.step / progress.total
        self.bar.value = (done + share) / total
        self.status.value = f"run {done + 1} of {total}: {name_of(progress.config)}, {share:.0%}"
