"""A small run in real layouts: Hypersim raw, Virtual KITTI 2, photos, a diffusers folder, a configuration.

`launch` runs the real command on any number of processes, as accelerate launches them. They are forked from a
server that has imported torch once: seconds saved per process, and nothing of the test's own state inherited.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support.raw_data import write_hypersim_frame, write_hypersim_split, write_vkitti_frame
from tests.support.tiny_models import FEW_BLOCKS, tiny_unet, tiny_vae
from training import train
from training.data import hypersim_raw, vkitti
from training.data.labels import Header, LabelStore
from training.data.normalise import normalise

ROOT = Path(__file__).parent.parent
HW = (64, 96)
LABELS = Header(space="depth", dtype="uint16", teacher="a test's arithmetic", licence="CC-BY-NC-4.0")


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["training.train", "tests.support.small_run", "torch.utils.tensorboard"])


class Launched:
    """The real command in processes of its own. said: what all of them wrote to stderr, once they ended."""

    def __init__(self, *arguments: str | Path, processes: int = 1) -> None:
        self._talk = tempfile.NamedTemporaryFile("w+", suffix=".txt")  # noqa: SIM115 (lives as long as we do)
        port = _free_port()
        self._processes = [
            _SERVER.Process(
                target=_command, args=([str(a) for a in arguments], rank, processes, port, self._talk.name)
            )
            for rank in range(processes)
        ]
        for process in self._processes:
            process.start()

    def kill(self) -> None:
        """SIGKILL: no handler, no clean-up."""
        for process in self._processes:
            process.kill()
            process.join()

    def running(self) -> bool:
        return any(p.is_alive() for p in self._processes)

    def finish(self) -> int:
        """Wait -> the exit code of the first process that failed, or 0."""
        for process in self._processes:
            process.join()
        return next((p.exitcode for p in self._processes if p.exitcode), 0) or 0

    @property
    def said(self) -> str:
        return Path(self._talk.name).read_text()


def launch(*arguments: str | Path, processes: int = 1) -> Launched:
    """Run to the end; its exit code has to be 0."""
    launched = Launched(*arguments, processes=processes)
    assert launched.finish() == 0, launched.said
    return launched


def _command(arguments: list[str], rank: int, world: int, port: int, talk: str) -> None:
    descriptor = os.open(talk, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    if world > 1:  # as `accelerate launch --cpu` does
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.argv = ["training.train", *arguments]
    train.main()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def losses(run: Path) -> dict[int, dict[str, float]]:
    """log.jsonl -> loss terms and gradient norm by step. Every step has to be there once."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert len({line["step"] for line in steps}) == len(steps)
    unlike = ("kind", "time", "step", "images_per_second")
    return {line["step"]: {k: v for k, v in line.items() if k not in unlike} for line in steps}


def write_base(folder: Path) -> Path:
    """A diffusers folder with UNet and VAE, and prompt.safetensors in it: two tokens of 12 channels."""
    tiny_unet(**FEW_BLOCKS).save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    prompt = torch.randn(1, 2, 12, generator=torch.Generator().manual_seed(0))
    save_file({"prompt": prompt}, folder / "prompt.safetensors")
    return folder


def write_raw_hypersim(raw: Path, frames: int = 5) -> Path:
    """A training and a validation scene as Hypersim is published, in `raw` -> the table of splits."""
    rng = np.random.default_rng(0)
    rows = []
    for scene, split in (("ai_001_001", "train"), ("ai_002_001", "val")):
        for i in range(frames):
            distance_m = _room(rng)
            entity = np.full(HW, 7)
            entity[:, : i % 3] = -1  # no depth there; more than 3 % and the frame would be left out
            color = rng.gamma(2, 0.3, (*HW, 3)) / distance_m[..., None]
            write_hypersim_frame(raw, i, scene=scene, color=color, distance_m=distance_m, entity=entity)
            rows.append((scene, "cam_00", i, True, split))
    return write_hypersim_split(raw, rows)


def write_hypersim(folder: Path, frames: int = 5) -> Path:
    """The same, prepared as users do it -> the prepared folder."""
    split_csv = write_raw_hypersim(folder / "raw", frames)
    hypersim_raw.prepare(folder / "raw", folder / "hypersim", split_csv=split_csv, workers=1)
    return folder / "hypersim"


