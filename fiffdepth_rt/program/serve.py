"""`fiffdepth serve`: depth maps over HTTP, by replicas on Ray Serve."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.errors import BackendUnavailableError
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import on_signals, say_who_reaches, tell, wait_for

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.program.options import EngineChoice


@click.command("serve")
@options.engine
@options.size
@options.host_and_port("the service", 8000)
@click.option(
    "--replicas",
    metavar="N",
    type=click.IntRange(min=1),
    help="Opened models. By default one per GPU, or one per machine where there is none.",
)
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    type=options.WORD,
    default="local",
    show_default=True,
    help="A Ray cluster: auto, HOST:6379 or ray://HOST:10001; local is one of this machine's own.",
)
@click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(min=1),
    help="Photos that run together at most. By default 4 on GPUs, 1 on CPUs, where more gain nothing.",
)
@click.option(
    "--max-mib",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="MiB of an upload.",
)
@click.option(
    "--max-megapixels",
    metavar="N",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    help="Million pixels of a photo, by its header.",
)
@click.option(
    "--waiting",
    metavar="N",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Photos that wait for a replica; who comes then is told when to come back.",
)
@options.engine_choice
@options.verbose
def command(
    engine: Path | None,
    size: Size,
    host: str,
    port: int,
    replicas: int | None,
    address: str,
    batch: int | None,
    max_mib: int,
    max_megapixels: int,
    waiting: int,
    choice: EngineChoice,
) -> None:
    """Depth maps over HTTP.

    Send a photo to /depth, as the body or as the one file of a form, and get a 16-bit PNG, or what Accept or
    ?format=npy, ?format=json says. /health, /ready and /metrics (Prometheus) are for whoever looks after it.
    Ctrl-C or SIGTERM ends it when what was accepted is answered.

    The service wants the extra [serve]: pip install 'fiffdepth-rt[serve]'. On a cluster, the engine
    directory lies under the same path on each machine; the bundled model is brought along.

    \b
    Examples:
      fiffdepth serve
      curl --data-binary @photo.jpg http://127.0.0.1:8000/depth -o depth.png
      fiffdepth serve --engine engines/fiffdepth --replicas 4 --ray auto --host 0.0.0.0
    """
    from fiffdepth_rt.engine_dir.checking import open_engine_dir
    from fiffdepth_rt.engine_dir.manifest import BUNDLED

    open_engine_dir(engine or BUNDLED, verify=False)  # what is wrong with it is said before replicas start

    try:
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401

        from fiffdepth_rt.serving import replicas as on_ray
    except ImportError as error:  # Ray may be there without what Ray Serve wants
        raise BackendUnavailableError(
            f"The service wants {error.name}, not installed here: pip install 'fiffdepth-rt[serve]'"
        ) from error
    from fiffdepth_rt.serving.app import Service
    from fiffdepth_rt.serving.limits import Limits
    from fiffdepth_rt.serving.listening import LOCAL, address_of, listening, serving

    limits = Limits(upload_bytes=max_mib * 2**20, pixels=max_megapixels * 10**6, waiting=waiting)
    open_depth = functools.partial(choice.open, None if engine is None else engine.absolute(), size=size)
    ended = threading.Event()
    with (
        listening(host, port) as listener,  # a port that is taken is said before replicas start
        on_ray.replicas(open_depth, limits, address=address, count=replicas, batch=batch) as workers,
        on_signals(ended.set),  # behind Ray, which takes SIGTERM for itself
    ):
        names = frozenset(LOCAL) if host in LOCAL else frozenset[str]()
        service = Service(workers, limits, at_once=workers.at_once, names=names)
        with serving(service, listener, limits), workers.watched(service):
            tell(f"Photos go to {address_of(listener, host)}/depth. Ctrl-C ends it.")
            say_who_reaches(host)
            wait_for(ended)
            tell("Ends when what was accepted is answered.")
