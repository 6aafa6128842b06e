"""Engine directory -> a model repository for Triton (KServe v2), whose model calls this package.

    OUT/NAME/config.pbtxt       tensors, instances, what the values mean
    OUT/NAME/1/model.py         an import: Triton's Python backend -> triton_model.py
    OUT/NAME/1/engine/          the engine directory, copied: a repository is moved, and kept, as a whole

The config is Triton's ModelConfig (model_config.proto) in protobuf's text format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.space import Space

MODEL_PY = '''"""Depth maps by fiffdepth_rt, which the Python of Triton's Python backend must find."""

import os
import sys

sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # some stubs ignore it

from fiffdepth_rt.serving.triton_model import TritonPythonModel  # noqa: E402, F401
'''
"""The whole of model.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instances:
    """How many opened models there are, and where. count: in all on a CPU, on each GPU on GPUs."""

    count: int = 1
    kind: Literal["cpu", "gpu"] = "cpu"


def write_model_repository(
    engine_dir: Path,
    out: Path,
    *,
    name: str | None = None,
    instances: Instances = Instances(),
    parameters: Mapping[str, str] | None = None,
) -> Path:
    """Engine directory -> OUT/NAME, which Triton loads. The folder is whole or not there.

    name: of the model at Triton; None for that in the manifest. parameters: of triton_model.py, beside what
    `instances` says. Returns OUT/NAME.

    Raises what opening the engine directory raises, every file of which is hashed; OutputError: OUT/NAME is
    there already, no permission, disk full.
    """
    opened = open_engine_dir(engine_dir)
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", opened.manifest.name).lstrip(".") or "depth"
    with _new_folder(out / name) as folder:
        (folder / "config.pbtxt").write_text(config(opened, name, instances, parameters or {}), "utf-8")
        version = folder / "1"
        version.mkdir()
        (version / "model.py").write_text(MODEL_PY, "utf-8")
        for file in (MANIFEST_NAME, *opened.manifest.files):
            target = version / "engine" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(opened.path / file, target)
    return out / name


def config(opened: EngineDir, name: str, instances: Instances, parameters: Mapping[str, str]) -> str:
    """What config.pbtxt says."""
    space = Space(opened.manifest.output_space)
    said = {
        "space": str(space),
        "convention": f"affine-invariant {space}: {space.ends()}; not {space.unit}",
        **parameters,
    }
    rows = "".join(
        f"parameters {{\n  key: {_text(key)}\n  value {{ string_value: {_text(value)} }}\n}}\n"
        for key, value in said.items()
    )
    return f"""\
name: {_text(name)}
backend: "python"
max_batch_size: 0
input {{
  name: "image"
  data_type: TYPE_UINT8
  dims: [ -1, -1, 3 ]
}}
output {{
  name: "depth"
  data_type: TYPE_FP32
  dims: [ -1, -1 ]
}}
instance_group {{
  count: {instances.count}
  kind: KIND_{instances.kind.upper()}
}}
{rows}"""


def _text(value: str) -> str:
    """As protobuf's text format quotes it; it knows JSON's escapes of plain letters."""
    return json.dumps("".join(letter if " " <= letter <= "~" else "?" for letter in value))


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the block ends well, and vanishes when it does not."""
    taken = OutputError(f"{path} exists already: remove it, or give the model another name (--name).")
    if os.path.lexists(path):
        raise taken
    # Beside the repository: Triton takes every folder in it for a model.
    temporary = path.parent.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):  # a rename would take an empty folder's place
            raise taken
        temporary.rename(path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was changed; choose a folder that you "
            "may write to, with room on its disk."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
