"""The labelling panel without a browser: every label is on disk at once, and a new panel resumes there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from clrkit.errors import DataError
from clrkit.notebook import labelling_panel
from clrkit.notebook.labelling_panel import LabellingPanel
from clrkit.own_images.label_csv import add_rows, read_table, set_label


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in "abcd":
        Image.new("RGB", (6, 4), "red").save(tmp_path / f"{name}.png")
    add_rows(
        tmp_path / "labels.csv", [{"file": f"{name}.png", "label": "", "part": "train"} for name in "abcd"]
    )
    return tmp_path


def panel(images: Path, *classes: str) -> LabellingPanel:
    return LabellingPanel(images, images / "labels.csv", classes)


def given(images: Path) -> list[str]:
    return [row["label"] for row in read_table(images / "labels.csv")]


def press(panel: LabellingPanel, name: str) -> None:
    (button,) = [each for each in panel.buttons.children if each.description.endswith(f"  {name}")]
    button.click()


def test_a_label_is_on_disk_at_once_and_the_next_image_is_shown(images):
    shown = panel(images, "cat", "dog")
    assert "0 of 4 have labels" in shown.progress.value
    assert 'alt="image a.png"' in shown.picture.value
    press(shown, "dog")
    assert given(images) == ["dog", "", "", ""]
    assert "1 of 4 have labels" in shown.progress.value
    assert 'alt="image b.png"' in shown.picture.value


def test_a_class_or_its_number_can_be_typed_and_a_new_class_gets_a_button(images):
    shown = panel(images, "cat", "dog")
    for text in ("2", "horse", "  cat ", "3"):
        shown.entry.value = text
        assert shown.entry.value == ""
    assert given(images) == ["dog", "horse", "cat", "horse"]
    assert [each.description for each in shown.buttons.children] == ["1  cat", "2  dog", "3  horse"]
    assert "All 4 have labels" in shown.progress.value


def test_at_the_end_no_image_is_shown_and_no_label_is_replaced_until_back_is_pressed(images):
    shown = panel(images, "cat", "dog")
    for _ in range(4):
        press(shown, "cat")
    assert "All images have labels" in shown.picture.value
    press(shown, "dog")
    shown.skip.click()
    shown.entry.value = "dog"
    assert given(images) == ["cat"] * 4
    assert "press Back" in shown.status.value
    shown.back.click()
    assert 'alt="image d.png, now cat"' in shown.picture.value
    press(shown, "dog")
    assert given(images) == ["cat", "cat", "cat", "dog"]
    assert "All images have labels" in panel(images).picture.value


def test_a_finished_panel_goes_back_to_the_last_row_after_a_restart(images):
    for name in "abcd":
        set_label(images / "labels.csv", f"{name}.png", "cat", seen="")
    shown = panel(images)
    shown.back.click()
    assert 'alt="image d.png, now cat"' in shown.picture.value


def test_a_typed_digit_is_the_class_of_that_name_if_there_is_one(images):
    shown = panel(images, "7", "1")
    assert [each.description for each in shown.buttons.children] == ["7", "1"]
    assert "number" not in shown.entry.placeholder
    for text in ("1", "2"):
        shown.entry.value = text
    assert given(images)[:2] == ["1", "2"]


def test_a_new_name_similar_to_another_is_reported(images):
    shown = panel(images, "horse")
    shown.entry.value = "hosre"
    assert re.search("New class, similar to horse; press Back to change it", shown.status.value)
    shown.back.click()
    assert "a.png, now hosre" in shown.progress.value
    press(shown, "horse")
    assert given(images)[0] == "horse"


def test_a_skipped_image_is_shown_again_at_the_end(images):
    shown = panel(images, "cat")
    shown.skip.click()
    for _ in range(3):
        press(shown, "cat")
    assert given(images) == ["", "cat", "cat", "cat"]
    assert 'alt="image a.png"' in shown.picture.value


def test_a_new_panel_resumes_at_the_first_unlabelled_image_with_the_same_classes(images):
    shown = panel(images)
    for text in ("cat", "dog"):
        shown.entry.value = text
    again = panel(images)
    assert "2 of 4 have labels" in again.progress.value
    assert 'alt="image c.png"' in again.picture.value
    assert [each.description for each in again.buttons.children] == ["1  cat", "2  dog"]


def test_labels_written_by_another_process_are_kept(images):
    shown = panel(images, "cat")
    set_label(images / "labels.csv", "b.png", "dog", seen="")
    press(shown, "cat")
    assert given(images) == ["cat", "dog", "", ""]
    assert 'alt="image c.png"' in shown.picture.value


def test_a_failed_write_is_reported_and_the_image_stays(images, monkeypatch):
    shown = panel(images, "cat")

    def refuse(*_: object) -> None:
        raise DataError("The disk is full.")

    monkeypatch.setattr(labelling_panel, "set_label", refuse)
    press(shown, "cat")
    assert "Not written: The disk is full." in shown.status.value
    assert 'alt="image a.png"' in shown.picture.value


def rewrite(images: Path, *names: str) -> None:
    (images / "labels.csv").write_text("".join(["file,label\n", *(f"{name}.png,\n" for name in names)]))


def labels_of(images: Path) -> dict[str, str]:
    return {row["file"]: row["label"] for row in read_table(images / "labels.csv")}


def test_a_label_goes_to_the_image_on_the_screen_even_if_the_rows_were_reordered(images):
    shown = panel(images, "cat")
    rewrite(images, *"dcba")
    press(shown, "cat")
    assert labels_of(images) == {"d.png": "", "c.png": "", "b.png": "", "a.png": "cat"}
    assert 'alt="image d.png"' in shown.picture.value
    shown.back.click()
    assert 'alt="image a.png, now cat"' in shown.picture.value


def test_a_broken_image_is_named_and_can_be_skipped_without_taking_a_label(images):
    (images / "b.png").write_bytes(b"no image")
    shown = panel(images, "cat")
    press(shown, "cat")
    assert "a.png: cat." in shown.status.value
    assert "1 of 4 have labels" in shown.progress.value
    assert "b.png cannot be shown; skip it" in shown.picture.value
    assert "broken, or not an image" in shown.picture.value
    shown.skip.click()
    assert 'alt="image c.png"' in shown.picture.value
    press(shown, "cat")
    assert labels_of(images) == {"a.png": "cat", "b.png": "", "c.png": "cat", "d.png": ""}


def test_an_image_without_a_row_takes_no_label_and_the_next_one_is_shown(images):
    shown = panel(images, "cat")
    rewrite(images, "c", "d")
    press(shown, "cat")
    assert re.search("Not written: .* no longer has a row for a.png", shown.status.value)
    assert labels_of(images) == {"c.png": "", "d.png": ""}
    assert 'alt="image c.png"' in shown.picture.value
    rewrite(images)
    for act in (shown.skip.click, shown.back.click, lambda: press(shown, "cat")):
        act()
        assert "has no images to label" in shown.status.value


def test_a_second_panel_does_not_overwrite_a_label_that_it_has_not_shown(images):
    first, second = panel(images, "cat", "dog"), panel(images, "cat", "dog")
    press(first, "cat")
    press(second, "dog")
    assert re.search("Not written: a.png was labelled cat in .* meanwhile", second.status.value)
    assert labels_of(images)["a.png"] == "cat"
    assert 'alt="image a.png, now cat"' in second.picture.value
    press(second, "dog")
    assert labels_of(images)["a.png"] == "dog"


def test_names_and_labels_are_escaped(images):
    (images / "a.png").rename(images / "<b>.png")
    text = (images / "labels.csv").read_text().replace("a.png", "<b>.png")
    (images / "labels.csv").write_text(text)
    shown = panel(images, "cat")
    assert "<b>.png" not in shown.picture.value + shown.progress.value.replace("<b>0", "")


def test_a_csv_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no images to label; `fit` proposes some"):
        LabellingPanel(tmp_path, tmp_path / "labels.csv")


@pytest.mark.slow
def test_the_proposals_are_one_picture(images):
    set_label(images / "labels.csv", "b.png", "cat", seen="")
    picture = labelling_panel.proposals(images, read_table(images / "labels.csv"))
    assert picture.alt == "4 images, labels: none 3, cat 1."
    assert picture.png().startswith(b"\x89PNG")
