"""What stands in the tables of a Markdown text, whatever their padding."""

from __future__ import annotations


def cells(markdown: str) -> list[list[str]]:
    """Every line of every table but those that align, cell by cell, headers among them."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and set(line) - set("|:-")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
