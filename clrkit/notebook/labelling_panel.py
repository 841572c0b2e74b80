"""A panel to label images with: it shows one at a time and writes the CSV after every label.

The CSV is all there is: after a restart of the kernel the panel goes on with the first image without a label.
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
WIDTH = {"width": "auto", "min_width": "90px"}
ENTRY = {"width": "440px"}
TILES, THUMB = 10, 64


class LabellingPanel:
    """One image at a time, with a button for every class and a line to type classes in.

    A label goes to the image that is on the screen, whatever others did to the CSV since it was shown, and
    never in the place of one that was not seen there.

    By keyboard: type a class, or its number, and Enter; or Tab to a button. A name that is new becomes a
    class. Callbacks may come from more than one thread, so the lock guards what they share.

    Args:
        root: folder of the images.
        labels: the CSV, with a row for every image to be labelled.
        classes: names known before; those in the CSV come to them.

    Raises:
        DataError: for a CSV that cannot be read or names no image.
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
        self.back = w.Button(description="Back", tooltip="the image shown before, to change its label")
        self.skip = w.Button(description="Skip", tooltip="the next image; this one stays without a label")
        self.back.on_click(lambda _: self.go(back=True))
        self.skip.on_click(lambda _: self.go())
        self.picture.add_class("clrkit-image")
        self.progress.add_class("clrkit-progress")
        self.draw_buttons()
        self.show(self.next_after(""))

    @property
    def box(self) -> w.VBox:
        """Everything, to be displayed by `clrkit.notebook.controls.show`."""
        steps = w.HBox([self.back, self.skip])
        return w.VBox([self.progress, self.picture, self.buttons, self.entry, steps, self.status])

    def rows(self) -> list[Row]:
        rows = read_table(self.labels)
        if not rows:
            raise DataError(f"{self.labels} names no image to label; `fit` proposes some.")
        return rows

    def next_after(self, file: str) -> str:
        """The next image without a label, from the start again at the end; the next one if all have one."""
        rows = self.rows()
        names = [row["file"] for row in rows]
        place = names.index(file) + 1 if file in names else 0
        order = [*rows[place:], *rows[:place]]
        return next((row["file"] for row in order if not row["label"]), order[0]["file"])

    def before(self, file: str) -> str:
        """The image in the row before."""
        names = [row["file"] for row in self.rows()]
        return names[max(names.index(file) - 1, 0)] if file in names else names[0]

    def show(self, file: str) -> None:
        """Show an image, and how many have labels; if it has no row any more, the first one without a label.

        Of an image that cannot be decoded the name is shown, and why.
        """
        rows = self.rows()
        given = {row["file"]: row["label"] for row in rows}
        file = file if file in given else self.next_after("")
        done, now = sum(bool(label) for label in given.values()), given[file]
        label = f", now {now}" if now else ""
        try:
            picture = controls.figure(enlarged(self.root / file), f"image {file}{label}")
        except DataError as error:
            picture = f"<p>{escape(file)} cannot be shown; skip it. {escape(str(error))}</p>"
        state = "All" if done == len(rows) else f"{done} of"
        self.progress.value = f"<b>{state} {len(rows)} have labels.</b> {escape(file)}{escape(label)}"
        self.picture.value, self.shown, self.seen = picture, file, now

    @property
    def numbered(self) -> bool:
        """Whether a class can be typed by its number, which would mislead where a class is one itself."""
        return not any(name.isdecimal() for name in self.classes)

    def draw_buttons(self) -> None:
        """A button for every class, numbered for the keyboard; the line to type in says what it takes."""
        made = []
        self.entry.placeholder = f"a class{' or its number' if self.numbered else ''}, then Enter"
        for number, name in enumerate(self.classes, start=1):
            text = f"{number}  {name}" if self.numbered else name
            button = w.Button(description=text, tooltip=f"label as {name}", layout=WIDTH)
            button.on_click(lambda _, name=name: self.label(name))
            made.append(button)
        self.buttons.children = made

    def typed(self) -> None:
        """Take what was typed: a class, the number of one, or a new class."""
        text = self.entry.value.strip()
        if not text:
            return
        self.entry.value = ""
        place = self.numbered and text.isdecimal() and 0 < int(text) <= len(self.classes)
        self.label(self.classes[int(text) - 1] if place else text)

    def label(self, name: str) -> None:
        """Write a label for the image that is shown, and go to the next one without."""
        with self.lock:
            try:
                set_label(self.labels, self.shown, name, self.seen)
            except DataError as error:
                self.turn(lambda: self.shown, f"Not written: {error}")
                return
            said = f"{self.shown}: {name}."
            if name not in self.classes:
                near = nearest(name, self.classes)
                self.classes.append(name)
                self.draw_buttons()
                said += f" A new class{f', much like {near}; Back changes it' if near else ''}."
            self.visited.append(self.shown)
            self.turn(lambda: self.next_after(self.shown), said)

    def go(self, back: bool = False) -> None:
        """Go to the next image without a label, or back to the one shown before."""
        with self.lock:
            if back:
                self.turn(lambda: self.visited.pop() if self.visited else self.before(self.shown), "")
            else:
                self.visited.append(self.shown)
                self.turn(lambda: self.next_after(self.shown), "")

    def turn(self, to: Callable[[], str], said: str) -> None:
        """Show another image and say what was done, and what keeps it from being shown."""
        try:
            self.show(to())
        except DataError as error:
            said = f"{said} {error}".strip()
        controls.say(self.status, said)


def enlarged(path: Path) -> bytes:
    """An image as PNG, its longer side at the panel's size. Raises DataError."""
    photo = read_photo(str(path), 2 * SHOWN)
    image = Image.fromarray(np.ascontiguousarray(upright(photo.pixels, photo.orientation)))
    share = SHOWN / max(image.size)
    size = (max(1, round(share * image.width)), max(1, round(share * image.height)))
    target = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(target, format="png")
    return target.getvalue()


def proposals(root: Path, rows: Sequence[Row]) -> Picture:
    """The images of the CSV in its order, with their labels above them."""
    lines = -(-len(rows) // TILES)
    with plain(lines, TILES, 0.8 * TILES, 0.95 * lines) as (figure, grid):
        for axes in grid.flat:
            bare(axes)
        for axes, row in zip(grid.flat[: len(rows)], rows, strict=True):
            axes.imshow(to_square(read_photo(str(root / row["file"])), THUMB).transpose(1, 2, 0))
            axes.set_title(row["label"], size=8, loc="center", parse_math=False)
    labels = counted(row["label"] or "none" for row in rows)
    return Picture(figure, f"{len(rows)} images, labels: {labels}.")
