"""DICOM over the network: images in by C-STORE from those who may, masks out to one peer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medseg.errors import MedsegError, StorageError, UsageError

# Status codes of the storage service (DICOM PS3.4 B.2.3).
SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_PEER = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>.+):(?P<port>\d{1,5})")
# Seconds for a peer to answer before it counts as away.
_PATIENCE_S = 30

Keep = Callable[[str, str, str, bytes], bool]


@dataclass(frozen=True)
class Peer:
    """Whom masks are sent to: an application entity's title, host and port."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AET@host:port``.

        Raises:
            UsageError: the text is nothing like that.
        """
        match = _PEER.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise UsageError(f"--peer {text}: expected AET@host:port, such as PACS@10.0.0.5:104")
        return cls(match["title"], match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@contextmanager
def receiving(title: str, host: str, port: int, accept: Sequence[str], keep: Keep) -> Iterator[int]:
    """Listen while the context lasts and hand every image to ``keep``; yields the port (chosen freely if 0 was given).

    A sender whose title is not in ``accept``, or who calls by another title than ``title``, is turned away. A sender is
    told of success only after ``keep`` has returned; if there is no space it is told so, and sends again later.

    Raises:
        UsageError: the port cannot be had.
    """
    entity = ApplicationEntity(title)
    entity.require_calling_aet = list(accept)
    entity.require_called_aet = True
    entity.maximum_associations = 32
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    try:
        server = entity.start_server((host, port), block=False, evt_handlers=[(evt.EVT_C_STORE, _store, [keep])])
    except OSError as error:
        raise UsageError(f"--port {port}: cannot listen there ({error.strerror}); choose another") from error
    assert server is not None and server.socket is not None
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()


def _store(event: evt.Event, keep: Keep) -> int:
    try:
        data = event.encoded_dataset()
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        header = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=list(names))
        study, series, instance = (str(header.get(name) or "") for name in names)
        if instance != str(getattr(event.request, "AffectedSOPInstanceUID", "")):
            return NOT_UNDERSTOOD
        keep(study, series, instance, data)
    except (StorageError, OSError):
        return OUT_OF_RESOURCES
    except (MedsegError, InvalidDicomError, AttributeError, KeyError, ValueError):
        return NOT_UNDERSTOOD
    return SUCCESS


def send(paths: Sequence[Path], peer: Peer, title: str, taken: Callable[[Path], None]) -> str | None:
    """Send files to a peer in one association, calling ``taken`` after each that it took.

    Returns:
        None if it took all of them, else why not, in a few words.
    """
    entity = ApplicationEntity(title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _PATIENCE_S
    headers = {path: pydicom.dcmread(path) for path in paths}
    for kind, syntax in sorted({(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in headers.values()}):
        entity.add_requested_context(kind, syntax)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        return "rejected the association" if association.is_rejected else "does not answer"
    try:
        for path, dataset in headers.items():
            try:
                status = association.send_c_store(dataset)
            except (RuntimeError, ValueError) as error:
                return f"does not take {dataset.SOPClassUID.name} ({type(error).__name__})"
            if "Status" not in status:
                return "broke off"
            if status.Status != SUCCESS and status.Status >> 12 != 0xB:  # 0xBxxx: taken, with a warning
                return f"refused with status 0x{status.Status:04X}"
            taken(path)
    finally:
        association.release()
    return None
