"""python -m training.data: see command.py."""

from __future__ import annotations

from training.data.command import program

if __name__ == "__main__":
    program(prog_name="python -m training.data")
