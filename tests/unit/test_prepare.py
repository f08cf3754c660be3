import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.findings import check_contrast, check_uncut
from asyndgan.recipe import ImageSection, Intensity
from asyndgan.store.case import RawCase
from asyndgan.store.prepare import invert, invert_mask, prepare
from asyndgan.store.prepared import Case


def raw(
    pixels: np.ndarray,
    mask: np.ndarray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    **more: np.ndarray,
) -> RawCase:
    channels = {"T1": np.asarray(pixels, np.float32), **more}
    return RawCase("ann", "ann", channels, mask, spacing)


def section(**keys: object) -> ImageSection:
    return ImageSection.model_validate({"size": (16, 16), **keys})


def intensity(**keys: object) -> ImageSection:
    return section(intensity={"default": keys}, fit="stretch")


def ramp(low: float = 0, high: float = 255) -> np.ndarray:
    return np.linspace(low, high, 256).reshape(16, 16)


def by_case(case: Case) -> tuple[float, float]:
    return case.image.min().item(), case.image.max().item()


def test_a_prepared_case_has_the_recipes_size_types_and_order_of_modalities():
    stored = raw(np.full((20, 10), 255), np.ones((20, 10), np.int64), T2=np.zeros((20, 10)))
    case = prepare(stored, section(size=(32, 16)), ("T2", "T1"))
    assert case.image.shape == (2, 32, 16)
    assert case.image.dtype == torch.float32
    assert case.mask.shape == (32, 16)
    assert case.mask.dtype == torch.int64
    assert case.modalities == ("T2", "T1")
    assert case.image[0].max() == -1
    assert case.image[1].max() == 1


def test_a_range_maps_its_ends_and_clips_the_rest():
    pixels = np.full((16, 16), 150.0)
    pixels[0, :4] = 50, 100, 200, 250
    case = prepare(raw(pixels), intensity(kind="range", low=100, high=200), ("T1",))
    assert case.image[0, 0, :5].tolist() == [-1, -1, 1, 1, 0]


def head(high: float) -> np.ndarray:
    """Bright on much black."""
    return np.where(ramp() > 180, ramp(0.2 * high, high), 0.0)


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (ramp(high=1000), "75% of its pixels"),
        (head(high=1500), "100% of its pixels"),
        (ramp(high=1), "a fiftieth"),
    ],
)
def test_intensities_that_the_recipes_range_loses_are_refused(stored, why):
    image = section()
    with pytest.raises(DataError, match=f"modality T1 does not fit image.intensity .*{why}"):
        check_contrast([prepare(raw(stored), image, ("T1",))], image, "here")
    slide = np.where(ramp() > 80, 255.0, ramp())  # mostly white, and nothing lost
    check_contrast([prepare(raw(slide), image, ("T1",))], image, "here")
    for fitting in (image, intensity(kind="percentiles", low=0.5, high=99.5)):
        own = ramp() if fitting is image else stored
        check_contrast([prepare(raw(own), fitting, ("T1",))], fitting, "here")


def test_percentiles_are_of_the_case():
    settings = intensity(kind="percentiles", low=10, high=90)
    one = prepare(raw(ramp(0, 255)), settings, ("T1",))
    other = prepare(raw(ramp(1e5, 1e6)), settings, ("T1",))
    torch.testing.assert_close(one.image, other.image)
    assert (one.image == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 1234.5])
def test_a_constant_image_becomes_nothing_and_comes_back(value):
    settings = intensity(kind="percentiles", low=1, high=40)
    case = prepare(raw(np.full((16, 16), value)), settings, ("T1",))
    assert by_case(case) == (-1, -1)
    np.testing.assert_allclose(invert(case.image, case.preparation), value, rtol=1e-6)


def test_intensities_that_are_not_finite_are_named():
    pixels = ramp()
    pixels[0, 0] = np.nan
    with pytest.raises(DataError, match=r"case ann, modality T1: .* not numbers"):
        prepare(raw(pixels), section(), ("T1",))


@pytest.mark.parametrize(("fit", "cut"), [("pad", 0), ("stretch", 0), ("crop", 510 / 595)])
def test_what_cropping_cuts_off_is_counted(fit, cut):
    pixels = np.tile(np.repeat([255, 85, 0, 255], 8).astype(np.float32), (16, 1))
    settings = section(fit=fit, intensity={"default": {"low": -100}})  # then air is not -1
    lost, whole = prepare(raw(pixels), settings, ("T1",)).preparation.cut
    assert lost == pytest.approx(cut * whole, abs=1e-4)
    assert (whole > 0) == (fit == "crop")


def test_images_of_which_more_than_a_twentieth_is_cut_off_are_refused_patient_by_patient():
    case = prepare(raw(ramp()), section(), ("T1",))

    def cut(patient, lost, whole):
        return replace(
            case, patient=patient, preparation=replace(case.preparation, cut=(lost, whole))
        )

    airy = cut("ann", 0.9, 1)  # an end slice of her volume
    check_uncut([cut("ann", 0, 100), airy, cut("bob", 4.9, 100)], section(), Path("set"))
    with pytest.raises(DataError, match=r"set: of 1 of 2 patients more than 5% .* 16 x 16"):
        check_uncut([cut("ann", 0, 100), cut("bob", 5.1, 100)], section(), Path("set"))


