"""The lab's grid in a table: what was measured along each setting while the others are the preset's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clrkit.results.ablation import summary
from clrkit.config import Stage
from clrkit.results.records import records_to_frame, seeds_named
from clrkit.experiments.grid import Preset
from clrkit.runs.store import Run, Store, of_reference
from clrkit.experiments.ablation_settings import OUTCOMES, FACTORS, depends, run_at, text_of
from clrkit.results.table import Table, value

REMARK = "Top-1 accuracy in %, mean ± standard error over {}; all other settings as in the preset."


def ablation_runs_found(preset: Preset, store: Store) -> dict[Stage, Run]:
    """The finished runs behind the table: of each the own one, else the reference's."""
    wanted = [run for place in along(preset) for run in runs_at(preset, *place)]
    found = ((config, store.find(config) or store.reference.find(config)) for config in wanted)
    return {config: run for config, run in found if run}


def along(preset: Preset) -> Iterator[tuple[str, str, Any]]:
    """Setting, outcome and value of every place along an axis of the preset's grid."""
    for name in FACTORS:
        for outcome in OUTCOMES:
            crosses = [cross for cross in preset.grid.ablations if outcome in cross.outcomes]
            values = {each for cross in crosses for each in cross.settings.get(name, ())}
            if depends(outcome, name):
                yield from ((name, outcome, each) for each in sorted(values))


def runs_at(preset: Preset, name: str, outcome: str, each: Any) -> list[Stage]:
    """The runs of a place, each once; none where the head has no such layer."""
    runs = (run_at(preset, outcome, {name: each}, seed) for seed in preset.grid.seeds)
    return list(dict.fromkeys(run for run in runs if run))


def ablation_table(preset: Preset, runs: Mapping[Stage, Run]) -> Table | None:
    """A row for each setting and outcome with two values or more recorded; None where there is no row."""
    rows: dict[tuple[str, str], list[tuple[Any, Run]]] = {}
    for name, outcome, each in along(preset):
        recorded = [(each, runs[config]) for config in runs_at(preset, name, outcome, each) if config in runs]
        rows.setdefault((name, outcome), []).extend(recorded)
    texts = [
        [FACTORS[name].name, OUTCOMES[outcome], in_words(name, points)]
        for (name, outcome), points in rows.items()
        if len({each for each, _ in points}) > 1
    ]
    columns = ["setting", "measured", "accuracy at each value"]
    seeds = seeds_named(records_to_frame((run.record for run in runs.values()), preset))
    remark = REMARK.format(seeds) + whose({of_reference(run) for run in runs.values()})
    return Table("ablations", "Ablations", remark, columns, texts) if texts else None


def whose(of_references: set[bool]) -> str:
    """Where the runs are from, unless all are own ones."""
    if of_references == {True}:
        return " From the committed reference."
    return " Own runs, and where there is none the committed reference's." if True in of_references else ""


def in_words(name: str, points: list[tuple[Any, Run]]) -> str:
    cells = summary(points).itertuples(index=False)
    return "; ".join(
        f"at {text_of(name, each)} {value(mean, error)}{' (1 seed)' if seeds == 1 else ''}"
        for each, mean, error, seeds in cells
    )
