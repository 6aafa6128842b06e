"""What stands within reach: screens, crockery, kitchen units.

Each stands on z = 0 around its own origin and faces -y. Sizes in metres, as such things are sold.
"""

from __future__ import annotations

import numpy as np

from training.scenes.meshes import Frame, compose, frame
from training.scenes.objects import Maker
from training.scenes.textures import COLLAGES


def _panel(m: Maker) -> int:
    """What a screen shows: a picture that may glow, or nothing."""
    if m.rng.random() < 0.3:
        return m.material(value=(0.005, 0.05), plain=1.0)
    return m.material(pictures=COLLAGES, plain=0.0, metres=(0.2, 0.8), glow=m.rng.choice([0.0, 0.3, 0.8]))


def monitor(m: Maker, place: Frame) -> None:
    rng = m.rng
    w = rng.uniform(0.4, 0.85)
    h = w * rng.uniform(0.5, 0.65)
    lift = rng.uniform(0.08, 0.2)
    body = m.material(value=(0.01, 0.3), plain=1.0)
    m.part("box", place, (0, 0.02, lift + h / 2), (w, 0.03, h), body)
    m.part("box", place, (0, 0.0, lift + h / 2), (w * 0.97, 0.012, h * 0.95), _panel(m))
    m.part("box", place, (0, 0.05, lift / 2 + 0.05), (0.06, 0.03, lift + 0.1), body)
    m.part("box", place, (0, 0.03, 0.008), (w * 0.45, 0.2, 0.016), body)


def laptop(m: Maker, place: Frame) -> None:
    rng = m.rng
    w, d = rng.uniform(0.28, 0.4), rng.uniform(0.2, 0.27)
    body, keys = m.material(value=(0.02, 0.7), plain=1.0), m.material(value=(0.01, 0.15), plain=0.5)
    m.part("box", place, (0, 0, 0.01), (w, d, 0.018), body)
    m.part("box", place, (0, 0.03, 0.02), (w * 0.9, d * 0.45, 0.004), keys)
    lid = compose(place, frame(at=(0, d / 2, 0.015), pitch=-rng.uniform(0.0, 0.5)))
    m.part("box", lid, (0, 0, d / 2), (w, 0.008, d), body)
    m.part("box", lid, (0, -0.005, d / 2), (w * 0.95, 0.004, d * 0.9), _panel(m))


def keyboard(m: Maker, place: Frame) -> None:
    w = m.rng.uniform(0.3, 0.46)
    m.part("box", place, (0, 0, 0.01), (w, 0.14, 0.02), m.material(value=(0.01, 0.7), plain=0.8))
    m.part("box", place, (0, 0, 0.022), (w * 0.95, 0.12, 0.006), m.material(metres=(0.02, 0.1), plain=0.1))
    m.part("sphere", place, (w / 2 + 0.1, 0, 0.018), (0.06, 0.11, 0.036), m.material(plain=1.0))


def paper(m: Maker, place: Frame) -> None:
    """Sheets, a newspaper, a tablet, an open book: flat and full of print."""
    rng = m.rng
    for _ in range(rng.integers(1, 4)):
        w, d = (0.21, 0.3) if rng.random() < 0.6 else (rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.35))
        sheet = m.material(value=(0.3, 0.95), plain=0.2, metres=(0.03, 0.3))
        at = (rng.normal(0, 0.08), rng.normal(0, 0.08), 0.002 + rng.uniform(0, 0.012))
        m.part("box", place, at, (w, d, 0.003), sheet, yaw=rng.normal(0, 0.5))


def crockery(m: Maker, place: Frame) -> None:
    """A place setting: a plate, perhaps with food, a glass, cutlery."""
    rng = m.rng
    s = rng.uniform(0.18, 0.3)
    china = m.material(value=(0.3, 0.95), plain=0.7, metres=(0.05, 0.3))
    m.part("cylinder", place, (0, 0, 0.008), (s * 0.7, s * 0.7, 0.016), china)
    m.part("cylinder", place, (0, 0, 0.018), (s, s, 0.008), china)
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 5)):
            f = rng.uniform(0.04, 0.12)
            at = (rng.normal(0, s / 6), rng.normal(0, s / 6), 0.022 + f / 4)
            m.part("sphere", place, at, (f, f * rng.uniform(0.6, 1.4), f / 2), m.material(metres=(0.03, 0.2)))
    steel = m.material(value=(0.4, 0.8), plain=1.0)
    for x in (-s * 0.65, s * 0.65):
        m.part("box", place, (x, 0, 0.004), (0.015, 0.19, 0.006), steel)
    glass = rng.uniform(0.08, 0.22)
    if rng.random() < 0.7:
        at = (s * 0.55, s * 0.6, glass / 2)
        m.part("cylinder", place, at, (0.07, 0.07, glass), m.material(value=(0.1, 0.9), plain=0.7))


def clutter(m: Maker, place: Frame, w: float, d: float, most: int, *, least: int = 0) -> None:
    """`least` to `most` small things anywhere on a top of w × d."""
    rng = m.rng
    small = (paper, crockery, None, None, None)
    for _ in range(rng.integers(least, most + 1)):
        at = compose(
            place,
            frame(at=(rng.uniform(-0.47, 0.47) * w, rng.uniform(-0.42, 0.42) * d, 0), yaw=rng.normal(0, 0.6)),
        )
        thing = small[rng.integers(len(small))]
        if thing is None:
            m.thing(at, float(np.exp(rng.uniform(np.log(0.04), np.log(0.22)))))
        else:
            thing(m, at)


