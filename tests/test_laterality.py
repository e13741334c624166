"""Left and right: counterparts by name, which axis mirrors them, and that mirroring changes nothing but the side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import LABELS, small_configuration, small_plan
from hypothesis import given
from hypothesis import strategies as st
from test_prediction import small_model
from test_training import blob_cases

from medseg import augmentation, documents, networks
from medseg.augmentation import AugmentationPolicy
from medseg.errors import DocumentError
from medseg.labels import LabelSet
from medseg.laterality import (
    Laterality,
    Mirroring,
    index_swaps,
    laterality_of,
    laterality_of_names,
    mirrored_outputs,
    mirroring_of,
)
from medseg.model import MODEL_FILE, FoldFacts, Model, ModelDocument, load_model, save_tensors
from medseg.planning import Plan
from medseg.prediction.member import Member
from medseg.training import loop, recipe
from medseg.training.sampling import with_previous

KIDNEYS = LabelSet({"Kidney L": (1,), "liver": (7,), "Kidney R": (4,)})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"),
        ("kidney_left", "kidney_right"),
        ("Left Kidney", "Right Kidney"),
        ("LeftKidney", "RightKidney"),
        ("Parotid L", "Parotid R"),
        ("l_parotid", "r_parotid"),
        ("OpticNrv_L", "OpticNrv_R"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("lh_insula", "rh_insula"),
        ("optic nerve (lt)", "optic nerve (rt)"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"),
        ("rib_left_7", "rib_right_7"),
        ("left", "right"),
    ],
)
def test_counterparts(left, right):
    assert laterality_of_names(["bladder", left, right]) == Laterality(((left, right),))
    assert laterality_of_names([right, left]) == Laterality(((left, right),))


@pytest.mark.parametrize(
    "names",
    [
        ["liver", "tumour"],
        ["L", "R"],  # letters alone are too little
        ["LV", "RV", "MYO"],
        ["class_l"],  # without a counterpart a letter says nothing
        ["bright", "cleft"],
        ["vitamin_l_a", "vitamin_r_a"],  # in the middle it may be anything
        ["T1", "T2", "L1", "R1 wall"],
    ],
)
def test_names_that_say_nothing_of_sides(names):
    assert not laterality_of_names(names).is_sided


@pytest.mark.parametrize(
    ("names", "alone"),
    [
        (["left_kidney", "spleen"], ("left_kidney",)),
        (["lung_middle_right", "lung_upper_left", "lung_upper_right"], ("lung_middle_right",)),
        (["heart_ventricle_left", "heart_ventricle_right"], ("heart_ventricle_left", "heart_ventricle_right")),
        (["right atrium", "left atrium"], ("left atrium", "right atrium")),
        (["left lobe of liver", "right lobe of liver"], ("left lobe of liver", "right lobe of liver")),
        (["left_right_vessel"], ("left_right_vessel",)),
        (["left_kidney", "Left Kidney", "right_kidney"], ("left_kidney", "Left Kidney", "right_kidney")),
        (["rib_left_7", "rib_right_8"], ("rib_left_7", "rib_right_8")),
    ],
)
def test_sides_that_nothing_mirrors(names, alone):
    assert laterality_of_names(names).alone == alone


def test_what_is_stated_comes_first():
    none = replace(LABELS, mirror_pairs=())
    assert not laterality_of(none).is_sided
    stated = LabelSet.parse({"background": 0, "A": 1, "B": 2}, mirror_pairs=[["A", "B"]])
    assert laterality_of(stated).pairs == (("A", "B"),)
    for wrong in ([["A", "C"]], [["A", "A"]], [["A"]], "AB", [["A", "B"], ["B", "A"]]):
        with pytest.raises(DocumentError, match="mirror_pairs"):
            LabelSet.parse({"background": 0, "A": 1, "B": 2}, mirror_pairs=wrong)


def test_regions_change_places_where_their_parts_say_how():
    known = LabelSet({"left": (1,), "right": (2,), "both": (1, 2)}, region_order=(1, 2, 1))
    assert index_swaps(known, laterality_of(known).pairs) == ((1, 2),)
    assert mirrored_outputs(known, laterality_of(known).pairs) == (1, 0, 2)
    nested = {"left breast": (1, 2), "right breast": (3, 4)}
    unknown = LabelSet(nested, region_order=(1, 3))
    assert laterality_of(unknown).alone == ("left breast", "right breast")
    parts = LabelSet({**nested, "left tumour": (2,), "right tumour": (4,)}, region_order=(1, 3, 2, 4))
    assert laterality_of(parts).alone  # healthy tissue, 1 and 3, has no class of its own
    one_sided = LabelSet({"left": (1,), "right": (2,), "organ": (1, 3)}, region_order=(1, 2, 3))
    assert laterality_of(one_sided).alone == ("left", "right")


@pytest.mark.parametrize(
    ("orientation", "axis_order", "dimensions", "axis"),
    [
        ("RAS", (0, 1, 2), 3, 2),
        ("LPS", (0, 1, 2), 3, 2),
        ("RAS", (2, 0, 1), 3, 0),
        ("RAS", (1, 0, 2), 2, 1),
        ("SAR", (0, 1, 2), 3, 0),
    ],
)
def test_the_axis_that_swaps(orientation, axis_order, dimensions, axis):
    mirroring = mirroring_of(KIDNEYS, orientation, axis_order, dimensions)
    assert mirroring == Mirroring(tuple(range(dimensions)), axis, (("Kidney L", "Kidney R"),))
    alone = mirroring_of(LabelSet({"left kidney": (1,)}), orientation, axis_order, dimensions)
    assert alone == Mirroring(tuple(a for a in range(dimensions) if a != axis))
    assert mirroring_of(LabelSet({"a": (1,)}), orientation, axis_order, dimensions) == Mirroring(mirroring.axes)


def test_where_left_is_is_not_known_nothing_is_mirrored():
    assert mirroring_of(KIDNEYS, "stored", (0, 1, 2), 3) == Mirroring(())
    sagittal = mirroring_of(KIDNEYS, "RAS", (2, 0, 1), 2)  # slices have no left and right
    assert sagittal == Mirroring((0, 1))


@given(flips=st.tuples(st.booleans(), st.booleans(), st.booleans()), seed=st.integers(0, 100))
def test_a_mirrored_patient_has_its_left_on_the_left(flips, seed):
    """Augmentation of a scan equals the scan of the patient who is its mirror image, with that patient's labels."""
    labels = LabelSet({"left": (1,), "right": (2,), "spine": (3,)})
    mirroring = mirroring_of(labels, "RAS", (0, 1, 2), 3)
    swaps = index_swaps(labels, mirroring.pairs)
    assert swaps is not None
    assert mirroring.swap_axis is not None
    policy = AugmentationPolicy.default((4, 5, 6), mirroring.axes, ((mirroring.swap_axis, swaps),))
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, 4, (1, 4, 5, 6), generator=generator)
    still = augmentation.draw(policy, 1, 1, generator)
    parameters = replace(
        still,
        rotation_radians=torch.zeros_like(still.rotation_radians),
        scale=torch.ones_like(still.scale),
        mirror=torch.tensor([flips]),
    )
    found = augmentation.apply_to_labels(indices, parameters, (4, 5, 6)).numpy()
    expected = np.flip(indices.numpy(), [1 + axis for axis, flip in enumerate(flips) if flip])
    if flips[2]:
        expected = np.choose(expected, [0, 2, 1, 3])
    np.testing.assert_array_equal(found, expected)


