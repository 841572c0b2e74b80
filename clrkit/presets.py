"""Presets: functions that return every run of an experiment. Their docstrings say hardware, time and result."""
