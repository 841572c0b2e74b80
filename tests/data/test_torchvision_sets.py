"""Sets of torchvision: CIFAR and STL-10, downloaded from a server of the test's, and any set by its name."""

import hashlib
import http.server
import inspect
import io
import pickle
import re
import struct
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from clrkit.cli.main import main
from clrkit.config import Data
from clrkit.data import torchvision_sets
from clrkit.data.datasets import fingerprint, load, load_evaluation
from clrkit.data.torchvision_sets import NOT_OFFERED, array_split, content_of
from clrkit.errors import ConfigError, DataError
from clrkit.runs.store import Store

RESULTS = Path(__file__).parents[2] / "results"
RANDOM = np.random.RandomState(0)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(f"class_{index:02d}" for index in range(100))
KINDS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}


def noise(count: int, side: int) -> np.ndarray:
    """Images (count, 3, side, side)."""
    return RANDOM.randint(0, 256, (count, 3, side, side)).astype(np.uint8)


def batch(images: np.ndarray, key: str, labels: list[int]) -> bytes:
    """As CIFAR's files are."""
    return pickle.dumps({"data": images.reshape(len(images), -1), key: labels})


IMAGES = noise(12, 32)
LARGER = noise(6, 96)
FILES = {
    "cifar10": {
        **{f"data_batch_{n + 1}": batch(IMAGES[2 * n : 2 * n + 2], "labels", [n, 9 - n]) for n in range(5)},
        "test_batch": batch(IMAGES[10:], "labels", [7, 0]),
        "batches.meta": pickle.dumps({"label_names": list(CIFAR10)}),
    },
    "cifar100": {
        "train": batch(IMAGES[:2], "fine_labels", [99, 3]),
        "test": batch(IMAGES[2:4], "fine_labels", [5, 4]),
        "meta": pickle.dumps({"fine_label_names": list(CIFAR100)}),
    },
    "stl10": {
        "train_X.bin": LARGER[:2].transpose(0, 1, 3, 2).tobytes(),
        "train_y.bin": bytes([10, 1]),
        "unlabeled_X.bin": LARGER[2:5].transpose(0, 1, 3, 2).tobytes(),
        "test_X.bin": LARGER[5:].transpose(0, 1, 3, 2).tobytes(),
        "test_y.bin": bytes([2]),
        "class_names.txt": "\n".join(CIFAR10).encode(),
    },
}
# As the files have them: images (count, 32, 32, 3) and labels.
CIFAR10_PARTS = {
    "train": (IMAGES[:10].transpose(0, 2, 3, 1), np.array([0, 9, 1, 8, 2, 7, 3, 6, 4, 5])),
    "test": (IMAGES[10:].transpose(0, 2, 3, 1), np.array([7, 0])),
}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def archived(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, data in FILES[name].items():
            info = tarfile.TarInfo(f"{KINDS[name].base_folder}/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves archives of small sets, which take the place of the real ones; its folder."""
    served = tmp_path / "served"
    served.mkdir()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    for name, kind in KINDS.items():
        archive = archived(name)
        (served / kind.filename).write_bytes(archive)
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{running.server_port}/{kind.filename}")
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        for files in ("train_list", "test_list"):
            sums = [[file, md5(FILES[name][file])] for file, _ in getattr(kind, files)]
            monkeypatch.setattr(kind, files, sums)
        if name != "stl10":
            meta = kind.meta | {"md5": md5(FILES[name][kind.meta["filename"]])}
            monkeypatch.setattr(kind, "meta", meta)
    yield served
    running.shutdown()
    running.server_close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "deep/root"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))


def read(name: str, part: str, root: Path) -> tuple[np.ndarray, list[int], tuple[str, ...]]:
    """Images (count, 3, side, side), labels and classes."""
    found = array_split(name, part, root, lambda line: None)
    if name != "cifar10":
        assert found.names == [f"{part}/{index:06d}" for index in range(len(found.labels))]
    return found.images.transpose(0, 3, 1, 2), found.labels.tolist(), found.classes


def digests(images: np.ndarray, labels: list[int]) -> list[tuple[str, int]]:
    """SHA-256 of images (count, 32, 32, 3), with their labels."""
    return [(sha256(image), label) for image, label in zip(images, labels, strict=True)]


