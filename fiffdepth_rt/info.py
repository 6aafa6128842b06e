"""manifest -> what a person wants to know of an engine directory, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fiffdepth_rt.engine_dir import Manifest, Stage, TensorSpec

_MEANING = {"depth": "0 = nearest, 1 = farthest", "disparity": "1 = nearest, 0 = farthest"}


def to_text(manifest: Manifest) -> str:
    """One fact per line, the most asked for first; no line break at the end."""
    return "\n".join(f"{heading:12}{fact}".rstrip() for heading, fact in _facts(manifest))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(heading, fact) by line; the heading is empty where a line goes on with the subject above it."""
    yield "Model", f"{manifest.name} (recipe {manifest.recipe})"
    yield "Output", f"{manifest.output_space}: {_MEANING[manifest.output_space]}; relative, not metres"
    size = manifest.size
    yield "Size", f"{size.default} px by default, {size.max} at most, in multiples of {size.multiple}"
    for name, graphs in manifest.graph_sets.items():
        yield "Graphs", f"{name}: opset {graphs.opset}, for {', '.join(graphs.backends)}"
        for stage_name, stage in graphs.stages.items():
            yield "", f"  {stage_name:9}{_signature(stage)}"
    for plan in manifest.plans:
        yield "Plan", _pairs(plan)
    yield from (("Parity", row) for row in _parity(manifest.parity))
    yield "Licence", manifest.licence.model
    for source in manifest.licence.data_sources:
        yield "Data", source
    for key, value in manifest.provenance.items():
        yield "Provenance", f"{key}: {value}"
    total_mb = sum(record.bytes for record in manifest.files.values()) / 1e6
    yield (
        "Files",
        f"{len(manifest.files)} files, {total_mb:.1f} MB, each with the SHA-256 it was exported with",
    )


def _signature(stage: Stage) -> str:
    return " -> ".join(", ".join(map(_tensor, specs)) for specs in (stage.inputs, stage.outputs))


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {'×'.join(map(str, spec.shape))}"


def _parity(rows: tuple[Mapping[str, Any], ...]) -> Iterator[str]:
    """Against the torch reference: how many checks passed, by graph set, backend and device."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(str(row.get(name)) for name in ("graph_set", "backend", "device"))
        groups.setdefault(key, []).append(row)
    for (graph_set, backend, device), group in groups.items():
        passed = sum(row.get("passed") is True for row in group)
        differences = [row["max_abs"] for row in group if isinstance(row.get("max_abs"), int | float)]
        worst = f", worst difference {max(differences):.1e}" if differences else ""
        yield f"{graph_set} on {backend} ({device}): {passed} of {len(group)} checks passed{worst}"


def _pairs(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items())
