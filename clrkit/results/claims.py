"""The paper's claims, checked over seeds: supported, not supported or undecided, with the numbers.

Every effect is a difference within a seed (`clrkit.results.contrasts`). Its 95% interval is Student's t over seeds,
and one rule judges it:

- "beats": supported if the whole interval is above 0, not supported if the whole interval is below 0.
- "equals or beats": the same about -1, since a loss of one percentage point still counts as equal.
- Anything else is undecided, and so is everything over fewer than three seeds. Where all seeds agree to the
  last image the interval has no width, and one test image takes the place of its half.

Where seeds share a pretraining, the luck of that pretraining is in none of their differences. A comparison
between different pretrainings, or of one with none, then counts pretrainings: the differences on each are
averaged first, and fewer than three pretrainings decide nothing. A comparison between runs that build on the
same pretraining counts seeds, and holds given that pretraining, as its numbers say.

A claim of several parts is supported if every part is. That needs no correction: the claim is no likelier to
pass by chance than its weakest part (an intersection-union test). It is not supported if one part is refuted
after Holm's correction over the parts, which keeps the chance of a wrong "not supported" at 2.5% however many
parts there are; a single part's verdict is not corrected. Parts that are ours and not the paper's are
"reported" and decide nothing. The claim shows the numbers of the part that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from clrkit.results import contrasts
from clrkit.results.contrasts import POINTS, PairedComparison
from clrkit.results.records import MissingRunsError, fraction_name, network_name, pretraining_seeds
from clrkit.experiments.grid import Preset
from clrkit.results.statistics import holm, mean_and_half_width, p_below
from clrkit.results.table import decimal

SEEDS_NEEDED = 3
LEVEL = 0.025  # of a refutation: one side of a 95% interval
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
REPORTED = "reported"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, or a part of one, and what the runs say of it.

    Attributes:
        claim: C1 to C6 are the paper's, C0 is that pretraining helps at all; a part is called C4a@1%.
        verdict: supported, not supported, undecided; reported for a part that decides nothing.
        effect: mean over seeds of the paired difference, in `unit`; None without runs.
        half_width: of the effect's 95% interval over seeds (Student's t); None with fewer than two.
        p_refuted: one-sided p-value against "at least -margin"; None where too few seeds were run.
        seeds: how many seeds the effect is computed over: of pretraining, where pretrainings are compared.
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
        return len(self.claim) > 2


@dataclass(frozen=True)
class Question:
    """A part of a claim: its name, what is asked, and the contrast that answers it.

    `decides` is whether the paper makes it; else its numbers are reported and decide nothing.
    """

    claim: str
    statement: str
    contrast: Callable[[pd.DataFrame], PairedComparison]
    decides: bool = True


def judge(effect: float, half_width: float | None, seeds: int, margin: float) -> str:
    """The verdict by the rules above, on an effect and half of its 95% interval."""
    if seeds < SEEDS_NEEDED or half_width is None:
        return UNDECIDED
    if effect - half_width > -margin:
        return SUPPORTED
    return NOT_SUPPORTED if effect + half_width < -margin else UNDECIDED


def answer(question: Question, runs: pd.DataFrame, source: str) -> Claim:
    """The part with its numbers, or undecided, saying which runs are missing."""
    say = partial(Claim, claim=question.claim, statement=question.statement, source=source)
    unheard = UNDECIDED if question.decides else REPORTED
    try:
        contrast = question.contrast(runs)
    except MissingRunsError as reason:
        return say(verdict=unheard, detail=str(reason))
    differences = (contrast.high - contrast.low).dropna()
    if differences.empty:
        missing = f"No seed has both runs {contrast.high_name} and {contrast.low_name}."
        return say(verdict=unheard, detail=missing)
    built_on = pretraining_seeds(runs).reindex(differences.index)
    counted = differences if contrast.one_pretraining else differences.groupby(built_on).mean()
    effect, half_width, p_refuted = estimate(
        counted.to_numpy(), contrast.margin, 100 / int(runs["evaluation"].iloc[0])
    )
    verdict = judge(effect, half_width, len(counted), contrast.margin)
    return say(
        verdict=verdict if question.decides and contrast.decides else REPORTED,
        effect=effect,
        half_width=half_width,
        p_refuted=p_refuted if len(counted) >= SEEDS_NEEDED else None,
        seeds=len(counted),
        unit=contrast.unit,
        margin=contrast.margin,
        detail=describe(contrast, built_on, effect, half_width),
    )


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


def describe(contrast: PairedComparison, built_on: pd.Series[int], effect: float, half_width: float | None) -> str:
    """Both sides, their difference and its interval over seeds, `built_on` pretrainings, in a sentence."""
    high, low = contrast.high[built_on.index].mean(), contrast.low[built_on.index].mean()
    digits = 2 if contrast.unit == "correlation" else 1
    spread = "" if half_width is None else f" ± {decimal(half_width, digits)}"
    # Adding zero turns a rounded -0.0 into 0.0.
    rounded = round(round(effect, 9), digits) + 0.0
    sides = f"{contrast.high_name} {decimal(high, digits)}, {contrast.low_name} {decimal(low, digits)}"
    numbers = (
        f"{sides}: {rounded:+.{digits}f}{spread} {contrast.unit} over {repetitions(contrast, built_on)}."
    )
    return f"{numbers} {contrast.note}".rstrip()


def repetitions(contrast: PairedComparison, built_on: pd.Series[int]) -> str:
    """How many seeds a contrast is over, what they share, and whether they are too few."""
    seeds, number = len(built_on), built_on.nunique()
    words = "1 seed" if seeds == 1 else f"{seeds} seeds"
    shared = number < seeds or (built_on != built_on.index).any()
    if shared:
        given = "given" if contrast.one_pretraining else "on"
        words += f" {given} {'one pretraining' if number == 1 else f'{number} pretrainings'}"
    counted, unit = (number, " pretrainings") if shared and not contrast.one_pretraining else (seeds, "")
    return words + (f"; fewer than {SEEDS_NEEDED}{unit} decide nothing" if counted < SEEDS_NEEDED else "")


def evaluate(runs: pd.DataFrame, preset: Preset) -> list[Claim]:
    """Every claim, each followed by its parts: what the preset asks, answered from its runs.

    Args:
        runs: from `clrkit.results.records.records_to_frame`; where some are missing, the parts that need them say so.
    """
    claims = []
    for claim, statement, source, questions in CLAIMS:
        parts = [answer(question, runs, source) for question in questions(preset)]
        claims += [conclude(claim, statement, source, parts), *parts]
    return claims


def conclude(claim: str, statement: str, source: str, parts: Sequence[Claim]) -> Claim:
    """The claim as a whole, with the numbers of the part that decides."""
    say = partial(Claim, claim=claim, statement=statement, source=source)
    deciding = [part for part in parts if part.verdict != REPORTED]
    if not any(part.effect is not None for part in deciding):
        return say(detail="No runs that bear on it are recorded.")
    verdict = whole_verdict(deciding)
    of_weight = [part for part in deciding if verdict == SUPPORTED or part.verdict != SUPPORTED]
    tested = [part for part in of_weight if part.p_refuted is not None]
    weakest = min(tested or of_weight, key=lambda part: part.p_refuted or 0.0)
    count = f"{sum(part.verdict == SUPPORTED for part in deciding)} of {len(deciding)} parts supported"
    return say(
        verdict=verdict,
        effect=weakest.effect,
        half_width=weakest.half_width,
        p_refuted=weakest.p_refuted,
        seeds=weakest.seeds,
        unit=weakest.unit,
        margin=weakest.margin,
        detail=f"{count}; {weakest.claim} decides: {weakest.detail}",
    )


def whole_verdict(parts: Sequence[Claim]) -> str:
    """Supported if every part is; not supported if one part is refuted after Holm's correction."""
    if all(part.verdict == SUPPORTED for part in parts):
        return SUPPORTED
    tested = [part.p_refuted for part in parts if part.p_refuted is not None]
    return NOT_SUPPORTED if tested and min(holm(tested)) <= LEVEL else UNDECIDED


