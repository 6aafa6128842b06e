"""What is public: one row for each depth model whose weights a hub gives and a recipe here asks.

    python -m export.models                  # this table, with the command of each row
    python -m export.build_engines lotus-d-v2-0-disparity

Nothing here was fetched: the rows were written from stored copies of the hub's pages and of the authors'
repositories, each named beside what it says. What those copies do not say is listed in `unverified`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from export.recipe import RECIPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownModel:
    """One row.

    name: what `build_engines` takes for it. formerly: what the repository was called before. licence_at:
    where the licence is stated. gigabytes: what is fetched, with the text encoder, which stays where it is
    when the embedding of the empty prompt is kept already. size: longer side in px at which its authors'
    program works, and size_at where that is stated. layout_at: where the files were seen. vae_from,
    text_encoder_from: repositories that give what this one lacks.
    """

    name: str
    repository: str
    formerly: str | None = None
    recipe: str
    licence: str
    licence_at: str
    gigabytes: float
    size: int
    size_at: str
    paper: str
    good_at: str
    good_at_source: str
    layout_at: str
    vae_from: str | None = None
    text_encoder_from: str | None = None
    unverified: tuple[str, ...] = ()

    @property
    def output_space(self) -> str:
        """What its values mean: the recipe's."""
        return RECIPES[self.recipe].output_space

    @property
    def command(self) -> str:
        """What makes an engine directory of it."""
        return f"python -m export.build_engines {self.name}"


_LOTUS = "EnVision-Research/Lotus"
_LOTUS_SIZE = f"{_LOTUS}, infer.py: --processing_res, default 768"
_LOTUS_PAPER = "He et al., Lotus, arXiv:2409.18124"
_E2E = "VisualComputingInstitute/diffusion-e2e-ft"
_E2E_SIZE = f"{_E2E}, README.md: --processing_res, default 768"
_E2E_PAPER = "Martin Garcia et al., Fine-Tuning Image-Conditional Diffusion Models, arXiv:2409.11355"
_GENPERCEPT = "aim-uofa/GenPercept"
_GENPERCEPT_PAPER = "Xu et al., What Matters When Repurposing Diffusion Models, arXiv:2403.06090"
_GENPERCEPT_LICENCE = "non-commercial (BSD-2-Clause for academic use)"
_FIFFDEPTH_TABLE = "FiffDepth (ICCV 2025), table 1"
_MOVED = "that the hub leads from the former owner's name to the new one"

