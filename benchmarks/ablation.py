"""The paper in miniature: does each part of the method do what the paper says it does? START HERE.

    python -m benchmarks.ablation --out runs/ablation          # an hour of one core; resumable
    python -m benchmarks.ablation --out runs/ablation --save   # and the report into benchmarks/results
    python -m benchmarks.ablation --out runs/try --tiny        # seconds: the path, no figures to believe

    scenes.py   what a world looks like: a rendered one, a photographed one, and anything between
    worlds.py   synthetic photos with exact depth; real photos with a soft teacher's maps; tests
    prior.py    a small latent-diffusion model of photos: the start of every run
    runs.py     variant × seed -> figures, trained with training/objective.py

Paper, section 4.2 and Fig. 7: without the teacher the depth of real photos is worse; with the teacher on d0
their edges are; without L_k, or with L_k on pure image latents, one of the two is. A claim counts as seen
when every seed agrees and the difference of the means exceeds the larger of the two spreads between seeds.
Everything is kept in --out and skipped the next time; a killed run goes on from its last hundred steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
from collections.abc import Sequence

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.miniature.prior import Size, decode, depth_latent, train_prior
from benchmarks.miniature.runs import MAX_M, MIN_M, VARIANTS, Budget, Figures, run, score_pictures
from benchmarks.miniature.scenes import PHOTOGRAPHED, RENDERED, SIZE
from benchmarks.miniature.worlds import TEACHER_BLUR, TEACHER_ERROR, Worlds, make_worlds
from benchmarks.report import Report, publish, table
from fiffdepth_rt import DepthMap, Space
from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.machine import installed, machine_card
from training.data.normalise import normalise

FULL = "full method"
BETTER = {"abs_rel": -1, "delta1": 1, "boundary_f1": 1}
"""Which way each figure is better."""
CLAIMS = {
    "no teacher": ("abs_rel",),
    "teacher on d0": ("boundary_f1",),
    "no L_k": ("abs_rel", "boundary_f1"),
    "L_k on image latents": ("abs_rel", "boundary_f1"),
}
"""What the paper says gets worse: any one of these figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """images of each world (twice that for the prior), test_images, the prior's steps, and each run's."""

    images: int = 3000
    test_images: int = 200
    prior_steps: int = 1000
    size: Size = Size()
    budget: Budget = Budget()


