"""The node: who may send, what comes back, and what a kill, a full disk or a peer that is away cannot do to it."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_out_examples import PHI, grid_of, read_segmentation, valid, write_ball

from benchmarks.node import Archive, list_images, send, study, torture
from medseg.errors import DataError, StorageError, UsageError
from medseg.node import Node, NodeSettings, Peer
from medseg.node.spool import Spool

# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

LATE_S = 20.0


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is true; that it never becomes so is a failure."""
    until = time.monotonic() + LATE_S
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive().listening() as archive:
        yield archive


def settings(spool: Path, archive: Archive, **changes) -> NodeSettings:
    values = {"accept": ("PACS", "SCANNER"), "host": "127.0.0.1", "port": 0, "quiet_s": 0.4, "retry_s": 0.1}
    return NodeSettings(spool, Peer("PACS", "127.0.0.1", archive.port), **{**values, **changes})


def uid_of(images) -> str:
    return str(images[0].StudyInstanceUID)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_study_is_answered_once_however_often_it_comes(tmp_path, archive, caplog):
    caplog.set_level(logging.DEBUG)
    images = study()
    images[0].PatientName, images[0].PatientID = PHI["PatientName"], PHI["PatientID"]
    with Node(settings(tmp_path, archive, quiet_s=1.5), list_images) as node:
        assert send(images[:2], node.port) == [0, 0]
        assert send(images, node.port, title="SCANNER") == [0, 0, 0, 0]  # two of them a second time
        wait_for(lambda: names_in(tmp_path / "done"))
        assert send(images, node.port) == [0, 0, 0, 0]
        time.sleep(2.5)
    (answer,) = archive.objects[uid_of(images)].values()
    assert answer.ImageComments.split() == sorted(image.SOPInstanceUID for image in images)
    assert archive.times == 1
    assert names_in(tmp_path / "done") == [f"{uid_of(images)}.json"]
    assert not any(any((tmp_path / state).iterdir()) for state in ("receiving", "waiting", "sending", "failed"))
    assert not any(value in caplog.text for value in PHI.values())


def test_strangers_are_turned_away(tmp_path, archive):
    images = study(1)
    with Node(settings(tmp_path, archive), list_images) as node:
        assert send(images, node.port, title="STRANGER") == []
        assert send(images, node.port, called="OTHER") == []
        assert send(images, node.port) == [0]


def test_a_study_is_complete_only_when_it_has_been_quiet(tmp_path, archive):
    images = study(4)
    with Node(settings(tmp_path, archive, quiet_s=3.0), list_images) as node:
        for image in images:
            send([image], node.port)
            time.sleep(0.5)
        wait_for(lambda: archive.objects)
    (answer,) = archive.objects[uid_of(images)].values()
    assert len(answer.ImageComments.split()) == 4


def test_what_the_peer_refuses_is_sent_again_later_and_made_once(tmp_path, archive, caplog):
    caplog.set_level(logging.INFO, "medseg")
    made = []

    def answer(paths, folder):
        made.append(paths)
        list_images(paths, folder)

    archive.refuses = True
    images = study()
    with Node(settings(tmp_path, archive), answer) as node:
        send(images, node.port)
        wait_for(lambda: caplog.text.count("refused with status 0xA700") >= 3)
        archive.refuses = False
        wait_for(lambda: archive.objects)
    assert len(made) == 1
    waits = [float(line.split(" in ")[1].split(" s")[0]) for line in caplog.messages if "trying again" in line]
    assert waits[:3] == pytest.approx([0.1, 0.2, 0.4])


def test_answers_wait_on_disk_for_a_peer_that_is_away(tmp_path):
    archive, images = Archive(), study()
    with archive.listening():
        pass  # it had a port, and is gone
    for _ in range(2):  # the node is stopped and started in between
        with Node(settings(tmp_path, archive), list_images) as node:
            send(images, node.port)
            wait_for(lambda: list((tmp_path / "sending").glob("*/answer/*.dcm")))
    with archive.listening(), Node(settings(tmp_path, archive), list_images):
        wait_for(lambda: archive.objects)
    assert archive.times == 1


