"""What a training costs a site, in bytes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from asyndgan.judging.metrics import mean
from asyndgan.runs import RunFolder
from lab.fedgan import networks_weight


def traffic(runs: Sequence[RunFolder]) -> dict[str, float]:
    """Size of feedback compared with weights, of a model's runs on a set; see `SuiteResult`."""
    recipe, facts = runs[0].recipe(), [run.facts() for run in runs]
    generator, discriminator = networks_weight(recipe, facts[0].scope)
    taken = [Counter(site for one in run.metrics() for site in one["losses"]) for run in runs]
    sent, received = (
        mean([a_step(moved, steps) for moved, steps in zip(of_runs, taken, strict=True)])
        for of_runs in ([one.left_sites for one in facts], [one.came_to_sites for one in facts])
    )
    fedgan_round = 2 * (generator + discriminator)
    return {
        "steps": facts[0].steps, "sent": sent, "received": received, "generator": generator,
        "discriminator": discriminator, "fedgan_round": fedgan_round,
        "break_even": fedgan_round / (sent + received),
    }  # fmt: skip


def of_a_site(moved: Mapping[str, Mapping[str, int]]) -> float:
    """Bytes of a site in the whole run, mean over sites."""
    return mean([float(sum(kinds.values())) for kinds in moved.values()])


def a_step(moved: Mapping[str, Mapping[str, int]], taken: Mapping[str, int]) -> float:
    """Bytes per step, mean over sites; `taken`: number of steps each site took part in."""
    return mean(
        [sum(kinds.values()) / taken[site] for site, kinds in moved.items() if taken.get(site)]
    )
