"""Run keys: hashes of every setting that changes the numbers of a run."""

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
    """The fields that change the mathematics, nested.

    An added field counts only if it differs from its default, so that older runs keep their keys.
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
    """Hash stage, versions, all keyed fields of the chain and the data to 16 hexadecimal digits.

    Args:
        config: the stage with its parents.
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
    """Replace the paths of label lists in a chain by digests of their contents. Raises ConfigError."""
    for path, node in walk(config):
        if isinstance(node, Labelled) and node.label_list:
            try:
                digest = hashlib.sha256(Path(node.label_list).read_bytes()).hexdigest()
            except OSError as error:
                raise ConfigError(f"label_list {node.label_list} cannot be read: {error.strerror}.") from None
            config = with_fields(config, {".".join((*path, "label_list")): digest})
    return config
