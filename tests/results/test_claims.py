import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clrkit.config import Distill, Finetune, Network, Pretrain, Probe, Stage, Supervised
from clrkit.experiments.fields import with_fields
from clrkit.results import claims
from clrkit.results import records as run_records
from clrkit.results.claims import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Claim, estimate, judge, whole_verdict
from clrkit.results.statistics import gain_cells
from clrkit.results.style import caption
from clrkit.results.tables import accuracy_table

OURS = {"C4d@1%", "C4d@10%", "C5@100%"}  # half-way is our bound; three encoders are too few


def verdicts(runs: pd.DataFrame) -> dict[str, Claim]:
    return {each.claim: each for each in claims.evaluate(runs, synthetic.PRESET)}


def shifted(change: Callable[[Stage], float]) -> pd.DataFrame:
    """The story's runs with accuracies changed."""
    return synthetic.runs(lambda stage: synthetic.noisy(stage) + change(stage))


@pytest.mark.parametrize(
    ("effect", "half_width", "verdict"),
    [
        (2.1, 2.0, SUPPORTED),
        (1.9, 2.0, UNDECIDED),
        (0.0, 0.0, UNDECIDED),
        (-1.9, 2.0, UNDECIDED),
        (-2.1, 2.0, NOT_SUPPORTED),
    ],
)
def test_an_effect_beats_where_its_interval_is_above_zero(
    effect: float, half_width: float, verdict: str
) -> None:
    assert judge(effect, half_width, seeds=3, margin=0.0) == verdict


@pytest.mark.parametrize(
    ("effect", "half_width", "verdict"),
    [
        (0.0, 0.9, SUPPORTED),
        (0.0, 1.1, UNDECIDED),  # a loss of a point is not excluded
        (-0.3, 0.6, SUPPORTED),
        (-0.3, 0.1, SUPPORTED),  # a loss for certain, and smaller than a point
        (-1.2, 0.3, UNDECIDED),
        (-1.2, 0.1, NOT_SUPPORTED),
    ],
)
def test_equal_or_better_is_judged_about_a_loss_of_a_point(
    effect: float, half_width: float, verdict: str
) -> None:
    assert judge(effect, half_width, seeds=3, margin=1.0) == verdict


@given(
    effect=st.floats(-5, 5),
    margin=st.sampled_from([0.0, 1.0]),
    widths=st.tuples(st.floats(0, 5), st.floats(0, 5)),
)
def test_a_sharper_interval_never_takes_a_verdict_back(
    effect: float, margin: float, widths: tuple[float, float]
) -> None:
    blunt, sharp = (judge(effect, width, 3, margin) for width in sorted(widths, reverse=True))
    assert blunt in (sharp, UNDECIDED)


def test_where_seeds_agree_to_the_last_image_one_image_is_the_error() -> None:
    for effect, verdict in ((0.2, SUPPORTED), (0.05, UNDECIDED), (-0.05, UNDECIDED), (-0.2, NOT_SUPPORTED)):
        mean, half_width, p_refuted = estimate(np.full(3, effect), margin=0.0, image=0.1)
        assert judge(mean, half_width, 3, 0.0) == verdict
        assert (p_refuted == 0.0) == (verdict == NOT_SUPPORTED)


def parts_of(differences: np.ndarray, margin: float = 0.0) -> list[Claim]:
    """Parts of a claim from differences, a row a part and a column a seed."""
    parts = []
    for place, row in enumerate(differences):
        effect, half_width, p_refuted = estimate(row, margin, image=0.1)
        verdict = judge(effect, half_width, len(row), margin)
        parts.append(
            Claim(
                claim=f"C9{place}",
                statement="",
                source="",
                detail="",
                verdict=verdict,
                effect=effect,
                half_width=half_width,
                p_refuted=p_refuted,
            )
        )
    return parts


def test_without_an_effect_a_claim_of_eight_parts_is_refuted_one_time_in_forty() -> None:
    draw, times = np.random.default_rng(0), 2000
    found = [whole_verdict(parts_of(draw.normal(size=(8, 3)))) for _ in range(times)]
    error = (claims.LEVEL * (1 - claims.LEVEL) / times) ** 0.5
    assert found.count(NOT_SUPPORTED) / times < claims.LEVEL + 3 * error
    assert found.count(SUPPORTED) == 0
    alone = [part.verdict for _ in range(300) for part in parts_of(draw.normal(size=(8, 3)))]
    assert alone.count(NOT_SUPPORTED) > 20  # single parts are not corrected: 2.5% of 2,400


