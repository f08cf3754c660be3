import re

import numpy as np
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asyndgan.errors import DataError
from asyndgan.recipe import ImageSection
from asyndgan.store.case import RawCase
from asyndgan.store.prepare import invert, invert_mask, prepare
from asyndgan.store.prepared import Case

SIZE = 16
sides = st.integers(1, 40)
stored_values = st.floats(-1e6, 1e6, width=32)
intensities = st.sampled_from(
    [
        {"kind": "range", "low": -100, "high": 5000},
        {"kind": "percentiles", "low": 0.5, "high": 99.5},
    ]
)


@st.composite
def raw_cases(draw: st.DrawFn, whole: bool = False) -> RawCase:
    """Of intensities up to a million, or of whole ones of twelve bits."""
    shape, chance = (draw(sides), draw(sides)), np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = sorted((draw(stored_values), draw(stored_values)))
    pixels = chance.integers(4096, size=shape) if whole else chance.uniform(low, high, shape)
    mask = chance.integers(draw(st.integers(1, 5)), size=shape)
    return RawCase("case", "patient", {"T1": pixels.astype(np.float32)}, mask, (1.0, 1.0))


def accepted(raw: RawCase, image: ImageSection) -> Case:
    """The prepared case; one that would shrink to a few pixels is refused, and not looked at."""
    try:
        return prepare(raw, image, ("T1",))
    except DataError as error:
        assert re.search(r"would become (\d x|\d+ x \d\.)", str(error))
        reject()


def section(**keys: object) -> ImageSection:
    return ImageSection.model_validate({"size": SIZE, **keys})


@given(raw_cases(), intensities, st.sampled_from(["pad", "crop", "stretch"]), st.booleans())
def test_whatever_is_stored_a_prepared_image_lies_between_minus_one_and_one(
    raw, intensity, fit, by_spacing
):
    spacing = {"spacing": (0.7, 1.9)} if by_spacing else {}
    case = accepted(raw, section(intensity={"default": intensity}, fit=fit, **spacing))
    assert case.image.shape == (1, SIZE, SIZE)
    assert torch.isfinite(case.image).all()
    assert case.image.abs().max() <= 1
    assert set(case.mask.unique().tolist()) <= {0, *np.unique(raw.mask).tolist()}
    assert invert(case.image, case.preparation).shape == (1, *raw.channels["T1"].shape)
    assert invert_mask(case.mask, case.preparation).shape == raw.mask.shape


def kept(length: int) -> slice:
    """The part of a stored axis that a crop to SIZE leaves."""
    start = max(0, -((SIZE - length) // 2))
    return slice(start, start + min(length, SIZE))


@given(raw_cases(whole=True))
def test_without_resampling_what_was_not_cropped_comes_back_exactly(raw):
    settings = section(spacing=(1.0, 1.0), intensity={"default": {"low": 0, "high": 4095}})
    case = prepare(raw, settings, ("T1",))
    rows, columns = (kept(length) for length in raw.mask.shape)
    back = invert(case.image, case.preparation)[0, rows, columns]
    np.testing.assert_array_equal(np.round(back), raw.channels["T1"][rows, columns])
    mask = invert_mask(case.mask, case.preparation)[rows, columns]
    np.testing.assert_array_equal(mask, raw.mask[rows, columns])


@given(
    arrays.arrays(np.int64, (4, 8), elements=st.integers(0, 4)), st.sampled_from(["pad", "stretch"])
)
def test_a_mask_that_was_enlarged_comes_back_exactly(mask, fit):
    raw = RawCase("case", "patient", {"T1": np.zeros((4, 8), np.float32)}, mask)
    case = prepare(raw, section(fit=fit), ("T1",))
    np.testing.assert_array_equal(invert_mask(case.mask, case.preparation), mask)


@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from(["pad", "stretch"]))
def test_a_smooth_image_that_was_resampled_comes_back_nearly(height, width, fit):
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = (100 + 40 * rows + 60 * columns).astype(np.float32)
    case = accepted(RawCase("case", "patient", {"T1": pixels}, None), section(fit=fit))
    back = invert(case.image, case.preparation)[0]
    middle = back[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    wanted = pixels[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    np.testing.assert_allclose(middle, wanted, atol=12)


@given(
    raw_cases(),
    st.sampled_from(["pad", "crop", "stretch"]),
    st.none() | st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_whether_a_case_is_labelled_does_not_depend_on_the_grid(raw, fit, spacing):
    # Else whoever chooses the grid has a slice come and go, and sees it in the number of cases.
    case = accepted(raw, section(fit=fit, **({"spacing": spacing} if spacing else {})))
    assert case.preparation.labelled == bool(raw.mask.any())
