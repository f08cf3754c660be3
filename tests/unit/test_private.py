"""Differential privacy: what is charged, clipped and hidden, and what never comes back."""

import json
import math
import os
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from torch import Tensor
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import LedgerError, PolicyError
from asyndgan.models import Sizes
from asyndgan.models.parts import build_adversarial_loss, build_discriminator, condition_maps
from asyndgan.painting.synthesise import Origin
from asyndgan.painting.writing import write_synthetic
from asyndgan.privacy import SIMULATION, Policy, accounting, chance
from asyndgan.privacy.accounting import Account, Mechanism, epsilon_of, most_uses
from asyndgan.privacy.ledger import read
from asyndgan.protocol import Endpoint
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.store import Batch, Case, Cohort
from asyndgan.store.splits import hold_out_of
from asyndgan.training import Site
from asyndgan.training import private as training_private
from asyndgan.training.private import PrivateDiscriminator
from asyndgan.wire.codec import through
from asyndgan.wire.messages import ANSWERS, Judge, Judgement, Open, Refusal, pack, unpack

MakeRecipe = Callable[..., Recipe]
CLASSES = ("condition.kind=class", "generator.kind=topdown", "masks.release=false")
PRIVATE = (*CLASSES, "privacy.kind=discriminator", "privacy.patients=3")
DELTA = 1e-5
ASKS = Policy.from_toml("[privacy]\nepsilon = 1.0")


@pytest.mark.parametrize(("noise", "rate", "uses"), [(1.0, 0.01, 1000), (10.0, 1.0, 50)])
def test_two_accountants_agree_to_a_hundredth(noise, rate, uses):
    other = PLDAccountant()
    other.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), uses)
    epsilon = epsilon_of({Mechanism(noise, rate): uses}, DELTA)
    assert epsilon == pytest.approx(other.get_epsilon(DELTA), rel=0.01)
    assert epsilon >= other.get_epsilon(DELTA) - 0.011


def test_mechanisms_of_different_runs_add_up():
    first, second = Mechanism(2.0, 0.1), Mechanism(3.0, 0.2)
    both = epsilon_of({first: 100, second: 50}, DELTA)
    assert both > max(epsilon_of({first: 100}, DELTA), epsilon_of({second: 50}, DELTA))
    assert epsilon_of({}, DELTA) == 0
    assert epsilon_of({Mechanism(0.0, 0.1): 1}, DELTA) == math.inf


def test_a_budget_is_used_to_its_last_step_and_no_further():
    mechanism = Mechanism(4.0, 0.25)
    most = most_uses({}, mechanism, epsilon=1.0, delta=DELTA)
    assert epsilon_of({mechanism: most}, DELTA) <= 1.0 < epsilon_of({mechanism: most + 1}, DELTA)
    assert most_uses({mechanism: most}, mechanism, epsilon=1.0, delta=DELTA) == 0
    rare = Mechanism(1.0, 0.001)  # where exactness would cost minutes
    most = most_uses({}, rare, epsilon=1.0, delta=DELTA)
    assert most > 10_000
    assert epsilon_of({rare: most}, DELTA) <= 1.0 < epsilon_of({rare: int(1.002 * most)}, DELTA)


def test_what_is_spent_is_written_before_it_is_used_and_never_comes_back(tmp_path):
    path, mechanism = tmp_path / "privacy.json", Mechanism(4.0, 0.25)
    most = most_uses({}, mechanism, epsilon=1.0, delta=DELTA)
    Account(path, mechanism, epsilon=1.0, delta=DELTA).charge(most - 1)
    again = Account(path, mechanism, epsilon=1.0, delta=DELTA)  # after a crash, or a roll-back
    assert 0 < again.epsilon() <= 1.0
    with pytest.raises(PolicyError, match="budget is spent"):
        again.charge(2)
    again.charge(1)
    with pytest.raises(PolicyError, match="budget is spent"):
        again.charge(1)


def test_the_shown_epsilon_is_never_below_the_spent_one():
    mechanism = Mechanism(4.0, 0.25)
    account = Account(None, mechanism, epsilon=None, delta=DELTA)
    for uses in (1, 3, 20, 1, 30):
        account.charge(uses)
        assert account.epsilon() >= epsilon_of(account.spent, DELTA) - 1e-9


