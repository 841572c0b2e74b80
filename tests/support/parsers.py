"""Samples of every kind of outside file, what is done to them, and who reads them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import synthetic
from bundle_writer import SAMPLE, write_bundle
from mutations import (
    Mutation,
    by_chance,
    compressed,
    other_array,
    other_chunk,
    other_file,
    other_header,
    other_lines,
    other_member,
    other_values,
)
from PIL import Image

from clrkit.config import Data, Finetune
from clrkit.data.archives import unpack
from clrkit.data.cache import DECODER, CacheEntry, fingerprint_of, noted, read_cache, write_part
from clrkit.data.folders import list_images
from clrkit.data.images import FORMATS, read_photo
from clrkit.data.sheet import read_labels
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.data.subsets import listed_subset
from clrkit.data.torchvision_sets import array_split
from clrkit.errors import ConfigError, FormatError
from clrkit.experiments.presets import preset
from clrkit.model import Model, ModelConfig
from clrkit.notebook.papermill import checked_parameters
from clrkit.runs.check import check_run
from clrkit.runs.checkpoint import read_state, write_state
from clrkit.runs.model_files import read_model, write_model
from clrkit.runs.store import progress_noted, read_run
from clrkit.weights.index_file import Message, read_table
from clrkit.weights.tensor_bundle import TensorBundle, object_graph


@dataclass(frozen=True)
class Parser:
    """A sample of what is read, what is done to some of its files, and who reads it from their folder.

    `read` may raise ConfigError and nothing else.
    """

    files: Mapping[str, bytes]
    mutations: Mapping[str, tuple[Mutation, ...]]
    read: Callable[[Path], Any]


def saved(write: Callable[[Path], Any]) -> dict[str, bytes]:
    """The files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        files = [path for path in Path(name).rglob("*") if path.is_file()]
        return {str(path.relative_to(name)): path.read_bytes() for path in files}


def image(kind: str, **options: Any) -> Parser:
    pixels = np.random.RandomState(0).randint(0, 256, (12, 10, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(
        buffer, kind, **options, **({} if kind in ("BMP", "GIF", "PPM") else {"exif": exif})
    )

    def read(folder: Path) -> None:
        for enough in (None, 4):
            photo = read_photo(str(folder / "image"), enough)
            assert photo.pixels.dtype == np.uint8
            assert min(photo.pixels.shape[:2]) >= 1

    mutations = (by_chance, other_chunk) if kind == "PNG" else (by_chance,)
    return Parser({"image": buffer.getvalue()}, {"image": mutations}, read)


def archive(kind: str) -> Parser:
    names = {"set/ape/1.png": b"one" * 99, "set/bat/ö.png": bytes(700), "set/" + "x" * 120: b""}

    def write(folder: Path) -> None:
        if kind == "zip":
            with zipfile.ZipFile(folder / "archive", "w", zipfile.ZIP_DEFLATED) as made:
                for name, data in names.items():
                    made.writestr(name, data)
            return
        with tarfile.open(folder / "archive", "w:gz" if kind == "tgz" else "w") as made:
            for name, data in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))

    def read(folder: Path) -> None:
        try:
            unpack(folder / "archive", folder / "out", most=10**6)
        finally:
            assert {path.name for path in folder.iterdir()} <= {"archive", "out"}
            assert {path.name for path in folder.parent.iterdir()} == {folder.name}
            shutil.rmtree(folder / "out", ignore_errors=True)

    mutations = {"zip": (), "tar": (other_member,), "tgz": (compressed(other_member), compressed(by_chance))}
    return Parser(saved(write), {"archive": (by_chance, *mutations[kind])}, read)


def small_set() -> DataSet:
    pixels = np.arange(144, dtype=np.uint8).reshape(3, 3, 4, 4)
    part = Split(
        PixelArray(pixels, np.ones(3, np.float32)), np.array([0, 1, -1]), ["a/0.png", "b/1.png", "2.png"]
    )
    return DataSet(part, part, ("ape", "bat"))


def cached() -> Parser:
    def write(folder: Path) -> None:
        for name, part in (("train", small_set().train), ("test", small_set().evaluation)):
            write_part(folder, name, part)
        note = {"identity": "id", "decoder": DECODER, "fingerprint": fingerprint_of(small_set())}
        (folder / "note.json").write_text(json.dumps(note | {"classes": ["ape", "bat"]}))

    def read(folder: Path) -> None:
        @dataclass(frozen=True)
        class Here(CacheEntry):
            @property
            def folder(self) -> Path:
                return folder

        source = Here("set", "id", small_set)
        noted(source)
        found = read_cache(source, lambda line: None)
        assert found is None or np.array_equal(found.train.pixels.array, small_set().train.pixels.array)

    files = saved(write)
    mutations = {name: (by_chance, other_array if name.endswith("npy") else other_values) for name in files}
    return Parser(files, mutations, read)


def labels() -> Parser:
    return Parser(
        {"labels.csv": b'file,label\n0.png,ape\n"deep/1.png","a ""b"""\n'},
        {"labels.csv": (by_chance, other_lines)},
        lambda folder: read_labels(str(folder / "labels.csv")),
    )


def label_list() -> Parser:
    return Parser(
        {"list": b"a/0.png\n1.png\n\n"},
        {"list": (by_chance, other_lines)},
        lambda folder: listed_subset(small_set().train, str(folder / "list")),
    )


