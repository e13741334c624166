"""The command line from end to end on small phantoms: verbs, exit codes, messages."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_out_examples import write_series

from medseg import cli, io
from medseg.cli.side_by_side import train_side_by_side
from medseg.model import load_tensors
from medseg.phantoms import PhantomKind, write_dataset

TINY = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))
VERBS = ("plan", "preprocess", "train", "predict", "evaluate", "export", "series", "demo", "doctor")


def medseg(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command run in this process."""
    capsys.readouterr()
    code = cli.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "phantoms", training=6, test=2, kind=TINY)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> Path:
    """A workspace with fold 0 trained for two steps."""
    workspace = tmp_path_factory.mktemp("work") / "w"
    assert cli.run(["plan", str(dataset), "-w", str(workspace)]) == 0
    assert cli.run(["train", "-w", str(workspace), "--fold", "0", "--iterations", "2"]) == 0
    return workspace


def test_help_shows_an_example_for_every_verb(capsys):
    code, out, _ = medseg(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    for verb in VERBS:
        code, out, _ = medseg(capsys, verb, "--help")
        assert code == 0
        assert f"medseg {verb}" in re.search(r"Example: (.*)", out)[1]  # type: ignore[index]


EXAMPLES_RUN = ("plan", "preprocess", "train", "predict", "evaluate", "compare", "best", "export", "series", "doctor")


def test_the_examples_of_help_run_as_they_stand(capsys, trained, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset, "dataset")
    shutil.copytree(trained, "workspace")
    shutil.copytree(dataset / "imagesTs", "scans")
    write_series(Path("STUDIES"))
    assert medseg(capsys, "evaluate", "dataset/labelsTr", "dataset/labelsTr", "-o", "report_a")[0] == 0
    shutil.copytree("report_a", "report_b")
    Path("masks").mkdir()
    for mask in Path("dataset/labelsTr").iterdir():
        shutil.copy(mask, "masks")
    for verb in EXAMPLES_RUN:
        _, text, _ = medseg(capsys, verb, "--help")
        example = re.search(r"Example: (.*?)(?:  |\n *\n|$)", text, flags=re.DOTALL)
        assert example is not None
        words = shlex.split(" ".join(example[1].replace("│", " ").split()))
        # two hours are two steps here, which the workspace has behind it
        words = ["--iterations" if word == "--budget" else "2" if word == "2h" else word for word in words]
        code, _, err = medseg(capsys, *words[1:])
        assert (words[:2], code) == (["medseg", verb], 0), f"{' '.join(words)}: {err}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus'. See: medseg --help"),
        (["train", "--fold", "0", "--seed", "-1"], "'--seed'"),
        (["predict"], "Missing argument"),
        (["train"], "which folds?"),
        (["train", "fold"], "expected medseg train fold 0-4"),
        (["plan", "nowhere"], "nowhere"),
        (["train", "--fold", "0", "-w", "nowhere"], "nowhere: no plan.json here; make one with: medseg plan"),
        (["predict", "x.nii.gz", "-o", "y", "-m", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = medseg(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_plan_is_json_alone_when_asked(capsys, dataset, tmp_path):
    code, out, err = medseg(capsys, "plan", dataset, "-w", tmp_path, "--json")
    assert code == 0
    assert err == ""
    assert {c["name"] for c in json.loads(out)["configurations"]} >= {"2d", "3d_fullres"}


def test_a_case_that_cannot_be_planned_with_is_one_line(capsys, dataset, tmp_path):
    sick = shutil.copytree(dataset, tmp_path / "sick")
    (sick / "imagesTr/phantom_001.nii.gz").write_bytes(b"nothing")
    code, out, err = medseg(capsys, "plan", sick, "-w", tmp_path / "w", "--json")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "1 of 6 cases cannot be used, and nothing is planned: phantom_001: " in err
    assert f"medseg doctor {sick}" in err
    assert not (tmp_path / "w").exists()


def test_plan_explains_itself(capsys, dataset, tmp_path):
    _, out, _ = medseg(capsys, "plan", dataset, "-w", tmp_path, "--explain")
    assert "3d_fullres" in out
    assert "mm" in out


def test_a_trained_fold_is_not_trained_again(capsys, trained):
    weights = trained / "models/3d_fullres/fold_0/weights.safetensors"
    before = weights.stat().st_mtime_ns
    code, out, _ = medseg(capsys, "train", "fold", "0", "-w", trained)
    assert code == 0
    assert "Dice" in out
    assert weights.stat().st_mtime_ns == before
    for name in ("run.json", "progress.csv", "progress.png", "validation/metrics.csv", "validation/metrics.json"):
        assert (weights.parent / name).is_file(), name


def test_folds_side_by_side_are_those_one_after_the_other(capsys, trained, tmp_path):
    workspace = shutil.copytree(trained, tmp_path / "w", ignore=shutil.ignore_patterns("models"))
    options = ("--iterations", 2, "--deterministic")
    code, out, err = medseg(capsys, "train", "-w", workspace, "--fold", "0,1", "--device", "cpu,cpu", *options)
    assert code == 0, err
    assert "fold 0: " in out
    assert "fold 1: " in out
    weights = [path / "models/3d_fullres/fold_0/weights.safetensors" for path in (trained, workspace)]
    before, after = (load_tensors(path)[0] for path in weights)
    assert all(before[name].equal(value) for name, value in after.items())


def test_a_fold_side_by_side_that_fails_is_told():
    lines: list[str] = []
    assert train_side_by_side(["bogus"], [3], ["cpu", "cpu"], lines.append) == {3: 2}
    assert lines[-1].startswith("fold 3: medseg: No such command 'bogus'")
    assert train_side_by_side(["bogus"], [3], ["cpu"], lines.append, should_stop=lambda: True) == {}


def test_another_length_needs_a_restart(capsys, trained):
    code, _, err = medseg(capsys, "train", "--fold", "0", "-w", trained, "--iterations", "3")
    assert code == 2
    assert "--restart" in err


def test_predictions_lie_on_the_grid_of_their_scans(capsys, trained, dataset, tmp_path):
    code, out, _ = medseg(capsys, "predict", dataset / "imagesTs", "-o", tmp_path, "-w", trained, "--json")
    assert code == 0
    result = json.loads(out)
    assert sorted(result["cases"]) == ["phantom_006", "phantom_007"]
    for case, mask in result["cases"].items():
        source, written = nib.load(dataset / "imagesTs" / f"{case}.nii.gz"), nib.load(mask)
        assert source.shape == written.shape
        np.testing.assert_array_equal(source.affine, written.affine)
        assert np.issubdtype(written.get_data_dtype(), np.integer)


@pytest.mark.parametrize("output", ["", "phantom_006.nii.gz"])
def test_a_mask_never_replaces_its_scan(capsys, trained, dataset, tmp_path, output):
    scans = shutil.copytree(dataset / "imagesTs", tmp_path / "scans")
    given = scans / output
    (tmp_path / "link").symlink_to(scans)
    code, _, err = medseg(capsys, "predict", given, "-o", tmp_path / "link" / output, "-w", trained)
    assert code == 2
    assert "phantom_006.nii.gz is a scan, and its mask would replace it" in err
    for scan in scans.iterdir():
        assert scan.read_bytes() == (dataset / "imagesTs" / scan.name).read_bytes()


def test_an_ending_that_is_not_written_is_refused_before_anything_is_predicted(capsys, trained, dataset, tmp_path):
    code, _, err = medseg(capsys, "predict", dataset / "nowhere", "-o", tmp_path / "a.mhd", "-w", trained)
    assert (code, "nowhere" in err) == (2, True)
    scan = dataset / "imagesTs/phantom_006.nii.gz"
    code, _, err = medseg(capsys, "predict", scan, "-o", tmp_path / "a.mhd", "-w", trained)
    assert code == 2
    assert "a.mhd: this ending is not written" in err
    assert "phantom_006" not in err


def test_a_start_that_fails_leaves_nothing_to_go_on_with(capsys, trained, tmp_path):
    workspace = shutil.copytree(trained, tmp_path / "w")
    fold = workspace / "models/3d_fullres/fold_0"
    train = ("train", "-w", workspace, "--fold", "0", "--iterations", "1")
    for wrong in (("--pretrained", "nowhere"), ("--precision", "fp64"), ("--device", "gpu")):
        code, _, err = medseg(capsys, *train, "--restart", *wrong)
        assert (code, len(err.splitlines())) == (2, 1)
        assert (fold / "weights.safetensors").is_file(), "thrown away although nothing better could begin"
    kept = workspace / "models/3d_fullres_promptable/fold_0/kept"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for wrong in (("--precision", "fp64"), ("--device", "gpu")):
        assert medseg(capsys, *train, "--promptable", "--restart", *wrong)[0] == 2
        assert kept.is_file()
    other = ("train", "-w", workspace, "--fold", "0", "--iterations", "1", "-c", "2d")
    code, _, err = medseg(capsys, *other, "--pretrained", fold.parent)
    assert code == 2
    assert "another topology" in err
    assert not (workspace / "models/2d/fold_0/run.json").exists()


def test_a_bad_scan_does_not_stop_the_others(capsys, trained, dataset, tmp_path):
    scans = tmp_path / "scans"
    shutil.copytree(dataset / "imagesTs", scans)
    good = (scans / "phantom_006.nii.gz").read_bytes()
    (scans / "bad.nii.gz").write_bytes(good[: len(good) // 2])
    code, _, err = medseg(capsys, "predict", scans, "-o", tmp_path / "masks", "-w", trained, "--no-mirror")
    assert code == 1
    assert "bad" in err
    written = sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz"))
    assert written == ["phantom_006.nii.gz", "phantom_007.nii.gz"]


def test_a_stopped_prediction_is_not_done(capsys, trained, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.cli.signals.StopOnSignal.__call__", lambda self: True)
    code, out, err = medseg(capsys, "predict", dataset / "imagesTs", "-o", tmp_path / "masks", "-w", trained)
    assert (code, out) == (1, "")
    assert "stopped with 0 masks; the same command goes on" in err


def test_a_stopped_fine_tuning_goes_on_without_the_model_that_it_came_from(capsys, trained, tmp_path, monkeypatch):
    workspace = shutil.copytree(trained, tmp_path / "w")
    model = shutil.copytree(workspace / "models/3d_fullres", tmp_path / "pretrained")
    train = ("train", "-w", workspace, "--fold", 1, "--iterations", 2)
    with monkeypatch.context() as stopping:
        stopping.setattr("medseg.cli.signals.StopOnSignal.__call__", lambda self: True)
        assert medseg(capsys, *train, "--pretrained", model)[0] == 1
    shutil.rmtree(model)
    assert medseg(capsys, *train)[0] == 0
    run = json.loads((workspace / "models/3d_fullres/fold_1/run.json").read_text())
    assert run["pretrained"] == str(model)


@pytest.mark.parametrize("promptable", [(), ("--promptable",)])
def test_a_stopped_training_is_not_done(capsys, trained, tmp_path, monkeypatch, promptable):
    shutil.copytree(trained, tmp_path / "workspace")
    monkeypatch.setattr("medseg.cli.signals.StopOnSignal.__call__", lambda self: True)
    code, out, _ = medseg(
        capsys, "train", "-w", tmp_path / "workspace", "--fold", 1, "--iterations", 3, "--restart", *promptable
    )
    assert code == 1
    assert out.startswith("stopped; resume with: medseg train -w")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_single_bad_scan_is_one_line(capsys, trained, dataset, tmp_path, json_too):
    scan = tmp_path / f"{'a_long_name_' * 15}.nii.gz"
    scan.write_bytes((dataset / "imagesTs/phantom_006.nii.gz").read_bytes()[:500])
    code, out, err = medseg(capsys, "predict", scan, "-o", tmp_path / "masks", "-w", trained, *json_too)
    assert code == 2
    assert (list(json.loads(out)["failures"]) == [io.name_of(scan)]) if json_too else out == ""
    assert err.startswith("medseg: predict: a_long_name")
    assert "cut off; copy the file again" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "masks").exists()


def test_a_log_line_in_a_file_is_one_line(capsys, trained, dataset, tmp_path):
    scans = shutil.copytree(dataset / "imagesTs", tmp_path / "scans")
    (scans / f"{'a_long_name_' * 15}.nii.gz").write_bytes(b"")
    code, out, err = medseg(capsys, "predict", scans, "-o", tmp_path / "masks", "-w", trained, "--json", "--no-mirror")
    assert code == 1
    assert len(json.loads(out)["cases"]) == 2
    assert len(err.splitlines()) == 3  # while it works, and at the end what failed and why


def test_a_model_folder_is_all_that_prediction_needs(capsys, trained, dataset, tmp_path):
    model = shutil.copytree(trained / "models/3d_fullres", tmp_path / "model")
    scan = dataset / "imagesTs/phantom_006.nii.gz"
    code, _, _ = medseg(capsys, "predict", scan, "-o", tmp_path / "mask.nii.gz", "-m", model, "--probabilities")
    assert code == 0
    mask = io.read_labels(tmp_path / "mask.nii.gz")
    probabilities = np.load(tmp_path / "phantom_006.npz")["probabilities"]
    assert probabilities.shape == (4, *mask.array.shape)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-4)
    assert (probabilities.argmax(0) == mask.array).mean() > 0.999


def test_evaluate_writes_tables_and_a_report(capsys, dataset, tmp_path):
    labels = dataset / "labelsTr"
    code, out, _ = medseg(capsys, "evaluate", labels, labels, "-o", tmp_path, "--images", dataset / "imagesTr")
    assert code == 0
    assert "1.0000" in out
    assert {"metrics.csv", "metrics.json"} <= {path.name for path in tmp_path.iterdir()}
    assert next(tmp_path.glob("*.html")).stat().st_size > 10_000


def test_nothing_that_could_be_compared_is_no_table(capsys, dataset, tmp_path):
    code, out, err = medseg(capsys, "evaluate", dataset / "labelsTs", dataset / "labelsTr")
    assert (code, out) == (2, "")
    assert "no prediction is named phantom_000" in err


def test_no_dataset_is_no_finding(capsys, tmp_path):
    code, out, err = medseg(capsys, "doctor", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere: no such file or folder" in err


def test_doctor_finds_what_is_wrong_and_exits_with_1(capsys, dataset, tmp_path):
    sick = shutil.copytree(dataset, tmp_path / "sick")
    (sick / "imagesTr/phantom_000.nii.gz").write_bytes(b"nothing")
    code, out, _ = medseg(capsys, "doctor", sick)
    assert code == 1
    assert "phantom_000" in out
    assert medseg(capsys, "doctor", dataset)[0] == 0


@pytest.mark.parametrize("damage", ["{", '{"version": 1}'])
def test_a_corrupt_plan_is_named(capsys, trained, tmp_path, damage):
    workspace = shutil.copytree(trained, tmp_path / "w")
    (workspace / "plan.json").write_text(damage)
    code, _, err = medseg(capsys, "train", "--fold", "1", "-w", workspace, "--iterations", "1")
    assert code == 2
    assert "plan.json" in err


def test_truncated_weights_are_named(capsys, trained, dataset, tmp_path):
    model = shutil.copytree(trained / "models/3d_fullres", tmp_path / "model")
    weights = model / "fold_0/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = medseg(capsys, "predict", dataset / "imagesTs", "-o", tmp_path / "o", "-m", model)
    assert code == 2
    assert "weights.safetensors" in err
    assert not (tmp_path / "o").exists()


def test_no_right_to_write_is_said(capsys, trained, dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = medseg(capsys, "predict", dataset / "imagesTs", "-o", tmp_path / "file/masks", "-w", trained)
    assert code == 2
    assert "cannot write" in err


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(dataset, tmp_path):
    """SIGKILL while training, then the same command: bit for bit the weights of an unbroken run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _TRAIN_WITH_FREQUENT_CHECKPOINTS]
    for name in ("whole", "killed"):
        assert cli.run(["plan", str(dataset), "-w", str(tmp_path / name)]) == 0
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    fold = tmp_path / "killed/models/3d_fullres/fold_0"
    for _ in range(2):
        running = subprocess.Popen(
            [*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = _modified(fold / "checkpoint.safetensors")
        while running.poll() is None and _modified(fold / "checkpoint.safetensors") == before:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not (fold / "weights.safetensors").exists(), "the run was over before it could be killed"
    subprocess.run([*command, str(tmp_path / "killed")], check=True, env=environment, capture_output=True)
    whole, _ = load_tensors(tmp_path / "whole/models/3d_fullres/fold_0/weights.safetensors")
    killed, _ = load_tensors(fold / "weights.safetensors")
    assert all(value.equal(killed[name]) for name, value in whole.items())


_TRAIN_WITH_FREQUENT_CHECKPOINTS = """
import sys
from medseg.training import loop
loop.CHECKPOINT_SECONDS = 0.0
from medseg import cli
sys.exit(cli.run(["train", "-w", sys.argv[1], "--fold", "0", "--iterations", "16", "--seed", "5"]))
"""


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_readme_commands_name_real_verbs_and_options(capsys):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    commands = re.findall(r"^ +(?:.*&& )?(medseg [^#\n]*)", readme, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        verb, *arguments = shlex.split(command)[1:]
        _, text, _ = medseg(capsys, verb, "--help")
        for option in (argument for argument in arguments if argument.startswith("-")):
            assert option in text, command
