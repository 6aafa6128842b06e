"""Rows of other people's tables, to stand beside ours. Each with its source, and the protocol it was made in.

In percent: (AbsRel, δ1) by set; DA-2K: accuracy; boundaries: F1 on Sintel, Spring and iBims, recall on the
rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

FIFFDEPTH_1 = "FiffDepth (ICCV 2025), table 1"
FIFFDEPTH_2 = "FiffDepth (ICCV 2025), table 2"
MARIGOLD_V2 = "Marigold V2 (SIGGRAPH Asia 2026), table 1 and README"
PPD = "its paper (NeurIPS 2025), by table 1 of Marigold V2's"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """figures: by the set's name, (AbsRel, δ1) or one number, as printed."""

    method: str
    source: str
    figures: Mapping[str, tuple[float, ...]]


def _table1(method: str, *numbers: float, source: str = FIFFDEPTH_1) -> Published:
    """AbsRel and δ1 on NYUv2, KITTI, ETH3D, ScanNet and DIODE."""
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    sets = ("nyuv2", "kitti", "eth3d", "scannet", "diode")
    return Published(method=method, source=source, figures=dict(zip(sets, pairs, strict=True)))


# The paper: "the same datasets and evaluation protocol as Marigold"; rows of earlier methods as it quotes
# them, aligned in each method's own space (disparity for MiDaS, DPT and Depth Anything).
MARIGOLD_ROWS = (
    _table1("DiverseDepth", 11.7, 87.5, 19.0, 70.4, 22.8, 69.4, 10.9, 88.2, 37.6, 63.1),
    _table1("MiDaS", 11.1, 88.5, 23.6, 63.0, 18.4, 75.2, 12.1, 84.6, 33.2, 71.5),
    _table1("LeReS", 9.0, 91.6, 14.9, 78.4, 17.1, 77.7, 9.1, 91.7, 27.1, 76.6),
    _table1("Omnidata v2", 7.4, 94.5, 14.9, 83.5, 16.6, 77.8, 7.5, 93.6, 33.9, 74.2),
    _table1("HDN", 6.9, 94.8, 11.5, 86.7, 12.1, 83.3, 8.0, 93.9, 24.6, 78.0),
    _table1("DPT", 9.8, 90.3, 10.0, 90.1, 7.8, 94.6, 8.2, 93.4, 18.2, 75.8),
    _table1("Marigold", 5.5, 96.4, 9.9, 91.6, 6.4, 96.0, 6.4, 95.1, 30.8, 77.3),
    _table1("e2e-ft", 5.2, 96.6, 9.6, 91.9, 6.4, 95.9, 5.8, 96.2, 30.2, 77.9),
    _table1("DepthFM", 6.5, 95.6, 8.3, 93.4, 7.8, 95.9, 6.8, 94.9, 24.5, 74.1),
    _table1("GenPercept", 5.6, 96.0, 13.0, 84.2, 7.0, 95.6, 6.2, 96.1, 30.7, 77.6),
    _table1("Lotus-D", 5.3, 96.7, 8.1, 92.8, 6.5, 95.3, 5.8, 96.3, 29.9, 78.1),
    _table1("Lotus-G", 5.4, 96.6, 8.5, 87.7, 6.2, 96.1, 6.0, 96.0, 29.4, 78.5),
    _table1("GeoWizard", 5.2, 96.6, 9.7, 92.1, 6.4, 96.1, 6.1, 95.3, 29.7, 79.2),
    _table1("Depth Anything v1-L", 4.3, 98.1, 7.6, 94.7, 12.7, 88.2, 4.2, 98.0, 27.7, 75.9),
    _table1("Depth Anything v2-L", 4.5, 97.9, 7.4, 94.6, 13.1, 86.5, 4.2, 97.8, 26.2, 75.4),
    _table1("FiffDepth", 4.4, 97.8, 7.3, 93.5, 7.1, 97.2, 4.2, 97.9, 23.9, 78.1),
)
# Of that table, the rows that their own authors made in this protocol; the others are quoted.
PPD_ROWS = (
    _table1("Pixel-Perfect Depth (512)", 4.3, 97.4, 8.0, 93.1, 4.5, 97.7, 4.5, 97.3, 7.0, 95.5, source=PPD),
    _table1("Pixel-Perfect Depth (1024)", 4.1, 97.7, 7.0, 95.5, 4.3, 98.0, 4.6, 97.2, 6.8, 95.9, source=PPD),
    _table1(
        "Marigold V2, Log-stage2", 3.6, 98.0, 5.4, 97.4, 2.8, 99.2, 3.7, 97.9, 5.2, 97.1, source=MARIGOLD_V2
    ),
)
DEPTH_ROWS: Mapping[str, tuple[Published, ...]] = {
    "marigold": MARIGOLD_ROWS,
    "ppd": PPD_ROWS,
    "median": (),
}
"""By protocol, and never in one column with another's."""


def _table2(method: str, *numbers: float) -> Published:
    sets = ("sintel", "spring", "ibims", "am2k", "p3m10k", "dis5k")
    figures = {name: (number,) for name, number in zip(sets, numbers, strict=True)}
    return Published(method=method, source=FIFFDEPTH_2, figures=figures)


# How affine maps became depth is not said there; nor which frames, nor at which size.
BOUNDARY_ROWS = (
    _table2("Depth Anything v2", 0.228, 0.056, 0.111, 0.107, 0.131, 0.056),
    _table2("Depth Pro", 0.409, 0.079, 0.176, 0.173, 0.168, 0.077),
    _table2("FiffDepth", 0.423, 0.086, 0.189, 0.176, 0.179, 0.091),
)
"""F1 and recall, 0 … 1."""

_DA2K = {
    "DiverseDepth": 79.3,
    "MiDaS": 80.6,
    "LeReS": 81.1,
    "Omnidata v2": 76.8,
    "HDN": 85.7,
    "DPT": 83.2,
    "Marigold": 86.8,
    "e2e-ft": 83.6,
    "DepthFM": 85.8,
    "GenPercept": 85.1,
    "Lotus-D": 86.8,
    "Lotus-G": 86.2,
    "GeoWizard": 88.1,
    "Depth Anything v1-L": 88.5,
    "Depth Anything v2-L": 97.1,
    "FiffDepth": 97.1,
}
DA2K_ROWS = tuple(
    Published(method=method, source=FIFFDEPTH_1, figures={"da2k": (accuracy,)})
    for method, accuracy in _DA2K.items()
)
