"""Which distributions are installed here."""

from __future__ import annotations

from collections.abc import Iterable


def installed(names: Iterable[str]) -> dict[str, str]:
    """Distribution names -> the versions of those that are installed with readable metadata. Never raises."""
    import importlib.metadata  # here, since it costs more to import than the rest of this package

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except Exception:  # not installed, or its metadata is damaged
            continue
    return found
