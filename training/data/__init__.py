"""Where training samples come from. START HERE: mixing.py."""
