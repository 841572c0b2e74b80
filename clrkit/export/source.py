"""Read a model from a folder together with what is known of it: image size, class names, records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrkit import config as configs
from clrkit.config import Stage
from clrkit.data.files import read_json
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, stage_class, to_dict
from clrkit.model import Model, ModelConfig
from clrkit.results.records import network_name
from clrkit.runs.checksums import read_sums
from clrkit.runs.model_files import DESCRIPTION, RECORD, ModelError, read_classes, read_model
from clrkit.runs.store import read_object

PARTS = ("config", "dataset", "metrics", "provenance")  # of a record


@dataclass(frozen=True)
class ModelSource:
    """A model and where it comes from.

    Attributes:
        folder: of the model.
        model: on the CPU, in evaluation mode.
        image_size: side in pixels of its evaluation view.
        names: of the classes; None if not known.
        stage: that made it; None for a model that is not a run of clrkit.
        records: of that stage and earlier ones, by stage, as far as they were found.
    """

    folder: Path
    model: Model
    image_size: int
    names: tuple[str, ...] | None
    stage: Stage | None
    records: Mapping[str, dict[str, Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, or numbers if names are not known; empty without a classifier."""
        count = self.model.config.classes
        return tuple(map(str, range(count))) if self.names is None else self.names

    @property
    def record(self) -> dict[str, Any]:
        """Record of the stage that made the model; empty if not known."""
        return self.records[self.stage.name] if self.stage else {}


def read_source(folder: Path, image_size: int | None = None) -> ModelSource:
    """Read the model of a finished run's folder, of a model folder or of an export.

    Args:
        folder: of the model.
        image_size: for a model folder that does not give it.

    Raises:
        ModelError: if there is no model, or its image size is not known.
        ChecksumError: if a run's files have changed.
    """
    model, records = read_model(folder), read_records(folder)
    size = image_size or known_size(folder)
    if size is None:
        raise ModelError(f"{folder} does not say how large its images are; give --image_size.")
    size = configs.Data(image_size=size).image_size  # within its bounds
    count = model.config.classes
    names = read_classes(folder) if count else ()
    if names is not None and len(names) != count:
        raise ModelError(f"{folder} names {len(names)} classes, but the model has {count}.")
    stage = stage_of(folder, records[0]) if records else None
    return ModelSource(folder, model, size, names, stage, {record["stage"]: record for record in records})


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read the record of a run and of its earlier stages, from the store or from an export's description."""
    if (folder / DESCRIPTION).exists():
        records = described(folder).get("records", [])
        if not isinstance(records, list) or not all(map(is_record, records)):
            raise ModelError(f"{folder / DESCRIPTION} holds no records of this version.")
        return records
    if not (folder / RECORD).exists():
        return []
    record = read_object(folder / RECORD, read_sums(folder) or {}, "record")
    source = stage_of(folder, record).source
    parent = folder.parent / f"{source.name}-{record.get('parent')}" if source else None
    return [record, *(read_records(parent) if parent else [])]


def is_record(found: object) -> bool:
    """Whether JSON has the parts of a record."""
    return isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in PARTS)


def stage_of(folder: Path, record: Mapping[str, Any]) -> Stage:
    """The config that a record was made from."""
    try:
        return from_dict(stage_class(record["stage"]), record["config"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no record of this version: {error}") from None


def known_size(folder: Path) -> int | None:
    """The image size of a run or an export; None for a model folder that does not give it."""
    if isinstance(size := described(folder).get("image_size"), int):
        return size
    records = read_records(folder)
    return stage_of(folder, records[0]).images.image_size if records else None


def described(folder: Path) -> dict[str, Any]:
    """What the description of a model folder says beside the model; empty for a run."""
    about = (read_json(folder / DESCRIPTION) or {}).get("about")
    return about if isinstance(about, dict) else {}


def describe_model(model: ModelConfig) -> str:
    """Network, head and classifier in one line."""
    head = f"head of {model.head_layers} layers to {model.head_dim}" if model.head_layers else "no head"
    tap = f"head layer {model.tap_layer}" if model.tap_layer else "the encoder's output"
    classifier = f"{model.classes:,} classes on {tap}" if model.classes else "no classifier"
    return f"{network_name(to_dict(model.network))}, {head}, {classifier}"