def units(m: Maker, place: Frame, length: float, *, above: bool) -> None:
    """A run of kitchen units along x: doors, a worktop at 0.9 m, a sink or a hob; cupboards above, a hood."""
    rng = m.rng
    d, top = 0.6, rng.uniform(0.86, 0.95)
    body, front = m.material(plain=0.6), m.material(plain=0.5, metres=(0.3, 2))
    worktop, steel = m.material(plain=0.3, metres=(0.2, 2)), m.material(value=(0.3, 0.8), plain=1.0)
    m.part("box", place, (0, 0.02, top / 2), (length, d - 0.04, top), body)
    m.part("box", place, (0, 0, top), (length + 0.02, d + 0.03, 0.04), worktop)
    n = max(1, round(length / rng.uniform(0.4, 0.65)))
    for i in range(n):
        x = ((i + 0.5) / n - 0.5) * length
        m.part(
            "box", place, (x, -d / 2 + 0.01, top / 2 + 0.04), (length / n * 0.96, 0.025, top * 0.82), front
        )
        m.part("box", place, (x, -d / 2 - 0.02, top * 0.86), (0.14, 0.025, 0.015), steel)
    x = rng.uniform(-0.35, 0.35) * length
    if rng.random() < 0.5:  # a sink with its tap
        m.part("box", place, (x, 0, top + 0.012), (0.5, 0.4, 0.02), steel)
        m.part(
            "box", place, (x, 0, top + 0.02), (0.42, 0.33, 0.012), m.material(value=(0.02, 0.2), plain=1.0)
        )
        m.part("cylinder", place, (x, 0.2, top + 0.15), (0.03, 0.03, 0.3), steel)
        m.part("box", place, (x, 0.12, top + 0.3), (0.025, 0.18, 0.025), steel)
    else:  # a hob with pots, an oven below
        m.part("box", place, (x, 0, top + 0.024), (0.56, 0.5, 0.012), m.material(value=(0.01, 0.08), plain=1))
        m.part("box", place, (x, -d / 2 - 0.01, top / 2), (0.55, 0.03, 0.5), m.material(value=(0.01, 0.2)))
        for _ in range(rng.integers(0, 3)):
            s, at = (
                rng.uniform(0.14, 0.26),
                (x + rng.choice([-0.14, 0.14]), rng.choice([-0.12, 0.12]), top + 0.1),
            )
            m.part("cylinder", place, at, (s, s, 0.14), m.material(plain=0.9))
    clutter(m, compose(place, frame(at=(0, 0, top + 0.02))), length, d, 8)
    if not above:
        return
    low, high, deep = rng.uniform(1.35, 1.5), rng.uniform(2.0, 2.25), 0.34
    y = d / 2 - deep / 2
    if rng.random() < 0.5:
        m.part("box", place, (x, y - 0.05, low + 0.1), (0.6, 0.45, 0.1), steel)
        m.part("box", place, (x, y, (low + high) / 2), (0.25, 0.25, high - low), steel)
    for i in range(n):
        along = ((i + 0.5) / n - 0.5) * length
        if abs(along - x) < 0.45 or rng.random() < 0.1:
            continue
        m.part("box", place, (along, y, (low + high) / 2), (length / n * 0.98, deep, high - low), body)
        m.part(
            "box",
            place,
            (along, y - deep / 2, (low + high) / 2),
            (length / n * 0.94, 0.02, high - low - 0.03),
            front,
        )


def fridge(m: Maker, place: Frame) -> None:
    """A tall box with two doors: a fridge, a larder, a wardrobe."""
    rng = m.rng
    w, d, h = rng.uniform(0.55, 0.95), rng.uniform(0.55, 0.7), rng.uniform(1.5, 2.1)
    body, steel = m.material(value=(0.2, 0.95), plain=0.8), m.material(value=(0.2, 0.8), plain=1.0)
    split = h * rng.uniform(0.3, 0.7)
    m.part("box", place, (0, 0, h / 2), (w, d, h), body)
    for low, high in ((0.05, split), (split + 0.01, h - 0.01)):
        m.part("box", place, (0, -d / 2 - 0.02, (low + high) / 2), (w * 0.98, 0.04, high - low), body)
        m.part(
            "box", place, (w * 0.4, -d / 2 - 0.06, (low + high) / 2), (0.02, 0.03, (high - low) / 3), steel
        )


def shelf(m: Maker, place: Frame, w: float, h: float) -> None:
    """An open shelf with boards at about 0.35 m, full of things."""
    rng = m.rng
    board, d = m.material(plain=0.4), rng.uniform(0.25, 0.4)
    for s in (-0.5, 0.5):
        m.part("box", place, (s * w, 0, h / 2), (0.025, d, h), board)
    n = max(2, round(h / 0.35))
    for i in range(n + 1):
        z = 0.02 + i * (h - 0.04) / n
        m.part("box", place, (0, 0, z), (w, d, 0.022), board)
        if i < n:
            for _ in range(rng.integers(1, 6)):
                at = frame(at=(rng.uniform(-0.42, 0.42) * w, rng.uniform(-0.25, 0.25) * d, z + 0.011))
                m.thing(compose(place, at), float(rng.uniform(0.06, 0.13)))


def pendant(m: Maker, place: Frame, hang: float) -> None:
    """A lamp on a cord: the lower rim of its shade at the origin, the ceiling `hang` above."""
    rng = m.rng
    s, cord = rng.uniform(0.15, 0.5), m.material(value=(0.01, 0.2), plain=1.0)
    shade = m.material(value=(0.4, 1.0), plain=0.9, glow=rng.uniform(0.3, 1.5))
    m.part(("cone", "cylinder", "sphere")[rng.integers(3)], place, (0, 0, s * 0.35), (s, s, s * 0.7), shade)
    m.part("cylinder", place, (0, 0, hang / 2 + s * 0.3), (0.012, 0.012, hang), cord)
