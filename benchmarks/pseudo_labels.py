"""What pseudo-labels are worth: a few labels, the same with boxes for the other scans, and all labels.

    python -m benchmarks.pseudo_labels DATASET -w FOLDER [--splits FILE] [--share 0.2] [--promptable 2000]
                                       [--iterations 1000] [--batch 2] [--sure 0.8] [--accept-above 0.85] [--device cpu]

Of fold 0's training cases a share, drawn with seed 0, keeps its labels. A promptable network learns from these and
proposes masks for the others from one box an object: that of its reference, each face moved by up to 2 voxels. Objects
above a confidence are accepted, nobody mends anything. Three networks then train equally long, and are measured on the
fold's held-out cases: from the few labels, from these and the proposals, and from all labels. Nothing is done twice: a
second start goes on.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medseg import crossvalidation, io
from medseg.dataset import CaseRef, Dataset
from medseg.prompting.grid import tight_box
from medseg.prompting.simulation import JITTER_VOXELS, jittered_box
from medseg.prompting.unet.promptable import SUFFIX
from medseg.prompting.unet.training import train_promptable
from medseg.pseudo_labels import Proposed, accept, propose, read_prompts
from medseg.pseudo_labels.proposing import SURE
from medseg.pseudo_labels.table import BOX
from medseg.splits import Split, load_splits, make_splits, save_splits
from medseg.workspace import Workspace, plan_workspace


def planned(dataset: Dataset, split: Split, root: Path, batch: int) -> Workspace:
    """A workspace of one fold, with a small batch so that many steps fit into little time."""
    if not (root / "plan.json").is_file():
        save_splits([split], root.with_name(f"{root.name}_splits.json"))
        made = plan_workspace(dataset, root, splits_file=root.with_name(f"{root.name}_splits.json"))
        smaller = tuple(replace(each, batch_size=batch) for each in made.plan.configurations)
        replace(made.plan, configurations=smaller).save(made.plan_path)
    return Workspace.open(root)


def write_boxes(cases: Sequence[CaseRef], dataset: Dataset, file: Path) -> None:
    """A table of one box an object, drawn as by a person."""
    random = np.random.default_rng(0)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("case", "label", *BOX))
        for case in cases:
            assert case.label is not None
            array = io.read_labels(case.label).array
            for name, values in dataset.labels.classes.items():
                mask = np.isin(array, values)
                if mask.any():
                    start, stop = jittered_box(tight_box(mask), mask.shape, JITTER_VOXELS, random)
                    writer.writerow((case.name, name, *start, *stop))


def describe_proposals(done: Proposed, cases: Sequence[CaseRef], dataset: Dataset, folder: Path) -> None:
    """How right proposals are, how much of them is ignored, and whether their confidence says so."""
    references = {case.name: case.label for case in cases}
    rows = []
    for proposal in done.proposals:
        label = references[proposal.case]
        assert label is not None
        reference = io.read_labels(label).array
        found = io.read_labels(folder / "proposed" / proposal.mask_name).array
        declared = {dataset.labels.background, *dataset.labels.values}
        clear = np.isin(found, list(declared))
        for entry in proposal.objects:
            value = dataset.labels.classes[entry.label][0]
            here, there = (found == value) & clear, (reference == value) & clear
            touched = (found == value) | ~clear
            rows.append(
                {
                    "label": entry.label,
                    "confidence": entry.confidence,
                    "dice": 2 * float((here & there).sum()) / max(float(here.sum() + there.sum()), 1),
                    "ignored": float((~clear).sum()) / max(float(touched.sum()), 1),
                }
            )
    table = pd.DataFrame(rows)
    print(f"{len(done.proposals)} scans proposed, {len(table)} objects")
    print(f"  Dice of proposals outside ignored voxels: {table['dice'].mean():.4f}")
    print(f"  ignored voxels, of those not background: {table['ignored'].mean():.3f}")
    print(f"  confidence: mean {table['confidence'].mean():.3f}, least {table['confidence'].min():.3f}")
    print(
        f"  rank correlation of confidence and Dice: {table['confidence'].corr(table['dice'], method='spearman'):.2f}"
    )


def validation_dice(workspace: Workspace, iterations: int, device: str) -> dict[str, float]:
    """Dice of each label, and their mean, on the held-out cases of fold 0."""
    result = crossvalidation.train(workspace, fold=0, iterations=iterations, device=device)
    assert result is not None
    means = result.evaluation.table.groupby("label")["dice"].mean()
    return {**{str(label): float(means[label]) for label in means.index}, "mean": float(means.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-w", "--folder", type=Path, required=True)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--promptable", type=int, default=2000, help="iterations of the promptable network")
    parser.add_argument("--iterations", type=int, default=1000, help="iterations of each of the three networks")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sure", type=float, default=SURE)
    parser.add_argument("--accept-above", type=float, default=0.85)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    dataset = Dataset.open(given.dataset)
    folds = load_splits(given.splits) if given.splits else make_splits(case.name for case in dataset.cases)
    fold, folder = folds[0], given.folder
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(fold.train))
    few = tuple(sorted(fold.train[i] for i in order[: round(len(fold.train) * given.share)]))
    kept = {*few, *fold.validation}
    hidden = [case for case in dataset.cases if case.name in fold.train and case.name not in kept]
    labelled = replace(dataset, cases=tuple(case for case in dataset.cases if case.name in kept))

    workspace = planned(labelled, Split(few, fold.validation), folder / "few", given.batch)
    promptable = workspace.model_folder(workspace.plan.configuration().name + SUFFIX)
    train_promptable(workspace, fold=0, iterations=given.promptable, device=given.device)
    write_boxes(hidden, dataset, folder / "boxes.csv")
    began = time.monotonic()
    done = propose(
        [case.images[0] for case in hidden],
        read_prompts(folder / "boxes.csv"),
        promptable,
        folder / "proposals",
        labelled=workspace.dataset_path,
        sure=given.sure,
        accept_above=given.accept_above,
        device=given.device,
    )
    print(f"proposals: {time.monotonic() - began:.0f} s")
    describe_proposals(done, hidden, dataset, folder / "proposals")
    taken = accept(done.list_file, folder / "dataset", splits_file=folder / "few_splits.json")
    both = Dataset.open(folder / "dataset")
    partly = sum(case.annotated is not None for case in both.cases)
    print(
        f"{len(taken.proposed)} scans accepted, {partly} of them for some labels only, {len(taken.left_out)} left out"
    )
    (split,) = load_splits(folder / "dataset" / "splits.json")
    runs = {
        f"{len(few)} labels": workspace,
        f"{len(few)} labels and {len(taken.proposed)} proposals": planned(both, split, folder / "both", given.batch),
        f"{len(fold.train)} labels": planned(dataset, fold, folder / "full", given.batch),
    }
    print(f"{given.iterations} iterations of batch {given.batch}; Dice on {len(fold.validation)} held-out cases")
    for name, each in runs.items():
        dice = validation_dice(each, given.iterations, given.device)
        print(f"  {name:<32}" + "  ".join(f"{label} {value:.4f}" for label, value in dice.items()), flush=True)


if __name__ == "__main__":
    main()
