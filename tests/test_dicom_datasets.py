"""Datasets of DICOM folders with SEG and RTSTRUCT masks: planned, trained, predicted and measured as any other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_examples import PHI, count, stack

import medseg
from medseg import cli, dicom, io
from medseg.dataset import CaseRef, Dataset, load_case
from medseg.dicom.description import Algorithm
from medseg.dicom.mask_writing import write_masks
from medseg.errors import LabelError, UsageError
from medseg.evaluation import evaluate_folders
from medseg.integrity import examine
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

LABELS = LabelSet({"core": (1,), "shell": (2,)})
SHAPE, SPACING = (12, 16, 18), (2.0, 1.5, 1.0)
MANIFEST = """
name: DICOM
channels: [CT]
labels: {background: 0, core: 1, shell: 2}
images: "{case}"
label: "{case}"
"""


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def write_case(folder: Path, number: int, form: str) -> np.ndarray:
    """A CT with a ball in a shell, and its mask beside the slices."""
    z, y, x = np.indices(SHAPE)
    centre = np.array([6, 7 + number % 3, 8 + number % 2])
    distance = np.sqrt(sum(((a - c) * s) ** 2 for a, c, s in zip((z, y, x), centre, SPACING, strict=True)))
    mask = np.select([distance < 4, distance < 6], [1, 2], 0).astype(np.uint8)
    image = (np.random.default_rng(number).normal(0, 20, SHAPE) + 200 * mask).astype(np.int16)
    stack(
        folder,
        image,
        step=(0, 0, SPACING[0]),
        PixelSpacing=list(SPACING[1:]),
        StudyInstanceUID=f"1.2.{number}",
        SeriesInstanceUID=f"1.2.{number}.1",
        FrameOfReferenceUID=f"1.2.{number}.9",
        RescaleIntercept="-1024",
        RescaleSlope="1",
    )
    (series,) = dicom.find_series(folder)
    label = LabelVolume(mask, series.geometry)
    write_masks(label, LABELS, series, folder / f"{form}.dcm", format=form, algorithm=Algorithm("test", "1"))
    return mask


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases, four with SEG and two with RTSTRUCT, and a manifest; a file beside the folders is no case."""
    root = tmp_path_factory.mktemp("dicom")
    for number in range(6):
        write_case(root / f"case_{number}", number, "rtstruct" if number > 3 else "seg")
    (root / "manifest.yaml").write_text(MANIFEST)
    return root


def test_a_manifest_of_folders(cases: Path) -> None:
    dataset = Dataset.open(cases / "manifest.yaml")
    assert [case.name for case in dataset.cases] == [f"case_{number}" for number in range(6)]
    for number, form in ((0, "seg"), (5, "rtstruct")):
        expected = write_case(cases.parent / f"again_{form}", number, form)
        image, mask = load_case(dataset.cases[number], dataset.labels, dataset.channels)
        assert image.array.shape == (1, *SHAPE) and mask is not None
        assert image.array.min() < -900  # Hounsfield units
        apart = np.mean(mask.array != expected)
        assert apart == 0 if form == "seg" else apart < 0.01


def test_what_a_dataset_says_of_dicom_survives_the_workspace(tmp_path: Path, cases: Path) -> None:
    text = MANIFEST + 'dicom: {series: "", modality: CT, segments: {CORE: 1, shell: 2}, fix_spacing: true}\n'
    (tmp_path / "m.yaml").write_text(text)
    dataset = Dataset.open(tmp_path / "m.yaml", root=cases)
    dataset.save(tmp_path / "dataset.json")
    again = Dataset.load(tmp_path / "dataset.json")
    assert again == dataset
    assert again.cases[0].segments == (("CORE", 1), ("shell", 2)) and again.cases[0].choice.fix_spacing
    _, mask = load_case(again.cases[0], again.labels, again.channels)
    assert mask is not None and set(np.unique(mask.array)) == {0, 1, 2}


def test_segments_that_a_label_set_does_not_name(cases: Path) -> None:
    folder = cases / "case_0"
    other = LabelSet({"liver": (1,)})
    with pytest.raises(LabelError, match=r"none of the labels \['liver'\] occurs among its segments: 'core', 'shell'"):
        load_case(CaseRef("c", (folder,), folder), other, ("CT",))
    with pytest.raises(UsageError, match="expected series of modality MR, found CT"):
        load_case(CaseRef("c", (folder,), folder), LABELS, ("MR",))