def fractions(preset: Preset) -> list[float]:
    """The preset's label fractions, rising."""
    return [labelling.fraction for labelling in preset.grid.labelled]


def sizes(preset: Preset) -> contrasts.Sizes:
    """Names of the preset's smallest and largest network."""
    small, large = (network_name(asdict(preset.grid.networks[place])) for place in (0, -1))
    return small, large


def at_each(
    claim: str,
    statement: str,
    contrast: Callable[..., PairedComparison],
    shares: Sequence[float],
    decides: bool = True,
    **settings: Any,
) -> list[Question]:
    """The same question at each label fraction."""
    return [
        Question(
            f"{claim}@{fraction_name(share)}",
            f"{statement}, with {fraction_name(share)} of the labels",
            partial(contrast, fraction=share, **settings),
            decides,
        )
        for share in shares
    ]


def pretraining_questions(preset: Preset) -> list[Question]:
    few = [share for share in fractions(preset) if share < 1]
    longer = "Fine-tuned beats supervised training on as many images as pretraining and fine-tuning draw"
    return [
        *at_each("C0a", "Fine-tuned beats supervised", contrasts.pretraining_helps, few),
        *at_each("C0b", longer, contrasts.whole_budget, few if preset.grid.whole_budget else [], False),
    ]


def gain_questions(preset: Preset) -> list[Question]:
    return [
        Question(
            f"C1@{fraction_name(fewer)}",
            f"The largest network gains more with {fraction_name(fewer)} than with {fraction_name(more)}",
            partial(contrasts.gain_falls, sizes=sizes(preset), fewer=fewer, more=more),
        )
        for fewer, more in pairwise(fractions(preset))
    ]


