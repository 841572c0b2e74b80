import re
from itertools import combinations
from typing import Any

import pytest
import torch

from clrkit.config import Network
from clrkit.experiments.ablation_settings import FACTORS
from clrkit.resnet import ResNet
from clrkit.results.published import content, finding, peers, published, table_1

CONTENT = content()
STATEMENTS = [said for found in CONTENT["findings"] for said in found["says"]]


def test_every_group_names_its_source_and_whether_it_was_checked() -> None:
    groups = CONTENT["groups"]
    assert len({group["id"] for group in groups}) == len(groups)
    for group in groups:
        assert group["source"]
        assert group["dataset"] in {"ImageNet", "CIFAR-10"}
        assert isinstance(group["checked"], bool)
        assert group["checked"] or group.get("known", "recalled").removeprefix("from ") in group["note"]
        assert not group["checked"] or "known" not in group
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


def test_every_setting_of_the_lab_has_a_finding_whose_sentences_say_their_sources() -> None:
    assert [found["setting"] for found in CONTENT["findings"]] == [*FACTORS]
    assert finding("memory").says.endswith("(SimCLRv2, appendix D).")
    assert finding("label_weight").cited == "SimCLRv2, Table 2, as recalled"
    assert "with 1% and 56.4 with 10% of them (SimCLRv2, Table 3, as recalled)." in finding("fraction").says


@pytest.mark.parametrize("said", STATEMENTS, ids=lambda said: said["text"][:40])
def test_a_number_in_a_finding_is_one_of_the_table_it_cites_or_a_difference(said: dict[str, Any]) -> None:
    groups = [group for group in CONTENT["groups"] if group["source"] == said["source"]]
    rows = [row for group in groups for row in group["numbers"]]
    known = {float(value) for row in rows for value in row.values() if isinstance(value, float)}
    values = [row["value"] for row in rows]
    known |= {round(abs(one - other), 1) for one, other in combinations(values, 2)}
    assert not rows or {float(number) for number in re.findall(r"\d+\.\d+", said["text"])} <= known
    assert {group["checked"] for group in groups} <= {said["checked"]}
    # Numbers of sections and of figures in the text were not compared with it.
    assert not (said["checked"] and re.search(r"section|Fig\. \d", said["source"]))


def test_gains_in_percent_are_relative_ones() -> None:
    table = table_1().set_index(["network", "method", "fraction"])["mean"]
    small, big = (table[network, "finetuned", 0.01] for network in ("R50 1x", "R152 3x SK"))
    assert round(100 * (big / small - 1)) == 29
    gains = [said["text"] for said in STATEMENTS if "gains" in said["text"] and "%" in said["text"]]
    assert len(gains) == 2
    assert all("relative to its" in text for text in gains)


def test_a_wider_network_is_better_most_where_labels_are_few() -> None:
    table = table_1().query("method == 'finetuned'").pivot(index="network", columns="fraction", values="mean")
    for network in ("R50", "R101", "R152"):
        for kernels in ("", " SK"):
            gain = table.loc[f"{network} 2x{kernels}"] - table.loc[f"{network} 1x{kernels}"]
            assert gain[0.01] > gain[0.1] > gain[1.0] > 0


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


def test_peers_report_on_all_of_cifar10_unless_labels_are_few() -> None:
    numbers = peers()
    assert set(numbers["dataset"]) == {"CIFAR-10"}
    assert (numbers["labels"] == 50_000 * numbers["fraction"]).all()
    assert set(numbers.loc[~numbers["checked"], "name"]) == {"FixMatch", "SelfMatch"}
    assert (numbers["doubt"] == numbers["checked"].map({True: "", False: "from others' copies"})).all()
    few = numbers["labels"] < 50_000
    assert few.is_monotonic_increasing
    assert set(numbers[~few]["metric"]) == {"knn", "linear", "linear_online", "top1"}


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_parameters_of_peers_networks_are_those_of_the_architecture(depth: int) -> None:
    with torch.device("meta"):
        count = sum(each.numel() for each in ResNet(Network(depth=depth, stem="cifar")).parameters())
    numbers = peers()
    stated = numbers[numbers["network"] == f"R{depth} 1x"]["parameters"]
    assert set(stated) == {round(count / 1e6, 1)}
