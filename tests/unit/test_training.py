import copy
import gc
import json
import time
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asyndgan.engines import InProcess
from asyndgan.errors import (
    CohortError,
    LedgerError,
    QuorumError,
    RunError,
    UndecidedError,
)
from asyndgan.models import Verdict
from asyndgan.models.parts import site_noise
from asyndgan.privacy import Policy
from asyndgan.privacy.policy import AllowsSection, LeavesSection
from asyndgan.protocol import Endpoint, Exchange, message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.store import Batch, Cohort, derived_seed
from asyndgan.training import Coordinator, Site, checkpoint
from asyndgan.training.coordinator import StepReport
from asyndgan.training.objective import PENALISED, Objective
from asyndgan.training.optimiser import rate_factor
from asyndgan.training.painting import Diversity, Painting, sameness
from asyndgan.training.roster import _TurnedAway, open_all
from asyndgan.training.scope import SHARED_LOOK, scope_maps
from asyndgan.training.site_checks import Arrivals
from asyndgan.wire.codec import through
from asyndgan.wire.messages import (
    ANSWERS,
    Card,
    Close,
    Judge,
    Judgement,
    Message,
    Open,
    Refusal,
    Save,
    Saved,
    pack,
    unpack,
)

RUN = "abc123"


def ask(federation: Any, site: str, request: Message) -> Message:
    """Past the coordinator: what a site itself answers to a request."""
    wire = federation.recipe.wire
    payload = pack(request, {"images": wire.images})
    answer = federation.endpoint(site).answer(payload)
    return unpack(answer, ANSWERS, limit=federation.exchange.limit)


def refused(federation: Any, request: Message, code: str = "") -> str:
    answer = ask(federation, "north", request)
    assert isinstance(answer, Refusal) and code in answer.code
    return answer.reason


def opened(federation: Any, site: str = "north", step: int = 0) -> Card:
    digest = federation.recipe.digest()
    card = ask(federation, site, Open(run=RUN, recipe=digest, step=step))
    assert isinstance(card, Card)
    return card


def told(coordinator: Coordinator, reports: Iterable[StepReport] = ()) -> list[str]:
    """What a person reads of these steps, and of what has happened since."""
    events = [event for report in reports for event in report.events]
    return [*events, *coordinator.events]


def judge(recipe: Recipe, *, step: int = 0, batch: int = 0, run: str = RUN) -> Judge:
    shape = (recipe.training.batch, 1, *recipe.image.size)
    random = torch.Generator().manual_seed(step)
    images = torch.rand(shape, generator=random) * 2 - 1
    return Judge(run=run, step=step, batch=batch, images=images)


def other_images(request: Judge) -> Judge:
    return request.model_copy(update={"images": -request.images})


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten().clone() for value in network.state_dict().values()])


def watch_gradients(coordinator: Coordinator) -> list[list[Tensor]]:
    """The gradients with which each update of the generator is made, from now on."""
    seen: list[list[Tensor]] = []
    coordinator.optimiser.register_step_pre_hook(
        lambda optimiser, args, keys: seen.append(
            [
                p.grad.clone() if p.grad is not None else torch.zeros_like(p)
                for p in coordinator.generator.parameters()
            ]
        )
    )
    return seen


def shipped(name: str) -> list[str]:
    """What a recipe that ships sets, as overrides, at small size."""
    recipe, plain = load_recipe(name).to_tables(), Recipe().to_tables()
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, own in recipe.items()
        if isinstance(own, dict)
        for key, value in own.items()
        if key not in ("width", "blocks", "steps") and value != plain[section].get(key)
    ]


OBJECTIVES = [
    ["loss.adversarial=least_squares", "generator.kind=topdown", "generator.noise=2"],
    ["loss.paired_l1=2", "wire.images=uint8", "training.chunk=3",
     'discriminator.augment=["shift"]'],
    ["discriminator.kind=patch_segmentation", "loss.segmentation=1",
     "discriminator.cross_fitted=true", 'discriminator.augment=["shift", "window"]'],
    ["condition.kind=class", "generator.kind=topdown", "masks.release=false", "training.steps=2",
     "optimiser.decay_from=0", "optimiser.discriminator_rate=0.05"],
    pytest.param(  # without the coordinator's own term
        [*shipped("default"), "generator.diversity=0", "generator.diversity_bound=0",
         "masks.source=own"],
        id="default",
    ),
]  # fmt: skip


@pytest.mark.parametrize("overrides", OBJECTIVES, ids=lambda overrides: " ".join(overrides)[:40])
def test_the_generators_gradient_is_that_of_the_share_weighted_sum_of_the_sites_losses(
    tiny, make_cohort, make_sites, overrides
):
    recipe = tiny("wire.images=float32", "wire.feedback=float32", *overrides)
    cohorts = {
        "east": make_cohort(recipe, cases=2, seed=5, modalities=["T2"]),
        "north": make_cohort(recipe, cases=6, seed=1, modalities=["T1", "T2"]),
        "south": make_cohort(recipe, cases=4, seed=2, modalities=["T2", "T1"]),
    }
    coordinator = make_sites(recipe, cohorts).begin()
    # The same sites once more, in one process and without any protocol.
    twins: dict[str, Site] = make_sites(recipe, cohorts).sites
    generator = copy.deepcopy(coordinator.generator)
    gradients = watch_gradients(coordinator)
    for step in range(2):
        coordinator.step()
        images = centrally_painted(coordinator, generator, twins, step)
        loss = sum(
            len(site.cohort) / 12 * site_loss(site, own, step, coordinator.scope.modalities)
            for site, own in zip(twins.values(), images.split(recipe.training.batch), strict=True)
        )
        assert isinstance(loss, Tensor)
        central = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
        for ours, theirs in zip(gradients[step], central, strict=True):
            torch.testing.assert_close(
                ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-3, atol=1e-7
            )
        generator.load_state_dict(coordinator.generator.state_dict())
    assert any(gradient.any() for gradient in gradients[0])


