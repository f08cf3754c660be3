"""The toy problems behind docs/theory.md measure what that page says they do."""

import torch
from torch import Tensor

from lab.experiments import mixture

SHARES = torch.tensor([0.7, 0.3], dtype=torch.float64)


def pull(sites: Tensor, shares: Tensor, q: Tensor) -> float:
    """The sum over sites of share times JS(p_j, q), in nats."""
    middle = (sites + q) / 2
    parts = torch.xlogy(sites, sites / middle) + torch.xlogy(q, q / middle)
    return float((shares * parts.nan_to_num(0).sum(1)).sum() / 2)


def test_no_distribution_beside_the_centroid_is_nearer_to_the_sites():
    sites, random = mixture.sites_on_a_line(2, apart=False), torch.Generator().manual_seed(0)
    middle = mixture.centroid(sites, SHARES)
    least = pull(sites, SHARES, middle)
    assert least < pull(sites, SHARES, SHARES @ sites)
    for size in (0.01, 0.1, 1.0):
        for _ in range(5):
            noise = torch.randn(len(middle), generator=random, dtype=torch.float64)
            beside = torch.softmax(middle.log() + size * noise, 0)
            assert least <= pull(sites, SHARES, beside) + 1e-9


def test_what_is_painted_like_the_truth_diverges_from_it_by_nothing_and_grey_does():
    random = torch.Generator().manual_seed(0)
    prior = torch.full((mixture.MASKS,), 1 / mixture.MASKS)

    def divergence(painted):
        return mixture._divergence(prior, painted, [], 1, random)

    assert divergence(lambda masks, _: mixture.real(masks, random)) < 0.002
    assert divergence(lambda masks, _: torch.zeros(masks.shape)) > 0.5
