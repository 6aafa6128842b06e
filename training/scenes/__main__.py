"""seeds -> a contact sheet: rendered photos above their depth, to look at before rendering thousands.

python -m training.scenes sheet.jpg --mix hand-held --photos photos
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.program.options import named_path
from training.scenes.layouts import HAND_HELD, MIXES
from training.scenes.render import render_scene

COLUMNS = 6
ENDINGS = (".jpg", ".png")


def sheet(seeds: range, size_hw: tuple[int, int], **how: object) -> NDArray[np.uint8]:
    """Rows of COLUMNS photos, each row above its depths (near = red, logarithmic). how: of `render_scene`."""
    rows = []
    for first in range(seeds.start, seeds.stop, COLUMNS):
        renders = [render_scene(seed, size_hw, **how) for seed in range(first, first + COLUMNS)]  # type: ignore[arg-type]
        rows += [
            np.hstack([one.photo for one in renders]),
            np.hstack([coloured(one.depth_m) for one in renders]),
        ]
    return np.vstack(rows)


def coloured(depth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
    """H×W metres -> uint8 H×W×3 RGB, between the 1 % and 99 % quantiles."""
    log = np.log(depth_m)
    near, far = np.quantile(log, [0.01, 0.99])
    nearness = 1 - np.clip((log - near) / (far - near), 0, 1)
    return cv2.applyColorMap((255 * nearness).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=named_path, help="picture to write, .jpg or .png")
    parser.add_argument("--count", type=int, default=2 * COLUMNS, help="scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene (default: %(default)s)")
    parser.add_argument("--mix", choices=[mix.name for mix in MIXES], default=HAND_HELD.name)
    parser.add_argument("--photos", type=named_path, help="folder of photos whose parts surfaces show")
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that is there")
    args = parser.parse_args()
    if args.out.suffix.lower() not in ENDINGS:
        parser.error(f"{args.out} is to be a picture: end its name in {' or '.join(ENDINGS)}.")
    if args.out.exists() and not args.overwrite:
        parser.error(f"{args.out} exists already: name another file, or say --overwrite.")
    photos = (
        []
        if args.photos is None
        else sorted(path for path in args.photos.iterdir() if path.suffix.lower() in PHOTO_ENDINGS)
    )
    mix = next(mix for mix in MIXES if mix.name == args.mix)
    picture = sheet(range(args.seed, args.seed + args.count), (144, 192), mix=mix, photos=photos)
    _, data = cv2.imencode(args.out.suffix, picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    with replacing(args.out) as file:
        file.write(data.tobytes())


if __name__ == "__main__":
    main()
