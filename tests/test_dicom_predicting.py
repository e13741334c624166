"""Predictions on DICOM scans as SEG and RTSTRUCT: the same masks as elsewhere, each only if it reads back right."""

from __future__ import annotations

import dataclasses
import logging

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom_out_examples import PHI, grid_of, read_segmentation, read_structures, valid, write_ball
from test_prediction import bright_predictor

from medseg import dicom, io
from medseg.dicom import mask_writing
from medseg.errors import SelfCheckError, UsageError
from medseg.labels import LabelSet
from medseg.prediction import Job, PredictionSettings, Predictor, jobs_for, load_predictor, predict_cases
from medseg.terms import Code, Meaning

LIVER = LabelSet({"liver": (7,)}, meanings={"liver": Meaning(Code("10200004", "SCT", "Liver"), colour=(200, 10, 0))})


@pytest.fixture
def predictor() -> Predictor:
    return bright_predictor(labels=LIVER)


def job(folder, output, format, measurements=None) -> Job:
    (series,) = dicom.find_series(folder)
    return Job(series.uid, (dicom.Selection((series,), series.uid),), output, None, format, measurements)


def test_every_format_holds_the_same_mask(tmp_path, predictor):
    files = write_ball(tmp_path / "scan")
    jobs = [
        job(tmp_path / "scan", tmp_path / name, format)
        for name, format in (("a.nii.gz", None), ("a.seg.dcm", "seg"), ("a.rtstruct.dcm", "rtstruct"))
    ]
    for each in jobs:
        result = predict_cases(predictor, [each])
        assert result.failures == {}
    mask = io.read_labels(tmp_path / "a.nii.gz")
    geometry = grid_of(files)
    mask.geometry.require_equal(geometry, "mask", "scan")
    ball = np.stack([image.pixel_array for image in in_order(files)]) > 0
    assert ball.sum() > 30 and (mask.array == np.where(ball, 7, 0)).all()
    assert (read_segmentation(tmp_path / "a.seg.dcm", geometry)["liver"] == ball).all()
    assert (read_structures(tmp_path / "a.rtstruct.dcm", geometry)["liver"] == ball).all()
    assert valid(tmp_path / "a.seg.dcm") == valid(tmp_path / "a.rtstruct.dcm") == valid(tmp_path / "a.sr.dcm") == ""


def in_order(files):
    images = [pydicom.dcmread(file) for file in files]
    normal = np.cross(*np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3))
    return sorted(images, key=lambda image: np.array(image.ImagePositionPatient, dtype=float) @ normal)


