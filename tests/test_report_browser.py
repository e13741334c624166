"""The pages as a browser shows them: drawn whole, coloured as meant, nothing wider than the window."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.comparing import System, compare_systems
from medseg.evaluation import evaluate_folders, write_tables
from medseg.evaluation.tables import FILES
from medseg.integrity import examine
from medseg.report import comparison_report, evaluation_report, examination_report, overlays, plots

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --hide-scrollbars"
)


@pytest.fixture
def shoot(tmp_path: Path):
    """Takes a picture (rows, columns, 3) of a page in a window of some width and height."""
    if BROWSER is None:
        pytest.skip("no chromium on this machine to show the page in")

    def take(page: Path, width: int, height: int) -> np.ndarray:
        picture = tmp_path / "picture.png"
        command = [
            BROWSER,
            *FLAGS.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height}",
        ]
        subprocess.run(
            [*command, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120
        )
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    return take


def near(picture: np.ndarray, color: str, within: int = 40) -> np.ndarray:
    """Where a picture has about a colour such as ``#2F86CC``."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return np.abs(picture - wanted).sum(axis=-1) < within


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A report on six cases of two labels with scans; one prediction is missing, one label is missed."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:16, :48, :48]
    for number in range(6):
        case, shift = f"case_{number}", number % 3
        reference = np.zeros((16, 48, 48), np.uint8)
        reference[((z - 8) * 2) ** 2 + (y - 24) ** 2 + (x - 18) ** 2 < 150] = 1
        reference[((z - 8) * 2) ** 2 + (y - 24) ** 2 + (x - 36) ** 2 < 50] = 2
        prediction = np.roll(reference, shift, axis=2)
        if number == 4:
            prediction[prediction == 2] = 0
        scan = rng.normal(100, 10, reference.shape) + 60 * (reference > 0)
        for folder, array in (
            ("scans", scan.astype(np.float32)),
            ("references", reference),
            ("predictions", prediction),
        ):
            if not (folder == "predictions" and number == 5):
                (tmp_path / folder).mkdir(exist_ok=True)
                nib.save(nib.Nifti1Image(array.T, np.diag((1, 1, 2, 1))), tmp_path / folder / f"{case}.nii.gz")
    labels = {"liver": 1, "tumour": 2}
    result = evaluate_folders(tmp_path / "predictions", tmp_path / "references", labels=labels)
    write_tables(result, tmp_path / "out")
    scans = {path.name[:-7]: path for path in (tmp_path / "scans").iterdir()}
    return evaluation_report(result, tmp_path / "out", images=scans, facts={"Model": "3d_fullres"}, links=FILES)


def test_a_report_is_drawn_whole(page: Path, shoot) -> None:
    picture = shoot(page, 1200, 4200)
    assert picture.shape == (4200, 1200, 3)
    white = near(picture, "#FFFFFF", 3)
    assert white[:, :30].all()  # the margins are free
    assert white[:, -30:].all()
    ink = ~white
    blank = np.flatnonzero(~ink.any(axis=1))
    assert np.diff(np.flatnonzero(ink.any(axis=1))).max() < 120  # no hole where something is missing
    assert len(blank) > 100
    for color in (plots.COLORS[0], plots.COLORS[1], overlays.REFERENCE_COLOR, overlays.PREDICTION_COLOR):
        assert near(picture, color).sum() > 60, color
    assert near(picture, "#000000", 3).sum() > 20_000  # the pictures
    for link in FILES:
        assert (page.parent / link).is_file()


def test_a_report_fits_a_narrow_window(page: Path, shoot) -> None:
    picture = shoot(page, 500, 5000)
    assert near(picture, "#FFFFFF", 3)[:, -6:].mean() > 0.98


def test_an_examination_is_drawn(tmp_path: Path, page: Path, shoot) -> None:
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "vessel"},
        "numTraining": 6,
        "training": [{"image": f"scans/case_{i}.nii.gz", "label": f"references/case_{i}.nii.gz"} for i in range(6)],
    }
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "Organs", **content}))
    picture = shoot(examination_report(examine(tmp_path), tmp_path / "out"), 1200, 4200)
    for color in (plots.COLORS[0], plots.COLORS[1], overlays.REFERENCE_COLOR):
        assert near(picture, color, 90).sum() > 60, color
    assert near(picture, "#FFFFFF", 3)[:, -30:].all()


def test_a_comparison_is_drawn(tmp_path: Path, shoot) -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    base = 0.8 + 0.05 * rng.standard_normal(30)
    systems = []
    for name, gain in (("old", 0.0), ("new", 0.03)):
        rows = [
            {"case": f"case_{i}", "label": "liver", "dice": base[i] + gain + 0.005 * rng.standard_normal(), "error": ""}
            for i in range(30)
        ]
        systems.append(System(name, (pd.DataFrame(rows),)))
    found = compare_systems(systems, metrics=("dice",))
    picture = shoot(comparison_report(found, tmp_path / "out"), 1200, 1400)
    assert near(picture, "#009E73").sum() > 20
    assert near(picture, "#FFFFFF", 3)[:, -30:].all()
