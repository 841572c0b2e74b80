"""What SECURITY.md promises: nothing that is read is executed, and what is served is served to its owner."""

from __future__ import annotations

import ast
import http.server
import importlib.util
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
import synthetic
import torch

from clrkit.cli.main import main
from clrkit.config import Stage
from clrkit.data.cache import CacheEntry, read_cache, write_cache
from clrkit.data.datasets import load
from clrkit.data.folders import list_images
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.errors import ConfigError, DataError
from clrkit.experiments.presets import preset
from clrkit.model import Model, ModelConfig
from clrkit.notebook import illustrations
from clrkit.notebook.illustrations_losses import teacher_and_student
from clrkit.notebook.lab import TrainingControls
from clrkit.results import curves
from clrkit.results.claims import evaluate
from clrkit.results.report import Report, write_index
from clrkit.runs.checkpoint import write_state
from clrkit.runs.model_files import ModelError, read_model, write_model
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import Store, partial_of, read_run
from clrkit.weights.tensor_bundle import CheckpointError, TensorBundle

ROOT = Path(__file__).parents[2]
SMOKE = preset("smoke")

# The source


UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
EXECUTORS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
METHODS = {"read_pickle", "to_pickle", "extractall"}


def sources() -> Iterator[tuple[str, str]]:
    """Name and text of every module, and of every notebook's cells of code."""
    for path in sorted(ROOT.glob("clrkit/**/*.py")):
        yield path.name, path.read_text()
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path.name, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def offences(text: str) -> Iterator[str]:
    """What in a source could execute what it reads."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if set(name.split(".")) & UNPICKLERS)
            yield from (name for name in names if name == "torchvision.datasets" or name == "datasets")
        elif isinstance(node, ast.Call):
            yield from offences_of_call(node)


def offences_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in EXECUTORS or (name.rpartition(".")[2] in METHODS and "." in name):
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name.endswith("export.load"):
        yield "torch.export.load"
    if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
        yield f"{name} with allow_pickle or shell"


def test_nothing_in_the_library_or_the_notebooks_executes_what_it_reads() -> None:
    found = {name: list(offences(text)) for name, text in sources()}
    assert len(found) > 40
    assert {name: set(what) for name, what in found.items() if what} == {
        # A program that was written the moment before is read back, to be checked.
        "export.py": {"torch.export.load"},
        # Files are unpickled after their MD5 was compared (the tests of CIFAR below).
        "torchvision_sets.py": {"datasets", "torchvision.datasets"},
    }


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch, joblib",
        "from torch import _pickle",
        "eval(text)",
        "exec(compile(a, b, c))",
        "__import__('os')",
        "os.system('x')",
        "os.popen(x)",
        "pd.read_pickle(x)",
        "tar.extractall(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.export.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=asked)",
        "subprocess.run(x, shell=True)",
        "from torchvision import datasets",
    ],
)
def test_every_way_to_execute_what_is_read_would_be_noticed(text: str) -> None:
    assert list(offences(text))
    assert not list(offences("model.eval(); np.load(x); torch.load(x, weights_only=True); match.group()"))


# No pickle


class Evil:
    """Pickled, it is a command to make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Evil]:
    """What must not be unpickled; the test fails where it is."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(marker))).close()
    assert marker.exists(), "the pickle does what it should"
    marker.unlink()
    yield Evil(marker)
    assert not marker.exists(), "a pickle was executed"


def test_a_pickle_in_a_state_is_not_executed(tmp_path: Path, evil: Evil, fault: Any) -> None:
    store, config = Store(tmp_path / "results", "smoke"), SMOKE.supervised
    state = partial_of(store.path(config)) / "state"
    state.parent.mkdir(parents=True)
    write_state(state, {"training": evil, "log": {}})
    with pytest.raises(ConfigError, match="to start the run again"):
        finish(run_or_load(config, store))
    state.write_bytes(pickle.dumps(evil))  # nor one without its checksum
    with pytest.raises(ConfigError, match="to start the run again"):
        finish(run_or_load(config, store))
    fault("outside files: a state that holds a pickled command", "a forged state", "the state", times=2)


def small_set() -> DataSet:
    pixels = PixelArray(np.zeros((3, 3, 4, 4), np.uint8))
    part = Split(pixels, np.array([0, 1, 0]), ["a", "b", "c"])
    return DataSet(part, part, ("ape", "bat"))


@pytest.mark.parametrize("file", ["train_pixels.npy", "test_labels.npy", "train_names.json", "note.json"])
@pytest.mark.parametrize("form", ["array", "bare"])
def test_a_pickle_in_the_cache_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Evil, file: str, form: str
) -> None:
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    source = CacheEntry("some-4", "id", small_set)
    write_cache(source, small_set())
    path = tmp_path / "cache/some-4" / file
    if form == "array":
        with path.open("wb") as opened:
            np.save(opened, np.array([evil], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(evil))
    assert read_cache(source, lambda line: None) is None


@pytest.mark.parametrize("form", [pickle.dumps, "torch"])
@pytest.mark.parametrize("file", ["weights.safetensors", "model.json"])
def test_a_pickle_in_a_model_folder_is_not_executed(tmp_path: Path, evil: Evil, form: Any, file: str) -> None:
    settings = ModelConfig(network=SMOKE.pretrain.network)
    write_model(tmp_path / "model", settings, Model(settings).state_dict(), {})
    if form == "torch":
        torch.save({"weight": evil}, tmp_path / "model" / file)
    else:
        (tmp_path / "model" / file).write_bytes(form(evil))
    with pytest.raises(ModelError):
        read_model(tmp_path / "model")


def test_a_pickle_as_a_checkpoint_a_record_and_an_image_is_not_executed(tmp_path: Path, evil: Evil) -> None:
    data = pickle.dumps(evil)
    (tmp_path / "model.index").write_bytes(data)
    with pytest.raises(CheckpointError):
        TensorBundle(tmp_path / "model")
    for file in ("record.json", "SHA256SUMS"):
        (tmp_path / file).write_bytes(data)
    with pytest.raises(ConfigError):
        read_run(tmp_path)
    (tmp_path / "set/ape").mkdir(parents=True)
    for name in "ab":
        (tmp_path / f"set/ape/{name}.png").write_bytes(data)
    with pytest.raises(DataError):
        load(SMOKE.pretrain.data.__class__(dataset="folder", root=str(tmp_path / "set")))


@pytest.mark.parametrize("packed", [False, True])
def test_a_cifar_of_another_md5_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Evil, packed: bool
) -> None:
    from torchvision import datasets

    from clrkit.config import Data

    def refuse(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", refuse)
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        for file in (*(name for name, _ in (*kind.train_list, *kind.test_list)), kind.meta["filename"]):
            (folder / file).write_bytes(pickle.dumps(evil))
        if packed:
            with tarfile.open(tmp_path / kind.filename, "w:gz") as archive:
                archive.add(folder, kind.base_folder)
            shutil.rmtree(folder)
        refusal = "nor an intact .* cannot be downloaded" if packed else "is damaged or incomplete"
        with pytest.raises(DataError, match=f"{kind.base_folder} {refusal}"):
            load(Data(dataset=kind.__name__.lower(), root=str(tmp_path), image_size=32))
        with pytest.raises(DataError, match=f"torchvision:{kind.__name__} cannot be read"):
            load(Data(dataset=f"torchvision:{kind.__name__}", root=str(tmp_path), image_size=32))


# No value is code

TEXTS = [
    "__import__('os').system('touch executed')",
    "$(touch executed)",
    "`touch executed`; touch executed",
    "'; import os; os.system('touch executed') #",
    '"""\nimport os\nos.system(\'touch executed\')\n"""',
    "{0.__class__} {} %s %(x)s",
    "\\x00\\\n",
    "@executed",
    "",
]


