"""What a steward writes, what it refuses, and that the door holds to it."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.cli.site import first_policy
from asyndgan.errors import LedgerError, PolicyError, ProtocolError, WithheldError
from asyndgan.privacy import SIMULATION, Policy, Release
from asyndgan.privacy.ledger import Ledger, read
from asyndgan.privacy.measured_recipes import FAMILY, TABLES
from asyndgan.protocol import Endpoint
from asyndgan.recipe import Recipe, Section, known_keys
from asyndgan.runs import load_recipe
from asyndgan.training import Site
from asyndgan.wire.messages import (
    ANSWERS,
    Card,
    Close,
    Judge,
    Judgement,
    Open,
    Refusal,
    pack,
    unpack,
)
from commands import asyndgan

PRIVATE = (
    "masks.release=false", "training.move=true", "discriminator.augment=['shift']",
    "discriminator.cross_fitted=true", "discriminator.width=16", "discriminator.layers=3",
    "image.size=32", "loss.adversarial=least_squares",
)  # fmt: skip
"""Makes the tiny recipe one of the family that the default policy admits."""


def policy(text: str = "") -> Policy:
    """A policy of a site whose steward lets patients' masks leave, unless the text says more."""
    found = Policy.from_toml(text)
    if "masks" in found.leaves.model_fields_set:
        return found
    leaves = found.leaves.model_copy(update={"masks": "transient"})
    return found.model_copy(update={"leaves": leaves})


def judgement(**changes: Any) -> Judgement:
    fields: dict[str, Any] = {
        "run": "ab", "step": 0, "losses": {"adversarial": 0.5},
        "feedback": torch.ones(2, 1, 16, 16), "batch": 1,
        "conditions": torch.ones(2, 16, 16, dtype=torch.int64),
    }  # fmt: skip
    return Judgement(**(fields | changes))


def card(**changes: Any) -> Card:
    fields: dict[str, Any] = {
        "run": "ab", "step": 0, "cases": 17, "share": 2.0, "modalities": ["T1"], "parts": [1.0],
        "labels": {"0": "background"}, "space": [16, 16], "batch": 0,
        "conditions": torch.zeros(2, 16, 16, dtype=torch.int64), "keep": True,
    }  # fmt: skip
    return Card(**(fields | changes))


def through_the_door(recipe: Recipe, text: str, message: Any) -> Any:
    """Past a door that serves a recipe even if its policy would refuse it as a whole."""
    door = Release(recipe)
    door.policy = policy(text)
    return unpack(door.let_out(message).payload, ANSWERS, limit=2**20)


def test_there_is_no_door_for_a_recipe_that_the_policy_refuses_or_cannot_count(tiny, tmp_path):
    """Whoever builds a site, nothing leaves for a run that its steward would not have."""
    for override, text, said in (
        ("loss.paired_l1=100", "", "gives real pixels away"),
        ("loss.paired_l1=0", "[privacy]\nepsilon = 1", "privacy.kind is none"),
        ("loss.paired_l1=0", "[allows]\nunasked = false", "is not in allows.approved"),
    ):
        with pytest.raises(PolicyError, match=said):
            Release(tiny(*PRIVATE, override), policy(text))
    recipe = tiny(
        *PRIVATE, "training.steps=9", "timeline=[{site='a', last=3}, {site='b', first=4}]"
    )
    few = policy("[allows]\nmost_answers = 5")
    books = Ledger(tmp_path / "ledger.jsonl", few.digest(), recipe.digest())
    Release(recipe, few, books, site="a")  # four steps and the start
    with pytest.raises(PolicyError, match="there is no ledger that counts it"):
        Release(recipe, few, site="a")
    with pytest.raises(PolicyError, match="most_answers is 5"):
        Release(recipe, few)


def test_the_defaults_serve_a_private_recipe_and_no_other(tiny):
    assert policy().refused_by(tiny(*PRIVATE)) == []
    for override, said in (
        ("masks.release=true", "masks.release is true"),
        ("loss.paired_l1=10", "gives real pixels away"),
        ("wire.feedback=float32", "leaves.feedback is float16, int8, int4"),
        ("training.move=false", "outside what was measured (training.move)"),
    ):
        ((_, reason),) = policy().refused_by(tiny(*PRIVATE, override))
        assert said in reason


