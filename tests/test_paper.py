import json
from pathlib import Path

import pytest

from clrkit.frames import MissingRecords
from clrkit.paper import PAPER, published, table_1


def test_every_group_names_its_source_and_whether_it_was_checked() -> None:
    groups = json.loads(PAPER.read_text(encoding="utf-8"))["groups"]
    assert len({group["id"] for group in groups}) == len(groups)
    for group in groups:
        assert group["source"]
        assert group["dataset"] in {"ImageNet", "CIFAR-10"}
        assert isinstance(group["checked"], bool)
        assert group["checked"] or "recalled" in group["note"]
        assert group["numbers"]


def test_every_number_is_a_percentage_of_something_named() -> None:
    numbers = published()
    assert numbers["value"].between(0, 100).all()
    assert numbers[["method", "metric"]].notna().all(axis=None)


def test_recalled_tables_are_not_called_checked() -> None:
    checked = published().groupby("source")["checked"].first()
    assert checked["SimCLRv2, Table 1"]
    assert not checked["SimCLRv2, Table 2"]
    assert not checked["SimCLRv2, Table 3"]


def test_table_1_is_whole() -> None:
    table = table_1()
    assert len(table) == 13 * 5
    assert table.groupby("network")["parameters"].nunique().eq(1).all()


@pytest.mark.parametrize(
    ("network", "method", "fraction", "value"),
    [
        ("R50 1x", "finetuned", 0.01, 57.9),
        ("R50 1x", "linear", 1.0, 71.7),
        ("R101 2x SK", "finetuned", 0.1, 78.8),
        ("R152 3x SK", "finetuned", 0.01, 74.9),
        ("R152 3x SK", "supervised", 1.0, 80.5),
        ("R152 2x", "finetuned", 1.0, 81.1),
    ],
)
def test_table_1_holds_the_papers_numbers(network: str, method: str, fraction: float, value: float) -> None:
    table = table_1().set_index(["network", "method", "fraction"])["mean"]
    assert table[network, method, fraction] == value


def test_the_distilled_student_of_the_abstract_is_there() -> None:
    numbers = published().query("source == 'SimCLRv2, abstract'").set_index("fraction")["value"]
    assert numbers.to_dict() == {0.01: 73.9, 0.1: 77.5}


def test_without_the_file_the_message_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingRecords, match=r"paper\.json, the published numbers, is not there"):
        published(tmp_path / "paper.json")
