"""Sites that were there and are not: what the generator learned from them is kept."""

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asyndgan.recipe import Recipe
from asyndgan.runs.bank import MaskBank
from asyndgan.training import Coordinator
from asyndgan.training.reminding import Memory

MakeRecipe = Callable[..., Recipe]
MakeSites = Callable[..., Any]  # of conftest's Federation
LEAVES = "timeline=[{site='south', last=1}]"
NOISY = ("generator.noise=2", "training.steps=40", LEAVES)


class Bank:
    """Keeps what sites release, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Tensor]] = defaultdict(list)

    def keep(self, site: str, conditions: Tensor, most: int | None = None) -> None:
        self.kept[site] += list(conditions)

    def of(self, site: str) -> Tensor:
        return torch.stack(self.kept[site]) if self.kept[site] else torch.zeros(0)


def begun(federation: Any, recall: Callable[[str], Tensor] | None = None) -> Coordinator:
    bank = Bank()
    return Coordinator.begin(
        federation.recipe, federation.exchange, run="abc", keep=bank.keep, recall=recall or bank.of
    )


def test_nobody_is_remembered_while_all_are_there(tiny: MakeRecipe, make_sites: MakeSites) -> None:
    coordinator = begun(make_sites(tiny("reminding.weight=10", *NOISY)))
    assert [coordinator.step().reminding for _ in range(2)] == [None, None]
    assert coordinator.step().reminding is not None


def test_nobody_is_remembered_from_whom_nothing_was_learned(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    """What would be kept of it is a generator that has not learned anything."""
    recipe = tiny("reminding.weight=10", "quorum.least=0.5", "training.steps=9")
    federation = make_sites(recipe)
    coordinator = begun(federation)
    federation.line.deaf = {"south"}
    assert [coordinator.step().reminding for _ in range(3)] == [None] * 3
    assert (set(coordinator.members), coordinator.roster.taught) == ({"north"}, {"north": 3})
    federation.line.deaf.clear()
    again = Coordinator.begin(
        recipe, federation.exchange, run="abc", checkpoint=coordinator.state()
    )
    assert again.roster.taught == {"north": 3}


def test_the_generator_is_pulled_to_what_it_painted_when_the_site_left(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    """The gradient is that of the feedback, and the weight times that of the L1 between both."""
    gradients = []
    for weight in (0.0, 10.0):
        coordinator = begun(make_sites(tiny(f"reminding.weight={weight}", *NOISY)))
        for _ in range(2):
            coordinator.step()
        coordinator.roster.follow_timeline(coordinator.step_number)
        then = copy.deepcopy(coordinator.average)
        with torch.no_grad():  # as if it had learned since
            for parameter in coordinator.generator.parameters():
                parameter += 0.02 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(1)
                )
        now = copy.deepcopy(coordinator.generator)
        coordinator.optimiser.register_step_pre_hook(
            lambda optimiser, args, keys, c=coordinator: gradients.append(
                [p.grad.clone() for p in c.generator.parameters()]
            )
        )
        report = coordinator.step()
    memory = coordinator.memory
    assert memory is not None
    assert list(memory.away) == ["south"]
    frozen = memory.frozen["south"].state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in then.state_dict().items())
    gap = memory.remind(now, coordinator.roster.held, 2, coordinator.paint_looks)
    assert float(gap) == pytest.approx(report.reminding)
    for without, together, own in zip(*gradients, now.parameters(), strict=True):
        torch.testing.assert_close(together - without, own.grad, rtol=1e-2, atol=1e-5)


def test_each_site_that_is_away_is_remembered_in_its_own_look_by_its_share() -> None:
    recipe = Recipe.from_toml("", ["reminding.weight=1", "masks.release=true"])
    memory = Memory(recipe, lambda site: torch.zeros(3, 4, 4, dtype=torch.int64))
    before, now = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    memory.follow({"east": 3.0, "south": 1.0}, before)
    change = {"east": 0.1, "south": 0.9}  # what is painted has changed by, in their looks

    def paint(network: Any, conditions: Tensor, looks: Any, random: Any) -> Tensor:
        by = torch.tensor([change[look] for look in looks]).reshape(-1, 1, 1, 1)
        none = 0 * next(network.parameters()).sum()
        return by * (network is now) + none + torch.zeros(len(conditions), 1, 4, 4)

    held = {"east": [0], "south": [0]}
    assert float(memory.remind(now, held, 0, paint)) == pytest.approx(0.75 * 0.1 + 0.25 * 0.9)
    memory.recipe = Recipe.from_toml(
        "", ["reminding.weight=1", "masks.release=true", "shares.most=0.6"]
    )
    assert float(memory.remind(now, held, 0, paint)) == pytest.approx(0.6 * 0.1 + 0.4 * 0.9)


def test_nothing_is_kept_in_modalities_that_the_site_never_held() -> None:
    recipe = Recipe.from_toml("", ["reminding.weight=1", "masks.release=true"])
    memory = Memory(recipe, lambda site: torch.zeros(3, 4, 4, dtype=torch.int64))
    before, now = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    memory.follow({"south": 1.0}, before)

    def paint(network: Any, conditions: Tensor, looks: Any, random: Any) -> Tensor:
        shown = torch.zeros(len(conditions), 2, 4, 4)
        shown[:, 1] = next(network.parameters()) - next(before.parameters()).detach()
        return shown

    assert float(memory.remind(now, {"south": [0]}, 0, paint)) == 0
    assert float(memory.remind(now, {"south": [1]}, 0, paint)) > 0


def test_what_a_site_held_is_known_also_if_it_left_while_the_coordinator_was_gone(
    tiny: MakeRecipe, make_sites: MakeSites, make_cohort: Callable[..., Any]
) -> None:
    recipe = tiny(
        "reminding.weight=10",
        "quorum.least=0.3",
        "training.steps=40",
        "image.modalities=['T1', 'T2']",
    )
    cohorts = {
        "north": make_cohort(recipe, cases=4, modalities=["T1", "T2"]),
        "south": make_cohort(recipe, cases=3, seed=2, modalities=["T2"]),
    }
    first = begun(make_sites(recipe, cohorts))
    first.step()
    alone = make_sites(recipe, {"north": cohorts["north"]})
    bank = Bank()
    bank.keep("south", cohorts["south"].conditions)
    again = Coordinator.begin(
        recipe, alone.exchange, run="abc", recall=bank.of, checkpoint=first.state()
    )
    assert again.step().reminding is not None
    assert again.memory is not None
    assert again.roster.held["south"] == [again.scope.modalities.index("T2")]


def test_what_a_site_taught_is_kept_the_better_for_it(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    gaps = []
    for weight in (1e-9, 50):
        recipe = tiny(f"reminding.weight={weight}", *NOISY, "optimiser.generator_rate=0.002")
        coordinator = begun(make_sites(recipe))
        gaps.append([coordinator.step().reminding for _ in range(25)][-1])
    assert gaps[1] < 0.75 * gaps[0]


def test_a_site_that_comes_back_is_taught_by_itself_again(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    comes = "timeline=[{site='south', last=1}, {site='south', first=4}]"
    coordinator = begun(make_sites(tiny("reminding.weight=10", "generator.noise=2", comes)))
    reminded = [coordinator.step().reminding is not None for _ in range(6)]
    assert reminded == [False, False, True, True, False, False]
    assert coordinator.memory is not None
    assert not coordinator.memory.away


def test_a_site_that_vanishes_is_remembered_from_the_step_that_it_misses(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    federation = make_sites(tiny("reminding.weight=10", "quorum.least=0.5"))
    coordinator = begun(federation)
    assert coordinator.step().reminding is None
    federation.line.deaf = {"south"}
    assert coordinator.step().reminding is not None


def test_of_a_site_that_released_nothing_nothing_is_painted(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    coordinator = begun(
        make_sites(tiny("reminding.weight=10", *NOISY)), lambda site: torch.zeros(0)
    )
    assert [coordinator.step().reminding for _ in range(4)] == [None] * 4


def test_without_a_condition_nothing_has_to_be_kept(
    tiny: MakeRecipe, make_sites: MakeSites
) -> None:
    recipe = tiny("reminding.weight=10", "condition.kind=none", "masks.release=false", *NOISY)
    coordinator = Coordinator.begin(recipe, make_sites(recipe).exchange, run="abc")
    assert [coordinator.step().reminding is not None for _ in range(4)] == [False] * 2 + [True] * 2


def test_each_site_is_remembered_by_the_generator_of_its_own_last_step(
    tiny: MakeRecipe, make_sites: MakeSites, make_cohort: Callable[..., Any]
) -> None:
    """Another one that is away for a step, again and again, moves nothing."""
    recipe = tiny("reminding.weight=10", "generator.noise=2", "quorum.least=0.3", LEAVES)
    cohorts = {n: make_cohort(recipe, seed=s) for s, n in enumerate(("north", "south", "west"))}
    federation = make_sites(recipe, cohorts)
    coordinator = begun(federation)
    for _ in range(3):
        coordinator.step()
    memory = coordinator.memory
    assert memory is not None
    south = memory.frozen["south"]
    federation.line.deaf = {"west"}
    coordinator.step()
    assert memory.frozen["south"] is south
    assert memory.frozen["west"] is not south
    federation.line.deaf = set()
    coordinator.roster.welcome("west", coordinator.roster.open("west", coordinator.step_number))
    coordinator.step()
    assert list(memory.frozen) == ["south"]
    tensors, about = memory.state()
    assert about["away"] == {"south": 5.0} and about["generators"] == {"south": 0}
    assert {name.partition("/")[0] for name in tensors} == {"remembered-0"}


def test_a_bank_tells_sites_apart_whose_names_begin_alike_and_goes_back(tmp_path: Path) -> None:
    bank = MaskBank(tmp_path)
    masks = torch.arange(6).reshape(6, 1, 1).expand(6, 4, 4)
    bank.keep("uni", masks[:1])
    bank.keep("uni-mainz", masks[1:3])
    counts = bank.counts()
    bank.keep("uni", masks[3:5])
    assert bank.of("uni")[:, 0, 0].tolist() == [0, 3, 4]
    assert bank.of("uni-mainz")[:, 0, 0].tolist() == [1, 2]
    assert len(bank.of("nobody")) == 0
    bank.back_to(counts)
    assert bank.of("uni")[:, 0, 0].tolist() == [0]
    bank.keep("uni", masks[3:])
    assert MaskBank(tmp_path).of("uni")[:, 0, 0].tolist() == [0, 3, 4, 5]
