"""The doctor: every problem of a dataset in one pass, and remedies that mend it when they are run as written."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_dataset import GRID, image, manifest, mask, msd, nnunet

from medseg import integrity, io
from medseg.dataset import Dataset, Finding
from medseg.volume import Geometry, LabelVolume, Volume


def scan(path: Path, seed: int = 0, grid: Geometry = GRID, channels: int = 1) -> Path:
    """A scan like no other."""
    array = np.random.default_rng(seed).normal(0, 400, (channels, *grid.shape)).astype(np.float32)
    io.write(Volume(array, grid), path)
    return path


def sound(folder: Path, names: Sequence[str] = ("a", "b", "c"), **content: object) -> Path:
    """A dataset without any problem."""
    msd(folder, list(names), **content)
    for number, name in enumerate(names):
        scan(folder / "imagesTr" / f"{name}.nii.gz", number)
    return folder


def examine(dataset: Dataset | Path, **options: object) -> tuple[Finding, ...]:
    """The findings alone."""
    return integrity.examine(dataset, **options).findings


def brief(findings: Sequence[Finding]) -> list[tuple[str, str | None, str | None]]:
    """Severity, case and file name of each finding."""
    return [(finding.severity, finding.case, finding.file and finding.file.name) for finding in findings]


def only(findings: Sequence[Finding]) -> Finding:
    """The one finding there is."""
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


def run(remedy: str) -> None:
    """Run the command in a remedy."""
    python, option, code = shlex.split(remedy[remedy.index("python -c") :])
    assert (python, option) == ("python", "-c")
    exec(code, {})


def test_nothing_to_complain_about(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    assert examine(sound(tmp_path), progress=lambda done, total, what: seen.append((done, total))) == ()
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert examine(Dataset.open(tmp_path)) == ()
    assert examine(tmp_path / "dataset.json") == ()


def test_every_case_is_examined(tmp_path: Path) -> None:
    names = [f"case_{number}" for number in range(7)]
    folder = sound(tmp_path, names)
    images, masks = ([folder / part / f"{name}.nii.gz" for name in names] for part in ("imagesTr", "labelsTr"))
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:-20])
    masks[2].unlink()
    images[2].write_bytes(b"nonsense")
    mask(masks[3], 9)
    mask(masks[4], 0)
    image(images[5], np.nan)
    image(images[6], 0.0)
    findings = examine(folder)
    assert sorted(brief(findings), key=str) == sorted(
        [
            ("error", "case_0", "case_0.nii.gz"),
            ("error", "case_1", "case_1.nii.gz"),
            ("error", "case_2", "case_2.nii.gz"),
            ("error", "case_2", "case_2.nii.gz"),
            ("error", "case_3", "case_3.nii.gz"),
            ("warning", "case_3", "case_3.nii.gz"),
            ("warning", "case_4", "case_4.nii.gz"),
            ("error", "case_5", "case_5.nii.gz"),
            ("warning", "case_6", "case_6.nii.gz"),
        ],
        key=str,
    )
    text = " | ".join(finding.problem for finding in findings)
    for part in (
        "is empty",
        "gzip stream is cut off",
        "is missing",
        "is not NIfTI",
        "values that are not declared: 9 (1 voxels)",
        "the mask is empty",
        "1 of 24 voxels are NaN or infinite",
        "all voxels are 0.0",
    ):
        assert part in text, part
    assert all("\n" not in str(finding) for finding in findings)


def test_voxels_that_are_no_numbers_are_mended_by_the_command(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a folder")
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) * -50
    array[0, 0, 0] = np.nan, np.inf, -np.inf, 7
    io.write(Volume(array, GRID), folder / "imagesTr" / "a.nii.gz")
    remedy = only(examine(folder)).remedy
    command = shlex.split(remedy[remedy.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert examine(folder) == ()
    assert io.read(folder / "imagesTr" / "a.nii.gz").array[0, 0, 0].tolist() == [0, 0, 0, 7]


@pytest.mark.parametrize(("moved_mm", "words"), [(0.5, "take over the grid"), (30.0, "look at both overlaid")])
def test_a_mask_beside_its_image_is_moved_by_the_command(tmp_path: Path, moved_mm: float, words: str) -> None:
    folder = sound(tmp_path)
    mask(folder / "labelsTr" / "b.nii.gz", grid=Geometry(GRID.shape, GRID.affine + np.eye(4, k=3) * moved_mm))
    finding = only(examine(folder))
    assert (finding.severity, finding.case) == ("error", "b")
    assert f"{moved_mm:.3g} voxels ({moved_mm:.3g} mm) off that of b.nii.gz" in finding.problem
    assert finding.remedy.startswith(words)
    run(finding.remedy)
    assert examine(folder) == ()


def test_a_mask_of_another_size_must_be_resampled(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    mask(folder / "labelsTr" / "b.nii.gz", grid=GRID.resized((2, 3, 5)))
    finding = only(examine(folder))
    assert "grid differs from b.nii.gz: 2x3x5 voxels" in finding.problem
    run(finding.remedy)
    assert examine(folder) == ()


def test_channels_on_different_grids(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a"])
    scan(folder / "imagesTr" / "a_0000.nii.gz", 0)
    scan(folder / "imagesTr" / "a_0001.nii.gz", 1, GRID.resized((2, 3, 5)))
    finding = only(examine(folder))
    assert brief([finding]) == [("error", "a", "a_0001.nii.gz")]


def test_too_many_channels(tmp_path: Path) -> None:
    folder = sound(tmp_path, ["a", "b", "c"])
    scan(folder / "imagesTr" / "b.nii.gz", 1, channels=4)
    assert only(examine(folder)).problem == "expected 1 channels (CT), found 4"


def test_grey_pictures_are_no_problem(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((1, 3, 4), (1, 1, 1))
    folder = nnunet(tmp_path, [], ("R", "G", "B"), file_ending=".png", numTraining=1)
    grey = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    io.write(Volume(grey, grid), folder / "imagesTr" / "a_0000.png")
    mask(folder / "labelsTr" / "a.png", grid=grid)
    assert examine(folder) == ()


def test_one_image_under_two_names(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    shutil.copy(folder / "imagesTr" / "a.nii.gz", folder / "imagesTr" / "c.nii.gz")
    finding = only(examine(folder))
    assert (finding.severity, finding.case, finding.others) == ("warning", "a", ("c",))
    assert finding.problem.startswith("the same image under 2 names: a, c; folds ")
    # The same bytes in another shape are another image.
    io.write(Volume(np.ones((1, 2, 3, 4), np.float32), GRID), folder / "imagesTr" / "a.nii.gz")
    io.write(Volume(np.ones((1, 4, 3, 2), np.float32), GRID.resized((4, 3, 2))), folder / "imagesTr" / "c.nii.gz")
    assert not any("the same image" in finding.problem for finding in examine(folder))


def test_names_that_stand_twice_and_their_files(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    content = json.loads((folder / "dataset.json").read_text())
    content["training"].append(content["training"][0])
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "imagesTr" / "a.nii.gz").write_bytes(b"")
    problems = [finding.problem for finding in examine(folder) if finding.severity == "error"]
    assert problems == ["2 cases have this name", "is empty", "is empty"]


def test_a_class_that_nobody_drew(tmp_path: Path) -> None:
    folder = sound(tmp_path, labels={"0": "background", "1": "organ", "2": "vessel"})
    finding = only(examine(folder))
    assert (finding.severity, finding.problem) == ("warning", "vessel (2) occurs in none of 3 masks")


def test_orientations_that_differ(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    turned = GRID.changed(GRID.change_to("LPS"))
    scan(folder / "imagesTr" / "a.nii.gz", 0, turned)
    mask(folder / "labelsTr" / "a.nii.gz", grid=turned)
    finding = only(examine(folder))
    assert finding.severity == "note"
    assert finding.problem == "orientations differ: 2 RAS, 1 LPS; all are brought to RAS"


def test_voxels_of_another_unit(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    large = Geometry.from_spacing(GRID.shape, (50.0, 20.0, 10.0))
    scan(folder / "imagesTr" / "a.nii.gz", 0, large)
    mask(folder / "labelsTr" / "a.nii.gz", grid=large)
    finding = only(examine(folder))
    assert brief([finding]) == [("warning", "a", None)]
    assert finding.problem == "voxels of 50 x 20 x 10 mm, where the median is 5 x 2 x 1 mm"


def test_cases_without_masks(tmp_path: Path) -> None:
    scan(tmp_path / "images" / "a.nii.gz")
    text = "{name: n, channels: [CT], labels: {organ: 1}, images: 'images/{case}.nii.gz'}"
    finding = only(examine(manifest(tmp_path / "m.yaml", text)))
    assert (finding.severity, finding.case) == ("note", "a")


def test_checksums(tmp_path: Path) -> None:
    file = scan(tmp_path / "images" / "a.nii.gz")
    mask(tmp_path / "masks" / "a.nii.gz")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    text = (
        "{name: n, channels: [CT], labels: {organ: 1}, images: 'images/{case}.nii.gz', label: 'masks/{case}.nii.gz',"
        " checksums: {images/a.nii.gz: %s}}"
    )
    assert examine(manifest(tmp_path / "m.yaml", text % digest.upper())) == ()
    finding = only(examine(manifest(tmp_path / "m.yaml", text % ("0" * 63 + "x"))))
    assert (finding.severity, finding.file) == ("error", file)
    assert "SHA-256 differs" in finding.problem


def _disagreeing(header: nib.Nifti1Header) -> None:
    header.set_qform(np.diag([1.0, 2.0, -5.0, 1.0]), code=1)


def _without_size(header: nib.Nifti1Header) -> None:
    header["pixdim"][1] = 0


def _of_other_size(header: nib.Nifti1Header) -> None:
    header["pixdim"][3] = 4.0


def _of_no_rotation(header: nib.Nifti1Header) -> None:
    header["quatern_b"] = 3.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_disagreeing, r"qform (RAI) and sform (RAS) lie 10 voxels (10 mm) apart; sform is used"),
        (_without_size, "voxel sizes are 5 x 2 x 0 (z, y, x) by pixdim and 5 x 2 x 1 by sform, which is used"),
        (_of_other_size, "voxel sizes are 4 x 2 x 1 (z, y, x) by pixdim and 5 x 2 x 1 by sform, which is used"),
        (_of_no_rotation, "qform is no grid"),
    ],
)
def test_headers_that_say_two_things_are_mended_by_the_command(
    tmp_path: Path, change: Callable[[nib.Nifti1Header], None], problem: str
) -> None:
    folder = sound(tmp_path)
    for path in (folder / "imagesTr" / "a.nii.gz", folder / "labelsTr" / "a.nii.gz"):
        plain = tmp_path / "plain.nii"
        io.write(io.read(path), plain)
        content = plain.read_bytes()
        header = nib.Nifti1Header(content[:348])
        change(header)
        path.write_bytes(header.binaryblock + content[348:])
        plain.unlink()
    findings = examine(folder)
    assert brief(findings) == [("warning", "a", "a.nii.gz")] * 2
    for finding in findings:
        assert problem in finding.problem
        run(finding.remedy)
    assert examine(folder) == ()


def test_no_form_at_all(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    for path in (folder / "imagesTr" / "a.nii.gz", folder / "labelsTr" / "a.nii.gz"):
        picture = nib.load(path)
        picture.header["qform_code"] = picture.header["sform_code"] = 0
        nib.save(nib.Nifti1Image(np.asarray(picture.dataobj), None, picture.header), path)
    findings = examine(folder)
    assert [finding.severity for finding in findings] == ["warning", "warning", "note"]
    assert "no qform and no sform: left and right are not known, LAS is assumed" in findings[0].problem


def test_what_is_no_dataset_is_one_finding(tmp_path: Path) -> None:
    assert "no such file or folder" in only(examine(tmp_path / "nothing")).problem
    assert "not valid YAML" in only(examine(manifest(tmp_path / "m.yaml", "["))).problem
    (tmp_path / "empty").mkdir()
    assert only(examine(tmp_path / "empty")).problem == "no images here"


def test_a_folder_without_a_document(tmp_path: Path) -> None:
    scan(tmp_path / "one" / "a.nii.gz")
    (tmp_path / "one" / "b.nrrd").write_text("nonsense")
    (tmp_path / "one" / "c.dcm").write_bytes(b"")
    (tmp_path / "read.me").write_text("text")
    (tmp_path / ".hidden.nii.gz").write_text("text")
    io.write(LabelVolume(np.zeros(GRID.shape, np.uint8), GRID), tmp_path / "zero.nii")
    assert [(finding.severity, finding.file and finding.file.name) for finding in examine(tmp_path)] == [
        ("error", "b.nrrd"),
        ("warning", "zero.nii"),
        ("error", "c.dcm"),
        ("note", tmp_path.name),
    ]


# --- real data


def test_hostile_files_are_named_in_one_pass(shared: Path) -> None:
    findings = examine(shared / "data/hostile/derived")
    named = {finding.file.name: finding for finding in findings if finding.file is not None}
    assert {name: finding.severity for name, finding in named.items()} == {
        "bad_ndim.nii.gz": "error",
        "data_block_short.nii": "error",
        "nan_and_inf.nii.gz": "error",
        "truncated_gzip.nii.gz": "error",
        "zero_bytes.nii.gz": "error",
        "no_qform_no_sform.nii.gz": "warning",
        "pixdim_zero.nii.gz": "warning",
        "qform_sform_disagree.nii.gz": "warning",
    }
    assert "73 of 69372 voxels" in named["nan_and_inf.nii.gz"].problem
    others = {finding.file.name for finding in examine(shared / "data/hostile/nifti") if finding.file is not None}
    refused = {"analyze.hdr", "nifti1.hdr", "row_major.dconn.nii", "test.mgz", "5D_small.nii", "not-nifti.nii"}
    assert refused | {"small.mnc", "minc2_baddim.mnc"} == others


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ("pair_shape_mismatch", "grid differs from image.nii.gz"),
        ("pair_affine_mismatch", "voxels (14.3 mm) off that of image.nii.gz"),
        ("pair_undeclared_label", "values that are not declared: 7 ("),
    ],
)
def test_hostile_pairs(tmp_path: Path, shared: Path, pair: str, problem: str) -> None:
    files = "images: '{case}/image.nii.gz', label: '{case}/label.nii.gz'"
    path = manifest(tmp_path / "m.yaml", f"{{name: n, channels: [MRI], labels: {{a: 1, b: 2}}, {files}}}")
    findings = [finding for finding in examine(path, root=shared / "data/hostile/derived") if finding.case == pair]
    finding = only(findings)
    assert (finding.severity, finding.file and finding.file.name) == ("error", "label.nii.gz")
    assert problem in finding.problem


def test_structures_that_were_never_contoured(shared: Path) -> None:
    root = shared / "data/hostile/labels_missing_structures"
    declared = Path(__file__).parents[1] / "data_manifests" / "openkbp_ct_oar.yaml"
    findings = examine(declared, root=root)
    raised = [finding for finding in findings if "stored without rescale" in finding.problem]
    assert [finding.case for finding in raised] == ["openkbp_038", "openkbp_053", "openkbp_089"]  # published so
    findings = tuple(finding for finding in findings if finding not in raised)
    assert [(finding.severity, finding.case, finding.problem) for finding in findings] == [
        ("note", None, "3 training cases are here; the published dataset has 24"),
        ("warning", "openkbp_038", "the mask is empty"),
        ("warning", None, "Mandible (5) occurs in none of 3 masks"),
    ]


@pytest.mark.parametrize("name", ["sts_mr_ct", "dsb2018_nuclei"])
def test_shared_datasets_are_sound(shared: Path, name: str) -> None:
    assert examine(shared / "data" / name) == ()


def test_published_checksums_hold(shared: Path) -> None:
    manifests = Path(__file__).parents[1] / "data_manifests"
    assert examine(manifests / "nrrd_mr_brain.yaml", root=shared / "data/nrrd_mr") == ()
    findings = examine(manifests / "spinal_cord_mr.yaml", root=shared / "data/spinal_cord_mr")
    assert [finding.severity for finding in findings if "SHA-256" in finding.problem] == []
