"""What Siemens writes of mosaics, in private elements: how many tiles there are, and where they follow each other."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medseg.dicom.frames import numbers, text

CSA_IMAGE_HEADER = Tag(0x0029, 0x1010)
MOSAIC_COUNT = Tag(0x0019, 0x100A)


@dataclass(frozen=True)
class Mosaic:
    """A Siemens mosaic: ``count`` slices as tiles of one picture, which follow each other along ``normal`` (LPS)."""

    count: int
    normal: tuple[float, float, float] | None


def mosaic_of(dataset: Dataset) -> Mosaic | None:
    """The mosaic that an image is; None if it is none, or does not say how many slices it holds."""
    if "MOSAIC" not in text(dataset, "ImageType").split("\\"):
        return None
    count, normal = None, None
    element = dataset.get(CSA_IMAGE_HEADER)
    if element is not None and isinstance(element.value, bytes):
        from nibabel.nicom import csareader

        try:
            csa = csareader.read(element.value)["tags"]
            normal = tuple(float(value) for value in csa["SliceNormalVector"]["items"]) or None
            count = int(csa["NumberOfImagesInMosaic"]["items"][0])
        except (KeyError, IndexError, ValueError, csareader.CSAError):
            pass  # the plain element below may still say it
    if count is None and (element := dataset.get(MOSAIC_COUNT)) is not None:
        values = numbers(element.value)
        if not values and isinstance(element.value, bytes) and len(element.value) == 2:
            values = (float(int.from_bytes(element.value, "little")),)
        count = int(values[0]) if values else None
    if count is None:
        return None
    return Mosaic(count, (normal[0], normal[1], normal[2]) if normal and len(normal) == 3 else None)
