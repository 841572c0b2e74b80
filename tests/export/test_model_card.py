"""The model card contains what the records contain, and calls the rest unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_models import drawn_model, finished_run

from clrkit.config import Data
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.export.export import about
from clrkit.export.model_card import card
from clrkit.export.source import ModelSource, read_source
from clrkit.results.text import Table
from clrkit.runs.model_files import ModelError, write_model
from clrkit.runs.store import Store, write_run_sums

SMOKE = preset("smoke")
TABLE = Table("export", "Files", "A remark.", ["file"], [["model.onnx"]])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    run = finished_run(Store(tmp_path_factory.mktemp("results"), "smoke"), SMOKE.distill)
    return read_source(run)


def test_a_card_has_data_labels_accuracy_and_every_stage(student: ModelSource) -> None:
    text, record = card(student, TABLE), student.record
    assert text.startswith("# R8 0.25x: 10 classes of Tinted MNIST\n")
    assert "distilled from a fine-tuned SimCLRv2 teacher" in text
    assert f"4,000 training images, {record['labels']:,} labels (drawn with seed 0)" in text
    assert record["dataset"]["fingerprint"] in text
    top1, teacher = (record["metrics"][name] for name in ("top1", "teacher_top1"))
    assert f"**{100 * top1:.1f}%**" in text
    assert f"The teacher reaches {100 * teacher:.1f}%; both agree on 80.0%" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| pre", "| fine", "| dist"))]
    assert [row[0].strip("| ") for row in rows] == ["pretrain", "finetune", "distill"]
    for row, stage in zip(rows, SMOKE.distill.chain, strict=True):
        assert row[2:5] == [str(stage.seed), str(stage.epochs), str(stage.batch_size)]
        assert row[5:7] == ["12.5 s", "Test CPU, threads: 1"]
        assert ("network R8 0.25x" in row[1]) == (stage.name != "finetune")
        assert row[8].strip(" |") == student.records[stage.name]["key"]
    assert "torch 2.14.1" in text
    assert "| model.onnx |" in text


def test_a_card_of_ones_own_images_names_their_csv_and_that_measured_images_were_seen(
    student: ModelSource,
) -> None:
    data = Data(dataset="images", labels_csv="labels.csv", image_size=28)
    own = with_fields(SMOKE.distill, {"fraction": 1.0})
    pretrain = replace(own.teacher.pretrain, data=data)
    own = replace(own, teacher=replace(own.teacher, pretrain=pretrain))
    found = student.record["dataset"] | {"name": "images", "train": 50, "evaluation": 10}
    for seen in ({"seen": True}, {}):
        record = student.record | {"labels": 12, "dataset": found | seen}
        text = card(replace(student, stage=own, records={"distill": record}), TABLE)
        assert "50 training images, 12 labels (given in a CSV); 10 test images" in text
        assert ("Pretraining and distillation saw these images, too, without their labels" in text) == (
            "seen" in seen
        )


def test_few_labels_are_distinguished_from_all(student: ModelSource) -> None:
    record = student.records["finetune"]
    for fraction, said in ((0.1, "fine-tuned on few labels"), (1.0, "fine-tuned on all labels")):
        stage = with_fields(SMOKE.finetune, {"fraction": fraction})
        assert said in card(replace(student, stage=stage, records={"finetune": record}), TABLE)


def test_exporting_an_export_gives_the_same_card(student: ModelSource, tmp_path: Path) -> None:
    model = student.model
    write_model(tmp_path / "export", model.config, model.state_dict(), about(student))
    again = read_source(tmp_path / "export")
    assert card(again, TABLE) == card(student, TABLE)


def test_an_export_keeps_no_folders_of_this_machine_but_the_size_it_was_made_for(
    student: ModelSource, tmp_path: Path
) -> None:
    config = student.record["config"]
    config = {**config, "teacher": {**config["teacher"], "label_list": f"{tmp_path}/mine.txt"}}
    found = about(replace(student, image_size=40, records={"distill": student.record | {"config": config}}))
    assert str(tmp_path) not in json.dumps(found)
    assert "mine.txt" in json.dumps(found)
    write_model(tmp_path / "export", student.model.config, student.model.state_dict(), found)
    assert read_source(tmp_path / "export").image_size == 40


@pytest.mark.parametrize("records", [[{}], {}, [1], [{"config": {}, "dataset": {}, "metrics": {}}]])
def test_wrong_records_are_refused(student: ModelSource, tmp_path: Path, records: object) -> None:
    found = {**about(student), "records": records}
    write_model(tmp_path / "export", student.model.config, student.model.state_dict(), found)
    with pytest.raises(ModelError, match="holds no records"):
        read_source(tmp_path / "export")


def test_the_interval_is_wilsons(student: ModelSource) -> None:
    """Known values: 81 of 263 gives 25.53% to 36.62% (Newcombe, 1998, Table I, method 3)."""
    record = student.record | {"metrics": {"top1": 81 / 263}}
    record["dataset"] = record["dataset"] | {"evaluation": 263, "part": "validation"}
    text = card(replace(student, records={"distill": record}), TABLE)
    assert "(95% interval, Wilson: 25.5 to 36.6) on the 263 images of the validation part" in text


def test_what_no_record_contains_is_called_unknown(tmp_path: Path, student: ModelSource) -> None:
    lonely = replace(student, records={"distill": student.record})
    rows = [
        line for line in card(lonely, TABLE).splitlines() if line.startswith(("| pretrain", "| finetune"))
    ]
    assert [row.count("not known") for row in rows] == [4, 4]
    model = drawn_model(SMOKE.finetune)
    write_model(tmp_path / "imported", model.config, model.state_dict(), {"source": "elsewhere"})
    text = card(read_source(tmp_path / "imported", 28), TABLE)
    assert "Data and labels are not known" in text
    assert "Accuracy is not known" in text
    assert "How it was made is not known" in text
    assert "Classes:\n0, 1, 2," in text


def test_a_pretrained_model_has_no_accuracy_and_no_classes(tmp_path: Path) -> None:
    text = card(read_source(finished_run(Store(tmp_path, "smoke"), SMOKE.finetune.pretrain)), TABLE)
    assert "The model gives features, not classes." in text
    assert "training images, no labels;" in text
    assert "`features`" in text
    assert "probabilities" not in text


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    run = finished_run(Store(tmp_path, "smoke"), SMOKE.finetune)
    record = json.loads((run / "record.json").read_text())
    record["dataset"] |= {"name": "<script>[a](b)", "classes": ["<img src=x>", "\x1b[31m", *"23456789"]}
    (run / "record.json").write_text(json.dumps(record))
    write_run_sums(run)
    text = card(read_source(run), TABLE)
    assert "\\<script\\>\\[a\\](b)" in text
    assert "\\<img src=x\\>" in text
    assert "\x1b" not in text
