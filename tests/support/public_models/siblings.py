"""Each sibling's own computation, built out of diffusers' classes.

The siblings' steps are written down here as their repositories have them, with none of the export's own code.
Each takes a checkpoint and uint8 [B, h, w, 3], and gives depth [B, h, w] before the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler

from training.weights.ours import Checkpoint


def _pixels(image: Any) -> torch.Tensor:
    return torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def fiffdepth(made: Checkpoint, image: Any) -> torch.Tensor:
    """yunpeng1998/FiffDepth, direct_pipeline.py: one call at t = 0, the raw output is the depth latent."""
    latent = made.vae.encode(_pixels(image)).latent_dist.mean * 0.18215
    prompt = made.prompt_embedding.repeat(len(image), 1, 1)
    latent = made.unet(latent, torch.zeros(len(image)).long(), encoder_hidden_states=prompt).sample
    return made.vae.decode(latent / 0.18215).sample.mean(dim=1)


def genpercept(made: Checkpoint, image: Any) -> torch.Tensor:
    """aim-uofa/GenPercept, genpercept_pipeline.py: v-prediction at t = 1 of a schedule without signal."""
    scheduler = DDIMScheduler(
        beta_start=1.0,
        beta_end=1.0,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    scheduler.set_timesteps(1000)
    latent = made.vae.encode(_pixels(image)).latent_dist.mean * 0.18215
    prompt = made.prompt_embedding.repeat(len(image), 1, 1)
    raw = made.unet(latent, 1, encoder_hidden_states=prompt).sample
    latent = scheduler.step(raw, 1, latent).pred_original_sample
    return made.vae.decode(latent / 0.18215).sample.mean(dim=1)


def lotus_d(made: Checkpoint, image: Any) -> torch.Tensor:
    """EnVision-Research/Lotus, infer.py and pipeline.py: t = 999 and the task (1, 0) as sines and cosines."""
    task = torch.tensor([1.0, 0.0])[None].repeat(len(image), 1)
    task = torch.cat([torch.sin(task), torch.cos(task)], dim=-1)
    latent = made.vae.encode(_pixels(image)).latent_dist.mean * 0.18215
    prompt = made.prompt_embedding.repeat(len(image), 1, 1)
    latent = made.unet(latent, 999, encoder_hidden_states=prompt, class_labels=task).sample
    return made.vae.decode(latent / 0.18215).sample.mean(dim=1)


def marigold_e2e(made: Checkpoint, image: Any) -> torch.Tensor:
    """VisualComputingInstitute/diffusion-e2e-ft, marigold_pipeline.py: zeros for noise, one trailing step."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(1)
    (timestep,) = scheduler.timesteps
    latent = made.vae.encode(_pixels(image)).latent_dist.mean * 0.18215
    zeros = torch.zeros_like(latent)
    prompt = made.prompt_embedding.repeat(len(image), 1, 1)
    raw = made.unet(torch.cat([latent, zeros], dim=1), timestep, encoder_hidden_states=prompt).sample
    latent = scheduler.step(raw, timestep, zeros).pred_original_sample
    return made.vae.decode(latent / 0.18215).sample.mean(dim=1)


SIBLINGS: Mapping[str, Callable[[Checkpoint, Any], torch.Tensor]] = {
    # by recipe
    "fiffdepth": fiffdepth,
    "genpercept": genpercept,
    "genpercept-disparity": genpercept,
    "lotus-d": lotus_d,
    "lotus-d-disparity": lotus_d,
    "marigold-e2e": marigold_e2e,
}
