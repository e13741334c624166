"""Whether the node loses, doubles or forgets anything when it is killed again and again.

    python -m benchmarks.node [--studies 50] [--kills 12] [--model MODEL] [--folder DIR]

Sends synthetic studies to a node in a process of its own, kills it (SIGKILL) at random moments and starts it again on
the same spool. A sender sends a study again, whole, until every image of it was taken. A peer counts what comes back:
each study must be answered once, by an answer made of all its images. Without ``--model`` the answer is a small object
that lists the images; with it, the masks that the model predicts.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RawDataStorage, generate_uid
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.ae import ApplicationEntity

_IMAGES = 4
_QUIET_S = 1.5
_PATIENCE_S = 600.0
_ROOT = Path(__file__).resolve().parents[1]


def image(study: str, series: str, frame: str, place: int) -> Dataset:
    """One slice of a small CT."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.PatientName, dataset.PatientID, dataset.Modality, dataset.StudyID = "Nobody", "1", "CT", "1"
    dataset.StudyDate, dataset.StudyTime, dataset.PositionReferenceIndicator = "20200102", "101112", ""
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 2.0 * place], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.InstanceNumber = [1, 1], 2, place + 1
    dataset.Rows = dataset.Columns = 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = np.full((16, 16), place, np.int16).tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def study(images: int = _IMAGES) -> list[Dataset]:
    """The images of one new study, of one series."""
    uids = generate_uid(), generate_uid(), generate_uid()
    return [image(*uids, place) for place in range(images)]


def list_images(paths: Sequence[Path], folder: Path) -> None:
    """An answer without a model: an object that lists the images it was made from."""
    first = pydicom.dcmread(paths[0], stop_before_pixels=True)
    answer = Dataset()
    answer.SOPClassUID, answer.SOPInstanceUID = RawDataStorage, generate_uid()
    answer.StudyInstanceUID, answer.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    answer.ImageComments = " ".join(sorted(path.stem for path in paths))
    answer.file_meta = FileMetaDataset()
    answer.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    answer.file_meta.MediaStorageSOPClassUID = answer.SOPClassUID
    answer.file_meta.MediaStorageSOPInstanceUID = answer.SOPInstanceUID
    answer.save_as(folder / "answer.dcm", enforce_file_format=True)


@dataclass
class Archive:
    """A peer that keeps every object it is sent, by study and instance. While ``refuses``, it takes none."""

    objects: dict[str, dict[str, Dataset]] = field(default_factory=lambda: defaultdict(dict))
    times: int = 0
    refuses: bool = False
    port: int = 0

    def take(self, event: evt.Event) -> int:
        """Keep an object."""
        if self.refuses:
            return 0xA700
        dataset = event.dataset
        self.times += 1
        self.objects[str(dataset.StudyInstanceUID)][str(dataset.SOPInstanceUID)] = dataset
        return 0

    @contextmanager
    def listening(self, title: str = "PACS") -> Iterator[Archive]:
        """Listen on a free port."""
        entity = ApplicationEntity(title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax))
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self.take)])
        assert server is not None and server.socket is not None
        self.port = int(server.socket.getsockname()[1])
        try:
            yield self
        finally:
            server.shutdown()


