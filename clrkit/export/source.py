"""What is known of a model that lies in a folder: how large its images are, its classes, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrkit import config as configs
from clrkit.config import Stage, stage_class
from clrkit.errors import ConfigError
from clrkit.model import Model, ModelConfig
from clrkit.results.records import network_name
from clrkit.runs.checksums import read_sums
from clrkit.runs.model_files import DESCRIPTION, RECORD, ModelError, read_classes, read_model
from clrkit.runs.store import read_json, read_object


@dataclass(frozen=True)
class ModelSource:
    """A model and where it comes from.

    Attributes:
        folder: it was read from.
        model: on the CPU, in evaluation mode.
        image_size: side in pixels of the view it measures.
        names: of the classes; None where they are not known.
        stage: that made it; None of a model that is no run of clrkit's.
        records: of that stage and those before it, by stage, as far as they lie beside it or in the export.
    """

    folder: Path
    model: Model
    image_size: int
    names: tuple[str, ...] | None
    stage: Stage | None
    records: Mapping[str, dict[str, Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        """What each class is called, its number where it has no name; empty without a classifier."""
        count = self.model.config.classes
        return tuple(map(str, range(count))) if self.names is None else self.names

    @property
    def record(self) -> dict[str, Any]:
        """Of the stage that made the model; empty where there is none."""
        return self.records[self.stage.name] if self.stage else {}


def read_source(folder: Path, image_size: int | None = None) -> ModelSource:
    """The model of a finished run's folder, of a model folder, or of an export.

    Args:
        folder: of the model.
        image_size: for a model folder that does not say it.

    Raises:
        ModelError: where there is no model, or nothing says the size of its images.
        Damaged: where a run's files are not what was written.
    """
    model, records = read_model(folder), read_records(folder)
    stage = stage_of(folder, records[0]) if records else None
    size = image_size or known_size(folder)
    if size is None:
        raise ModelError(f"{folder} does not say how large its images are; give --image_size.")
    size = configs.Data(image_size=size).image_size
    count = model.config.classes
    names = read_classes(folder) if count else ()
    if names is not None and len(names) != count:
        raise ModelError(f"{folder} names {len(names)} classes, but tells {count} apart.")
    return ModelSource(folder, model, size, names, stage, {record["stage"]: record for record in records})


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The record of a run and of those it builds on, from its store or as an export keeps them, if any."""
    if (folder / DESCRIPTION).exists():
        return kept_records(folder)
    if not (folder / RECORD).exists():
        return []
    record = read_object(folder / RECORD, read_sums(folder) or {}, "record")
    source = stage_of(folder, record).source
    parent = folder.parent / f"{source.name}-{record.get('parent')}" if source else None
    return [record, *(read_records(parent) if parent else [])]


def kept_records(folder: Path) -> list[dict[str, Any]]:
    """The records in an export's description; an imported model has none."""
    kept = read_json(folder / DESCRIPTION).get("about")
    found = kept.get("records", []) if isinstance(kept, dict) else []
    if not isinstance(found, list) or not all(map(is_record, found)):
        raise ModelError(f"{folder / DESCRIPTION} holds no records of this version.")
    return found


def is_record(found: object) -> bool:
    """Whether it has the parts of a run's record that are told of a model."""
    parts = ("config", "dataset", "metrics", "provenance")
    return isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in parts)


def stage_of(folder: Path, record: Mapping[str, Any]) -> Stage:
    """The config that a record was made from."""
    try:
        return configs.from_dict(stage_class(record["stage"]), record["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no record of this version: {error}") from None


def known_size(folder: Path) -> int | None:
    """Side of the images of an export or a run; None for a model folder that does not say it."""
    if size := described_size(folder):
        return size
    records = read_records(folder)
    return stage_of(folder, records[0]).images.image_size if records else None


def described_size(folder: Path) -> int | None:
    """The size that an export's description has; an imported model's has none."""
    about = (read_json(folder / DESCRIPTION) or {}).get("about")
    size = about.get("image_size") if isinstance(about, dict) else None
    return size if isinstance(size, int) else None


def describe_model(model: ModelConfig) -> str:
    """Network, head and classifier in words."""
    head = f"head of {model.head_layers} layers to {model.head_dim}" if model.head_layers else "no head"
    tapped = f"head layer {model.tap_layer}" if model.tap_layer else "the encoder's output"
    classifier = f"{model.classes:,} classes on {tapped}" if model.classes else "no classifier"
    return f"{network_name(configs.to_dict(model.network))}, {head}, {classifier}"
