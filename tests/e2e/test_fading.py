"""Labels are painted more or less clearly, with everything else the same."""

from dataclasses import replace

import pytest
import torch

from asyndgan.arrays import Mask
from asyndgan.auditing.distances import painting_gaps
from asyndgan.auditing.release import check_released
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.errors import RunError
from asyndgan.intake.description import describe
from asyndgan.models.discriminators import labels_in
from asyndgan.models.parts import site_noise
from asyndgan.painting.fading import AS_PAINTED, Fading, fading_of, without_labels
from asyndgan.painting.sets import painted_once
from asyndgan.painting.synthesise import Origin, chosen_masks, synthesise
from asyndgan.runs import RunFolder
from asyndgan.runs.train import train
from asyndgan.store import derived_seed
from asyndgan.training.scope import scope_maps
from commands import asyndgan

LESION = 3


@pytest.fixture(scope="module")
def painted(tiny, tmp_path_factory):
    """A run, and masks to paint from, which include some with and some without a lesion."""
    folder = tmp_path_factory.mktemp("fading")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.2)
    sites = {site.name: folder / site.name for site in DEFAULT_SITES[:1]}
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2")
    run = train(recipe, sites, folder / "run")
    masks = chosen_masks(run, folder / DEFAULT_SITES[0].name)[0]
    assert 0 < sum(bool((mask == LESION).any()) for _, mask in masks) < len(masks)
    return run, masks


@pytest.fixture(scope="module")
def deforming(painted, tiny, tmp_path_factory):
    """A run whose recipe deforms masks."""
    recipe = tiny("image.size=32", "training.steps=2", "generator.deform=3", "generator.noise=2")
    sites = {"north": painted[0].path.parent / DEFAULT_SITES[0].name}
    return train(recipe, sites, tmp_path_factory.mktemp("deforming") / "run")


def images(run: RunFolder, masks: list[tuple[str, Mask]], fading: Fading) -> torch.Tensor:
    cases = list(synthesise(run, masks, draws=2, move=True, fading=fading))
    return torch.stack([case.image for case in cases])


def test_at_contrast_one_nothing_changes_and_at_none_the_surroundings_are_painted(painted):
    run, masks = painted
    plain = images(run, masks, AS_PAINTED)
    assert images(run, masks, Fading((LESION,), (1.0, 1.0))).allclose(plain, atol=1e-6)
    gone = list(synthesise(run, masks, fading=Fading((LESION,), (0.0, 0.0))))
    beneath = [(name, without_labels(mask[None], [LESION])[0]) for name, mask in masks]
    for case, expected in zip(gone, synthesise(run, beneath), strict=True):
        assert case.image.allclose(expected.image, atol=1e-6)
    # The masks stay, since they say where the lesions are.
    assert all(case.mask.equal(mask) for case, (_, mask) in zip(gone, masks, strict=True))


def test_every_image_has_a_contrast_of_its_own_and_those_without_the_label_stay_the_same(painted):
    run, masks = painted
    low, high = 0.4, 0.8
    plain = list(synthesise(run, masks))
    gone = list(synthesise(run, masks, fading=Fading((LESION,), (0.0, 0.0))))
    faded = list(synthesise(run, masks, fading=Fading((LESION,), (low, high))))
    contrasts = []
    for one, none, other in zip(plain, gone, faded, strict=True):
        if not (one.mask == LESION).any():
            assert other.image.allclose(one.image, atol=1e-6)
            continue
        whole, part = one.image - none.image, other.image - none.image
        contrasts.append(float((whole * part).sum() / whole.square().sum()))
        assert part.allclose(contrasts[-1] * whole, atol=1e-5)
    assert low <= min(contrasts) < max(contrasts) <= high
    assert len(contrasts) == len({round(one, 4) for one in contrasts})


def test_a_label_gives_way_to_what_is_nearest_to_it():
    mask = torch.ones(1, 8, 8, dtype=torch.int64)
    mask[:, :, 5:] = 2
    mask[:, 2:6, 2:4] = 3
    assert without_labels(mask, [3])[0, :, :5].eq(1).all()
    assert without_labels(mask, [2, 3]).eq(1).all()
    assert without_labels(mask, [1, 2, 3]).eq(0).all()
    assert without_labels(mask, [7]).equal(mask)


