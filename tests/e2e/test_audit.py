"""An audit finds members where they can be found, and nobody where nobody is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.data import Case, Cohort
from asyndgan.data.nnunet import describe
from asyndgan.data.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import DataError, RunError
from asyndgan.evaluation.audit import area_under_curve, audit
from asyndgan.evaluation.of_run import load_for_audit, load_real, synthetic_of_run
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, train

Parts = tuple[RunFolder, list[Case], list[Case], list[Case]]


@pytest.fixture(scope="module")
def parts(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A run that held patients out, its members, the others, and what it painted."""
    folder = tmp_path_factory.mktemp("audit")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.3)
    sites = {site.name: folder / site.name for site in DEFAULT_SITES[:2]}
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.4")
    run = train(recipe, sites, folder / "run")
    synthetic = synthetic_of_run(run, sites, folder / "synthetic")
    return run, *load_for_audit(run, sites, None, synthetic)


def test_members_and_others_are_different_patients_of_the_same_sites(parts: Parts) -> None:
    _, members, others, _ = parts
    names = [{case.patient for case in cases} for cases in (members, others)]
    assert not names[0] & names[1]
    assert {n.split("/")[0] for n in names[0]} == {n.split("/")[0] for n in names[1]}


def test_a_set_that_is_made_of_members_gives_them_away(parts: Parts, tmp_path: Path) -> None:
    run, members, others, _ = parts
    copies = [replace(case, image=0.98 * case.image) for case in members]
    attacks = {one.name: one for one in audit(run, members, others, copies, tmp_path)}
    assert attacks["nearest"].auc > 0.95
    assert attacks["nearest"].p_value < 0.01
    assert "MEMBERS CAN BE TOLD" in attacks["nearest"].verdict
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert stored["generator_sha256"] == run.facts().generator_sha256
    assert [one["name"] for one in stored["attacks"]] == ["painting", "nearest", "density"]
    assert (tmp_path / "nearest.png").stat().st_size > 1000


def test_a_generator_that_has_learned_nothing_gives_nobody_away(
    parts: Parts, tmp_path: Path
) -> None:
    run, members, others, painted = parts
    attacks = {one.name: one for one in audit(run, members, others, painted, tmp_path)}
    painting = attacks["painting"]
    assert painting.low < 0.5 < painting.high
    assert "no sign of membership" in painting.verdict
    assert painting.members == len({case.patient for case in members})


def test_a_set_is_released_only_where_an_audit_of_its_generator_found_nothing(
    parts: Parts, tmp_path: Path
) -> None:
    run, members, others, painted = parts

    def generate(name: str, audited: Path) -> Result:
        words = ["generate", run.path, "--masks", masks, "--out", tmp_path / name]
        return CliRunner().invoke(app, [str(w) for w in [*words, "--release", audited]])

    masks = run.path.parent / DEFAULT_SITES[0].name
    audit(run, members, others, painted, tmp_path / "good")
    copies = [replace(case, image=0.98 * case.image) for case in members]
    audit(run, members, others, copies, tmp_path / "bad")
    said = generate("released", tmp_path / "good")
    assert said.exit_code == 0, said.output
    card = (tmp_path / "released" / "MODEL_CARD.md").read_text()
    assert "Audited before its release: painting: no sign of membership" in card
    assert "may not be released" in str(generate("kept", tmp_path / "bad").exception)
    assert "no audit that can be read" in str(generate("kept", tmp_path).exception)
    facts = json.loads((tmp_path / "good" / "audit.json").read_text())
    (tmp_path / "good" / "audit.json").write_text(json.dumps(facts | {"generator_sha256": "0"}))
    assert "is of another generator" in str(generate("kept", tmp_path / "good").exception)
    assert not (tmp_path / "kept").exists()


def test_without_others_there_is_nobody_to_compare_with(parts: Parts, tmp_path: Path) -> None:
    run, members, others, painted = parts
    with pytest.raises(DataError, match="two patients at least among the others"):
        audit(run, members, others[:1], painted, tmp_path)
    whole = run.recipe().model_copy(
        update={"training": run.recipe().training.model_copy(update={"hold_out": 0.0})}
    )
    folder = RunFolder(tmp_path)
    folder.recipe_file.write_text(whole.to_toml())
    folder.write_facts(run.facts())
    with pytest.raises(RunError, match="nobody to compare members with"):
        load_for_audit(folder, {}, None, tmp_path)


def test_the_area_under_the_curve_of_known_scores() -> None:
    low, high = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    assert area_under_curve(high, low) == 1.0
    assert area_under_curve(low, high) == 0.0
    assert area_under_curve(low, low) == 0.5


def test_another_seed_holds_other_patients_out_at_the_site_and_in_the_evaluation_alike(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    write_phantoms(tmp_path, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.3)
    name = DEFAULT_SITES[0].name
    folder = tmp_path / name
    chosen = []
    for seed in (0, 1):
        recipe = tiny("image.size=32", "training.hold_out=0.4", f"training.hold_out_seed={seed}")
        info = describe(folder)
        labels = {str(value): label for label, value in info.labels.items()}
        real, others = load_real(
            {name: folder}, None, recipe, modalities=info.modalities, labels=labels
        )
        trained = load_cohort(SiteSetup(name, folder, tmp_path), recipe)
        assert trained.digest == Cohort.from_cases(real[name], labels=info.labels).digest
        chosen.append({case.patient for case in others})
    assert chosen[0] != chosen[1]
