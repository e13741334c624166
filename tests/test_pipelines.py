"""Every script in pipelines/ runs as it stands, on phantoms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medseg import io
from medseg.phantoms import PhantomKind, phantom, write_dataset
from medseg.volume import bounding_box

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
TINY = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))


def test_hippocampus(tmp_path):
    data = write_dataset(tmp_path / "data", training=5, test=0, kind=TINY)
    command = [sys.executable, PIPELINES / "hippocampus.py", data, tmp_path / "w", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "surface_dice" in done.stdout
    assert "'liver':" in done.stdout


def test_pseudo_labels(tmp_path):
    data = write_dataset(tmp_path / "data", training=4, test=0, kind=TINY)
    image, mask = phantom(99, TINY)
    io.write(image, tmp_path / "scans" / "new.nii.gz")
    box = bounding_box(mask.array == 1)
    assert box is not None
    rows = ["case,label,z0,y0,x0,z1,y1,x1", ",".join(map(str, ("new", "liver", *box.start, *box.stop)))]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    arguments = [data, tmp_path / "scans", tmp_path / "boxes.csv", tmp_path / "w", "4"]
    command = [sys.executable, PIPELINES / "pseudo_labels.py", *arguments]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "now decide in" in first.stderr
    assert "look first at: new (liver: " in first.stdout
    # The person draws what a network of four seconds cannot, and accepts.
    decisions = tmp_path / "w" / "proposals" / "proposals.csv"
    decisions.write_text(decisions.read_text().replace("\n,new,", "\naccept,new,"))
    drawn = mask.with_array((mask.array == 1).astype("uint8"))
    io.write(drawn, decisions.parent / "masks" / "new.nii.gz")
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "4 cases by hand, 1 accepted, 0 left out" in second.stdout
    assert "surface_dice" in second.stdout


def test_there_is_a_test_for_each():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in PIPELINES.glob("*.py")} <= tested
