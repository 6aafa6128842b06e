"""Public models: what they are called, fetched from a hub, and recognised. START HERE: fetching.py."""
