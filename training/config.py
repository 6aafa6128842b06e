"""TOML -> Config: what a run is, as values. Making one touches no disk but the TOML file itself.

Every key has its default here and its line in `training/configs/fiffdepth.toml`. A key that is unknown, of
the wrong type or out of range is a ConfigError that names it, and the nearest key there is.

msgspec decides whether a table has the types and ranges that stand here; `_check` decides the rest, and the
sentences are ours.
"""

from __future__ import annotations

import difflib
import enum
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fiffdepth_rt.engine_dir.manifest import NAME_AT_MOST
from fiffdepth_rt.program.options import too_long
from fiffdepth_rt.space import Space
from training.data import sets
from training.objective import Method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the file, the key, and what would be right."""


FromZero = Annotated[int, Meta(ge=0)]
FromOne = Annotated[int, Meta(ge=1)]
AboveZero = Annotated[float, Meta(gt=0)]
Sizes = tuple[tuple[int, ...], ...]


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    seed: FromZero = 2024
    steps: FromOne = 30_000
    state_every: FromOne = 500
    checkpoint_every: FromOne = 5_000
    size: Annotated[int, Meta(ge=64)] = 640


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Synthetic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    weight: AboveZero = 1.0
    sizes: Sizes = ()
    max_zoom: Annotated[float, Meta(ge=1)] = 1.0


class Real(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    weight: AboveZero = 1.0
    sizes: Sizes = ()
    max_zoom: Annotated[float, Meta(ge=1)] = 1.5


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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

    space: Space = Space.DEPTH
    batch: Annotated[int, Meta(ge=2)] = 32
    per_device: FromOne = 4
    flip: Annotated[float, Meta(ge=0, le=1)] = 0.5
    views: FromZero = 0
    workers: FromZero = 4
    prefetch: FromOne = 2
    synthetic: tuple[Synthetic, ...] = ()
    real: tuple[Real, ...] = ()


class Optimizer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[optimizer] AdamW, its learning rate, and what is averaged.

    lr: reached after the warm-up.
    warmup: steps of linear rise.
    decay_steps: step at which the exponential decay has come to `floor`, and stays.
    floor: the last learning rate, as a share of lr.
    weight_decay: AdamW's.
    clip: largest norm of the gradient; 0: not clipped.
    ema: decay of the averaged weights, which are then the ones written for export; 0: none.
    """

    lr: AboveZero = 3e-5
    warmup: FromZero = 100
    decay_steps: int = 25_000
    floor: AboveZero = 0.01
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    clip: Annotated[float, Meta(ge=0)] = 1.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class Compute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[compute] How a step is computed.

    precision: "bf16", "fp16" (with loss scaling) or "no" (fp32). Weights and losses are fp32 in all of them.
    gradient_checkpointing: recompute activations in the backward pass: a third more time, far less memory.
    cache: folder for the frozen encoder's latents, per cut-out and flip, as float16; "": encode every time.
      Set data.views with it, or no cut-out is ever met again.
    """

    precision: Literal["bf16", "fp16", "no"] = "bf16"
    gradient_checkpointing: bool = True
    cache: str = ""


class Validation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[validation] AbsRel and δ1 on a held-out split, and the pictures for TensorBoard.

    every: steps between validations.
    images: of the set, spread evenly.
    set: as one of [[data.synthetic]], with metres, from a split never trained on; none: no validation.
    pictures_every: steps between pictures (photo, target, d0, d−1); 0: none.
    """

    every: FromOne = 1_000
    images: FromOne = 100
    set: Synthetic | None = None
    pictures_every: FromZero = 500


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """Nested tables -> Config. An int stands for a float, nothing else is converted. Raises ConfigError."""
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_in_our_words(error, table)) from error
    _check(config)
    return config


