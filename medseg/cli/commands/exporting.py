"""The verb ``export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import parse


class Program(StrEnum):
    nnunet = "nnunet"


def export(
    model: Annotated[Path, typer.Argument(help="Model folder, such as workspace/models/3d_fullres.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not be there yet.")],
    to: Annotated[Program, typer.Option("--to", help="Program that shall read it.")],
    fold: Annotated[str | None, typer.Option("--fold", help="Folds to write. [default: all trained]")] = None,
) -> None:
    """Write a model for another program to predict with.

    Example: `medseg export workspace/models/3d_fullres --to nnunet nnunet_model/`
    """
    from medseg.interop.nnunet.export import export_model

    values = export_model(model, folder, None if fold in (None, "all") else parse.folds(fold or "", 1000))
    typer.echo(f"model of {to.value} in {folder}; its masks hold {', '.join(f'{k} {v}' for k, v in values.items())}")
