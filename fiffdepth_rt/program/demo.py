"""`fiffdepth demo`: a page to play with, in a browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import on_signals, say, tell

if TYPE_CHECKING:
    from fiffdepth_rt.program.options import EngineChoice


@click.command("demo")
@click.argument("directories", metavar="[ENGINE_DIR]...", nargs=-1, type=options.NamedPath())
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Where the page is; 0 takes a free port.",
)
@click.option(
    "--host",
    metavar="H",
    default="127.0.0.1",
    show_default=True,
    help="Which network the page is in. By default nobody but this machine reaches it.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page. By default yes.")
@options.engine_choice
@options.verbose
def command(directories: tuple[Path, ...], port: int, host: str, browser: bool, choice: EngineChoice) -> None:
    """Play with depth, in a browser.

    Drop a photo, or use the camera, and see how near each pixel is; tell two distances, and it is in metres;
    turn it with the mouse, take the files. Videos too. It is computed on this machine, and nothing is
    sent anywhere else.

    ENGINE_DIR are the models to choose from; by default the bundled one. The page wants the extra [demo]:
    pip install 'fiffdepth-rt[demo]'. Ctrl-C ends it, and what visitors gave is deleted.

    \b
    Examples:
      fiffdepth demo
      fiffdepth demo engines/lotus-d-v2-0-disparity engines/nano --port 8080
    """
    from fiffdepth_rt.demo.engines import Engines
    from fiffdepth_rt.demo.server import check_gradio, serving
    from fiffdepth_rt.serving.listening import LOCAL

    check_gradio()
    engines = Engines(directories or (None,), choice.open)
    try:
        with serving(engines, host=host, port=port) as address:
            tell(f"The page is at {address}. Ctrl-C ends it.")
            if host not in LOCAL:
                say(
                    f"Everybody who reaches {host} over the network can use it, and nothing is encrypted: "
                    "put a server in front of it that asks who they are."
                )
            if browser:
                click.launch(address)
            ended = threading.Event()
            with on_signals(ended.set):
                while not ended.wait(0.5):  # on Windows, signals end no wait without a limit
                    pass
    finally:
        engines.close()
