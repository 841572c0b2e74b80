"""Playgrounds: a few sliders and a picture that follows them at once. Nothing is trained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as w
import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from clrkit.config import Augmentation
from clrkit.notebook import controls, illustrations, illustrations_losses
from clrkit.notebook.illustrations import Images, Neighbours, Picture

CROP_AREAS = (0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
COLOR_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CONTRAST_TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
SOFTMAX_TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
DRAWS = 20


class Playground:
    """Sliders, and the picture that `draw` makes from their values.

    Callbacks may come from several threads. The lock makes sure that the last picture shows the last values.

    Args:
        draw: takes the values of the sliders by name.
        sliders: by the names of `draw`'s arguments.
        buttons: shown below the sliders.
    """

    def __init__(self, draw: Callable[..., Picture], sliders: Mapping[str, Any], *buttons: w.Button) -> None:
        self.draw, self.sliders, self.lock = draw, sliders, threading.RLock()
        self.picture, self.status = w.HTML(), controls.status()
        for slider in sliders.values():
            slider.observe(lambda _: self.redraw(), "value")
        self.redraw()
        self.box = w.VBox([*sliders.values(), *buttons, self.picture, self.status])

    def redraw(self) -> None:
        """Draw the picture, and put its alt text below it."""
        with self.lock:
            picture = self.draw(**{name: slider.value for name, slider in self.sliders.items()})
            self.picture.value = controls.figure(picture.png(), picture.alt)
            controls.say(self.status, picture.alt)


def augmentation(
    pixels: UInt8[Tensor, "count 3 side side"], config: Augmentation, size: int, seed: int = 0
) -> Playground:
    """Views of one image. The random draws stay fixed while a slider moves, until "Draw again".

    Args:
        pixels: images to choose from.
        config: the sliders' first values.
        size: side of a view in pixels.
        seed: of the first draw.
    """

    def draw(image: int, draws: int, **changed: Any) -> Picture:
        return illustrations.augmented(pixels[image], replace(config, **changed), size, seed + draws)

    def draw_again(_: w.Button) -> None:
        draws.index = (draws.index + 1) % DRAWS

    draws = controls.slider("draw", numbered(DRAWS), 0)
    again = w.Button(description="Draw again")
    again.on_click(draw_again)
    no_yes = [("no", False), ("yes", True)]
    brightness = [("multiplied", "multiplied"), ("added (v1)", "added")]
    sliders = {
        "image": controls.slider("image", numbered(len(pixels)), len(pixels) // 2),
        "crop_area": number("smallest crop, area", CROP_AREAS, config.crop_area),
        "color_strength": number("colour strength", COLOR_STRENGTHS, config.color_strength),
        "flip": controls.slider("mirror half", no_yes, config.flip),
        "brightness": controls.slider("brightness is", brightness, config.brightness),
        "blur": controls.slider("blur half", no_yes, config.blur),
        "draws": draws,
    }
    return Playground(draw, sliders, again)


def contrast(projections: Float[Tensor, "count dim"], views: Images, temperature: float) -> Playground:
    """NT-Xent of a small batch; arguments as `illustrations_losses.contrast`."""
    sliders = {
        "temperature": number("temperature", CONTRAST_TEMPERATURES, temperature),
        "anchor": controls.slider("view", numbered(len(views)), 0),
    }
    return Playground(lambda **chosen: illustrations_losses.contrast(projections, views, **chosen), sliders)


def neighbours(
    images: Images,
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    near: Mapping[str, Neighbours],
) -> Playground:
    """The nearest neighbours of an image; arguments as `illustrations.neighbours`."""
    order = labels.argsort(kind="stable").tolist()
    options = [(f"{place + 1}, class {classes[labels[index]]}", index) for place, index in enumerate(order)]
    sliders = {"query": controls.slider("query image", options, order[0])}
    return Playground(lambda query: illustrations.neighbours(images, labels, classes, near, query), sliders)


def distillation(
    images: Images,
    teacher: Float[Tensor, "count classes"],
    student: Float[Tensor, "count classes"],
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    temperature: float,
) -> Playground:
    """Teacher and student on one image; arguments as `illustrations_losses.teacher_and_student`."""

    def draw(image: int, temperature: float) -> Picture:
        logits = teacher[image], student[image]
        return illustrations_losses.teacher_and_student(
            images[image], *logits, int(labels[image]), classes, temperature
        )

    sliders = {
        "image": controls.slider("image", numbered(len(images)), len(images) * 9 // 10),
        "temperature": number("temperature", SOFTMAX_TEMPERATURES, temperature),
    }
    return Playground(draw, sliders)


def numbered(count: int) -> list[tuple[str, int]]:
    return [(f"{index + 1} of {count}", index) for index in range(count)]


def number(name: str, values: Sequence[float], value: float) -> w.SelectionSlider:
    """A slider of numbers that starts at `value`, which is added if necessary."""
    return controls.slider(name, [(f"{each:g}", each) for each in sorted({*values, value})], value)
