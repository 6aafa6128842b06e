"""Checkpoints, in every layout that people hold: the only reader of weight files. START HERE: reading.py."""
