"""What is scored, by one Protocol: an engine of ours, the ramp, a folder of anybody's predictions, a peer.

A Choice says which one, and can be sent to another process; what it opens is a Method.

    RampChoice()                       "the lower, the nearer": needs no model
    EngineChoice(folder, grid=...)     an engine directory; None: the bundled model
    FolderChoice(folder, space=...)    predictions in files, in Marigold's layout
    PeerChoice(which, space=...)       a model of transformers or diffusers (peers/)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiffdepth_rt.backends.grids import Size
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import SizeError
from training.alignment import AlignmentSpace
from training.data.reading import npy
from training.data.samples import DataError, SampleError

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]
Grid = Literal["exact", "padded", "own"]
OddSize = Literal["floor", "ceil"]

VAE_FACTOR = 8
GRID_MULTIPLE = 64
"""What graphs for free grids take: three halvings in the UNet on top of the VAE's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photo:
    """What a method is given.

    set: the set's name. name: the photo's path within it. pixels: at the set's processing size, if it has
    one.
    full_hw: of the photo as it lies there, and of its truth. prediction: the stem of a file with its map,
    in the set's layout. at_protocol_size: whether a protocol says at which size models see the photo.
    """

    set: str
    name: str
    pixels: Pixels
    full_hw: tuple[int, int]
    prediction: str
    at_protocol_size: bool = False


class Method(Protocol):
    """name: in tables. space: of its maps. key: of the weights and of all that changes a map; None: of
    neither, its maps are not worth keeping. choices: what decides its maps, as JSON would hold it."""

    @property
    def name(self) -> str: ...
    @property
    def space(self) -> AlignmentSpace: ...
    @property
    def key(self) -> str | None: ...
    @property
    def choices(self) -> Mapping[str, Any]: ...

    def predict(self, photo: Photo) -> Map:
        """float32 h×w, of the photo's aspect. Raises SampleError where there is none for this photo."""

    def close(self) -> None: ...