def class_folders() -> Parser:
    """The sample is a list of paths below the root, each ended by a NUL."""

    def read(folder: Path) -> None:
        root = folder / "root"
        root.mkdir()
        try:
            for name in (folder / "paths").read_bytes().split(b"\0"):
                parts = [part[:40] for part in name.split(b"/") if part not in (b"", b".", b"..")][:4]
                path = Path(os.fsdecode(b"/".join([os.fsencode(root), *parts])))
                if parts and not path.exists() and not any(parent.is_file() for parent in path.parents):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
            for dataset in ("folder", "imagenet"):
                list_images(Data(dataset=dataset, root=str(root))).both()
        finally:
            shutil.rmtree(root)

    sample = b"".join(
        b"train/%b/%d.png\0val/%b/%d.png\0" % (c, n, c, n) for c in (b"ape", b"b\xc3\xb6") for n in (1, 2)
    )
    return Parser({"paths": sample}, {"paths": (by_chance,)}, read)


def model_folder() -> Parser:
    settings = ModelConfig(network=preset("smoke").pretrain.network, classes=3)
    files = saved(
        lambda folder: write_model(folder / "model", settings, Model(settings).state_dict(), {"a": 1})
    )
    mutations = {
        "model/weights.safetensors": (by_chance, other_header),
        "model/model.json": (by_chance, other_values),
    }
    return Parser(files, mutations, lambda folder: read_model(folder / "model"))


def run() -> Parser:
    """A finished run whose checksums are right, whatever its record and history hold."""
    record = synthetic.record(Finetune(), lambda stage: 50.0)
    name = f"finetune-{record['key']}"
    history = {"step": [1, 2], "loss": [0.5, 0.25], "learning_rate": [0.1, 0.1], "knn": [[2, 0.5]]}

    def read(results: Path) -> None:
        folder = results / name
        sums = "".join(
            f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in ("history.json", "record.json")
        )
        (folder / "SHA256SUMS").write_text(sums)
        found = read_run(folder)
        assert found
        assert isinstance(found.record, dict)
        assert isinstance(found.metrics, dict)
        assert isinstance(found.history, dict)

    contents = {"record.json": record, "history.json": history}
    files = {f"{name}/{file}": json.dumps(content).encode() for file, content in contents.items()}
    return Parser(files, dict.fromkeys(files, (by_chance, other_values)), read)


def sums() -> Parser:
    record, sums = "probe-0/record.json", "probe-0/SHA256SUMS"
    files = {record: b'{"stage": "probe", "key": "0", "config": {}, "metrics": {}}'}
    files[sums] = f"{hashlib.sha256(files[record]).hexdigest()}  record.json\n".encode()
    mutations = {sums: (by_chance, other_lines, other_file), record: (by_chance,)}
    return Parser(files, mutations, lambda folder: check_run(folder / "probe-0"))


def progress() -> Parser:
    return Parser(
        {"run.partial/progress.json": b'{"step": 3, "total": 7}'},
        {"run.partial/progress.json": (by_chance, other_values)},
        lambda folder: progress_noted(folder / "run"),
    )


def state() -> Parser:
    files = saved(lambda folder: write_state(folder / "state", {"training": {"step": 3}}))
    whole = files["state"]

    def read(folder: Path) -> None:
        assert read_state(folder / "state") in (b"", whole[65:])

    return Parser(files, {"state": (by_chance,)}, read)


def known_set() -> Parser:
    """Files of another MD5: torchvision must not read them."""
    names = ("train", "test", "meta")
    files = {
        f"cifar-100-python/{name}": pickle.dumps({"data": bytes(3072), "fine_labels": [0]}) for name in names
    }
    return Parser(
        files,
        dict.fromkeys(files, (by_chance,)),
        lambda folder: array_split("cifar100", "test", folder, lambda line: None),
    )


def notebook() -> Parser:
    cells = [
        nbformat.v4.new_code_cell("preset = 'mini'\nwidth = None  # of it"),
        nbformat.v4.new_markdown_cell("# A"),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel))
    return Parser(
        {"01_a.ipynb": text.encode()},
        {"01_a.ipynb": (by_chance, other_values)},
        lambda folder: checked_parameters(folder / "01_a.ipynb", {"preset": "smoke"}),
    )


def bundle() -> Parser:
    def read(folder: Path) -> None:
        found = TensorBundle(folder)
        for name, entry in found.entries.items():
            found.strings(name) if entry.dtype == "string" else found.read(name)

    files = saved(lambda folder: write_bundle(folder / "ckpt-1", SAMPLE))
    return Parser(files, dict.fromkeys(files, (by_chance,)), read)


def table() -> Parser:
    """Tables and protobuf messages by themselves; their errors become CheckpointErrors further up."""
    index = bundle().files["ckpt-1.index"]

    def read(folder: Path) -> None:
        data = (folder / "index").read_bytes()
        try:
            object_graph(data)
            message = Message(data)
            for number in range(16):
                list(message.messages(number))
            list(read_table(data))
        except FormatError as error:
            raise ConfigError(str(error)) from None

    return Parser({"index": index}, {"index": (by_chance,)}, read)


PARSERS: dict[str, Callable[[], Parser]] = {
    **{f"an archive, {kind}": partial(archive, kind) for kind in ("zip", "tar", "tgz")},
    **{f"an image, {kind}": partial(image, kind) for kind in FORMATS if kind != "WEBP"},
    "an image, TIFF by LZW": partial(image, "TIFF", compression="tiff_lzw"),
    "an image, WebP": partial(image, "WEBP", lossless=True),
    "a cached set": cached,
    "a CSV of labels": labels,
    "a label list": label_list,
    "class folders": class_folders,
    "a model folder": model_folder,
    "a run's record and history": run,
    "a run's checksums": sums,
    "a run's progress": progress,
    "a run's state": state,
    "CIFAR": known_set,
    "a notebook": notebook,
    "a TensorFlow checkpoint": bundle,
    "a table and its messages": table,
}