def size_questions(preset: Preset) -> list[Question]:
    larger = "The largest network beats the smallest"
    ends = sizes(preset)
    return [
        *at_each("C2a", larger, contrasts.bigger_is_better, fractions(preset), sizes=ends),
        Question(
            "C2b", f"{larger} under linear evaluation", partial(contrasts.bigger_probes_better, sizes=ends)
        ),
    ]


def head_questions(preset: Preset) -> list[Question]:
    least = fractions(preset)[:1]
    deeper = "A deeper head pretrains better, each fine-tuned from its best layer"
    shrinks = "Layer 1 gains less over the encoder's output in the largest network than in the smallest"
    return [
        *at_each("C3a", deeper, contrasts.deeper_head, least),
        *at_each("C3b", "The head's layer 1 beats the encoder's output", contrasts.first_layer, least),
        *at_each("C3c", shrinks, contrasts.first_layer_gain_shrinks, least, sizes=sizes(preset)),
    ]


def distillation_questions(preset: Preset) -> list[Question]:
    shares = fractions(preset)[:-1]
    close = "A small student gets more than half-way from its own fine-tuning to its teacher"
    term = "Distillation alone equals or beats distillation with the label term"
    return [
        *at_each("C4a", "Distilling beats training on labels", contrasts.distilling_beats_labels, shares),
        *at_each("C4b", term, contrasts.label_term_adds_nothing, shares),
        *at_each("C4c", "Self-distilled equals or beats its teacher", contrasts.self_distilling, shares),
        *at_each("C4d", close, contrasts.student_comes_close, shares, False),
    ]


def linear_questions(preset: Preset) -> list[Question]:
    statement = "Linear and fine-tuned accuracy rise together over encoders"
    return at_each("C5", statement, contrasts.go_together, fractions(preset))


def memory_questions(preset: Preset) -> list[Question]:
    """Helping a little is no loss and a gain below a point: the paper's R50 goes from 71.1% to 71.7%."""
    if not preset.grid.memory_size:
        return []
    network = network_name(asdict(preset.grid.memory_network or preset.grid.networks[-1]))
    harmless = "Linear evaluation with a memory equals or beats that without"
    little = f"A memory gains less than {contrasts.EQUAL_MARGIN:g} point of linear accuracy"
    kinds = (("C6a", harmless, contrasts.remembering), ("C6b", little, contrasts.remembering_gains_little))
    return [
        Question(f"{part}@{network}", f"{statement}, {network}", partial(contrast, network=network))
        for part, statement, contrast in kinds
    ]


CLAIMS: tuple[tuple[str, str, str, Callable[[Preset], list[Question]]], ...] = (
    (
        "C0",
        "With few labels, fine-tuning after pretraining beats supervised training",
        "Table 1, Fig. 4",
        pretraining_questions,
    ),
    ("C1", "The fewer the labels, the more a bigger network gains", "Fig. 1", gain_questions),
    (
        "C2",
        "Bigger networks are better at every label fraction, fine-tuned and under linear evaluation",
        "Fig. 4, Table 1",
        size_questions,
    ),
    (
        "C3",
        "A deeper head pretrains better, and fine-tuning from its first layer helps when labels are few",
        "Fig. 5, appendix E",
        head_questions,
    ),
    (
        "C4",
        "Distilling on unlabelled images beats training on the labels and improves the teacher",
        "Table 2, Fig. 6",
        distillation_questions,
    ),
    ("C5", "Linear-evaluation accuracy and fine-tuned accuracy go together", "appendix", linear_questions),
    ("C6", "A memory (MoCo) helps little at a large batch", "appendix D", memory_questions),
)


def to_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The claims as plain JSON values, one object each."""
    return [asdict(claim) for claim in claims]


def to_text(claims: Sequence[Claim]) -> str:
    """The claims for a terminal, parts indented below their claim."""
    lines = []
    for each in claims:
        if each.is_part:
            lines.append(f"    {each.claim:<8} {each.verdict:<14} {each.statement}.\n{' ' * 28}{each.detail}")
        else:
            lines.append(f"{each.claim}  {each.verdict.upper():<14} {each.statement} ({each.source}).")
            lines += (
                []
                if any(part.claim.startswith(each.claim) for part in claims if part.is_part)
                else [f"    {each.detail}"]
            )
    return "\n".join(lines)