def private(tiny: MakeRecipe, *overrides: str) -> PrivateDiscriminator:
    recipe = tiny(*PRIVATE, "privacy.clip=0.5", *overrides)
    torch.manual_seed(0)
    network = build_discriminator(recipe, Sizes(3, 1))

    def maps(classes: torch.Tensor) -> torch.Tensor:
        return condition_maps(classes, kind="class", labels=3, space=(16, 16))

    return PrivateDiscriminator(network, build_adversarial_loss(recipe), recipe, maps)


def case_of(patient: str) -> Case:
    return Case.drawn(patient, torch.zeros(1, 2, 2), torch.zeros(2, 2).long(), ("T1",))


def batch(count: int, seed: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 16, 16, generator=random) * 2 - 1
    return Batch(images, torch.randint(0, 3, (count,), generator=random))


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("kind", ["patch", "projected"])
def test_each_patients_gradient_is_clipped_by_itself(tiny, kind, monkeypatch):
    learner, real = private(tiny, f"discriminator.kind={kind}"), batch(5)
    wanted = torch.zeros_like(flat(learner.parameters))
    for image, label in zip(real.images, real.conditions, strict=True):
        score = learner.discriminator(image[None], learner.maps(label[None])).score
        own = flat(list(torch.autograd.grad(learner.adversarial.real(score), learner.parameters)))
        assert own.norm() > 0.5
        wanted += own * (0.5 / own.norm())
    for at_once in (64, 2):  # however many are in memory
        monkeypatch.setattr(training_private, "AT_ONCE", at_once)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # whoever trains reads nothing of hooks
            found = flat(learner.clipped_sum(real))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_patient_whose_gradient_is_not_finite_counts_for_nothing(tiny):
    """A refusal would tell of the patient, and no noise would cover it."""
    learner, real = private(tiny), batch(5)
    others = Batch(real.images[1:], real.conditions[1:])
    wanted = flat(learner.clipped_sum(others))
    for value in (float("nan"), float("inf")):
        real.images[0] = value
        found = flat(learner.clipped_sum(real))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    alone = Batch(real.images[:1], real.conditions[:1])
    assert not flat(learner.clipped_sum(alone)).any()
    learner.learn(torch.optim.SGD(learner.parameters, lr=0.1), real, batch(2))
    assert flat(learner.parameters).isfinite().all()


def test_synthetic_images_are_disturbed_as_the_patients_are(tiny):
    """Or the discriminator would learn to tell them by the disturbance."""
    learner = private(tiny, "discriminator.augment=['shift']")
    seen: list[torch.Tensor] = []
    learner.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    learner.learn(torch.optim.SGD(learner.parameters, lr=0.1), batch(5), batch(5, seed=2))
    blank = [float((images == -1).float().mean()) for images in seen]
    assert len(blank) == 2 and min(blank) > 0.05


