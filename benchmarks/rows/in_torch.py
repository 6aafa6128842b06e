"""The paper's own way: diffusers' modules in torch, eager or compiled; and what peers in torch share.

photo -> parts, one after the other -> depth map. A part that is run many times for one depth map (a diffusion
step, a member of an ensemble) is counted `times`. Where all of that would take longer than the budget, each
part is run once by itself and the sum is called modelled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.rows import flops
from benchmarks.rows.ceiling import synchronise
from benchmarks.rows.row import (
    TIMED,
    WARM_UP,
    Budget,
    Row,
    Spec,
    answer,
    median_ms,
    noise_photo,
    relative_deviation,
    repeated,
    seconds,
    timed,
)
from export.model import Given, Model, read_checkpoint
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden import is_photo
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import read_manifest

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One step of a pipeline: what it takes -> what it gives. engine: a network, not host work."""

    name: str
    run: Callable[[Any], Any]
    times: int = 1
    engine: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """photo -> depth map. whole: what runs it, where a library's own pipeline does; None: part by part."""

    parts: Sequence[Part]
    whole: Callable[[Any], Any] | None = None


def measure(spec: Spec) -> Row:
    """options: checkpoint, prompt_embedding (or None), sha256, dtype, channels_last, compiled, directory.

    directory: an engine directory of the same weights, whose golden photo gives the deviation, or None.
    """
    options = spec.options
    opening = time.perf_counter()
    torch.set_num_threads(spec.threads)
    prompt, directory = options["prompt_embedding"], options["directory"]
    given = Given(
        recipe="fiffdepth" if directory is None else read_manifest(directory).recipe,
        prompt_embedding=None if prompt is None else Path(prompt),
    )
    model = read_checkpoint(Path(options["checkpoint"]), given)
    with fresh_compilations(), torch.inference_mode():
        parts = diffusers_parts(
            model,
            dtype=DTYPES[options["dtype"]],
            device=spec.device,
            channels_last=options["channels_last"],
            compiled=options["compiled"],
        )
        load_s = time.perf_counter() - opening
        pipeline, dtype_name = Pipeline(parts=parts), options["dtype"]
        row = measure_pipeline(spec, pipeline, computes_in=dtype_name, load_s=load_s)
        return dataclasses.replace(row, deviation=_deviation(options["directory"], model, parts))


def diffusers_parts(
    model: Model, *, dtype: torch.dtype, device: str, channels_last: bool, compiled: bool
) -> list[Part]:
    """FiffDepth as its own code runs it, at t = 0 with a prompt of two tokens; nothing is folded."""
    if model.recipe.name != "fiffdepth":
        raise ValueError(f"The rows in torch know the recipe fiffdepth, not {model.recipe.name}.")
    unet, vae = (network.to(device=device, dtype=dtype) for network in (model.unet, model.vae))
    if channels_last:
        unet, vae = (network.to(memory_format=torch.channels_last) for network in (unet, vae))
    prompt = model.prompt_embedding.to(device=device, dtype=dtype)
    time_step = torch.tensor(model.recipe.timestep, device=device)
    scaling = vae.config.scaling_factor
    pictures_in = torch.channels_last if channels_last else torch.contiguous_format

    def prepare(photo: Any) -> Any:
        pixels = torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        return pixels.to(dtype).contiguous(memory_format=pictures_in)

    def encode(pixels: Any) -> Any:
        return vae.encode(pixels).latent_dist.mean * scaling

    def step(latent: Any) -> Any:
        return unet(latent, time_step, encoder_hidden_states=prompt).sample

    def decode(latent: Any) -> Any:
        return vae.decode(latent / scaling).sample.mean(dim=1)

    def finish(unclipped: Any) -> Any:
        return ((unclipped.clip(-1, 1) + 1) / 2)[0].float().cpu().numpy()

    parts = [
        Part(name="prepare", run=prepare, engine=False),
        Part(name="encoder", run=encode),
        Part(name="unet", run=step),
        Part(name="decoder", run=decode),
        Part(name="finish", run=finish, engine=False),
    ]
    return compiled_parts(parts) if compiled else parts


def compiled_parts(parts: Sequence[Part]) -> list[Part]:
    """The same with compiled networks."""
    return [dataclasses.replace(p, run=torch.compile(p.run)) if p.engine else p for p in parts]


