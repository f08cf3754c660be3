"""An audit finds members where they can be found, and nobody where nobody is."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from asyndgan import audit as audit_of_python
from asyndgan.auditing import reconstruction
from asyndgan.auditing.audit import Audited, audit
from asyndgan.auditing.copies import NearCopies, near_copies
from asyndgan.auditing.distances import least, relative_distances
from asyndgan.auditing.membership import ATTACKS
from asyndgan.auditing.pixel_attacks import STEPS, bisected, followed
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.record import read_audit
from asyndgan.auditing.run import audit_run, load_for_audit
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.setup import CHOOSER_FILE
from asyndgan.errors import AsyndganError, DataError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.publishing import CRATE, MANIFEST, Release
from asyndgan.painting.sets import synthetic_of_run
from asyndgan.painting.synthesise import chosen_masks, masks_digest, synthesise
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder, load_recipe
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train
from asyndgan.runs.trial import trial_of
from asyndgan.store import Case, Preparation
from commands import AS_OPTIONS, PUBLISHER, asyndgan
from reading import told_by
from small import SMALL, declare, named

SITES = [site.name for site in DEFAULT_SITES[:2]]


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory):
    """A run that held patients out, its members, the others, and what it painted."""
    folder = tmp_path_factory.mktemp("audit")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.3)
    sites = {site.name: folder / site.name for site in DEFAULT_SITES[:2]}
    recipe = tiny(
        "image.size=32", "training.steps=2", "training.hold_out=0.4", "generator.style=4",
        "generator.noise=0",
    )  # fmt: skip
    run = train(recipe, sites, folder / "run")
    opened = RunSites.opened(run, sites)
    synthetic = synthetic_of_run(opened, folder / "synthetic")
    members, others, _ = load_for_audit(opened, None)
    painted = synthetic.cases(recipe.image, unmasked=False, synthetic=True)
    return run, members, others, painted


@pytest.fixture(scope="module")
def sites(parts):
    return {site: parts[0].path.parent / site for site in SITES}


@pytest.fixture(scope="module")
def given(parts):
    """Masks of nobody who takes part, to paint what is released from."""
    folder = parts[0].path.parent / "given"
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[2:3], patients_scale=0.2)
    return folder / DEFAULT_SITES[2].name


@pytest.fixture(scope="module")
def audited(parts, given, sites):
    """The folder of an audit of what the run paints from those masks, and what it printed."""
    run, out = parts[0], parts[0].path.with_name("audited")
    return out, asyndgan("audit", run.path, "--out", out, "--masks", given, *named(sites))


@pytest.fixture(scope="module")
def copied(parts, given):
    """The folder of an audit of a set of members, and what it found."""
    run, members, others, _ = parts
    copies = [replace(case, image=0.98 * case.image) for case in members]
    out = run.path.with_name("copied")
    digest = masks_digest(chosen_masks(run, given)[0])
    return out, audit(run, members, others, copies, out, Audited(masks=digest, confirmed=SITES))


@pytest.fixture
def permitting(audited, tmp_path):
    """The folder of an audit that permits a release: as if of more patients."""
    shutil.copy(audited[0] / "audit.json", tmp_path)
    of_many_patients(tmp_path)
    return tmp_path


def of_many_patients(audited: Path, **change: object) -> None:
    """As if more of them had been asked: the interval is narrow."""
    tables = json.loads((audited / "audit.json").read_text())
    for attack in tables["attacks"]:
        attack |= {"auc": 0.5, "high": 0.6}
    tables["attacks"][0] |= change
    (audited / "audit.json").write_text(json.dumps(tables))


def release(run: RunFolder, out: Path, masks: Path, *audits: Path) -> str:
    words = [word for audit in audits for word in ("--audit", audit)]
    return asyndgan("release", run.path, "--masks", masks, "--out", out, *AS_OPTIONS, *words)


def test_a_set_that_is_made_of_members_gives_them_and_their_masks_away(parts, copied):
    run, members, *_ = parts
    out, found = copied
    assert read_audit(out).audit == found
    attacks = {one.name: one for one in found.attacks}
    assert attacks["nearest"].auc > 0.95
    assert attacks["nearest"].p_value < 0.01
    assert "MEMBERS CAN BE TOLD" in attacks["nearest"].verdict
    stored = json.loads((out / "audit.json").read_text())
    assert stored["generator_sha256"] == run.facts().generator_sha256
    assert [one["name"] for one in stored["attacks"]] == [*ATTACKS]
    assert attacks["mask"].auc > 0.95
    assert found.own_masks == len({case.mask.numpy().tobytes() for case in members})
    assert (out / "nearest.png").stat().st_size > 1000


def test_a_generator_that_has_learned_nothing_gives_nobody_away(parts, tmp_path):
    run, members, others, painted = parts
    found = audit(run, members, others, painted, tmp_path)
    assert found.copies.passes
    # The sites released only the masks of two steps.
    assert 0 < found.own_masks < len({case.mask.numpy().tobytes() for case in members})
    painting = {one.name: one for one in found.attacks}["painting"]
    assert painting.low < 0.5 < painting.high
    assert not painting.tells
    assert "undecided, too few patients" in painting.verdict
    assert "no sign of membership" in replace(painting, auc=0.5, high=0.6).verdict
    assert painting.members == len({case.patient for case in members})


def drawn(random: torch.Generator, patients: int) -> list[Case]:
    """Images of as many patients, which differ in twelve ways and in noise."""
    ways = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    looks = torch.einsum("nk,kchw->nchw", torch.randn(patients, 12, generator=random), ways)
    images = (looks + 0.1 * torch.randn(looks.shape, generator=random)) / 16
    mask = torch.zeros(8, 8, dtype=torch.int64)
    prepared = Preparation((8, 8), (1.0, 1.0), (8, 8), (0, 0), (1.0,), (0.0,))
    return [
        Case(f"{number}", f"{number}", image, mask, ("T1",), prepared)
        for number, image in enumerate(images)
    ]


def searched(
    random: torch.Generator, patients: int, copied: int, *, mirrored: bool = False
) -> NearCopies:
    """A search among so many members and others, of whom the first are copied into the set."""
    real, synthetic = drawn(random, 2 * patients), drawn(random, 3 * patients)
    synthetic[:copied] = [
        replace(case, image=0.98 * (case.image.flip(-1) if mirrored else case.image))
        for case in real[:copied]
    ]
    nearest = relative_distances(real, synthetic).min(dim=1).values.double().numpy()
    return near_copies(nearest[:patients], nearest[patients:])


def test_copies_among_many_members_are_found_also_mirrored_and_none_where_there_are_none():
    """Sites mirror their images at random, so a generator may remember either."""
    random = torch.Generator().manual_seed(0)
    with_copies = [searched(random, 60, 2, mirrored=n % 2 > 0) for n in range(10)]
    assert all(found.found >= 2 and not found.passes for found in with_copies)
    without = [searched(random, 60, 0) for _ in range(60)]
    assert sum(not found.passes for found in without) <= 0.05 * len(without)


def test_copies_are_found_among_slices_that_are_empty_in_every_patient():
    random = torch.Generator().manual_seed(0)

    def volumes(patients):
        """Three slices of each patient, the first of which is empty but for noise."""
        slices = [
            replace(case, name=f"{place}-{case.name}") for place in "012"
            for case in drawn(random, patients)
        ]  # fmt: skip
        empty = -1 + 0.01 * torch.randn(patients, 1, 8, 8, generator=random)
        return [
            replace(case, image=empty[number] if case.name[0] == "0" else case.image)
            for number, case in enumerate(slices[:patients])
        ] + slices[patients:]

    real, synthetic = volumes(60), volumes(60)
    member = [int(case.patient) < 30 for case in real]
    for copied, passes in ((0, True), (2, False)):
        chosen = [case for case in real if case.name[0] == "1"][:copied]
        shown = [*synthetic, *(replace(case, image=0.98 * case.image) for case in chosen)]
        apart = relative_distances(real, shown)
        groups = [
            least([c for c, m in zip(real, member, strict=True) if m == wanted],
                   apart[torch.tensor(member) == wanted])
            for wanted in (True, False)
        ]  # fmt: skip
        assert near_copies(*groups).passes == passes


def test_members_farther_than_all_others_are_no_copies():
    members, others = np.linspace(3, 4, 2), np.linspace(1, 2, 440)
    assert near_copies(members, others).passes
    assert near_copies(members, others).found == 0


def test_copies_are_found_even_if_the_others_are_copied_as_well():
    """Two sites could otherwise name each other's members as their others."""
    random = np.random.default_rng(0)
    copied, apart = random.uniform(0.01, 0.03, 60), random.uniform(0.5, 1.5, 60)
    for members, others, found, words in (
        (copied, copied, 60, "NEAR COPIES of 60 of 60 members"),
        (apart, copied, 0, "NEAR COPIES of others"),
    ):
        search = near_copies(members, others)
        assert (search.passes, search.found) == (False, found)
        assert search.verdict.startswith(words)
    assert near_copies(apart, apart).passes


