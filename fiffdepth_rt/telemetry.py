"""Libraries that report about their users are told not to, before they are imported and could begin.

    library            what it does by itself                           what switches it on again
    ONNX Runtime 1.29  writes a device id under ~/.cache/Microsoft,     ORT_DISABLE_TELEMETRY=0
                       sends which models and machines it sees
    OpenVINO           writes a client id under ~/intel, sends that     opt_in_out --opt_in, a command that
                       it was imported, and what it converts            comes with OpenVINO
    huggingface_hub    adds versions and a session's number to what     HF_HUB_DISABLE_TELEMETRY=0
                       is asked of a hub
    Gradio             sends that a page was started                    nothing: `fiffdepth demo` says no
    Ray                sends what a cluster consists of, every hour     RAY_USAGE_STATS_ENABLED=1
    Rerun's viewer     sends that it was opened, what was shown, and    FORCE_RERUN_ANALYTICS=1
                       asks GitHub for a newer release

What the user has set stays. huggingface_hub is met by the tools of a clone alone. A library
that comes to use here and reports gets its row, above and in `_VARIABLES`, unless it wants more than a
variable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

from fiffdepth_rt.processes import environment

_ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"
RAY_REPORTS = "RAY_USAGE_STATS_ENABLED"
"""Read when a cluster is started; cluster/connecting.py sets it for that time."""
_VARIABLES = {
    _ONNXRUNTIME: "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    RAY_REPORTS: "0",
}


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which reports nothing; the environment is afterwards what it was before.

    Where the program has imported ONNX Runtime before, its reports end here. Raises what importing raises.
    """
    wanted = _ONNXRUNTIME in os.environ  # then the library obeys by itself
    said = os.environ.get(_ONNXRUNTIME, _VARIABLES[_ONNXRUNTIME])
    with environment(**{_ONNXRUNTIME: said}):  # read once, while it is imported
        import onnxruntime
    if not wanted:
        onnxruntime.disable_telemetry_events()  # Windows, and releases before 1.29, know nothing else
    return onnxruntime


def import_openvino() -> Any:
    """The module `openvino`, which reports nothing. Raises what importing raises."""
    _hide_openvino_telemetry()
    import openvino

    return openvino


def import_rerun() -> Any:
    """The module `rerun`, whose own log stays quiet unless RUST_LOG says otherwise: what it would say of a
    failure, it raises too. Raises what importing raises."""
    with environment(RUST_LOG=os.environ.get("RUST_LOG", "off")):  # read once, while it is imported
        import rerun
    return rerun


def rerun_viewer_environment() -> dict[str, str]:
    """What Rerun's viewer, a program of its own, is started with: it reports nothing, and asks nobody.

    Where `CI` is set, it takes the machine for one that tests programs, and does not report; the other
    switch, `rerun analytics disable`, writes a file into the user's home. Its question for a newer release
    has no switch: it goes to a proxy that is not there. What it shows comes to it past any proxy.
    """
    if os.environ.get("FORCE_RERUN_ANALYTICS"):
        return dict(os.environ)
    nowhere = "http://127.0.0.1:9"  # the port "discard"
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    return {**os.environ, **dict.fromkeys(names, nowhere), "CI": "1"}


def switch_off() -> None:
    """For a program of ours, at its start: for all libraries, in this process and those that it starts."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    _hide_openvino_telemetry()


def _hide_openvino_telemetry() -> None:
    """OpenVINO takes what reports, `openvino_telemetry`, for not installed, and goes without.

    There is no variable for it. Its only switch is the file that `opt_in_out` writes into the user's home.
    """
    if not _opted_in():
        # None in sys.modules makes an import fail as that of a module which is not there.
        cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)


def _opted_in() -> bool:
    """Whether the user has told OpenVINO to report, by `opt_in_out --opt_in`."""
    try:
        if sys.platform == "win32":
            file = Path(os.environ["LOCALAPPDATA"], "Intel Corporation", "openvino_telemetry")
        else:
            file = Path.home() / "intel" / "openvino_telemetry"
        return file.read_text().strip() == "1"
    except (OSError, ValueError, KeyError, RuntimeError):  # none there, no text, or the user has no home
        return False
