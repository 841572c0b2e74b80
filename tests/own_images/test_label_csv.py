"""The CSV of labels keeps what its writer put there, and refuses to overwrite a newer label."""

from __future__ import annotations

from pathlib import Path

import pytest

from clrkit.errors import DataError
from clrkit.own_images.label_csv import add_rows, read_table, set_label

PLAIN = b"file,note,label\na.png,ask Ann,\nb.png,,green\n"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PLAIN, PLAIN.replace(b"Ann,", b"Ann,red")),
        (b"\xef\xbb\xbf" + PLAIN, b"\xef\xbb\xbf" + PLAIN.replace(b"Ann,", b"Ann,red")),
        (PLAIN.replace(b"\n", b"\r\n"), PLAIN.replace(b"Ann,", b"Ann,red").replace(b"\n", b"\r\n")),
        (b"file;label;note\na.png;;1,5 m\n", b"file;label;note\na.png;red;1,5 m\n"),
        (b"label\tpart\tfile\n\ttest\ta.png\n", b"label\tpart\tfile\nred\ttest\ta.png\n"),
        (b"label,file,note\n,a.png,  far off \n", b"label,file,note\nred,a.png,  far off \n"),
        (
            b'label,file,note\n,a.png,"lovely, but\nblurred"\n',
            b'label,file,note\nred,a.png,"lovely, but\nblurred"\n',
        ),
        (b"file,label,by\na.png,,Ann\na.png,,Bob\n", b"file,label,by\na.png,red,Ann\na.png,red,Bob\n"),
    ],
    ids=["columns", "mark", "crlf", "semicolons", "tabs", "blanks", "quotes", "rows"],
)
def test_setting_a_label_keeps_separator_encoding_line_ends_and_other_columns(labels, before, after):
    labels.write_bytes(before)
    set_label(labels, "a.png", " red ", seen="")
    assert labels.read_bytes() == after
    assert [path.name for path in labels.parent.iterdir()] == ["labels.csv"]


def test_added_rows_keep_the_form_of_the_file(labels):
    labels.write_bytes(b"\xef\xbb\xbflabel;file\r\nred;a.png\r\n")
    add_rows(labels, [{"file": name, "label": "", "part": "test"} for name in ("a.png", " b.png")])
    assert labels.read_bytes() == b"\xef\xbb\xbflabel;file;part\r\nred;a.png;\r\n; b.png;test\r\n"
    assert [row["file"] for row in read_table(labels)] == ["a.png", " b.png"]


@pytest.mark.parametrize("mode", [0o664, 0o600])
def test_writing_keeps_the_permissions(labels, mode):
    labels.write_bytes(PLAIN)
    labels.chmod(mode)
    set_label(labels, "a.png", "red", seen="")
    assert labels.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file,label,note\na.png,,x\nb.png,,lovely, but blurred\n",
            "cannot be read: Expected 3 fields in line 3, saw 4",
        ),
        (b"file,label,note,note\na.png,,x,y\n", "has two columns note; rename one"),
        (b"file,label,,\na.png,,,\n", "has two columns without a name"),
        (
            b"File,Label\na.png,\n",
            "needs the columns file and label; it has File, Label .capital letters count",
        ),
        (b"name;class\na.png;\n", "needs the columns file and label; it has name, class"),
    ],
)
def test_a_csv_that_would_lose_something_is_refused_and_stays(labels, content, message):
    labels.write_bytes(content)
    with pytest.raises(DataError, match=message):
        set_label(labels, "a.png", "red", seen="")
    assert labels.read_bytes() == content


@pytest.mark.parametrize(
    ("file", "seen", "message"),
    [
        ("c.png", "", "no longer has a row for c.png"),
        ("b.png", "", "b.png was labelled green in .* meanwhile"),
        ("a.png", "blue", "a.png was labelled none in .* meanwhile"),
    ],
)
def test_a_label_replaces_only_the_label_that_was_seen(labels, file, seen, message):
    labels.write_bytes(PLAIN)
    with pytest.raises(DataError, match=message):
        set_label(labels, file, "red", seen=seen)
    assert labels.read_bytes() == PLAIN