def test_what_may_not_leave_is_refused_or_not_among_the_bytes(tiny):
    given = tiny(*PRIVATE, "masks.source=given")
    with pytest.raises(PolicyError, match="lets no masks or classes out"):
        through_the_door(given, '[leaves]\nmasks = "never"', card())
    with pytest.raises(PolicyError, match="in this coding"):
        through_the_door(tiny("wire.feedback=float32"), "", judgement())
    recipe = tiny(*PRIVATE)
    assert through_the_door(recipe, "", judgement()).losses == {"adversarial": 0.5}
    assert through_the_door(recipe, "[leaves]\nlosses = false", judgement()).losses == {}
    assert through_the_door(recipe, "", card()).cases == 17
    assert through_the_door(recipe, "[leaves]\ncases = false", card()).cases == 1
    released = Release(tiny()).let_out(judgement())
    with pytest.raises(ProtocolError, match="only Release"):
        dataclasses.replace(released, payload=b"other")


def test_answers_are_counted_in_the_steps_in_which_a_site_takes_part(tiny, tmp_path):
    file = tmp_path / "recipe.toml"
    recipe = tiny(*PRIVATE, "timeline=[{site='south', first=2, last=4}]")
    file.write_text(recipe.to_toml(), "utf-8")
    four = policy("[allows]\nmost_answers = 4")
    twice = tiny(
        *PRIVATE,
        "timeline=[{site='south', first=4}, {site='south', last=0}, {site='south', first=9}, "
        "{site='south', first=1, last=1}, {site='south', first=5, last=5}]",
    )
    assert twice.presence_of("south") == [range(2), range(4, 6)]
    ((_, reason),) = policy("[allows]\nmost_answers = 5").refused_by(twice, "south")
    assert "south takes part in 4 steps and its 2 starts send masks as well" in reason
    assert not policy("[allows]\nmost_answers = 6").refused_by(twice, "south")
    assert not four.refused_by(recipe, "south")
    for site in ("north", None):
        assert "allows.most_answers is 4" in four.refused_by(recipe, site)[0][1]
    (tmp_path / "policy.toml").write_text(four.to_toml(), "utf-8")
    words = ["policy", "check", str(tmp_path / "policy.toml"), str(file)]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert CliRunner().invoke(app, [*words, "--site", "south"]).exit_code == 0


OUTSIDE = {
    "condition.kind": "condition.kind=none", "image.size": "image.size=80",
    "discriminator.kind": "discriminator.kind=dcgan",
    "discriminator.cross_fitted": "discriminator.cross_fitted=false",
    "discriminator.augment": "discriminator.augment=[]",
    "discriminator.width": "discriminator.width=128",
    "discriminator.layers": "discriminator.layers=1", "loss.adversarial": "loss.adversarial=bce",
    "loss.adversarial_weight": "loss.adversarial_weight=0.5",
    "loss.segmentation": "loss.segmentation=2", "loss.mismatch": "loss.mismatch=2",
    "loss.gradient_penalty": "loss.gradient_penalty=2",
    "optimiser.discriminator_rate": "optimiser.discriminator_rate=0.01",
    "training.batch": "training.batch=64", "training.move": "training.move=false",
}  # fmt: skip
ALONG = {
    "condition.kind": ("generator.kind=dcgan", "generator.latent=4", "generator.noise=0"),
    "loss.segmentation": ("discriminator.kind=patch_segmentation",),
    "loss.as_real": ("discriminator.kind=patch_segmentation", "loss.segmentation=1"),
}  # fmt: skip
"""What a recipe needs beside, to be a recipe at all."""


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.key)
def test_a_recipe_that_leaves_the_measured_family_by_one_key_runs_by_its_digest_alone(tiny, row):
    recipe = tiny(*PRIVATE, *ALONG.get(row.key, ()), OUTSIDE[row.key])
    assert row.key in [beyond.key for beyond in policy().unmeasured(recipe)]
    ((_, reason),) = policy().refused_by(recipe)
    assert row.key in reason and recipe.digest() in reason
    approved = policy(f'[allows]\napproved = ["{recipe.digest()}"]')
    assert not approved.refused_by(recipe)
    ((_, reason),) = approved.refused_by(recipe.model_copy(update={"name": "another"}))
    assert "not in allows.approved" in reason
    assert not policy("[allows]\nunmeasured = true").refused_by(recipe)
    assert not SIMULATION.refused_by(recipe)


