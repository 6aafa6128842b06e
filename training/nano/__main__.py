"""START HERE. procedural scenes -> the bundled model's checkpoint, on a CPU, resumable at every step.

    python -m training.nano all --run runs/nano --photos DIR --labels DIR --prior teacher.safetensors
    python -m training.nano all --run runs/nano --photos DIR --labels DIR --start fiffdepth_rt/nano
    python -m training.nano all --run runs/try --prior FILE --tiny    # every stage in a minute, to try it out

Stages, each a folder in the run that is finished when its result is there:

    scenes, held_out   seeds -> hand-held photos and depth pictures           training/data/procedural.py
    world              the same, of everything
    vae                photos and depth pictures -> latent -> the same        AutoencoderKL
    latents            photos, depth pictures -> cached latents, each also mirrored
    unet               latent -> depth latent, t = 0, eq. 1 with the losses of eq. 5 and 6
    joint              photo -> depth picture, all three networks together      training/nano/joint.py
    full.safetensors   joint's checkpoint, the last with the full VAE
    light              a light VAE in the full one's place                      training/distill_vae.py
    scenes_large, held_out_large, world_large                                   scenes at twice the size
    start              joint's UNet, the light VAE, and a prior in its encoder  training/nano/start.py
    fine               goes on with these, at both sizes                        training/nano/joint.py
    method             fine goes on, eq. 1 to 7: scenes and labelled photos     training/nano/joint.py
    nano.safetensors   half-way between fine and method: the checkpoint that export takes

The prior is a network that training.scene_teacher has trained. Photos are what surfaces of the scenes show.
With labels of a teacher (training.labelling; the prior's own checkpoint is one) they are the real half of the
method too; without, its last stage is the synthetic half alone. --start takes the weights of an engine
directory, its prior included, in the place of the stages vae to start.
"""

from __future__ import annotations

import argparse
import sys

import cv2

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program.options import named_path
from fiffdepth_rt.program.terminal import printable
from training.data.images import LICENCE, PhotoFolder
from training.data.labels import LabelStore
from training.data.samples import DataError
from training.errors import TrainingError
from training.nano.stages import STAGES, TINY, Settings, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stage",
        choices=STAGES,
        help="how far to go; what it needs comes first",
    )
    parser.add_argument(
        "--run", type=named_path, required=True, help="folder of this run; an interrupted one goes on"
    )
    parser.add_argument(
        "--photos",
        type=named_path,
        help="folder of photos whose parts surfaces show, and with --labels: the real half",
    )
    parser.add_argument(
        "--labels", type=named_path, help="the photos' labels by a teacher (training.labelling), in depth"
    )
    parser.add_argument(
        "--prior",
        type=named_path,
        metavar="FILE",
        help="the checkpoint of training.scene_teacher that becomes a part of the light encoder",
    )
    parser.add_argument(
        "--start",
        type=named_path,
        metavar="ENGINE",
        help="engine directory whose weights fine begins with, such as fiffdepth_rt/nano",
    )
    parser.add_argument(
        "--photos-licence", default=LICENCE, help="where they come from, for the model's card"
    )
    parser.add_argument("--tiny", action="store_true", help="every stage in a minute, for trying it out")
    args = parser.parse_args()
    if args.labels is not None and args.photos is None:
        parser.error("--labels needs --photos: the folder of the photos that the labels are of.")
    cv2.setNumThreads(1)
    settings = TINY if args.tiny else Settings()
    try:
        photos = None if args.photos is None else PhotoFolder(args.photos, licence=args.photos_licence)
        labels = None if args.labels is None else LabelStore(args.labels)
        checkpoint_file = train(
            args.run,
            settings,
            photos=photos,
            labels=labels,
            prior=args.prior,
            start=args.start,
            until=args.stage,
        )
    except (DataError, TrainingError, FiffDepthError) as error:
        sys.exit(printable(f"Error: {error}"))
    if checkpoint_file is not None:
        print(checkpoint_file)


if __name__ == "__main__":
    main()
