"""The version, by hand: asking the installed package would open files outside of it at every import."""

__version__ = "0.1.0"