def test_nobody_is_audited_twice(parts, tmp_path):
    """Such as a member among the others under another name, who would hide a copy."""
    run, members, others, painted = parts
    twin = replace(others[0], image=members[0].image.flip(-1))
    with pytest.raises(DataError, match=r"^2 cases have an image that another patient has"):
        audit(run, members, [twin, *others[1:]], painted, tmp_path)


def test_a_set_with_one_copy_of_a_member_is_not_released(parts, given, tmp_path):
    run, members, others, _ = parts
    masks = chosen_masks(run, given)[0]
    first, *painted = synthesise(run, masks)
    copy = replace(first, image=members[0].image, mask=members[0].mask.flip(-1))
    copied, digest = [copy, *painted], masks_digest(masks)
    found = audit(run, members, others, copied, tmp_path, Audited(masks=digest, confirmed=SITES))
    assert all(not attack.tells for attack in found.attacks) and found.own_masks == 1
    assert "NEAR COPIES of 1 of 9 members: the smallest distance" in found.copies.verdict
    of_many_patients(tmp_path)
    with pytest.raises(RunError, match="may not be released: NEAR COPIES"):
        release(run, tmp_path / "kept", given, tmp_path)


def test_others_who_resemble_the_images_more_than_members_do_are_no_measure(parts, tmp_path):
    run, members, others, _ = parts
    copies = [replace(case, image=0.98 * case.image) for case in others]
    found = audit(run, members, others, copies, tmp_path)
    assert found.own_masks == 0
    nearest = {one.name: one for one in found.attacks}["nearest"]
    assert nearest.high < 0.5
    assert "NOT COMPARABLE" in nearest.verdict
    assert not replace(nearest, auc=0.14, high=0.3).passes
    assert replace(nearest, auc=0.45, high=0.55).passes