def test_one_small_discriminator_without_masks_is_refused_under_what_site_init_writes(
    tiny, make_cohort, tmp_path
):
    """Through it a coordinator told 26 patients from 26 others with an AUC of 0.86."""
    policy = first_policy("north", "measured")
    small = tiny(
        "masks.release=false", "condition.kind=none", "generator.kind=dcgan", "generator.latent=4",
        "generator.noise=0", "discriminator.augment=['shift']",
    )  # fmt: skip
    for recipe, said in (
        (small, r"condition\.kind, .* discriminator\.cross_fitted"),
        (tiny(*PRIVATE), r"masks or classes of patients or records leave"),
    ):
        with pytest.raises(PolicyError, match=said):
            Site("north", make_cohort(recipe), recipe, policy=policy)
    recipe = tiny(*PRIVATE, "masks.source=given")
    Site("north", make_cohort(recipe), recipe, policy=policy, folder=tmp_path)
    # By the loss of an answer a coordinator told members, AUC 0.59 to 0.64; without it, not.
    bare = judgement(conditions=torch.zeros(2, dtype=torch.int64))
    assert bare.losses and through_the_door(recipe, policy.to_toml(), bare).losses == {}


def test_the_family_asks_nothing_of_recipes_whose_differential_privacy_is_bounded(tiny):
    # Noise hides something where a steward says how much there must be.
    noisy = tiny(*PRIVATE, "discriminator.cross_fitted=false", "privacy.kind=discriminator",
                 "privacy.noise=1e-9", "privacy.conditions=unprotected")  # fmt: skip
    assert "outside what was measured" in policy().refused_by(noisy)[0][1]
    strict = "[privacy]\nepsilon = 1000\nunprotected_masks = true"
    assert not policy(strict).refused_by(noisy)


@pytest.mark.parametrize(
    ("name", "passes"), [("default", True), ("demo", False), ("masks", True), ("paper", False)]
)
def test_of_the_shipped_recipes_the_default_policy_admits_default(name, passes):
    assert bool(policy().unmeasured(load_recipe(name))) is not passes
    assert bool(policy().refused_by(load_recipe(name))) is not passes


def test_the_check_says_row_by_row_what_could_be_learned_and_how_to_approve_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    file, other = tmp_path / "policy.toml", tmp_path / "other.toml"
    recipe = load_recipe("masks", ["discriminator.width=128", "discriminator.cross_fitted=false"])
    file.write_text(policy().to_toml(), "utf-8")
    other.write_text(recipe.to_toml(), "utf-8")
    words = ["policy", "check", str(file), str(other)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 1
    refused, *rows = said.output.splitlines()
    assert refused.startswith("refused: it is outside what was measured (")
    whole = " ".join(said.output.split())
    for beyond in policy().unmeasured(recipe):
        assert f"{beyond.key} is {beyond.value} (measured: {beyond.within})" in whole
        assert beyond.otherwise in whole
    assert f"  {recipe.digest()}" in rows
    file.write_text(policy(f'[allows]\napproved = ["{recipe.digest()}"]').to_toml(), "utf-8")
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0 and "measured" not in said.output


def test_a_site_of_few_patients_answers_less(tiny, make_cohort, tmp_path):
    """Also over several runs, whatever number of patients those before learned of."""
    recipe = tiny(*PRIVATE)
    few = policy("[allows]\nmost_answers_per_patient = 2\nmost_answers = 9\nfewest_patients = 1")
    assert [few.most_answers(patients) for patients in (None, 3, 4, 5)] == [9, 6, 8, 9]
    # Before it answers, a site does not show by this how many patients it has.
    assert few.refused_by(recipe) == few.refused_by(recipe, patients=3) == []

    def answers(cases):
        site = Site("north", make_cohort(recipe, cases=cases), recipe, folder=tmp_path, policy=few)
        count = 0
        with suppress(PolicyError):
            for count in range(20):
                site.release.let_out(judgement(step=count))
        site.release.close()
        return count

    assert answers(4) == 8
    assert answers(4) == 0
    assert answers(5) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[leaves]\nmasks = "never"', "masks or classes of patients or records leave"),
        ("[leaves]\nfeedback = []", "leaves.feedback is none"),
        ("[allows]\nmost_answers = 5", "training.steps is 6"),
        ("[allows]\nmost_answers = 6", "the start sends masks as well"),
        ("[allows]\nunasked = false", "unasked is false, and its digest"),
    ],
)
def test_a_stricter_policy_refuses_with_its_reason(tiny, text, said):
    ((_, reason),) = policy(text).refused_by(tiny(*PRIVATE))
    assert said in reason


