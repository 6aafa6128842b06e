"""What a checkpoint is, before a weight is read: the recipe that asks it, or a sentence why none does.

    name, model card, model_index.json, configurations of UNet and scheduler -> Evidence -> Recipe

Two kinds of model are told apart by words alone, so they are asked for: Lotus-D for depth and for disparity;
FiffDepth and Stable Diffusion as it was. A word may be wrong, so `--recipe` overrules words, aloud; shapes
that contradict it are refused.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from export.errors import RecipeError
from export.models.known_models import known_model
from export.recipe import GENPERCEPT, RECIPES, Recipe, has_genpercept_schedule, recipe_named, recipes_for
from training.weights.configuration import channels, read_json
from training.weights.errors import CheckpointError
from training.weights.folder import files_below, read_model_card, unet_part

LOTUS_D = ("lotus-d", "lotus-d-disparity")
log = logging.getLogger("fiffdepth_export")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a checkpoint's small files say of it. unet: the configuration of its UNet.

    name: OWNER/NAME, or what the file or folder is called. pipeline, denoising_steps: of model_index.json.
    unet_folder: "unet", or such as "unet_depth_v2"; "" where there is none. tags: of the model card.
    """

    name: str
    unet: Mapping[str, Any]
    pipeline: str = ""
    denoising_steps: int | None = None
    unet_folder: str = ""
    scheduler: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[int, int]:
        """Of the UNet's input and of its output, which is a latent.

        Raises CheckpointError for a configuration whose numbers are none.
        """
        return channels(self.unet, f"{self.name} (UNet)")

    @property
    def has_class_embedding(self) -> bool:
        """Whether the UNet takes a class label, as Lotus's does."""
        return self.unet.get("class_embed_type") is not None

    @property
    def words(self) -> frozenset[str]:
        """Of the name and of the UNet's folder, in lower case."""
        return frozenset(re.split(r"[\W_]+", f"{self.name} {self.unet_folder}".lower()))


def folder_evidence(folder: Path, name: str) -> Evidence | None:
    """A diffusers folder -> what its small files say; None for a folder without a UNet's configuration."""
    part = unet_part(files_below(folder))
    unet = folder / (part or "") / "config.json"
    if not unet.is_file():
        return None
    index, scheduler = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    said = read_json(index) if index.is_file() else {}
    steps = said.get("default_denoising_steps")
    return Evidence(
        name=name,
        unet=read_json(unet),
        pipeline=str(said.get("_class_name", "")),
        denoising_steps=steps if isinstance(steps, int) else None,
        unet_folder=part or "",
        scheduler=read_json(scheduler) if scheduler.is_file() else None,
        tags=read_model_card(folder / "README.md").tags,
    )


def find_recipe(evidence: Evidence, *, said: str | None = None) -> Recipe:
    """Evidence -> the recipe. said: the user's word for it, or None.

    Raises RecipeError for what no recipe asks and for a recipe that the shapes contradict, CheckpointError
    with the choices where words are wanting.
    """
    channels_in, channels_out = evidence.channels
    fitting = recipes_for(
        in_channels=channels_in,
        out_channels=channels_out,
        class_embedding=evidence.has_class_embedding,
    )
    stranger = next((kind for kind in STRANGERS if kind.fits(evidence)), None)
    if stranger is not None and (stranger.certain or said is None):
        raise RecipeError(f"{evidence.name} is {stranger.what}")
    if said is not None:
        recipe = recipe_named(said)
        if said not in fitting:
            takes = f"The UNet of {evidence.name} {_takes(evidence)}"
            raise RecipeError(f"{takes}, and {said} asks another kind. {_choose(fitting)}")
        if stranger is not None:
            log.warning("asked by %s as you say; its files say it is %s", said, stranger.what)
        return recipe
    if (known := known_model(evidence.name)) is not None and known.recipe in fitting:
        return RECIPES[known.recipe]
    chosen = _narrowed(evidence, fitting)
    if len(chosen) == 1:
        log.info("taken for %s, by its name and its files", RECIPES[chosen[0]].title)
        return RECIPES[chosen[0]]
    raise CheckpointError(f"{evidence.name}: {_why_asked(evidence, chosen)} {_choose(chosen or fitting)}")


def _narrowed(evidence: Evidence, fitting: Sequence[str]) -> tuple[str, ...]:
    """The fitting recipes that the words leave."""
    words = evidence.words
    if "fiffdepth" in fitting and _is_genpercept(evidence):
        says_depth = evidence.unet_folder.startswith("unet_depth") or {"genpercept", "depth"} <= words
        return _by_space(GENPERCEPT, words, says_depth=says_depth)
    if LOTUS_D[0] in fitting:
        return _by_space(LOTUS_D, words, says_depth=False)
    if "marigold-e2e" in fitting:
        return ("marigold-e2e",) if _is_one_step(evidence) else ()
    return ("fiffdepth",) if "fiffdepth" in words and "fiffdepth" in fitting else tuple(fitting)


def _is_genpercept(evidence: Evidence) -> bool:
    return (
        has_genpercept_schedule(evidence.scheduler)
        or evidence.pipeline.startswith("GenPercept")
        or "genpercept" in evidence.words
        or re.match(r"unet_(depth|disparity)", evidence.unet_folder) is not None
    )


