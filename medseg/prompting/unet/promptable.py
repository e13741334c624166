"""A plan whose network takes prompts: the scan's channels and four more, one object against all else.

Any plan becomes such a plan. The model folder of a promptable network holds it and is otherwise like every other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medseg.errors import ModelError
from medseg.fingerprinting import IntensityStatistics
from medseg.labels import LabelSet
from medseg.planning.plan import Configuration, Decision, Normalization, Plan
from medseg.planning.wording import lengths
from medseg.prompting.unet.channels import POINT_SIGMA_VOXELS, PROMPT_CHANNELS

SUFFIX = "_promptable"
OBJECT = "object"
# A patch holds objects up to this percentile of their extents, and so much of what is around them, in their size.
OBJECTS_WITHIN_PATCH = 95.0
CONTEXT = 1.25
# Least size of the coarsest stage's map along an axis, as in planning.
COARSEST_VOXELS = 4
_UNUSED = IntensityStatistics(0.5, 0.5, 0.5, 0.0, 1.0, 0.0, 1.0)


def promptable_plan(plan: Plan, configuration: Configuration, extents: np.ndarray) -> tuple[Plan, Configuration]:
    """The plan with prompts among its channels and one object as its label, and its only configuration.

    Args:
        extents: (objects, 3) voxels that objects of the dataset reach along (Z, Y, X), or none.
    """
    extra = len(PROMPT_CHANNELS)
    patch_size, because = object_patch(extents, configuration)
    chosen = replace(
        configuration,
        name=configuration.name + SUFFIX,
        normalization=(*configuration.normalization, *(Normalization("none"),) * extra),
        patch_size=patch_size,
        previous_stage=None,
        decisions=tuple(
            Decision(made.field, lengths(patch_size, "voxels"), because) if made.field == "patch_size" else made
            for made in configuration.decisions
        ),
    )
    labels = LabelSet({OBJECT: (1,)}, ignore=None if plan.labels.ignore is None else 2)
    changed = replace(
        plan,
        channels=(*plan.channels, *PROMPT_CHANNELS),
        intensities=(*plan.intensities, *(_UNUSED,) * extra),
        labels=labels,
        configurations=(chosen,),
    )
    return changed, chosen


def object_patch(extents: np.ndarray, configuration: Configuration) -> tuple[tuple[int, ...], str]:
    """A patch that holds an object and what lies around it, no larger than the plan's, and why it is that size.

    Prompts say where to look, so a patch need not show the whole scan: a smaller one is answered sooner, and more of
    them are seen in the same time of training.
    """
    largest = configuration.patch_size
    if not len(extents):
        return largest, "the plan's: no object is known"
    reach = np.percentile(extents, OBJECTS_WITHIN_PATCH, axis=0)[3 - len(largest) :]
    steps = np.prod(configuration.network.strides, axis=0)  # voxels that the coarsest stage sees as one
    patch = steps * np.maximum(np.ceil(CONTEXT * reach / steps), COARSEST_VOXELS).astype(int)
    return tuple(np.minimum(patch, largest).tolist()), (
        f"{OBJECTS_WITHIN_PATCH:g} of 100 objects reach no further than {lengths(np.ceil(reach), 'voxels')};"
        f" {CONTEXT:g} times that, in whole voxels of the coarsest stage, up to the plan's {lengths(largest)}"
    )


def scan_plan(plan: Plan, configuration: Configuration) -> tuple[Plan, Configuration]:
    """Of a promptable plan what the scan itself needs, without the prompts.

    Raises:
        ModelError: the plan is not promptable.
    """
    extra = len(PROMPT_CHANNELS)
    if plan.channels[-extra:] != PROMPT_CHANNELS:
        raise ModelError(
            f"the model {configuration.name} of {plan.dataset_name} takes no prompts;"
            " train one that does: medseg train --promptable"
        )
    chosen = replace(configuration, normalization=configuration.normalization[:-extra])
    return replace(
        plan, channels=plan.channels[:-extra], intensities=plan.intensities[:-extra], configurations=(chosen,)
    ), chosen


def point_sigmas(configuration: Configuration) -> tuple[float, ...]:
    """Width of a point's bump along the network's axes, in voxels: round in millimetres, which voxels are not."""
    finest = min(configuration.spacing_mm)
    return tuple(max(POINT_SIGMA_VOXELS * finest / spacing, 0.7) for spacing in configuration.spacing_mm)