def fetched(run: RunFolder, to: Path) -> RunFolder:
    """A run as a coordinator has it: without the sites' states and patterns."""
    shutil.copytree(run.path, to, ignore=shutil.ignore_patterns("sites"))
    folder = RunFolder(to)
    facts = folder.facts()
    facts.patient_patterns = {}
    folder.write_facts(facts)
    return folder


def published(folder: Path) -> None:
    """Checks what catalogues read beside a released set."""
    assert json.loads((folder / "dataset.json").read_text())["licence"] == "CC-BY-4.0"
    assert "Ward 3, ask@ward3.example" in (folder / "MODEL_CARD.md").read_text()
    croissant = json.loads((folder / "croissant.json").read_text())
    assert croissant["rai:hasSyntheticData"] and "no sign" in croissant["description"]
    assert {each["@id"] for each in croissant["distribution"]} >= {"imagesTr", "labelsTr"}
    graph = {each["@id"]: each for each in json.loads((folder / CRATE).read_text())["@graph"]}
    parts = {each["@id"] for each in graph["./"]["hasPart"]}
    assert all("name" in each for name, each in graph.items() if name != CRATE)
    assert parts <= {*graph} and {"imagesTr/", "dataset.json", "croissant.json"} <= parts
    listed = dict(line.split("  ")[::-1] for line in (folder / MANIFEST).read_text().splitlines())
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST]
    assert listed == {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"licence": "CC BY"}, "no licence of the SPDX list"),
        ({"use": "DUO:42"}, "no code of the Data Use Ontology"),
        ({"creator": "a\udcffb"}, "creator: give one line"),
        ({"contact": "nobody"}, "is no contact"),
    ],
)
def test_what_no_catalogue_would_read_is_refused(said, why):
    with pytest.raises(RunError, match=why):
        Release(**PUBLISHER | said)


