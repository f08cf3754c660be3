"""Views of a suite's scores, against numbers made by hand."""

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.errors import RecipeError
from asyndgan.judging.compare import row_of
from asyndgan.judging.metrics import SCORES
from asyndgan.judging.table import ADDED, SITE_PREFIX, Evaluation, Scores
from asyndgan.texts import without_nan
from lab.evidence import find_block, to_markdown
from lab.scores import FILE, Key, by_key, joined, read_scores, tidy, write_scores
from lab.suite import Suite
from lab.views import views

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "lab/results"
NAN = float("nan")
SUITE = """
name = "heads"
networks = ["segresnet"]
[[sets]]
name = "heads"
folder = "heads"
sites = ["north", "south"]
label = "lesion"
apart = { strangers = "far.*" }
"""
UNUSED = ("noise", "style", "latent", "soften", "diversity", "diversity_bound")
RESNET = " ".join(["generator.kind=resnet", *(f"generator.{key}=0" for key in UNUSED)])
NORTH, SOUTH = (SITE_PREFIX + name for name in ("north", "south"))


def suite(*models: str, more: str = "") -> Suite:
    """A suite of models of one recipe; `more` is said of the last one."""
    sections = [f'[[models]]\nname = "{name}"\nrecipe = "default"\n' for name in models]
    return Suite.from_toml(SUITE + "".join(sections) + more)


