"""Model folders: `weights.safetensors`, `model.json` and their checksums, apart from any run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clrkit.data.files import file_lock, read_json, write_json
from clrkit.errors import ConfigError, reason
from clrkit.experiments.fields import from_dict, to_dict
from clrkit.model import Model, ModelConfig
from clrkit.runs.checksums import ChecksumError, check_file, read_sums, write_sums

WEIGHTS, DESCRIPTION, RECORD = "weights.safetensors", "model.json", "record.json"


class ModelError(ConfigError):
    """A model cannot be read or written; the message is one sentence."""


def write_model(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write a new model folder atomically.

    Args:
        folder: must not exist.
        config: of the model.
        state: its state dict.
        about: origin of the model, stored with the config.

    Raises:
        ModelError: if the folder exists or cannot be written.
    """
    with new_folder(folder) as partial:
        write_files(partial, config, state, about)
        write_sums(partial, (DESCRIPTION, WEIGHTS))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `folder` at the end of the block, or deleted on failure.

    Raises:
        ModelError: if the folder exists or cannot be written.
    """
    refuse_existing(folder)
    partial, lock = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock):
            refuse_existing(folder)  # another process may have written it meanwhile
            discard(partial)  # left by a killed process
            try:
                partial.mkdir()
                yield partial
                partial.rename(folder)
            finally:
                discard(partial)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The model cannot be written to {folder}: {reason(error)}.") from None


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """Class names from a run's record or an export; None for an imported model."""
    for name, place in ((DESCRIPTION, "about"), (RECORD, "dataset")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return tuple(read_json(folder / name)[place]["classes"])
    return None


def write_files(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write description and weights with equal permissions and flush both to disk."""
    write_json(folder / DESCRIPTION, {"model": to_dict(config), "about": dict(about)})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
    shutil.copymode(folder / DESCRIPTION, folder / WEIGHTS)
    with (folder / WEIGHTS).open("rb") as file:
        os.fsync(file.fileno())


def discard(partial: Path) -> None:
    """Delete a folder, file or link; the target of a link stays."""
    if partial.is_symlink() or partial.is_file():
        partial.unlink()
    elif partial.exists():
        shutil.rmtree(partial)


def refuse_existing(folder: Path) -> None:
    """Raise ModelError if the path exists."""
    if folder.exists() or folder.is_symlink():
        raise ModelError(f"{folder} already exists; choose another folder or delete it.")


def read_model(folder: Path) -> Model:
    """Read the model of a model folder or a finished run, on the CPU, in evaluation mode.

    Raises:
        ModelError: if a file is missing, damaged (model folder) or does not fit the others.
        ChecksumError: if the weights of a run were changed.
    """
    settings, weights = read_settings(folder), folder / WEIGHTS
    if not weights.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}; the committed reference holds records only.")
    check_sums(folder)  # leaves the file in the page cache, from which it is mapped
    try:
        with torch.device("meta"):  # no need to draw weights that are replaced at once
            model = Model(settings)
    except ConfigError as error:
        raise ModelError(f"{folder} does not describe a model: {error}") from None
    except (RuntimeError, IndexError, ValueError, TypeError, OverflowError):
        raise ModelError(f"{folder} describes a model that cannot be built.") from None
    try:
        state = load_file(weights)
        check_values(weights, state, model)
        model.load_state_dict(state, assign=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {reason(error)}.") from None
    except RuntimeError:
        raise ModelError(f"The weights in {weights} do not fit the model that {folder} describes.") from None
    return model.eval()


def check_sums(folder: Path) -> None:
    """Raise ChecksumError (run) or ModelError (model folder) if a file was changed."""
    names = (DESCRIPTION, WEIGHTS) if (folder / DESCRIPTION).exists() else (WEIGHTS,)
    try:
        for name in names:
            if sums := read_sums(folder):
                check_file(folder / name, sums)
    except ChecksumError as damage:
        if DESCRIPTION in names:
            raise ModelError(f"{damage.problem}; write the model again.") from None
        raise


def check_values(weights: Path, state: Mapping[str, Tensor], model: Model) -> None:
    """Raise ModelError unless the weights are finite and have the model's types."""
    for name, wanted in model.state_dict().items():
        if name in state and state[name].dtype != wanted.dtype:
            raise ModelError(f"{name} in {weights} is {state[name].dtype}, not {wanted.dtype}.")
        if name in state and not state[name].isfinite().all():
            raise ModelError(f"{name} in {weights} is not finite.")


def read_settings(folder: Path) -> ModelConfig:
    """Read the config of the model in a folder. Raises ModelError."""
    found = [path for path in (folder / DESCRIPTION, folder / RECORD) if path.exists()]
    if not found:
        raise ModelError(f"{folder} is not a model: it has neither {DESCRIPTION} nor {RECORD} of a run.")
    try:
        settings = json.loads(found[0].read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{found[0]} does not describe a model, or cannot be read.") from None
    if settings is None:
        raise ModelError(f"{folder} is a run that stores no model.")
    try:
        return from_dict(ModelConfig, settings)
    except ConfigError as error:
        raise ModelError(f"{found[0]} does not describe a model: {error}") from None
    except (TypeError, AttributeError):
        raise ModelError(f"{found[0]} does not describe a model.") from None