def write_vkitti(root: Path) -> Path:
    """One frame of every scene, variation and camera of the training split."""
    for i, (scene, variation, camera) in enumerate(
        itertools.product(vkitti.SCENES["train"], vkitti.VARIATIONS, vkitti.CAMERAS)
    ):
        depth_cm = np.linspace(8000 + 1000 * (i % 7), 300, 375)[:, None].repeat(
            1242, 1
        )  # 80 m and on: invalid
        photo = np.full((375, 1242, 3), 5 * i, np.uint8)
        photo[: 7 * i] = 200
        write_vkitti_frame(
            root, 0, scene=scene, variation=variation, camera=camera, depth_cm=depth_cm, photo=photo
        )
    return root


def write_photos(folder: Path, labels: Path | None, photos: int = 6) -> None:
    """Photos, and labels of them with unequal holes; None for no labels."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True)
    store = None if labels is None else LabelStore.create(labels, LABELS)
    for i in range(photos):
        depth_m = _room(rng, (144, 192))
        photo = np.clip(rng.gamma(2, 60, (144, 192, 3)) / depth_m[..., None] * 2, 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"{i}.jpg")
        if store is None:
            continue
        valid = np.ones(depth_m.shape, np.bool_)
        valid[: 24 * (i % 4)] = False
        store.write(f"{i}.jpg", normalise(depth_m, valid, space="depth"), valid)


def _room(rng: np.random.Generator, hw: tuple[int, int] = HW) -> np.ndarray:
    """Slanted walls and a box: metres, float32."""
    rows, columns = np.mgrid[: hw[0], : hw[1]] / max(hw)
    depth_m = 2 + 3 * rng.random() * rows + 2 * rng.random() * columns
    depth_m[hw[0] // 4 : hw[0] // 2, hw[1] // 4 : hw[1] // 2] -= 1
    return depth_m.astype(np.float32)


def write_all(folder: Path) -> Path:
    """Everything that `configuration` names -> folder."""
    write_base(folder / "base")
    write_hypersim(folder)
    write_vkitti(folder / "vkitti")
    write_photos(folder / "photos", folder / "labels")
    return folder


def configuration(folder: Path, run: Path, /, **changes: dict[str, Any]) -> dict[str, Any]:
    """Of a run of 6 steps over all of `write_all`. changes: keys by section, optimizer={"ema": 0.9}."""
    sizes = [[64, 96]]
    table: dict[str, Any] = {
        "run": {
            "folder": str(run),
            "name": "small",
            "steps": 6,
            "state_every": 2,
            "checkpoint_every": 3,
            "size": 128,
        },
        "base": {
            "model": f"{folder}/base",
            "prompt_embedding": f"{folder}/base/prompt.safetensors",
            "licence": "CC0-1.0",
        },
        "data": {
            "batch": 8,
            "per_device": 4,
            "workers": 0,
            "synthetic": [
                {"kind": "hypersim", "path": f"{folder}/hypersim", "weight": 0.6, "sizes": sizes},
                {"kind": "vkitti", "path": f"{folder}/vkitti", "weight": 0.4, "sizes": [[64, 128]]},
            ],
            "real": [
                {
                    "photos": f"{folder}/photos",
                    "labels": f"{folder}/labels",
                    "licence": "CC0-1.0",
                    "sizes": [[64, 64], *sizes],
                }
            ],
        },
        "method": {},
        "optimizer": {"lr": 1e-3, "warmup": 2, "decay_steps": 20, "ema": 0.9},
        "compute": {"precision": "no"},
        "validation": {
            "every": 3,
            "images": 2,
            "pictures_every": 3,
            "set": {"kind": "hypersim", "path": f"{folder}/hypersim", "split": "val"},
        },
    }
    for section, keys in changes.items():
        table[section] |= keys
    return table


def write_toml(path: Path, table: dict[str, Any]) -> Path:
    """A configuration as a file. JSON's strings, numbers, lists and booleans are TOML's."""
    path.write_text("".join(_lines("", table)))
    return path


def _lines(where: str, table: dict[str, Any]) -> Iterator[str]:
    nested = {k: v for k, v in table.items() if isinstance(v, dict) or _is_tables(v)}
    yield from (f"{k} = {json.dumps(v)}\n" for k, v in table.items() if k not in nested)
    for key, value in nested.items():
        name = f"{where}.{key}" if where else key
        for one in value if isinstance(value, list) else [value]:
            yield f"[[{name}]]\n" if isinstance(value, list) else f"[{name}]\n"
            yield from _lines(name, one)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(x, dict) for x in value)
