"""`fiffdepth doctor`: what works on this machine, what does not, and the command that fixes it.

Nothing here may raise: every look at the machine is wrapped, and libraries are imported only inside it, so
that the doctor still speaks where NumPy or OpenCV cannot be imported.
"""

from __future__ import annotations

import importlib
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from fiffdepth_rt.machine import installed, nvidia_driver
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import tell
from fiffdepth_rt.version import __version__

Verdict = Literal["ok", "note", "problem"]

# Every wheel that owns the package `onnxruntime`; two of them overwrite each other's files.
_ONNXRUNTIME_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
_OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """name: as in fiffdepth-rt[name]. wheels: what it brings. use: what is not possible without it."""

    name: str
    wheels: tuple[str, ...]
    use: str


# Those of inference engines stand among the backends, each with its own reason.
EXTRAS = (
    Extra(
        name="photos",
        wheels=("pi-heif", "OpenEXR", "tifffile", "imagecodecs"),
        use="photos in HEIC and EXR, and TIFFs of every kind",
    ),
    Extra(
        name="geometry", wheels=("trimesh", "OpenEXR"), use="metres as EXR, points as PLY, surfaces as GLB"
    ),
    Extra(name="video", wheels=("av",), use="video files and streams"),
    Extra(name="view", wheels=("rerun-sdk",), use="looking at a video while its depth is computed"),
    Extra(name="demo", wheels=("gradio",), use="a page to play with"),
    Extra(name="robotics", wheels=("rosbags",), use="ROS bags and messages"),
    Extra(name="cluster", wheels=("ray", "fsspec", "braceexpand"), use="archives, on one machine or many"),
    Extra(
        name="serve",
        wheels=("ray", "uvicorn", "python-multipart", "prometheus-client"),
        use="depth maps over HTTP",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One look at the machine.

    verdict: "ok"; "note" (a choice that is not installed; nothing is broken); "problem" (no depth maps, or
    wrong ones, until it is fixed). fix: a command or an instruction; None where there is nothing to do.
    """

    subject: str
    verdict: Verdict
    found: str
    fix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, in the order in which a person should read them."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """No problems: `fiffdepth infer photo.jpg` works here."""
        return all(finding.verdict != "problem" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """{"healthy": bool, "findings": [{"subject", "verdict", "found", "fix"}, ...]}"""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}


@click.command("doctor")
@options.engine
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@options.verbose
@click.pass_context
def command(ctx: click.Context, engine: Path | None, as_json: bool) -> None:
    """Say what works on this machine, what does not, and what fixes it.

    Each backend with the reason why it is not usable, TensorRT, library versions, extras, the GPU, wheels
    that overwrite each other, and whether an engine directory is intact, and its plans were checked on this
    GPU.
    The exit status is 1 if there is a problem. A note is no problem: something could be installed, or run.

    \b
    Examples:
      fiffdepth doctor
      fiffdepth doctor --engine engines/fiffdepth
      fiffdepth doctor --json
    """
    diagnosis = examine(engine)
    if as_json:
        tell(json.dumps(diagnosis.as_json(), indent=1))
    else:
        for finding in diagnosis.findings:
            tell(f"{finding.verdict:9}{finding.subject}: {finding.found}")
            if finding.fix:
                tell(f"{'':9}-> {finding.fix}")
        tell("No problems." if diagnosis.healthy else "Problems: run what stands behind their arrows.")
    ctx.exit(0 if diagnosis.healthy else 1)


def examine(engine: Path | None = None) -> Diagnosis:
    """This machine -> Diagnosis. Reads only, starts and changes nothing, never raises.

    engine: an engine directory to look at; None for the bundled model.
    """
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": _python,
        "libraries": _libraries,
        "ONNX Runtime": _onnxruntime_wheels,
        "OpenCV": _opencv_wheels,
        "NVIDIA GPU": _gpu,
        "backends": _backends,
        "extras": _extras,
        "bundled model": _bundled_model,
    }
    if engine is not None:
        del looks["bundled model"]
        looks["engine directory"] = partial(_engine_directory, engine)
    return Diagnosis(findings=tuple(f for subject, look in looks.items() for f in _guarded(subject, look)))


def _guarded(subject: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(look())  # what was found before it broke stays
    except Exception as error:  # a machine can be broken in any way
        findings.append(
            Finding(
                subject=subject,
                verdict="problem",
                found=f"could not be examined: {type(error).__name__}: {error}",
                fix="pip install --force-reinstall 'fiffdepth-rt[cpu]'",
            )
        )
    return findings


def _python() -> Iterator[Finding]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    found = f"{python} on {platform.system()} {platform.machine()}"
    yield Finding(subject="fiffdepth-rt", verdict="ok", found=__version__)
    yield Finding(subject="Python", verdict="ok", found=found)


def _libraries() -> Iterator[Finding]:
    for module, wheel in {"numpy": "numpy", "cv2": "opencv-python-headless", "PIL": "pillow"}.items():
        try:
            version = importlib.import_module(module).__version__
        except Exception as error:  # ImportError, but also whatever a broken library does
            yield Finding(
                subject=wheel,
                verdict="problem",
                found=f"cannot be imported: {error}",
                fix=f"pip install --force-reinstall {wheel}",
            )
        else:
            yield Finding(subject=wheel, verdict="ok", found=str(version))


def _onnxruntime_wheels() -> Iterator[Finding]:
    found = installed(_ONNXRUNTIME_WHEELS)
    if len(found) > 1:
        yield Finding(
            subject="ONNX Runtime wheels",
            verdict="problem",
            found=f"{_list(found)} are installed together and overwrite each other's files",
            fix=f"pip uninstall -y {' '.join(found)} && pip install 'fiffdepth-rt[cpu]'   "
            "(or [gpu] with an NVIDIA GPU)",
        )


def _opencv_wheels() -> Iterator[Finding]:
    found = installed(_OPENCV_WHEELS)
    if len(found) > 1:
        yield Finding(
            subject="OpenCV wheels",
            verdict="note",
            found=f"{_list(found)} are installed together and overwrite each other's files",
            fix=f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless",
        )


def _list(versions: dict[str, str]) -> str:
    return " and ".join(f"{wheel} {version}" for wheel, version in versions.items())


def _gpu() -> Iterator[Finding]:
    driver = nvidia_driver()
    if driver.failure:
        yield Finding(subject="NVIDIA GPU", verdict="note", found=driver.failure, fix=driver.fix)
        return
    if driver.version is None:
        yield Finding(subject="NVIDIA GPU", verdict="ok", found="none (no NVIDIA driver); the CPU is used")
        return
    if not driver.gpus:
        yield Finding(
            subject="NVIDIA GPU",
            verdict="ok",
            found=f"none (driver {driver.version} lists no GPU); the CPU is used",
        )
        return
    for gpu in driver.describe():
        yield Finding(subject="NVIDIA GPU", verdict="ok", found=gpu)
    if "onnxruntime" in installed(_ONNXRUNTIME_WHEELS):
        yield Finding(
            subject="NVIDIA GPU",
            verdict="note",
            found="the ONNX Runtime that is installed does not use it",
            fix="pip uninstall -y onnxruntime && pip install 'fiffdepth-rt[gpu]'",
        )


def _backends() -> Iterator[Finding]:
    from fiffdepth_rt.backends.select import ENGINES

    usabilities = [engine.usable() for engine in ENGINES]
    none_usable = not any(usability.usable for usability in usabilities)
    for usability in usabilities:
        verdict: Verdict = "ok" if usability.usable else "problem" if none_usable else "note"
        yield Finding(
            subject=f"backend {usability.name}",
            verdict=verdict,
            found=f"{'usable' if usability.usable else 'not usable'}: {usability.why}",
            fix=None if usability.usable else usability.fix,
        )


def _extras() -> Iterator[Finding]:
    for extra in EXTRAS:
        here = installed(extra.wheels)
        missing = [wheel for wheel in extra.wheels if wheel not in here]
        found = ", ".join(f"{wheel} {version}" for wheel, version in here.items())
        if missing:
            found = f"{found}; without {', '.join(missing)}" if here else "not installed"
        yield Finding(
            subject=f"extra {extra.name}",
            verdict="note" if missing else "ok",
            found=f"{found} (for {extra.use})",
            fix=f"pip install 'fiffdepth-rt[{extra.name}]'" if missing else None,
        )


def _bundled_model() -> Iterator[Finding]:
    from fiffdepth_rt.engine_dir.manifest import BUNDLED

    yield from _files("bundled model", BUNDLED, "pip install --force-reinstall --no-deps fiffdepth-rt")


def _engine_directory(directory: Path) -> Iterator[Finding]:
    (files,) = _files("engine directory", directory, None)
    yield files
    if files.verdict == "ok":
        yield from _plans(directory)


def _files(subject: str, directory: Path, fix: str | None) -> Iterator[Finding]:
    """Whether a directory is whole. fix: None where the error says it."""
    from fiffdepth_rt.engine_dir.checking import open_engine_dir
    from fiffdepth_rt.errors import FiffDepthError

    try:
        manifest = open_engine_dir(directory).manifest
    except FiffDepthError as error:
        yield Finding(subject=subject, verdict="problem", found=str(error), fix=fix)
        return
    size = sum(record.bytes for record in manifest.files.values())
    yield Finding(
        subject=subject,
        verdict="ok",
        found=f"{manifest.name}: {len(manifest.files)} files, {size / 1e6:.1f} MB, every hash as exported",
    )


def _plans(directory: Path) -> Iterator[Finding]:
    """Of each library: how many plans there are, whether they are for this GPU, and were checked on it."""
    from fiffdepth_rt.backends.tensorrt.first_check import found_here
    from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS
    from fiffdepth_rt.backends.tensorrt.here import require, usable
    from fiffdepth_rt.engine_dir.checking import open_engine_dir

    engine_dir = open_engine_dir(directory, verify=False)
    for flavour in FLAVOURS:
        plans = [plan for plan in engine_dir.manifest.plans if plan.flavour == flavour.name]
        subject = f"plans of {flavour.name}"
        if not plans:
            continue
        usability = usable(flavour)
        if not usability.usable:
            found = f"{len(plans)} here, which cannot be checked: {usability.why}"
            yield Finding(subject=subject, verdict="note", found=found, fix=usability.fix)
            continue
        target, gpu = require(flavour=flavour)
        journeys = found_here(engine_dir, target, gpu)
        if not journeys:
            found = f"{len(plans)} here, no journey of which is for {gpu.name} and {target.release}"
            yield Finding(subject=subject, verdict="note", found=found, fix=f"fiffdepth info {directory}")
        for journey in journeys:
            precision = journey.plans[0].precision
            if journey.verdict is None:
                how = f"fiffdepth verify {directory} --backend {flavour.name} --precision {precision}"
                found = f"{precision}: not checked on {gpu.name} yet; the first opening does it"
                yield Finding(subject=subject, verdict="note", found=found, fix=how)
            elif journey.verdict.agreed:
                yield Finding(subject=subject, verdict="ok", found=f"{precision}: checked on {gpu.name}")
            else:
                yield Finding(subject=subject, verdict="problem", found=journey.verdict.why)
