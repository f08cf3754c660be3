"""Whose masks are painted from: patients' own, given ones, or learned ones."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.errors import (
    CohortError,
    DataError,
    Interrupted,
    PolicyError,
    ProtocolError,
    RunError,
)
from asyndgan.export.writing import write_dataset
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.painting.sets import synthetic_of_run
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.privacy import Policy
from asyndgan.privacy.ledger import read
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, load_recipe, mask_learning
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.order import Order
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train
from asyndgan.store import Cohort, RawCase
from asyndgan.store.prepare import masks_as_images
from asyndgan.training import Site
from asyndgan.training.given import Given, site_of
from asyndgan.training.scope import Scope, enlarged
from asyndgan.wire.messages import ANSWERS, Card, Judge, Judgement, Open, unpack
from commands import asyndgan
from small import copied, declare

GIVEN = ("image.size=32", "masks.source=given", "masks.release=false")
pytestmark = pytest.mark.usefixtures("few_masks")

OF_MASKS = (
    "image.size=32", "image.source=masks", "condition.kind=none", "masks.release=false",
    "generator.kind=masks", "generator.noise=0", "generator.latent=4", "discriminator.kind=dcgan",
)  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory, phantoms):
    """A folder of masks that no patient has: stripes."""
    folder = tmp_path_factory.mktemp("masks") / "given"
    cases = []
    for number in range(5):
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[4 * number : 4 * number + 9] = 1
        mask[4 * number + 2 : 4 * number + 4] = 2
        empty = torch.zeros(32, 32).numpy()
        cases.append(RawCase(f"m{number}", f"m{number}", {"none": empty}, mask.numpy()))
    labels = describe(next(iter(phantoms.values()))).labels
    write_dataset(folder, cases, modalities=["none"], labels=labels, name="stripes")
    return folder


def conditions_in(left_sites: list[bytes]) -> list[torch.Tensor]:
    """Every condition in the bytes that left the sites."""
    answers = [unpack(payload, ANSWERS, limit=10**8) for payload in left_sites]
    return [
        mask
        for answer in answers
        if isinstance(answer, (Card, Judgement))
        for mask in answer.conditions
    ]


@pytest.mark.parametrize(
    "extra",
    [(), ("privacy.kind=discriminator", "privacy.patients=2")],
    ids=["plainly", "under differential privacy"],
)
def test_with_given_masks_no_mask_of_a_patient_leaves(
    extra, given, tiny, phantoms, tmp_path, left_sites, monkeypatch
):
    recipe = tiny(*GIVEN, *extra)
    judged: list[torch.Tensor] = []
    handle = Site.handle

    def listening(site, request):
        judged.extend(request.conditions if isinstance(request, Judge) else ())
        return handle(site, request)

    monkeypatch.setattr(Site, "handle", listening)
    train(recipe, phantoms, tmp_path / "run", masks=given)
    assert not torch.stack(conditions_in(left_sites)).any()  # numbers, which say nothing
    assert len(judged) >= recipe.training.steps * recipe.training.batch
    known = [mask for _, mask in DataSet(given).masks(recipe.image)]
    known += [mask.flip(-1) for mask in known]
    assert all(any(torch.equal(mask, one) for one in known) for mask in judged)
    assert len({mask.numpy().tobytes() for mask in judged}) > 3  # not one and the same


def test_learned_masks_of_another_size_are_told_of_and_public_ones_are_not(
    given, tiny, tmp_path, caplog
):
    image = tiny("image.size=48").image
    assert len(DataSet(given).masks(image)) == 5 and not caplog.messages
    learned = copied(given, tmp_path / "learned", synthetic=True)
    DataSet(learned).masks(tiny("image.size=32").image)
    assert not caplog.messages
    for _ in range(2):  # sites
        DataSet(learned).masks(image)
    [said] = caplog.messages
    assert "32 x 32 pixels and are scaled to 48 x 48" in said


def test_patients_masks_leave_where_none_are_given(tiny, phantoms, tmp_path, left_sites):
    """Or the test above could not fail."""
    recipe = tiny("image.size=32")
    train(recipe, phantoms, tmp_path / "run")
    left = conditions_in(left_sites)
    own = [case.mask for data in phantoms.values() for case in DataSet(data).cases(recipe.image)]
    own += [mask.flip(-1) for mask in own]
    assert all(any(torch.equal(mask, one) for one in own) for mask in left)


def written_as(masks: list[torch.Tensor]) -> set[bytes]:
    """What masks look like in a file that holds them as any kind of number, or as bits."""
    own = [mask.numpy() for mask in masks if len(mask.unique()) > 1]
    kinds = ("uint8", "int16", "int32", "int64", "float16", "float32", "float64")
    plain = {mask.astype(kind).tobytes() for mask in own for kind in kinds}
    return plain | {
        np.packbits(mask == label).tobytes() for mask in own for label in np.unique(mask)
    }


def test_transient_masks_are_written_nowhere(tiny, phantoms, tmp_path, left_sites):
    recipe = tiny("image.size=32", "masks.release=false", "training.move=true")
    train(recipe, phantoms, tmp_path / "run")
    own = [case.mask for data in phantoms.values() for case in DataSet(data).cases(recipe.image)]
    moved = conditions_in(left_sites)
    assert not any(torch.equal(mask, one) for one in own for mask in moved)
    patterns = written_as([*own, *(mask.flip(-1) for mask in own), *moved])
    patterns |= {payload[-64:] for payload in left_sites if len(payload) > 1000}  # as they came
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 8
    kinds = {path.suffix for path in written if not path.name.startswith("events.out.tfevents")}
    # No kind of file in which the search below would not see them, as compressed ones are.
    assert kinds <= {"", ".head", ".json", ".jsonl", ".safetensors", ".toml"}
    assert not (tmp_path / "run" / "masks").exists()
    assert not list((tmp_path / "run").rglob("*.png"))
    for path in written:
        content = path.read_bytes()
        assert not any(pattern in content for pattern in patterns), path


def test_a_mask_that_is_written_would_be_found(tmp_path, phantoms):
    """Or the test above could not fail."""
    (case, *_) = DataSet(next(iter(phantoms.values()))).cases(Recipe().image)
    for kind in (torch.uint8, torch.int32, torch.float32):
        save_file({"mask": case.mask.to(kind)}, tmp_path / "a.safetensors")
        content = (tmp_path / "a.safetensors").read_bytes()
        assert any(pattern in content for pattern in written_as([case.mask]))


@pytest.mark.parametrize(("size", "layers"), [("16x32", 3), ("32", 4), ("48", 4)])
def test_discriminators_of_small_masks_halve_them_less_often(size, layers):
    demo = load_recipe("demo", [f"image.size={size}", "discriminator.layers=1"])
    learns = mask_learning.recipe_of_masks(demo)
    assert learns.discriminator.layers == layers
    assert min(learns.space) >= learns.discriminator.least_side


def test_a_generator_of_masks_paints_a_data_set_that_images_are_painted_from(
    tiny, phantoms, tmp_path
):
    masks_run = train(tiny(*OF_MASKS), phantoms, tmp_path / "masks-run")
    run = train(tiny("image.size=32", "masks.release=false"), phantoms, tmp_path / "run")
    masks, out = tmp_path / "masks", tmp_path / "synthetic"
    asyndgan("generate", masks_run.path, "--draws", 7, "--out", masks)
    asyndgan("generate", run.path, "--masks", masks, "--draws", 1, "--out", out)
    with pytest.raises(RunError, match="paints masks"):  # which segmentation does not judge
        synthetic_of_run(RunSites.opened(masks_run, phantoms), tmp_path / "out")
    recipe = run.recipe()
    painted = DataSet(tmp_path / "masks").masks(recipe.image)
    assert len(painted) == 7
    cases = DataSet(tmp_path / "synthetic").cases(recipe.image, synthetic=True)
    assert [case.mask.tolist() for case in cases] == [mask.tolist() for _, mask in painted]


def learning(recipe: Recipe, sites: dict[str, Path], out: Path, *options: str) -> str:
    """What `train` says that learns masks first."""
    out.with_suffix(".toml").write_text(recipe.to_toml())
    words = [f"--site={name}={data}" for name, data in sites.items()]
    said = asyndgan("train", out.with_suffix(".toml"), *words, "--out", out, *options)
    return " ".join(said.split())


def masks_in(folder: Path, recipe: Recipe) -> set[bytes]:
    return {mask.numpy().tobytes() for _, mask in DataSet(folder).masks(recipe.image)}


def kept_by(run: RunFolder) -> set[bytes]:
    return {mask.numpy().tobytes() for _, mask in released_masks(run)}


def test_without_a_folder_masks_are_learned_for_this_run_alone_and_no_patients_mask_leaves(
    tiny, phantoms, tmp_path, left_sites
):
    out, recipe = tmp_path / "run", tiny(*GIVEN)
    said = learning(recipe, phantoms, out)
    assert "Look at the masks in" in said
    assert not torch.stack(conditions_in(left_sites)).any()  # numbers, which say nothing
    kept = kept_by(RunFolder(out))
    assert kept == masks_in(tmp_path / "run-masks" / "painted", recipe) and len(kept) > 1
    asyndgan("generate", out, "--draws", 1, "--out", tmp_path / "set")
    assert len(DataSet(tmp_path / "set").cases(recipe.image, synthetic=True)) == len(kept)
    with pytest.raises(RunError, match="holds a run already"):
        learning(recipe, phantoms, out)
    for other, sites in (
        (tiny(*GIVEN, "training.seed=9"), phantoms),
        (tiny(*GIVEN, "privacy.kind=discriminator"), phantoms),
        (recipe, dict(list(phantoms.items())[:1])),
    ):
        shutil.rmtree(out)
        with pytest.raises(RunError, match="were learned for another run"):
            learning(other, sites, out)


def test_a_run_that_was_interrupted_while_masks_were_learned_goes_on(
    tiny, phantoms, tmp_path, monkeypatch
):
    out, recipe = tmp_path / "run", tiny(*GIVEN)
    keep = MaskBank.keep

    def killed(bank, site, conditions, most=None):
        whole = bank.path != out / "masks"  # those that are learned
        keep(bank, site, conditions if whole else conditions[:3], most)
        if not whole:
            raise KeyboardInterrupt

    def stopped(*_, **__):
        raise KeyboardInterrupt

    for target, name, end, options in (
        (mask_learning, "painted_masks", stopped, []), (MaskBank, "keep", killed, ["--resume"])
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(target, name, end)
            with pytest.raises(Interrupted):
                learning(recipe, phantoms, out, *options)
    assert 0 < len(list((out / "masks" / "labelsTr").iterdir())) <= 3
    learning(recipe, phantoms, out, "--resume")
    assert kept_by(RunFolder(out)) == masks_in(tmp_path / "run-masks/painted", recipe)


def test_with_policies_both_trainings_hold_out_the_same_patients_or_none_begins(tiny, tmp_path):
    write_phantoms(tmp_path / "data", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.2)
    phantoms = {site.name: tmp_path / "data" / site.name for site in DEFAULT_SITES[:2]}
    policy = tmp_path / "policy.toml"
    policy.write_text("[allows]\nunmeasured = true\nfewest_patients = 1\n", "utf-8")
    policies = [f"--policy={name}={policy}" for name in phantoms]
    recipe, out = tiny(*GIVEN, "training.hold_out=0.4"), tmp_path / "run"
    with pytest.raises(PolicyError, match="--records FOLDER"):
        learning(recipe, phantoms, out, *policies)
    assert not (tmp_path / "run-masks").exists()
    learning(recipe, phantoms, out, *policies, f"--records={tmp_path / 'books'}")
    for name in phantoms:
        one, other = (
            (RunFolder(run).site_state(name) / "hold_out.json").read_text()
            for run in (out, tmp_path / "run-masks")
        )
        assert one == other


def test_masks_are_learned_under_differential_privacy_too(tiny, phantoms, tmp_path):
    recipe = tiny(*OF_MASKS, "privacy.kind=discriminator", "privacy.patients=2")
    run = train(recipe, phantoms, tmp_path / "run")
    for name in phantoms:
        entries = read(run.site_state(name) / "ledger.jsonl")
        assert [entry.epsilon for entry in entries if entry.kind == "judgement"][-1] > 0
    assert len({mask.numpy().tobytes() for mask in painted_by(run, 5)}) > 1


def painted_by(run: RunFolder, count: int) -> list[torch.Tensor]:
    return [case.mask for case in synthesise(run, released_masks(run), draws=count)]


def test_masks_come_back_from_the_shares_of_labels_in_pixels_of_twice_the_size(phantoms, tiny):
    cases = DataSet(next(iter(phantoms.values()))).cases(tiny("image.size=32").image)
    labels = {"lesion": 2, "background": 0, "brain": 1, "ventricle": 3}
    shown = masks_as_images(cases, labels)
    assert {case.modalities for case in shown} == {("background", "brain", "lesion", "ventricle")}
    cohort = Cohort.from_cases(shown, labels=labels, condition="none", maps=True)
    assert cohort.space == (16, 16) and cohort.images.shape == (len(cases), 4, 16, 16)
    assert cohort.images.sum(1).allclose(torch.tensor(-2.0))  # shares sum to one
    masks = torch.stack([case.mask for case in cases])
    assert (enlarged(cohort.images).argmax(1) == masks).float().mean() > 0.96


def test_masks_are_given_exactly_where_the_recipe_says_so(given, tiny, phantoms, tmp_path):
    with pytest.raises(RunError, match="no folder of masks"):
        train(tiny(*GIVEN), phantoms, tmp_path / "a")
    with pytest.raises(RunError, match=r"masks.source 'own'"):
        train(tiny("image.size=32"), phantoms, tmp_path / "b", masks=given)
    assert not (tmp_path / "a").exists()


def test_a_policy_that_never_lets_masks_out_takes_part_with_given_ones(tiny):
    policy = Policy.from_toml('[leaves]\nmasks = "never"')
    assert any("leaves.masks" in reason for _, reason in policy.refused_by(tiny("image.size=32")))
    ((_, reason),) = policy.refused_by(tiny(*GIVEN, "training.move=true"))
    assert "outside what was measured" in reason


def test_a_run_goes_on_only_with_the_masks_that_it_began_with(given, tiny, phantoms, tmp_path):
    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(*GIVEN), phantoms, tmp_path / "run", masks=given, watch=stop)
    other = tmp_path / "other"
    shutil.copytree(given, other)
    next((other / "labelsTr").iterdir()).unlink()
    with pytest.raises(RunError, match="other masks than those that the run began with"):
        train(tiny(*GIVEN), phantoms, tmp_path / "run", masks=other, resume=True)
    train(tiny(*GIVEN), phantoms, tmp_path / "run", masks=given, resume=True)


def test_an_order_remembers_the_folder_of_given_masks(given, tiny, tmp_path):
    federation, recipe = (federation_here(tmp_path / "f", tmp_path / "north"), tiny(*GIVEN))
    with pytest.raises(RunError, match=r"masks\.source 'own'"):
        Order.submit(federation, "first", tiny("image.size=32"), (), masks=given)
    order = Order.submit(federation, "first", recipe, (), masks=given)
    assert order.wanted()["masks"] == str(given.resolve())
    assert Order.submit(federation, "first", recipe, ()).wanted() == order.wanted()
    with pytest.raises(RunError, match="was ordered without"):
        Order.submit(federation, "first", recipe, (), masks=tmp_path)


def test_an_order_without_a_folder_has_masks_learned_first_and_waits_for_them(tiny, tmp_path):
    federation = federation_here(tmp_path / "f", tmp_path / "north")
    order = Order.submit(federation, "images", tiny(*GIVEN), ())
    first = order.first
    assert first and [one.name for one in Order.all(federation)] == ["images-masks", "images"]
    assert first.folder.recipe() == mask_learning.recipe_of_masks(tiny(*GIVEN)) and not first.first
    first.stop()
    with pytest.raises(RunError, match="images-masks, which learns its masks, is stopped"):
        order.train()
    Order.submit(federation, "images", tiny(*GIVEN), ())
    assert first.state() == "ordered"


def test_masks_that_do_not_fit_a_site_are_refused(tiny, make_cohort):
    recipe = tiny("masks.source=given", "masks.release=false")
    site = Site("north", make_cohort(recipe), recipe)
    site.handle(Open(run="abc", recipe=recipe.digest(), step=0))
    images = torch.zeros(2, 1, *recipe.image.size)
    for wrong in (torch.full((2, *recipe.image.size), 7), torch.zeros(2, 8, 8).long(), None):
        more = {} if wrong is None else {"conditions": wrong}
        with pytest.raises(ProtocolError, match="with labels that it has"):
            site.handle(Judge(run="abc", step=0, batch=0, images=images, **more))
    own = tiny()
    site = Site("north", make_cohort(own), own)
    site.handle(Open(run="abc", recipe=own.digest(), step=0))
    with pytest.raises(ProtocolError, match="came with the images"):
        chosen = torch.zeros(2, *own.image.size).long()
        site.handle(Judge(run="abc", step=0, batch=0, images=images, conditions=chosen))


def test_each_site_is_sent_masks_of_its_own_labels_alone(given, tiny):
    recipe = tiny(*GIVEN)
    masks = Given.of(given, recipe)
    labels = {0: "background", 1: "head"}
    with pytest.raises(CohortError, match="has a label that site north does not have"):
        masks.of_labels("north", labels)
    both = Given(torch.cat([masks.masks, masks.masks.clamp(max=1)]), masks.sites * 2, masks.folder)
    drawn = torch.cat([both.drawn(recipe, "north", batch, labels) for batch in range(9)])
    assert set(drawn.unique().tolist()) == {0, 1}


def test_each_site_is_sent_the_masks_that_were_learned_for_it(tiny, tmp_path):
    recipe, labels = tiny(*GIVEN), {0: "background", 1: "head", 2: "lesion"}
    bank = MaskBank(tmp_path)
    bank.describe(Scope(("T1",), labels, recipe.image.size))
    for label, site in enumerate(("north", "south")):
        bank.keep(site, torch.full((1, *recipe.image.size), label))
    masks = Given.of(tmp_path, recipe)
    for label, site in enumerate(("north", "south")):
        assert set(masks.drawn(recipe, site, 0, labels).unique().tolist()) == {label}
    assert len(masks.of_labels("west", labels)) == 2  # nothing was learned for it
    assert len(masks.of_labels("south", {0: "background"})) == 1  # what it has no label for
    assert replace(masks, sites=masks.sites[::-1]).digest != masks.digest


def test_more_labels_than_a_message_may_name_are_refused_before_training(phantoms, tiny):
    cases = DataSet(next(iter(phantoms.values()))).cases(tiny("image.size=32").image)
    with pytest.raises(DataError, match="Merge some"):
        masks_as_images(cases, {f"l{number}": number for number in range(65)})


def test_masks_are_moved_and_shifted_where_images_are_and_else_penalised_unless_private():
    moved, still = (
        mask_learning.recipe_of_masks(load_recipe("demo", [f"training.move={move}"]))
        for move in ("true", "false")
    )
    assert moved.training.move and moved.discriminator.augment and moved.discriminator.cross_fitted
    assert not moved.loss.gradient_penalty
    assert not (still.training.move or still.discriminator.augment)
    assert still.loss.gradient_penalty == mask_learning.PENALTY
    private = ["privacy.kind=discriminator", "discriminator.kind=patch", "loss.segmentation=0"]
    assert not mask_learning.recipe_of_masks(load_recipe("demo", private)).loss.gradient_penalty


def test_masks_are_learned_without_a_site_of_few_patients_which_is_then_sent_those_of_others(
    tiny, tmp_path
):
    sites = [replace(site, patients=n) for site, n in zip(DEFAULT_SITES[:2], (3, 4), strict=True)]
    write_phantoms(tmp_path, size=32, sites=sites)
    few, many = (site.name for site in sites)
    folders, out = {name: tmp_path / name for name in (few, many)}, tmp_path / "run"
    labels = describe(folders[few]).labels
    lacking = labels.pop("ventricle")
    declare(folders[few], labels=labels)
    for path in (folders[few] / "labelsTr").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == lacking, 1, mask).astype(np.uint8)).save(path)
    said = learning(tiny(*GIVEN), folders, out)
    assert f"{few} has too few patients to teach masks" in said and f"{few} 12 0%" in said
    learns = RunFolder(mask_learning.beside(out))
    assert list(learns.facts().teachers) == [many]
    asked = [entry.kind for entry in read(learns.site_state(few) / "ledger.jsonl")]
    assert "card" in asked and "judgement" not in asked
    assert list(RunFolder(out).facts().teachers) == [few, many]
    painted = dict.fromkeys((few, many), 0)
    for name, mask in DataSet(learns.path / "painted").masks(tiny(*GIVEN).image):
        painted[site_of(name)] |= sum(1 << label for label in mask.unique().tolist())
    assert all(painted.values()) and not painted[few] & 1 << lacking
    shutil.rmtree(out)  # its masks are there still
    learning(tiny(*GIVEN), folders, out)


def test_a_site_asks_about_given_masks_only_what_its_own_cases_have_taught_it(tiny, make_cohort):
    recipe = tiny(
        "masks.source=given", "masks.release=false", "discriminator.kind=patch_segmentation",
        "loss.segmentation=1",
    )  # fmt: skip
    cohort = make_cohort(recipe)
    masks = cohort.conditions.clamp(max=1)
    healthy = Cohort(cohort.images, masks, modalities=["T1"], labels=cohort.labels)
    assert Site("north", healthy, recipe).objective.known == {0, 1}
