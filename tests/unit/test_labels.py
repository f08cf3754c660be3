"""Labels of images as messages: what a site answers, and what its policy has to say."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyndgan.data import Cohort
from asyndgan.engines import SiteSetup, set_up
from asyndgan.errors import PolicyError
from asyndgan.models.budget import SegmentationBudget
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.privacy.ledger import read
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.training import Site
from asyndgan.wire import ANSWERS, Close, Label, Labelled, Message, Open, Refusal, pack, unpack

RUN = "ab12"
ALLOWED = "[leaves]\nlabels = true\n[allows]\nunmeasured = true\nfewest_patients = 1\n"


def asked(endpoint: Endpoint, request: Message) -> Message:
    payload = pack(request, {"images": "uint8"} if isinstance(request, Label) else {})
    return unpack(endpoint.answer(payload), ANSWERS, limit=2**24)


def labelling(recipe: Recipe, images: torch.Tensor, run: str = RUN) -> Label:
    return Label(run=run, recipe=recipe.digest(), images=images)


@pytest.fixture
def site(
    tiny: Callable[..., Recipe], make_cohort: Callable[..., Cohort], tmp_path: Path
) -> Callable[..., tuple[Endpoint, Recipe, Cohort]]:
    """A site whose network learns for some steps: `site(policy, overrides)`."""

    def make(
        policy: Policy = SIMULATION, *overrides: str, steps: int = 150
    ) -> tuple[Endpoint, Recipe, Cohort]:
        recipe = tiny("image.size=32", *overrides)
        cohort = make_cohort(recipe, cases=6)
        made = Site(
            "north", cohort, recipe, folder=tmp_path, policy=policy,
            labelling=SegmentationBudget(steps=steps, batch=4, width=4),
        )  # fmt: skip
        return Endpoint(made, limit=message_limit(recipe)), recipe, cohort

    return make


def test_a_sites_network_learns_its_labels_and_tells_their_probabilities(
    site: Callable[..., tuple[Endpoint, Recipe, Cohort]], tmp_path: Path
) -> None:
    endpoint, recipe, cohort = site()
    answer = asked(endpoint, labelling(recipe, cohort.images))
    assert isinstance(answer, Labelled)
    told = (answer.probabilities + 1) / 2
    assert told.shape == (6, 3, 32, 32)
    assert torch.allclose(told.sum(1), torch.ones(6, 32, 32), atol=0.01)
    right = (told.argmax(1) == cohort.conditions).float().mean()
    assert right > 0.6  # a guess is right in a third of the pixels
    again = asked(endpoint, labelling(recipe, cohort.images))
    assert isinstance(again, Labelled)
    assert torch.equal(again.probabilities, answer.probabilities)
    lines = list(read(tmp_path / "ledger.jsonl"))
    assert {(line.kind, line.bare, line.step) for line in lines} == {("labelled", "labels", None)}
    assert len(lines) == 2


def test_nothing_is_labelled_during_a_run_and_a_run_is_as_if_nothing_had_been(
    site: Callable[..., tuple[Endpoint, Recipe, Cohort]],
) -> None:
    endpoint, recipe, cohort = site(steps=1)
    opening = pack(Open(run=RUN, recipe=recipe.digest(), step=0), {})
    before = endpoint.answer(opening)
    refused = asked(endpoint, labelling(recipe, cohort.images))
    assert isinstance(refused, Refusal) and "when it is over" in refused.reason
    asked(endpoint, Close(run=RUN))
    assert isinstance(asked(endpoint, labelling(recipe, cohort.images)), Labelled)
    assert endpoint.answer(opening) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": torch.zeros(65, 1, 32, 32)}, "at most 64 of shape"),
        ({"images": torch.zeros(2, 2, 32, 32)}, r"shape \(2, 2, 32, 32\)"),
        ({"images": torch.zeros(2, 1, 16, 32)}, r"of shape \(1, 32, 32\)"),
        ({"recipe": "0" * 64}, "was set up for recipe"),
    ],
)
def test_images_that_are_not_the_runs_are_refused_before_anything_is_learned(
    change: dict[str, object],
    reason: str,
    site: Callable[..., tuple[Endpoint, Recipe, Cohort]],
) -> None:
    endpoint, recipe, cohort = site(steps=10**9)
    request = labelling(recipe, cohort.images).model_copy(update=change)
    answer = asked(endpoint, request)
    assert isinstance(answer, Refusal) and answer.code == "order"
    assert re.search(reason, answer.reason), answer.reason


def test_a_run_whose_images_show_no_masks_has_no_labels(
    site: Callable[..., tuple[Endpoint, Recipe, Cohort]],
) -> None:
    none = ("condition.kind=none", "masks.release=false")
    endpoint, recipe, cohort = site(SIMULATION, *none, steps=10**9)
    answer = asked(endpoint, labelling(recipe, cohort.images))
    assert isinstance(answer, Refusal) and "show no masks" in answer.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"leaves": SIMULATION.leaves.model_copy(update={"labels": False})}, "leaves.labels"),
        ({"allows": SIMULATION.allows.model_copy(update={"most_answers": 10})}, "as often as"),
    ],
)
def test_the_policy_has_the_last_word_before_minutes_of_training(
    change: dict[str, object],
    reason: str,
    site: Callable[..., tuple[Endpoint, Recipe, Cohort]],
) -> None:
    endpoint, recipe, cohort = site(SIMULATION.model_copy(update=change), steps=1)
    request = labelling(recipe, cohort.images)
    if reason == "as often as":
        for _ in range(10):
            assert isinstance(asked(endpoint, request), Labelled)
    else:
        object.__setattr__(endpoint.handler, "_labelling", SegmentationBudget(steps=10**9))
    answer = asked(endpoint, request)
    assert isinstance(answer, Refusal) and answer.code == "policy" and reason in answer.reason


def test_the_default_policy_lets_no_labels_out_nor_one_that_limits_epsilon() -> None:
    with pytest.raises(PolicyError, match=r"leaves\.labels"):
        Policy().check_leaves("labels")
    limited = Policy.from_toml("[leaves]\nlabels = true\n[privacy]\nepsilon = 8.0\n")
    with pytest.raises(PolicyError, match="epsilon"):
        limited.check_leaves("labels")
    Policy.from_toml("[leaves]\nlabels = true\n").check_leaves("labels")


def test_labels_count_where_a_policy_limits_epsilon_later(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(ALLOWED)
    setup = SiteSetup(
        "north", phantoms["north"], tmp_path / "state", policy=policy, records=tmp_path / "books",
        label_steps=1,
    )  # fmt: skip
    recipe = tiny("image.size=32", "masks.release=false")
    endpoint = set_up(setup, recipe)
    assert isinstance(asked(endpoint, labelling(recipe, torch.zeros(1, 3, 32, 32))), Labelled)
    endpoint.close()
    private = tiny(
        "image.size=32", "masks.release=false", "privacy.kind=discriminator",
        "privacy.noise=4", "privacy.conditions=unprotected",
    )  # fmt: skip
    policy.write_text("[privacy]\nepsilon = 1000.0\nunprotected_masks = true\n")
    with pytest.raises(PolicyError, match="1 messages with labels"):
        set_up(replace(setup, state=tmp_path / "other"), private)


@pytest.mark.parametrize(
    ("part", "policy", "reason"),
    [
        (0.3, "", "training.hold_out of 0.2 at most, and this run's is 0.3"),
        (0.2, "", ""),
        (0.3, "known_start = true\n", ""),
    ],
)
def test_a_network_of_patients_whom_a_hold_out_left_over_labels_nothing(
    part: float,
    policy: str,
    reason: str,
    tiny: Callable[..., Recipe],
    phantoms: dict[str, Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "policy.toml").write_text(ALLOWED + policy)
    steps = 10**9 if reason else 1
    setup = SiteSetup(
        "north", phantoms["north"], tmp_path, policy=tmp_path / "policy.toml", label_steps=steps
    )
    recipe = tiny("image.size=32", "masks.release=false", f"training.hold_out={part}")
    answer = asked(set_up(setup, recipe), labelling(recipe, torch.zeros(1, 3, 32, 32)))
    if reason:
        assert isinstance(answer, Refusal) and reason in answer.reason
    else:
        assert isinstance(answer, Labelled)


@pytest.fixture
def two_sequences(tmp_path: Path) -> Path:
    """Twelve patients: one has T1 and T2, six have T1 alone and five T2 alone."""
    folder, random = tmp_path / "two", np.random.default_rng(1)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(12):
        for number in (0, 1) if not case else (case % 2,):
            grey = random.integers(1, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(grey).save(folder / "imagesTr" / f"p{case:02d}_{number:04d}.png")
        mask = random.integers(0, 2, (32, 32), dtype=np.uint8)
        Image.fromarray(mask).save(folder / "labelsTr" / f"p{case:02d}.png")
    about = {
        "channel_names": {"0": "T2", "1": "T1"}, "labels": {"background": 0, "lesion": 1},
        "numTraining": 12, "file_ending": ".png", "incomplete": True,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("modalities", "reason"),
    [
        ("T1,T2", "of at least 5 patients with a label (allows.fewest_patients); here 1"),
        ("T1", "of at least four fifths of 12 patients not held out; here 7"),
    ],
)
def test_a_recipe_that_selects_few_of_a_sites_patients_gets_no_labels(
    modalities: str,
    reason: str,
    tiny: Callable[..., Recipe],
    two_sequences: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "policy.toml").write_text(ALLOWED.replace("patients = 1", "patients = 5"))
    setup = SiteSetup(
        "north", two_sequences, tmp_path, policy=tmp_path / "policy.toml", label_steps=10**9
    )
    recipe = tiny("image.size=32", "masks.release=false", f"image.modalities={modalities}")
    images = torch.zeros(1, modalities.count("T"), 32, 32)
    answer = asked(set_up(setup, recipe), labelling(recipe, images))
    assert isinstance(answer, Refusal) and answer.code == "data"
    assert not re.search(r"\d", answer.reason)  # how many there are stays in the site's own log
    assert reason in caplog.text


@pytest.mark.parametrize("whole", [0, 2])
def test_a_site_labels_by_its_cases_that_have_all_of_its_modalities(
    whole: int, tiny: Callable[..., Recipe], make_cohort: Callable[..., Cohort], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32")
    of = make_cohort(recipe, cases=4, modalities=("T1", "T2"))
    present = torch.tensor([[True, True]] * whole + [[True, False], [False, True]] * 2)[:4]
    images = torch.where(present[:, :, None, None], of.images, -1.0)
    cohort = Cohort(
        images, of.conditions, modalities=of.modalities, labels=of.labels, present=present
    )
    budget = SegmentationBudget(steps=1, batch=2, width=4)
    made = Site("north", cohort, recipe, folder=tmp_path, labelling=budget)
    answer = asked(Endpoint(made, limit=message_limit(recipe)), labelling(recipe, images))
    if whole:
        assert isinstance(answer, Labelled)
    else:
        assert isinstance(answer, Refusal) and answer.code == "data"
