"""Furniture-like solids, each standing on z = 0 around its own origin and facing -y. Sizes in metres."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.scenes.meshes import Builder, Frame, compose, frame
from training.scenes.textures import COLLAGES, COUNT, PLAIN, Material, PhotoCrop

MOST_PHOTOS = 0.6
"""Share of a scene's materials that show a part of a photo, at most; each scene has a share of its own."""
CROPS = 4
"""Parts of photos in one scene; its materials share them, at scales of their own."""


class Maker:
    """Random materials and solids of one scene; everything drawn from one generator.

    photos: whose parts materials may show; without any, nothing more is drawn from the generator.
    """

    def __init__(self, rng: np.random.Generator, photos: Sequence[Path] = ()) -> None:
        self.rng = rng
        self.builder = Builder()
        self.materials: list[Material] = []
        self.saturation = rng.uniform(0.1, 1.0)
        self._crops = [self._crop(photos) for _ in range(CROPS)] if photos else []
        self._photo_share = rng.uniform(0, MOST_PHOTOS) if photos else 0.0

    def colour(self, value: tuple[float, float] = (0.08, 0.9)) -> tuple[float, float, float]:
        """A linear RGB colour; browns and greys more often than the rest."""
        hue = self.rng.normal(0.08, 0.06) % 1 if self.rng.random() < 0.55 else self.rng.random()
        return colorsys.hsv_to_rgb(hue, self.saturation * self.rng.random(), self.rng.uniform(*value))

    def material(
        self, *, value: tuple[float, float] = (0.05, 0.9), plain: float = 0.3, glow: float = 0.0,
        pictures: slice | None = None, metres: tuple[float, float] = (0.15, 2.5),
    ) -> int:  # fmt: skip
        rng = self.rng
        dark = self.colour(value)
        light = (
            self.colour(value)
            if rng.random() < 0.5
            else tuple(min(1.0, c * rng.uniform(1.1, 2.2)) for c in dark)
        )
        picture = (
            int(rng.integers(pictures.start, pictures.stop)) if pictures else int(rng.integers(1, COUNT - 10))
        )
        self.materials.append(
            Material(
                picture=PLAIN if pictures is None and rng.random() < plain else picture,
                metres=float(np.exp(rng.uniform(*np.log(metres)))),
                dark=dark,
                light=light,  # type: ignore[arg-type]
                gloss=float(rng.random() ** 3),
                glow=glow,
                crop=self._chosen_crop(plain),
            )
        )
        return len(self.materials) - 1

    def _chosen_crop(self, plain: float) -> PhotoCrop | None:
        if self._crops and self.rng.random() < self._photo_share * (1 - plain):
            return self._crops[self.rng.integers(len(self._crops))]
        return None

    def _crop(self, photos: Sequence[Path]) -> PhotoCrop:
        rng = self.rng
        return PhotoCrop(
            photo=photos[int(rng.integers(len(photos)))],
            left=float(rng.random()),
            top=float(rng.random()),
            side=float(rng.uniform(0.15, 1)),
        )

    def part(self, kind: str, place: Frame, at: tuple[float, float, float], size: tuple[float, float, float],
             material: int, **turn: float) -> None:  # fmt: skip
        """One primitive of a piece of furniture: centre `at` and `size` in the piece's own frame."""
        self.builder.add(kind, compose(place, frame(at=at, scale=size, **turn)), material)

    # ---- pieces ----

    def legs(self, place: Frame, w: float, d: float, h: float, material: int) -> None:
        t = self.rng.uniform(0.025, 0.08)
        kind = "box" if self.rng.random() < 0.6 else "cylinder"
        for sx in (-0.5, 0.5):
            for sy in (-0.5, 0.5):
                self.part(kind, place, (sx * (w - t), sy * (d - t), h / 2), (t, t, h), material)

    def table(
        self, place: Frame, w: float | None = None, d: float | None = None, h: float | None = None
    ) -> float:
        """A table with things on it; returns the height of its top."""
        rng = self.rng
        w, d = w or rng.uniform(0.6, 2.4), d or rng.uniform(0.5, 1.2)
        h = h or rng.uniform(0.4, 0.8)
        m = self.material(plain=0.2)
        top = rng.uniform(0.02, 0.06)
        if rng.random() < 0.25:
            self.part("cylinder", place, (0, 0, h - top / 2), (w, w, top), m)
            self.part("cylinder", place, (0, 0, h / 2), (0.1, 0.1, h), m)
        else:
            self.part("box", place, (0, 0, h - top / 2), (w, d, top), m)
            self.legs(place, w * 0.95, d * 0.95, h - top, m)
        for _ in range(rng.integers(0, 7)):
            self.thing(
                compose(place, frame(at=(rng.uniform(-0.45, 0.45) * w, rng.uniform(-0.45, 0.45) * d, h)))
            )
        return h

    def thing(self, place: Frame, size: float | None = None) -> None:
        """A small object: cup, bottle, book pile, fruit, vase, box, candle, lamp, plant."""
        rng = self.rng
        s = size or float(np.exp(rng.uniform(np.log(0.06), np.log(0.3))))
        m = self.material(metres=(0.05, 0.4))
        place = compose(place, frame(yaw=rng.uniform(0, 6.3)))
        kind = rng.integers(0, 9)
        if kind == 0:
            self.part("cylinder", place, (0, 0, s / 2), (s * 0.8, s * 0.8, s), m)
            self.part("box", place, (s * 0.5, 0, s / 2), (s * 0.3, s * 0.1, s * 0.6), m)
        elif kind == 1:
            self.part("cylinder", place, (0, 0, s * 0.6), (s * 0.45, s * 0.45, s * 1.2), m)
            self.part("cylinder", place, (0, 0, s * 1.5), (s * 0.15, s * 0.15, s * 0.7), m)
        elif kind == 2:
            z = 0.0
            for _ in range(rng.integers(1, 6)):
                t = s * rng.uniform(0.1, 0.25)
                book = self.material(metres=(0.05, 0.4))
                self.part("box", place, (0, 0, z + t / 2), (s, s * 1.4, t), book, yaw=rng.normal(0, 0.3))
                z += t
        elif kind == 3:
            self.part("sphere", place, (0, 0, s / 2), (s, s, s), m)
        elif kind == 4:
            self.part("vase", place, (0, 0, s), (s, s, 2 * s), m)
            if rng.random() < 0.5:
                self.leaves(compose(place, frame(at=(0, 0, 2 * s))), s * 2, 8)
        elif kind == 5:
            self.part("box", place, (0, 0, s / 2), (s * rng.uniform(0.5, 2), s * rng.uniform(0.4, 1.2), s), m)
        elif kind == 6:
            for i in range(rng.integers(1, 4)):
                self.part("cylinder", place, (i * s * 0.7, 0, s), (s * 0.1, s * 0.1, 2 * s), m)
        elif kind == 7:
            self.part("cone", place, (0, 0, s * 0.75), (s, s, s * 1.5), m)
        else:
            self.part("box", place, (0, 0, s), (s * 2.2, s * 0.1, s * 1.5), m, pitch=rng.uniform(-0.3, 0.3))
            self.part("box", place, (0, 0, 0.02 * s), (s, s * 0.7, 0.05 * s), m)

    def leaves(self, place: Frame, height: float, count: int) -> None:
        m = self.material(value=(0.1, 0.5), plain=0.7)
        for _ in range(count):
            f = frame(yaw=self.rng.uniform(0, 6.3), pitch=self.rng.uniform(-0.9, 0.1))
            s = height * self.rng.uniform(0.6, 1.1)
            self.part("blade", compose(place, f), (0, 0, s / 2), (s, s, s), m)

    def chair(self, place: Frame) -> None:
        rng = self.rng
        w, h, back = rng.uniform(0.4, 0.55), rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.65)
        m, t = self.material(plain=0.4), rng.uniform(0.025, 0.05)
        seat = self.material() if rng.random() < 0.5 else m
        self.part("box", place, (0, 0, h), (w, w, 0.05), seat)
        self.legs(place, w, w, h, m)
        lean = rng.uniform(-0.2, 0.0)
        rest = compose(place, frame(at=(0, w / 2 - t / 2, h), pitch=lean))
        style = rng.integers(0, 3)
        if style == 0:
            self.part("box", rest, (0, 0, back / 2), (w, t, back), seat)
            return
        for sx in (-0.5, 0.5):
            self.part("box", rest, (sx * (w - t), 0, back / 2), (t, t, back), m)
        n = int(rng.integers(2, 6))
        for i in range(n):
            if style == 1:
                self.part("box", rest, (0, 0, back * (i + 1) / n - 0.03), (w, t * 0.6, back / n * 0.45), m)
            else:
                x = (i + 1) / (n + 1) - 0.5
                self.part("box", rest, (x * w, 0, back / 2), (w / n * 0.35, t * 0.6, back), m)
        self.part("box", rest, (0, 0, back), (w, t, 0.08), m)

    def sofa(self, place: Frame) -> None:
        rng = self.rng
        w, d, h = (
            rng.choice([0.9, 1.5, 2.1]) * rng.uniform(0.85, 1.15),
            rng.uniform(0.75, 1.0),
            rng.uniform(0.35, 0.48),
        )
        back, arm = rng.uniform(0.35, 0.75), rng.uniform(0.1, 0.25)
        m = self.material(plain=0.4)
        lift = rng.uniform(0.05, 0.15)
        self.part("box", place, (0, 0, (h + lift) / 2), (w, d, h - lift), m)
        self.part("box", place, (0, d / 2 - 0.1, h + back / 2), (w, 0.2, back), m, pitch=-0.15)
        for s in (-0.5, 0.5):
            top = h + rng.uniform(0.15, 0.25)
            self.part("box", place, (s * (w - arm), -0.02, (top + lift) / 2), (arm, d, top - lift), m)
            if rng.random() < 0.4:
                self.part("cylinder", place, (s * (w - arm), -0.02, top), (arm, arm, d), m, pitch=np.pi / 2)
        self.legs(place, w * 0.9, d * 0.9, lift + 0.02, self.material())
        n = max(1, round((w - 2 * arm) / 0.65))
        for i in range(n):
            x = ((i + 0.5) / n - 0.5) * (w - 2 * arm)
            self.part("box", place, (x, -0.08, h + 0.06), ((w - 2 * arm) / n * 0.97, d * 0.8, 0.14), m)
        for _ in range(rng.integers(0, 4)):
            cushion = self.material()
            x, s = rng.uniform(-0.4, 0.4) * (w - 2 * arm), rng.uniform(0.3, 0.5)
            self.part(
                "sphere",
                place,
                (x, d / 2 - 0.3, h + 0.3),
                (s, s * 0.4, s),
                cushion,
                pitch=-0.4,
                roll=rng.uniform(-0.6, 0.6),
            )

    def armchair(self, place: Frame) -> None:
        rng = self.rng
        m, w, h = self.material(plain=0.5), rng.uniform(0.6, 0.8), rng.uniform(0.38, 0.46)
        back = rng.uniform(0.6, 0.85)
        self.part("box", place, (0, -0.03, h - 0.1), (w, w * 0.95, 0.28), m)
        self.part("box", place, (0, w / 2 - 0.08, h + back / 2), (w * 0.95, 0.14, back), m, pitch=-0.15)
        self.part("cylinder", place, (0, w / 2, h + back), (w * 0.9, 0.3, 0.12), m, pitch=np.pi / 2)
        for s in (-0.5, 0.5):
            self.part("box", place, (s * w * 0.95, 0.0, h + 0.15), (0.12, w * 0.85, 0.12), m)
            self.part("box", place, (s * w, w / 2 - 0.15, h + back * 0.6), (0.06, 0.25, back * 0.7), m)
        self.legs(place, w * 0.9, w * 0.9, h - 0.22, self.material())

    def cabinet(self, place: Frame) -> None:
        """Chest of drawers, sideboard, cupboard or open shelf."""
        rng = self.rng
        w, d = rng.uniform(0.4, 1.6), rng.uniform(0.3, 0.6)
        h = rng.choice([rng.uniform(0.5, 1.0), rng.uniform(1.4, 2.2)])
        m, front = self.material(plain=0.3), self.material(plain=0.3)
        if rng.random() < 0.35:  # open shelf with books
            t = 0.03
            for s in (-0.5, 0.5):
                self.part("box", place, (s * (w - t), 0, h / 2), (t, d, h), m)
            self.part("box", place, (0, d / 2, h / 2), (w, 0.02, h), m)
            n = max(2, round(h / 0.35))
            for i in range(n + 1):
                z = 0.03 + i * (h - 0.05) / n
                self.part("box", place, (0, 0, z), (w, d, t), m)
                x = -w / 2 + 0.05
                while i < n and x < w / 2 - 0.08 and rng.random() < 0.93:
                    bw, bh = rng.uniform(0.02, 0.09), h / n * rng.uniform(0.4, 0.9)
                    bd = d * rng.uniform(0.5, 0.9)
                    self.part(
                        "box",
                        place,
                        (x + bw / 2, d / 2 - bd / 2, z + bh / 2),
                        (bw, bd, bh),
                        self.material(plain=0.6),
                    )
                    x += bw + rng.choice([0.002, 0.1])
            return
        lift = rng.choice([0.0, rng.uniform(0.05, 0.2)])
        self.part("box", place, (0, 0, (h + lift) / 2), (w, d, h - lift), m)
        self.part("box", place, (0, -0.01, h), (w * 1.04, d * 1.04, 0.03), m)
        if lift:
            self.legs(place, w * 0.95, d * 0.9, lift + 0.01, m)
        rows, cols = max(1, round(h / rng.uniform(0.2, 0.6))), max(1, round(w / rng.uniform(0.35, 0.8)))
        for r in range(rows):
            for c in range(cols):
                x = ((c + 0.5) / cols - 0.5) * w
                z = lift + (r + 0.5) / rows * (h - lift)
                self.part(
                    "box", place, (x, -d / 2, z), (w / cols * 0.92, 0.03, (h - lift) / rows * 0.9), front
                )
                self.part("sphere", place, (x, -d / 2 - 0.03, z), (0.04, 0.04, 0.04), m)
        for _ in range(rng.integers(0, 5)):
            self.thing(
                compose(place, frame(at=(rng.uniform(-0.4, 0.4) * w, rng.uniform(-0.3, 0.3) * d, h + 0.015)))
            )

    def bed(self, place: Frame) -> None:
        rng = self.rng
        w, d, h = rng.uniform(0.9, 1.9), 2.0, rng.uniform(0.35, 0.6)
        self.part("box", place, (0, 0, h / 2), (w, d, h * 0.6), self.material())
        self.part("box", place, (0, 0, h * 0.85), (w * 1.02, d, h * 0.35), self.material())
        self.part("box", place, (0, d / 2, h * 1.1), (w * 1.05, 0.06, h * 2.2), self.material())
        pillow = self.material(value=(0.4, 0.95))
        for x in (-0.25, 0.25):
            self.part("sphere", place, (x * w, d / 2 - 0.3, h + 0.1), (w * 0.42, 0.4, 0.22), pillow)

    def lamp(self, place: Frame) -> None:
        rng = self.rng
        h, m = rng.uniform(1.2, 1.9), self.material(plain=0.9)
        shade = self.material(value=(0.6, 1.0), plain=0.9, glow=rng.choice([0.0, rng.uniform(0.4, 1.5)]))
        s = rng.uniform(0.25, 0.5)
        self.part("cylinder", place, (0, 0, 0.015), (0.3, 0.3, 0.03), m)
        self.part("cylinder", place, (0, 0, h / 2), (0.03, 0.03, h), m)
        self.part("cylinder" if rng.random() < 0.5 else "cone", place, (0, 0, h), (s, s, s * 0.8), shade)

    def plant(self, place: Frame) -> None:
        h = self.rng.uniform(0.4, 1.4)
        self.part("vase", place, (0, 0, 0.18), (0.35, 0.35, 0.36), self.material())
        self.leaves(compose(place, frame(at=(0, 0, 0.33))), h, int(self.rng.integers(8, 22)))

    def person(self, place: Frame) -> None:
        rng = self.rng
        h = rng.uniform(1.5, 1.95)
        top, trousers, skin = self.material(), self.material(), self.material(value=(0.3, 0.8), plain=1.0)
        for s in (-1, 1):
            self.part(
                "cylinder",
                place,
                (s * 0.1, s * rng.uniform(-0.12, 0.12), h * 0.24),
                (0.15, 0.16, h * 0.48),
                trousers,
                pitch=s * 0.1,
            )
            self.part("cylinder", place, (s * 0.26, 0, h * 0.62), (0.1, 0.1, h * 0.36), top, roll=-s * 0.15)
        self.part("sphere", place, (0, 0, h * 0.66), (0.46, 0.28, h * 0.42), top)
        self.part("sphere", place, (0, 0, h * 0.93), (0.19, 0.22, 0.26), skin)

    def car(self, place: Frame) -> None:
        rng = self.rng
        length, w, h = rng.uniform(3.5, 5.0), rng.uniform(1.6, 1.9), rng.uniform(1.35, 1.8)
        body, glass, tyre = (
            self.material(plain=0.9),
            self.material(value=(0.02, 0.15), plain=1.0),
            self.material(value=(0.02, 0.08), plain=1.0),
        )
        self.part("box", place, (0, 0, h * 0.42), (w, length, h * 0.42), body)
        self.part("box", place, (0, length * 0.05, h * 0.78), (w * 0.88, length * 0.5, h * 0.34), glass)
        self.part("box", place, (0, length * 0.05, h * 0.97), (w * 0.85, length * 0.42, 0.05), body)
        for sx in (-0.5, 0.5):
            for sy in (-0.32, 0.32):
                self.part(
                    "cylinder",
                    place,
                    (sx * w * 0.95, sy * length, 0.32),
                    (0.64, 0.64, 0.2),
                    tyre,
                    roll=np.pi / 2,
                )

    def tree(self, place: Frame) -> None:
        rng = self.rng
        h, trunk = rng.uniform(2.5, 9), self.material(value=(0.05, 0.4), plain=0.1)
        leaf = self.material(value=(0.05, 0.5), plain=0.0, metres=(0.3, 2))
        r = rng.uniform(0.06, 0.25)
        if rng.random() < 0.3:
            self.part("cylinder", place, (0, 0, h * 0.2), (r, r, h * 0.4), trunk)
            for i in range(3):
                s = h * (0.5 - 0.12 * i)
                self.part("cone", place, (0, 0, h * (0.4 + 0.22 * i)), (s, s, h * 0.35), leaf)
            return
        self.part("cylinder", place, (0, 0, h * 0.3), (r, r, h * 0.6), trunk, roll=rng.normal(0, 0.05))
        for _ in range(rng.integers(4, 14)):
            s = h * rng.uniform(0.15, 0.4)
            at = (rng.normal(0, 0.14) * h, rng.normal(0, 0.14) * h, h * rng.uniform(0.5, 0.95))
            self.part("sphere", place, at, (s, s, s * 0.8), leaf)

    def fence(self, place: Frame, length: float) -> None:
        """A railing along x: posts, rails, maybe thin bars."""
        rng = self.rng
        h, m = rng.uniform(0.7, 1.4), self.material(plain=0.8)
        t, step = (
            rng.uniform(0.03, 0.1),
            rng.uniform(0.12, 0.4) if rng.random() < 0.5 else rng.uniform(0.8, 2.0),
        )
        for z in np.linspace(h, h * 0.2, int(rng.integers(2, 4))):
            self.part("box", place, (0, 0, z), (length, t * 0.7, t), m)
        for x in np.arange(-length / 2, length / 2, max(step, length / 60)):
            self.part("box", place, (x, 0, h / 2), (t * 0.6, t * 0.6, h), m)

    def pole(self, place: Frame) -> None:
        rng = self.rng
        h, m = rng.uniform(2.2, 8), self.material(plain=0.9)
        r = rng.uniform(0.05, 0.25)
        self.part("cylinder", place, (0, 0, h / 2), (r, r, h), m)
        if rng.random() < 0.5:
            sign = self.material(pictures=COLLAGES, metres=(0.5, 1.5))
            self.part(
                "box", place, (0, -r, h - 0.4), (rng.uniform(0.4, 1.0), 0.04, rng.uniform(0.4, 1.0)), sign
            )
        else:
            self.part("box", place, (rng.choice([-0.7, 0.7]), 0, h), (1.5, 0.12, 0.1), m)

    def picture(self, place: Frame) -> None:
        """A framed picture, a mirror or a television on a wall: centre at the origin, facing -y."""
        rng = self.rng
        w, h = rng.uniform(0.25, 1.4), rng.uniform(0.25, 1.0)
        self.part("box", place, (0, -0.015, 0), (w + 0.08, 0.03, h + 0.08), self.material(plain=0.8))
        inner = (
            self.material(pictures=COLLAGES, metres=(0.3, 1.5))
            if rng.random() < 0.8
            else self.material(value=(0.01, 0.1), plain=1.0)
        )
        self.part("box", place, (0, -0.02, 0), (w, 0.03, h), inner)

    def curtain(self, place: Frame, w: float, h: float) -> None:
        """A corrugated sheet hanging from z = h, in the xz plane."""
        x, z = np.linspace(-w / 2, w / 2, 40), np.linspace(0, h, 3)
        fold = 0.06 * np.sin(x * self.rng.uniform(25, 60)) + 0.03 * np.sin(x * 11)
        p = np.stack(np.broadcast_arrays(x[None], fold[None] - 0.1, z[:, None]), -1)
        self.builder.add_sheet(p @ place[:, :3].T + place[:, 3], self.material(plain=0.5))