@pytest.mark.parametrize("message", [judgement(), card()], ids=["judgement", "card"])
def test_no_mask_passes_the_door_of_a_site_that_sends_none(tiny, message):
    """Whatever the site was made to build: the door looks at what would become bytes."""
    never = '[leaves]\nmasks = "never"'
    whole = ("generator.kind=dcgan", "generator.latent=4", "discriminator.kind=dcgan")
    whole = (*whole, "generator.noise=0", "masks.release=false", "wire.feedback=float16")
    nothing = tiny("condition.kind=none", *whole)
    for recipe in (tiny(), nothing):
        with pytest.raises(PolicyError, match="no masks or classes out"):
            through_the_door(recipe, never, message)
    none = message.model_copy(update={"conditions": torch.zeros(2, dtype=torch.int64)})
    through_the_door(nothing, never, none)
    for private in ("none", "discriminator"):  # which draws classes without a look at patients
        classes = tiny("condition.kind=class", f"privacy.kind={private}", *whole)
        if private == "none":
            with pytest.raises(PolicyError, match="no masks or classes out"):
                through_the_door(classes, never, none)
            assert "so masks or classes of patients or records leave" in " ".join(
                reason for _, reason in policy(never).refused_by(classes)
            )
        else:
            through_the_door(classes, never, none)
            assert not policy(f"{never}\n[allows]\nunmeasured = true").refused_by(classes)


def test_nobody_is_alone_in_what_a_generator_learns(tiny, make_cohort):
    recipe = tiny(*PRIVATE)
    ((_, reason),) = policy().refused_by(recipe, patients=4)
    assert reason.startswith("it learns of 4 patients or records here, or has a modality of so few")
    assert not policy().refused_by(recipe, patients=5) + policy().refused_by(recipe)
    noisy = tiny(*PRIVATE, "discriminator.cross_fitted=false", "privacy.kind=discriminator",
                 "privacy.noise=9", "condition.kind=class")  # fmt: skip
    private = "[privacy]\nepsilon = 9\nunprotected_masks = true"
    assert not policy(private).refused_by(noisy, patients=1)
    strict = policy("[allows]\nfewest_patients = 1000")
    with pytest.raises(PolicyError, match=r"allows\.fewest_patients is 1000"):
        Site("north", make_cohort(recipe), recipe, policy=strict)


def test_a_generator_of_masks_learns_nothing_where_masks_never_leave():
    masks, approved = load_recipe("masks"), "[allows]\nunmeasured = true"
    ((_, reason),) = policy(f'[leaves]\nmasks = "never"\n{approved}').refused_by(masks)
    assert "learns what patients' masks look like" in reason
    assert not policy(approved).refused_by(masks)


