"""Every claim as a command. START HERE: latency.py (speed) and accuracy.py (depth)."""
