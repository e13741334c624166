"""Small plans and volumes that tests share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from medseg import patches
from medseg.architecture import NetworkSpec
from medseg.fingerprinting import IntensityStatistics
from medseg.labels import LabelSet
from medseg.planning.plan import Configuration, Normalization, Plan
from medseg.volume import Geometry

if TYPE_CHECKING:
    from medseg.workspace import Workspace

LABELS = LabelSet({"left": (1,), "right": (2,)})
ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*order)
]


def small_configuration(
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    patch_size: Sequence[int] = (8, 8, 8),
    channels: int = 1,
    scheme: str = "none",
    batch_size: int = 2,
) -> Configuration:
    """Two stages of four and eight features."""
    dimensions = len(patch_size)
    return Configuration(
        name="3d_fullres" if dimensions == 3 else "2d",
        spacing_mm=tuple(spacing_mm),
        median_shape=tuple(float(size) for size in patch_size),
        patch_size=tuple(patch_size),
        batch_size=batch_size,
        batch_dice=dimensions == 2,
        normalization=(Normalization(scheme),) * channels,  # type: ignore[arg-type]
        network=NetworkSpec(
            family="plain_unet",
            features=(4, 8),
            kernel_sizes=((3,) * dimensions,) * 2,
            strides=((1,) * dimensions, (2,) * dimensions),
            encoder_blocks=(1, 1),
            decoder_blocks=(1,),
        ),
    )


def small_plan(
    configuration: Configuration | None = None,
    labels: LabelSet = LABELS,
    orientation: str = "RAS",
    axis_order: tuple[int, int, int] = (0, 1, 2),
) -> Plan:
    """A plan with one configuration."""
    configuration = configuration or small_configuration()
    channels = len(configuration.normalization)
    return Plan(
        version=1,
        dataset_name="example",
        preset="default",
        memory_gb=8.0,
        orientation=orientation,
        axis_order=axis_order,
        median_spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(8.0, 8.0, 8.0),
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=labels,
        intensities=(IntensityStatistics(100.0, 100.0, 20.0, 0.0, 200.0, 10.0, 190.0),) * channels,
        configurations=(configuration,),
    )


def oblique_geometry(shape: Sequence[int], spacing_mm: Sequence[float], orientation: str, degrees: float) -> Geometry:
    """A grid turned about two axes, whose stored axes follow an orientation such as ``"LPS"``."""
    a, b = np.deg2rad([degrees, -0.6 * degrees])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x)[:, ::-1] * np.asarray(spacing_mm)
    affine[:3, 3] = (-11.0, 23.0, 5.0)
    z, y, x = shape
    upright = Geometry((z, y, x), affine)
    return upright.changed(upright.change_to(orientation))


def every_tile(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[tuple[int, ...]]:
    """Starts of all tiles that cover a shape, the first axis slowest."""
    axes = [patches.tile_starts(size, patch, step) for size, patch in zip(shape, patch_size, strict=True)]
    return list(itertools.product(*axes))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid: anisotropic, oblique (up to 0.5 rad about each axis), in any orientation."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 7.0)] * 3))
    turn = draw(st.tuples(*[st.floats(-0.5, 0.5)] * 3))
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    affine = Geometry.from_spacing(shape, spacing).affine.copy()
    for axis, angle in enumerate(turn):
        a, b = [other for other in range(3) if other != axis]
        rotation = np.eye(3)
        rotation[[a, b], [a, b]] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = origin
    grid = Geometry(shape, affine)
    return grid.changed(grid.change_to(draw(st.sampled_from(ORIENTATIONS))))


def tiny_workspace(root: Path) -> Workspace:
    """Four phantoms of a few thousand voxels in two folds, planned for a network of two stages on patches of 8^3."""
    from medseg.dataset import Dataset
    from medseg.phantoms import PhantomKind, write_dataset
    from medseg.splits import Split, save_splits
    from medseg.workspace import Workspace, plan_workspace

    tiny = PhantomKind(finest_mm=(9.0, 7.0, 7.0), coarsest_mm=(11.0, 8.0, 8.0))
    dataset = Dataset.open(write_dataset(root / "dataset", training=4, test=1, kind=tiny))
    names = [case.name for case in dataset.cases]
    save_splits((Split(tuple(names[:2]), tuple(names[2:])), Split(tuple(names[2:]), tuple(names[:2]))), root / "s.json")
    made = plan_workspace(dataset, root / "workspace", splits_file=root / "s.json")
    own, small = made.plan.configuration("3d_fullres"), small_configuration()
    network = replace(small.network, features=(8, 16))
    chosen = replace(own, batch_size=2, patch_size=small.patch_size, network=network, decisions=())
    replace(made.plan, configurations=(chosen,)).save(made.plan_path)
    return Workspace.open(made.root)