def sha256(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("part", ["train", "test"])
def test_cifar10_is_put_in_the_order_of_its_content(root, part):
    found = array_split("cifar10", part, root, lambda line: None)
    assert found.classes == CIFAR10
    expected = sorted(digests(*CIFAR10_PARTS[part]))
    assert digests(found.images, found.labels) == expected
    assert found.names == [f"{part}/{digest[:16]}" for digest, _ in expected]


def write_copy(folder: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], suffix: str = "png") -> None:
    """A set as image files, a folder for each class, called as somebody liked."""
    for part, (images, labels) in parts.items():
        for name in CIFAR10:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / part / CIFAR10[label] / f"{97 * number % 101}.{suffix}"
            Image.fromarray(image).save(file, lossless=True, quality=90)


def whole() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Parts with every class in them, which a copy needs."""
    random = np.random.RandomState(1)
    return {
        part: (random.randint(0, 256, (20, 32, 32, 3)).astype(np.uint8), np.arange(20) % 10)
        for part in ("train", "test")
    }


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A folder for a copy of a small set in place of CIFAR-10, and that set's parts."""
    parts = whole()
    content = {part: content_of(*each) for part, each in parts.items()}
    monkeypatch.setattr(torchvision_sets, "CIFAR10_CONTENT", content)
    return tmp_path / "copy", parts


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_lossless_copy_of_cifar10_gives_the_images_that_its_authors_files_give(copied, suffix):
    folder, parts = copied
    write_copy(folder, parts, suffix)
    for part, (images, labels) in parts.items():
        found = array_split("cifar10", part, folder, lambda line: None)
        assert found.classes == CIFAR10
        assert digests(found.images, found.labels) == sorted(digests(images, labels))


def lossy(folder: Path) -> None:
    for file in folder.glob("train/*/*.png"):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()


def swap_two(folder: Path) -> None:
    first, second = (next((folder / "train" / name).iterdir()) for name in ("cat", "dog"))
    first.rename(folder / "train/dog/from_cat.png")
    second.rename(folder / "train/cat/from_dog.png")


@pytest.mark.parametrize(
    "change",
    [
        lossy,
        swap_two,
        lambda folder: next(folder.glob("train/cat/*")).unlink(),
        lambda folder: Image.new("RGB", (32, 32)).save(folder / "train/cat/more.png"),
        lambda folder: Image.new("RGB", (64, 32)).save(folder / "train/cat/other.png"),
    ],
    ids=["lossy", "swapped labels", "one fewer", "one more", "another size"],
)
def test_a_copy_that_is_not_exact_is_refused(copied, change):
    folder, parts = copied
    write_copy(folder, parts)
    change(folder)
    with pytest.raises(DataError, match=rf"^{folder}/train is not an exact copy of CIFAR-10: "):
        array_split("cifar10", "train", folder, lambda line: None)


@pytest.mark.parametrize("name", ["kitten", "3"])
def test_folders_of_other_classes_are_not_a_copy(root, server, name):
    write_copy(root, whole())
    (root / "train/cat").rename(root / "train" / name)
    (server / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(DataError, match=r" has neither cifar-10-batches-py nor "):
        read("cifar10", "train", root)


@pytest.mark.usefixtures("server")
def test_the_authors_files_come_before_other_images_that_lie_beside_them(root):
    expected = read("cifar10", "train", root)[0]
    write_copy(root, whole())
    assert np.array_equal(read("cifar10", "train", root)[0], expected)


@pytest.mark.usefixtures("server")
def test_cifar100_has_its_fine_classes(root):
    images, labels, classes = read("cifar100", "train", root)
    assert (labels, classes) == ([99, 3], CIFAR100)
    assert np.array_equal(images, IMAGES[:2])
    images, labels, _ = read("cifar100", "test", root)
    assert labels == [5, 4]
    assert np.array_equal(images, IMAGES[2:4])


@pytest.mark.usefixtures("server")
def test_stl10_has_its_unlabelled_images_upright(root):
    images, labels, classes = read("stl10", "train", root)
    assert (labels, classes) == ([9, 0, -1, -1, -1], CIFAR10)
    assert np.array_equal(images, LARGER[:5])
    images, labels, _ = read("stl10", "test", root)
    assert labels == [1]
    assert np.array_equal(images, LARGER[5:])


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [32, 96])
def test_a_set_is_loaded_whatever_the_size_of_its_images(root, name, size):
    found = load(Data(dataset=name, root=str(root), image_size=size))
    stored = 110 if size == 96 else 32
    assert next(iter(found.train.pixels.batches([np.array([0, 1])]))).shape == (2, 3, stored, stored)
    assert next(iter(found.train.views.batches([np.array([0, 1])]))).shape == (2, 3, size, size)
    assert next(iter(found.evaluation.views.batches([np.array([0])]))).shape == (1, 3, size, size)


