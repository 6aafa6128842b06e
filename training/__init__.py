"""data -> checkpoint. START HERE: nano.py, the bundled model from procedural scenes."""
