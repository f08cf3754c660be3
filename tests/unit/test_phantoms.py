"""Drawn heads: what a demo, a test or a trial may count on."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import typer
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


def test_no_patient_is_at_two_sites_or_at_a_site_and_in_the_test_set():
    sets = [drawn(site, 2) for site in DEFAULT_SITES] + [drawn_for_test(1)]
    patients = [{case.patient for case in cases} for cases in sets]
    assert not any(one & other for one, other in combinations(patients, 2))
    masks = [{case.mask.tobytes() for case in cases} for cases in sets]
    assert not any(one & other for one, other in combinations(masks, 2))


@EVERY_SITE
def test_masks_have_every_label_and_no_other(site):
    assert all(case.mask.dtype == np.int64 for case in drawn(site))
    found = np.unique(np.stack([case.mask for case in drawn(site)]))
    assert found.tolist() == sorted(LABELS.values())


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
