"""Promises of the objective: equations by value against plain numpy, masks, counts, timesteps, ablations."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from tests.support.tiny_models import tiny_unet
from training import objective
from training.objective import Diffusion, Half, Method

PROMPT = torch.randn(1, 2, 12, generator=torch.Generator().manual_seed(7))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask(*shape: int, seed: int, share: float = 0.7) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def half(seed: int, batch: int = 3, *, share: float = 0.7) -> Half:
    return Half(
        image=random(batch, 4, 8, 8, seed=seed),
        depth=random(batch, 4, 8, 8, seed=seed + 1),
        valid=mask(batch, 1, 8, 8, seed=seed + 2, share=share),
    )


SYNTHETIC, REAL = half(10), half(20)
T = torch.tensor([1, 500, 999])
NOISE = random(3, 4, 8, 8, seed=30)


class Recorder:
    """A network that is a known function of latent and timestep, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, latent: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> SimpleNamespace:
        self.asked.append((latent, t))
        return SimpleNamespace(sample=latent * 0.5 + t.view(-1, 1, 1, 1) * 1e-3 + prompt.mean())


PAPER = Method()


def terms(unet: object, method: Method = PAPER, **changes: object) -> objective.LossTerms:
    given = {"synthetic": SYNTHETIC, "real": REAL, "t": T, "noise": NOISE, **changes}
    synthetic, real = given.pop("synthetic"), given.pop("real")
    return objective.objective(unet, PROMPT, method, Diffusion.of(), synthetic, real, **given)


# ---- plain references ----


