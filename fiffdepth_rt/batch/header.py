"""OUTPUT/fiffdepth.json: what every result in OUTPUT is, so that no folder holds two kinds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from fiffdepth_rt.batch.output import ENDINGS, Format, Naming, plain_stem
from fiffdepth_rt.batch.places import Folder
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import OutputError, shortened

HEADER = "fiffdepth.json"

Layout = Literal["files", "shards"]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What all results in one OUTPUT have in common.

    layout: "files", or "shards" of tars. formats: in alphabetical order. made_of: `Depth.made_of`.
    strict: whether JPEGs without their end were refused. meaning: of the values. licence: of the model.
    """

    layout: Layout
    formats: tuple[Format, ...]
    made_of: dict[str, Any]
    strict: bool
    meaning: str
    licence: str


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    """whole_names: `Naming.whole` of all runs, in alphabetical order."""

    format: Literal["fiffdepth-batch"] = "fiffdepth-batch"
    format_version: Literal[1] = 1
    results: Kind
    whole_names: tuple[str, ...]


def kind_of(depth: Depth, *, layout: Layout, formats: Sequence[Format], strict: bool) -> Kind:
    return Kind(
        layout=layout,
        formats=tuple(sorted(formats)),
        made_of=depth.made_of(),
        strict=strict,
        meaning=depth.output_space.sentence,
        licence=depth.manifest.licence.model,
    )


def claim(folder: Folder, kind: Kind, names: Sequence[str], there: set[str]) -> Naming:
    """Write the header, or find one that says the same. names: of the photos. there: of all files in OUTPUT.

    Returns what results are called. A photo keeps what an earlier run called it by its whole name. Where a
    photo came that differs in its ending alone from one that was here before, nobody knows of which of them
    trip/sea_depth.png is: it is removed, from `there` too.

    Raises OutputError: OUTPUT holds results of another kind, or of one that nobody knows; or it cannot be
    written.
    """
    header = _read(folder)
    whole = set(Naming.of(names).whole)
    if header is None:
        endings = (".tar",) if kind.layout == "shards" else ENDINGS
        if found := next((name for name in there if name.endswith(endings)), None):
            raise OutputError(
                f"{folder.name} holds {shortened(found)}, and no {HEADER} that says what made it: name an "
                "OUTPUT of its own for this."
            )
    else:
        if differing := list(_differing(kind, header.results)):
            raise OutputError(
                f"{folder.name} holds results of another kind ({'; '.join(differing)}): name another OUTPUT, "
                "or ask for the same again."
            )
        for name in whole.difference(header.whole_names):
            for result in (plain_stem(name) + ending for ending in ENDINGS):
                if result in there:
                    folder.remove(result)
                    there.remove(result)
        whole.update(header.whole_names)
    said = _Header(results=kind, whole_names=tuple(sorted(whole)))
    if said != header:
        with folder.writing(HEADER) as file:
            file.write(msgspec.json.format(msgspec.json.encode(said), indent=1) + b"\n")
    return Naming(whole=frozenset(whole))


def _read(folder: Folder) -> _Header | None:
    try:
        return msgspec.json.decode(folder.read(HEADER), type=_Header)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{folder.name}/{HEADER} is none of this version's ({error}), so nothing says what the results "
            "there are: name another OUTPUT."
        ) from error
    except Exception as error:  # drivers raise dozens of kinds
        raise OutputError(f"{folder.name}/{HEADER} cannot be read ({error}): check its access.") from error


def _differing(mine: Kind, theirs: Kind) -> Iterable[str]:
    """ "size: 128, not 64" """
    ours, found = ({**one.pop("made_of"), **one} for one in map(msgspec.to_builtins, (mine, theirs)))
    for name in sorted({*ours, *found}):
        if ours.get(name) != found.get(name):
            yield f"{name}: {_said(ours.get(name))}, not {_said(found.get(name))}"


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
