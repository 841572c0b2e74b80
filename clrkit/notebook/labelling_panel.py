"""A panel to label images: it shows one image at a time and writes the CSV after every label.

The CSV holds the whole state. After a restart of the kernel the panel shows the first image without a label.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets as w
import numpy as np
from PIL import Image

from clrkit.data.images import read_photo, to_square, upright
from clrkit.errors import DataError
from clrkit.notebook import controls
from clrkit.notebook.illustrations import Picture, bare, plain
from clrkit.own_images.label_csv import Row, nearest, read_table, set_label
from clrkit.own_images.scan import counted

SHOWN = 320  # longer side of the image on the screen, in pixels
BUTTON, ENTRY = {"width": "auto", "min_width": "90px"}, {"width": "440px"}
COLUMNS, THUMB = 10, 64  # of the overview
DONE = "<p>All images have labels. To change one, press Back.</p>"


class LabellingPanel:
    """One image at a time, with a button for every class and a line to type classes in.

    A label always goes to the image on the screen, even if the CSV has changed since. It only replaces a
    label that was on the screen too. When all images have labels, no image is shown until Back is pressed.

    By keyboard: type a class or its number, then Enter; or press Tab to reach a button. A new name becomes a
    class. Callbacks may come from several threads, so a lock guards them.

    Args:
        root: folder of the images.
        labels: the CSV, with a row for every image to label.
        classes: known class names; those in the CSV are added.

    Raises:
        DataError: for a CSV that cannot be read or has no images.
    """

    def __init__(self, root: Path, labels: Path, classes: Sequence[str] = ()) -> None:
        self.root, self.labels, self.lock = root, labels, threading.RLock()
        given = sorted({row["label"] for row in self.rows()} - {""})
        self.classes = list(dict.fromkeys([*classes, *given]))
        self.shown, self.seen, self.visited = "", "", list[str]()
        self.picture, self.progress = w.HTML(), w.HTML()
        self.buttons, self.status = w.HBox(layout={"flex_flow": "row wrap"}), controls.status()
        self.entry = w.Text(description="Class", continuous_update=False, layout=ENTRY)
        self.entry.observe(lambda _: self.typed(), "value")
        self.back = w.Button(description="Back", tooltip="show the previous image, to change its label")
        self.skip = w.Button(
            description="Skip", tooltip="show the next image; this one stays without a label"
        )
        self.back.on_click(lambda _: self.go(self.previous))
        self.skip.on_click(lambda _: self.leave(""))
        self.picture.add_class("clrkit-image")
        self.progress.add_class("clrkit-progress")
        self.draw_buttons()
        self.show(self.next_after(""))

    @property
    def box(self) -> w.VBox:
        """The whole panel, for `clrkit.notebook.controls.show`."""
        steps = w.HBox([self.back, self.skip])
        return w.VBox([self.progress, self.picture, self.buttons, self.entry, steps, self.status])

    def rows(self) -> list[Row]:
        rows = read_table(self.labels)
        if not rows:
            raise DataError(f"{self.labels} has no images to label; `fit` proposes some.")
        return rows

    # Which image

    def next_after(self, file: str) -> str:
        """The next image without a label, starting again at the end; "" if all have labels."""
        rows = self.rows()
        names = [row["file"] for row in rows]
        place = names.index(file) + 1 if file in names else 0
        return next((row["file"] for row in [*rows[place:], *rows[:place]] if not row["label"]), "")

    def previous(self, file: str) -> str:
        """The image shown before; without one, the image in the row before."""
        if self.visited:
            return self.visited.pop()
        names = [row["file"] for row in self.rows()]
        return names[max(names.index(file) - 1, 0)] if file in names else names[-1]

    def go(self, step: Callable[[str], str], text: str = "") -> None:
        """Show the image that `step` finds from the present one, and report what was done or went wrong."""
        with self.lock:
            try:
                self.show(step(self.shown))
            except DataError as error:
                text = f"{text} {error}".strip()
            controls.say(self.status, text)

    def leave(self, text: str) -> None:
        """Go to the next image without a label."""
        with self.lock:
            if self.shown:
                self.visited.append(self.shown)
            self.go(self.next_after, text)

    def show(self, file: str) -> None:
        """Show an image and how many have labels; without its row, show the next image without a label.

        An image that cannot be decoded is named, with the reason.
        """
        given = {row["file"]: row["label"] for row in self.rows()}
        file = file if file in given else self.next_after("")
        done, now = sum(map(bool, given.values())), given.get(file, "")
        label = f", now {now}" if now else ""
        try:
            alt = f"image {file}{label}"
            picture = controls.figure(enlarged(self.root / file), alt) if file else DONE
        except DataError as error:
            picture = f"<p>{escape(file)} cannot be shown; skip it. {escape(str(error))}</p>"
        count = "All" if done == len(given) else f"{done} of"
        self.progress.value = f"<b>{count} {len(given)} have labels.</b> {escape(file + label)}"
        self.picture.value, self.shown, self.seen = picture, file, now

    # Labels

    @property
    def numbered(self) -> bool:
        """Whether a class can be typed by its number; no, if a class is a number itself."""
        return not any(name.isdecimal() for name in self.classes)

    def draw_buttons(self) -> None:
        """Show a button for every class, with its number for the keyboard."""
        made = []
        self.entry.placeholder = f"a class{' or its number' if self.numbered else ''}, then Enter"
        for number, name in enumerate(self.classes, start=1):
            text = f"{number}  {name}" if self.numbered else name
            button = w.Button(description=text, tooltip=f"label as {name}", layout=BUTTON)
            button.on_click(lambda _, name=name: self.label(name))
            made.append(button)
        self.buttons.children = made

    def typed(self) -> None:
        """Use what was typed: a class, its number, or a new class."""
        text = self.entry.value.strip()
        if text:
            self.entry.value = ""
            known = self.numbered and text.isdecimal() and 0 < int(text) <= len(self.classes)
            self.label(self.classes[int(text) - 1] if known else text)

    def label(self, name: str) -> None:
        """Write the label of the image on the screen, then go to the next image without one."""
        with self.lock:
            if not self.shown:
                controls.say(self.status, "All images have labels. To change one, press Back.")
                return
            try:
                set_label(self.labels, self.shown, name, self.seen)
            except DataError as error:
                self.go(lambda file: file, f"Not written: {error}")
                return
            text = f"{self.shown}: {name}."
            if name not in self.classes:
                near = nearest(name, self.classes)
                self.classes.append(name)
                self.draw_buttons()
                text += f" New class{f', similar to {near}; press Back to change it' if near else ''}."
            self.leave(text)


def enlarged(path: Path) -> bytes:
    """An image as PNG, with its longer side at the panel's size. Raises DataError."""
    photo = read_photo(str(path), 2 * SHOWN)
    image = Image.fromarray(np.ascontiguousarray(upright(photo.pixels, photo.orientation)))
    width, height = (max(1, round(SHOWN * side / max(image.size))) for side in image.size)
    target = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(target, format="png")
    return target.getvalue()


def proposals(root: Path, rows: Sequence[Row]) -> Picture:
    """An overview of the images in the CSV, with their labels above them."""
    lines = -(-len(rows) // COLUMNS)
    with plain(lines, COLUMNS, 0.8 * COLUMNS, 0.95 * lines) as (figure, grid):
        for axes in grid.flat:
            bare(axes)
        for axes, row in zip(grid.flat[: len(rows)], rows, strict=True):
            axes.imshow(to_square(read_photo(str(root / row["file"])), THUMB).transpose(1, 2, 0))
            axes.set_title(row["label"], size=8, loc="center", parse_math=False)
    labels = counted(row["label"] or "none" for row in rows)
    return Picture(figure, f"{len(rows)} images, labels: {labels}.")
