"""Sites that hold different modalities, and cases that lack some."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import CohortError, DataError, PolicyError, WireError
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.privacy import Policy, Release
from asyndgan.privacy.policy import AllowsSection, LeavesSection
from asyndgan.store import Cohort
from asyndgan.store.splits import OPEN, Chooser
from asyndgan.training import Site
from asyndgan.training.aggregation import LEAST_PART, weights_of
from asyndgan.wire.messages import ANSWERS, Card, Judge, unpack

EXACT = ("wire.images=float32", "wire.feedback=float32")


def incomplete(cohort: Cohort, present: list[list[bool]]) -> Cohort:
    """The same cases, some without a modality."""
    held = torch.tensor(present)
    images = torch.where(held[..., None, None], cohort.images, -1.0)
    return Cohort(
        images, cohort.conditions, modalities=cohort.modalities, labels=cohort.labels, present=held,
        move=cohort.move,
    )  # fmt: skip


def test_shares_by_modality_are_those_among_the_sites_that_hold_it(tiny, make_cohort, make_sites):
    """The gradient of mean_c sum_j pi_jc loss_jc, where each site holds one modality."""
    recipe = tiny(*EXACT, "shares.by=modality")
    held = {"east": (2, "T2"), "north": (6, "T1"), "south": (4, "T1"), "west": (6, "T2")}
    cohorts = {
        site: make_cohort(recipe, cases=cases, seed=seed, modalities=[modality])
        for seed, (site, (cases, modality)) in enumerate(held.items())
    }
    shares = {"east": 2 / 8, "north": 0.6, "south": 0.4, "west": 6 / 8}
    coordinator = make_sites(recipe, cohorts).begin()
    twins: dict[str, Site] = make_sites(recipe, cohorts).sites
    generator = copy.deepcopy(coordinator.generator)
    wanted = {site: member.conditions for site, member in coordinator.members.items()}
    images = coordinator.paint(generator, wanted)._graph
    gradients: list[torch.Tensor] = []
    coordinator.optimiser.register_step_pre_hook(
        lambda optimiser, args, keys: gradients.extend(
            [p.grad.clone() for p in coordinator.generator.parameters()]
        )
    )
    coordinator.step()
    scope = coordinator.scope.modalities
    loss = torch.zeros(())
    for (name, site), own in zip(twins.items(), images.split(recipe.training.batch), strict=True):
        real = site.draws.batch(0, recipe.training.batch)
        shown = own[:, [scope.index(modality) for modality in site.cohort.modalities]]
        site.objective.begin_step(0)
        site.objective.learn(real, replace(real, images=shown.detach()))
        said = site.objective.discriminator(shown, site.objective.maps(real.conditions))
        loss = loss + shares[name] * site.objective.adversarial.generator(said.score) / len(scope)
    central = torch.autograd.grad(loss, list(generator.parameters()))
    for ours, theirs in zip(gradients, central, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_who_says_that_next_to_no_case_has_a_modality_has_no_weight_without_limit(
    tiny, make_cohort, make_sites
):
    recipe = tiny("shares.by=modality")
    cohorts = {
        "north": make_cohort(recipe, seed=1, modalities=["T1"]),
        "west": make_cohort(recipe, seed=2, modalities=["T2"]),  # the only one
    }
    coordinator = make_sites(recipe, cohorts).begin()
    members = coordinator.members
    shares = coordinator.roster.shares_of(members)

    def weight(part):
        members["west"].parts = [part]
        return float(weights_of(members, shares, 2, by="modality")["west"])

    assert weight(0.5) == pytest.approx(2 * weight(1.0))
    assert weight(1e-6) == weight(LEAST_PART) == pytest.approx(weight(1.0) / LEAST_PART)


def test_a_site_that_lacks_a_modality_is_shown_the_look_that_such_sites_share(
    tiny, make_cohort, make_sites
):
    recipe = tiny(*EXACT, "generator.style=4", "generator.noise=1")
    cohorts = {
        "east": make_cohort(recipe, seed=1, modalities=["T1"]),
        "north": make_cohort(recipe, seed=1, modalities=["T1", "T2"]),
        "south": make_cohort(recipe, seed=1, modalities=["T2"]),
    }
    coordinator = make_sites(recipe, cohorts).begin()
    shown = coordinator.paint(
        coordinator.generator, {site: one.conditions for site, one in coordinator.members.items()}
    )
    ((_, noise),) = shown._chunks
    east, north, south = (own[0, -4:, 0, 0] for own in noise.split(recipe.training.batch))
    assert east.equal(south)
    assert not east.equal(north)


def test_a_case_that_lacks_a_modality_is_not_counted_as_absent_twice(tiny, make_cohort, make_sites):
    """Three cases each with T2: both sites pull T2 alike, though one has three more without."""
    recipe = tiny(*EXACT, "shares.by=modality", "training.flip=false")
    north, south = (make_cohort(recipe, cases=n, modalities=["T1", "T2"]) for n in (6, 3))
    north = incomplete(north, [[True, case % 2 == 0] for case in range(6)])
    members = dict(make_sites(recipe, {"north": north, "south": south}).begin().members)
    weights = weights_of(members, {"north": 6 / 9, "south": 3 / 9}, 2, by="modality")
    # Half of north's images carry feedback of T2 at all.
    assert float(0.5 * weights["north"][1]) == pytest.approx(0.5)
    assert float(weights["south"][1]) == pytest.approx(0.5)
    assert float(weights["north"][0] + weights["south"][0]) == pytest.approx(1.0)


def test_a_policy_that_keeps_cases_back_takes_none_whose_zeros_would_tell(tiny, make_cohort):
    recipe = tiny("masks.release=false", "training.move=true")
    whole = make_cohort(recipe, cases=2, modalities=["T1", "T2"])
    few = AllowsSection(fewest_patients=1, unmeasured=True)
    silent = Policy(leaves=LeavesSection(cases=False, masks="transient"), allows=few)
    lacking = incomplete(whole, [[True, False], [True, True]])
    with pytest.raises(PolicyError, match="zeros in the feedback would tell which"):
        Site("north", lacking, recipe, share=1.0, policy=silent)
    Site("north", whole, recipe, share=1.0, policy=silent)


@pytest.mark.parametrize("terms", [[], ["loss.paired_l1=5"]])
def test_where_a_case_lacks_a_modality_nobody_judges_it(tiny, make_cohort, make_sites, terms):
    recipe = tiny(*EXACT, "training.flip=false", *terms)
    whole = make_cohort(recipe, cases=4, modalities=["T1", "T2"])
    cohort = incomplete(whole, [[True, True], [True, False], [False, True], [True, True]])
    seen = []
    coordinator = make_sites(recipe, {"north": cohort}).begin()
    random = torch.Generator().manual_seed(0)
    for step in range(4):
        present = cohort.batch(step, 2).present
        member = coordinator.members["north"]
        assert member.parts == [0.75, 0.75]
        images = torch.rand(2, 2, *recipe.image.size, generator=random) * 2 - 1
        request = Judge(run=coordinator.roster.run, step=step, batch=member.batch, images=images)
        answers = coordinator.roster.exchange.ask({"north": request}).answers
        judgements, _ = coordinator._take(answers, {})
        coordinator.step_number += 1
        feedback = judgements["north"].feedback
        assert present is not None
        assert feedback[present].any() and not feedback[~present].any()
        seen.append(present)
    assert not torch.cat(seen).all()


def test_a_discriminator_sees_what_is_absent_alike_in_real_and_synthetic_images(tiny, make_cohort):
    recipe = tiny("training.flip=false")
    whole = make_cohort(recipe, cases=2, modalities=["T1", "T2"])
    cohort = incomplete(whole, [[True, False], [True, True]])
    batch = cohort.batch(0, 2)
    painted = torch.rand_like(batch.images)
    other = painted.clone()
    assert batch.present is not None
    other[~batch.present] = 0.5  # whatever the generator paints there
    states = []
    for images in (painted, other):
        objective = Site("north", cohort, recipe).objective
        objective.learn(batch, replace(batch, images=images))
        states.append(torch.cat([p.flatten() for p in objective.discriminator.parameters()]))
    assert torch.equal(*states)


def test_a_network_of_one_half_of_the_patients_judges_no_modality_that_it_never_saw(
    tiny, make_cohort
):
    whole = make_cohort(tiny(), cases=6, modalities=["T1", "T2"])
    first, second = map(whole.halves.tolist().index, (0, 1))
    alone = incomplete(whole, [[True, case == first] for case in range(6)])
    both = incomplete(whole, [[True, case in (first, second)] for case in range(6)])
    assert (alone.untaught, both.untaught) == (["T2"], [])
    wanted = "one half alone has cases with T2, .* Leave T2 out at this site, or set discriminator"
    with pytest.raises(CohortError, match=wanted):
        Site("north", alone, tiny("discriminator.cross_fitted=true"))
    Site("north", both, tiny("discriminator.cross_fitted=true"))
    Site("north", alone, tiny())


def test_what_cannot_tell_absent_from_black_is_refused(tiny, make_cohort):
    whole = make_cohort(tiny(), cases=2, modalities=["T1", "T2"])
    private = tiny(
        "privacy.kind=discriminator", "privacy.conditions=unprotected", "masks.release=false"
    )
    with pytest.raises(CohortError, match="site north: some cases lack a modality, and"):
        Site("north", incomplete(whole, [[True, False], [True, True]]), private)
    for present in ([[True, False], [True, False]], [[False, False], [True, True]]):
        with pytest.raises(CohortError, match="every case needs a modality"):
            incomplete(whole, present)


def test_a_site_says_how_many_cases_lack_a_modality_unless_its_policy_keeps_that_back(
    tiny, make_cohort
):
    whole = make_cohort(tiny(), cases=4, modalities=["T1", "T2"])
    cohort = incomplete(whole, [[True, True], [True, False], [True, True], [True, True]])
    card = Card(
        run="0", step=0, cases=4, share=4, modalities=["T1", "T2"], parts=cohort.declared.parts,
        labels={"0": "background"}, space=[16, 16], batch=0, conditions=cohort.conditions[:2],
        keep=True,
    )  # fmt: skip
    assert card.parts == [1.0, 0.75]
    door = Release(tiny())
    door.policy = Policy(leaves=LeavesSection(cases=False, masks="released", feedback=("float16",)))
    kept = unpack(door.let_out(card).payload, ANSWERS, limit=2**20)
    assert isinstance(kept, Card) and kept.parts == [1.0, 1.0]


def test_a_card_with_too_few_parts_is_refused(tiny, make_sites):
    federation = make_sites(tiny())
    coordinator = federation.begin()
    card = coordinator.roster.open("north", 0)
    with pytest.raises(WireError, match="which part of its cases has what"):
        coordinator.roster.welcome("north", card.model_copy(update={"parts": [1.0, 1.0]}))


@pytest.fixture
def patchy(tmp_path):
    """Three cases of T1 and T2; the second has no T2."""
    folder = tmp_path / "patchy"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(1)
    for case in range(3):
        mask = random.integers(0, 2, (16, 16), dtype=np.uint8)
        Image.fromarray(mask).save(folder / "labelsTr" / f"p{case}.png")
        for number in (0,) if case == 1 else (0, 1):
            grey = random.integers(1, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(grey).save(folder / "imagesTr" / f"p{case}_{number:04d}.png")
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 3,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def declare(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "incomplete": True}))


def test_a_missing_file_is_a_fault_until_the_data_set_says_that_cases_are_incomplete(patchy, tiny):
    setup, recipe = SiteSetup("north", patchy, patchy), tiny()
    (fault,) = check_folder(patchy).faults
    assert fault.reason == "modality 'T2' is missing for this case"
    with pytest.raises(DataError, match="case p1 has no modality T2"):
        load_cohort(setup, recipe)
    declare(patchy)
    report = check_folder(patchy)
    assert not report.faults
    assert ("lack T2", "1 cases; they are judged by what they have") in report.rows
    cohort = load_cohort(setup, recipe)
    assert cohort.declared.parts == pytest.approx([1, 2 / 3])
    assert (cohort.images[1, 1] == -1).all()
    with pytest.raises(DataError, match="case p1 has no modality T2"):  # a segmentation wants all
        DataSet(patchy).cases(recipe.image)


def test_a_site_can_go_without_a_modality_and_leaves_out_the_cases_of_nothing_else(patchy, tiny):
    declare(patchy)

    def cohort(*without):
        return load_cohort(SiteSetup("north", patchy, patchy, without=without), tiny())

    assert cohort("T2").modalities == ("T1",)
    second = cohort("T1")
    assert (second.modalities, len(second), second.present) == (("T2",), 2, None)
    with pytest.raises(CohortError, match="leave one that is painted"):
        cohort("T1", "T2")
    with pytest.raises(CohortError, match=r"without FLAIR.* has T1, T2"):
        cohort("FLAIR")


@pytest.mark.parametrize(
    ("chooser", "told"), [(OPEN, {("T1",), ("T1", "T2")}), (Chooser("ab" * 32), {("T1", "T2")})]
)
def test_a_modality_that_only_held_out_cases_have_is_told_of_by_no_site_with_a_secret(
    chooser, told, patchy, tiny
):
    for case in ("p0", "p2"):
        (patchy / "imagesTr" / f"{case}_0001.png").unlink()
    Image.fromarray(200 * np.eye(16, dtype=np.uint8)).save(patchy / "imagesTr" / "p1_0001.png")
    declare(patchy)
    found = set()
    for seed in range(8):
        recipe = tiny("training.hold_out=0.34", f"training.hold_out_seed={seed}")
        cohort = load_cohort(SiteSetup("north", patchy, patchy), recipe, chooser=chooser)
        found.add(cohort.modalities)
    assert found == told
