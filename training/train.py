"""START HERE. configuration -> checkpoint: Stable Diffusion fine-tuned into a one-step depth model.

    accelerate launch -m training.train training/configs/fiffdepth.toml --dry-run
    accelerate launch -m training.train training/configs/fiffdepth.toml

    [data]      photos, depth pictures, labels -> half synthetic, half real       sources.py, data/mixing.py
    latents     both halves through the frozen VAE                                latents.py
    loss        equations 1 to 7                                                  objective.py
    step        gradients of the whole batch, whoever computed which part         step.py
    folder      resume state, checkpoints for export, log                         run_folder.py, weights/

One GPU, many, or many machines: what accelerate says. The losses are the same. The same command goes on where
a run was interrupted. docs/train.md tells what it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from diffusers.training_utils import EMAModel
from msgspec import structs
from tqdm.contrib.logging import logging_redirect_tqdm

from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.program.options import named_path
from fiffdepth_rt.program.terminal import printable, stderr_handler
from training import cost, run_folder, sources
from training.config import Config, ConfigError, load, plain
from training.data.mixing import Batch, loader
from training.data.samples import DataError, SampleError
from training.errors import TrainingError
from training.latents import Encoder
from training.monitor import Monitor
from training.objective import Diffusion, Half
from training.provenance import without_places
from training.run_folder import State, only_run_in
from training.step import Losses, Randomness, backward, learning_rate
from training.validation import picture_rows, validate
from training.weights.ours import Checkpoint, CheckpointInfo, save_checkpoint
from training.weights.reading import Weights, read_base

log = logging.getLogger("training")


def train(config: Config) -> Path:
    """Train until run.steps, from the folder's resume state if there is one -> the last checkpoint.

    Raises TrainingError (another run in the folder, or of another configuration; a loss that is not finite),
    CheckpointError, DataError, and OutputError where the disk refuses; what was saved before is still there.
    """
    accelerator = make_accelerator(config)
    folder = Path(config.run.folder)
    with _alone_in(folder, accelerator):
        run = Training(config, accelerator)
        first = run.go_on()
        mixture = sources.mixture(config, start=first, pin_memory=accelerator.device.type == "cuda")
        terms = sources.licence_terms(config, mixture)
        batches = loader(mixture, rank=accelerator.process_index, world=accelerator.num_processes)
        monitor = Monitor(
            folder if accelerator.is_main_process else None,
            first=first,
            steps=config.run.steps,
            images_per_step=config.data.batch if mixture.real else config.data.batch // 2,
        )
        with monitor:
            for step, (synthetic, real) in enumerate(batches, first):
                halves = run.encode(synthetic, real)
                figures = run.gradients(step, *halves)
                run.check(step, figures, (synthetic, real))
                run.save(step, terms)  # weights whose loss is known to be finite
                run.update(step)
                monitor.step(step, figures)
                run.look(step + 1, monitor, *halves)
            run.save(config.run.steps, terms)
        if batches.skipped:
            log.warning("%d samples could not be used; they were replaced.", len(batches.skipped))
    return run_folder.checkpoint_path(folder, config.run.name, config.run.steps)


def dry_run(config: Config) -> str:
    """Load everything, compute one step, write nothing -> shapes, memory, disk and cost, in words."""
    accelerator = make_accelerator(config)
    config = structs.replace(config, compute=structs.replace(config.compute, cache=""))
    run = Training(config, accelerator)
    mixture = dataclasses.replace(sources.mixture(config), workers=0, stop=1)
    terms = sources.licence_terms(config, mixture)
    batches = iter(loader(mixture, rank=accelerator.process_index, world=accelerator.num_processes))
    meter = cost.Meter(accelerator.device)
    with meter.part("load"):
        synthetic, real = next(batches)
    with meter.part("encode"):
        halves = run.encode(synthetic, real)
    with meter.part("loss and gradients"):
        figures = run.gradients(0, *halves)
    run.check(0, figures, (synthetic, real))
    with meter.part("update"):
        run.update(0)
    return cost.report(config, mixture, terms, run.unet, run.vae, (synthetic, real), figures, meter)


def make_accelerator(config: Config) -> Accelerator:
    """The processes as `accelerate launch` started them. Raises TrainingError for what it must not decide."""
    precision = config.compute.precision
    if precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError('compute.precision = "fp16" needs a GPU; "no" and "bf16" run without one.')
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.gradient_accumulation_steps != 1:
        raise TrainingError(
            "accelerate was told to accumulate gradients. Here data.batch and data.per_device say it: launch "
            "without --gradient_accumulation_steps."
        )
    return accelerator


class Training:
    """Everything that changes during a run, and the few things that are done to it."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self._saved = 0  # steps in the resume state on disk
        self._config = config
        self._accelerator = accelerator
        self._folder = Path(config.run.folder)
        base = read_base(config.base)
        self._base = base.source
        self._diffusion = _diffusion(base)
        assert base.vae is not None  # read_base refuses a checkpoint without one
        self.unet, self.vae = base.unet.requires_grad_(True).train(), base.vae.requires_grad_(False).eval()
        if config.compute.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        losses = Losses(self.unet, base.prompt_embedding, config.method, self._diffusion)
        optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        self._losses, self._optimizer = accelerator.prepare(losses, optimizer)
        self._prompt = base.prompt_embedding.to(accelerator.device)
        self.vae.to(accelerator.device)
        decay = config.optimizer.ema
        self._ema = EMAModel(self.unet.parameters(), decay=decay) if decay else None
        cache = Path(config.compute.cache) if config.compute.cache else None
        self._encoder = Encoder(self.vae, cache=cache, at_once=config.data.per_device)
        held_out = config.validation.set
        self._held_out = sources.metric_set(held_out, config.data.space) if held_out else None

    def go_on(self) -> int:
        """The folder's resume state, if there is one, into everything -> the next step."""
        state = run_folder.load_state(self._folder, plain(self._config))
        first = self._saved = state.step if state else 0
        if broadcast_object_list([first])[0] != first:
            raise TrainingError(
                f"{self._folder} is not the same on all machines: it has to be on a disk that they share."
            )
        if state is not None:
            self.unet.load_state_dict(state.unet)
            self._optimizer.load_state_dict(state.optimizer)
            if self._ema is not None:
                self._ema.load_state_dict(state.ema)
            if self._accelerator.scaler is not None:
                self._accelerator.scaler.load_state_dict(state.scaler)
            log.warning("Going on at step %d of %d.", first, self._config.run.steps)
        if first > self._config.run.steps:
            raise TrainingError(
                f"{self._folder} is at step {first} already, beyond {self._config.run.steps}: ask for more "
                "steps, or choose another run.folder."
            )
        if self._ema is not None:
            self._ema.to(self._accelerator.device)
        if self._accelerator.is_main_process:
            run_folder.sweep(self._folder)
            run_folder.cut_log(self._folder, first)
        return first

    def encode(self, synthetic: Batch, real: Batch | None) -> tuple[Half, Half | None]:
        return self._encoder.half(synthetic), None if real is None else self._encoder.half(real)

    def gradients(self, step: int, synthetic: Half, real: Half | None) -> dict[str, float]:
        """Gradients of the whole batch, clipped -> loss terms, gradient norm and learning rate by name."""
        accelerator, c = self._accelerator, self._config
        mine, shape = len(synthetic.image), tuple(synthetic.image.shape[1:])
        rows = range(accelerator.process_index * mine, (accelerator.process_index + 1) * mine)
        _seed_everything(c.run.seed, step, accelerator.process_index)
        self._optimizer.zero_grad(set_to_none=True)
        figures = backward(
            accelerator,
            self._losses,
            c.method,
            synthetic,
            real,
            Randomness.of(self._diffusion, seed=c.run.seed, step=step, rows=rows, shape=shape),
            at_once=c.data.per_device,
        )
        norm = accelerator.clip_grad_norm_(self._losses.parameters(), c.optimizer.clip or math.inf)
        return {**figures, "gradient_norm": float(norm), "learning_rate": self._learning_rate(step)}

    def check(self, step: int, figures: Mapping[str, float], batches: tuple[Batch, Batch | None]) -> None:
        """Raises TrainingError if a loss, or a gradient that no loss scaling mends, is not finite."""
        scaled = self._accelerator.scaler is not None
        bad = [
            f"{name} = {value}"
            for name, value in figures.items()
            if not math.isfinite(value) and not (scaled and name == "gradient_norm")
        ]
        if not bad:
            return
        names = gather_object([name for batch in batches if batch is not None for name in batch.names])
        state = self._folder / run_folder.STATE
        raise TrainingError(
            f"Step {step}: {', '.join(bad)}. The batch was {', '.join(names)}. "
            f"Last resume state: {state if state.exists() else 'none yet'}; last checkpoint: "
            f"{run_folder.last_checkpoint(self._folder, self._config.run.name)}. Look at these files "
            "(python -m training.data check); where they are sound, lower optimizer.lr or set "
            'compute.precision = "no", in a new run.folder with base.model = the last checkpoint.'
        )

    def update(self, step: int) -> None:
        """Gradients -> weights, and their average."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self._optimizer.step()
        if self._ema is not None:
            self._ema.step(self.unet.parameters())

    def look(self, step: int, monitor: Monitor, synthetic: Half, real: Half | None) -> None:
        """Pictures and validation, where they are due after `step` steps."""
        v = self._config.validation
        pictures = v.pictures_every and step % v.pictures_every == 0
        validation = self._held_out is not None and step % v.every == 0
        if not (pictures or validation):
            return
        with self._averaged():
            if pictures and self._accelerator.is_main_process:
                with self._accelerator.autocast():
                    shown = picture_rows(self.unet, self.vae, self._prompt, synthetic, real)
                monitor.pictures(step - 1, shown)
            if validation and v.set is not None:
                figures = validate(
                    self._accelerator,
                    self.unet,
                    self.vae,
                    self._prompt,
                    self._held_out,
                    images=v.images,
                    size_hw=v.set.sizes[0] if v.set.sizes else None,
                    space=self._config.data.space,
                )
                monitor.validation(step - 1, figures)

    def save(self, step: int, terms: sources.LicenceTerms) -> None:
        """Resume state and checkpoint, where they are due after `step` steps. Raises OutputError.

        terms: of what the weights have learnt from, for the checkpoint's metadata.
        """
        c = self._config.run
        last = step == c.steps
        path = run_folder.checkpoint_path(self._folder, c.name, step)
        if not self._accelerator.is_main_process or step == 0:
            return
        if step > self._saved and (step % c.state_every == 0 or last):
            self._save_state(step)
        if (step % c.checkpoint_every == 0 or last) and not path.exists():
            with self._averaged():
                save_checkpoint(path, self._checkpoint(step, terms))

    def _save_state(self, step: int) -> None:
        scaler = self._accelerator.scaler
        run_folder.save_state(
            self._folder,
            State(
                step=step,
                unet=self.unet.state_dict(),
                optimizer=self._optimizer.state_dict(),
                ema=self._ema.state_dict() if self._ema else None,
                scaler=scaler.state_dict() if scaler else None,
                config=plain(self._config),
            ),
        )
        self._saved = step

    def _checkpoint(self, step: int, terms: sources.LicenceTerms) -> Checkpoint:
        c = self._config
        return Checkpoint(
            unet=self.unet,
            vae=self.vae,
            prompt_embedding=self._prompt,
            info=CheckpointInfo(
                name=c.run.name,
                recipe="fiffdepth",
                output_space=c.data.space,
                size_default=c.run.size,
                size_max=2 * c.run.size,
                licence=terms.licence,
                data_sources=terms.sources,
                training=without_places({"base": self._base, "steps": step, "config": plain(c)}),
            ),
        )

    def _learning_rate(self, step: int) -> float:
        o = self._config.optimizer
        return learning_rate(step, lr=o.lr, warmup=o.warmup, decay_steps=o.decay_steps, floor=o.floor)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the UNet's place, if there are any."""
        if self._ema is None:
            yield
            return
        self._ema.store(self.unet.parameters())
        self._ema.copy_to(self.unet.parameters())
        try:
            yield
        finally:
            self._ema.restore(self.unet.parameters())


