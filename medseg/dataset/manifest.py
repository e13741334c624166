"""Manifests: YAML documents that say what the data are. Written out in ``docs/datasets.md``.

Files are named by templates with ``{case}``, or case by case, and looked for below a root folder.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from medseg import dicom, documents
from medseg.dataset.cases import CaseRef, Dataset, with_annotated
from medseg.dataset.completeness import Survey, listing
from medseg.dataset.findings import Finding
from medseg.errors import DataError, DocumentError
from medseg.labels import LabelSet
from medseg.terms import Meaning

_CASE = "{case}"


@dataclass(frozen=True)
class DicomReading:
    """How DICOM files of a manifest are read.

    Attributes:
        series: UID or part of the description of the series that is meant, or channel name to that.
        modality: CT, MR, PT ...; by default what the name of a channel says.
        segments: name of a segment or structure to the value of its voxels; by default labels have segments' names.
        fix_spacing: unevenly spaced slices are interpolated onto an even grid.
        suv: PET as standardised uptake values (g/ml).
        resample: channels on other grids of one frame of reference are brought onto the first channel's.
    """

    series: str | dict[str, str] | None = None
    modality: str = ""
    segments: dict[str, int] = field(default_factory=dict)
    fix_spacing: bool = False
    suv: bool = False
    resample: bool = False


@dataclass(frozen=True)
class ManifestCase:
    """One case that is written out. What is left out follows the manifest's templates."""

    name: str
    images: str | dict[str, str] | None = None
    label: str | None = None
    group: str | None = None
    series: str | dict[str, str] | None = None
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        channels: names in order.
        labels: name to value, or values of a region; background is 0 unless named.
        codes: label to its coded terms, side and colour.
        images: template of one file with all channels, or channel name to template.
        label: template of the mask.
        test_images: like ``images``, for cases that are set apart.
        mirror_pairs: left and right counterparts; by default names of labels decide.
        root: folder of the files, relative to the manifest.
        cases: cases written out; without them every file that fits the templates is a case.
        groups: case to group, or a regular expression whose match (or first group) in the case's name is its group.
        annotated: case to the classes that its mask shows, for cases where that is not all.
        training_count, test_count: cases of the published dataset, to notice a copy that is not whole.
        checksums: file to SHA-256.
        dicom: how DICOM files are read.

    Raises:
        DocumentError: entries that do not belong together; names the first.
    """

    name: str
    channels: tuple[str, ...]
    labels: dict[str, int | tuple[int, ...]]
    images: str | dict[str, str] | None = None
    label: str | None = None
    test_images: str | dict[str, str] | None = None
    regions_class_order: tuple[int, ...] | None = None
    mirror_pairs: tuple[tuple[str, str], ...] | None = None
    root: str | None = None
    cases: tuple[ManifestCase, ...] = ()
    groups: str | dict[str, str] | None = None
    annotated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    description: str = ""
    codes: dict[str, Meaning] = field(default_factory=dict)
    licence: str = ""
    source: str = ""
    reference: str = ""
    training_count: int | None = None
    test_count: int | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    dicom: DicomReading = field(default_factory=DicomReading)

    def __post_init__(self) -> None:
        if not self.channels:
            raise DocumentError("channels: no channel is named; name at least one")
        if self.images is None and not self.cases:
            raise DocumentError(f"images: give a template such as imagesTr/{_CASE}.nii.gz, or write the cases out")
        for key in ("images", "test_images"):
            for template in _by_channel(getattr(self, key), self.channels, key):
                _require_case(template, key)
        if self.label is not None:
            _require_case(self.label, "label")
        for case in self.cases:
            if case.images is None and self.images is None:
                raise DocumentError(f"cases: {case.name}: no images, and no template for them")
            _by_channel(case.images, self.channels, f"cases: {case.name}: images")
            _by_channel(case.series, self.channels, f"cases: {case.name}: series")
        _by_channel(self.dicom.series, self.channels, "dicom: series")
        if isinstance(self.groups, str):
            try:
                re.compile(self.groups)
            except re.error as error:
                raise DocumentError(f"groups: not a regular expression ({error})") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest, without looking for its files.

        Raises:
            DocumentError: missing, not YAML, or an entry that does not belong.
        """
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
        except OSError as error:
            raise DocumentError(f"{path}: cannot be read: {error.strerror}; see that you may read it") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DocumentError(f"{path}: not valid YAML: {' '.join(str(error).split())}; correct it there") from error
        manifest = documents.from_json(cls, content, where=str(path))
        manifest.label_set(str(path))
        return manifest

    def label_set(self, where: str) -> LabelSet:
        """The labels as the rest of the program knows them.

        Raises:
            DocumentError: they make no sense; begins with ``where``.
        """
        try:
            return LabelSet.parse(self.labels, self.regions_class_order, self.mirror_pairs, self.codes)
        except DocumentError as error:
            raise DocumentError(f"{where}: {error}") from error

    def choice(self, series: str | dict[str, str] | None = None) -> dicom.SeriesChoice:
        """Which DICOM series of a case are meant, and how they are read; ``series`` of the case comes first."""
        how = self.dicom
        texts = _by_channel(series if series is not None else how.series, self.channels, "series")
        return dicom.SeriesChoice(texts, how.modality, how.fix_spacing, how.suv, how.resample)

    def group_of(self, case: str) -> str | None:
        """The group of a case, if the manifest says."""
        if self.groups is None:
            return None
        if isinstance(self.groups, Mapping):
            return self.groups.get(case)
        match = re.search(self.groups, case)
        return None if match is None else match[1 if match.re.groups else 0]


