"""Datasets that a ``dataset.json`` describes: Medical Segmentation Decathlon folders and nnU-Net v2 raw folders."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from medseg import io
from medseg.dataset.cases import CaseRef, Dataset, with_annotated
from medseg.dataset.completeness import Survey, listing
from medseg.dataset.findings import Finding
from medseg.errors import DataError, DocumentError
from medseg.labels import LabelSet

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def survey_msd(content: dict[str, Any], document: Path, root: Path) -> Survey:
    """A Decathlon folder: ``training`` lists images and masks; channels lie in one file, or in ``CASE_0000`` ... files.

    Raises:
        DocumentError: an entry of the wrong form.
        DataError: no cases.
    """
    channels, findings = _channel_names(content), []
    cases = [_msd_case(entry, root, len(channels), "training") for entry in _entries(content, "training")]
    tests = [_msd_case(entry, root, len(channels), "test") for entry in _entries(content, "test")]
    if not cases:
        raise DataError(f"{document}: the list training is empty; found {listing(root)}")
    announced = content.get("numTraining", len(cases))
    if announced != len(cases):
        findings.append(Finding("note", f"numTraining is {announced}, the list training has {len(cases)} cases"))
    return Survey(_dataset(content, document, channels, _named(cases, root), _named(tests, root)), tuple(findings))


def survey_nnunet(content: dict[str, Any], document: Path, root: Path) -> Survey:
    """An nnU-Net v2 raw folder: ``imagesTr/CASE_0000.ENDING`` and ``labelsTr/CASE.ENDING``, or the list ``dataset``.

    Raises:
        DocumentError: an entry of the wrong form.
        DataError: no cases.
    """
    channels = _channel_names(content)
    if "dataset" in content:
        cases = [_listed_case(name, entry, root) for name, entry in _object(content, "dataset").items()]
        return Survey(_dataset(content, document, channels, cases, []), ())
    ending = _ending(content, root / "imagesTr")
    cases, findings = _scan(root / "imagesTr", root / "labelsTr", ending, len(channels))
    if not cases:
        raise DataError(
            f"{document}: no cases: looked for {root / 'imagesTr'}/CASE_0000{ending}, where 0000 is the channel;"
            f" found {listing(root)}{f', such as {findings[0].file}' if findings else ''}"
        )
    tests, _ = _scan(root / "imagesTs", None, ending, len(channels))
    announced = content.get("numTraining", len(cases))
    if announced != len(cases):
        findings.append(Finding("note", f"numTraining is {announced}, found {len(cases)} cases"))
    return Survey(_dataset(content, document, channels, cases, tests), tuple(findings))


def _dataset(
    content: dict[str, Any], document: Path, channels: tuple[str, ...], cases: list[CaseRef], tests: list[CaseRef]
) -> Dataset:
    return Dataset(
        name=str(content.get("name") or document.absolute().parent.name),
        channels=channels,
        labels=_label_set(content),
        cases=with_annotated(cases, _annotated(content)),
        test_cases=tuple(tests),
        description=str(content.get("description", "")),
        licence=str(content.get("licence", content.get("license", ""))),
        reference=str(content.get("reference", "")),
    )


def _annotated(content: dict[str, Any]) -> dict[str, list[str]]:
    """Case to the classes that its mask shows; an entry of our own, for either form.

    Raises:
        DocumentError: an entry of the wrong form.
    """
    entries = content.get("annotated", {})
    if not (isinstance(entries, dict) and all(isinstance(names, list) for names in entries.values())):
        raise DocumentError(f"annotated: expected case names with lists of label names, found {entries!r}")
    return {case: [str(name) for name in names] for case, names in entries.items()}


def _channel_names(content: dict[str, Any]) -> tuple[str, ...]:
    """Channel names in order, from nnU-Net's ``channel_names`` or MSD's ``modality``.

    Raises:
        DocumentError: neither is there, or the channels are not numbered from 0.
    """
    names = content.get("channel_names", content.get("modality"))
    if isinstance(names, dict) and names and sorted(names) == sorted(str(i) for i in range(len(names))):
        return tuple(str(names[str(i)]) for i in range(len(names)))
    raise DocumentError(f'channel_names: expected {{"0": name, "1": name, ...}}, found {names!r}')


def _label_set(content: dict[str, Any]) -> LabelSet:
    """The labels of a ``dataset.json``.

    Raises:
        DocumentError: none, or labels that make no sense.
    """
    if not isinstance(content.get("labels"), dict):
        raise DocumentError(f"labels: expected names and values, found {content.get('labels')!r}")
    return LabelSet.parse(content["labels"], content.get("regions_class_order"), content.get("mirror_pairs"))


def _entries(content: dict[str, Any], key: str) -> list[Any]:
    entries = content.get(key) or []
    if not isinstance(entries, list):
        raise DocumentError(f"{key}: expected a list, found {type(entries).__name__}")
    return entries


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(content[key], dict):
        raise DocumentError(f"{key}: expected an object, found {type(content[key]).__name__}")
    return content[key]


def _msd_case(entry: Any, root: Path, channels: int, where: str) -> CaseRef:
    """A case without its final name. A listed file that is not there may stand for its ``_0000`` ... files."""
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or "image" not in entry:
        raise DocumentError(f'{where}: expected {{"image": path, "label": path}}, found {entry!r}')
    listed = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    if not listed:
        raise DocumentError(f"{where}: an entry without images: {entry!r}")
    images = [_inside(root, image, where) for image in listed]
    first, name = images[0], io.name_of(images[0])
    if len(images) > 1:
        match = _CHANNEL.fullmatch(name)
        name = match["case"] if match else name
    elif not first.is_file():
        ending = io.ending_of(first) or first.suffix
        split = [first.with_name(f"{name}_{channel:04d}{ending}") for channel in range(channels)]
        images = split if any(image.is_file() for image in split) else images
    label = _inside(root, entry["label"], where) if entry.get("label") else None
    return CaseRef(name, tuple(images), label)


def _named(cases: list[CaseRef], root: Path) -> list[CaseRef]:
    """Cases with names that tell them apart: where file names repeat in several folders, their paths."""
    if len({case.name for case in cases}) == len({case.images for case in cases}):
        return cases
    named = []
    for case in cases:
        image = case.images[0].relative_to(root) if case.images[0].is_relative_to(root) else Path(case.images[0].name)
        named.append(CaseRef("_".join((*image.parts[:-1], io.name_of(image))), case.images, case.label))
    return named


def _listed_case(name: str, entry: Any, root: Path) -> CaseRef:
    if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or not entry["images"]:
        raise DocumentError(f'dataset: {name}: expected {{"images": [paths], "label": path}}, found {entry!r}')
    images = tuple(_inside(root, image, f"dataset: {name}") for image in entry["images"])
    label = _inside(root, entry["label"], f"dataset: {name}") if entry.get("label") else None
    return CaseRef(name, images, label)


def _inside(root: Path, path: Any, where: str) -> Path:
    """A listed path: relative to the dataset, or absolute; variables of the shell are filled in, as nnU-Net does."""
    if not isinstance(path, str):
        raise DocumentError(f"{where}: expected a path, found {path!r}")
    return Path(os.path.normpath(root / os.path.expandvars(path)))


def _ending(content: dict[str, Any], folder: Path) -> str:
    if isinstance(content.get("file_ending"), str):
        return content["file_ending"]
    counts = Counter(io.ending_of(path) for path in _visible(folder) if io.is_image_name(path))
    if len(counts) == 1:
        return str(next(iter(counts)))
    raise DocumentError(f"file_ending is missing, and {folder} holds {listing(folder)}; add file_ending")


def _scan(images: Path, labels: Path | None, ending: str, channels: int) -> tuple[list[CaseRef], list[Finding]]:
    """Cases by file name; without ``labels`` these are test cases, whose masks are not looked for."""
    findings: list[Finding] = []
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _visible(images):
        match = _CHANNEL.fullmatch(path.name.removesuffix(ending)) if path.name.endswith(ending) else None
        if match is None:
            remedy = f"name it CASE_0000{ending}"
            findings.append(Finding("warning", "this file belongs to no case; left out", None, path, remedy))
        else:
            found[match["case"]][int(match["channel"])] = path
    cases = []
    for name, files in sorted(found.items()):
        expected = range(1 if set(files) == {0} and ending.lower() in _PICTURES else channels)
        for channel in sorted(set(files) - set(range(channels))):
            problem = f"channel {channel} of a dataset with {channels} channels"
            findings.append(Finding("error", problem, name, files[channel], "declare it in channel_names or remove it"))
        label = None if labels is None else labels / f"{name}{ending}"
        paths = tuple(images / f"{name}_{channel:04d}{ending}" for channel in expected)
        cases.append(CaseRef(name, paths, label))
    if labels is not None:
        alone = [path for path in _visible(labels) if path.name.removesuffix(ending) not in found]
        findings += [Finding("warning", "a mask without image; left out", None, path) for path in alone]
    return cases, findings


def _visible(folder: Path) -> list[Path]:
    """Files of a folder in order, but for those that start with a dot or an underscore; none without the folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_")))
