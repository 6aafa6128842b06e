"""Promises of fiffdepth_rt.compat, held against transformers' own pipeline with a tiny random model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from fiffdepth_rt import Depth
from fiffdepth_rt.compat import DepthEstimationPipeline

pytestmark = pytest.mark.soak  # torch and transformers take longer to import than all else here


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        is_hybrid=False,
    )  # fmt: skip
    processor = transformers.DPTImageProcessor(size={"height": 32, "width": 32})
    return transformers.pipeline(
        "depth-estimation",
        model=transformers.DPTForDepthEstimation(config).eval(),
        image_processor=processor,
        device="cpu",
    )


def kinds(found: dict[str, Any]) -> dict[str, Any]:
    """All that a caller may rely on but the values."""
    predicted, picture = found["predicted_depth"], found["depth"]
    return {
        "keys": set(found),
        "tensor": (type(predicted), predicted.dtype, tuple(predicted.shape), predicted.device.type),
        "picture": (type(picture), picture.mode, picture.size, picture.getextrema()),
    }


def test_results_are_of_the_same_kinds(theirs: Any, depth: Depth, photo: np.ndarray) -> None:
    ours = DepthEstimationPipeline(depth)
    picture = Image.fromarray(photo)
    assert kinds(ours(picture)) == kinds(theirs(picture))
    one, other = ours([picture, picture]), theirs([picture, picture])
    assert type(one) is type(other) and list(map(kinds, one)) == list(map(kinds, other))
    assert type(ours([picture])) is type(theirs([picture]))
    assert [kinds(found) for found in ours(one for one in [picture])] == [
        kinds(found) for found in theirs(one for one in [picture])
    ]


def test_the_picture_is_made_of_the_tensor_in_the_same_way(
    theirs: Any, depth: Depth, photo: np.ndarray
) -> None:
    """Larger values are brighter, from the least to the greatest, in both."""
    for estimate in (theirs, DepthEstimationPipeline(depth)):
        found = estimate(Image.fromarray(photo))
        values = found["predicted_depth"].numpy()
        levels = (values - values.min()) / (values.max() - values.min()) * 255
        np.testing.assert_array_equal(np.asarray(found["depth"]), levels.astype(np.uint8))
