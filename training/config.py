"""TOML -> Config: what a run is, as values. Making one touches no disk but the TOML file itself.

Every key has its default here and its line in `training/configs/fiffdepth.toml`. A key that is unknown, of
the wrong type or out of range is a ConfigError that names it, and the nearest key there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fiffdepth_rt.space import Space
from training.data import sets
from training.objective import Method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the key, and what would be right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """[run] How long, how often saved, and where.

    folder: everything that the run writes. An interrupted run goes on by the same command.
    name: of the model, in the checkpoint and its file name.
    seed: batches, noise and timesteps follow from (seed, step) alone.
    steps: optimiser steps.
    state_every: steps between resume states; a kill costs at most so many.
    checkpoint_every: steps between checkpoints for export; all of them are kept.
    size: longer side in px of what the exported model computes on by default; twice as much is its most.
    """

    folder: str
    name: str = "fiffdepth"
    seed: int = 2024
    steps: int = 30_000
    state_every: int = 500
    checkpoint_every: int = 5_000
    size: int = 640


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """[base] The weights that training starts from.

    model: a diffusers folder, a single .safetensors (ours or LDM's), or a Hub id.
    revision: of the Hub id; "": its main branch.
    config: for an LDM file other than SD 2.x: a folder with unet/config.json and vae/config.json.
    text: a folder or Hub id with text_encoder/ and tokenizer/, for the empty prompt; "": that of `model`.
    prompt_embedding: a .safetensors with one tensor [1, tokens, C]; it wins over `text`.
    licence: of the base weights, passed on in the checkpoint's metadata.
    """

    model: str
    revision: str = ""
    config: str = ""
    text: str = ""
    prompt_embedding: str = ""
    licence: str = "not stated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    """[[data.synthetic]] A set of photos with exact depth.

    kind: the layout under `path`: "hypersim", "vkitti", or another of training/data/sets.py with depth.
    path: of the set, as its `prepare` command or the procedural renderer left it.
    split: one that the set has: hypersim "train", "val" or "test", vkitti "train" or "val", others "train".
    frames: another list of frames, for "hypersim", such as Marigold's filtered one; "": the split's own.
    weight: how often a batch comes from this set, relative to the others.
    sizes: [[height, width], …], one chosen per step, multiples of 8; []: as stored.
    max_zoom: 1: the largest cut-out of that shape; more: smaller ones, down to 1 / max_zoom.
    """

    kind: str
    path: str
    split: str = "train"
    frames: str = ""
    weight: float = 1.0
    sizes: tuple[tuple[int, ...], ...] = ()
    max_zoom: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """[[data.real]] Photos without depth, and the teacher's labels of them.

    photos: a folder of photos, or of WebDataset shards.
    labels: what training.labelling wrote for these photos.
    licence: of the photos; theirs and the teacher's go into the checkpoint.
    weight: as for the synthetic sets.
    sizes: as for the synthetic sets; []: every pair of 512, 576 and 640.
    max_zoom: as for the synthetic sets.
    """

    photos: str
    labels: str
    licence: str = "not stated"
    weight: float = 1.0
    sizes: tuple[tuple[int, ...], ...] = ()
    max_zoom: float = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """[data] What a batch is made of.

    space: of the targets, by its name in fiffdepth_rt.space; written into the checkpoint.
    batch: images of one optimiser step over all devices, half synthetic and half real.
    per_device: the most pairs (one synthetic image and one real) that a device takes at once; the rest of its
      share of `batch` is accumulated. The losses do not depend on it.
    flip: how often a sample is mirrored, 0 to 1.
    views: 0: a new cut-out and flip every time; n: n of them per sample and size, drawn once (compute.cache).
    workers: processes per device that read images; 0: the training process itself.
    prefetch: batches that each worker reads ahead.
    synthetic: the sets with exact depth.
    real: the sets with a teacher's labels; none where method.teacher is "off".
    """

    space: str = "depth"
    batch: int = 32
    per_device: int = 4
    flip: float = 0.5
    views: int = 0
    workers: int = 4
    prefetch: int = 2
    synthetic: tuple[Synthetic, ...] = ()
    real: tuple[Real, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """[optimizer] AdamW, its learning rate, and what is averaged.

    lr: reached after the warm-up.
    warmup: steps of linear rise.
    decay_steps: step at which the exponential decay has come to `floor`, and stays.
    floor: the last learning rate, as a share of lr.
    weight_decay: AdamW's.
    clip: largest norm of the gradient; 0: not clipped.
    ema: decay of the averaged weights, which are then the ones written for export; 0: none.
    """

    lr: float = 3e-5
    warmup: int = 100
    decay_steps: int = 25_000
    floor: float = 0.01
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """[compute] How a step is computed.

    precision: "bf16", "fp16" (with loss scaling) or "no" (fp32). Weights and losses are fp32 in all of them.
    gradient_checkpointing: recompute activations in the backward pass: a third more time, far less memory.
    cache: folder for the frozen encoder's latents, per cut-out and flip, as float16; "": encode every time.
      Set data.views with it, or no cut-out is ever met again.
    """

    precision: str = "bf16"
    gradient_checkpointing: bool = True
    cache: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """[validation] AbsRel and δ1 on a held-out split, and the pictures for TensorBoard.

    every: steps between validations.
    images: of the set, spread evenly.
    set: as one of [[data.synthetic]], with metres, from a split never trained on; none: no validation.
    pictures_every: steps between pictures (photo, target, d0, d−1); 0: none.
    """

    every: int = 1_000
    images: int = 100
    set: Synthetic | None = None
    pictures_every: int = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run. method: [method], see training.objective.Method."""

    run: Run
    base: Base
    data: Data
    method: Method = Method()
    optimizer: Optimizer = Optimizer()
    compute: Compute = Compute()
    validation: Validation = Validation()


def load(path: Path) -> Config:
    """Read and check a TOML file. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {path}: copy training/configs/fiffdepth.toml and edit it.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}.") from error
    try:
        return parse(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(table: Mapping[str, Any]) -> Config:
    """Nested tables -> Config. Raises ConfigError."""
    config: Config = _table(Config, table, "")
    _check(config)
    return config


def plain(config: Config) -> dict[str, Any]:
    """Config -> JSON values, for metadata and for comparison."""
    return dataclasses.asdict(config)


def _table(cls: Any, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"[{where}] has to be a table, not {table!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"{_path(where, key)} is no key. Did you mean {near}? "
                f"{f'[{where}]' if where else 'The file'} takes: {', '.join(fields)}."
            )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise ConfigError(f"{_path(where, name)} is missing, and has no default.")
    values = {key: _value(hints[key], value, _path(where, key)) for key, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"[{where}] {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """One value of the type that its field is annotated with; an int stands for a float, nothing else."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (h for h in typing.get_args(hint) if h is not type(None))
    if dataclasses.is_dataclass(hint):
        return _table(hint, value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} has to be a list, not {value!r}.")
        element = typing.get_args(hint)[0]
        return tuple(_value(element, v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} = {value!r} has to be {_NAMES[hint]}, not {_NAMES[type(value)]}.")
    return value


_NAMES = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _check(c: Config) -> None:
    """What no type can say."""
    _one_of("data.space", c.data.space, tuple(Space))
    _one_of("compute.precision", c.compute.precision, ("bf16", "fp16", "no"))
    if not c.data.synthetic:
        raise ConfigError("data.synthetic is empty: name at least one set with [[data.synthetic]].")
    exact = [(f"data.synthetic[{i}]", s) for i, s in enumerate(c.data.synthetic)]
    exact += [("validation.set", c.validation.set)] if c.validation.set else []
    for where, one in exact:
        _one_of(f"{where}.kind", one.kind, sets.names("metres", "pictures"))
        row = sets.row_of(one.kind)
        _one_of(f"{where}.split", one.split, row.splits)
        if one.frames and not row.takes_frames:
            raise ConfigError(f'{where}.frames = "{one.frames}": {one.kind} takes no list of frames.')
    if c.validation.set is not None:
        _one_of("validation.set.kind", c.validation.set.kind, sets.names("metres"))
    if not c.data.real and c.method.teacher != "off":
        raise ConfigError(
            f'method.teacher = "{c.method.teacher}" needs photos and labels: add [[data.real]], '
            'or set method.teacher = "off".'
        )
    for where, source in [*exact, *((f"data.real[{i}]", r) for i, r in enumerate(c.data.real))]:
        _at_least(f"{where}.weight", source.weight, 0, above=True)
        _at_least(f"{where}.max_zoom", source.max_zoom, 1)
        for size in source.sizes:
            if len(size) != 2 or any(side < 8 or side % 8 for side in size):
                raise ConfigError(f"{where}.sizes: {list(size)} is no [height, width] in multiples of 8.")
    if c.data.batch < 2 or c.data.batch % 2:
        raise ConfigError(f"data.batch = {c.data.batch} has to be even: half synthetic, half real.")
    for where, number, least in (
        ("run.seed", c.run.seed, 0),
        ("run.steps", c.run.steps, 1),
        ("run.state_every", c.run.state_every, 1),
        ("run.checkpoint_every", c.run.checkpoint_every, 1),
        ("run.size", c.run.size, 64),
        ("data.per_device", c.data.per_device, 1),
        ("data.views", c.data.views, 0),
        ("data.workers", c.data.workers, 0),
        ("data.prefetch", c.data.prefetch, 1),
        ("optimizer.warmup", c.optimizer.warmup, 0),
        ("optimizer.clip", c.optimizer.clip, 0),
        ("optimizer.weight_decay", c.optimizer.weight_decay, 0),
        ("validation.every", c.validation.every, 1),
        ("validation.images", c.validation.images, 1),
        ("validation.pictures_every", c.validation.pictures_every, 0),
    ):
        _at_least(where, number, least)
    _at_least("optimizer.lr", c.optimizer.lr, 0, above=True)
    _at_least("optimizer.floor", c.optimizer.floor, 0, above=True)
    _at_least("optimizer.decay_steps", c.optimizer.decay_steps, c.optimizer.warmup, above=True)
    if not 0 <= c.data.flip <= 1:
        raise ConfigError(f"data.flip = {c.data.flip} has to be from 0 to 1.")
    if not 0 <= c.optimizer.ema < 1:
        raise ConfigError(f"optimizer.ema = {c.optimizer.ema} has to be at least 0 and below 1.")
    if "/" in c.run.name or not c.run.name.strip("."):
        raise ConfigError(f"run.name = {c.run.name!r} becomes a file name: leave out slashes.")


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.0)[0]
        raise ConfigError(f'{where} = "{value}": one of {", ".join(allowed)}. Did you mean "{near}"?')


def _at_least(where: str, value: float, least: float, *, above: bool = False) -> None:
    if not (value > least if above else value >= least):
        raise ConfigError(f"{where} = {value} has to be {'above' if above else 'at least'} {least}.")
