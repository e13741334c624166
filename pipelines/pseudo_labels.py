"""More scans than masks: a promptable network proposes masks from boxes, a person decides, all of them train a model.

python pipelines/pseudo_labels.py DATASET SCANS BOXES.csv FOLDER SECONDS_TO_TRAIN

Run it, write accept or reject into FOLDER/proposals/proposals.csv, mend masks beside it, and run it again.
"""

import sys
from pathlib import Path

import medseg
from medseg.prompting.unet.training import train_promptable
from medseg.pseudo_labels import accept, propose, rank, read_prompts

dataset, scans, boxes, folder, seconds = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), float(sys.argv[5])
decisions = folder / "proposals" / "proposals.csv"
if not decisions.exists():
    few = medseg.plan_workspace(medseg.Dataset.open(dataset), folder / "few")
    promptable = train_promptable(few, fold=0, budget_seconds=seconds)
    assert promptable is not None
    propose([scans], read_prompts(boxes), promptable, decisions.parent, labelled=dataset)
    print("look first at:", *(f"{each.case} ({each.label}: {each.confidence:.2f})" for each in rank(decisions)))
    sys.exit(f"now decide in {decisions}, and run this again")
taken = accept(decisions, folder / "dataset")
print(f"{len(taken.by_hand)} cases by hand, {len(taken.proposed)} accepted, {len(taken.left_out)} left out")
both = medseg.plan_workspace(
    medseg.Dataset.open(folder / "dataset"), folder / "both", splits_file=folder / "dataset" / "splits.json"
)
result = medseg.train(both, fold=0, budget_seconds=seconds)
assert result is not None
print(result.evaluation.table.groupby("label")[["dice", "hausdorff95_mm", "surface_dice"]].mean())