def test_a_set_is_released_only_where_an_audit_of_its_generator_found_nothing(
    parts, given, audited, copied, sites, permitting, tmp_path
):
    run = parts[0]
    for audits, masks, why in (
        ([audited[0]], given, "TOO FEW PATIENTS to be sure"),
        ([copied[0]], given, "may not be released"),
        ([tmp_path / "none"], given, "has not finished in it"),
        ([permitting], sites[SITES[0]], "painted from other masks"),
    ):
        with pytest.raises(RunError, match=why):
            release(run, tmp_path / "kept", masks, *audits)
    assert not (tmp_path / "kept").exists()
    release(run, tmp_path / "released", given, permitting)
    card = (tmp_path / "released" / "MODEL_CARD.md").read_text()
    assert "Audited before its release: north, south: painting: no sign of membership" in card
    was, now = (
        {path.name: path.read_bytes() for path in (folder / "imagesTr").iterdir()}
        for folder in (audited[0] / "synthetic", tmp_path / "released")
    )
    assert was == now
    published(tmp_path / "released")


def test_an_audit_is_of_the_file_that_paints_not_of_what_is_said_of_it(
    parts, given, permitting, tmp_path
):
    run = RunFolder(shutil.copytree(parts[0].path, tmp_path / "run"))
    whole = run.generator_file.read_bytes()
    run.generator_file.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(RunError, match="is of another generator"):
        release(run, tmp_path / "kept", given, permitting)
    with pytest.raises(RunError, match=r"another generator than the one that run\.json says"):
        run.generator()


def test_an_audit_looks_at_what_the_generator_paints_not_at_what_lies_in_its_folder(
    parts, sites, given, audited, tmp_path
):
    opened = RunSites.opened(parts[0], sites)
    out = Path(shutil.copytree(audited[0] / "synthetic", tmp_path / "synthetic"))
    synthetic_of_run(opened, out, masks=given, compared=True)  # is taken, as it is the same
    image = next((out / "imagesTr").iterdir())
    Picture.new("L", (32, 32), 128).save(image)
    with pytest.raises(RunError, match=r"is not what the generator of .* paints"):
        synthetic_of_run(opened, out, masks=given, compared=True)


@pytest.mark.parametrize(
    "change",
    [{"p_value": None}, {"p_value": [1]}, {"members": "many"}, {"high": 0.8}, {"p_value": 0.01}],
    ids=str,
)
def test_an_audit_that_shows_nothing_or_is_none_releases_nothing(change, parts, given, permitting):
    of_many_patients(permitting, **change)
    with pytest.raises(RunError):
        release(parts[0], permitting / "kept", given, permitting)


