"""What people see of a run: a progress bar, log.jsonl, TensorBoard. On the main process alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from training.run_folder import LOG


class Monitor:
    """Context manager. Without a folder, on ranks other than the main one, it does nothing at all."""

    def __init__(self, folder: Path | None, *, first: int, steps: int, images_per_step: int) -> None:
        self._folder = folder
        self._first, self._steps, self._images = first, steps, images_per_step

    def __enter__(self) -> Monitor:
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import

            self._log = (self._folder / LOG).open("a", encoding="utf-8", buffering=1)
            self._board: Any = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first)
            self._bar = tqdm(
                initial=self._first * self._images,
                total=self._steps * self._images,
                desc=self._folder.name,
                unit=" images",
                unit_scale=True,
                smoothing=0.05,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._bar.close()
            self._board.close()
            self._log.close()

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """figures: of one optimiser step, by name."""
        if self._folder is None:
            return
        self._bar.update(self._images)
        self._bar.set_postfix({"step": step, "loss": f"{figures['loss']:.4f}"}, refresh=False)
        rate = self._bar.format_dict["rate"]
        self._write("train", step, {**figures, **({"images_per_second": rate} if rate else {})})

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        if self._folder is not None:
            self._write("validation", step, figures)

    def pictures(self, step: int, pictures: Mapping[str, torch.Tensor]) -> None:
        """3×H×W in [0, 1], by name."""
        if self._folder is not None:
            for name, picture in pictures.items():
                self._board.add_image(name, picture.cpu(), step)

    def _write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        self._log.write(json.dumps({"step": step, "kind": kind, "time": time.time(), **figures}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
