"""Pseudo-labels: tables of prompts, confidence from agreement, the list, and the dataset that comes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import small_configuration, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompting_unet import write_promptable

from medseg import cli, io
from medseg.dataset import Dataset, load_case
from medseg.errors import DataError, FileUnreadableError, UsageError
from medseg.labels import LabelSet
from medseg.progress import Progress
from medseg.prompting import Box, Point, Prompt, Session
from medseg.prompting.engine import Answer
from medseg.prompting.unet.engine import UNetEngine
from medseg.pseudo_labels import accept, propose, rank, read_prompts
from medseg.pseudo_labels.agreement import Agreement, agree, merge
from medseg.splits import load_splits
from medseg.volume import Geometry, LabelVolume, Volume
from medseg.workspace import plan_workspace

GRID = Geometry.from_spacing((6, 16, 16), (2.0, 1.0, 1.0))
HEADER = "case,label,object,z0,y0,x0,z1,y1,x1,z,y,x,x_mm,y_mm,z_mm,positive,group"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    (folder / "prompts.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "prompts.csv"


# --- the table


def test_rows_become_objects(tmp_path: Path):
    file = table(
        tmp_path,
        "a,liver,,1,2,3,4,5,6,,,,,,,,p1",
        "a,liver,,,,,,,,2,3,4,,,,-,p1",
        "a,liver,2,,,,,,,,,,-5,6.5,7,+,",
        "",
        "b,cyst,1,,,,,,,1,1,1,,,,,",
    )
    first, second, third = read_prompts(file)
    assert (first.case, first.label, first.number, first.group) == ("a", "liver", 1, "p1")
    assert first.prompts == (Box((1, 2, 3), (4, 5, 6)), Point((2, 3, 4), positive=False))
    assert second.prompts == (Point((-5, 6.5, 7), space="mm"),)
    assert (third.case, third.group) == ("b", None)
    file.write_text("case;label;x0_mm;y0_mm;z0_mm;x1_mm;y1_mm;z1_mm\nb;cyst;1;2;3;4;5;6.5\n", encoding="utf-8-sig")
    assert read_prompts(file)[0].prompts == (Box((1, 2, 3), (4, 5, 6.5), space="mm"),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,liver,1,1,2,3,4,5,,,,,,,,,"], "line 2: expected one box .* found z0,y0,x0,z1,y1"),
        (["a,liver,1,,,,,,,,,,,,,,"], "line 2: .* no coordinates"),
        (["a,liver,1,1,2,3,4,5,6,1,2,3,,,,,"], "line 2: expected one box"),
        (["a,liver,1,,,,,,,1,2,x,,,,,"], "line 2: expected numbers in z,y,x"),
        (["a,liver,1,,,,,,,1,2,nan,,,,,"], "line 2: expected numbers"),
        (["a,liver,0,,,,,,,1,2,3,,,,,"], "numbered from 1"),
        (["a,liver,1,,,,,,,1,2,3,,,,yes,"], "positive: expected"),
        (["a,liver,1,,,,,,,1,2,3,,,,-,"], "all its prompts are negative"),
        (["a,,1,,,,,,,1,2,3,,,,,"], "the label is empty"),
        (["a,Background,1,,,,,,,1,2,3,,,,,"], "Background is no object"),
        (["a,liver,1,,,,,,,1,2,3,,,,,p,extra"], "18 cells in 17 columns"),
        (["a,liver,1,,,,,,,1,2,3,,,,,p", "a,cyst,1,,,,,,,1,2,3,,,,,q"], "in the group p before"),
        ([], "no rows"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, rows: list[str], message: str):
    with pytest.raises(DataError, match=message):
        read_prompts(table(tmp_path, *rows))


def test_tables_that_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="unexpected column 'lable'; did you mean label"):
        read_prompts(table(tmp_path, header="case,lable,z,y,x"))
    with pytest.raises(DataError, match="the column case is missing"):
        read_prompts(table(tmp_path, header="label,z,y,x"))
    with pytest.raises(FileUnreadableError, match="no such file"):
        read_prompts(tmp_path / "no.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(FileUnreadableError, match="UTF-8"):
        read_prompts(tmp_path / "x.csv")


# --- agreement


class BoxEngine:
    """Fills the boxes it is given, and marks single points."""

    name = "box"

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        self.shape = volume.geometry.shape

    def segment(self, prompts: Sequence[Prompt], previous: np.ndarray | None, progress: Progress) -> Answer:
        assert previous is None
        mask = np.zeros(self.shape, bool)
        for prompt in prompts:
            if isinstance(prompt, Box):
                mask[prompt.voxels.slices] = True
            elif isinstance(prompt, Point):
                mask[tuple(round(value) for value in prompt.at)] = prompt.positive
        return Answer(mask)


def votes(*values: int, draws: int = 4) -> Agreement:
    return Agreement(np.array(values, np.uint8).reshape(1, 1, -1), draws)


def test_confidence_with_a_pencil():
    assert votes(4, 4, 0).confidence == 1
    # Most agree on one voxel, of 4 + 1 votes: 2 * 4 / (4 * 1 + 5)
    assert votes(4, 1, 0).confidence == pytest.approx(8 / 9)
    assert votes(2, 2, 1).confidence == 0
    assert votes(0, 0).confidence == 0
    assert replace(votes(4, 1, 0), expected_dice=0.5).confidence == pytest.approx(4 / 9)


def test_merging_with_a_pencil():
    one, two = votes(4, 3, 2, 1, 0, 4, 0), votes(0, 0, 0, 0, 4, 2, 2)
    assert merge([(1, one), (2, two)], ignore=9, sure=0.75).ravel().tolist() == [1, 1, 9, 0, 2, 9, 9]
    assert merge([(1, one), (2, two)], ignore=9, sure=1.0).ravel().tolist() == [1, 9, 9, 9, 2, 9, 9]
    # Two objects of one label do not contradict each other.
    assert merge([(1, one), (1, two)], ignore=9, sure=0.75).ravel().tolist() == [1, 1, 9, 0, 1, 1, 9]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.6, 0.75, 1.0]))
def test_nothing_is_labelled_that_draws_disagree_on(seed: int, sure: float):
    random = np.random.default_rng(seed)
    found = [(i + 1, Agreement(random.integers(0, 7, (2, 3, 4)).astype(np.uint8), 6)) for i in range(3)]
    mask = merge(found, 9, sure)
    every = np.stack([each.votes for _, each in found]) / 6
    for index in (1, 2, 3):
        assert (every[index - 1][mask == index] >= sure).all()
    assert (every.max(0)[mask == 0] <= 1 - sure + 1e-9).all()
    np.testing.assert_array_equal(mask, merge(found[::-1], 9, sure))


def test_prompts_are_drawn_around_what_was_shown():
    session = Session(BoxEngine())
    session.set_image(Volume(np.zeros((1, 40, 40, 40), np.float32), Geometry.from_spacing((40, 40, 40), (1, 1, 1))))
    box = Box((10, 0, 30), (11, 20, 40))  # one slice, at two borders
    found = agree(session, [box], 30, np.random.default_rng(0))
    assert found.votes[10, 5, 35] == 30
    assert not found.votes[[9, 11]].any()  # a flat box stays on its slice
    assert not found.votes[10, 21:].any()
    assert not found.votes[10, :, :29].any()
    assert 0 < found.votes[10, 20, 35] < 30
    assert 0.85 < found.confidence < 1
    assert session.steps == ()
    point = agree(session, [Point((0, 39, 20))], 30, np.random.default_rng(0)).votes
    assert point.sum() == 30
    assert set(np.unique(np.argwhere(point)[:, 1])) <= {38, 39}
    with pytest.raises(UsageError, match="outside of the image"):
        agree(session, [Point((50, 1, 1))], 2, np.random.default_rng(0))


# --- from scans to a dataset


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The promptable network answers with the boxes it is given."""
    monkeypatch.setattr(UNetEngine, "set_image", BoxEngine.set_image)
    monkeypatch.setattr(UNetEngine, "segment", BoxEngine.segment)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_promptable(tmp_path / "model", small_plan(small_configuration(scheme="zscore")))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in "abc":
        array = np.random.default_rng(ord(name)).normal(5, 1, (1, *GRID.shape)).astype(np.float32)
        io.write(Volume(array, GRID), tmp_path / "scans" / f"{name}.nii.gz")
    return tmp_path / "scans"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Six cases labelled by hand, of three patients."""
    folder = tmp_path / "labelled"
    for i in range(6):
        image = np.random.default_rng(i).normal(5, 1, (1, *GRID.shape)).astype(np.float32)
        mask = np.zeros(GRID.shape, np.uint8)
        mask[1:4, 2:9, 2:9], mask[1:4, 10:14, 3:12] = 1, 3
        io.write(Volume(image, GRID), folder / "images" / f"h{i}.nii.gz")
        io.write(LabelVolume(mask, GRID), folder / "labels" / f"h{i}.nii.gz")
    document = {
        "name": "organs",
        "channels": ["MR"],
        "labels": {"liver": 1, "cyst": 3},
        "images": "images/{case}.nii.gz",
        "label": "labels/{case}.nii.gz",
        "groups": {f"h{i}": f"p{i // 2}" for i in range(6)},
    }
    (folder / "organs.yaml").write_text(json.dumps(document))
    return folder / "organs.yaml"


ROWS = (
    "a,liver,1,1,2,2,4,14,8,,,,,,,,p0",
    "a,cyst,1,1,4,9,5,12,15,,,,,,,,p0",
    "b,liver,1,1,2,2,3,5,8,,,,,,,,",
    "b,liver,2,4,2,2,6,14,14,,,,,,,,",
    "c,cyst,1,0,2,2,6,12,9,,,,,,,,",
)


def decide(list_file: Path, decisions: dict[tuple[str, str, str], str]) -> None:
    rows = list(csv.DictReader(list_file.read_text().splitlines()))
    for row in rows:
        row["decision"] = decisions.get((row["case"], row["label"], row["object"]), row["decision"])
    with list_file.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.usefixtures("boxes")
def test_from_boxes_to_a_dataset(tmp_path: Path, model: Path, scans: Path, labelled: Path):
    targets = read_prompts(table(tmp_path, *ROWS))
    done = propose([scans], targets, model, tmp_path / "p", labelled=labelled, device="cpu")
    assert not done.failures
    rows = list(csv.DictReader(done.list_file.read_text().splitlines()))
    least = {row["case"]: 1.0 for row in rows}
    for row in rows:
        least[row["case"]] = min(least[row["case"]], float(row["confidence"]))
    assert list(dict.fromkeys(row["case"] for row in rows)) == sorted(least, key=lambda case: least[case])
    assert {row["decision"] for row in rows} == {""}
    with pytest.raises(UsageError, match="nothing is accepted"):
        accept(done.list_file, tmp_path / "d")
    proposed = io.read_labels(tmp_path / "p" / "masks" / "a.nii.gz")
    assert set(np.unique(proposed.array).tolist()) == {0, 1, 3, 4}  # 4: ignored
    assert proposed.array[2, 8, 5] == 1
    # One object of b's liver is refused, c is not decided, and a's liver is mended by hand.
    decide(done.list_file, {("a", "liver", "1"): "accept", ("a", "cyst", "1"): "Accept", ("b", "liver", "1"): "accept"})
    decide(done.list_file, {("b", "liver", "2"): "reject"})
    mended = proposed.array.copy()
    mended[5, 15, 15] = 1
    io.write(proposed.with_array(mended), tmp_path / "p" / "masks" / "a.nii.gz")
    result = accept(done.list_file, tmp_path / "d")
    assert (result.proposed, result.left_out, len(result.by_hand)) == (("a",), ("b", "c"), 6)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.labels == LabelSet({"liver": (1,), "cyst": (3,)}, ignore=4)
    case = next(case for case in dataset.cases if case.name == "a")
    assert case.annotated is None
    mask = load_case(case, dataset.labels, dataset.channels)[1]
    assert mask is not None
    np.testing.assert_array_equal(mask.array, mended)
    sources = io.read_labels(tmp_path / "d" / "sources" / "a.nii.gz").array
    np.testing.assert_array_equal(np.argwhere(sources == 1), [[5, 15, 15]])
    np.testing.assert_array_equal(sources == 0, mended == 4)
    document = json.loads((tmp_path / "d" / "label_sources.json").read_text())
    assert document["cases"]["h0"]["source"] == "by hand"
    assert document["cases"]["a"]["mended_voxels"] == 1
    assert document["cases"]["a"]["objects"][0]["prompts"][0]["stop"] == [4.0, 14.0, 8.0]
    assert len(document["runs"][0]["checkpoint_sha256"]) == 64
    # Proposals never validate, and do not train where their patient validates.
    folds = load_splits(tmp_path / "d" / "splits.json")
    for fold in folds:
        assert "a" not in fold.validation
        assert ("a" in fold.train) == (not {"h0", "h1"} & set(fold.validation))
    workspace = plan_workspace(dataset, tmp_path / "w", splits_file=tmp_path / "d" / "splits.json")
    assert workspace.plan.labels.ignore == 4


@pytest.mark.usefixtures("boxes")
def test_a_class_without_accepted_proposals_is_not_annotated(tmp_path: Path, model: Path, scans: Path, labelled: Path):
    targets = read_prompts(table(tmp_path, *ROWS))
    done = propose([scans], targets, model, tmp_path / "p", labelled=labelled, device="cpu")
    decide(done.list_file, {("a", "liver", "1"): "accept", ("c", "cyst", "1"): "accept"})
    drawn = io.read_labels(tmp_path / "p" / "masks" / "c.nii.gz")
    array = drawn.array.copy()
    array[0, 14:16, 14:16] = 1  # a liver that no box showed, by hand
    io.write(drawn.with_array(array), tmp_path / "p" / "masks" / "c.nii.gz")
    accept(done.list_file, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    cases = {case.name: case for case in dataset.cases}
    assert cases["a"].annotated == ("liver",)
    assert cases["c"].annotated is None
    mask = load_case(cases["a"], dataset.labels, dataset.channels)[1]
    assert mask is not None
    assert 3 not in mask.array


@pytest.mark.usefixtures("boxes")
def test_a_second_round_keeps_where_labels_are_from(tmp_path: Path, model: Path, scans: Path, labelled: Path):
    first = propose([scans], read_prompts(table(tmp_path, ROWS[4])), model, tmp_path / "p1", labelled=labelled,
                    device="cpu", accept_above=0.0)  # fmt: skip
    accept(first.list_file, tmp_path / "d1")
    plan_workspace(Dataset.open(tmp_path / "d1"), tmp_path / "w")
    again = tmp_path / "w" / "dataset.json"
    with pytest.raises(DataError, match="c: organs has a case of this name already"):
        propose([scans], read_prompts(table(tmp_path, ROWS[4])), model, tmp_path / "p2", labelled=again)
    second = propose([scans], read_prompts(table(tmp_path, ROWS[0])), model, tmp_path / "p2", labelled=again,
                     device="cpu", accept_above=0.0)  # fmt: skip
    result = accept(second.list_file, tmp_path / "d2")
    assert len(result.by_hand) == 6
    document = json.loads((tmp_path / "d2" / "label_sources.json").read_text())
    assert len(document["runs"]) == 2
    assert [document["cases"][case]["run"] for case in ("a", "c", "h1")] == [1, 0, None]
    assert not any({"a", "c"} & set(fold.validation) for fold in load_splits(tmp_path / "d2" / "splits.json"))


@pytest.mark.usefixtures("boxes")
def test_a_second_start_goes_on_and_keeps_decisions(tmp_path: Path, model: Path, scans: Path):
    folder = tmp_path / "p"
    some = propose([scans], read_prompts(table(tmp_path, ROWS[2], ROWS[3])), model, folder, device="cpu")
    decide(some.list_file, {("b", "liver", "2"): "reject"})
    written = (folder / "masks" / "b.nii.gz").stat().st_mtime_ns
    more = propose([scans], read_prompts(table(tmp_path, *ROWS[:1], *ROWS[2:4])), model, folder, device="cpu",
                   accept_above=0.0)  # fmt: skip
    assert (folder / "masks" / "b.nii.gz").stat().st_mtime_ns == written
    decisions = {
        row["case"] + row["object"]: row["decision"] for row in csv.DictReader(more.list_file.read_text().splitlines())
    }
    assert decisions == {"a1": "accept", "b1": "", "b2": "reject"}
    assert [each.case for each in rank(more.list_file)] == ["b", "a"]
    assert [each.undecided for each in rank(more.list_file)] == [1, 0]
    with pytest.raises(UsageError, match="b was proposed from other prompts"):
        propose([scans], read_prompts(table(tmp_path, ROWS[2])), model, folder, device="cpu")
    with pytest.raises(UsageError, match="another checkpoint, dataset or setting"):
        propose([scans], read_prompts(table(tmp_path, ROWS[0])), model, folder, device="cpu", sure=0.9)


@pytest.mark.usefixtures("boxes")
def test_one_bad_case_does_not_stop_the_others(tmp_path: Path, model: Path, scans: Path, capsys: Any):
    (scans / "c.nii.gz").write_bytes(b"nonsense")
    file = table(tmp_path, *ROWS[:2], "b,liver,1,,,,,,,99,2,3,,,,,", ROWS[4], "d,cyst,1,,,,,,,1,2,3,,,,,")
    folder = tmp_path / "p"
    command = ["pseudo-label", scans, "--prompts", file, "--checkpoint", model, "-o", folder, "--device", "cpu"]
    assert cli.run(list(map(str, command))) == 1
    message = capsys.readouterr().err
    assert "3 of 4 cases failed" in message
    for part in ("b: point: ", "c: ", "d: no scan of this name"):
        assert part in message, part
    decide(folder / "proposals.csv", {("a", "liver", "1"): "accept", ("a", "cyst", "1"): "accept"})
    assert (
        cli.run(["pseudo-label", "--accept", str(folder / "proposals.csv"), "-o", str(tmp_path / "d"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["proposed"] == ["a"]
    assert not (tmp_path / "d" / "splits.json").exists()  # nobody labelled by hand
    assert Dataset.open(tmp_path / "d").labels.names == ("liver", "cyst")
    assert cli.run(["pseudo-label", "--rank", str(folder / "proposals.csv")]) == 0
    assert "least sure of" in capsys.readouterr().out


@pytest.mark.usefixtures("boxes")
def test_bad_input_is_one_line(tmp_path: Path, model: Path, scans: Path, labelled: Path, capsys: Any):
    def refused(*words: object) -> str:
        capsys.readouterr()
        assert cli.run(["pseudo-label", *map(str, words)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    file, folder = table(tmp_path, *ROWS), tmp_path / "p"
    proposing = (scans, "--prompts", file, "--checkpoint", model, "-o", folder, "--dataset", labelled)
    assert "give SCANS with" in refused()
    assert "give SCANS with" in refused(*proposing, "--accept", folder / "proposals.csv")
    assert "--checkpoint is missing" in refused(scans, "--prompts", file, "-o", folder)
    assert "where to?" in refused(scans, "--prompts", file, "--checkpoint", model)
    assert "--splits: goes with --accept" in refused(*proposing, "--splits", file)
    assert "share above 0.5" in refused(*proposing, "--sure", 0.4)
    assert "--accept-above 7" in refused(*proposing, "--accept-above", 7)
    assert "no such checkpoint" in refused(*proposing[:4], tmp_path / "no", *proposing[5:])
    table(tmp_path, ROWS[0].replace("liver", "spleen"))
    assert "the label 'spleen'; organs has liver, cyst" in refused(*proposing)
    table(tmp_path, ROWS[0].replace("a,", "h3,", 1))
    assert "h3: organs has a case of this name already" in refused(*proposing)
    assert not folder.exists()
    table(tmp_path, *ROWS)
    assert cli.run(["pseudo-label", *map(str, proposing), "--device", "cpu", "--accept-above", "0"]) == 0
    decisions = folder / "proposals.csv"
    text = decisions.read_text()
    taking = ("--accept", decisions, "-o", tmp_path / "d")
    assert "holds something else" in refused("--accept", decisions, "-o", scans)
    for changed, message in (
        (text.replace("accept,a", "maybe,a", 1), "expected accept, reject or nothing, found 'maybe'"),
        (text + text.splitlines()[-1] + "\n", "stands twice"),
        (text.replace(",a,", ",z,", 1), "z .* was not proposed"),
        (text.replace("decision", "verdict"), "the column decision is missing"),
    ):
        decisions.write_text(changed)
        line = refused(*taking)
        assert message in line or (".*" in message and "was not proposed" in line)
    decisions.write_text(text)
    assert "no such list" in refused("--accept", folder / "no.csv", "-o", tmp_path / "d")
    (tmp_path / "list.csv").write_text(text)
    assert "the list stays in the folder of its proposals" in refused("--rank", tmp_path / "list.csv")
    masks = folder / "masks"
    good = io.read_labels(masks / "c.nii.gz")
    io.write(good.with_array(np.where(good.array == 3, 77, good.array)), masks / "c.nii.gz")
    other = LabelVolume(np.ones((3, 3, 3), np.uint8), Geometry.from_spacing((3, 3, 3), (1, 1, 1)))
    io.write(other, masks / "b.nii.gz")
    io.write(good.with_array(np.zeros_like(good.array)), masks / "a.nii.gz")
    capsys.readouterr()
    assert cli.run(["pseudo-label", *map(str, taking)]) == 2
    message = capsys.readouterr().err
    for part in ("77", "different grids", "is accepted but"):
        assert part in message
    assert not (tmp_path / "d").exists()


def test_with_a_real_network(tmp_path: Path, model: Path, scans: Path):
    """No monkeypatching: a network with random weights proposes something, on the scan's grid."""
    done = propose([scans], read_prompts(table(tmp_path, ROWS[0])), model, tmp_path / "p", device="cpu", draws=2)
    (proposal,) = done.proposals
    assert 0 <= proposal.confidence <= 1
    mask = io.read_labels(tmp_path / "p" / "masks" / "a.nii.gz")
    mask.geometry.require_equal(io.read(scans / "a.nii.gz").geometry, "mask", "scan")