def test_an_audit_shows_what_it_is_doing(parts, audited):
    run, (out, said) = parts[0], audited
    lines = re.findall(r"^ *(\d+) %  (.+)$", said, re.MULTILINE)
    assert [text for _, text in lines] == [
        "read the patients", "paint the synthetic set",
        f"attack: can a coordinator read images of {', '.join(SITES)}?",
        "attack: who took part?", "attack: are there copies of patients?",
    ]  # fmt: skip
    done = [int(part) for part, _ in lines]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 100
    assert re.search(r"^to do: Audit with more patients than these \d members", said, re.M)
    stored = json.loads((out / "audit.json").read_text())
    about = json.loads((out / "synthetic" / "dataset.json").read_text())
    assert stored["trial"] == about["provenance"]["trial"] == trial_of(run.facts(), run.recipe())
    assert stored["masks"] == about["provenance"]["masks"] and stored["own_masks"] == 0
    assert read_audit(out).source.startswith("a folder of masks")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"canaries": "nobody"}, "start with 'nobody'"), ({"fade": ["nothing"]}, "nothing"),
        ({"masks": Path("nowhere")}, "nowhere"),
    ],
)  # fmt: skip
def test_what_can_be_refused_at_once_is_refused_before_an_image_is_read(
    options, said, parts, sites, tmp_path, monkeypatch
):
    monkeypatch.setattr(DataSet, "arrays", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(AsyndganError, match=said):
        audit_run(RunSites.opened(parts[0], sites), tmp_path / "audit", **options)
    assert not (tmp_path / "audit").exists()


def test_canaries_put_in_on_purpose_are_audited_alone_and_release_nothing(tiny, given, tmp_path):
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.2)
    sites = {site.name: tmp_path / site.name for site in DEFAULT_SITES[:2]}
    random = np.random.default_rng(0)
    for folder in sites.values():
        for number in range(8):
            name = f"canary{number:02}-0"
            noise = random.integers(0, 256, (32, 32), dtype=np.uint8)
            for channel in range(3):
                file = folder / "imagesTr" / f"{name}_{channel:04}.png"
                Picture.fromarray(noise).save(file)
            Picture.new("L", (32, 32), 1).save(folder / "labelsTr" / f"{name}.png")
        declare(folder, numTraining=len([*(folder / "labelsTr").iterdir()]))
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.5")
    run = train(recipe, sites, tmp_path / "run")
    words = ("--out", tmp_path / "audit", "--masks", given, "--canaries", "can")
    asyndgan("audit", run.path, *words, *named(sites))
    attack = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"][0]
    assert attack["members"] + attack["others"] == 2 * 8
    of_many_patients(tmp_path / "audit")
    with pytest.raises(RunError, match="compares canaries alone"):
        release(run, tmp_path / "kept", given, tmp_path / "audit")


def test_a_strangers_audit_is_refused_by_an_error_of_ours(parts, given, tmp_path):
    for content in ("[]", '{"attacks": [[1]]}', "[" * 9999, "{", ""):
        (tmp_path / "audit.json").write_text(content)
        with pytest.raises(RunError):
            release(parts[0], tmp_path / "kept", given, tmp_path)


def test_members_are_those_whom_the_run_was_trained_on(parts, sites, tmp_path):
    run, (first, second) = parts[0], SITES
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.3, seed=9)
    for wrong, said in (
        ({"elsewhere": sites[first]}, "the run has no site elsewhere"),
        ({first: sites[first], second: sites[first]}, f"site {second} trained with"),
        (sites | {first: tmp_path / first}, f"cases that {first} was trained on"),  # as many
    ):
        with pytest.raises(RunError, match=said):
            load_for_audit(RunSites.opened(run, wrong), None)


def test_patients_are_found_as_in_the_run_or_others_would_count_as_held_out(tiny, tmp_path):
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.3)
    site = tmp_path / DEFAULT_SITES[0].name
    recipe = tiny("image.size=32", "training.hold_out=0.3", "training.steps=1")
    run = train(recipe, {"a": site}, tmp_path / "run")
    told_by(site, "(.*)")
    for command in ("evaluate", "audit", "augment"):
        told = site if command == "augment" else f"a={site}"
        with pytest.raises(AsyndganError, match="found patients of a by another pattern"):
            asyndgan(command, run.path, "--site", told, "--out", tmp_path / "out")


