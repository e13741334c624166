"""How often the band of expected Dice holds, and whether the list of masks to look at finds the poor ones.

    python -m benchmarks.trust DATASET FOLDER [--cases 75] [--folds 3] [--budget 3m] [--test N] [--device auto]

Of a dataset in MSD form, some cases train the folds, whose held-out cases calibrate the model; all others have been
seen by none and are the test. They are predicted as they are, with one fold, which is what was calibrated, and with all
folds together; then spoilt: with noise, blurred, and with a header that doubles the slice spacing. What is in FOLDER
already is used again. Under each label stands the share of cases whose Dice lies in the band, to be compared with 90 %.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from medseg import io
from medseg.cli import parse
from medseg.cli.display import Display
from medseg.crossvalidation import predict_held_out, train
from medseg.dataset import Dataset
from medseg.evaluation import evaluate_folders
from medseg.prediction import Wishes, predict_files
from medseg.trust import CaseTrust, calibrate
from medseg.volume import Geometry, Volume
from medseg.workspace import plan_workspace


def divide(dataset: Path, folder: Path, cases: int, folds: int) -> list[str]:
    """Write a dataset of some cases, and its splits, into a folder; return the names of the others."""
    source = dataset.resolve()
    document = json.loads((source / "dataset.json").read_text())
    names = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in document["training"])
    random.Random(0).shuffle(names)
    learned = names[:cases]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for part in ("imagesTr", "labelsTr"):
        if not (folder / "data" / part).exists():
            (folder / "data" / part).symlink_to(source / part)
    document["training"] = [
        entry for entry in document["training"] if Path(entry["image"]).name.removesuffix(".nii.gz") in learned
    ]
    document["numTraining"] = cases
    (folder / "data" / "dataset.json").write_text(json.dumps(document))
    parts = [learned[start::folds] for start in range(folds)]
    splits = [{"train": sorted(set(learned) - set(part)), "val": sorted(part)} for part in parts]
    (folder / "splits.json").write_text(json.dumps(splits))
    return sorted(names[cases:])


def noisy(volume: Volume) -> Volume:
    """With noise of half its standard deviation."""
    noise = np.random.default_rng(0).normal(0, 0.5 * float(volume.array.std()), volume.array.shape)
    return volume.with_array((volume.array + noise).astype(np.float32))


def stretched(volume: Volume) -> Volume:
    """With a header that says twice the distance of slices."""
    z, y, x = volume.geometry.spacing_mm
    return Volume(volume.array, Geometry.from_spacing(volume.geometry.shape, (2 * z, y, x)))


def blurred(volume: Volume) -> Volume:
    """As if taken with slices 5 voxels thick."""
    return volume.with_array(gaussian_filter(volume.array.astype(np.float32), (0, 2.5, 0, 0)))


def measure(
    title: str,
    scans: list[Path],
    folder: Path,
    model: Path,
    references: Path,
    wishes: Wishes,
    device: str,
    folds: tuple[int, ...] | None = None,
) -> None:
    """Predict scans, compare with references, print a line."""
    with Display() as display:
        done = predict_files(scans, folder, models=[model], folds=folds, device=device, wishes=wishes, progress=display)
    (folder / "references").mkdir(exist_ok=True)
    for scan in scans:  # on the grid of the scan, whose header may have been spoilt
        truth = io.read_labels(references / scan.name)
        geometry = io.probe(scan).geometry
        io.write(type(truth)(truth.array, geometry, truth.labels), folder / "references" / scan.name)
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)
    for path in done.masks.values():
        (masks / path.name).write_bytes(path.read_bytes())
    table = evaluate_folders(masks, folder / "references", labels=references.parent / "dataset.json").table
    by_case = table.pivot(index="case", columns="label", values="dice")
    report(
        title, done.trust, {str(label): by_case[label].to_dict() for label in by_case}, by_case.mean(axis=1).to_dict()
    )


def report(
    title: str, trust: Mapping[str, CaseTrust], labels: Mapping[str, Mapping], means: Mapping[object, float]
) -> None:
    """One line: how often bands hold, their width, how the expected Dice ranks cases, what is on the list."""
    held, widths = [], []
    for name, dice in labels.items():
        known = {case: entry for case, verdict in trust.items() for entry in verdict.labels if entry.label == name}
        pairs = [(entry, dice[case]) for case, entry in known.items() if entry.low is not None]
        held.append(np.mean([entry.low <= true <= entry.high for entry, true in pairs]) if pairs else np.nan)
    whole = [(verdict.mean, means[case]) for case, verdict in trust.items() if verdict.mean.low is not None]
    held.append(np.mean([entry.low <= true <= entry.high for entry, true in whole]))
    above = np.mean([true > entry.high for entry, true in whole])
    widths = [entry.high - entry.low for entry, _ in whole]
    off = [abs(entry.dice - true) for entry, true in whole]
    rank = spearmanr([entry.dice for entry, _ in whole], [true for _, true in whole]).statistic
    listed = {case for case, verdict in trust.items() if verdict.reasons}
    drifted = {case for case, verdict in trust.items() if any(number.outside for number in verdict.drift)}
    worst = sorted(means, key=lambda case: means[case])[: max(1, len(means) // 10)]
    found = sum(case in listed for case in worst)
    print(
        f"{title:<30} {len(trust):>4} {np.mean(list(means.values())):>7.3f} "
        + " ".join(f"{share:>9.0%}" for share in held)
        + f" {above:>6.0%} {np.mean(widths):>7.3f} {np.mean(off):>7.3f} {rank:>7.2f} {len(listed):>5} {len(drifted):>6}"
        f" {found:>3} of {len(worst)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=75)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--test", type=int, help="cases to predict with all folds; a third of them are spoilt")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    unseen = divide(given.dataset, given.folder, given.cases, given.folds)
    with Display() as display:
        workspace = plan_workspace(
            Dataset.open(given.folder / "data"),
            given.folder / "w",
            splits_file=given.folder / "splits.json",
            progress=display,
        )
        name = workspace.plan.configuration().name
        for fold in range(given.folds):
            seconds = parse.seconds(given.budget)
            train(workspace, name, fold, budget_seconds=seconds, device=given.device, progress=display)
        predict_held_out(workspace, (name,), device=given.device, progress=display)
        trust = calibrate(workspace, name, progress=display)
    print(f"temperatures {trust.temperatures}, bands from {trust.bands[-1].cases} held-out cases")
    names = [band.label for band in trust.bands]
    print(f"{'':<30} {'n':>4} {'Dice':>7} " + " ".join(f"{label[:9]:>9}" for label in names), end=" ")
    print(f"{'above':>6} {'width':>7} {'error':>7} {'rank r':>7} {'look':>5} {'drift':>6} worst 10 % on the list")
    references = given.folder / "data" / "labelsTr"
    scans = [given.folder / "data" / "imagesTr" / f"{case}.nii.gz" for case in unseen]
    common = (workspace.model_folder(name), references, Wishes(trust=trust), given.device)
    measure("unseen, one fold", scans, given.folder / "one", *common, (0,))
    measure("unseen, all folds", scans[: given.test], given.folder / "all", *common)
    spoils: dict[str, Callable[[Volume], Volume]] = {
        "with noise": noisy,
        "blurred along z": blurred,
        "slice spacing doubled": stretched,
    }
    for title, spoil in spoils.items():
        folder = given.folder / spoil.__name__
        spoilt = []
        for scan in scans[: len(scans[: given.test]) // 3]:
            spoilt.append(folder / "scans" / scan.name)
            io.write(spoil(io.read(scan)), spoilt[-1])
        measure(title, spoilt, folder / "out", *common)


if __name__ == "__main__":
    main()
