"""Checks the theory on toy problems: what the sum of feedback and FedGAN learn.

    python -m lab.experiments.mixture --out OUT [--document docs/theory.md]

All losses are minimax (Goodfellow et al. 2014, equation 1), since nothing is proved for others.

Unconditional: sites with uneven shares have distributions over 64 places on a line, overlapping or
apart. Generator and discriminators are tables and every expectation is exact, so the result depends
neither on networks nor on chance. It is compared with the centroid of the sites, found by
minimising sum_j pi_j JS(p_j, q) directly. (FedGAN's game of tables does not converge.)

Conditional: small networks are trained on samples. Each site has its own uneven distribution of
masks (ten classes); the distribution of values given a mask, p(y | x), is the same everywhere.
Measured is the divergence of the averaged generator from the true mixture s(x) p(y | x), in bits.
Central training has one discriminator on all sites' samples. All methods see the same number of
samples and take the same number of steps, and for a given seed all start from the same masks and
initial weights.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.judging.metrics import paired_ratio_interval
from lab.experiments.common import arguments, markdown, publish, remembered
from lab.experiments.toy_figures import plot_centroids, plot_ratios

PLACES = 64
GAME = 4000
LOCAL = 20
"""Steps between two averagings of FedGAN."""

SITES = (2, 4, 8, 16, 32)
SEEDS = 10
MASKS = 10
STEPS = 3000
BATCH = 64
"""Samples per site and step."""

BINS = 40
DRAWS = 200_000

LINE = [PLACES, GAME, LOCAL]
"""What the first table depends on, beside this script."""
CONDITIONAL = [MASKS, STEPS, BATCH, BINS, DRAWS, LOCAL]
"""What the second table depends on."""


def main() -> None:
    """Runs the missing measurements, then prints and writes the tables."""
    torch.set_num_threads(1)
    given = arguments(__doc__ or "", data=False).parse_args(sys.argv[1:])
    given.out.mkdir(parents=True, exist_ok=True)
    cache = given.out / "mixture.json"
    rows = [line_row(cache, count, apart) for apart in (True, False) for count in SITES]
    publish(
        markdown(
            ["sites", "they", "sum of feedback: from the centroid", "from the mixture"], rows,
        ),
        "mixture-shares", given.document,
    )  # fmt: skip
    masks = [conditional_row(cache, count) for count in SITES]
    publish(
        markdown(
            ["sites", "central (bits)", "sum of feedback", "of central's", "interval",
             "FedGAN", "of central's", "interval"],
            masks,
        ),
        "mixture-masks", given.document,
    )  # fmt: skip
    if given.document:
        images = given.document.parent / "images"
        picture(images / "centroid.svg")
        (images / "mixture-masks.svg").write_bytes(picture_of(masks))


# Unconditional


def shares_of(count: int) -> Tensor:
    """Uneven shares: each site has 0.43 times the share of the one before, down to a floor."""
    sizes = torch.tensor([max(0.43**j, 0.1) for j in range(count)], dtype=torch.float64)
    return sizes / sizes.sum()


def sites_on_a_line(count: int, *, apart: bool) -> Tensor:
    """Distributions p_j (sites, places), one bump each; `apart`: with disjoint supports."""
    places = torch.arange(PLACES, dtype=torch.float64) + 0.5
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) * PLACES / count
    width = PLACES / count / (6 if apart else 1)
    bumps = torch.exp(-0.5 * ((places - middles[:, None]) / width) ** 2)
    if apart:
        own = (places / PLACES * count).long() == torch.arange(count)[:, None]
        bumps = bumps * own
    return bumps / bumps.sum(1, keepdim=True)


def centroid(sites: Tensor, shares: Tensor) -> Tensor:
    """The q that minimises sum_j pi_j JS(p_j, q), by a fixed-point iteration.

    At the minimum, sum_j pi_j log(2 q / (p_j + q)) has the same value wherever q is above 0.
    """
    q = shares @ sites
    for _ in range(20000):
        slope = (shares[:, None] * torch.log(2 * q / (sites + q))).sum(0)
        q = q * torch.exp(-0.5 * (slope - slope.min()))
        q = q / q.sum()
    return q


def game(sites: Tensor, shares: Tensor) -> Tensor:
    """Plays the game of tables to its end.

    Args:
        sites: distributions p_j (sites, places).
        shares: shares of the sites.

    Returns:
        The generator's distribution q (places,), averaged over the second half of the steps.
    """
    count = len(sites)
    theta = torch.zeros(1, PLACES, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(count, PLACES, dtype=torch.float64, requires_grad=True)
    paint = torch.optim.Adam([theta], lr=0.02, betas=(0.5, 0.99))
    judge = torch.optim.Adam([logits], lr=0.1, betas=(0.5, 0.99))
    kept = torch.zeros(PLACES, dtype=torch.float64)
    for step in range(GAME):
        for group in (*paint.param_groups, *judge.param_groups):
            group.setdefault("first", group["lr"])
            group["lr"] = group["first"] * min(1.0, 2 * (1 - step / GAME)) + 1e-5
        for _ in range(5):
            q = torch.softmax(theta, 1).detach()
            # E_p log D + E_q log(1 - D), every expectation exact
            value = (sites * F.logsigmoid(logits) + q * F.logsigmoid(-logits)).sum()
            judge.zero_grad()
            (-value).backward()
            judge.step()
        q = torch.softmax(theta, 1)
        loss = (shares[:, None] * q * F.logsigmoid(-logits.detach())).sum()
        paint.zero_grad()
        loss.backward()
        paint.step()
        if step >= GAME // 2:
            kept += q[0].detach()
    return kept / kept.sum()


def variation(p: Tensor, q: Tensor) -> float:
    """Total variation distance, 0 to 1."""
    return float((p - q).abs().sum() / 2)


def line_row(cache: Path, count: int, apart: bool) -> list[str]:
    """A row of the first table."""
    sites, shares = sites_on_a_line(count, apart=apart), shares_of(count)
    mixture = shares @ sites

    def measure() -> dict[str, float]:
        summed = game(sites, shares)
        return {
            "sum from centroid": variation(summed, centroid(sites, shares)),
            "sum from mixture": variation(summed, mixture),
        }

    found = remembered(cache, f"{count} sites, {'apart' if apart else 'near'}", measure, of=LINE)
    assert isinstance(found, dict)
    return [
        str(count), "lie apart" if apart else "overlap", f"{found['sum from centroid']:.3f}",
        f"{found['sum from mixture']:.3f}",
    ]  # fmt: skip


def picture(path: Path) -> None:
    """Plots the results for two sites that lie apart, with shares 0.7 and 0.3."""
    sites, shares = sites_on_a_line(2, apart=True), torch.tensor([0.7, 0.3], dtype=torch.float64)
    path.write_bytes(
        plot_centroids(
            {
                "mixture of the sites": shares @ sites,
                "centroid": centroid(sites, shares),
                "sum of feedback": game(sites, shares),
            }
        )
    )


def picture_of(rows: list[list[str]]) -> bytes:
    """Plots the rows of the second table: how far from central training, where 1.1 was wanted."""

    def ratios(place: int) -> list[tuple[float, float, float]]:
        ends = (row[place + 1].split(" to ") for row in rows)
        return [
            (float(row[place]), float(low), float(high))
            for row, (low, high) in zip(rows, ends, strict=True)
        ]

    found = {"sum of feedback": ratios(3), "FedGAN": ratios(6)}
    return plot_ratios(found, [int(row[0]) for row in rows], most=1.1)


# Conditional


class Networks:
    """Several small networks of one architecture, evaluated in parallel.

    Args:
        count: number of networks.
        sizes: sizes of the layers.
        seed: seed of the initial weights, which all networks share.
    """

    def __init__(self, count: int, sizes: tuple[int, ...], seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.weights: list[Tensor] = []
        for before, after in pairwise(sizes):
            scale = (2 / before) ** 0.5
            first = scale * torch.randn(before, after, generator=random)
            self.weights += [first.repeat(count, 1, 1), torch.zeros(count, 1, after)]
        for weight in self.weights:
            weight.requires_grad_()

    def __call__(self, inputs: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Maps inputs (count, n, in) to outputs (count, n, out)."""
        used, maps = weights or self.weights, inputs
        for place in range(0, len(used), 2):
            maps = torch.baddbmm(used[place + 1], maps, used[place])
            maps = F.leaky_relu(maps, 0.2) if place + 2 < len(used) else maps
        return maps


