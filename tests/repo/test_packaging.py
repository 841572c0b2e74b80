"""What is installed: pyproject.toml, constraints.txt and environment.yml say the same; imports stay light."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clrkit
from clrkit.cli.extras import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BY_PLATFORM = ("nvidia-", "cuda-", "triton")  # what torch brings along for a GPU is not pinned


def pins(lines: list[str]) -> dict[str, str]:
    found = [re.fullmatch(r"([\w.-]+)==([\w.+]+)", line) for line in lines]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().splitlines())
ENVIRONMENT = [
    line.strip().removeprefix("- ") for line in (ROOT / "environment.yml").read_text().splitlines()
]


DEVELOPMENT = ("test", "ui", "audit", "bench")  # extras that only work on clrkit itself needs


def requirements(development: bool) -> dict[str, Requirement]:
    """What clrkit needs with all extras for its users, and with those for its development."""
    texts = list(PROJECT["dependencies"])
    for extra, needed in PROJECT["optional-dependencies"].items():
        texts += needed if development or extra not in DEVELOPMENT else []
    found = {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}
    return {name: requirement for name, requirement in found.items() if name != "clrkit"}


def required(name: str) -> set[str]:
    """Distributions that an installed one needs on this machine; none of one that is not installed."""
    try:
        found = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:  # of the extra `bench`, which the tests do without
        return set()
    return {canonicalize_name(r.name) for r in found if not r.marker or r.marker.evaluate({"extra": ""})}


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", requirements(development=True))
def test_every_dependency_is_pinned_within_the_range_that_is_admitted(name):
    assert name in CONSTRAINTS
    assert requirements(development=True)[name].specifier.contains(CONSTRAINTS[name])


@pytest.mark.skipif(sys.platform != "linux", reason="the tested versions are those of Linux")
def test_whatever_gets_installed_is_pinned():
    todo = set(requirements(development=True))
    installed: set[str] = set()
    while todo:
        name = todo.pop()
        if not name.startswith(BY_PLATFORM):
            installed.add(name)
            todo |= required(name) - installed
    # Setuptools comes with some environments and is brought by torch in others.
    assert installed - {"setuptools", "pip"} <= set(CONSTRAINTS)


def test_the_constraints_are_pins_in_alphabetical_order():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(pins(lines)) == len(lines)
    names = [line.partition("==")[0].lower() for line in lines]
    assert names == sorted(names)


def test_conda_gets_every_dependency_at_the_version_of_the_constraints():
    pinned = pins(ENVIRONMENT)
    assert pinned.keys() == requirements(development=False).keys()
    assert pinned == {name: CONSTRAINTS[name] for name in pinned}
    assert "--editable ." in ENVIRONMENT


def test_a_missing_package_is_looked_up_in_the_extra_that_installs_it():
    modules = metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        declared = {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]}
        for package in packages:
            assert {canonicalize_name(each) for each in modules[package]} & declared, (extra, package)


def test_conda_s_python_is_admitted():
    python = next(line.partition("=")[2] for line in ENVIRONMENT if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_torch_and_torchvision_are_a_pair():
    texts = [Requirement(text) for text in metadata.requires("torchvision") or []]
    torch = next(requirement for requirement in texts if requirement.name == "torch")
    if metadata.version("torchvision").partition("+")[0] == CONSTRAINTS["torchvision"]:
        assert torch.specifier.contains(CONSTRAINTS["torch"])
    assert torch.specifier.contains(metadata.version("torch"))


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_the_versions_in_the_readme_are_the_pinned_ones(name):
    named = re.findall(rf"\b{name}==([\d.]*\d)", (ROOT / "README.md").read_text())
    assert set(named) == {CONSTRAINTS[name]}


def test_the_version_is_the_same_everywhere():
    assert clrkit.__version__ == PROJECT["version"]


@pytest.mark.parametrize("folder", ["clrkit", "tests", "benchmarks"])
def test_whatever_is_imported_is_a_dependency_or_what_one_of_them_needs(folder):
    declared = set(requirements(development=folder != "clrkit"))
    declared |= {needed for name in declared for needed in required(name)}
    modules = metadata.packages_distributions()
    own = {
        "clrkit",
        *(["benchmarks"] if folder != "clrkit" else []),
        *(path.stem for path in (ROOT / folder).rglob("*.py")),
    }
    names = set().union(*(imported(path) for path in (ROOT / folder).rglob("*.py")))
    for name in names - own - sys.stdlib_module_names:
        # (What is not installed, of the extra `bench`, is known by its name alone.)
        distributions = {canonicalize_name(each) for each in modules.get(name, [name])}
        assert distributions & declared, name


def loaded_by(module: str) -> set[str]:
    """Top-level modules that importing `module` loads in a new interpreter."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["clrkit", "clrkit.config", "clrkit.experiments.presets", "clrkit.cli.main"]
)
def test_configs_presets_and_the_command_line_load_neither_torch_nor_numpy(module):
    assert not loaded_by(module) & {"torch", "numpy", "pandas", "matplotlib", "IPython"}


def test_reading_data_and_records_and_drawing_figures_load_no_torch():
    room = [path.stem for path in (ROOT / "clrkit/results").glob("*.py") if path.stem != "__init__"]
    assert len(room) > 10
    results = ", ".join(f"clrkit.results.{name}" for name in room)
    assert "torch" not in loaded_by(f"clrkit.data.datasets, clrkit.runs.store, {results}")
