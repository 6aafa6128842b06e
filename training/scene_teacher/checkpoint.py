"""The teacher's file: all weights, and what is needed to use them, in one .safetensors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from training.data.procedural import Source
from training.errors import TrainingError
from training.log_depth.backbone import Backbone
from training.log_depth.network import LogDepthNetwork

FORMAT = "fiffdepth-scene-teacher"


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """share: of the way from the frozen stage's weights to the fine stage's; held_out: errors by share.

    scenes: what it was trained on.
    """

    widths: tuple[int, ...]
    share: float
    held_out: dict[float, dict[str, float]]
    scenes: Source


def save(path: Path, network: LogDepthNetwork, info: Info) -> Path:
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    metadata = {"format": FORMAT, "info": msgspec.json.encode(info).decode()}
    with replacing(path) as file:
        file.write(serialize(weights, metadata))
    return path


def is_one(path: Path) -> bool:
    """Whether the file says so of itself; False for what cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def load(path: Path) -> tuple[LogDepthNetwork, Info]:
    """Raises TrainingError for a file that is damaged, or where the backbone's package is missing."""
    try:
        with safe_open(path, "pt") as file:
            info = msgspec.json.decode(file.metadata()["info"], type=Info)
            weights: dict[str, torch.Tensor] = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        network = LogDepthNetwork(Backbone(folded=True), widths=info.widths)
        network.load_state_dict(weights)
    except TrainingError:  # the backbone's package is missing
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"{path} is no whole teacher ({error}): train it again, or copy it again."
        ) from error
    return network.eval(), info
