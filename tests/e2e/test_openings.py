"""What a coordinator learns from a site that has not answered anything yet."""

import hashlib
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup, set_up
from asyndgan.engines.setup import CHOOSER_FILE, chooser_at
from asyndgan.errors import AsyndganError, LedgerError, PolicyError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.patients import patient_of
from asyndgan.privacy.openings import FILE
from asyndgan.protocol import Endpoint
from asyndgan.recipe import Recipe
from asyndgan.wire.messages import (
    ANSWERS,
    Card,
    Close,
    Closed,
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
from small import declare
from volumes import write_volumes

BARE = (
    "image.size=32", "condition.kind=none", "generator.kind=dcgan", "generator.latent=4",
    "generator.noise=0", "masks.release=false",
)  # fmt: skip
PRIVATE = (*BARE, "privacy.kind=discriminator")
POLICIES = {
    "private": (PRIVATE, '[privacy]\nepsilon = 8.0\n[leaves]\nmasks = "never"'),
    "plain": ((*BARE, "training.move=false", "discriminator.augment=['shift']"), ""),
}
PERCENTILES = [
    f"image.intensity.default.{key}" for key in ("kind=percentiles", "low=0.5", "high=99.5")
]
STEP = 1e-9


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.6)
    return folder / DEFAULT_SITES[0].name


def patients_in(folder: Path) -> list[str]:
    return sorted({patient_of(case.name) for case in DataSet(folder).files})


