"""START HERE for labels. photos -> a teacher's labels, resumable: what is there is not made again.

    photo          uint8 H×W×3                                training/data/images.py
      │  teacher   Depth Anything V2, or one of our models    training/labelling/teachers.py
    teacher map    float32 H×W, disparity or depth
      │  to_picture  reciprocal with a floor, 2 %/98 %        training/data/teacher_maps.py
    depth picture  float32 H×W in [-1, 1]
      │  write     16 bits, whole or not there                training/data/labels.py
    label store    one file per photo, one header

On one machine this file does it all; with --ray the same steps run on every machine of a Ray cluster
(training/labelling/on_ray.py).
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import click
import transformers
from tqdm.contrib.logging import logging_redirect_tqdm

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program.options import PATH_OR_NAME, WORD, NamedPath
from fiffdepth_rt.program.terminal import printable, stderr_handler, tell
from fiffdepth_rt.space import Space
from training.data.images import open_photos
from training.data.labels import LabelStore
from training.data.samples import DataError
from training.errors import TrainingError
from training.labelling import steps
from training.labelling.teachers import TeacherError, forbids_commerce, open_teacher
from training.run_folder import only_run_in

logger = logging.getLogger("training")


# fmt: off
@click.command(context_settings={"show_default": True}, epilog="""\b
Examples:
  python -m training.labelling --images photos --teacher depth-anything/Depth-Anything-V2-Small-hf
  python -m training.labelling --images photos --teacher fiffdepth_rt/nano --out labels
""")
@click.option("--images", required=True, type=NamedPath(), metavar="DIR",
    help="Folder of photos; or WebDataset shards: their folder, or a pattern in quotes.")
@click.option("--teacher", required=True, metavar="PATH_OR_ID", type=PATH_OR_NAME,
    help="Depth Anything as a folder or hub id, or a model of ours as an engine directory or checkpoint.")
@click.option("--out", type=NamedPath(), metavar="DIR", show_default="IMAGES-labels",
    help="Folder of the labels. Labels that are there already are kept.")
@click.option("--space", type=click.Choice([str(space) for space in Space]), default="depth",
    help="What the labels and the student that learns from them say.")
@click.option("--dtype", type=click.Choice(["uint16", "float16"]), default="uint16",
    help="16-bit PNG, or float16 in safetensors.")
@click.option("--batch", type=click.IntRange(min=1), default=8, help="Photos of one size that run together.")
@click.option("--workers", type=click.IntRange(min=0), default=2, help="Processes that read photos.")
@click.option("--device", default="auto", help="cpu, cuda, cuda:1; auto: a GPU where there is one.")
@click.option("--licence", help="Licence of the teacher's weights, where nothing says it.")
@click.option("--ray", "address", metavar="ADDRESS", type=WORD,
    help="Label on a Ray cluster: auto, HOST:6379, ray://HOST:10001, or local for one on this machine.")
@click.option("--actors", type=click.IntRange(min=1), show_default="one per GPU, or per two cores",
    help="With --ray: so many teachers at once.")
def main(
    images: Path,
    teacher: str,
    out: Path | None,
    space: Space,
    dtype: steps.Dtype,
    batch: int,
    workers: int,
    device: str,
    licence: str | None,
    address: str | None,
    actors: int | None,
) -> None:
    """Label photos with the depth that a teacher sees in them, for the real half of the training.

    A run that was interrupted goes on with the same command. Photos that cannot be used are skipped, and
    skipped.json lists them. The labels inherit the licence of the teacher: header.json says it.
    """
    logging.basicConfig(level=logging.INFO, handlers=[stderr_handler("%(levelname)s %(message)s")])
    transformers.utils.logging.disable_progress_bar()
    try:
        # Absolute: the workers of a cluster stand elsewhere.
        images, out = images.absolute(), (out or images.with_name(images.name + "-labels")).absolute()
        if Path(teacher).expanduser().exists():
            teacher = str(Path(teacher).expanduser().absolute())
        if out.resolve().is_relative_to(images.resolve()):
            raise DataError(f"{out} lies in {images}: labels would be taken for photos; name another --out.")
        make_teacher = functools.partial(open_teacher, teacher, device=device, licence=licence)
        with only_run_in(out), logging_redirect_tqdm():
            photos = open_photos(images, index=out / "shards")
            # On a cluster the actors have the GPUs: here the teacher only says what it is.
            here = make_teacher() if address is None else make_teacher(device="cpu")
            header = steps.header_for(here, space=space, dtype=dtype)
            _tell(header)
            store = LabelStore.create(out, header)
            store.sweep()
            if address is None:
                tally = steps.label_photos(photos, here, store, batch=batch, workers=workers)
            else:
                from training.labelling import on_ray  # takes seconds to import, and most runs need none
                with on_ray.cluster(address):
                    tally = on_ray.label_on_cluster(photos, make_teacher, store, batch=batch, actors=actors)
        tell(f"{out}: {tally.made} labels made, {tally.there} were there, {len(tally.skipped)} skipped.")
        if tally.skipped:
            tell(f"{store.folder / steps.SKIPPED} says which photos were skipped, and why.")
    except (FiffDepthError, DataError, TeacherError, TrainingError) as error:
        raise click.ClickException(printable(str(error))) from error
    if tally.skipped and not tally.made + tally.there:
        raise click.ClickException("No photo could be used.")


def _tell(header: steps.Header) -> None:
    logger.info("Labels in the space %s, by %s: %s", header.space, header.teacher, header.made)
    if forbids_commerce(header.licence):
        logger.warning(
            "%s is under %s. Its labels inherit that, and so does a model that learns from them: neither may "
            "be used commercially. Depth Anything V2 Small (Apache-2.0) is a teacher without this limit.",
            header.teacher,
            header.licence,
        )
    else:
        logger.info("The labels inherit the licence of the teacher: %s", header.licence)


# fmt: on