def centrally_painted(
    coordinator: Coordinator, generator: torch.nn.Module, sites: dict[str, Site], step: int
) -> Tensor:
    recipe = coordinator.recipe
    conditions = torch.cat(
        [site.draws.batch(step, recipe.training.batch).conditions for site in sites.values()]
    )
    seed = derived_seed(recipe.training.seed, "noise", step)
    random = torch.Generator().manual_seed(seed)
    whole = len(coordinator.scope.modalities)
    looks = [
        name if len(site.cohort.modalities) == whole else SHARED_LOOK
        for name, site in sites.items()
    ]
    looks = [look for look in looks for _ in range(recipe.training.batch)]
    noise = site_noise(recipe, looks, recipe.image.size, random)
    images: Tensor = generator(scope_maps(recipe, coordinator.scope, conditions), noise)
    return images


def site_loss(site: Site, images: Tensor, step: int, modalities: tuple[str, ...]) -> Tensor:
    channels = [modalities.index(name) for name in site.cohort.modalities]
    own = images[:, channels]
    size, coding = site.recipe.training.batch, site.recipe.wire.images
    batch = site.draws.batch(step, size)
    real = replace(batch, images=through(batch.images, coding))
    # The gradient is taken where the images arrived, as the coding left them.
    arrived = own + (through(own, coding) - own).detach()
    site.objective.begin_step(step)
    site.objective.learn(real, replace(real, images=arrived.detach()))
    loss, _ = site.objective.ask(Batch(arrived, real.conditions), real)
    return loss


def test_a_recipe_paints_few_images_at_once_however_many_sites_there_are(make_sites):
    keys = ("image.size=32", "masks.source=own", "generator.width=8", "discriminator.width=8")
    recipe = load_recipe("default", [*keys, "training.batch=8", "training.precision=float32"])
    coordinator = make_sites(recipe).begin()
    painted = []
    coordinator.generator.register_forward_pre_hook(lambda _, given: painted.append(len(given[0])))
    assert coordinator.step().updated
    assert max(painted) == 8 < recipe.training.batch * len(coordinator.members)


def test_diversity_asks_two_images_of_one_mask_to_differ_beyond_their_grain(tiny, make_sites):
    flat, grain = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    grain[..., ::2, :], grain[..., 1::2, :] = 1.0, -1.0
    assert torch.equal(sameness(flat, flat + 0.5), -torch.tensor([0.5, 0.5]).log())
    assert sameness(flat, grain).min() > 9  # a pattern that is nothing on average
    torch.testing.assert_close(sameness(flat, flat + 0.02, 0.08), torch.tensor([0.75, 0.75]))
    assert sameness(flat, flat + 0.5, 0.08).max() == 0  # no more is asked

    def apart(*weight):
        """Distance of two images of a mask after some steps that ask for nothing else."""
        keys = "generator.kind=topdown", "generator.latent=8", "optimiser.generator_rate=0.01"
        recipe = tiny(*keys, *weight)
        coordinator = make_sites(recipe).begin()
        maps = scope_maps(recipe, coordinator.scope, torch.zeros(4, 16, 16).long())
        for step in range(8):
            random = torch.Generator().manual_seed(step)
            inputs = maps, site_noise(recipe, ["north"] * 4, (16, 16), random)
            own = Diversity.of(recipe, ["north"] * 4, inputs, random)
            painting = Painting(
                coordinator.generator, *inputs, chunk=3, precision="float32", diversity=own
            )
            painting.backward(torch.zeros_like(painting.images))
            coordinator.optimiser.step()
            coordinator.optimiser.zero_grad()
        return -float(sameness(painting.images, painting.images.roll(1, 0)).mean())

    bounded = apart("generator.diversity=1", "generator.diversity_bound=0.2")
    assert bounded > apart("generator.diversity=0") + 0.5


def test_a_site_that_misses_a_step_takes_its_share_away_and_brings_it_back(tiny, make_sites):
    federation = make_sites(tiny())
    coordinator = federation.begin()
    federation.line.deaf = {"south"}
    report = coordinator.step()
    assert (report.shares, report.updated) == ({"north": 1.0}, True)
    assert report.missed == {"south": "site south: there was no answer in time."}
    assert list(coordinator.members) == ["north"]
    south = federation.sites["south"]
    trained = weights(south.objective.discriminator)
    federation.line.deaf = set()
    invite_until_back(coordinator, "south")
    assert (south.step, coordinator.members["south"].batch) == (1, 1)  # its answer alone was lost
    assert torch.equal(weights(south.objective.discriminator), trained)
    assert coordinator.step().shares == {"north": 6 / 9, "south": 3 / 9}


def invite_until_back(coordinator: Coordinator, site: str) -> None:
    while coordinator.invite().get(site) is None:
        time.sleep(0.01)  # it is opened in the background


def test_a_site_that_is_not_needed_keeps_nobody_from_beginning(tiny, make_sites):
    federation = make_sites(tiny())
    federation.line.deaf = {"south"}
    coordinator = Coordinator.begin(
        federation.recipe, federation.exchange, run=RUN, needed={"north"}
    )
    assert set(coordinator.members) == {"north"}
    assert told(coordinator) == ["south is not there: site south: there was no answer in time."]
    with pytest.raises(QuorumError, match="west cannot be reached"):
        Coordinator.begin(federation.recipe, federation.exchange, run=RUN, needed={"west"})
    federation.line.deaf = set()
    invite_until_back(coordinator, "south")
    assert set(coordinator.members) == {"north", "south"}


