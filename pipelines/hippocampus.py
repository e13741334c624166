"""A whole study: plan the hippocampus dataset, train one fold, predict its held-out scans, measure them.

python pipelines/hippocampus.py DATASET WORKSPACE SECONDS_TO_TRAIN
"""

import sys

import medseg

dataset, folder, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
workspace = medseg.plan_workspace(medseg.Dataset.open(dataset), folder)
print(workspace.plan.explain())
result = medseg.train(workspace, fold=0, budget_seconds=seconds)
print(result.evaluation.table.groupby("label")[["dice", "hausdorff95_mm", "surface_dice"]].mean())
mask = medseg.load_model(workspace.model_folder("3d_fullres")).predict(workspace.dataset.cases[0].images[0])
print({name: f"{mask.volume_ml(name):.2f} ml" for name in mask.labels})
