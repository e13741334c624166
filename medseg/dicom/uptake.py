"""Body-weight standardised uptake values of PET, as the Quantitative Imaging Biomarkers Alliance describes them.

SUV = activity concentration (Bq/ml) * body weight (g) / injected activity (Bq) at the time that images are corrected
to (QIBA FDG-PET/CT profile 1.13, and the vendor-neutral pseudo-code of its wiki).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medseg.dicom.files import quiet_pydicom, read_dataset
from medseg.dicom.frames import number, text
from medseg.dicom.series import Series
from medseg.errors import DataError

_PHILIPS_SUV_FACTOR = Tag(0x7053, 0x1000)
_DAY = timedelta(days=1)
_WITHOUT = "; read it without --suv"


def suv_factors(series: Series) -> dict[Path, float]:
    """For each file the factor from its rescaled values to g/ml.

    Raises:
        DataError: no PET, or weight, dose or times are missing; says which.
    """
    with quiet_pydicom():
        return {path: _factor(read_dataset(path, pixels=False), series) for path in series.files}


def _factor(dataset: Dataset, series: Series) -> float:
    if series.modality != "PT":
        raise DataError(
            f"{series}: uptake values exist for PET only, found {series.modality or 'no modality'}{_WITHOUT}"
        )
    units = text(dataset, "Units")
    if units == "GML":
        return 1.0
    if units == "CNTS":
        element = dataset.get(_PHILIPS_SUV_FACTOR)
        factor = float(element.value) if element is not None and element.value else 0.0
        if factor <= 0:
            raise DataError(f"{series}: counts without the factor to uptake values; export it in BQML")
        return factor
    if units != "BQML":
        raise DataError(f"{series}: uptake values need the unit BQML, GML or CNTS, found {units or 'none'}{_WITHOUT}")
    weight_kg = number(dataset, "PatientWeight")
    drug = (list(dataset.get("RadiopharmaceuticalInformationSequence") or []) or [Dataset()])[0]
    dose, half_life = number(drug, "RadionuclideTotalDose"), number(drug, "RadionuclideHalfLife")
    corrected = text(dataset, "DecayCorrection")
    missing = [
        name
        for name, value in (("weight", weight_kg), ("injected dose", dose), ("half-life", half_life))
        if not value or value <= 0
    ]
    if missing or weight_kg is None or dose is None or half_life is None:
        raise DataError(f"{series}: uptake values need {', '.join(missing)}, which the files do not say{_WITHOUT}")
    if corrected == "ADMIN":
        decay = 1.0
    elif corrected == "START":
        decay = 2.0 ** (-_seconds_after_injection(dataset, drug, series) / half_life)
    else:
        raise DataError(f"{series}: expected decay correction START or ADMIN, found {corrected or 'none'}{_WITHOUT}")
    return weight_kg * 1000.0 / (dose * decay)


def _seconds_after_injection(dataset: Dataset, drug: Dataset, series: Series) -> float:
    """From injection to the time that decay is corrected to: the start of the scan."""
    acquired = _moment(text(dataset, "AcquisitionDate"), text(dataset, "AcquisitionTime"))
    scanned = _moment(text(dataset, "SeriesDate"), text(dataset, "SeriesTime"))
    if scanned is None or (acquired is not None and scanned > acquired):
        # The series was made later than the scan (a reconstruction of its own): the scan begins with its first slice.
        if acquired is None:
            raise DataError(f"{series}: uptake values need the time of the scan, which the files do not say{_WITHOUT}")
        reference, duration = number(dataset, "FrameReferenceTime"), number(dataset, "ActualFrameDuration")
        if reference is None or duration is None:
            scanned = acquired
        else:
            half_life = number(drug, "RadionuclideHalfLife") or 1.0
            scanned = acquired - timedelta(milliseconds=reference) + _mean_activity_time(duration, half_life)
    assert scanned is not None
    injected = _moment("", text(drug, "RadiopharmaceuticalStartDateTime"))
    if injected is None:
        time = text(drug, "RadiopharmaceuticalStartTime")
        injected = _moment(scanned.strftime("%Y%m%d"), time)
        if injected is None:
            raise DataError(f"{series}: uptake values need the time of injection, which the files do not say{_WITHOUT}")
        if injected > scanned:
            injected -= _DAY  # before midnight
    seconds = (scanned - injected).total_seconds()
    if not 0 <= seconds < 2 * _DAY.total_seconds():
        raise DataError(f"{series}: injected {seconds:.0f} s before the scan, which cannot be; uptake is not computed")
    return seconds


def _mean_activity_time(duration_ms: float, half_life_s: float) -> timedelta:
    """Time within a frame at which the activity equals its mean over the frame."""
    import math

    decay = math.log(2) * duration_ms / 1000.0 / half_life_s
    if decay < 1e-9:
        return timedelta(milliseconds=duration_ms / 2)
    return timedelta(seconds=math.log(decay / (1 - math.exp(-decay))) / decay * duration_ms / 1000.0)


def _moment(date: str, time: str) -> datetime | None:
    if not time:
        return None
    digits = (date + time).split("+")[0].split("-")[0].split(".")[0]
    if (not date and len(digits) < 12) or not digits.isdigit():
        return None
    try:
        return datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