def plain_mae(target: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> float:
    total, count = 0.0, 0
    for b, c, y, x in np.ndindex(target.shape):
        if valid[b, 0, y, x]:
            total, count = total + abs(target[b, c, y, x] - predicted[b, c, y, x]), count + 1
    return total / count


def plain_gradients(target: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> float:
    r, total, count = target - predicted, 0.0, 0
    height, width = target.shape[2:]
    for b, c, y, x in np.ndindex(target.shape):
        if not valid[b, 0, y, x]:
            continue
        count += 1
        if x + 1 < width and valid[b, 0, y, x + 1]:
            total += abs(r[b, c, y, x + 1] - r[b, c, y, x])
        if y + 1 < height and valid[b, 0, y + 1, x]:
            total += abs(r[b, c, y + 1, x] - r[b, c, y, x])
    return total / count


def alphas_cumprod() -> np.ndarray:
    """Stable Diffusion's schedule from its definition, without a scheduler."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


# ---- (5) and (6) ----


def test_mae_and_gradient_matching_are_their_equations_over_valid_elements() -> None:
    target, predicted, valid = (
        random(2, 4, 5, 6, seed=0),
        random(2, 4, 5, 6, seed=1),
        mask(2, 1, 5, 6, seed=2),
    )
    arrays = target.numpy(), predicted.numpy(), valid.numpy()
    assert objective.mae(target, predicted, valid).item() == pytest.approx(plain_mae(*arrays), rel=1e-6)
    assert objective.gradient_matching(target, predicted, valid).item() == pytest.approx(
        plain_gradients(*arrays), rel=1e-6
    )


def test_without_a_mask_everything_is_valid() -> None:
    target, predicted = random(2, 4, 5, 6, seed=0), random(2, 4, 5, 6, seed=1)
    everywhere = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    for term in (objective.mae, objective.gradient_matching, objective.squared_error):
        torch.testing.assert_close(term(target, predicted), term(target, predicted, everywhere))


def test_four_scales_add_the_gradients_of_every_second_fourth_and_eighth_pixel() -> None:
    target, predicted, valid = (
        random(1, 1, 17, 16, seed=0),
        random(1, 1, 17, 16, seed=1),
        mask(1, 1, 17, 16, seed=2),
    )
    expected = sum(
        plain_gradients(*(a.numpy()[..., ::step, ::step] for a in (target, predicted, valid)))
        for step in (1, 2, 4, 8)
    )
    found = objective.gradient_matching(target, predicted, valid, scales=4).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_gradient_needs_both_neighbours_valid() -> None:
    target = torch.zeros(1, 1, 1, 3)
    predicted = torch.tensor([[[[0.0, 100.0, 1.0]]]])
    valid = torch.tensor([[[[True, False, True]]]])
    assert objective.gradient_matching(target, predicted, valid).item() == 0


def test_what_is_not_valid_reaches_neither_loss_nor_gradient_not_even_as_nan() -> None:
    valid = mask(2, 1, 5, 6, seed=2)
    target = random(2, 4, 5, 6, seed=0).where(valid, torch.nan)
    predicted = random(2, 4, 5, 6, seed=1).requires_grad_()
    loss = (
        objective.mae(target, predicted, valid)
        + objective.gradient_matching(target, predicted, valid)
        + objective.squared_error(target, predicted, valid)
    )
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad.isfinite().all()
    assert (predicted.grad[~valid.expand_as(predicted)] == 0).all()


def test_a_batch_without_a_valid_element_has_loss_zero_and_no_gradient() -> None:
    predicted = random(1, 4, 4, 4, seed=1).requires_grad_()
    nowhere = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    loss = objective.mae(torch.zeros(1, 4, 4, 4), predicted, nowhere)
    loss.backward()
    assert loss.item() == 0
    assert (predicted.grad == 0).all()


def test_a_latent_is_valid_where_all_of_its_64_pixels_are() -> None:
    valid = torch.ones(1, 1, 16, 24, dtype=torch.bool)
    valid[0, 0, 15, 8] = False
    expected = torch.tensor([[[[True, True, True], [True, False, True]]]])
    assert torch.equal(objective.latent_valid(valid), expected)


# ---- (1) to (4) ----


def test_d0_is_the_network_s_raw_output_at_t_0_and_the_filter_s_timestep_is_minus_one() -> None:
    unet = tiny_unet()
    latent = random(2, 4, 8, 8, seed=0)
    with torch.no_grad():
        prompt = PROMPT.expand(2, -1, -1)
        d0 = objective.feed_forward(unet, latent, PROMPT)
        torch.testing.assert_close(d0, unet(latent, 0, prompt).sample)
        softened = objective.filtered(unet, d0, PROMPT)
        torch.testing.assert_close(softened, unet(d0, torch.tensor([-1, -1]), prompt).sample)
        assert not torch.allclose(softened, unet(d0, 999, prompt).sample, atol=1e-3)


def test_noisy_and_velocity_are_those_of_the_definition_at_every_timestep() -> None:
    diffusion, alpha = Diffusion.of(), alphas_cumprod()
    x0, noise = random(999, 1, 1, 2, seed=0), random(999, 1, 1, 2, seed=1)
    t = torch.arange(1, 1000)
    a = alpha[t.numpy()].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(
        diffusion.noisy(x0, noise, t).numpy(),
        np.sqrt(a) * x0.numpy() + np.sqrt(1 - a) * noise.numpy(),
        atol=2e-6,
    )
    np.testing.assert_allclose(
        diffusion.velocity(x0, noise, t).numpy(),
        np.sqrt(a) * noise.numpy() - np.sqrt(1 - a) * x0.numpy(),
        atol=2e-6,
    )


def test_they_agree_with_the_library_s_scheduler() -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    x0 = random(3, 4, 8, 8, seed=0)
    diffusion = Diffusion.of({**scheduler.config, "prediction_type": "v_prediction"})
    torch.testing.assert_close(diffusion.noisy(x0, NOISE, T), scheduler.add_noise(x0, NOISE, T))
    torch.testing.assert_close(diffusion.velocity(x0, NOISE, T), scheduler.get_velocity(x0, NOISE, T))


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_off_the_schedule_is_an_error_and_never_wraps(t: int) -> None:
    x0 = random(1, 4, 8, 8, seed=0)
    for of in (Diffusion.of().noisy, Diffusion.of().velocity):
        with pytest.raises(IndexError, match=str(t)):
            of(x0, x0, torch.tensor([t]))


def test_the_whole_objective_never_looks_minus_one_up_in_a_schedule() -> None:
    class Watched(Diffusion):
        seen: list[int] = []  # noqa: RUF012

        def _shares(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.seen += t.tolist()
            return super()._shares(t, like)

    unet = Recorder()
    watched = Watched(Diffusion.of().alphas_cumprod)
    objective.objective(unet, PROMPT, Method(), watched, SYNTHETIC, REAL, t=T, noise=NOISE)
    assert sorted(set(watched.seen)) == [1, 500, 999]
    assert sorted({t for _, asked in unet.asked for t in asked.tolist()}) == [-1, 0, 1, 500, 999]


def test_random_timesteps_are_uniform_from_1_to_999() -> None:
    t = Diffusion.of().random_steps(200_000, torch.Generator().manual_seed(0))
    counts = np.bincount(t.numpy(), minlength=1000)
    assert len(counts) == 1000
    assert counts[0] == 0
    assert (counts[1:] > 0).all()
    assert counts[1:].std() == pytest.approx(np.sqrt(200_000 / 999), rel=0.1)


# ---- (7) ----


def test_the_trajectory_term_on_fresh_noise_is_that_of_a_computation_without_a_scheduler() -> None:
    unet = tiny_unet()
    noise = random(3, 4, 8, 8, seed=99)
    t = torch.tensor([3, 77, 640])
    with torch.no_grad():
        found = terms(unet, t=t, noise=noise).parts["k"].item()
        a = alphas_cumprod()[t.numpy()].reshape(-1, 1, 1, 1)
        b0 = 0.5 * SYNTHETIC.image.numpy() + 0.5 * SYNTHETIC.depth.numpy()
        bt = np.sqrt(a) * b0 + np.sqrt(1 - a) * noise.numpy()
        v = np.sqrt(a) * noise.numpy() - np.sqrt(1 - a) * b0
        predicted = unet(torch.from_numpy(bt).float(), t, PROMPT.expand(3, -1, -1)).sample.numpy()
    valid = np.broadcast_to(SYNTHETIC.valid.numpy(), v.shape)
    assert found == pytest.approx(np.mean((v - predicted)[valid] ** 2), rel=1e-5)


def test_the_total_is_the_weighted_sum_of_terms_computed_one_by_one() -> None:
    unet = Recorder()
    found = terms(unet, Method(lambda_mae=2.0, lambda_gm=0.3, lambda_k=0.7, gamma=0.25))
    ask = lambda x, t: x * 0.5 + t * 1e-3 + PROMPT.mean().item()  # noqa: E731
    d0 = ask(SYNTHETIC.image.numpy(), 0)
    softened = ask(ask(REAL.image.numpy(), 0), -1)
    on_synthetic = SYNTHETIC.depth.numpy(), d0, SYNTHETIC.valid.numpy()
    on_real = REAL.depth.numpy(), softened, REAL.valid.numpy()
    expected = {
        "mae_0": plain_mae(*on_synthetic),
        "gm_0": plain_gradients(*on_synthetic),
        "mae_-1": plain_mae(*on_real),
        "gm_-1": plain_gradients(*on_real),
    }
    for name, value in expected.items():
        assert found.parts[name].item() == pytest.approx(value, rel=1e-5), name
    total = 2 * (expected["mae_0"] + expected["mae_-1"]) + 0.3 * (expected["gm_0"] + expected["gm_-1"])
    assert found.total.item() == pytest.approx(total + 0.7 * found.parts["k"].item(), rel=1e-5)


def test_the_paper_s_weights_are_the_defaults() -> None:
    m = Method()
    assert (m.gamma, m.lambda_mae, m.lambda_gm, m.lambda_k) == (0.5, 1.0, 0.5, 0.2)
    assert (m.trajectory, m.teacher, m.blend_depth, m.gradient_scales) == ("blend", "filter", "truth", 1)


def test_a_permutation_of_either_half_changes_nothing() -> None:
    unet, order = tiny_unet(), torch.tensor([2, 0, 1])
    permuted = [
        Half(image=h.image[order], depth=h.depth[order], valid=h.valid[order]) for h in (SYNTHETIC, REAL)
    ]
    as_it_was = terms(unet)
    both = terms(unet, synthetic=permuted[0], real=permuted[1], t=T[order], noise=NOISE[order])
    only_real = terms(unet, real=permuted[1])
    for other in (both, only_real):
        torch.testing.assert_close(other.total, as_it_was.total, rtol=1e-6, atol=1e-6)
        for name, value in as_it_was.parts.items():
            torch.testing.assert_close(other.parts[name], value, rtol=1e-5, atol=1e-6)


def test_the_real_half_carries_no_trajectory_term_and_the_synthetic_half_no_teacher() -> None:
    unet = tiny_unet()
    other_real = terms(unet, real=half(50))
    other_synthetic = terms(unet, synthetic=half(60))
    as_it_was = terms(unet)
    for name in ("mae_0", "gm_0", "k"):
        assert other_real.parts[name].item() == as_it_was.parts[name].item()
        assert other_synthetic.parts[name].item() != as_it_was.parts[name].item()
    for name in ("mae_-1", "gm_-1"):
        assert other_real.parts[name].item() != as_it_was.parts[name].item()
        assert other_synthetic.parts[name].item() == as_it_was.parts[name].item()


def test_the_filter_s_gradient_flows_through_d0() -> None:
    class Twice(torch.nn.Module):
        """ε(x, 0) = a x, ε(x, −1) = b x: the teacher's loss moves a only through d0."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Parameter(torch.tensor(0.5)), torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=x * (self.b if (t == -1).all() else self.a))

    unet = Twice()
    nowhere = dataclasses.replace(SYNTHETIC, valid=torch.zeros_like(SYNTHETIC.valid))
    terms(unet, Method(trajectory="off"), synthetic=nowhere).total.backward()
    assert unet.a.grad != 0
    assert unet.b.grad != 0


def test_a_prediction_in_the_blend_is_detached() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    asked: list[torch.Tensor] = []

    def unet(x: torch.Tensor, t: torch.Tensor, prompt: torch.Tensor) -> SimpleNamespace:
        asked.append(x)
        return SimpleNamespace(sample=x * scale)

    terms(unet, Method(blend_depth="prediction", teacher="off"), real=None)
    noised = asked[1]
    assert not noised.requires_grad


def test_the_blend_may_hold_the_network_s_own_prediction_and_is_then_valid_everywhere() -> None:
    unet = Recorder()
    found = terms(unet, Method(blend_depth="prediction")).parts["k"].item()
    d0 = SYNTHETIC.image * 0.5 + PROMPT.mean()
    b0 = 0.5 * SYNTHETIC.image + 0.5 * d0
    diffusion = Diffusion.of()
    predicted = unet(diffusion.noisy(b0, NOISE, T), T, PROMPT).sample
    assert found == pytest.approx(
        (diffusion.velocity(b0, NOISE, T) - predicted).square().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("blend_depth", ["truth", "prediction"])
def test_gamma_is_the_share_of_the_photo_s_latent_in_the_blend(blend_depth: str) -> None:
    """With 0.5, γ and 1 − γ are the same."""
    ones, threes = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0)
    torch.testing.assert_close(objective.blend(ones, threes, 0.25), torch.full((1, 4, 2, 2), 2.5))
    unet = Recorder()
    found = terms(unet, Method(gamma=0.2, blend_depth=blend_depth)).parts["k"].item()
    d0 = SYNTHETIC.depth if blend_depth == "truth" else SYNTHETIC.image * 0.5 + PROMPT.mean()
    b0 = 0.2 * SYNTHETIC.image + 0.8 * d0
    diffusion = Diffusion.of()
    torch.testing.assert_close(unet.asked[-1][0], diffusion.noisy(b0, NOISE, T))
    predicted = Recorder()(diffusion.noisy(b0, NOISE, T), T, PROMPT).sample
    error = (diffusion.velocity(b0, NOISE, T) - predicted).square()
    valid = SYNTHETIC.valid.expand_as(error)
    expected = error[valid].mean() if blend_depth == "truth" else error.mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "names", "timesteps"),
    [
        (Method(trajectory="off"), {"mae_0", "gm_0", "mae_-1", "gm_-1"}, {0, -1}),
        (Method(teacher="off"), {"mae_0", "gm_0", "k"}, {0, 1, 500, 999}),
        (Method(teacher="d0"), {"mae_0", "gm_0", "mae_-1", "gm_-1", "k"}, {0, 1, 500, 999}),
        (Method(trajectory="image"), {"mae_0", "gm_0", "mae_-1", "gm_-1", "k"}, {0, -1, 1, 500, 999}),
    ],
)
def test_each_ablation_leaves_out_what_it_says(method: Method, names: set[str], timesteps: set[int]) -> None:
    unet = Recorder()
    assert set(terms(unet, method).parts) == names
    assert {t for _, asked in unet.asked for t in asked.tolist()} == timesteps


