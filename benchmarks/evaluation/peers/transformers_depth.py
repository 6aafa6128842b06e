"""Depth estimators of transformers: Depth Anything V1/V2, DPT/MiDaS, ZoeDepth, GLPN, Depth Pro.

The photo goes through the model's own processor, and its map back to the photo's size by the processor's own
post-processing, as `pipeline("depth-estimation")` does it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from benchmarks.evaluation.methods import Map, Photo
from benchmarks.evaluation.peers import name_of, weights_sha256
from fiffdepth_rt.machine import installed
from training.alignment import AlignmentSpace
from training.data.samples import DataError

SPACES = {
    "depth_anything": AlignmentSpace.DISPARITY,  # depth where its configuration says "metric"
    "dpt": AlignmentSpace.DISPARITY,
    "zoedepth": AlignmentSpace.DEPTH,
    "glpn": AlignmentSpace.DEPTH,
    "depth_pro": AlignmentSpace.DEPTH,  # its post-processing inverts what the network says
}
"""By config.model_type: what the post-processed map is of depth."""

NEED_TORCHVISION = {"zoedepth": "ZoeDepth", "depth_pro": "Depth Pro"}
"""By config.model_type: those whose processors call torchvision from transformers 5 on."""


def load(which: str, *, space: AlignmentSpace | None) -> TransformersDepth:
    """Raises DataError: no such model, no depth estimator, weights missing, a space that nothing says, or a
    model that needs torchvision where it cannot be imported."""
    folder = Path(which).expanduser()
    source = str(folder) if folder.is_dir() else which
    with _named(which):
        kind = AutoConfig.from_pretrained(source).model_type
    if kind in NEED_TORCHVISION:
        _require_torchvision(NEED_TORCHVISION[kind])
    with _named(which):
        model, loaded = AutoModelForDepthEstimation.from_pretrained(
            source, output_loading_info=True, use_safetensors=True
        )
        processor = AutoImageProcessor.from_pretrained(source)
    if loaded["missing_keys"] or loaded["mismatched_keys"]:
        first = sorted(map(str, loaded["missing_keys"] | loaded["mismatched_keys"]))[0]
        raise DataError(f"{which} does not hold all weights ({first}, ...): download it again.")
    known = SPACES.get(kind)
    if kind == "depth_anything" and getattr(model.config, "depth_estimation_type", "relative") == "metric":
        known = AlignmentSpace.DEPTH
    output = space or known
    if output is None:
        raise DataError(f"Nothing says what a model of the kind {kind} puts out: say --space.")
    return TransformersDepth(which, model, processor, space=output)


@contextlib.contextmanager
def _named(which: str) -> Iterator[None]:
    """What transformers raises for a model that it cannot open, as a DataError with its first line."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise DataError(
            f"{which} is no depth estimator that transformers {transformers.__version__} opens: {lines[0]} A "
            "model of another library is scored by its maps in files: --predictions DIR --space SPACE."
        ) from error


def _require_torchvision(model: str) -> None:
    """Raises DataError where the model's processor calls torchvision, and it is not there or does not fit
    torch."""
    if int(transformers.__version__.split(".")[0]) < 5:
        return
    try:
        importlib.import_module("torchvision.transforms.v2.functional")
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DataError(
            f"{model} of transformers {transformers.__version__} needs torchvision, which cannot be imported "
            f"here ({str(error).splitlines()[0]}): install the one that belongs to torch "
            f"{torch.__version__}, from the index that torch came from (pip install torchvision)."
        ) from error


class TransformersDepth:
    """A Method."""

    def __init__(self, which: str, model: Any, processor: Any, *, space: AlignmentSpace) -> None:
        self.name, self.space = name_of(which), space
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._processor = processor
        sha256 = weights_sha256(which, getattr(model.config, "_commit_hash", None))
        self.key = sha256[:16]
        self.choices: dict[str, Any] = {
            "model": self.name,
            "model_sha256": sha256,
            "library": "transformers",
            "class": type(model).__name__,
            "processor": type(processor).__name__,
            "device": self._device,
            "precision": str(model.dtype).removeprefix("torch."),
            "versions": installed(["transformers", "torch"]),
            "output_space": str(space),
        }

    @torch.inference_mode()
    def predict(self, photo: Photo) -> Map:
        hw = (photo.pixels.shape[0], photo.pixels.shape[1])
        inputs = self._processor(images=photo.pixels, return_tensors="pt", input_data_format="channels_last")
        outputs = self._model(**inputs.to(self._device))
        sizes: dict[str, Any] = {"target_sizes": [hw]}
        if self._model.config.model_type == "zoedepth":  # it undoes the padding of its processor
            sizes["source_sizes"] = [hw]
        (found,) = self._processor.post_process_depth_estimation(outputs, **sizes)
        return np.asarray(found["predicted_depth"].float().cpu().numpy(), np.float32)

    def close(self) -> None:
        pass