KNOWN_MODELS: Mapping[str, KnownModel] = {
    row.name: row
    for row in (
        KnownModel(
            name="lotus-d-v2-0-disparity",
            repository="jingheya/lotus-depth-d-v2-0-disparity",
            recipe="lotus-d-disparity",
            licence="apache-2.0",
            licence_at="model card",
            gigabytes=2.6,
            size=768,
            size_at=_LOTUS_SIZE,
            paper=_LOTUS_PAPER,
            good_at="the best of Lotus-D by its authors; far and near in one picture, since it gives "
            "disparity",
            good_at_source=f"{_LOTUS}, README.md, news of 2024-11-13: the disparity models perform better",
            layout_at="file lists of the repository at commits ddc9f4a and f55c124",
            unverified=("the size of the UNet's file, taken for half precision as the VAE's is",),
        ),
        KnownModel(
            name="lotus-d-v1-1",
            repository="jingheya/lotus-depth-d-v1-1",
            recipe="lotus-d",
            licence="apache-2.0",
            licence_at="model card",
            gigabytes=2.6,
            size=768,
            size_at=_LOTUS_SIZE,
            paper=_LOTUS_PAPER,
            good_at="what ComfyUI runs, as depth: the same UNet as Comfy-Org/lotus",
            good_at_source="ComfyUI's blueprint for Lotus names lotus-depth-d-v1-1.safetensors",
            layout_at="file lists and model_index.json of the repository at commits 45d1bb0 and 18f3f52",
            unverified=(
                "that it gives depth and not disparity: ComfyUI inverts it to show near as white",
                "the size of the text encoder's file, taken for half precision as the others are",
            ),
        ),
        KnownModel(
            name="lotus-d-v1-0",
            repository="jingheya/lotus-depth-d-v1-0",
            recipe="lotus-d",
            licence="apache-2.0",
            licence_at="model card",
            gigabytes=5.2,
            size=768,
            size_at=_LOTUS_SIZE,
            paper=_LOTUS_PAPER,
            good_at="the first Lotus-D, in full precision: streets (KITTI AbsRel 8.1 %, e2e 9.6 %, "
            "GenPercept 13.0 %)",
            good_at_source=f"{_FIFFDEPTH_TABLE}, which does not say which release of Lotus-D it ran",
            layout_at="file lists of the repository at commits 8765b14 and 9b858ff",
            unverified=("the size of the text encoder's file, taken from lotus-depth-g-v1-0",),
        ),
        KnownModel(
            name="marigold-e2e",
            repository="GonzaloMartinGarcia/marigold-e2e-ft-depth",
            formerly="GonzaloMG/marigold-e2e-ft-depth",
            recipe="marigold-e2e",
            licence="apache-2.0",
            licence_at="model card",
            gigabytes=5.2,
            size=768,
            size_at=_E2E_SIZE,
            paper=_E2E_PAPER,
            good_at="rooms (NYUv2 AbsRel 5.2 %, Lotus-D 5.3 %, GenPercept 5.6 %), as depth",
            good_at_source=f"{_FIFFDEPTH_TABLE}; {_E2E}, README.md",
            layout_at="file lists and a commit to the scheduler, at 9b32bb5 and 30e96fe, under the former "
            "owner",
            unverified=(_MOVED, "the size of the text encoder's file"),
        ),
        KnownModel(
            name="sd-e2e",
            repository="GonzaloMartinGarcia/stable-diffusion-e2e-ft-depth",
            formerly="GonzaloMG/stable-diffusion-e2e-ft-depth",
            recipe="marigold-e2e",
            licence="apache-2.0",
            licence_at="model card",
            gigabytes=5.2,
            size=768,
            size_at=_E2E_SIZE,
            paper=_E2E_PAPER,
            good_at="the same as marigold-e2e without Marigold's training before (NYUv2 AbsRel 5.4 %)",
            good_at_source=f"{_E2E}, README.md",
            layout_at="file lists of the repository at commits 63f09df, aeb6bb9 and ca34774, under the "
            "former owner",
            unverified=(_MOVED, "the sizes of UNet and VAE, taken from marigold-e2e"),
        ),
        KnownModel(
            name="genpercept",
            repository="guangkaixu/genpercept-depth",
            recipe="genpercept",
            licence=_GENPERCEPT_LICENCE,
            licence_at=f"{_GENPERCEPT}, README.md, section License; the repository has a LICENSE.txt and "
            f"no card",
            gigabytes=4.3,
            size=768,
            size_at=f"{_GENPERCEPT}, configurations of its main paper",
            paper=_GENPERCEPT_PAPER,
            good_at="depth beside the same authors' normals and mattes; ETH3D AbsRel 7.0 %, ScanNet 6.2 %",
            good_at_source=_FIFFDEPTH_TABLE,
            layout_at="file lists of the repository at commit 4348353",
            text_encoder_from="jingheya/lotus-depth-d-v2-0-disparity",
            unverified=(
                "the text of LICENSE.txt",
                "that the text encoder of another relative of SD 2 is the one it was trained with",
            ),
        ),
        KnownModel(
            name="genpercept-disparity",
            repository="guangkaixu/genpercept-disparity",
            recipe="genpercept-disparity",
            licence=_GENPERCEPT_LICENCE,
            licence_at=f"{_GENPERCEPT}, README.md, section License; the repository itself states none",
            gigabytes=4.3,
            size=768,
            size_at=f"{_GENPERCEPT}, configurations of its main paper: disparity at 768",
            paper=_GENPERCEPT_PAPER,
            good_at="the same as disparity, trained at 768 px",
            good_at_source=f"{_GENPERCEPT}, configurations of its main paper",
            layout_at="file list of the repository at commit bea73bc",
            text_encoder_from="jingheya/lotus-depth-d-v2-0-disparity",
            unverified=(
                "the sizes of its files, taken from genpercept-depth",
                "that the text encoder of another relative of SD 2 is the one it was trained with",
            ),
        ),
        KnownModel(
            name="lotus-d-comfy",
            repository="Comfy-Org/lotus",
            recipe="lotus-d",
            licence="apache-2.0",
            licence_at="model card of jingheya/lotus-depth-d-v1-1; the card of Comfy-Org/lotus states none",
            gigabytes=2.6,
            size=768,
            size_at=_LOTUS_SIZE,
            paper=_LOTUS_PAPER,
            good_at="who has ComfyUI's file already: a UNet alone, to be given with --vae",
            good_at_source="file list of Comfy-Org/lotus: one file of 1.74 GB",
            layout_at="file list of the repository at commit 603b2fd",
            vae_from="jingheya/lotus-depth-d-v1-1",
            text_encoder_from="jingheya/lotus-depth-d-v1-1",
            unverified=(
                "the names of the tensors in the file; those of diffusers and of LDM are both read",
                "that it gives depth and not disparity: ComfyUI inverts it to show near as white",
                "ComfyUI decodes it with vae-ft-mse-840000-ema-pruned; here Lotus's own VAE does, unless "
                "--vae",
            ),
        ),
    )
}


def known_model(name: str) -> KnownModel | None:
    """The row of a short name, of a repository, or of a folder that is called as the repository is.

    Case does not matter, as on the hub.
    """
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    wanted = name.lower()
    for row in KNOWN_MODELS.values():
        for repository in (row.repository, row.formerly):
            if repository is None:
                continue
            owner, _, last = repository.lower().partition("/")
            telling = re.search(r"depth|disparity", last) is not None  # "lotus" alone may be any folder
            if wanted == f"{owner}/{last}" or (wanted == last and telling):
                return row
    return None
