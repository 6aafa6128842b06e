"""Triton's Python backend -> Depth: what the model.py of a model repository (triton.py) imports.

image    UINT8 H×W×3 RGB  ->  depth    FP32 H×W, as DepthMap.values
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiffdepth_rt import telemetry
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import ImageError, SizeError

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size

_log = logging.getLogger(__name__)


class TritonPythonModel:
    """One instance of the model. Its methods are called by Triton, one call at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine directory of this model's version. Triton says what that raises."""
        import triton_python_backend_utils

        telemetry.switch_off()
        self._triton = triton_python_backend_utils
        said = json.loads(args["model_config"])["parameters"]
        asked = {key: value["string_value"] for key, value in said.items()}
        device = "cpu"
        if args["model_instance_kind"] == "GPU":
            device = f"cuda:{args['model_instance_device_id']}"
        self._depth = Depth(
            Path(args["model_repository"], args["model_version"], "engine"),
            device=device,
            backend=asked.get("backend", "auto"),
            precision=asked.get("precision"),
            size=_size(asked["size"]) if "size" in asked else None,
            threads=int(asked["threads"]) if "threads" in asked else None,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; of what cannot be computed, an error."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Free the engine."""
        self._depth.close()

    def _respond(self, request: Any) -> Any:
        triton = self._triton
        try:
            photo = triton.get_input_tensor_by_name(request, "image").as_numpy()
            values = self._depth.infer(photo).values
        except (ImageError, SizeError) as error:
            return triton.InferenceResponse(
                error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG)
            )
        except Exception:
            _log.exception("A photo failed.")
            return triton.InferenceResponse(
                error=triton.TritonError("The model failed on this photo; the server's log says why.")
            )
        return triton.InferenceResponse(output_tensors=[triton.Tensor("depth", values)])


def _size(said: str) -> Size:
    """ "512" -> 512; "384x512" -> (384, 512)"""
    first, _, second = said.partition("x")
    return (int(first), int(second)) if second else int(first)