MASKS = (
    "image.source=masks", "condition.kind=none", "masks.release=false", "generator.kind=masks",
    "generator.noise=0", "generator.latent=4", "discriminator.kind=dcgan",
)  # fmt: skip


@pytest.mark.parametrize(
    ("few", "many", "teach"),
    [
        ({"head"}, {"head", "lesion"}, ["south"]),
        ({"head", "rare"}, {"head", "lesion"}, ["north", "south"]),  # it alone has a label
        ({"head"}, None, ["north", "south"]),  # all have few
    ],
)
def test_a_site_of_few_patients_teaches_masks_only_if_others_cannot(
    tiny, make_cohort, make_sites, few, many, teach
):
    recipe = tiny(*MASKS)
    north = make_cohort(recipe, cases=3, modalities=sorted(few))
    south = make_cohort(recipe, cases=4 if many else 3, modalities=sorted(many or few))
    coordinator = make_sites(recipe, {"north": north, "south": south}).begin()
    assert ("too few patients to teach masks" in str(coordinator.events)) == (teach == ["south"])
    assert list(coordinator.members) == teach
    assert coordinator.step().updated
    assert coordinator.invite() == {}  # nobody is asked again


def test_who_belongs_to_a_run_is_remembered_through_its_checkpoint(tiny, make_sites):
    federation = make_sites(tiny("quorum.least=1"))
    state = federation.begin().state()
    federation.line.deaf = {"south"}
    again = Coordinator.begin(
        federation.recipe, federation.exchange, run=RUN, checkpoint=state, needed=()
    )
    assert set(again.members) == {"north"}
    assert not again.has_quorum()


def test_a_late_request_to_begin_does_not_have_a_site_go_back(tiny, make_sites):
    federation = make_sites(tiny())
    coordinator = federation.begin()
    first = coordinator.roster.opening.attempt
    coordinator.step()
    opening = Open(run=RUN, recipe=federation.recipe.digest(), step=0, attempt=first)
    assert "step 0 is over; this site is at step 1" in refused(federation, opening)
    assert federation.begin().roster.opening.attempt != first
    assert federation.sites["north"].step == 0  # another attempt may
    assert "this attempt at the run is over" in refused(federation, opening)


def test_the_timeline_says_who_takes_part_in_which_step(tiny, make_sites):
    recipe = tiny(
        "timeline=[{site='south', first=1, last=2}, {site='south', first=4}]", "quorum.least=1"
    )
    federation = make_sites(recipe)
    coordinator = federation.begin()
    assert set(coordinator.members) == {"north"}
    steps = [coordinator.step() for _ in range(6)]
    there = [{"north"}, {"north", "south"}, {"north", "south"}, {"north"}]
    assert [set(step.shares) for step in steps] == [*there, {"north", "south"}, {"north", "south"}]
    assert all(step.updated for step in steps)  # nobody waits for whom the timeline sends away
    assert not coordinator.invite()
    assert federation.sites["south"].next_batch == 4  # it went on where it had stopped
    comes, leaves = (f"south {what}, as the timeline says" for what in ("comes", "leaves"))
    assert told(coordinator, steps) == [comes, leaves, comes]


def test_a_site_that_does_not_come_when_it_is_due_keeps_no_step_waiting_after_that(
    tiny, make_sites
):
    federation = make_sites(tiny("timeline=[{site='south', first=1}]"))
    coordinator = federation.begin()
    federation.line.deaf = {"south"}
    federation.line.sent.clear()
    for _ in range(4):
        coordinator.step()
    assert [site for site, _ in federation.line.sent].count("south") == 1


@pytest.mark.parametrize(("least", "enough"), [(0.5, True), (0.51, False)])
def test_without_a_quorum_of_all_sites_that_took_part_nothing_is_learned_but_the_step_is_over(
    tiny, make_sites, least, enough
):
    federation = make_sites(tiny(f"quorum.least={least}"))
    coordinator = federation.begin()
    before = weights(coordinator.generator)
    federation.line.deaf = {"south"}
    assert coordinator.step().updated == coordinator.has_quorum() == enough
    assert torch.equal(weights(coordinator.generator), before) != enough
    assert coordinator.step_number == 1


def test_nobody_waits_for_a_site_that_has_left_for_good(tiny, make_sites):
    federation = make_sites(tiny("quorum.least=1.0"))
    coordinator = federation.begin()
    coordinator.step()
    federation.line.cut = {"south"}
    coordinator.step()
    assert not coordinator.has_quorum()
    federation.line.left = {"south"}
    assert coordinator.has_quorum()
    assert coordinator.step().updated
    assert "south" in coordinator.roster.shares  # what it taught is not forgotten


def test_a_site_that_is_there_and_refuses_is_asked_ever_more_rarely_and_for_ever(tiny, make_sites):
    """Steps in which nobody teaches count as well; one that answers is welcome at once again."""
    federation = make_sites(tiny("training.steps=200"))
    coordinator = federation.begin()
    refusal = pack(Refusal(run=RUN, code="policy", reason="there is no budget left."), {})

    def spent(site, answer):
        said = unpack(answer, ANSWERS, limit=federation.exchange.limit)
        return refusal if site == "south" and isinstance(said, Judgement) else answer

    def pause():
        return coordinator.roster.turned_away["south"].until - time.monotonic()

    federation.line.tap = spent
    coordinator.step()
    assert 0 < pause() <= 0.5
    invite_until_back(coordinator, "south")
    coordinator.step()
    assert 0.5 < pause() <= 1
    for _ in range(2000):
        away = coordinator.roster.turned_away["south"].again(CohortError("another modality"))
        coordinator.roster.turned_away["south"] = away
    assert 50 < pause() <= 60
    coordinator.roster.turned_away["south"] = _TurnedAway()
    federation.line.tap = lambda site, answer: answer
    invite_until_back(coordinator, "south")
    assert not coordinator.step().missed
    federation.line.deaf = {"south"}  # whoever is silent was waited for already
    coordinator.step()
    assert not coordinator.roster.turned_away


