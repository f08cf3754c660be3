"""The kernel inception distance between sets of images, and what it sees."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from asyndgan.store import Case
from lab.kid import apart_from_real, features, features_of, kid
from lab.kids import Kids, kids


def heads(count: int, first: int = 0) -> list[Case]:
    """Ellipses with a bright spot in two modalities, one patient each."""
    cases = []
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for seed in range(first, first + count):
        random = torch.Generator().manual_seed(seed)
        width, height, row, column = (torch.rand(4, generator=random) * 4).tolist()
        head = ((rows - 16) / (9 + height)) ** 2 + ((columns - 16) / (8 + width)) ** 2 < 1
        spot = (rows - 12 - row) ** 2 + (columns - 14 - column) ** 2 < 9
        mask = head.long() + spot.long()
        noise = 0.05 * torch.randn(2, 32, 32, generator=random)
        levels = torch.tensor([[-1.0, -0.2, 0.1], [-1.0, 0.0, 0.8]])
        image = (levels[:, mask] + noise).clamp(-1, 1)
        cases.append(Case.drawn(f"p{seed}", image, mask, ("T1", "T2")))
    return cases


def between(synthetic: list[Case], sites: dict[str, list[Case]]) -> Kids:
    """With synthetic cases dealt out to all real patients, as if painted from their masks."""
    patients = [f"{site}/{case.patient}" for site, cases in sites.items() for case in cases]
    owners = [patients[number % len(patients)] for number in range(len(synthetic))]
    return kids(synthetic, owners, sites)


def test_the_kid_is_the_mean_over_pairs_that_its_definition_says():
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 3, generator=random).double() for n in (4, 5))

    def mean(first, second):
        pairs = [(x, y) for x in first for y in second if x is not y]
        return sum(float((x @ y / 3 + 1) ** 3) for x, y in pairs) / len(pairs)

    rows, others = list(one), list(other)
    wanted = mean(rows, rows) + mean(others, others) - 2 * mean(rows, others)
    assert kid(one, other) == pytest.approx(wanted)


def test_the_kid_of_one_distribution_is_zero_on_average_however_few_images_there_are():
    draws = torch.randn(500, 2, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    found = torch.tensor([kid(one, other) for one, other in draws])
    assert found.min() < 0 < found.max()
    assert abs(found.mean()) < 4 * found.std() / len(found) ** 0.5


def test_images_of_any_number_of_channels_and_any_size_have_features():
    random = torch.Generator().manual_seed(0)
    for channels, views in ((1, 1), (2, 1), (3, 1), (4, 2), (6, 2)):
        images = torch.rand(2, channels, 24, 40, generator=random) * 2 - 1
        assert features(images).shape == (2, 472 * views)
    grey = images[:, :1]
    torch.testing.assert_close(features(grey), features(grey.expand(-1, 3, -1, -1)))


def test_too_few_images_are_an_error_and_no_result_of_a_site():
    few = features_of(heads(3))
    with pytest.raises(ValueError, match="have 1 and 3"):
        kid(few[:1], few)
    mixture, floor = apart_from_real(few, ["a", "a", "b"], few, ["a", "a", "a"])
    assert mixture > -1 and math.isnan(floor)


def test_two_sets_of_one_kind_are_as_far_apart_as_the_floor(monkeypatch):
    synthetic, sites = heads(60, 100), {"north": heads(30), "south": heads(30, 50)}
    found = between(synthetic, sites)
    assert max(abs(found.mixture), abs(found.floor)) < 0.005
    assert set(found.of_sites) == set(found.floors) == {"north", "south"}
    monkeypatch.setattr("lab.kid.ROWS", 20)  # computed in other parts it is the same
    assert between(synthetic, sites).mixture == pytest.approx(found.mixture, abs=1e-6)


@pytest.mark.parametrize("change", ["blurred", "without spots", "all one image"])
def test_what_a_person_would_see_is_seen(change):
    cases = heads(40, 100)
    changed = {
        "blurred": lambda image, mask: F.avg_pool2d(image[None], 3, 1, 1)[0],
        "without spots": lambda image, mask: torch.where(mask == 2, -0.1, image),
        "all one image": lambda image, mask: cases[0].image,
    }[change]
    altered = [replace(case, image=changed(case.image, case.mask)) for case in cases]
    found = between(altered, {"north": heads(40)})
    assert found.mixture > 0.1 > 20 * abs(found.floor)