def masks_of(count: int, seed: int) -> Tensor:
    """Distributions s_j (sites, masks): at each site a few masks are common and most are rare."""
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(2.0 * torch.randn(count, MASKS, generator=random), 1)


def real(masks: Tensor, random: torch.Generator) -> Tensor:
    """Draws real values of masks: one of two bumps, whose place and weight depend on the mask."""
    angle = 2 * math.pi * masks / MASKS
    left = torch.rand(masks.shape, generator=random) < 0.3 + 0.4 * (masks % 2)
    middle = torch.where(left, 2 * torch.cos(angle), 2 * torch.sin(angle) + 0.5)
    return middle + 0.25 * torch.randn(masks.shape, generator=random)


def conditional(count: int, kind: str, seed: int) -> float:
    """Jensen-Shannon divergence, in bits, of the learned distribution from the true mixture.

    Args:
        count: number of sites.
        kind: `central`, `sum` or `fedgan`.
        seed: seed of the sites' masks, the weights and the samples.
    """
    random = torch.Generator().manual_seed(1000 + seed)
    table, shares = masks_of(count, seed), shares_of(count).float()
    judges = count if kind != "central" else 1
    painters = count if kind == "fedgan" else 1
    noise = 4
    painter = Networks(painters, (MASKS + noise, 64, 64, 1), seed)
    judge = Networks(judges, (MASKS + 1, 64, 64, 1), seed + 1)
    paint = torch.optim.Adam(painter.weights, lr=5e-4, betas=(0.5, 0.9))
    learn = torch.optim.Adam(judge.weights, lr=1e-3, betas=(0.5, 0.9))
    average = [weight.detach().clone() for weight in painter.weights]

    def drawn(size: int) -> Tensor:
        """Masks (sites, size); for central training (1, sites * size), drawn by the shares."""
        if kind == "central":
            whose = torch.multinomial(shares, count * size, replacement=True, generator=random)
            return torch.multinomial(table[whose], 1, generator=random).T
        return torch.multinomial(table, size, replacement=True, generator=random)

    def painted(masks: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        z = torch.randn(*masks.shape, noise, generator=random)
        inputs = torch.cat([F.one_hot(masks, MASKS).float(), z], 2)
        if len(inputs) != painters:
            inputs = inputs.reshape(1, -1, inputs.shape[2])
        return painter(inputs, weights).reshape(*masks.shape)

    def judged(masks: Tensor, values: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        inputs = torch.cat([F.one_hot(masks, MASKS).float(), values[..., None]], 2)
        return judge(inputs, weights)[..., 0]

    of_sites = shares[:, None] if judges == count else torch.ones(1, 1)
    for step in range(STEPS):
        rate = min(1.0, 2 * (1 - step / STEPS)) + 0.01
        paint.param_groups[0]["lr"], learn.param_groups[0]["lr"] = 5e-4 * rate, 1e-3 * rate
        for _ in range(3):
            masks = drawn(BATCH)
            with torch.no_grad():
                synthetic = painted(masks)
            own, fooled = judged(masks, real(masks, random)), judged(masks, synthetic)
            loss = F.softplus(-own).mean() + F.softplus(fooled).mean()
            learn.zero_grad()
            (judges * loss).backward()
            learn.step()
        masks = drawn(BATCH)
        # minimax: log(1 - D), whose gradient with respect to the images is the sites' feedback
        fixed = [weight.detach() for weight in judge.weights]
        logits = judged(masks, painted(masks), fixed)
        by = torch.ones_like(of_sites) if kind == "fedgan" else of_sites
        loss = -(by * F.softplus(logits)).sum() / logits.shape[1]
        paint.zero_grad()
        loss.backward()
        paint.step()
        if kind == "fedgan" and (step + 1) % LOCAL == 0:
            with torch.no_grad():
                for weight in (*painter.weights, *judge.weights):
                    mean = (shares[:, None, None] * weight).sum(0, keepdim=True)
                    weight.copy_(mean.expand_as(weight))
        decay = min(0.995, (1 + step) / (10 + step))
        for mean, weight in zip(average, painter.weights, strict=True):
            mean.lerp_(weight.detach(), 1 - decay)
    return _divergence(shares @ table, painted, average, painters, random)


def _divergence(
    prior: Tensor,
    painted: Callable[..., Tensor],
    weights: list[Tensor],
    painters: int,
    random: torch.Generator,
) -> float:
    """Divergence between histograms of (x, y), with equally many real and painted draws."""
    masks = torch.multinomial(prior, DRAWS, replacement=True, generator=random)
    with torch.no_grad():
        values = painted(masks.reshape(1, -1).expand(painters, -1), weights)[0]
    tables = []
    for own in (real(masks, random), values):
        places = ((own + 4) / 8 * BINS).long().clamp(0, BINS - 1)
        counts = torch.bincount(masks * BINS + places, minlength=MASKS * BINS).double()
        tables.append(counts / counts.sum())
    middle = (tables[0] + tables[1]) / 2
    parts = [
        (table * (table / middle.clamp(min=1e-300)).clamp(min=1e-300).log2()).sum()
        for table in tables
    ]
    return float((parts[0] + parts[1]) / 2)


def conditional_row(cache: Path, count: int) -> list[str]:
    """A row of the second table: means over seeds, and their ratios to central training."""
    by_kind = {}
    for kind in ("central", "sum", "fedgan"):
        found = [
            remembered(
                cache, f"masks, {count} sites of {BATCH}, {kind}, seed {seed}",
                partial(conditional, count, kind, seed), of=CONDITIONAL,
            )
            for seed in range(SEEDS)
        ]  # fmt: skip
        by_kind[kind] = found
    means = {kind: sum(own) / len(own) for kind, own in by_kind.items()}
    line = [str(count)]
    for kind, own in by_kind.items():
        line.append(f"{means[kind]:.3f} ({min(own):.3f} to {max(own):.3f})")
        if kind != "central":
            low, high = paired_ratio_interval(own, by_kind["central"])
            line += [f"{means[kind] / means['central']:.2f}", f"{low:.2f} to {high:.2f}"]
    return line


if __name__ == "__main__":
    main()
