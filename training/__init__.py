"""data -> checkpoint. START HERE: train.py, the paper's method; nano/__main__.py trains the bundled model."""

from fiffdepth_rt import telemetry

telemetry.switch_off()
