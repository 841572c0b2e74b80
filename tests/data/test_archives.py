"""Archives: what is unpacked is what was packed, and nothing is left of a failure or outside the folder."""

import copy
import io
import os
import stat
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from clrkit.data import archives
from clrkit.data.archives import is_archive, unpack, unpacked
from clrkit.errors import DataError

FILES = {"photos/ape/1.png": b"one", "photos/bat/größe 大.png": b"two" * 9000, "photos/empty.txt": b""}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def tarred(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return path


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of files, of the kind that its suffix names."""
    if path.suffix == ".zip":
        return zipped(path, list(files.items()))
    members = [(info(name, size=len(data)), data) for name, data in files.items()]
    return tarred(path, members, "w" if path.suffix == ".tar" else "w:gz")


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, complaint: str, **options: int) -> None:
    """The archive is refused in one sentence that names it, and nothing is left beside it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=complaint) as caught:
        unpack(archive, archive.parent / "out", **options)
    assert str(caught.value).startswith(f"The archive {archive} cannot be unpacked: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert sorted(archive.parent.rglob("*")) == before


# What is unpacked


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_an_archive_of_one_folder_is_unpacked_as_that_folder(tmp_path, name):
    unpack(packed(tmp_path / name, FILES), tmp_path / "deep/out")
    assert below(tmp_path / "deep/out") == {
        name.removeprefix("photos/"): data for name, data in FILES.items()
    }
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_of_several_folders_is_unpacked_as_it_is(tmp_path, name):
    files = {"ape/1.png": b"1", "./bat//2.png": b"2", "notes": b"3"}
    unpack(packed(tmp_path / name, files), tmp_path / "out")
    assert below(tmp_path / "out") == {"ape/1.png": b"1", "bat/2.png": b"2", "notes": b"3"}


def test_what_macos_adds_is_left_out(tmp_path):
    files = {"photos/ape/1.png": b"1", "__MACOSX/photos/ape/._1.png": b"metadata"}
    unpack(packed(tmp_path / "a.zip", files), tmp_path / "out")
    assert below(tmp_path / "out") == {"ape/1.png": b"1"}


def test_folders_of_an_archive_are_made_and_dangerous_modes_are_dropped(tmp_path):
    script = info("a/run", size=1)
    script.mode = 0o6777
    folder = info("b", tarfile.DIRTYPE)
    folder.mode = 0
    unpack(tarred(tmp_path / "a.tar", [(script, b"x"), (folder, b"")]), tmp_path / "out")
    assert list((tmp_path / "out/b").iterdir()) == []
    assert (tmp_path / "out/a/run").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize("name", ["photos.zip", "a.TAR.GZ", "b.tgz", "c.tar"])
def test_archives_are_known_by_their_suffix(name):
    assert is_archive(Path(name))
    assert not is_archive(Path(name) / "model.ckpt-1.index")


# What is refused

LEAVING = ["../x", "a/../../x", "/tmp/clrkit_escaped", "a/..", "C:/x", "a\\..\\x", "\\\\host\\x"]


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_nothing_is_written_outside_the_folder(tmp_path, name, suffix):
    place = tmp_path / "deep/down"
    place.mkdir(parents=True)
    archive = packed(place / f"a.{suffix}", {"a/1": b"1", name: b"2"})
    with suppress(DataError):
        unpack(archive, place / "out")
    assert {path.name for path in place.iterdir()} <= {archive.name, "out"}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["down"]
    assert not Path("/tmp/clrkit_escaped").exists()


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    members = [(info("a/1", size=1), b"1"), (info("a/2", kind, link="a/1"), b"")]
    refused(tarred(tmp_path / "a.tar", members), "holds 'a/2', which is neither a file nor a folder")


def test_a_link_in_a_zip_becomes_a_file(tmp_path):
    member = zipfile.ZipInfo("a/2")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    unpack(zipped(tmp_path / "a.zip", [("a/1", b"1"), (member, b"/etc/passwd")]), tmp_path / "out")
    assert not (tmp_path / "out/2").is_symlink()
    assert (tmp_path / "out/2").read_bytes() == b"/etc/passwd"


@pytest.mark.parametrize("names", [("a", "a/1"), ("a/1", "a")])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path, names):
    refused(packed(tmp_path / "a.tar", dict.fromkeys(names, b"x")), ".")