def test_what_discriminators_say_of_themselves_stays_unless_it_may_leave(tiny):
    told = {"adversarial": 0.5, "discriminator": 0.1, "segmentation": 0.3}
    message = judgement(losses=told)
    answer = through_the_door(tiny(*PRIVATE), "", message)
    assert set(answer.losses) == {"adversarial", "segmentation"}
    # Noise hides it where a steward says how much there must be.
    noisy = tiny("masks.release=false", "condition.kind=class", "privacy.kind=discriminator",
                 "privacy.noise=1e-9", "privacy.patients=2")  # fmt: skip
    of_noise = judgement(
        losses={"discriminator_synthetic": 0.1}, conditions=torch.zeros(2, dtype=torch.int64)
    )
    assert through_the_door(noisy, "", of_noise).losses == {}
    assert through_the_door(noisy, "[privacy]\nepsilon = 9", of_noise).losses
    text = "[leaves]\ndiscriminator_losses = true"
    assert set(through_the_door(tiny(*PRIVATE), text, message).losses) == set(told)
    new = judgement(losses=told | {"nearest_patient": 0.7})  # of a part nobody has thought of yet
    assert set(through_the_door(tiny(*PRIVATE), text, new).losses) == set(told)
    assert set(through_the_door(tiny(*PRIVATE), "", new).losses) == {"adversarial", "segmentation"}


def test_a_site_that_hides_its_number_of_cases_declares_a_share(tiny, make_cohort):
    recipe, hidden = tiny(*PRIVATE), policy("[leaves]\ncases = false")
    with pytest.raises(PolicyError, match="Declare a share"):
        Site("north", make_cohort(recipe), recipe, policy=hidden)
    assert Site("north", make_cohort(recipe), recipe, policy=hidden, share=2.0).share == 2


def test_a_site_answers_no_more_steps_than_its_policy_allows_rolled_back_ones_counted(
    tiny, make_cohort, tmp_path
):
    recipe = tiny(*PRIVATE)
    allowed = policy("[allows]\nmost_answers = 8")
    for start in range(2):  # started again, as after a crash: the ledger remembers
        site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=allowed)
        site.release.let_out(card(cases=17 + start))  # another card
        for step in range(3):
            site.release.let_out(judgement(step=step))
        site.release.close()
    site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=allowed)
    with pytest.raises(PolicyError, match="as often as its policy allows"):
        site.release.let_out(judgement())
    with pytest.raises(PolicyError, match="as often as its policy allows"):
        site.release.let_out(card())  # or masks would leave without end, moved differently
    site.release.refuse("ab", "policy", "That is all.")  # other answers go on
    site.release.close()


@pytest.mark.parametrize(
    "error, told",
    [
        (PolicyError("/data/ward 3/policy.toml is no file"), "its policy refuses; the reason"),
        (PolicyError("12 patients are few", ("allows.approved",)), "refuses (allows.approved);"),
        (WithheldError("this site's privacy budget is spent."), "budget is spent"),
    ],
)
def test_of_a_refusal_by_the_policy_only_keys_and_texts_without_files_cross_the_wire(
    tiny, make_cohort, monkeypatch, error, told
):
    site = Site("a", make_cohort(tiny()), tiny())

    def refuse(request: Any) -> Any:
        raise error

    monkeypatch.setattr(site, "handle", refuse)
    answer = Endpoint(site, limit=2**20).answer(pack(Close(run="0" * 32), {}))
    said = unpack(answer, ANSWERS, limit=2**20)
    assert isinstance(said, Refusal) and said.code == "policy" and told in said.reason
    assert "ward" not in said.reason and "12" not in said.reason


