"""Makes the files of this folder from the whole set of official numbers: `python make.py WHOLE_SET`.

Keeps what the tests for everybody compare, and little enough for a repository: no float32 twin of what is
there in float64; a few samples instead of all where samples do not depend on one another (evaluation mode,
single operations on images); of checkpoints, bytes that the formula of the weights does not give.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from clrkit.weights.tensor_bundle import TensorBundle

HERE = Path(__file__).parent
Arrays = dict[str, np.ndarray]
ENDS = [0, -1]  # the corners of maps are those of the first and of the last sample


def dropping(*patterns: str) -> Callable[[Arrays], Arrays]:
    """Everything but the names that contain one of the patterns."""
    return lambda read: {
        name: value for name, value in read.items() if not re.search("|".join(patterns), name)
    }


def whole_network(read: Arrays) -> Arrays:
    """The float64 run in both modes."""
    keep = r"input$|loss_weights|grad_names|moving_names|train64/|eval64/.*(shape|tl|br|ch_|final_avg_pool$)"
    return {name: value for name, value in read.items() if re.match(keep, name)}


def samples(prefix: str, chosen: list[int], read: Arrays) -> Arrays:
    """Evaluation mode of some samples: images, corners of the maps, what is stored whole."""
    corners = {"tl": 0, "br": -1}  # the sample that the corner was taken of
    kept = {"input": read["input"][chosen]}
    for name, value in read.items():
        scope, _, leaf = name.rpartition("/")
        if scope.startswith(f"{prefix}/") and (leaf == "shape" or corners.get(leaf) in chosen):
            kept[name] = value
        if scope == prefix and value.ndim == 2:
            kept[name] = value[chosen]
    return kept


def checkpoint_names(read: Arrays) -> Arrays:
    return {
        name: value
        for name, value in read.items()
        if re.search(r"keys$|canonical$|^(names|shapes|salt)", name)
    }


def augmentation(read: Arrays) -> Arrays:
    """One of the eight small images, which holds greys and primaries; all of the rest that is compared but
    the large blurs.
    """
    kept = dropping("first2000", "mean_std", "max_y0", "nocrop_ok", r"\d/tf2$", "blur224", "blur_image")(read)
    whole = read["image"].shape
    return {name: value[:1] if value.shape == whole else value for name, value in kept.items()}


def training_steps(read: Arrays) -> Arrays:
    """The float64 run; of that with two replicas what differs by replica."""
    replicas = r"rep2/step\d/(proj_out|logits|var_|.*entropy)"
    return dropping("^f32/", replicas, "names_tf2")(read)


FILES: Mapping[str, Callable[[Arrays], Arrays]] = {
    "bn": dropping("local/"),
    "head": dropping(r"sel(1|2|3|-1)/(input|loss_weights|.*grad|.*proj_head_output)", "names", "shapes"),
    "lars": dropping("^popular"),
    "losses": dict,
    "ntxent": dropping("labels$"),
    "schedule": dict,
    "augment": augmentation,
    "trainstep_r18_eighth_cifar32": training_steps,
    "resnet_r18_1x_sk0_cifar32": whole_network,
    "resnet_r50_eighth_sk1_odd75x98": whole_network,
    "resnet_r50_eighth_sk0_odd75x98": lambda read: samples("eval64", ENDS, read),
    "resnet_r18_1x_sk1_64": lambda read: samples("eval64", ENDS, read),
    "tf1_r50_eighth_sk0": lambda read: {
        name: value for name, value in read.items() if name == "input" or name.startswith("eval/")
    },
    "tf1_r50_eighth_sk1": lambda read: samples("eval", [-1], read),
    "tf2_r18_eighth_sk0_cifar32": lambda read: (
        samples("savedmodel_eval", ENDS, read) | checkpoint_names(read)
    ),
    "tf2_r50_eighth_sk1_64": lambda read: samples("savedmodel_eval", [-1], read) | checkpoint_names(read),
}


def save(path: Path, arrays: Arrays) -> None:
    """A compressed npz that is the same, bit for bit, whenever it is made."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED, 9)


def save_remainder(bundle: TensorBundle, known: set[str], folder: Path) -> None:
    """A checkpoint's index, and the bytes that no formula gives."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(bundle.index, folder / bundle.index.name)
    rest = {name: entry for name, entry in bundle.entries.items() if name not in known}
    kept = {name: entry for name, entry in rest.items() if "OPTIMIZER_SLOT" not in name}
    save(folder / "rest.npz", {name: np.frombuffer(bundle.data(kept[name]), np.uint8) for name in kept})


def make_checkpoints(source: Path, scratch: Path) -> None:
    whole = HERE / "tf1_ckpt_r50_eighth_sk0"
    whole.mkdir(exist_ok=True)
    for file in sorted((source / whole.name).iterdir()):
        shutil.copyfile(file, whole / file.name)
    with_slots = TensorBundle(source / "tf1_ckpt_r50_eighth_sk1")
    save_remainder(with_slots, set(with_slots.entries) - {"global_step"}, HERE / "tf1_ckpt_r50_eighth_sk1")
    with tarfile.open(source / "tf2_ckpt_r18_eighth_sk0_cifar32.tgz") as archive:
        archive.extractall(scratch, filter="data")
    root = scratch / "tf2_r18_eighth_cifar32"
    with np.load(source / "tf2_r18_eighth_sk0_cifar32.npz") as read:
        for kind, place, name in (
            ("ckpt", root, "ckpt"),
            ("savedmodel", root / "saved_model/3", "saved_model"),
        ):
            pairs = zip(read[f"{kind}_keys"].tolist(), read[f"{kind}_canonical"].tolist(), strict=True)
            known = {key for key, canonical in pairs if canonical}
            save_remainder(TensorBundle(place), known, HERE / f"tf2_{name}_r18_eighth_sk0_cifar32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("whole_set", type=Path)
    source = parser.parse_args().whole_set
    for name, choose in FILES.items():
        with np.load(source / f"{name}.npz") as read:
            save(HERE / f"{name}.npz", choose(dict(read)))
    with tempfile.TemporaryDirectory() as scratch:
        make_checkpoints(source, Path(scratch))


if __name__ == "__main__":
    main()
