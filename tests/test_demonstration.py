"""The demo, made small: the same steps as ``medseg demo``, in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from medseg import demonstration, io, phantoms
from medseg.dataset import Dataset
from medseg.phantoms import PhantomKind

TINY = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))


def test_the_whole_job_leaves_masks_tables_and_a_report(tmp_path, monkeypatch):
    small = demonstration.Demo(training=6, test=2, kind=TINY, budget_seconds=4)
    monkeypatch.setattr(demonstration, "QUICK", small)
    steps = []
    result = demonstration.run_demo(tmp_path, quick=True, progress=lambda done, total, what: steps.append(what))
    assert len(result.evaluation.cases) == 2
    assert not result.evaluation.failures
    text = result.report.read_text()
    assert "phantom_006" in text
    assert "liver" in text
    assert {step.split(" ")[0] for step in steps} >= {"making", "preparing", "training", "predicting"}


def test_the_same_seed_makes_the_same_scan_on_any_grid():
    image, mask = phantoms.phantom(3, TINY)
    again, _ = phantoms.phantom(3, TINY)
    np.testing.assert_array_equal(image.array, again.array)
    assert image.geometry == again.geometry
    assert set(np.unique(mask.array)) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(6))
def test_the_large_organ_is_on_the_right_and_the_tube_on_the_left(seed):
    _, mask = phantoms.phantom(seed)
    right = {value: mask.geometry.to_mm(np.argwhere(mask.array == value))[:, 0].mean() for value in (1, 2)}
    assert right[2] < 0 < right[1]


def test_a_phantom_dataset_opens_and_mixes_orientations(tmp_path):
    folder = phantoms.write_dataset(tmp_path / "d", training=5, test=1, kind=TINY)
    dataset = Dataset.open(folder)
    assert dataset.labels.names == ("liver", "vessel", "cyst")
    assert len({io.probe(case.images[0]).geometry.orientation for case in dataset.cases}) > 1
