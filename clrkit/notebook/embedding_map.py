"""A map of images in the plane: point at an image to see it with its nearest neighbours.

The map is one SVG inside a frame, styled by CSS and without a script. So it works without a kernel, after a
restart and in a saved, trusted notebook. The frame keeps its styles and ids apart from the page. Viewers that
remove frames and styles (an untrusted notebook, GitHub) show a static picture instead.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from clrkit.notebook.controls import figure
from clrkit.notebook.illustrations import GREY, TEN_COLORS, Images, Neighbours, Picture, embeddings

WIDTH, HEIGHT, MARGIN = 920, 540, 14  # the map is a square of side HEIGHT; the card is to its right
CARD, LARGE, SMALL, PER_ROW = 570, 130, 90, 3  # left edge; sides of the image and of its neighbours
THUMB, QUALITY = 40, 85  # pixels; of WebP, which adds few bytes to a small image

STYLE = f"""
body {{ margin: 0; background: white; font: 13px DejaVu Sans, sans-serif }}
svg {{ display: block }}
text {{ text-anchor: middle; fill: {GREY}; pointer-events: none }}
.point {{ cursor: pointer; outline: none }}
.point > text {{ font-weight: bold; dominant-baseline: central }}
.point > circle {{ fill: transparent }}
.point:hover > circle, .point:focus > circle {{ stroke: black }}
.card {{ display: none; pointer-events: none }}
.card path {{ stroke: #888888 }}
.point:hover .card, .point:focus .card {{ display: inline }}
svg:has(.point:hover) .point:focus:not(:hover) .card {{ display: none }}
svg:has(.point:hover) .hint, svg:has(.point:focus) .hint {{ display: none }}
"""
FRAME = f"border: 0; width: 100%; max-width: {WIDTH}px; aspect-ratio: {WIDTH} / {HEIGHT}"
HIDE_PICTURE = "<style>.clrkit-map > iframe + img { display: none }</style>"


@dataclass(frozen=True)
class EmbeddingMap:
    """The map as HTML, and a picture of it for viewers that show no HTML."""

    html: str
    still: Picture

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        png, about = self.still._repr_png_()
        forms = {"text/html": self.html, "image/png": b64encode(png).decode(), "text/plain": self.still.alt}
        return forms, {"image/png": about}


def embedding_map(
    points: Float[np.ndarray, "count 2"],
    images: Images,
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    near: Neighbours,
) -> EmbeddingMap:
    """Draw every image as the number of its class; pointing at a number or clicking it shows a card.

    Args:
        points: places in the plane, at any scale.
        images: in [0, 1]; shown at up to 40 pixels.
        labels: class of each image.
        classes: class names.
        near: result of `clrkit.notebook.illustrations.nearest`.
    """
    places = np.round(MARGIN + (HEIGHT - 2 * MARGIN) * unit(points)).astype(int)
    alt = f"{len(images)} images in the plane, by their features; a number is a class."
    hint = f"<text class='hint' x='{(CARD + WIDTH) // 2}' y='{HEIGHT // 2}'>Point at a number</text>"
    names = [escape(classes[label]) for label in labels]
    symbols = "".join(symbol(index, image) for index, image in enumerate(images))
    drawn = "".join(point(index, places, labels, names, near) for index in range(len(images)))
    content = (
        f"<!doctype html><style>{STYLE}</style>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{alt}'>"
        f"<defs>{symbols}</defs>{hint}{drawn}</svg>"
    )
    attribute = content.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe title="{alt}" style="{FRAME}" srcdoc="{attribute}"></iframe>'
    subtitle = f"{len(images)} images"
    still = embeddings({"by their features": points}, labels, classes, "Features in the plane", subtitle)
    picture = figure(still.png(), still.alt)
    return EmbeddingMap(f'{HIDE_PICTURE}<div class="clrkit-map">{frame}{picture}</div>', still)


def unit(points: Float[np.ndarray, "count 2"]) -> Float[np.ndarray, "count 2"]:
    """Move and scale points to fill the unit square; the second axis points up on the screen."""
    low, high = points.min(0), points.max(0)
    scaled: Float[np.ndarray, "count 2"] = (points - low) / np.maximum(high - low, 1e-12)
    return np.abs(scaled - (0, 1))


def symbol(index: int, image: Float[Tensor, "3 side side"]) -> str:
    """An SVG symbol that other elements can show at any size."""
    target = io.BytesIO()
    small = Image.fromarray((255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())
    small.thumbnail((THUMB, THUMB))
    small.save(target, "webp", quality=QUALITY)
    source, side = f"data:image/webp;base64,{b64encode(target.getvalue()).decode()}", small.width
    return (
        f"<symbol id='i{index}' viewBox='0 0 {side} {side}'>"
        f"<image width='{side}' height='{side}' href='{source}'/></symbol>"
    )


def point(
    index: int,
    places: Int64[np.ndarray, "count 2"],
    labels: Int64[np.ndarray, " count"],
    names: Sequence[str],
    near: Neighbours,
) -> str:
    """An image's number in the plane, and the card that appears when it is pointed at or clicked."""
    (x, y), (chosen, similarities) = places[index], (values[index].tolist() for values in near)
    lines = "".join(f"M{x} {y}L{places[other][0]} {places[other][1]}" for other in chosen)
    card = [thumbnail(index, names[index], CARD, 20, LARGE), f"<path d='{lines}'/>"]
    for place, (other, value) in enumerate(zip(chosen, similarities, strict=True)):
        left, top = place % PER_ROW * (SMALL + 20), place // PER_ROW * (SMALL + 50)
        text = f"{names[other]} {value:.2f}"
        card.append(thumbnail(other, text, CARD + left, 40 + LARGE + 50 + top, SMALL))
    return (
        f"<g class='point' tabindex='-1'><circle cx='{x}' cy='{y}' r='8'/>"
        f"<text x='{x}' y='{y}' style='fill:{TEN_COLORS[labels[index] % 10]}'>{labels[index]}</text>"
        f"<g class='card'>{''.join(card)}</g></g>"
    )


def thumbnail(index: int, text: str, left: int, top: int, side: int) -> str:
    """An image with a text below it."""
    return (
        f"<use href='#i{index}' x='{left}' y='{top}' width='{side}' height='{side}'/>"
        f"<text x='{left + side // 2}' y='{top + side + 18}'>{text}</text>"
    )