def number_of(name: str, seed: int = 0) -> float:
    """The number that anybody can compute of a patient's name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def setup_of(data: Path, folder: Path, policy: str, name: str = "run") -> SiteSetup:
    if "epsilon" not in policy:  # what is told before it answers does not depend on the family
        policy = f"[allows]\nunmeasured = true\n{policy}"
    (folder / "policy.toml").write_text(policy)
    return SiteSetup(
        "north", data, folder / name, share=3.0, policy=folder / "policy.toml",
        records=folder / "records",
    )  # fmt: skip


def exchanged(endpoint: Endpoint, recipe: Recipe, request: Message) -> Message:
    payload = pack(request, {"images": recipe.wire.images})
    return unpack(endpoint.answer(payload), ANSWERS, limit=2**24)


def asked(setup: SiteSetup, recipe: Recipe, *requests: Message) -> list[Message]:
    """The answers of a site that was just started."""
    with closing(set_up(setup, recipe)) as endpoint:
        return [exchanged(endpoint, recipe, request) for request in requests]


def told(setup: SiteSetup, recipe: Recipe) -> str:
    """All that a site tells when it is opened, or that it does not begin."""
    try:
        (card,) = asked(setup, recipe, Open(run="ab", recipe=recipe.digest(), step=0))
    except AsyndganError as error:
        return type(error).__name__
    assert isinstance(card, Card)
    return str(card.model_copy(update={"conditions": card.conditions.shape}))


# The attack: the card of two recipes whose hold-outs lie just below and just above a name's number.
@pytest.mark.parametrize("kind", POLICIES)
def test_nothing_that_a_site_tells_before_it_answers_depends_on_whom_a_recipe_holds_out(
    kind, hospital, tiny, tmp_path
):
    overrides, policy = POLICIES[kind]
    setup = setup_of(hospital, tmp_path, policy)
    names = [*patients_in(hospital), "somebody_else"]
    # A private recipe that holds nearly everybody out may by chance leave nobody.
    numbers = sorted(map(number_of, names))[:2] if kind == "private" else [0.1, 0.97]
    found = set()
    for number in numbers:
        for part in (number - STEP, number + STEP):
            found.add(told(setup, tiny(*overrides, f"training.hold_out={part}")))
    assert len(found) == 1 and "cases=" in found.pop()


@pytest.mark.parametrize("kind", POLICIES)
def test_how_many_cases_a_site_tells_of_does_not_depend_on_the_grid(kind, tiny, tmp_path):
    cases = {}
    for number in range(8):  # each patient shows one small label at a place of its own
        label = np.zeros((40, 40, 3), np.uint8)
        label[4 * number + 2 : 4 * number + 4, 3 * number + 1, 1] = 1
        image = np.random.default_rng(number).normal(500, 100, label.shape).astype(np.float32)
        cases[f"patient{number}"] = image, label, np.diag([0.7 + number / 20, 0.8, 3, 1])
    write_volumes(tmp_path / "data", cases, label="lesion")
    overrides, policy = POLICIES[kind]
    setup = setup_of(tmp_path / "data", tmp_path, policy)
    chosen = (*overrides, "image.slices=labelled", *PERCENTILES)
    grids = ["image.fit=stretch", *(f"image.spacing=[{mm},0.9]" for mm in (0.5, 2.6))]
    found = [told(setup, tiny(*chosen, grid)) for grid in grids]
    assert len({card.partition(" modalities")[0] for card in found}) == 1
    assert all("cases=8" in card for card in found)


def test_who_is_held_out_follows_from_the_sites_secret_and_is_the_same_in_every_run(
    hospital, tiny, tmp_path
):
    overrides, policy = POLICIES["plain"]
    recipe = tiny(*overrides, "training.hold_out=0.4")
    members: dict[str, str] = {}
    halves: dict[str, str] = {}
    for books in ("one", "two"):
        (tmp_path / books).mkdir()
        for name in ("first", "second"):
            setup = setup_of(hospital, tmp_path / books, policy, name)
            with closing(set_up(setup, recipe)) as endpoint:
                members[books + name] = endpoint.handler.cohort.members
            with closing(set_up(setup, tiny(*overrides))) as endpoint:  # nobody is held out
                halves[books + name] = str(endpoint.handler.cohort.halves)
    for found in (members, halves):  # also which network of a cross-fitted pair sees whom
        assert found["onefirst"] == found["onesecond"] != found["twofirst"]
        assert found["twofirst"] == found["twosecond"]


def test_a_site_is_opened_with_no_more_recipes_than_its_policy_allows(hospital, tiny, tmp_path):
    overrides, _ = POLICIES["plain"]
    setup = setup_of(hospital, tmp_path, "most_recipes = 2")
    recipes = [tiny(*overrides, f"training.seed={seed}") for seed in range(3)]
    opened = [told(setup, recipe) for recipe in (*recipes[:2], *recipes)]
    assert opened[:4] == opened[:1] * 4 and opened[4] == "PolicyError"
    # Refused before its data were looked at, and after one that does not begin.
    (tmp_path / "records" / FILE).unlink()
    with pytest.raises(LedgerError, match="was taken away from its ledger"):
        set_up(setup, recipes[0])
    other = tmp_path / "other"
    other.mkdir()
    setup = setup_of(hospital / "nowhere", other, "most_recipes = 1")
    assert told(setup, recipes[0]) == "DataFileError"
    with pytest.raises(PolicyError, match="opened with 1 different recipes"):
        set_up(setup, recipes[1])


def judging(recipe: Recipe, card: Message) -> Judge:
    assert isinstance(card, Card | Judgement)
    images = torch.zeros(recipe.training.batch, 3, *recipe.image.size)
    return Judge(run="ab", step=card.batch, batch=card.batch, images=images)


def test_an_attempt_that_is_over_stays_over_when_the_compute_is_started_again(
    hospital, tiny, tmp_path
):
    overrides, _ = POLICIES["plain"]
    recipe, setup = tiny(*overrides), setup_of(hospital, tmp_path, "")
    old, new = (
        Open(run="ab", recipe=recipe.digest(), step=0, attempt=attempt) for attempt in ("a1", "b2")
    )
    asked(setup, recipe, old, new)
    (said,) = asked(setup, recipe, old)
    assert isinstance(said, Refusal) and "attempt at the run is over" in said.reason
    # Within the newest attempt: its own first request comes late, when a state was stored.
    judge = judging(recipe, asked(setup, recipe, new)[0])
    done = asked(setup, recipe, new, judge, Save(run="ab", step=1))
    assert isinstance(done[-1], Saved)
    late, judged = asked(setup, recipe, new, judge)
    assert isinstance(late, Refusal) and "step 0 is over" in late.reason
    assert isinstance(judged, Refusal)
    again = new.model_copy(update={"step": 1})
    anew = new.model_copy(update={"attempt": "c3"})  # a coordinator that has lost its checkpoint
    assert [type(one) for one in asked(setup, recipe, again, anew)] == [Card, Card]


def test_an_attempt_that_was_closed_stays_closed_when_the_compute_is_started_again(
    hospital, tiny, tmp_path
):
    overrides, _ = POLICIES["plain"]
    recipe, setup = tiny(*overrides), setup_of(hospital, tmp_path, "")
    first = Open(run="ab", recipe=recipe.digest(), step=0, attempt="a1")
    assert [type(one) for one in asked(setup, recipe, first, Close(run="ab"))] == [Card, Closed]
    opened, judged = asked(setup, recipe, first, judging(recipe, Card.model_construct(batch=0)))
    assert isinstance(opened, Refusal) and "attempt at the run is over" in opened.reason
    assert isinstance(judged, Refusal)
    again = first.model_copy(update={"attempt": "b2"})  # a run that is lengthened
    assert isinstance(asked(setup, recipe, again)[0], Card)


def test_a_start_that_was_saved_before_it_judged_anything_is_no_state_to_go_back_to(
    hospital, tiny, tmp_path
):
    recipe = tiny("image.size=32", "masks.release=false", "training.move=true")
    setup = setup_of(hospital, tmp_path, "[leaves]\nmasks = 'transient'")
    opening = Open(run="ab", recipe=recipe.digest(), step=0)
    with closing(set_up(setup, recipe)) as endpoint:
        seen = []
        for _ in range(3):  # a roll-back to the start, after what was to pin it
            card = exchanged(endpoint, recipe, opening)
            assert isinstance(exchanged(endpoint, recipe, Save(run="ab", step=0)), Saved)
            said = exchanged(endpoint, recipe, judging(recipe, card))
            assert isinstance(card, Card) and isinstance(said, Judgement)
            seen += [card.conditions.tolist(), said.feedback.tolist()]
    assert len(set(map(str, seen))) == len(seen)


def incomplete(folder: Path, holders: int) -> Path:
    """Twelve patients of one case each, of whom so many have a second modality."""
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.6)
    data = folder / DEFAULT_SITES[0].name
    declare(data, incomplete=True)
    for number, patient in enumerate(patients_in(data)):
        if number >= holders:
            for file in data.glob(f"imagesTr/{patient}_*_0001.png"):
                file.unlink()
    return data


@pytest.mark.parametrize("crossed", ["false", "true"])
@pytest.mark.parametrize(("holders", "begins"), [(4, False), (6, True)])
def test_a_modality_of_few_patients_is_not_learned_whatever_a_recipe_holds_out(
    holders, begins, crossed, tiny, tmp_path
):
    overrides, policy = POLICIES["plain"]
    data, found = incomplete(tmp_path / "data", holders), set()
    for books in "ab":  # each with a secret of its own
        (tmp_path / books).mkdir()
        setup = setup_of(data, tmp_path / books, policy)
        for part in (0.1, 0.6, 0.9):
            held = (f"training.hold_out={part}", f"discriminator.cross_fitted={crossed}")
            found.add(told(setup, tiny(*overrides, *held)))
    assert len(found) == 1
    assert ("modalities=['T1', 'T2', 'FLAIR']" in found.pop()) == begins


@pytest.mark.parametrize("text", ["", '{"secret": "zz"}', '{"secret": 5, "least": 1e400}'])
def test_a_damaged_record_of_who_was_held_out_is_an_error_of_ours(text, tmp_path):
    (tmp_path / CHOOSER_FILE).write_text(text)
    with pytest.raises(RunError, match="not as the site wrote it"):
        chooser_at(tmp_path)


def test_a_site_does_not_start_without_the_recipes_that_its_ledger_names(hospital, tiny, tmp_path):
    overrides, policy = POLICIES["plain"]
    setup = setup_of(hospital, tmp_path, policy)
    for seed in (1, 2):
        told(setup, tiny(*overrides, f"training.seed={seed}"))
    file = setup.records / FILE
    kept = file.read_text()
    file.write_text(json.dumps(json.loads(kept) | {"recipes": []}))
    with pytest.raises(LedgerError, match="lacks recipes under which messages left"):
        set_up(setup, tiny(*overrides, "training.seed=3"))
    file.write_text(kept)
    assert "cases=" in told(setup, tiny(*overrides, "training.seed=3"))
