"""A folder's files -> the photos among them, and what else there is, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.results import RESULT_ENDINGS


@dataclass(frozen=True, kw_only=True)
class Among:
    """photos: names of those that can be read here, sorted. others: the rest by kind, in words, or ""."""

    photos: list[str]
    others: str


def photos_among(names: Iterable[str], *, results_too: bool = False) -> Among:
    """Names of files -> the photos among them, by their endings, and none that is a result of a run.

    results_too: whoever asked has named such files: many a camera writes 000012_color.png too.
    """
    photos, others = [], Counter[str]()
    for name in sorted(names):
        ending = PurePosixPath(name).suffix
        format_ = PHOTO_ENDINGS.get(ending.lower())
        if not results_too and name.endswith(RESULT_ENDINGS):
            others["results of an earlier run"] += 1
        elif format_ is None:
            others[f"*{ending}" if ending else "without an ending"] += 1
        elif not format_.readable:
            others[f"*{ending} (to read it: {format_.cure})"] += 1
        else:
            photos.append(name)
    return Among(photos=photos, others=", ".join(f"{n} {kind}" for kind, n in others.most_common(8)))