def test_a_hospital_says_itself_whom_it_was_trained_on_and_by_what_pattern(parts, sites, tmp_path):
    run, away = parts[0], fetched(parts[0], tmp_path / "run")
    with pytest.raises(RunError, match="nobody can tell whom it held out"):
        load_for_audit(RunSites.opened(away, sites), None)
    for site in SITES:
        kept = away.site_state(site) / CHOOSER_FILE
        kept.parent.mkdir(parents=True)
        shutil.copy(run.site_state(site) / CHOOSER_FILE, kept)
    *_, confirmed = load_for_audit(RunSites.opened(away, sites), None)
    assert not confirmed
    states = {site: run.site_state(site) for site in SITES}
    *_, confirmed = load_for_audit(RunSites.opened(away, sites, states=states), None)
    assert set(confirmed) == set(SITES)
    shutil.copytree(sites[SITES[0]], other := tmp_path / "other")
    told_by(other, "(.*)")
    with pytest.raises(RunError, match="its patient_pattern was another"):
        load_for_audit(RunSites.opened(away, sites | {SITES[0]: other}, states=states), None)


def test_hospitals_audit_their_own_patients_and_all_of_them_release_the_set(
    parts, sites, given, tmp_path
):
    run, away = parts[0], fetched(parts[0], tmp_path / "run")
    for site in SITES:
        said = asyndgan(
            "audit", away.path, "--site", f"{site}={sites[site]}", "--masks", given,
            "--state", f"{site}={run.site_state(site)}", "--out", tmp_path / site,
        )  # fmt: skip
        assert "NOT CONFIRMED" not in said and "site:" not in said
        assert not read_audit(tmp_path / site).audit.uncompared
        of_many_patients(tmp_path / site)
    north, south = (tmp_path / site for site in SITES)
    with pytest.raises(RunError, match=f"no audit covers {SITES[1]}"):
        release(away, tmp_path / "kept", given, north)
    release(away, tmp_path / "released", given, north, south)
    card = (tmp_path / "released" / "MODEL_CARD.md").read_text()
    assert all(f"{site}: painting: no sign of membership" in card for site in SITES)


def test_an_audit_says_with_whose_members_its_others_were_not_compared(parts, given, tmp_path):
    """One site's members among another's others would hide that both were learned."""
    run, members, others, _ = parts
    masks, texts = chosen_masks(run, given)[0], []
    painted, digest = list(synthesise(run, masks)), masks_digest(masks)
    for site in SITES:
        own = [case for case in members if case.patient.startswith(f"{site}/")]
        # As of a folder, in which patients have no site's name.
        strangers = [replace(case, patient=f"from {case.patient[-4:]}") for case in others]
        out = tmp_path / site
        found = audit(run, own, strangers, painted, out, Audited(masks=digest, confirmed=[site]))
        assert found.uncompared == [other for other in SITES if other != site]
        of_many_patients(out)
        texts.append(f"others not compared with the members of {found.uncompared[0]}")
    north, south = (tmp_path / site for site in SITES)
    release(run, tmp_path / "released", given, north, south)
    card = (tmp_path / "released" / "MODEL_CARD.md").read_text()
    assert all(text in card for text in texts)


def test_others_are_compared_by_slices_with_a_label_where_members_are(tiny, tmp_path):
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:3], patients_scale=0.1)
    sites = {site.name: tmp_path / site.name for site in DEFAULT_SITES[:2]}
    holdout = tmp_path / DEFAULT_SITES[2].name
    first = min((holdout / "labelsTr").glob("*.png"))
    Picture.new("L", (32, 32)).save(first)
    run = train(tiny("image.size=32", "image.slices=labelled"), sites, tmp_path / "run")
    _, others, _ = load_for_audit(RunSites.opened(run, sites), DataSet(holdout))
    assert {case.name for case in others} == {
        path.stem for path in (holdout / "labelsTr").glob("*.png") if path != first
    }