def test_the_noise_has_the_promised_deviation_and_is_new_every_time(tiny):
    learner = private(tiny, "privacy.noise=3", "discriminator.width=32")
    nothing = learner.clipped_sum(batch(0))
    assert not flat(nothing).any()
    first, second = flat(learner.noised(nothing)), flat(learner.noised(nothing))
    assert len(first) > 5000
    assert float(first.std()) == pytest.approx(3 * 0.5, rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


def test_a_step_without_a_patient_is_still_a_step(tiny):
    learner = private(tiny)
    before = flat(learner.parameters).clone()
    learner.learn(torch.optim.SGD(learner.parameters, lr=0.1), batch(0), batch(2))
    assert not torch.equal(flat(learner.parameters), before)
    assert flat(learner.parameters).isfinite().all()


@pytest.mark.parametrize("drawn", [1, 5])
def test_the_sum_is_divided_by_the_expected_number_of_patients_not_by_that_of_those_drawn(
    tiny, drawn
):
    """How many were drawn is private; divided by it, one patient would change all of the sum."""
    learner, real, synthetic = private(tiny, "privacy.noise=1e-9"), batch(drawn), batch(2, seed=2)
    own = flat(learner.clipped_sum(real))
    score = learner.discriminator(synthetic.images, learner.maps(synthetic.conditions)).score
    loss = 0.5 * learner.adversarial.synthetic(score)
    public = flat(list(torch.autograd.grad(loss, learner.parameters)))
    before = flat(learner.parameters).detach().clone()
    learner.learn(torch.optim.SGD(learner.parameters, lr=1.0), real, synthetic)
    moved = before - flat(learner.parameters).detach()
    torch.testing.assert_close(moved, 0.5 * own / 3 + public, rtol=1e-3, atol=1e-5)


def test_patients_are_drawn_one_by_one_with_a_case_each():
    images = torch.arange(80.0).reshape(80, 1, 1, 1).expand(-1, 1, 4, 4) / 80
    cohort = Cohort(
        images, torch.zeros(80, dtype=torch.int64), modalities=["T1"], labels={0: "x"},
        patients=[f"p{case // 4}" for case in range(80)],
    )  # fmt: skip
    assert cohort.patients == 20
    random = torch.Generator().manual_seed(0)
    counts, seen = [], set()
    for _ in range(300):
        drawn = cohort.patients_by_chance(0.3, lambda count: torch.rand(count, generator=random))
        cases = [round(float(value) * 80) for value in drawn.images[:, 0, 0, 0]]
        assert len({case // 4 for case in cases}) == len(cases)
        counts.append(len(cases))
        seen |= set(cases)
    assert sum(counts) / 300 == pytest.approx(6, abs=0.4)
    assert 0.6 * 4.2 < torch.tensor(counts, dtype=torch.float).var() < 1.5 * 4.2
    assert seen == set(range(80))


def classes(recipe: Recipe, seed: int = 0) -> Cohort:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 1, 16, 16, generator=random) * 2 - 1
    labels = torch.randint(0, 3, (12,), generator=random)
    return Cohort(images, labels, modalities=["T1"], labels={0: "a", 1: "b", 2: "c"}, seed=seed)


def opened(recipe: Recipe, folder: Path | None, policy: Policy, seed: int = 0) -> Site:
    site = Site("north", classes(recipe, seed), recipe, folder=folder, policy=policy)
    site.handle(Open(run="1f", recipe=recipe.digest(), step=0))
    return site


def judged(site: Site, step: int) -> Any:
    images = torch.zeros(2, 1, 16, 16)
    answer = site.handle(Judge(run="1f", step=step, batch=site.next_batch, images=images))
    return unpack(answer.payload, ANSWERS, limit=2**20)


def once(recipe: Recipe, folder: Path, policy: Policy) -> None:
    """A site that answers one step and ends."""
    site = opened(recipe, folder, policy)
    judged(site, 0)
    site.release.close()


def test_a_private_sites_ledger_says_what_was_spent(tiny, tmp_path):
    recipe = tiny(*PRIVATE, "privacy.updates=2", "privacy.noise=4")
    site = opened(recipe, tmp_path, ASKS)
    answers = [judged(site, step) for step in range(3)]
    # The loss on real images would say something of who was drawn.
    assert all(set(each.losses) == {"adversarial", "discriminator_synthetic"} for each in answers)
    site.release.close()
    entries = [e for e in read(tmp_path / "ledger.jsonl") if e.kind == "judgement"]
    spent = [epsilon_of({Mechanism(4.0, 0.25): 2 * step}, DELTA) for step in (1, 2, 3)]
    for entry, least in zip(entries, spent, strict=True):
        assert entry.epsilon is not None and least - 1e-9 <= entry.epsilon <= 1.0
        assert (entry.noise, entry.delta) == (4.0, DELTA)


def test_a_policy_check_counts_what_the_sites_books_say_was_spent(tiny, tmp_path):
    recipe = tiny(*PRIVATE, "privacy.noise=4", "training.steps=9")
    policy = Policy.from_toml("[privacy]\nepsilon = 1.0\n[allows]\nmost_answers = 11")
    site = opened(recipe, tmp_path / "books", policy)
    for step in range(3):
        judged(site, step)
    site.release.close()
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())

    def told(policy, *more):
        (tmp_path / "policy.toml").write_text(policy)
        words = ["policy", "check", str(tmp_path / "policy.toml"), str(tmp_path / "recipe.toml")]
        done = CliRunner().invoke(app, [*words, "--patients", "12", *more])
        return done.exit_code, " ".join(done.output.split()) + str(done.exception or "")

    books = ["--records", str(tmp_path / "books")]
    rate = recipe.privacy.patients / 12
    for more, uses in (([], 9), (books, 12)):
        code, output = told(policy.to_toml(), *more)
        assert code == 0
        assert f"epsilon {epsilon_of({Mechanism(4.0, rate): uses}, DELTA):.2f}" in output
        assert ("would stop after 8 more answers: it has given 3" in output) == bool(more)
    code, output = told("[privacy]\nepsilon = 0.01")
    assert code == 1 and "its first step spends more than is left of epsilon 0.01" in output
    code, output = told("[allows]\nmost_answers = 3", *books)
    assert code == 1 and "it has answered 3 times; its policy allows 3 answers in all" in output
    (tmp_path / "books/privacy.json").write_text("[]")
    code, output = told(policy.to_toml(), *books)
    assert code == 1 and "shows 3 uses of private mechanisms, the account only 0" in output
    code, output = told(policy.to_toml(), "--records", str(tmp_path))
    assert code == 1 and "no ledger.jsonl" in output


def drawn_patients(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The patients that each update of one answer looks at; nothing is learned from them."""
    drawn: list[list[int]] = []

    def look(real: Batch, synthetic: Batch) -> dict[str, Tensor]:
        same = (real.images[:, None] == coded[None]).flatten(2).all(2)
        drawn.append(same.nonzero()[:, 1].tolist())
        return {}

    coded = through(site.draws.images, site.recipe.wire.images)
    monkeypatch.setattr(site.objective, "learn_privately", look)
    judged(site, 0)
    return drawn


def test_a_site_draws_each_patient_by_itself_at_the_rate_that_it_charges(tiny, monkeypatch):
    recipe = tiny(*PRIVATE, "privacy.updates=1000", "training.flip=false")
    site = opened(recipe, None, SIMULATION)
    drawn = drawn_patients(site, monkeypatch)
    ((charged, uses),) = site.release.account.spent.items()
    assert uses == len(drawn) == 1000
    often = torch.zeros(12, 1000)
    for update, patients in enumerate(drawn):
        assert len(set(patients)) == len(patients)
        often[patients, update] = 1
    # Four standard errors and more: of 12,000 draws, of each patient's 1,000, of pairs of patients.
    assert float(often.mean()) == pytest.approx(charged.rate, abs=0.02)
    assert float((often.mean(1) - charged.rate).abs().max()) < 0.07
    assert float((torch.corrcoef(often) - torch.eye(12)).abs().max()) < 0.17
    assert float(often.sum(0).var()) == pytest.approx(12 * 0.25 * 0.75, rel=0.25)


def test_whom_a_site_draws_follows_from_the_operating_systems_randomness_and_from_no_seed(
    tiny, monkeypatch
):
    recipe = tiny(*PRIVATE, "privacy.updates=50", "training.flip=false")
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(drawn_patients(opened(recipe, None, SIMULATION), monkeypatch))
    assert found[0] != found[1]
    for byte, wanted in ((b"\x00", list(range(12))), (b"\xff", [])):
        site = opened(recipe, None, SIMULATION)
        with monkeypatch.context() as patched:
            patched.setattr(os, "urandom", lambda count, byte=byte: byte * count)
            assert drawn_patients(site, monkeypatch) == [wanted] * 50


def test_what_a_site_has_charged_stays_charged_if_it_dies_before_it_answers(
    tiny, tmp_path, monkeypatch
):
    recipe = tiny(*PRIVATE, "privacy.updates=2")
    site = opened(recipe, tmp_path, SIMULATION)
    judged(site, 0)

    def die(real, synthetic):
        raise SystemExit

    monkeypatch.setattr(site.objective, "learn_privately", die)
    with pytest.raises(SystemExit):
        judged(site, 1)
    site.release.close()
    again = opened(recipe, tmp_path, SIMULATION)
    assert again.release.account.spent == {Mechanism(1.0, 0.25): 4}


def test_a_site_whose_budget_is_spent_answers_no_more_even_if_it_starts_again(tiny, tmp_path):
    recipe = tiny(*PRIVATE, "privacy.noise=4")
    policy = Policy.from_toml("[privacy]\nepsilon = 0.5")
    most = most_uses({}, Mechanism(4.0, 0.25), epsilon=0.5, delta=DELTA)
    assert 1 < most < 6
    site = opened(recipe, tmp_path, policy)
    for step in range(most):
        judged(site, step)
    for place in (most, 0):
        with pytest.raises(PolicyError, match="budget is spent"):
            judged(site, place)
        site.release.close()
        site = opened(recipe, tmp_path, policy)  # its checkpoints are gone: it begins anew


def test_public_conditions_do_not_depend_on_the_patients(tiny):
    recipe = tiny(*PRIVATE, "privacy.noise=4", "training.batch=64")
    drawn = [opened(recipe, None, ASKS, seed)._conditions() for seed in (0, 1)]
    assert torch.equal(*drawn)
    assert drawn[0].unique().tolist() == [0, 1, 2]


def test_a_policy_that_asks_for_privacy_refuses_a_recipe_whose_masks_leave_in_the_clear(tiny):
    asks = Policy.from_toml("[privacy]\nepsilon = 3.0\n[leaves]\nmasks = 'transient'")
    assert asks.refused_by(tiny(*PRIVATE)) == []
    unprotected = tiny(
        "masks.release=false", "privacy.kind=discriminator", "privacy.conditions=unprotected"
    )
    assert "leave in the clear" in asks.refused_by(unprotected)[0][1]


def test_a_model_card_says_how_much_noise_there_was_and_promises_nothing(tiny, tmp_path):
    recipe = tiny(*PRIVATE, "privacy.noise=1e-6", "privacy.clip=2")
    run = RunFolder.create(tmp_path / "run", recipe)
    run.write_facts(RunFacts(
        "1f", "0", recipe.digest(), "inprocess", modalities=["T1"], labels={"0": "a"},
        space=[16, 16], sites={"north": {"cases": 1, "share": 1.0, "modalities": ["T1"]}},
    ))  # fmt: skip
    write_synthetic(
        tmp_path / "set", run, [case_of("0")], masks=[], origin=Origin("none"), painting={}
    )
    card = (tmp_path / "set" / "MODEL_CARD.md").read_text()
    assert "a noise multiplier of 1e-06 and a clip of 2" in card
    assert "not verified for this card" in card and "Trained under" not in card


def test_every_bit_of_the_noise_comes_from_the_operating_system(monkeypatch):
    """A generator with a seed of 32 bits can be tried through; 64 bits a number cannot."""
    asked: list[int] = []
    real = os.urandom

    def urandom(count):
        asked.append(count)
        return real(count)

    monkeypatch.setattr(os, "urandom", urandom)
    torch.manual_seed(0)
    first = chance.normal_noise((3, 100))
    torch.manual_seed(0)
    second = chance.normal_noise((3, 100))
    assert not torch.isclose(first, second).any()
    assert sum(asked) == 2 * 300 * 2 * chance.DRAWS * 8
    for place in range(0, 64, 7):  # no bit of those that are asked for is thrown away, save eleven
        content = bytearray(8)
        content[place // 8] = 1 << place % 8
        monkeypatch.setattr(os, "urandom", lambda count, content=bytes(content): content)
        assert bool(chance.uniform(1) > 0) == (place >= 11)


def test_the_noise_is_normal_and_uniform_numbers_are_uniform():
    noise = chance.normal_noise((200_000,)).double()
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise.abs() < 1.959964).double().mean()) == pytest.approx(0.95, abs=0.003)
    assert float((noise**4).mean()) == pytest.approx(3, abs=0.1)
    drawn = chance.uniform(100_000)
    assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.005)
    assert chance.normal_noise(()).shape == ()


@pytest.mark.parametrize(("noise", "uses"), [(1e-6, 1), (1.0, 4000)])
def test_a_hopeless_epsilon_is_said_in_little_memory(noise, uses):
    tracemalloc.start()
    epsilon = epsilon_of({Mechanism(noise, 1.0): uses}, DELTA)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert epsilon > 50
    assert peak < 100_000_000


def test_a_patient_who_is_there_or_not_moves_nobody_in_or_out():
    patients = [f"p{number}" for number in range(30)]
    cases = [
        case_of(patient) for number, patient in enumerate(patients) for _ in range(1 + number % 5)
    ]
    whole = {case.patient for case in hold_out_of(cases, part=0.3, alone=True)[1]}
    assert 3 < len(whole) < 18
    for left_out in patients:
        rest = [case for case in cases if case.patient != left_out]
        held = {case.patient for case in hold_out_of(rest, part=0.3, alone=True)[1]}
        assert held == whole - {left_out}


@pytest.mark.parametrize("left", ["policies", "privacy.json"])
def test_a_site_whose_ledger_was_taken_away_does_not_begin_another(tiny, tmp_path, left):
    """It would have forgotten its answers, of which a policy may allow only so many."""
    recipe = tiny(*PRIVATE, "privacy.noise=4")
    once(recipe, tmp_path, ASKS)
    opened(recipe, tmp_path, ASKS).release.close()  # with its ledger it goes on
    for name in ("ledger.jsonl", "ledger.head"):
        (tmp_path / name).unlink()
    if left == "policies":
        (tmp_path / "privacy.json").unlink()
    else:
        shutil.rmtree(tmp_path / "policies")
    with pytest.raises(LedgerError, match=f"{left} is there, and ledger.head is not"):
        opened(recipe, tmp_path, ASKS)


def test_a_use_that_could_not_be_written_is_neither_charged_nor_in_the_ledger(
    tiny, tmp_path, monkeypatch
):
    recipe = tiny(*PRIVATE, "privacy.noise=4")
    site = opened(recipe, tmp_path, ASKS)
    judged(site, 0)

    def full(path, text):
        raise OSError("the disk is full")

    monkeypatch.setattr(accounting, "replace_text", full)
    with pytest.raises(OSError, match="full"):
        judged(site, 1)
    site.release.refuse("1f", "storage", "The disk is full.")  # a small line may fit still
    site.release.close()
    monkeypatch.undo()
    opened(recipe, tmp_path, ASKS).release.close()


def test_an_account_put_back_by_a_single_use_is_found(tiny, tmp_path):
    recipe = tiny(*PRIVATE, "privacy.noise=4")
    once(recipe, tmp_path, ASKS)
    account = tmp_path / "privacy.json"
    (row,) = json.loads(account.read_text())
    account.write_text(json.dumps([row | {"uses": row["uses"] - 1}]))
    with pytest.raises(PolicyError, match=f"the account only {row['uses'] - 1}"):
        opened(recipe, tmp_path, ASKS)


def test_what_left_without_privacy_is_not_forgotten(tiny, tmp_path):
    private = tiny(*PRIVATE, "privacy.noise=4")
    once(tiny(*CLASSES), tmp_path / "answers", SIMULATION)
    with pytest.raises(PolicyError, match="left without privacy"):
        opened(private, tmp_path / "answers", ASKS)
    masks = tiny(
        "privacy.kind=discriminator", "privacy.conditions=unprotected", "masks.release=false",
        "privacy.noise=4", "wire.feedback=float16",
    )  # fmt: skip
    open_ = Policy.from_toml(
        "[privacy]\nepsilon = 1.0\nunprotected_masks = true\n[leaves]\nmasks = 'transient'"
    )
    for _ in range(2):  # a card, with the masks of its first batch, which this policy lets out
        opened(masks, tmp_path / "masks", open_).release.close()
    with pytest.raises(PolicyError, match="messages with masks that left without privacy"):
        opened(private, tmp_path / "masks", ASKS)


@pytest.mark.parametrize(("noise", "then"), [("1e-9", Refusal), ("4", Judgement)])
def test_noise_that_no_policy_asks_for_leaves_feedback_bare_and_is_charged(
    tiny, tmp_path, noise, then
):
    recipe = tiny(*PRIVATE, f"privacy.noise={noise}")
    judge = Judge(run="1f", step=0, batch=0, images=torch.zeros(2, 1, 16, 16))
    open_, limit = "[allows]\nunmeasured = true\nfewest_patients = 1", "[privacy]\nepsilon = 1.0"
    found = []
    for text in (open_, limit):
        endpoint = Endpoint(opened(recipe, tmp_path, Policy.from_toml(text)), limit=2**20)
        answer = endpoint.answer(pack(judge, {"images": "float32"}))
        found.append(type(unpack(answer, ANSWERS, limit=2**20)))
        endpoint.close()
    assert found == [Judgement, then]
    bare = [entry.bare for entry in read(tmp_path / "ledger.jsonl") if entry.kind == "judgement"]
    assert bare == ["feedback", ""][: len(bare)]
