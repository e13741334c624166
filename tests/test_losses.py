"""The loss by hand and against MONAI's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from medseg.labels import LabelSet
from medseg.training.losses import (
    DeepSupervision,
    DiceCrossEntropy,
    downsample_labels,
    hard_dice_counts,
    region_targets,
    scale_weights,
)

PLAIN = LabelSet({"a": (1,), "b": (2,)})
PARTIAL = LabelSet({"a": (1,), "b": (2,)}, ignore=3)
REGIONS = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))


def random_batch(labels: LabelSet, highest: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.output_count, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, highest + 1, (2, 4, 5, 6), generator=generator).short()


def test_uniform_logits_by_hand():
    """Two voxels, one of each of two classes: cross-entropy ln 2; Dice 2 * 0.5 / (1 + 1) of the only class."""
    labels = LabelSet({"a": (1,)})
    target = torch.tensor([[[[0, 1]]]]).short()
    loss = DiceCrossEntropy(labels, batch_dice=True)(torch.zeros(1, 2, 1, 1, 2), target)
    assert float(loss) == pytest.approx(math.log(2) + 1 - 0.5, abs=1e-4)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_equals_monai_where_nothing_is_ignored(batch_dice):
    logits, target = random_batch(PLAIN, 2)
    peer = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = DiceCrossEntropy(PLAIN, batch_dice)(logits, target)
    # MONAI's cross-entropy half of the same setting leaves background in, as ours does.
    assert float(ours) == pytest.approx(float(peer(logits, target[:, None].long())), rel=1e-5)


def test_ignored_voxels_change_nothing():
    logits, target = random_batch(PARTIAL, 2)
    target[:, 0] = 3
    loss = DiceCrossEntropy(PARTIAL, batch_dice=True)
    before = loss(logits, target)
    logits[:, :, 0] = torch.randn_like(logits[:, :, 0]) * 10
    assert float(loss(logits, target)) == pytest.approx(float(before), rel=1e-6)
    kept = DiceCrossEntropy(PLAIN, batch_dice=True)(logits[:, :, 1:], target[:, 1:])
    assert float(before) == pytest.approx(float(kept), rel=1e-4)


def test_everything_ignored_gives_a_finite_loss():
    logits, target = random_batch(PARTIAL, 2)
    assert math.isfinite(float(DiceCrossEntropy(PARTIAL, batch_dice=False)(logits, torch.full_like(target, 3))))


def test_perfect_regions_have_no_loss():
    _, target = random_batch(REGIONS, 2)
    logits = (region_targets(target, REGIONS.class_indices).float() * 2 - 1) * 50
    assert float(DiceCrossEntropy(REGIONS, batch_dice=True)(logits, target)) == pytest.approx(0, abs=1e-4)


def test_scale_weights_leave_the_coarsest_out():
    assert scale_weights(1) == (1.0,)
    np.testing.assert_allclose(scale_weights(3), (2 / 3, 1 / 3, 0))


def test_deep_supervision_is_the_weighted_sum():
    logits, target = random_batch(PLAIN, 2)
    coarse = torch.zeros(2, 3, 2, 3, 3)
    single = DiceCrossEntropy(PLAIN, batch_dice=True)
    both = DeepSupervision(single)((logits, coarse, torch.full((2, 3, 1, 1, 1), torch.nan)), target)
    expected = 2 / 3 * single(logits, target) + 1 / 3 * single(coarse, downsample_labels(target, (2, 3, 3)))
    assert float(both) == pytest.approx(float(expected), rel=1e-6)


def test_downsampling_takes_the_nearest_centre():
    target = torch.arange(6)[None]
    assert downsample_labels(target, (3,)).tolist() == [[1, 3, 5]]
    assert downsample_labels(target, (2,)).tolist() == [[1, 4]]


def test_dice_counts_by_hand():
    target = torch.tensor([[0, 1, 2, 3]]).short()
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 2]]), 3).movedim(-1, 1).float()
    assert hard_dice_counts(logits, target, PARTIAL).tolist() == [[1, 2, 1], [0, 0, 1]]
