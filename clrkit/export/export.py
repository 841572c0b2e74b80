"""A model as files that run without clrkit: ONNX and torch.export, checked, with weights and a model card."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.export import Dim, ExportedProgram

from clrkit.config import Data
from clrkit.data.datasets import EMBEDDED, known_root, load_evaluation
from clrkit.data.folders import root_of
from clrkit.data.images import WHOLE, EvalView, ImageArray, Rgb, upright
from clrkit.data.sources import PixelArray, PixelStream
from clrkit.data.torchvision_sets import KNOWN
from clrkit.errors import DataError
from clrkit.export.exported_module import ExportedModule
from clrkit.export.model_card import card
from clrkit.export.source import ModelSource, read_source
from clrkit.files import write_atomically
from clrkit.results.text import Table
from clrkit.runs.model_files import WEIGHTS, ModelError, new_folder, refuse_existing, write_files
from clrkit.runs.provenance import cpu_name, provenance
from clrkit.runs.store import write_sums

ONNX, PROGRAM, CARD = "model.onnx", "model.pt2", "README.md"
TOLERANCES = {ONNX: 1e-4, PROGRAM: 1e-5}
PATHS = ("root", "labels_csv", "label_list")  # fields of configs that name files
OPSET = 18  # the oldest with all that is needed
CHECKED = 32  # images of the data set
BATCHES = (1, 32)
TIMED_SECONDS, LEAST_REPEATS = 0.2, 3

Batch = UInt8[np.ndarray, "batch height width 3"]
Outputs = tuple[Float[np.ndarray, "batch _"], ...]
Engine = Callable[[Batch], Outputs]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: of the files.
        files: their sizes in bytes, by name.
        checks: largest deviation of each form from the original, as `deviation` has it, by file.
        table: sizes, deviations and times.
    """

    folder: Path
    files: dict[str, int]
    checks: dict[str, float]
    table: Table


def export(source: Path, out: Path, image_size: int | None = None) -> Exported:
    """Write a model as ONNX, torch.export and safetensors with a model card, whole or not at all.

    Args:
        source: folder of a finished run, or of a model.
        out: folder to write; must not exist.
        image_size: side of the images, for a model folder that does not say it.

    Raises:
        ModelError: for a source without a model, a folder that is there or cannot be written, and a program
            that does not give the outputs of the original.
        Damaged: where a run's files are not what was written.
    """
    refuse_existing(out)
    origin = read_source(source, image_size)
    photos, named = sample(origin)
    wanted = [original(origin, photo) for photo in photos]
    with new_folder(out) as folder, torch.no_grad():
        write_files(folder, origin.model.config, origin.model.state_dict(), about(origin))
        engines = write_programs(folder, origin)
        checks = {name: deviation(engines[name], photos, wanted) for name in TOLERANCES}
        refuse_deviating(checks, source)
        table = table_of(folder, origin, engines, checks, named)
        write_atomically(folder / CARD, card(origin, table).encode())
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        write_sums(folder, files)
    return Exported(out, files, checks, table)


def about(origin: ModelSource) -> dict[str, object]:
    """What the description says beside the model: enough to predict, to evaluate and to export again."""
    known = {"image_size": origin.image_size, "classes": origin.names}
    records = [{**each, "config": without_folders(each["config"])} for each in origin.records.values()]
    return {"source": origin.folder.resolve().name, **known, **provenance(), "records": records}


def without_folders(config: object, field: str = "") -> object:
    """A record's config with the names alone of what lies on this machine."""
    if isinstance(config, dict):
        return {name: without_folders(value, name) for name, value in config.items()}
    return Path(config).name if field in PATHS and isinstance(config, str) else config


# The forms


def write_programs(folder: Path, origin: ModelSource) -> dict[str, Engine]:
    """Write the programs; returns what was written as functions, with the original's under its weights."""
    portable = ExportedModule(origin.model, origin.image_size).eval()
    program = traced(portable)
    write_onnx(folder / ONNX, program, portable, origin.classes)
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(folder / PROGRAM, content.getbuffer())
    # Reading such a file unpickles, so that none is ever read but this one, which was made just now.
    reread = torch.export.load(io.BytesIO((folder / PROGRAM).read_bytes())).module()
    return {
        WEIGHTS: by_torch(portable),
        PROGRAM: by_torch(reread),
        ONNX: by_onnx(folder / ONNX, portable.outputs),
    }


def traced(portable: ExportedModule) -> ExportedProgram:
    """The model as a graph for any number of images of any size, without the paths of this machine."""
    side = portable.size
    example = torch.zeros(2, side + 7, side + 13, 3, dtype=torch.uint8)
    free = {"images": dict.fromkeys(range(3), Dim.DYNAMIC)}
    program = torch.export.export(portable, (example,), dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(
    path: Path, program: ExportedProgram, portable: ExportedModule, classes: Sequence[str]
) -> None:
    """The graph as ONNX; of more than 2 GB with its weights beside it. Class names lie in its metadata."""
    made = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=portable.outputs,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    made.model.metadata_props["classes"] = json.dumps(classes)
    made.model.metadata_props["image_size"] = str(portable.size)
    made.save(path)


def by_torch(module: Callable[[Tensor], tuple[Tensor, ...]]) -> Engine:
    def run(images: Batch) -> Outputs:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(torch.from_numpy(images)))

    return run


