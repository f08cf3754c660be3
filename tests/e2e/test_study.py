"""A study from its folders to the report, as a person types it: sites are named once."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from asyndgan import Study, train
from asyndgan.cli import app
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.intake.description import describe
from asyndgan.runs import RunFolder, load_recipe


def asyndgan(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_study_is_written_once_and_every_command_takes_it(phantoms, tiny, tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    north, south = phantoms.values()
    said = asyndgan(f"init {north} {south} --test {north.parent / 'test'}")
    assert "all stored values are whole" in said
    assert Study.load("study.toml").recipe == "recipe.toml"
    assert load_recipe("recipe.toml").image.size == (32, 32)
    recipe = tiny("image.size=32", "training.hold_out=0", "training.steps=4")
    Path("own.toml").write_text(recipe.to_toml())
    text = Path("study.toml").read_text().replace("recipe.toml", "own.toml")
    Path("study.toml").write_text(text.replace("# training.steps = 2000", "training.steps = 2"))
    assert "No faults." in asyndgan("check")

    said = asyndgan("train --set generator.noise=0")
    assert "step 2/2" in said and "No patients are held out" not in said
    assert said.endswith("asyndgan generate\nasyndgan evaluate\nasyndgan audit\nasyndgan report\n")
    assert f"study.toml adds: own.toml --out run --site north={north} --site south={south} " in said
    run = RunFolder(Path("run"))
    assert run.facts().sites.keys() == {"north", "south"} and run.recipe().generator.noise == 0

    asyndgan("generate --draws 1")
    assert describe(Path("synthetic")).synthetic
    said = asyndgan("evaluate --steps 2 --label lesion")
    assert "--synthetic synthetic" in said and Path("evaluation/evaluation.json").is_file()

    monkeypatch.chdir(tmp_path)
    file = "--study study/study.toml"
    asyndgan(f"audit {file} --site north")
    assert json.loads(Path("study/audit/audit.json").read_text())
    assert "with the evaluation in" in asyndgan(f"report {file}")
    assert Path("study/run/report.html").is_file()
    assert "all stored values are whole" in asyndgan(f"plan {file}")
    asyndgan(f"augment {file} --site south --ratio 0.2")
    assert describe(Path("study/south-augmented")).synthetic_cases

    study = Study.load("study/study.toml")
    again = train(study.recipe, study.sites, "again", overrides=study.changes)
    assert again.state == "finished" and again.recipe.training.steps == 2


def test_a_study_offers_to_change_the_steps_that_were_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path / "data", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.12)
    for image in tmp_path.glob("data/*/imagesTr/*.png"):  # unlike anything that masks tell
        noise = np.random.default_rng(len(image.name)).integers(0, 255, (32, 32)).astype(np.uint8)
        Image.fromarray(noise).save(image)
    asyndgan("init data/north data/south")
    assert load_recipe("recipe.toml").training.steps == 14400
    assert "# training.steps = 14400" in Path("study.toml").read_text()
