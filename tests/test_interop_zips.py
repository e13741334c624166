"""Our own models as zips: of the folder, of what is in it, and of a whole workspace."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_interop_models import random_cascade, random_model, scan

from medseg.errors import ModelError
from medseg.interop.opening import open_model
from medseg.prediction import load_predictor


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


@pytest.mark.parametrize("inside", [".", "3d_fullres", "workspace/models/3d_fullres"])
def test_a_zipped_model_is_the_model(tmp_path, inside, monkeypatch):
    for name in ("zip", "temporary"):
        (tmp_path / name).mkdir()
    random_model(tmp_path / "zip" / inside)
    (tmp_path / "zip" / inside / "fold_0/progress.csv").write_text("much that prediction does not need")
    archive = zipped(tmp_path / "zip")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    ours, theirs = (open_model(path) for path in (tmp_path / "zip" / inside, archive))
    assert ours.digest == theirs.digest
    assert list(open_model(archive, folds=[1]).weights) == ["1"]
    assert not any((tmp_path / "temporary").iterdir())
    with pytest.raises(ModelError, match="no trained fold 7") as caught:
        open_model(archive, folds=[7])
    assert str(archive) in str(caught.value)
    assert "temporary" not in str(caught.value)


def test_a_zipped_cascade_brings_its_first_stage(tmp_path):
    model = random_cascade(tmp_path / "model")
    masks = [load_predictor(path, device="cpu").predict(scan()).array for path in (model, zipped(model))]
    assert len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(*masks)


def test_a_zip_of_several_models_names_them(tmp_path):
    for name in ("2d", "3d_fullres"):
        random_model(tmp_path / "models" / name)
    with pytest.raises(ModelError, match="holds 2 models: 2d, 3d_fullres; extract it and name the folder of one"):
        open_model(zipped(tmp_path / "models"))


def test_a_member_that_would_lie_elsewhere_is_refused(tmp_path):
    archive = zipped(random_model(tmp_path / "model"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("../fold_0/weights.safetensors", "x")
    with pytest.raises(ModelError, match="leads out of the folder"):
        open_model(archive)
