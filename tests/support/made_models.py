"""Models that cost no training: a finished run with drawn weights, and an export that tells colours apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import synthetic
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from clrkit.config import Finetune, Pretrain, Stage
from clrkit.data.datasets import load
from clrkit.experiments.fields import to_dict
from clrkit.model import Model, ModelConfig
from clrkit.runs.checksums import write_sums
from clrkit.runs.store import Store, write_run_sums

COLOURS = ("red", "green", "blue")


def finished_run(store: Store, stage: Stage) -> Path:
    """The folder of a run, with those it builds on beside it, as if it had been trained."""
    for earlier in stage.chain[:-1]:
        if not store.path(earlier).exists():
            synthetic.put(store, earlier)
    folder = synthetic.put(store, stage)
    record = json.loads((folder / "record.json").read_text())
    model = drawn_model(stage)
    record["model"] = to_dict(model.config)
    (folder / "record.json").write_text(json.dumps(record))
    save_file(model.state_dict(), folder / "weights.safetensors")
    write_run_sums(folder)
    return folder


def drawn_model(stage: Stage) -> Model:
    """A model as the stage makes it, whose logits differ from image to image."""
    head = stage.chain[0]
    assert isinstance(head, Pretrain)
    tap = stage.tap_layer if isinstance(stage, Finetune) else 0
    torch.manual_seed(0)
    config = ModelConfig(
        network=head.network, head_layers=head.head_layers, classes=10 * (stage is not head), tap_layer=tap
    )
    model = Model(config).eval()
    if model.classifier is not None:
        torch.nn.init.normal_(model.classifier.weight, std=100.0)
        views = next(load(stage.images).evaluation.views.batches([np.arange(100)])).float() / 255
        with torch.no_grad():
            logits = model(views)
            model.classifier.weight /= logits.std(0).mean()
            model.classifier.bias -= model(views).mean(0)
    return model


def colour_export(folder: Path, classes: tuple[str, ...] | None = COLOURS, size: int = 40) -> Path:
    """An export whose probabilities are the softmax of the mean red, green and blue, 10 at the brightest."""
    folder.mkdir()
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [10 / 255]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "height", "width", 3])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "colours", [images], [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"classes": json.dumps(classes)})
    onnx.save(model, folder / "model.onnx")
    about = {"image_size": size, "classes": classes}
    (folder / "model.json").write_text(json.dumps({"about": about}))
    write_sums(folder, ("model.onnx", "model.json"))
    return folder
