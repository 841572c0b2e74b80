"""Data sets from source to pixels: the tinted digits, known sets, folders, cache and stream."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clrkit.config import Data
from clrkit.data import cache, datasets, torchvision_sets
from clrkit.data.datasets import fingerprint, load, load_evaluation
from clrkit.data.resize import central_crop
from clrkit.data.splits import DataSet, Photos, PixelArray, PixelStream, Split
from clrkit.errors import DataError

REAL = Path(os.environ.get("CLRKIT_DATA", "absent")) / "cifar10"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TINTED_MNIST = "6f9d2902da8d310c1fe1f020b8d61dbc5e2811fbb1d08eecf73ddece5a6091d5"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tinted(tmp_path_factory) -> DataSet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLRKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(Data())


def source_id(data: Data) -> str:
    """Changes with anything that would decode to other images."""
    source = datasets.find(data)
    return f"{source.name}-{source.identity}"


def pixels(part: Split) -> np.ndarray:
    return next(iter(part.pixels.batches([np.arange(len(part))]))).numpy()


def alike(square: np.ndarray, image: Image.Image) -> bool:
    """Equal but for the roundings of a resize."""
    return np.abs(square - np.asarray(image).transpose(2, 0, 1).astype(int)).max() <= 3


def image_folder(root: Path, count: int = 10, side: int = 9) -> Data:
    """`count` images of noise in each of two classes and without a label."""
    random = np.random.RandomState(0)
    for name in ("ape", "bat", "unlabelled"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = random.randint(0, 256, (side, side, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / name / f"{index:03d}.png")
    return Data(dataset="folder", root=str(root), image_size=8)


# The tinted digits


def test_the_tinted_digits_never_change(tinted):
    assert tinted.fingerprint == TINTED_MNIST


def test_the_tinted_digits_have_100_test_images_a_class_and_disjoint_parts(tinted):
    assert np.bincount(tinted.evaluation.labels).tolist() == [100] * 10
    assert np.bincount(tinted.train.labels).tolist() == [400] * 10
    assert not set(tinted.train.names) & set(tinted.evaluation.names)
    images = np.concatenate([pixels(tinted.train), pixels(tinted.evaluation)])
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000


def test_digits_are_bright_on_a_dark_ground(tinted):
    images = pixels(tinted.train) / 255
    ground = images[:, :, 0, 0]
    assert 0 <= ground.min() < 0.01
    assert 0.44 < ground.max() <= 0.451
    # Every digit has a pixel of full ink, where its image is brightest.
    ink = images.sum(1).reshape(len(images), -1).argmax(1)
    digit = np.take_along_axis(images.reshape(len(images), 3, -1), ink[:, None, None], 2)
    assert 0.49 < digit.min() < 0.51
    assert 0.99 < digit.max() <= 1


def test_every_pixel_mixes_the_two_colours_of_its_image(tinted):
    images = pixels(tinted.evaluation)[:50].reshape(50, 3, -1) / 255
    differences = images - images[:, :, :1]  # from the background, the upper left corner
    for image in differences:
        assert np.linalg.svd(image, compute_uv=False)[1] < 0.1 * np.linalg.svd(image, compute_uv=False)[0]


def test_colours_say_nothing_about_the_digit(tinted):
    images, labels = pixels(tinted.train), tinted.train.labels
    ground = images[:, :, 0, 0] / 255.0
    means = np.stack([ground[labels == digit].mean(0) for digit in range(10)])
    # The standard error of a class's mean is 0.13 / sqrt(400); four of them bound all thirty means.
    assert np.abs(means - 0.225).max() < 4 * 0.45 / 12**0.5 / 20


def test_the_tinted_digits_have_one_size():
    with pytest.raises(DataError, match="image_size of tinted_mnist is 28, not 32"):
        load(Data(image_size=32))


# Parts


def test_a_validation_part_is_cut_from_the_training_part(tmp_path):
    config = image_folder(tmp_path / "set")
    whole = load(config)
    cut = load(Data(dataset="folder", root=config.root, image_size=8, evaluation="validation"))
    assert sorted([*cut.train.names, *cut.evaluation.names]) == sorted(whole.train.names)
    assert np.bincount(cut.evaluation.labels).tolist() == [1, 1]
    assert cut.fingerprint == whole.fingerprint


def test_a_training_part_without_images_is_refused(monkeypatch):
    empty = Split(PixelArray(np.zeros((0, 3, 4, 4), np.uint8)), np.zeros(0, np.int64), [])
    monkeypatch.setitem(datasets.EMBEDDED, "tinted_mnist", lambda config: DataSet(empty, empty, ("a",)))
    with pytest.raises(DataError, match="training part of tinted_mnist has no images"):
        load(Data())


# Folders, cached


def test_a_folder_is_decoded_as_its_files_are(tmp_path):
    config = image_folder(tmp_path / "set")
    found = load(config)
    assert found.classes == ("ape", "bat")
    assert np.unique(found.train.labels, return_counts=True)[1].tolist() == [10, 8, 8]
    for part in (found.train, found.evaluation):
        for name, label, image in zip(part.names, part.labels, pixels(part), strict=True):
            file = Image.open(tmp_path / "set" / name).resize((8, 8), Image.Resampling.BICUBIC)
            assert alike(image, file)
            assert name.split("/")[0] == ("ape", "bat", "unlabelled")[label]


def test_a_set_is_decoded_once(tmp_path, monkeypatch):
    config, lines = image_folder(tmp_path / "set"), []
    first = load(config, lines.append)
    assert lines[-1].startswith("decoding: 30 of 30 images, ")
    lines.clear()
    monkeypatch.setattr(datasets, "read", None)
    again = load(config, lines.append)
    assert lines == []
    assert again.fingerprint == first.fingerprint == fingerprint(config)
    assert again.train.names == first.train.names
    assert np.array_equal(again.train.labels, first.train.labels)
    assert np.array_equal(pixels(again.train), pixels(first.train))


def emptied(old: bytes) -> bytes:
    return b""


def cut(old: bytes) -> bytes:
    return old[:-9]


def overwritten(old: bytes) -> bytes:
    return old[:-9] + b"[damage!]"


@pytest.mark.parametrize(
    "name", ["note.json", "train_pixels.npy", "test_labels.npy", "test_names.json", "test_pixels.npy"]
)
@pytest.mark.parametrize("damage", [emptied, cut, overwritten])
def test_a_damaged_cache_is_noticed_and_decoded_again(tmp_path, name, damage):
    config, lines = image_folder(tmp_path / "set", 3), []
    digest = load(config).fingerprint
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    file.write_bytes(damage(file.read_bytes()))
    assert load(config, lines.append).fingerprint == digest
    assert lines[-1].startswith("decoding: 9 of 9 ")
    assert name == "note.json" or "are damaged; they are decoded again" in lines[0]
    lines.clear()
    load(config, lines.append)
    assert lines == []


def test_the_same_images_elsewhere_have_the_same_fingerprint(tmp_path):
    config = image_folder(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = Data(dataset="folder", root=str(tmp_path / "copy"), image_size=8)
    assert fingerprint(copy) == fingerprint(config)
    assert source_id(copy) != source_id(config)


def touch(root: Path) -> None:
    os.utime(root / "ape" / "000.png", (1, 1))


def swap(root: Path) -> None:
    (root / "ape" / "000.png").rename(root / "swap.png")
    (root / "bat" / "000.png").rename(root / "ape" / "000.png")
    (root / "swap.png").rename(root / "bat" / "000.png")


def remove(root: Path) -> None:
    (root / "ape" / "000.png").unlink()


def rename_class(root: Path) -> None:
    (root / "ape").rename(root / "ant")


@pytest.mark.parametrize(
    ("change", "other_images"), [(touch, False), (swap, True), (remove, True), (rename_class, True)]
)
def test_a_change_in_a_folder_is_noticed(tmp_path, change, other_images):
    config = image_folder(tmp_path / "set")
    old_id, old = source_id(config), load(config).fingerprint
    change(tmp_path / "set")
    assert source_id(config) != old_id
    assert (fingerprint(config) != old) == other_images
    assert (load(config).fingerprint != old) == other_images
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the old entry is replaced"


def test_the_labels_in_a_csv_change_the_source_and_the_fingerprint(tmp_path):
    config = image_folder(tmp_path / "set")
    table = tmp_path / "labels.csv"
    rows = [f"{kind}/{index:03d}.png,{kind}" for kind in ("ape", "bat") for index in range(4)]
    table.write_text("\n".join(["file,label", *rows]))
    listed = Data(dataset="folder", root=config.root, labels_csv=str(table), image_size=8)
    assert (load(listed).train.labels == -1).sum() == 22
    old = source_id(listed), fingerprint(listed)
    table.write_text("\n".join(["file,label", *rows[:-1]]))
    assert source_id(listed) != old[0]
    assert fingerprint(listed) != old[1]


def test_the_size_of_an_image_changes_the_source(tmp_path):
    config = image_folder(tmp_path / "set", 2)
    larger = Data(dataset="folder", root=config.root, image_size=16)
    assert source_id(larger) != source_id(config)
    assert fingerprint(larger) != fingerprint(config)


def test_a_newer_decoder_does_not_read_what_an_older_one_wrote(tmp_path, monkeypatch):
    config, lines = image_folder(tmp_path / "set", 2), []
    load(config)
    monkeypatch.setattr(cache, "DECODER", cache.DECODER + 1)
    load(config, lines.append)
    assert lines


def test_labels_csv_is_refused_where_it_means_nothing():
    with pytest.raises(DataError, match="labels_csv belongs to the data set folder, not to cifar10"):
        load(Data(dataset="cifar10", labels_csv="labels.csv"))


def test_a_broken_image_is_named_and_nothing_is_cached(tmp_path):
    config = image_folder(tmp_path / "set")
    (tmp_path / "set" / "bat" / "003.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^The image [^\n]*bat/003\.png is broken[^\n]*\.$"):
        load(config)
    assert not (tmp_path / "cache").exists()


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=rf"cannot be kept in {tmp_path}/file: File exists; name another"):
        load(image_folder(tmp_path / "set", 2))


def test_progress_is_shown_with_rate_and_time_left(monkeypatch):
    clock, lines = [100.0], []
    monkeypatch.setattr(datasets.time, "monotonic", lambda: clock[0])
    note = datasets.noting(6400, lines.append)
    for _ in range(200):
        clock[0] += 0.125
        note(32)
    assert lines[19] == "decoding: 640 of 6,400 images, 256 images/s, 0:00:22 left"
    assert lines[-1] == "decoding: 6,400 of 6,400 images, 256 images/s, 0:00:00 left"


# Images that are not square


def oblong_folder(root: Path, *parts: str) -> Data:
    """Ten images of noise in each of two classes and, in the training part, without a label."""
    random = np.random.RandomState(0)
    for name in [f"{part}{kind}" for part in parts for kind in ("ape/", "bat/")] + ["unlabelled/"]:
        (root / name).mkdir(parents=True)
        for index in range(10):
            shape = (50, 50) if index == 0 else (40 + index, 60 - index)
            image = random.randint(0, 256, (*shape, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / name / f"{index:03d}.png")
    return Data(dataset="folder", root=str(root), image_size=40)


def original(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / name)).transpose(2, 0, 1).copy()


def central(root: Path, name: str) -> np.ndarray:
    return central_crop(torch.from_numpy(original(root, name)), 40).numpy()


@pytest.mark.parametrize("streamed_beyond", [0, 2**32])
def test_aspects_come_with_the_training_images_decoded_cached_and_streamed(
    tmp_path, monkeypatch, streamed_beyond
):
    monkeypatch.setattr(datasets, "STREAMED_BEYOND", streamed_beyond)
    config = oblong_folder(tmp_path / "set", "")
    for _ in range(2):
        train = load(config).train.subset(np.array([3, 0, 11]))
        assert isinstance(train.pixels, PixelArray if streamed_beyond else PixelStream)
        ((_, aspects),) = train.pixels.squares([np.arange(3)])
        for name, aspect in zip(train.names, aspects, strict=True):
            _, height, width = original(tmp_path / "set", name).shape
            assert aspect == np.float32(width / height)


def test_a_set_of_square_images_has_no_aspects(tmp_path):
    part = load(image_folder(tmp_path / "set", 2)).train
    assert part.pixels.aspects is None
    assert part.measured is None


@pytest.mark.parametrize("streamed_beyond", [0, 2**32])
@pytest.mark.parametrize("evaluation", ["test", "validation"])
def test_larger_images_are_measured_by_the_official_central_crop(
    tmp_path, monkeypatch, streamed_beyond, evaluation
):
    monkeypatch.setattr(datasets, "STREAMED_BEYOND", streamed_beyond)
    config = replace(oblong_folder(tmp_path / "set", ""), evaluation=evaluation)
    for _ in range(2):
        found = load(config)
        labelled = found.train.subset(np.flatnonzero(found.train.labels >= 0))
        for part in (found.evaluation, labelled):
            (views,) = part.views.batches([np.arange(len(part))])
            assert views.dtype == torch.uint8
            for name, view in zip(part.names, views.numpy(), strict=True):
                assert np.abs(view / 255 - central(tmp_path / "set", name)).max() <= 0.5001 / 255


def test_the_views_of_unlabelled_images_are_not_kept(tmp_path):
    lines = []
    train = load(oblong_folder(tmp_path / "set", ""), lines.append).train
    assert lines[-1].startswith("decoding: 46 of 46 ")  # 26 to train on, 16 of them and 4 others to measure
    with pytest.raises(IndexError):
        list(train.views.batches([np.flatnonzero(train.labels < 0)]))


# Measuring alone


@pytest.mark.parametrize("dataset", ["imagenet", "folder"])
def test_exact_views_are_streamed_without_a_training_part(tmp_path, dataset):
    config = replace(oblong_folder(tmp_path / "set", "val/"), dataset=dataset)
    part, classes = load_evaluation(config)
    assert classes == ("ape", "bat")
    assert part.labels.tolist() == [0] * 10 + [1] * 10
    batches = list(part.pixels.batches([np.arange(3), np.arange(3, 20)]))
    views = np.concatenate([batch.numpy() for batch in batches])
    for name, view in zip(part.names, views, strict=True):
        assert np.array_equal(view, central(tmp_path / "set", name))
    assert not (tmp_path / "cache").exists()


def test_the_older_resize_of_views_can_be_chosen(tmp_path):
    config = oblong_folder(tmp_path / "set", "val/")
    part, _ = load_evaluation(config, resize="tf1")
    (views,) = part.views.batches([np.array([7])])
    image = torch.from_numpy(original(tmp_path / "set", part.names[7]))
    assert views[0].equal(central_crop(image, 40, "tf1"))


@pytest.mark.slow
def test_digits_are_measured_as_they_are(tinted):
    part, classes = load_evaluation(Data())
    assert np.array_equal(pixels(part), pixels(tinted.evaluation))
    assert classes == tinted.classes


# Folders, streamed


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(datasets, "STREAMED_BEYOND", 0)


def test_a_large_set_streams_what_a_small_one_keeps(tmp_path, monkeypatch):
    config = image_folder(tmp_path / "set", 40)
    small = load(config)
    monkeypatch.setattr(datasets, "STREAMED_BEYOND", 3 * 8 * 8 * 120 - 1)
    monkeypatch.setattr(datasets, "read_cache", lambda source, show: None)
    large = load(config)
    assert isinstance(large.train.pixels, PixelStream)
    assert large.train.names == small.train.names
    assert np.array_equal(large.train.labels, small.train.labels)
    assert np.array_equal(pixels(large.train), pixels(small.train))


@pytest.mark.usefixtures("streamed")
def test_a_streamed_validation_part_has_the_right_images(tmp_path):
    config = image_folder(tmp_path / "set", 10)
    part = load(Data(dataset="folder", root=config.root, image_size=8, evaluation="validation")).evaluation
    image = Image.open(tmp_path / "set" / part.names[1]).resize((8, 8), Image.Resampling.BICUBIC)
    assert alike(pixels(part)[1], image)


@pytest.mark.usefixtures("streamed")
def test_the_fingerprint_of_a_stream_is_its_listing(tmp_path):
    config = image_folder(tmp_path / "set")
    digest = fingerprint(config)
    touch(tmp_path / "set")
    assert fingerprint(config) == digest == load(config).fingerprint
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    assert fingerprint(Data(dataset="folder", root=str(tmp_path / "copy"), image_size=8)) == digest
    (tmp_path / "set" / "ape" / "000.png").write_bytes(b"another size")
    assert fingerprint(config) != digest


# Importing


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    ).stdout


def test_a_cached_fingerprint_loads_neither_torch_nor_the_pixels(tmp_path):
    config = image_folder(tmp_path / "set")
    digest = load(config).fingerprint
    for file in (tmp_path / "cache").glob("*/*.npy"):
        file.unlink()
    code = f"""
