"""The distance between sets of images, and what it sees."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from asyndgan.data import Case
from asyndgan.data.case import Preparation
from asyndgan.judging.distance import Distances, distances
from asyndgan.models.features import Features, Moments, distance

STORED = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0, 1.0), (0.0, 0.0))


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
        cases.append(Case(f"p{seed}", f"p{seed}", image, mask, ("T1", "T2"), STORED))
    return cases


def between(synthetic: list[Case], sites: dict[str, list[Case]]) -> Distances:
    """With synthetic cases dealt out to all real patients, as if painted from their masks."""
    patients = [f"{site}/{case.patient}" for site, cases in sites.items() for case in cases]
    owners = [patients[number % len(patients)] for number in range(len(synthetic))]
    return distances(synthetic, owners, sites)


def altered(cases: list[Case], change: str) -> list[Case]:
    changes = {
        "brighter": lambda image, mask: (image + 0.2).clamp(-1, 1),
        "blurred": lambda image, mask: F.avg_pool2d(image[None], 3, 1, 1)[0],
        "noisy": lambda image, mask: (image + 0.1 * torch.randn_like(image)).clamp(-1, 1),
        "without spots": lambda image, mask: torch.where(mask == 2, -0.1, image),
        "modalities unrelated": lambda image, mask: torch.stack([image[0], image[1].flip(0)]),
    }
    return [replace(case, image=changes[change](case.image, case.mask)) for case in cases]


def test_two_sets_of_one_kind_are_as_far_apart_as_the_floor() -> None:
    found = between(heads(160, 100), {"north": heads(40), "south": heads(40, 50)})
    assert found.mixture < 1.5 * found.floor
    assert found.floor < 0.2
    assert set(found.of_sites) == set(found.floors) == {"north", "south"}


def test_images_that_are_the_real_ones_come_to_the_floor_and_not_below() -> None:
    """Slices of a patient resemble each other: a reference that holds his others is no floor."""
    cases = [
        replace(
            case, patient=f"p{number % 6}", image=(case.image + 0.1 * (number % 6)).clamp(-1, 1)
        )
        for number, case in enumerate(heads(60))
    ]
    sites = {"north": cases}
    found = distances(cases, [f"north/{case.patient}" for case in cases], sites)
    assert found.mixture == pytest.approx(found.floor)
    assert found.of_sites["north"] == pytest.approx(found.floors["north"])


@pytest.mark.parametrize(
    "change", ["brighter", "blurred", "noisy", "without spots", "modalities unrelated"]
)
def test_what_a_person_would_see_is_seen(change: str) -> None:
    torch.manual_seed(0)
    found = between(altered(heads(80, 100), change), {"north": heads(80)})
    assert found.mixture > 3 * found.floor


def test_a_collapsed_set_is_far_off() -> None:
    found = between(heads(1, 100) * 80, {"north": heads(80)})
    assert found.mixture > 3 * found.floor


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    features = Features(2)
    values = features(torch.stack([case.image for case in heads(30)]))
    reference = Moments.of(features(torch.stack([case.image for case in heads(30, 40)])))
    parts = [Moments.of(part) for part in values.split([7, 20, 3])]
    together = sum(parts[1:], parts[0])
    whole = distance(Moments.of(values), reference)
    assert distance(together, reference) == pytest.approx(whole, rel=1e-9)
    shares = [part.weighing(part.count / 30) for part in parts]
    assert distance(sum(shares[1:], shares[0]), reference) == pytest.approx(whole, rel=1e-9)


def test_clipping_bounds_what_one_image_adds() -> None:
    features = Features(1)(torch.rand(3, 1, 32, 32))
    clipped = Moments.of(torch.cat([features, 1e6 * features[:1]]), clip=2.0)
    assert float(clipped.total.norm()) <= 4 * 2.0
    assert clipped.count == 4


def test_features_are_the_same_on_every_call_and_fit_their_size() -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    first, second = Features(3), Features(3)
    assert torch.equal(first(images), second(images))
    assert first(images).shape == (2, first.size)


def test_a_site_of_one_patient_has_a_distance_but_no_floor() -> None:
    found = between(heads(42, 100), {"north": heads(20), "one": heads(1, 60) * 2})
    assert math.isnan(found.floors["one"])
    assert found.of_sites["north"] > 0
