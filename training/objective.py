"""The paper's objective: equations 1 to 7, one function each, on latents or depth pictures alike (B×C×h×w).

    photo's latent  ──ε(·, t = 0)──►  d0  (1)   supervised on synthetic pictures          (5), (6)
    d0              ──ε(·, t = −1)─►  d−1 (4)   supervised by the teacher on real photos  (5), (6)
    blended latent, noised  (2)  ──ε(·, t)──►  v, t = 1 … T − 1, synthetic pictures alone (3)

Legend: B batch, C channels, h×w latent or picture. `valid` is bool B×1×h×w, None: all of it. Every term is a
sum over valid elements (pixels × channels) divided by their count. The count may be that of a larger batch
of which this one is a part: then the terms of all parts, and their gradients, add up to those of the whole.

Where the paper leaves a choice: it writes L_k as a squared norm, a sum. Here L_k is a mean like L_MAE and
L_GM, and λ_k = 0.2 weighs means: against a sum over a latent of 4×h×w, L_k counts 1 / (4·h·w) as much.
Latents without a valid depth are left out of L_k too, where their depth is in the blend. ᾱ is the base's own,
or Stable Diffusion's (√β linear, 0.00085 to 0.012), not that of the original DDPM (β linear, 0.0001 to 0.02).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from diffusers import DDPMScheduler

FILTER_STEP = -1
"""The timestep of the learnt filter: a number for the sinusoid of the time embedding, never an index."""

STABLE_DIFFUSION: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
_OPTIONAL = ("trained_betas", "rescale_betas_zero_snr")
"""What else of a scheduler's configuration shapes ᾱ."""


# ---- eq. 1 to 4: what the network is asked ----


def feed_forward(unet: Any, latent: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """latent -> depth latent: d0 = ε(x0, t = 0)  (eq. 1). The raw output, no scheduler, no sign flip.

    unet: diffusers' UNet2DConditionModel or a wrapper of it; prompt: [1, tokens, channels]. float32 B×C×h×w.
    """
    return _ask(unet, latent, torch.zeros(len(latent), dtype=torch.long), prompt)


def filtered(unet: Any, d0: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """depth latent -> depth latent without fine detail: d−1 = ε(d0, t = −1)  (eq. 4); gradients reach d0."""
    return _ask(unet, d0, torch.full((len(d0),), FILTER_STEP, dtype=torch.long), prompt)


def blend(image_latent: torch.Tensor, depth_latent: torch.Tensor, gamma: float = 0.5) -> torch.Tensor:
    """b0 = γ x0 + (1 − γ) d0  (eq. 2, first line)."""
    return gamma * image_latent + (1 - gamma) * depth_latent


class Diffusion:
    """The noise schedule: ᾱ_t for t = 0 … T − 1, float64 on the CPU.

    Timesteps are long tensors [B]. One outside 0 … T − 1 raises IndexError: −1 would
    otherwise mean the last step, silently.
    """

    def __init__(self, alphas_cumprod: torch.Tensor) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().double().cpu()

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any] | None = None) -> Diffusion:
        """From a diffusers scheduler configuration; None: the one of Stable Diffusion, DDPM with T = 1000."""
        config = {**STABLE_DIFFUSION, **(scheduler_config or {})}
        schedule = {key: config[key] for key in (*STABLE_DIFFUSION, *_OPTIONAL) if key in config}
        return cls(DDPMScheduler(**schedule).alphas_cumprod)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def random_steps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """t uniform in 1 … T − 1, long [count]: t = 0 belongs to the feed-forward step."""
        return torch.randint(1, self.steps, (count,), generator=generator)

    def noisy(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = √ᾱ_t x0 + √(1 − ᾱ_t) ε  (eq. 2, second line)."""
        signal, noise_share = self._shares(t, x0)
        return signal * x0 + noise_share * noise

    def velocity(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """v_t = √ᾱ_t ε − √(1 − ᾱ_t) x0  (eq. 3, first line)."""
        signal, noise_share = self._shares(t, x0)
        return signal * noise - noise_share * x0

    def _shares(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t), each B×1×1×1 of `like`'s dtype and device."""
        if ((t < 0) | (t >= self.steps)).any():
            raise IndexError(f"Timesteps {t.tolist()} leave the noise schedule's 0 … {self.steps - 1}.")
        alpha = self.alphas_cumprod[t.cpu()].view(-1, 1, 1, 1)
        return alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)


# ---- eq. 5, 6 and the square of eq. 3: sums over valid elements, divided by a count ----