@pytest.mark.parametrize(
    ("planned", "overrides", "size", "kind", "latent"),
    [
        ("false", "", (64, 64), "topdown", 16),
        ("true", "image.size=48", (48, 48), "topdown", 16),
        ("true", RESNET, (32, 32), "resnet", 0),
    ],
)
def test_a_set_takes_what_is_planned_for_its_sites_except_what_overrides_say(
    planned, overrides, size, kind, latent, tmp_path
):
    write_phantoms(tmp_path / "heads", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.12)
    for image in (tmp_path / "heads").glob("*/imagesTr/*.png"):  # unlike anything that masks tell
        noise = np.random.default_rng(len(image.name)).integers(0, 255, (32, 32)).astype(np.uint8)
        Image.fromarray(noise).save(image)
    text = SUITE.replace('apart = { strangers = "far.*" }', f"planned = {planned}")
    text += f'[[models]]\nname = "one"\nrecipe = "default"\noverrides = {overrides.split()}\n'
    made = Suite.from_toml(text)
    made.plan(tmp_path)
    recipe = made.recipe(made.sets[0], made.models[0], 0)
    assert (recipe.image.size, recipe.generator.kind, recipe.generator.latent) == (
        size, kind, latent,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/usr", "heads/../.."])
@pytest.mark.parametrize("line", ["folder = 'heads'", "completion.truth = 'x'"])
def test_a_suite_names_no_folder_outside_the_data(line, path):
    text = SUITE.replace('folder = "heads"', "") + "folder = 'heads'\ncompletion.modality = 'T2'\n"
    text = text.replace(line, "") + line.partition("'")[0] + f"'{path}'\n"
    with pytest.raises(RecipeError, match="leads out of the data folder"):
        Suite.from_toml(text + "[[models]]\nname = 'a'\nrecipe = 'default'\n")


def evaluation(*labels: str, **dice: Any) -> Evaluation:
    """Of one seed, or of several, with an HD95 of ten times the Dice."""
    dice = {"real_all": np.ones(np.shape(dice["synthetic"])[-1]), **dice}
    models = {
        "real_all": "real-all", "north": NORTH, "south": SOUTH,
        "north_added": NORTH + ADDED, "south_added": SOUTH + ADDED,
    }  # fmt: skip
    scores: Scores = {}
    for name, values in dice.items():
        own = np.atleast_2d(np.array(values, dtype=np.float64))
        alarm = np.where(np.isnan(own), 1, NAN)
        both = np.stack([own, 10 * own, np.ones_like(own), alarm], axis=-1)
        scores[models.get(name, name)] = dict.fromkeys(labels or ("lesion",), both)
    rows = tuple(
        row_of(model, label, 7, own[label], scores["real-all"][label])
        for label in labels or ("lesion",)
        for model, own in scores.items()
    )
    seeds = tuple(range(len(next(iter(scores["synthetic"].values())))))
    return Evaluation("", rows, scores, seeds=seeds)


def shown(
    of: Suite, found: dict[Key, Evaluation], strangers: tuple[int, ...] = ()
) -> dict[str, list[dict[str, Any]]]:
    """The views of evaluations, and of those by another network that come out the same."""
    own = [tidy(one, key) for key, one in found.items()]
    others = [tidy(one, key._replace(network="segresnet")) for key, one in found.items()]
    groups = {"heads": {"strangers": list(strangers)}}
    return views(of, by_key(joined([*own, *others])), groups, [])


def main(recipe: str) -> Key:
    return Key("heads", recipe, "unet", "")


def test_differences_are_paired_patient_by_patient():
    found = evaluation(
        real_all=[1, 0.9, NAN], synthetic=[0.5, 0.8, NAN], north=[0.4, 0.6, NAN],
        south=[0.2, 0.2, NAN], north_added=[0.6, 0.6, NAN], south_added=[0.4, 0.6, NAN],
    )  # fmt: skip
    of = suite("a", more="augmented = true")
    rows = {(r["model"], r["over"]): r for r in shown(of, {main("a"): found})["differences"]}
    assert rows["synthetic", "real-all"]["difference"] == pytest.approx((-0.5 - 0.1) / 2)
    assert rows["synthetic", "real-all"]["patients"] == 2
    assert rows["synthetic", "real:north"]["difference"] == pytest.approx(0.15)
    assert rows["real:south+synthetic", "real:south"]["difference"] == pytest.approx(0.3)
    pooled = rows["every real:NAME+synthetic", "real:NAME"]
    # of each patient's mean over sites: 0.5 - 0.3 and 0.6 - 0.4
    ends = pooled["difference"], pooled["low"], pooled["high"]
    assert ends == pytest.approx((0.2, 0.2, 0.2))
    assert ("real:north+synthetic", "synthetic") not in rows


def test_recipes_are_compared_with_the_suites_first():
    both = {
        main("first"): evaluation(synthetic=[0.5, 0.7]),
        main("second"): evaluation(synthetic=[0.6, 0.9]),
    }
    *_, row, strangers = shown(suite("first", "second"), both, (1,))["differences"]
    assert (strangers["apart"], strangers["patients"]) == ("strangers", 1)
    assert strangers["difference"] == pytest.approx(0.2)
    assert (row["apart"], row["recipe"], row["over"]) == ("", "second", "synthetic of first")
    assert row["difference"] == pytest.approx(0.15)
    assert row["ratio"] == pytest.approx(1.5 / 1.2)
    assert row["ratio_low"] == pytest.approx(0.6 / 0.5)
    assert row["ratio_high"] == pytest.approx(0.9 / 0.7)


def test_a_row_is_of_means_over_seeds_and_real_models_stand_once():
    both = {
        main("a"): evaluation("lesion", "ventricle", synthetic=[[0.2, 0.4, NAN], [0.4, 0.6, NAN]]),
        main("b"): evaluation("lesion", "ventricle", synthetic=[[0.8, 0.8, NAN], [0.8, 0.8, NAN]]),
    }
    of = suite("a", "b", more="paintings = [{ images = 1 }]")
    further = Key("heads", "b", "unet", of.models[1].paintings[0].name(of.sets[0]))
    found = shown(of, {**both, further: evaluation(synthetic=[0.1, 0.3, NAN])})
    assert [(row["recipe"], row["model"], row["label"]) for row in found["rows"]] == [
        ("", "real-all", "lesion"), ("a", "synthetic", "lesion"),
        ("", "real-all", "ventricle"), ("a", "synthetic", "ventricle"),
        ("b", "synthetic", "lesion"), ("b", "synthetic", "ventricle"),
    ]  # fmt: skip
    row = found["rows"][1]
    assert (row["seeds"], row["patients"], row["healthy"], row["cases"]) == (2, 2, 1, 7)
    assert row["dice_mean"] == pytest.approx((0.3 + 0.5) / 2)
    assert (row["dice_least"], row["dice_most"]) == pytest.approx((0.3, 0.5))
    assert (row["hd95_mean"], row["ratio"]) == pytest.approx((4, 0.4))
    assert row["false_alarms"] == 1
    assert [(row["recipe"], row["network"], row["model"]) for row in found["networks"]] == [
        (recipe, "segresnet", model) for recipe in "ab" for model in ("real-all", "synthetic")
    ]
    assert found["networks"][1]["dice_mean"] == row["dice_mean"]
    assert [(row["recipe"], row["images"]) for row in found["paintings"]] == [("b", 3), ("b", 1)]
    assert [row["ratio"] for row in found["paintings"]] == pytest.approx([0.8, 0.2])


def test_scores_are_read_as_they_were_written_and_equal_ones_give_equal_files(tmp_path):
    found = joined([tidy(evaluation(synthetic=[[1 / 3, NAN], [0.1, NAN]]), main("007"))])
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_scores(found, folder)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    read = read_scores(tmp_path / "one" / FILE)
    assert list(read.columns) == list(found.columns)
    assert read.equals(found)


@pytest.mark.parametrize("label", ["=1+1", "-1", "\uff1d1", "'=1"])
def test_no_name_in_the_scores_begins_as_a_formula_and_all_are_read_as_they_were(label, tmp_path):
    row = dict.fromkeys(Key._fields, "x") | {"label": label, "cases": 3, "seed": 0, "patient": 0}
    scores = pd.DataFrame([row | dict.fromkeys(SCORES, -0.5)])
    write_scores(scores, tmp_path)
    text = gzip.decompress((tmp_path / FILE).read_bytes()).decode()
    (cells,) = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert not any(cell.startswith(("=", "+", "@", "\uff1d", "-1")) for cell in cells)
    assert cells[-len(SCORES) :] == ["-0.5"] * len(SCORES)  # numbers stay numbers
    assert read_scores(tmp_path / FILE)["label"].tolist() == [label]


@pytest.mark.parametrize("name", [file.name.split(".")[0] for file in RESULTS.glob(f"*.{FILE}")])
def test_the_results_of_a_suite_are_views_of_the_scores_beside_them(name):
    stored = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    of = Suite.from_toml((ROOT / f"lab/suites/{name}.toml").read_text("utf-8"))
    found = by_key(read_scores(RESULTS / f"{name}.{FILE}"))
    computed = without_nan(views(of, found, stored["groups"], stored["costs"]))
    assert computed["rows"] and computed["differences"]
    assert computed == {name: stored[name] for name in computed}


@pytest.mark.parametrize("name", [file.name.split(".")[0] for file in RESULTS.glob(f"*.{FILE}")])
def test_the_page_of_a_suite_shows_its_stored_result(name):
    page = (ROOT / f"docs/results/{name}.md").read_text("utf-8")
    start, stop = find_block(page, name)
    stored = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    assert page[start:stop].split() == to_markdown(stored).split()


def test_every_suite_that_comes_with_the_project_can_be_read_and_has_its_place():
    suites = {path.stem: path for path in (ROOT / "lab/suites").glob("*.toml")}
    script = (ROOT / "lab/evidence.sh").read_text().replace("\\\n", "")
    (line,) = re.findall(r"^\[ \$# -gt 0 \].* -- (.*)$", script, re.MULTILINE)
    scripts = {path.stem for path in (ROOT / "lab/experiments").glob("*.py")}
    listed = set(line.split())
    assert {name for name in suites if not name.startswith("search")} == listed - scripts
    for name, path in suites.items():
        assert Suite.from_toml(path.read_text()).name == name
        find_block((ROOT / f"docs/results/{name}.md").read_text(), name)
