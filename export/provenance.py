"""What an engine directory says of how it was made, and what all its pieces depend on."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.model import Model
from export.models.fetching import Fetched
from export.options import Options
from fiffdepth_rt.engine_dir.manifest import Licence
from fiffdepth_rt.machine import installed

TOOLS = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime")


def provenance_of(
    model: Model, options: Options, *, fetched: Sequence[Fetched], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """left_out: graph sets beyond their gates that nobody asked for by name, and why."""
    checkpoint = options.checkpoint
    return {
        "checkpoint": checkpoint.name if isinstance(checkpoint, Path) else str(checkpoint),
        "fetched": [dataclasses.asdict(part) for part in fetched],
        "licence_accepted": options.accept_licence,
        "checkpoint_sha256": model.sha256,
        "checkpoint_notes": list(model.notes),
        "light_vae": _light(model),
        "description": model.description,
        "command": options.command,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **_tool_versions()},
        "folds_left_out": sorted(options.leave_out),
        "graph_sets_left_out": dict(left_out),
        "kept_in_fp32": {form.name: list(form.keep_fp32) for form in options.forms},
        "parity_accepted": options.accept_parity,
    }


def _tool_versions() -> dict[str, str]:
    found = installed(TOOLS)
    return {name: found.get(name, "none") for name in TOOLS}


def licence_of(model: Model) -> Licence:
    """The checkpoint's, and after it that of each light half."""
    light = [f"light {half} {part.name}: {part.licence}" for half, part in model.light.items()]
    sources = [source for part in model.light.values() for source in part.data_sources]
    return Licence(
        model="; ".join([model.licence, *light]),
        data_sources=tuple(dict.fromkeys([*model.data_sources, *sources])),
    )


def key_of(model: Model, options: Options) -> str:
    """What every piece depends on: the weights, how they are read and folded, and the tools."""
    depends = {
        "checkpoint": model.sha256,
        "light": _light(model),
        "recipe": model.recipe.name,
        "scheduler": dict(model.scheduler_config or {}),
        "size": model.size_default,
        "leave_out": sorted(options.leave_out),
        "tools": _tool_versions(),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _light(model: Model) -> dict[str, dict[str, str]]:
    """Which halves of the VAE are light: name and hash."""
    return {half: {"name": part.name, "sha256": part.sha256} for half, part in model.light.items()}
