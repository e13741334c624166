"""The node: listens, waits until a study is complete, has it answered, sends the answer, and tries again later."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medseg import atomic
from medseg.errors import MedsegError, MemoryNeedError, StorageError, UsageError
from medseg.node.network import Peer, receiving, send
from medseg.node.spool import Spool

# Given the images of a complete study, writes DICOM files into a folder; none if the study holds nothing to answer.
Answer = Callable[[Sequence[Path], Path], None]

_TICK_S = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeSettings:
    """How a node works.

    Attributes:
        spool: folder for studies on their way.
        peer: whom answers go to.
        accept: titles of those who may send.
        title, host, port: what the node is called, and where it listens (port 0: any that is free).
        quiet_s: a study is complete when nothing came for so many seconds. Longer than its sender's longest pause.
        retry_s, longest_retry_s: after a failure, tries again after so many seconds, twice as many each time.

    Raises:
        UsageError: nobody may send, or a title that is none.
    """

    spool: Path
    peer: Peer
    accept: tuple[str, ...]
    title: str = "MEDSEG"
    host: str = "0.0.0.0"
    port: int = 11112
    quiet_s: float = 30.0
    retry_s: float = 5.0
    longest_retry_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.accept:
            raise UsageError("--accept: nobody may send; name the application entities that may, such as --accept PACS")
        for title in (self.title, *self.accept):
            if not 0 < len(title.strip()) <= 16 or "\\" in title:
                raise UsageError(f"{title!r}: expected an application entity's title of 1 to 16 characters")


class Node:
    """A running service; a context manager that listens and works while it lasts.

    Messages in the log name studies by their identifiers and nothing of the patient.

    Raises (on entering):
        UsageError: the port or the spool is taken.
        StorageError: the spool cannot be written.
    """

    def __init__(self, settings: NodeSettings, answer: Answer) -> None:
        self.settings = settings
        self.port = settings.port
        self._answer = answer
        self._stop = threading.Event()
        self._stack = ExitStack()
        self._due: dict[str, float] = {}  # when to try again what failed
        self._delay: dict[str, float] = {}

    def __enter__(self) -> Node:
        # pynetdicom and pydicom put values of elements into what they log in detail.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
        settings = self.settings
        try:
            self._spool = Spool(settings.spool)
            self._stack.callback(self._spool.close)
            for work in (self._answer_next, self._send_next):
                thread = threading.Thread(target=self._loop, args=(work,), daemon=True)
                thread.start()
                self._stack.callback(thread.join, 5.0)
            self._stack.callback(self._stop.set)
            self.port = self._stack.enter_context(
                receiving(settings.title, settings.host, settings.port, settings.accept, self._keep)
            )
        except BaseException:
            self._stop.set()
            self._stack.close()
            raise
        log.info("%s listens on port %d for %s", settings.title, self.port, ", ".join(settings.accept))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Work until told to stop."""
        while not should_stop():
            self._stop.wait(_TICK_S)

    def _keep(self, study: str, series: str, instance: str, data: bytes) -> bool:
        try:
            return self._spool.add(study, series, instance, data)
        except StorageError as error:
            log.error("an image was refused, its sender will send it again: %s", error)
            raise

    def _loop(self, work: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            try:
                worked = work()
            except (OSError, MedsegError) as error:  # such as a full disk: the state is as it was before
                log.error("the spool cannot be used, trying again: %s", error)
                worked = False
                self._stop.wait(self.settings.retry_s)
            if not worked:
                self._stop.wait(_TICK_S)

    def _answer_next(self) -> bool:
        """Have one waiting study answered; False if there was none to do."""
        self._spool.complete(self.settings.quiet_s)
        if not self._is_due("answers"):
            return False
        study = self._spool.take()
        if study is None:
            return False
        folder = self._spool.answer_folder(study)
        if not folder.exists():  # answered before a kill
            images = self._spool.images(study)
            again = sorted({path.parent.name for path in images} & set(self._spool.receipt(study).series))
            if again:
                self._fail(
                    study,
                    f"images of series {again[0]} came after it had been answered without them, so the answer sent"
                    " was made of a part; wait longer (--quiet), remove the study's file in done/ and its folder in"
                    " failed/, and send it again",
                )
                return True
            try:
                with atomic.replacing_folder(folder) as temporary:
                    self._answer(images, temporary)
            except (StorageError, MemoryNeedError, MemoryError, OSError) as error:
                self._spool.release()
                self._later("answers", f"study {study} waits: {error}")
                return False
            except MedsegError as error:
                self._fail(study, str(error))
                return True
            except Exception as error:  # a fault in the program: its words may hold anything, the log must not
                log.error("study %s: unexpected %s", study, type(error).__name__)
                self._spool.fail(study, traceback.format_exc())
                return True
        self._spool.answered(study)
        self._well("answers")
        log.info("study %s answered", study)
        return True

    def _fail(self, study: str, reason: str) -> None:
        log.error("study %s cannot be answered, kept in failed/: %s", study, reason)
        self._spool.fail(study, reason)

    def _send_next(self) -> bool:
        """Send what one study has to send; False if there was nothing to do."""
        for study in self._spool.sending():
            if not self._is_due(study):
                continue
            unsent = self._spool.unsent(study)
            if unsent:
                peer = self.settings.peer
                problem = send(
                    unsent, peer, self.settings.title, lambda path, study=study: self._spool.sent(path, study)
                )
                if problem is not None:
                    self._later(study, f"study {study}: {peer} {problem}")
                    continue
            self._spool.finish(study)
            self._well(study)
            log.info("study %s done", study)
            return True
        return False

    def _is_due(self, what: str) -> bool:
        return time.monotonic() >= self._due.get(what, 0.0)

    def _later(self, what: str, message: str) -> None:
        delay = min(self._delay.get(what, self.settings.retry_s / 2) * 2, self.settings.longest_retry_s)
        self._delay[what], self._due[what] = delay, time.monotonic() + delay
        log.warning("%s; trying again in %.3g s", message, delay)

    def _well(self, what: str) -> None:
        self._delay.pop(what, None)
        self._due.pop(what, None)