class Choice(Protocol):
    def open(self) -> Method:
        """Raises DataError or a FiffDepthError where the method cannot be used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RampChoice:
    def open(self) -> Ramp:
        return Ramp()


class Ramp:
    """The lower in the picture, the nearer: depth in [0, 1], 0 = near."""

    name = "ramp"
    space = AlignmentSpace.DEPTH
    key = None
    choices: Mapping[str, Any] = MappingProxyType({"model": "ramp"})

    def predict(self, photo: Photo) -> Map:
        return ramp((photo.pixels.shape[0], photo.pixels.shape[1]))

    def close(self) -> None:
        pass


def ramp(size_hw: tuple[int, int]) -> Map:
    """What needs no model: the lower in the picture, the nearer. H×W in [0, 1], 0 = near."""
    h, w = size_hw
    return np.broadcast_to(np.linspace(1, 0, h, dtype=np.float32)[:, None], (h, w))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """An engine directory on a grid.

    grid: "exact": the photo's own size (the protocol's), for engines that have that very grid; "padded": the
    next multiples of 64, replicate-padded; "own": as the runtime would choose it for `size`.
    odd_size: of a photo whose sides are no multiples of 8, on an exact grid: "floor" leaves the last columns
    and rows out and stretches the map over them, which is what a VAE does to them (prs-eth/Marigold's own
    repository); "ceil" repeats the border and cuts the map (diffusers' pipeline).
    """

    folder: Path | None = None
    grid: Grid = "own"
    odd_size: OddSize = "floor"
    size: Size = None
    threads: int | None = None

    def open(self) -> Engine:
        return Engine(self)


class Engine:
    """See EngineChoice. Raises what Depth raises; `predict` a SizeError for a grid that is not there."""

    def __init__(self, choice: EngineChoice) -> None:
        self._choice, self._depth = choice, Depth(choice.folder, threads=choice.threads)
        self.said = self._depth.describe()
        self.space = AlignmentSpace(self.said["output_space"])
        self.name = self.said["name"] + {"exact": "", "padded": ", padded grid", "own": ""}[choice.grid]
        size = None if choice.size is None else str(choice.size)
        self.choices: dict[str, Any] = {
            "model": self.said["name"],
            "model_sha256": self.said["model_sha256"],
            "recipe": self.said["recipe"],
            "backend": self.said["backend"],
            "device": self.said["device"],
            "precision": self.said["precision"],
            "versions": self.said["versions"],
            "grid": choice.grid,
            "odd_size": choice.odd_size if choice.grid == "exact" else None,
            "size": size,
            "output_space": str(self.space),
        }
        kept = {key: self.choices[key] for key in ("model_sha256", "backend", "grid", "odd_size", "size")}
        self.key = hashlib.sha256(repr((kept, self.said["precision"])).encode()).hexdigest()[:16]

    def predict(self, photo: Photo) -> Map:
        hw = (photo.pixels.shape[0], photo.pixels.shape[1])
        if self._choice.grid == "own":
            return np.array(self._depth.infer(photo.pixels, size=self._choice.size).values)
        if self._choice.grid == "padded":
            return np.array(self._depth.infer(photo.pixels, size=padded_grid(hw)).values)
        grid, pixels = exact_grid(hw, self._choice.odd_size), photo.pixels
        if self._choice.odd_size == "floor":
            pixels = np.ascontiguousarray(pixels[: grid[0], : grid[1]])
        else:
            pixels = np.pad(pixels, ((0, grid[0] - hw[0]), (0, grid[1] - hw[1]), (0, 0)), mode="edge")
        values = np.array(self._depth.infer(pixels, size=grid).values)
        return values[: hw[0], : hw[1]] if self._choice.odd_size == "ceil" else values

    def takes(self, hw: tuple[int, int]) -> bool:
        """Whether a photo of this size can be predicted on the grid of the choice."""
        if self._choice.grid == "own":
            return True
        padded = self._choice.grid == "padded"
        grid = padded_grid(hw) if padded else exact_grid(hw, self._choice.odd_size)
        try:
            return self._depth.grid_for(grid, grid) == grid
        except SizeError:
            return False

    def close(self) -> None:
        self._depth.close()


def exact_grid(hw: tuple[int, int], odd_size: OddSize) -> tuple[int, int]:
    """A photo's size -> the grid of multiples of 8 that it fills, or fills but for less than 8 px."""
    h, w = (side // VAE_FACTOR if odd_size == "floor" else -(-side // VAE_FACTOR) for side in hw)
    return max(h, 1) * VAE_FACTOR, max(w, 1) * VAE_FACTOR


def padded_grid(hw: tuple[int, int]) -> tuple[int, int]:
    """A photo's size -> the grid of multiples of 64 that holds it at its own scale."""
    h, w = (-(-side // GRID_MULTIPLE) * GRID_MULTIPLE for side in hw)
    return h, w


def grids_for(
    engine: Path | None, hw: tuple[int, int], odd_size: OddSize, threads: int | None
) -> list[EngineChoice]:
    """An engine directory, the protocol's size -> the grids it is scored on: exact and padded, those it has.

    Where it has neither: as the runtime chooses. Raises what Depth raises.
    """
    choices: list[EngineChoice] = []
    grids: tuple[Grid, ...] = ("exact", "padded")
    for grid in grids:
        choice = EngineChoice(folder=engine, grid=grid, odd_size=odd_size, threads=threads)
        opened = choice.open()
        if opened.takes(hw) and not (grid == "padded" and choices and padded_grid(hw) == hw):
            choices.append(choice)
        opened.close()
    return choices or [EngineChoice(folder=engine, threads=threads)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderChoice:
    """Predictions in files: FOLDER/[SET/]…/STEM.npy (float H×W) or .png (16-bit, values / 65535).

    …: the photo's folder within its set; STEM: the set's prediction_name, or the photo's own stem, with or
    without "_rgb". space: of the values; None: what each PNG's `Space` says, as `fiffdepth infer` writes it.
    resize: take predictions of another size than the photo's, and bring them to the truth's bilinearly.
    """

    folder: Path
    space: AlignmentSpace | None
    resize: bool = False

    def open(self) -> Predictions:
        return Predictions(self)


class Predictions:
    """See FolderChoice. Raises DataError where nothing says the space."""

    key = None

    def __init__(self, choice: FolderChoice) -> None:
        self._choice = choice
        self.name = choice.folder.name
        self.space = choice.space if choice.space is not None else _space_of_pngs(choice.folder)
        self.choices: dict[str, Any] = {
            "model": f"predictions in {choice.folder.name}",
            "output_space": str(self.space),
            "resized": choice.resize,
        }

    def predict(self, photo: Photo) -> Map:
        path = self._find(photo)
        values = _read_npy(path, photo.name) if path.suffix == ".npy" else _read_png(path, photo.name)
        if values.shape != photo.full_hw and not self._choice.resize:
            sizes = " and the photo ".join(f"{h}×{w}" for h, w in (values.shape, photo.full_hw))
            raise SampleError(photo.name, f"the prediction is {sizes} (--resize-predictions takes it)")
        return values

    def _find(self, photo: Photo) -> Path:
        within = Path(photo.name).parent
        own = Path(photo.name).stem
        folders = [self._choice.folder / photo.set / within, self._choice.folder / within]
        for folder in folders:
            for stem in dict.fromkeys((photo.prediction, own, own.removesuffix("_rgb"))):
                for suffix in (".npy", ".png"):
                    if (path := folder / f"{stem}{suffix}").is_file():
                        return path
        wanted = (within / f"{photo.prediction}.npy").as_posix()
        raise SampleError(photo.name, f"no prediction {wanted} (or .png) in {self._choice.folder.name}")

    def close(self) -> None:
        pass


def _read_npy(path: Path, name: str) -> Map:
    called = f"its prediction {path.name}"
    try:
        with path.open("rb") as file:
            array = npy(file, name=name, called=called).squeeze()
    except OSError as error:
        raise SampleError(name, f"{called} cannot be read ({error.strerror})") from error
    if array.ndim != 2:
        raise SampleError(name, f"{called} holds {array.dtype} {array.shape}, not H×W numbers")
    return array.astype(np.float32)


def _read_png(path: Path, name: str) -> Map:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            pixels = np.asarray(picture)
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise SampleError(
            name, f"its prediction {path.name} is damaged ({str(error).rstrip('.')})"
        ) from error
    if pixels.ndim != 2 or pixels.dtype not in (np.uint16, np.int32):
        raise SampleError(name, f"its prediction {path.name} is no 16-bit grey PNG: a picture has no depths")
    return pixels.astype(np.float32) / np.float32(65535)


def _space_of_pngs(folder: Path) -> AlignmentSpace:
    """What the PNGs of a folder say. Raises DataError where they say nothing."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of predictions.")
    for path in sorted(folder.rglob("*.png")):
        try:
            with Image.open(path) as picture:
                said = picture.info.get("Space")
        except OSError:
            continue
        if said:
            return AlignmentSpace(said)
    spaces = ", ".join(AlignmentSpace)
    raise DataError(f"Nothing in {folder} says what its values are of depth: say --space, one of {spaces}.")
