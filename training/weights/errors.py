"""What reading weights raises on purpose.

FiffDepthError (fiffdepth_rt.errors)
└── CheckpointError     a file or a tensor of a checkpoint, or of a light VAE, cannot be used
    └── HubError        a repository on a hub cannot be had as asked
"""

from __future__ import annotations

from fiffdepth_rt.errors import FiffDepthError


class CheckpointError(FiffDepthError, ValueError):
    """A file or a tensor of a checkpoint, or of a light VAE, cannot be used; it says what to do."""


class HubError(CheckpointError):
    """A repository on a hub cannot be had as asked; it says why, and the ways on."""
