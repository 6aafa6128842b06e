"""Manifests that lie, folders with links, pipes and holes: opened, printed by `info`, asked for depth."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import fiffdepth_rt
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME
from fiffdepth_rt.program import program
from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.fuzz.trial import Kind
from tests.support.toy import write_toy_engine_dir

PHOTO = np.full((64, 96, 3), 90, np.uint8)


class Fuzzed(Kind):
    def __init__(self, folder: Path) -> None:
        self._whole = write_toy_engine_dir(folder / "whole")
        self._directory = folder / "case"
        self._result = folder / "depth.png"
        self._text = (self._whole / MANIFEST_NAME).read_text()
        self._content = json.loads(self._text)

    def attempt(self, chance: random.Random) -> None:
        if not self._directory.is_dir():
            shutil.copytree(self._whole, self._directory)
        file = self._directory / MANIFEST_NAME
        how = chance.randrange(12)
        if how == 0:
            self._trick(chance)
        elif how == 1:
            file.write_bytes(mutated_bytes(self._text.encode(), chance))
        else:
            text = mutated_json(self._content, chance)
            file.write_bytes(text.encode(errors="surrogatepass"))
        try:
            said = CliRunner().invoke(program, ["info", str(self._directory)])
            if "This is a bug" in said.output:
                raise AssertionError(said.output)
            with fiffdepth_rt.Depth(self._directory, threads=1) as depth:
                depth.infer(PHOTO).save(self._result, overwrite=True)
        finally:
            if how == 0:
                shutil.rmtree(self._directory, ignore_errors=True)

    def _trick(self, chance: random.Random) -> None:
        """Something else in the place of a file or a folder, or beside it."""
        (self._directory / MANIFEST_NAME).write_text(self._text)
        outside = self._directory.parents[2] / "outside"
        places = sorted(self._directory.rglob("*"))
        path = chance.choice(places)
        how = chance.randrange(6)
        if how <= 3:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if how == 0:
            path.symlink_to(chance.choice((outside, Path(), path, Path("/dev/zero"))))
        elif how == 1:
            path.mkdir()
        elif how == 2:
            os.mkfifo(path)
        elif how == 4 and path.is_file():
            path.write_bytes(mutated_bytes(path.read_bytes(), chance))
        elif how == 5:
            name = chance.choice(("x", "unet.weights", ".w", "é"))
            (path if path.is_dir() else path.parent).joinpath(name).write_bytes(b"x")
