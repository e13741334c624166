"""The verbs of the command line. Heavy modules are imported inside, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.cli import SOME_FAILED, parse
from medseg.cli.display import Display

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


class Preset(StrEnum):
    default = "default"
    resenc_m = "resenc-m"
    resenc_l = "resenc-l"
    resenc_xl = "resenc-xl"


class Format(StrEnum):
    same = "same"
    nifti = "nifti"


class ChoiceRule(StrEnum):
    noise = "noise"
    nnunet = "nnunet"


class Grid(StrEnum):
    reference = "reference"


class Program(StrEnum):
    nnunet = "nnunet"


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
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where the files of a manifest lie, if not beside it.")]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        help="Further ones, with commas: hausdorff99_mm, surface_dice_2mm, boundary_iou_2mm, cldice, lesion_f1,"
        " lesion_precision, lesion_recall; numbers as you like.",
    ),
]
DEFAULT_WORKSPACE = Path("medseg-workspace")


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


@app.command()
def plan(
    dataset: Annotated[Path, typer.Argument(help="MSD folder, nnU-Net v2 raw folder, or manifest (.yaml).")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    preset: Annotated[Preset, typer.Option(help="Network family and size.")] = Preset.default,
    memory: Annotated[float | None, typer.Option("--memory", help="GPU memory to plan for, in GB.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folds to use (splits_final.json form).")] = None,
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
    from medseg.errors import UsageError
    from medseg.workspace import plan_workspace

    if as_json and compare is not None:
        raise UsageError("plan: --compare prints text, --json one document; choose one of them")
    with Display(quiet=as_json) as display:
        made = plan_workspace(
            Dataset.open(dataset, root=root),
            workspace,
            preset=preset.value,
            memory_gb=memory,
            splits_file=splits,
            workers=_workers(workers),
            progress=display,
        )
    if as_json:
        _print_json(documents.to_json(made.plan))
    elif compare is not None:
        from medseg.cli.verbs import compare_plans

        typer.echo(compare_plans(made.plan, compare), nl=False)
    elif explain:
        typer.echo(made.plan.explain())
    else:
        names = ", ".join(configuration.name for configuration in made.plan.configurations)
        typer.echo(f"planned {names} for {len(made.dataset.cases)} cases in {made.plan_path}")
        typer.echo(
            f"next: medseg train -w {workspace} --fold 0 --budget 2h    (why each choice: medseg plan ... --explain)"
        )


@app.command()
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
            workspaces.preprocess(opened, opened.plan.configuration(name), workers=_workers(workers), progress=display)
    typer.echo(f"prepared {', '.join(chosen)} in {opened.root / 'preprocessed'}")


@app.command()
def train(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[fold FOLDS]", help="`fold 0-4` says the same as `--fold 0-4`.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    configuration: ConfigurationOption = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds: 3, 0-4, 0,2 or all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length in epochs of 250 iterations.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Length in iterations.")] = None,
    budget: Annotated[str | None, typer.Option(help="Length in time a fold: 45m, 2h, 1h30m.")] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int | None, typer.Option(help="Of all that is random. [default: 0]")] = None,
    precision: PrecisionOption = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
    pretrained: Annotated[Path | None, typer.Option(help="Model folder to take first weights from.")] = None,
    workers: WorkersOption = "0",
) -> None:
    """Train folds, then predict and measure each one's held-out cases. A run that stopped goes on where it was.

    Example: `medseg train -w workspace --fold 0 --budget 2h`
    """
    from medseg import crossvalidation
    from medseg.errors import UsageError
    from medseg.workspace import Workspace

    if words and (words[0] != "fold" or len(words) != 2 or fold is not None):
        raise UsageError(f"train {' '.join(words)}: expected medseg train fold 0-4, or medseg train --fold 0-4")
    chosen = words[1] if words else fold
    if chosen is None:
        raise UsageError("train: which folds? for example: medseg train --fold 0, or --fold all")
    opened = Workspace.open(workspace)
    stop = _StopOnSignal()
    with Display() as display, stop:
        for number in parse.folds(chosen, len(opened.splits)):
            outcome = crossvalidation.train(
                opened,
                configuration,
                number,
                epochs=epochs,
                iterations=iterations,
                budget_seconds=parse.seconds(budget) if budget else None,
                device=device,
                precision=precision,
                seed=seed,
                restart=restart,
                pretrained=pretrained,
                workers=_workers(workers),
                should_stop=stop,
                progress=display,
            )
            if outcome is None:
                typer.echo(f"stopped; resume with: medseg train -w {workspace} --fold {chosen}")
                return
            typer.echo(f"fold {number}: {outcome.folder}")
            _print_summary(outcome.evaluation)


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Scans, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A file for one case, else a folder.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    model: Annotated[
        list[Path] | None, typer.Option("-m", "--model", help="Model folder or zip, instead of -w.")
    ] = None,
    configuration: ConfigurationOption = None,
    fold: Annotated[str | None, typer.Option("--fold", help="Folds to average. [default: all trained]")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Do not average mirrored copies: faster.")] = False,
    step: Annotated[float, typer.Option(help="Distance of windows as part of the patch.")] = 0.5,
    max_ram: Annotated[str | None, typer.Option("--max-ram", help="Memory not to exceed, such as 8GB.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write CASE.npz.")] = False,
    output_format: Annotated[Format, typer.Option("--format", help="File format of masks.")] = Format.same,
    as_json: JsonOption = False,
) -> None:
    """Segment scans: each mask lies on the grid of its scan and is named after its case.

    Example: `medseg predict scans/ -o masks/ -m workspace/models/3d_fullres`
    """
    from medseg.errors import CasesFailedError
    from medseg.prediction import PredictionSettings, predict_files

    with Display(quiet=as_json) as display:
        result = predict_files(
            inputs,
            output,
            models=model or [_model_of(workspace, configuration)],
            folds=None if fold in (None, "all") else parse.folds(fold or "", 1000),
            device=device,
            precision=precision,
            settings=PredictionSettings(
                mirror=not no_mirror,
                step=step,
                max_ram_bytes=parse.size_bytes(max_ram, "--max-ram") if max_ram else None,
            ),
            probabilities=probabilities,
            ending=".nii.gz" if output_format is Format.nifti else None,
            progress=display,
        )
    if as_json:
        _print_json(
            {
                "cases": {case: str(path) for case, path in result.masks.items()},
                "failures": dict(result.failures),
            }
        )
        if result.failures:
            raise typer.Exit(SOME_FAILED)
        return
    if result.failures:
        raise CasesFailedError("predict", result.failures, len(result.failures) + len(result.masks))
    typer.echo(f"{len(result.masks)} masks in {output}")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Masks to measure: a folder or a file.")],
    references: Annotated[Path, typer.Argument(help="Reference masks of the same names.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tables and report.")] = None,
    labels: Annotated[Path | None, typer.Option(help="dataset.json that names the labels.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    images: Annotated[Path | None, typer.Option(help="Folder of scans, for pictures in the report.")] = None,
    metrics: MetricsOption = None,
    resample_to: Annotated[
        Grid | None, typer.Option("--resample-to", help="Bring predictions onto this grid instead of refusing others.")
    ] = None,
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """Compare masks with references: Dice, IoU, distances in mm and surface Dice, a table and a report.

    Example: `medseg evaluate masks/ dataset/labelsTr -o report/`
    """
    from medseg.cli.verbs import run_evaluation
    from medseg.errors import CasesFailedError
    from medseg.evaluation.tables import metrics_document

    with Display(quiet=as_json) as display:
        result = run_evaluation(
            predictions,
            references,
            output,
            labels,
            tolerance,
            images,
            parse.names(metrics),
            None if resample_to is None else resample_to.value,  # type: ignore[arg-type]
            _workers(workers),
            display,
        )
    if as_json:
        _print_json(metrics_document(result.evaluation))
    else:
        _print_summary(result.evaluation)
        for warning in result.evaluation.warnings:
            typer.echo(warning, err=True)
        if result.report is not None:
            typer.echo(f"report: {result.report}")
    failures = result.evaluation.failures
    if failures:
        raise CasesFailedError("evaluate", failures, len(result.evaluation.cases))


@app.command()
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="What `medseg evaluate -o` wrote, or folders of masks with --references. Seeds of one system with"
            " commas between them; NAME=... gives a name.",
        ),
    ],
    references: Annotated[
        Path | None, typer.Option("--references", help="Reference masks, if A, B ... are folders of masks.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for tables and report.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="[default: dice,surface_dice,hausdorff95_mm]")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="dataset.json that names the labels.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """Say which system is better on the same cases, by how much, and whether that is more than chance.

    Example: `medseg compare report_a/ report_b/ -o comparison/`
    """
    from medseg.cli.verbs import comparison_text
    from medseg.comparing import DEFAULT_METRICS, comparison_document, write_comparison
    from medseg.comparing import compare as compare_systems

    with Display(quiet=as_json) as display:
        found = compare_systems(
            *parse.systems(systems),
            metrics=parse.names(metrics) or DEFAULT_METRICS,
            references=references,
            labels=labels,
            tolerance_mm=tolerance,
            workers=_workers(workers),
            progress=display,
        )
    if output is not None:
        from medseg.comparing.tables import FILES
        from medseg.report import comparison_report

        write_comparison(found, output)
        report = comparison_report(found, output, links=FILES)
    if as_json:
        _print_json(comparison_document(found))
    else:
        typer.echo(comparison_text(found))
        if output is not None:
            typer.echo(f"report: {report}")


@app.command()
def best(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    rule: Annotated[
        ChoiceRule, typer.Option("--rule", help="noise: more only where it is better beyond noise; nnunet: by means.")
    ] = ChoiceRule.noise,
    workers: WorkersOption = "0",
    as_json: JsonOption = False,
) -> None:
    """After cross-validation, choose the model and the steps after prediction; written to best.json in the workspace.

    Example: `medseg best -w workspace`
    """
    from medseg import documents
    from medseg.selection import choose_best

    with Display(quiet=as_json) as display:
        chosen = choose_best(workspace, rule.value, workers=_workers(workers), progress=display)
    if as_json:
        _print_json(documents.to_json(chosen))
        return
    for candidate in chosen.candidates:
        typer.echo(f"{' + '.join(candidate.configurations)}: Dice {candidate.dice:.4f}")
    for reason in chosen.because:
        typer.echo(f"- {reason}")
    typer.echo(f"best: {' + '.join(chosen.configurations)}; after it: {', '.join(map(str, chosen.steps)) or 'nothing'}")


@app.command()
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


@app.command()
def demo(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE / "demo",
    quick: Annotated[bool, typer.Option("--quick", help="One minute instead of four.")] = False,
) -> None:
    """Make a small dataset of phantoms and do the whole job on it: plan, train, predict, evaluate, report.

    Example: `medseg demo --quick`
    """
    from medseg.demonstration import run_demo

    with Display() as display:
        result = run_demo(workspace, quick=quick, progress=display)
    _print_summary(result.evaluation)
    typer.echo(f"report: {result.report}")


@app.command()
def doctor(
    dataset: Annotated[Path | None, typer.Argument(help="Dataset, manifest, or any folder of scans.")] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do; with a dataset, list every problem in it and the command that mends it.

    Example: `medseg doctor dataset/`
    """
    from medseg.cli.verbs import describe_machine, examine_dataset

    with Display(quiet=as_json) as display:
        report = describe_machine() if dataset is None else examine_dataset(dataset, root, display)
    if as_json:
        _print_json(report.document)
    else:
        typer.echo(report.text)
    if report.unusable:
        raise typer.Exit(SOME_FAILED)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


def _workers(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _model_of(workspace: Path, configuration: str | None) -> Path:
    from medseg.workspace import Workspace

    opened = Workspace.open(workspace)
    return opened.model_folder(opened.plan.configuration(configuration).name)


def _print_summary(table: Any) -> None:
    from medseg.cli.verbs import summary_text

    typer.echo(summary_text(table))


class _StopOnSignal:
    """Becomes true once SIGINT or SIGTERM has come, so that a job can save and end in order; a second ends it now."""

    def __init__(self) -> None:
        self._stop = False

    def __call__(self) -> bool:
        return self._stop

    def __enter__(self) -> _StopOnSignal:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