def names_of(config: Any) -> Iterator[str]:
    """Dotted names of a config's fields."""
    for item in fields(config):
        value = getattr(config, item.name)
        inner = names_of(value) if is_dataclass(value) else ()
        yield from chain([item.name], (f"{item.name}.{name}" for name in inner))


@pytest.mark.slow
def test_no_field_of_the_command_line_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))
    nowhere = ["--dataset", "folder", "--root", "nowhere", "--results", "results", "--preset", "smoke"]
    for name in names_of(SMOKE.distill):  # its chain has nearly all that there are
        for text in (TEXTS[0], "\n".join(TEXTS)):
            assert main(["run", "distill", *nowhere, f"--{name}={text}"]) in (1, 2), (name, text)
            error = capsys.readouterr().err
            assert error.startswith("clrkit: ")
            assert "Traceback" not in error
    assert not list(tmp_path.rglob("*executed*"))


@pytest.mark.parametrize("option", ["--preset", "--device", "--results"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_other_option_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["--dataset", "folder", "--root", "nowhere"]
    preset = [] if option == "--preset" else ["--preset", "smoke"]
    assert main(["run", "pretrain", *preset, *rest, f"{option}={text}"]) in (1, 2)
    assert not list(tmp_path.rglob("executed"))


# What is shown

HOSTILE = ["$\\frac{", "$x$", "<b>", "`x` | y", "%s {0}", "\\"]


def test_class_names_are_drawn_as_they_are() -> None:
    count = len(HOSTILE)
    drawing = curves.confusion(np.eye(count, dtype=int).tolist(), HOSTILE, HOSTILE[0])
    assert drawing._repr_png_()[0]
    shown = {label.get_text() for label in drawing.figure.axes[0].get_xticklabels()}
    assert shown == set(HOSTILE)
    images = torch.zeros(count, 3, 8, 8)
    assert illustrations.image_rows({"": images}, "", titles=HOSTILE).png()
    logits = torch.zeros(count)
    assert teacher_and_student(images[0], logits, logits, 0, HOSTILE, temperature=1.0).png()
    points = np.random.RandomState(0).rand(2 * count, 2)
    assert illustrations.embeddings(
        {"a": points}, np.arange(2 * count) % count, HOSTILE, "t", HOSTILE[0]
    ).png()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[31mred", b"\x7f"])
def test_a_class_whose_name_cannot_be_shown_is_refused(tmp_path: Path, name: bytes) -> None:
    for folder in (b"ape", name):
        (tmp_path / os.fsdecode(folder)).mkdir()
        (tmp_path / os.fsdecode(folder) / "1.png").touch()
    with pytest.raises(DataError, match="has an unprintable name") as caught:
        list_images(SMOKE.pretrain.data.__class__(dataset="folder", root=str(tmp_path)))
    assert str(caught.value).isprintable()


def test_an_index_shows_what_records_say_as_text(tmp_path: Path) -> None:
    records = synthetic.records()
    for record in records:
        record["dataset"]["name"] = "\n# own heading <b>x</b>"
        record["provenance"]["cpu"] = "<script>alert(1)</script>\n- own item"
        record["provenance"]["device"] = "[link](javascript:alert(1))"
    runs = synthetic.records_to_frame(records)
    found = evaluate(runs, synthetic.PRESET)
    report = Report(preset="mini", source="own runs", runs=runs, claims=found, drawings=[], figures=tmp_path)
    write_index(tmp_path / "INDEX.md", report)
    text = (tmp_path / "INDEX.md").read_text()
    assert re.findall(r"(?<!\\)<(?!/?(?:details|summary)>)", text) == []
    assert r"\[link\](javascript" in text
    assert "\n# own" not in text
    assert "\n- own item" not in text


def test_an_error_in_the_panel_is_text_not_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingControls(Store(tmp_path / "results", "smoke"), redraw=lambda: None)

    def fail(configs: list[Stage]) -> bool:
        raise ConfigError("<img src=x onerror=alert(1)>")

    monkeypatch.setattr(training, "train", fail)
    training.work([])
    assert training.status.value == "&lt;img src=x onerror=alert(1)&gt;"


# The lab


def lab_command() -> list[str]:
    """The arguments that `make lab` gives to JupyterLab."""
    printed = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in printed.stdout.splitlines() if "jupyter lab" in line]
    return shlex.split(line.partition("jupyter lab")[2])


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_lab_listens_on_this_machine_alone_and_asks_for_its_token(tmp_path: Path) -> None:
    names = ("config", "data", "runtime")
    folders = {f"JUPYTER_{name.upper()}_DIR": str(tmp_path / name) for name in names}
    own = ["--ServerApp.port=0", "--no-browser", "--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *lab_command(), *own]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=os.environ | folders, stdout=log, stderr=log)
    try:
        info = tmp_path / f"runtime/jpserver-{server.pid}.json"
        end = time.monotonic() + 60
        while not info.exists() and time.monotonic() < end:
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        time.sleep(0.5)
        found = json.loads(info.read_text())
        listening = [each for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"]
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
        assert len(found["token"]) >= 32
        contents = f"{found['url']}api/contents"
        assert status_of(contents) == 403
        assert status_of(f"{contents}?token=wrong") == 403
        assert status_of(f"{contents}?token={found['token']}") == 200
    finally:
        server.terminate()
        server.wait(20)


# The audit


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_audit", ROOT / ".ci/audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Database(http.server.BaseHTTPRequestHandler):
    """Answers /entry as a database of vulnerabilities does, /page as a portal in its place, else 404."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/entry", "/page") else 404)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Database)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [0, 1])
def test_where_the_database_is_reached_the_audit_decides(
    audit: ModuleType, database: str, status: int
) -> None:
    assert audit.audit(f"{database}/entry", [sys.executable, "-c", f"raise SystemExit({status})"]) == status


@pytest.mark.parametrize("entry", ["{}/gone", "{}/page", "http://127.0.0.1:9/entry", "no address"])
def test_where_the_database_is_not_reached_it_is_said(
    audit: ModuleType, database: str, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    entry = entry.format(database)
    assert audit.audit(entry, [sys.executable, "-c", "raise SystemExit(1)"]) == 0
    assert capsys.readouterr().out.startswith(f"No audit of the dependencies: {entry} cannot be reached (")


def test_every_test_that_security_md_names_is_there() -> None:
    named = re.findall(r"`([\w/]+)\.py::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / f"tests/{file}.py").read_text(), f"{file}.py::{test}"
