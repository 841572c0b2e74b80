"""Own images, from folder to model: scan, recipe, labels, proposals, report; errors are one sentence."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clrkit.cli import fit as command
from clrkit.cli.main import main
from clrkit.data.datasets import fingerprint, load
from clrkit.data.folders import list_images
from clrkit.errors import ConfigError, DataError
from clrkit.experiments.presets import preset
from clrkit.notebook.papermill import execute
from clrkit.own_images import active_learning, cross_validation, evaluation_report, fit, scan
from clrkit.own_images.label_csv import add_rows, editing, rare_labels, read_table, set_label
from clrkit.own_images.recipe import recipe
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.signals import raise_on_signals
from clrkit.runs.store import Run, Store

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
QUICK = [
    "--pretrain.epochs",
    "1",
    "--teacher.epochs",
    "2",
    "--distill.epochs",
    "1",
    "--pretrain.width",
    "0.25",
]


def write(root: Path, *names: str, side: int = 12) -> Path:
    """Noisy squares whose colour is the class in their name, if there is one."""
    for number, name in enumerate(names):
        random = np.random.RandomState(number)
        color = next((value for key, value in COLORS.items() if key in name), (128, 128, 128))
        pixels = np.clip(random.randn(side, side, 3) * 40 + color, 0, 255).astype(np.uint8)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    return root


def unlabelled(root: Path, count: int = 30) -> Path:
    names = list(COLORS)
    return write(root, *(f"{names[index % 3]}-{index:02d}.png" for index in range(count)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "own")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return unlabelled(tmp_path / "my images")


def label_all(path: Path, label: Callable[[str], str] = lambda file: file.partition("-")[0]) -> None:
    with editing(path) as rows:
        for row in rows:
            row["label"] = label(row["file"])


# What is in the folder


def test_sentences_describe_a_folder(images, store):
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "truncated.png").write_bytes((images / "red-00.png").read_bytes()[:200])
    (images / "notes.txt").write_text("not an image")
    (images / "copy.png").write_bytes((images / "red-00.png").read_bytes())
    found = scan.scan_folder(images, store)
    assert (len(found.names), found.side, set(found.broken)) == (31, 12, {"broken.jpg", "truncated.png"})
    assert found.copies == 1
    told = " ".join(found.sentences())
    assert "31 images in" in told
    assert "2 cannot be read and are left out, first broken.jpg" in told
    assert len(load(found.data).train) == 31


def test_a_dangling_link_is_left_out_as_unreadable(images, store):
    (images / "link.png").symlink_to("nowhere.png")
    found = scan.scan_folder(images, store)
    assert (len(found.names), list(found.broken)) == (30, ["link.png"])
    assert len(load(found.data).train) == 30


def test_images_of_every_kind_are_taken(images, store):
    grey = Image.new("L", (9, 300), 80)
    grey.save(images / "grey.png")
    Image.new("CMYK", (20, 20)).save(images / "print.jpg")
    Image.new("RGBA", (2, 2)).save(images / "tiny.webp")
    grey.save(images / "moving.gif", save_all=True, append_images=[Image.new("L", (9, 300), 200)])
    found = scan.scan_folder(images, store)
    assert len(found.names) == 34
    assert not found.broken
    assert load(found.data).train.pixels.array.shape == (34, 3, 12, 12)


def test_a_folder_is_opened_once_until_it_changes(images, store, monkeypatch):
    first = scan.scan_folder(images, store)
    monkeypatch.setattr(scan, "open_image", lambda path: "never")
    assert scan.scan_folder(images, store) == first
    os.utime(images / "red-00.png", (1, 1))
    with pytest.raises(DataError, match="has 0 readable images"):
        scan.scan_folder(images, store)


def test_class_folders_are_labels_but_a_single_folder_is_not(tmp_path, store):
    names = [f"{color}/{index}.png" for color in COLORS for index in range(8)]
    found = scan.scan_folder(write(tmp_path / "a", *names, "unlabelled/x.png", "test/red/1.png"), store)
    assert (len(found.labels), len(found.names), found.test) == (24, 25, 1)
    assert found.labels["red/0.png"] == "red"
    single = write(tmp_path / "b", *(f"all/{index}.png" for index in range(20)))
    alone = scan.scan_folder(single, Store(store.results, "other"))
    assert not alone.labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), "has no images"),
        (lambda root: (root.mkdir(), (root / "a.txt").write_text("text")), "has no images"),
        (lambda root: unlabelled(root, 15), "has 15 readable images; at least 16 are needed"),
        (lambda root: None, "does not exist"),
    ],
    ids=["empty", "texts", "few", "missing"],
)
def test_a_folder_without_enough_images_is_refused(tmp_path, store, make, message):
    make(tmp_path / "own")
    with pytest.raises(DataError, match=message):
        scan.scan_folder(tmp_path / "own", store)


# The recipe


def fake(count: int, side: int) -> scan.FolderScan:
    names = tuple(map(str, range(count)))
    return scan.FolderScan(Path("/images"), names, side, {}, 0, {}, 0, "")


def test_a_recipe_suits_number_size_and_device():
    small, large = recipe(fake(500, 32)), recipe(fake(50_000, 500))
    assert small.images.image_size == 32
    assert large.images.image_size == 64
    assert small.teacher.pretrain.epochs > 10 * large.teacher.pretrain.epochs
    fast = recipe(fake(50_000, 500), "cuda")
    assert (fast.images.image_size, fast.teacher.pretrain.network.depth, fast.network.depth) == (128, 18, 8)
    assert recipe(fake(16, 3)).teacher.pretrain.batch_size == 8


def test_fields_are_set_by_name():
    chain = recipe(fake(500, 32), fields={"pretrain.epochs": "3", "width": 0.5, "flip": "false"})
    assert (chain.teacher.pretrain.epochs, chain.network.width) == (3, 0.5)
    assert not any(link.augmentation.flip for link in chain.chain)
    with pytest.raises(ConfigError, match="did you mean epochs"):
        recipe(fake(500, 32), fields={"epoch": 3})
    with pytest.raises(ConfigError, match=r"teacher\.fraction does not work with `fit`, which trains on all"):
        recipe(fake(500, 32), fields={"teacher.fraction": "0.5"})


# Labels


def test_labels_change_later_stages_and_leave_pretraining(images, store):
    found = scan.scan_folder(images, store)
    chain, labels = recipe(found), images / "labels.csv"
    rows = [{"file": name, "label": name.partition("-")[0], "part": ""} for name in found.names[:20]]
    few = fit.with_labels(chain, found, rows[:16], store, labels)
    more = fit.with_labels(chain, found, rows, store, labels)
    assert len({store.path(each.teacher.pretrain) for each in (chain, few, more)}) == 1
    assert len({store.path(each) for each in (few, more)}) == 2
    assert store.path(few) == store.path(fit.with_labels(chain, found, rows[:16], store, labels))
    assert fingerprint(few.images) != fingerprint(chain.images)


def test_images_to_measure_on_are_pretrained_on_without_their_labels(images, store):
    found = scan.scan_folder(images, store)
    rows = [{"file": name, "label": name.partition("-")[0], "part": ""} for name in found.names[:20]]
    rows[3]["part"] = "test"
    chain = fit.with_labels(recipe(found), found, rows, store, images / "labels.csv")
    data = load(chain.images)
    assert list(data.evaluation.names) == [rows[3]["file"]]
    seen = dict(zip(data.train.names, data.train.labels, strict=True))
    assert len(seen) == 30
    assert seen[rows[3]["file"]] == -1
    assert sum(label >= 0 for label in seen.values()) == 19


def test_without_a_test_part_one_in_five_of_each_class_is_held_out(images, store):
    found = scan.scan_folder(images, store)
    rows = [{"file": name, "label": name.partition("-")[0]} for name in found.names]
    rows.append(dict(rows.pop(), label="violet"))  # a class with a single label is only trained on
    chain = fit.with_labels(recipe(found), found, rows, store, images / "labels.csv")
    data = load(chain.images)
    assert np.bincount(data.evaluation.labels).tolist() == [2, 2, 2]
    assert "violet" in data.classes


def test_accuracy_is_measured_on_the_same_images_when_more_labels_come(images, store):
    found, labels = scan.scan_folder(images, store), images / "labels.csv"
    rows = [{"file": name, "label": name.partition("-")[0], "note": "mine"} for name in found.names]
    measured = []
    for count in (12, 30):
        add_rows(labels, rows[:count])
        chain = fit.with_labels(recipe(found), found, fit.known_rows(found, labels), store, labels)
        measured.append(load(chain.images).evaluation.names)
    assert measured[0] == measured[1]
    assert len(measured[0]) == 3
    assert {row["note"] for row in read_table(labels)} == {"mine"}


def test_class_folders_still_hold_for_images_that_the_csv_does_not_name(tmp_path, store):
    root = write(tmp_path / "own", *(f"{color}/{index}.png" for color in COLORS for index in range(8)))
    labels = root / "labels.csv"
    add_rows(labels, fit.known_rows(scan.scan_folder(root, store), labels)[-9:])
    set_label(labels, "red/0.png", "blue", seen="red")
    found = scan.scan_folder(write(root, "red/new.png", "green/new.png"), store)
    rows = {row["file"]: row["label"] for row in fit.known_rows(found, labels)}
    assert (len(rows), rows["red/new.png"], rows["red/0.png"]) == (26, "red", "blue")
    measured = []
    for _ in range(2):
        chain = fit.with_labels(recipe(found), found, fit.known_rows(found, labels), store, labels)
        measured.append(load(chain.images).evaluation.names)
    assert measured[0] == measured[1]
    assert len(measured[0]) == 6


def test_folders_are_not_classes_if_the_csv_contradicts_all_of_them(tmp_path, store):
    root = write(tmp_path / "own", *(f"202{year}/{index}.png" for year in (3, 4) for index in range(8)))
    found, labels = scan.scan_folder(root, store), root / "labels.csv"
    named = [{"file": f"2023/{index}.png", "label": "ab"[index % 2]} for index in range(6)]
    add_rows(labels, named)
    rows = fit.known_rows(found, labels)
    assert len(rows) == 6
    said = "10 images lie in class folders"
    assert said in " ".join(fit.plan(found, recipe(found), rows))


def test_accuracy_is_not_measured_on_typical_images_while_drawn_ones_lack_labels(images, store):
    found = scan.scan_folder(images, store)
    rows = [{"file": name, "label": name.partition("-")[0], "part": "train"} for name in found.names]
    rows[-1] = {"file": found.names[-1], "label": "", "part": "test"}
    with pytest.raises(DataError, match=r"has no label to measure on; .* those with part test"):
        fit.with_labels(recipe(found), found, rows, store, images / "labels.csv")


def test_accuracy_is_measured_on_the_test_folder(tmp_path, store):
    names = [f"test/{color}/{index}.png" for color in COLORS for index in range(3)]
    root = write(unlabelled(tmp_path / "own"), *names)
    found = scan.scan_folder(root, store)
    assert (len(found.names), found.test) == (30, 9)
    rows = [{"file": name, "label": name.partition("-")[0], "part": "test"} for name in found.names]
    chain = fit.with_labels(recipe(found), found, rows, store, root / "labels.csv")
    data = load(chain.images)
    assert (len(data.train), len(data.evaluation)) == (30, 9)
    assert (data.train.labels >= 0).all()


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cat"] * 8, [], "only one class, cat; at least two classes are needed"),
        ([], [], "no class; at least two"),
        (["cat", "dog"], [], "has no label to measure on"),
        (["Cat", "Cat", "cat", "cat", "dog"], [], "Cat and cat, which differ only in capitals or blanks"),
        (["a cat", "a cat", "a  cat", "dog"], [], "a  cat and a cat, which differ only in capitals"),
        (["cat", "cot", "dog"], ["cat", "dog"], "Unknown label in .*labels.csv 'cot'; did you mean cat"),
        (["b", "a", "d1"], ["d1", "d2"], "Unknown label in .*labels.csv 'a'; there are d1, d2"),
    ],
)
def test_impossible_labels_are_refused_in_a_sentence(images, store, labels, classes, message):
    found = scan.scan_folder(images, store)
    rows = [{"file": f, "label": each} for f, each in zip(found.names, labels, strict=False)]
    with pytest.raises(ConfigError, match=message):
        fit.with_labels(recipe(found), found, rows, store, images / "labels.csv", classes)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["part_1"] * 5 + ["part_2"], []),
        (["healthy"] * 3 + ["unhealthy"], []),
        (["male", "female", "female", "female"], []),
        (["cat"] * 5 + ["Cat"], ["cat", "Cat"]),
    ],
)
def test_class_names_may_be_similar(images, store, labels, classes):
    found = scan.scan_folder(images, store)
    rows = [{"file": f, "label": each} for f, each in zip(found.names, labels, strict=False)]
    fit.with_labels(recipe(found), found, rows, store, images / "labels.csv", classes)


def test_a_class_with_one_label_is_named_with_the_class_that_it_may_be():
    said = rare_labels(["zero"] * 6 + ["zreo", "tree", "tree", "part_1", "part_1", "part_2"])
    assert said == "Classes with a single label are hard to learn: part_2, zreo (did you mean zero?)."
    assert rare_labels(["cat", "cat"]) == ""


def test_the_results_of_one_folder_are_not_overwritten_by_another(tmp_path, store):
    first = scan.scan_folder(unlabelled(tmp_path / "2023" / "photos"), store)
    with pytest.raises(ConfigError, match=r"belongs to the images .*2023.*2024.* differently \(--name\)"):
        scan.scan_folder(unlabelled(tmp_path / "2024" / "photos"), store)
    assert scan.scan_folder(tmp_path / "2023" / "photos", store) == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nnever.png,cat\n", "names never.png, which is not among the images"),
        (
            "name,class\nred-00.png,cat\n",
            "needs the columns file and label; it has name, class",
        ),
        ("file,label\nred-00.png,cat\nred-00.png,dog\n", "gives red-00.png two labels, cat and dog"),
        ("file,label\n,cat\n", "has a row that names no file"),
        ("", "needs the columns file and label; it has none"),
        ("\xe9".encode("latin-1"), "cannot be read: .utf-8. codec"),
    ],
)
def test_a_wrong_csv_is_refused_and_stays(images, store, content, message):
    labels = images / "labels.csv"
    labels.write_bytes(content if isinstance(content, bytes) else content.encode())
    content = labels.read_bytes()
    with pytest.raises(DataError, match=message):
        fit.known_rows(scan.scan_folder(images, store), labels)
    assert labels.read_bytes() == content


def test_a_csv_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*; choose another file with --labels"):
        set_label(tmp_path / "file" / "labels.csv", "a.png", "cat", seen="")


# The assessment


def test_shares_of_classes_are_those_of_their_counts():
    confusion = [[2, 1, 0, 0], [0, 4, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    truth, predicted = np.array([0, 0, 0, 1, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1, 1, 1])
    found = evaluation_report.Assessment(
        Run(Path("runs"), {"confusion": confusion}),
        ("ape", "bat", "cow", "elk"),
        truth,
        predicted,
        {"ape": 3, "bat": 3, "cow": 0, "elk": 1},
    )
    table = found.by_class().set_index("class")
    assert table["recall"].round(1).tolist()[:3] == [66.7, 100.0, 0.0]
    assert table["precision"].round(1).tolist()[:2] == [100.0, 66.7]
    assert np.isnan(table.loc["elk", "recall"])
    assert table.loc["bat", ["recall_low", "recall_high"]].round(1).tolist() == [51.0, 100.0]
    assert "Accuracy 75.0% (95%: 40.9 to 92.9) on 8 images" in found.sentence()
    assert "52 points wide" in found.sentence()
    assert any("cow" in remark for remark in found.remarks())
    assert "recall, % (95%)" in found.lines()[0]
    assert " ".join(found.lines()[2].split()) == "bat 3 4 6 100 (51 to 100) 67 (30 to 90)"
    long = replace(found, classes=("ape" * 30 + "_1", "bat" * 30, "cow", "elk"))
    assert max(map(len, long.lines())) <= 80
    assert long.lines()[1].startswith("apeapeap…")
    images = np.zeros((2, 3, 8, 8), dtype=np.float32)
    doubtful = cross_validation.Crosscheck(
        found.classes, tuple("abcdefgh"), truth, predicted, np.linspace(0.5, 0.9, 8), images
    )
    page = evaluation_report.page("<own>", [], found, doubtful)
    assert "place 2 of 8 training images in another class" in page
    assert "measured but not shown" in page
    assert "recall_low" not in page
    assert "&lt;own&gt;" in page
    assert page.count("<img ") == 3
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert '<tr><th scope="row">elk</th>' in page


def test_labels_that_a_fraction_leaves_out_are_not_counted():
    stage = preset("smoke").distill
    counts = evaluation_report.label_counts(stage, load(stage.images))
    assert list(counts.values()) == [round(stage.teacher.fraction * 400)] * 10


# The command


@pytest.mark.slow
def test_from_a_folder_to_a_page_and_a_model_in_two_commands(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["fit", str(images), "--budget", "15", *QUICK]
    assert main(command) == 0
    said = capsys.readouterr().out
    labels = images / "labels.csv"
    rows = read_table(labels)
    assert len(rows) == 15
    assert [row["part"] for row in rows].count("test") == 3
    assert "15 images to label first were added" in said
    assert "then give the same command again" in said
    label_all(labels)
    assert main(command) == 0
    said = capsys.readouterr().out
    results = tmp_path / "results" / "my_images"
    assert "on 3 images kept to measure on, with 12 labels" in said
    assert "distillation saw these images, too, without their labels" in said
    assert len(list(results.glob("runs/pretrain-*"))) == 1
    assert list(results.glob("model-*/*.onnx"))
    assert "<!DOCTYPE html>" in (results / "model.html").read_text()
    (model_card,) = (path.read_text() for path in results.glob("model-*/README.md"))
    assert "12 labels (given in a CSV); 3 test images" in model_card
    assert "Pretraining and distillation saw these images, too" in model_card
    before = {path: path.stat().st_mtime_ns for path in results.glob("runs/*/record.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("runs/*/record.json")} == before


@pytest.mark.slow
def test_the_notebook_takes_an_archive_whose_class_folders_are_labels(tmp_path, monkeypatch):
    """There is no CSV then, and nothing to propose."""
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"{color}/{index}.png" for color in (*COLORS, "reds") for index in range(6)]
    shutil.make_archive(str(tmp_path / "own"), "zip", write(tmp_path / "own", *names))
    parameters = {"folder": "~/own.zip", "name": "zipped", "budget": 20, "classes": [*COLORS, "reds"]}
    source = Path(__file__).parents[2] / "notebooks" / "07_your_images.ipynb"
    execute(source, tmp_path / "copy.ipynb", parameters, tmp_path / "results")
    assert list((tmp_path / "results" / "zipped").glob("model-*/*.onnx"))
    assert "0 images without a label, 24 with one." in (tmp_path / "copy.ipynb").read_text()


@pytest.mark.slow
def test_proposals_count_what_has_labels_and_keep_one_in_five_to_measure_on(tmp_path, store, monkeypatch):
    names = [f"{color}/{index}.png" for color in COLORS for index in range(3)]
    root = write(unlabelled(tmp_path / "own"), *names)
    found, labels = scan.scan_folder(root, store), root / "labels.csv"
    pretrain = recipe(found, fields={"pretrain.epochs": 1, "pretrain.width": 0.25}).teacher.pretrain
    pretrained = finish(run_or_load(pretrain, store))
    ask = partial(fit.propose, found, pretrain, pretrained, labels, device=torch.device("cpu"))
    assert ask(budget=9) == []  # as many as class folders give labels
    assert not labels.exists()
    assert len(ask(budget=15)) == 6
    rows = read_table(labels)
    assert [row["label"] for row in rows] == ["blue"] * 3 + ["green"] * 3 + ["red"] * 3 + [""] * 6
    assert [row["part"] for row in rows[9:]] == ["train", "test"] * 3
    assert ask(budget=15) == []
    seen = []
    monkeypatch.setattr(
        active_learning, "typical", lambda *given, **_: seen.append(given) or np.array([], dtype=int)
    )
    ask(budget=20)
    _, _, learnt, excluded, _ = seen[0]
    measured = [file for file in rows if file["part"] == "test"]
    assert (len(learnt), len(measured)) == (12, 3)
    assert not {*learnt} & {*excluded}
    assert len(excluded) >= len(measured) + 1  # one more is drawn
    monkeypatch.undo()
    assert len(ask(budget=1000)) == 39 - 16
    assert len({row["file"] for row in read_table(labels)}) == 39


def test_an_export_is_written_once_though_two_ask_for_it(store, monkeypatch):
    asked = []

    def export(source: Path, out: Path) -> None:
        asked.append(source)
        time.sleep(0.2)
        out.mkdir()

    monkeypatch.setattr("clrkit.export.export.export", export)
    run = Run(Path("run"), {"key": "key"})
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: fit.exported(run, store), range(2)))
    assert folders == [store.folder / "model-key"] * 2
    assert asked == [run.folder]


def test_a_wrong_command_is_refused_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith("/none does not exist.\n")
    assert main(["fit", str(unlabelled(tmp_path / "own") / "red-00.png")]) == 1
    assert "is a single image; give the folder that contains it" in capsys.readouterr().err
    assert main(["fit", str(unlabelled(tmp_path / "own")), "--epoch", "3"]) == 2
    assert "did you mean --epochs?" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "place",
    [
        "clrkit.own_images.scan.scan_folder",
        "clrkit.own_images.fit.plan",
        "clrkit.own_images.fit.propose",
    ],
)
def test_a_signal_between_the_runs_stops_the_command(images, tmp_path, capsys, monkeypatch, number, place):
    before = signal.getsignal(number)
    monkeypatch.setattr("clrkit.cli.fit.make", lambda *_: None)
    monkeypatch.setattr(place, lambda *_: signal.raise_signal(number))
    assert main(["fit", str(images), "--results", str(tmp_path / "results")]) == 130
    assert "stopped; finished steps are kept" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_an_import_error_caused_by_a_signal_becomes_the_signal():
    def load_module() -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("initialization failed")

    with pytest.raises(KeyboardInterrupt), raise_on_signals(signal.SIGINT):
        load_module()
    with pytest.raises(ImportError), raise_on_signals(signal.SIGINT):
        raise ImportError("missing")


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_a_run_is_made_stops_it_after_a_step_and_a_second_one_at_once(
    store, monkeypatch, times
):
    ended = []

    def run_or_load(*_: object) -> Iterator[str]:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        ended.append("a step")
        yield "progress"

    monkeypatch.setattr("clrkit.runs.run.run_or_load", run_or_load)
    with pytest.raises(KeyboardInterrupt):
        command.make(preset("smoke").distill, store, "cpu")
    assert ended == (["a step"] if times == 1 else [])


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", ".hidden", " x", "x.", "a\\b", "mini", "Mini"])
def test_results_cannot_be_named_like_a_path_or_a_preset(images, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(images), "--name", name]) == 1
    assert "Results cannot be named" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [images]
    assert fit.name_of(images, "My birds-2 v1.0") == "My birds-2 v1.0"


def test_results_are_named_after_the_folder(tmp_path):
    (tmp_path / "Birds & bees.zip").touch()
    assert fit.name_of(tmp_path / "Birds & bees.zip") == "Birds_bees"
    assert [fit.name_of(tmp_path / name) for name in ("v1.0", "v1.1")] == ["v1_0", "v1_1"]
    assert fit.labels_of(Path("~/none")) == Path.home() / "none.labels.csv"
    assert fit.name_of(tmp_path / "mini") == "mini_images"
    assert fit.labels_of(tmp_path / "a.zip") == tmp_path / "a.zip.labels.csv"


def test_listed_files_and_the_test_folder_are_not_trained_on(tmp_path, store):
    root = write(unlabelled(tmp_path / "own"), "val/red/1.png", "val/blue/1.png")
    found = scan.scan_folder(root, store)
    skipped = tmp_path / "skipped.txt"
    skipped.write_text("red-00.png\n")
    listing = list_images(replace(found.data, left_out=str(skipped)))
    assert len(listing.train) == 29
    assert (listing.test, listing.classes) == ([], ())
