"""Where training samples come from. START HERE: procedural.py."""
