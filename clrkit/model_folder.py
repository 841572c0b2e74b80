"""A model on disk, apart from any run: `weights.safetensors` and `model.json` in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clrkit import config as configs
from clrkit.config import ConfigError
from clrkit.images import reason
from clrkit.model import Model, ModelConfig
from clrkit.runs import write_json

WEIGHTS, DESCRIPTION, RECORD = "weights.safetensors", "model.json", "record.json"


class ModelError(ConfigError):
    """A model that cannot be read or written; the message says why in one sentence."""


def write_model(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write a new model folder, whole or not at all.

    Args:
        folder: must not exist.
        config: of the model.
        state: its state dict.
        about: where it comes from, kept beside the config.

    Raises:
        ModelError: for a folder that is there already or cannot be written.
    """
    refuse_existing(folder)
    partial = folder.with_name(folder.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS)
        write_json(partial / DESCRIPTION, {"model": configs.to_dict(config), "about": dict(about)})
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The model cannot be written to {folder}: {reason(error)}.") from None


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise ModelError(f"{folder} is there already; give another folder, or delete it.")


def read_model(folder: Path) -> Model:
    """The model of a model folder or of a finished run's folder, on the CPU, in evaluation mode.

    Raises:
        ModelError: naming what is missing or does not fit.
    """
    settings, weights = read_settings(folder), folder / WEIGHTS
    if not weights.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}; the committed reference holds records only.")
    with torch.device("meta"):  # weights that are replaced at once need not be drawn
        model = Model(settings)
    try:
        model.load_state_dict(load_file(weights), assign=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {reason(error)}.") from None
    except RuntimeError:
        raise ModelError(
            f"The weights in {weights} are those of another model than its description."
        ) from None
    return model.eval()


def read_settings(folder: Path) -> ModelConfig:
    found = [path for path in (folder / DESCRIPTION, folder / RECORD) if path.exists()]
    if not found:
        raise ModelError(f"{folder} is no model: it has neither {DESCRIPTION} nor a run's {RECORD}.")
    try:
        settings = json.loads(found[0].read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{found[0]} cannot be read, or describes no model.") from None
    if settings is None:
        raise ModelError(f"{folder} is a run without a model of its own.")
    try:
        return configs.from_dict(ModelConfig, settings)
    except (ConfigError, TypeError, AttributeError) as error:
        raise ModelError(f"{found[0]} describes no model: {error}") from None
