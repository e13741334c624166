"""The exceptions of medseg. Every message is one line: what, where, expected, found, what to do next.

MedsegError                 anything this package refuses to do
├── UsageError              an argument that cannot be used
├── DataError               a file or dataset that cannot be used
│   ├── FileUnreadableError     missing, truncated, or not what its name says
│   ├── GeometryError           grids that differ or make no sense
│   └── LabelError              label values that were not declared
├── DocumentError           a plan, fingerprint or manifest that does not parse
├── ModelError              weights that are missing, damaged, or do not fit the plan
├── DownloadError           a file that did not come over the network
├── SelfCheckError          a written mask that does not read back as what was meant
├── StorageError            no space, or no right to write
├── MemoryNeedError         more memory needed than allowed
├── TrainingDivergedError   a loss that is no number any more
└── CasesFailedError        some cases failed while the others were done
"""

from __future__ import annotations

from collections.abc import Mapping

_LISTED = 10  # failed cases in a message; all of them are in ``failures``


class MedsegError(Exception):
    """Base of every error that medseg raises on purpose."""


class UsageError(MedsegError, ValueError):
    """An argument that cannot be used as it is."""


class DataError(MedsegError):
    """A file or dataset that cannot be used as it is."""


class FileUnreadableError(DataError):
    """A file that is missing, truncated, or not what its name says."""


class GeometryError(DataError):
    """Two grids that should be equal and are not, or a grid that makes no sense."""


class LabelError(DataError):
    """A label value that the dataset does not declare."""


class DocumentError(MedsegError):
    """A JSON or YAML document that does not hold what its kind must hold."""


class ModelError(MedsegError):
    """Weights that are missing, damaged, or do not fit their plan."""


class DownloadError(MedsegError):
    """A file that a person asked for did not come over the network, or another one came."""


class SelfCheckError(MedsegError):
    """A written mask did not read back as the mask that was meant, and was not released."""


class StorageError(MedsegError):
    """Nothing could be written: no space left, or no right to write."""


class MemoryNeedError(MedsegError):
    """A job needs more memory than it may take."""


class TrainingDivergedError(MedsegError):
    """The loss of a training is no number any more."""


class CasesFailedError(MedsegError):
    """Some cases failed; the others were done.

    ``failures`` maps the name of each failed case to its one-line reason.
    """

    def __init__(self, what: str, failures: Mapping[str, str], total: int) -> None:
        self.what = what
        self.failures = dict(failures)
        self.total = total
        listed = [f"\n  {case}: {reason}" for case, reason in self.failures.items()]
        if total == 1 and listed:
            super().__init__(f"{what}: {listed[0].strip()}")
            return
        more = f"\n  and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        super().__init__(f"{what}: {len(listed)} of {total} cases failed{''.join(listed[:_LISTED])}{more}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.failures, self.total)  # so that it survives the way from a worker
