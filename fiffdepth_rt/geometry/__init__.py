"""Depth in metres: the scale and shift of a depth map, and points and surfaces. START HERE: alignment.py."""
