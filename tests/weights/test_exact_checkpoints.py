"""Checkpoints of the official code, read and run by clrkit, beside what the official code computes."""

from __future__ import annotations

import tarfile
from functools import partial

import official
import pytest
import torch
from annotations import Exact
from official import Numbers

from clrkit.model import Model
from clrkit.weights.official import convert, read_checkpoint

PRECISIONS = [torch.float32, torch.float64]
FILES = {
    "tf1_ckpt_r50_eighth_sk0": ("TF1 checkpoint, R50", "tf1_r50_eighth_sk0", "eval"),
    "tf1_ckpt_r50_eighth_sk1": ("TF1 checkpoint with momenta, R50 SK", "tf1_r50_eighth_sk1", "eval"),
    "tf2_ckpt_r18_eighth_sk0_cifar32": (
        "TF2 checkpoint, R18, CIFAR stem",
        "tf2_r18_eighth_sk0_cifar32",
        "savedmodel_eval",
    ),
    "tf2_saved_model_r18_eighth_sk0_cifar32": (
        "variables of a SavedModel, R18, CIFAR stem",
        "tf2_r18_eighth_sk0_cifar32",
        "savedmodel_eval",
    ),
}


def same_model(exact: Exact, part: str, variables: Numbers, images: Numbers, theirs: Numbers, dtype) -> None:
    """The model made of the variables alone: stages, head and classifier in evaluation mode."""
    config, state = convert(variables)
    model = Model(config)
    model.load_state_dict(state)
    model = model.to(dtype).eval()
    compare = partial(exact, bound=1e-5)
    with torch.no_grad():
        inputs = official.nchw(images).to(dtype)
        ours = official.stages(model.encoder, inputs)
        official.same_stages(compare, part, ours, theirs)
        compare(part, model(inputs), theirs["logits_sup"])
        compare(part, model.project(inputs), theirs["proj_head_output"])
        if "nl_0_bn_out" in theirs:  # the first head layer before its ReLU
            compare(part, model.head.tap(ours["final_avg_pool"], 1), theirs["nl_0_bn_out"].clip(min=0))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", FILES)
def test_the_model_in_an_official_file_computes_what_the_official_code_does(
    golden, exact, tmp_path, name, dtype
):
    title, numbers, scope = FILES[name]
    read = golden(numbers)
    variables = read_checkpoint(official.rebuild_checkpoint(name, tmp_path), model_only=True)
    theirs = official.under(read, scope)
    same_model(exact, f"checkpoints: {title}, 1/8 of the width", variables, read["input"], theirs, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_model_is_made_of_the_variables_alone(golden, exact, dtype):
    read = golden("tf2_r50_eighth_sk1_64")
    variables = formula_variables(read["names"], read["shapes"], str(read["salt"]))
    theirs = official.under(read, "savedmodel_eval")
    same_model(
        exact, "checkpoints: TF2 variables, R50 SK, 1/8 of the width", variables, read["input"], theirs, dtype
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("tag", "title"), [("sk0", "R50 1x"), ("sk1", "R50 1x SK")])
def test_models_of_the_released_size_are_made_of_the_variables_alone(full_golden, exact, tag, title, dtype):
    read = full_golden(f"tf1_r50_1x_{tag}")
    variables = formula_variables(read["ckpt_names_sorted"], read["ckpt_shapes"])
    theirs = official.under(read, "eval")
    same_model(exact, f"checkpoints: TF1 variables, {title}", variables, read["input"], theirs, dtype)


def test_rebuilt_checkpoints_are_the_official_files_to_the_byte(golden_folder, tmp_path):
    with tarfile.open(golden_folder / "tf2_ckpt_r18_eighth_sk0_cifar32.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    saved_model = tmp_path / "tf2_r18_eighth_cifar32" / "saved_model" / "3" / "variables"
    for name, original in [
        ("tf1_ckpt_r50_eighth_sk0", golden_folder / "tf1_ckpt_r50_eighth_sk0"),
        ("tf1_ckpt_r50_eighth_sk1", golden_folder / "tf1_ckpt_r50_eighth_sk1"),
        ("tf2_saved_model_r18_eighth_sk0_cifar32", saved_model),
    ]:
        prefix = official.rebuild_checkpoint(name, tmp_path / name)
        for file in (f"{prefix.name}.index", f"{prefix.name}.data-00000-of-00001"):
            assert prefix.with_name(file).read_bytes() == (original / file).read_bytes()


def formula_variables(names, shapes, salt: str = "") -> Numbers:
    """Variables by name; a shape is written "3,3,3,64"."""
    sides = [tuple(map(int, filter(None, shape.split(",")))) for shape in shapes.tolist()]
    return {
        name: official.tensorflow_weight(salt + name, shape)
        for name, shape in zip(names.tolist(), sides, strict=True)
    }