def test_an_encrypted_member_is_refused(tmp_path):
    path = packed(tmp_path / "a.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(signature) + place] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")


# Too much


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_more_bytes_than_the_limit_are_refused(tmp_path, suffix):
    path = packed(tmp_path / f"a.{suffix}", {"a": bytes(600), "b": bytes(401)})
    refused(path, "its files have more than 1,000 bytes", most=1000)
    unpack(path, tmp_path / "out", most=1001)


def test_members_that_share_their_bytes_count_each(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", bytes(30_000))
        for name in "123":
            other = copy.copy(archive.filelist[0])
            other.filename = name
            archive.filelist.append(other)
    refused(tmp_path / "a.zip", "more than 100,000 bytes", most=100_000)


def test_a_tar_of_negative_sizes_ends(tmp_path):
    """Python 3.11.7 would go back to the same header for ever."""
    header = bytearray(info("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + struct.pack(">h", -1024)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    refused(tmp_path / "a.tar", "neither a file")


def test_a_zip_with_more_bytes_than_it_declares_leaves_nothing(tmp_path):
    path = packed(tmp_path / "a.zip", {"a": b"1", "b": bytes(range(200))})
    data = path.read_bytes()
    for signature, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = data.rindex(signature) + place
        assert data[at : at + 4] == struct.pack("<I", 200)
        data = data[:at] + struct.pack("<I", 20) + data[at + 4 :]
    path.write_bytes(data)
    refused(path, "CRC|bytes")


# Damage


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_an_archive_that_is_cut_short_leaves_nothing(tmp_path, suffix):
    path = packed(tmp_path / f"a.{suffix}", {f"a/{index}": os.urandom(700) for index in range(9)})
    whole = path.read_bytes()
    for size in range(0, 9 * 700, 350):
        path.write_bytes(whole[:size])
        refused(path, ".")


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_a_flipped_bit_in_a_file_is_noticed(tmp_path, suffix, fault):
    path = packed(tmp_path / f"a.{suffix}", {"a": os.urandom(5000)})
    data = bytearray(path.read_bytes())
    data[2500] ^= 1
    path.write_bytes(data)
    refused(path, ".")
    name = "outside files: a flipped bit in an archive of images, " + suffix
    fault(name, "one bit of the packed bytes", "the archive, which is refused; nothing of it is written")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x1f\x8b", b"not an archive" * 99, b"PK\3\4" + bytes(99)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", ".")


def test_a_missing_archive_and_a_folder_in_its_place_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.zip cannot be read: No such file or directory\.$"):
        unpacked(tmp_path / "gone.zip")
    with pytest.raises(DataError, match="cannot be unpacked: Is a directory"):
        unpack(tmp_path, tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be unpacked: (Not a directory|File exists)"):
        unpack(packed(tmp_path / "a.zip", FILES), tmp_path / "file/out")


# The cache


def test_an_archive_is_unpacked_once_and_found_by_what_is_in_it(tmp_path, monkeypatch):
    first = unpacked(packed(tmp_path / "a.zip", FILES))
    assert below(first)["ape/1.png"] == b"one"
    (tmp_path / "a.zip").rename(tmp_path / "b.zip")
    monkeypatch.setattr(archives, "unpack", None)
    assert unpacked(tmp_path / "b.zip") == first


def test_another_archive_of_the_same_name_is_unpacked_too(tmp_path):
    first = unpacked(packed(tmp_path / "a.zip", FILES))
    second = unpacked(packed(tmp_path / "a.zip", {"ape/1.png": b"uno", "bat/1.png": b""}))
    assert second != first
    assert below(second)["ape/1.png"] == b"uno"


def test_an_archive_that_another_process_unpacked_meanwhile_stays(tmp_path):
    archive = packed(tmp_path / "a.zip", FILES)
    unpack(archive, tmp_path / "out")
    (tmp_path / "out/theirs").touch()
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/theirs").exists()