def test_masks_carry_codes_colour_and_the_model_and_their_volumes_are_listed(tmp_path, predictor):
    write_ball(tmp_path / "scan")
    table = tmp_path / "masks/measurements.csv"
    each = job(tmp_path / "scan", tmp_path / "masks/a.seg.dcm", "seg", table)
    predict_cases(predictor, [each])
    predict_cases(predictor, [dataclasses.replace(each, case="other"), each])  # each case has its rows once
    seg = pydicom.dcmread(each.output)
    item = seg.SegmentSequence[0]
    assert (item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("liver", "10200004")
    algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "example 3d_fullres"
    assert algorithm.AlgorithmVersion.startswith("0.1.0 ")
    rows = pd.read_csv(table, dtype={"code": str}).set_index("case")
    assert sorted(rows.index) == sorted([each.case, "other"])
    pixels = int(seg.pixel_array.sum())
    assert rows.loc[each.case, ["label", "code", "voxels"]].tolist() == ["liver", "10200004", pixels]
    assert rows.loc[each.case, "volume_ml"] == pytest.approx(pixels * 2.0 * 1.1 * 0.9 / 1000, rel=1e-4)


def test_a_mask_that_reads_back_wrong_is_a_failure_of_its_case_alone(tmp_path, predictor, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "medseg")
    for name in "ab":
        write_ball(tmp_path / name)
    jobs = [job(tmp_path / name, tmp_path / f"{name}.seg.dcm", "seg") for name in "ab"]
    write, check = mask_writing._KINDS["seg"]

    def refuse_the_first(path, *rest):
        if ".partial" in path.name and path.name.endswith("a.seg.dcm"):
            raise SelfCheckError("the SEG read back wrong and was not released: liver")
        check(path, *rest)

    monkeypatch.setitem(mask_writing._KINDS, "seg", (write, refuse_the_first))
    result = predict_cases(predictor, jobs)
    assert list(result.masks) == [jobs[1].case]
    assert "not released" in result.failures[jobs[0].case]
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["b.seg.dcm", "b.sr.dcm"]
    said = caplog.text + str(result.failures)
    assert not any(value in said for value in PHI.values())


def test_masks_are_named_by_identifiers_and_only_dicom_scans_can_have_them(tmp_path, predictor):
    write_ball(tmp_path / "scan")
    (series,) = dicom.find_series(tmp_path / "scan")
    assert mask_writing.output_name(series, "seg").parts == (series.study_uid, f"{series.uid}.seg.dcm")
    volume = io.read(tmp_path / "scan")
    io.write(volume, tmp_path / "scan.nii.gz")
    with pytest.raises(UsageError, match="refer to DICOM images"):
        jobs_for([tmp_path / "scan.nii.gz"], tmp_path / "masks", predictor, format="seg")


def in_mm(path) -> dict[str, np.ndarray]:
    """RAS mm of every voxel of each segment of a SEG, from the file's numbers alone, in a fixed order."""
    seg = pydicom.dcmread(path)
    shared, found = seg.SharedFunctionalGroupsSequence[0], {}
    along_row, along_column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(
        float
    )
    between_rows, between_columns = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    for frame, own in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        row, column = np.nonzero(frame)
        corner = np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        mm = corner + np.outer(row * between_rows, along_column) + np.outer(column * between_columns, along_row)
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found.setdefault(seg.SegmentSequence[number - 1].SegmentLabel, []).append(mm * (-1, -1, 1))
    return {name: in_fixed_order(np.concatenate(parts)) for name, parts in found.items()}


def in_fixed_order(points: np.ndarray) -> np.ndarray:
    rounded = points.round(2)
    return points[np.lexsort(rounded.T)]


def test_a_hippocampus_model_on_a_real_series(shared, tmp_path):
    """NIfTI (read by nibabel), SEG and RTSTRUCT of one prediction say the same, voxel for voxel and in mm."""
    scan, model = shared / "data/dicom_brain/Study1/13_HCropVolume", shared / "nnunet_model_tiny"
    predictor = load_predictor(model, device="cpu", settings=PredictionSettings(mirror=False))
    masks = {}
    for format, ending in ((None, ".nii.gz"), ("seg", None), ("rtstruct", None)):
        jobs, _ = jobs_for([scan], tmp_path / str(format), predictor, ending, format=format)
        result = predict_cases(predictor, jobs)
        assert result.failures == {}
        (masks[format],) = result.masks.values()
    image = nib.load(masks[None])
    array, values = np.asarray(image.dataobj), {"Anterior": 1, "Posterior": 2}
    expected = {
        name: nib.affines.apply_affine(image.affine, np.argwhere(array == value)) for name, value in values.items()
    }
    found = in_mm(masks["seg"])
    for name, points in expected.items():
        assert len(points) > 1000
        assert found[name].shape == points.shape
        np.testing.assert_allclose(found[name], in_fixed_order(points), atol=1e-3)
    mask = io.read_labels(masks[None])
    for back in (read_segmentation(masks["seg"], mask.geometry), read_structures(masks["rtstruct"], mask.geometry)):
        for name, value in values.items():
            assert (back[name] == (mask.array == value)).all()
    assert valid(masks["seg"]) == valid(masks["rtstruct"]) == ""
