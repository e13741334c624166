"""Studies on disk, each in the folder of its state; going from one state to the next is one rename.

    receiving/STUDY/images/SERIES/INSTANCE.dcm     images as they come
    waiting/STUDY/images/...                       nothing came for a while: complete, to be answered
    sending/STUDY/answer/*.dcm, sent/*.dcm         answered; files move from answer to sent as the peer takes them
    done/STUDY.json                                which images came and which answers went; the images are gone
    failed/STUDY/images/..., reason.txt            could not be answered: kept for a person

A process can be killed anywhere: an image is either whole in its place before its sender is told so, or it is not
there; a study is in one state, and work that was under way there begins again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from medseg import atomic, documents
from medseg.errors import DataError, UsageError

_IDENTIFIER = re.compile(r"[0-9.]{1,64}")  # identifiers come from the network and become names of files
_RECEIPTS = 50  # held in memory; a study in progress needs its own for every image
_LIVING = ("receiving", "waiting", "sending", "failed")


@dataclass(frozen=True)
class Receipt:
    """What was done for a study: identifiers of the images received, of their series, and of the answers sent."""

    study: str
    images: tuple[str, ...]
    series: tuple[str, ...]
    answers: tuple[str, ...]
    version: int = 1


class Spool:
    """The studies of one node below one folder.

    Raises:
        UsageError: another process works on the folder.
        StorageError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            for state in (*_LIVING, "done", "incoming", "outgoing"):
                (self.folder / state).mkdir(parents=True, exist_ok=True)
            self._claim = open(self.folder / "lock", "w")  # noqa: SIM115 - held as long as the spool lives
        except OSError as error:
            raise atomic.storage_error(error, self.folder) from error
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._claim.close()
            raise UsageError(f"{self.folder}: another node works on this spool; stop it or choose another") from error
        for remains in (*(self.folder / "incoming").iterdir(), *(self.folder / "outgoing").iterdir()):
            shutil.rmtree(remains) if remains.is_dir() else remains.unlink()
        self._lock = threading.RLock()
        self._busy: str | None = None
        self._receipts: dict[str, Receipt] = {}
        now = time.monotonic()
        self._latest = dict.fromkeys(self._studies("receiving"), now)

    def close(self) -> None:
        """Let another process have the folder."""
        self._claim.close()

    def add(self, study: str, series: str, instance: str, data: bytes) -> bool:
        """Keep an image, on disk when this returns. False if it came before, whatever became of it.

        Raises:
            DataError: an identifier is none.
            StorageError: no space, or no right to write; nothing was kept.
        """
        if not all(_IDENTIFIER.fullmatch(name) for name in (study, series, instance)):
            raise DataError("an image whose identifiers are not made of up to 64 digits and dots")
        temporary = self.folder / "incoming" / uuid4().hex
        target = self._path("receiving", study) / "images" / series / f"{instance}.dcm"
        try:
            with self._lock:
                if self._known(study, series, instance):
                    if study in self._latest:  # its sender is still at it
                        self._latest[study] = time.monotonic()
                    return False
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                if self._known(study, series, instance):
                    return False
                if study != self._busy and self._path("waiting", study).is_dir() and not target.parents[2].exists():
                    os.replace(self._path("waiting", study), self._path("receiving", study))  # not complete after all
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, target)
                _sync(target.parent)
                self._latest[study] = time.monotonic()
        except OSError as error:
            raise atomic.storage_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _known(self, study: str, series: str, instance: str) -> bool:
        name = Path("images", series, f"{instance}.dcm")
        return any((self._path(state, study) / name).exists() for state in _LIVING) or (
            instance in self.receipt(study).images
        )

    def complete(self, quiet_s: float) -> None:
        """Studies for which nothing came in ``quiet_s`` seconds become waiting ones."""
        now = time.monotonic()
        with self._lock:
            for study in self._studies("receiving"):
                busy = any(self._path(state, study).exists() for state in ("waiting", "sending"))
                if now - self._latest.get(study, now) >= quiet_s and not busy:
                    os.replace(self._path("receiving", study), self._path("waiting", study))
                    self._latest.pop(study, None)

    def take(self) -> str | None:
        """A waiting study to be answered, or None; until ``answered`` or ``release`` no image is added to it."""
        with self._lock:
            self._busy = next(iter(self._studies("waiting")), None)
            return self._busy

    def release(self) -> None:
        """The study taken waits again."""
        self._busy = None

    def images(self, study: str) -> tuple[Path, ...]:
        """The images of a waiting study."""
        return tuple(sorted((self._path("waiting", study) / "images").glob("*/*.dcm")))

    def answer_folder(self, study: str) -> Path:
        """Where the answer to a waiting study goes, as a whole."""
        return self._path("waiting", study) / "answer"

    def answered(self, study: str) -> None:
        """The answer is there: the study is to be sent."""
        with self._lock:
            os.replace(self._path("waiting", study), self._path("sending", study))
            self._busy = None

    def fail(self, study: str, reason: str) -> None:
        """Put a waiting study aside for a person, with the reason beside it."""
        with self._lock:
            atomic.write_text(self._path("waiting", study) / "reason.txt", reason + "\n")
            target = self._path("failed", study)
            if target.exists():  # an earlier part of it failed too
                for path in self.images(study):
                    kept = target / path.relative_to(self._path("waiting", study))
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, kept)
                os.replace(self._path("waiting", study) / "reason.txt", target / "reason.txt")
                self._discard(self._path("waiting", study))
            else:
                os.replace(self._path("waiting", study), target)
            self._busy = None

    def sending(self) -> tuple[str, ...]:
        """Studies with answers on their way."""
        with self._lock:
            return self._studies("sending")

    def unsent(self, study: str) -> tuple[Path, ...]:
        """Answers of a study that the peer has not taken yet."""
        return tuple(sorted((self._path("sending", study) / "answer").rglob("*.dcm")))

    def sent(self, path: Path, study: str) -> None:
        """The peer has taken an answer."""
        folder = self._path("sending", study) / "sent"
        folder.mkdir(exist_ok=True)
        os.replace(path, folder / path.name)

    def finish(self, study: str) -> None:
        """Everything was sent: keep the receipt, let the images go."""
        folder, before = self._path("sending", study), self.receipt(study)
        images = [path.stem for path in (folder / "images").glob("*/*.dcm")]
        series = [path.name for path in (folder / "images").iterdir()] if (folder / "images").exists() else []
        answers = [path.stem for path in (folder / "sent").glob("*.dcm")]
        receipt = Receipt(
            study,
            tuple(sorted({*before.images, *images})),
            tuple(sorted({*before.series, *series})),
            tuple(sorted({*before.answers, *answers})),
        )
        with self._lock:
            documents.save(receipt, self.folder / "done" / f"{study}.json")
            self._receipts[study] = receipt
            self._discard(folder)

    def receipt(self, study: str) -> Receipt:
        """What was done for a study so far."""
        with self._lock:
            if study not in self._receipts:
                if len(self._receipts) >= _RECEIPTS:
                    self._receipts.clear()
                path = self.folder / "done" / f"{study}.json"
                self._receipts[study] = documents.load(Receipt, path) if path.exists() else Receipt(study, (), (), ())
            return self._receipts[study]

    def _discard(self, folder: Path) -> None:
        outgoing = self.folder / "outgoing" / uuid4().hex
        os.replace(folder, outgoing)
        shutil.rmtree(outgoing)

    def _studies(self, state: str) -> tuple[str, ...]:
        """Studies in a state, the oldest first."""
        found = [path for path in (self.folder / state).iterdir() if _IDENTIFIER.fullmatch(path.name)]
        return tuple(path.name for path in sorted(found, key=lambda path: path.stat().st_mtime))

    def _path(self, state: str, study: str) -> Path:
        return self.folder / state / study


def _sync(folder: Path) -> None:
    """Have the names in a folder on disk, so that a loss of power takes none of them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
