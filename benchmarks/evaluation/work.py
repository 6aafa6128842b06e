"""What is spread over processes: a value that opens what makes one result from an image's index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """To be pickled. open: -> what makes a result of an image's index; called once per process."""

    def open(self) -> Callable[[int], T_co]: ...
