"""Documentation agrees with its sources, links lead to files, and docstrings are complete.

Complete means: every module, every public class, and every function that another module, a notebook or a page
uses has a docstring. A function that raises says so, there or in its module's docstring. Tensors and arrays
that it takes or returns have their shapes in the annotation.
"""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from clrkit.results.published import table_1

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "results/README.md"]
LIBRARY = ROOT / "clrkit"
MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(LIBRARY.rglob("*.py"))
}
COLUMNS = [
    ("finetuned", 0.01),
    ("finetuned", 0.1),
    ("finetuned", 1.0),
    ("linear", 1.0),
    ("supervised", 1.0),
]


def test_the_table_of_released_models_is_the_paper_s_table_1():
    numbers = table_1()
    published = {
        (row.network, row.method, row.fraction): row.mean
        for row in numbers.itertuples()
        if row.mean == row.mean
    }
    rows = re.findall(
        r"^\| (R\d+ \dx(?: SK)?) \| `(\w+)` \| (.*) \|$", (DOCS / "checkpoints.md").read_text(), re.M
    )
    assert len(rows) == 13
    listed = {}
    for network, folder, cells in rows:
        depth, width, selective = re.fullmatch(r"R(\d+) (\d)x( SK)?", network).groups()
        assert folder == f"r{depth}_{width}x_sk{1 if selective else 0}"
        for (method, fraction), cell in zip(COLUMNS, cells.split(" | "), strict=True):
            listed[network, method, fraction] = float(cell.split()[0])
    assert listed == published


def named_in(tree):
    """(module, name) of everything that a piece of code imports from clrkit."""
    modules, names = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clrkit"):
            for alias in node.names:
                room = node.module.removeprefix("clrkit").strip(".")
                if (module := f"{room}.{alias.name}".strip(".")) in MODULES:
                    modules[alias.asname or alias.name] = module
                else:
                    names.add((room, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.add((modules[node.value.id], node.attr))
    return names


def used_names():
    """(module, name) of everything that modules, notebooks and pages use."""
    names = {name for tree in MODULES.values() for name in named_in(tree)}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        names |= {name for source in sources for name in named_in(ast.parse(source))}
    for page in PAGES:
        names |= set(re.findall(r"`clrkit\.([\w.]+)\.(\w+)`", page.read_text()))
    return names


def functions():
    """Functions used outside their module: full name, syntax tree, and docstring of the module."""
    for module, name in sorted(used_names()):
        for node in MODULES[module].body if module in MODULES else ():
            if isinstance(node, ast.FunctionDef) and node.name == name:
                yield f"{module}.{name}", node, ast.get_docstring(MODULES[module])


def raises(function):
    """True if a function itself raises an error that users or callers can cause."""
    raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc]
    return any(not ast.unparse(error).startswith(("AssertionError", "KeyboardInterrupt")) for error in raised)


def test_every_module_and_every_public_class_has_a_docstring():
    assert [name for name, tree in MODULES.items() if not ast.get_docstring(tree)] == []
    classes = [
        (name, node) for name, tree in MODULES.items() for node in tree.body if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 100
    assert [f"{name}.{node.name}" for name, node in classes if not ast.get_docstring(node)] == []


def test_every_function_that_is_used_elsewhere_has_a_docstring_that_names_its_errors():
    found = list(functions())
    assert len(found) > 300
    assert [name for name, node, _ in found if not ast.get_docstring(node)] == []
    silent = [
        name
        for name, node, about in found
        if raises(node) and "raise" not in f"{ast.get_docstring(node)}{about}".lower()
    ]
    assert silent == []


def test_tensors_and_arrays_that_functions_take_and_return_have_their_shapes():
    unshaped = set()
    for name, node, _ in functions():
        annotations = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
        plain = re.compile(r"(torch\.)?Tensor( \| None)?|np\.ndarray( \| None)?")
        if any(plain.fullmatch(ast.unparse(each)) for each in (*annotations, node.returns) if each):
            unshaped.add(name)
    assert unshaped == {"device.to_device", "data.resize.cubic"}  # of any shape


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_existing_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    within = [target for target in targets if "://" not in target]
    assert [target for target in within if not (page.parent / target).exists()] == []


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == [{"name": "The clrkit authors"}]
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()
    assert paper["url"] in (ROOT / "README.md").read_text()
    families = [author["family-names"] for author in paper["authors"]]
    assert families == ["Chen", "Kornblith", "Swersky", "Norouzi", "Hinton"]
    assert all(author["given-names"] for author in paper["authors"])
