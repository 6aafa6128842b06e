"""`fiffdepth demo`: a page to play with, in a browser."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import on_signals, say_who_reaches, tell, wait_for

if TYPE_CHECKING:
    from fiffdepth_rt.program.options import EngineChoice


@click.command("demo")
@click.argument("directories", metavar="[ENGINE_DIR]...", nargs=-1, type=options.NamedPath())
@options.host_and_port("the page", 7860)
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

    check_gradio()
    engines = Engines(directories or (None,), choice.open)
    try:
        with serving(engines, host=host, port=port) as address:
            tell(f"The page is at {address}. Ctrl-C ends it.")
            say_who_reaches(host)
            if browser:
                click.launch(address)
            ended = threading.Event()
            with on_signals(ended.set):
                wait_for(ended)
    finally:
        engines.close()
