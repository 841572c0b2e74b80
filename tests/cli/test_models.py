"""Importing a released checkpoint and evaluating a model, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import graph, write_bundle
from checkpoint_variables import CHECKPOINT, variables
from PIL import Image

from clrkit.cli.main import main
from clrkit.config import Network
from clrkit.data.resize import central_crop
from clrkit.model import Model, ModelConfig
from clrkit.runs.model_files import read_model, write_model
from clrkit.weights.official import convert

CLASSES = ["n01", "n02", "n03"]
SIDES = [(40, 52), (64, 48), (57, 57)]  # height, width


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TF1 checkpoint with three classes, and the optimiser's slots."""
    prefix = tmp_path_factory.mktemp("tf1") / "model.ckpt-7"
    slots = {f"{name}/Momentum": array for name, array in TINY.items()}
    write_bundle(prefix, {**TINY, **slots, "global_step": np.array(7, dtype=np.int64)})
    return prefix


TINY = variables(Network(depth=18, width=0.0625, stem="imagenet"), layers=2, classes=3)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three classes of three images in ImageNet's layout, without the training part, of several shapes."""
    random = np.random.RandomState(0)
    for name in CLASSES:
        folder = tmp_path / "imagenet" / "val" / name
        folder.mkdir(parents=True)
        for number, side in enumerate(SIDES):
            pixels = random.randint(0, 256, (*side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "imagenet"


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def test_a_checkpoint_becomes_a_model_folder(checkpoint, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["import-official", str(checkpoint), str(out)]) == 0
    said = "R18 0.0625x, head of 2 layers to 16, 3 classes on the encoder's output"
    assert capsys.readouterr().out.splitlines()[0] == f"{out}: {said}"
    assert sorted(path.name for path in out.iterdir()) == ["SHA256SUMS", "model.json", "weights.safetensors"]
    config, state = convert(TINY)
    model = read_model(out)
    assert model.config == config
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_a_tf2_checkpoint_becomes_the_same_model(tmp_path, checkpoint):
    names = {f"model/{number}/.ATTRIBUTES/VARIABLE_VALUE": name for number, name in enumerate(TINY)}
    tensors = {key: TINY[name] for key, name in names.items()}
    nodes = graph(*names.items())
    write_bundle(tmp_path / "ckpt-3", {**tensors, "_CHECKPOINTABLE_OBJECT_GRAPH": [nodes]})
    for prefix, out in ((checkpoint, "a"), (tmp_path / "ckpt-3", "b")):
        assert main(["import-official", str(prefix), str(tmp_path / out)]) == 0
    first, second = (read_model(tmp_path / out).state_dict() for out in "ab")
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_accuracy_is_that_of_the_official_evaluation_view(checkpoint, imagenet, tmp_path, capsys):
    out = tmp_path / "model"
    main(["import-official", str(checkpoint), str(out)])
    capsys.readouterr()
    words = ["evaluate", str(out), "--dataset", "imagenet", "--root", str(imagenet), "--image_size", "40"]
    assert main([*words, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    model, right, losses = read_model(out), 0, []
    for label, name in enumerate(CLASSES):
        for path in sorted((imagenet / "val" / name).iterdir()):
            with torch.no_grad():
                logits = model(central_crop(pixels_of(path), 40)[None])
            right += int(logits.argmax() == label)
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item())
    assert measured["top1"] == pytest.approx(right / 9)
    assert measured["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured["images"] == 9
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"top-1 {100 * right / 9:.2f}% (95%: ")


def test_the_older_resize_gives_other_logits(checkpoint, imagenet, tmp_path, capsys):
    main(["import-official", str(checkpoint), str(tmp_path / "model")])
    words = ["evaluate", str(tmp_path / "model"), "--dataset", "imagenet", "--root", str(imagenet)]
    losses = []
    for resize in ("tf1", "tf2"):
        capsys.readouterr()
        assert main([*words, "--image_size", "40", "--resize", resize, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] != losses[1]


def refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str], status: int = 1) -> None:
    capsys.readouterr()
    assert main(words) == status
    said = capsys.readouterr().err
    assert said.startswith("clrkit: ")
    assert message in said
    assert said.count("\n") == 1


def test_what_cannot_be_imported_is_refused_in_one_sentence_and_leaves_nothing(checkpoint, tmp_path, capsys):
    out = tmp_path / "model"
    refused(["import-official", str(tmp_path / "none"), str(out)], "none", capsys)
    words = ["import-official", str(checkpoint), str(out)]
    refused([*words, "--ema"], "no momentum encoder", capsys)
    refused([*words, "--tap_layer", "3"], "tap_layer must be from 0 to 2", capsys)
    assert not list(tmp_path.iterdir())
    main(words)
    refused(words, "already exists", capsys)


@pytest.mark.slow
def test_a_model_that_does_not_fit_the_data_is_refused(checkpoint, imagenet, tmp_path, capsys):
    model = str(tmp_path / "model")
    main(["import-official", str(checkpoint), model])
    refused(["evaluate", model, "--dataset", "tinted_mnist"], "has 3 classes; tinted_mnist has 10", capsys)
    refused(["evaluate", model, "--dataset", "imagenets"], "did you mean imagenet?", capsys, status=2)
    refused(
        ["evaluate", model, "--dataset", "folder", "--root", str(imagenet)],
        "needs --image_size",
        capsys,
        status=2,
    )
    refused(["evaluate", model, "--dataset", "imagenet"], "--root DIR", capsys)
    refused(["evaluate", str(imagenet), "--dataset", "imagenet"], "is not a model", capsys)


def test_a_model_that_says_its_size_is_measured_at_it_on_a_folder(tmp_path, capsys):
    config = ModelConfig(network=Network(depth=8, width=0.25, stem="cifar"), head_layers=0, classes=2)
    about = {"image_size": 20, "classes": ["a", "b"]}
    write_model(tmp_path / "model", config, Model(config).state_dict(), about)
    for name in about["classes"]:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (24, 24), "red").save(tmp_path / "val" / name / "0.png")
    words = ["evaluate", str(tmp_path / "model"), "--dataset", "folder", "--root", str(tmp_path), "--json"]
    for asked, size in (([], 20), (["--image_size", "16"], 16)):
        assert main([*words, *asked]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["image_size"], found["images"]) == (size, 2)


def test_a_model_without_classifier_is_refused(tmp_path, imagenet, capsys):
    bare = {name: array for name, array in CHECKPOINT.items() if not name.startswith("head_supervised")}
    write_bundle(tmp_path / "bare", bare)
    assert main(["import-official", str(tmp_path / "bare"), str(tmp_path / "model")]) == 0
    assert "no classifier" in capsys.readouterr().out
    words = ["evaluate", str(tmp_path / "model"), "--dataset", "imagenet", "--root", str(imagenet)]
    refused(words, "has no classifier", capsys)


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_of_a_checkpoint_is_imported_as_the_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "released"), kind, checkpoint.parent)
    for source, out in ((checkpoint, "plain"), (archive, "packed")):
        assert main(["import-official", str(source), str(tmp_path / out)]) == 0
    plain, packed = ((tmp_path / out / "weights.safetensors").read_bytes() for out in ("plain", "packed"))
    assert plain == packed
