"""checkpoint -> engine directory. START HERE: build_engines.py."""
