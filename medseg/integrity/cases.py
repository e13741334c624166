"""One case looked at: its images as the channels that are declared, its mask on their grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg import io
from medseg.dataset import CaseRef, Dataset, Finding, read_reference
from medseg.errors import MedsegError
from medseg.integrity.files import compare_grids, examine_file, header_problems, of_error
from medseg.integrity.records import CaseRecord, record
from medseg.integrity.units import unit_problems
from medseg.io import formats
from medseg.labels import LabelSet, value_counts
from medseg.volume import Volume

_LISTED = 5


def examine_case(case: CaseRef, dataset: Dataset, records: list[CaseRecord]) -> Iterator[Finding]:
    """What is wrong with a case; its record is appended to ``records`` where all its images can be read."""
    sources = case.sources(dataset.channels)
    read = [(file, *examine_file(file, case.name, source)) for file, source in zip(case.images, sources, strict=True)]
    for _, _, findings in read:
        yield from findings
    volumes = [(file, volume) for file, volume, _ in read if volume is not None]
    if len(volumes) == len(case.images):
        records.append(record(case.name, [volume for _, volume in volumes], case.group))
        yield from _channel_problems(case, dataset, volumes)
    if case.label is None:
        yield Finding("note", "no mask, so this case cannot be used for training", case.name)
        return
    in_dicom = io.holds_dicom(case.label)
    if in_dicom and not volumes:
        return  # without its scan, whose problem is told above, it has no grid
    yield from header_problems(case.label, case.name)
    try:
        if in_dicom:
            grid = volumes[0][1].geometry
            mask = read_reference(case.label, dataset.labels, case.segments, grid, io.resolve(sources))
        else:
            mask = io.read_labels(case.label)
    except MedsegError as error:
        yield of_error(error, case.label, case.name)
        return
    if volumes:
        yield from compare_grids(
            case.name, volumes[0][0], volumes[0][1].geometry, case.label, mask.geometry, is_mask=True
        )
    voxels = value_counts(mask.array)
    if len(volumes) == len(case.images):
        records[-1] = records[-1].with_mask(voxels)
    yield from _label_problems(case.name, case.label, voxels, dataset.labels)


def _channel_problems(case: CaseRef, dataset: Dataset, volumes: Sequence[tuple[Path, Volume]]) -> Iterator[Finding]:
    """Whether the images of a case are its channels: on one grid, as many as are declared, in their units."""
    first_file, first = volumes[0]
    for file, volume in volumes[1:]:
        if not case.choice.resample:
            yield from compare_grids(case.name, first_file, first.geometry, file, volume.geometry, is_mask=False)
    found, expected = sum(volume.channels for _, volume in volumes), len(dataset.channels)
    if found != expected and not _counts_as(volumes, expected):
        yield Finding(
            "error",
            f"expected {expected} channels ({', '.join(dataset.channels)}), found {found}",
            case.name,
            first_file,
            "declare all channels, or split the file and keep those that are declared",
        )
    elif found == expected:
        names = iter(dataset.channels)
        for file, volume in volumes:
            alone = volume.channels == 1 and not io.holds_dicom(file)
            for channel in volume.array:
                yield from unit_problems(channel, next(names), file, case.name, alone)


def _label_problems(case: str, file: Path, counts: dict[int, int], labels: LabelSet) -> Iterator[Finding]:
    known = {labels.background, labels.ignore, *labels.values}
    strange = {value: count for value, count in counts.items() if value not in known}
    if strange:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:_LISTED])
        problem = f"values that are not declared: {listed}{' ...' if len(strange) > _LISTED else ''}"
        yield Finding("error", problem, case, file, f"declare them beside {list(labels.values)}, or correct the mask")
    if not any(value in counts for value in labels.values):
        remedy = "remove the case if it was never annotated; keep it if there is nothing to find"
        yield Finding("warning", "the mask is empty", case, file, remedy)


def _counts_as(volumes: Sequence[tuple[Path, Volume]], channels: int) -> bool:
    """Whether a single picture holds the expected channels after all, being grey."""
    from medseg.io import pictures

    ((file, volume), *others) = volumes
    return not others and formats.is_picture(file) and pictures.with_channels(volume, channels).channels == channels
