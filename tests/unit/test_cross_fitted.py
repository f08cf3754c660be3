"""Cross-fitted discriminators: each network learns from half of the patients, and both judge."""

import pytest
import torch
import torch.nn.functional as F

from asyndgan.errors import CohortError
from asyndgan.models import Sizes
from asyndgan.models.parts import build_discriminator, condition_maps
from asyndgan.recipe import Recipe
from asyndgan.store import Batch, Cohort
from asyndgan.training import Site
from asyndgan.training.objective import Objective

SEGMENTS = ("discriminator.kind=patch_segmentation", "loss.segmentation=1")
BOTH = "discriminator.cross_fitted=true"


def objective_of(recipe: Recipe) -> Objective:
    return Objective(recipe, modalities=1, labels=3, space=recipe.image.size, seed=1)


def cases(count: int, seed: int, halves: list[int] | None = None) -> Batch:
    """Images of noise, which nothing but memory tells from each other."""
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 16, 16, generator=random) * 2 - 1
    masks = torch.zeros(count, 16, 16, dtype=torch.int64)
    masks[:, 4:9, 4:9] = 1
    return Batch(images, masks, None if halves is None else torch.tensor(halves))


@pytest.mark.parametrize("judge", [(), SEGMENTS], ids=["patch", "segments"])
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("beside", [True, False])
def test_a_network_learns_from_its_half_of_the_patients_alone(tiny, judge, half, beside):
    """Images of no patient go to the network of the real image beside them."""
    objective = objective_of(tiny(BOTH, *judge, "training.batch=1"))
    networks = objective.discriminator.get_submodule("networks")
    before = [[weights.clone() for weights in one.parameters()] for one in networks.children()]
    objective.learn(cases(1, 0, [half]), cases(1, 1, [half] if beside else None))
    for number, (one, old) in enumerate(zip(networks.children(), before, strict=True)):
        same = [torch.equal(*pair) for pair in zip(one.parameters(), old, strict=True)]
        assert all(same) is (number != half)


def test_a_network_is_told_no_mask_of_the_other_half(tiny):
    """Real images with another case's mask, too, are shown to the network of their half alone."""
    shown: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    objective = objective_of(tiny(BOTH, "loss.mismatch=1"))
    objective.discriminator.register_forward_pre_hook(lambda _, told: shown.append(told))
    real = cases(5, 0, [0, 1, 0, 1, 1])
    for case in range(5):
        real.conditions[case] = 0
        real.conditions[case, case] = 1  # a row of its own tells whose mask it is
    objective.learn(real, cases(5, 1))
    _, maps, halves = shown[0]
    of_case = maps[10:, 1].flatten(1).argmax(1) // 16
    assert len(of_case) == 5, "each case has a neighbour in its half"
    assert real.halves is not None
    assert torch.equal(real.halves[of_case], halves[10:])
    assert (of_case != torch.arange(5)).all()


def test_each_image_gets_the_verdict_of_the_network_of_its_half_in_the_batchs_order(tiny):
    objective = objective_of(tiny(BOTH, *SEGMENTS))
    batch = cases(4, 0)
    maps = condition_maps(batch.conditions, kind="mask", labels=3, space=(16, 16))
    halves = torch.tensor([1, 0, 0, 1])
    said, _ = objective.judged(batch.images, maps, halves=halves)
    networks = list(objective.discriminator.get_submodule("networks").children())
    for row, half in enumerate(halves.tolist()):
        own = networks[half](batch.images[row : row + 1], maps[row : row + 1])
        torch.testing.assert_close(said.score[row : row + 1], own.score)
        torch.testing.assert_close(said.segmentation[row : row + 1], own.segmentation)


def test_on_what_is_asked_the_less_convinced_network_has_the_say(tiny):
    objective = objective_of(tiny(BOTH, *SEGMENTS))
    batch = cases(2, 0)
    maps = condition_maps(batch.conditions, kind="mask", labels=3, space=(16, 16))
    one, other = (
        network(batch.images, maps)
        for network in objective.discriminator.get_submodule("networks").children()
    )
    said, _ = objective.judged(batch.images, maps)
    assert torch.equal(said.score, torch.minimum(one.score, other.score))
    losses = [
        F.cross_entropy(each.segmentation, batch.conditions, reduction="none")
        for each in (one, other, said)
    ]
    assert torch.equal(losses[2], torch.maximum(losses[0], losses[1]))
    assert (losses[0] > losses[1]).any()
    assert (losses[1] > losses[0]).any()


def test_a_label_that_one_half_alone_has_is_segmented_by_its_network(tiny, make_cohort):
    recipe = tiny(BOTH, *SEGMENTS)
    cohort = make_cohort(recipe)
    halves = cohort.halves.reshape(-1, 1, 1).expand_as(cohort.conditions)
    cohort = Cohort(cohort.images, halves, modalities=cohort.modalities, labels=cohort.labels)
    assert cohort.labels_by_half[:, :2].tolist() == [[True, False], [False, True]]
    objective = Site("north", cohort, recipe).objective
    batch = cases(2, 0)
    maps = objective.maps(batch.conditions)
    networks = objective.discriminator.get_submodule("networks").children()
    alone = [network(batch.images, maps).segmentation.movedim(1, -1) for network in networks]
    said = objective.judged(batch.images, maps)[0].segmentation.movedim(1, -1)
    for label in range(2):
        own = batch.conditions == label
        assert torch.equal(said[own], alone[label][own])


def test_who_took_part_shows_less_by_what_is_asked(tiny):
    """Two networks that have learned eight images by heart are asked about these and others."""

    def gap(*overrides):
        recipe = tiny(
            "loss.adversarial=least_squares", "discriminator.width=16", "discriminator.layers=2",
            "optimiser.discriminator_rate=1e-3", *overrides,
        )  # fmt: skip
        objective = objective_of(recipe)
        members, others = cases(8, 0, [0, 1] * 4), cases(8, 1)
        for step in range(60):
            objective.learn(members, cases(8, 2 + step, [0, 1] * 4))
        told = [float(objective.ask(batch)[1]["adversarial"]) for batch in (members, others)]
        return told[1] - told[0]

    known, hidden = gap(), gap(BOTH)
    assert known > 0.5
    assert abs(hidden) < known / 2


def test_a_site_of_one_patient_has_nobody_for_the_second_network(tiny, make_cohort):
    recipe = tiny(BOTH)
    whole = make_cohort(recipe)
    alone = Cohort(
        whole.images, whole.conditions, modalities=whole.modalities, labels=whole.labels,
        patients=["p"] * len(whole), flip=whole.flip,
    )  # fmt: skip
    with pytest.raises(CohortError, match="one patient to train on, so one of its two networks"):
        Site("north", alone, recipe)
    Site("north", whole, recipe)


def test_masks_are_judged_by_the_mean_of_both_networks_and_images_by_the_less_convinced(tiny):
    images, maps = cases(4, 0).images, torch.zeros(4, 3, 16, 16)
    masks = tiny(BOTH, "discriminator.kind=masks", "image.source=masks", "condition.kind=none",
                 "generator.kind=masks", "masks.source=own", "masks.release=false")  # fmt: skip
    for recipe, joined in (
        (masks, lambda one, other: (one + other) / 2),
        (tiny(BOTH), torch.minimum),
    ):
        network = build_discriminator(recipe, Sizes(3, 1))
        one, other = (own(images, maps).score for own in network.get_submodule("networks"))
        torch.testing.assert_close(network(images, maps).score, joined(one, other))