def test_one_part_that_is_clearly_wrong_refutes_a_claim_of_many() -> None:
    good = np.array([[4.0, 5.0, 6.0]] * 7)
    assert whole_verdict(parts_of(good)) == SUPPORTED
    wrong = whole_verdict(parts_of(np.vstack([good, [-5.0, -5.1, -5.2]])))
    weak = whole_verdict(parts_of(np.vstack([good, [-1.0, -1.4, -1.9]])))
    assert (wrong, weak) == (NOT_SUPPORTED, UNDECIDED)


def test_what_is_not_the_papers_is_reported_and_decides_nothing() -> None:
    def change(stage: Stage) -> float:
        return -20.0 if isinstance(stage, Distill) and stage.network.width == 0.5 else 0.0

    found = verdicts(shifted(change))
    assert found["C4d@1%"].verdict == claims.REPORTED
    assert found["C4d@1%"].effect < 0
    only_three = found["C5@100%"]
    assert (only_three.verdict, only_three.detail[:26]) == (claims.REPORTED, "correlation over 3 encoder")
    assert found["C5"].verdict == SUPPORTED
    assert found["C5"].detail.startswith("2 of 2 parts supported")


@pytest.mark.slow
def test_fewer_than_three_seeds_decide_nothing() -> None:
    found = verdicts(synthetic.runs(seeds=[0, 1]))
    assert {each.verdict for each in found.values()} == {UNDECIDED, claims.REPORTED}
    assert found["C0a@1%"].seeds == 2
    assert "fewer than 3 decide nothing" in found["C0a@1%"].detail
    single = verdicts(synthetic.runs(seeds=[0]))["C0a@1%"]
    assert single.half_width is None
    assert single.effect is not None


def test_the_story_supports_every_claim_that_was_run() -> None:
    found = verdicts(synthetic.runs())
    assert {name for name, each in found.items() if each.verdict != SUPPORTED} - OURS == {"C3", "C3c@1%"}
    assert {name for name, each in found.items() if each.verdict == claims.REPORTED} == OURS
    assert found["C3c@1%"].detail == "Such runs of R8 2x are not recorded."


def test_an_effect_is_the_mean_paired_difference_and_its_standard_error() -> None:
    advantage = {0: 5.0, 1: 6.0, 2: 10.0}
    level = {0: 10.0, 1: 60.0, 2: 35.0}  # far more between seeds than the effect; pairing takes it out
    runs = synthetic.runs(
        lambda stage: level[stage.seed] + (advantage[stage.seed] if isinstance(stage, Finetune) else 0)
    )
    claim = verdicts(runs)["C0a@1%"]
    assert claim.effect == pytest.approx(7.0)
    interval = stats.t.interval(0.95, 2, 7.0, stats.sem([5, 6, 10]))
    assert claim.half_width == pytest.approx((interval[1] - interval[0]) / 2)
    assert (claim.seeds, claim.unit, claim.verdict) == (3, "percentage points", SUPPORTED)


def test_equal_effects_in_all_seeds_have_no_standard_error_and_decide() -> None:
    runs = synthetic.runs(lambda stage: 50.0 + 7.0 * isinstance(stage, Finetune) + stage.seed)
    claim = verdicts(runs)["C0a@10%"]
    assert (claim.effect, claim.half_width) == pytest.approx((7.0, 0.1))  # one image of 1,000
    assert claim.verdict == SUPPORTED


def test_supervised_ahead_refutes_pretraining_and_the_whole_claim() -> None:
    found = verdicts(
        shifted(lambda stage: 10.0 if isinstance(stage, Supervised) and stage.fraction == 0.1 else 0.0)
    )
    assert found["C0a@1%"].verdict == SUPPORTED
    assert found["C0a@10%"].verdict == found["C0"].verdict == NOT_SUPPORTED
    assert found["C0"].effect == found["C0a@10%"].effect