def mae(
    target: torch.Tensor,
    predicted: torch.Tensor,
    valid: torch.Tensor | None = None,
    *,
    count: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """L_MAE = 1/M Σ |d_i − d*_i|  (eq. 5). M: the valid elements, or `count`."""
    return _divide(_residual(target, predicted, valid).abs().sum(), _count(target, valid, count))


def gradient_matching(
    target: torch.Tensor,
    predicted: torch.Tensor,
    valid: torch.Tensor | None = None,
    *,
    scales: int = 1,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_GM = 1/M Σ (|∇x R_i| + |∇y R_i|), R = d − d*  (eq. 6).

    Forward differences, only where both neighbours are valid. M: the valid elements. scales > 1: the sum of
    the same at every 2nd, 4th … pixel (MiDaS), each scale with its own M. counts: [scales], instead of M.
    """
    total = torch.zeros((), device=predicted.device)
    for scale in range(scales):
        step = 2**scale
        mask = None if valid is None else valid[..., ::step, ::step]
        residual = _residual(target[..., ::step, ::step], predicted[..., ::step, ::step], mask)
        along_x = residual[..., :, 1:] - residual[..., :, :-1]
        along_y = residual[..., 1:, :] - residual[..., :-1, :]
        if mask is not None:
            along_x = along_x.where(mask[..., :, 1:] & mask[..., :, :-1], 0)
            along_y = along_y.where(mask[..., 1:, :] & mask[..., :-1, :], 0)
        count = _count(residual, mask, None if counts is None else counts[scale])
        total = total + _divide(along_x.abs().sum() + along_y.abs().sum(), count)
    return total


def depth_loss(
    target: torch.Tensor, predicted: torch.Tensor, *, gradient_weight: float = 0.5
) -> torch.Tensor:
    """L_MAE + λ_GM · L_GM, the t = 0 term of eq. 7 with λ_MAE = 1 and λ_GM = 0.5."""
    return mae(target, predicted) + gradient_weight * gradient_matching(target, predicted)


def squared_error(
    target: torch.Tensor,
    predicted: torch.Tensor,
    valid: torch.Tensor | None = None,
    *,
    count: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """1/M ‖v − v*‖²  (eq. 3, second line). M: the valid elements, or `count`."""
    return _divide(_residual(target, predicted, valid).square().sum(), _count(target, valid, count))


def latent_valid(valid: torch.Tensor) -> torch.Tensor:
    """bool B×1×H×W -> bool B×1×H/8×W/8: a latent is valid where all of its 8×8 pixels are (Marigold)."""
    return torch.nn.functional.max_pool2d((~valid).float(), 8) == 0


# ---- eq. 7 ----


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The paper's method; other values of the first three are the ablations of its Fig. 7.

    trajectory: "blend" (eq. 2), "image" (b0 = x0, no depth in it), "off" (no L_k).
    teacher: "filter" (supervises d−1), "d0" (supervises d0), "off" (no real photos).
    blend_depth: what stands for d0 in eq. 2: the "truth", or the network's "prediction", detached.
    gradient_scales: 1 as eq. 6 writes it, 4 as MiDaS does.
    gamma: share of the photo's latent in the blend (eq. 2).
    lambda_mae, lambda_gm, lambda_k: weights of eq. 5, 6 and 3 in eq. 7.
    """

    trajectory: str = "blend"
    teacher: str = "filter"
    blend_depth: str = "truth"
    gradient_scales: int = 1
    gamma: float = 0.5
    lambda_mae: float = 1.0
    lambda_gm: float = 0.5
    lambda_k: float = 0.2

    def __post_init__(self) -> None:
        for name, allowed in (
            ("trajectory", ("blend", "image", "off")),
            ("teacher", ("filter", "d0", "off")),
            ("blend_depth", ("truth", "prediction")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} = {value!r}: one of {', '.join(map(repr, allowed))}.")
        if self.gradient_scales < 1:
            raise ValueError(f"gradient_scales = {self.gradient_scales}: at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    """One half of a batch, synthetic or real, in latents: image and depth B×C×h×w, valid bool B×1×h×w.

    depth is the ground truth's latent on the synthetic half, the teacher's on the real one.
    """

    image: torch.Tensor
    depth: torch.Tensor
    valid: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Valid elements that the terms are divided by, float64 on the CPU.

    synthetic, real: [gradient_scales], the first at full resolution; trajectory: [].
    """

    synthetic: torch.Tensor
    real: torch.Tensor
    trajectory: torch.Tensor

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            synthetic=self.synthetic + other.synthetic,
            real=self.real + other.real,
            trajectory=self.trajectory + other.trajectory,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTerms:
    """total: scalar with gradient (eq. 7); parts: the unweighted terms by name, detached scalars."""

    total: torch.Tensor
    parts: Mapping[str, torch.Tensor]


def count_valid(method: Method, synthetic: Half, real: Half | None) -> Counts:
    """What the terms of this batch are divided by; counts of several batches add up with +."""
    everything = torch.tensor(float(synthetic.depth.numel()), dtype=torch.float64)
    halves = [
        torch.zeros(method.gradient_scales, dtype=torch.float64) if half is None else _per_scale(method, half)
        for half in (synthetic, real)
    ]
    depth_is_in_it = method.trajectory == "blend" and method.blend_depth == "truth"
    return Counts(
        synthetic=halves[0],
        real=halves[1],
        trajectory=halves[0][0] if depth_is_in_it else everything,
    )


def objective(
    unet: Any,
    prompt: torch.Tensor,
    method: Method,
    diffusion: Diffusion,
    synthetic: Half,
    real: Half | None,
    *,
    t: torch.Tensor,
    noise: torch.Tensor,
    counts: Counts | None = None,
) -> LossTerms:
    """L = Σ_{t = 0, −1} (λ_MAE L_MAE + λ_GM L_GM) + λ_k L_k  (eq. 7).

    t: long [B] on the CPU, in 1 … T − 1; noise: B×C×h×w; for the synthetic half, which alone carries L_k.
    counts: of the whole batch (all processes and accumulated parts); None: this batch is the whole.
    Parts: mae_0, gm_0, mae_-1, gm_-1 (the real half's, on d−1 or on d0 as `method.teacher` says), k.
    Raises ValueError where the method wants real photos and there are none.
    """
    if real is None and method.teacher != "off":
        raise ValueError(f"teacher = {method.teacher!r} supervises real photos, and the batch has none.")
    counts = counts or count_valid(method, synthetic, real)
    d0 = feed_forward(unet, synthetic.image, prompt)
    parts = {
        "mae_0": mae(synthetic.depth, d0, synthetic.valid, count=counts.synthetic[0]),
        "gm_0": _gradients(method, synthetic, d0, counts.synthetic),
    }
    if real is not None and method.teacher != "off":
        on_real = feed_forward(unet, real.image, prompt)
        if method.teacher == "filter":
            on_real = filtered(unet, on_real, prompt)
        parts["mae_-1"] = mae(real.depth, on_real, real.valid, count=counts.real[0])
        parts["gm_-1"] = _gradients(method, real, on_real, counts.real)
    if method.trajectory != "off":
        parts["k"] = _trajectory(unet, prompt, method, diffusion, synthetic, d0, t, noise, counts.trajectory)
    weights = {"mae": method.lambda_mae, "gm": method.lambda_gm, "k": method.lambda_k}
    total = torch.stack([weights[name.split("_")[0]] * part for name, part in parts.items()]).sum()
    return LossTerms(total=total, parts={name: part.detach() for name, part in parts.items()})


def _trajectory(
    unet: Any,
    prompt: torch.Tensor,
    method: Method,
    diffusion: Diffusion,
    synthetic: Half,
    d0: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    elements: torch.Tensor,
) -> torch.Tensor:
    """L_k  (eq. 2 and 3). A latent whose depth is unknown is left out where that depth is in the blend."""
    valid = None
    if method.trajectory == "image":
        b0 = synthetic.image
    elif method.blend_depth == "prediction":
        b0 = blend(synthetic.image, d0.detach(), method.gamma)
    else:
        b0, valid = blend(synthetic.image, synthetic.depth, method.gamma), synthetic.valid
    predicted = _ask(unet, diffusion.noisy(b0, noise, t), t, prompt)
    return squared_error(diffusion.velocity(b0, noise, t), predicted, valid, count=elements)


def _gradients(method: Method, half: Half, d: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return gradient_matching(half.depth, d, half.valid, scales=method.gradient_scales, counts=counts)


def _ask(unet: Any, latent: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    prompt = prompt.to(latent.device).expand(len(latent), -1, -1)
    predicted: torch.Tensor = unet(latent, t.to(latent.device), prompt).sample
    return predicted.float()


def _residual(target: torch.Tensor, predicted: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """target − predicted, 0 where not valid: a NaN there reaches neither the loss nor its gradient."""
    residual = target - predicted
    return residual if valid is None else residual.where(valid, 0)


def _count(
    like: torch.Tensor, valid: torch.Tensor | None, given: torch.Tensor | float | None
) -> torch.Tensor:
    if given is not None:
        return torch.as_tensor(given)
    if valid is None:
        return torch.tensor(float(like.numel()))
    return valid.sum() * (like.numel() // valid.numel())


def _per_scale(method: Method, half: Half) -> torch.Tensor:
    channels = half.depth.shape[1]
    masks = [half.valid[..., :: 2**s, :: 2**s] for s in range(method.gradient_scales)]
    return torch.stack([m.sum().double().cpu() * channels for m in masks])


def _divide(total: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    """total / elements; 0 where there is no valid element."""
    return total / elements.to(total).clamp(min=1)
