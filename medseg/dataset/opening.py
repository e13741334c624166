"""From a path to a dataset, with every problem of its list of files rather than the first. Reads names, no voxels."""

from __future__ import annotations

import os
from pathlib import Path

from medseg import documents
from medseg.dataset import folders, manifest
from medseg.dataset.cases import Dataset
from medseg.dataset.completeness import Survey, checked, listing
from medseg.errors import DataError, DocumentError, FileUnreadableError

DATASET_FILE = "dataset.json"


def survey(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Survey:
    """Find the cases of a dataset.

    Args:
        path: a folder with ``dataset.json`` in MSD or nnU-Net v2 raw form, that file itself, or a YAML manifest.
        root: where the files lie, if not beside the document.

    Raises:
        DataError: there is no such dataset, or it has no cases at all.
        DocumentError: its document does not parse.
    """
    document = Path(path)
    if document.is_dir():
        document = document / DATASET_FILE
        if not document.is_file():
            raise DataError(
                f"{path}: no {DATASET_FILE} here; expected a folder in MSD or nnU-Net v2 form, or a manifest (.yaml);"
                f" found {listing(Path(path))}"
            )
    elif not document.is_file():
        raise FileUnreadableError(f"{path}: no such file or folder; give a dataset folder or a manifest (.yaml)")
    base = Path(document.parent if root is None else root).resolve()
    if document.suffix.lower() in (".yaml", ".yml"):
        found = manifest.survey(document, None if root is None else base)
    else:
        content = documents.read_json(document)
        if not isinstance(content, dict):
            raise DocumentError(f"{document}: expected an object with channel names and labels")
        try:
            if "cases" in content and "version" in content:
                found = Survey(Dataset.load(document), ())
            elif "training" in content:
                found = folders.survey_msd(content, document, base)
            else:
                found = folders.survey_nnunet(content, document, base)
        except DocumentError as error:
            prefix = "" if str(error).startswith(str(document)) else f"{document}: "
            raise DocumentError(f"{prefix}{error}") from error
    return checked(found.dataset, found.findings)
