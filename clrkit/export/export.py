"""Export a model for use without clrkit: as ONNX and torch.export, checked, with a model card."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.export import Dim, ExportedProgram

from clrkit.config import Data
from clrkit.data.datasets import at_hand, load_evaluation
from clrkit.data.files import write_atomically
from clrkit.data.images import WHOLE, Rgb, photo_of, to_view, upright
from clrkit.data.splits import PixelArray, PixelStream
from clrkit.errors import DataError
from clrkit.export.exported_module import ExportedModule
from clrkit.export.model_card import card
from clrkit.export.source import ModelSource, read_source
from clrkit.results.text import Table
from clrkit.runs.checksums import write_sums
from clrkit.runs.model_files import WEIGHTS, ModelError, new_folder, refuse_existing, write_files
from clrkit.runs.provenance import provenance

ONNX, PROGRAM, CARD = "model.onnx", "model.pt2", "README.md"
TOLERANCES = {ONNX: 1e-4, PROGRAM: 1e-5}
PATHS = ("root", "labels_csv", "label_list")  # config fields that name files
OPSET = 18  # the oldest with all operators needed
CHECKED = 32  # images of the data set

Batch = UInt8[np.ndarray, "batch height width 3"]
Outputs = tuple[Float[np.ndarray, "batch _"], ...]
Engine = Callable[[Batch], Outputs]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: of the files.
        files: their sizes in bytes, by name.
        checks: largest deviation of each program from the original model (`deviation`), by file.
        table: sizes and deviations.
    """

    folder: Path
    files: dict[str, int]
    checks: dict[str, float]
    table: Table


def export(source: Path, out: Path, image_size: int | None = None) -> Exported:
    """Write a model as ONNX, torch.export and safetensors with a model card, atomically.

    Args:
        source: folder of a finished run, or of a model.
        out: folder to write; must not exist.
        image_size: side of the images, for a model folder that does not give it.

    Raises:
        ModelError: if there is no model, the folder exists or cannot be written, or a program deviates.
        ChecksumError: if a run's files have changed.
    """
    refuse_existing(out)
    model = read_source(source, image_size)
    photos, named = sample(model)
    wanted = [original(model, photo) for photo in photos]
    with new_folder(out) as folder, torch.no_grad():
        write_files(folder, model.model.config, model.model.state_dict(), about(model))
        engines = write_programs(folder, model)
        checks = {name: deviation(engine, photos, wanted) for name, engine in engines.items()}
        for name, found in checks.items():
            if not found <= TOLERANCES[name]:  # NaN, too
                raise ModelError(
                    f"{name} differs from {source} by {found:.2g}, more than {TOLERANCES[name]:g}; nothing "
                    "was written."
                )
        table = table_of(folder, checks, named)
        write_atomically(folder / CARD, card(model, table).encode())
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        write_sums(folder, files)
    return Exported(out, files, checks, table)


def about(source: ModelSource) -> dict[str, object]:
    """What the description holds beside the model: enough to predict, evaluate and export again."""
    known = {"image_size": source.image_size, "classes": source.names}
    records = [{**each, "config": without_folders(each["config"])} for each in source.records.values()]
    return {"source": source.folder.resolve().name, **known, **provenance(), "records": records}


def without_folders(config: object, field: str = "") -> object:
    """A recorded config with file names in place of paths on this machine."""
    if isinstance(config, dict):
        return {name: without_folders(value, name) for name, value in config.items()}
    return Path(config).name if field in PATHS and isinstance(config, str) else config


def table_of(folder: Path, checks: dict[str, float], sample: str) -> Table:
    """Size and deviation of each form of the model."""
    forms = {WEIGHTS: "PyTorch (clrkit)", PROGRAM: "torch.export", ONNX: "onnxruntime"}
    rows = []
    for name, form in forms.items():
        size = sum(path.stat().st_size for path in folder.glob(f"{name}*"))
        rows.append([form, name, f"{size / 1e6:.2f} MB", f"{checks[name]:.1g}" if name in checks else "0"])
    remark = f"Deviation: largest difference of an output from the original model, on {sample}."
    return Table("export", "Files", remark, ["runs in", "file", "size", "deviation"], rows)


