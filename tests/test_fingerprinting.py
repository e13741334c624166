"""Fingerprints: what a pencil gives, what scipy gives, and what nnU-Net found in the same 200 scans."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg import documents, fingerprinting
from medseg.dataset import CaseRef, Dataset
from medseg.errors import CasesFailedError, DataError
from medseg.fingerprinting import Fingerprint, fingerprint_dataset
from medseg.labels import LabelSet

LABELS = LabelSet({"organ": (1,), "tumour": (5,)}, ignore=9)
SPACING_MM = (3.0, 2.0, 1.0)


def write(path: Path, array: np.ndarray, axes: str = "RAS") -> Path:
    """A (Z, Y, X) array in canonical orientation as a file whose axes are stored another way."""
    affine = np.diag([*SPACING_MM[::-1], 1.0])
    image = nibabel.nifti1.Nifti1Image(array.T, affine)
    stored = nibabel.orientations.axcodes2ornt(axes)
    nibabel.save(
        image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), stored)),
        path,
    )
    return path


def case(folder: Path, name: str, image: np.ndarray, labels: np.ndarray | None, axes: str = "RAS") -> CaseRef:
    """A case of one or, for a (C, Z, Y, X) image, several channels."""
    channels = image if image.ndim == 4 else image[None]
    images = tuple(
        write(folder / f"{name}_{i:04d}.nii.gz", channel.astype(np.float32), axes) for i, channel in enumerate(channels)
    )
    mask = None if labels is None else write(folder / f"{name}.nii.gz", labels.astype(np.uint8), axes)
    return CaseRef(name, images, mask)


def dataset(*cases: CaseRef, channels: tuple[str, ...] = ("CT",), labels: LabelSet = LABELS) -> Dataset:
    return Dataset("test", channels, labels, cases)


def test_every_case_has_the_same_weight(tmp_path: Path):
    """One voxel of 10 in one case, sixty of 30 in the other: the mixture has mean 20 and deviation 10."""
    one, many = np.full((3, 4, 5), 10.0), np.full((3, 4, 5), 30.0)
    single = np.zeros((3, 4, 5))
    single[1, 1, 1] = 1
    found = fingerprint_dataset(
        dataset(case(tmp_path, "b", many, np.full((3, 4, 5), 5)), case(tmp_path, "a", one, single))
    )
    (statistics,) = found.intensities
    assert (statistics.mean, statistics.std, statistics.min, statistics.max) == (20, 10, 10, 30)
    assert (statistics.percentile_00_5, statistics.percentile_99_5) == (10, 30)
    assert [entry.case for entry in found.cases] == ["a", "b"]
    assert [entry.label_voxels for entry in found.cases] == [(1, 0), (0, 60)]
    assert [entry.spacing_mm for entry in found.cases] == [SPACING_MM, SPACING_MM]
    assert (found.dataset_name, found.channels, found.labels) == ("test", ("CT",), LABELS)


def test_percentiles_of_a_hundred_and_one_numbers(tmp_path: Path):
    image = np.arange(1.0, 202.0).reshape(1, 1, 201)
    (statistics,) = fingerprint_dataset(dataset(case(tmp_path, "a", image, np.ones(image.shape)))).intensities
    assert statistics.median == 101
    assert (statistics.percentile_00_5, statistics.percentile_99_5) == (2, 200)


def test_channels_and_cropping(tmp_path: Path):
    """The box is that of both channels together; a label outside it has no intensity but is counted."""
    image = np.zeros((2, 4, 5, 6))
    image[0, 1, 1, 1] = 7
    image[1, 2, 3, 4] = -2
    labels = np.zeros((4, 5, 6))
    labels[1, 1, 1] = labels[3, 4, 5] = 1
    labels[1, 1, 2] = 9
    found = fingerprint_dataset(dataset(case(tmp_path, "a", image, labels), channels=("CT", "PET")))
    assert found.cases[0].shape == (4, 5, 6)
    assert found.cases[0].cropped_shape == (2, 3, 4)
    assert found.median_relative_size_after_cropping == pytest.approx(24 / 120)
    assert found.cases[0].label_voxels == (2, 0)
    first, second = found.intensities
    assert (first.mean, first.max, first.min) == (3.5, 7, 0), "the ignore label counts as foreground"
    assert (second.mean, second.max) == (0, 0)


def test_scan_of_zeros_is_kept_whole(tmp_path: Path):
    found = fingerprint_dataset(dataset(case(tmp_path, "a", np.zeros((3, 4, 5)), np.ones((3, 4, 5)))))
    assert found.cases[0].cropped_shape == (3, 4, 5)
    assert found.median_relative_size_after_cropping == 1


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_stored_axes_make_no_difference(tmp_path: Path, axes: str):
    generator = np.random.default_rng(0)
    image = np.pad(generator.normal(size=(2, 4, 5)), ((1, 0), (0, 3), (2, 1)))
    labels = generator.integers(0, 2, image.shape)
    turned = case(tmp_path, "turned", image, labels, axes)
    upright = case(tmp_path, "upright", image, labels)
    turned_found, upright_found = (fingerprint_dataset(dataset(one)) for one in (turned, upright))
    for one, other in zip(turned_found.cases, upright_found.cases, strict=True):
        assert (one.shape, one.cropped_shape, one.label_voxels) == (
            other.shape,
            other.cropped_shape,
            other.label_voxels,
        )
        assert one.spacing_mm == pytest.approx(other.spacing_mm)
    assert turned_found.intensities == upright_found.intensities
    stored = fingerprint_dataset(dataset(turned), orientation="stored").cases[0].shape
    assert stored == nibabel.load(turned.images[0]).shape[::-1]


def test_case_without_foreground_has_no_say(tmp_path: Path):
    image = np.full((3, 4, 5), 2.0)
    with_label = case(tmp_path, "a", image, np.ones(image.shape))
    without = case(tmp_path, "b", image * 100, np.zeros(image.shape))
    found = fingerprint_dataset(dataset(with_label, without))
    assert (len(found.cases), found.intensities[0].max) == (2, 2)
    with pytest.raises(DataError, match="test: no case has a foreground voxel"):
        fingerprint_dataset(dataset(without))


def test_no_cases():
    with pytest.raises(DataError, match="test: the dataset has no training cases"):
        fingerprint_dataset(dataset())


def test_every_failing_case_is_named_and_no_part_returned(tmp_path: Path):
    image = np.ones((3, 4, 5))
    good = case(tmp_path, "good", image, image)
    unlabelled = case(tmp_path, "unlabelled", image, None)
    strange = case(tmp_path, "strange", image, image * 77)
    cut = case(tmp_path, "cut", image, image)
    cut.images[0].write_bytes(cut.images[0].read_bytes()[:40])
    seen = []
    with pytest.raises(CasesFailedError) as caught:
        fingerprint_dataset(dataset(good, unlabelled, strange, cut), progress=lambda *call: seen.append(call[:2]))
    assert list(caught.value.failures) == ["cut", "strange", "unlabelled"]
    assert "77" in caught.value.failures["strange"]
    assert "needs a mask" in caught.value.failures["unlabelled"]
    assert seen[-1] == (4, 4)


def test_document_round_trip(tmp_path: Path):
    image = np.random.default_rng(0).normal(size=(3, 4, 5))
    found = fingerprint_dataset(dataset(case(tmp_path, "a", image, image > 0)))
    documents.save(found, tmp_path / "fingerprint.json")
    assert documents.load(Fingerprint, tmp_path / "fingerprint.json") == found


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_many_voxels_lose_at_most_a_twenty_thousandth_of_the_rank():
    values = np.random.default_rng(0).lognormal(3, 1, 1_300_000).astype(np.float32)
    found = fingerprinting._merge((fingerprinting._describe(values),))
    ordered = np.sort(values)
    for got, rank in ((found.percentile_00_5, 0.005), (found.median, 0.5), (found.percentile_99_5, 0.995)):
        assert abs(np.searchsorted(ordered, np.float32(got)) / len(values) - rank) <= 1 / 20_000 + 1e-6
    assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert found.std == pytest.approx(values.std(dtype=np.float64), rel=1e-12)
    assert (found.min, found.max) == (ordered[0], ordered[-1])


def test_far_from_zero_the_deviation_stays_exact():
    values = (np.random.default_rng(0).normal(0, 1, 1000) + 16_000).astype(np.float32)
    assert fingerprinting._describe(values).variance == pytest.approx(values.var(dtype=np.float64), rel=1e-9)


def test_neither_torch_nor_scipy_is_imported():
    code = "import sys, medseg.fingerprinting; assert not {'torch', 'monai', 'scipy', 'dask'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- real scans -----------------------------------------------------------------------------------------------------


def test_hippocampus_as_nnunet_found_it(shared: Path):
    """nnU-Net's numbers come from 100 million voxels drawn with replacement; they scatter by about a thousandth."""
    found = fingerprint_dataset(Dataset.open(shared / "data" / "hippocampus"))
    theirs = json.loads((shared / "golden_plans" / "hippocampus" / "dataset_fingerprint.json").read_text())
    assert [list(entry.cropped_shape) for entry in found.cases] == theirs["shapes_after_crop"]
    assert np.allclose([entry.spacing_mm for entry in found.cases], theirs["spacings"], atol=1e-6)
    assert found.median_relative_size_after_cropping == theirs["median_relative_size_after_cropping"]
    for name, value in theirs["foreground_intensity_properties_per_channel"]["0"].items():
        assert getattr(found.intensities[0], name) == pytest.approx(value, rel=1e-3), name


def test_nuclei_are_single_slices(shared: Path):
    pictures = Dataset.open(shared / "data" / "dsb2018_nuclei")
    few = Dataset(pictures.name, pictures.channels, pictures.labels, pictures.cases[:5])
    found = fingerprint_dataset(few)
    assert all(entry.shape[0] == entry.cropped_shape[0] == 1 for entry in found.cases)
    assert len(found.intensities) == len(pictures.channels)
