"""CIFAR-10, CIFAR-100 and STL-10: their authors' binary files, downloaded from a server of the test's."""

import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clrkit.cli.main import main
from clrkit.config import Data
from clrkit.data import torchvision_sets
from clrkit.data.archives import ArchiveError
from clrkit.data.datasets import fingerprint
from clrkit.data.torchvision_sets import KNOWN, KnownSet, content_of, known_images
from clrkit.errors import DataError
from clrkit.runs.store import Store

RESULTS = Path(__file__).parents[2] / "results"
RANDOM = np.random.RandomState(0)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(f"class_{index:02d}" for index in range(100))


def noise(count: int, side: int) -> np.ndarray:
    """Images (count, 3, side, side)."""
    return RANDOM.randint(0, 256, (count, 3, side, side)).astype(np.uint8)


def rows(images: np.ndarray, *labels: list[int]) -> bytes:
    """As CIFAR's files are: the labels of an image, then its pixels, channel by channel, row by row."""
    columns = [np.array(column, np.uint8)[:, None] for column in labels]
    return np.hstack([*columns, images.reshape(len(images), -1)]).tobytes()


IMAGES = noise(12, 32)
LARGER = noise(6, 96)
FILES = {
    "cifar10": {
        **{f"data_batch_{n + 1}.bin": rows(IMAGES[2 * n : 2 * n + 2], [n, 9 - n]) for n in (4, 0, 1, 2, 3)},
        "test_batch.bin": rows(IMAGES[10:], [7, 0]),
        "batches.meta.txt": "\n".join([*CIFAR10, "", ""]).encode(),
        "readme.html": b"",
    },
    "cifar100": {
        "train.bin": rows(IMAGES[:2], [1, 2], [99, 3]),
        "test.bin": rows(IMAGES[2:4], [1, 2], [5, 4]),
        "fine_label_names.txt": "\n".join(CIFAR100).encode(),
        "coarse_label_names.txt": b"a\nb\n",
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
            info = tarfile.TarInfo(f"{KNOWN[name].folder}/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


ARCHIVES = {name: archived(name) for name in FILES}  # gzip notes the time


def small(name: str, url: str) -> KnownSet:
    """A known set of the files above."""
    sums = {
        part: {file: md5(FILES[name][file]) for file in files} for part, files in KNOWN[name].files.items()
    }
    content = {part: content_of(*CIFAR10_PARTS[part]) for part in KNOWN[name].content}
    return replace(
        KNOWN[name], url=url, md5=md5(ARCHIVES[name]), files=sums, content=content, fingerprints={}
    )


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the archives of the small sets, which take the place of the real ones; its folder."""
    served = tmp_path / "served"
    served.mkdir()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    for name, archive in ARCHIVES.items():
        file = KNOWN[name].url.rpartition("/")[2]
        (served / file).write_bytes(archive)
        url = f"http://127.0.0.1:{running.server_port}/{file}"
        monkeypatch.setitem(torchvision_sets.KNOWN, name, small(name, url))
    yield served
    running.shutdown()
    running.server_close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "deep/root"


def read(name: str, part: str, root: Path) -> tuple[np.ndarray, list[int], tuple[str, ...]]:
    """Images (count, 3, side, side), labels and classes."""
    found, classes = known_images(name, part, root, lambda line: None)
    if name != "cifar10":
        assert found.names == [f"{part}/{index:06d}" for index in range(len(found.labels))]
    return found.found.array.transpose(0, 3, 1, 2), found.labels.tolist(), classes


def digests(images: np.ndarray, labels: list[int]) -> list[tuple[str, int]]:
    """SHA-256 of images (count, 32, 32, 3), with their labels."""
    return [(sha256(image), label) for image, label in zip(images, labels, strict=True)]


def sha256(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("part", ["train", "test"])
def test_cifar10_is_read_batch_by_batch_and_put_in_the_order_of_its_content(root, part):
    found, classes = known_images("cifar10", part, root, lambda line: None)
    assert classes == CIFAR10
    expected = sorted(digests(*CIFAR10_PARTS[part]))
    assert digests(found.found.array, found.labels) == expected
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
    monkeypatch.setitem(torchvision_sets.KNOWN, "cifar10", replace(KNOWN["cifar10"], content=content))
    return tmp_path / "copy", parts


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_lossless_copy_of_cifar10_gives_the_images_that_its_authors_files_give(copied, suffix):
    folder, parts = copied
    write_copy(folder, parts, suffix)
    for part, (images, labels) in parts.items():
        found, classes = known_images("cifar10", part, folder, lambda line: None)
        assert classes == CIFAR10
        read = digests(found.found.array, found.labels)
        assert read == sorted(digests(images, labels))


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
    with pytest.raises(DataError, match=rf"^{folder}/train is no exact copy of the set: "):
        known_images("cifar10", "train", folder, lambda line: None)


@pytest.mark.parametrize("name", ["kitten", "3"])
def test_folders_of_other_classes_are_no_copy(root, server, name):
    write_copy(root, whole())
    (root / "train/cat").rename(root / "train" / name)
    (server / "cifar-10-binary.tar.gz").unlink()
    with pytest.raises(DataError, match=r"^Neither cifar-10-batches-bin nor "):
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


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_binary_version_is_read_as_torchvision_reads_the_pickled_one(
    root, server, tmp_path, monkeypatch, name, part
):
    import pickle

    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    folder = tmp_path / "pickled" / kind.base_folder
    folder.mkdir(parents=True)
    label_bytes = 1 if name == "cifar10" else 2
    for file, _ in (*kind.train_list, *kind.test_list):
        table = np.frombuffer(FILES[name][f"{file}.bin"], np.uint8).reshape(-1, label_bytes + 3072)
        key = "labels" if label_bytes == 1 else "fine_labels"
        content = {"data": table[:, label_bytes:], key: table[:, label_bytes - 1].tolist()}
        (folder / file).write_bytes(pickle.dumps(content))
    classes = list(CIFAR10 if name == "cifar10" else CIFAR100)
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: classes}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    theirs = kind(tmp_path / "pickled", train=part == "train")
    found, names = known_images(name, part, root, lambda line: None)
    ours = digests(found.found.array, found.labels)
    of_theirs = digests(theirs.data, theirs.targets)
    assert ours == (sorted(of_theirs) if name == "cifar10" else of_theirs)
    assert list(names) == theirs.classes


def test_stl10_is_read_as_torchvision_reads_it(root, server, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    for part, split in (("train", "train+unlabeled"), ("test", "test")):
        found, names = known_images("stl10", part, root, lambda line: None)
        theirs = datasets.STL10(root, split)
        assert np.array_equal(found.found.array, theirs.data.transpose(0, 2, 3, 1))
        assert found.labels.tolist() == theirs.labels.astype(int).tolist()
        assert list(names) == theirs.classes


def test_the_parts_and_sums_of_the_real_files_are_distinct():
    for known in KNOWN.values():
        sums = [known.md5, *(sum for files in known.files.values() for sum in files.values())]
        assert len(set(sums)) == len(sums)
        assert all(len(sum) == 32 and int(sum, 16) for sum in sums)
        assert known.url.startswith("https://")


def test_what_is_known_beforehand_is_the_fingerprint_of_the_recorded_runs():
    records = [run.record for run in Store(RESULTS, "cifar10_cpu").reference.all()]
    assert records
    assert {record["dataset"]["fingerprint"] for record in records} == {
        fingerprint(Data(dataset="cifar10", image_size=32))
    }


def test_only_at_its_own_size_is_a_set_known_beforehand(root, server):
    (server / "cifar-10-binary.tar.gz").unlink()
    with pytest.raises(DataError, match="cannot be downloaded"):
        fingerprint(Data(dataset="cifar10", root=str(root), image_size=24))


def test_committed_claims_are_told_without_the_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLRKIT_ROOT", raising=False)
    monkeypatch.setattr(
        torchvision_sets, "urlopen", lambda *_, **__: pytest.fail("the images were asked for")
    )
    assert main(["claims", "--preset", "cifar10_cpu", "--results", str(tmp_path / "results")]) == 0
    assert "C0" in capsys.readouterr().out


# Where a set is found


def test_a_set_is_downloaded_once_with_progress_and_read_without_the_server(root, server):
    lines = []
    first, _ = known_images("cifar10", "test", root, lines.append)
    archive = root / "cifar-10-binary.tar.gz"
    megabytes = f"{archive.stat().st_size / 1e6:,.0f}"
    assert lines[0].startswith("downloading http://127.0.0.1")
    assert lines[0].endswith(f": {megabytes} of {megabytes} MB")
    assert lines[-1] == f"unpacking {archive}"
    assert {path.name for path in root.iterdir()} == {"cifar-10-batches-bin", archive.name}
    for file in (*server.iterdir(), archive):
        file.unlink()
    again, _ = known_images("cifar10", "test", root, pytest.fail)
    assert np.array_equal(again.found.array, first.found.array)


def test_an_archive_that_lies_there_is_not_downloaded(root, server):
    root.mkdir(parents=True)
    (server / "cifar-10-binary.tar.gz").rename(root / "cifar-10-binary.tar.gz")
    assert sorted(read("cifar10", "test", root)[1]) == [0, 7]


def test_a_set_that_cannot_be_downloaded_is_named(root, server):
    (server / "cifar-10-binary.tar.gz").unlink()
    message = (
        rf"^Neither cifar-10-batches-bin nor cifar-10-binary\.tar\.gz is in {root}, and http[^ ]*gz cannot "
        r"be downloaded: HTTP Error 404: File not found\.$"
    )
    with pytest.raises(DataError, match=message):
        read("cifar10", "train", root)
    assert list(root.iterdir()) == []


def test_who_has_the_pickled_version_is_told_that_it_is_not_read(root, server):
    (server / "cifar-10-binary.tar.gz").unlink()
    (root / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(DataError, match=r"\(.*cifar-10-batches-py is pickled, and no pickle is read\)"):
        read("cifar10", "train", root)


@pytest.mark.parametrize("damage", [lambda old: old[:-9], lambda old: old[:99] + b"?" + old[100:]])
def test_a_damaged_download_is_refused_and_not_kept(root, server, damage, fault):
    file = server / "cifar-10-binary.tar.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match="what arrived is not the archive that its authors offer"):
        read("cifar10", "train", root)
    assert list(root.iterdir()) == []
    name = "outside files: a download is cut short or damaged"
    fault(name, "other bytes from the server", "nothing: it is not kept")


def test_an_endless_download_is_given_up(root, server, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "LARGEST_DOWNLOAD", 100)
    with pytest.raises(DataError, match="it has more than 100 bytes"):
        read("cifar10", "train", root)
    assert list(root.iterdir()) == []


def test_an_archive_that_is_not_its_authors_is_refused(root, server):
    root.mkdir(parents=True)
    (root / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"binary\.tar\.gz is not the archive that its authors offer; delete"):
        read("cifar10", "train", root)


def test_an_archive_that_leads_out_is_refused_though_its_sum_is_right(root, server, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../out"))
    known = replace(KNOWN["cifar10"], md5=md5(buffer.getvalue()))
    monkeypatch.setitem(torchvision_sets.KNOWN, "cifar10", known)
    (server / "cifar-10-binary.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(ArchiveError, match="may lead out of its folder"):
        read("cifar10", "train", root)
    assert not (root / "cifar-10-batches-bin").exists()


@pytest.mark.parametrize("file", ["data_batch_3.bin", "test_batch.bin"])
def test_a_flipped_bit_in_an_unpacked_file_is_noticed(root, server, file, fault):
    read("cifar10", "test", root)
    path = root / "cifar-10-batches-bin" / file
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{file} is damaged or not what it should be; delete its folder"):
        read("cifar10", "test" if "test" in file else "train", root)
    fault(
        "outside files: a flipped bit in CIFAR-10's files", "one bit of a file", "the file, which is refused"
    )


def test_missing_files_and_class_names_are_named(root, server):
    read("cifar10", "test", root)
    names = root / "cifar-10-batches-bin/batches.meta.txt"
    names.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt names 2 classes, fewer than there are\.$"):
        read("cifar10", "test", root)
    names.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"^cifar10 cannot be read from .*: 'ascii' codec"):
        read("cifar10", "test", root)
    names.unlink()
    with pytest.raises(DataError, match=r"^cifar10 cannot be read from .*: No such file or directory\.$"):
        read("cifar10", "test", root)