def test_a_run_does_not_begin_without_every_site(tiny, make_sites):
    federation = make_sites(tiny())
    federation.line.deaf = {"south"}
    with pytest.raises(QuorumError, match="the run cannot begin: site south"):
        federation.begin()
    with pytest.raises(QuorumError, match="no site is there"):
        make_sites(tiny(), {}).begin()


def test_a_run_that_a_site_refuses_ends_at_once_and_says_why(tiny, make_sites):
    federation = make_sites(tiny())
    refusal = pack(Refusal(run=RUN, code="policy", reason="allows.refused names it."), {})
    for refusing, said in (
        ("northsouth", r"every site refuses the run\. site north.* site south"),
        ("south", r"south refuses the run\. site south.*name other sites"),
    ):
        federation.line.tap = lambda site, answer, who=refusing: refusal if site in who else answer
        with pytest.raises(RunError, match=said):
            federation.begin()


def test_a_run_waits_in_place_for_stewards_and_asks_nobody_twice_who_has_answered(tiny, make_sites):
    federation, asked, told = make_sites(tiny()), [], []

    def undecided(site, answer):
        asked.append(site)
        if site == "south" and len(told) < 3:
            raise UndecidedError("site south: its steward has not approved the recipe.")
        return answer

    federation.line.tap = undecided
    request = Open(run=RUN, recipe=federation.recipe.digest(), step=0, attempt="ab")
    cards, _ = open_all(federation.recipe, federation.exchange, request, None, told.append)
    assert [*cards] == ["north", "south"] and sorted(asked) == ["north"] + 4 * ["south"]
    assert told == 3 * ["site south: its steward has not approved the recipe."]


def test_the_recipe_orders_the_modalities_and_wants_them_all(tiny, make_cohort, make_sites):
    recipe = tiny("image.modalities=['T2', 'T1']")
    cohorts = {"north": make_cohort(recipe, modalities=["T1", "T2"])}
    assert make_sites(recipe, cohorts).begin().scope.modalities == ("T2", "T1")
    more = tiny("image.modalities=['T2', 'T1', 'CT']")
    with pytest.raises(CohortError, match="paints CT, which no site holds; they hold T1, T2"):
        make_sites(more, cohorts).begin()


def test_a_normalisation_for_a_modality_that_no_site_holds_is_refused(tiny, make_sites):
    recipe = tiny("image.intensity.FLIAR.high=100")
    with pytest.raises(CohortError, match="normalises FLIAR, which no site holds"):
        make_sites(recipe).begin()


@pytest.mark.parametrize(
    "labels",
    [{0: "background", 1: "lesion", 2: "organ"}, {0: "background", 3: "lesion"}],
)
def test_contradictory_labels_are_refused(tiny, make_cohort, make_sites, labels):
    recipe = tiny()
    south = make_cohort(recipe)
    south.conditions.zero_()
    south.labels = labels
    with pytest.raises(CohortError, match="site south calls label"):
        make_sites(recipe, {"north": make_cohort(recipe), "south": south}).begin()


@pytest.mark.parametrize("name", ["Lesion", "le-sion"])
def test_labels_that_only_capitals_or_dashes_tell_apart_are_refused(
    name, tiny, make_cohort, make_sites
):
    recipe = tiny()
    south = make_cohort(recipe, labels={0: "background", 1: "organ", 2: "lesion", 3: name})
    with pytest.raises(CohortError, match=f"the sites have the labels 'lesion' and '{name}'"):
        make_sites(recipe, {"north": make_cohort(recipe), "south": south}).begin()


def test_a_site_that_comes_late_must_fit_what_the_run_paints(tiny, make_cohort, make_sites):
    recipe = tiny()
    federation = make_sites(
        recipe, {"north": make_cohort(recipe), "west": make_cohort(recipe, modalities=["CT"])}
    )
    federation.line.cut = {"west"}
    coordinator = federation.begin()
    federation.line.cut = set()
    news: dict[str, str] = {}
    while not news:
        news = coordinator.invite()
    assert "site west has CT" in news["west"]
    assert "with its modalities in image.modalities" in news["west"]
    assert list(coordinator.members) == ["north"]


def test_rates_stay_and_then_fall_linearly_towards_zero(tiny):
    recipe = tiny("training.steps=10", "optimiser.decay_from=0.5")
    factors = [rate_factor(recipe, step) for step in (0, 4, 5, 6, 9, 10)]
    assert factors == pytest.approx([1, 1, 1, 0.8, 0.2, 0])
    constant = tiny("optimiser.decay_from=1")
    assert all(rate_factor(constant, step) == 1 for step in range(6))


@pytest.mark.parametrize("cases", [4, 1])
def test_of_moved_masks_as_many_are_kept_as_the_site_has_cases_or_a_limit_if_it_does_not_say(
    tiny, make_sites, make_cohort, tmp_path, monkeypatch, cases
):
    """One case, as a policy with leaves.cases = false has it said."""
    monkeypatch.setattr("asyndgan.training.roster.MOVED_MASKS", 3)
    recipe = tiny("training.move=true")
    cohort = make_cohort(recipe, cases=cases)
    bank = MaskBank(tmp_path)
    coordinator = make_sites(recipe, {"north": cohort}).begin(keep=bank.keep)
    for _ in range(6):
        coordinator.step()
    kept = bank.counts()["north"]
    assert kept == (4 if cases == 4 else 3)
    first = torch.cat([cohort.batch(number, 2).conditions for number in (0, 1)])
    assert torch.equal(torch.stack(bank.first(9)["north"]), first[:kept])


