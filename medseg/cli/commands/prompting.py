"""The verb ``prompt``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.display import Display
from medseg.cli.options import DeviceOption, JsonOption
from medseg.cli.output import print_json

if TYPE_CHECKING:
    from medseg.prompting import Session
    from medseg.volume import LabelVolume


def prompt(
    image: Annotated[Path, typer.Argument(help="The scan: a file, or a folder of a DICOM series.")],
    checkpoint: Annotated[
        Path,
        typer.Option("--checkpoint", help="Promptable network's folder, weights of SAM, SAM 2 or SAM 3, or a name."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The mask's file; .dcm: a SEG of a DICOM series. [with --ui: IMAGE_mask.nii.gz]"
        ),
    ] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Serve a page to draw prompts on, to this machine only, until Ctrl-C.")
    ] = False,
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
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="WORDS", help="What to find on every slice (SAM 3). Given again: object 2, 3 ..."
        ),
    ] = None,
    from_mask: Annotated[
        Path | None, typer.Option("--from-mask", help="A mask to refine; each value is an object.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Prompts as JSON, step by step.")] = None,
    save_prompts: Annotated[Path | None, typer.Option("--save-prompts", help="Write all prompts as JSON.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, unet, medsam, sam, medsam2, sam2 or sam3.")] = "auto",
    window: Annotated[
        str | None, typer.Option("--window", metavar="LOW,HIGH", help="Values that SAM sees as black and white.")
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for SAM's embeddings of slices.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Segment an object from a box, points, a line, a mask or words; the result lies on the grid of the scan.

    Example: `medseg prompt ct.nii.gz -o mask.nii.gz --checkpoint workspace/models/3d_fullres_promptable
    --box 10,40,52,18,60,80 --point 12,44,60,-`

    By name: `medseg prompt ct.nii.gz -o mask.nii.gz --checkpoint sam3 --text liver --text spleen`

    With the mouse: `medseg prompt --ui ct.nii.gz --checkpoint workspace/models/3d_fullres_promptable`
    """
    from medseg import io
    from medseg.errors import UsageError
    from medseg.prompting import Box, MaskPrompt, Point, Prompt, Scribble, Text, load
    from medseg.prompting.prompts import load_steps
    from medseg.prompting.saving import require_writable, save_mask

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
    if drawn and len(words or ()) > 1:
        raise UsageError("prompt: of several --text, whose are the --box, --point and --line? give one, or --prompts")
    drawn += [Text(text, object=number) for number, text in enumerate(words or (), 1)]
    if output is None:
        output = Path(f"{io.name_of(image)}_mask{io.mask_ending(image)}")
        if not ui or output.exists():
            raise UsageError(f"prompt: where does the mask go? give -o {output}, or another file")
    if ui and as_json:
        raise UsageError("prompt: --ui and --json do not go together")
    if not (drawn or from_mask or prompts or ui):
        raise UsageError("prompt: where is the object? give --box, --point, --line, --text, --from-mask or --prompts")
    require_writable(output, image)
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
        session.replay(steps, progress=display)

    def save(mask: LabelVolume) -> str:
        save_mask(mask, output, image, session.engine.name)
        if save_prompts is not None:
            session.save(save_prompts)
        return str(output)

    if ui:
        _serve(session, save, image.name)
        return
    result = session.mask
    save(result)
    volumes = {name: result.volume_ml(name) for name in result.labels}
    if as_json:
        print_json({"mask": str(output), "engine": session.engine.name, "volume_ml": volumes})
        return
    for name, volume in volumes.items():
        typer.echo(f"{name}: {volume:.3f} ml")
    typer.echo(f"mask: {output}")


def _serve(session: Session, save: Callable[[LabelVolume], str], name: str) -> None:
    """The page, until a signal comes."""
    from medseg.cli.signals import StopOnSignal
    from medseg.prompting.page import PageServer

    with StopOnSignal() as stop:
        server = PageServer(session, save, name=name)
        typer.echo(f"open {server.url} in a browser on this machine; Ctrl-C ends")
        server.run(stop)
        saved = server.close()
    typer.echo("ended" if saved else "ended; prompts since the last saving are lost")


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