def test_gains_that_rise_with_labels_refute_c1() -> None:
    def change(stage: Stage) -> float:
        big = isinstance(stage, Finetune) and stage.pretrain.network.width == 2
        return 40.0 if big and stage.fraction == 0.1 else 0.0  # type: ignore[attr-defined]

    found = verdicts(shifted(change))
    assert found["C1@1%"].verdict == found["C1"].verdict == NOT_SUPPORTED
    assert found["C1@10%"].verdict == SUPPORTED


def test_a_gain_is_compared_in_percent_of_the_smaller_accuracy() -> None:
    top1 = {(0.01, 0.5): 40.0, (0.01, 2.0): 60.0, (0.1, 0.5): 80.0, (0.1, 2.0): 88.0}
    runs = synthetic.runs(
        lambda stage: top1.get((getattr(stage, "fraction", 0), stage.chain[0].network.width), 90.0)  # type: ignore[attr-defined]
    )
    claim = verdicts(runs)["C1@1%"]
    assert claim.effect == pytest.approx(50.0 - 10.0)
    assert claim.unit == "percentage points of relative gain"


def test_the_deeper_head_starts_from_its_best_layer() -> None:
    contrast = claims.deeper_head(synthetic.runs(synthetic.expected), synthetic.PRESET, 0.01)
    assert contrast.high_name == "3-layer head from its layer 1"
    assert contrast.low_name == "2-layer head from its layer 1"
    assert (contrast.high - contrast.low).tolist() == pytest.approx([6.0] * 3)


def test_the_gain_of_layer_1_is_compared_between_networks_that_have_it() -> None:
    extra = [
        synthetic.record(synthetic.tuned(seed, 2.0, 0.01, tap_layer=0), lambda stage: 70.0)
        for seed in synthetic.SEEDS
    ]
    runs = synthetic.records_to_frame([*synthetic.records(), *extra])
    claim = verdicts(runs)["C3c@1%"]
    small, big = 24.0, synthetic.expected(synthetic.tuned(0, 2.0, 0.01)) - 70
    assert claim.effect == pytest.approx(small - big, abs=0.3)


def test_self_distilling_to_a_loss_is_not_equal() -> None:
    def change(stage: Stage) -> float:
        return -3.0 if isinstance(stage, Distill) and stage.network.width == 1 else 0.0

    found = verdicts(shifted(change))
    assert found["C4c@10%"].verdict == NOT_SUPPORTED
    assert "random weights that its teacher's pretraining started from" in found["C4c@10%"].detail
    assert found["C4a@10%"].verdict == SUPPORTED


def test_a_label_term_that_helps_refutes_that_it_adds_nothing() -> None:
    found = verdicts(shifted(lambda stage: 2.0 * (isinstance(stage, Distill) and stage.label_weight > 0)))
    assert found["C4b@1%"].verdict == found["C4"].verdict == NOT_SUPPORTED
    assert found["C4b@1%"].margin == 1.0


def test_a_student_is_compared_with_the_middle_between_its_own_tuning_and_the_teacher() -> None:
    contrast = claims.student_comes_close(synthetic.runs(synthetic.expected), synthetic.PRESET, 0.01)
    own, teacher = (synthetic.expected(synthetic.tuned(0, width, 0.01)) for width in (0.5, 2.0))
    assert contrast.low.tolist() == pytest.approx([(own + teacher) / 2] * 3)
    assert contrast.high.tolist() == pytest.approx([teacher] * 3)


@pytest.mark.slow
def test_correlation_is_over_encoders_within_a_seed() -> None:
    contrast = claims.linear_and_tuned_rise_together(synthetic.runs(), synthetic.PRESET, 0.01)
    assert contrast.high_name == "correlation over 5 encoders"
    assert (contrast.high > 0.9).all()
    reversed_ = shifted(lambda stage: -2 * synthetic.expected(stage) + 180 if isinstance(stage, Probe) else 0)
    assert verdicts(reversed_)["C5@1%"].verdict == NOT_SUPPORTED


def with_memory(gain: float) -> pd.DataFrame:
    """The story's runs, in which a memory gains other than it does."""
    return shifted(
        lambda stage: gain - synthetic.MEMORY if isinstance(stage, Probe) and stage.pretrain.memory else 0.0
    )


