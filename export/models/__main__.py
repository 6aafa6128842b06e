"""The table of public models, with the command for each.

python -m export.models            # all
python -m export.models sd-e2e     # one, with the source of each statement
"""

from __future__ import annotations

import click

from export.models.known_models import KNOWN_MODELS, KnownModel
from export.models.licences import warning_of

_HEADINGS = ("name", "gives", "px", "fetches", "licence", "repository")


def table(rows: list[KnownModel]) -> str:
    """rows -> lines: columns of equal width, and under each row what it is good at and its command."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    text = [lines[0].rstrip(), "  ".join("-" * width for width in widths)]
    for row, line in zip(rows, lines[1:], strict=True):
        text += [line.rstrip(), f"    {row.good_at}", f"    $ {row.command}"]
    return "\n".join(text)


def details(row: KnownModel) -> str:
    """One row -> everything that it says, with the source of each statement."""
    said = {
        "repository": row.repository + (f" (formerly {row.formerly})" if row.formerly else ""),
        "gives": f"{row.output_space}, by the recipe {row.recipe}",
        "good at": f"{row.good_at} [{row.good_at_source}]",
        "licence": f"{row.licence} [{row.licence_at}]",
        "fetches": f"{row.gigabytes} GB [{row.layout_at}]",
        "size": f"{row.size} px on the longer side [{row.size_at}]",
        "VAE": row.vae_from or "its own",
        "text encoder": row.text_encoder_from or "its own",
        "paper": row.paper,
        "command": row.command,
    }
    width = max(map(len, said)) + 2
    lines = [row.name, *(f"  {key.ljust(width)}{value}" for key, value in said.items())]
    if (warning := warning_of(row.licence)) is not None:
        lines.append(f"  {'mind'.ljust(width)}{warning}")
    lines += [f"  {'unverified'.ljust(width)}{what}" for what in row.unverified]
    return "\n".join(lines)


def _cells(row: KnownModel) -> tuple[str, ...]:
    licence = row.licence.split(" (")[0]
    return (row.name, row.output_space, str(row.size), f"{row.gigabytes} GB", licence, row.repository)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False, type=click.Choice(list(KNOWN_MODELS)))
def main(name: str | None) -> None:
    """Print the public models that can be exported by name; with NAME, one of them and all its sources."""
    if name is not None:
        click.echo(details(KNOWN_MODELS[name]))
        return
    click.echo(table(list(KNOWN_MODELS.values())))
    click.echo("\nNothing is fetched before it is named. One row, its sources, and what is unverified:")
    click.echo("    $ python -m export.models NAME")


if __name__ == "__main__":
    main()
