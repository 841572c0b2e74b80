"""Configs drawn by hypothesis."""

import dataclasses
from typing import Any, get_type_hints

from hypothesis import strategies as st

from clrkit.config import (
    STAGES,
    Config,
    Finetune,
)


def some(item: dataclasses.Field, kind: type) -> st.SearchStrategy:
    """Permitted values of a field."""
    bounds = item.metadata
    if bounds["choices"]:
        return st.sampled_from(bounds["choices"])
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.text(st.characters(exclude_categories=["Cs"]))
    low = max(bounds["low"], bounds["above"])
    if kind is int:
        return st.integers(int(low), int(min(bounds["high"], 10**9)))
    return st.floats(low, min(bounds["high"], 1e300), exclude_min=low == bounds["above"], allow_nan=False)


@st.composite
def built(draw: st.DrawFn, kind: type[Config]) -> Config:
    """Any permitted config of a kind."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        wanted = get_type_hints(kind)[item.name]
        values[item.name] = draw(some(item, wanted) if item.metadata else built(wanted))
    if "optimizer" in values and "epochs" in values:
        warmup = draw(st.floats(0, values["epochs"]))
        values["optimizer"] = dataclasses.replace(values["optimizer"], warmup_epochs=warmup)
    if "micro_batch" in values:
        values["micro_batch"] = draw(st.sampled_from([0, 2, values["batch_size"]]))
    if kind is Finetune:
        values["tap_layer"] = draw(st.integers(0, values["pretrain"].head_layers))
    return kind(**values)


stages = st.sampled_from(STAGES).flatmap(built)


UNKEYED = {"root", "labels_csv", "left_out", "monitor_epochs"}
