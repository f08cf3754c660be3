"""Drawn heads: what a demo, a test or a trial may count on."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import typer
from scipy.ndimage import binary_dilation, binary_erosion
from typer.testing import CliRunner

from asyndgan.cli.phantoms import phantoms as phantoms_command
from asyndgan.demo.phantoms import DEFAULT_SITES, LABELS, MODALITIES, PhantomSite, phantom_cases
from asyndgan.errors import DataError
from asyndgan.intake.dataset import DataSet
from asyndgan.store.case import RawCase
from commands import asyndgan

NORTH = DEFAULT_SITES[0]
EVERY_SITE = pytest.mark.parametrize("site", DEFAULT_SITES, ids=lambda site: site.name)


@cache
def drawn(site: PhantomSite, patients: int = 5, size: int = 64, seed: int = 0) -> list[RawCase]:
    return list(phantom_cases(replace(site, patients=patients), size=size, seed=seed))


def drawn_for_test(patients: int) -> list[RawCase]:
    sites = (replace(site, name=f"test-{site.name}") for site in DEFAULT_SITES)
    return [case for site in sites for case in drawn(site, patients)]


def intensities(cases: list[RawCase], modality: str, *labels: int) -> np.ndarray:
    return np.concatenate([c.channels[modality][np.isin(c.mask, labels)] for c in cases])


def same(one: RawCase, other: RawCase) -> bool:
    return np.array_equal(one.mask, other.mask) and all(
        np.array_equal(one.channels[m], other.channels[m]) for m in MODALITIES
    )


def test_a_patient_stays_the_same_when_a_site_has_more_of_them():
    few, many = drawn(NORTH, patients=2), drawn(NORTH, patients=4)
    assert all(same(one, other) for one, other in zip(few, many, strict=False))


def test_no_patient_is_at_two_sites_or_at_a_site_and_in_the_test_set():
    sets = [drawn(site) for site in DEFAULT_SITES] + [drawn_for_test(2)]
    patients = [{case.patient for case in cases} for cases in sets]
    assert not any(one & other for one, other in combinations(patients, 2))
    masks = [{case.mask.tobytes() for case in cases} for cases in sets]
    assert not any(one & other for one, other in combinations(masks, 2))


@EVERY_SITE
def test_images_are_whole_numbers_that_a_png_can_hold(site):
    for case in drawn(site):
        assert tuple(case.channels) == MODALITIES
        for image in case.channels.values():
            assert image.dtype == np.float32
            assert image.shape == case.mask.shape == (64, 64)
            assert image.min() >= 0
            assert image.max() <= 255
            assert np.array_equal(image, np.rint(image))


@EVERY_SITE
def test_masks_have_every_label_and_no_other(site):
    assert all(case.mask.dtype == np.int64 for case in drawn(site))
    found = np.unique(np.stack([case.mask for case in drawn(site)]))
    assert found.tolist() == sorted(LABELS.values())


@EVERY_SITE
def test_lesions_are_brighter_than_the_rest_of_the_head_on_flair_and_t2(site):
    for modality in ("FLAIR", "T2"):
        lesion = np.median(intensities(drawn(site), modality, LABELS["lesion"]))
        head = np.median(intensities(drawn(site), modality, LABELS["head"]))
        assert lesion > 1.15 * head


def test_a_head_keeps_its_anatomy_at_every_size():
    for small, large in zip(drawn(NORTH, 2), drawn(NORTH, 2, size=128), strict=True):
        assert small.name == large.name
        assert large.mask.shape == (128, 128)
        for label in ("head", "ventricle"):
            one = (small.mask == LABELS[label]).repeat(2, axis=0).repeat(2, axis=1)
            two = large.mask == LABELS[label]
            # equal but for the border's pixels, which are the larger the smaller the image
            assert not (one & ~binary_dilation(two, iterations=2)).any()
            assert not (binary_erosion(two, iterations=2) & ~one).any()


def test_a_volume_is_its_patients_slices_one_above_the_other():
    (volume,) = phantom_cases(replace(NORTH, patients=1), size=64, seed=0, slices=12)
    for case in drawn(NORTH, patients=1):
        level = int(case.name.rpartition("_s")[2]) - 8
        assert np.array_equal(volume.mask[level], case.mask)
    assert {channel.shape for channel in volume.channels.values()} == {(12, 64, 64)}
    assert volume.spacing == (5, 220 / 64, 220 / 64)
    for slices in (1, 257):
        with pytest.raises(DataError, match="2 to 256"):
            next(phantom_cases(NORTH, size=64, seed=0, slices=slices))


@pytest.mark.parametrize(("size", "seed"), [(16, 0), (64, -1)])
def test_a_size_or_seed_that_cannot_be_drawn_is_refused(size, seed):
    with pytest.raises(DataError, match=r"phantoms: (size|seed)"):
        next(phantom_cases(NORTH, size=size, seed=seed))


def test_the_command_writes_a_folder_a_site_and_says_what_to_type_next(tmp_path):
    app = typer.Typer()
    app.command()(phantoms_command)
    result = CliRunner().invoke(app, [str(tmp_path), "--size", "32", "--patients", "0.01"])
    assert result.exit_code == 0, result.output
    assert f"asyndgan init {tmp_path}" in result.output
    names = {site.name for site in DEFAULT_SITES} | {"test"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(list((tmp_path / "north" / "labelsTr").iterdir())) == NORTH.slices
    assert len(list((tmp_path / "test" / "labelsTr").iterdir())) == sum(
        site.slices for site in DEFAULT_SITES
    )


def test_the_command_writes_volumes_that_are_read_again(tmp_path):
    asyndgan("phantoms", tmp_path / "out", "--size", 32, "--patients", 0.01, "--slices", 4)
    for name in ("north", "test"):
        data = DataSet(tmp_path / "out" / name)
        source, channels, mask = data.arrays(data.files[0])
        assert source.shape == mask.shape == (32, 32, 4)
        assert source.spacing == pytest.approx((220 / 32, 220 / 32, 55 / 3))
        assert tuple(channels) == MODALITIES
