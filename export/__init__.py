"""checkpoint -> engine directory. START HERE: build_engines.py."""

from fiffdepth_rt import telemetry

telemetry.switch_off()