def files_in(folder: Path) -> list[Path]:
    """All files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_audit_says_whether_a_coordinator_could_read_real_pixels(tiny, tmp_path, monkeypatch):
    # As many questions as it takes to read images within a hundredth of their range.
    monkeypatch.setattr(reconstruction, "bisected", partial(bisected, parts=8, rounds=2))
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.3)
    sites = {SITES[0]: tmp_path / SITES[0]}
    how = (
        "training.steps=3", "training.hold_out=0.4", "generator.noise=0",
        "training.checkpoint_every=2",
    )  # fmt: skip
    told = []
    for term, recipe, questions in (
        ("paired", tiny(*how, "loss.paired_l1=100"), STEPS),
        ("none", load_recipe("default", (*SMALL, *how, "masks.source=own")), 12),
    ):
        monkeypatch.setattr(reconstruction, "followed", partial(followed, questions=questions))
        monkeypatch.setattr(reconstruction, "QUESTIONS", 9 * 2 + questions)
        run, out = train(recipe, sites, tmp_path / term), tmp_path / f"{term}-audit"
        kept = {path: path.read_bytes() for path in files_in(run.path)}
        said = asyndgan("audit", run.path, "--out", out, *named(sites))
        assert {path: path.read_bytes() for path in files_in(run.path)} == kept
        assert said.count("pixels: ") == 1
        assert ("REAL PIXELS CAN BE READ" in said) is (term == "paired")
        (stored,) = json.loads((out / "audit.json").read_text())["pixels"]
        told.append(PixelsRead(**{key: stored[key] for key in stored if key != "verdict"}))
    paired, none = told
    assert (paired.site, paired.told, none.told, none.step) == (SITES[0], 2, 0, 2)
    assert min(paired.read + paired.followed) > 30 > max(paired.painted)
    assert "; by image -" in none.verdict
    assert "no nearer to real pixels in this test of 2 images" in none.verdict
    assert none.verdict.endswith("that of step 2, the oldest kept")
    # Not one image is nearer than what can be had without asking, as by painting the same mask.
    pairs = [*zip(none.asked, none.anyway, strict=True)]
    assert len(pairs) == 2 and all(asked <= anyway for asked, anyway in pairs)


def store(run: RunFolder, recipe: Recipe, facts: RunFacts) -> None:
    """Writes a recipe as that of a run's training."""
    run.recipe_file.write_text(recipe.to_toml())
    run.write_facts(replace(facts, recipe_digest=recipe.digest()))


def test_a_recipe_that_was_changed_after_the_training_hides_nothing(parts, sites, tmp_path):
    run = parts[0]
    changed = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    other = Recipe.from_toml(run.recipe().to_toml(), ["loss.paired_l1=1.0"])
    changed.recipe_file.write_text(other.to_toml())
    with pytest.raises(RunError, match=r"another recipe than the one that run.json says"):
        changed.recipe()
    store(changed, other, changed.facts())
    with pytest.raises(RunError, match=f"not the recipe by which {SITES[0]} was trained"):
        load_for_audit(RunSites.opened(changed, sites), None)


def test_without_others_there_is_nobody_to_compare_with(parts, tiny, tmp_path):
    folder = RunFolder(tmp_path)
    store(folder, tiny("image.size=32"), parts[0].facts())
    with pytest.raises(RunError, match="no patients whom the run has not seen"):
        load_for_audit(RunSites(folder, {}), None)


def test_masks_that_a_run_kept_are_the_members_from_wherever_they_come(parts, sites, tmp_path):
    run = parts[0]
    elsewhere = shutil.copytree(run.masks, tmp_path / "somewhere")
    found = audit_of_python(
        run.path, {SITES[0]: sites[SITES[0]]}, tmp_path / "audit", masks=elsewhere
    )
    assert found.audit.own_masks and found.of_members and found.owned
    assert read_audit(tmp_path / "audit") == found
