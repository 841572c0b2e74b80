"""The comparisons behind the claims: two accuracies by seed, the first claimed to be the higher.

Both sides share the seed, and so the weights and the label draw; `clrkit.results.claims` judges the difference. Every
function raises MissingRunsError where one side was not run. `sizes` are the preset's smallest and largest
network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from clrkit.results.cells import (
    LABELS_ONLY,
    TARGETS,
    WITH_MEMORY,
    WITHOUT_MEMORY,
    ablation_network,
    best_layers,
    head_cells,
    targets,
)
from clrkit.results.records import (
    SIZE,
    MissingRunsError,
    by_seed,
    distilled,
    finetuned,
    fraction_name,
    only,
    pick,
    probed,
    standard_head,
)

POINTS = "percentage points"
EQUAL_MARGIN = 1.0
ENCODERS_NEEDED = 5  # three or four points in any common order correlate almost perfectly
Sizes = tuple[str, str]
MIXED, DISTILLED = TARGETS[2][0], TARGETS[3][0]


@dataclass(frozen=True)
class PairedComparison:
    """Two series indexed by seed and what they are.

    Attributes:
        margin: the loss that still counts as equal; 0 for "beats".
        one_pretraining: whether in a seed both sides build on the same pretrainings, and differ after them.
        decides: whether there is enough to decide on; else the numbers are reported and nothing more.
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

    @property
    def or_equal(self) -> PairedComparison:
        """The contrast for a claim of "equals or beats"."""
        return replace(self, margin=EQUAL_MARGIN)

    @property
    def after_pretraining(self) -> PairedComparison:
        """The contrast where both sides build on the same pretrainings."""
        return replace(self, one_pretraining=True)


def paired(high: pd.DataFrame, low: pd.DataFrame, high_name: str, low_name: str) -> PairedComparison:
    """Contrast of means over all networks (columns) that both have, in seeds that have them all."""
    shared = high.columns.intersection(low.columns)
    if shared.empty:
        raise MissingRunsError(f"No network has both runs {high_name} and {low_name}.")
    sides = [side[shared].dropna().mean(axis=1) for side in (high, low)]
    return PairedComparison(sides[0], sides[1], high_name, low_name)


def extremes(top1: pd.DataFrame, sizes: Sizes) -> PairedComparison:
    """The largest against the smallest network; `top1` has a column a network."""
    small, large = sizes
    if small == large:
        raise MissingRunsError(f"Runs of two networks or more are needed; the preset has only {small}.")
    by_name = top1.droplevel("parameters", axis=1)
    for name in sizes:
        if name not in by_name.columns:
            raise MissingRunsError(f"Such runs of {name} are not recorded.")
    return PairedComparison(by_name[large], by_name[small], large, small)


