"""photo, depth picture -> latents, by the frozen VAE; and back. Encoded once and kept, if a folder is given.

The posterior's mean × scaling factor, in fp32, as the runtime does it. A depth picture is encoded as three
equal channels, and decoded as the mean of three.

A kept latent is one file per row: float16, named by the VAE's weights, the row's key (sample, cut-out, flip,
size) and its pixels, so that a set prepared anew, other labels or another VAE meet no stale one. With a
cache, latents are float16 values from the first encounter on: a resumed run sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from fiffdepth_rt.atomic import replacing
from training.data.mixing import Batch
from training.objective import Half, latent_valid


def photo_tensor(photos: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 N×H×W×3 -> float32 N×3×H×W in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(photos.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def encode(vae: AutoencoderKL | AutoencoderTiny, pixels: torch.Tensor) -> torch.Tensor:
    """float32 N×3×H×W in [-1, 1] -> latents N×C×H/8×W/8; in fp32 under any autocast, as fp16 overflows."""
    with torch.autocast(pixels.device.type, enabled=False):
        encoded = vae.encode(pixels.float())
        latent = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
        scaled: torch.Tensor = latent * vae.config.scaling_factor
    return scaled


def decode_photo(vae: AutoencoderKL | AutoencoderTiny, latent: torch.Tensor) -> torch.Tensor:
    """Latents N×C×h×w -> float32 N×3×8h×8w, not clipped; in fp32 under any autocast."""
    with torch.autocast(latent.device.type, enabled=False):
        pixels: torch.Tensor = vae.decode(latent.float() / vae.config.scaling_factor).sample
    return pixels


def decode(vae: AutoencoderKL | AutoencoderTiny, depth_latent: torch.Tensor) -> torch.Tensor:
    """Depth latents N×C×h×w -> depth pictures N×1×8h×8w in [-1, 1]."""
    return decode_photo(vae, depth_latent).mean(1, keepdim=True).clamp(-1, 1)


class Encoder:
    """Batches as loaded -> halves of the objective's batch, on the VAE's device.

    at_once: rows that are encoded together; memory follows from it. hits, misses: rows found in the cache, or
    not.
    """

    def __init__(self, vae: AutoencoderKL, *, cache: Path | None = None, at_once: int = 4) -> None:
        self._vae = vae
        self._at_once = at_once
        self._cache = None if cache is None else cache / _digest(vae)
        self.hits = self.misses = 0

    @torch.no_grad()
    def half(self, batch: Batch) -> Half:
        """Pixels -> latents and their validity. Raises OutputError where the cache's disk refuses."""
        size = len(batch.names)
        files = [None] * size if self._cache is None else [_file(self._cache, batch, i) for i in range(size)]
        kept = [_read(file) for file in files]
        todo = [i for i, latents in enumerate(kept) if latents is None]
        self.hits, self.misses = self.hits + size - len(todo), self.misses + len(todo)
        for first in range(0, len(todo), self._at_once):
            rows = todo[first : first + self._at_once]
            for i, latents in zip(rows, self._encoded(batch, rows), strict=True):
                kept[i] = _kept(files[i], latents)
        device = self._vae.device
        both = torch.stack(kept).to(device, torch.float32)
        return Half(image=both[:, 0], depth=both[:, 1], valid=latent_valid(batch.valid).to(device))

    def _encoded(self, batch: Batch, rows: Sequence[int]) -> torch.Tensor:
        """float32 len(rows)×2×4×h×w: of the photo, of the depth picture."""
        device = self._vae.device
        photos = batch.photos[list(rows)].to(device, non_blocking=True)
        pictures = batch.pictures[list(rows)].to(device, non_blocking=True).expand(-1, 3, -1, -1)
        return torch.stack([encode(self._vae, photos), encode(self._vae, pictures)], 1)


def part(half: Half, rows: slice) -> Half:
    """Some rows of a half."""
    return Half(**{f.name: getattr(half, f.name)[rows] for f in dataclasses.fields(half)})


def _digest(vae: AutoencoderKL) -> str:
    sha = hashlib.sha256(str(vae.config.scaling_factor).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.cpu().contiguous().numpy())
    return sha.hexdigest()[:16]


def _file(folder: Path, batch: Batch, row: int) -> Path:
    sha = hashlib.blake2b(batch.keys[row].encode(), digest_size=16)
    for tensor in (batch.photos[row], batch.pictures[row]):
        sha.update(tensor.contiguous().numpy())
    name = sha.hexdigest()
    return folder / name[:2] / f"{name}.safetensors"


def _read(file: Path | None) -> torch.Tensor | None:
    """float16 2×4×h×w; None where there is none, or a damaged one."""
    if file is None:
        return None
    try:
        return load(file.read_bytes())["latents"]
    except (FileNotFoundError, SafetensorError):
        return None


def _kept(file: Path | None, latents: torch.Tensor) -> torch.Tensor:
    """Written as float16 and given back as such; without a file, given back as they are."""
    if file is None:
        return latents
    half = latents.half().cpu().contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as out:
        out.write(save({"latents": half}))
    return half
