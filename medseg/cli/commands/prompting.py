"""The verb ``prompt``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.display import Display
from medseg.cli.options import DeviceOption, JsonOption
from medseg.cli.output import print_json


def prompt(
    image: Annotated[Path, typer.Argument(help="The scan: a file, or a folder of a DICOM series.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The mask's file.")],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", help="Folder of a promptable network, or weights of MedSAM or SAM.")
    ],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="Z0,Y0,X0,Z1,Y1,X1", help="From, up to without, in voxels. May be given again."),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", metavar="Z,Y,X[,+|-]", help="In (+) or outside (-) the object. May be given again."),
    ] = None,
    line: Annotated[
        list[str] | None,
        typer.Option("--line", metavar="Z0,Y0,X0,Z1,Y1,X1", help="Longest diameter of the object, end to end."),
    ] = None,
    from_mask: Annotated[
        Path | None, typer.Option("--from-mask", help="A mask to refine; each value is an object.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Prompts as JSON, step by step.")] = None,
    save_prompts: Annotated[Path | None, typer.Option("--save-prompts", help="Write all prompts as JSON.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, unet, medsam or sam.")] = "auto",
    window: Annotated[
        str | None, typer.Option("--window", metavar="LOW,HIGH", help="Values that SAM sees as black and white.")
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for SAM's embeddings of slices.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Segment an object from a box, points, a line or a mask; the result lies on the grid of the scan.

    Example: `medseg prompt ct.nii.gz -o mask.nii.gz --checkpoint workspace/models/3d_fullres_promptable
    --box 10,40,52,18,60,80 --point 12,44,60,-`
    """
    from medseg import io
    from medseg.errors import UsageError
    from medseg.prompting import Box, MaskPrompt, Point, Prompt, Scribble, load
    from medseg.prompting.prompts import load_steps

    drawn: list[Prompt] = []
    for text in box or ():
        z0, y0, x0, z1, y1, x1 = _numbers(text, "--box", 6)
        drawn.append(Box((z0, y0, x0), (z1, y1, x1)))
    for text in line or ():
        z0, y0, x0, z1, y1, x1 = _numbers(text, "--line", 6)
        drawn.append(Scribble(((z0, y0, x0), (z1, y1, x1))))
    for text in point or ():
        match = re.fullmatch(r"(.*?)(?:,([+-]))?", text.strip())
        z, y, x = _numbers(match[1] if match else text, "--point", 3)
        drawn.append(Point((z, y, x), positive=match is None or match[2] != "-"))
    if not (drawn or from_mask or prompts):
        raise UsageError("prompt: where is the object? give --box, --point, --line, --from-mask or --prompts")
    try:
        io.formats.writer(output)  # an ending that cannot be written is better found before the work
    except UsageError as error:
        raise UsageError(f"-o {output}: {error}") from error
    limits = _numbers(window, "--window", 2) if window else None
    steps = list(load_steps(prompts)) if prompts else []
    scan = io.read(image)
    if from_mask is not None:
        mask = io.read_labels(from_mask, grid=scan.geometry, image=image)
        scan.geometry.require_equal(mask.geometry, str(image), str(from_mask))
        values = sorted({int(value) for value in set(mask.array.ravel().tolist())} - {0})
        if not values:
            raise UsageError(f"--from-mask {from_mask}: it is empty; give a mask with voxels in it")
        steps.insert(0, tuple(MaskPrompt.of(mask.array == value, object=value) for value in values))
    if drawn:
        steps.append(tuple(drawn))
    with Display(quiet=as_json) as display:
        session = load(
            checkpoint, device, engine=engine, cache=cache, window=(limits[0], limits[1]) if limits else None
        )
        session.set_image(scan, case=image.name, progress=display)
        result = session.replay(steps, progress=display)
    if save_prompts is not None:
        session.save(save_prompts)
    io.write(result, output, like=image if io.ending_of(image) else None)
    volumes = {name: result.volume_ml(name) for name in result.labels}
    if as_json:
        print_json({"mask": str(output), "engine": session.engine.name, "volume_ml": volumes})
        return
    for name, volume in volumes.items():
        typer.echo(f"{name}: {volume:.3f} ml")
    typer.echo(f"mask: {output}")


def _numbers(text: str, option: str, count: int) -> list[float]:
    from medseg.errors import UsageError

    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != count:
        raise UsageError(f"{option} {text}: expected {count} numbers with commas between them")
    return values
