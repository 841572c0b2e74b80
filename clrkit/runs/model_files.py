"""A model on disk apart from any run: a folder of `weights.safetensors`, `model.json` and their checksums."""

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

from clrkit import config as configs
from clrkit.errors import ConfigError, reason
from clrkit.model import Model, ModelConfig
from clrkit.runs.checksums import ChecksumError, check_file, read_sums
from clrkit.runs.store import file_lock, read_json, write_json, write_sums

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
    with new_folder(folder) as partial:
        write_files(partial, config, state, about)
        write_sums(partial, (DESCRIPTION, WEIGHTS))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block ends and is gone where it fails.

    Raises:
        ModelError: for a folder that is there already or cannot be written.
    """
    refuse_existing(folder)
    partial, lock = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock):
            refuse_existing(folder)  # another process may have been quicker
            discard(partial)  # of a process that was killed
            try:
                partial.mkdir()
                yield partial
                partial.rename(folder)
            finally:
                discard(partial)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The model cannot be written to {folder}: {reason(error)}.") from None


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """Names of the classes, where a run's record or an export has them; an imported model has none."""
    for name, place in ((DESCRIPTION, "about"), (RECORD, "dataset")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return tuple(read_json(folder / name)[place]["classes"])
    return None


def write_files(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Description and weights, on the disk when this returns, readable for the same people."""
    write_json(folder / DESCRIPTION, {"model": configs.to_dict(config), "about": dict(about)})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
    shutil.copymode(folder / DESCRIPTION, folder / WEIGHTS)
    with (folder / WEIGHTS).open("rb") as file:
        os.fsync(file.fileno())


def discard(partial: Path) -> None:
    """Delete whatever lies there; a link, not what it leads to."""
    if partial.is_symlink() or partial.is_file():
        partial.unlink()
    elif partial.exists():
        shutil.rmtree(partial)


def refuse_existing(folder: Path) -> None:
    """Raise ModelError if there is anything at that place."""
    if folder.exists() or folder.is_symlink():
        raise ModelError(f"{folder} is there already; give another folder, or delete it.")


def read_model(folder: Path) -> Model:
    """The model of a model folder or of a finished run's folder, on the CPU, in evaluation mode.

    Raises:
        ModelError: naming what is missing or does not fit.
    """
    settings, weights = read_settings(folder), folder / WEIGHTS
    if not weights.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}; the committed reference holds records only.")
    check_sums(folder)  # what is hashed stays in memory and is mapped from there
    try:
        with torch.device("meta"):  # weights that are replaced at once need not be drawn
            model = Model(settings)
    except ConfigError as error:
        raise ModelError(f"{folder} describes no model: {error}") from None
    except (RuntimeError, IndexError, ValueError, TypeError, OverflowError):
        raise ModelError(f"{folder} describes a model that cannot be built.") from None
    try:
        state = load_file(weights)
        check_values(weights, state, model)
        model.load_state_dict(state, assign=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {reason(error)}.") from None
    except RuntimeError:
        raise ModelError(
            f"The weights in {weights} are those of another model than its description."
        ) from None
    return model.eval()


def check_sums(folder: Path) -> None:
    """Raise Damaged (of a run) or ModelError (of a model folder) where a file is not what was written."""
    names = (DESCRIPTION, WEIGHTS) if (folder / DESCRIPTION).exists() else (WEIGHTS,)
    try:
        for name in names:
            if sums := read_sums(folder):
                check_file(folder / name, sums)
    except ChecksumError as damage:
        if DESCRIPTION in names:
            raise ModelError(f"{damage.problem}; write the model anew.") from None
        raise


def check_values(weights: Path, state: Mapping[str, Tensor], model: Model) -> None:
    """Weights must be of the model's own types, and finite."""
    for name, wanted in model.state_dict().items():
        if name in state and state[name].dtype != wanted.dtype:
            raise ModelError(f"{name} in {weights} is {state[name].dtype}, not {wanted.dtype}.")
        if name in state and not state[name].isfinite().all():
            raise ModelError(f"{name} in {weights} holds numbers that are not finite.")


def read_settings(folder: Path) -> ModelConfig:
    """What the folder's description says the model is made of. Raises ModelError as `read_model`."""
    found = [path for path in (folder / DESCRIPTION, folder / RECORD) if path.exists()]
    if not found:
        raise ModelError(f"{folder} is no model: it has neither {DESCRIPTION} nor a run's {RECORD}.")
    try:
        settings = json.loads(found[0].read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{found[0]} cannot be read, or describes no model.") from None
    if settings is None:
        raise ModelError(f"{folder} is a run without a model of its own.")
    try:
        return configs.from_dict(ModelConfig, settings)
    except ConfigError as error:
        raise ModelError(f"{found[0]} describes no model: {error}") from None
    except (TypeError, AttributeError):
        raise ModelError(f"{found[0]} describes no model.") from None
