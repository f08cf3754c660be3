"""How long `evaluate` and `audit` of a finished run will take on this machine."""

import time
from collections.abc import Callable
from typing import Final

import torch

from asyndgan.auditing.distances import paintings_of_case
from asyndgan.auditing.reconstruction import not_asked, questions_of
from asyndgan.models.budget import SegmentationBudget
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.training import generator_inputs, new_generator
from asyndgan.training.compute import torch_threads
from asyndgan.training.segmentation import SegmentationTraining

DRAWS: Final = 3
"""Images of each mask in the set that both commands paint."""

TIMED: Final = 2
"""Paintings of a batch, and updates of a network, that are timed after a first one."""


def expected_seconds(run: RunFolder) -> tuple[float, float]:
    """Seconds of `evaluate` and of `audit`, each with its defaults.

    Times the painting of some images by an untrained generator, and some updates of a segmentation
    network.

    Args:
        run: a run that has begun and paints images from masks.
    """
    facts, recipe, cores = run.facts(), run.recipe(), torch.get_num_threads()
    cases = sum(int(about["cases"]) for about in facts.teachers.values())
    scope, batch, budget = facts.scope, recipe.training.batch, SegmentationBudget()
    mask = torch.zeros(scope.space, dtype=torch.int64)
    looks, random = [*facts.teachers][:1] * batch, torch.Generator()
    # On one thread, as networks are trained: two may wait for each other.
    with torch.random.fork_rng([]), torch_threads(1):
        generator = new_generator(recipe, scope).eval()
        masks = mask.expand(batch, *scope.space)
        maps, noise = generator_inputs(recipe, scope, masks, looks, random)
        with torch.no_grad():
            painting = _timed(lambda: generator(maps, noise)) / batch
            image = generator(maps, noise)[0]
        case = Case.drawn("", image, mask, tuple(scope.modalities))
        training = SegmentationTraining(
            [case], classes=max(scope.labels) + 1, budget=budget, seed=0
        )
        update = _timed(training.step)
    networks = len(facts.teachers) + 2  # of each site, of all, of the synthetic set
    updates = networks * budget.steps * update / min(cores, networks)
    asked = 0 if not_asked(run) else questions_of(recipe) * len(facts.teachers) / cores
    set_of = DRAWS * cases
    audit = painting * (set_of + cases * paintings_of_case(run) + asked)
    return painting * set_of + updates, audit


def _timed(work: Callable[[], object]) -> float:
    """Seconds of one call, after a first one, if no other program takes the processor."""
    work()
    begun = time.process_time()
    for _ in range(TIMED):
        work()
    return (time.process_time() - begun) / TIMED
