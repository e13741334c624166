"""The command line put together: one entry a verb, in the order of their use."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli.commands import (
    choosing,
    dicom_series,
    evaluating,
    exporting,
    finetuning,
    machine,
    planning,
    predicting,
    prompting,
    pseudo_labels,
    serving,
    training,
    weights,
)

app = typer.Typer(
    name="medseg",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Any labelled medical imaging dataset becomes a segmentation model, without tuning.

Example: `medseg plan dataset/ && medseg train --fold 0 --budget 2h && medseg predict scans/ -o masks/`

Exit codes: 0 done, 1 some cases failed (they are listed, the others are written), 2 wrong usage or unusable input.
`--debug` after any command shows the whole story of an error.""",
)

for verb in (
    planning.plan,
    planning.preprocess,
    training.train,
    predicting.predict,
    prompting.prompt,
    pseudo_labels.pseudo_label,
    finetuning.finetune_sam,
    evaluating.evaluate,
    evaluating.compare,
    choosing.best,
    choosing.calibrate,
    exporting.export,
    serving.node,
    dicom_series.series,
    machine.demo,
    machine.doctor,
):
    app.command()(verb)
app.add_typer(weights.weights, name="weights")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Let errors pass with their traceback.")] = False,  # noqa: ARG001
) -> None:
    if version:
        from medseg import __version__

        typer.echo(f"medseg {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
