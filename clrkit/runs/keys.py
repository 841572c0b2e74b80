"""The address of a run: a hash of every setting that changes its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from clrkit.config import Config, Labelled, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.fields import walk, with_fields


def keyed_fields(config: Config) -> dict[str, Any]:
    """The fields that change the mathematics, nested; an added one only where it is not at its default.

    So a field can be added without renaming the runs that were recorded before it.
    """
    return {
        item.name: keyed_fields(value) if isinstance(value, Config) else value
        for item in fields(config)
        if is_keyed(config, item, value := getattr(config, item.name))
    }


def is_keyed(config: Config, item: dataclasses.Field[Any], value: Any) -> bool:
    unchanged = item.metadata.get("added", False) and value == item.default
    idle = item.metadata.get("needs") and not getattr(config, item.metadata["needs"])
    return bool(item.metadata.get("keyed", True) and not unchanged and not idle)


def key(config: Stage, fingerprint: str) -> str:
    """Address of a run: 16 hex digits over stage, versions, every keyed field of the chain, and the data.

    Args:
        config: the stage, with what it builds on.
        fingerprint: of the data set (`clrkit.data.datasets.fingerprint`).
    """
    versions = {stage.name: stage.version for stage in config.chain}
    content = {
        "stage": config.name,
        "versions": versions,
        "config": keyed_fields(config),
        "data": fingerprint,
    }
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_list_contents(config: Stage) -> Stage:
    """Replace the label lists of a chain by the digests of their contents. Raises ConfigError."""
    for path, node in walk(config):
        if isinstance(node, Labelled) and node.label_list:
            try:
                digest = hashlib.sha256(Path(node.label_list).read_bytes()).hexdigest()
            except OSError as error:
                raise ConfigError(f"label_list {node.label_list} cannot be read: {error.strerror}.") from None
            config = with_fields(config, {".".join((*path, "label_list")): digest})
    return config