def test_turns_of_sided_labels_stay_small():
    assert AugmentationPolicy.default((6, 40, 40), sided=True).rotation_degrees.high == 30
    assert AugmentationPolicy.default((6, 40, 40)).rotation_degrees.high == 180
    assert AugmentationPolicy.default((40, 90), sided=True).rotation_degrees.high == 15


SWAPPED = {"swap_axis": 2, "swapped": (("Kidney L", "Kidney R"),)}
# Outputs: background, Kidney L (1), Kidney R (4), liver (7).
OUTPUTS_OF_MIRROR_IMAGE = [0, 2, 1, 3]


def member_of(model: Model) -> Member:
    return Member(model, torch.device("cpu"), "fp32", mirror=True, step=0.5)


def test_prediction_of_the_mirror_image_is_the_mirror_image_of_the_prediction():
    model = small_model(labels=KIDNEYS)
    member, unaware = member_of(replace(model, **SWAPPED)), member_of(model)
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        here, mirrored = member.window_logits(image), member.window_logits(image.flip(4))
        torch.testing.assert_close(mirrored, here.flip(4)[:, OUTPUTS_OF_MIRROR_IMAGE], atol=1e-5, rtol=1e-4)
        forth = member.window_logits(image.flip(3))
        torch.testing.assert_close(forth, here.flip(3), atol=1e-5, rtol=1e-4)
        as_trained = unaware.window_logits(image)
    assert not torch.allclose(as_trained, here, atol=1e-3)


