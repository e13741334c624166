"""What is said before predicting holds: the process stays below it, and a scan that would not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from examples import small_configuration, small_plan

from medseg import io, networks
from medseg.errors import MemoryNeedError
from medseg.footprint import working_memory
from medseg.io import Header
from medseg.labels import LabelSet
from medseg.model import Model
from medseg.prediction import PredictionSettings, Predictor, Wishes, require_memory
from medseg.volume import Geometry, Volume

MEASURE = """
import json, re, sys
sys.path.insert(0, sys.argv[2])
from test_footprint import many_labels_predictor
from medseg import io
from medseg.prediction import Job, Wishes, predict_cases, require_memory
from pathlib import Path
folder, limit, likely = Path(sys.argv[1]), int(sys.argv[3]), sys.argv[4] == "likely"
wishes = Wishes(probabilities=likely, uncertainty=likely)
predictor = many_labels_predictor(limit or None, sys.argv[5])
predictor.scans = 20
need = require_memory(predictor, io.probe(folder / "a.nii"), "a", wishes.wanted(predictor))
# the peak so far is that of loading libraries
Path("/proc/self/clear_refs").write_text("5")
done = predict_cases(predictor, [Job("a", (folder / "a.nii",), folder / "m.nii")], wishes=wishes)
assert not done.failures, done.failures
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([need.ram_bytes, peak, predictor.placements[0].together]))
"""


def many_labels_predictor(max_ram_bytes: int | None = None, engine: str = "torch") -> Predictor:
    labels = LabelSet({f"organ {i}": (i,) for i in range(1, 25)})
    plan = small_plan(small_configuration((1.2, 1.0, 1.0), (32, 32, 32)), labels=labels)
    network = networks.build(plan.configurations[0].network, 1, labels.output_count)
    model = Model(plan, plan.configurations[0], (), "fp32", {"0": network.state_dict()})
    return Predictor(model, "cpu", "fp32", PredictionSettings(step=0.75, max_ram_bytes=max_ram_bytes, engine=engine))


def write_scan(folder: Path, shape: tuple[int, int, int]) -> Path:
    image = np.random.default_rng(0).normal(0, 1, (1, *shape)).astype(np.float32)
    io.write(Volume(image, Geometry.from_spacing(shape, (1.0, 1.0, 1.0))), folder / "a.nii")
    return folder / "a.nii"


def measured(folder: Path, limit: int = 0, what: str = "mask", engine: str = "torch") -> tuple[int, int, int]:
    """What was said, the peak of the process, and windows computed at once."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(Path(__file__).parent), str(limit), what, engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, peak, together = json.loads(done.stdout.splitlines()[-1])
    return said, peak, together


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")


@linux
@pytest.mark.parametrize("what", ["mask", "likely"])
def test_the_peak_stays_below_what_was_said(tmp_path, what):
    write_scan(tmp_path, (70, 120, 130))
    said, peak, _ = measured(tmp_path, what=what)
    assert peak < said
    assert said < 1.6 * peak, "an upper bound should not be far above"


@linux
def test_a_limit_is_kept_by_computing_fewer_windows_at_once(tmp_path):
    write_scan(tmp_path, (40, 150, 160))
    said, _, many = measured(tmp_path)
    limit = int(said - 40e6)
    _, peak, few = measured(tmp_path, limit)
    assert few < many
    assert peak < limit


@linux
def test_twice_the_planes_take_no_more_but_for_the_scan_and_its_mask(tmp_path):
    peaks = []
    for planes in (90, 180):
        write_scan(tmp_path, (planes, 120, 130))
        peaks.append(measured(tmp_path)[1] - planes * 120 * 130 * (4 + 1))
    assert peaks[1] < 1.1 * peaks[0]


def test_more_labels_and_finer_spacing_need_more():
    header = Header(1, Geometry.from_spacing((50, 60, 70), (2, 1, 1)), np.dtype(np.int16))
    fine, coarse = small_configuration((1.0, 1.0, 1.0)), small_configuration((4.0, 2.0, 2.0))
    few, many = small_plan(fine), small_plan(fine, labels=LabelSet({str(i): (i,) for i in range(1, 30)}))
    assert working_memory(header, few, fine, 1).sums_bytes < working_memory(header, many, fine, 1).sums_bytes
    assert working_memory(header, many, coarse, 1).sums_bytes < working_memory(header, many, fine, 1).sums_bytes
    assert working_memory(header, few, fine, 1).windows_bytes < working_memory(header, few, fine, 4).windows_bytes


def test_a_scan_that_would_not_fit_is_refused_before_it_is_read(tmp_path):
    header = io.probe(write_scan(tmp_path, (40, 50, 60)))
    predictor = many_labels_predictor(max_ram_bytes=100_000_000)
    with pytest.raises(MemoryNeedError, match=r"a: predicting needs at least .* --max-ram allows 0\.10 GB; give --max"):
        require_memory(predictor, header, "a", Wishes().wanted(predictor))
