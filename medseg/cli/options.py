"""Options that several verbs share, with one meaning in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path, typer.Option("-w", "--workspace", help="Folder that holds everything of one dataset.")
]
ConfigurationOption = Annotated[
    str | None,
    typer.Option("-c", "--configuration", help="2d, 3d_fullres ... [default: 3d_fullres if planned, else 2d]"),
]
WorkersOption = Annotated[
    str, typer.Option("--workers", help="Local processes to use, or the address of a Dask scheduler (tcp://...).")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine", help="What computes on a CPU in fp32: torch, openvino (if installed), or auto, the faster."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where the files of a manifest lie, if not beside it.")]
FixSpacingOption = Annotated[
    bool, typer.Option("--fix-spacing", help="Of DICOM: interpolate unevenly spaced slices onto an even grid.")
]
SuvOption = Annotated[bool, typer.Option("--suv", help="Of DICOM: PET as standardised uptake values (g/ml).")]
ResampleOption = Annotated[
    bool, typer.Option("--resample", help="Of DICOM: bring series on other grids onto that of the first channel.")
]
SeriesOption = Annotated[
    list[str] | None,
    typer.Option("--series", help="Of DICOM: UID or part of the description; given again, one a channel."),
]
ModalityOption = Annotated[str, typer.Option("--modality", help="Of DICOM: CT, MR, PT ...")]
LabelsOption = Annotated[Path | None, typer.Option("--labels", help="dataset.json that names the labels.")]
ToleranceOption = Annotated[float, typer.Option("--tolerance", help="Of the surface Dice, in mm.")]
DEFAULT_WORKSPACE = Path("medseg-workspace")
