"""Verbs up to prepared cases: ``plan``, ``preprocess``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import (
    DEFAULT_WORKSPACE,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RootOption,
    WorkersOption,
    WorkspaceOption,
)
from medseg.cli.output import print_json, sizing_json, sizing_text

if TYPE_CHECKING:
    from medseg.planning.plan import Plan
    from medseg.planning.sizing import Sizing
    from medseg.workspace import Workspace


class Preset(StrEnum):
    default = "default"
    resenc_m = "resenc-m"
    resenc_l = "resenc-l"
    resenc_xl = "resenc-xl"


def plan(
    dataset: Annotated[Path, typer.Argument(help="MSD folder, nnU-Net v2 raw folder, or manifest (.yaml).")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    preset: Annotated[Preset, typer.Option(help="Network family and size.")] = Preset.default,
    memory: Annotated[float | None, typer.Option("--memory", help="GPU memory to plan for, in GB.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folds to use (splits_final.json form).")] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Plan to fine-tune this model, medseg's or nnU-Net's, instead of a preset.")
    ] = None,
    root: RootOption = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Also say what training for so long will buy on this machine: 30m, 2h, or auto."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: WorkersOption = "0",
    explain: Annotated[bool, typer.Option("--explain", help="Print every decision with its reason.")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", exists=True, dir_okay=False, help="Print what differs from another plan, also nnU-Net's."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a dataset and decide how to segment it: fingerprint, plan and folds, written to the workspace.

    Example: `medseg plan dataset/ -w workspace --explain`

    With what 30 minutes of training will buy: `medseg plan dataset/ -w workspace --budget 30m`
    """
    from medseg import documents
    from medseg.dataset import Dataset
    from medseg.errors import CasesFailedError, DataError, UsageError
    from medseg.workspace import plan_workspace

    if as_json and compare is not None:
        raise UsageError("plan: --compare prints text, --json one document; choose one of them")
    try:
        with Display(quiet=as_json) as display:
            made = plan_workspace(
                Dataset.open(dataset, root=root),
                workspace,
                preset=preset.value,
                memory_gb=memory,
                splits_file=splits,
                like=None if pretrained is None else _planned(pretrained),
                workers=parse.workers(workers),
                progress=display,
            )
    except CasesFailedError as error:  # a plan is of all cases or of none
        case, reason = next(iter(error.failures.items()))
        raise DataError(
            f"{len(error.failures)} of {error.total} cases cannot be used, and nothing is planned: {case}: {reason};"
            f" see everything with: medseg doctor {dataset}"
        ) from error
    sizing = None if budget is None else _sized(made, parse.budget(budget), device, precision, as_json)
    if as_json:
        extra = {} if sizing is None else {"budget": sizing_json(sizing)}
        print_json({**documents.to_json(made.plan), **extra})
    elif compare is not None:
        typer.echo(_differences(made.plan, compare), nl=False)
    elif explain:
        shown = made.plan if sizing is None else made.plan.with_configuration(sizing.configuration)
        typer.echo(shown.explain())
    else:
        names = ", ".join(configuration.name for configuration in made.plan.configurations)
        typer.echo(f"planned {names} for {len(made.dataset.cases)} cases in {made.plan_path}")
        typer.echo(
            f"next: medseg train -w {workspace} --fold 0 --budget {budget or '2h'}"
            "    (why each choice: medseg plan ... --explain)"
        )
    if sizing is not None and not as_json:
        typer.echo(sizing_text(sizing))


def _sized(workspace: Workspace, budget_s: float | Literal["auto"], device: str, precision: str, quiet: bool) -> Sizing:
    """What a budget buys with the default configuration: the same that training will find."""
    from medseg.crossvalidation import size_for_budget
    from medseg.device import choose_device, choose_precision

    where = choose_device(device)
    with Display(quiet=quiet) as display:
        return size_for_budget(
            workspace,
            workspace.plan.configuration(),
            budget_s,
            where,
            choose_precision(precision, where),
            progress=display,
        )


def _planned(pretrained: Path) -> tuple[Plan, str]:
    from medseg.interop.opening import open_model

    model = open_model(pretrained)
    return model.plan, model.configuration.name


def _differences(plan: Plan, path: Path) -> str:
    """What differs from a plan to the one in a file, ours or nnU-Net's.

    nnU-Net's plans name neither channels nor labels: they come from the ``dataset.json`` beside, else from ``plan``.
    """
    from medseg import documents
    from medseg.interop.nnunet.plans import dataset_document
    from medseg.interop.nnunet.reading import from_nnunet
    from medseg.planning import compare
    from medseg.planning.plan import Plan

    document = documents.read_json(path)
    if not isinstance(document, dict) or "plans_name" not in document:
        return compare(plan, documents.from_json(Plan, document, where=str(path)))
    beside = path.with_name("dataset.json")
    dataset_json = documents.read_json(beside) if beside.is_file() else dataset_document(plan)
    return compare(plan, from_nnunet(document, dataset_json))


def preprocess(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    configuration: Annotated[
        list[str] | None, typer.Option("-c", "--configuration", help="One or several. [default: all planned]")
    ] = None,
    workers: WorkersOption = "0",
) -> None:
    """Prepare all cases as the plan says; training does so too for the cases it needs.

    Example: `medseg preprocess -w workspace -c 3d_fullres`
    """
    from medseg import workspace as workspaces

    opened = workspaces.Workspace.open(workspace)
    chosen = configuration or [entry.name for entry in opened.plan.configurations]
    with Display() as display:
        for name in chosen:
            workspaces.preprocess(
                opened, opened.plan.configuration(name), workers=parse.workers(workers), progress=display
            )
    typer.echo(f"prepared {', '.join(chosen)} in {opened.root / 'preprocessed'}")