def test_images_are_painted_from_deformed_masks_and_labelled_by_the_masks_as_they_are(
    painted, deforming
):
    masks, run = painted[1], RunFolder(deforming.path)
    generator, given = run.generator(), []
    generator.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    run.generator = lambda: generator
    found = list(synthesise(run, masks, fading=Fading((LESION,), (0.5, 0.5))))
    assert all(case.mask.equal(mask) for case, (_, mask) in zip(found, masks, strict=True))
    whole, without = (labels_in(maps) for maps in given)
    moved = [(maps != mask).float().mean() for maps, (_, mask) in zip(whole, masks, strict=True)]
    assert min(moved) > 0.01 and max(moved) < 0.5
    # Both paintings of a faded image are of one deformed mask.
    assert ((whole != without).sum(dim=(1, 2)) <= 2 * (whole == LESION).sum(dim=(1, 2))).all()
    again = list(synthesise(run, masks, fading=Fading((LESION,), (0.5, 0.5))))
    assert all(one.image.equal(two.image) for one, two in zip(found, again, strict=True))


def test_an_audit_paints_from_masks_as_they_are_whatever_the_recipe_deforms(painted, deforming):
    run, recipe = deforming, deforming.recipe()
    (case,) = synthesise(run, painted[1][:1])
    scope, random = run.facts().scope, torch.Generator().manual_seed(derived_seed(0, "audit"))
    noise = site_noise(recipe, [""], scope.space, random)  # that of the audit's first painting
    with torch.no_grad():
        image = run.generator()(scope_maps(recipe, scope, case.mask[None]), noise)[0]
    assert painting_gaps(run, [replace(case, image=image)]).min() < 1e-6


def test_a_set_says_what_is_faded_and_is_not_taken_for_another(painted, tmp_path):
    run, _ = painted
    given = run.path.parent / DEFAULT_SITES[0].name
    words = ["generate", str(run.path), "--masks", str(given), "--out", str(tmp_path / "set")]
    asyndgan(*words, "--fade", "lesion")
    provenance = describe(tmp_path / "set").extra["provenance"]
    assert isinstance(provenance, dict)
    assert (provenance["faded"], provenance["contrasts"]) == ([LESION], [0.5, 1.1])
    card = (tmp_path / "set" / "MODEL_CARD.md").read_text("utf-8")
    assert "Faded, lesion: at 0.5 to 1.1 of the contrast" in card
    words = ["evaluate", str(run.path), "--site", f"north={given}", "--out", str(tmp_path / "e")]
    words += ["--test", str(run.path.parent / "test"), "--synthetic", str(tmp_path / "set")]
    with pytest.raises(RunError, match="is painted already"):
        asyndgan(*words, "--fade", "lesion")
    masks = chosen_masks(run, given)[0]
    fading = fading_of(run, ["lesion"])
    painted_once(run, masks, Origin("given"), tmp_path / "kept", fading=fading)
    painted_once(run, masks, Origin("given"), tmp_path / "kept", fading=fading)
    with pytest.raises(RunError, match="in another way"):
        other = replace(fading, contrasts=(0.4, 1.0))
        painted_once(run, masks, Origin("given"), tmp_path / "kept", fading=other)


def test_an_audit_of_a_set_permits_no_set_in_which_other_labels_are_faded(painted, tmp_path):
    run, _ = painted
    site = run.path.parent / DEFAULT_SITES[0].name
    name = DEFAULT_SITES[0].name
    words = ["audit", str(run.path), "--site", f"{name}={site}", "--out", str(tmp_path / "a")]
    write_phantoms(tmp_path / "others", size=32, sites=DEFAULT_SITES[1:2], patients_scale=0.1)
    others = tmp_path / "others" / DEFAULT_SITES[1].name
    asyndgan(*words, "--holdout", others, "--masks", site, "--fade", "lesion")
    digest = describe(tmp_path / "a/synthetic").extra["provenance"]["masks_sha256"]
    with pytest.raises(RunError, match="other labels were faded; audit with the same --fade"):
        check_released(run, digest, [tmp_path / "a"])
    with pytest.raises(RunError, match="may not be released"):  # too few patients
        check_released(run, digest, [tmp_path / "a"], fading=fading_of(run, ["lesion"]))
