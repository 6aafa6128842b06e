"""START HERE. rendered scenes and a pretrained backbone -> a teacher's checkpoint, resumable at every step.

    python -m training.scene_teacher all --run runs/teacher --photos DIR
    python -m training.scene_teacher scratch --run runs/teacher --photos DIR     # its twin from scratch
    python -m training.scene_teacher all --run runs/try --tiny
    python -m training.labelling --images DIR --teacher runs/teacher/teacher.safetensors

Stages, each a folder in the run that is finished when its result is there:

    scenes, held_out       hand-held scenes, parts of the photos as textures    training/data/procedural.py
    features               scenes through the backbone, once                    features.py
    frozen                 the decoder alone, on these features                 network.py
    fine                   the decoder and all of the backbone after stride 4   stages.py
    teacher.safetensors    weights between frozen and fine, the share chosen on held-out scenes alone
    scratch                the same network from random weights, on the same scenes: for comparison
"""

from __future__ import annotations

import argparse
import sys

import cv2
import torch

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program.options import named_path
from fiffdepth_rt.program.terminal import printable
from training.data.images import LICENCE, PhotoFolder
from training.data.samples import DataError
from training.errors import TrainingError
from training.scene_teacher.stages import TINY, Settings, train

STAGES = ("scenes", "frozen", "all", "scratch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES, help="how far to go; what it needs comes first")
    parser.add_argument(
        "--run", type=named_path, required=True, help="folder of this run; an interrupted one goes on"
    )
    parser.add_argument("--photos", type=named_path, help="folder of photos whose parts surfaces show")
    parser.add_argument("--photos-licence", default=LICENCE, help="where they come from, for the checkpoint")
    parser.add_argument("--tiny", action="store_true", help="every stage in a minute, for trying it out")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        photos = None if args.photos is None else PhotoFolder(args.photos, licence=args.photos_licence)
        made = train(args.run, TINY if args.tiny else Settings(), photos=photos, until=args.stage)
    except (DataError, TrainingError, FiffDepthError) as error:
        sys.exit(printable(f"Error: {error}"))
    if made is not None:
        print(made)


if __name__ == "__main__":
    main()
