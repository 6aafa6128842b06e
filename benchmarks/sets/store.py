"""The files of a dataset, by their path in it: extracted in a folder, or in the tar that was downloaded."""

from __future__ import annotations

import tarfile
from pathlib import Path

from training.data.samples import DataError, SampleError


class Store:
    """Path within the dataset -> bytes. Holds no file open, and can be sent to another process.

    Raises DataError where `place` is a file and no tar, or a packed one.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._parts: dict[str, tuple[int, int]] | None = None  # where each file begins in the tar, its length
        if place.is_file():
            try:
                with tarfile.open(place, "r:") as tar:
                    self._parts = {
                        member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar
                    }
            except (OSError, tarfile.TarError) as error:
                raise DataError(f"{place} is no tar ({error}): download it again, or unpack it.") from error

    def read(self, path: str) -> bytes:
        """Raises SampleError where the file is not there or cannot be read."""
        try:
            if self._parts is None:
                return (self._place / path).read_bytes()
            start, size = self._parts[path]
            with self._place.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except (KeyError, FileNotFoundError, NotADirectoryError) as error:
            raise SampleError(path, f"not in {self._place.name}") from error
        except OSError as error:
            raise SampleError(path, f"{self._place.name} cannot be read ({error})") from error