@contextlib.contextmanager
def _alone_in(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """The main process locks the folder for all ranks, or all of them are refused."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if accelerator.is_main_process:
            try:
                stack.enter_context(only_run_in(folder))
            except TrainingError as error:
                refusal = str(error)
        if (told := broadcast_object_list([refusal])[0]) is not None:
            raise TrainingError(told)
        yield


def _diffusion(base: Weights) -> Diffusion:
    scheduler: Mapping[str, Any] = base.scheduler_config or {}
    if scheduler.get("prediction_type", "v_prediction") != "v_prediction":
        log.warning(
            "%s predicts %s; L_k (eq. 3) asks it for v from the first step on. The paper's kind of base is "
            "one with v-prediction, such as SD 2.1 at 768.",
            base.source,
            scheduler["prediction_type"],
        )
    return Diffusion.of(base.scheduler_config)


def _seed_everything(seed: int, step: int, rank: int) -> None:
    """For what draws from torch's own generator, such as a base's dropout: the same after a resume."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="accelerate launch -m training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=named_path, help="the run, as TOML: training/configs/fiffdepth.toml")
    parser.add_argument("--max-steps", type=int, help="stop at this step, instead of run.steps")
    parser.add_argument(
        "--dry-run", action="store_true", help="load everything, compute one step, report, write nothing"
    )
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.WARNING, handlers=[stderr_handler("%(levelname)s %(name)s: %(message)s")]
    )
    try:
        config = load(args.config)
        if args.max_steps is not None:
            if args.max_steps < 1:
                raise ConfigError(f"--max-steps {args.max_steps} has to be at least 1.")
            config = structs.replace(config, run=structs.replace(config.run, steps=args.max_steps))
        with logging_redirect_tqdm():
            done = dry_run(config) if args.dry_run else train(config)
    except (TrainingError, ConfigError, DataError, SampleError, FiffDepthError) as error:
        sys.exit(printable(f"training.train: {error}"))
    if torch.distributed.is_initialized():
        main_process = torch.distributed.get_rank() == 0
        torch.distributed.destroy_process_group()
        if not main_process:
            return
    print(done)


if __name__ == "__main__":
    main()
