"""Options and arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiffdepth_rt.atomic import NAME_MAX_BYTES, PATH_MAX_BYTES
from fiffdepth_rt.errors import shortened
from fiffdepth_rt.program.terminal import log_to_stderr

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.depth import Depth


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Which engine is to run: --backend, --device, --precision and --threads, as `Depth` takes them."""

    backend: str
    device: str | None
    precision: str | None
    threads: int | None

    def open(self, directory: Path | None, *, size: Size = None) -> Depth:
        """Engine directory (None: the bundled model) -> Depth on this engine. Raises what Depth raises."""
        from fiffdepth_rt.depth import Depth

        return Depth(
            directory,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            size=size,
            threads=self.threads,
        )

    def with_threads(self, threads: int | None) -> EngineChoice:
        """The same with another --threads."""
        return replace(self, threads=threads)


def engine_choice(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the four options of an EngineChoice to a command, which gets them as one argument, `choice`."""

    @_backend
    @_device
    @_precision
    @_threads
    @functools.wraps(command)
    def with_choice(
        *, backend: str, device: str | None, precision: str | None, threads: int | None, **others: Any
    ) -> None:
        choice = EngineChoice(backend=backend, device=device, precision=precision, threads=threads)
        command(choice=choice, **others)

    return with_choice


class NamedPath(click.Path):
    """A path that is not empty: what a shell makes of an unset variable would be the current folder. No
    name in it is longer than a file's can be."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("'' is no name: name a file or a folder.", param, ctx)
        if long := too_long(value):
            self.fail(f"{long}.", param, ctx)
        return super().convert(value, param, ctx)


class Word(click.types.StringParamType):
    """Text that is not empty: what a shell makes of an unset variable would mean something else, such as all
    networks for a host."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("'' says nothing: was it an unset variable of the shell?", param, ctx)
        return super().convert(value, param, ctx)


WORD = Word()


class PathOrName(Word):
    """Text that is a path, or a name of something elsewhere: as `Word`, and as `NamedPath` asks of paths.

    pattern: the path may be one.
    """

    def __init__(self, *, pattern: bool = False) -> None:
        self.pattern = pattern

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if long := too_long(value, pattern=self.pattern):
            self.fail(f"{long}.", param, ctx)
        return super().convert(value, param, ctx)


PATH_OR_NAME = PathOrName()
PATH_OR_PATTERN = PathOrName(pattern=True)


def path_or_name(text: str) -> str:
    """PATH_OR_PATTERN for argparse's `type`; it may be empty."""
    if long := too_long(text, pattern=True):
        raise argparse.ArgumentTypeError(long)
    return text


def named_path(text: str) -> Path:
    """NamedPath for argparse's `type`, which says what raises ValueError."""
    if not text:
        raise ValueError("an empty path")
    if long := too_long(text):
        raise argparse.ArgumentTypeError(long)
    return Path(text)


def too_long(path: str | os.PathLike[str], *, pattern: bool = False) -> str | None:
    """Why no file can be there, where the path, or a name in it, is too long; pathlib raises on such paths.

    pattern: names with wildcards or braces ("{0000..0999}.tar") stand for other names, of any length.
    """
    parts = [part for part in Path(path).parts if not (pattern and set(part) & set("*?[{"))]
    long = next((part for part in parts if len(os.fsencode(part)) > NAME_MAX_BYTES), None)
    if long is not None:
        return f"{shortened(long)!r} is longer than a name may be, {NAME_MAX_BYTES} bytes"
    if len(os.fsencode(Path(*parts))) >= PATH_MAX_BYTES:
        return f"{shortened(path)!r} is longer than a path may be, {PATH_MAX_BYTES} bytes"
    return None


def parse_hw(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """ "192x256" -> (192, 256)"""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
    if match is None:
        reason = f"{value!r} is no size: say height x width in px, such as 192x256."
        raise click.BadParameter(reason, ctx, option)
    return int(match[1]), int(match[2])


def parse_grids(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """("512x512", "384x640") -> ((512, 512), (384, 640))"""
    return tuple(hw for value in values if (hw := parse_hw(ctx, option, value)) is not None)


def _parse_size(ctx: click.Context, option: click.Parameter, value: str | None) -> Size:
    """ "512" -> 512; "384x512" -> (384, 512)"""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,6}", value):
        return int(value)
    if re.fullmatch(r"\d{1,6}x\d{1,6}", value):
        return parse_hw(ctx, option, value)
    reason = f"{value!r} is no size: say px along the longer side, such as 512, or a grid, such as 384x512."
    raise click.BadParameter(reason, ctx, option)


_backend = click.option(
    "--backend",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Inference engine, such as onnxruntime; auto takes the best one that works here.",
)
_device = click.option(
    "--device", metavar="D", type=WORD, help="cpu, cuda or cuda:1. By default what the engine prefers."
)
_precision = click.option(
    "--precision",
    metavar="P",
    help="Which of the directory's graph sets, such as bf16. By default the engine's first choice.",
)
_threads = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="Threads of an engine on the CPU. By default one for each physical core.",
)
verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=log_to_stderr,
    help="Say what is being done. Twice, -v -v: in detail, and errors with their traceback.",
)
engine = click.option(
    "--engine",
    metavar="DIR",
    type=NamedPath(),
    help="Engine directory. By default the bundled model, nano.",
)
size = click.option(
    "--size",
    metavar="N",
    callback=_parse_size,
    help="Longer side, in px, at which the model sees a photo or frame; or a grid, HxW. By default what the "
    "model was made for.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
directory = click.argument("directory", metavar="[DIR]", required=False, type=NamedPath(), default=None)
strict = click.option(
    "--strict", is_flag=True, help="Refuse a JPEG without its end. By default it is read as far as it goes."
)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def formats(known: Sequence[str], *, default: str, help: str) -> Decorator:
    """--format F,F: names among `known`, each once; the command gets them as a tuple, `formats`."""

    def parse(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
        named = tuple(dict.fromkeys(value.split(",")))
        for name in named:
            if name not in known:
                reason = f"{name!r} is no format: say one or more of {','.join(known)}."
                raise click.BadParameter(reason, ctx, option)
        return named

    return click.option(
        "--format", "formats", metavar="F,F", callback=parse, default=default, show_default=True, help=help
    )


def host_and_port(what: str, port: int) -> Decorator:
    """--host and --port of a server. what: it such as "the page"."""
    host = click.option(
        "--host",
        metavar="H",
        type=WORD,
        default="127.0.0.1",
        show_default=True,
        help=f"Which network {what} is in. By default nobody but this machine reaches it.",
    )
    number = click.option(
        "--port",
        metavar="N",
        type=click.IntRange(0, 65535),
        default=port,
        show_default=True,
        help=f"Where {what} is; 0 takes a free port.",
    )
    return lambda command: host(number(command))