def _is_one_step(evidence: Evidence) -> bool:
    """Whether name or card call a relative of Marigold one that was trained end to end, for one step."""
    return "e2e" in evidence.words or "single-step" in evidence.tags


def _by_space(pair: tuple[str, str], words: frozenset[str], *, says_depth: bool) -> tuple[str, ...]:
    """Recipes for depth and for disparity -> one of them, or both. says_depth: where disparity is not "
    "said."""
    if "disparity" in words:
        return (pair[1],)
    return (pair[0],) if says_depth else pair


def _takes(evidence: Evidence) -> str:
    also = " and a class label" if evidence.has_class_embedding else ""
    takes, gives = evidence.channels
    return f"takes {takes} channels{also} and gives {gives}"


def _why_asked(evidence: Evidence, chosen: Sequence[str]) -> str:
    for pair, title in ((LOTUS_D, "Lotus-D"), (GENPERCEPT, "GenPercept")):
        if tuple(chosen) == pair:
            return f"{title}, and nothing says whether it gives depth or disparity, which its tensors do not."
    if "fiffdepth" in chosen:
        return (
            "its tensors are those of FiffDepth, of GenPercept and of Stable Diffusion as it was, and "
            "nothing says "
            "which of them it is. A text-to-image model that was not fine-tuned for depth gives none."
        )
    return f"its UNet {_takes(evidence)}, and nothing says what it is."


def _choose(recipes: Sequence[str]) -> str:
    if not recipes:
        return f"No recipe here takes such a network; there are {', '.join(RECIPES)}."
    return f"Say it with {' or '.join(f'--recipe {name}' for name in recipes)}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stranger:
    """A kind of model that is no one-step depth model. certain: by shapes, which no word overrules."""

    fits: Callable[[Evidence], bool]
    what: str
    certain: bool


def _other_task(words: frozenset[str]) -> bool:
    tasks = {"normal", "normals", "matting", "seg", "dis", "iid", "appearance", "lighting"}
    return bool(words & tasks)


STRANGERS: tuple[Stranger, ...] = (
    Stranger(
        fits=lambda e: (
            e.unet.get("addition_embed_type") == "text_time" or e.unet.get("cross_attention_dim") == 2048
        ),
        what="Stable Diffusion XL, a text-to-image model: its UNet also asks for pooled text and picture "
        "sizes, and one step of it is a blurred picture of the prompt, not depth.",
        certain=True,
    ),
    Stranger(
        fits=lambda e: e.channels == (9, 4),
        what="an inpainting model: its 9 channels are noise, a mask and the masked picture, and one step "
        "of it fills the hole with noise removed once, not with depth.",
        certain=True,
    ),
    Stranger(
        fits=lambda e: e.channels == (5, 4),
        what="a depth-to-image model: its fifth channel takes a depth map, and one step of it begins a "
        "picture, the other way round.",
        certain=True,
    ),
    Stranger(
        fits=lambda e: e.unet.get("time_cond_proj_dim") is not None,
        what="a latent consistency model (LCM) that is told a guidance scale: it draws from random "
        "noise, and its first step is a random sample, not the depth of the photo.",
        certain=True,
    ),
    Stranger(
        fits=lambda e: e.channels == (8, 4) and e.has_class_embedding,
        what="Lotus-G, the generative half of Lotus: it makes depth of the photo and of random noise, "
        "another one for each seed, and one step without the noise is not its depth. Take Lotus-D: "
        "python -m export.build_engines lotus-d-v2-0-disparity.",
        certain=True,
    ),
    Stranger(
        fits=lambda e: e.pipeline in ("LotusGPipeline", "DirectDiffusionY0Pipeline"),
        what="Lotus-G by its model_index.json, the generative half of Lotus, which begins from random "
        "noise: one step without the noise is not its depth. Take Lotus-D: python -m "
        "export.build_engines lotus-d-v2-0-disparity.",
        certain=False,
    ),
    Stranger(
        fits=lambda e: (e.scheduler or {}).get("_class_name") == "LCMScheduler" or "lcm" in e.words,
        what="a latent consistency model (LCM): it begins from random noise, and its first step is a "
        "random sample that later steps make better, not the one depth of the photo.",
        certain=False,
    ),
    Stranger(
        fits=lambda e: (
            e.pipeline.startswith("Marigold")
            and e.channels == (8, 4)
            and e.denoising_steps != 1
            and not _is_one_step(e)
        ),
        what="Marigold, which removes noise in several steps (its model_index.json says so): one step "
        "leaves depth blurred by the noise that is still in it. Its one-step relative: python -m "
        "export.build_engines marigold-e2e.",
        certain=False,
    ),
    Stranger(
        fits=lambda e: e.unet.get("cross_attention_dim") == 768,
        what="of Stable Diffusion 1 (prompts of 768 numbers), a text-to-image model: one step of it "
        "guesses noise, and every depth model known here is made of Stable Diffusion 2.",
        certain=False,
    ),
    Stranger(
        fits=lambda e: "dpt" in e.words,
        what="GenPercept with a DPT head, which reads depth off the UNet's inner layers: without that head "
        "one step of the UNet is not depth. Take python -m export.build_engines genpercept-disparity.",
        certain=False,
    ),
    Stranger(
        fits=lambda e: _other_task(e.words),
        what="by its name a model of normals, mattes, segments or materials: its one step gives a "
        "picture of these, not depth.",
        certain=False,
    ),
)