@pytest.mark.parametrize(
    ("request_of", "reason"),
    [
        (lambda r: judge(r, step=0, batch=1), "step 0 is over; this site is at step 1"),
        (lambda r: other_images(judge(r)), "step 0 is over; this site is at step 1"),
        (lambda r: judge(r, step=1, batch=0), "batch 0 was not offered; the next is 1"),
        (lambda r: judge(r, step=1, batch=2), "batch 2 was not offered; the next is 1"),
        (lambda r: judge(r, step=1, batch=1, run="def"), "takes part in another run"),
        (lambda r: Open(run="def", recipe=r.digest(), step=1), "takes part in another run"),
        (lambda r: Open(run=RUN, recipe="0" * 64, step=1), "the run has 000000000000"),
        (lambda r: Save(run="def", step=1), "takes part in another run"),
        (lambda r: Save(run=RUN, step=0), "step 0 is over"),
        (lambda r: Close(run="def"), "takes part in another run"),
        (
            lambda r: Judge(run=RUN, step=1, batch=1, images=torch.zeros(3, 1, *r.image.size)),
            "shape (3, 1, 16, 16) came; this site judges (2, 1, 16, 16)",
        ),
    ],
)
def test_a_site_refuses_what_does_not_belong_here_or_now(tiny, make_sites, request_of, reason):
    federation = make_sites(tiny())
    for request in (judge(federation.recipe), Save(run=RUN, step=0), Close(run=RUN)):
        assert "open it first" in refused(federation, request)
    opened(federation)
    ask(federation, "north", judge(federation.recipe))
    site = federation.sites["north"]
    before = weights(site.objective.discriminator)
    assert reason in refused(federation, request_of(federation.recipe), code="order")
    assert torch.equal(weights(site.objective.discriminator), before)
    assert (site.step, site.next_batch) == (1, 1)


def test_a_site_judges_nothing_beyond_the_last_step(tiny, make_sites):
    """A discriminator that learns no more could be asked without end."""
    federation = make_sites(tiny("training.steps=2"))
    coordinator = federation.begin()
    for _ in range(2):
        assert not coordinator.step().missed
    assert "has 2 steps, and 2 are over" in coordinator.step().missed["north"]


def test_a_site_judges_nothing_in_steps_in_which_the_timeline_has_it_away(
    tiny, make_sites, monkeypatch
):
    """Whatever the coordinator asks: how long a hospital takes part is its own to hold."""
    federation = make_sites(tiny("timeline=[{site='south', last=1}]"))
    coordinator = federation.begin()
    monkeypatch.setattr(coordinator.roster, "follow_timeline", lambda step: [])
    for _ in range(2):
        assert not coordinator.step().missed
    missed = coordinator.step().missed
    assert set(missed) == {"south"}
    assert "timeline has this site away in step 2" in missed["south"]


def test_networks_of_a_run_are_freed_when_it_is_begun_anew(make_sites, tiny):
    """A coordinator may open a run again and again, and memory must not wait for Python's gc."""
    private = "privacy.kind=discriminator", "privacy.conditions=unprotected", "masks.release=false"
    federation = make_sites(tiny(*private))
    site = federation.sites["north"]
    opened(federation)
    ask(federation, "north", judge(federation.recipe))
    networks = weakref.ref(site.objective)
    gc.disable()
    try:
        opened(federation)
        assert networks() is None
    finally:
        gc.enable()


def test_a_site_whose_network_broke_is_missed_and_comes_back_with_the_state_that_it_saved(
    tiny, make_sites, tmp_path
):
    """Or it would refuse every step from then on, and save what no run can load."""
    federation = make_sites(tiny("training.steps=8"), folder=tmp_path)
    coordinator = federation.begin()
    for _ in range(2):
        coordinator.step()
    coordinator.roster.save(coordinator.step_number)
    site = federation.sites["south"]
    with torch.no_grad():
        next(site.objective.discriminator.parameters()).fill_(float("nan"))
    report = coordinator.step()  # one site cannot end everybody's run
    assert report.updated and "site south, step 2: the loss " in report.missed["south"]
    assert torch.isfinite(weights(coordinator.generator)).all()
    invite_until_back(coordinator, "south")
    assert "south" in coordinator.step().losses
    assert (site.step, site.next_batch) == (4, 3), "two steps that were saved, and one more"
    assert torch.isfinite(weights(site.objective.discriminator)).all()


def test_feedback_so_long_that_the_generator_would_break_counts_as_missed(tiny, make_sites):
    """Finite numbers can do it as well: networks multiply them."""
    federation = make_sites(tiny("wire.feedback=float32"))
    coordinator = federation.begin()

    def louder(site, answer):
        said = unpack(answer, ANSWERS, limit=federation.exchange.limit)
        if site == "north" or not isinstance(said, Judgement):
            return answer
        loud = said.feedback / said.feedback.abs().max() * 7e17
        return pack(
            said.model_copy(update={"feedback": loud}),
            {"feedback": "float32", "conditions": "label8"},
        )

    federation.line.tap = louder
    report = coordinator.step()
    assert report.updated
    assert "above 1e+09" in report.missed["south"]
    assert torch.isfinite(weights(coordinator.generator)).all()


def test_a_site_goes_back_to_the_step_from_which_a_run_is_resumed(tiny, make_sites, tmp_path):
    federation = make_sites(tiny(), folder=tmp_path)
    opened(federation)
    site = federation.sites["north"]
    saved: dict[int, Tensor] = {}
    for step in range(4):
        if step in (1, 2):
            ask(federation, "north", Save(run=RUN, step=step))
            saved[step] = weights(site.objective.discriminator)
        ask(federation, "north", judge(federation.recipe, step=step, batch=step))
    for step in (2, 1, 0):
        card = opened(federation, step=step)
        assert (card.step, card.batch) == (step, step)
        if step:
            assert torch.equal(weights(site.objective.discriminator), saved[step])


