"""In which form a depth map is wanted, and made.

png     image/png             16-bit grey, round(65535 × values), as `DepthMap.save` writes it
npy     application/x-npy     float32, the values bit for bit
json    application/json      KServe's inference response (v2): one FP32 output, its values row by row
"""

from __future__ import annotations

import enum
import urllib.parse
from collections.abc import Sequence

import msgspec

from fiffdepth_rt import files
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.serving.replies import OK, Refusal, Reply


class Form(str, enum.Enum):
    """The form of a reply; its value is what ?format= says."""

    PNG = "png"
    NPY = "npy"
    JSON = "json"


_TYPES = {
    Form.PNG: ("image/png",),
    Form.NPY: ("application/x-npy", "application/octet-stream"),
    Form.JSON: ("application/json",),
}


def wanted_form(query: bytes, accept: str) -> Form:
    """Query string and Accept header -> Form; PNG where neither says any.

    ?format= wins. Raises Refusal: 400 for another format or another parameter, 406 where Accept has none.
    """
    try:
        fields = urllib.parse.parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        fields = [("", "")]
    for name, value in fields:
        if name != "format" or value not in list(Form):
            raise Refusal(
                400,
                "no_such_parameter",
                "The one parameter of this address is format, which is png, npy or json.",
            )
    if fields:
        return Form(fields[-1][1])
    best = max(_weights(accept), key=lambda found: found[1], default=(Form.PNG, 1.0))
    if best[1] <= 0:
        raise Refusal(
            406, "no_such_format", "Accept image/png, application/x-npy or application/json; or say ?format=."
        )
    return best[0]


def _weights(accept: str) -> list[tuple[Form, float]]:
    """Accept header -> how much each form is wanted; nothing where it says nothing. RFC 9110, 12.5.1."""
    ranges: dict[str, float] = {}
    for one in accept.split(",") if accept.strip() else ():
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = min(max(float(parameter[2:]), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        ranges[name] = weight
    if not ranges:
        return []
    return [(form, max(_weight(ranges, media_type) for media_type in _TYPES[form])) for form in Form]


def _weight(ranges: dict[str, float], media_type: str) -> float:
    kind = media_type.partition("/")[0]
    names = (media_type, f"{kind}/*", "*/*")
    return next((ranges[name] for name in names if name in ranges), 0.0)


def make_reply(depth_map: DepthMap, form: Form, *, notes: Sequence[str]) -> Reply:
    """depth map -> reply 200, with what the values mean, and what was done to the photo, in its headers."""
    make = {Form.PNG: _png, Form.NPY: _npy, Form.JSON: _json}[form]
    labels = depth_map.labels(highest="65535" if form is Form.PNG else "1")
    said = {f"depth-{name.lower()}": value for name, value in labels.items()}
    if depth_map.model_sha256 is not None:
        said["depth-model-sha256"] = depth_map.model_sha256
    if notes:
        said["depth-notes"] = " ".join(notes)
    headers = (("content-type", _TYPES[form][0]), *((name, _as_header(said[name])) for name in said))
    return Reply(status=200, kind=OK, body=make(depth_map, labels), headers=headers)


def _as_header(text: str) -> str:
    """ASCII on one line: a model's name comes from a manifest, and a note may repeat what a file says."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _png(depth_map: DepthMap, labels: dict[str, str]) -> bytes:
    return files.png16(depth_map.values, text=labels)


def _npy(depth_map: DepthMap, _labels: dict[str, str]) -> bytes:
    return files.npy(depth_map.values)


def _json(depth_map: DepthMap, labels: dict[str, str]) -> bytes:
    output = {
        "name": "depth",
        "datatype": "FP32",
        "shape": depth_map.photo_hw,
        "parameters": {name.lower(): labels[name] for name in ("Space", "Convention")},
        "data": depth_map.values.ravel().tolist(),  # as doubles, whose digits give the same float32 back
    }
    return msgspec.json.encode({"model_name": depth_map.model or "", "outputs": [output]})
