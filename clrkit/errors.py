"""Errors that users cause; each message is one sentence that says what to do."""

from __future__ import annotations

import difflib


class ConfigError(ValueError):
    """A value, field or preset that is not allowed; the message names it in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class DataError(ConfigError):
    """A data set that cannot be read; the message names the file or folder."""


def reason(error: Exception) -> str:
    """What went wrong, in words; without the number and the path that an OSError's text has."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class FormatError(ValueError):
    """Bytes that are not what their format says they are; the message is a clause about "it", the file."""


def known(name: str, names: list[str], what: str) -> str:
    """`name` if it is one of `names`. Raises ConfigError with the nearest one otherwise."""
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}."
    raise ConfigError(f"Unknown {what} {name!r}; {hint}")
