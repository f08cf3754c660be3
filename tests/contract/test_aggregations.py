"""What every aggregation promises, at both ends of a step."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from asyndgan.errors import ProtocolError, WireError
from asyndgan.recipe import Recipe, SharesSection
from asyndgan.training import Coordinator, Site
from asyndgan.training.aggregation import AGGREGATIONS, Aggregation
from asyndgan.wire import (
    ANSWERS,
    Appraisal,
    Appraise,
    Judge,
    Judgement,
    StepAnswer,
    StepRequest,
    pack,
    unpack,
)

SITES = ("north", "south")  # of 6 and 3 cases
CODINGS: Any = {"feedback": "float32", "odds": "float64", "conditions": "label8"}


class Started:
    """A federation that has begun, with what a coordinator holds in its first step."""

    def __init__(self, recipe: Recipe, federation: Any) -> None:
        self.federation = federation
        self.coordinator: Coordinator = federation.begin()
        self.aggregation: Aggregation[Any, Any] = self.coordinator.aggregation
        self.members = dict(self.coordinator.members)
        random = torch.Generator().manual_seed(0)
        count = recipe.training.batch * len(self.members)
        self.images = torch.rand(count, 1, *recipe.image.size, generator=random) * 2 - 1

    @property
    def requests(self) -> dict[str, StepRequest]:
        roster, members = self.coordinator.roster, self.members
        shares = roster.shares_of(members)
        return dict(self.aggregation.requests(roster.run, 0, members, shares, self.images))

    def answers(self) -> dict[str, StepAnswer]:
        """What each site lets out, as it arrives."""
        found = {}
        for site, request in self.requests.items():
            payload = self.federation.sites[site].handle(request).payload
            answer = unpack(payload, ANSWERS, limit=self.federation.exchange.limit)
            assert isinstance(answer, Judgement | Appraisal)
            found[site] = answer
        return found


@pytest.fixture(params=AGGREGATIONS)
def started(request: pytest.FixtureRequest, tiny: Any, make_sites: Any) -> Started:
    recipe = tiny(f"shares.by={request.param}", "wire.images=float32", "wire.feedback=float32")
    return Started(recipe, make_sites(recipe))


def weights(site: Site) -> list[Tensor]:
    return [copy.deepcopy(own.detach()) for own in site.objective.discriminator.parameters()]


def test_every_value_of_the_recipe_has_a_strategy() -> None:
    assert set(get_args(SharesSection.model_fields["by"].annotation)) == set(AGGREGATIONS)


def test_each_member_is_asked_once_about_the_batch_that_it_offered(started: Started) -> None:
    assert list(started.requests) == list(SITES)
    for site, request in started.requests.items():
        assert type(request) is started.aggregation.request
        assert request.batch == started.members[site].batch
        batches = started.aggregation.batches(len(SITES))
        assert len(request.images) == batches * started.coordinator.recipe.training.batch


def test_an_answer_has_feedback_on_every_image_and_is_accepted(started: Started) -> None:
    for site, answer in started.answers().items():
        assert type(answer) is started.aggregation.answer
        assert answer.feedback.shape == started.requests[site].images.shape
        assert answer.feedback.any()
        started.aggregation.check(site, answer)


def test_learning_changes_the_discriminator_and_asking_does_not(started: Started) -> None:
    site = started.federation.sites["north"]
    own = site.cohort.batch(0, site.recipe.training.batch)
    request = started.requests["north"]
    shown = started.aggregation.shown(request, own, max(site.cohort.labels) + 1)
    before = weights(site)
    losses = started.aggregation.learn(site.objective, own, shown, request)
    learned = weights(site)
    assert losses["discriminator"].isfinite()
    assert not all(map(torch.equal, before, learned))
    started.aggregation.ask(site.objective, shown, own)
    assert all(map(torch.equal, learned, weights(site)))


def test_the_pull_is_as_large_as_the_images_and_the_same_twice(started: Started) -> None:
    answers, shares = started.answers(), {"north": 2 / 3, "south": 1 / 3}
    pull, again = (
        started.aggregation.pull(started.images, started.members, answers, shares) for _ in range(2)
    )
    assert pull.shape == started.images.shape
    assert pull.isfinite().all()
    assert torch.equal(pull, again)
    assert pull.flatten(1).any(1).all()


def test_who_did_not_answer_and_who_has_no_share_moves_none_of_its_images(
    started: Started,
) -> None:
    answers = started.answers()
    alone = {"north": answers["north"]}
    for told, shares in ((alone, {"north": 1.0}), (answers, {"north": 1.0, "south": 0.0})):
        pull = started.aggregation.pull(started.images, started.members, told, shares)
        north, south = pull.chunk(2)
        assert north.any()
        assert not south.any()


@pytest.mark.parametrize("spoiled", ["images", "batch", "strategy"])
def test_a_site_refuses_what_it_did_not_offer_and_learns_nothing(
    started: Started, spoiled: str
) -> None:
    site, request = started.federation.sites["north"], started.requests["north"]
    common = {"run": request.run, "step": 0, "batch": 0, "images": request.images}
    conditions = torch.cat([member.conditions for member in started.members.values()])
    other: StepRequest = Judge(**common)
    if isinstance(request, Judge):
        images = torch.zeros(2 * len(request.images), *request.images.shape[1:])
        of_all = {"place": 0, "shares": [0.5, 0.5], "images": images, "conditions": conditions}
        other = Appraise(**{**common, **of_all})
    wrong = {
        "images": request.model_copy(update={"images": request.images[:1]}),
        "batch": request.model_copy(update={"batch": 3}),
        "strategy": other,
    }
    before = weights(site)
    with pytest.raises(ProtocolError):
        site.handle(wrong[spoiled])
    assert all(map(torch.equal, before, weights(site)))
    assert site.step == 0
    site.handle(request)
    assert site.step == 1


def test_an_answer_of_another_strategy_is_no_answer(started: Started) -> None:
    def other(site: str, payload: bytes) -> bytes:
        answer = unpack(payload, ANSWERS, limit=started.federation.exchange.limit)
        if site != "south" or not isinstance(answer, Judgement | Appraisal):
            return payload
        fields = dict(answer)
        if fields.pop("odds", None) is not None:
            return pack(Judgement(**fields), CODINGS)
        return pack(Appraisal(**fields, odds=torch.zeros(2, dtype=torch.float64)), CODINGS)

    started.federation.line.tap = other
    report = started.coordinator.step()
    assert report.missed == {"south": "site south did not answer step 0."}
    assert list(report.losses) == ["north"]


def test_feedback_of_another_shape_is_no_answer(started: Started) -> None:
    for site, answer in started.answers().items():
        short = answer.model_copy(update={"feedback": answer.feedback[:1]})
        with pytest.raises(WireError, match=f"site {site}: "):
            started.coordinator.checked(site, short)


def test_a_whole_step_moves_the_generator(started: Started) -> None:
    before = copy.deepcopy(started.coordinator.generator.state_dict())
    report = started.coordinator.step()
    assert report.updated
    assert report.shares == {"north": pytest.approx(6 / 9), "south": pytest.approx(3 / 9)}
    after = started.coordinator.generator.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
