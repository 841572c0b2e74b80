"""What to run: presets, grids, and the settings that the ablation lab varies."""
