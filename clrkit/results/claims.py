"""The paper's claims, tested over seeds: supported, not supported or undecided, with the numbers.

Each part of a claim compares two accuracies within a seed, so both sides share the weights and the label
draw. The 95% interval of the difference (Student's t over seeds) decides:

- "beats": supported if the whole interval is above 0, not supported if it is below 0.
- "equals or beats": the same about -1, as a loss of one percentage point still counts as equal.
- Otherwise undecided, and always with fewer than three seeds. If all seeds agree to the last image the
  interval has no width; one test image then takes the place of its half.

Where seeds share a pretraining, its luck is in none of their differences. A comparison between different
pretrainings, or of one with none, then counts pretrainings: differences on the same one are averaged first,
and fewer than three pretrainings decide nothing. A comparison of runs on the same pretraining counts seeds
and holds for that pretraining only, as its numbers say.

A claim of several parts is supported if every part is. This needs no correction: the claim is no likelier to
pass by chance than its weakest part (an intersection-union test). It is not supported if one part is refuted
after Holm's correction over the parts, which keeps the chance of a wrong "not supported" at 2.5% for any
number of parts; the verdict of a single part is not corrected. Parts that the paper does not claim are
"reported" and decide nothing. The claim shows the numbers of the part that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from clrkit.experiments.grid import Preset
from clrkit.results.records import (
    NAN,
    SIZE,
    MissingRunsError,
    distilled,
    finetuned,
    fraction_name,
    network_name,
    only,
    pick,
    pretraining_seeds,
    probed,
    standard_head,
)
from clrkit.results.statistics import (
    LABELS_ONLY,
    SEEDS_NEEDED,
    TARGETS,
    WITH_MEMORY,
    WITHOUT_MEMORY,
    ablation_network,
    best_layers,
    by_seed,
    head_cells,
    holm,
    mean_and_half_width,
    p_below,
    targets,
)
from clrkit.results.text import decimal

LEVEL = 0.025  # of a refutation: one side of a 95% interval
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
REPORTED = "reported"
POINTS = "percentage points"
EQUAL_MARGIN = 1.0
ENCODERS_NEEDED = 5  # three or four points in any common order correlate almost perfectly
MIXED, DISTILLED = TARGETS[2][0], TARGETS[3][0]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, or a part of one, with its verdict and numbers.

    Attributes:
        claim: C1 to C6 are the paper's, C0 is that pretraining helps at all; a part is called C4a@1%.
        verdict: supported, not supported or undecided; reported for a part that decides nothing.
        effect: mean paired difference in `unit`; None without runs.
        half_width: of the effect's 95% interval (Student's t); None with fewer than two seeds.
        p_refuted: one-sided p-value against "at least -margin"; None with too few seeds.
        seeds: the number of seeds, or of pretrainings where these are compared.
        margin: the loss that still counts as equal; 0 for "beats".
        detail: the numbers in a sentence.
        source: where the paper makes the claim.
    """

    claim: str
    statement: str
    source: str
    verdict: str = UNDECIDED
    effect: float | None = None
    half_width: float | None = None
    p_refuted: float | None = None
    seeds: int = 0
    unit: str = POINTS
    margin: float = 0.0
    detail: str

    @property
    def is_part(self) -> bool:
        """Whether this is a part of a claim."""
        return len(self.claim) > 2


@dataclass(frozen=True)
class PairedComparison:
    """Two series of accuracies indexed by seed; the first is claimed to be higher.

    Attributes:
        margin: the loss that still counts as equal; 0 for "beats".
        one_pretraining: whether both sides of a seed build on the same pretraining.
        decides: whether there is enough to decide on; otherwise the numbers are only reported.
        note: what a reader of the numbers should know.
    """

    high: pd.Series[float]
    low: pd.Series[float]
    high_name: str
    low_name: str
    unit: str = POINTS
    margin: float = 0.0
    one_pretraining: bool = False
    decides: bool = True
    note: str = ""


# Comparisons of runs at a label fraction. Each raises MissingRunsError if a side is missing.


