"""A suite from its file to its tables, as a person runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.data.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.errors import AsyndganError, RunError
from asyndgan.evaluation.suite import Suite
from asyndgan.recipe import Recipe
from asyndgan.reports.evidence import replace_block

SUITE = """
name = "tiny"
seeds = 2
segmentation_seeds = 2
segmentation_steps = 3
fedavg = true
networks = ["segresnet"]
judged_on = "JUDGED_ON"

[[sets]]
name = "heads"
folder = "heads"
sites = ["north", "south"]
label = "lesion"
further_labels = ["ventricle"]
apart = { "the first patient" = ".*p000" }

[[models]]
name = "small"
recipe = "RECIPE"
fedgan = true
augmented = true
paintings = [{ images = 1 }, { images = 2, mixed = 1 }, { images = 2, dropped = 0.25 }]

[[models]]
name = "paired"
recipe = "RECIPE"
checkpoints = true
overrides = ["loss.paired_l1=10", "training.checkpoint_every=1"]
on = { heads = ["training.steps=3"] }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "heads", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.12)
    return folder


def write_suite(folder: Path, tiny: Callable[..., Recipe], judged_on: str) -> Path:
    recipe = folder / "recipe.toml"
    recipe.write_text(tiny("image.size=32", "training.steps=4").to_toml())
    suite = folder / "suite.toml"
    text = SUITE.replace("RECIPE", str(recipe)).replace("JUDGED_ON", judged_on)
    suite.write_text(text if judged_on == "test" else text.replace("apart =", "# apart ="))
    return suite


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_suite_trains_everything_once_and_writes_its_tables(
    data: Path, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    suite = write_suite(tmp_path, tiny, "test")
    document = tmp_path / "evidence.md"
    document.write_text("before\n<!-- suite: tiny -->\nold\n<!-- end of suite: tiny -->\nafter\n")
    out = tmp_path / "out"
    first = run(suite, "--data", data, "--out", out, "--document", document, "--workers", 2)
    result = json.loads((out / "suite.json").read_text())
    lesions = [row for row in result["rows"] if row["label"] == "lesion"]
    assert len(result["rows"]) == 2 * len(lesions)
    assert [(row["recipe"], row["model"]) for row in lesions] == [
        ("", "real-all"), ("small", "synthetic"), ("small", "fedgan-synthetic"), ("", "fedavg"),
        ("", "real:north"), ("", "real:south"),
        ("small", "real:north+synthetic"), ("small", "real:south+synthetic"),
        ("paired", "synthetic"),
    ]  # fmt: skip
    synthetic, fedgan = lesions[1:3]
    assert (synthetic["seeds"], synthetic["label"]) == (4, "lesion")
    assert json.loads((out / "runs/heads/paired-1/run.json").read_text())["steps"] == 3
    small = result["traffic"][0]
    assert synthetic["bytes"] == pytest.approx(4 * (small["sent"] + small["received"]))
    assert fedgan["bytes"] == small["fedgan_round"]  # four steps are one round
    assert small["break_even"] == pytest.approx(fedgan["bytes"] / synthetic["bytes"] * 4)
    fedavg = next(row for row in result["rows"] if row["model"] == "fedavg")
    assert fedavg["bytes"] > 0
    assert {row["apart"] for row in result["apart"]} == {"the first patient"}
    assert [(row["recipe"], row["model"]) for row in result["distances"]] == [
        ("small", "synthetic"), ("small", "fedgan-synthetic"), ("paired", "synthetic"),
    ]  # fmt: skip
    assert set(result["distances"][0]["of_sites"]) == {"north", "south"}
    assert [(row["recipe"], row["network"], row["model"]) for row in result["networks"]] == [
        ("small", "segresnet", "real-all"), ("small", "segresnet", "synthetic"),
        ("paired", "segresnet", "real-all"), ("paired", "segresnet", "synthetic"),
    ]  # fmt: skip
    (found,) = result["checkpoints"]
    assert found["steps"] == [1, 2, 3]
    assert all(clipped > 0 for clipped in found["clipped"])
    kept = out / "runs/heads/paired-0"
    last = load_file(kept / "generators/step-00000003.safetensors")
    ended = load_file(kept / "generator.safetensors")
    assert all(torch.equal(last[name], ended[name]) for name in ended)
    assert set(found["correlations"]) == {
        "pooled and Dice", "clipped and Dice", "clipped and pooled",
    }  # fmt: skip
    paintings = [(row["recipe"], row["cases"]) for row in result["paintings"]]
    once = paintings[1][1]
    assert paintings == [
        ("small", cases) for cases in (3 * once, once, 3 * once, 2 * once - round(2 * once / 4))
    ]
    assert "2 images a mask, 1 more with regions exchanged" in (out / "suite.html").read_text()
    assert "How many synthetic images" in (out / "suite.html").read_text()
    compared = {(row["model"], row["over"]) for row in result["differences"]}
    assert ("synthetic", "fedgan-synthetic") in compared
    assert ("every real:NAME+synthetic", "real:NAME") in compared
    text = document.read_text()
    assert text.startswith("before\n<!-- suite: tiny -->")
    assert text.endswith("<!-- end of suite: tiny -->\nafter\n")
    assert "| **synthetic images alone (small)** |" in text
    assert "old" not in text
    assert "<h2>heads</h2>" in (out / "suite.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    cached = sorted((out / "cache").iterdir())
    assert (
        run(suite, "--data", data, "--out", out, "--workers", 2).splitlines()[-30:]
        == (first.splitlines()[-30:])
    )
    assert before == {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.safetensors")}
    assert cached == sorted((out / "cache").iterdir())


def test_on_validation_no_training_sees_a_patient_that_judges(
    data: Path, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    suite = write_suite(tmp_path, tiny, "validation")
    out = tmp_path / "out"
    run(suite, "--data", data, "--out", out, "--workers", 2)
    result = json.loads((out / "suite.json").read_text())
    assert result["judged_on"] == "validation"
    rows = {row["model"]: row for row in result["rows"]}
    held_in = json.loads((out / "runs/heads/small-0/run.json").read_text())["sites"]
    assert held_in["north"]["cases"] == rows["real:north"]["cases"]
    whole = len(list((data / "heads/north/labelsTr").iterdir()))
    assert rows["real:north"]["cases"] < whole


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fedavg = true", "fedavrg = true", "Did you mean fedavg"),
        ('label = "lesion"\n', "", "sets.0.label is missing"),
        ('name = "paired"', 'name = "small"', "two of models are called 'small'"),
        ("loss.paired_l1=10", "image.size=64", "small and paired prepare images"),
        ("loss.paired_l1=10", "loss.pared_l1=10", "loss.paired_l1"),
        ("on = { heads", "on = { haeds", "set on 'haeds', which is no set"),
        ("segresnet", "resnet", "no segmentation network 'resnet'"),
        ("[[sets]]", "[[sets]", "not valid TOML"),
    ],
)
def test_a_suite_that_cannot_run_is_refused_before_anything_is_trained(
    tiny: Callable[..., Recipe], tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = write_suite(tmp_path, tiny, "test").read_text()
    assert old in text
    with pytest.raises(AsyndganError, match=said):
        Suite.from_toml(text.replace(old, new))


def test_a_document_without_the_place_is_left_alone() -> None:
    with pytest.raises(RunError, match="end of suite: tiny"):
        replace_block("nothing here", "tiny", "table")
