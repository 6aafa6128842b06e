"""What INPUT is: photos or shards. Everything is decided here, before an engine is opened."""

from __future__ import annotations

from pathlib import PurePosixPath

from fiffdepth_rt.batch.photos import LIST_ENDINGS, FolderPhotos, ListedPhotos, listed, photos_in
from fiffdepth_rt.batch.places import Folder, LocalFolder, folder_at, is_address
from fiffdepth_rt.batch.shards import ENDING, Shards, shards_of
from fiffdepth_rt.cluster.names import Names
from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.errors import BatchError
from fiffdepth_rt.files import local_path
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS


def open_input(place: str, output: Folder) -> FolderPhotos | ListedPhotos | Shards:
    """What stands on the command line -> photos, or shards.

    A folder or an address gives the photos in it and in its folders, or its shards (*.tar). What ends in .tar
    is shards, and may be a pattern (*, ?, [, {000..799}). Any other file is a list.
    Raises BatchError: none of these, nothing in it, photos beside shards, or OUTPUT lies in it.
    """
    path = None if is_address(place) else local_path(place)
    ending = PurePosixPath(place).suffix.lower()
    if not place:
        raise BatchError("'' is no INPUT (an unset variable of the shell?): name a folder, a list or shards.")
    if ending == ENDING and (path is None or not path.is_dir()):
        shards = shards_of(place)
        _refuse_over(shards, output)
        return shards
    if ending in PHOTO_ENDINGS and (path is None or not path.is_dir()):
        raise BatchError(f"{place} is one photo: `fiffdepth infer` is for that. Name a folder, or a list.")
    if ending in LIST_ENDINGS if path is None else path.is_file():
        return listed(place)
    if path is not None and not path.is_dir():
        raise BatchError(f"{place} does not exist: name a folder, a list, tar shards, or an address.")
    folder = folder_at(place)
    _refuse_inside(folder, output)
    return _of_folder(folder)


def _of_folder(folder: Folder) -> FolderPhotos | Shards:
    unreadable: list[Skipped] = []
    files = list(folder.files(unreadable))
    tars = [name for name in files if name.endswith(ENDING)]
    if not tars:
        return photos_in(folder, files, tuple(unreadable))
    photos = [name for name in files if PurePosixPath(name).suffix.lower() in PHOTO_ENDINGS]
    if photos:
        raise BatchError(
            f"{folder.name} holds shards ({tars[0]}) and photos ({photos[0]}): name the shards by a pattern "
            "in quotes, such as 'DIR/*.tar', or the photos by a list."
        )
    return Shards(folder=folder, names=Names(sorted(tars)), unreadable=tuple(unreadable))


def _refuse_inside(input_: Folder, output: Folder) -> None:
    if isinstance(input_, LocalFolder) and isinstance(output, LocalFolder):
        inside = output.path.resolve().is_relative_to(input_.path.resolve())
    else:
        above, below = (f"{one.name.rstrip('/')}/" for one in (input_, output))
        inside = below.startswith(above)
    if inside:
        raise BatchError(
            f"{output.name} lies in {input_.name}: results would be taken for photos. Name another OUTPUT."
        )


def _refuse_over(shards: Shards, output: Folder) -> None:
    if isinstance(shards.folder, LocalFolder) and isinstance(output, LocalFolder):
        same = output.path.resolve() == shards.folder.path.resolve()
    else:
        same = output.name.rstrip("/") == shards.folder.name.rstrip("/")
    if same:
        raise BatchError(
            f"{output.name} holds the shards, and results have their names: name another OUTPUT."
        )
