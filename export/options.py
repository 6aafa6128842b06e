"""What an export is asked for: Options, and the words of `python -m export.build_engines` -> its values."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click

from export.model import Given
from export.onnx_graphs import GraphForm
from export.precision import Precision
from export.stages import VAE_FACTOR
from training.provenance import command_without_folders
from training.weights.hub import HubName

ENGINES = Path("engines")
"""Where an engine directory goes that was given no place: beneath the current folder."""
TARGETS = ("any", "trt8.5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """One export.

    checkpoint: a path, or a name on a hub. vae_from, text_encoder_from: names to take these from, in place of
    what `given` has. accept_licence: ask no question about a licence that is not a free one. unasked:
    precisions that nobody asked for by name; a graph set of theirs beyond its gates is left out, where
    another's is an error. size, size_max: the default and the largest longer side, in px, at which the model
    sees a photo; None for what the checkpoint says. golden_size: the longer side of the golden photos, in px;
    None for the default size. leave_out: names of folds. memory: measure what graphs take on ONNX Runtime.
    plans: end with plans, as far as they can be built here; compute_capability: of the cards that those of
    TensorRT for RTX are for, None for Ampere and newer. command: what was typed, for the manifest.
    """

    checkpoint: Path | HubName
    output: Path
    given: Given = dataclasses.field(default_factory=Given)
    vae_from: HubName | None = None
    text_encoder_from: HubName | None = None
    accept_licence: bool = False
    forms: tuple[GraphForm, ...] = (GraphForm(),)
    unasked: frozenset[Precision] = frozenset()
    size: int | None = None
    size_max: int | None = None
    photos: tuple[Path, ...] = ()
    golden_size: int | None = None
    licence_file: Path | None = None
    leave_out: frozenset[str] = frozenset()
    overwrite: bool = False
    resume: bool = True
    accept_parity: bool = False
    memory: bool = True
    plans: bool = True
    compute_capability: str | None = None
    command: str = ""


class RecordedCommand(click.Command):
    """A command that keeps what was typed, for the manifest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["typed"] = command_without_folders("export.build_engines", args)
        return super().parse_args(ctx, args)


def engine_dir_for(checkpoint: Path) -> Path:
    """checkpoint -> engines/NAME: the folder's name, or the file's without ".safetensors"."""
    whole = checkpoint.absolute()  # "." has a name too; a link keeps its own
    name = whole.resolve().name if whole.name == ".." else whole.name
    return ENGINES / re.sub(r"\.safetensors$", "", name, flags=re.IGNORECASE)


def read_precisions(_: click.Context, __: click.Parameter, value: str) -> tuple[Precision, ...]:
    """ "fp32,fp16" -> the two, each once."""
    try:
        return tuple(dict.fromkeys(Precision(name.strip()) for name in value.split(",")))
    except ValueError as e:
        raise click.BadParameter(f"choose from {', '.join(p.value for p in Precision)}") from e


def read_sizes_hw(
    _: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """("480x640", ...) -> ((480, 640), ...): height before width."""
    sizes = []
    for value in values:
        sides = value.lower().split("x")
        if len(sides) != 2 or not all(side.isdigit() for side in sides):
            raise click.BadParameter(f"{value!r} is no size: write height and width, like 480x640")
        h, w = int(sides[0]), int(sides[1])
        if min(h, w) < 16 or (parameter.name == "static" and (h % VAE_FACTOR or w % VAE_FACTOR)):
            raise click.BadParameter(f"{value}: both sides have to be multiples of {VAE_FACTOR}, 16 at least")
        sizes.append((h, w))
    return tuple(sizes)


def graph_forms(
    precisions: tuple[Precision, ...],
    *,
    static: tuple[tuple[int, int], ...] = (),
    camera: tuple[tuple[int, int], ...] = (),
    target: str = "any",
    keep_fp32: tuple[str, ...] = (),
) -> tuple[GraphForm, ...]:
    """Every precision in its dynamic form (or the static ones, if asked for), and one for each camera."""
    forms = []
    for precision in precisions:
        plain = GraphForm(precision=precision, trt85=target == "trt8.5", keep_fp32=keep_fp32)
        forms += [dataclasses.replace(plain, grid_hw=hw) for hw in static] or [plain]
        forms += [dataclasses.replace(plain, camera_hw=hw) for hw in camera]
    return tuple(forms)
