"""The page of plots: results/benchmarks/*.json to figures and README.md. Draws, and measures nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from benchmarks.timing import RESULTS
from clrkit.results.style import BLACK, BLUE, GREEN, ORANGE, ORDERED, PINK, RED, SKY, encode, new_figure, tint

Record = Mapping[str, Any]
Spread = Mapping[str, float]
COLORS = {"ours": RED, "whole": RED}
LIMITS, TICKS = ((0.2, 25), (120, 2000)), ((0.25, 1, 4, 16), (200, 500, 1000))  # of the plots of cost
PAPER = {"fc": "white", "ec": "none", "pad": 0.6}  # behind numbers
PEERS = ("lightly", "hand-written")
OTHERS = (BLUE, GREEN, ORANGE, PINK, SKY, BLACK)


def main() -> None:
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    sections = [
        "# Benchmarks",
        "Made by `make bench` from the records beside this page. Times and rates are taken beside each "
        "other in one run, contestants in turn, at least five rounds: bars are medians, whiskers the lowest "
        "and the highest round. Other figures are single measurements. Peers, and what is equal: the "
        "docstrings in `benchmarks/`.",
    ]
    for draw in SECTIONS:
        sections += draw(records)
    (RESULTS / "README.md").write_text("\n\n".join(sections) + "\n")
    print(f"{RESULTS / 'README.md'} and its figures are drawn from {len(records)} records.")


def keep(name: str, figure: Figure, alt: str) -> str:
    """Saves a figure; the Markdown that shows it."""
    (RESULTS / f"{name}.png").write_bytes(encode(figure, "png"))
    return f"![{alt}]({name}.png)"


def conditions(record: Record) -> str:
    """One line on the machine and the day."""
    machine = record["machine"]
    place = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    day, load = machine["date"][:10], machine.get("load_before")
    busy = "" if load is None else f", load before {load}"
    return f"{place}, {machine['cores']} cores, torch {machine['torch']}, {day}{busy}"


def rounded(value: float) -> str:
    """To three digits."""
    return f"{float(f'{value:.3g}'):,g}"


def said(spread: Spread) -> str:
    """A median with the extremes of its rounds."""
    median, low, high = (rounded(spread[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def beside(record: Record, name: str) -> str:
    """A contestant's time over ours; none where it did not finish."""
    return said(record["ratio_to"][name]) if name in record["ratio_to"] else ("1" if name == "ours" else "–")


