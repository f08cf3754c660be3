import math
from dataclasses import replace

import pytest
import torch

from asyndgan.store import Case, Preparation
from lab import diagnosis
from lab.diagnosis import diagnose

LABELS = {"background": 0, "disc": 1}
PREPARATION = Preparation((32, 32), (1, 1), (32, 32), (0, 0), (1,), (0,))


def discs(count: int, *, seed: int = 0, noise: float = 0.2, bright: float = 0.5) -> list[Case]:
    """Discs of any place and size on a noisy ground; patients have four images each."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    cases = []
    for number in range(count):
        y, x, r = (torch.rand(3, generator=random) * torch.tensor([16, 16, 5])).tolist()
        mask = ((rows - y - 8) ** 2 + (columns - x - 8) ** 2 < (r + 3) ** 2).long()
        image = noise * torch.randn(1, 32, 32, generator=random) + bright * mask - 0.3
        patient = f"p{number // 4}"
        cases.append(Case(f"c{number}", patient, image, mask, ("grey",), PREPARATION))
    return cases


def repainted(cases: list[Case], change) -> list[Case]:
    return [replace(case, image=change(case)) for case in cases]


@pytest.fixture(autouse=True)
def _told_by_few_steps(monkeypatch):
    monkeypatch.setattr(diagnosis, "TELLING_STEPS", 60)


def test_images_of_the_same_distribution_are_hard_to_tell_and_cover_each_other():
    real = discs(80)
    grain = torch.Generator().manual_seed(9)
    same = repainted(
        real, lambda case: 0.2 * torch.randn(1, 32, 32, generator=grain) + 0.5 * case.mask - 0.3
    )

    found = diagnose(same, real, labels=LABELS, again=same)

    assert abs(found.components / found.components_real - 1) < 0.1
    assert abs(found.nearest - found.nearest_real) < 0.05
    assert found.repeated == pytest.approx(1, abs=1e-4)
    assert all(abs(ratio - 1) < 0.2 for ratio in found.spectrum)
    assert min(found.precision, found.recall, found.coverage) > 0.7
    assert abs(found.told - 0.5) < 0.15


def test_a_generator_that_ignores_its_noise_is_seen_by_components_and_neighbours():
    real = discs(80)
    typical = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(1))
    collapsed = repainted(real, lambda case: typical + 0.02 * case.mask)

    found = diagnose(collapsed, real, labels=LABELS)

    assert found.components < found.components_real / 2
    assert found.nearest > 0.99 > found.nearest_real
    assert math.isnan(found.repeated)
    assert found.recall < 0.1
