"""The verbs ``weights list``, ``weights get`` and ``weights check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import SOME_FAILED
from medseg.cli.display import Display
from medseg.cli.options import JsonOption
from medseg.cli.output import print_json

weights = typer.Typer(
    help="""Checkpoints for `medseg prompt` by name: MedSAM, SAM and their kin, downloaded when you ask for it.

Example: `medseg weights get medsam-vit-b`, then
`medseg prompt ct.nii.gz -o mask.nii.gz --checkpoint medsam-vit-b --box 10,40,52,18,60,80`""",
)

FolderOption = Annotated[Path, typer.Option("-o", "--output", help="Folder of the weights.")]
DEFAULT_FOLDER = Path("medseg-weights")


@weights.command("list")
def list_weights(folder: FolderOption = DEFAULT_FOLDER, as_json: JsonOption = False) -> None:
    """What there is, from whom, under which licence, and whether it lies here.

    Example: `medseg weights list`
    """
    from medseg.prompting.published import PUBLISHED

    if as_json:
        print_json([vars(each) | {"here": each.path(folder).is_file()} for each in PUBLISHED])
        return
    rows = [("name", "engine", "size", "here", "licence", "from")]
    for each in PUBLISHED:
        here = "yes" if each.path(folder).is_file() else "no"
        size = f"{each.size_bytes / 1e6:.0f} MB"
        page = each.page.removeprefix("https://") + ("" if each.url else " (with an account)")
        rows.append((each.name, each.engine, size, here, each.licence, page))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


@weights.command("get")
def get_weights(
    name: Annotated[str, typer.Argument(help="As medseg weights list shows it.")],
    folder: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Download a checkpoint and verify its SHA-256. What broke off goes on.

    Example: `medseg weights get medsam-vit-b`
    """
    from medseg.prompting.published import by_name, fetch

    published = by_name(name)
    with Display(quiet=as_json) as display:
        checkpoint = fetch(published, folder, progress=display)
    if as_json:
        print_json({"name": name, "checkpoint": str(checkpoint), "sha256": published.sha256})
        return
    given = name if folder == DEFAULT_FOLDER else checkpoint
    typer.echo(f"{checkpoint}: SHA-256 as published; licence of the weights: {published.licence} ({published.page})")
    typer.echo(f"use it with: medseg prompt IMAGE -o MASK --checkpoint {given}")


@weights.command("check")
def check_weights(folder: FolderOption = DEFAULT_FOLDER, as_json: JsonOption = False) -> None:
    """Verify the SHA-256 of every checkpoint that lies here.

    Example: `medseg weights check`
    """
    from medseg.errors import ModelError
    from medseg.prompting.published import PUBLISHED, verify

    complaints: dict[str, str | None] = {}
    with Display(quiet=as_json) as display:
        for each in PUBLISHED:
            if each.path(folder).is_file():
                try:
                    verify(each, folder, progress=display)
                    complaints[each.name] = None
                except ModelError as error:
                    complaints[each.name] = str(error)
    if as_json:
        print_json([{"name": name, "problem": problem} for name, problem in complaints.items()])
    else:
        for name, problem in complaints.items():
            typer.echo(problem or f"{folder}: {name}: SHA-256 as published")
        if not complaints:
            typer.echo(f"{folder}: holds none of the weights that medseg weights list shows")
    if any(complaints.values()):
        raise typer.Exit(SOME_FAILED)