def test_what_is_known_beforehand_is_the_fingerprint_of_the_recorded_runs():
    records = [run.record for run in Store(RESULTS, "cifar10_cpu").reference.all()]
    assert records
    assert {record["dataset"]["fingerprint"] for record in records} == {
        fingerprint(Data(dataset="cifar10", image_size=32))
    }


def test_only_at_its_own_size_is_a_fingerprint_known_beforehand(root, server):
    (server / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(DataError, match="cannot be downloaded"):
        fingerprint(Data(dataset="cifar10", root=str(root), image_size=24))


def test_committed_claims_need_no_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLRKIT_ROOT", raising=False)
    monkeypatch.setattr(torchvision_sets, "fetch", lambda *_: pytest.fail("the images were asked for"))
    assert main(["claims", "--preset", "cifar10_cpu", "--results", str(tmp_path / "results")]) == 0
    assert "C0" in capsys.readouterr().out


# Where a set is found


def test_a_set_is_downloaded_once_and_read_without_the_server(root, server):
    lines = []
    first = read_with(lines.append, root)
    archive = root / "cifar-10-python.tar.gz"
    assert lines == [f"downloading {datasets.CIFAR10.url}", f"unpacking {archive}"]
    assert {path.name for path in root.iterdir()} == {"cifar-10-batches-py", archive.name}
    for file in (*server.iterdir(), archive):
        file.unlink()
    assert np.array_equal(read_with(pytest.fail, root), first)


def read_with(show, root: Path) -> np.ndarray:
    return array_split("cifar10", "test", root, show).images


def test_an_archive_that_lies_there_is_not_downloaded(root, server):
    root.mkdir(parents=True)
    (server / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")
    assert sorted(read("cifar10", "test", root)[1]) == [0, 7]


def test_a_set_that_cannot_be_downloaded_is_named(root, server):
    (server / "cifar-10-python.tar.gz").unlink()
    message = (
        rf"^{root} has neither cifar-10-batches-py nor an intact cifar-10-python\.tar\.gz, and http[^ ]*gz "
        r"cannot be downloaded: HTTP Error 404: File not found\.$"
    )
    with pytest.raises(DataError, match=message):
        read("cifar10", "train", root)


@pytest.mark.parametrize("damage", [lambda old: old[:-9], lambda old: old[:99] + b"?" + old[100:]])
def test_a_damaged_download_is_refused_and_not_unpacked(root, server, damage, fault):
    file = server / "cifar-10-python.tar.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="cannot be downloaded: File not found or corrupted"):
        read("cifar10", "train", root)
    assert not (root / "cifar-10-batches-py").exists()
    name = "outside files: a download is cut short or damaged"
    fault(name, "other bytes from the server", "the archive, which is not unpacked and downloaded again")


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_flipped_bit_in_an_unpacked_file_is_noticed_before_it_is_read(root, server, file, fault):
    read("cifar10", "test", root)
    path = root / "cifar-10-batches-py" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cifar-10-batches-py is damaged or incomplete \(.*\); delete it"):
        read("cifar10", "test", root)
    fault(
        "outside files: a flipped bit in CIFAR-10's files", "one bit of a file", "the file, which is refused"
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_file_is_noticed(root, server, name):
    read(name, "test", root)
    (root / KINDS[name].base_folder / KINDS[name].test_list[0][0]).unlink()
    with pytest.raises(DataError, match=rf"{KINDS[name].base_folder} is damaged or incomplete"):
        read(name, "test", root)


# Any other set, by its name


class Fake(datasets.VisionDataset):
    """Eight images a class, whose pixels are their index; it verifies a file."""

    classes = ("ape", "bat")

    def __init__(self, root, start=0):
        super().__init__(root)
        datasets.utils.check_integrity(__file__, md5(Path(__file__).read_bytes()))
        self.targets = [index % 2 for index in range(16)]
        self.start = start

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new("RGB", (40, 30), (self.start + index,) * 3), self.targets[index]


class Parted(Fake):
    """With a training and a test part."""

    def __init__(self, root, train=True):
        super().__init__(root, start=0 if train else 100)


class SplitInThree(Fake):
    """With parts by name; one has no labels."""

    def __init__(self, root, split="trainval", fold=1):
        if split not in ("trainval", "test", "val"):
            raise ValueError(f"Unknown value {split!r}")
        super().__init__(root, start={"trainval": 0, "test": 100, "val": 200}[split] + fold)
        if split == "test":
            self.targets = [None] * 16


class Regression(Fake):
    """Its items have boxes, not a class."""

    def __getitem__(self, index):
        return Image.new("L", (40, 30)), {"boxes": []}


class Downloaded(Fake):
    """Downloads its folder only if asked to."""

    def __init__(self, root, download=False):
        if download:
            raise OSError("no network")
        if not Path(root, "made").is_dir():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        super().__init__(root)


class Needy(Fake):
    """Cannot be read without a choice."""

    variants = ("small", "large")

    def __init__(self, root, variant):
        assert variant == "small"
        super().__init__(root)


@pytest.fixture
def fakes(monkeypatch):
    kinds = (Fake, Parted, SplitInThree, Regression, Downloaded, Needy)
    for kind in kinds:
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, *(kind.__name__ for kind in kinds)))


def named(name: str, root: Path, size: int = 16):
    return load(Data(dataset=f"torchvision:{name}", root=str(root), image_size=size))


def values(split) -> list[int]:
    return next(iter(split.pixels.batches([np.arange(len(split))])))[:, 0, 0, 0].tolist()


@pytest.mark.usefixtures("fakes")
def test_a_set_without_parts_has_one_in_five_images_of_a_class_held_out(tmp_path):
    found = named("Fake", tmp_path)
    assert found.classes == ("ape", "bat")
    assert sorted(values(found.train) + values(found.evaluation)) == list(range(16))
    assert np.bincount(found.evaluation.labels).tolist() == [2, 2]
    assert [value % 2 for value in values(found.train)] == found.train.labels.tolist()
    assert found.train.names[0] == f"Fake/train/{values(found.train)[0]:06d}"
    assert found.train.pixels.aspects.tolist() == [np.float32(40 / 30)] * 12
    assert (
        fingerprint(Data(dataset="torchvision:Fake", root=str(tmp_path), image_size=16)) == found.fingerprint
    )


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("Parted", 0, 100),
        ("SplitInThree", 1, 201),
        ("SplitInThree:fold=3", 3, 203),
        ("SplitInThree:split=val", 201, 201),
    ],
)
def test_a_set_s_own_parts_are_used(tmp_path, name, train, test):
    found = named(name, tmp_path)
    assert values(found.train) == list(range(train, train + 16))
    assert values(found.evaluation) == list(range(test, test + 16))