TINY = AblationSettings(
    images=16,
    test_images=2,
    prior_steps=2,
    size=Size(channels=(16, 16, 32), batch=2),
    budget=Budget(steps=2),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim about one variant: the difference to the full method, > 0 where the variant is worse."""

    variant: str
    figure: str
    worse_by: float
    spread: float
    seeds_agree: bool

    @property
    def text(self) -> str:
        if not self.seeds_agree or abs(self.worse_by) <= self.spread:
            return "no evidence"
        return "worse, as claimed" if self.worse_by > 0 else "BETTER, against the claim"


def run_all(out: Path, settings: AblationSettings, seeds: Sequence[int]) -> tuple[Worlds, list[dict]]:
    """Draw, pre-train, train and score whatever `out` has not -> the worlds and every run's record."""
    keep_to(settings, out)
    worlds = make_worlds(out / "worlds", images=settings.images, test_images=settings.test_images)
    prior = out / "prior"
    train_prior(worlds.prior, settings.size, prior, steps=settings.prior_steps)
    records = []
    for seed in seeds:
        for name in VARIANTS:
            result = run(
                name,
                seed,
                worlds,
                prior=prior,
                place=run_folder(out, name, seed),
                size=settings.size,
                budget=settings.budget,
            )
            records.append(json.loads(result.read_text(encoding="utf-8")))
    return worlds, records


def design(settings: AblationSettings) -> dict:
    """Everything that figures depend on and that one may wish to change."""
    return {
        "settings": dataclasses.asdict(settings),
        "rendered": dataclasses.asdict(RENDERED),
        "photographed": dataclasses.asdict(PHOTOGRAPHED),
        "teacher_blur": TEACHER_BLUR,
        "teacher_error": TEACHER_ERROR,
    }


def keep_to(settings: AblationSettings, out: Path) -> None:
    """Note settings, looks and teacher in `out`; raises SystemExit where `out` has results of others."""
    out.mkdir(parents=True, exist_ok=True)
    noted, text = out / "settings.json", json.dumps(design(settings), indent=1) + "\n"
    if not noted.exists():
        with replacing(noted) as file:
            file.write(text.encode())
    elif noted.read_text(encoding="utf-8") != text:
        raise SystemExit(
            f"{noted} is of other settings, and results of both cannot be compared: choose another --out."
        )


def run_folder(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{name.replace(' ', '-')}-{seed}"


def references(worlds: Worlds) -> dict[str, Figures]:
    """What bounds the table: the teacher itself, and the truth as a depth picture sent through the latent."""
    truth = worlds.test.depth_m
    everywhere = np.ones(truth.shape[1:], bool)
    pictures = np.stack([normalise(d, everywhere, space=Space.DEPTH) for d in truth])
    return {
        "the teacher's maps": score_pictures(worlds.test.pictures, truth),
        "the truth as a picture": score_pictures(decode(depth_latent(pictures)), truth),
    }


def values(records: list[dict], variant: str, figure: str, world: str = "real") -> NDArray[np.float64]:
    """One figure of one variant, a value per seed in the order of the seeds."""
    chosen = sorted((r for r in records if r["variant"] == variant), key=lambda r: r["seed"])
    return np.array([r[world][figure] for r in chosen])


def spread(per_seed: NDArray[np.float64]) -> float:
    """Standard deviation between seeds (n − 1); infinite for a single seed, which shows nothing."""
    return float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else float("inf")


def verdicts(records: list[dict]) -> list[Verdict]:
    results = []
    for variant, figures in CLAIMS.items():
        for figure in figures:
            ours, theirs = values(records, FULL, figure), values(records, variant, figure)
            worse = BETTER[figure] * (ours - theirs)
            results.append(
                Verdict(
                    variant=variant,
                    figure=figure,
                    worse_by=float(worse.mean()),
                    spread=max(spread(ours), spread(theirs)),
                    seeds_agree=bool((worse > 0).all() or (worse < 0).all()),
                )
            )
    return results


def tables(records: list[dict], bounds: dict[str, Figures]) -> str:
    """The figures and the verdicts, Markdown."""
    seeds = sorted({r["seed"] for r in records})
    lines = []
    for variant in VARIANTS:
        cells = [values(records, variant, figure) for figure in BETTER]
        cells += [values(records, variant, figure, "synthetic") for figure in ("abs_rel", "boundary_f1")]
        lines.append([variant, *(_percent(cell) for cell in cells)])
    for name, of in bounds.items():
        shown = [f"{100 * value:.1f}" for value in dataclasses.asdict(of).values()]
        lines.append([f"*{name}*", *shown, "", ""])
    headers = ["AbsRel ↓", "δ1 ↑", "boundary F1 ↑", "AbsRel on synthetic ↓", "F1 on synthetic ↑"]
    names = {"abs_rel": "AbsRel", "delta1": "δ1", "boundary_f1": "boundary F1"}
    found = [
        [v.variant, names[v.figure], f"{100 * v.worse_by:+.2f}", f"{100 * v.spread:.2f}", v.text]
        for v in verdicts(records)
    ]
    return "\n".join(
        [
            f"Real-looking test photos, mean ± deviation between {len(seeds)} seeds, in percent:",
            "",
            table(["variant", *headers], lines, align="lrrrrr"),
            "",
            table(["variant", "figure", "worse by (points)", "seeds' spread", ""], found, align="llrrl"),
        ]
    )


def _percent(per_seed: NDArray[np.float64]) -> str:
    return f"{100 * per_seed.mean():.1f} ± {100 * spread(per_seed):.1f}"


def picture_grid(out: Path, worlds: Worlds, seed: int, *, rows: int = 10) -> NDArray[np.uint8]:
    """The first test photos: photo | truth | teacher | each variant in the order of VARIANTS; RGB.

    Near is bright; each map is shown between its own 2 % and 98 % quantiles, four times enlarged.
    """
    columns = [
        [_shown(d) for d in worlds.test.depth_m[:rows]],
        [_shown(p) for p in worlds.test.pictures[:rows]],
    ]
    for name in VARIANTS:
        pictures = np.load(run_folder(out, name, seed) / "pictures.npy")[:rows].astype(np.float32)
        columns.append([_shown(p) for p in pictures])
    grid = np.hstack([np.vstack(column) for column in [list(worlds.test.photos[:rows]), *columns]])
    grid = cv2.resize(grid, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    titles = ["photo", "truth", "teacher", *VARIANTS]
    header = np.full((24, grid.shape[1], 3), 255, np.uint8)
    for i, title in enumerate(titles):
        at = (i * grid.shape[1] // len(titles) + 3, 16)
        cv2.putText(header, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([header, grid])


def _shown(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = np.quantile(depth, [0.02, 0.98])
    scaled = np.clip((depth - low) / max(float(high - low), 1e-6), 0, 1)
    return DepthMap(values=scaled.astype(np.float32), space=Space.DEPTH).colors()


def setup(settings: AblationSettings, records: list[dict]) -> str:
    """What was done, with the figures that it was done with."""
    minutes = sum(r["cpu_seconds"] for r in records) / len(records) / 60
    return f"""\
Rooms of {SIZE}×{SIZE} pixels in two looks. Rendered: plain colours, no noise, {RENDERED.headlight:.0%}
with light that falls off with distance; {settings.images} with exact depth. Photographed: textures, stripes,
posters, lamps anywhere, lens blur, noise; {settings.images} with the teacher's maps, and no other depth of
theirs reaches training.

The teacher is given, not trained: ln z of the true depth, low-passed by a Gaussian of {TEACHER_BLUR} pixels,
plus a smooth random error of {TEACHER_ERROR:.0%}; it stands for one that has seen the real world, is about
right there and soft. It is the same for every variant that has one, holds no edge and no thin thing, and its
own scores stand in the table.

The start of every run: a UNet of {settings.size.channels} channels on 2×2-patch latents, pre-trained for
{settings.prior_steps} steps of v-prediction on {2 * settings.images} photos of any look. A run:
{settings.budget.steps} steps of AdamW at a peak rate of {settings.budget.lr:g}, {settings.size.batch}
synthetic and {settings.size.batch} real photos each, averaged weights; {minutes:.1f} minutes of one core on
average. The same seed has the same batches and noise in every variant.

Scored on {settings.test_images} photos of each look that no training saw, aligned by least squares in depth,
clipped to {MIN_M:g} … {MAX_M:g} m."""


def png(grid: NDArray[np.uint8]) -> bytes:
    """H×W×3 RGB -> PNG. Raises ValueError where OpenCV cannot encode it."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError("The picture grid cannot be encoded as PNG.")
    return encoded.tobytes()


@commands.command(__doc__)
@click.option(
    "--out", metavar="DIR", type=commands.NEW, required=True, help="Worlds, weights, results of every run."
)
@click.option(
    "--seed",
    "seeds",
    metavar="N",
    type=int,
    multiple=True,
    default=(1, 2, 3),
    show_default=True,
    help="Several times for several; 0 was the design's pilot.",
)
@click.option("--tiny", is_flag=True, help="Seconds instead of an hour, to see the path.")
@commands.save
def main(out: Path, seeds: tuple[int, ...], tiny: bool, save: bool) -> None:
    settings = TINY if tiny else AblationSettings()
    worlds, records = run_all(out, settings, seeds)
    bounds = references(worlds)
    report = Report(
        benchmark="ablation",
        title="The paper in miniature",
        command=commands.typed("ablation"),
        card=machine_card(installed(["torch"])),
        text=f"{setup(settings, records)}\n\n{tables(records, bounds)}\n\n"
        f"The picture: the first test photos, of seed {seeds[0]}.",
        figures={
            "design": design(settings),
            "references": {name: dataclasses.asdict(figures) for name, figures in bounds.items()},
            "verdicts": [dataclasses.asdict(v) | {"text": v.text} for v in verdicts(records)],
            "runs": records,
        },
        draw=lambda: png(picture_grid(out, worlds, seeds[0])),
    )
    report.save(out, stem="report")
    publish(report, save=save)


if __name__ == "__main__":
    main()
