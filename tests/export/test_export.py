"""An export computes what the original computes, or is not written."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from made_models import finished_run
from PIL import Image

from clrkit.cli.main import main
from clrkit.config import Network
from clrkit.data.datasets import tinted_mnist
from clrkit.data.images import photo_of, to_view
from clrkit.experiments.presets import preset
from clrkit.export import export as module
from clrkit.export.export import Engine, Exported, by_torch, export
from clrkit.export.exported_module import ExportedModule
from clrkit.export.source import ModelSource, read_source
from clrkit.model import Model, ModelConfig
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.model_files import ModelError, read_model, write_model
from clrkit.runs.store import Store

SMOKE = preset("smoke")
FILES = ["README.md", "SHA256SUMS", "model.json", "model.onnx", "model.pt2", "weights.safetensors"]
SHAPES = [(28, 28), (2, 2), (40, 52), (131, 29)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"), "smoke")


@pytest.fixture(scope="module")
def run(store: Store) -> Path:
    return finished_run(store, SMOKE.finetune)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(run, tmp_path_factory.mktemp("exports") / "digits")


def photos(count: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def views(images: np.ndarray, size: int) -> torch.Tensor:
    """What clrkit measures of the images."""
    return torch.from_numpy(np.stack([to_view(photo_of(image), size, exact=True) for image in images]))


def onnx_outputs(folder: Path, names: list[str], images: np.ndarray) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(names, {"images": images})]


def measured(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    return found


# What is written


@pytest.mark.slow
def test_a_folder_has_every_form_and_their_checksums(exported: Exported) -> None:
    assert sorted(path.name for path in exported.folder.iterdir()) == FILES
    assert [path.name for path in exported.folder.parent.iterdir()] == ["digits"]
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=exported.folder, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b": OK\n") == len(FILES) - 1
    for name, size in exported.files.items():
        assert (exported.folder / name).stat().st_size == size
    for name in ("model.onnx", "model.pt2"):
        assert os.fsencode(Path(module.__file__).parents[1]) not in (exported.folder / name).read_bytes()


@pytest.mark.slow
def test_the_card_lists_every_file_with_its_deviation(exported: Exported) -> None:
    assert exported.checks.keys() == {"model.onnx", "model.pt2"}
    assert exported.checks["model.onnx"] < 1e-4
    assert exported.checks["model.pt2"] < 1e-5
    card = (exported.folder / "README.md").read_text()
    assert [row[1] for row in exported.table.rows] == ["weights.safetensors", "model.pt2", "model.onnx"]
    for row in exported.table.rows:
        assert f"| {' | '.join(row)} |" in card
    assert "32 images of the data set and 3 of noise" in card


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 5])
def test_every_form_gives_the_outputs_of_the_original(
    run: Path, exported: Exported, shape: tuple[int, int], count: int
) -> None:
    images = photos(count, *shape)
    with torch.no_grad():
        logits = read_model(run)(views(images, 28))
        program = torch.export.load(exported.folder / "model.pt2").module()(torch.from_numpy(images))
    wanted = (logits.softmax(1), logits)
    found = onnx_outputs(exported.folder, ["probabilities", "logits"], images)
    torch.testing.assert_close(tuple(found), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tuple(program), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_onnx_file_alone_names_the_classes(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["classes"]) == [str(digit) for digit in range(10)]
    assert known["image_size"] == "28"


@pytest.mark.slow
def test_an_export_is_evaluated_as_the_run(run: Path, exported: Exported, capsys) -> None:
    ours, theirs = (
        measured([str(each), "--dataset", "tinted_mnist"], capsys) for each in (exported.folder, run)
    )
    assert ours["top1"] == theirs["top1"]
    assert ours["loss"] == theirs["loss"]


@pytest.mark.slow
def test_predict_is_right_as_often_as_evaluate_says(exported: Exported, tmp_path: Path, capsys) -> None:
    digits = tinted_mnist(SMOKE.finetune.images).evaluation
    for index in range(0, 1000, 5):
        folder = tmp_path / "val" / str(digits.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(digits.pixels.array[index].transpose(1, 2, 0))
        image = image.resize((28 + index % 40, 28 + index % 30)).convert(("RGB", "P", "CMYK")[index % 3])
        image.save(folder / f"{index}{('.png', '.gif', '.jpg')[index % 3]}")
    found = measured(
        [str(exported.folder), "--dataset", "folder", "--root", str(tmp_path), "--image_size", "28"], capsys
    )
    assert main(["predict", str(exported.folder), str(tmp_path), "--json", "-", "--top", "1"]) == 0
    images = json.loads(capsys.readouterr().out)
    named = {each["file"]: each["classes"][0]["class"] for each in images}
    right = sum(Path(file).parent.name == name for file, name in named.items())
    assert len(named) == found["images"] == 200
    assert right / 200 == pytest.approx(found["top1"])
    assert len(set(named.values())) > 3


@pytest.mark.slow
def test_a_pretrained_model_gives_features(store: Store, tmp_path: Path, capsys) -> None:
    run = finished_run(Store(tmp_path, "smoke"), SMOKE.finetune.pretrain)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"{tmp_path}/out: README.md, model.json, model.onnx, model.pt2, weights.safetensors"
    )
    assert "onnxruntime" in said
    images = photos(3, 40, 52)
    with torch.no_grad():
        wanted = read_model(run).encoder(views(images, 28))
    torch.testing.assert_close(onnx_outputs(tmp_path / "out", ["features"], images)[0], wanted)


@pytest.mark.slow
def test_an_imported_model_is_exported_at_the_size_given_with_numbers_for_classes(tmp_path: Path) -> None:
    network = Network(depth=18, width=0.125, sk_ratio=0.0625, stem="imagenet")
    model = Model(ModelConfig(network=network, classes=10)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # as those that close a block are drawn
            torch.nn.init.normal_(parameter)
    write_model(tmp_path / "imported", model.config, model.state_dict(), {"source": "elsewhere"})
    with pytest.raises(ModelError, match="does not say how large its images are; give --image_size"):
        export(tmp_path / "imported", tmp_path / "out")
    export(tmp_path / "imported", tmp_path / "out", image_size=40)
    images = photos(2, 70, 61)
    with torch.no_grad():
        logits = model(views(images, 40))
    torch.testing.assert_close(
        onnx_outputs(tmp_path / "out", ["logits"], images)[0], logits, rtol=1e-4, atol=1e-4
    )
    again = read_source(tmp_path / "out")
    assert (again.image_size, again.names, again.classes) == (40, None, tuple("0123456789"))


# What is not


@pytest.mark.parametrize(
    ("name", "error"), [("model.onnx", 3e-4), ("model.pt2", 3e-5), ("model.onnx", math.nan)]
)
def test_a_program_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: float
) -> None:
    def programs(folder: Path, origin: ModelSource) -> dict[str, Engine]:
        (folder / name).write_bytes(b"a program")
        exact = by_torch(ExportedModule(origin.model, origin.image_size).eval())
        wrong = lambda images: tuple(each + error * (each == each.max()) for each in exact(images))  # noqa: E731
        return dict.fromkeys(("model.pt2", "model.onnx"), exact) | {name: wrong}

    monkeypatch.setattr(module, "write_programs", programs)
    monkeypatch.setattr(module, "at_hand", lambda data: False)
    with pytest.raises(ModelError, match=rf"^{name} differs from .*; nothing was written\.$"):
        export(run, tmp_path / "exports" / "digits")
    assert list((tmp_path / "exports").iterdir()) == []


def test_sources_without_a_model_are_refused(store: Store, run: Path, tmp_path: Path, capsys) -> None:
    probe = finished_run(Store(tmp_path, "smoke"), SMOKE.finetune)
    record = json.loads((probe / "record.json").read_text())
    (probe / "SHA256SUMS").unlink()
    for place, message in ((tmp_path, "is not a model"), (probe, "SHA256SUMS")):
        with pytest.raises((ModelError, ChecksumError), match=message):
            export(place, tmp_path / "out")
    (probe / "record.json").write_text(json.dumps(record | {"model": None}))
    with pytest.raises(ModelError, match="stores no model"):
        export(probe, tmp_path / "out")
    assert main(["export", str(probe), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damaged_weights_and_a_folder_that_is_there_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="there already exists"):
        export(run, tmp_path / "there")
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(content)
    with pytest.raises(ChecksumError, match=r"weights\.safetensors was changed"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_and_a_read_only_disk_are_named_and_nothing_is_left(run: Path, disk: Path) -> None:
    for ballast in (40_000, 180_000):  # as the program, and as the weights are written
        (disk / "ballast").write_bytes(bytes(ballast))
        with pytest.raises(ModelError, match=r"cannot be written to \S+: .*No space left on device"):
            export(run, disk / "out")
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(ModelError, match="Read-only file system"):
        export(run, disk / "out")


# From images to an answer


@pytest.mark.slow
def test_a_run_that_was_trained_is_exported_and_predicts(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "distill", "--preset", "smoke", "--results", "results"]) == 0
    student = next((tmp_path / "results" / "smoke" / "runs").glob("distill-*"))
    assert main(["export", str(student)]) == 0
    out = tmp_path / "exports" / student.name
    card = (out / "README.md").read_text()
    assert all(f"| {stage} |" in card for stage in ("pretrain", "finetune", "distill"))
    assert "not known" not in card
    digit = tinted_mnist(SMOKE.finetune.images).evaluation.pixels.array[0]
    Image.fromarray(digit.transpose(1, 2, 0)).save("image.png")
    answers = []
    for place in (out, student):
        capsys.readouterr()
        assert main(["predict", str(place), "image.png", "--json", "-", "--top", "10"]) == 0
        answers.append(json.loads(capsys.readouterr().out)[0]["classes"])
    for ours, theirs in zip(*(sorted(each, key=lambda one: one["class"]) for each in answers), strict=True):
        assert ours["class"] == theirs["class"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