def test_several_series_are_channels_of_a_case(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", 1, "seg")
    pet = {"SeriesInstanceUID": "1.2.1.2", "StudyInstanceUID": "1.2.1", "FrameOfReferenceUID": "1.2.1.9"}
    stack(tmp_path / "p1" / "pet", count(6, 8, 9), kind="PT", step=(0, 0, 4.0), PixelSpacing=[3.0, 2.0], **pet)
    text = MANIFEST.replace("[CT]", "[CT, PET]")
    (tmp_path / "m.yaml").write_text(text + "dicom: {resample: true}\n")
    dataset = Dataset.open(tmp_path / "m.yaml")
    image, mask = load_case(dataset.cases[0], dataset.labels, dataset.channels)
    assert image.array.shape == (2, *SHAPE) and mask is not None
    np.testing.assert_array_equal(image.array[1, ::2, ::2, ::2], count(6, 8, 9))
    assert not [finding for finding in examine(tmp_path / "m.yaml").findings if finding.severity == "error"]
    (tmp_path / "m.yaml").write_text(text)
    (finding,) = (finding for finding in examine(tmp_path / "m.yaml").findings if finding.severity == "error")
    assert finding.case == "p1"


def test_the_doctor_reads_dicom(cases: Path, tmp_path: Path) -> None:
    assert [finding.severity for finding in examine(cases / "manifest.yaml").findings] == []
    stack(tmp_path / "a", count(4, 2, 2), positions=[[0, 0, z] for z in (0, 1, 2, 4)])
    stack(tmp_path / "b", count(3, 2, 2), SeriesInstanceUID="1.9")[0].write_bytes(b"\0" * 128 + b"DICM")
    problems = [(finding.severity, finding.problem) for finding in examine(tmp_path).findings]
    assert any(severity == "error" and "1 slice is missing" in problem for severity, problem in problems)
    assert any(severity == "error" and "ends before any pixels" in problem for severity, problem in problems)


def test_dicom_masks_are_measured(cases: Path, tmp_path: Path) -> None:
    for number in (0, 4):
        case = Dataset.open(cases / "manifest.yaml").cases[number]
        _, mask = load_case(case, LABELS, ("CT",))
        assert mask is not None
        io.write(mask, tmp_path / "nifti" / f"case_{number}.nii.gz")
        form = "seg" if number == 0 else "rtstruct"
        target = tmp_path / "references" / f"case_{number}.{form}.dcm"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((cases / f"case_{number}" / f"{form}.dcm").read_bytes())
    labels = {"background": 0, "core": 1, "shell": 2}
    evaluation = evaluate_folders(tmp_path / "nifti", tmp_path / "references", labels=labels)
    assert not evaluation.failures
    assert evaluation.table["dice"].tolist() == [1.0] * 4
    unnamed = evaluate_folders(tmp_path / "nifti", tmp_path / "references")
    assert all("name the labels with --labels" in reason for reason in unnamed.failures.values())


def test_from_studies_to_masks_on_the_command_line(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    workspace = tmp_path / "w"
    code, _, err = run(capsys, "plan", cases / "manifest.yaml", "-w", workspace)
    assert code == 0, err
    code, _, err = run(capsys, "train", "-w", workspace, "--fold", "0", "--iterations", "2")
    assert code == 0, err
    assert list((workspace / "models").rglob("validation/*.nii.gz"))
    studies = tmp_path / "studies"
    write_case(studies / "x", 1, "seg")
    stack(studies / "mr", count(3, 8, 8), kind="MR", SeriesInstanceUID="1.7")
    code, out, err = run(capsys, "predict", studies, "-o", tmp_path / "out", "-w", workspace, "--fold", "0", "--json")
    assert code == 0, err
    assert list(json.loads(out)["cases"]) == ["1.2.1.1"]
    mask = io.read_labels(tmp_path / "out" / "1.2.1.1.nii.gz")
    scan = io.read(studies / "x")
    assert mask.geometry == scan.geometry
    model = medseg.load_model(next((workspace / "models").iterdir()), folds=(0,))
    np.testing.assert_array_equal(model.predict(studies / "x").array, mask.array)
    code, _, err = run(capsys, "predict", studies, "-o", tmp_path / "o", "-w", workspace, "--modality", "PT")
    assert code == 2 and "expected series of modality PT, found CT, MR" in err and err.count("\n") == 1
    spoken = out + err + "".join(str(path) for path in tmp_path.rglob("*"))
    assert not any(value in spoken for value in PHI.values())


def test_series_are_listed(cases: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = run(capsys, "series", cases / "case_0")
    assert code == 0 and not err
    assert re.search(r"CT +volume +12 +2 x 1.5 x 1 .*1\.2\.0\.1", out) and re.search(r"SEG +segmentation", out)
    code, out, _ = run(capsys, "series", cases / "case_0", "--modality", "ct", "--json")
    (listed,) = json.loads(out)["series"]
    assert (listed["uid"], listed["shape"], listed["spacing_mm"]) == ("1.2.0.1", list(SHAPE), list(SPACING))
    assert not any(value in out for value in PHI.values())


def test_one_folder_for_all_channels_and_one_template_each(tmp_path: Path) -> None:
    for uid, description, plus in (("1.1", "early phase", 0), ("1.2", "late phase", 50)):
        tags = {"SeriesInstanceUID": uid, "SeriesDescription": description}
        stack(tmp_path / "p" / "all", count(3, 2, 2) + plus, prefix=uid, **tags)
    head = "name: D\nchannels: [first, second]\nlabels: {background: 0, a: 1}\n"
    series = "dicom: {series: {first: late, second: early}}\n"
    for number, images in enumerate(('"{case}/all"', '{first: "{case}/all", second: "{case}/all"}')):
        manifest = tmp_path / f"{number}.yaml"
        manifest.write_text(f"{head}images: {images}\n{series}")
        (case,) = Dataset.open(manifest).cases
        image = io.read(case.sources(("first", "second")), channels=2)
        np.testing.assert_array_equal(image.array, [count(3, 2, 2) + 50, count(3, 2, 2)])
