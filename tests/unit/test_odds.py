"""Sites whose distributions hardly overlap: the odds of all discriminators instead of a sum."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asyndgan.data import Batch, Cohort
from asyndgan.errors import CohortError, PolicyError, ProtocolError, RecipeError, WireError
from asyndgan.privacy import Policy, Release
from asyndgan.privacy.policy import SIMULATION, AllowsSection, LeavesSection
from asyndgan.recipe import Recipe
from asyndgan.training import Site
from asyndgan.training.aggregation.odds import feedback_of_mixture, log_odds
from asyndgan.training.painting import Painting
from asyndgan.wire import ANSWERS, Appraisal, Appraise, unpack

MakeRecipe = Callable[..., Recipe]
MakeCohort = Callable[..., Cohort]
ANY = AllowsSection(unmeasured=True)
MakeSites = Callable[..., Any]  # of conftest's Federation
ODDS = ("shares.by=odds", "wire.images=float32", "wire.feedback=float32")


def test_the_odds_of_all_sites_pull_as_the_mixtures_own_discriminator_would() -> None:
    """By autograd through the loss log(1 + 1 / Phi), of any networks."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 4, generator=random, requires_grad=True)
    weights = {site: torch.randn(32, generator=random) for site in ("north", "south")}
    shares = {"north": 0.7, "south": 0.3}
    log_odds = {s: (images.flatten(1) @ w).tanh() * 3 for s, w in weights.items()}
    gradients = {
        s: torch.autograd.grad(odds.sum(), images, retain_graph=True)[0]
        for s, odds in log_odds.items()
    }
    together = sum(shares[s] * log_odds[s].exp() for s in shares)
    assert isinstance(together, Tensor)
    loss = (1 + 1 / together).log()
    (wanted,) = torch.autograd.grad(loss.sum(), images)
    detached = {s: odds.detach() for s, odds in log_odds.items()}
    torch.testing.assert_close(feedback_of_mixture(detached, gradients, shares), wanted)


def test_a_site_that_is_sure_of_an_image_outweighs_one_that_has_none_like_it() -> None:
    ones = torch.ones(1, 1, 2, 2)
    feedback = feedback_of_mixture(
        {"north": torch.tensor([20.0]), "south": torch.tensor([-20.0])},
        {"north": ones, "south": -ones},
        {"north": 0.01, "south": 0.99},
    )
    assert (feedback < 0).all()  # the loss falls as north's odds rise


def test_a_step_is_the_gradient_of_the_mixtures_loss(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    recipe = tiny(*ODDS)
    coordinator = make_sites(recipe).begin()
    twins: dict[str, Site] = make_sites(recipe).sites
    generator = copy.deepcopy(coordinator.generator)
    wanted = {site: member.conditions for site, member in coordinator.members.items()}
    images = coordinator.paint(generator, wanted)._graph
    conditions = torch.cat([m.conditions for m in coordinator.members.values()]).long()
    gradients: list[Tensor] = []
    coordinator.optimiser.register_step_pre_hook(
        lambda optimiser, args, keys: gradients.extend(
            [p.grad.clone() for p in coordinator.generator.parameters()]
        )
    )
    report = coordinator.step()
    assert report.updated
    shares = [6 / 9, 3 / 9]  # north, south
    told = []
    for site in twins.values():
        real = site.cohort.batch(0, recipe.training.batch)
        judge = site.objective.discriminator
        own = judge(real.images, site.objective.maps(real.conditions)).score
        painted = judge(images.detach(), site.objective.maps(conditions)).score
        # A real image against one of the mixture of all sites' synthetic ones (equation 1 of
        # Goodfellow et al. 2014): the shares say how much of it is each site's.
        each = F.softplus(painted).flatten(1).mean(1).reshape(2, -1).mean(1)
        lesson = (F.softplus(-own).mean() + shares[0] * each[0] + shares[1] * each[1]) / 2
        optimiser = site.objective.discriminator_optimiser
        optimiser.zero_grad()
        lesson.backward()
        optimiser.step()
        told.append(log_odds(site.objective, Batch(images, conditions)))
    together = sum(share * odds.exp() for share, odds in zip(shares, told, strict=True))
    assert isinstance(together, Tensor)
    loss = (1 + 1 / together).log().reshape(2, -1).mean(1)
    central = torch.autograd.grad(
        shares[0] * loss[0] + shares[1] * loss[1], list(generator.parameters())
    )
    for ours, theirs in zip(gradients, central, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def appraise(coordinator: Any, **changes: Any) -> Appraise:
    members = coordinator.members
    images = torch.zeros(2 * len(members), 1, 16, 16)
    fields = {
        "run": coordinator.roster.run,
        "step": 0,
        "batch": 0,
        "place": 0,
        "shares": [0.5, 0.5],
        "images": images,
        "conditions": torch.cat([m.conditions for m in members.values()]),
    }
    return Appraise(**{**fields, **changes})


def refused(federation: Any, request: Appraise) -> str:
    try:
        answer = federation.sites["north"].handle(request)
    except ProtocolError as error:
        return str(error)
    unpack(answer.payload, ANSWERS, limit=federation.exchange.limit)
    return ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"place": 1}, "not of the batch it offered"),
        ({"place": 5}, "not of the batch it offered"),
        ({"shares": [0.2, 0.3, 0.5]}, "this site judges"),
        ({"batch": 3}, "batch 3 was not offered"),
        ({"images": torch.zeros(4, 2, 16, 16)}, "this site judges"),
    ],
)
def test_a_site_judges_others_images_only_beside_the_batch_that_it_offered(
    tiny: MakeRecipe, make_sites: MakeSites, changes: dict[str, Any], reason: str
) -> None:
    federation = make_sites(tiny(*ODDS))
    coordinator = federation.begin()
    assert reason in refused(federation, appraise(coordinator, **changes))
    assert refused(federation, appraise(coordinator)) == ""