def test_the_last_answer_comes_again_as_often_as_it_is_lost_and_the_next_is_refused_untaught(
    tiny, make_cohort, tmp_path
):
    """Else whoever repeats a request uses up a site's limit, and a refused one still teaches."""
    recipe = tiny(*PRIVATE, "training.steps=2")
    allowed = policy("[allows]\nmost_answers = 3")
    site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=allowed)
    site.release.let_out(card(cases=17))  # of an earlier start
    endpoint = Endpoint(site, limit=2**20)
    endpoint.answer(pack(Open(run="ab", recipe=recipe.digest(), step=0), {}))
    images = torch.zeros(recipe.training.batch, 1, *recipe.image.size)

    def said(step: int) -> Any:
        request = Judge(run="ab", step=step, batch=step, images=images)
        payload = pack(request, {"images": "float16"})
        return unpack(endpoint.answer(payload), ANSWERS, limit=2**20)

    assert [type(said(0)) for _ in range(4)] == [Judgement] * 4
    taught = torch.cat([one.flatten() for one in site.objective.state().values()])
    for _ in range(2):
        assert "as often as its policy allows" in said(1).reason
    now = torch.cat([one.flatten() for one in site.objective.state().values()])
    assert torch.equal(now, taught) and site.step == 1
    endpoint.close()


def test_cards_without_masks_of_patients_are_no_answers(tiny, make_cohort, tmp_path):
    recipe = tiny(
        *PRIVATE, "condition.kind=none", "generator.kind=dcgan", "generator.latent=4",
        "generator.noise=0",
    )  # fmt: skip
    allowed = policy("[allows]\nmost_answers = 6\nunmeasured = true")
    site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=allowed)
    nothing = torch.zeros(2, dtype=torch.int64)
    for _ in range(7):
        site.release.let_out(card(conditions=nothing))
    site.release.let_out(judgement(conditions=nothing))
    site.release.close()


def test_every_policy_that_was_in_force_is_kept_beside_the_ledger(tiny, make_cohort, tmp_path):
    recipe = tiny(*PRIVATE)
    policies = policy("[allows]\nmost_answers = 70"), policy("[allows]\nmost_answers = 80")
    for one in policies:
        site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=one)
        site.release.let_out(card())
        site.release.close()
    file = tmp_path / "ledger.jsonl"
    named = [entry.policy for entry in read(file)]
    kept = [Policy.from_file(tmp_path / "policies" / f"{digest}.toml") for digest in named]
    assert kept == list(policies)
    assert asyndgan("ledger", "verify", file).startswith("whole, to line 2:")
    shown = asyndgan("ledger", "show", file)
    assert f"policy {named[1][:16]} in force in one line, from 2 to 2" in shown
    assert "masks in two messages, which no limit on epsilon covers" in shown
    (tmp_path / "policies" / f"{named[1]}.toml").write_text(policies[0].to_toml())
    with pytest.raises(LedgerError, match=r"in force from line 2, is not there, or is not what"):
        asyndgan("ledger", "verify", file)


def test_every_policy_survives_its_own_toml():
    for one in (policy(), SIMULATION, policy('[leaves]\nmasks = "never"\nfeedback = ["int4"]')):
        assert Policy.from_toml(one.to_toml()) == one
        assert Policy.from_toml(one.to_toml()).digest() == one.digest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[leaves]\nmask = 1", "Did you mean leaves.masks"),
        ('[leaves]\nmasks = "sometimes"', "leaves.masks"),
        ("[allows]\nmost_answers = 0", "most_answers"),
        ('[allows]\napproved = ["abc"]', "approved"),
    ],
)
def test_a_policy_that_cannot_be_understood_is_refused(text, said, tmp_path):
    with pytest.raises(PolicyError, match=said):
        policy(text)
    with pytest.raises(PolicyError, match=r"nope' is no policy file .* 'asyndgan policy show > "):
        Policy.from_file(tmp_path / "nope")


