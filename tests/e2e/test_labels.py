"""A synthetic set that sites label: by command, judged in a row of its own, never as another."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asyndgan import generate, train
from asyndgan.cli import app
from asyndgan.data.dataset import DataSet
from asyndgan.errors import AsyndganError, RunError
from asyndgan.judging.table import LABELLED
from asyndgan.painting import labelled
from asyndgan.painting.provenance import LABELLED_BY
from asyndgan.painting.sets import check_provenance
from asyndgan.privacy.ledger import read
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites


def asyndgan(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def run(
    phantoms: dict[str, Path],
    tiny: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "run"
    recipe = tiny("image.size=32", "training.steps=2")
    train(recipe, phantoms, folder)
    return folder


@pytest.mark.parametrize("like", [False, True])
def test_a_labelled_set_has_the_images_of_its_set_and_labels_of_the_sites(
    like: bool, run: Path, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    generate(run, tmp_path / "painted", like=phantoms["north"] if like else None)
    _told(audited="no attack finds a patient", recipe="mine")(tmp_path / "painted")
    sites = [word for name, data in phantoms.items() for word in ("--site", f"{name}={data}")]
    (tmp_path / "policy.toml").write_text(
        "[leaves]\nlabels = true\nmasks = 'released'\n"
        "[allows]\nunmeasured = true\nfewest_patients = 1\n"
    )
    said = asyndgan(
        "label", run, *sites, "--synthetic", tmp_path / "painted", "--out", tmp_path / "labelled",
        "--steps", 40, "--policy", f"north={tmp_path / 'policy.toml'}", "--records",
        tmp_path / "books",
    )  # fmt: skip
    before, after = DataSet(tmp_path / "painted"), DataSet(tmp_path / "labelled")
    folder, image = RunFolder(run), RunFolder(run).recipe().image
    old, new = (data.cases(image, synthetic=True, unmasked=False) for data in (before, after))
    assert [case.name for case in old] == [case.name for case in new]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(old, new, strict=True))
    assert not all(np.array_equal(a.mask, b.mask) for a, b in zip(old, new, strict=True))
    splits = "splits_final.json"
    assert (after.folder / splits).read_bytes() == (before.folder / splits).read_bytes()
    weights = after.info.extra["provenance"][LABELLED_BY]  # type: ignore[index]
    shares = {site: about["share"] for site, about in folder.facts().sites.items()}
    assert weights == pytest.approx(shares)
    card = (after.folder / "MODEL_CARD.md").read_text()
    assert "segmentation networks of north, south" in card
    assert "Not audited" in card and "no attack finds" not in card  # another party's word
    told = after.info.provenance
    assert (told["recipe"], told["masks"]) == ("tiny", before.info.provenance["masks"])
    assert "audited" not in told

    # What left is in the books, and is what the command said.
    for name in phantoms:
        lines = list(read(tmp_path / "books" / name / "ledger.jsonl"))
        assert {line.kind for line in lines} == {"labelled"}
        assert len(lines) == -(-len(old) // 64)
        assert f"{sum(line.size for line in lines) / 1000:.0f} kB left" in said

    # Neither set is taken for the other, and in a comparison each has a row.
    with pytest.raises(RunError, match=r"was labelled by the sites.*--labelled"):
        check_provenance(folder, after)
    with pytest.raises(RunError, match="label it with 'asyndgan label'"):
        check_provenance(folder, before, labelled=True)
    if not like:
        asyndgan(
            "evaluate", run, *sites, "--test", phantoms["north"].parent / "test",
            "--synthetic", before.folder, "--labelled", after.folder,
            "--steps", 2, "--out", tmp_path / "evaluation",
        )  # fmt: skip
        rows = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["rows"]
        models = [row["model"] for row in rows if row["label"] == "lesion"]
        assert models == ["real-all", "synthetic", LABELLED, "real:north", "real:south"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--policy", "north=POLICY"), "lets no labels out.*Name the sites that do with --site"),
        (("--site", "west=NORTH"), "learned from north, south, and not from west"),
        (("--site", "south=TEST"), "the data of south are not those that the run was trained on"),
        (("--site", "south=NORTH"), r"the data of south.*are those that north was trained on"),
    ],
)
def test_a_set_that_cannot_be_labelled_is_refused_and_nothing_is_left_behind(
    words: tuple[str, ...], reason: str, run: Path, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    generate(run, tmp_path / "painted", draws=1)
    policy = tmp_path / "policy.toml"
    policy.write_text("[leaves]\nmasks = 'released'\n[allows]\nunmeasured = true\n"
                      "fewest_patients = 1\n")  # fmt: skip
    given = [
        word.replace("POLICY", str(policy))
        .replace("NORTH", str(phantoms["north"]))
        .replace("TEST", str(phantoms["north"].parent / "test"))
        for word in words
    ]
    with pytest.raises(AsyndganError, match=reason):
        asyndgan(
            "label", run, "--site", f"north={phantoms['north']}", "--synthetic",
            tmp_path / "painted", "--out", tmp_path / "labelled", "--steps", 1, *given,
            "--records", tmp_path / "books",
        )  # fmt: skip
    assert not (tmp_path / "labelled").exists()


def test_a_run_of_given_masks_is_labelled_where_the_masks_are_named(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    masks = phantoms["north"].parent / "test"
    recipe = tiny("image.size=32", "training.steps=1", "masks.source=given", "masks.release=false")
    site = {"north": phantoms["north"]}
    train(recipe, site, tmp_path / "run", masks=masks)
    generate(tmp_path / "run", tmp_path / "painted", masks=masks, draws=1)
    words = ("label", tmp_path / "run", "--site", f"north={phantoms['north']}", "--synthetic",
             tmp_path / "painted", "--out", tmp_path / "labelled", "--steps", 1)  # fmt: skip
    with pytest.raises(AsyndganError, match=r"no masks were given.*--masks FOLDER"):
        asyndgan(*words)
    asyndgan(*words, "--masks", masks)
    assert (tmp_path / "labelled" / "dataset.json").exists()


def test_without_the_states_of_a_site_a_label_comes_with_a_warning(
    run: Path, phantoms: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(RunFolder(tmp_path / "run").site_state("north"))
    sites = RunSites.opened(RunFolder(tmp_path / "run"), phantoms)
    sites.check_data()
    [said] = caplog.messages
    assert "the data of north are those of the training: name" in said and "--state" in said


def test_no_site_labels_that_does_not_know_whom_it_held_out(
    tiny: Callable[..., Recipe], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32", "training.steps=1", "training.hold_out=0.2")
    train(recipe, phantoms, tmp_path / "run")
    generate(tmp_path / "run", tmp_path / "painted", draws=1)
    shutil.rmtree(RunFolder(tmp_path / "run").site_state("north"))
    with pytest.raises(RunError, match="nobody can tell whom it held out"):
        asyndgan(
            "label", tmp_path / "run", "--site", f"north={phantoms['north']}", "--synthetic",
            tmp_path / "painted", "--out", tmp_path / "labelled", "--steps", 1,
        )  # fmt: skip


def _told(**changed: object) -> Callable[[Path], None]:
    def tell(set_of: Path) -> None:
        path = set_of / "dataset.json"
        about = json.loads(path.read_text())
        about["provenance"] |= changed
        path.write_text(json.dumps(about))

    return tell


def _piped(set_of: Path) -> None:
    (set_of / "splits_final.json").unlink()
    os.mkfifo(set_of / "splits_final.json")


def _linked(name: str) -> Callable[[Path], None]:
    def link(set_of: Path) -> None:
        path = next(set_of.glob(name))
        path.replace(path.parents[1] / "secret")
        path.symlink_to(path.parents[1] / "secret")

    return link


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_linked("splits_final.json"), "is a link"),
        (_linked("imagesTr/*"), "is a link"),
        (lambda set_of: (set_of / "imagesTr" / "more").symlink_to(set_of), "is a link"),
        (_piped, "holds anything but folds"),
        (
            lambda set_of: (set_of / "splits_final.json").write_text('[{"train": ["# heading"]}]'),
            "holds anything but folds",
        ),
        (_told(masks="fine\n\n# Certified"), "that no painting writes"),
        (_told(masks=None), "that no painting writes"),
        (_told(trial={}), "that no painting writes"),
        (_told(shares=math.nan), "that no painting writes"),
        (_told(faded=[3], contrasts=1), "that no painting writes"),
        (_told(faded=[99], contrasts=[1, 1]), "was not painted by the generator"),
        (_told(masks_sha256="x"), "that no painting writes"),
    ],
)
def test_a_set_whose_copy_could_hold_something_else_is_refused_before_sites_train(
    change: Callable[[Path], None],
    reason: str,
    run: Path,
    phantoms: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate(run, tmp_path / "painted", draws=1)
    change(tmp_path / "painted")
    monkeypatch.setattr(labelled, "Exchange", None)
    with pytest.raises(AsyndganError, match=reason):
        asyndgan(
            "label", run, "--site", f"north={phantoms['north']}", "--synthetic",
            tmp_path / "painted", "--out", tmp_path / "labelled", "--steps", 1,
        )  # fmt: skip
    assert not (tmp_path / "labelled").exists()