def test_states_of_steps_that_are_done_anew_are_forgotten_and_of_others_two_kept(
    tiny, make_sites, tmp_path
):
    """They have the highest numbers, so they would be kept in place of newer ones."""
    federation = make_sites(tiny("training.steps=40"), folder=tmp_path)
    north = tmp_path / "north" / f"run-{RUN}"
    opened(federation)
    for step in range(6):
        if step in (1, 2, 5):
            ask(federation, "north", Save(run=RUN, step=step))
        ask(federation, "north", judge(federation.recipe, step=step, batch=step))
    assert checkpoint.stored_steps(north) == [2, 5]
    (north / ".step-00000003.safetensors.half").write_bytes(b"of a site that was killed")
    opened(federation, step=2)  # the coordinator died before it wrote its own state of step 5
    assert checkpoint.stored_steps(north) == [2, 5]  # nothing is lost by being asked
    ask(federation, "north", judge(federation.recipe, step=2, batch=2))
    assert checkpoint.stored_steps(north) == [2]
    assert opened(federation, step=6).step == 3  # it missed steps, and is not sent to the old 5
    ask(federation, "north", Save(run=RUN, step=6))
    assert checkpoint.stored_steps(north) == [2, 6]
    assert not list(north.glob(".step-*"))
    again = make_sites(federation.recipe, folder=tmp_path)
    opened(again, step=6)  # its own step is 3
    ask(again, "north", judge(again.recipe, step=6, batch=3))
    assert checkpoint.stored_steps(north) == [2, 6]


def test_a_site_that_has_closed_its_books_learns_nothing_more(tiny, make_sites):
    """Another process may have them by then."""
    federation = make_sites(tiny())
    opened(federation)
    federation.endpoint("north").close()
    with pytest.raises(LedgerError, match="closed its books"):
        ask(federation, "north", judge(federation.recipe))
    assert federation.sites["north"].step == 0


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"seed": 9}, False),
        ({"names": ["T2", "T1"]}, False),
        ({"patients": [f"{case // 2}_{case}" for case in range(8)]}, False),
        ({"patients": [f"other-{case // 2}" for case in range(8)]}, False),
    ],
    ids=["same", "images", "modalities", "pattern", "names of patients"],
)
def test_a_run_goes_on_with_the_same_images_modalities_and_patients_only(
    tiny, make_sites, make_cohort, tmp_path, change, same
):
    """Else patients would change halves: what was not to see a patient would learn from him."""
    recipe = tiny("discriminator.cross_fitted=true")
    patients = [f"{case // 2}" for case in range(8)]

    def sites(names=("T1", "T2"), patients=patients, seed=1):
        one = make_cohort(recipe, cases=8, seed=seed, modalities=names)
        cohort = Cohort(
            one.images, one.conditions, modalities=names, patients=patients,
            labels=one.labels, flip=recipe.training.flip,
        )  # fmt: skip
        return make_sites(recipe, {"north": cohort}, folder=tmp_path)

    federation = sites()
    opened(federation)
    images = judge(recipe).images.expand(-1, 2, -1, -1)
    ask(federation, "north", Judge(run=RUN, step=0, batch=0, images=images))
    ask(federation, "north", Save(run=RUN, step=1))
    again, request = sites(**change), Open(run=RUN, recipe=recipe.digest(), step=1)
    if same:
        assert opened(again, step=1).step == 1
    else:
        assert "give it back its data and its settings" in refused(again, request)


def test_a_site_keeps_the_states_of_so_many_runs_apart_and_no_more(tiny, make_sites, tmp_path):
    federation = make_sites(tiny(), folder=tmp_path)
    opened(federation)
    for step in range(3):
        ask(federation, "north", judge(federation.recipe, step=step, batch=step))
    ask(federation, "north", Save(run=RUN, step=3))
    federation = make_sites(tiny(), folder=tmp_path)
    other = Open(run="def", recipe=federation.recipe.digest(), step=1)
    for step in (0, 1):  # its steps are fewer than those of the run before
        card = ask(federation, "north", other)
        assert isinstance(card, Card) and card.step == step
        ask(federation, "north", judge(federation.recipe, step=step, batch=step, run="def"))
        ask(federation, "north", Save(run="def", step=step + 1))
    ask(federation, "north", Close(run="def"))
    assert opened(federation, step=3).step == 3
    ask(federation, "north", Close(run=RUN))
    for number in range(checkpoint.KEPT_RUNS + 2):
        run = f"{number:x}"
        ask(federation, "north", other.model_copy(update={"run": run, "step": 0}))
        ask(federation, "north", judge(federation.recipe, run=run))
        assert isinstance(ask(federation, "north", Save(run=run, step=1)), Saved)
        ask(federation, "north", Close(run=run))
    assert len(list((tmp_path / "north").glob("run-*"))) <= checkpoint.KEPT_RUNS + 1


def test_a_run_that_was_ordered_anew_takes_a_sites_place_in_the_one_that_was_given_up(
    tiny, make_sites, tmp_path
):
    federation = make_sites(tiny(), folder=tmp_path)
    begun = Open(run=RUN, recipe=federation.recipe.digest(), step=0, attempt="a1")
    ask(federation, "north", begun)
    ask(federation, "north", judge(federation.recipe))
    ask(federation, "north", Save(run=RUN, step=1))
    anew = begun.model_copy(update={"run": "def", "attempt": "b2"})
    assert "when it has been silent for 60 s" in refused(federation, anew)
    federation.sites["north"]._heard -= 60.0
    card = ask(federation, "north", anew)
    assert isinstance(card, Card) and card.step == 0
    for late in (begun, judge(federation.recipe, step=1, batch=1)):
        refused(federation, late)
    ask(federation, "north", Close(run="def"))
    card = ask(federation, "north", begun.model_copy(update={"step": 1, "attempt": "a2"}))
    assert isinstance(card, Card) and card.step == 1


