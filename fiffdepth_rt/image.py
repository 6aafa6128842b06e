"""photo -> image on the grid, and the way back. Shared by the runtime, the export and the training.

A grid is what the engines take: height and width in multiples of 64. The photo keeps its aspect and is
centred on the grid; its border pixels are repeated over the rest (zeros would be seen as a dark wall).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError, PhotoTooLargeError

MIN_SIDE = 16
MAX_PIXELS = 100_000_000

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Color = Literal["rgb", "bgr"]


def as_rgb(image: Any, *, color: Color = "rgb") -> Pixels:
    """photo -> uint8 H×W×3 RGB, C-contiguous; the caller's own memory where it is that already.

    - uint8 arrays H×W×3, H×W×4 (alpha is dropped), H×W or H×W×1 (grey, three equal channels), any strides
    - uint16 arrays of these shapes: divided by 257
    - float arrays of these shapes, finite and in [0, 1]: times 255; both rounded to the nearest
    - arrays of other whole numbers, and lists, where all of them are in [0, 255]: taken as uint8
    - other arrays on the host with __dlpack__, such as torch's, of these dtypes and shapes
    - PIL images of any mode, in RGB whatever `color` says; an EXIF orientation is not applied. Transparent
      pixels go through `fill_transparent`

    `color` is the order of the first three channels. Raises ImageError for anything else, for sides below
    MIN_SIDE and for more than MAX_PIXELS pixels.
    """
    if color not in _TO_RGB:
        raise ImageError(f"color={color!r} is not known: say 'rgb', or 'bgr' for pixels from OpenCV.")
    if _is_pil(image):
        check_extent(image.height, image.width)
        image, color = _pil_pixels(image), "rgb"
    if not isinstance(image, np.ndarray) and hasattr(image, "__dlpack__"):
        image = _host_array(image)
    if isinstance(image, (list, tuple)):
        image = _array_of(image)
    if image is None:
        raise ImageError(
            "A photo is an array, and this is None: what cv2.imread gives for a file that it cannot read. "
            "Pass the file's path: the error then says what is wrong with it."
        )
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"A photo is a numpy array or a PIL image, not a {type(image).__qualname__}. Convert it with "
            "numpy.asarray. A file goes to Depth.infer by its path, an array on a GPU to Depth.infer_on_gpu."
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or image.shape[2:] not in _TO_RGB[color]:
        raise ImageError(
            f"An array of shape {image.shape} is no photo: pass height×width×3, "
            "height×width×4 or height×width."
        )
    check_extent(*image.shape[:2])
    pixels = np.ascontiguousarray(_as_uint8(image))
    conversion = _TO_RGB[color][image.shape[2:]]
    return pixels if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a photo lies on a grid. All in px, (height, width); `top`, `left`: where the content starts."""

    photo_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    content_hw: tuple[int, int]
    top: int
    left: int


def grid_for(photo_hw: tuple[int, int], *, size: int, multiple: int = 64) -> tuple[int, int]:
    """photo's (height, width) -> the grid's: the longer side is `size`, both are rounded up to `multiple`."""
    scale = size / max(photo_hw)
    height, width = (max(1, round(side * scale)) for side in photo_hw)
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def fit(photo_hw: tuple[int, int], grid_hw: tuple[int, int]) -> Fit:
    """The largest content of the photo's aspect that the grid holds, centred."""
    scale = min(grid_hw[0] / photo_hw[0], grid_hw[1] / photo_hw[1])
    height, width = (
        min(grid, max(1, round(side * scale))) for side, grid in zip(photo_hw, grid_hw, strict=True)
    )
    return Fit(
        photo_hw=photo_hw,
        grid_hw=grid_hw,
        content_hw=(height, width),
        top=(grid_hw[0] - height) // 2,
        left=(grid_hw[1] - width) // 2,
    )


def to_grid(photo_rgb: Pixels, fitted: Fit) -> Pixels:
    """photo -> image: uint8 H×W×3 -> uint8 h×w×3, resized and replicate-padded."""
    # Cubic when enlarging: a photo below the grid's size is soft already, linear would soften it further.
    content = _resize(photo_rgb, fitted.content_hw, enlarging=cv2.INTER_CUBIC)
    below = fitted.grid_hw[0] - fitted.top - fitted.content_hw[0]
    right = fitted.grid_hw[1] - fitted.left - fitted.content_hw[1]
    padded = cv2.copyMakeBorder(content, fitted.top, below, fitted.left, right, cv2.BORDER_REPLICATE)
    return np.asarray(padded, dtype=np.uint8)


def to_photo(depth_hw: npt.NDArray[np.float32], fitted: Fit) -> npt.NDArray[np.float32]:
    """depth map on the grid -> depth map of the photo: float32 h×w -> float32 H×W, both in [0, 1]."""
    (height, width), top, left = fitted.content_hw, fitted.top, fitted.left
    content = depth_hw[top : top + height, left : left + width]
    # Linear when enlarging: cubic would overshoot at depth edges, and leave [0, 1].
    depth = _resize(content, fitted.photo_hw, enlarging=cv2.INTER_LINEAR)
    if depth is content:
        return np.array(content)  # the caller's own, and not a view that keeps the grid's padding alive
    # Weights may sum to 1 plus a rounding. In place: a second array of a camera's size costs more to allocate
    # than all of the arithmetic.
    return np.asarray(np.clip(depth, 0, 1, out=depth), dtype=np.float32)


