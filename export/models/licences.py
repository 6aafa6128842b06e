"""What the name of a licence on a model card means for whoever uses the weights: no legal advice."""

from __future__ import annotations

import re

from training.weights.folder import UNSTATED

_FREE = re.compile(r"apache-2\.0|mit|isc|bsd-[23]-clause|cc0-1\.0|unlicense|cc-by-4\.0", re.IGNORECASE)
_NOT_COMMERCIAL = re.compile(r"non.?commercial|(^|-)nc(-|$)", re.IGNORECASE)
_RESPONSIBLE = re.compile(r"rail", re.IGNORECASE)


def warning_of(licence: str) -> str | None:
    """What to mind before weights under this licence are used; None: free use, with the licence's text."""
    if _NOT_COMMERCIAL.search(licence):
        return f"the weights are not for commercial use ({licence})"
    if _FREE.fullmatch(licence.strip()):
        return None
    if _RESPONSIBLE.search(licence):
        return f"the licence forbids some uses, and its restrictions have to be passed on ({licence})"
    if licence == UNSTATED:
        return "nothing states a licence, so nobody has said that you may use the weights"
    return f"the licence is none that is known here: read it ({licence})"
