"""Plans of TensorRT for RTX with something wrong: what was done to each, and what our code says of it.

    python -m tests.support.mutated_plans DIR FIRST LAST

opens mutations FIRST ... LAST of the UNet's plan in the engine directory DIR, one after another, and says
what came of each in a line, so that whoever started this process also learns which one ended it.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path

from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.backends.tensorrt.opened import OpenedEngine
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import read_manifest
from fiffdepth_rt.errors import FiffDepthError
from tests.support.paths import ROOT
from tests.support.plans import edit

HEADER = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutation:
    """content: of the plan afterwards. vouched: whether the manifest has its hash, as somebody's would who
    means harm, or who listed a plan that was damaged already. says: the error that our code owes; None where
    the library has the word.
    """

    kind: str
    content: bytes
    vouched: bool
    says: str | None


def mutations(plan: bytes, others: list[bytes], *, seed: int = 0) -> list[Mutation]:
    """A whole plan, and plans of other stages -> 500 mutations, the same each time."""
    rng = random.Random(seed)
    made = []
    for i in range(500):
        kind, content, says = _mutate(plan, others, KINDS[i % len(KINDS)], rng)
        vouched = i // len(KINDS) % 4 != 3  # three of four
        says = says if vouched else "HashMismatchError"
        made.append(Mutation(kind=kind, content=content, vouched=vouched, says=says))
    return made


KINDS = ("bit in the header", "bits in the body", "cut", "longer", "header of another", "version", "magic")
KINDS += ("capabilities", "other stage", "table of contents", "cut and relabelled", "rubbish")


def _mutate(plan: bytes, others: list[bytes], kind: str, rng: random.Random) -> tuple[str, bytes, str | None]:
    changed = bytearray(plan)
    says: str | None = None
    if kind == "bit in the header":
        place = rng.randrange(HEADER)
        bit = 1 << rng.randrange(8)
        changed[place] ^= bit
        if place < 4 or 16 <= place < 24:
            says = "PlanMismatchError"
        elif 24 <= place < 27:
            says = "PlanVersionError"
        elif place == 32 and bit == 2:
            says = "PlanGpuError"
    elif kind == "bits in the body":
        for _ in range(rng.choice((1, 10, 1000))):
            changed[rng.randrange(HEADER + 48, len(plan))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        changed = changed[: rng.choice((0, 1, 63, 64, 65, rng.randrange(len(plan)), len(plan) - 1))]
        says = "PlanMismatchError"
    elif kind == "longer":
        changed += rng.randbytes(rng.choice((1, 64, 5000)))
        says = "PlanMismatchError"
    elif kind == "header of another":
        changed[:HEADER] = rng.choice(others)[:HEADER]
        says = "PlanMismatchError"  # their lengths differ
    elif kind == "version":
        versions = ((1, 6, 1), (1, 8, 1), (2, 7, 1), (1, 7, 0), (10, 16, 1), (0, 0, 0))
        changed[24:27] = bytes(rng.choice(versions))
        says = "PlanVersionError"
    elif kind == "magic":
        changed[:4] = rng.choice((b"ftrt", b"ptrt", b"\0\0\0\0", b"PK\3\4", b"\x7fELF", rng.randbytes(4)))
        says = "PlanMismatchError"
    elif kind == "capabilities":
        changed[32:40] = rng.choice((0, 1, 1 << 40, 0x7C)).to_bytes(8, "little")
        says = "PlanGpuError"
    elif kind == "other stage":  # whole: on a GPU its tensors tell
        changed = bytearray(rng.choice(others))
    elif kind == "table of contents":
        place = rng.choice((8, 64, 72, 80, 88, 96, 104)) + rng.randrange(8)
        changed[place] = rng.randrange(256)
    elif kind == "cut and relabelled":
        changed = changed[: rng.randrange(HEADER, len(plan))]
        changed[16:24] = len(changed).to_bytes(8, "little")
    else:
        changed = bytearray(rng.randbytes(rng.choice((64, 1000, 100_000))))
        changed[: rng.choice((0, 4))] = plan[:4]
        says = "PlanMismatchError"
    if bytes(changed) == plan:  # a byte that was set to what it is
        changed[-1] ^= 1
        says = None
    return kind, bytes(changed), says


def open_mutated(directory: Path, first: int, last: int) -> dict[int, str]:
    """Mutations of the UNet's plan, opened in child processes -> what came of each; "died" of a process."""
    came = dict[int, str]()
    while first < last:
        run = subprocess.run(
            [sys.executable, "-m", "tests.support.mutated_plans", str(directory), str(first), str(last)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        lines = [line.split() for line in run.stdout.splitlines()]
        came |= {int(i): "died" if said == "opens" else said for i, said in lines}
        assert lines, run.stderr
        if run.returncode == 0:
            break
        assert run.returncode < 0, run.stderr  # a signal, no mistake of ours
        first = int(lines[-1][0]) + 1
    return came


def main(directory: Path, first: int, last: int) -> None:
    manifest = read_manifest(directory)
    (record,) = [plan for plan in manifest.plans if plan.stage == "unet"]
    stage = manifest.graph_sets[record.precision].stages["unet"]
    job = PlanJob(record=record, graph=directory / stage.file, stage=stage)
    file = directory / record.file
    whole = file.read_bytes()
    others = [(directory / plan.file).read_bytes() for plan in manifest.plans if plan.stage != "unet"]
    try:
        for i, mutation in enumerate(mutations(whole, others)[first:last], first):
            print(f"{i} opens", flush=True)
            file.write_bytes(mutation.content)
            if mutation.vouched:
                edit(directory, files={**manifest.files, record.file: hash_file(file)})
            try:
                OpenedEngine(open_engine_dir(directory).file(record.file), job).close()
                said = "opened"
            except FiffDepthError as error:
                said = type(error).__name__
            edit(directory, files=manifest.files)
            print(f"{i} {said}", flush=True)
    finally:
        file.write_bytes(whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