def test_proportions_are_those_in_millimetres():
    """Pixels of thick slices, cut across, are not square."""
    rows, columns = np.mgrid[0:12, 0:48]
    disc = (((rows - 5.5) * 4) ** 2 + (columns - 23.5) ** 2 < 18**2).astype(np.int64)
    cut = replace(raw(255 * disc, disc), spacing=(4.0, 1.0))
    mask = prepare(cut, section(fit="crop"), ("T1",)).mask
    height, width = int(mask.any(1).sum()), int(mask.any(0).sum())
    assert height == pytest.approx(width, abs=3)


def test_an_absurd_spacing_is_refused_before_anything_is_allocated():
    for spacing in ((1e9, 1.0), (1000.0, 1000.0)):
        with pytest.raises(DataError, match="would become"):
            prepare(raw(ramp(), spacing=spacing), section(spacing=(1.0, 1.0)), ("T1",))


def test_masks_take_the_label_that_covers_most_and_never_one_in_between():
    mask = np.zeros((50, 50), np.int64)
    mask[:, 25:] = 4
    case = prepare(raw(np.zeros((50, 50)), mask), section(), ("T1",))
    assert case.mask.unique().tolist() == [0, 4]
    assert (case.mask[:, 8:] == 4).all()


def test_what_was_cropped_comes_back_as_the_lowest_intensity():
    settings = section(spacing=(1.0, 1.0), intensity={"default": {"low": 40, "high": 240}})
    stored = raw(np.full((16, 32), 140), np.ones((16, 32), np.int64))
    case = prepare(stored, settings, ("T1",))
    back = invert(case.image, case.preparation)
    assert back.shape == (1, 16, 32)
    np.testing.assert_allclose(back[0, :, 8:24], 140, rtol=1e-6)
    np.testing.assert_allclose(back[0, :, :8], 40, rtol=1e-6)
    mask = invert_mask(case.mask, case.preparation)
    assert mask[:, 8:24].min() == 1
    assert mask[:, :8].max() == 0


def data_set(folder: Path, value: float, **extra: object) -> Path:
    channels = {name: np.full((16, 16), value, np.float32) for name in ("T1", "T2", "FLAIR")}
    cases = [RawCase(f"ann_s{i}", "ann", channels, np.ones((16, 16), np.int64)) for i in range(2)]
    labels = {"background": 0, "lesion": 1}
    write_dataset(folder, cases, modalities=[*channels], labels=labels, name="x", extra=extra)
    return folder


def test_a_synthetic_data_set_is_read_as_stored_whatever_the_recipe_says(tmp_path):
    settings = section(
        intensity={
            "default": {"low": 0, "high": 10},
            "T2": {"kind": "percentiles", "low": 1, "high": 99},
        }
    )
    real = DataSet(data_set(tmp_path / "real", 51)).cases(settings)[0]
    painted = data_set(tmp_path / "synthetic", 51, synthetic=True)
    synthetic = DataSet(painted).cases(settings, synthetic=True)[0]
    assert real.image[0].unique().tolist() == [1]
    assert synthetic.image.unique().tolist() == pytest.approx([-0.6])
    with pytest.raises(DataError, match="is a synthetic data set, and patients are wanted"):
        DataSet(painted).cases(settings)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("ours", ["synthetic", "masks_only"])
def test_a_spacing_does_not_shrink_sets_that_lie_on_the_recipes_grid_already(tmp_path, ours, fit):
    mask = np.random.default_rng(0).integers(0, 2, (16, 16))
    case = raw(mask * 255.0, mask)
    settings = section(spacing=(2, 2), fit=fit)
    for name, extra in (("ours", {ours: True}), ("real", {})):
        about = {"modalities": ["T1"], "labels": {"background": 0, "lesion": 1}, "name": "x"}
        write_dataset(tmp_path / name, [case], **about, extra=extra)
    ((_, released),) = DataSet(tmp_path / "ours").masks(settings)
    (painted,) = DataSet(tmp_path / "ours").cases(settings, synthetic=True)
    assert released.tolist() == painted.mask.tolist() == mask.tolist()
    assert torch.equal(painted.image[0] > 0, painted.mask == 1)
    (resampled,) = DataSet(tmp_path / "real").cases(settings)
    assert resampled.preparation.resized == (8, 8)


def test_slices_are_normalised_by_their_volume(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    voxels = np.zeros((16, 16, 4), np.float32) + np.arange(4, dtype=np.float32) * 1e5
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "imagesTr/bob_0000.nii.gz")
    table = {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    settings = ImageSection(
        size=(16, 16), intensity={"default": Intensity(kind="percentiles", low=0, high=100)}
    )
    means = [case.image.mean().item() for case in DataSet(tmp_path).cases(settings)]
    assert means == pytest.approx([-1, -1 / 3, 1 / 3, 1], abs=1e-6)


def test_slices_without_a_label_are_left_out_where_the_recipe_says_so(tmp_path):
    labels = [np.zeros((16, 16), np.int64) for _ in range(3)]
    labels[1][4:8, 4:8] = 1
    cases = [RawCase(f"c{i}", f"p{i}", {"T1": ramp()}, mask) for i, mask in enumerate(labels)]
    write_dataset(
        tmp_path / "a", cases, modalities=["T1"], labels={"background": 0, "x": 1}, name="a"
    )
    image = section(slices="labelled")
    assert [case.name for case in DataSet(tmp_path / "a").cases(image)] == ["c1"]
    assert [name for name, _ in DataSet(tmp_path / "a").masks(image)] == ["c1"]
    assert len(DataSet(tmp_path / "a").cases(section())) == 3
    write_dataset(tmp_path / "b", cases[:1], modalities=["T1"], labels={"background": 0}, name="b")
    with pytest.raises(DataError, match="no case with a label"):
        DataSet(tmp_path / "b").cases(image)
