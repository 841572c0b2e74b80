"""A map of images in the plane that shows the image under the pointer and its nearest neighbours.

One SVG with its own style and pixels and without a script: it works without a kernel, after a restart, and
in a saved notebook that is trusted. All images are one JPEG, of which each thumbnail shows its part. A frame
keeps its style and names from the page, and the page's from it; attributes have single quotes, so that few
characters change in the frame's. Where frames and styles are taken out (a notebook that is not trusted,
GitHub), a picture of the plane remains, which the style hides elsewhere.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64
from PIL import Image

from clrkit.notebook.controls import figure
from clrkit.notebook.illustrations import GREY, TEN_COLORS, Picture, embeddings
from clrkit.notebook.illustrations_images import Images, Near

WIDTH, HEIGHT, MARGIN = 920, 540, 14
PLANE = 540  # its side; the card is beside it
CARD, LARGE, SMALL, PER_ROW = 570, 130, 90, 3  # left edge; sides of the image and of its neighbours
BLOCK, EDGE = 16, 2  # pixels that JPEG codes together; so far a thumbnail goes on, lest others shine into it
THUMB, QUALITY = 40, 80

STYLE = f"""
body {{ margin: 0; background: white; font: 13px DejaVu Sans, sans-serif }}
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
HIDING = "<style>.clrkit-map > iframe + img { display: none }</style>"  # the picture, beside its frame


@dataclass(frozen=True)
class EmbeddingMap:
    """The map as HTML, and the same plane as a picture for what shows no HTML."""

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
    near: Near,
) -> EmbeddingMap:
    """A number a class at every image's place; the image under the pointer, or clicked, has its card beside.

    Args:
        points: places in the plane, of any scale.
        images: in [0, 1]; shown at up to 40 pixels.
        labels: class of each.
        classes: names.
        near: the nearest neighbours of each and their similarities, as `image_pictures.nearest` returns.
    """
    sheet, pitch, columns = sheet_of(images)
    side, whole, content = min(images.shape[-1], THUMB), pitch * columns, b64encode(sheet).decode()
    parts = [f"<image id='all' width='{whole}' height='{whole}' href='data:image/jpeg;base64,{content}'/>"]
    for index in range(len(images)):
        corner = f"{index % columns * pitch + EDGE} {index // columns * pitch + EDGE}"
        parts.append(f"<symbol id='i{index}' viewBox='{corner} {side} {side}'><use href='#all'/></symbol>")
    places = np.round(MARGIN + (PLANE - 2 * MARGIN) * unit(points)).astype(int)
    shown = points_and_cards(places, labels, [escape(name) for name in classes], near)
    alt = f"{len(images)} images in the plane, by their features; a number is a class."
    hint = f"<text class='hint' x='{(CARD + WIDTH) // 2}' y='{HEIGHT // 2}'>Point at a number</text>"
    drawn = (
        f"<!doctype html><style>{STYLE}</style>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{alt}'>"
        f"<defs>{''.join(parts)}</defs>{hint}{''.join(shown)}</svg>"
    )
    frame = f'<iframe title="{alt}" style="{FRAME}" srcdoc="{as_attribute(drawn)}"></iframe>'
    planes = {"by their features": points}
    still = embeddings(planes, labels, classes, "Features in the plane", f"{len(images)} images")
    picture = figure(still.png(), still.alt)
    return EmbeddingMap(f'{HIDING}<div class="clrkit-map">{frame}{picture}</div>', still)


def sheet_of(images: Images) -> tuple[bytes, int, int]:
    """All images as one JPEG; the distance of thumbnails in it, pixels, and how many are in a row."""
    if images.shape[-1] > THUMB:
        images = F.interpolate(images, (THUMB, THUMB), mode="bilinear", antialias=True)
    count, side = len(images), images.shape[-1]
    pitch, columns = -(-(side + 2 * EDGE) // BLOCK) * BLOCK, int(np.ceil(np.sqrt(count)))
    after = pitch - side - EDGE
    padded = F.pad(images, (EDGE, after, EDGE, after), mode="replicate")
    padded = F.pad(padded, (0, 0, 0, 0, 0, 0, 0, columns**2 - count))
    rows = padded.reshape(columns, columns, 3, pitch, pitch).permute(0, 3, 1, 4, 2)
    pixels = (255 * rows.reshape(columns * pitch, columns * pitch, 3)).round().byte().numpy()
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "jpeg", quality=QUALITY)
    return target.getvalue(), pitch, columns


def unit(points: Float[np.ndarray, "count 2"]) -> Float[np.ndarray, "count 2"]:
    """Points moved and scaled to fill the unit square, the second direction upwards."""
    low, high = points.min(0), points.max(0)
    scaled: Float[np.ndarray, "count 2"] = (points - low) / np.maximum(high - low, 1e-12)
    return np.abs(scaled - (0, 1))


def points_and_cards(
    places: Int64[np.ndarray, "count 2"],
    labels: Int64[np.ndarray, " count"],
    names: Sequence[str],
    near: Near,
) -> Iterator[str]:
    """Of each image its number in the plane and its card, which is not seen before it is pointed at."""
    for index, ((x, y), label) in enumerate(zip(places, labels, strict=True)):
        chosen, similar = (values[index].tolist() for values in near)
        lines = "".join(f"M{x} {y}L{places[other][0]} {places[other][1]}" for other in chosen)
        card = [thumbnail(index, names[label], CARD, 20, LARGE), f"<path d='{lines}'/>"]
        for place, (other, value) in enumerate(zip(chosen, similar, strict=True)):
            left, top = place % PER_ROW * (SMALL + 20), place // PER_ROW * (SMALL + 50)
            text = f"{names[labels[other]]} {value:.2f}"
            card.append(thumbnail(other, text, CARD + left, 40 + LARGE + 50 + top, SMALL))
        yield (
            f"<g class='point' tabindex='-1'><circle cx='{x}' cy='{y}' r='8'/>"
            f"<text x='{x}' y='{y}' style='fill:{TEN_COLORS[label % 10]}'>{label}</text>"
            f"<g class='card'>{''.join(card)}</g></g>"
        )


def thumbnail(index: int, text: str, left: int, top: int, side: int) -> str:
    """An image with a text below."""
    return (
        f"<use href='#i{index}' x='{left}' y='{top}' width='{side}' height='{side}'/>"
        f"<text x='{left + side // 2}' y='{top + side + 18}'>{text}</text>"
    )


def as_attribute(text: str) -> str:
    """A text between double quotes; single ones and brackets may stay."""
    return text.replace("&", "&amp;").replace('"', "&quot;")