def survey(path: Path, root: Path | None) -> Survey:
    """Find the files of a manifest.

    Raises:
        DocumentError: the manifest does not parse.
        DataError: no cases.
    """
    manifest = Manifest.load(path)
    base = root or (path.parent / (manifest.root or ".")).resolve()
    templates = _by_channel(manifest.images, manifest.channels, "images")
    if manifest.cases:
        names = [case.name for case in manifest.cases]
    else:
        names = sorted({name for template in templates for name in _matching(template, base)})
        if not names:
            raise DataError(
                f"{path}: no cases: nothing below {base} fits {' or '.join(templates)}; found {listing(base)};"
                " say where the files lie with --root"
            )
    written = {case.name: case for case in manifest.cases}
    annotated = manifest.annotated | {
        case.name: case.annotated for case in manifest.cases if case.annotated is not None
    }
    cases = with_annotated((_case(manifest, name, written.get(name), templates, base) for name in names), annotated)
    test_templates = _by_channel(manifest.test_images, manifest.channels, "test_images")
    test_names = sorted({name for template in test_templates for name in _matching(template, base)})
    dataset = Dataset(
        name=manifest.name,
        channels=manifest.channels,
        labels=manifest.label_set(str(path)),
        cases=cases,
        test_cases=tuple(
            CaseRef(name, _filled(test_templates, name, base), choice=manifest.choice()) for name in test_names
        ),
        description=manifest.description,
        licence=manifest.licence,
        source=manifest.source,
        reference=manifest.reference,
        checksums={base / file: value for file, value in manifest.checksums.items()},
    )
    findings = []
    for what, expected, found in (
        ("training", manifest.training_count, len(cases)),
        ("test", manifest.test_count, len(test_names) if test_templates else None),
    ):
        if expected is not None and found is not None and expected != found:
            findings.append(Finding("note", f"{found} {what} cases are here; the published dataset has {expected}"))
    return Survey(dataset, tuple(findings))


def _case(
    manifest: Manifest, name: str, written: ManifestCase | None, templates: tuple[str, ...], base: Path
) -> CaseRef:
    images, label = _filled(templates, name, base), manifest.label
    group = manifest.group_of(name)
    if written is not None:
        if written.images is not None:
            images = _filled(_by_channel(written.images, manifest.channels, name), name, base)
        label = written.label or label
        group = written.group or group
    return CaseRef(
        name,
        images,
        None if label is None else _filled((label,), name, base)[0],
        group,
        None,
        manifest.choice(None if written is None else written.series),
        tuple(manifest.dicom.segments.items()),
    )


def _by_channel(images: str | dict[str, str] | None, channels: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The files or templates in order of channels: one with all channels, or one each."""
    if images is None:
        return ()
    if isinstance(images, str):
        return (images,)
    if sorted(images) != sorted(channels):
        raise DocumentError(f"{where}: expected one entry for each of {list(channels)}, found {list(images)}")
    return tuple(images[channel] for channel in channels)


def _require_case(template: str, where: str) -> None:
    if _CASE not in template:
        raise DocumentError(f"{where}: expected a template with {_CASE}, found {template!r}")


def _filled(templates: tuple[str, ...], case: str, base: Path) -> tuple[Path, ...]:
    return tuple(Path(os.path.normpath(base / template.replace(_CASE, case))) for template in templates)


def _matching(template: str, base: Path) -> list[str]:
    """Names of the cases whose files or folders fit a template; hidden ones are no cases."""
    first, *rest = PurePosixPath(template).as_posix().split(_CASE)
    pattern = re.escape(first) + r"(?P<case>[^/._][^/]*)" + "(?P=case)".join(map(re.escape, rest))
    found = glob.iglob("*".join(map(glob.escape, (first, *rest))), root_dir=base)  # noqa: PTH207 (a template may be absolute)
    matches = [match for file in found if (match := re.fullmatch(pattern, Path(file).as_posix()))]
    folders = [match for match in matches if (base / match.string).is_dir()]
    return [match["case"] for match in folders or matches]  # beside folders of DICOM files are no cases


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML that refuses a key given twice, of which one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
