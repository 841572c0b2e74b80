"""The wheel without the checkout: package data is in it, and what it promises runs from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = (
    "IPython",
    "ipywidgets",
    "jupyterlab",
    "nbformat",
    "numba",
    "onnx",
    "onnxruntime",
    "papermill",
    "seaborn",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is unpacked into, away from the checkout."""
    made = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sources = made / "sources"
    for name in files.splitlines():
        if name.startswith("clrkit/") or "/" not in name:
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(made), str(sources)], check=True)
    (wheel,) = made.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(made / "site"), str(wheel)], check=True)
    return made / "site"


def run(site: Path, folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "CLRKIT_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_trains_a_stage_draws_a_figure_fits_a_folder_and_exports(installed, tmp_path) -> None:
    assert str(installed) in run(installed, tmp_path, "-c", "import clrkit; print(clrkit.__file__)")
    clrkit = ("-m", "clrkit")
    run(installed, tmp_path, *clrkit, "reproduce", "--preset", "smoke", "--results", "results")
    assert list(tmp_path.glob("results/smoke/figures/*.svg"))
    assert (tmp_path / "results/smoke/report.html").exists()
    # A folder of digits: labels are proposed, filled in, and learnt from.
    digits = "from pathlib import Path; from clrkit.own_images import example as e; known, _ = e.digits(*{});"
    digits = digits.format("(Path('photos'), 'smoke')")
    run(installed, tmp_path, "-c", digits)
    fit = [*clrkit, "fit", "photos", "--budget", "20", "--pretrain.epochs", "1", "--pretrain.width", "0.25"]
    fit += ["--finetune.epochs", "1", "--distill.epochs", "1", "--student_width", "0.25"]
    run(installed, tmp_path, *fit)
    run(installed, tmp_path, "-c", f"{digits} e.fill(Path('photos/labels.csv'), known)")
    run(installed, tmp_path, *fit)
    (model,) = tmp_path.glob("results/photos/model-*/model.onnx")
    (student,) = tmp_path.glob("results/photos/runs/distill-*")
    run(installed, tmp_path, *clrkit, "export", str(student), "--out", "exported")
    assert (tmp_path / "exported/model.onnx").stat().st_size == model.stat().st_size


BLOCK = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}));"


@pytest.mark.slow
def test_the_core_trains_a_stage_without_the_packages_of_the_extras(installed, tmp_path) -> None:
    train = " from clrkit.cli.main import main; sys.exit(main(['run', 'pretrain', '--preset', 'smoke']))"
    assert "done: " in run(installed, tmp_path, "-c", BLOCK + train)
