"""Where this machine's user keeps what can be made again: compiled models, hashes of files.

FIFFDEPTH_CACHE says where: a folder; "off" for none. Unset: fiffdepth_rt in the user's folder for caches, as
each system has it (~/.cache or XDG_CACHE_HOME, ~/Library/Caches, LOCALAPPDATA). It can be deleted at any
time. Whoever keeps something there goes on without it where the folder cannot be written.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

VARIABLE = "FIFFDEPTH_CACHE"


def cache_folder() -> Path | None:
    """The folder for caches, which need not be there yet; None where none is wanted, or the user has none."""
    said = os.environ.get(VARIABLE, "").strip()
    if said.lower() == "off":
        return None
    try:
        if said:
            return Path(said).expanduser()
        folder = platformdirs.user_cache_path("fiffdepth_rt", appauthor=False)
    except RuntimeError:  # of a user without a home; older releases give "~" back
        return None
    return folder if folder.is_absolute() else None
