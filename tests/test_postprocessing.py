"""Steps after prediction by hand, their document, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medseg.errors import DocumentError
from medseg.postprocessing import BestDocument, Candidate, Step, apply
from medseg.volume import Geometry, LabelVolume


def mask(text: str, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> LabelVolume:
    """One slice from rows of digits."""
    array = np.array([[[int(value) for value in row] for row in text.split()]], np.uint8)
    return LabelVolume(array, Geometry.from_spacing(array.shape, spacing_mm))


def after(text: str, *steps: Step, spacing_mm: tuple[float, float, float] = (1, 1, 1), background: int = 0) -> str:
    array = apply(steps, mask(text, spacing_mm), background).array
    return " ".join("".join(map(str, row)) for row in array[0])


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (Step("largest_component", (1,)), "1100220 1100202 0000222 0000000"),
        (Step("largest_component", (1, 2)), "0000220 0000202 0000222 0000001"),
        (Step("largest_component", (2,)), "1100220 1100202 0000222 0000001"),
        (Step("largest_component", (3,)), "1100220 1100202 0000222 0000001"),
        (Step("minimum_size", (1,), 5.0), "0000220 0000202 0000222 0000000"),
        (Step("minimum_size", (1,), 4.0), "1100220 1100202 0000222 0000000"),
        (Step("minimum_size", (1,), 1.0), "1100220 1100202 0000222 0000001"),
        (Step("fill_holes", (2,)), "1100220 1100222 0000222 0000001"),
        (Step("fill_holes", (1,)), "1100220 1100202 0000222 0000001"),
    ],
)
def test_steps_by_hand(step: Step, found: str) -> None:
    assert after("1100220 1100202 0000222 0000001", step) == found


def test_sizes_are_in_mm3() -> None:
    step = Step("minimum_size", (1,), 6.0)
    assert after("110 000 001", step, spacing_mm=(3.0, 1.0, 1.0)) == "110 000 000"
    assert after("110 000 001", step, spacing_mm=(3.0, 2.0, 1.0)) == "110 000 001"


def test_steps_come_one_after_the_other() -> None:
    steps = Step("largest_component", (1,)), Step("minimum_size", (1,), 3.0)
    assert after("110 000 001", *steps) == "000 000 000"


def test_equal_components_are_all_the_largest() -> None:
    assert after("1001", Step("largest_component", (1,))) == "1001"


def test_what_is_taken_away_becomes_background() -> None:
    assert after("110777 777771", Step("largest_component", (1,)), background=7) == "110777 777777"


def test_holes_are_filled_only_where_background_is() -> None:
    assert after("1111 1021 1111", Step("fill_holes", (1,))) == "1111 1121 1111"


def test_a_hole_in_a_volume_is_closed_on_all_sides() -> None:
    array = np.ones((3, 3, 4), np.uint8)
    array[1, 1, 1] = 0
    array[0, 1, 2] = 0  # open to the outside
    volume = LabelVolume(array, Geometry.from_spacing(array.shape, (1, 1, 1)))
    filled = apply([Step("fill_holes", (1,))], volume).array
    assert (filled[1, 1, 1], filled[0, 1, 2]) == (1, 0)


def test_nothing_to_do_gives_the_same_mask() -> None:
    given_mask = mask("110 110 000")
    assert apply([], given_mask) is given_mask
    assert apply([Step("largest_component", (1,)), Step("fill_holes", (1,))], given_mask) is given_mask
    assert apply([Step("largest_component", (5,))], given_mask) is given_mask


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.uint8, (3, 5, 6), elements=st.integers(0, 3)),
    st.sampled_from(
        [Step("largest_component", (1, 2)), Step("minimum_size", (2,), 4.0), Step("fill_holes", (1,))],
    ),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_steps_know_no_direction_and_are_done_once(array: np.ndarray, step: Step, flips: tuple[bool, ...]) -> None:
    def run(values: np.ndarray) -> np.ndarray:
        return apply([step], LabelVolume(values, Geometry.from_spacing(values.shape, (1, 1, 1)))).array

    before, turned = array.copy(), tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    found = run(array)
    assert np.array_equal(array, before)
    assert np.array_equal(run(found), found)
    assert np.array_equal(run(array[turned]), found[turned])
    untouched = ~np.isin(array, step.values) & (array != 0)
    assert np.array_equal(found[untouched], array[untouched])


def test_the_document_round_trips_and_refuses_nonsense(tmp_path) -> None:
    best = BestDocument(
        version=1,
        rule="noise",
        configurations=("2d", "3d_fullres"),
        steps=(Step("minimum_size", (1, 2), 30.0), Step("fill_holes", (1,))),
        folds=(0, 1),
        candidates=(Candidate(("2d",), 0.8),),
        because=("so it is",),
    )
    best.save(tmp_path / "best.json")
    assert BestDocument.load(tmp_path / "best.json") == BestDocument.load(tmp_path) == best
    assert str(best.steps[0]) == "minimum size of 30 mm³ for 1, 2"
    (tmp_path / "best.json").write_text((tmp_path / "best.json").read_text().replace("fill_holes", "fill_hole"))
    with pytest.raises(DocumentError, match="fill_hole"):
        BestDocument.load(tmp_path)
    for kind, values, size in (
        ("minimum_size", (1,), None),
        ("minimum_size", (1,), -1.0),
        ("minimum_size", (1,), 0.0),
        ("fill_holes", (1,), 3.0),
        ("fill_holes", (), None),
    ):
        with pytest.raises(DocumentError):
            Step(kind, values, size)
