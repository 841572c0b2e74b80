"""Playgrounds: one idea each, a few controls, and a picture that follows them at once. Nothing is trained."""

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
from clrkit.notebook import controls, illustrations_images, illustrations_losses
from clrkit.notebook.illustrations import Picture
from clrkit.notebook.illustrations_images import Images, Near

CROP_AREAS = (0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
COLOR_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CONTRAST_TEMPERATURES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
SOFTMAX_TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
DRAWS = 20


class Playground:
    """Controls, and the picture that `draw` makes of their values, anew with every move of one.

    Callbacks may be called from more than one thread, so the lock guards the drawing: the picture that stays
    is that of the values that stay.

    Args:
        draw: takes the controls' values by name.
        moved: the controls by the names of `draw`'s arguments.
        buttons: shown below the controls.
    """

    def __init__(self, draw: Callable[..., Picture], moved: Mapping[str, Any], *buttons: w.Button) -> None:
        self.draw, self.controls, self.lock = draw, moved, threading.RLock()
        self.picture, self.status = w.HTML(), controls.status()
        for control in moved.values():
            control.observe(lambda _: self.redraw(), "value")
        self.redraw()
        self.box = w.VBox([*moved.values(), *buttons, self.picture, self.status])

    def redraw(self) -> None:
        """Draw what the controls say, and tell it in words below."""
        with self.lock:
            picture = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.picture.value = controls.figure(picture.png(), picture.alt)
            controls.say(self.status, picture.alt)


def augmentation(
    pixels: UInt8[Tensor, "count 3 side side"], augmentation: Augmentation, size: int, seed: int = 0
) -> Playground:
    """Views of a chosen image; the random draws stay while a strength moves, until others are asked for.

    Args:
        pixels: images to choose from.
        augmentation: where the controls stand at first.
        size: side of a view in pixels.
        seed: of the first draw.
    """

    def draw(image: int, draws: int, **changed: Any) -> Picture:
        return illustrations_images.augmented(
            pixels[image], replace(augmentation, **changed), size, seed + draws
        )

    def draw_again(_: w.Button) -> None:
        draws.index = (draws.index + 1) % DRAWS

    draws = controls.slider("draw", numbered(DRAWS), 0)
    again = w.Button(description="Draw again")
    again.on_click(draw_again)
    no_yes = [("no", False), ("yes", True)]
    brightness = [("multiplied", "multiplied"), ("added (v1)", "added")]
    moved = {
        "image": controls.slider("image", numbered(len(pixels)), len(pixels) // 2),
        "crop_area": number("smallest crop, area", CROP_AREAS, augmentation.crop_area),
        "color_strength": number("colour strength", COLOR_STRENGTHS, augmentation.color_strength),
        "flip": controls.slider("mirror half", no_yes, augmentation.flip),
        "brightness": controls.slider("brightness is", brightness, augmentation.brightness),
        "blur": controls.slider("blur half", no_yes, augmentation.blur),
        "draws": draws,
    }
    return Playground(draw, moved, again)


def contrast(projections: Float[Tensor, "count dim"], views: Images, temperature: float) -> Playground:
    """NT-Xent's matrix of a small batch at a temperature, and the weight of each negative of a chosen view.

    Args:
        projections: of 2N views, first views first.
        views: the same, in [0, 1].
        temperature: at first.
    """
    moved = {
        "temperature": number("temperature", CONTRAST_TEMPERATURES, temperature),
        "anchor": controls.slider("view", numbered(len(views)), 0),
    }
    return Playground(lambda **chosen: illustrations_losses.contrast(projections, views, **chosen), moved)


def neighbours(
    images: Images, labels: Int64[np.ndarray, " count"], classes: Sequence[str], near: Mapping[str, Near]
) -> Playground:
    """A chosen image's nearest neighbours, by network; arguments as `image_pictures.neighbours`."""
    order = labels.argsort(kind="stable").tolist()
    options = [(f"{place + 1}, class {classes[labels[index]]}", index) for place, index in enumerate(order)]
    moved = {"query": controls.slider("query image", options, order[0])}
    return Playground(
        lambda query: illustrations_images.neighbours(images, labels, classes, near, query), moved
    )


def distillation(
    images: Images,
    teacher: Float[Tensor, "count classes"],
    student: Float[Tensor, "count classes"],
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    temperature: float,
) -> Playground:
    """Teacher's and student's probabilities of a chosen image at a temperature, and the loss they make.

    Args:
        images: in [0, 1], in the order of the slider.
        teacher, student: logits.
        labels: class of each image.
        classes: names.
        temperature: at first.
    """

    def draw(image: int, temperature: float) -> Picture:
        chosen = images[image], teacher[image], student[image], int(labels[image])
        return illustrations_losses.softened(*chosen, classes, temperature)

    moved = {
        "image": controls.slider("image", numbered(len(images)), len(images) * 9 // 10),
        "temperature": number("temperature", SOFTMAX_TEMPERATURES, temperature),
    }
    return Playground(draw, moved)


def numbered(count: int) -> list[tuple[str, int]]:
    return [(f"{index + 1} of {count}", index) for index in range(count)]


def number(name: str, values: Sequence[float], value: float) -> w.SelectionSlider:
    """A slider of numbers, with the one it starts at among them."""
    return controls.slider(name, [(f"{each:g}", each) for each in sorted({*values, value})], value)
