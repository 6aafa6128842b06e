"""The recipes: how each one-step depth model of the family is asked, and how its raw output is read.

In the table z is the latent of the photo, u the raw output of the UNet, e the embedding of the empty prompt.

    recipe                UNet input   t     class label               depth latent        output space
    fiffdepth             z            0     -                         u                   depth
    genpercept            z            1     -                         x0 of (u, z)        depth
    genpercept-disparity  z            1     -                         x0 of (u, z)        disparity
    lotus-d               z            999   sin, cos of (1, 0)        u                   depth
    lotus-d-disparity     z            999   sin, cos of (1, 0)        u                   disparity
    marigold-e2e          z, 0         999   -                         x0 of (u, 0)        depth

"x0 of (u, x)" is `pred_original_sample` of diffusers' DDIMScheduler with the checkpoint's own configuration
(or the published one written here, where the checkpoint carries none). It has to be a multiple of u.

What the authors' own programs do around that and a graph does not, so that their figures differ a little:
FiffDepth's resizes photos bilinearly and pads nothing (here: area means, and padding to multiples of 64);
Lotus draws z from the posterior (here: its mean) and clamps each channel of the decoder's output before their
mean (here: the mean is clipped); end-to-end Marigold stretches each depth map from its minimum to its maximum
(here: [-1, 1] -> [0, 1], the same for every photo, which does not flicker in videos).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import torch
from diffusers import DDIMScheduler

from export.errors import RecipeError
from fiffdepth_rt.errors import shortened
from fiffdepth_rt.structs import convert

SD2_SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
# GenPercept's published schedule: no signal is left at any step, so the v-prediction is minus the sample.
GENPERCEPT_SCHEDULER: Mapping[str, Any] = {**SD2_SCHEDULER, "beta_start": 1.0, "beta_end": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table.

    zero_latent: a latent of zeros follows z at the UNet's input. scheduler: None where the raw output is
    the depth latent already, else the configuration to use when the checkpoint carries none.
    """

    name: str
    title: str
    timestep: int
    zero_latent: bool = False
    class_labels: tuple[float, ...] | None = None
    scheduler: Mapping[str, Any] | None = None
    output_space: str = "depth"

    def class_labels_tensor(self) -> torch.Tensor | None:
        """[1, k] float32, or None for networks without a class embedding."""
        return None if self.class_labels is None else torch.tensor([self.class_labels])


_LOTUS_DEPTH = (math.sin(1.0), math.sin(0.0), math.cos(1.0), math.cos(0.0))

RECIPES: Mapping[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(name="fiffdepth", title="FiffDepth", timestep=0),
        Recipe(name="genpercept", title="GenPercept", timestep=1, scheduler=GENPERCEPT_SCHEDULER),
        Recipe(
            name="genpercept-disparity",
            title="GenPercept disparity",
            timestep=1,
            scheduler=GENPERCEPT_SCHEDULER,
            output_space="disparity",
        ),
        Recipe(name="lotus-d", title="Lotus-D", timestep=999, class_labels=_LOTUS_DEPTH),
        Recipe(
            name="lotus-d-disparity",
            title="Lotus-D disparity",
            timestep=999,
            class_labels=_LOTUS_DEPTH,
            output_space="disparity",
        ),
        Recipe(
            name="marigold-e2e",
            title="Marigold, end-to-end",
            timestep=999,
            zero_latent=True,
            scheduler=SD2_SCHEDULER,
        ),
    )
}


GENPERCEPT = ("genpercept", "genpercept-disparity")


def recipe_named(name: str) -> Recipe:
    """The row of that name. Raises RecipeError with the names there are."""
    if name not in RECIPES:
        raise RecipeError(f"There is no recipe {name!r}: choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def recipes_for(*, in_channels: int, out_channels: int, class_embedding: bool) -> tuple[str, ...]:
    """The names of the recipes that ask a UNet of these inputs and outputs: what comes out is a latent."""
    return tuple(
        recipe.name
        for recipe in RECIPES.values()
        if out_channels * (2 if recipe.zero_latent else 1) == in_channels
        and (recipe.class_labels is not None) == class_embedding
    )


def has_genpercept_schedule(config: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint's scheduler leaves no signal at any step, as GenPercept's alone does."""
    keys = ("beta_start", "beta_end")
    return config is not None and all(config.get(key) == GENPERCEPT_SCHEDULER[key] for key in keys)


class _Steps(msgspec.Struct):
    """The steps of a noise schedule; there is memory for each."""

    num_train_timesteps: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000


def scheduler_of(recipe: Recipe, checkpoint_config: Mapping[str, Any] | None) -> DDIMScheduler | None:
    """diffusers' own scheduler for the recipe's output, from the checkpoint's configuration if it has one.

    Raises RecipeError where the configuration makes no scheduler.
    """
    if recipe.scheduler is None:
        return None
    config = dict(checkpoint_config or recipe.scheduler)
    with _usable_scheduler():
        steps = convert(config, _Steps).num_train_timesteps
        scheduler = DDIMScheduler.from_config(config)
        scheduler.set_timesteps(steps)
    return scheduler


@contextlib.contextmanager
def _usable_scheduler() -> Iterator[None]:
    """Makes whatever diffusers raises a RecipeError: values that do not go together are any kind of error."""
    try:
        yield
    except Exception as e:
        raise RecipeError(
            f"The checkpoint's scheduler configuration cannot be used ({type(e).__name__}: {shortened(e)}). "
            "Give the one that was published with it: --scheduler-config."
        ) from e


def output_scale(recipe: Recipe, checkpoint_config: Mapping[str, Any] | None = None) -> float:
    """The number that turns the raw output into the depth latent, as diffusers' scheduler computes it.

    Raises RecipeError when the scheduler does more than multiply (it clips, or keeps a part of the input), or
    its configuration makes no scheduler.
    """
    scheduler = scheduler_of(recipe, checkpoint_config)
    if scheduler is None:
        return 1.0
    if scheduler.config.clip_sample or scheduler.config.thresholding:
        raise RecipeError(
            f"The checkpoint's scheduler clips its sample, so its output is no multiple of the network's: "
            f"set clip_sample and thresholding to false in scheduler_config.json ({recipe.name} has them so)."
        )
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    with _usable_scheduler():
        scale = scheduler.step(one, recipe.timestep, zero).pred_original_sample.item()
        kept = scheduler.step(zero, recipe.timestep, one).pred_original_sample.item()
        if not math.isfinite(scale + kept):
            raise ValueError(f"it turns an output of 1 into {scale} and an input of 1 into {kept}")
    if kept != 0.0 and not recipe.zero_latent:
        raise RecipeError(
            f"With the checkpoint's scheduler {kept:.3g} of the latent would stay in the depth latent, "
            f"but {recipe.name} expects beta_start = beta_end = 1. Is this the right recipe?"
        )
    return float(scale)