def test_a_full_disk_loses_nothing(tmp_path, archive, monkeypatch):
    images, full = study(), [True]
    real = Spool.add

    def add(self, *arguments):
        if full[0]:
            raise StorageError("cannot write: no space left on device")
        return real(self, *arguments)

    def answer(paths, folder):
        if full[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        list_images(paths, folder)

    monkeypatch.setattr(Spool, "add", add)
    with Node(settings(tmp_path, archive), answer) as node:
        assert send(images, node.port) == [0xA700] * 4
        full[0] = False
        assert send(images, node.port) == [0] * 4
        full[0] = True
        wait_for(lambda: names_in(tmp_path / "waiting"))
        time.sleep(0.5)
        full[0] = False
        wait_for(lambda: archive.objects)
    assert archive.times == 1


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    spool = Spool(tmp_path)

    def fail(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="no space left"):
        spool.add("1.2", "1.3", "1.4", b"data")
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "lock")
    monkeypatch.undo()
    assert spool.add("1.2", "1.3", "1.4", b"data")
    assert not spool.add("1.2", "1.3", "1.4", b"data")
    with pytest.raises(DataError, match="identifiers"):
        spool.add("../..", "1.3", "1.5", b"data")
    with pytest.raises(UsageError, match="another node"):
        Spool(tmp_path)
    spool.close()


def test_a_study_that_cannot_be_answered_is_kept_with_the_reason_and_the_next_goes_on(tmp_path, archive):
    bad, worse, good = study(), study(), study()

    def answer(paths, folder):
        if paths[0].parents[2].name == uid_of(bad):
            raise DataError("unevenly spaced")
        if paths[0].parents[2].name == uid_of(worse):
            raise RuntimeError("a fault that nobody thought of")
        list_images(paths, folder)

    with Node(settings(tmp_path, archive), answer) as node:
        for images in (bad, worse, good):
            send(images, node.port)
        wait_for(lambda: archive.objects and len(names_in(tmp_path / "failed")) == 2)
    assert list(archive.objects) == [uid_of(good)]
    assert (tmp_path / "failed" / uid_of(bad) / "reason.txt").read_text() == "unevenly spaced\n"
    assert len(list((tmp_path / "failed" / uid_of(worse)).glob("images/*/*.dcm"))) == 4


def test_slices_that_come_after_the_answer_are_told_of_and_not_answered_in_part(tmp_path, archive):
    images = study()
    with Node(settings(tmp_path, archive), list_images) as node:
        send(images[:3], node.port)
        wait_for(lambda: names_in(tmp_path / "done"))
        send(images, node.port)
        wait_for(lambda: names_in(tmp_path / "failed"))
    assert archive.times == 1
    assert "came after" in (tmp_path / "failed" / uid_of(images) / "reason.txt").read_text()


def test_killed_again_and_again_it_answers_every_study_once(tmp_path):
    done = torture(tmp_path, studies=4, kills=2, quiet_s=0.8)
    assert (done.kills, done.answered_once, done.of_all_images) == (2, 4, 4)


def test_a_model_answers_with_the_mask_and_its_volumes(tmp_path, archive):
    from test_dicom_predicting import LIVER
    from test_prediction import bright_predictor

    from medseg.node.answering import predicting

    files = write_ball(tmp_path / "scan")
    write_ball(tmp_path / "scan2", study=str(pydicom.dcmread(files[0]).StudyInstanceUID))
    (tmp_path / "scan2/0003.dcm").unlink()  # an uneven series beside the good one
    images = [pydicom.dcmread(file) for file in [*files, *(tmp_path / "scan2").iterdir()]]
    with Node(settings(tmp_path / "spool", archive), predicting(bright_predictor(labels=LIVER))) as node:
        assert set(send(images, node.port)) == {0}
        wait_for(lambda: len(archive.objects[uid_of(images)]) == 2)
    by_modality = {str(each.Modality): each for each in archive.objects[uid_of(images)].values()}
    assert sorted(by_modality) == ["SEG", "SR"]
    path = tmp_path / "back.dcm"
    seg = by_modality["SEG"]
    seg.file_meta = pydicom.dataset.FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    seg.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    ball = read_segmentation(path, grid_of(files))["liver"]
    assert ball.sum() == sum(int(pydicom.dcmread(file).pixel_array.sum()) for file in files) > 30
    if shutil.which("dciodvfy"):
        assert valid(path) == ""


def test_wrong_options_are_said_in_one_line(tmp_path, archive):
    for text in ("PACS", "PACS@host", "PACS@host:0", "@host:104", "TITLE-OF-MORE-THAN-16@host:104"):
        with pytest.raises(UsageError, match="expected AET@host:port"):
            Peer.parse(text)
    assert str(Peer.parse("PACS@10.0.0.5:104")) == "PACS@10.0.0.5:104"
    with pytest.raises(UsageError, match="nobody may send"):
        settings(tmp_path, archive, accept=())
    with pytest.raises(UsageError, match="16 characters"):
        settings(tmp_path, archive, title="x" * 17)
    with (
        pytest.raises(UsageError, match="cannot listen"),
        Node(settings(tmp_path, archive, port=archive.port), list_images),
    ):
        pass
