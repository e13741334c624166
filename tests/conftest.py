"""Fixtures that every test may use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and reference results beside the project."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with real scans is not beside the project")
    return SHARED


@pytest.fixture(params=["compiled", "torch"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of logits by the compiled pass, then without it."""
    from medseg.resampling import onepass

    if request.param == "torch":
        monkeypatch.setattr(onepass, "decide", None)
    elif onepass.decide is None:
        pytest.skip("the package was built without a C compiler")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four cases and one more, and a workspace with two configurations of two folds each."""
    from medseg import phantoms
    from medseg.crossvalidation import train
    from medseg.dataset import Dataset
    from medseg.splits import Split, save_splits
    from medseg.workspace import Workspace, plan_workspace

    root = tmp_path_factory.mktemp("phantoms")
    tiny = phantoms.PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))
    data = phantoms.write_dataset(root / "dataset", training=4, test=1, kind=tiny)
    workspace = plan_workspace(Dataset.open(data), root / "workspace")
    names = [case.name for case in workspace.dataset.cases]
    save_splits((Split(tuple(names[:2]), tuple(names[2:])), Split(tuple(names[2:]), tuple(names[:2]))), root / "s.json")
    workspace = plan_workspace(Dataset.open(data), root / "workspace", splits_file=root / "s.json")
    shrunk = tuple(
        dataclasses.replace(entry, batch_size=2, patch_size=tuple(min(size, 16) for size in entry.patch_size))
        for entry in workspace.plan.configurations
        if entry.name in ("2d", "3d_fullres")
    )
    dataclasses.replace(workspace.plan, configurations=shrunk).save(workspace.plan_path)
    workspace = Workspace.open(workspace.root)
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            train(workspace, configuration, fold, iterations=2, device="cpu", precision="fp32")
    return root
