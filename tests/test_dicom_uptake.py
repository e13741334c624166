"""Standardised uptake values with a pencil."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_examples import count, stack
from pydicom.dataset import Dataset

from medseg import dicom
from medseg.errors import DataError

HALF_LIFE_S = 6000.0


def pet(folder: Path, drug: dict[str, Any] | None = None, **elements: Any) -> Path:
    """70 kg, 350 MBq, injected one half-life before the series began."""
    entry = Dataset()
    known = {
        "RadionuclideTotalDose": 3.5e8,
        "RadionuclideHalfLife": HALF_LIFE_S,
        "RadiopharmaceuticalStartTime": "100000",
    }
    for name, value in {**known, **(drug or {})}.items():
        if value is not None:
            setattr(entry, name, value)
    known = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": "70",
        "SeriesDate": "20200101",
        "SeriesTime": "114000",
        "AcquisitionDate": "20200101",
        "AcquisitionTime": "114000",
        "RadiopharmaceuticalInformationSequence": [entry],
    }
    stack(folder, count(2, 2, 2), kind="PT", **{**known, **elements})
    return folder


def factor(folder: Path) -> float:
    return float(dicom.read_series(folder, suv=True).array[0, 1, 1, 1]) / 7


def test_decay_since_the_injection(tmp_path: Path) -> None:
    # After one half-life 175 MBq are left: 70,000 g / 1.75e8 Bq.
    assert factor(pet(tmp_path)) == pytest.approx(70_000 / 1.75e8)
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array[0], count(2, 2, 2))


def test_values_corrected_to_the_injection_need_no_decay(tmp_path: Path) -> None:
    assert factor(pet(tmp_path, DecayCorrection="ADMIN")) == pytest.approx(70_000 / 3.5e8)


def test_an_injection_before_midnight(tmp_path: Path) -> None:
    times = {"SeriesTime": "004000", "AcquisitionTime": "004000"}
    assert factor(pet(tmp_path, {"RadiopharmaceuticalStartTime": "230000"}, **times)) == pytest.approx(70_000 / 1.75e8)


def test_a_reconstruction_made_later_counts_from_its_acquisition(tmp_path: Path) -> None:
    assert factor(pet(tmp_path, SeriesTime="180000")) == pytest.approx(70_000 / 1.75e8)


def test_units_that_are_uptake_already(tmp_path: Path) -> None:
    assert factor(pet(tmp_path, Units="GML")) == 1.0


@pytest.mark.parametrize(
    ("drug", "elements", "message"),
    [
        ({}, {"PatientWeight": None}, "need weight, which the files do not say"),
        ({"RadionuclideTotalDose": None}, {}, "need injected dose"),
        ({}, {"DecayCorrection": "NONE"}, "expected decay correction START or ADMIN, found NONE"),
        ({}, {"Units": "PROPCNTS"}, "need the unit BQML, GML or CNTS, found PROPCNTS"),
        ({}, {"Units": "CNTS"}, "counts without the factor"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "need the time of injection"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    tmp_path: Path, drug: dict[str, Any], elements: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dicom.read_series(pet(tmp_path, drug, **elements), suv=True)
    assert "70" not in str(caught.value).replace("1.2.3.4", "")


def test_only_pet_has_uptake(tmp_path: Path) -> None:
    stack(tmp_path, count(2, 2, 2))
    with pytest.raises(DataError, match="uptake values exist for PET only, found CT"):
        dicom.read_series(tmp_path, suv=True)
