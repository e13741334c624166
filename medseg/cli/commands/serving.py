"""The verb ``node``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import DeviceOption, FixSpacingOption, ModalityOption, PrecisionOption, SeriesOption
from medseg.cli.signals import StopOnSignal


def node(
    model: Annotated[
        list[Path], typer.Option("-m", "--model", help="Model folder or zip; given again, another to average with.")
    ],
    peer: Annotated[str, typer.Option("--peer", help="Where masks go: AET@host:port.")],
    port: Annotated[int, typer.Option("--port", help="Where to listen.")] = 11112,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "0.0.0.0",
    title: Annotated[str, typer.Option("--title", help="What the node is called: its application entity.")] = "MEDSEG",
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", help="Application entity that may send; again for more. [default: that of --peer]"),
    ] = None,
    spool: Annotated[Path, typer.Option("--spool", help="Folder for studies on their way.")] = Path("medseg-spool"),
    quiet: Annotated[
        float, typer.Option("--quiet", help="Seconds without an image after which a study is complete.")
    ] = 30.0,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds to average. [default: all trained]")] = None,
    series: SeriesOption = None,
    modality: ModalityOption = "",
    fix_spacing: FixSpacingOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Do not average mirrored copies: faster.")] = False,
) -> None:
    """Receive studies over the network, segment them, and send the masks to a PACS, until stopped.

    Example: `medseg node --port 11112 -m workspace/models/3d_fullres --peer PACS@10.0.0.5:104`
    """
    from medseg.dicom import SeriesChoice
    from medseg.node import Node, NodeSettings, Peer
    from medseg.node.answering import predicting
    from medseg.prediction import PredictionSettings, load_predictor

    to = Peer.parse(peer)
    settings = NodeSettings(spool, to, tuple(accept or [to.title]), title, host, port, quiet_s=quiet)
    folds = None if fold in (None, "all") else parse.folds(fold or "", 1000)
    choice = SeriesChoice(series=tuple(series or ()), modality=modality, fix_spacing=fix_spacing)
    stop = StopOnSignal()
    with Display(), stop:
        predictor = load_predictor(model, folds, device, precision, PredictionSettings(mirror=not no_mirror))
        with Node(settings, predicting(predictor, choice)) as running:
            running.wait(stop)
