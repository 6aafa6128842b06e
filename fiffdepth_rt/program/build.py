"""`fiffdepth build`: an engine directory -> the same, with plans of TensorRT or TensorRT for RTX."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import moving_line, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.tensorrt.build import Finished
    from fiffdepth_rt.backends.tensorrt.jobs import Request
    from fiffdepth_rt.backends.tensorrt.progress import BuildProgress, OnProgress


_FLAVOURS = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}


@click.command("build")
@click.argument("directory", metavar="ENGINE_DIR", type=options.NamedPath())
@click.option(
    "--flavour",
    type=click.Choice(list(_FLAVOURS)),
    default="tensorrt",
    show_default=True,
    help="tensorrt: for the GPU of this machine. rtx: TensorRT for RTX, on any machine, for desktop GPUs.",
)
@click.option(
    "--compute-capability",
    metavar="X.Y",
    help="With rtx: build for GPUs of this compute capability alone, such as 7.5 for Turing. By default for "
    "8.0 (Ampere) and all newer ones.",
)
@click.option(
    "--grid",
    "grids",
    metavar="HxW",
    multiple=True,
    callback=options.parse_grids,
    help="Grid to build for, height x width in px; may be given again. By default a square of the size that "
    "the model was made for.",
)
@click.option(
    "--batch",
    "batches",
    metavar="N",
    multiple=True,
    default=(1,),
    type=click.IntRange(min=1),
    help="Photos that run at once; may be given again. By default 1.",
)
@click.option("--precision", metavar="P", help="Graph set. By default fp16, else bf16, else fp32.")
@click.option("--static", is_flag=True, help="A plan for each grid and batch, instead of one for all.")
@click.option(
    "--opt-level",
    metavar="0-5",
    type=click.IntRange(0, 5),
    help="How hard TensorRT looks for fast kernels. By default its own choice, 3.",
)
@click.option(
    "--workspace",
    "workspace_mib",
    metavar="MIB",
    type=click.IntRange(min=1),
    help="Scratch memory that kernels may use, in MiB. By default all of the GPU's.",
)
@click.option(
    "--warm",
    is_flag=True,
    help="With rtx, on the card itself: then compile the plans' kernels, and keep them for all later starts.",
)
@click.option(
    "--strip-plan", is_flag=True, help="Plans without weights; they are read from the graphs when opened."
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="Plans for every GPU of this compute capability, perhaps slower. TensorRT 10.12 or newer.",
)
@options.verbose
def command(
    directory: Path,
    flavour: str,
    compute_capability: str | None,
    grids: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    precision: str | None,
    static: bool,
    opt_level: int | None,
    workspace_mib: int | None,
    strip_plan: bool,
    hardware_compatible: bool,
    warm: bool,
) -> None:
    """Build TensorRT plans, and check them.

    ENGINE_DIR is an engine directory; the plans are added to it. TensorRT's run on this GPU model and this
    version only, so build on the machine that will run them. Those of TensorRT for RTX need no GPU to be
    built: one plan runs on every desktop GPU from Ampere on, with this version only.

    Each plan is held against the golden values of the export before it is listed; one that was built where no
    GPU can run it, when a GPU first opens it. A build that was stopped goes on where it was.

    If no golden photo lies on one of the grids, that of the first is built as well, since only there a plan
    can be checked.

    \b
    Examples:
      fiffdepth build engines/fiffdepth
      fiffdepth build engines/fiffdepth --grid 512x512 --grid 384x640
      fiffdepth build engines/fiffdepth --precision fp32 --batch 1 --batch 4
      fiffdepth build engines/fiffdepth --flavour rtx --grid 512x512
      fiffdepth build engines/fiffdepth --flavour rtx --compute-capability 7.5
      fiffdepth build engines/fiffdepth --flavour rtx --warm
    """
    from fiffdepth_rt.backends.tensorrt.build import build_plans
    from fiffdepth_rt.backends.tensorrt.flavour import flavour_named
    from fiffdepth_rt.backends.tensorrt.jobs import Request

    request = Request(
        flavour=flavour_named(_FLAVOURS[flavour]),
        compute_capability=compute_capability,
        grids=grids,
        batches=batches,
        precision=precision,
        static=static,
        opt_level=opt_level,
        workspace_mib=workspace_mib,
        strip_plan=strip_plan,
        hardware_compatible=hardware_compatible,
        command=_command_line(),
    )
    if warm:
        _check_can_warm(request)
    with _progress() as (on_progress, on_finished):
        records = build_plans(directory, request, on_progress=on_progress, on_finished=on_finished)
    if warm:
        _warm(directory, request, records[0].precision)


def _check_can_warm(request: Request) -> None:
    """Raises BuildError where nothing is compiled or kept, BackendUnavailableError without the card."""
    from fiffdepth_rt.backends.tensorrt.here import require
    from fiffdepth_rt.cache_folder import VARIABLE, cache_folder
    from fiffdepth_rt.errors import BuildError

    if not request.flavour.portable:
        raise BuildError(
            "--warm is for --flavour rtx: TensorRT's plans hold kernels that are compiled already."
        )
    if cache_folder() is None:
        raise BuildError(f"--warm has nowhere to keep kernels: set {VARIABLE} to a folder.")
    require(flavour=request.flavour)


def _warm(directory: Path, request: Request, precision: str) -> None:
    from fiffdepth_rt.backends.tensorrt.backend import open_backend
    from fiffdepth_rt.engine_dir.checking import open_engine_dir

    start = time.perf_counter()
    engine_dir = open_engine_dir(directory, verify=False)
    with contextlib.closing(open_backend(engine_dir, precision=precision, flavour=request.flavour)) as opened:
        opened.warm_up()
        kernels = opened.describe()["kernels"]
    seconds = time.perf_counter() - start
    tell(f"kernels of {precision}: {kernels}; opened and run once in {seconds:.0f} s")


def _command_line() -> str:
    """The command as it was typed, without the folders of this machine."""
    words = [Path(word).name if "/" in word or "\\" in word else word for word in sys.argv[1:]]
    return " ".join(("fiffdepth", *words))


@contextlib.contextmanager
def _progress() -> Iterator[tuple[OnProgress, Callable[[Finished], None]]]:
    """What `build_plans` calls: a line on stderr that moves; a line on stdout for each plan."""
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    with moving_line("building", unit="plan", total=1, layout=layout) as line:

        def show(progress: BuildProgress) -> None:
            line.set_description_str(progress.stage, refresh=False)
            line.set_postfix_str(progress.phase[:60], refresh=False)
            line.n = progress.fraction
            line.refresh()

        def finish(finished: Finished) -> None:
            record = finished.record
            if finished.kept:
                how = "is here already"
            elif record.checked:
                how = f"built and checked in {finished.seconds:.0f} s"
            else:
                how = f"built in {finished.seconds:.0f} s, not yet run on a GPU"
            tell(f"{finished.record.file}: {how}")

        yield show, finish
