"""Combines the sites' discriminators into the discriminator of the mixture of all sites.

Source: Zhang et al. 2021 (UA-GAN), section 3. An optimal discriminator has the odds
p_j(x, y) / q(x, y), so the odds weighted by shares add up to those of the mixture,
Phi = sum_j pi_j odds_j = p / q, and Phi / (1 + Phi) is the discriminator that training on all real
images together would give. A sum of feedback weighted by shares instead finds a centroid of the
sites, in which large sites count for more than their share where the sites hardly overlap.

Each site returns log odds and their gradients. With the non-saturating loss log(1 + 1 / Phi) of
an image the chain rule gives
    d / d image = -1 / (1 + Phi) * sum_j (pi_j odds_j / Phi) * d log odds_j / d image.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from asyndgan.arrays import Images


def feedback_of_mixture(
    log_odds: Mapping[str, Float[Tensor, " b"]],
    gradients: Mapping[str, Images],
    shares: Mapping[str, float],
) -> Images:
    """Gradient of each image's loss with respect to that image.

    Args:
        log_odds: by site: that each image is one of the site's real images.
        gradients: by site: of the log odds, with respect to the images.
        shares: of the sites; they sum to one.
    """
    sites = list(log_odds)
    weighted = torch.stack([log_odds[s] + torch.tensor(shares[s]).log() for s in sites])
    together = torch.logsumexp(weighted, dim=0)  # log Phi
    parts = torch.softmax(weighted, dim=0)  # pi_j odds_j / Phi
    pull = -torch.sigmoid(-together)
    shape = (-1, *[1] * (gradients[sites[0]].ndim - 1))
    return torch.stack(
        [(pull * part).reshape(shape) * gradients[s] for part, s in zip(parts, sites, strict=True)]
    ).sum(0)