def _resize(pixels: Array, hw: tuple[int, int], *, enlarging: int) -> Array:
    """Area means when shrinking, since sampling would alias thin structures."""
    if pixels.shape[:2] == hw:
        return pixels
    shrinking = hw[0] <= pixels.shape[0] and hw[1] <= pixels.shape[1]
    return np.asarray(cv2.resize(pixels, hw[::-1], interpolation=cv2.INTER_AREA if shrinking else enlarging))


# By color, then by the shape beyond height and width.
_TO_RGB: dict[str, dict[tuple[int, ...], int | None]] = {
    "rgb": {(): cv2.COLOR_GRAY2RGB, (3,): None, (4,): cv2.COLOR_RGBA2RGB},
    "bgr": {(): cv2.COLOR_GRAY2RGB, (3,): cv2.COLOR_BGR2RGB, (4,): cv2.COLOR_BGRA2RGB},
}


def _as_uint8(image: Array) -> Pixels:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return np.asarray((image.astype(np.uint32) + 128) // 257, dtype=np.uint8)
    if image.dtype.kind not in "iuf":
        raise ImageError(f"Pixels of {image.dtype} are none: pass uint8, uint16, or floats in [0, 1].")
    lowest, highest = image.min(), image.max()
    if image.dtype.kind != "f":
        if lowest >= 0 and highest <= 255:
            return image.astype(np.uint8)
        raise ImageError(
            f"Pixels of {image.dtype} have no known range, and these go from {lowest} to {highest}: pass "
            "uint8, uint16, or floats in [0, 1]."
        )
    if not (lowest >= 0 and highest <= 1):  # also where either is NaN
        raise ImageError(
            f"Float pixels range from {lowest} to {highest}: they must be finite and in [0, 1]. "
            "Divide by their maximum value, or pass uint8."
        )
    return np.asarray(np.rint(image.astype(np.float32) * np.float32(255)), dtype=np.uint8)


def check_extent(height: int, width: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raises ImageError for a side below MIN_SIDE, PhotoTooLargeError for more than `max_pixels` pixels."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"A photo of {height}×{width} px is too small: both sides need at least {MIN_SIDE} px."
        )
    if height * width > max_pixels:
        raise PhotoTooLargeError(
            f"A photo of {height}×{width} px is too large: at most {max_pixels / 10**6:g} million pixels. "
            "Shrink it first."
        )


def _host_array(image: Any) -> Array:
    """An array of another library -> the same memory as numpy sees it."""
    try:
        return np.from_dlpack(image)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ImageError(
            f"numpy cannot read this {type(image).__qualname__} ({error}). An array on a GPU goes to "
            "Depth.infer_on_gpu, with the tensorrt backend; else bring it to the host, such as with "
            "x.detach().cpu()."
        ) from error


def _is_pil(image: object) -> bool:
    """By the name of its class, so that Pillow is not imported for it."""
    return any(cls.__module__.split(".")[0] == "PIL" for cls in type(image).__mro__)


def _array_of(rows: Any) -> Array:
    try:
        return np.array(rows)
    except ValueError as error:  # rows of different lengths
        raise ImageError(f"This list is no photo ({error}): pass a numpy array.") from error


def _pil_pixels(image: Any) -> Array:
    """PIL image -> array that `as_rgb` takes. Decodes the file, if that is still to be done."""
    try:
        if image.mode == "I":  # 32 bits, which hold 16 where older Pillow opens 16-bit grey files
            values = np.asarray(image)
            return values.astype(np.uint16) if values.min() >= 0 and values.max() <= 65535 else values
        if image.mode == "F" or image.mode.startswith("I;16"):
            return np.asarray(image)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            return fill_transparent(np.asarray(image.convert("RGBA")))
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise ImageError(f"The image cannot be decoded ({error}). Save it again.") from error


def fill_transparent(pixels: Array) -> Array:
    """RGBA, H×W×4 -> H×W×3 of the same dtype: the alpha is dropped, and holes without a colour are filled.

    Most transparent pixels have a colour below, which is kept. Where the fully transparent ones all have the
    same (a cut-out on black), it is no part of the photo, and a model would see a dark wall. Each of them
    then takes the colour of the nearest pixel that is not transparent, as the border is repeated on the grid.
    """
    colors, holes = pixels[:, :, :3], pixels[:, :, 3] == 0
    if not holes.any() or holes.all():
        return colors
    below = colors[holes]
    if (below != below[0]).any():
        return colors
    _, nearest = cv2.distanceTransformWithLabels(
        holes.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.empty((int(nearest.max()) + 1, 3), colors.dtype)
    by_label[nearest[~holes]] = colors[~holes]
    return by_label[nearest]