@pytest.mark.usefixtures("fakes")
def test_a_large_set_is_streamed(tmp_path, monkeypatch):
    kept = named("Parted", tmp_path)
    monkeypatch.setattr("clrkit.data.datasets.STREAMED_BEYOND", 0)
    monkeypatch.setattr("clrkit.data.datasets.read_cache", lambda source, show: None)
    streamed = named("Parted", tmp_path)
    assert values(streamed.train) == values(kept.train)
    assert streamed.fingerprint != named("Fake", tmp_path).fingerprint


@pytest.mark.usefixtures("fakes")
def test_the_test_part_is_measured_by_exact_views(tmp_path):
    part, classes = load_evaluation(Data(dataset="torchvision:Parted", root=str(tmp_path), image_size=40))
    (views,) = part.views.batches([np.array([3])])
    assert views.shape == (1, 3, 40, 40)
    assert np.allclose(views.numpy(), 103 / 255)
    assert classes == ("ape", "bat")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EuroSet", r"Unknown data set of torchvision 'EuroSet'; did you mean EuroSAT\?"),
        ("LSUN", r"Unknown data set of torchvision 'LSUN'"),
        ("__all__", r"Unknown data set of torchvision '__all__'"),
        ("SplitInThree:fould=3", r"Unknown argument of SplitInThree 'fould'; did you mean fold\?"),
        ("Regression", r"torchvision:Regression is not a set for classification: "),
        (
            "Needy",
            r"torchvision:Needy needs variant; write torchvision:Needy:variant=VALUE \(possible: small, la",
        ),
        ("EMNIST", r"torchvision:EMNIST needs split; .*possible: byclass, .*letters"),
        ("EMNIST:split=lettres", r"Unknown value 'lettres' for argument split"),
        ("Downloaded", r"torchvision:Downloaded cannot be read from .* or downloaded: no network\.$"),
    ],
)
def test_what_cannot_be_loaded_is_named_in_one_sentence(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        named(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fakes")
def test_files_that_lie_there_are_not_downloaded(tmp_path):
    (tmp_path / "made").mkdir()
    assert len(named("Downloaded", tmp_path).train) == 12


@pytest.mark.usefixtures("fakes")
def test_the_argument_that_is_asked_for_can_be_given(tmp_path):
    assert len(named("Needy:variant=small", tmp_path).train) == 12


def test_a_name_of_another_form_is_refused_by_the_config():
    for name in ("torchvision:", "torchvision:a b", "torchvision:../x", "torchvision:A:b", "imagnet"):
        with pytest.raises(ConfigError, match=r"dataset must be one of tinted_mnist, .* or torchvision:NAME"):
            Data(dataset=name)


def write_eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        folder = root / "eurosat/2750" / name
        folder.mkdir(parents=True)
        for index in range(10):
            Image.fromarray(noise(1, 64)[0].transpose(1, 2, 0)).save(folder / f"{name}_{index}.jpg")


def test_eurosat_is_read_from_its_files(tmp_path):
    write_eurosat(tmp_path)
    with pytest.warns(UserWarning, match="torchvision did not verify the files of torchvision:EuroSAT in"):
        found = named("EuroSAT", tmp_path, 64)
    assert found.classes == ("Forest", "River")
    assert (len(found.train), len(found.evaluation)) == (16, 4)
    dataset = datasets.EuroSAT(tmp_path)
    place = int(found.train.names[3].rpartition("/")[2])
    image, label = dataset[place]
    (pixels,) = found.train.pixels.batches([np.array([3])])
    assert np.array_equal(pixels[0].numpy(), np.asarray(image).transpose(2, 0, 1))
    assert found.train.labels[3] == label


def idx(array: np.ndarray) -> bytes:
    """As MNIST's files are."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def test_mnist_is_read_from_its_files(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    shades = RANDOM.randint(0, 256, (30, 28, 28)).astype(np.uint8)
    labels = (np.arange(30) % 10).astype(np.uint8)
    for part, at in (("train", slice(20)), ("t10k", slice(20, 30))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(shades[at]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[at]))
    with pytest.warns(UserWarning, match="torchvision did not verify the files of torchvision:MNIST in"):
        found = named("MNIST", tmp_path, 28)
    assert found.classes[7] == "7 - seven"
    assert found.train.labels.tolist() == labels[:20].tolist()
    (pixels,) = found.evaluation.pixels.batches([np.arange(10)])
    assert np.array_equal(pixels.numpy(), shades[20:, None].repeat(3, 1))


def test_svhn_is_read_from_files_that_torchvision_verifies(tmp_path):
    from scipy.io import savemat

    for part, seed in (("train", 1), ("test", 2)):
        content = np.random.RandomState(seed).randint(0, 256, (32, 32, 3, 4)).astype(np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": content, "y": np.array([[1], [2], [10], [1]])})
    found = datasets.SVHN.split_list
    sums = {
        part: [*each[:2], md5((tmp_path / each[1]).read_bytes())]
        for part, each in found.items()
        if part != "extra"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.SVHN, "split_list", sums)
        loaded = named("SVHN", tmp_path, 32)
    assert loaded.train.labels.tolist() == [1, 2, 0, 1]
    assert loaded.classes == ("0", "1", "2")
    assert np.array_equal(
        next(iter(loaded.evaluation.pixels.batches([np.array([1])])))[0].numpy(),
        content[..., 1].transpose(2, 0, 1),
    )


def test_a_test_split_that_is_missing_is_named(tmp_path):
    from scipy.io import savemat

    content = np.zeros((32, 32, 3, 4), np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": content, "y": np.array([[1], [2], [10], [1]])})
    sums = {
        "train": ["", "train_32x32.mat", md5((tmp_path / "train_32x32.mat").read_bytes())],
        "test": ["http://127.0.0.1:9/", "test_32x32.mat", "0" * 32],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.SVHN, "split_list", sums)
        with pytest.raises(DataError, match=r"^torchvision:SVHN cannot be read from .*: .*refused"):
            named("SVHN", tmp_path, 32)


def test_no_set_that_is_offered_unpickles_files_that_it_did_not_verify():
    names = [name for name in datasets.__all__ if name[0].isupper() and name not in NOT_OFFERED]
    assert len(names) > 40
    for name in names:
        source = inspect.getsource(inspect.getmodule(getattr(datasets, name)))
        if re.search(r"^import pickle|pickle\.load|allow_pickle|weights_only=False", source, re.M):
            assert name in ("CIFAR10", "CIFAR100"), name