@pytest.mark.parametrize(
    ("gain", "harmless", "little"),
    [
        (0.6, SUPPORTED, SUPPORTED),  # the paper's R50
        (0.0, SUPPORTED, SUPPORTED),
        (-0.6, SUPPORTED, SUPPORTED),
        (-2.0, NOT_SUPPORTED, SUPPORTED),
        (1.0, SUPPORTED, UNDECIDED),
        (3.0, SUPPORTED, NOT_SUPPORTED),
    ],
)
def test_a_memory_helps_little_where_it_neither_harms_nor_gains_a_point(
    gain: float, harmless: str, little: str
) -> None:
    found = verdicts(with_memory(gain))
    first, second = found["C6a@R8 2x"], found["C6b@R8 2x"]
    assert (first.verdict, second.verdict) == (harmless, little)
    assert first.effect == pytest.approx(gain, abs=0.2)
    assert second.effect == pytest.approx(1 - gain, abs=0.2)
    assert first.seeds == second.seeds == 3


@pytest.mark.slow
def test_a_memory_is_judged_for_the_presets_network() -> None:
    runs = synthetic.runs()
    small = replace(synthetic.PRESET.grid, memory_network=Network(width=0.5))
    for grid, network in ((synthetic.PRESET.grid, "R8 2x"), (small, "R8 0.5x")):
        found = claims.evaluate(runs, replace(synthetic.PRESET, grid=grid))
        names = [each.claim for each in found if each.claim.startswith("C6")]
        assert names == ["C6", f"C6a@{network}", f"C6b@{network}"]


@pytest.mark.slow
def test_without_runs_of_a_memory_nothing_is_said_of_it() -> None:
    found = verdicts(run_records.comparable(synthetic.runs()))
    assert (found["C6"].verdict, found["C6"].effect) == (UNDECIDED, None)
    assert found["C6"].detail == "No runs that bear on it are recorded."
    assert "No runs with" in found["C6a@R8 2x"].detail


@pytest.mark.slow
def test_runs_of_a_memory_change_no_other_claim() -> None:
    plain, all_runs = verdicts(run_records.comparable(synthetic.runs())), verdicts(with_memory(-40.0))
    assert {name: each for name, each in all_runs.items() if name[:2] != "C6"} == {
        name: each for name, each in plain.items() if name[:2] != "C6"
    }


def test_seeds_that_lack_one_side_are_left_out() -> None:
    runs = synthetic.runs(seeds=[0, 1, 2, 3])
    runs = runs[~((runs["stage"] == "supervised") & (runs["seed"] == 3))]
    assert verdicts(runs)["C0a@1%"].seeds == 3


def test_no_runs_at_all_leave_everything_undecided() -> None:
    found = verdicts(synthetic.records_to_frame([]))
    assert {"C0", "C1", "C2", "C3", "C4", "C5", "C6"} <= set(found)
    assert {each.verdict for each in found.values()} == {UNDECIDED, claims.REPORTED}


def test_runs_of_two_settings_are_refused() -> None:
    colder = [
        synthetic.record(replace(stage, pretrain=replace(stage.pretrain, temperature=0.5)))
        for seed in synthetic.SEEDS
        for stage in synthetic.stages(seed)
        if isinstance(stage, Finetune)
    ]
    with pytest.raises(run_records.MixedRunsError, match="temperature"):
        claims.evaluate(synthetic.records_to_frame([*synthetic.records(), *colder]), synthetic.PRESET)


def test_claims_are_plain_json() -> None:
    rows: list[dict[str, Any]] = json.loads(
        json.dumps(claims.to_json(claims.evaluate(synthetic.runs(), synthetic.PRESET)))
    )
    assert all({"claim", "verdict", "effect", "half_width", "seeds"} <= set(row) for row in rows)
    assert [row["claim"] for row in rows if len(row["claim"]) == 2] == [f"C{place}" for place in range(7)]
    assert {row["verdict"] for row in rows} <= {SUPPORTED, NOT_SUPPORTED, UNDECIDED, claims.REPORTED}


