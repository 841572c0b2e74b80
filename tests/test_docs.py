"""The documentation's numbers are those of the sources it names."""

import re
from pathlib import Path

from clrkit.paper import table_1

DOCS = Path(__file__).parents[1] / "docs"
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
