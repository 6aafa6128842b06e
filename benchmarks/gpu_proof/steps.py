"""Which steps there are, in the order of worth: what is right comes before what is fast.

What a step leaves of its time goes to those behind it.
"""

from __future__ import annotations

from benchmarks.gpu_proof.process import Step
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX

MINUTES = 8.0
REPORT_S = 10.0  # for the report and its picture

STEPS = (
    Step(
        name="card",
        title="The card, its driver, the libraries",
        module="benchmarks.gpu_proof.card",
        budget_s=15,
    ),
    Step(
        name="gpu-tests",
        title="The tests that need a GPU",
        module="benchmarks.gpu_proof.gpu_tests",
        budget_s=60,
    ),
    *(
        Step(
            name=f"nano-{flavour.name}",
            title=f"nano through {flavour.title}: bits and parity",
            module="benchmarks.gpu_proof.nano",
            budget_s=40,
            flavour=flavour.name,
        )
        for flavour in (TENSORRT_RTX, TENSORRT)
    ),
    Step(
        name="full-size",
        title="The full architecture: exported, built, parity of each stage",
        module="benchmarks.gpu_proof.full_size",
        budget_s=170,
    ),
    Step(name="latency", title="Latency", module="benchmarks.gpu_proof.latency", budget_s=85),
    Step(
        name="light-vae",
        title="The same with a light VAE",
        module="benchmarks.gpu_proof.light_vae",
        budget_s=35,
    ),
    Step(name="growth", title="Growth with the size", module="benchmarks.gpu_proof.growth", budget_s=25),
)
assert sum(step.budget_s for step in STEPS) + REPORT_S <= MINUTES * 60