def test_a_label_that_a_site_does_not_know_is_not_judged(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS))
    coordinator = federation.begin()
    request = appraise(coordinator)
    request.conditions[2:] = 9
    assert "a label that this site does not know" in refused(federation, request)


def test_without_the_recipe_no_site_gives_odds(tiny: MakeRecipe, make_sites: MakeSites) -> None:
    federation = make_sites(tiny())
    assert "asks no site for odds" in refused(federation, appraise(federation.begin()))


def test_odds_that_were_lost_on_the_way_are_sent_again_and_train_nothing_twice(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS))
    federation.begin().step()
    (payload,) = [p for s, p in federation.line.sent if s == "north" and b'"appraise"' in p]
    site = federation.sites["north"]
    before = copy.deepcopy(site.objective.discriminator.state_dict())
    federation.endpoint("north").answer(payload)
    after = site.objective.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_site_that_is_away_has_no_word_and_its_share_goes_with_it(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS, "quorum.least=0.5"))
    coordinator = federation.begin()
    federation.line.deaf = {"south"}
    report = coordinator.step()
    assert report.updated
    assert report.shares == {"north": 1.0}
    assert coordinator.step().updated


def test_the_masks_of_a_site_that_did_not_answer_teach_nothing(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS, "quorum.least=0.5"))
    coordinator = federation.begin()
    seen: list[Tensor] = []

    class Watched(Painting):
        def backward(self, feedback: Tensor) -> None:
            seen.append(feedback.flatten(1).norm(dim=1))
            super().backward(feedback)

    paint = coordinator.paint

    def watched(generator: Any, members: Any) -> Painting:
        painting = paint(generator, members)
        painting.__class__ = Watched
        return painting

    coordinator.paint = watched
    coordinator.step()
    federation.line.deaf = {"south"}
    coordinator.step()
    (both, alone) = (lengths > 0 for lengths in seen)
    assert both.tolist() == [True] * 4
    assert alone.tolist() == [True, True, False, False]


def test_no_more_sites_images_are_judged_than_the_recipe_says(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS, "shares.sites=2"))
    coordinator = federation.begin()
    conditions = appraise(coordinator).conditions
    many = {
        "shares": [0.25] * 4, "images": torch.zeros(8, 1, 16, 16),
        "conditions": conditions.repeat(2, 1, 1),
    }  # fmt: skip
    assert "lets 2 sites judge each other" in refused(federation, appraise(coordinator, **many))
    chosen = appraise(coordinator, shares=[1e-6, 1.0])
    chosen = chosen.model_copy(update={"shares": [0.1, 0.1]})
    assert "shares sum to one" in refused(federation, chosen)
    with pytest.raises(CohortError, match=r"one more than shares\.sites \(1\)"):
        make_sites(tiny(*ODDS, "shares.sites=1")).begin()


def test_a_site_that_does_not_know_all_labels_is_told_at_once(
    tiny: MakeRecipe, make_cohort: MakeCohort, make_sites: MakeSites
) -> None:
    recipe = tiny(*ODDS)
    cohorts = {
        "north": make_cohort(recipe),
        "south": make_cohort(recipe, labels={0: "background", 1: "organ"}),
    }
    with pytest.raises(CohortError, match="site south knows the labels background, organ, and"):
        make_sites(recipe, cohorts).begin()


