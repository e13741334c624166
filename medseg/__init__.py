"""medseg: any labelled medical imaging dataset becomes a segmentation model, without tuning.

    dataset = medseg.Dataset.open("dataset/")
    plan = medseg.plan(medseg.fingerprint(dataset))
    medseg.train("workspace", fold=0, epochs=50)
    mask = medseg.load_model("workspace/models/3d_fullres").predict("ct.nii.gz")

Importing this package is quick: each name below is loaded when it is first used, torch with the first that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.comparing import compare as compare
    from medseg.crossvalidation import train as train
    from medseg.dataset import Dataset as Dataset
    from medseg.errors import MedsegError as MedsegError
    from medseg.evaluation import evaluate as evaluate
    from medseg.fingerprinting import Fingerprint as Fingerprint
    from medseg.fingerprinting import fingerprint_dataset as fingerprint
    from medseg.io import read as read
    from medseg.io import write as write
    from medseg.planning import plan_dataset as plan
    from medseg.planning.plan import Plan as Plan
    from medseg.prediction import load_predictor as load_model
    from medseg.prediction import predict_files as predict
    from medseg.selection import choose_best as choose_best
    from medseg.volume import Box as Box
    from medseg.volume import Geometry as Geometry
    from medseg.volume import LabelVolume as LabelVolume
    from medseg.volume import Volume as Volume
    from medseg.workspace import Workspace as Workspace
    from medseg.workspace import plan_workspace as plan_workspace

__version__ = "0.1.0"

# Public name -> where it is defined. The verbs are functions; no module of the same name may exist.
_PUBLIC = {
    "Box": ("medseg.volume", "Box"),
    "Dataset": ("medseg.dataset", "Dataset"),
    "Fingerprint": ("medseg.fingerprinting", "Fingerprint"),
    "Geometry": ("medseg.volume", "Geometry"),
    "LabelVolume": ("medseg.volume", "LabelVolume"),
    "MedsegError": ("medseg.errors", "MedsegError"),
    "Plan": ("medseg.planning.plan", "Plan"),
    "Volume": ("medseg.volume", "Volume"),
    "Workspace": ("medseg.workspace", "Workspace"),
    "choose_best": ("medseg.selection", "choose_best"),
    "compare": ("medseg.comparing", "compare"),
    "evaluate": ("medseg.evaluation", "evaluate"),
    "fingerprint": ("medseg.fingerprinting", "fingerprint_dataset"),
    "load_model": ("medseg.prediction", "load_predictor"),
    "plan": ("medseg.planning", "plan_dataset"),
    "plan_workspace": ("medseg.workspace", "plan_workspace"),
    "predict": ("medseg.prediction", "predict_files"),
    "read": ("medseg.io", "read"),
    "train": ("medseg.crossvalidation", "train"),
    "write": ("medseg.io", "write"),
}
_MODULES = ("interop", "metrics", "prompting", "resampling", "report")

__all__ = [
    "Box",
    "Dataset",
    "Fingerprint",
    "Geometry",
    "LabelVolume",
    "MedsegError",
    "Plan",
    "Volume",
    "Workspace",
    "__version__",
    "choose_best",
    "compare",
    "evaluate",
    "fingerprint",
    "load_model",
    "plan",
    "plan_workspace",
    "predict",
    "read",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"medseg.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
