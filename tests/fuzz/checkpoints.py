"""Checkpoints that lie: headers, metadata, configurations, indexes, names; read as the export reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import random
import shutil
from pathlib import Path

import torch
from safetensors import safe_open

from export.model import Given, read_checkpoint
from export.recipe import RECIPES
from tests.fuzz.mutations import TEXTS, hostile, mutated_bytes, mutated_json
from tests.fuzz.trial import Kind
from tests.support.tiny_models import tiny_checkpoint, tiny_vae
from training.weights.ours import save_checkpoint
from training.weights.random import write_layout

DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "I64",
    "U8",
    "BOOL",
    "C64",
    "nonsense",
)


class Fuzzed(Kind):
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        made = tiny_checkpoint()
        made = dataclasses.replace(made, vae=tiny_vae(block_out_channels=(4,) * 4, norm_num_groups=2))
        self._own, self._case, whole = folder / "own.safetensors", folder / "case", folder / "whole"
        save_checkpoint(self._own, made)
        self._single = {}
        self._given = Given(recipe="genpercept", prompt_embedding=whole / "sharded.prompt.safetensors")
        write_layout(whole / "sharded", "sharded", made, scheduler=RECIPES["genpercept"].scheduler)
        configs = {}
        for part in ("unet", "vae"):
            configs[f"{part}_config"] = whole / "sharded" / part / "config.json"
        self._single_given = dataclasses.replace(self._given, **configs)
        for layout in ("ldm", "prefixed"):
            write_layout(file := whole / f"{layout}.safetensors", layout, made)
            self._single[layout] = file.read_bytes()
        self._folder = whole / "sharded"
        with safe_open(self._own, framework="pt") as file:
            self._metadata = file.metadata()

    def attempt(self, chance: random.Random) -> None:
        shutil.rmtree(self._case, ignore_errors=True)
        self._case.mkdir()
        how = chance.randrange(6)
        with _quiet():
            if how <= 1:
                read_checkpoint(self._mutated_own(chance))
            elif how == 2:
                file = self._case / chance.choice(("x.safetensors", "x.ckpt", "x.bin"))
                content = self._single[chance.choice(("ldm", "prefixed"))]
                file.write_bytes(_mutated_file(content, chance))
                read_checkpoint(file, self._single_given)
            else:
                read_checkpoint(self._mutated_folder(chance), self._given)

    def _mutated_own(self, chance: random.Random) -> Path:
        file = self._case / "own.safetensors"
        content = self._own.read_bytes()
        if chance.random() < 0.5:
            file.write_bytes(_mutated_file(content, chance))
            return file
        header, tensors = _split(content)
        parsed = json.loads(header)
        key = chance.choice(sorted(self._metadata))
        if self._metadata[key].startswith("{"):
            value = mutated_json(json.loads(self._metadata[key]), chance)
        else:
            value = str(hostile(chance))
        parsed["__metadata__"][key] = value.encode(errors="replace").decode()
        file.write_bytes(_joined(json.dumps(parsed).encode(), tensors))
        return file

    def _mutated_folder(self, chance: random.Random) -> Path:
        directory = self._case / "sharded"
        shutil.copytree(self._folder, directory)
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        file = chance.choice([path for path in files if path.suffix == ".json"] * 3 + files)
        how = chance.randrange(8)
        if how == 0:
            file.unlink()
        elif how == 1:
            with contextlib.suppress(OSError, ValueError):
                file.rename(file.with_name(chance.choice(TEXTS)))
        elif file.suffix == ".json":
            text = mutated_json(json.loads(file.read_text()), chance)
            file.write_bytes(text.encode(errors="surrogatepass"))
        else:
            file.write_bytes(_mutated_file(file.read_bytes(), chance))
        return directory


def _split(content: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def _joined(header: bytes, tensors: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensors


def _mutated_file(content: bytes, chance: random.Random) -> bytes:
    """A .safetensors file whose header, or whose bytes, something has happened to."""
    header, tensors = _split(content)
    how = chance.randrange(5)
    if how == 0:
        return mutated_bytes(content, chance)
    if how == 1:
        return _joined(mutated_bytes(header, chance), tensors)
    parsed = json.loads(header)
    names = sorted(parsed.keys() - {"__metadata__"})
    name = chance.choice(names)
    entry = parsed[name]
    if how == 2:  # another shape of the same size, or another dtype
        count = 1
        for side in entry["shape"]:
            count *= side
        entry["shape"] = chance.choice(([count], [1, count], [count, 1, 1, 1], [], [0], [count, 2**40]))
    elif how == 3:
        entry["dtype"] = chance.choice(DTYPES)
    else:
        other = chance.choice(
            (
                name + "x",
                name[1:],
                "model_ema." + name,
                "control_model.x",
                chance.choice(names),
                "lora_down.x",
            )
        )
        numbered = name.replace(".0.", f".{chance.choice((1, 7, 99, 1_000_000, 10**30))}.", 1)
        parsed[chance.choice((other, numbered))] = parsed.pop(name)
    return _joined(json.dumps(parsed).encode(), tensors)


@contextlib.contextmanager
def _quiet():
    """One thread: the cases are small, and threads wait for one another. And no word of diffusers's.

    It tells of every key that it does not know.
    """
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        logging.disable(disabled)