def test_a_run_that_cannot_go_on_at_a_site_leaves_the_one_at_work_there_as_it_is(
    tiny, make_sites, make_cohort, tmp_path
):
    recipe = tiny()
    other = make_sites(recipe, {"north": make_cohort(recipe, seed=7)}, folder=tmp_path)
    opening = Open(run="def", recipe=recipe.digest(), step=0, attempt="a1")
    for request in (opening, judge(recipe, run="def"), Save(run="def", step=1)):
        ask(other, "north", request)
    federation = make_sites(recipe, {"north": make_cohort(recipe)}, folder=tmp_path)
    opened(federation)
    ask(federation, "north", judge(recipe))
    federation.sites["north"]._heard -= 60.0
    again = opening.model_copy(update={"step": 1, "attempt": "b2"})
    assert "cases are not those" in refused(federation, again)
    assert isinstance(ask(federation, "north", judge(recipe, step=1, batch=1)), Judgement)


def test_under_a_policy_too_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    tiny, make_cohort, tmp_path
):
    """Order, moves and shifts follow from what a site drew, which its checkpoints hold."""
    recipe = tiny("masks.release=false", "training.move=true", 'discriminator.augment=["shift"]')
    cohorts = {"north": make_cohort(recipe, seed=1), "south": make_cohort(recipe, seed=2)}
    leaves, allows = LeavesSection(masks="transient"), AllowsSection(unmeasured=True)
    policy, limit = Policy(leaves=leaves, allows=allows), message_limit(recipe)
    sites: dict[str, Site] = {}

    def exchange():
        for name, cohort in cohorts.items():
            sites[name] = Site(name, cohort, recipe, folder=tmp_path / name, policy=policy)
        endpoints = {name: Endpoint(site, limit=limit) for name, site in sites.items()}
        return Exchange(InProcess(endpoints), recipe)

    coordinator = Coordinator.begin(recipe, exchange(), run=RUN)
    for _ in range(2):
        coordinator.step()
    coordinator.roster.save(coordinator.step_number)
    state = copy.deepcopy(coordinator.state())
    coordinator.step()
    for site in sites.values():
        site.release.close()
    resumed = Coordinator.begin(recipe, exchange(), run=RUN, checkpoint=state)
    resumed.step()
    assert torch.equal(weights(resumed.generator), weights(coordinator.generator))


def test_initial_weights_come_from_the_seed_and_the_site(tiny, make_sites):
    first, other = make_sites(tiny()), make_sites(tiny("training.seed=8"))
    coordinators = [each.begin() for each in (first, other)]
    assert not torch.equal(*(weights(each.generator) for each in coordinators))
    north, south = (first.sites[name].objective.discriminator for name in ("north", "south"))
    assert not torch.equal(weights(north), weights(south))


class _Reads(torch.nn.Module):
    """A discriminator that finds the label of a pixel in its brightness, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, images: Tensor, condition: Tensor) -> Verdict:
        labels = ((images[:, 0] + 1) * 2).round().long()
        found = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
        return Verdict(segmentation=self.sure * found)


SEGMENTS = (
    "image.size=16", "discriminator.kind=patch_segmentation", "discriminator.layers=1",
    "loss.adversarial_weight=0", "loss.segmentation=1",
)  # fmt: skip


def judging_by(network: torch.nn.Module, recipe: Recipe, **more: Any) -> Objective:
    """A site's objective of 16 x 16 pixels whose discriminator is this network."""
    judge = Objective(recipe, modalities=1, labels=3, space=(16, 16), seed=0, **more)
    judge.discriminator = network
    judge.discriminator_optimiser = torch.optim.Adam(network.parameters())
    return judge


@pytest.fixture
def masks():
    return torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(0))


def test_a_segmentation_is_judged_by_the_mask_as_it_lies_on_the_shifted_image(tiny, masks):
    judge = judging_by(_Reads(), tiny(*SEGMENTS, 'discriminator.augment=["shift"]'))
    fitting = Batch(masks[:, None] / 2 - 1, masks)
    shifted = Batch(fitting.images, masks.roll(1, 2))
    assert judge.ask(fitting)[0] < 1e-6
    assert judge.ask(shifted)[0] > 1
    assert judge.learn(fitting, fitting)["discriminator"] < 1e-6
    assert judge.learn(shifted, fitting)["discriminator"] > 1


def test_a_segmentation_asks_for_no_label_to_be_found_more_easily_than_in_real_images(tiny, masks):
    recipe = tiny(*SEGMENTS, "loss.as_real=true")
    fitting = Batch(masks[:, None] / 2 - 1, masks)
    misread = Batch(masks[:, None].clamp(max=1) / 2 - 1, masks)  # label 2 looks like label 1

    def taught(real):
        judge = judging_by(_Reads(), recipe)
        judge.learn(real, real)
        return judge

    clear, unclear = taught(fitting), taught(misread)
    assert clear.ask(misread)[0] > 1 and clear.ask(fitting)[0] < 1e-6
    assert unclear.ask(misread)[0] < 0.1 and unclear.ask(fitting)[0] == 0
    without = Batch(misread.images.clamp(max=-0.5), masks.clamp(max=1))
    assert taught(without).ask(misread)[0] == 0  # it never saw label 2
    again = judging_by(_Reads(), recipe)
    again.load(clear.state())
    assert again.ask(misread)[0] == clear.ask(misread)[0]


