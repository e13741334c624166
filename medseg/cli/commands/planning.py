"""Verbs up to prepared cases: ``plan``, ``preprocess``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import parse
from medseg.cli.display import Display
from medseg.cli.options import DEFAULT_WORKSPACE, JsonOption, RootOption, WorkersOption, WorkspaceOption
from medseg.cli.output import print_json

if TYPE_CHECKING:
    from medseg.planning.plan import Plan


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
    if as_json:
        print_json(documents.to_json(made.plan))
    elif compare is not None:
        typer.echo(_differences(made.plan, compare), nl=False)
    elif explain:
        typer.echo(made.plan.explain())
    else:
        names = ", ".join(configuration.name for configuration in made.plan.configurations)
        typer.echo(f"planned {names} for {len(made.dataset.cases)} cases in {made.plan_path}")
        typer.echo(
            f"next: medseg train -w {workspace} --fold 0 --budget 2h    (why each choice: medseg plan ... --explain)"
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
