"""START HERE. Depth: photo -> image -> latent -> depth latent -> depth map.

Convention: a depth map (depth_map.py) is float32 H×W in [0, 1], affine-invariant (known up to scale and
shift, not metres), in the model's `output_space`; space.py says what 0 and 1 mean in it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import cv2
import numpy as np

from fiffdepth_rt import files
from fiffdepth_rt.backends import Backend, DeviceBackend
from fiffdepth_rt.backends.grids import Size, families
from fiffdepth_rt.backends.select import open_backend
from fiffdepth_rt.depth_map import DepthMap, Values
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import BUNDLED, Manifest
from fiffdepth_rt.errors import BackendUnavailableError, ImageError, InferenceError, SizeError
from fiffdepth_rt.gpu.arrays import DeviceArray, DeviceDepth, is_on_gpu
from fiffdepth_rt.image import MIN_SIDE, Color, Fit, Pixels, fit, to_grid, to_photo
from fiffdepth_rt.processes import Calls
from fiffdepth_rt.space import Space
from fiffdepth_rt.stream import Drop, Stream
from fiffdepth_rt.version import __version__

DeviceArrayT = TypeVar("DeviceArrayT", bound=DeviceArray)
At = Literal["photo", "grid"]


class Depth:
    """An opened engine directory that turns photos into depth maps.

    engine_dir: an engine directory; None for the bundled model.
    backend: "tensorrt", "tensorrt-rtx", "onnxruntime", "openvino", or "auto" for the best that is usable
        here; `describe` tells which.
    device: "cpu", "cuda", "cuda:1"; None for the backend's own default.
    precision: a graph set of the directory, e.g. "fp32"; None for the backend's first choice.
    size: the longer side, in px, at which photos are processed; None for the model's default. Larger shows
        finer detail, and costs more than its square; at most the manifest's maximum. Or a grid, (height,
        width). Where the directory holds graphs or plans for certain grids only, None is for the one of them
        that wastes least of a photo, and a number for one of that size (`backends.grids`).
    threads: for engines on the CPU; None for the physical cores available. OMP_NUM_THREADS is not asked, as
        none of them uses OpenMP.
    cuda_graph: on a GPU, replay frames from CUDA graphs where the engine can; `describe` says.
    verify: hash every file of the directory first. False hashes what will run, and only what has changed
        since it was last hashed on this machine (engine_dir/known_hashes.py).

    Threads may share one Depth and its weights. Their calls run at once, on the same cores, and each holds
    its own activations: n calls need n times that memory, and each takes longer. Processes share none: a
    pickled Depth is opened again with these arguments where it is unpickled, and a forked child opens its own
    with the first photo. On a GPU it cannot, and says so: start processes by spawn.

    Raises an EngineDirError that says what is wrong with the directory, BackendUnavailableError, SizeError,
    and HostMemoryError where the memory that was measured for this engine and size is not free here.
    """

    def __init__(
        self,
        engine_dir: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        device: str | None = None,
        precision: str | None = None,
        size: Size = None,
        threads: int | None = None,
        cuda_graph: bool = True,
        verify: bool = False,
    ) -> None:
        self._calls = Calls()
        self._engine_dir = open_engine_dir(BUNDLED if engine_dir is None else engine_dir, verify=verify)
        self._asked = _checked_size(size, self.manifest)
        self._open_again = functools.partial(
            type(self),
            self._engine_dir.path,
            backend=backend,
            device=device,
            precision=precision,
            size=size,
            threads=threads,
            cuda_graph=cuda_graph,
            verify=verify,
        )
        with self._calls:
            self._backend = open_backend(
                self._engine_dir,
                backend=backend,
                device=device,
                precision=precision,
                threads=threads,
                cuda_graph=cuda_graph,
                size=self._asked,
            )
        self._model_sha256 = _model_sha256(self.manifest, self._backend.precision)
        if isinstance(self._asked, tuple):
            try:
                self.grid_for(self._asked)
            except SizeError:
                self.close()
                raise

    def infer(self, photo: Any, *, color: Color = "rgb", size: Size = None) -> DepthMap:
        """photo -> depth map.

        photo: uint8 H×W×3, or whatever `image.as_rgb` takes, at least 16 px on each side; or the path of a
            photo file, which `files.read_photo` turns upright.
        color: "rgb", or "bgr" as OpenCV reads. What a file holds is known without it.
        size: for this call, as in `Depth`; None for what was said there.

        Raises ImageError, SizeError, InferenceError, DeviceMemoryError.
        """
        pixels = files.to_pixels(photo, color=color)
        with self._calls:
            fitted = self._fit(pixels, size)
            values = self._run(to_grid(pixels, fitted)[np.newaxis])[0]
            return self._as_depth_map(to_photo(values, fitted))

    def infer_batch(
        self, photos: Iterable[Any], *, color: Color = "rgb", size: Size = None
    ) -> list[DepthMap]:
        """photos of any sizes -> their depth maps, in order. Arguments, result and errors as in `infer`.

        All photos are checked before the first one runs; those that share a grid run together.
        """
        if isinstance(photos, (str, os.PathLike)):
            raise ImageError(
                f"{str(photos)!r} is one path, and a batch is several: pass a list of photos or paths."
            )
        pixels = [files.to_pixels(photo, color=color) for photo in photos]
        fits = [self._fit(one, size) for one in pixels]
        maps: dict[int, DepthMap] = {}
        for grid_hw in {fitted.grid_hw for fitted in fits}:
            group = [i for i, fitted in enumerate(fits) if fitted.grid_hw == grid_hw]
            with self._calls:
                values = self._run(np.stack([to_grid(pixels[i], fits[i]) for i in group]))
                maps |= {
                    i: self._as_depth_map(to_photo(one, fits[i]))
                    for i, one in zip(group, values, strict=True)
                }
        return [maps[i] for i in range(len(pixels))]

    @overload
    def infer_on_gpu(
        self,
        photo: Any,
        *,
        color: Color = "rgb",
        size: Size = None,
        at: At = "photo",
        out: Literal["device"] = "device",
        cuda_stream: Any = None,
    ) -> DeviceDepth: ...

    @overload
    def infer_on_gpu(
        self,
        photo: Any,
        *,
        color: Color = "rgb",
        size: Size = None,
        at: At = "photo",
        out: Literal["host"],
        cuda_stream: Any = None,
    ) -> DepthMap: ...

    @overload
    def infer_on_gpu(
        self,
        photo: Any,
        *,
        color: Color = "rgb",
        size: Size = None,
        at: At = "photo",
        out: DeviceArrayT,
        cuda_stream: Any = None,
    ) -> DeviceArrayT: ...

    def infer_on_gpu(
        self,
        photo: Any,
        *,
        color: Color = "rgb",
        size: Size = None,
        at: At = "photo",
        out: Any = "device",
        cuda_stream: Any = None,
    ) -> Any:
        """photo -> depth map, where the photo is on a GPU, or the depth map stays there: tensorrt's backend.

        photo: uint8 H×W×3 RGB on the backend's GPU, as any library has it, and taken as it is: H×W is the
            size of a grid, or the camera's with a camera's graphs. Or a photo as in `infer`, for a result
            that stays on the GPU.
        color, size: as in `infer`, for a photo that is not on the GPU.
        at: "photo" gives H×W, and refuses a photo that would have to be resized on the host; "grid" gives the
            grid's h×w, padding included (`image.fit` says where it is).
        out: "device" gives a `gpu.arrays.DeviceDepth`; a float32 array on the GPU is written and returned;
            "host" gives a DepthMap. Values that stay on the GPU are not looked at: no error is raised where
            they are not finite.
        cuda_stream: the caller's CUDA stream; `DeviceBackend.run_on_gpu` says what it does.

        Raises ImageError, SizeError, InferenceError, DeviceMemoryError, and BackendUnavailableError where the
        backend is another one.
        """
        if not isinstance(self._backend, DeviceBackend):
            raise BackendUnavailableError(
                f"{self._backend.name} on {self._backend.device} takes and gives arrays on the host. Pass "
                "one (such as x.cpu().numpy()) to infer; or build plans, and open a Depth with "
                "backend='tensorrt'."
            )
        if not (out in ("host", "device") if isinstance(out, str) else is_on_gpu(out)):
            raise ImageError(f"out={out!r} is not known: say 'host', 'device', or pass an array on the GPU.")
        if isinstance(out, str) and out == "host" and not is_on_gpu(photo):
            raise ImageError("The photo is on the host, and so is the result: call infer.")
        if at not in ("photo", "grid"):
            raise SizeError(f"at={at!r} is not known: say 'photo' or 'grid'.")
        if not is_on_gpu(photo):
            pixels = files.to_pixels(photo, color=color)
            fitted, color = self._fit(pixels, size), "rgb"
            if at == "photo" and fitted.photo_hw != fitted.grid_hw:
                (height, width), grid = fitted.photo_hw, "{}x{}".format(*fitted.grid_hw)
                raise SizeError(
                    f"A depth map of {height}x{width} cannot stay on the GPU: it is computed on the grid "
                    f"{grid}, and resized on the host. Two ways: at='grid', and resize it on the GPU; or put "
                    "the resizing into the graph: python -m export.build_engines CHECKPOINT --camera "
                    f"{height}x{width}; fiffdepth build."
                )
            photo = to_grid(pixels, fitted)
        with self._calls:
            found = self._backend.run_on_gpu(photo, color=color, out=out, cuda_stream=cuda_stream)
        return self._as_depth_map(self._sound(found)) if isinstance(out, str) and out == "host" else found

    def stream(
        self,
        frames: Iterable[Any],
        *,
        color: Color = "rgb",
        size: Size = None,
        inflight: int = 2,
        drop: Drop = "never",
        smooth: float | None = None,
    ) -> Stream:
        """frames -> StreamItems, in order: `for item in depth.stream(frames): item.depth_map`.

        Reading, fitting, computing and finishing overlap, each in a thread of its own. Memory is bounded. The
        threads end with the loop, however it is left. Where a name still holds the stream, a `with` block or
        `close()` ends them.

        frames: any iterable of photos as in `infer`, all of one size; or of `Frame`s, each a photo with a
            tag, such as a time stamp, that its item has too. It runs in another thread.
        inflight: frames on their way at once, from the source to the loop. 1 holds least, and overlaps only
            with the body of the loop; more than 4 gain nothing.
        drop: "never" makes the source wait. "oldest", for live cameras, does not: the latest frame wins, and
            an item's `index` tells how many were dropped.
        smooth: None, or the time constant in frames with which a correction against flicker leaks back to
            none, such as 30; smoothing.py says what it does.

        An error of the source comes out of the loop behind the depth maps of the frames before it.
        Raises what `infer` raises, StreamError for an argument out of range, FrameSizeError,
        CorruptFrameError, and SourceLostError for a frame that is None.
        """
        size = _checked_size(size, self.manifest)
        return Stream(
            frames,
            fit=lambda photo: self._fit(photo, size),
            run=self._run_for_stream,
            as_depth_map=self._as_depth_map,
            color=color,
            inflight=inflight,
            drop=drop,
            smooth=smooth,
        )

    @property
    def output_space(self) -> Space:
        """What the values of the depth maps mean."""
        return Space(self.manifest.output_space)

    @property
    def size(self) -> int:
        """Processing size in px, along the longer side: what was asked for, or the model's default."""
        asked = self.manifest.size.default if self._asked is None else self._asked
        return max(asked) if isinstance(asked, tuple) else asked

    @property
    def manifest(self) -> Manifest:
        return self._engine_dir.manifest

    @property
    def backend(self) -> Backend:
        """The opened engine, stage by stage; for benchmarks and parity checks."""
        return self._backend

    def with_backend(self, backend: Backend) -> Depth:
        """The same directory and size on another backend, such as one that wraps this one to time it."""
        other = object.__new__(type(self))
        other.__dict__ |= {**self.__dict__, "_backend": backend}
        return other

    def describe(self) -> dict[str, Any]:
        """What runs here: everything that a result depends on, as JSON would hold it.

        sha256: of each stage's graph. model_sha256: one for all of them and for weights outside graphs, as
        `sha256sum graphs/<set>/* | sha256sum` gives it in the engine directory.
        """
        manifest, backend = self.manifest, self._backend
        engine = backend.describe()
        sets = families(manifest)[backend.precision].values()
        sha256 = {
            stage if len(sets) == 1 else f"{key}/{stage}": manifest.files[graph.file].sha256
            for key in sets
            for stage, graph in manifest.graph_sets[key].stages.items()
        }
        return {
            "name": manifest.name,
            "recipe": manifest.recipe,
            "output_space": str(self.output_space),
            "engine_dir": str(self._engine_dir.path),
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "size": {"default": self.size, "max": manifest.size.max, "multiple": manifest.size.multiple},
            "sha256": sha256,
            "model_sha256": self._model_sha256,
            "versions": {
                "fiffdepth_rt": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
            "cuda_graph": engine.get("cuda_graph"),
            "engine": engine,
        }

    def made_of(self) -> dict[str, Any]:
        """What values depend on besides the photo, but for the processor; as JSON would hold it.

        Results that an interrupted run kept are used again where this is the same.
        """
        return {
            "model": self.manifest.name,
            "model_sha256": self._model_sha256,
            "precision": self._backend.precision,
            "size": self.size,
            "grid_of_a_square": list(self.grid_for((1000, 1000))),  # size may be a grid
        }

    def grid_for(self, photo_hw: tuple[int, int], size: Size = None) -> tuple[int, int]:
        """photo's (height, width) -> that of the grid on which `infer` processes it. Raises SizeError."""
        size = _checked_size(size, self.manifest)
        return self._backend.grid_for(photo_hw, self._asked if size is None else size)

    def close(self) -> None:
        """Free the engine. Inferring afterwards raises InferenceError; closing again does nothing."""
        self._backend.close()

    def __reduce__(self) -> tuple[Callable[[], Depth], tuple[()]]:
        return self._open_again, ()

    def __enter__(self) -> Depth:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _fit(self, photo: Pixels, size: Size) -> Fit:
        photo_hw = (photo.shape[0], photo.shape[1])
        return fit(photo_hw, self.grid_for(photo_hw, size))

    def _as_depth_map(self, values: Values) -> DepthMap:
        return DepthMap(
            values=values,
            space=self.output_space,
            model=self.manifest.name,
            model_sha256=self._model_sha256,
        )

    def _run_for_stream(self, image_BHW3: Pixels) -> Values:
        with self._calls:
            return self._run(image_BHW3)

    def _run(self, image_BHW3: Pixels) -> Values:
        return self._sound(self._backend.run(image_BHW3))

    def _sound(self, values: Values) -> Values:
        if not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
            raise InferenceError(
                f"The {self._backend.precision} engine gave values that are not finite or not in [0, 1]: "
                "it overflowed, or its graphs do not clip. Use precision='fp32', or export again."
            )
        return values


def _model_sha256(manifest: Manifest, precision: str) -> str:
    """One hash for the graphs that run and their weights: of the lines that sha256sum would print."""
    stages = [
        stage
        for key in families(manifest)[precision].values()
        for stage in manifest.graph_sets[key].stages.values()
    ]
    names = sorted({name for stage in stages for name in (stage.file, *stage.external_data)})
    lines = "".join(f"{manifest.files[name].sha256}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def _checked_size(size: Any, manifest: Manifest) -> Size:
    """Raises SizeError for what is no size at all; which grids there are, the backend knows."""
    if size is None:
        return None
    sides = size if isinstance(size, tuple) else (size,)
    whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides)
    listed = len(sides) == (2 if isinstance(size, tuple) else 1)
    if not (whole and listed and all(MIN_SIDE <= side <= manifest.size.max for side in sides)):
        raise SizeError(
            f"size={size!r} is not possible: {manifest.name} takes whole numbers "
            f"from {MIN_SIDE} to {manifest.size.max} px, or two of them for a grid's height and width."
        )
    return (int(sides[0]), int(sides[1])) if isinstance(size, tuple) else int(size)