def test_in_a_cascade_the_mask_before_changes_sides_too():
    configuration = replace(small_configuration(), name="3d_cascade_fullres", previous_stage="3d_lowres")
    plan = small_plan(configuration, KIDNEYS)
    network = networks.build(
        configuration.network, 4, plan.labels.output_count, generator=torch.Generator().manual_seed(0)
    )
    model = Model(plan, configuration, (0, 1, 2), "fp32", {"0": network.state_dict()}, **SWAPPED)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, 8, 8, 8, generator=generator)
    mask = torch.randint(0, 4, (1, 8, 8, 8), generator=generator)
    of_the_mirror_image = torch.tensor(OUTPUTS_OF_MIRROR_IMAGE)[mask].flip(3)
    member = member_of(model)
    with torch.inference_mode():
        here = member.window_logits(with_previous(image, mask, 3))
        mirrored = member.window_logits(with_previous(image.flip(4), of_the_mirror_image, 3))
    torch.testing.assert_close(mirrored, here.flip(4)[:, OUTPUTS_OF_MIRROR_IMAGE], atol=1e-5, rtol=1e-4)


def test_a_model_says_what_its_training_exchanged(tmp_path):
    chosen = replace(recipe.recipe_for_iterations(1, 2), mirror=True)
    run = loop.Run(1, "3d_fullres", 0, 0, "fp32", chosen)
    plan = small_plan()
    trainer = loop.Trainer(plan, plan.configurations[0], blob_cases(2), (), run, torch.device("cpu"))
    assert trainer.policy.mirror_swaps == ((2, ((1, 2),)),)
    assert trainer.policy.rotation_degrees.high == 30
    assert loop.train_network(trainer, tmp_path / "fold_0")
    documents.save(ModelDocument(1, plan, "3d_fullres"), tmp_path / MODEL_FILE)
    model = load_model(tmp_path)
    assert (model.mirror_axes, model.swap_axis, model.swapped) == ((0, 1, 2), 2, (("left", "right"),))
    # A fold that exchanged nothing cannot be averaged with it along that axis.
    plain = documents.to_json(FoldFacts((0, 1, 2), "fp32", 1, 1.0, 0))
    save_tensors(tmp_path / "fold_1" / "weights.safetensors", trainer.network.state_dict(), {"fold": plain})
    both = load_model(tmp_path)
    assert (both.mirror_axes, both.swap_axis) == ((0, 1), None)


def test_the_plan_says_so():
    explained = replace(small_plan(), decisions=()).explain()
    assert "Left and right: exchanged when mirrored from left to right: left and right" in explained
    alone = small_plan(labels=LabelSet({"left_kidney": (1,)})).explain()
    assert "never mirrored from left to right: left_kidney" in alone
    assert "Left and right" not in small_plan(small_configuration(), LabelSet({"a": (1,)})).explain()
    assert documents.from_json(Plan, documents.to_json(small_plan())) == small_plan()