def test_images_that_come_again_in_another_step_are_noted_in_the_ledger(
    tiny, make_cohort, tmp_path
):
    """A generator in training hardly paints the same twice; who asks about one image sends it."""
    recipe = tiny(*PRIVATE, "wire.images=uint8")
    site = Site("north", make_cohort(recipe), recipe, folder=tmp_path, policy=policy())
    endpoint, random = Endpoint(site, limit=2**20), torch.Generator().manual_seed(0)
    drawn = torch.rand(7, 1, *recipe.image.size, generator=random) * 2 - 1

    def asked(run, step, *images, opened=False):
        judge = Judge(run=run, step=step, batch=step, images=drawn[list(images)].clone())
        open_ = Open(run=run, recipe=recipe.digest(), step=step)
        for message in [open_, judge] if opened else [judge]:
            answer = endpoint.answer(pack(message, {"images": "uint8"}))
            assert not isinstance(unpack(answer, ANSWERS, limit=2**20), Refusal)

    asked("ab", 0, 0, 1, opened=True)
    asked("ab", 1, 2, 3)
    asked("ab", 2, 4, 1)  # one of the first step's
    asked("ab", 3, 2, 3)  # a whole batch
    asked("ab", 0, 0, 1, opened=True)  # a run that goes back paints what it painted in that step
    endpoint.answer(pack(Close(run="ab"), {}))
    asked("cd", 0, 0, 5, opened=True)  # another run of one recipe may begin alike
    asked("cd", 1, 6, 1)  # and does not make what came before new
    endpoint.close()
    file = tmp_path / "ledger.jsonl"
    lines = [entry.repeated for entry in read(file) if entry.kind == "judgement"]
    assert lines == [0, 0, 1, 2, 0, 0, 1]
    said = CliRunner().invoke(app, ["ledger", "show", str(file)]).output
    assert "four images came again in another step" in " ".join(said.split())


DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"


def with_table(text: str, name: str, columns: str, rows: Iterable[tuple[str, ...]]) -> str:
    before, begin, rest = text.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    assert begin and end
    lines = [columns, "|---" * len(columns.strip("|").split("|")) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}"


def scalars(section: type[Section], above: str = "") -> Iterator[tuple[str, set[type]]]:
    """Each key of a section and those within, and the types of a single value that it takes."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from scalars(field.annotation, f"{name}.")
        else:
            taken = get_args(field.annotation) or (field.annotation,)
            yield above + name, {each for each in taken if each in (bool, int, float)}


@pytest.mark.parametrize(
    ("key", "taken"), [each for each in scalars(Policy) if each[1]], ids=lambda each: str(each)
)
def test_a_flag_or_a_number_is_not_guessed_from_another_type(key, taken):
    section, _, name = key.rpartition(".")
    wrong = ['"1"', '"true"', *(["1", "0.5"] if bool in taken else ["true"])]
    for value in wrong:
        with pytest.raises(PolicyError, match=name):
            Policy.from_toml(f"[{section}]\n{name} = {value}\n")


def keys() -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of everything that a policy decides."""
    for name, section in Policy():
        if isinstance(section, Section):
            for key, field in type(section).model_fields.items():
                value = getattr(section, key)
                shown = ", ".join(value) if isinstance(value, tuple) else json.dumps(value)
                default = "left out" if value is None else shown.strip('"') or "empty"
                yield f"`{name}.{key}`", default, str(field.description)


def free() -> Iterator[tuple[str, str]]:
    """Sections of a recipe with the keys that the family does not restrict."""
    restricted = {row.key for row in (TABLES, *FAMILY)}
    found: dict[str, list[str]] = {}
    for key in known_keys():
        if key not in restricted:
            section, _, name = key.rpartition(".")
            found.setdefault(section and f"`{section}`", []).append(f"`{name}`")
    return ((section or "top level", ", ".join(names)) for section, names in found.items())


def with_tables(text: str) -> str:
    text = with_table(text, "keys", "| key | default | what it decides |", keys())
    family = (
        (f"`{row.key}`", row.measured.within, (row.of_masks or row.measured).within, row.otherwise)
        for row in (TABLES, *FAMILY)
    )
    columns = "| key | measured | of recipes that learn masks | what could be learned otherwise |"
    text = with_table(text, "family", columns, family)
    return with_table(text, "free", "| section | not restricted |", free())


def test_the_document_has_the_keys_and_the_family_as_they_are():
    text = DOCUMENT.read_text("utf-8")
    assert text == with_tables(text)
    assert load_recipe("paper").digest() in DOCUMENT.with_name("steward.md").read_text("utf-8")


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8")), "utf-8")
