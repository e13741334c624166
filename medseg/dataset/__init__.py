"""What a dataset is and where its files are: MSD folders, nnU-Net v2 raw folders, manifests."""

from medseg.dataset.cases import CaseRef, Dataset
from medseg.dataset.completeness import Survey
from medseg.dataset.findings import Finding
from medseg.dataset.manifest import Manifest
from medseg.dataset.opening import survey
from medseg.dataset.reading import load_case, read_reference

__all__ = ["CaseRef", "Dataset", "Finding", "Manifest", "Survey", "load_case", "read_reference", "survey"]
