"""START HERE. The steps, one after the other, each in a process of its own -> a report, and an exit status.

    make gpu                  # on a machine with an NVIDIA GPU; at most 8 minutes
    make gpu REHEARSE=1       # the same script without one

On a GPU: written, API-checked, never run on a GPU.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from benchmarks import commands
from benchmarks import report as reports
from benchmarks.gpu_proof.process import Outcome, Step, Task, run_step
from benchmarks.gpu_proof.steps import MINUTES, REPORT_S, STEPS
from benchmarks.gpu_proof.writing import report
from fiffdepth_rt.machine import nvidia_driver
from fiffdepth_rt.program.terminal import say


def run_steps(steps: Sequence[Step], task: Task, *, minutes: float = MINUTES) -> Iterator[Outcome]:
    """Each step gets its share of the minutes, and what those before it left of theirs."""
    scale = minutes / MINUTES
    end = time.monotonic() + scale * (MINUTES * 60 - REPORT_S)
    for i, step in enumerate(steps):
        behind = scale * sum(other.budget_s for other in steps[i + 1 :])
        yield run_step(step, task, budget_s=end - time.monotonic() - behind)


def is_proof(outcomes: Sequence[Outcome]) -> bool:
    """Whether something passed and nothing failed."""
    states = {outcome.state for outcome in outcomes}
    return "passed" in states and "failed" not in states


def _known_recipe(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """The recipe, if there is one of that name; unasked where torch is missing, and the export says so."""
    if value is not None:
        with contextlib.suppress(ImportError):
            from export.recipe import RECIPES  # imports torch

            if value not in RECIPES:
                raise click.BadParameter(f"{value!r} is none of {', '.join(RECIPES)}.", ctx, option)
    return value


# fmt: off
@click.command(cls=commands.Benchmark)
@click.option("--rehearse", is_flag=True, help="Without a GPU: small models, a stand-in of CUDA.")
@click.option("--engine", "engines", metavar="DIR", multiple=True, type=commands.FOLDER,
              help="Engine directory in place of the random one; the second: with a light VAE.")
@click.option("--checkpoint", type=commands.EXISTING, help="To be exported, in place of the random one.")
@click.option("--recipe", metavar="NAME", callback=_known_recipe,
              help="How that model is asked, as export.build_engines has it.")
@click.option("--only", "names", multiple=True, type=click.Choice([step.name for step in STEPS]),
              help="A step to take; may be given again. By default all.")
@click.option("--minutes", metavar="M", type=click.FloatRange(min=0.1), default=MINUTES, show_default=True,
              help="For all steps together.")
@click.option("--work", metavar="DIR", type=commands.NEW,
              help="Keeps what is made: the same command goes on from it. By default it is thrown away.")
@click.option("--save/--no-save", default=None,
              help="Keep the report in benchmarks/results/. By default yes, and no for a rehearsal.")
def main(
    rehearse: bool,
    engines: tuple[Path, ...],
    checkpoint: Path | None,
    recipe: str | None,
    names: tuple[str, ...],
    minutes: float,
    work: Path | None,
    save: bool | None,
) -> None:
    # fmt: on
    """Show what only an NVIDIA GPU can: tests, parity, bits, latency, memory; in a report with a picture.

    A step that cannot be taken says why, and one that fails does not stop the others. The exit status is 1
    where a step failed, or none passed.

    \b
    Examples:
      python -m benchmarks.gpu_proof
      python -m benchmarks.gpu_proof --rehearse
      python -m benchmarks.gpu_proof --engine engines/fiffdepth --minutes 20
      python -m benchmarks.gpu_proof --checkpoint sd2-depth/ --recipe marigold-e2e
    """
    if recipe is not None and checkpoint is None:
        raise click.UsageError("--recipe says how the model of --checkpoint is asked: name one.")
    driver = nvidia_driver()
    if not driver.gpus and not rehearse:
        raise click.ClickException(
            f"There is no NVIDIA GPU here ({driver.failure or 'no driver answers'}). To try the script "
            "without one: make gpu REHEARSE=1"
        )
    with _folder(work) as folder:
        task = Task(
            work=str(folder),
            rehearse=rehearse,
            device="cpu" if rehearse else "cuda",
            engines=tuple(str(path.resolve()) for path in engines),
            checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
            recipe=recipe,
        )
        outcomes = []
        steps = [step for step in STEPS if not names or step.name in names]
        for outcome in run_steps(steps, task, minutes=minutes):
            say(f"{outcome.name}: {outcome.state} in {outcome.seconds:.0f} s. {outcome.why}")
            outcomes.append(outcome)
        made = report(outcomes, task, command=commands.typed("gpu_proof"))
    if work is not None:
        say(f"Report: {made.save(work / 'report')}")
    reports.publish(made, save=not rehearse if save is None else save)
    if not is_proof(outcomes):
        raise SystemExit(1)


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The folder that the steps share: the user's, which stays, or one that goes."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="gpu-proof-") as folder:
            yield Path(folder)
    else:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()


if __name__ == "__main__":
    main()
