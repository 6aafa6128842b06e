"""Options that the commands of scoring share: who is scored, on how many processes, what is kept."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks import commands
from benchmarks.evaluation.methods import Choice, EngineChoice, FolderChoice, OddSize, RampChoice, grids_for
from benchmarks.evaluation.peers import PeerChoice
from benchmarks.report import Report
from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.grids import Size
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.program.options import PATH_OR_NAME, too_long
from training.alignment import AlignmentSpace
from training.data.samples import DataError

LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "onnxruntime",
    "openvino",
    "torch",
    "transformers",
    "diffusers",
)
"""Whose versions a report names, where they are installed."""

data = click.option(
    "--data", metavar="ROOT", type=commands.FOLDER, help="The folder with a folder per dataset."
)
scale = click.option("--scale", metavar="N", type=commands.COUNT, default=1, help="Of scenes, times 192×256.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """What holds for every set and method of a run.

    engine, predictions, model: who is scored, at most one of them; none: the bundled model beside the ramp.
    space: of a peer's output, where it is not known.
    size: for sets without a processing size of their own. keep: where predictions are kept; None: nowhere.
    ray: a cluster's address, instead of processes here. out: where files of results go; None: nowhere.
    """

    engine: Path | None = None
    predictions: FolderChoice | None = None
    model: str | None = None
    space: AlignmentSpace | None = None
    size: Size = None
    odd_size: OddSize = "floor"
    keep: Path | None = None
    processes: int = 1
    ray: str | None = None
    threads: int | None = None
    out: Path | None = None

    def choices(self, processing_hw: Callable[[], tuple[int, int] | None] = lambda: None) -> list[Choice]:
        """Who is scored. An engine is there once for each grid that it has for the protocol's size.

        processing_hw: -> that size, asked for an engine alone; None: photos each at their own, or at `size`.
        """
        if self.predictions is not None:
            return [self.predictions]
        if self.model == "ramp":
            return [RampChoice()]
        if self.model is not None:
            return [PeerChoice(which=self.model, space=self.space, threads=self.threads)]
        engines: list[Choice] = [EngineChoice(folder=self.engine, size=self.size, threads=self.threads)]
        if (hw := processing_hw()) is not None:
            engines = list(grids_for(self.engine, hw, self.odd_size, self.threads))
        return engines if self.engine is not None else [*engines, RampChoice()]


def scoring(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of a How to a command, which gets them as one argument, `how`.

    A DataError inside the command ends it with its sentence.
    """

    @commands.engine
    @click.option(
        "--model",
        metavar="NAME",
        type=PATH_OR_NAME,
        help="Instead: ramp, or a model's folder or OWNER/NAME on the hub.",
    )
    @click.option("--predictions", metavar="DIR", type=commands.FOLDER, help="Instead: maps in files.")
    @click.option(
        "--space",
        type=click.Choice([str(space) for space in AlignmentSpace]),
        help="Of predictions or a model's output; else what is known of it.",
    )
    @click.option("--resize-predictions", is_flag=True, help="Take predictions of another size.")
    @commands.size
    @click.option(
        "--keep", metavar="DIR", type=commands.NEW, help="Where predictions are kept; else the cache."
    )
    @click.option(
        "--ray",
        metavar="ADDRESS",
        type=commands.WORD,
        help="Instead: on a Ray cluster; auto, HOST:6379, local.",
    )
    @click.option("--processes", metavar="N", type=commands.COUNT, default=1, help="So many images at once.")
    @click.option(
        "--threads", metavar="N", type=commands.COUNT, help="Of an engine on the CPU, in a process."
    )
    @click.option("-o", "--out", metavar="DIR", type=commands.NEW, help="Keep CSV, JSON and Markdown there.")
    @functools.wraps(command)
    def with_how(
        *,
        engine: Path | None,
        model: str | None,
        predictions: Path | None,
        space: str | None,
        resize_predictions: bool,
        size: Size,
        keep: Path | None,
        processes: int,
        ray: str | None,
        threads: int | None,
        out: Path | None,
        **others: Any,
    ) -> None:
        if sum(given is not None for given in (engine, model, predictions)) > 1:
            raise click.UsageError("Give one of --engine, --model and --predictions.")
        cache = cache_folder()
        folder = None
        if predictions is not None:
            given = None if space is None else AlignmentSpace(space)
            folder = FolderChoice(folder=predictions, space=given, resize=resize_predictions)
        how = How(
            engine=engine,
            predictions=folder,
            model=model,
            space=None if space is None else AlignmentSpace(space),
            size=size,
            keep=keep if keep is not None else None if cache is None else cache / "predictions",
            processes=processes,
            ray=ray,
            threads=threads,
            out=out,
        )
        try:
            command(how=how, **others)
        except DataError as error:
            raise click.ClickException(str(error)) from error

    return with_how


def models(choices: Iterable[Mapping[str, Any]]) -> str:
    """Of what was scored: names, with the beginning of their hashes."""
    found = {choice["model"]: (choice.get("model_sha256") or "")[:16] for choice in choices}
    return ", ".join(f"{model} {sha}".strip() for model, sha in found.items())


def words(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """ "nyuv2, folder:DIR" -> ("nyuv2", "folder:DIR"). Refuses a DIR that no file system takes."""
    found = tuple(word.strip() for word in value.split(",") if word.strip())
    for word in found:
        if long := too_long(word.partition(":")[2]):
            raise click.BadParameter(f"{long}.", ctx, option)
    return found


def write_out(folder: Path, report: Report, texts: Mapping[str, str]) -> None:
    """result.json, result.md and `texts` by their names, each whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    pretty: Any = json.dumps(json.loads(report.to_json()), indent=1)
    files = {"result.json": f"{pretty}\n", "result.md": f"{report.to_markdown()}\n", **texts}
    for name, text in files.items():
        with replacing(folder / name) as file:
            file.write(text.encode(errors="surrogateescape"))  # names of files may be no text
