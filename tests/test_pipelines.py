"""Every script in pipelines/ runs as it stands, on phantoms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from medseg.phantoms import PhantomKind, write_dataset

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
TINY = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))


def test_hippocampus(tmp_path):
    data = write_dataset(tmp_path / "data", training=5, test=0, kind=TINY)
    command = [sys.executable, PIPELINES / "hippocampus.py", data, tmp_path / "w", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "surface_dice" in done.stdout
    assert "'liver':" in done.stdout


def test_there_is_a_test_for_each():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in PIPELINES.glob("*.py")} <= tested