def megabytes(extra: float | str) -> str:
    """Extra memory, or that there was not enough."""
    if not isinstance(extra, str):
        return f"{extra:g}"
    asked = re.search(r"allocate (\d+) bytes", extra)
    return f"failed: asked for {int(asked[1]) / 1e9:.0f} GB" if asked else extra


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def bars(axes: Axes, values: Mapping[str, Spread], label: str) -> None:
    """Horizontal bars of medians with their extremes, and the numbers beside them."""
    others = iter(OTHERS * len(values))
    for place, (name, spread) in enumerate(values.items()):
        color = COLORS.get(name) or next(others)
        middle = spread["median"]
        error = [[middle - spread["low"]], [spread["high"] - middle]]
        axes.barh(place, middle, 0.62, xerr=error, color=tint(color), edgecolor=color, ecolor="#222222")
        axes.annotate(
            f" {rounded(middle)}",
            (spread["high"], place),
            (3, 0),
            textcoords="offset points",
            va="center",
            bbox=PAPER,
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.margins(x=0.18)


def steps(records: Mapping[str, Record]) -> list[str]:
    """The whole pretraining step beside the peers."""
    found = {name: record for name, record in records.items() if name.startswith("step-")}
    if not found:
        return []
    parts, rows = ["## The pretraining step"], []
    for name, record in found.items():
        rates = record["images_per_second"]
        shown = {each: rates[each] for each in rates if each != "bare"}
        where = f"{record['preset']}, batch {record['batch_size']}, {record['image_size']} pixels"
        where += ", images of noise" if record["images"] == "noise" else ""
        with new_figure(
            f"Images a second of a whole step: {record['preset']}",
            conditions(record),
            height=2.6,
        ) as (
            figure,
            axes,
        ):
            bars(
                axes[0],
                {{"whole": "ours"}.get(each, each): rate for each, rate in shown.items()},
                f"images/s ({where})",
            )
        parts.append(keep(name, figure, f"Images a second by contestant, {where}"))
        ratios = [beside(record, peer) for peer in PEERS]
        rows.append([where, record["machine"]["device"], said(record["whole_over_bare"]), *ratios])
    peers = [f"times {peer} images/s" for peer in PEERS]
    parts.append(table(["preset", "device", "bare / whole time", *peers], rows))
    return parts


def losses(records: Mapping[str, Record]) -> list[str]:
    """NT-Xent: time and memory against the number of anchors."""
    if "loss" not in records:
        return []
    record = records["loss"]
    batch, names = record["batch"], list(next(iter(record["batch"].values()))["extra_mb"])
    title = f"NT-Xent, forward and backward, d = {record['dim']}"
    with new_figure(title, conditions(record), columns=2, width=8.4) as (figure, (left, right)):
        for look, name in zip(ORDERED[: len(names)], names, strict=True):
            seconds = {
                int(size): row["seconds"][name]["median"]
                for size, row in batch.items()
                if name in row["seconds"]
            }
            held = {int(size): row["extra_mb"][name] for size, row in batch.items()}
            fits = {size: extra for size, extra in held.items() if not isinstance(extra, str)}
            left.plot(list(seconds), list(seconds.values()), label=name, **look.plot)
            right.plot(list(fits), list(fits.values()), **look.plot)
        for axes, label in ((left, "seconds"), (right, "extra memory at most, MB")):
            axes.set(xscale="log", yscale="log", xlabel="anchors, 2N", ylabel=label)
            axes.set_xticks([int(size) for size in batch], list(batch))
            axes.minorticks_off()
        figure.legend(loc="outside lower center", ncols=3)
    rows = [
        [size, name, beside(row, name), megabytes(extra)]
        for size, row in batch.items()
        for name, extra in row["extra_mb"].items()
    ]
    parts = ["## NT-Xent", keep("loss", figure, "Time and memory of NT-Xent against the number of anchors")]
    return [*parts, table(["2N", "", "time over ours", "extra memory, MB"], rows), *loss_notes(record)]


def loss_notes(record: Record) -> list[str]:
    """What else was measured of the loss: exactness, the largest batch, negatives from elsewhere."""
    notes = []
    for size, errors in record.get("deviation_from_float64", {}).items():
        rows = [[name, f"{error['value']:.1e}", f"{error['gradient']:.1e}"] for name, error in errors.items()]
        notes += [
            f"Deviation from float64 at 2N = {size}, relative to the value and the gradient's largest entry:"
        ]
        notes += [table(["", "value", "gradient"], rows)]
    for name, what in (("queue", "a queue of"), ("gathered", "gathered, with gradient,")):
        if name in record:
            part = record[name]
            rows = [[each, beside(part, each), megabytes(extra)] for each, extra in part["extra_mb"].items()]
            notes.append(f"With {what} {part['negatives']} further negatives at 2N = {part['anchors']}:")
            notes.append(table(["", "time over ours", "extra memory, MB"], rows))
    if "largest" in record:
        most = record["largest"]
        notes.append(
            f"At 2N = {most['anchors']} a step of ours takes {most['seconds']} s and {most['extra_mb']} MB; "
            f"its value is within {most['value']:.1e} of float64. The matrix alone would take "
            f"{most['anchors'] ** 2 * 4 / 1e9:.0f} GB."
        )
    return notes


def switches(records: Mapping[str, Record]) -> list[str]:
    """What each way of computing the step is worth."""
    parts: list[str] = []
    for name, record in records.items():
        if not name.startswith("switches-"):
            continue
        where = f"{record['preset']}, batch {record['batch_size']}, {record['machine']['device']}"
        with new_figure(
            f"Time without a switch over time with it: {where}", conditions(record), height=3
        ) as (
            figure,
            axes,
        ):
            bars(axes[0], record["ratio"], "ratio; above 1 the switch pays")
            axes[0].axvline(1, color=BLACK, lw=0.9, ls=":")
        parts.append(keep(name, figure, f"What each switch is worth, {where}"))
        took = record["seconds_to_compile"]
        said_of = "not compiled: " if isinstance(took, str) else "seconds to compile it: "
        parts.append(f"The network ({where}), {said_of}{took}.")
    return ["## Ways of computing the same step", *parts] if parts else []


def precisions(records: Mapping[str, Record]) -> list[str]:
    """Whether bfloat16 costs accuracy."""
    parts = []
    for name, record in records.items():
        if name.startswith("precision-"):
            apart = ", ".join(f"{100 * value:+.1f}" for value in record["bfloat16_minus_float32"])
            low, full = (100 * record["knn"][precision] for precision in ("bfloat16", "float32"))
            parts.append(
                f"Accuracy in bfloat16 ({record['preset']}, {record['machine']['device']}): kNN after "
                f"{record['epochs']} epochs {low:.1f}, in float32 {full:.1f}; by seed {apart} points."
            )
    return parts


def cost(records: Mapping[str, Record]) -> list[str]:
    """How time and memory grow, and what the published recipes would take."""
    if "cost" not in records:
        return []
    record = records["cost"]
    axes_of = record["points"]
    title = "Time and memory of a pretraining step as one thing grows"
    with new_figure(title, conditions(record), 2, len(axes_of), width=10.5, height=5.2) as (figure, axes):
        for column, (name, rows) in enumerate(axes_of.items()):
            values = [row["value"] for row in rows]
            series = ([row["time"]["median"] for row in rows], [row["memory"] for row in rows])
            for row, (numbers, color) in enumerate(zip(series, (RED, BLUE), strict=True)):
                panel = axes[row * len(axes_of) + column]
                panel.plot(values, numbers, color=color, marker="os"[row])
                panel.set(xscale="log", yscale="log", ylim=LIMITS[row])
                panel.set_yticks(TICKS[row], [f"{tick:,g}" for tick in TICKS[row]])
                panel.set_xticks(values, [f"{value:g}" for value in values], size=7.5, rotation=45)
                panel.minorticks_off()
                slope = record["exponents"][name][("time", "memory")[row]]
                panel.set_title(f"exponent {slope:g}", size=8.5)
            axes[len(axes_of) + column].set_xlabel(name.replace("_", " "))
        axes[0].set_ylabel("time, base = 1")
        axes[len(axes_of)].set_ylabel("memory, MB")
    parts = [
        "## Cost as work grows",
        keep("cost", figure, "Time and memory against batch, image, width, depth, data"),
    ]
    rows = [
        [name, f"{row['value']:g}", said(row["time"]), f"{row['milliseconds']['median']:.4g}", row["memory"]]
        for name, points in axes_of.items()
        for row in points
    ]
    parts.append(table(["", "value", "time over the base's", "ms a step", "memory, MB"], rows))
    return [*parts, *requirements(record)]


def requirements(record: Record) -> list[str]:
    """The published recipes: counted operations, divided by a rate. Computed, not run."""
    rows = []
    for row in record["presets"]:
        days = row.get("days_at_measured_rate", row["days_at_round_rate"])
        rows.append(
            [
                f"`{row['preset']}`",
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['steps']:,}",
                f"{row['operations_per_image'] / 1e9:,.1f}",
                f"{row['operations']:.3g}",
                *(f"{days[gpus]:.3g}" for gpus in days),
            ]
        )
    measured = any("days_at_measured_rate" in row for row in record["presets"])
    if measured:
        rate = (
            "the rate of the recorded GPU step (whole, of ResNet-18 at 32 pixels, in the precision recorded)"
        )
    else:
        rate = (
            f"{record['round_rate'] / 1e12:.0f} TFLOP/s a GPU, a round number to scale from: nothing was "
            "measured on a GPU"
        )
    head = [
        "pretraining",
        "parameters, M",
        "steps",
        "GFLOP an image",
        "FLOP",
        "days on 8 GPUs",
        "days on 64 GPUs",
    ]
    return [
        "What the published recipes would take, **computed, not run**: the operations of network and gradient"
        " are counted (both views; a multiplication and an addition count two); days are these divided by "
        f"{rate}. Communication is not in it.",
        table(head, rows),
    ]