def send(datasets: Sequence[Dataset], port: int, title: str = "PACS", called: str = "MEDSEG") -> list[int]:
    """Send objects to a node; statuses of those it answered, fewer than objects if it broke off."""
    entity = ApplicationEntity(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 5
    for kind in {dataset.SOPClassUID for dataset in datasets}:
        entity.add_requested_context(kind, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    statuses: list[int] = []
    if association.is_established:
        try:
            for dataset in datasets:
                status = association.send_c_store(dataset)
                if "Status" not in status:
                    break
                statuses.append(int(status.Status))
        except RuntimeError:  # the other side is gone
            pass
        finally:
            association.release()
    return statuses


def serve(spool: Path, port: int, peer: int, quiet_s: float) -> None:
    """A node whose answers list the images, until it is killed."""
    from medseg.node import Node, NodeSettings, Peer

    to = Peer("PACS", "127.0.0.1", peer)
    settings = NodeSettings(spool, to, ("PACS",), host="127.0.0.1", port=port, quiet_s=quiet_s, retry_s=0.2)
    with Node(settings, list_images) as node:
        node.wait(lambda: False)


def command(spool: Path, port: int, peer: int, model: Path | None, quiet_s: float) -> list[str]:
    """How a node is started."""
    if model is None:
        code = "import sys; from pathlib import Path; from benchmarks.node import serve; "
        code += "serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))"
        return [sys.executable, "-c", code, str(spool), str(port), str(peer), str(quiet_s)]
    options = [
        "--model",
        str(model.resolve()),
        "--peer",
        f"PACS@127.0.0.1:{peer}",
        "--spool",
        str(spool),
        "--device",
        "cpu",
    ]
    options += ["--port", str(port), "--host", "127.0.0.1", "--quiet", str(quiet_s), "--no-mirror"]
    return [sys.executable, "-m", "medseg", "node", *options]


@dataclass(frozen=True)
class Outcome:
    """What became of the studies that were sent."""

    studies: int
    kills: int
    answered_once: int
    of_all_images: int
    objects_received: int
    seconds: float


def torture(
    folder: Path, studies: int, kills: int, *, model: Path | None = None, quiet_s: float = _QUIET_S, seed: int = 0
) -> Outcome:
    """Send studies to a node that is killed again and again, until every one is answered or time is up."""
    generator = random.Random(seed)
    wanted = [study() for _ in range(studies)]
    started, done = time.monotonic(), threading.Event()
    with Archive().listening() as archive:
        port = _free_port()
        line = command(folder.resolve() / "spool", port, archive.port, model, quiet_s)
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, cwd=_ROOT)

        def deliver() -> None:
            for images in wanted:
                while not done.is_set() and send(images, port) != [0] * len(images):
                    time.sleep(0.1)

        sender = threading.Thread(target=deliver, daemon=True)
        sender.start()
        killed = 0
        while time.monotonic() - started < _PATIENCE_S:
            if killed < kills:
                # Only once it listens, so that the kill interrupts work and not merely a start.
                while not _answers(port):
                    time.sleep(0.05)
                time.sleep(generator.uniform(0.0, 2 * quiet_s))
                process.kill()
                process.wait()
                killed += 1
                process = subprocess.Popen(line, stderr=subprocess.DEVNULL, cwd=_ROOT)
            if not sender.is_alive() and killed == kills and len(archive.objects) == studies:
                break
            time.sleep(0.1)
        time.sleep(2 * quiet_s)  # for what must not come
        done.set()
        process.kill()
        process.wait()
    answers = [list(archive.objects.get(str(images[0].StudyInstanceUID), {}).values()) for images in wanted]
    complete = [
        _images_of(objects) == {str(dataset.SOPInstanceUID) for dataset in images}
        for objects, images in zip(answers, wanted, strict=True)
    ]
    once = sum(len([each for each in objects if each.get("Modality") in (None, "SEG")]) == 1 for objects in answers)
    return Outcome(studies, killed, once, sum(complete), archive.times, time.monotonic() - started)


def _images_of(objects: Sequence[Dataset]) -> set[str]:
    """Images that answers were made from."""
    found: set[str] = set()
    for each in objects:
        found |= set(str(each.get("ImageComments", "")).split())
        for series in each.get("ReferencedSeriesSequence", []):
            found |= {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence}
    return found


def _answers(port: int) -> bool:
    entity = ApplicationEntity("PACS")
    entity.add_requested_context("1.2.840.10008.1.1")
    entity.acse_timeout = entity.connection_timeout = 2
    association = entity.associate("127.0.0.1", port, ae_title="MEDSEG")
    if association.is_established:
        association.release()
        return True
    return False


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Print what became of the studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        done = torture(Path(folder), arguments.studies, arguments.kills, model=arguments.model)
    print(f"{done.studies} studies, {done.kills} kills, {done.seconds:.0f} s")
    print(f"answered once: {done.answered_once}; by an answer made of all images: {done.of_all_images}")
    print(f"objects sent to the peer: {done.objects_received}")
    if not done.answered_once == done.of_all_images == done.studies:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
