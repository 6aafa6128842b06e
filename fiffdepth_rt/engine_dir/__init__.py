"""The engine directory: its manifest, what is checked, golden values. START HERE: checking.py."""