import sys
from clrkit.config import Data
from clrkit.data.datasets import fingerprint
print(fingerprint(Data(dataset="folder", root={config.root!r}, image_size=8)))
print({{"torch", "torchvision", "mlxtend", "pandas"}} & set(sys.modules))
"""
    assert run(code).split() == [digest, "set()"]


# Sets of torchvision (tests/data/test_torchvision_sets.py has their files)


def test_a_set_of_the_right_size_is_taken_as_it_is(tmp_path, monkeypatch):
    images = np.random.RandomState(0).randint(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    parts = {"train": (images[:3], [1, 0, 1]), "test": (images[3:], [0, 1])}

    def array_split(name, part, root, show):
        array, labels = parts[part]
        names = [f"{part}/{i}" for i in range(len(labels))]
        return Photos(array, np.zeros(len(names), int), np.array(labels), names, (name, str(root)))

    for module in (datasets, torchvision_sets):
        monkeypatch.setattr(module, "array_split", array_split)
    monkeypatch.setattr(datasets, "decode", None)  # an array is not decoded
    config = Data(dataset="cifar10", root=str(tmp_path / "root"), image_size=32)
    for _ in range(2):  # read, then from the cache
        found = load(config)
        assert found.classes == ("cifar10", str(tmp_path / "root"))
        assert (found.train.labels.tolist(), found.evaluation.labels.tolist()) == ([1, 0, 1], [0, 1])
        assert np.array_equal(pixels(found.train), images[:3].transpose(0, 3, 1, 2))
        assert np.array_equal(pixels(found.evaluation), images[3:].transpose(0, 3, 1, 2))
    part, _ = load_evaluation(config)
    assert np.array_equal(pixels(part), images[3:].transpose(0, 3, 1, 2))
    assert datasets.known_root(Data(dataset="stl10")) == tmp_path / "cache" / "downloads"


def test_images_are_at_hand_if_reading_them_downloads_nothing(tmp_path):
    root = str(tmp_path)
    assert datasets.at_hand(Data())
    assert datasets.at_hand(Data(dataset="folder", root=root))
    assert not datasets.at_hand(Data(dataset="folder", root=root + "/gone"))
    assert not datasets.at_hand(Data(dataset="cifar10", root=root))
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert datasets.at_hand(Data(dataset="cifar10", root=root))
    assert not datasets.at_hand(Data(dataset="torchvision:EuroSAT", root=root))


# The real CIFAR-10


@pytest.mark.skipif(not REAL.is_dir(), reason="CLRKIT_DATA does not hold CIFAR-10")
def test_real_images_are_read_without_loss(tmp_path):
    for archive, count in (("train-0.zip", 20), ("test.zip", 5)):
        with zipfile.ZipFile(REAL / archive) as members:
            by_class: dict[str, list[str]] = {}
            for name in sorted(members.namelist()):
                by_class.setdefault(str(Path(name).parent), []).append(name)
            for names in by_class.values():
                members.extractall(tmp_path / "set", names[:count])
    config = Data(dataset="folder", root=str(tmp_path / "set"), image_size=32)
    found = load(config)
    assert found.classes == CIFAR10
    assert np.bincount(found.train.labels).tolist() == [20] * 10
    assert np.bincount(found.evaluation.labels).tolist() == [5] * 10
    images = pixels(found.train)
    for index in (0, 77, 199):
        file = Image.open(tmp_path / "set" / found.train.names[index])
        assert np.array_equal(images[index], np.asarray(file).transpose(2, 0, 1))
    # The published mean of the training images, as near as 200 of them come.
    assert np.allclose(images.mean((0, 2, 3)) / 255, [0.4914, 0.4822, 0.4465], atol=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="CLRKIT_DATA does not hold CIFAR-10")
def test_the_real_set_is_recognised_in_a_lossless_copy_and_has_the_fingerprint_known_beforehand(tmp_path):
    for archive in REAL.glob("*.zip"):
        with zipfile.ZipFile(archive) as members:
            members.extractall(tmp_path)
    config = Data(dataset="cifar10", root=str(tmp_path), image_size=32)
    found = load(config)
    assert found.fingerprint == fingerprint(config)
    assert found.classes == CIFAR10
    assert np.bincount(found.train.labels).tolist() == [5000] * 10
    assert np.bincount(found.evaluation.labels).tolist() == [1000] * 10
