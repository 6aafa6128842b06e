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
from typing import Any, Literal

import click

from fiffdepth_rt.machine import installed, nvidia_driver
from fiffdepth_rt.program import options
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
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@options.verbose
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what works on this machine, what does not, and what fixes it.

    Each backend with the reason why it is not usable, TensorRT, library versions, the GPU, wheels that
    overwrite each other, and whether the bundled model is intact. The exit status is 1 if there is a problem.
    A note is no problem: something more could be installed.

    \b
    Examples:
      fiffdepth doctor
      fiffdepth doctor --json
    """
    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(diagnosis.as_json(), indent=1))
    else:
        for finding in diagnosis.findings:
            click.echo(f"{finding.verdict:9}{finding.subject}: {finding.found}")
            if finding.fix:
                click.echo(f"{'':9}-> {finding.fix}")
        click.echo("No problems." if diagnosis.healthy else "Problems: run what stands behind their arrows.")
    ctx.exit(0 if diagnosis.healthy else 1)


def examine() -> Diagnosis:
    """This machine -> Diagnosis. Reads only, starts and changes nothing, never raises."""
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": _python,
        "libraries": _libraries,
        "ONNX Runtime": _onnxruntime_wheels,
        "OpenCV": _opencv_wheels,
        "NVIDIA GPU": _gpu,
        "backends": _backends,
        "bundled model": _bundled_model,
    }
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


def _bundled_model() -> Iterator[Finding]:
    from fiffdepth_rt.engine_dir.checking import open_engine_dir
    from fiffdepth_rt.engine_dir.manifest import BUNDLED
    from fiffdepth_rt.errors import FiffDepthError

    try:
        manifest = open_engine_dir(BUNDLED).manifest
    except FiffDepthError as error:
        yield Finding(
            subject="bundled model",
            verdict="problem",
            found=str(error),
            fix="pip install --force-reinstall --no-deps fiffdepth-rt",
        )
        return
    size = sum(record.bytes for record in manifest.files.values())
    yield Finding(
        subject="bundled model",
        verdict="ok",
        found=f"{manifest.name}: {len(manifest.files)} files, {size / 1e6:.1f} MB, every hash as exported",
    )
