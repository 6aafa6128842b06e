"""The worlds, the prior and the runs of benchmarks/ablation.py, which is where to START."""