def test_odds_that_are_none_are_refused(tiny: MakeRecipe, make_sites: MakeSites) -> None:
    coordinator = make_sites(tiny(*ODDS)).begin()
    conditions = coordinator.members["north"].conditions
    fields = {"run": "abc123", "step": 0, "losses": {}, "batch": 1, "conditions": conditions}
    feedback = torch.zeros(4, 1, 16, 16)
    for odds in (
        torch.zeros(3),
        torch.tensor([0.0, float("nan"), 0, 0]),
        torch.full((4,), 1e39, dtype=torch.float64),
    ):
        with pytest.raises(WireError, match="odds of"):
            coordinator.checked("north", Appraisal(**fields, odds=odds, feedback=feedback))


# What more leaves a site is its policy's word


def test_a_policy_says_whether_odds_leave_and_masks_go_to_the_others(
    tiny: MakeRecipe, make_cohort: MakeCohort
) -> None:
    recipe = tiny(*ODDS, "masks.release=false", "wire.feedback=float16", "training.move=true")
    with pytest.raises(PolicyError, match=r"leaves\.odds is false"):
        Site("north", make_cohort(recipe), recipe, policy=Policy())
    Site(
        "north",
        make_cohort(recipe),
        recipe,
        policy=Policy(leaves=LeavesSection(odds=True), allows=ANY),
    )
    answer = Appraisal(
        run="0", step=0, losses={"discriminator": 1.0}, odds=torch.zeros(2), batch=1,
        feedback=torch.ones(2, 1, 16, 16), conditions=torch.zeros(2, 16, 16, dtype=torch.int64),
    )  # fmt: skip
    with pytest.raises(PolicyError, match=r"leaves\.odds is false"):
        Release(recipe, Policy())
    door = Release(recipe)
    door.policy = Policy()  # as if the recipe had been passed all the same
    with pytest.raises(PolicyError, match="lets no odds out"):
        door.let_out(answer)
    quiet = Policy(leaves=LeavesSection(odds=True, losses=False), allows=ANY)
    kept = unpack(Release(recipe, quiet).let_out(answer).payload, ANSWERS, limit=10**6)
    assert isinstance(kept, Appraisal)
    assert kept.losses == {}
    never = Policy(leaves=LeavesSection(odds=True, masks="never"))
    door.policy = never
    with pytest.raises(PolicyError, match="lets no masks or classes"):
        door.let_out(answer)
    assert SIMULATION.leaves.odds


def test_answers_with_odds_count_as_answers(
    tiny: MakeRecipe, make_sites: MakeSites, tmp_path: Any
) -> None:
    federation = make_sites(tiny(*ODDS), folder=tmp_path)
    coordinator = federation.begin()
    for _ in range(3):
        coordinator.step()
    ledger = federation.sites["north"].release.ledger
    assert ledger is not None
    assert ledger.tally.answers == 1 + 3  # the card sends masks, too


def test_a_site_without_all_modalities_has_no_odds(
    tiny: MakeRecipe, make_cohort: MakeCohort, make_sites: MakeSites
) -> None:
    recipe = tiny(*ODDS)
    cohorts = {
        "north": make_cohort(recipe, modalities=["T1", "T2"]),
        "south": make_cohort(recipe, modalities=["T1"]),
    }
    with pytest.raises(CohortError, match="site south holds T1 alone, so it has no odds"):
        make_sites(recipe, cohorts).begin()


@pytest.mark.parametrize(
    "other",
    [
        "loss.adversarial=least_squares", "loss.paired_l1=1", "loss.adversarial_weight=2",
        "integrity.bound=2", "privacy.kind=feedback",
    ],
)  # fmt: skip
def test_odds_are_all_that_sites_send(tiny: MakeRecipe, other: str) -> None:
    with pytest.raises(RecipeError, match=r"shares\.by is 'odds', which is all that sites send"):
        tiny(*ODDS, other, "masks.release=false", "privacy.conditions=unprotected")


def test_a_refusal_of_odds_is_a_missed_step_and_no_crash(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny(*ODDS, "quorum.least=0.5"))
    coordinator = federation.begin()
    federation.sites["south"].next_batch = 7
    report = coordinator.step()
    assert "batch 0 was not offered" in report.missed["south"]
    assert report.updated
