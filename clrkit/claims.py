"""The paper's claims, checked over seeds: supported, not supported or undecided, with the numbers.

Every effect is a difference within a seed (`clrkit.contrasts`), then the mean over seeds and its standard
error. The rules:

- "beats": supported if the effect exceeds two standard errors, not supported if it is below minus two.
- "equals or beats": not supported if the effect is below minus two standard errors, a loss that is no
  accident; otherwise supported if a loss of one percentage point is excluded, that is if the effect less
  two standard errors is above minus one.
- Anything else is undecided, and so is everything over fewer than three seeds. Where all seeds agree to the
  last image the standard error is zero, and one test image takes the place of two standard errors.

Where seeds share a pretraining, its own luck is in none of their differences. A comparison between different
pretrainings, or of one with none, then counts pretrainings: the differences on each are averaged first, and
fewer than three pretrainings decide nothing. One between runs that build on the same pretraining counts
seeds, and holds given that pretraining, as its numbers say.

Two standard errors over three seeds are a weak test: no effect at all passes it one time in eleven. A claim
of several parts is supported if all parts are, not supported if one is not, else undecided; it shows the
numbers of the part that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd

from clrkit import contrasts
from clrkit.cells import memory_networks
from clrkit.contrasts import POINTS, Contrast
from clrkit.frames import MissingRecords, comparable, fraction_name, pretraining_seeds
from clrkit.table import decimal

SEEDS_NEEDED = 3
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, or a part of one, and what the runs say of it.

    Attributes:
        claim: C1 to C6 are the paper's, C0 is that pretraining helps at all; a part is called C4a@1%.
        verdict: supported, not supported or undecided.
        effect: mean over seeds of the paired difference, in `unit`; None without runs.
        stderr: standard error of the effect over seeds; None with fewer than two.
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
    stderr: float | None = None
    seeds: int = 0
    unit: str = POINTS
    margin: float = 0.0
    detail: str

    @property
    def is_part(self) -> bool:
        return len(self.claim) > 2


@dataclass(frozen=True)
class Question:
    """A part of a claim: its name, what is asked, and the contrast that answers it."""

    claim: str
    statement: str
    contrast: Callable[[pd.DataFrame], Contrast]


def judge(effect: float, stderr: float | None, seeds: int, margin: float, image: float) -> str:
    """The verdict by the rules above; `image` is the effect of one test image."""
    if seeds < SEEDS_NEEDED or stderr is None:
        return UNDECIDED
    noise = 2 * stderr if stderr > 1e-9 else image
    if effect < -noise:
        return NOT_SUPPORTED
    return SUPPORTED if effect - noise > -margin else UNDECIDED


def answer(question: Question, runs: pd.DataFrame, source: str) -> Claim:
    """The part with its numbers, or undecided, saying which runs are missing."""
    say = partial(Claim, claim=question.claim, statement=question.statement, source=source)
    try:
        contrast = question.contrast(runs)
    except MissingRecords as reason:
        return say(detail=str(reason))
    differences = (contrast.high - contrast.low).dropna()
    if differences.empty:
        return say(detail=f"No seed has both runs {contrast.high_name} and {contrast.low_name}.")
    built_on = pretraining_seeds(runs).reindex(differences.index)
    counted = differences if contrast.one_pretraining else differences.groupby(built_on).mean()
    seeds, effect = len(counted), float(counted.to_numpy().mean())
    stderr = float(counted.to_numpy().std(ddof=1) / seeds**0.5) if seeds > 1 else None
    return say(
        verdict=judge(effect, stderr, seeds, contrast.margin, 100 / int(runs["evaluation"].iloc[0])),
        effect=effect,
        stderr=stderr,
        seeds=seeds,
        unit=contrast.unit,
        margin=contrast.margin,
        detail=describe(contrast, built_on, effect, stderr),
    )


def describe(contrast: Contrast, built_on: pd.Series[int], effect: float, stderr: float | None) -> str:
    """Both sides, their difference and its error over seeds, `built_on` pretrainings, in a sentence."""
    high, low = contrast.high[built_on.index].mean(), contrast.low[built_on.index].mean()
    digits = 2 if contrast.unit == "correlation" else 1
    spread = "" if stderr is None else f" ± {decimal(stderr, digits)}"
    # Adding zero turns a rounded -0.0 into 0.0.
    rounded = round(round(effect, 9), digits) + 0.0
    sides = f"{contrast.high_name} {decimal(high, digits)}, {contrast.low_name} {decimal(low, digits)}"
    return f"{sides}: {rounded:+.{digits}f}{spread} {contrast.unit} over {repetitions(contrast, built_on)}."


def repetitions(contrast: Contrast, built_on: pd.Series[int]) -> str:
    """How many seeds a contrast is over, what they share, and whether they are too few."""
    seeds, number = len(built_on), built_on.nunique()
    words = "1 seed" if seeds == 1 else f"{seeds} seeds"
    shared = number < seeds or (built_on != built_on.index).any()
    if shared:
        given = "given" if contrast.one_pretraining else "on"
        words += f" {given} {'one pretraining' if number == 1 else f'{number} pretrainings'}"
    counted, unit = (number, " pretrainings") if shared and not contrast.one_pretraining else (seeds, "")
    return words + (f"; fewer than {SEEDS_NEEDED}{unit} decide nothing" if counted < SEEDS_NEEDED else "")


def evaluate(runs: pd.DataFrame) -> list[Claim]:
    """Every claim, each followed by its parts, from a frame of runs (`clrkit.frames.frame`)."""
    claims = []
    for claim, statement, source, questions in CLAIMS:
        parts = [answer(question, runs, source) for question in questions(runs)]
        claims += [conclude(claim, statement, source, parts), *parts]
    return claims


def conclude(claim: str, statement: str, source: str, parts: Sequence[Claim]) -> Claim:
    """The claim as a whole: the conjunction of its parts, with the numbers of the part that decides."""
    say = partial(Claim, claim=claim, statement=statement, source=source)
    if not parts:
        return say(detail="No runs that bear on it are recorded.")
    verdicts = [part.verdict for part in parts]
    verdict = next((each for each in (NOT_SUPPORTED, UNDECIDED) if each in verdicts), SUPPORTED)
    deciding = [part for part in parts if part.verdict == verdict]
    weakest = min([part for part in deciding if part.effect is not None] or deciding, key=strength)
    others = [part.claim for part in deciding if part is not weakest]
    same = f" ({verdict} too: {', '.join(others)})" if others and verdict != SUPPORTED else ""
    counted = f"{verdicts.count(SUPPORTED)} of {len(parts)} parts supported"
    return say(
        verdict=verdict,
        effect=weakest.effect,
        stderr=weakest.stderr,
        seeds=weakest.seeds,
        unit=weakest.unit,
        margin=weakest.margin,
        detail=f"{counted}; {weakest.claim} decides{same}: {weakest.detail}",
    )


def strength(part: Claim) -> float:
    """Distance of the effect from what would refute it, in standard errors."""
    return ((part.effect or 0.0) + part.margin) / max(part.stderr or 0.0, 1e-9)


def fractions(runs: pd.DataFrame, stage: str) -> list[float]:
    """Label fractions of a stage, rising."""
    shown = comparable(runs)
    return sorted(shown.loc[shown["stage"] == stage, "fraction"].unique()) if len(shown) else []


def at_each(
    claim: str, statement: str, contrast: Callable[[pd.DataFrame, float], Contrast], shares: Sequence[float]
) -> list[Question]:
    """The same question at each label fraction."""
    return [
        Question(
            f"{claim}@{fraction_name(share)}",
            f"{statement}, with {fraction_name(share)} of the labels",
            bind(contrast, share),
        )
        for share in shares
    ]


def bind(
    contrast: Callable[[pd.DataFrame, float], Contrast], share: float
) -> Callable[[pd.DataFrame], Contrast]:
    return lambda runs: contrast(runs, share)


def pretraining_questions(runs: pd.DataFrame) -> list[Question]:
    few = [share for share in fractions(runs, "finetune") if share < 1]
    return at_each("C0", "Fine-tuned beats supervised", contrasts.pretraining_helps, few)


def gain_questions(runs: pd.DataFrame) -> list[Question]:
    shares = fractions(runs, "finetune")
    return [
        Question(
            f"C1@{fraction_name(fewer)}",
            f"The largest network gains more with {fraction_name(fewer)} than with {fraction_name(more)}",
            partial(contrasts.gain_falls, fewer=fewer, more=more),
        )
        for fewer, more in pairwise(shares)
    ]


def size_questions(runs: pd.DataFrame) -> list[Question]:
    shares = fractions(runs, "finetune")
    linear = "The largest network beats the smallest under linear evaluation"
    return [
        *at_each("C2a", "The largest network beats the smallest", contrasts.bigger_is_better, shares),
        Question("C2b", linear, contrasts.bigger_probes_better),
    ]


def head_questions(runs: pd.DataFrame) -> list[Question]:
    least = fractions(runs, "finetune")[:1]
    deeper = "A deeper head pretrains better, each fine-tuned from its best layer"
    shrinks = "Layer 1 gains less over the encoder's output in the largest network than in the smallest"
    return [
        *at_each("C3a", deeper, contrasts.deeper_head, least),
        *at_each("C3b", "The head's layer 1 beats the encoder's output", contrasts.first_layer, least),
        *at_each("C3c", shrinks, contrasts.first_layer_gain_shrinks, least),
    ]


def distillation_questions(runs: pd.DataFrame) -> list[Question]:
    shares = fractions(runs, "distill")
    close = "A small student gets more than half-way from its own fine-tuning to its teacher"
    term = "Distillation alone equals or beats distillation with the label term"
    return [
        *at_each("C4a", "Distilling beats training on labels", contrasts.distilling_beats_labels, shares),
        *at_each("C4b", term, contrasts.label_term_adds_nothing, shares),
        *at_each("C4c", "Self-distilled equals or beats its teacher", contrasts.self_distilling, shares),
        *at_each("C4d", close, contrasts.student_comes_close, shares),
    ]


def linear_questions(runs: pd.DataFrame) -> list[Question]:
    statement = "Linear and fine-tuned accuracy rise together over encoders"
    return at_each("C5", statement, contrasts.go_together, fractions(runs, "finetune"))


def memory_questions(runs: pd.DataFrame) -> list[Question]:
    """Helping a little is no loss and a gain below a point: the paper's R50 goes from 71.1% to 71.7%."""
    harmless = "Linear evaluation with a memory equals or beats that without"
    little = f"A memory gains less than {contrasts.EQUAL_MARGIN:g} point of linear accuracy"
    kinds = (("C6a", harmless, contrasts.remembering), ("C6b", little, contrasts.remembering_gains_little))
    return [
        Question(f"{part}@{network}", f"{statement}, {network}", partial(contrast, network=network))
        for part, statement, contrast in kinds
        for network in memory_networks(runs)
    ]


CLAIMS: tuple[tuple[str, str, str, Callable[[pd.DataFrame], list[Question]]], ...] = (
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
