"""What one series holds: a volume, a single image, slices that make no volume, or something else than an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medseg.dicom.frames import Plane
from medseg.dicom.geometry import Arrangement, grid
from medseg.dicom.headers import InstanceHeader
from medseg.dicom.mosaic import tile_size
from medseg.errors import GeometryError
from medseg.volume import Geometry


@dataclass(frozen=True, eq=False)
class Series:
    """One volume of a DICOM series, or one series of something else.

    Attributes:
        uid, study_uid, frame_of_reference_uid: empty where the files do not say.
        name: what tells this part from others of the same series ("echo 4.2", "b 1000"); empty where it is whole.
        kind: "volume", "single image", "localiser", "stack" (slices that make no volume), "frames" (without
            positions), "segmentation", "structures", "report", "dose" ...
        problem: why it cannot be read as a volume; empty if it can.
        files: in the order of slices along their normal; one if it is multi-frame.
        size: instances, or frames where the instance holds several.
        headers: of ``files``, in their order.
        planes: the slices, in order.
        arrangement: how the slices lie; None where they have no positions.
    """

    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    number: int | None
    name: str
    kind: str
    problem: str
    files: tuple[Path, ...]
    size: int
    headers: tuple[InstanceHeader, ...] = field(repr=False)
    planes: tuple[Plane, ...] = field(repr=False)
    arrangement: Arrangement | None = field(repr=False)

    @property
    def is_volume(self) -> bool:
        """Whether it is a stack of several slices that can be read as it is."""
        return self.kind == "volume"

    @property
    def is_uneven(self) -> bool:
        """Whether the spacing of its slices is all that keeps it from being a volume, so that resampling mends it."""
        return self.arrangement is not None and self.arrangement.is_uneven

    @property
    def channels(self) -> int:
        """Channels that it is read as: three of a colour image, else one."""
        layout = self.headers[0].pixels
        return 3 if layout is not None and (layout.samples == 3 or layout.photometric == "PALETTE COLOR") else 1

    @property
    def described(self) -> str:
        """What it is, in words that let a person choose among several."""
        named = f" {self.description!r}" if self.description else ""
        part = f" ({self.name})" if self.name else ""
        return f"{self.modality or 'image'}{named}{part} of {self.size} slices, UID {self.uid or 'unknown'}"

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice; (0, 0) without pixels."""
        return tile_size(self.headers[0])

    @property
    def geometry(self) -> Geometry:
        """The grid of the volume that it is read as.

        Raises:
            GeometryError: it is no volume; says why.
        """
        rows, columns = self.plane_shape
        if self.arrangement is not None and not self.problem:
            return grid(self.arrangement, rows, columns)
        if self.kind == "single image" and not self.problem:
            spacing = self.planes[0].spacing_mm or (1.0, 1.0)
            return Geometry.from_spacing((1, rows, columns), (1.0, *spacing))
        raise GeometryError(f"{self}: {self.problem or 'not an image'}")

    def __str__(self) -> str:
        what = " ".join(part for part in (self.modality, self.kind, self.name and f"({self.name})") if part)
        return f"series {self.uid or 'without UID'} [{what}]"