def tuned_at(runs: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Accuracy of the standard fine-tuned runs: a row a seed, a column a network."""
    return by_seed(only(finetuned(runs), fraction=fraction), SIZE)


def pretraining_helps(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """Fine-tuning after pretraining, against the labels alone."""
    alone = by_seed(pick(runs, "supervised", fraction=fraction), SIZE)
    return paired(tuned_at(runs, fraction), alone, "fine-tuned", "supervised")


def whole_budget(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """Fine-tuning after pretraining, against training on the labels for as many images as both drew.

    The paper makes no such comparison.
    """
    alone = by_seed(pick(runs, "supervised", fraction=fraction, whole_budget=True), SIZE)
    return paired(tuned_at(runs, fraction), alone, "fine-tuned", "supervised for the whole budget")


def gain_falls(runs: pd.DataFrame, sizes: Sizes, fewer: float, more: float) -> PairedComparison:
    """The largest network's gain (%) over the smallest, with fewer against more labels."""
    both = [extremes(tuned_at(runs, fraction), sizes) for fraction in (fewer, more)]
    few, many = (100 * (each.high / each.low - 1) for each in both)
    first = f"gain (%) of {sizes[1]} over {sizes[0]} at {fraction_name(fewer)}"
    return PairedComparison(few, many, first, f"at {fraction_name(more)}", f"{POINTS} of relative gain")


def bigger_is_better(runs: pd.DataFrame, fraction: float, sizes: Sizes) -> PairedComparison:
    """The largest network fine-tuned, against the smallest."""
    return extremes(tuned_at(runs, fraction), sizes)


def bigger_probes_better(runs: pd.DataFrame, sizes: Sizes) -> PairedComparison:
    """The largest network under linear evaluation, against the smallest."""
    return extremes(by_seed(probed(runs), SIZE), sizes)


def deeper_head(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """The standard head against the next shallower one, each fine-tuned from its best layer."""
    cells, depth = only(head_cells(runs), fraction=fraction), standard_head(runs)
    best = best_layers(cells).set_index("head_layers")["tap_layer"]
    shallower = max((head for head in best.index if head < depth), default=None)
    if shallower is None or depth not in best.index:
        raise MissingRunsError(f"No fine-tuned runs on heads of {depth} and of fewer layers are recorded.")
    tuned = pick(runs, "finetune", network=ablation_network(runs), fraction=fraction)
    deep, shallow = (
        by_seed(only(tuned, head_layers=head, tap_layer=best[head]), SIZE) for head in (depth, shallower)
    )
    return paired(
        deep,
        shallow,
        f"{depth}-layer head from its layer {best[depth]}",
        f"{shallower}-layer head from its layer {best[shallower]}",
    )


def from_layer(runs: pd.DataFrame, fraction: float, layer: int) -> pd.DataFrame:
    tuned = pick(runs, "finetune", fraction=fraction, head_layers=standard_head(runs), tap_layer=layer)
    return by_seed(tuned, SIZE)


def first_layer(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """Fine-tuning from layer 1 of the head, against from the encoder's output."""
    first, output = (from_layer(runs, fraction, layer) for layer in (1, 0))
    return paired(first, output, "from the head's layer 1", "from the encoder's output").after_pretraining


def first_layer_gain_shrinks(runs: pd.DataFrame, fraction: float, sizes: Sizes) -> PairedComparison:
    """What layer 1 gains over the encoder's output in the smallest network, against the largest."""
    gain = from_layer(runs, fraction, 1) - from_layer(runs, fraction, 0)
    both = extremes(gain.dropna(axis=1, how="all"), sizes)
    return PairedComparison(both.low, both.high, f"layer 1's gain in {both.low_name}", f"in {both.high_name}")


def target_at(runs: pd.DataFrame, fraction: float, target: str) -> pd.DataFrame:
    return by_seed(only(targets(runs), fraction=fraction, target=target), SIZE)


def distilling_beats_labels(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """The small student distilled on all images, against its training on the labels."""
    learnt, labels = (target_at(runs, fraction, target) for target in (DISTILLED, LABELS_ONLY))
    return paired(learnt, labels, DISTILLED, LABELS_ONLY)


def label_term_adds_nothing(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """Distillation alone (Eq. 2), against that with the label term (Eq. 3)."""
    without, term = (target_at(runs, fraction, target) for target in (DISTILLED, MIXED))
    return paired(without, term, DISTILLED, MIXED).or_equal.after_pretraining


def students(runs: pd.DataFrame, kind: str, fraction: float, value: str) -> pd.DataFrame:
    """A value of the students of fine-tuned teachers: a row a seed, a column a student and teacher."""
    taught = only(distilled(runs), kind=kind, fraction=fraction, self_temperature=0.0)
    return by_seed(taught, [*SIZE, "teacher"], value)


def self_distilling(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """A network distilled into itself, against its teacher."""
    student, teacher = (students(runs, "self", fraction, value) for value in ("top1", "teacher_top1"))
    contrast = paired(student, teacher, "self-distilled", "its teacher").or_equal.after_pretraining
    # Random streams are named by the seed, not by the stage (`clrkit.training.seed_of`).
    note = "The student starts from the random weights that its teacher's pretraining started from."
    return replace(contrast, note=note)


def student_comes_close(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """The small student against the middle between its own network fine-tuned and its teacher.

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


def remembering(runs: pd.DataFrame, network: str) -> PairedComparison:
    """A network's linear accuracy with a memory against that without."""
    sides = (probed(runs, memory=memory, network=network) for memory in (True, False))
    having, lacking = (by_seed(side, SIZE) for side in sides)
    return paired(having, lacking, WITH_MEMORY, WITHOUT_MEMORY).or_equal


def remembering_gains_little(runs: pd.DataFrame, network: str) -> PairedComparison:
    """What is reached without a memory, with the margin that counts as equal on top, against a memory."""
    both = remembering(runs, network)
    bound = f"{WITHOUT_MEMORY}, {EQUAL_MARGIN:g} point added,"
    return PairedComparison(both.low + EQUAL_MARGIN, both.high, bound, WITH_MEMORY)


def go_together(runs: pd.DataFrame, fraction: float) -> PairedComparison:
    """Correlation of linear and fine-tuned accuracy over encoders, within each seed, against none.

    Over fewer than ENCODERS_NEEDED encoders it decides nothing.
    """
    encoder = [*SIZE, "head_layers"]
    linear = by_seed(pick(runs, "probe"), encoder)
    tuned = by_seed(only(finetuned(runs, any_head=True), fraction=fraction), encoder)
    shared = linear.columns.intersection(tuned.columns)
    if len(shared) < 3:
        raise MissingRunsError(f"A correlation needs three encoders or more; there are {len(shared)}.")
    related = linear[shared].corrwith(tuned[shared], axis=1)
    name = f"correlation over {len(shared)} encoders"
    enough = len(shared) >= ENCODERS_NEEDED
    return PairedComparison(related, 0 * related, name, "none", "correlation", decides=enough)
