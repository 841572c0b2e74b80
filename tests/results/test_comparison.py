"""Own runs against the reference: what rounding may do, what it may not, and what cannot be said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from clrkit.config import Finetune, Stage
from clrkit.experiments.presets import preset
from clrkit.results.comparison import (
    DIFFERS,
    NOT_RUN,
    REPRODUCED,
    ROUNDING,
    UNDECIDED,
    compare,
    sampling_error,
    summary_line,
    tolerance,
)
from clrkit.results.records import records_to_frame
from clrkit.runs.reproduce import complete
from clrkit.runs.store import Store

REFERENCES = Path(__file__).parents[2] / "results/reference"
NAMES = ["mini", "cifar10_cpu"]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return synthetic.runs()


@pytest.fixture(scope="module")
def references() -> dict[str, pd.DataFrame]:
    """The committed references."""
    found = {}
    for name in NAMES:
        runs = Store(REFERENCES, name).find_all(complete(preset(name).runs))
        found[name] = records_to_frame((run.record for run in runs), preset(name))
    return found


def worse(stage: Stage) -> float:
    """Fine-tuning the largest network on 1% of the labels, ten points off."""
    hit = isinstance(stage, Finetune) and stage.fraction == 0.01 and stage.pretrain.network.width == 2
    return synthetic.noisy(stage) - 10 * hit


def moved(runs: pd.DataFrame, amount: object, which: pd.Series) -> pd.DataFrame:
    """The runs with some accuracies moved by so many points."""
    made = runs.copy()
    made.loc[which, "top1"] += amount
    return made


def trained_on_labels(runs: pd.DataFrame) -> pd.Series:
    """Those that rounding moves where pretraining came out the same."""
    return runs["stage"].isin(["supervised", "finetune", "distill"])


def rounding(count: int, draw: np.random.Generator) -> np.ndarray:
    """What another processor does: a standard deviation of 0.9 and a tail that reaches 6.5 in hundreds.

    Student's t with three degrees of freedom; the code's own law is another.
    """
    return 0.9 / 3**0.5 * draw.standard_t(3, count)


def pretrained_otherwise(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs as if each pretraining had ended at another loss, a thousandth away."""
    return runs.assign(loss=runs["loss"].where(runs["stage"] != "pretrain", runs["loss"] * 1.001))


# What is reproduced


def test_the_same_runs_reproduce_the_reference(runs: pd.DataFrame) -> None:
    compared = compare(runs, runs)
    settings = runs[runs["stage"] != "pretrain"]["setup"].nunique()
    probes = runs[runs["stage"] == "probe"]["setup"].nunique()
    assert len(compared) == settings + probes
    assert set(compared["text"]) == {REPRODUCED}
    assert compared["cell"].is_unique
    assert summary_line(compared) == (
        f"reproduced: all {len(compared)} cells within tolerance of the reference (median 2.7 points)"
    )


