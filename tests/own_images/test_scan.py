"""A look at one's own images: which folders are classes, odd names, and images that come later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clrkit.cli.main import main
from clrkit.config import Finetune, Pretrain
from clrkit.data.datasets import load
from clrkit.data.folders import list_evaluation
from clrkit.errors import DataError
from clrkit.own_images import scan
from clrkit.runs.run import check_unchanged, load_once, run_or_load
from clrkit.runs.store import RunError, Store


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name, format="png")
    return root


def each(*folders: str, count: int = 8) -> list[str]:
    return [f"{folder}/{index}.png" for folder in folders for index in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "own")


# Folders


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (each("red", "blue", "test/red", "val/blue", "valid/blue", "Validation/x"), {"red", "blue"}),
        (each("red", "blue", "train", "unlabelled"), {"red", "blue"}),
        (each("train", "unlabelled"), set()),
        (each("train/red", "train/blue", "train/test", "notes"), {"red", "blue", "test"}),
    ],
)
def test_folders_of_parts_are_no_classes(tmp_path, store, names, classes):
    found = scan.look(write(tmp_path / "own", *names), store)
    assert set(found.labels.values()) == classes


def test_the_survey_says_which_folders_are_classes_and_can_be_told_that_none_is(tmp_path, store):
    root = write(tmp_path / "own", *each("2023-01", "2023-02"))
    found = scan.look(root, store)
    assert (
        "16 have labels by their folders, which are taken for classes: 2023-01 8, 2023-02 8 "
        "(not with --folders_are_labels false)." in found.sentences()
    )
    told = scan.look(root, store, folders_are_labels=False)
    assert (told.names, told.labels) == (found.names, {})
    assert "classes" not in " ".join(told.sentences())


@pytest.mark.parametrize("apart", ["test", "Val", "valid", "validation"])
def test_images_to_measure_on_without_classes_are_refused(tmp_path, store, apart):
    root = write(tmp_path / "own", *each("train", apart, count=20))
    with pytest.raises(DataError, match=f"own/{apart} has images but no class folders, so nothing can be"):
        scan.look(root, store)
    told = scan.look(root, store, folders_are_labels=False)
    assert (len(told.names), told.labels) == (40, {})


def test_the_command_can_be_told_that_folders_are_no_labels(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "own", *each("2023-01", "2023-02"))
    said = []
    for told in ("true", "false"):
        assert main(["fit", str(root), "--folders_are_labels", told, "--fraction", "1"]) == 1
        said.append("taken for classes" in capsys.readouterr().out)
    assert said == [True, False]


# Names


@pytest.mark.parametrize("name", [" broken.png", "broken .png", "bro\u2028ken.png"])
def test_what_cannot_be_read_is_left_out_whatever_its_name(tmp_path, store, name):
    root = write(tmp_path / "own", *(f" a{index}.png" for index in range(16)))
    (root / name).write_bytes(b"no image")
    found = scan.look(root, store)
    assert set(found.broken) == {name}
    assert list(load(found.data).train.names) == list(found.names)


def test_what_is_measured_leaves_out_what_cannot_be_read(tmp_path, store):
    root = write(tmp_path / "own", *each("train/red", "train/blue", "test/red", "test/blue"))
    (root / "test" / "red" / "0.png").write_bytes(b"no image")
    found = scan.look(root, store)
    names = [file.name for file in list_evaluation(found.data).test]
    assert len(names) == 15
    assert "test/red/0.png" not in names


# Images that come later


def test_a_new_look_gives_later_stages_and_their_parents_new_keys(tmp_path, store):
    root = write(tmp_path / "own", *(f"{index}.png" for index in range(16)))
    pretrain = Pretrain(data=scan.look(root, store).data, batch_size=8)
    old, seen = store.path(pretrain), load_once(pretrain.images)
    assert load_once(pretrain.images) is seen
    write(root, *(f"new-{index}.png" for index in range(4)))
    assert len(scan.look(root, store).names) == 20
    assert store.path(pretrain) != old
    assert len(load_once(pretrain.images).train) == 20


def test_no_run_is_made_on_other_images_than_its_parent_knows(tmp_path, store):
    root = write(tmp_path / "own", *(f"{index}.png" for index in range(16)))
    pretrain = Pretrain(data=scan.look(root, store).data, batch_size=8)
    old = store.path(pretrain)
    check_unchanged(Finetune(pretrain=pretrain))
    write(root, "new.png")
    with pytest.raises(RunError, match=f"The images of {root} have changed meanwhile; begin again"):
        next(run_or_load(Finetune(pretrain=pretrain), store, "cpu"))
    assert store.path(pretrain) != old
    check_unchanged(Finetune(pretrain=pretrain))