def test_pure_image_latents_hold_no_depth_and_are_valid_everywhere() -> None:
    unet = Recorder()
    found = terms(unet, Method(trajectory="image")).parts["k"].item()
    diffusion = Diffusion.of()
    predicted = unet(diffusion.noisy(SYNTHETIC.image, NOISE, T), T, PROMPT).sample
    target = diffusion.velocity(SYNTHETIC.image, NOISE, T)
    assert found == pytest.approx((target - predicted).square().mean().item(), rel=1e-5)


def test_the_teacher_on_d0_supervises_d0() -> None:
    found = terms(Recorder(), Method(teacher="d0")).parts["mae_-1"].item()
    d0 = REAL.image * 0.5 + PROMPT.mean()
    assert found == pytest.approx(plain_mae(REAL.depth.numpy(), d0.numpy(), REAL.valid.numpy()), rel=1e-5)


def test_a_teacher_without_photos_and_a_switch_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="supervises real photos"):
        terms(Recorder(), real=None)
    with pytest.raises(ValueError, match="'blend', 'image', 'off'"):
        Method(trajectory="none")


@pytest.mark.parametrize("scales", [1, 3])
def test_parts_of_a_batch_add_up_to_the_whole_whatever_their_masks(scales: int) -> None:
    unet, method = tiny_unet(), Method(gradient_scales=scales)
    synthetic, real = half(70, 4), half(80, 4)
    synthetic.valid[0] = False
    real.valid[1, :, :6] = False
    t, noise = torch.tensor([1, 10, 100, 999]), random(4, 4, 8, 8, seed=5)
    whole = terms(unet, method, synthetic=synthetic, real=real, t=t, noise=noise)
    whole.total.backward()
    expected = [p.grad.clone() for p in unet.parameters()]
    unet.zero_grad()
    counts = objective.count_valid(method, synthetic, real)
    totals = []
    for rows in (slice(0, 1), slice(1, 4)):
        pieces = [
            Half(image=h.image[rows], depth=h.depth[rows], valid=h.valid[rows]) for h in (synthetic, real)
        ]
        piece = terms(
            unet, method, synthetic=pieces[0], real=pieces[1], t=t[rows], noise=noise[rows], counts=counts
        )
        piece.total.backward()
        totals.append(piece.total)
    torch.testing.assert_close(sum(totals), whole.total, rtol=1e-5, atol=1e-6)
    for parameter, gradient in zip(unet.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
