"""Promises of the augmentation: what changes, what never does, and that a seed says it all."""

from __future__ import annotations

import numpy as np
import pytest

from training import augment


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A photo whose brightness is its depth, in metres on a ramp; sky above it."""
    picture = np.tile(np.linspace(-1, 0.98, 96, dtype=np.float32), (64, 1))
    picture[:16] = augment.SKY
    photo = np.repeat(((picture + 1) * 127.5).astype(np.uint8)[..., None], 3, -1)
    return photo, picture


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_s_depth_stays_with_its_photo(seed: int) -> None:
    photo, depth = augment.frame(*scene(), (48, 64), np.random.default_rng(seed))
    assert photo.shape == (48, 64, 3) and depth.shape == (48, 64)
    below = depth[-8:].ravel() < 0.99
    correlation = np.corrcoef(photo[-8:, :, 0].ravel()[below], depth[-8:].ravel()[below])[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_is_a_depth_picture_again_and_its_sky_stays_the_farthest(seed: int) -> None:
    _, depth = augment.frame(*scene(), (48, 64), np.random.default_rng(seed), smallest=0.3)
    assert depth.dtype == np.float32
    assert depth.min() == -1 and depth.max() == 1


def test_a_crop_of_one_surface_is_not_stretched_into_rounding() -> None:
    flat = np.full((64, 96), 0.25, np.float32)
    flat[:, 48:] += 0.01
    np.testing.assert_array_equal(augment.renormalised(flat), flat)


def test_edges_of_depth_stay_sharp_when_resized() -> None:
    picture = np.full((100, 100), -1, np.float32)
    picture[:, 50:] = 0.9
    photo = np.zeros((100, 100, 3), np.uint8)
    _, depth = augment.frame(photo, picture, (32, 32), np.random.default_rng(0))
    assert len(np.unique(depth)) == 2


def test_without_strength_light_and_sensor_leave_a_photo_alone() -> None:
    photo, _ = scene()
    np.testing.assert_allclose(augment.expose(photo, np.random.default_rng(0), strength=0), photo, atol=1)


def test_the_same_seed_gives_the_same_photo() -> None:
    photo, _ = scene()
    one, same, other = (augment.expose(photo, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def textured(level: float, contrast: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(level, contrast, (64, 96, 1))
    return np.repeat(np.clip(noise, 0, 255).astype(np.uint8), 3, -1)


def test_tones_come_out_as_photos_have_them() -> None:
    """Of bright pictures without black: quantiles near the medians over 300 photos (`develop`)."""
    seen = [augment.develop(textured(150, 25), np.random.default_rng(s)) for s in range(200)]
    changed = [photo for photo in seen if not np.array_equal(photo, textured(150, 25))]
    assert 0.6 < len(changed) / len(seen) < 0.9
    dark, middle, bright = np.median([np.quantile(p, [0.1, 0.5, 0.9]) / 255 for p in changed], axis=0)
    assert (dark, middle, bright) == pytest.approx((0.14, 0.41, 0.75), abs=0.05)


@pytest.mark.parametrize("level", [0, 3, 128, 250, 255])
def test_a_tone_curve_keeps_the_order_of_tones_even_of_flat_photos(level: float) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    flat = np.full((255, 256, 3), level, np.uint8)
    for seed in range(20):
        developed = augment.develop(np.concatenate([flat, ramp]), np.random.default_rng(seed))
        assert (np.diff(developed[-1, :, 0].astype(int)) >= 0).all()
        assert developed.dtype == np.uint8 and developed.shape == (256, 256, 3)
