"""The family of errors. Each says what happened, why, and what to do.

FiffDepthError
├── ImageError (ValueError)       a photo cannot be used: dtype, shape, size, NaN, unreadable, too many pixels
│   │                             (or an array is no depth map)
│   ├── PhotoFormatError          a file is no photo of a kind that is read here
│   └── PhotoTooLargeError        a photo has more pixels than are taken
├── SizeError (ValueError)        a processing size beyond what the model or the engines take
├── MessageError (ValueError)     a ROS message cannot be converted: encoding, layout, too few bytes
├── AlignmentError (ValueError)   depth cannot be had in metres: too few distances, no spread, …
│   └── CalibrationError          a calibration file cannot be read, or is of another model or camera
├── OutputError (OSError)         a result cannot be written: exists already, no permission, disk full
├── StreamError                   a stream of frames cannot start, or breaks off; what it gave so far is good
│   ├── FrameSizeError            a frame of another size in the middle of a stream
│   ├── CorruptFrameError         a frame of a stream is no photo; an ImageError too
│   ├── SourceError               a video or camera cannot be opened
│   ├── SourceLostError           a camera or network stream that was open gives no more frames
│   └── DamagedVideoError         frames of a video file are missing or cannot be decoded
├── BagError                      a ROS bag cannot be read, or lacks what was asked for
├── BatchError                    photos of a batch cannot be found, or its results not be told from photos
├── ClusterError                  no cluster answers, or a worker fails for another reason than its death
├── EngineDirError                an engine directory cannot be trusted
│   ├── ManifestError             manifest.json missing, too large, not JSON, of another schema, or incomplete
│   ├── UnsafePathError           a path in the manifest leaves the directory, or leads through a link
│   ├── MissingFileError          a listed file is not there
│   ├── HashMismatchError         a listed file has another size or SHA-256
│   ├── GraphError                a graph cannot be read (truncated, or with an operator the engine lacks)
│   ├── StageMismatchError        a stage's tensors do not fit the next one, or not the manifest
│   └── PlanMismatchError         a TensorRT plan cannot run here, or is not of these graphs
│       ├── PlanVersionError      built by another TensorRT version
│       └── PlanGpuError          built for another GPU model or compute capability
├── ParityError                   an engine does not compute what the checkpoint does, or nothing proves it
└── BackendError
    ├── BackendUnavailableError   an engine asked for by name cannot be used here
    │   └── DriverError           the NVIDIA driver is missing, or too old for what is installed
    ├── BuildError                TensorRT could not build a plan; carries its log
    ├── DeviceMemoryError         a GPU has no room, at load or at inference; says what was needed and free
    ├── HostMemoryError           a machine has no room for an engine, by what was measured
    └── InferenceError            the engine failed while running
"""

from __future__ import annotations

from collections.abc import Sequence


class FiffDepthError(Exception):
    """Base of everything this package raises on purpose."""


class ImageError(FiffDepthError, ValueError):
    """A photo cannot be used, or an array is no depth map."""


class PhotoFormatError(ImageError):
    """A file is no photo of a kind that is read here, or what reads its kind is not installed."""


class PhotoTooLargeError(ImageError):
    """A photo has more pixels than are taken, by its header. Nothing was decoded."""


class MessageError(FiffDepthError, ValueError):
    """A ROS message cannot be converted to or from what this package computes with."""


class SizeError(FiffDepthError, ValueError):
    """A processing size beyond what the model or the engines take."""


class AlignmentError(FiffDepthError, ValueError):
    """Depth cannot be had in metres."""


class CalibrationError(AlignmentError):
    """A calibration cannot be read, or is of another model or camera."""


class OutputError(FiffDepthError, OSError):
    """A result cannot be written. Nothing half-written is left behind."""


class StreamError(FiffDepthError):
    """A stream of frames cannot start, or breaks off. What it gave so far is good."""


class FrameSizeError(StreamError):
    """A frame of another size in the middle of a stream."""


class CorruptFrameError(StreamError, ImageError):
    """A frame of a stream is no photo."""


class SourceError(StreamError):
    """A video or camera cannot be opened."""


class SourceLostError(StreamError):
    """A camera or network stream that was open gives no more frames."""


class DamagedVideoError(StreamError):
    """Frames of a video file are missing or cannot be decoded."""


class BagError(FiffDepthError):
    """A ROS bag cannot be read, or lacks what was asked for."""


class BatchError(FiffDepthError):
    """Photos of a batch cannot be found, or its results could not be told from photos."""


class ClusterError(FiffDepthError):
    """No cluster answers, or a worker fails for another reason than its death."""


class EngineDirError(FiffDepthError):
    """An engine directory cannot be trusted."""


class ManifestError(EngineDirError):
    """manifest.json is missing, too large, not JSON, of another schema, or incomplete."""


class UnsafePathError(EngineDirError):
    """A path in the manifest leaves the directory, or leads through a link."""


class MissingFileError(EngineDirError):
    """A file listed in the manifest is not there."""


class HashMismatchError(EngineDirError):
    """A file listed in the manifest has another size or SHA-256."""


class GraphError(EngineDirError):
    """A graph cannot be read by the engine."""


class StageMismatchError(EngineDirError):
    """A stage's tensors do not fit the next stage, or not the manifest."""


class PlanMismatchError(EngineDirError):
    """A TensorRT plan cannot run here, or was built from other graphs than those beside it."""


class PlanVersionError(PlanMismatchError):
    """A TensorRT plan was built by another TensorRT version."""


class PlanGpuError(PlanMismatchError):
    """A TensorRT plan was built for another GPU model or compute capability."""


class ParityError(FiffDepthError):
    """An engine does not compute what the checkpoint does, or the comparison proves nothing."""


class BackendError(FiffDepthError):
    """An inference engine failed."""


class BackendUnavailableError(BackendError):
    """An engine asked for by name cannot be used here."""


class DriverError(BackendUnavailableError):
    """The NVIDIA driver is missing, or too old for the CUDA or TensorRT that is installed."""


class BuildError(BackendError):
    """TensorRT could not build a plan. log: what TensorRT said while it tried, oldest line first."""

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)


class DeviceMemoryError(BackendError):
    """A GPU has no room for what is needed. What was open before stays usable.

    needed_bytes: None where the library does not say. free_bytes, total_bytes: of the GPU, when it happened.
    """

    def __init__(
        self,
        message: str,
        *,
        needed_bytes: int | None = None,
        free_bytes: int | None = None,
        total_bytes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes


class HostMemoryError(BackendError):
    """This machine has no room for an engine, by what its manifest says was measured. Nothing was opened."""


class InferenceError(BackendError):
    """The engine failed while running."""


def shortened(text: object, at_most: int = 300) -> str:
    """What a file or a library said -> the same for an error, its middle left out where it is longer.

    A file can make a library repeat megabytes of it.
    """
    said = str(text)
    half = at_most // 2
    return said if len(said) <= at_most else f"{said[:half]} … {said[-half:]}"