def augmentations(records: Mapping[str, Record]) -> list[str]:
    """Views a second of each contestant, by size and cores."""
    if "augmentation" not in records:
        return []
    record = records["augmentation"]
    sizes = [key for key in record if key.isdigit()]
    with new_figure("Views a second", conditions(record), 2, 2, width=9.5, height=6.4) as (figure, axes):
        panels = iter(axes)
        for size in sizes:
            for where in ("one core", "all cores"):
                panel = next(panels)
                bars(panel, record[size][where]["views_per_second"], "views/s")
                panel.set_title(f"{size} pixels, {where}")
    parts = ["## Augmentation", keep("augmentation", figure, "Views a second at 32 and 224 pixels")]
    names = list(record[sizes[0]]["one core"]["ratio_to"])
    columns = [(size, where) for size in sizes for where in ("one core", "all cores")]
    rows = [
        [name, *(said(record[size][where]["ratio_to"][name]) for size, where in columns)] for name in names
    ]
    head = ["our views/s over those of", *(f"{size} pixels, {where}" for size, where in columns)]
    laws = [[name, text] for name, text in record["differs"].items()]
    return [*parts, table(head, rows), table(["contestant", "where its law is not the official one"], laws)]


def streams(records: Mapping[str, Record]) -> list[str]:
    """Images a second from JPEG files, what decoding takes, and memory along the way."""
    if "streaming" not in records:
        return []
    record = records["streaming"]
    title = f"Images a second from JPEGs to two views of {record['view']} pixels"
    with new_figure(title, conditions(record), height=2.2) as (figure, axes):
        bars(axes[0], record["images_per_second"], "images/s")
    blurred, sharp = (record["ratio_to"][f"torchvision{recipe}"] for recipe in ("", ", no blur"))
    held = record["memory"]
    rows = [
        [size, name, said(spread)]
        for size, part in record["decoding"].items()
        for name, spread in part["ratio_to"].items()
    ]
    return [
        "## Streaming",
        keep("streaming", figure, title),
        f"Ours over torchvision's ImageFolder with v2 transforms: {said(blurred)} with blur, "
        f"which takes most of torchvision's time, {said(sharp)} without. Memory of all processes while 2,000 "
        "photographs of a listing as long as ImageNet's are read, after a tenth, a half and all of them: "
        f"{held['start']:.0f}, {held['middle']:.0f} and {held['end']:.0f} MiB. Decoding a photograph to the "
        "stored square, on one core:",
        table(["photograph", "decoder", "time over ours"], rows),
    ]


