"""What a run costs, measured on one step of it and counted from its shapes, for --dry-run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import Config
from training.data.mixing import Batch, Mixture, RealSource, SyntheticSource
from training.sources import LicenceTerms


class Meter:
    """seconds and flops of named parts; flops: multiplications and additions in matrices and kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self.flops: dict[str, int] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with FlopCounterMode(display=False) as counter:
            yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = time.perf_counter() - start
        self.flops[name] = counter.get_total_flops()

    def peak_memory(self) -> str:
        if self._device.type == "cuda":
            return f"{_gb(torch.cuda.max_memory_allocated(self._device))} on {self._device}"
        try:
            import resource
        except ImportError:  # Windows
            return "of main memory, not known on this system"
        return f"{_gb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)} of main memory, all in all"


def report(
    config: Config,
    mixture: Mixture,
    terms: LicenceTerms,
    unet: Any,
    vae: Any,
    batches: tuple[Batch, Batch | None],
    figures: Mapping[str, float],
    meter: Meter,
) -> str:
    """A page for people."""
    weights = _bytes(unet)
    copies = 3 + (1 if config.optimizer.ema else 0)
    whole = weights + _bytes(vae)
    checkpoints = -(-config.run.steps // config.run.checkpoint_every)
    lines = ["data"]
    sources: list[SyntheticSource | RealSource] = [*mixture.synthetic, *mixture.real]
    for source in sources:
        lines.append(f"  {source.dataset.name}: {len(source.dataset)} samples, weight {source.weight:.3g}")
    lines.append("one batch of this process")
    for name, batch in zip(("synthetic", "real"), batches, strict=True):
        if batch is not None:
            shapes = f"photos {_shape(batch.photos)}, pictures {_shape(batch.pictures)}"
            lines.append(f"  {name}: {shapes}, valid {batch.valid.float().mean():.1%}")
    lines += [
        f"  {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}",
        "one step of this process",
        *(
            f"  {name}: {seconds:.2f} s, {meter.flops[name] / 1e12:.3g} TFLOP"
            for name, seconds in meter.seconds.items()
        ),
        "memory",
        f"  UNet {_count(unet)} parameters, VAE {_count(vae)}",
        f"  weights, gradients and AdamW's two moments: {_gb(4 * weights)}; VAE {_gb(_bytes(vae))}",
        f"  peak: {meter.peak_memory()}",
        f"disk, for {config.run.steps} steps",
        f"  resume state {_gb(copies * weights)} (twice while it is written)",
        f"  {checkpoints} checkpoints of {_gb(whole)}: {_gb(checkpoints * whole)}",
        "terms",
        *(f"  {source}" for source in terms.sources),
        f"  the result: {terms.licence}",
        "Nothing was written.",
    ]
    return "\n".join(lines)


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * 4 for p in module.parameters())


def _count(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.3g} M"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
