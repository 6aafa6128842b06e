"""What an export raises on purpose. Each says what happened, why, and what to do.

FiffDepthError (fiffdepth_rt.errors)
├── OutputError                   the directory exists, or cannot be written
├── CheckpointError               training/weights/errors.py: a file or tensor of it cannot be used
├── ParityError                   graphs and checkpoint disagree, or the comparison proves nothing
└── ExportError
    ├── RecipeError               the checkpoint and the recipe do not fit each other
    ├── UnsupportedModelError     the architecture has a part that the export does not implement
    └── GraphExportError          a stage could not be traced, or its graph is not valid
"""

from __future__ import annotations

from fiffdepth_rt.errors import FiffDepthError


class ExportError(FiffDepthError):
    """Base of everything the export raises on purpose."""


class RecipeError(ExportError, ValueError):
    """The checkpoint and the recipe do not fit each other."""


class UnsupportedModelError(ExportError, ValueError):
    """The architecture has a part that the export does not implement."""


class GraphExportError(ExportError):
    """A stage could not be traced, or its graph is not a valid one."""
