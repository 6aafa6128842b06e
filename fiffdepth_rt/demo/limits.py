"""How much the page takes, and how long it keeps it."""

from __future__ import annotations

MAX_UPLOAD_BYTES = 200 * 2**20
"""A file; a minute of video or any photo."""
MAX_FOLDER_BYTES = 4 * 2**30
"""All files of all visitors."""
MAX_JSON_BYTES = 64 * 2**10
"""What a click sends besides files."""
KEPT_S = 1800
"""How long files are kept after they were written, and works after their last click."""
SWEEP_S = 20
"""Seconds between two looks at the folder."""
CONNECTIONS = 256
"""Of browsers at once; who comes then gets a 503."""
WAITING = 16
"""Clicks of all visitors that may wait for the engine; who comes then is told to come back."""
