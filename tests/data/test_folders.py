"""Layouts of image folders, and what is wrong with them."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clrkit.config import Data
from clrkit.data.folders import list_evaluation, list_images
from clrkit.data.images import SUFFIXES
from clrkit.errors import DataError


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    return root


def folder(root: Path, **fields: str) -> Data:
    return Data(**{"dataset": "folder", "root": str(root), **fields})


def rows(files: list) -> list[tuple[str, str]]:
    return [(file.name, file.label) for file in files]


def test_parts_of_their_own_are_used(tmp_path):
    write(tmp_path, "train/b/1.png", "train/a/2.png", "train/a/1.png", "test/b/1.png", "test/a/9.png")
    found = list_images(folder(tmp_path))
    assert rows(found.train) == [("train/a/1.png", "a"), ("train/a/2.png", "a"), ("train/b/1.png", "b")]
    assert rows(found.test) == [("test/a/9.png", "a"), ("test/b/1.png", "b")]
    assert found.classes == ("a", "b")


@pytest.mark.parametrize("dataset", ["folder", "imagenet"])
def test_val_is_the_test_part_where_there_is_no_test(tmp_path, dataset):
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    assert rows(list_images(folder(tmp_path, dataset=dataset)).test) == [("val/a/1.png", "a")]


def test_test_is_preferred_to_val(tmp_path):
    write(tmp_path, "train/a/1.png", "val/a/1.png", "test/a/1.png")
    assert rows(list_images(folder(tmp_path)).test) == [("test/a/1.png", "a")]


def test_one_in_five_is_held_out_of_bare_class_folders(tmp_path):
    names = [f"{label}/{index:02d}.png" for label in ("ape", "bat") for index in range(20)]
    found = list_images(folder(write(tmp_path, *names)))
    assert sorted(rows(found.train + found.test)) == [(name, name[:3]) for name in names]
    assert [sum(file.label == label for file in found.test) for label in ("ape", "bat")] == [4, 4]
    assert list_images(folder(tmp_path)) == found


@pytest.mark.parametrize("spelling", ["unlabelled", "unlabeled"])
@pytest.mark.parametrize("where", ["", "train/"])
def test_unlabelled_images_belong_to_the_training_part(tmp_path, where, spelling):
    write(
        tmp_path, "train/a/1.png", "test/a/1.png", f"{where}{spelling}/x.png", f"{where}{spelling}/deep/y.png"
    )
    found = list_images(folder(tmp_path))
    assert rows(found.train)[1:] == [(f"{where}{spelling}/deep/y.png", ""), (f"{where}{spelling}/x.png", "")]
    assert found.classes == ("a",)
    assert found.photos(found.train).labels.tolist() == [0, -1, -1]


def test_unlabelled_images_are_not_held_out(tmp_path):
    write(tmp_path, *[f"{label}/{index}.png" for label in ("a", "b", "unlabelled") for index in range(10)])
    found = list_images(folder(tmp_path))
    assert sorted(rows(found.train))[-10:] == [(f"unlabelled/{index}.png", "") for index in range(10)]
    assert len(found.test) == 4


def test_a_class_may_be_called_train(tmp_path):
    names = [f"{label}/{index}.png" for label in ("bus", "train") for index in range(2)]
    assert list_images(folder(write(tmp_path, *names))).classes == ("bus", "train")


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    write(tmp_path, "a/1.png", "a/2.png", "a/._1.png", "a/.hidden/3.png", ".git/4.png", "stray.png")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / "png").write_text("no suffix")
    found = list_images(folder(tmp_path))
    assert sorted(rows(found.train + found.test)) == [("a/1.png", "a"), ("a/2.png", "a")]


def test_suffixes_of_images_are_known_in_any_case(tmp_path):
    (tmp_path / "a").mkdir()
    for suffix in SUFFIXES:
        (tmp_path / "a" / f"x{suffix.upper()}").touch()
    found = list_images(folder(tmp_path))
    assert len(found.train + found.test) == len(SUFFIXES)


def test_images_of_a_class_may_lie_deeper_and_behind_links(tmp_path):
    write(tmp_path / "elsewhere", "1.png", "deep/2.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere")
    found = list_images(folder(root))
    assert sorted(rows(found.train + found.test)) == [("a/1.png", "a"), ("a/deep/2.png", "a")]


def test_names_of_any_bytes_are_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/a/\xff\xfe \n.png"
    write(tmp_path, "a/1.png", "a/größe 大.png")
    Image.new("RGB", (4, 4), "blue").save(os.fsdecode(path))
    train, test = list_images(folder(tmp_path)).both()
    assert len(train.names) == 2
    assert b"a/\xff\xfe \n.png" in {os.fsencode(name) for name in (*train.names, *test.names)}
    assert all(train.images(index, None).pixels.shape == (4, 4, 3) for index in range(2))


def csv_folder(root: Path, text: str) -> Data:
    write(root, *(f"{index}.png" for index in range(6)), "deep/x.png")
    (root / "labels.csv").write_text(text, encoding="utf-8-sig")
    return folder(root, labels_csv=str(root / "labels.csv"))


def test_a_csv_labels_some_of_the_images(tmp_path):
    found = list_images(csv_folder(tmp_path, "label,file\nb,0.png\nb ,1.png\na,deep/x.png\na,3.png\n"))
    assert found.classes == ("a", "b")
    assert len(found.test) == 2
    labelled = [row for row in rows(found.train + found.test) if row[1]]
    assert sorted(labelled) == [("0.png", "b"), ("1.png", "b"), ("3.png", "a"), ("deep/x.png", "a")]
    assert [row for row in rows(found.train) if not row[1]] == [("2.png", ""), ("4.png", ""), ("5.png", "")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "file,class\n0.png,a\n",
            r"labels\.csv needs the columns file and label; it has file, class",
        ),
        ("", r"labels\.csv needs the columns file and label; it has none"),
        ("file,label\n0.png,a,b\n", r"cannot be read: Expected 2 fields in line 2, saw 3"),
        ("file,label,label\n0.png,a,b\n", r"labels\.csv has two columns label; rename one"),
        ("file,label\n", r"labels\.csv labels no image"),
        ("file,label\n9.png,a\n", r"labels\.csv names 9\.png, which is not among the images of"),
        ("file,label\n 0.png,a\n", r"labels\.csv names ' 0\.png', which is not among the images of"),
        ("file,label\n0.png,a\n0.png,b\n", r"labels\.csv gives 0\.png two labels, a and b"),
        ("file,label\n0.png,\n", r"labels\.csv gives 0\.png no label"),
        ("file,label\n0.png\n", r"labels\.csv gives 0\.png no label"),
        ("file,label\n0.png,a\n", r"Class a has one labelled image"),
    ],
)
def test_a_wrong_csv_is_named(tmp_path, text, complaint):
    with pytest.raises(DataError, match=complaint):
        list_images(csv_folder(tmp_path, text))


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(DataError, match=r"labels gone\.csv cannot be read: No such file or directory\.$"):
        list_images(folder(write(tmp_path, "1.png"), labels_csv="gone.csv"))


@pytest.mark.parametrize(
    ("names", "folders", "complaint"),
    [
        ([], [], r"/root has no class folders"),
        (["1.png"], [], r"/root has no class folders; put .* CSV"),
        (["unlabelled/1.png"], [], r"/root has no class folders"),
        (["a/1.png", "a/2.png"], ["b"], r"/root/b has no images"),
        (["train/a/1.png", "test/a/1.png"], ["test/b"], r"/root/test/b has no images"),
        (["a/1.png", "a/2.png"], ["unlabelled"], r"/root/unlabelled has no images"),
        (["train/a/1.png"], [], r"/root has a folder train/ but neither test/ nor val/"),
        (["train/1.png", "test/1.png"], [], r"/root/train has no class folders"),
        (["train/a/1.png", "val/1.png"], [], r"/root/val has no class folders"),
        (["train/a/1.png", "test/b/1.png"], [], "Class b of .*/root has test images but no training images"),
        (["a/1.png"], [], "Class a has one labelled image"),
    ],
)
def test_a_layout_that_makes_no_sense_is_named(tmp_path, names, folders, complaint):
    root = tmp_path / "root"
    root.mkdir()
    write(root, *names)
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=rf"{complaint}[^\n]*\.$"):
        list_images(folder(root))


@pytest.mark.parametrize("missing", ["train", "val"])
def test_imagenet_needs_both_of_its_parts(tmp_path, missing):
    write(tmp_path, *(f"{name}/n01/1.png" for name in ("train", "val") if name != missing))
    with pytest.raises(DataError, match=r"train/<class>/ and val/<class>/, which .* lacks"):
        list_images(folder(tmp_path, dataset="imagenet"))


@pytest.mark.parametrize("dataset", ["folder", "imagenet"])
def test_an_empty_root_says_which_option_to_give(dataset):
    with pytest.raises(DataError, match=f"{dataset} needs the folder of its images; give it with --root DIR"):
        list_images(Data(dataset=dataset))


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/gone does not exist"):
        list_images(folder(tmp_path / "gone"))


def test_a_broken_link_is_named(tmp_path):
    write(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "a" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"a/3\.png cannot be read: No such file or directory\.$"):
        list_images(folder(tmp_path))


# What is measured, without a training part


@pytest.mark.parametrize(("dataset", "part"), [("imagenet", "val"), ("folder", "val"), ("folder", "test")])
def test_the_test_part_is_listed_without_a_training_part(tmp_path, dataset, part):
    write(tmp_path, *(f"{part}/n{index:02d}/{name}.jpg" for index in (10, 2) for name in "ba"))
    found = list_evaluation(folder(tmp_path, dataset=dataset))
    names = [f"{part}/{name}.jpg" for name in ("n02/a", "n02/b", "n10/a", "n10/b")]
    assert [file.name for file in found.test] == names
    assert found.classes == ("n02", "n10")
    assert found.photos(found.test).labels.tolist() == [0, 0, 1, 1]
    assert not found.train


def test_the_test_part_of_imagenet_is_val(tmp_path):
    write(tmp_path, "val/a/1.png", "test/b/1.png")
    assert list_evaluation(folder(tmp_path, dataset="imagenet")).classes == ("a",)
    assert list_evaluation(folder(tmp_path)).classes == ("b",)


def test_bare_class_folders_are_measured_on_the_part_that_is_held_out(tmp_path):
    write(tmp_path, *(f"{label}/{index}.png" for label in "ab" for index in range(10)))
    assert list_evaluation(folder(tmp_path)) == list_images(folder(tmp_path))


@pytest.mark.parametrize(("names", "complaint"), [
    (("train/a/1.png",), r"^The folder .*/val cannot be read: No such file or directory\.$"),
    (("val/1.png",), r"/val has no class folders"),
])  # fmt: skip
def test_an_imagenet_without_what_is_measured_is_refused(tmp_path, names, complaint):
    with pytest.raises(DataError, match=complaint):
        list_evaluation(folder(write(tmp_path, *names), dataset="imagenet"))


def test_an_environment_variable_names_the_folder_where_the_field_does_not(tmp_path, monkeypatch):
    write(tmp_path / "field", "train/a/1.png", "val/a/1.png")
    write(tmp_path / "variable", "train/b/1.png", "val/b/1.png")
    monkeypatch.setenv("CLRKIT_ROOT", str(tmp_path / "variable"))
    assert list_images(Data(dataset="imagenet")).classes == ("b",)
    assert list_images(folder(tmp_path / "field", dataset="imagenet")).classes == ("a",)


def test_an_archive_of_a_folder_is_read_as_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "photos", *(f"{part}/{label}/1.png" for part in ("train", "test") for label in "ab"))
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    for list_files in (list_images, list_evaluation):
        packed, plain = list_files(folder(Path(archive))), list_files(folder(tmp_path / "photos"))
        assert rows(packed.train) == rows(plain.train)
        assert rows(packed.test) == rows(plain.test)
        assert packed.classes == plain.classes
    assert packed.root.is_relative_to(tmp_path / "cache")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("not an archive")
    with pytest.raises(DataError, match=r"^The archive .*/notes\.txt cannot be unpacked: [^\n]*\.$"):
        list_images(folder(tmp_path / "notes.txt"))
