"""Checkpoints that others have published, by name: what they are, where to get them, whether they lie here.

No size and no SHA-256 below was measured here. Each stands in at least two public sources that agree and do not copy
each other: SAM's and SAM 2.1's in the registries of micro-sam and in other projects' manifests; those of MedSAM,
MedSAM2 and SAM 3 in the manifests of at least four projects each, MedSAM2's in a Git LFS pointer too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ModelError, UsageError
from medseg.progress import Progress, silent
from medseg.prompting.download import SECURE, digest, download

WEIGHTS_FOLDER = Path("medseg-weights")


@dataclass(frozen=True)
class Published:
    """A checkpoint, as its authors publish it.

    Attributes:
        engine: that it is for.
        file: its name in a folder of weights; of a checkpoint that is a folder, its name in there as well.
        url: of the file; None if its authors give it only to those who have an account and accept their terms.
        licence: of the weights.
        page: where its authors publish it.
    """

    name: str
    engine: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    page: str
    url: str | None

    def path(self, folder: Path) -> Path:
        """Where the file lies in a folder of weights."""
        return folder / self.file

    def checkpoint(self, folder: Path) -> Path:
        """What an engine opens: the file, or the folder that it lies in."""
        return folder / Path(self.file).parts[0]

    def how_to_get(self, folder: Path) -> str:
        """In a few words, for a person."""
        if self.url is None:
            return (
                f"its authors ask for an account and consent to the {self.licence}: get it from {self.page} yourself"
                f" and put {Path(self.file).name} and the small files beside it into {self.checkpoint(folder)}"
            )
        elsewhere = "" if folder == WEIGHTS_FOLDER else f" -o {folder}"
        return f"run: medseg weights get {self.name}{elsewhere}, or put {self.file} from {self.url} into {folder}"


def _sam(size: str, file: str, size_bytes: int, sha256: str) -> Published:
    page, url = (
        "https://github.com/facebookresearch/segment-anything",
        "https://dl.fbaipublicfiles.com/segment_anything",
    )
    return Published(f"sam-vit-{size}", "sam", file, size_bytes, sha256, "Apache-2.0", page, f"{url}/{file}")


def _sam2(size: str, size_bytes: int, sha256: str) -> Published:
    file = f"sam2.1_hiera_{size.replace('-', '_')}.pt"
    page, url = "https://github.com/facebookresearch/sam2", "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
    return Published(f"sam2.1-hiera-{size}", "sam2", file, size_bytes, sha256, "Apache-2.0", page, f"{url}/{file}")


PUBLISHED = (
    _sam("b", "sam_vit_b_01ec64.pth", 375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam("l", "sam_vit_l_0b3195.pth", 1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("h", "sam_vit_h_4b8939.pth", 2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    Published(
        name="medsam-vit-b",
        engine="medsam",
        file="medsam_vit_b.pth",
        size_bytes=375049145,
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        licence="CC BY 4.0",
        page="https://zenodo.org/records/10689643",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
    ),
    _sam2("tiny", 156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("small", 184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2("base-plus", 323606802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam2("large", 898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    Published(
        name="medsam2",
        engine="medsam2",
        file="MedSAM2_latest.pt",
        size_bytes=156040129,
        sha256="c92743b99f00d078bf32a3afcc38aaa9faf1c1692dffe3eaa7a90938c1991060",
        licence="CC BY-SA 4.0, for research and education only",
        page="https://huggingface.co/wanglab/MedSAM2",
        # This revision, since the file at main may become another.
        url="https://huggingface.co/wanglab/MedSAM2/resolve/e4a6f35edd7e091619cbc0750f462f1574e23955/MedSAM2_latest.pt",
    ),
    Published(
        name="sam3",
        engine="sam3",
        file="sam3/model.safetensors",
        size_bytes=3439938512,
        sha256="6d06f0a5f84e435071fe6603e61d0b4cc7b40e0d39d487cfd4d67d8cc11cc14a",
        licence="SAM License",
        page="https://huggingface.co/facebook/sam3",
        url=None,
    ),
)


def by_name(name: str) -> Published:
    """The checkpoint of that name.

    Raises:
        UsageError: there is none.
    """
    published = _named(name)
    if published is None:
        raise UsageError(f"{name}: no published weights of that name; known are {', '.join(p.name for p in PUBLISHED)}")
    return published


def located(checkpoint: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint: itself, or, for the name of a published one, where it lies in ``medseg-weights``.

    Raises:
        ModelError: there is nothing; says how to get it.
    """
    path = Path(checkpoint)
    if path.exists():
        return path
    published = _named(str(path))
    if published is None:
        missing = next((each for each in PUBLISHED if each.file == path.name), None)
        raise ModelError(
            f"{path}: no such checkpoint; {missing.how_to_get(path.parent)}"
            if missing
            else f"{path}: no such checkpoint; expected a folder from medseg train --promptable, weights such as"
            " medsam_vit_b.pth, or a name from: medseg weights list"
        )
    there = published.checkpoint(WEIGHTS_FOLDER)
    if not there.exists():
        raise ModelError(f"{path}: not in {WEIGHTS_FOLDER}; {published.how_to_get(WEIGHTS_FOLDER)}")
    return there


def _named(name: str) -> Published | None:
    return next((published for published in PUBLISHED if published.name == name), None)


def fetch(
    published: Published, folder: Path, *, schemes: tuple[str, ...] = SECURE, progress: Progress = silent
) -> Path:
    """Download a checkpoint into a folder, unless it lies there already; a second start goes on.

    Args:
        schemes: of the addresses that may be opened.

    Returns:
        What an engine opens.

    Raises:
        ModelError: it cannot be had without an account, or another file lies in its place.
        DownloadError: it did not come, or what came is not what was published.
        StorageError: the folder cannot be written, or has no space.
    """
    path = published.path(folder)
    if path.is_file():
        verify(published, folder, progress=progress)
    elif published.url is None:
        raise ModelError(f"{published.name}: {published.how_to_get(folder)}")
    else:
        download(
            published.url,
            path,
            size_bytes=published.size_bytes,
            sha256=published.sha256,
            schemes=schemes,
            progress=progress,
        )
    return published.checkpoint(folder)


def verify(published: Published, folder: Path, *, progress: Progress = silent) -> None:
    """Raise unless the file in a folder is the published one.

    Raises:
        ModelError: it is missing or another one; names what was expected and found.
    """
    path = published.path(folder)
    if not path.is_file():
        raise ModelError(f"{path}: is not there; {published.how_to_get(folder)}")
    found = digest(path, progress)
    if found != published.sha256:
        raise ModelError(
            f"{path}: not the file of {published.name}: expected SHA-256 {published.sha256}, found {found};"
            " remove it and get it again"
        )