def startups(records: Mapping[str, Record]) -> list[str]:
    """Seconds to the first word."""
    if "startup" not in records:
        return []
    record = records["startup"]
    rows = [
        [f"`{name}`", said(spread), "yes" if record["loads_torch"][name] else "no"]
        for name, spread in record["seconds"].items()
    ]
    return ["## Start-up", conditions(record), table(["process", "seconds", "loads torch"], rows)]


def saving(records: Mapping[str, Record]) -> list[str]:
    """What states cost training."""
    if "states" not in records:
        return []
    record = records["states"]
    rows = []
    for name, row in record["rows"].items():
        times = [f"{1e3 * row['seconds'][what]['median']:.3g}" for what in ("step", "copy", "write")]
        cost = f"{100 * row['cost']['median']:.2g}%"
        rows.append([name, row["megabytes"], *times, said(row["beside_over_alone"]), cost])
    head = [
        "network",
        "state, MB",
        "step, ms",
        "copy, ms",
        "write, ms",
        "step while writing over step",
        "cost",
    ]
    return [
        "## Saving states",
        conditions(record),
        "A state is copied, for which training waits, and written beside training. The cost is what steps "
        f"lose to one, as a part of the {record['interval']:.0f} s from one to the next. (In the rounds "
        "while writing, states follow each other without a pause.)",
        table(head, rows),
    ]


SECTIONS = (steps, losses, augmentations, streams, switches, precisions, cost, saving, startups)


if __name__ == "__main__":
    main()
