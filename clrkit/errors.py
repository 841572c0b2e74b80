"""Errors that users cause; each message is one sentence that says what to do."""

from __future__ import annotations


class ConfigError(ValueError):
    """A config value, field or preset that cannot be; the message names it in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class DataError(ConfigError):
    """A data set that cannot be read; the message names the culprit in one sentence."""


def reason(error: Exception) -> str:
    """What went wrong, in words; without the number and the path that an OSError's text has."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class FormatError(ValueError):
    """Bytes that are not what their format says they are; the message is a clause about "it", the file."""
