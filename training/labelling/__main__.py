"""python -m training.labelling: see command.py."""

from __future__ import annotations

from training.labelling.command import main

if __name__ == "__main__":
    main(prog_name="python -m training.labelling")