def test_the_simulated_rounding_is_as_wide_and_heavy_tailed_as_was_measured() -> None:
    drawn = rounding(200_000, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(0.9, rel=0.05)
    largest = np.abs(drawn).reshape(-1, 200).max(axis=1)
    assert 3 < np.median(largest) < 6.5 < np.quantile(largest, 0.95)


@pytest.mark.parametrize("name", NAMES)
def test_nine_of_ten_honest_reproductions_are_called_so(
    name: str, references: dict[str, pd.DataFrame]
) -> None:
    reference, draw = references[name], np.random.default_rng(1)
    moves = trained_on_labels(reference)
    made = [moved(reference, rounding(moves.sum(), draw), moves) for _ in range(10)]
    said = [summary_line(compare(own, reference)) for own in made]
    assert sum(line.startswith("reproduced: all") for line in said) >= 9


def test_a_run_that_tips_into_another_mode_is_outvoted_and_two_are_not(
    references: dict[str, pd.DataFrame],
) -> None:
    reference = references["mini"]
    bimodal = reference["stage"].eq("finetune") & reference["head_layers"].eq(4)
    cell = bimodal & reference["fraction"].eq(0.1) & reference["tap_layer"].eq(2)
    one = moved(reference, 20.0, cell & reference["seed"].eq(1))
    assert summary_line(compare(one, reference)).startswith("reproduced: all")
    two = compare(moved(reference, 20.0, cell & reference["seed"].ne(1)), reference)
    assert two[two["verdict"] == DIFFERS]["text"].item().endswith("2 of 3 seeds off by more than 2.7")


# What differs


@pytest.mark.parametrize("name", NAMES)
def test_five_points_in_one_fine_tuned_cell_differ_whichever_it_is(
    name: str, references: dict[str, pd.DataFrame]
) -> None:
    reference, draw = references[name], np.random.default_rng(2)
    tuned, moves = reference["stage"].eq("finetune"), trained_on_labels(reference)
    for shift in (-5.0, 5.0):  # of every cell, as each is judged by its own runs alone
        shifted = moved(moved(reference, rounding(moves.sum(), draw), moves), shift, tuned)
        compared = compare(shifted, reference)
        assert set(compared.loc[compared["stage"] == "finetune", "verdict"]) == {DIFFERS}
    setup = reference.loc[tuned, "setup"].iloc[0]
    compared = compare(moved(reference, 5.0, tuned & reference["setup"].eq(setup)), reference)
    assert (compared["verdict"] == DIFFERS).sum() == 1
    assert summary_line(compared).startswith(f"differs: 1 of {len(compared)} cells, most of all fine-tuned")


@pytest.mark.parametrize("name", NAMES)
def test_twenty_points_in_all_fine_tuned_cells_differ(name: str, references: dict[str, pd.DataFrame]) -> None:
    reference = references[name]
    tuned = reference["stage"].eq("finetune")
    compared = compare(moved(reference, -20.0, tuned), reference)
    cells = (compared["stage"] == "finetune").sum()
    assert summary_line(compared).startswith(f"differs: {cells} of {len(compared)} cells")


@pytest.mark.parametrize("name", NAMES)
def test_an_erratic_implementation_is_no_reproduction_and_widens_no_tolerance(
    name: str, references: dict[str, pd.DataFrame]
) -> None:
    reference, draw = references[name], np.random.default_rng(3)
    moves = trained_on_labels(reference)
    exact = compare(reference, reference)
    for _ in range(5):
        compared = compare(moved(reference, 3 * draw.normal(size=moves.sum()), moves), reference)
        assert summary_line(compared).startswith("differs: ")
        assert compared["tolerance"].tolist() == exact["tolerance"].tolist()


def test_what_breaks_one_seed_of_every_cell_differs_though_each_cell_outvotes_it(
    references: dict[str, pd.DataFrame],
) -> None:
    reference = references["mini"]
    broken = trained_on_labels(reference) & reference["seed"].eq(2)
    compared = compare(moved(reference, -5.0, broken), reference)
    assert set(compared["verdict"]) == {REPRODUCED}
    assert summary_line(compared) == (
        f"differs: {broken.sum()} of {compared['pairs'].sum()} runs are off by more than their tolerance, "
        "rounding makes fewer"
    )


def test_a_cell_that_differs_is_named_with_its_numbers(runs: pd.DataFrame) -> None:
    compared = compare(synthetic.runs(worse), runs)
    apart = compared[compared["verdict"] == DIFFERS]
    assert list(apart["cell"]) == ["fine-tuned, 1%, R8 2x, from layer 1"]
    assert apart["text"].item().startswith("differs: own 62.")
    assert apart["text"].item().endswith("3 of 3 seeds off by more than 2.7")
    assert "most of all fine-tuned, 1%, R8 2x, from layer 1: own 62." in summary_line(compared)


@pytest.mark.parametrize(
    ("column", "value", "what"), [("fingerprint", "other", "images"), ("version", 9, "version of the stage")]
)
def test_other_images_or_another_version_are_no_reproduction(
    runs: pd.DataFrame, column: str, value: object, what: str
) -> None:
    texts = set(compare(runs.assign(**{column: value}), runs)["text"])
    assert len(texts) == 1
    assert texts.pop().endswith(what)


# What cannot be said


@pytest.mark.parametrize("name", NAMES)
def test_other_pretraining_leaves_undecided_what_builds_on_it_and_nothing_else(
    name: str, references: dict[str, pd.DataFrame]
) -> None:
    reference = references[name]
    compared = compare(pretrained_otherwise(reference), reference)
    verdicts = compared.groupby("stage")["verdict"].unique().map(list).to_dict()
    assert verdicts.pop("supervised") == [REPRODUCED]
    assert set(map(tuple, verdicts.values())) == {(UNDECIDED,)}
    alone = int((compared["stage"] == "supervised").sum())
    assert summary_line(compared).startswith(f"reproduced in part: {alone} of {len(compared)} cells within")
    assert "points off, as pretraining came out otherwise" in summary_line(compared)


def test_fine_tuning_that_fails_differs_even_after_other_pretraining(
    references: dict[str, pd.DataFrame],
) -> None:
    for reference in references.values():
        broken = moved(pretrained_otherwise(reference), -20.0, reference["stage"].eq("finetune"))
        compared = compare(broken, reference)
        assert summary_line(compared).startswith("differs: ")
        text = compared.loc[compared["verdict"] == DIFFERS, "text"].iloc[0]
        assert text.endswith("apart, which other seeds do not explain")


def test_runs_of_other_seeds_or_without_their_pretraining_are_undecided(runs: pd.DataFrame) -> None:
    others = runs.assign(seed=runs["seed"] + 3, pretrain_seed=runs["pretrain_seed"] + 3)
    assert set(compare(others, runs)["text"]) == {"undecided: no seed in common"}
    alone = compare(runs[runs["stage"] == "finetune"], runs)
    assert set(alone.loc[alone["verdict"] != NOT_RUN, "verdict"]) == {UNDECIDED}
    one = runs[runs["seed"] == 0]
    assert set(compare(others, one)["verdict"]) == {UNDECIDED}  # one seed has no spread


def test_seeds_that_followed_the_reference_are_compared_though_others_did_not(runs: pd.DataFrame) -> None:
    parted = pretrained_otherwise(runs)
    mixed = pd.concat([runs[runs["seed"] == 0], parted[parted["seed"] > 0]], ignore_index=True)
    compared = compare(mixed, runs)
    built = compared["stage"] != "supervised"
    assert set(compared.loc[built, "pairs"]) == {1}
    assert set(compared["verdict"]) == {REPRODUCED}


def test_cells_that_were_not_run_are_not_taken_for_those_that_differ(runs: pd.DataFrame) -> None:
    compared = compare(runs[runs["stage"] != "distill"], runs)
    absent = compared[compared["verdict"] == NOT_RUN]
    assert set(absent["stage"]) == {"distill"}
    assert summary_line(compared).endswith(f"; {len(absent)} cells not run")
    assert summary_line(compared).startswith("reproduced: ")


def test_nothing_run_is_nothing_compared(runs: pd.DataFrame) -> None:
    assert summary_line(compare(runs.iloc[:0], runs)).startswith("not compared: none of")


# Tolerances


@pytest.mark.parametrize(("seeds", "points"), [(1, 13.9), (2, 2.1), (3, 2.7), (5, 1.5)])
def test_the_tolerance_is_what_rounding_exceeds_once_in_5000_cells(seeds: int, points: float) -> None:
    limit = tolerance(seeds, accuracy=50.0, images=10**9)
    assert limit == pytest.approx(points, abs=0.05)
    drawn = ROUNDING * np.random.default_rng(seeds).standard_t(2.5, size=(1_000_000, seeds))
    off = (((drawn > limit).sum(axis=1) > seeds / 2) | ((drawn < -limit).sum(axis=1) > seeds / 2)).mean()
    assert off == pytest.approx(0.0002, abs=4 * (0.0002 / 1_000_000) ** 0.5)


def test_the_tolerance_is_no_finer_than_the_test_set() -> None:
    draw = np.random.default_rng(0)
    measured = 100 * draw.binomial(100, 0.5, size=(100_000, 2)) / 100
    assert sampling_error(50.0, 100) == pytest.approx(np.diff(measured, axis=1).std(), rel=0.02)
    assert tolerance(3, accuracy=50.0, images=100) == sampling_error(50.0, 100)
    assert tolerance(3, accuracy=100.0, images=3) > tolerance(3, accuracy=100.0, images=1000) > 0


def spread_out(by: Callable[[float], float]) -> pd.DataFrame:
    """Supervised runs on 1% of the labels whose standard deviation over seeds is a function of the width."""

    def accuracy(stage: Stage) -> float:
        width = stage.chain[0].network.width  # type: ignore[attr-defined]
        return 50 + (stage.seed - 1) * by(width)  # over seeds 0, 1, 2

    runs = synthetic.runs(accuracy)
    return runs[(runs["stage"] == "supervised") & (runs["fraction"] == 0.01)]


def test_other_seeds_are_judged_by_the_larger_of_a_cells_own_and_the_pooled_spread() -> None:
    runs = spread_out({0.5: 0.0, 1.0: 3.0, 2.0: 6.0}.__getitem__)
    others = runs.assign(seed=runs["seed"] + 3, pretrain_seed=runs["pretrain_seed"] + 3)
    pooled = ((0 + 9 + 36) / 3) ** 0.5
    expected = [4.5 * spread * (2 / 3) ** 0.5 for spread in (pooled, pooled, 6.0)]
    assert compare(others, runs)["tolerance"].tolist() == pytest.approx(expected)


def test_of_other_seeds_runs_on_one_pretraining_are_one_repetition_of_it(runs: pd.DataFrame) -> None:
    reference = runs[runs["stage"] == "finetune"]
    own = reference.assign(seed=reference["seed"] + 3)
    whole = compare(own.assign(pretrain_seed=own["seed"]), reference)
    part = compare(own.assign(pretrain_seed=3), reference)
    assert (set(whole["own_seeds"]), set(part["own_seeds"])) == ({3}, {1})
    assert part["own"].tolist() == pytest.approx(whole["own"].tolist())
    above = part["tolerance"] > sampling_error(50.0, 1000)
    wider = part["tolerance"] / whole["tolerance"]
    assert wider[above].tolist() == pytest.approx([2**0.5] * above.sum())  # sqrt((1 + 1/3) / (2/3))


def test_on_the_same_pretraining_every_seed_of_labels_counts(runs: pd.DataFrame) -> None:
    """Its luck is in both runs of a pair, and in no difference."""
    shared = runs[runs["pretrain_seed"].eq(0) & runs["stage"].isin(["finetune", "pretrain"])]
    crossed = [shared[shared["stage"] == "finetune"].assign(seed=seed) for seed in (0, 1, 2)]
    reference = pd.concat([*crossed, shared[shared["stage"] == "pretrain"]], ignore_index=True)
    compared = compare(moved(reference, 4.0, reference["stage"].eq("finetune")), reference)
    assert set(compared["pairs"]) == {3}
    assert set(compared["reference_seeds"]) == {1}
    assert set(compared["verdict"]) == {DIFFERS}