def by_onnx(path: Path, outputs: Sequence[str]) -> Engine:
    """The ONNX file, with as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(outputs, {"images": images}))


# Checks


def sample(origin: ModelSource) -> tuple[list[Rgb], str]:
    """Photographs to check on and what they are: of the data set where it is at hand, and noise."""
    random, side = np.random.default_rng(0), origin.image_size
    shapes = [(side, side), (2 * side, side + 5), (side // 2, 3 * side)]
    noise = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    real = photos_of(origin.stage.images) if origin.stage and at_hand(origin.stage.images) else []
    named = f"{len(real)} images of the data set and " if real else ""
    return [*real, *noise], f"{named}{len(noise)} of noise"


def at_hand(data: Data) -> bool:
    """Whether the images are there without a download."""
    if data.dataset in EMBEDDED:
        return True
    folder = KNOWN[data.dataset].folder if data.dataset in KNOWN else ""
    return (known_root(data) / folder).is_dir() if folder or root_of(data) else False


def photos_of(data: Data) -> list[Rgb]:
    """Some test images, decoded and upright, spread over the set; none where they cannot be read."""
    try:
        pixels = load_evaluation(data)[0].pixels
        chosen = np.linspace(0, len(pixels) - 1, min(CHECKED, len(pixels))).astype(int)
        if isinstance(pixels, PixelArray):
            return [np.ascontiguousarray(pixels.array[index].transpose(1, 2, 0)) for index in chosen]
        assert isinstance(pixels, PixelStream)
        enough = data.image_size if data.image_size <= WHOLE else None
        found = [pixels.images.found.photo(int(index), enough) for index in chosen]
    except DataError:
        return []
    return [np.ascontiguousarray(upright(photo.pixels, photo.orientation)) for photo in found]


def original(origin: ModelSource, photo: Rgb) -> Outputs:
    """What the original model makes of the view that clrkit measures."""
    model, view = origin.model, EvalView(ImageArray(photo[None]), origin.image_size, exact=True).read(0)[0]
    with torch.no_grad():
        images = torch.from_numpy(view[None])
        if model.classifier is None:
            return (model.encoder(images).numpy(),)
        logits = model(images)
        return logits.softmax(1).numpy(), logits.numpy()


def deviation(engine: Engine, photos: Sequence[Rgb], wanted: Sequence[Outputs]) -> float:
    """The largest difference of any output, alone and in a batch, as a part of the largest output above 1."""
    differences = []
    for photo, outputs in zip(photos, wanted, strict=True):
        for count in (1, 3):
            found = engine(np.repeat(photo[None], count, axis=0))
            for ours, theirs in zip(found, outputs, strict=True):
                differences.append(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    return float(np.max(differences))  # not a number where any is not


def refuse_deviating(checks: dict[str, float], source: Path) -> None:
    for name, found in checks.items():
        if not found <= TOLERANCES[name]:
            allowed = f"more than {TOLERANCES[name]:g}"
            raise ModelError(f"{name} differs from {source} by {found:.2g}, {allowed}; nothing was written.")


# Sizes and times


def table_of(
    folder: Path, origin: ModelSource, engines: dict[str, Engine], checks: dict[str, float], named: str
) -> Table:
    """A row for each form, timed one after the other in this process."""
    forms = {WEIGHTS: "PyTorch (clrkit)", PROGRAM: "torch.export", ONNX: "onnxruntime"}
    rows = []
    for name, form in forms.items():
        size = sum(path.stat().st_size for path in folder.glob(f"{name}*"))
        times = [milliseconds(engines[name], origin.image_size, batch) for batch in BATCHES]
        found = f"{checks[name]:.1g}" if name in checks else "the original"
        rows.append([form, name, f"{size / 1e6:.2f} MB", found, *times])
    side, threads = origin.image_size, torch.get_num_threads()
    remark = (
        f"Deviation: of any output from the original's, on {named}. Times: milliseconds for a batch of "
        f"{side} x {side} images with preprocessing, median (quartiles), {threads} "
        f"{'thread' if threads == 1 else 'threads'} of {cpu_name()}."
    )
    columns = ["runs in", "file", "size", "deviation", *(f"batch of {batch}" for batch in BATCHES)]
    return Table("export", "Files and speed", remark, columns, rows)


def milliseconds(engine: Engine, side: int, batch: int) -> str:
    """Median time of a call, and its quartiles."""
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    times: list[float] = []
    engine(images)  # the first call allocates and compiles
    while len(times) < LEAST_REPEATS or sum(times) < 1000 * TIMED_SECONDS:
        began = perf_counter()
        engine(images)
        times.append(1000 * (perf_counter() - began))
    low, middle, high = quantiles(times, n=4)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
