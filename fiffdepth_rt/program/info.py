"""`fiffdepth info`: manifest -> what a person wants to know of an engine directory, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import tell

if TYPE_CHECKING:
    from fiffdepth_rt.engine_dir.manifest import FileRecord, Manifest, MemoryRecord, PlanRecord, Stage


@click.command("info")
@options.directory
@options.verbose
def command(directory: Path | None) -> None:
    """Show what an engine directory holds.

    DIR is an engine directory; by default the bundled model. Every file is checked against its SHA-256 first.

    \b
    Examples:
      fiffdepth info
      fiffdepth info engines/fiffdepth
    """
    from fiffdepth_rt.engine_dir.checking import open_engine_dir
    from fiffdepth_rt.engine_dir.manifest import BUNDLED

    tell(to_text(open_engine_dir(directory or BUNDLED).manifest))


def to_text(manifest: Manifest) -> str:
    """One fact per line, the most asked for first; no line break at the end."""
    return "\n".join(
        f"{heading:12}{fact}".rstrip().replace("\n", "\\n") for heading, fact in _facts(manifest)
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(heading, fact) by line; the heading is empty where a line goes on with the subject above it."""
    from fiffdepth_rt.backends.select import ENGINES
    from fiffdepth_rt.engine_dir.manifest import STAGES

    yield "Model", f"{manifest.name} (recipe {manifest.recipe})"
    yield "Output", f"{manifest.output_space}: {manifest.output_space.ends()}; relative, not metres"
    size = manifest.size
    yield "Size", f"{size.default} px by default, {size.max} at most, in multiples of {size.multiple}"
    for precision, graphs in manifest.graph_sets.items():
        takes = sorted(engine.name for engine in ENGINES if engine.takes(graphs))
        yield "Graphs", f"{precision}: opset {graphs.opset}, for {', '.join(takes)}"
        for name in STAGES:
            yield "", f"  {name:8}{_stage(graphs.stages[name], manifest.files)}"
    for plan in manifest.plans:
        yield "Plan", _plan(plan, manifest.files)
    for record in manifest.memory:
        yield "Memory", memory_text(record)
    yield from (("Memory", text) for text in _predicted(manifest.plans))
    yield from (("Parity", row) for row in _parity(manifest.parity))
    yield "Licence", manifest.licence.model
    for source in manifest.licence.data_sources:
        yield "Data", source
    for key, value in manifest.provenance.items():
        yield "Provenance", f"{key}: {value}"
    total_mb = sum(record.bytes for record in manifest.files.values()) / 1e6
    yield "Files", f"{len(manifest.files)} files, {total_mb:.1f} MB, each as it was exported (SHA-256)"


def _stage(stage: Stage, files: Mapping[str, FileRecord]) -> str:
    megabytes = sum(files[name].bytes for name in (stage.file, *stage.external_data)) / 1e6
    inputs, outputs = (
        ", ".join(f"{spec.dtype} {spec.name}" for spec in specs) for specs in (stage.inputs, stage.outputs)
    )
    return f"{megabytes:7.1f} MB  {inputs} -> {outputs}"


def memory_text(record: MemoryRecord) -> str:
    """ "fp32 at 512x512 on onnxruntime (cpu): 45 MB open, 98 MB more to compute; 60 MB while it opens"."""
    gpu = "" if record.gpu_bytes is None else f"; {record.gpu_bytes / 1e6:.0f} MB on the GPU"
    return (
        f"{record.graph_set} at {record.grid[0]}x{record.grid[1]} on {record.backend} ({record.device}): "
        f"{record.opened_bytes / 1e6:.0f} MB open, {record.computing_bytes / 1e6:.0f} MB more to compute, "
        f"{record.opening_bytes / 1e6:.0f} MB while it opens{gpu}"
    )


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


def _plan(plan: PlanRecord, files: Mapping[str, FileRecord]) -> str:
    shapes = ", ".join(
        f"{profile.grid[0]}x{profile.grid[1]} batch {profile.batch}" for profile in plan.profiles
    )
    from fiffdepth_rt.backends.tensorrt.versions import release_of

    gpu = plan.gpu_name if plan.hardware_compatibility == "none" else "any GPU"
    newer = " or newer" if plan.hardware_compatibility == "ampere_plus" else ""
    state = "" if plan.checked else "; built, not yet run on a GPU"
    stripped = ", without weights" if plan.stripped else ""
    return (
        f"{plan.precision} {plan.stage}: {files[plan.file].bytes / 1e6:.1f} MB{stripped}, for {gpu} of "
        f"compute capability {plan.compute_capability}{newer} and {release_of(plan)}; {shapes}{state}"
    )


def _predicted(plans: tuple[PlanRecord, ...]) -> Iterator[str]:
    """What the plans of one graph set and one kind of GPU need together, by shape, as their builder said."""
    from fiffdepth_rt.backends.tensorrt.lane import pinned_bytes
    from fiffdepth_rt.engine_dir.manifest import STAGES

    together: dict[tuple[str, str, str], list[PlanRecord]] = {}
    for plan in plans:
        together.setdefault((plan.precision, plan.flavour, plan.compute_capability), []).append(plan)
    for (precision, flavour, capability), group in together.items():
        if len({plan.stage for plan in group}) < len(STAGES):
            continue
        memories = [plan.memory for plan in group]
        for i, profile in enumerate(group[0].profiles):
            needs = [memory for memory in memories if memory is not None and i < len(memory.activation_bytes)]
            if len(needs) < len(group):  # an older builder said nothing
                continue
            weights = sum(need.weight_bytes for need in needs) / 1e6
            computing = max(need.activation_bytes[i] for need in needs) / 1e6
            yield (
                f"{precision} at {profile.grid[0]}x{profile.grid[1]} batch {profile.batch} on {flavour} "
                f"(compute capability {capability}): {weights:.0f} MB of weights, "
                f"{computing:.0f} MB to compute, "
                f"{pinned_bytes(profile) / 1e6:.1f} MB of pinned host memory; predicted by the builder"
            )