class _Blind(torch.nn.Module):
    """A discriminator that sees whether an image is flat, and not whether it fits its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, condition: Tensor) -> Verdict:
        return Verdict(score=self.sure * (2.0 * (images.flatten(1).std(1) > 0) - 1))


@pytest.mark.parametrize(
    ("weight", "alike", "loss"), [(0, False, 0.0), (2, False, 2.0), (1, True, 0.0)]
)
def test_a_real_image_that_is_told_the_mask_of_another_counts_as_synthetic(
    weight, alike, loss, tiny, masks
):
    recipe = tiny("image.size=16", "loss.adversarial=hinge", f"loss.mismatch={weight}")
    judge = judging_by(_Blind(), recipe)
    masks = masks[[0, 0]] if alike else masks[:2]
    real, synthetic = Batch(masks[:, None] / 2 - 1, masks), Batch(torch.zeros(2, 1, 16, 16), masks)
    assert float(judge.learn(real, synthetic)["discriminator"]) == pytest.approx(loss)


class _Weighs(torch.nn.Module):
    """Finds images as real as they are bright, by a weight that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, images: Tensor, condition: Tensor) -> Verdict:
        return Verdict(score=self.weight * images.flatten(1).sum(1, keepdim=True))


@pytest.mark.parametrize("augment", ["[]", "['shift']", "['window']"])
def test_the_gradient_penalty_is_half_the_squared_slope_of_realness_and_lowers_it(augment, tiny):
    recipe = tiny("image.size=16", "loss.gradient_penalty=0.5", f"discriminator.augment={augment}")
    judge = judging_by(network := _Weighs(), recipe)
    masks = torch.zeros(2, 16, 16, dtype=torch.long)
    real = Batch(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), masks)
    penalty = judge.penalty(real, judge.maps(masks))
    whole = 0.5 * 0.5 * 3.0**2 * 256
    assert float(penalty) == pytest.approx(whole) if augment == "[]" else 0 < penalty < whole
    (slope,) = torch.autograd.grad(penalty, network.weight)
    assert float(slope) == pytest.approx(2 * float(penalty) / 3)


def test_the_gradient_penalty_counts_for_the_steps_between_two_of_them(tiny):
    masks = torch.zeros(2, 16, 16, dtype=torch.long)
    real, synthetic = (Batch(torch.full((2, 1, 16, 16), at), masks) for at in (0.5, -0.5))
    losses = {}
    for weight in (0, 1):
        for step in range(PENALISED + 1):
            recipe = tiny("image.size=16", f"loss.gradient_penalty={weight}")
            judge = judging_by(_Weighs(), recipe)
            judge.begin_step(step)
            losses[weight, step] = float(judge.learn(real, synthetic)["discriminator"])
    added = [losses[1, step] - losses[0, step] for step in range(PENALISED + 1)]
    whole = PENALISED * 0.5 * 3.0**2 * 256
    assert added == pytest.approx([whole, *[0.0] * (PENALISED - 1), whole])


def test_a_segmentation_asks_nothing_about_labels_that_no_case_of_the_site_has(tiny, masks):
    images = masks[:, None].clamp(max=1) / 2 - 1  # label 2 looks like label 1
    whole = judging_by(_Reads(), tiny(*SEGMENTS))
    lacking = judging_by(_Reads(), tiny(*SEGMENTS), known=[0, 1])
    assert whole.ask(Batch(images, masks))[0] > 1
    assert lacking.ask(Batch(images, masks))[0] < 1e-6
    assert lacking.ask(Batch(images, torch.full_like(masks, 2)))[0] == 0


def test_a_segmentation_learns_and_asks_nothing_of_unlabelled_pixels(tiny, masks):
    fitting = Batch(masks[:, None] / 2 - 1, masks)
    misread = Batch(masks[:, None].clamp(min=1) / 2 - 1, masks)  # label 0 looks like label 1

    def losses(unlabelled):
        judge = judging_by(_Reads(), tiny(*SEGMENTS, f"masks.unlabelled={unlabelled}"))
        return [float(judge.ask(misread)[0]), float(judge.learn(misread, fitting)["discriminator"])]

    assert min(losses("false")) > 1
    assert max(losses("true")) < 1e-6


@pytest.mark.parametrize("released", ["true", "false"])
def test_masks_are_kept_only_if_the_recipe_says_so(tiny, make_sites, released):
    kept: list[tuple[str, Tensor]] = []
    federation = make_sites(tiny(f"masks.release={released}"))
    coordinator = federation.begin(keep=lambda site, masks, most: kept.append((site, masks)))
    coordinator.step()
    assert [site for site, _ in kept] == ["north", "south", "north", "south"] * (released == "true")
    cohort = federation.sites["south"].cohort
    for batch, (_, masks) in enumerate(kept[1::2]):
        assert torch.equal(masks, cohort.batch(batch, 2).conditions)
    tensors, _ = coordinator.state()  # of a checkpoint
    assert {name.partition("/")[0] for name in tensors} == {"generator", "average", "optimiser"}
    assert all(value.dtype.is_floating_point for value in tensors.values())


def test_a_sites_checkpoint_that_was_cut_off_is_passed_over_for_the_one_before(
    tiny, make_sites, tmp_path
):
    federation = make_sites(tiny(), folder=tmp_path)
    coordinator = federation.begin()
    for _ in range(2):
        coordinator.step()
        coordinator.roster.save(coordinator.step_number)
    file = checkpoint.step_file(tmp_path / "north" / f"run-{RUN}", 2)
    file.write_bytes(b"half a file")
    with pytest.raises(RunError, match="not a whole checkpoint"):
        checkpoint.read(file)
    assert opened(make_sites(tiny(), folder=tmp_path), step=2).step == 1


def test_images_of_one_value_do_not_count_as_come_again():
    """What an untrained generator paints of masks is often one label alone."""
    arrivals, images = Arrivals(), torch.stack([torch.full((1, 4, 4), -1.0), torch.rand(1, 4, 4)])
    assert [arrivals.count(images, step) for step in (1, 2)] == [0, 1]
