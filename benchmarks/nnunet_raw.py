"""A dataset in nnU-Net v2's raw form, and the masks that nnU-Net makes of it in the dataset's own form.

Volumes are links to their files. nnU-Net reads no JPEG, takes colours from one PNG, and wants labels 0, 1, 2 ...:
pictures are written anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medseg import io
from medseg.dataset import Dataset
from medseg.splits import Split, save_splits
from medseg.volume import LabelVolume

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")


def is_pictures(dataset: Dataset) -> bool:
    """Whether the cases are 2D pictures, which hold all channels in one file."""
    return io.ending_of(dataset.cases[0].images[0]) in PICTURE_ENDINGS


def write_raw(dataset: Dataset, folder: Path, splits: Sequence[Split] = ()) -> None:
    """Write the raw folder, with ``splits.json`` if there are splits, unless it is there.

    Volumes need one file a channel and labels that are consecutive already; regions and ignore are not written.
    """
    if (folder / "dataset.json").is_file():
        return
    pictures = is_pictures(dataset)
    ending = ".png" if pictures else io.ending_of(dataset.cases[0].images[0])
    assert ending is not None
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in dataset.cases:
        assert case.label is not None
        if pictures:
            _write_picture(case.images[0], folder / "imagesTr" / f"{case.name}_0000.png")
            labels = dataset.labels.encode(io.read_labels(case.label).array[0], case.name)
            Image.fromarray(labels.astype(np.uint8)).save(folder / "labelsTr" / f"{case.name}.png")
            continue
        files = {f"imagesTr/{case.name}_{i:04d}{ending}": image for i, image in enumerate(case.images)}
        for name, file in {**files, f"labelsTr/{case.name}{ending}": case.label}.items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(file.resolve())
    values = dataset.labels.values
    assert pictures or values == tuple(range(1, len(values) + 1))
    if splits:
        save_splits(splits, folder / "splits.json")
    document = {
        "channel_names": {str(i): name for i, name in enumerate(dataset.channels)},
        "labels": {
            "background": 0,
            **{name: values.index(value) + 1 for name, (value,) in dataset.labels.classes.items()},
        },
        "numTraining": len(dataset.cases),
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(document))


def read_back(dataset: Dataset, masks: Path, target: Path) -> Path:
    """A folder of nnU-Net's masks with the dataset's own label values: ``target`` for pictures, else as it is."""
    if not is_pictures(dataset):
        return masks
    for path in sorted(masks.glob("*.png")):
        found = io.read_labels(path)
        io.write(LabelVolume(dataset.labels.decode(found.array), found.geometry), target / path.name)
    return target


def _write_picture(source: Path, target: Path) -> None:
    Image.open(source).convert("RGB").save(target)