def write_programs(folder: Path, source: ModelSource) -> dict[str, Engine]:
    """Write both programs and read them back, as functions by file name."""
    module = ExportedModule(source.model, source.image_size).eval()
    program = traced(module)
    write_onnx(folder / ONNX, program, module, source.classes)
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(folder / PROGRAM, content.getbuffer())
    # `load` unpickles, so clrkit reads only this file, which it has just written.
    again = torch.export.load(io.BytesIO((folder / PROGRAM).read_bytes())).module()
    return {PROGRAM: by_torch(again), ONNX: by_onnx(folder / ONNX, module.outputs)}


def traced(module: ExportedModule) -> ExportedProgram:
    """The model as a graph for any number of images of any size, without paths of this machine."""
    example = torch.zeros(2, module.size + 7, module.size + 13, 3, dtype=torch.uint8)
    free = {"images": dict.fromkeys(range(3), Dim.DYNAMIC)}
    program = torch.export.export(module, (example,), dynamic_shapes=free)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_onnx(path: Path, program: ExportedProgram, module: ExportedModule, classes: Sequence[str]) -> None:
    """Write the graph as ONNX, with class names in its metadata; above 2 GB, the weights lie beside it."""
    made = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=module.outputs,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    made.model.metadata_props["classes"] = json.dumps(classes)
    made.model.metadata_props["image_size"] = str(module.size)
    made.save(path)


def by_torch(module: Callable[[Tensor], tuple[Tensor, ...]]) -> Engine:
    """A PyTorch module as a function of arrays."""

    def run(images: Batch) -> Outputs:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(torch.from_numpy(images)))

    return run


def by_onnx(path: Path, outputs: Sequence[str]) -> Engine:
    """The ONNX file as a function of arrays, with as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(outputs, {"images": images}))


def sample(source: ModelSource) -> tuple[list[Rgb], str]:
    """Photographs to check on, and their description: images of the data set if available, and noise."""
    random, side = np.random.default_rng(0), source.image_size
    shapes = [(side, side), (2 * side, side + 5), (side // 2, 3 * side)]
    noise = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    real = photos_of(source.stage.images) if source.stage and at_hand(source.stage.images) else []
    named = f"{len(real)} images of the data set and " if real else ""
    return [*real, *noise], f"{named}{len(noise)} of noise"


def photos_of(data: Data) -> list[Rgb]:
    """Some test images, decoded and upright, spread over the set; none if they cannot be read."""
    try:
        pixels = load_evaluation(data)[0].pixels
        chosen = np.linspace(0, len(pixels) - 1, min(CHECKED, len(pixels))).astype(int)
        if isinstance(pixels, PixelArray):
            return [np.ascontiguousarray(pixels.array[index].transpose(1, 2, 0)) for index in chosen]
        assert isinstance(pixels, PixelStream)
        enough = data.image_size if data.image_size <= WHOLE else None
        found = [pixels.photo(int(index), enough) for index in chosen]
    except DataError:
        return []
    return [np.ascontiguousarray(upright(photo.pixels, photo.orientation)) for photo in found]


def original(source: ModelSource, photo: Rgb) -> Outputs:
    """The original model's outputs for clrkit's evaluation view of a photograph."""
    model, view = source.model, to_view(photo_of(photo), source.image_size, exact=True)
    with torch.no_grad():
        images = torch.from_numpy(view[None])
        if model.classifier is None:
            return (model.encoder(images).numpy(),)
        logits = model(images)
        return logits.softmax(1).numpy(), logits.numpy()


def deviation(engine: Engine, photos: Sequence[Rgb], wanted: Sequence[Outputs]) -> float:
    """Largest difference of any output, alone and in a batch, relative to the largest output above 1."""
    differences = []
    for photo, outputs in zip(photos, wanted, strict=True):
        for count in (1, 3):
            found = engine(np.repeat(photo[None], count, axis=0))
            for ours, theirs in zip(found, outputs, strict=True):
                differences.append(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    return float(np.max(differences))  # NaN if any is
