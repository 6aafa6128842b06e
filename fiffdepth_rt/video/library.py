"""PyAV, the extra [video]: FFmpeg's libraries for Python, and the sentence where they are missing."""

from __future__ import annotations

from fiffdepth_rt.errors import SourceError


def check_pyav() -> None:
    """Raises SourceError where PyAV cannot be imported: what to install."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        why = "which is not installed" if error.name == "av" else f"which cannot be imported ({error})"
        raise SourceError(
            f"Videos are read and written by PyAV, {why}: pip install 'fiffdepth-rt[video]'"
        ) from error
