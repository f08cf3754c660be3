"""What a step promises at both ends, however the sites' feedback is weighted."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from asyndgan.recipe import Recipe
from asyndgan.recipe.sections import SharesSection
from asyndgan.training import Coordinator
from asyndgan.training.aggregation import pull, requests_of
from asyndgan.wire.messages import ANSWERS, Judge, Judgement, unpack

SITES = ("north", "south")  # of 6 and 3 cases
WAYS = get_args(SharesSection.model_fields["by"].annotation)


class Started:
    """A federation that has begun, with what a coordinator holds in its first step."""

    def __init__(self, recipe: Recipe, federation: Any) -> None:
        self.federation = federation
        self.coordinator: Coordinator = federation.begin()
        self.members = dict(self.coordinator.members)
        random = torch.Generator().manual_seed(0)
        count = recipe.training.batch * len(self.members)
        self.images = torch.rand(count, 1, *recipe.image.size, generator=random) * 2 - 1

    @property
    def requests(self) -> dict[str, Judge]:
        return requests_of(self.coordinator.roster.run, 0, self.members, self.images)

    def answers(self) -> dict[str, Judgement]:
        """What each site lets out, as it arrives."""
        found = {}
        for site, request in self.requests.items():
            payload = self.federation.sites[site].handle(request).payload
            answer = unpack(payload, ANSWERS, limit=self.federation.exchange.limit)
            assert isinstance(answer, Judgement)
            found[site] = answer
        return found

    def pull(self, answers: dict[str, Judgement], shares: dict[str, float]) -> Tensor:
        by = self.coordinator.recipe.shares.by
        return pull(self.images, self.members, answers, shares, by=by)


@pytest.fixture(params=WAYS)
def started(request, tiny, make_sites):
    recipe = tiny(f"shares.by={request.param}", "wire.images=float32", "wire.feedback=float32")
    return Started(recipe, make_sites(recipe))


def test_each_member_is_asked_once_about_the_batch_that_it_offered(started):
    assert list(started.requests) == list(SITES)
    own = started.images.chunk(len(SITES))
    for images, (site, request) in zip(own, started.requests.items(), strict=True):
        assert request.batch == started.members[site].batch
        assert torch.equal(request.images, images)


def test_the_pull_is_as_large_as_the_images_and_the_same_twice(started):
    answers, shares = started.answers(), {"north": 2 / 3, "south": 1 / 3}
    found, again = (started.pull(answers, shares) for _ in range(2))
    assert found.shape == started.images.shape
    assert found.isfinite().all()
    assert torch.equal(found, again)
    assert found.flatten(1).any(1).all()


def test_who_did_not_answer_and_who_has_no_share_moves_none_of_its_images(started):
    answers = started.answers()
    alone = {"north": answers["north"]}
    for told, shares in ((alone, {"north": 1.0}), (answers, {"north": 1.0, "south": 0.0})):
        north, south = started.pull(told, shares).chunk(2)
        assert north.any()
        assert not south.any()


def test_a_whole_step_moves_the_generator(started):
    before = copy.deepcopy(started.coordinator.generator.state_dict())
    report = started.coordinator.step()
    assert report.updated
    assert report.shares == {"north": pytest.approx(6 / 9), "south": pytest.approx(3 / 9)}
    after = started.coordinator.generator.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