def plain(config: Config) -> dict[str, Any]:
    """Config -> JSON values, for metadata and for comparison."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


# ---- what msgspec refuses, in our words ----


def _in_our_words(error: msgspec.ValidationError, table: Any) -> str:
    """A sentence that names the key, its value, and what would be right."""
    said, found_at, at = str(error).rpartition(" - at `$.")
    said, where = (said, at.rstrip("`")) if found_at else (at, "")
    hint, value = _at(where, table)
    if found := re.fullmatch("Object contains unknown field `(.*)`", said):
        keys = hint.__struct_fields__
        near = difflib.get_close_matches(found[1], keys, n=1, cutoff=0.0)[0]
        takes = f"{f'[{where}]' if where else 'The file'} takes: {', '.join(keys)}."
        return f"{_path(where, found[1])} is no key. Did you mean {near}? {takes}"
    if found := re.fullmatch("Object missing required field `(.*)`", said):
        return f"{_path(where, found[1])} is missing, and has no default."
    if isinstance(error.__cause__, ValueError):  # from a __post_init__
        return f"[{where}] {error.__cause__}"
    ranges, hint = _ranges(hint)
    if _is_table(hint):
        return f"[{where}] has to be a table, not {value!r}."
    if typing.get_origin(hint) is tuple:
        return f"{where} has to be a list, not {value!r}."
    if allowed := _choices(hint):
        if isinstance(value, str):
            return _none_of(where, value, allowed)
        hint = str
    if ranges and isinstance(value, int | float) and "got" not in said:
        return f"{where} = {value} has to be {ranges}."
    given = _NAMES.get(type(value), type(value).__name__)
    return f"{where} = {value!r} has to be {_NAMES[hint]}, not {given}."


_NAMES = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _at(where: str, table: Any) -> tuple[Any, Any]:
    """msgspec's path, such as data.synthetic[1].kind -> the type that is expected there, the value that is.

    A field that may be None is expected to hold what it holds otherwise.
    """
    hint: Any = Config
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", where):
        table = table[key or int(index)]
        if key:
            hint = typing.get_type_hints(hint, include_extras=True)[key]
            if type(None) in typing.get_args(hint):
                hint = typing.get_args(hint)[0]
        else:
            hint = typing.get_args(hint)[0]
    return hint, table


def _ranges(hint: Any) -> tuple[str, Any]:
    """A field's type -> its limits in words ("" where it has none), and the type without them."""
    if typing.get_origin(hint) is not Annotated:
        return "", hint
    bare, limits = typing.get_args(hint)
    if limits.ge is not None and limits.le is not None:
        return f"from {limits.ge} to {limits.le}", bare
    words = (("at least", limits.ge), ("above", limits.gt), ("at most", limits.le), ("below", limits.lt))
    return " and ".join(f"{word} {limit}" for word, limit in words if limit is not None), bare


def _choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal or an enumeration; () for another type."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return tuple(str(choice.value) for choice in hint)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _is_table(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


# ---- what no type can say ----


def _check(c: Config) -> None:
    named = [("run.folder", c.run.folder), ("base.model", c.base.model)]
    named += [(f"data.synthetic[{i}].path", one.path) for i, one in enumerate(c.data.synthetic)]
    named += [(f"data.real[{i}].photos", one.photos) for i, one in enumerate(c.data.real)]
    named += [(f"data.real[{i}].labels", one.labels) for i, one in enumerate(c.data.real)]
    named += [("validation.set.path", c.validation.set.path)] if c.validation.set else []
    for key, value in named:
        if not value:
            raise ConfigError(f'{key} = "" would be the current folder: name a place.')
    optional = [
        ("run.name", f"{c.run.name}-{c.run.steps:06d}.safetensors"),
        ("compute.cache", c.compute.cache),
    ]
    optional += [(f"base.{key}", getattr(c.base, key)) for key in ("config", "text", "prompt_embedding")]
    optional += [(f"data.synthetic[{i}].frames", one.frames) for i, one in enumerate(c.data.synthetic)]
    for key, value in (*named, *optional):
        if long := too_long(value, pattern=key.startswith("data.")):
            raise ConfigError(f"{key}: {long}.")
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
    sources: list[tuple[str, Synthetic | Real]] = [*exact]
    sources += [(f"data.real[{i}]", real) for i, real in enumerate(c.data.real)]
    for where, source in sources:
        for size in source.sizes:
            if len(size) != 2 or any(side < 8 or side % 8 for side in size):
                raise ConfigError(f"{where}.sizes: {list(size)} is no [height, width] in multiples of 8.")
    if c.data.batch % 2:
        raise ConfigError(f"data.batch = {c.data.batch} has to be even: half synthetic, half real.")
    if c.optimizer.decay_steps <= c.optimizer.warmup:
        raise ConfigError(
            f"optimizer.decay_steps = {c.optimizer.decay_steps} has to be above {c.optimizer.warmup}, "
            "the steps of warm-up."
        )
    if "/" in c.run.name or not c.run.name.strip("."):
        raise ConfigError(f"run.name = {c.run.name!r} becomes a file name: leave out slashes.")
    if len(c.run.name) > NAME_AT_MOST:
        raise ConfigError(
            f"run.name has {len(c.run.name)} characters; a model's name has at most {NAME_AT_MOST}."
        )


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(_none_of(where, value, allowed))


def _none_of(where: str, value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.0)[0]
    return f'{where} = "{value}": one of {", ".join(allowed)}. Did you mean "{near}"?'