@pytest.mark.slow
def test_the_text_shows_each_claim_above_its_parts() -> None:
    lines = claims.to_text(claims.evaluate(synthetic.runs(), synthetic.PRESET)).splitlines()
    assert lines[0].startswith("C0  SUPPORTED")
    assert lines[1].strip().startswith("C0a@1%")
    assert "percentage points over 3 seeds." in lines[2]
    one_network = replace(synthetic.PRESET, grid=replace(synthetic.PRESET.grid, memory_size=0))
    unheard = claims.to_text(claims.evaluate(synthetic.runs(), one_network)).splitlines()
    assert unheard[-1].strip() == "No runs that bear on it are recorded."


def on_pretrainings(shared: dict[int, int]) -> pd.DataFrame:
    """The story's runs, where seeds of labels build on the pretraining of a seed."""
    whole = [stage for seed in shared for stage in synthetic.stages(seed)]
    built = [
        with_fields(stage, {"pretrain.seed": shared[stage.seed]})
        if isinstance(stage, Finetune | Distill)
        else stage
        for stage in whole
        if shared[stage.seed] == stage.seed or not isinstance(stage, Pretrain | Probe)
    ]
    return synthetic.records_to_frame([synthetic.record(stage) for stage in built])


@pytest.fixture(scope="module")
def shared() -> pd.DataFrame:
    """The story's runs, one pretraining of each network."""
    return on_pretrainings({0: 0, 1: 0, 2: 0})


@pytest.fixture(scope="module")
def shared_verdicts(shared: pd.DataFrame) -> dict[str, Claim]:
    return verdicts(shared)


def test_between_pretrainings_one_of_each_decides_nothing_however_many_seeds_of_labels(
    shared_verdicts: dict[str, Claim],
) -> None:
    found = shared_verdicts
    few = " over 3 seeds on one pretraining; fewer than 3 pretrainings decide nothing."
    for part in ("C0a@1%", "C1@1%", "C2a@10%", "C3a@1%", "C4a@10%"):
        assert (found[part].verdict, found[part].seeds, found[part].half_width) == (UNDECIDED, 1, None)
        assert found[part].detail.endswith(f"{found[part].unit}{few}")
    assert found["C0a@1%"].effect == pytest.approx(44.0, abs=0.3)
    for part in ("C2b", "C5@1%", "C6a@R8 2x"):  # one linear evaluation of each network
        assert (found[part].verdict, found[part].seeds) == (UNDECIDED, 1)
    assert {name for name, each in found.items() if each.verdict == SUPPORTED and not each.is_part} == set()


def test_after_a_shared_pretraining_seeds_decide_given_that_one(shared_verdicts: dict[str, Claim]) -> None:
    for part in (shared_verdicts[name] for name in ("C3b@1%", "C4b@10%", "C4c@1%")):
        assert (part.verdict, part.seeds) == (SUPPORTED, 3)
        assert " over 3 seeds given one pretraining." in part.detail
    assert "given" not in "".join(each.detail for each in verdicts(synthetic.runs()).values())


@pytest.mark.slow
def test_shared_pretrainings_count_once_each_by_their_mean() -> None:
    advantage = {0: 3.0, 1: 5.0, 2: 7.0, 3: 9.0, 4: 20.0, 5: 40.0}
    runs = on_pretrainings({0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4})
    tuned = runs["stage"] == "finetune"
    claim = verdicts(runs.assign(top1=50.0 + runs["seed"].map(advantage) * tuned))["C0a@1%"]
    assert claim.effect == pytest.approx(pd.Series([4, 8, 30]).mean())
    assert claim.half_width == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem([4, 8, 30]))
    assert (claim.seeds, claim.verdict) == (3, UNDECIDED)
    assert claim.detail.endswith("over 6 seeds on 3 pretrainings.")


def test_seeds_that_share_a_pretraining_are_named_for_what_they_are(shared: pd.DataFrame) -> None:
    assert "mean of 3 seeds on one pretraining, ±" in caption(shared, "cifar10", gain_cells(shared))
    assert "over seeds on one pretraining." in accuracy_table(shared).remark
    assert "over seeds." in accuracy_table(synthetic.runs()).remark
    assert run_records.seeds_named(on_pretrainings({0: 0, 1: 0, 2: 2})) == "seeds on 2 pretrainings"
    tuned = shared[shared["stage"] == "finetune"]
    crossed = pd.concat([tuned.assign(pretrain_seed=seed) for seed in synthetic.SEEDS])
    assert run_records.seeds_named(crossed) == "seeds on 3 pretrainings"