def paired(
    high: pd.DataFrame, low: pd.DataFrame, high_name: str, low_name: str, **rule: Any
) -> PairedComparison:
    """Compare means over all networks (columns) that both sides have, in seeds that have them all."""
    shared = high.columns.intersection(low.columns)
    if shared.empty:
        raise MissingRunsError(f"No network has both runs {high_name} and {low_name}.")
    first, second = (side[shared].dropna().mean(axis=1) for side in (high, low))
    return PairedComparison(first, second, high_name, low_name, **rule)


def extremes(top1: pd.DataFrame, preset: Preset) -> PairedComparison:
    """Compare the preset's largest network with its smallest; `top1` has a column a network."""
    small, large = (network_name(preset.grid.networks[place]) for place in (0, -1))
    if small == large:
        raise MissingRunsError(f"Runs of two networks or more are needed; the preset has only {small}.")
    by_name = top1.droplevel("parameters", axis=1)
    for name in (small, large):
        if name not in by_name.columns:
            raise MissingRunsError(f"Such runs of {name} are not recorded.")
    return PairedComparison(by_name[large], by_name[small], large, small)


def tuned_at(runs: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Accuracy of the standard fine-tuned runs: a row a seed, a column a network."""
    return by_seed(only(finetuned(runs), fraction=fraction), SIZE)


def pretraining_helps(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare fine-tuning after pretraining with training on the labels alone."""
    alone = by_seed(pick(runs, "supervised", fraction=fraction), SIZE)
    return paired(tuned_at(runs, fraction), alone, "fine-tuned", "supervised")


def whole_budget(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare fine-tuning with supervised training on as many images as pretraining and fine-tuning use."""
    alone = by_seed(pick(runs, "supervised", fraction=fraction, whole_budget=True), SIZE)
    return paired(tuned_at(runs, fraction), alone, "fine-tuned", "supervised for the whole budget")


def gain_falls(runs: pd.DataFrame, preset: Preset, fewer: float) -> PairedComparison:
    """Compare the largest network's gain (%) over the smallest with that at the next larger fraction."""
    more = dict(pairwise(fractions(preset)))[fewer]
    few, many = (extremes(tuned_at(runs, fraction), preset) for fraction in (fewer, more))
    gain, later = (100 * (each.high / each.low - 1) for each in (few, many))
    first = f"gain (%) of {few.high_name} over {few.low_name} at {fraction_name(fewer)}"
    return PairedComparison(gain, later, first, f"at {fraction_name(more)}", f"{POINTS} of relative gain")


def bigger_is_better(runs: pd.DataFrame, preset: Preset, fraction: float) -> PairedComparison:
    """Compare the largest network with the smallest, fine-tuned."""
    return extremes(tuned_at(runs, fraction), preset)


def bigger_probes_better(runs: pd.DataFrame, preset: Preset, _: float) -> PairedComparison:
    """Compare the largest network with the smallest under linear evaluation."""
    return extremes(by_seed(probed(runs), SIZE), preset)


def deeper_head(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare the standard head with the next shallower one, each fine-tuned from its best layer."""
    cells, depth = only(head_cells(runs), fraction=fraction), standard_head(runs)
    best = best_layers(cells).set_index("head_layers")["tap_layer"]
    shallower = max((head for head in best.index if head < depth), default=None)
    if shallower is None or depth not in best.index:
        raise MissingRunsError(f"No fine-tuned runs on heads of {depth} and of fewer layers are recorded.")
    tuned, heads = (
        pick(runs, "finetune", network=ablation_network(runs), fraction=fraction),
        (depth, shallower),
    )
    deep, shallow = (by_seed(only(tuned, head_layers=head, tap_layer=best[head]), SIZE) for head in heads)
    name, other = (f"{head}-layer head from its layer {best[head]}" for head in heads)
    return paired(deep, shallow, name, other)


def from_layer(runs: pd.DataFrame, fraction: float, layer: int) -> pd.DataFrame:
    """Accuracy fine-tuned from a layer of the standard head."""
    tuned = pick(runs, "finetune", fraction=fraction, head_layers=standard_head(runs), tap_layer=layer)
    return by_seed(tuned, SIZE)


def first_layer(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare fine-tuning from the head's layer 1 with that from the encoder's output."""
    first, output = (from_layer(runs, fraction, layer) for layer in (1, 0))
    return paired(first, output, "from the head's layer 1", "from the encoder's output", one_pretraining=True)


def first_layer_gain_shrinks(runs: pd.DataFrame, preset: Preset, fraction: float) -> PairedComparison:
    """Compare the gain of layer 1 over the encoder's output in the smallest network with the largest's."""
    gain = from_layer(runs, fraction, 1) - from_layer(runs, fraction, 0)
    both = extremes(gain.dropna(axis=1, how="all"), preset)
    return PairedComparison(both.low, both.high, f"layer 1's gain in {both.low_name}", f"in {both.high_name}")


def between_targets(
    runs: pd.DataFrame, fraction: float, high: str, low: str, **rule: Any
) -> PairedComparison:
    """Compare two rows of the paper's Table 2."""
    names = (high, low)
    first, second = (by_seed(only(targets(runs), fraction=fraction, target=name), SIZE) for name in names)
    return paired(first, second, high, low, **rule)


def distilling_beats_labels(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare the small student distilled on all images with its training on the labels."""
    return between_targets(runs, fraction, DISTILLED, LABELS_ONLY)


def label_term_adds_nothing(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare distillation alone (Eq. 2) with distillation with the label term (Eq. 3)."""
    return between_targets(runs, fraction, DISTILLED, MIXED, margin=EQUAL_MARGIN, one_pretraining=True)


def students(runs: pd.DataFrame, kind: str, fraction: float, value: str) -> pd.DataFrame:
    """A value of the students of fine-tuned teachers: a row a seed, a column a student and teacher."""
    taught = only(distilled(runs), kind=kind, fraction=fraction, self_temperature=0.0)
    return by_seed(taught, [*SIZE, "teacher"], value)


def self_distilling(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare a network distilled into itself with its teacher."""
    student, teacher = (students(runs, "self", fraction, value) for value in ("top1", "teacher_top1"))
    # Random streams are named by the seed, not by the stage (`clrkit.training.seed_of`).
    note = "The student starts from the random weights that its teacher's pretraining started from."
    rule: dict[str, Any] = {"margin": EQUAL_MARGIN, "one_pretraining": True, "note": note}
    return paired(student, teacher, "self-distilled", "its teacher", **rule)


def student_comes_close(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare the small student with the middle between its own network fine-tuned and its teacher.

    Half-way is our bound: the paper says that a student comes close, without a number.
    """
    student, teacher = (students(runs, "big-to-small", fraction, name) for name in ("top1", "teacher_top1"))
    own = tuned_at(runs, fraction)
    middle = {
        column: (teacher[column] + own[column[:2]]) / 2
        for column in teacher.columns.to_list()
        if column[:2] in own.columns
    }
    return paired(student, pd.DataFrame(middle), "small student", "half-way from fine-tuning to its teacher")


def linear_and_tuned_rise_together(runs: pd.DataFrame, _: Preset, fraction: float) -> PairedComparison:
    """Compare the correlation of linear and fine-tuned accuracy over encoders, within each seed, with 0."""
    encoder = [*SIZE, "head_layers"]
    linear = by_seed(pick(runs, "probe"), encoder)
    tuned = by_seed(only(finetuned(runs, any_head=True), fraction=fraction), encoder)
    shared = linear.columns.intersection(tuned.columns)
    if len(shared) < 3:
        raise MissingRunsError(f"A correlation needs three encoders or more; there are {len(shared)}.")
    related = linear[shared].corrwith(tuned[shared], axis=1)
    name, enough = f"correlation over {len(shared)} encoders", len(shared) >= ENCODERS_NEEDED
    return PairedComparison(related, 0 * related, name, "none", "correlation", decides=enough)


def memory_is_harmless(runs: pd.DataFrame, preset: Preset, _: float) -> PairedComparison:
    """Compare linear accuracy with a memory with that without, in the preset's network for it."""
    network = memory_network(preset)
    sides = (probed(runs, memory=memory, network=network) for memory in (True, False))
    having, lacking = (by_seed(side, SIZE) for side in sides)
    return paired(having, lacking, WITH_MEMORY, WITHOUT_MEMORY, margin=EQUAL_MARGIN)


def memory_gains_little(runs: pd.DataFrame, preset: Preset, _: float) -> PairedComparison:
    """Compare linear accuracy without a memory plus the margin that counts as equal with that with one."""
    both = memory_is_harmless(runs, preset, NAN)
    bound = f"{WITHOUT_MEMORY}, {EQUAL_MARGIN:g} point added,"
    return PairedComparison(both.low + EQUAL_MARGIN, both.high, bound, WITH_MEMORY)


def fractions(preset: Preset) -> list[float]:
    """The preset's label fractions, rising."""
    return [schedule.fraction for schedule in preset.grid.labelled]


def memory_network(preset: Preset) -> str:
    """The network that is pretrained with and without a memory."""
    return network_name(preset.grid.memory_network or preset.grid.networks[-1])


Place = tuple[str, str, float]  # a suffix for a part's name, one for its statement, and the label fraction


def places(preset: Preset) -> dict[str, list[Place]]:
    """Where a preset's comparisons are made, by the names in the table below."""
    shares, network = fractions(preset), memory_network(preset)
    names = list(map(fraction_name, shares))
    every = [
        (f"@{name}", f", with {name} of the labels", share) for name, share in zip(names, shares, strict=True)
    ]
    few = [place for place in every if place[2] < 1]
    neighbours = [
        (f"@{fewer}", f" with {fewer} than with {more}", share)
        for (fewer, more), share in zip(pairwise(names), shares, strict=False)
    ]
    return {
        "every fraction": every,
        "few labels": few,
        "few labels, if trained for the whole budget": few if preset.grid.whole_budget else [],
        "least labels": every[:1],
        "distilled fractions": every[:-1],
        "neighbouring fractions": neighbours,
        "once": [("", "", NAN)],
        "the network with a memory": [(f"@{network}", f", {network}", NAN)]
        if preset.grid.memory_size
        else [],
    }


# The table of claims


@dataclass(frozen=True)
class Part:
    """A part of the claim that its name begins with: what it states, the comparison, and where it is made.

    `decides` is false for a part that the paper does not claim.
    """

    name: str
    statement: str
    compare: Callable[[pd.DataFrame, Preset, float], PairedComparison]
    places: str
    decides: bool = True


CLAIMS = {
    "C0": ("With few labels, fine-tuning after pretraining beats supervised training", "Table 1, Fig. 4"),
    "C1": ("The fewer the labels, the more a bigger network gains", "Fig. 1"),
    "C2": (
        "Bigger networks are better at every label fraction, fine-tuned and under linear evaluation",
        "Fig. 4, Table 1",
    ),
    "C3": (
        "A deeper head pretrains better, and fine-tuning from its first layer helps when labels are few",
        "Fig. 5, appendix E",
    ),
    "C4": (
        "Distilling on unlabelled images beats training on the labels and improves the teacher",
        "Table 2, Fig. 6",
    ),
    "C5": ("Linear-evaluation accuracy and fine-tuned accuracy go together", "appendix"),
    "C6": ("A memory (MoCo) helps little at a large batch", "appendix D"),
}
LONGER = "Fine-tuned beats supervised training on as many images as pretraining and fine-tuning draw"
LARGER = "The largest network beats the smallest"
DEEPER = "A deeper head pretrains better, each fine-tuned from its best layer"
SHRINKS = "Layer 1 gains less over the encoder's output in the largest network than in the smallest"
TERM = "Distillation alone equals or beats distillation with the label term"
CLOSE = "A small student gets more than half-way from its own fine-tuning to its teacher"
TOGETHER = "Linear and fine-tuned accuracy rise together over encoders"
HARMLESS = "Linear evaluation with a memory equals or beats that without"
LITTLE = f"A memory gains less than {EQUAL_MARGIN:g} point of linear accuracy"  # the paper's R50 gains 0.6
PARTS = (
    Part("C0a", "Fine-tuned beats supervised", pretraining_helps, "few labels"),
    Part("C0b", LONGER, whole_budget, "few labels, if trained for the whole budget", decides=False),
    Part("C1", "The largest network gains more", gain_falls, "neighbouring fractions"),
    Part("C2a", LARGER, bigger_is_better, "every fraction"),
    Part("C2b", f"{LARGER} under linear evaluation", bigger_probes_better, "once"),
    Part("C3a", DEEPER, deeper_head, "least labels"),
    Part("C3b", "The head's layer 1 beats the encoder's output", first_layer, "least labels"),
    Part("C3c", SHRINKS, first_layer_gain_shrinks, "least labels"),
    Part("C4a", "Distilling beats training on labels", distilling_beats_labels, "distilled fractions"),
    Part("C4b", TERM, label_term_adds_nothing, "distilled fractions"),
    Part("C4c", "Self-distilled equals or beats its teacher", self_distilling, "distilled fractions"),
    Part("C4d", CLOSE, student_comes_close, "distilled fractions", decides=False),
    Part("C5", TOGETHER, linear_and_tuned_rise_together, "every fraction"),
    Part("C6a", HARMLESS, memory_is_harmless, "the network with a memory"),
    Part("C6b", LITTLE, memory_gains_little, "the network with a memory"),
)

# Verdicts


def evaluate(runs: pd.DataFrame, preset: Preset) -> list[Claim]:
    """Every claim, each followed by its parts; a part says which of its runs are missing.

    Args:
        runs: from `clrkit.results.records.records_to_frame`.
    """
    claims = []
    for claim, (statement, source) in CLAIMS.items():
        parts = [
            evaluate_part(row, place, source, runs, preset)
            for row in PARTS
            if row.name.startswith(claim)
            for place in places(preset)[row.places]
        ]
        claims += [conclude(claim, statement, source, parts), *parts]
    return claims


def evaluate_part(row: Part, place: Place, source: str, runs: pd.DataFrame, preset: Preset) -> Claim:
    """A part at a place with its verdict and numbers, or the missing runs."""
    suffix, words, fraction = place
    unknown = UNDECIDED if row.decides else REPORTED
    statement = row.statement + words
    part = Claim(claim=row.name + suffix, statement=statement, source=source, verdict=unknown, detail="")
    try:
        compared = row.compare(runs, preset, fraction)
    except MissingRunsError as reason:
        return replace(part, detail=str(reason))
    differences = (compared.high - compared.low).dropna()
    if differences.empty:
        names = f"{compared.high_name} and {compared.low_name}"
        return replace(part, detail=f"No seed has both runs {names}.")
    built_on = pretraining_seeds(runs).reindex(differences.index)
    counted = differences if compared.one_pretraining else differences.groupby(built_on).mean()
    image = 100 / int(runs["evaluation"].iloc[0])
    effect, half_width, p_refuted = estimate(counted.to_numpy(), compared.margin, image)
    verdict = judge(effect, half_width, len(counted), compared.margin)
    return replace(
        part,
        verdict=verdict if row.decides and compared.decides else REPORTED,
        effect=effect,
        half_width=half_width,
        p_refuted=p_refuted if len(counted) >= SEEDS_NEEDED else None,
        seeds=len(counted),
        unit=compared.unit,
        margin=compared.margin,
        detail=numbers(compared, built_on, effect, half_width),
    )


def judge(effect: float, half_width: float | None, seeds: int, margin: float) -> str:
    """The verdict on an effect and half of its 95% interval, by the rules above."""
    if seeds < SEEDS_NEEDED or half_width is None:
        return UNDECIDED
    if effect - half_width > -margin:
        return SUPPORTED
    return NOT_SUPPORTED if effect + half_width < -margin else UNDECIDED


def estimate(
    differences: np.ndarray, margin: float, image: float
) -> tuple[float, float | None, float | None]:
    """Mean, half of its 95% interval, and p-value against "at least -margin"; None for one difference.

    Args:
        image: the effect of one test image, which replaces an interval without width.
    """
    if len(differences) < 2:
        return float(differences.mean()), None, None
    effect, half_width = mean_and_half_width(differences)
    if np.ptp(differences) > 1e-9:
        return effect, half_width, p_below(differences, -margin)
    return effect, image, float(effect + image >= -margin)


def numbers(
    compared: PairedComparison, built_on: pd.Series[int], effect: float, half_width: float | None
) -> str:
    """Both sides, their difference and its interval over seeds, in a sentence."""
    digits = 2 if compared.unit == "correlation" else 1
    high, low = (decimal(side[built_on.index].mean(), digits) for side in (compared.high, compared.low))
    interval = "" if half_width is None else f" ± {decimal(half_width, digits)}"
    rounded = round(round(effect, 9), digits) + 0.0  # adding zero turns -0.0 into 0.0
    sides = f"{compared.high_name} {high}, {compared.low_name} {low}"
    gain = f"{rounded:+.{digits}f}{interval} {compared.unit} over {repetitions(compared, built_on)}."
    return f"{sides}: {gain} {compared.note}".rstrip()


def repetitions(compared: PairedComparison, built_on: pd.Series[int]) -> str:
    """The number of seeds, the pretrainings they share, and whether they are too few."""
    seeds, number = len(built_on), built_on.nunique()
    words = "1 seed" if seeds == 1 else f"{seeds} seeds"
    shared = number < seeds or (built_on != built_on.index).any()
    if shared:
        given = "given" if compared.one_pretraining else "on"
        words += f" {given} {'one pretraining' if number == 1 else f'{number} pretrainings'}"
    counted, unit = (number, " pretrainings") if shared and not compared.one_pretraining else (seeds, "")
    return words + (f"; fewer than {SEEDS_NEEDED}{unit} decide nothing" if counted < SEEDS_NEEDED else "")


def conclude(claim: str, statement: str, source: str, parts: Sequence[Claim]) -> Claim:
    """The claim as a whole, with the numbers of the part that decides."""
    deciding = [part for part in parts if part.verdict != REPORTED]
    if not any(part.effect is not None for part in deciding):
        nothing = "No runs that bear on it are recorded."
        return Claim(claim=claim, statement=statement, source=source, detail=nothing)
    verdict = whole_verdict(deciding)
    of_weight = [part for part in deciding if verdict == SUPPORTED or part.verdict != SUPPORTED]
    tested = [part for part in of_weight if part.p_refuted is not None]
    weakest = min(tested or of_weight, key=lambda part: part.p_refuted or 0.0)
    count = f"{sum(part.verdict == SUPPORTED for part in deciding)} of {len(deciding)} parts supported"
    detail = f"{count}; {weakest.claim} decides: {weakest.detail}"
    return replace(weakest, claim=claim, statement=statement, verdict=verdict, detail=detail)


def whole_verdict(parts: Sequence[Claim]) -> str:
    """Supported if every part is; not supported if one part is refuted after Holm's correction."""
    if all(part.verdict == SUPPORTED for part in parts):
        return SUPPORTED
    tested = [part.p_refuted for part in parts if part.p_refuted is not None]
    return NOT_SUPPORTED if tested and min(holm(tested)) <= LEVEL else UNDECIDED


def to_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The claims as plain JSON values, one object each."""
    return [asdict(claim) for claim in claims]


def to_text(claims: Sequence[Claim]) -> str:
    """The claims for a terminal, with parts indented below their claim."""
    lines = []
    for each in claims:
        if each.is_part:
            lines.append(f"    {each.claim:<8} {each.verdict:<14} {each.statement}.\n{' ' * 28}{each.detail}")
            continue
        lines.append(f"{each.claim}  {each.verdict.upper():<14} {each.statement} ({each.source}).")
        if not any(part.is_part and part.claim.startswith(each.claim) for part in claims):
            lines.append(f"    {each.detail}")
    return "\n".join(lines)
