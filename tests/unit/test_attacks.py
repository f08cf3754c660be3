"""The attacks work where they should, and find nothing where nothing is to be found."""

import pytest
import torch

from asyndgan.auditing.pixel_attacks import RolledBack, bisected, psnr
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.privacy.policy import AllowsSection, LeavesSection
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.training import Site
from asyndgan.wire.codec import through
from asyndgan.wire.messages import Close, Judge, Open, Save
from lab.experiments.rehearsal import Rehearsal

SENT = LeavesSection(masks="transient")
ANY = Policy(leaves=SENT, allows=AllowsSection(unmeasured=True))


def rolled_back(site: Site, recipe: Recipe) -> RolledBack:
    """Asks a site about its first batch."""
    return RolledBack(
        Endpoint(site, limit=message_limit(recipe)), run="1f", recipe=recipe.digest(), step=0,
        images=recipe.wire.images, limit=message_limit(recipe),
    )  # fmt: skip


@pytest.mark.parametrize("feedback", ["float16", "int4"])
def test_bisection_reads_real_pixels_through_a_paired_term(tiny, make_cohort, feedback):
    recipe = tiny("loss.paired_l1=100", f"wire.feedback={feedback}")
    cohort = make_cohort(recipe)
    ask = rolled_back(Site("north", cohort, recipe, policy=SIMULATION), recipe)
    real = cohort.batch(0, recipe.training.batch)
    assert torch.equal(ask.card.conditions, real.conditions)
    assert psnr(bisected(ask, tuple(real.images.shape), parts=20), real.images) > 50


def test_bisection_asks_about_no_image_that_a_site_refuses():
    real = torch.tensor([-1.0, -0.99, 0.3, 0.99, 1.0]).reshape(1, 1, 1, 5)

    def ask(images):
        assert images.abs().max() <= 1
        return (images - real).sign()

    assert psnr(bisected(ask, tuple(real.shape)), real) > 50
    assert psnr(real, real + 0.2) == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("known_start", [True, False])
def test_whose_images_a_first_step_saw_is_recognised_only_where_initial_weights_are_known(
    tiny, make_cohort, known_start
):
    recipe = tiny("wire.feedback=int4", "wire.images=uint8", "masks.release=false")
    allows = AllowsSection(known_start=known_start, unmeasured=True)
    policy = Policy(leaves=SENT, allows=allows)
    site = Site("north", make_cohort(recipe), recipe, policy=policy)
    ask = rolled_back(site, recipe)
    batches = [site.draws.batch(number, recipe.training.batch).images for number in range(6)]
    images = through(torch.zeros_like(batches[0]), recipe.wire.images)
    answer = ask(images)
    rehearsal = Rehearsal(recipe, "north", ask.card, images)
    truth, *others = (float(rehearsal.mismatch(batch, answer).detach()) for batch in batches)
    assert (truth < 0.6 * min(others)) is known_start


def test_what_disturbs_images_is_drawn_anew_at_each_start_and_kept_with_its_states(
    tiny, make_cohort, tmp_path
):
    recipe = tiny("masks.release=false", 'discriminator.augment=["shift"]', "training.move=true")
    cohort = make_cohort(recipe, cases=40)

    def drawn(site):
        site.objective.begin_step(3)
        shifts = torch.rand(8, generator=site.objective.random)
        return [site.draws.batch(0, recipe.training.batch).images, shifts]

    def same(one, other):
        return [torch.equal(*pair) for pair in zip(one, other, strict=True)]

    known = drawn(Site("north", cohort, recipe))
    assert same(known, drawn(Site("north", cohort, recipe))) == [True, True]
    site = Site("north", cohort, recipe, folder=tmp_path, policy=ANY)
    own = drawn(site)
    assert same(own, known) == [False, False]
    site.handle(Open(run="1f", recipe=recipe.digest(), step=0))
    site.step = 1  # of a start at which nothing was judged no state is kept
    site.handle(Save(run="1f", step=1))
    site.release.close()
    again = Site("north", cohort, recipe, folder=tmp_path, policy=ANY)
    assert same(own, drawn(again)) == [False, False]
    again.handle(Open(run="1f", recipe=recipe.digest(), step=1))
    assert same(own, drawn(again)) == [True, True]
    again.handle(Close(run="1f"))
    assert same(own, drawn(again)) == [False, False]


def test_a_start_at_which_nothing_was_judged_shows_no_further_masks(tiny, make_cohort, tmp_path):
    recipe = tiny("masks.release=false", "training.move=true")
    site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=ANY)
    begin = Open(run="1f", recipe=recipe.digest(), step=0)

    def started():
        answer = site.handle(begin)
        site.handle(Close(run="1f"))
        return answer.payload

    assert len({started() for _ in range(3)}) == 1
    ledger = site.release.ledger
    assert ledger is not None and ledger.tally.answers == 1
    site.handle(begin)
    site.handle(Judge(run="1f", step=0, batch=0, images=torch.zeros(2, 1, 16, 16)))
    site.handle(Close(run="1f"))
    assert len({started() for _ in range(3)}) == 1
    assert ledger.tally.answers == 3


def test_what_is_asked_shows_nothing_of_how_others_were_shifted(tiny, make_cohort):
    recipe = tiny('discriminator.augment=["shift"]')
    site = Site("north", make_cohort(recipe), recipe)
    objective, batch = site.objective, site.draws.batch(0, recipe.training.batch)
    hidden, shown = objective.random.get_state(), objective.shown.get_state()
    objective.ask(batch)
    assert torch.equal(objective.random.get_state(), hidden)
    assert not torch.equal(objective.shown.get_state(), shown)
