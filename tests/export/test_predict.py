"""Predictions name the right classes for any image files; an export needs no PyTorch."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from absurd import absurd
from made_models import colour_export, finished_run
from PIL import Image, ImageOps

from clrkit import evaluate
from clrkit.cli.main import main
from clrkit.data.datasets import load
from clrkit.experiments.presets import preset
from clrkit.export.model_card import card
from clrkit.export.predict import Classifier, image_files, open_classifier, predictions
from clrkit.export.source import read_source
from clrkit.results.text import Table
from clrkit.runs.checksums import write_sums
from clrkit.runs.model_files import read_model
from clrkit.runs.store import Store

SURE = 1 / (1 + 2 * math.exp(-10))  # of a colour at its brightest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_export(tmp_path_factory.mktemp("models") / "colours")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One image of every colour, in folders of two levels."""
    for number, place in enumerate(("b.png", "a.gif", "sub/c.bmp")):
        path = tmp_path / "pictures" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((3 + number, 50, 3), np.uint8)
        pixels[:, :, number] = 255
        Image.fromarray(pixels).save(path)
    return tmp_path / "pictures"


def told(words: list[object], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    """What the command prints and says is wrong."""
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == status
    said = capsys.readouterr()
    return said.out, said.err


def refused(words: list[object], message: str, capsys: pytest.CaptureFixture[str], status: int = 1) -> None:
    out, err = told(words, capsys, status)
    assert out == ""
    assert err.startswith("clrkit: ")
    assert message in err
    assert err.count("\n") == 1


# What is told


def test_a_table_names_file_class_probability_and_runner_up(model, pictures, capsys):
    out, err = told([model, pictures / "sub", pictures / "b.png"], capsys)
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["file", "class", "probability", "runner-up", "probability"]
    assert rows[1] == [f"{pictures}/sub/c.bmp", "blue", "100.0%", "red", "0.0%"]
    assert rows[2][:2] == [f"{pictures}/b.png", "red"]
    assert len({line.index(row[1]) for line, row in zip(out.splitlines(), rows, strict=True)}) == 1
    assert (len(rows), err) == (3, "")


def test_folders_are_searched_with_all_below_them_but_hidden_ones(pictures):
    (pictures / ".hidden").mkdir()
    Image.new("RGB", (4, 4)).save(pictures / ".hidden" / "d.png")
    (pictures / "notes.txt").write_text("no image")
    assert image_files([pictures]) == [f"{pictures}/{name}" for name in ("a.gif", "b.png", "sub/c.bmp")]


def test_csv_and_json_hold_the_classes_asked_for(model, pictures, tmp_path, capsys):
    out, _ = told([model, pictures, "--csv", "-", "--top", 9], capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    ends = ("", "_2", "_3")
    names = [f"{name}{end}" for end in ends for name in ("class", "probability")]
    assert list(rows[0]) == ["file", *names, "problem"]
    assert {row["problem"] for row in rows} == {""}
    assert [row["class"] for row in rows] == ["green", "red", "blue"]
    assert [float(row["probability"]) for row in rows] == pytest.approx([SURE] * 3, abs=1e-6)
    assert told([model, pictures, "--json", tmp_path / "found.json", "--top", 1], capsys) == ("", "")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [[each["class"] for each in image["classes"]] for image in found] == [["green"], ["red"], ["blue"]]
    assert found[0]["classes"][0]["probability"] == pytest.approx(SURE, rel=1e-6)


def test_classes_without_names_are_numbers(tmp_path, pictures, capsys):
    unnamed = colour_export(tmp_path / "unnamed", classes=None)
    out, _ = told([unnamed, pictures / "b.png", "--csv", "-", "--top", 1], capsys)
    assert out.splitlines()[1].split(",")[1] == "0"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, orientation):
    path, exif = tmp_path / "photo.png", Image.Exif()
    exif[274] = orientation
    pixels = np.random.RandomState(0).randint(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    given: list[np.ndarray] = []

    def probabilities(photo: np.ndarray) -> np.ndarray:
        given.append(photo)
        return np.ones((1, 1), np.float32)

    assert Classifier(["any"], 40, probabilities)(str(path)) == [("any", 1.0)]
    np.testing.assert_array_equal(given[0][0], ImageOps.exif_transpose(Image.open(path)))


def test_a_finished_run_predicts_what_evaluate_measures(tmp_path):
    stage = preset("smoke").finetune
    run = finished_run(Store(tmp_path, "smoke"), stage)
    part = load(stage.images).evaluation.subset(np.arange(0, 1000, 50))
    for name, pixels in zip(part.names, next(part.views.batches([np.arange(20)])), strict=True):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    classifier = open_classifier(run)
    files = [str(tmp_path / f"{name}.png") for name in part.names]
    found = [dict(each.found) for each in predictions(classifier, files)]
    ours = torch.tensor([[each[name] for name in classifier.classes] for each in found])
    measured = evaluate.predict(read_model(run), part, 28, torch.device("cpu")).softmax(1)
    torch.testing.assert_close(ours, measured)
    assert len(measured.argmax(1).unique()) > 3  # else anything would do


@pytest.mark.parametrize("place", ["card", "documentation"])
def test_the_snippets_of_model_card_and_documentation_run(
    model, pictures, tmp_path, monkeypatch, capsys, place
):
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    if place == "card":
        run = finished_run(Store(tmp_path, "smoke"), preset("smoke").finetune)
        text = card(read_source(run), Table("export", "Files", "", ["file"], []))
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(model)
    Image.open(pictures / "sub" / "c.bmp").save(pictures / "c.png")
    exec(snippet.replace("image.png", str(pictures / "c.png")), {})
    assert "blue" in capsys.readouterr().out.splitlines()[0].split()


def test_an_export_predicts_without_torch(model, pictures):
    code = (
        "import sys; from clrkit.cli.main import main; "
        f"status = main(['predict', {str(model)!r}, {str(pictures)!r}, '--csv', '-']); "
        "print(status, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *loaded = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert "onnxruntime" in loaded
    assert not {"torch", "pandas", "matplotlib", "scipy", "onnx"} & set(loaded)


# What is wrong


def test_broken_images_are_named_and_the_others_go_on(model, pictures, capsys):
    (pictures / "a broken.png").write_text("no image")
    (pictures / "huge.png").write_bytes(absurd("png", 60_000))
    gone = pictures / "gone.png"
    out, err = told([model, pictures, gone, "--csv", "-"], capsys, status=1)
    rows, lines = list(csv.DictReader(io.StringIO(out))), err.splitlines()
    assert [row["class"] for row in rows] == ["", "green", "red", "", "blue", ""]
    assert [f"clrkit: {row['problem']}" for row in rows if row["problem"]] == lines
    said, _ = told([model, pictures, gone, "--json", "-"], capsys, status=1)
    assert [each["problem"] for each in json.loads(said)] == [row["problem"] for row in rows]
    assert [line.startswith("clrkit: The image ") for line in lines] == [True] * 3
    assert "a broken.png is broken" in lines[0]
    assert "huge.png has more than 89,478,485 pixels" in lines[1]
    assert str(gone) in lines[2]
    assert lines[2].endswith("No such file or directory.")


def test_unprintable_names_are_replaced(model, tmp_path, capsys):
    name = b"\xff\x1b[31m.png"
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    (tmp_path / "red.png").rename(tmp_path / name.decode(errors="surrogateescape"))
    out, _ = told([model, tmp_path, "--csv", "-"], capsys)
    assert "\N{REPLACEMENT CHARACTER}[31m.png,red" in out


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_file_that_was_changed_is_refused_by_its_checksum(tmp_path, pictures, capsys, name):
    folder = colour_export(tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"images", b"imagez").replace(b"red", b"rad"))
    refused([folder, pictures], f"{name} was changed since it was written", capsys)
    (folder / name).write_bytes(content)
    told([folder, pictures], capsys)
    (folder / "SHA256SUMS").unlink()
    refused([folder, pictures], "not listed in the SHA256SUMS", capsys)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{}", "does not describe an export"),
        ('{"about": {"image_size": 28, "classes": ["a"]}}', "names 1 classes, but model.onnx has 3"),
        ('{"about": {"image_size": "x", "classes": null}}', "does not describe an export"),
        ("[" * 100_000, "does not describe an export"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, pictures, capsys, about, message):
    folder = colour_export(tmp_path / "model")
    (folder / "model.json").write_text(about)
    write_sums(folder, ("model.onnx", "model.json"))
    refused([folder, pictures], message, capsys)


def test_a_broken_onnx_file_is_refused(tmp_path, pictures, capsys):
    folder = colour_export(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"no model")
    write_sums(folder, ("model.onnx", "model.json"))
    refused([folder, pictures], "onnxruntime cannot run", capsys)


def test_an_impossible_prediction_is_refused_in_one_sentence(model, pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refused([model, tmp_path / "empty"], "has no images", capsys)
    refused([tmp_path / "empty", pictures], "is not a model", capsys)
    refused([model, pictures, "--top", 0], "--top must be at least 1", capsys, status=2)
    refused([model / "model.onnx", pictures], f"is a file; give the folder of the model, {model}", capsys)
    refused([model, pictures, "--csv", tmp_path], "cannot be written: it is a folder", capsys)
    pretrained = finished_run(Store(tmp_path, "smoke"), preset("smoke").finetune.pretrain)
    refused([pretrained, pictures], "has no classifier", capsys)


def test_an_unwritable_target_is_refused_before_the_work(model, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("clrkit.export.predict.open_classifier", lambda _: pytest.fail("it works already"))
    target = tmp_path / "gone" / "x.csv"
    refused([model, pictures, "--csv", target], "cannot be written: its folder does not exist", capsys)


def test_a_file_is_replaced_whole_or_stays(model, pictures, tmp_path, capsys, monkeypatch):
    target = tmp_path / "found.csv"
    target.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        refused([model, pictures, "--csv", target], "cannot be written: No space left on device", capsys)
    assert target.read_text() == "before"
    told([model, pictures, "--csv", target], capsys)
    assert target.read_text().startswith("file,class")


def test_no_class_is_a_formula_in_a_spreadsheet(tmp_path, pictures, capsys):
    hostile = colour_export(tmp_path / "hostile", classes=("=cmd()", "@sum", "-1+1"))
    out, _ = told([hostile, pictures, "--csv", "-", "--top", 1], capsys)
    assert {row["class"] for row in csv.DictReader(io.StringIO(out))} == {"'=cmd()", "'@sum", "'-1+1"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("form", [[], ["--csv", "-"]])
def test_a_full_output_is_reported_in_one_sentence(model, pictures, form):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "clrkit", "predict", str(model), str(pictures), *form]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "clrkit: The output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, said)
