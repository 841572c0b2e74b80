"""A model folder is whole or refused."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clrkit.config import Network
from clrkit.model import Model, ModelConfig
from clrkit.runs.model_files import ModelError, read_model, write_model

CONFIG = ModelConfig(network=Network(depth=8, width=0.25), head_layers=2, head_dim=4, classes=3, tap_layer=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", CONFIG, Model(CONFIG).state_dict(), {"source": "a test"})
    return tmp_path / "model"


@pytest.fixture
def foreign(folder: Path) -> Path:
    """A model folder without checksums, as somebody else may have made it."""
    (folder / "SHA256SUMS").unlink()
    return folder


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content["model"] |= changes
    path.write_text(json.dumps(content))


def test_what_is_read_is_what_was_written(tmp_path):
    model = Model(CONFIG)
    write_model(tmp_path / "deep" / "model", CONFIG, model.state_dict(), {"source": "a test"})
    read = read_model(tmp_path / "deep" / "model")
    assert read.config == CONFIG
    assert not read.training
    torch.testing.assert_close(read.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert json.loads((tmp_path / "deep" / "model" / "model.json").read_text())["about"] == {
        "source": "a test"
    }


def test_a_folder_that_is_there_is_not_overwritten(folder):
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(ModelError, match="already exists"):
        write_model(folder, CONFIG, Model(CONFIG).state_dict(), {})
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ModelError, match=r"cannot be written to \S+file/model: (Not a directory|File exists)\.$"
    ):
        write_model(tmp_path / "file" / "model", CONFIG, Model(CONFIG).state_dict(), {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 4}, "do not fit the model"),
        ({"head_layers": 1}, "do not fit the model"),
        ({"head_layers": -1}, "head_layers must be at least 0"),
        ({"tap_layer": 3}, "tap_layer must be at most 2"),
        ({"heads": 3}, "Unknown field 'heads'"),
        ({"network": None}, "does not describe a model"),
        ({"network": {"depth": 9}}, "depth must be one of"),
    ],
)
def test_a_description_of_another_model_is_refused(foreign, changes, words):
    describe(foreign, **changes)
    with pytest.raises(ModelError, match=words):
        read_model(foreign)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_file_that_was_changed_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}.*(was changed since it was written|cannot be read)"):
        read_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 3}', "\x00"])
def test_a_description_that_is_none_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        read_model(folder)


def test_truncated_and_pickled_weights_are_refused(foreign):
    path = foreign / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
        read_model(foreign)
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
        read_model(foreign)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no weights\.safetensors"):
        read_model(foreign)


def test_weights_of_another_precision_or_not_finite_are_refused(foreign):
    weights = load_file(foreign / "weights.safetensors")
    name = "classifier.bias"
    for values, words in (
        (weights[name].half(), r"classifier\.bias in \S+ is torch\.float16, not torch\.float32\.$"),
        (
            torch.full_like(weights[name], torch.nan),
            r"classifier\.bias in \S+ is not finite",
        ),
    ):
        save_file({**weights, name: values}, foreign / "weights.safetensors")
        with pytest.raises(ModelError, match=words):
            read_model(foreign)


@pytest.mark.parametrize("width", [1e9, 1e-9])
def test_a_network_that_cannot_be_built_is_refused(foreign, width):
    describe(foreign, network={"depth": 8, "width": width})
    with pytest.raises(ModelError, match=r"fewer than two channels|cannot be built"):
        read_model(foreign)


def test_what_a_killed_process_left_is_no_part_of_the_model(tmp_path):
    left = tmp_path / "model.partial"
    left.mkdir()
    (left / "old.bin").write_bytes(b"0")
    write_model(tmp_path / "model", CONFIG, Model(CONFIG).state_dict(), {})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "SHA256SUMS",
        "model.json",
        "weights.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1


def test_two_processes_that_write_one_folder_leave_one_whole_model(tmp_path):
    state = Model(CONFIG).state_dict()
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(write_model, tmp_path / "model", CONFIG, state, {}) for _ in range(4)]
    refusals = [error for each in made if (error := each.exception())]
    assert len(refusals) == 3
    assert all(isinstance(error, ModelError) for error in refusals)
    torch.testing.assert_close(read_model(tmp_path / "model").state_dict(), state, rtol=0, atol=0)


def test_a_dangling_link_is_not_followed(tmp_path):
    (tmp_path / "model").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="already exists"):
        write_model(tmp_path / "model", CONFIG, Model(CONFIG).state_dict(), {})


def test_no_folder_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="is not a model"):
        read_model(tmp_path / "nowhere")
