"""AbsRel and δ1 on held-out photos with metres, and the pictures that show how training goes."""

from __future__ import annotations

import logging
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from fiffdepth_rt.space import Space
from training.data.samples import MetricDataset, SampleError
from training.latents import decode, decode_photo, encode, photo_tensor
from training.metrics import NEAREST_M, score
from training.objective import Half, feed_forward, filtered

log = logging.getLogger("training")


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    unet: Any,
    vae: AutoencoderKL,
    prompt: torch.Tensor,
    held_out: MetricDataset,
    *,
    images: int,
    size_hw: tuple[int, int] | None,
    space: Space,
) -> dict[str, float]:
    """Marigold's protocol: least squares per image at the truth's size, errors averaged over images.

    images: at most so many, spread evenly over the set and shared among the ranks. size_hw: that the network
    sees; None: the photo's, rounded down to multiples of 8. Returns abs_rel, delta1 (0 … 1) and images, the
    number that could be used; the same on every rank.
    """
    chosen = np.linspace(0, len(held_out) - 1, min(images, len(held_out))).round().astype(int)
    sums = torch.zeros(3, device=accelerator.device)
    for index in chosen[accelerator.process_index :: accelerator.num_processes]:
        try:
            sample = held_out.metric(int(index))
        except SampleError as error:
            log.warning("Skipped in validation: %s", error)
            continue
        with accelerator.autocast():
            predicted = predict(unet, vae, prompt, sample.photo, size_hw)
        truth = np.where(sample.valid, sample.depth_m, 0).astype(np.float32)
        if np.count_nonzero(sample.valid) < 2:
            continue
        figures = score(predicted, truth, space=space, min_m=NEAREST_M, max_m=sample.farthest_m)
        sums += torch.tensor([figures.abs_rel, figures.delta1, 1.0], device=sums.device)
    abs_rel, delta1, count = accelerator.reduce(sums, "sum").tolist()
    return {"abs_rel": abs_rel / max(count, 1), "delta1": delta1 / max(count, 1), "images": count}


def predict(
    unet: Any,
    vae: AutoencoderKL,
    prompt: torch.Tensor,
    photo: NDArray[np.uint8],
    size_hw: tuple[int, int] | None,
) -> NDArray[np.float32]:
    """Photo uint8 H×W×3 -> depth picture float32 H×W in [-1, 1], computed at size_hw."""
    height, width = photo.shape[:2]
    inner = size_hw or (height // 8 * 8, width // 8 * 8)
    small = cv2.resize(photo, inner[::-1], interpolation=cv2.INTER_AREA)
    pixels = photo_tensor(small[None].astype(np.uint8, copy=False)).to(vae.device)
    picture = decode(vae, feed_forward(unet, encode(vae, pixels), prompt))[0, 0].cpu().numpy()
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


@torch.no_grad()
def picture_rows(
    unet: Any, vae: AutoencoderKL, prompt: torch.Tensor, synthetic: Half, real: Half | None
) -> dict[str, torch.Tensor]:
    """The first row of each half -> photo, target, d0 (and d−1) side by side, 3×H×W in [0, 1], by name."""
    shown = {}
    for name, half in (("synthetic", synthetic), ("real", real)):
        if half is None:
            continue
        d0 = feed_forward(unet, half.image[:1], prompt)
        latents = [half.depth[:1], d0, *([filtered(unet, d0, prompt)] if name == "real" else [])]
        photo = decode_photo(vae, half.image[:1]).clamp(-1, 1)
        pictures = [photo, *(decode(vae, latent).expand(-1, 3, -1, -1) for latent in latents)]
        shown[name] = (torch.cat(pictures, 3)[0] + 1) / 2
    return shown