@contextlib.contextmanager
def fresh_compilations() -> Iterator[None]:
    """What torch compiles in the block is found by nobody later: a first frame is a first frame."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        yield


def measure_pipeline(
    spec: Spec,
    pipeline: Pipeline,
    *,
    computes_in: str,
    load_s: float,
    modelled_beyond_s: float = math.inf,
    note: str = "",
) -> Row:
    """Pipeline -> Row. Repeated parts that would take longer than modelled_beyond_s are modelled."""
    photo = noise_photo(spec.size_hw)
    stopwatch, budget = Stopwatch(spec.device), Budget(spec.budget_s)
    start = time.perf_counter()
    once = _run(pipeline.parts, photo, stopwatch, every_time=False)
    first_s = time.perf_counter() - start
    several = any(part.times > 1 for part in pipeline.parts)
    whole_s = sum(part.times * once[part.name] for part in pipeline.parts)
    if several and whole_s > modelled_beyond_s:
        figures = _modelled(spec, pipeline.parts, photo, stopwatch, budget)
    elif pipeline.whole is not None:
        figures = _timed_whole(spec, pipeline.whole, photo, budget)
    else:
        figures = _timed_parts(spec, pipeline.parts, photo, stopwatch, budget)
    peak = machine.peak_host_mib()
    return Row(
        name=spec.name,
        kind=spec.kind,
        size_hw=spec.size_hw,
        computes_in=computes_in,
        **figures,
        gflop=_gflop(pipeline.parts, photo),
        load_ms=load_s * 1e3,
        first_frame_ms=None if several else first_s * 1e3,
        peak_host_mib=peak,
        note=note,
    )


def _modelled(
    spec: Spec, parts: Sequence[Part], photo: Any, stopwatch: Stopwatch, budget: Budget
) -> dict[str, Any]:
    """The Row's fields about time where each part is run once and counted many times."""
    rounds = repeated(lambda: _run(parts, photo, stopwatch, every_time=False), spec.runs, budget, share=TIMED)
    each_ms = {part.name: median_ms([one[part.name] for one in rounds]) for part in parts}
    engines = [part for part in parts if part.engine]
    return {
        **timed([sum(part.times * one[part.name] for part in parts) for one in rounds]),
        "stages_ms": {part.name: part.times * each_ms[part.name] for part in engines},
        "modelled": " + ".join(f"{p.times} × {p.name} of {each_ms[p.name] / 1e3:.3g} s" for p in engines),
    }


def _timed_whole(spec: Spec, whole: Callable[[Any], Any], photo: Any, budget: Budget) -> dict[str, Any]:
    def once() -> None:
        whole(photo)
        synchronise(spec.device)

    repeated(once, spec.warm_up, budget, share=WARM_UP, at_least=0)
    return timed(repeated(lambda: seconds(once), spec.runs, budget, share=TIMED))


def _timed_parts(
    spec: Spec, parts: Sequence[Part], photo: Any, stopwatch: Stopwatch, budget: Budget
) -> dict[str, Any]:
    def once() -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        inside = _run(parts, photo, stopwatch)
        return time.perf_counter() - start, inside

    repeated(once, spec.warm_up, budget, share=WARM_UP, at_least=0)
    wall, inside = zip(*repeated(once, spec.runs, budget, share=TIMED), strict=True)
    engines = [part.name for part in parts if part.engine]
    outside = [all_s - sum(one[name] for name in engines) for all_s, one in zip(wall, inside, strict=True)]
    return {
        **timed(wall),
        "stages_ms": {name: median_ms([one[name] for one in inside]) for name in engines},
        "host_overhead_ms": median_ms(outside),
    }


class Stopwatch:
    """Seconds that a call keeps the device busy: CUDA events on a GPU, the wall clock on a CPU."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __call__(self, call: Callable[[], Any]) -> tuple[Any, float]:
        if self._device == "cpu":
            start = time.perf_counter()
            result = call()
            return result, time.perf_counter() - start
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        result = call()
        after.record()
        after.synchronize()
        return result, before.elapsed_time(after) / 1e3


def _run(
    parts: Sequence[Part], photo: Any, stopwatch: Stopwatch, *, every_time: bool = True
) -> dict[str, float]:
    """One depth map -> seconds by part: over all its times, or of one time alone."""
    taken, value = {}, photo
    for part in parts:
        result, part_s = None, 0.0
        for _ in range(part.times if every_time else 1):
            result, one_s = stopwatch(functools.partial(part.run, value))
            part_s += one_s
        taken[part.name], value = part_s, result
    return taken


def _gflop(parts: Sequence[Part], photo: Any) -> float:
    """Counted eagerly, each part once, times its times."""
    total, value = 0.0, photo
    for part in parts:
        with torch.compiler.set_stance("force_eager"):
            value, gflop = flops.torch_gflop(functools.partial(part.run, value))
        total += part.times * gflop
    return total


def _deviation(directory: str | None, model: Model, parts: Sequence[Part]) -> float | None:
    if directory is None:
        return None
    engine_dir = open_engine_dir(directory)
    manifest = engine_dir.manifest
    if manifest.golden is None or manifest.provenance.get("checkpoint_sha256") != model.sha256:
        return None
    golden = read_golden(engine_dir.path / manifest.golden)
    values = next((values for image, values in golden.items() if is_photo(image)), None)
    if values is None:
        return None
    value: Any = values["encoder"].input[0]
    for part in parts[:-1]:  # up to the clip
        value = part.run(value)
    return relative_deviation(np.asarray(value.float().cpu()), values["decoder"].output)


if __name__ == "__main__":
    answer(measure)
