"""The table of a sweep, and its comparison with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import sqrt
from statistics import fmean, stdev

from clrkit.config import Augmentation, Data
from clrkit.experiments.describe import aligned
from clrkit.experiments.fields import from_dict, stage_class
from clrkit.experiments.presets import preset
from clrkit.results.comparison import NOT_RUN, compare, summary_line
from clrkit.results.records import records_to_frame
from clrkit.results.tables import cells_table
from clrkit.results.text import decimal
from clrkit.runs.store import Run, Store
from clrkit.runs.timing import runs_in

# What rows are compared by, the first of these that all runs have: heading, scale, decimals.
METRICS = {"top1": ("top-1, %", 100, 1), "knn": ("kNN, %", 100, 1), "loss": ("loss", 1, 3)}
# Fields that change what the contrastive loss measures: its scale, its negatives, its views.
LOSS_OF = {"temperature", "summed_views", "batch_size", "micro_batch", "two_pass", "memory", "memory_size"}
LOSS_OF |= {item.name for kind in (Augmentation, Data) for item in fields(kind)}


def sweep_table(made: Sequence[tuple[Mapping[str, str], Run]]) -> list[str]:
    """The results as lines: a row for each setting of the varied fields, averaged over seeds."""
    metric = next(name for name in METRICS if all(name in run.metrics for _, run in made))
    heading, scale, decimals = METRICS[metric]
    varied = [name for name in made[0][0] if name != "seed" and len({point[name] for point, _ in made}) > 1]
    values: dict[tuple[str, ...], list[float]] = {}
    for settings, run in made:
        row = tuple(settings[name] for name in varied)
        values.setdefault(row, []).append(scale * run.metrics[metric])
    rows = [(*row, spread(found, decimals), str(len(found))) for row, found in values.items()]
    remark = f"{len(made)} runs; {heading} is a mean ± its standard error over seeds."
    incomparable = incomparable_losses(varied) if metric == "loss" else ""
    return [f"{remark}{incomparable}", "", *aligned([(*varied, heading, "seeds"), *rows])]


def incomparable_losses(varied: Sequence[str]) -> str:
    """Why losses do not show which setting is better; "" if the varied fields leave them comparable."""
    others = [name for name in varied if name.rpartition(".")[2] in LOSS_OF]
    if not others:
        return ""
    names = " or ".join(others)
    return f" Losses at different {names} cannot be compared, and these runs have no accuracy."


def beside_reference(runs: Sequence[Run], store: Store) -> list[str]:
    """Compare the runs with the reference runs of the same settings, as lines; none without such runs.

    Damaged reference runs are left out.
    """
    reference = list(runs_in(store.reference))
    if not reference:
        return []
    records, chosen = [run.record for run in runs], preset(store.preset)
    made = [from_dict(stage_class(record["stage"]), record["config"]) for record in records]
    built_on = store.find_all(list(dict.fromkeys(link for stage in made for link in stage.chain)))
    cells = compare(
        *(records_to_frame((run.record for run in side), chosen) for side in (built_on, reference))
    )
    cells = cells[(cells["verdict"] != NOT_RUN) & (cells["stage"] == records[0]["stage"])]
    if cells.empty:
        return []
    shown = cells_table(cells)
    return ["", *aligned([shown.columns, *shown.rows]), "", summary_line(cells)]


def spread(values: Sequence[float], decimals: int) -> str:
    """A mean, with its standard error if there are several values."""
    mean = decimal(fmean(values), decimals)
    return f"{mean} ± {decimal(stdev(values) / sqrt(len(values)), decimals)}" if len(values) > 1 else mean
