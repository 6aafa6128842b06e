"""A checkpoint's weights and the recipe to ask them by -> the model to export.

What files are read, and how, is training/weights/reading.py's; what is missing is asked for by option.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from export.models.known_models import known_model
from export.models.recognising import Evidence, find_recipe, folder_evidence
from export.recipe import Recipe, output_scale, recipe_named
from export.stages import VAE_FACTOR
from training.weights.errors import CheckpointError
from training.weights.folder import UNSTATED
from training.weights.light import HALVES, LightHalf, check_latent, read_light_half
from training.weights.prior import PriorAutoencoderTiny
from training.weights.reading import Beside, Ways, Weights, read_weights

SIZE_DEFAULT = 512
OPTIONS = Ways(
    prompt="--prompt-embedding FILE.safetensors, or --text-encoder with a folder or OWNER/NAME that has "
    "text_encoder/ and tokenizer/",
    unet_config="--unet-config",
    vae_config="--vae-config",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Beside):
    """What the user says beside the checkpoint; it wins over what the checkpoint says. None: not said.

    encoder, decoder: light ones, in place of the VAE's own. repository: OWNER/NAME that the checkpoint's
    folder was fetched from; None: it is called what its folder is called.
    """

    repository: str | None = None
    recipe: str | None = None
    output_space: str | None = None
    name: str | None = None
    encoder: Path | None = None
    decoder: Path | None = None
    licence: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """All that is exported. The modules are in fp32 and eval mode on the CPU.

    vae: the checkpoint's, which may itself be light; None where it has none and both halves are given. light:
    halves in its place, by "encoder" and "decoder".
    prompt_embedding: [1, tokens, C]. scheduler_config: of the checkpoint, None if it carries none.
    size_default, size_max: longer side of the processed image in px. licence_file: text to pass on, if there
    is one. sha256: over the files read, the light halves' own apart. notes: as in `Weights`.
    """

    layout: str
    name: str
    recipe: Recipe
    output_space: str
    size_default: int
    size_max: int
    licence: str
    data_sources: tuple[str, ...]
    licence_file: Path | None
    unet: Any
    vae: Any
    light: Mapping[str, LightHalf] = dataclasses.field(default_factory=dict)
    prompt_embedding: torch.Tensor
    scheduler_config: Mapping[str, Any] | None
    sha256: str
    notes: tuple[str, ...] = ()

    def vae_of(self, half: str) -> Any:
        """The autoencoder whose "encoder" or "decoder" is exported: AutoencoderKL, or AutoencoderTiny."""
        return self.light[half].vae if half in self.light else self.vae

    @property
    def description(self) -> str:
        """One line that says back what was recognised."""
        return ", ".join(
            (
                f"{self.recipe.title}, {self.layout}",
                f"UNet {self.unet.config.in_channels}→{self.unet.config.out_channels} channels",
                f"{_millions(self.unet)} M parameters",
                *self._vae_described(),
                f"prompt of {self.prompt_embedding.shape[1]} tokens",
                f"output is {self.output_space}",
            )
        )

    def _vae_described(self) -> list[str]:
        """A word per autoencoder in use."""
        full = [half for half in HALVES if half not in self.light]
        said = []
        if full:
            config = self.vae.config
            levels, kind = (
                (config.encoder_block_out_channels, "light")
                if isinstance(self.vae, AutoencoderTiny)
                else (config.block_out_channels, "KL")
            )
            has_prior = "encoder" in full and isinstance(self.vae, PriorAutoencoderTiny)
            which, part = (
                ("VAE", self.vae) if len(full) == 2 else (f"VAE {full[0]}", getattr(self.vae, full[0]))
            )
            what = f"{which} {kind}-f{2 ** (len(levels) - 1)}{' with a prior' if has_prior else ''}"
            said.append(f"{what}, {_millions(part)} M parameters")
        for half, light in self.light.items():
            said.append(f"light {half} {light.name}, {_millions(light.vae)} M parameters")
        return said


def read_checkpoint(path: Path, given: Given | None = None) -> Model:
    """path -> Model.

    Raises CheckpointError for what cannot be read, is missing, surplus, misshapen, of a wrong dtype or not
    finite, for a VAE of another latent than the UNet's, and RecipeError.
    """
    given = given or Given()
    called = given.repository or path.resolve().name
    evidence = folder_evidence(path, called) if path.is_dir() else None
    recipe = None if evidence is None else find_recipe(evidence, said=given.recipe)
    weights = read_weights(path, given, ways=OPTIONS, half_first=True)
    info, known = weights.info, known_model(called)
    recipe = recipe or _recipe_of_file(called, given, weights)
    light = {
        half: read_light_half(file, half)
        for half, file in (("encoder", given.encoder), ("decoder", given.decoder))
        if file is not None
    }
    if weights.vae is None and len(light) < len(HALVES):
        raise CheckpointError(
            f"{path.name} holds a UNet and no VAE. Give Stable Diffusion's with --vae PATH (a folder or a "
            ".safetensors), or a light one with --encoder and --decoder."
        )
    output_scale(recipe, weights.scheduler_config)  # a scheduler that does not fit is said at once
    vaes = {half: light[half].vae if half in light else weights.vae for half in HALVES}
    check_latent(path.name, weights.unet, vaes)
    size = weights.sample_size * VAE_FACTOR if weights.sample_size else SIZE_DEFAULT
    size = known.size if known else size
    licence = known.licence if known and weights.licence == UNSTATED else weights.licence
    return Model(
        layout=weights.layout,
        name=given.name or (info.name if info else known.name if known else recipe.name),
        recipe=recipe,
        output_space=given.output_space or (info.output_space if info else recipe.output_space),
        size_default=info.size_default if info else size,
        size_max=info.size_max if info else 2 * size,
        licence=given.licence or licence,
        data_sources=weights.data_sources,
        licence_file=weights.licence_file,
        unet=weights.unet,
        vae=weights.vae,
        light=light,
        prompt_embedding=weights.prompt_embedding,
        scheduler_config=weights.scheduler_config,
        sha256=weights.sha256,
        notes=weights.notes,
    )


def parameter_count(module: torch.nn.Module) -> int:
    """Numbers that a module holds, buffers included."""
    return sum(t.numel() for t in (*module.parameters(), *module.buffers()))


def _recipe_of_file(called: str, given: Given, weights: Weights) -> Recipe:
    """The recipe that one of our own files states, or that the UNet and the name of another lead to."""
    if weights.info is not None:
        return recipe_named(given.recipe or weights.info.recipe)
    evidence = Evidence(name=called, unet=weights.unet.config, scheduler=weights.scheduler_config)
    return find_recipe(evidence, said=given.recipe)


def _millions(module: torch.nn.Module) -> str:
    count = parameter_count(module) / 1e6
    return f"{count:.0f}" if count >= 10 else f"{count:.2g}"
