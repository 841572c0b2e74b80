"""The committed reference of a preset, without its images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clrkit.config import from_dict, stage_class
from clrkit.frames import frame
from clrkit.grid import Preset
from clrkit.reproduce import complete
from clrkit.runs import Store

RESULTS = Path(__file__).parents[1] / "results"


def recorded(preset: Preset) -> pd.DataFrame:
    """The preset's own runs, all of which must be there.

    Keys hold the fingerprint of the images, which are not at hand everywhere: runs are found by settings.
    """
    records = [run.record for run in Store(RESULTS, preset.name).reference.all()]
    wanted = set(complete(preset.runs))
    found = [each for each in records if from_dict(stage_class(each["stage"]), each["config"]) in wanted]
    assert len(found) == len(wanted)
    return frame(found)
