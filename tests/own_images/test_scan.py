"""Scanning own images: class folders, odd names, and images that are added later."""

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
def test_folders_of_parts_are_not_classes(tmp_path, store, names, classes):
    found = scan.scan_folder(write(tmp_path / "own", *names), store)
    assert set(found.labels.values()) == classes


def test_the_scan_names_class_folders_and_can_ignore_them(tmp_path, store):
    root = write(tmp_path / "own", *each("2023-01", "2023-02"))
    found = scan.scan_folder(root, store)
    assert (
        "16 have labels, because class folders count as labels: 2023-01 8, 2023-02 8 "
        "(use --folders_are_labels false to change this)." in found.sentences()
    )
    told = scan.scan_folder(root, store, folders_are_labels=False)
    assert (told.names, told.labels) == (found.names, {})
    assert "class folders" not in " ".join(told.sentences())


@pytest.mark.parametrize("apart", ["test", "Val", "valid", "validation"])
def test_images_to_measure_on_without_classes_are_refused(tmp_path, store, apart):
    root = write(tmp_path / "own", *each("train", apart, count=20))
    with pytest.raises(DataError, match=f"own/{apart} has images but no class folders, so accuracy cannot"):
        scan.scan_folder(root, store)
    told = scan.scan_folder(root, store, folders_are_labels=False)
    assert (len(told.names), told.labels) == (40, {})


def test_the_command_can_ignore_class_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "own", *each("2023-01", "2023-02"))
    said = []
    for told in ("true", "false"):
        assert main(["fit", str(root), "--folders_are_labels", told, "--fraction", "1"]) == 1
        said.append("class folders count as labels" in capsys.readouterr().out)
    assert said == [True, False]


# Names


@pytest.mark.parametrize("name", [" broken.png", "broken .png", "bro\u2028ken.png"])
def test_unreadable_images_are_left_out_whatever_their_names(tmp_path, store, name):
    root = write(tmp_path / "own", *(f" a{index}.png" for index in range(16)))
    (root / name).write_bytes(b"no image")
    found = scan.scan_folder(root, store)
    assert set(found.broken) == {name}
    assert list(load(found.data).train.names) == list(found.names)


def test_unreadable_test_images_are_left_out(tmp_path, store):
    root = write(tmp_path / "own", *each("train/red", "train/blue", "test/red", "test/blue"))
    (root / "test" / "red" / "0.png").write_bytes(b"no image")
    found = scan.scan_folder(root, store)
    names = [file.name for file in list_evaluation(found.data).test]
    assert len(names) == 15
    assert "test/red/0.png" not in names


# Images that come later


def test_a_new_scan_gives_all_stages_new_keys(tmp_path, store):
    root = write(tmp_path / "own", *(f"{index}.png" for index in range(16)))
    pretrain = Pretrain(data=scan.scan_folder(root, store).data, batch_size=8)
    old, seen = store.path(pretrain), load_once(pretrain.images)
    assert load_once(pretrain.images) is seen
    write(root, *(f"new-{index}.png" for index in range(4)))
    assert len(scan.scan_folder(root, store).names) == 20
    assert store.path(pretrain) != old
    assert len(load_once(pretrain.images).train) == 20


def test_no_run_is_made_on_other_images_than_its_parent_knows(tmp_path, store):
    root = write(tmp_path / "own", *(f"{index}.png" for index in range(16)))
    pretrain = Pretrain(data=scan.scan_folder(root, store).data, batch_size=8)
    old = store.path(pretrain)
    check_unchanged(Finetune(pretrain=pretrain))
    write(root, "new.png")
    with pytest.raises(RunError, match=f"The images of {root} have changed; start again"):
        next(run_or_load(Finetune(pretrain=pretrain), store, "cpu"))
    assert store.path(pretrain) != old
    check_unchanged(Finetune(pretrain=pretrain))
