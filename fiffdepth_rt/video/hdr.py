"""HDR -> SDR: colours of a high-dynamic-range video as a table that FFmpeg looks pixels up in.

A model has learnt from photos, and a photo is sRGB. BT.2020 R′G′B′ coded by PQ or HLG becomes sRGB so:

    1  R′G′B′ -> light in cd/m²     PQ: SMPTE ST 2084; HLG: BT.2100's inverse OETF and OOTF for a display of
                                    1000 cd/m² (system gamma 1.2)
    2  203 cd/m² becomes 1          the white of a page in HDR (BT.2408)
    3  BT.2020 -> BT.709            the matrix of BT.2087; what lies outside is cut
    4  1000 cd/m² and more become 1 FFmpeg's `mobius` curve over the largest of R, G, B, linear below 0.3: the
                                    three change by one factor, so hues stay
    5  sRGB's curve

FFmpeg's own filters need zscale for steps 1 to 3, and PyAV's wheels have no zscale. So numpy fills a table of
64³ colours once, and FFmpeg's `haldclut` looks every pixel up in it (tetrahedral interpolation).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PQ, HLG = 16, 18
"""What FFmpeg calls the two transfer functions (AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67)."""

_WHITE_CD_M2 = 203.0
_PEAK_CD_M2 = 1000.0
_KNEE = 0.3
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)

Colors = npt.NDArray[np.float64]


def to_srgb(coded: Colors, transfer: int) -> Colors:
    """BT.2020 R′G′B′ in [0, 1], coded by `transfer` (PQ or HLG) -> sRGB in [0, 1]; float64 …×3."""
    light = (_pq_to_light(coded) if transfer == PQ else _hlg_to_light(coded)) / _WHITE_CD_M2
    light = np.clip(light @ _BT2020_TO_BT709.T, 0, None)
    largest = light.max(axis=-1, keepdims=True)
    light *= np.divide(_roll_off(largest), largest, out=np.ones_like(largest), where=largest > 0)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(srgb)


def table(transfer: int) -> npt.NDArray[np.uint16]:
    """The table as `haldclut` wants it (level 8): uint16 512×512×3, red changes fastest, blue slowest."""
    steps = np.linspace(0, 1, 64)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    srgb = to_srgb(np.stack([red, green, blue], axis=-1), transfer)
    return np.rint(srgb * 65535).astype(np.uint16).reshape(512, 512, 3)


def _pq_to_light(coded: Colors) -> Colors:
    """SMPTE ST 2084's EOTF, in cd/m²."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = coded ** (1 / m2)
    return np.asarray(10_000 * (np.clip(root - c1, 0, None) / (c2 - c3 * root)) ** (1 / m1))


def _hlg_to_light(coded: Colors) -> Colors:
    """BT.2100's inverse OETF, then its OOTF, in cd/m²."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return np.asarray(_PEAK_CD_M2 * luminance[..., np.newaxis] ** 0.2 * scene)


def _roll_off(light: Colors) -> Colors:
    """FFmpeg's `tonemap=mobius`: itself up to the knee, 1 at the peak and beyond."""
    peak = _PEAK_CD_M2 / _WHITE_CD_M2
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    curve = (b**2 + 2 * b * _KNEE + _KNEE**2) / (b - a) * (light + a) / (light + b)
    return np.minimum(np.where(light <= _KNEE, light, curve), 1)
