"""What is said before predicting holds: the process stays below it, and a scan that would not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from examples import small_configuration, small_plan

from medseg import io
from medseg.errors import MemoryNeedError
from medseg.footprint import prediction_bytes
from medseg.io import Header
from medseg.labels import LabelSet
from medseg.prediction import PredictionSettings, Predictor
from medseg.volume import Geometry, Volume

MEASURE = """
import json, re, sys
sys.path.insert(0, sys.argv[2])
from test_footprint import many_labels_predictor
from medseg.prediction import Job, predict_cases
from pathlib import Path
import psutil
predictor = many_labels_predictor()
before = psutil.Process().memory_info().rss
folder = Path(sys.argv[1])
assert not predict_cases(predictor, [Job("a", (folder / "a.nii",), folder / "m.nii")]).failures
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([before, peak]))
"""


def many_labels_predictor(max_ram_bytes: int | None = None) -> Predictor:
    from test_prediction import small_model

    labels = LabelSet({f"organ {i}": (i,) for i in range(1, 12)})
    return Predictor(small_model(labels=labels), "cpu", "fp32", PredictionSettings(max_ram_bytes=max_ram_bytes))


@pytest.fixture
def scan(tmp_path) -> Path:
    image = np.random.default_rng(0).normal(0, 1, (1, 70, 120, 130)).astype(np.float32)
    io.write(Volume(image, Geometry.from_spacing(image.shape[1:], (1.0, 1.0, 1.0))), tmp_path / "a.nii")
    return tmp_path / "a.nii"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_the_peak_stays_below_what_was_said(scan):
    command = [sys.executable, "-c", MEASURE, str(scan.parent), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak = json.loads(done.stdout.splitlines()[-1])
    predictor = many_labels_predictor()
    said = prediction_bytes(
        io.probe(scan), predictor.model.plan, predictor.model.configuration, predictor.windows_together
    )
    assert peak - before < said
    assert said < 4 * (peak - before), "an upper bound should not be far above"


def test_more_labels_and_finer_spacing_need_more():
    header = Header(1, Geometry.from_spacing((50, 60, 70), (2, 1, 1)), np.dtype(np.int16))
    configuration = small_configuration((1.0, 1.0, 1.0))
    few = small_plan(configuration)
    many = small_plan(configuration, labels=LabelSet({str(i): (i,) for i in range(1, 30)}))
    assert prediction_bytes(header, few, configuration, 1) < prediction_bytes(header, many, configuration, 1)
    coarse = small_configuration((4.0, 2.0, 2.0))
    assert prediction_bytes(header, many, coarse, 1) < prediction_bytes(header, many, configuration, 1)


def test_a_scan_that_would_not_fit_is_refused_before_it_is_read(scan):
    with pytest.raises(MemoryNeedError, match=r"needs up to .* GB of memory, --max-ram allows 0\.1 GB; give --max-ram"):
        many_labels_predictor(max_ram_bytes=100_000_000).require_memory([scan])
