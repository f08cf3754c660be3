import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from asyndgan.cli.evaluate import tell_evaluation, tell_trial
from asyndgan.cli.report import report as report_command
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.judging.table import Evaluation, Row
from asyndgan.painting.card import model_card
from asyndgan.painting.fading import AS_PAINTED
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.recipe import Recipe
from asyndgan.reports.gallery import build_gallery, worth_painting
from asyndgan.reports.report import write_report
from asyndgan.runs import RunFacts, RunFolder, load_recipe
from asyndgan.runs.trial import trial_of
from asyndgan.store import Case, Preparation
from asyndgan.wire.messages import ANSWERS, REQUESTS

HOSTILE = "<script>alert(1)</script>"
LABELS = {0: "background", 1: "head", 2: "lesion"}
RECIPE = Recipe.from_tables({"name": "tiny", "image": {"size": 32}, "training": {"steps": 12}})


def record(step: int, sites: list[str], **more: Any) -> dict[str, Any]:
    losses = {site: {"discriminator": 0.6 - 0.01 * step, "adversarial": 1.5} for site in sites}
    shares = {site: 1 / len(sites) for site in sites}
    return {
        "step": step + 1, "seconds": float(step), "updated": True, "shares": shares,
        "losses": losses, "sent": 2000 * (step + 1), "received": 1000 * (step + 1), "news": [],
        **more,
    }  # fmt: skip


def run_folder(
    path: Path, sites: tuple[str, ...] = ("north", "south"), recipe: Recipe = RECIPE, **facts: Any
) -> RunFolder:
    run = RunFolder.create(path, recipe)
    about = {"cases": 10, "share": 1 / len(sites), "modalities": ["T1", "T2"]}
    left, came = {"card": 300, "judgement": 12 * 61_400}, {"open": 172, "judge": 12 * 50_000}
    run.write_facts(
        RunFacts(
            **{
                "run": "ab12", "version": "0.1.0", "recipe_digest": recipe.digest(),
                "engine": "flare", "state": "finished", "steps": 12, "seconds": 75.0,
                "modalities": ["T1", "T2"], "labels": {str(n): name for n, name in LABELS.items()},
                "space": [*recipe.space], "sites": dict.fromkeys(sites, about),
                "left_sites": dict.fromkeys(sites, left),
                "came_to_sites": dict.fromkeys(sites, came),
                **facts,
            }
        )
    )  # fmt: skip
    write_metrics(run, [record(step, list(sites)) for step in range(12)])
    return run


def write_metrics(run: RunFolder, records: list[dict[str, Any]]) -> None:
    run.metrics_file.write_text("".join(json.dumps(each) + "\n" for each in records))


def case(name: str, seed: int = 0, modalities: tuple[str, ...] = ("T1", "T2")) -> Case:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[4:28, 6:26] = 1
    mask[8 + seed % 9 : 14 + seed % 9, 8:14] = 2
    image = torch.rand(len(modalities), 32, 32, generator=generator) * 2 - 1
    stored = Preparation((32, 32), (1.0, 1.0), (32, 32), (0, 0), (1.0,), (0.0,))
    return Case(name, name, image, mask, modalities, stored)


def cases(site: str, count: int = 8) -> list[Case]:
    return [case(f"{site}-m{number:05d}", number) for number in range(count)]


def evaluation(folder: Path, **more: Any) -> Path:
    common = {"seeds": 1, "patients": 6, "hd95_mean": 4.0, "assd_mean": 1.0}
    means = {"real-all": 0.8, "synthetic": 0.72, "real:north": 0.6, "real:south": None}
    rows = [
        {
            "model": model, "label": "lesion", "cases": 20, "dice_mean": mean,
            "dice_low": mean and mean - 0.05, "dice_high": mean and mean + 0.05,
            "ratio": mean and mean / 0.8, "ratio_low": mean, "ratio_high": mean, **common,
        }
        for model, mean in means.items()
    ]  # fmt: skip
    tables = {"headline": "lesion: 0.90 of it", "rows": rows, "judged_on": "test", **more}
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(tables))
    return folder


def attack(name: str, area: tuple[float, float, float, float]) -> dict[str, Any]:
    """An attack with this area under the curve, its interval, and its p-value."""
    auc, low, high, p_value = area
    return {
        "name": name, "auc": auc, "low": low, "high": high, "p_value": p_value,
        "members": 40, "others": 30, "epsilon": 0.1, "corrected": p_value, "explained": False,
    }  # fmt: skip


ALIKE = {
    "members": {"north": 20, "south": 20}, "others": {"north": 15, "south": 15},
    "measure": "mean of T1", "auc": 0.55, "p_value": 0.6,
}  # fmt: skip
"""How the groups of an audit compare."""

COPIES = {
    "found": 0, "members": 40, "others": 30, "nearest": 0.6, "nearest_other": 0.7, "p_value": 0.4,
}  # fmt: skip
"""What an audit tells of copies, of which it found none."""

UNREAD = ("<img src=x onerror=alert(1)>", "fine\n\n# Certified", "\x1b[31mfine")
"""No names of sites or attacks; the last two are no printable line either."""


def hostile_audit(folder: Path) -> Path:
    """An audit with markup wherever it may hold any text."""
    return audit(
        folder, modalities=[HOSTILE], canaries=HOSTILE, masks=HOSTILE, trial=HOSTILE,
        groups=ALIKE | {"measure": HOSTILE},
    )  # fmt: skip


def audit(folder: Path, generator: str = "cd34", **more: Any) -> Path:
    """What `asyndgan audit` writes: one attack tells members, and one coordinator reads pixels."""
    areas = {"painting": (0.5, 0.4, 0.6, 0.5), "nearest": (0.8, 0.7, 0.9, 0.001)}
    attacks = [attack(name, area) for name, area in areas.items()]
    pixels = {"step": 10, "followed": [20.0], "painted": [21.0], "flat": [12.0]}
    tables = {
        "generator_sha256": generator, "masks_sha256": "ef", "fading": AS_PAINTED.told(),
        "painting_version": PAINTING_VERSION,
        "modalities": ["T1"], "canaries": "", "confirmed": {"north": True, "south": True},
        "uncompared": [], "groups": ALIKE, "attacks": attacks,
        "copies": COPIES,
        "pixels": [
            {"site": "north", "read": [10.0], **pixels}, {"site": "south", "read": [40.0], **pixels}
        ],
        **more,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(tables))
    Image.new("RGB", (40, 20)).save(folder / "nearest.png")
    return folder


class Page(HTMLParser):
    """What a browser would make of it: tags, their attributes, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(run: RunFolder, synthetic: list[Case] | None = None, **options: Any) -> Page:
    shown = cases("north") if synthetic is None else synthetic
    return Page(write_report(run, run.path / "report.html", synthetic=shown, **options))


def test_every_section_is_there_with_the_figures_of_the_run(tmp_path):
    found = page(run_folder(tmp_path / "run"), evaluation=evaluation(tmp_path / "evaluation"))
    sections = [attributes["id"] for attributes in found.all("section")]
    assert sections == ["images", "usefulness", "training", "moved", "attacks", "recipe"]
    text = found.text
    assert "arXiv:2006.00080" in text and "pending patent" in text
    assert 'kind = "topdown"' in text
    assert "0.90 0.72 to 0.72 lesion: of the Dice that all real images reach" in text
    assert "Real images of south \N{EN DASH}" in text
    assert "20 pictures or slices at the sites" in text
    assert "12 steps in 1 min 15 s" in text
    assert "61.4 kB left a site each step 1.5 MB in all" in text


def judged(folder: Path, dice: dict[str, dict[str, float | None]]) -> Path:
    """An evaluation with this mean Dice, by label and model."""
    common = {"seeds": 1, "patients": 6, "hd95_mean": None, "assd_mean": 1.0, "cases": 20}
    rows = []
    for label, means in dice.items():
        for model, mean in means.items():
            real = means["real-all"]
            ratio = None if mean is None or not real else mean / real
            rows.append(
                {"model": model, "label": label, "dice_mean": mean, "dice_low": mean,
                 "dice_high": mean, "ratio": ratio, "ratio_low": ratio, "ratio_high": ratio,
                 **common}
            )  # fmt: skip
    headline = "\n".join(f"{label}: reaches nan of the all-real Dice" for label in dice)
    return evaluation(folder, rows=rows, headline=headline)


def test_a_ratio_to_hardly_any_dice_is_a_dash(tmp_path):
    dice = {
        "organ": {"real-all": 0.9, "synthetic": 0.72},
        "lesion": {"real-all": 0.02, "synthetic": 0.03, "real:north": 0.4},
    }
    text = page(run_folder(tmp_path / "run"), evaluation=judged(tmp_path / "e", dice)).text
    assert "\N{EN DASH} lesion: of the Dice that all real images reach" in text
    assert "lesion: all real images reach a Dice of 0.020, so there is no ratio" in text
    assert "Synthetic images alone 0.030 0.030 to 0.030 \N{EN DASH} \N{EN DASH} 1.0" in text
    assert "nan" not in text.lower().split()
    assert "organ: reaches \N{EN DASH} of the all-real Dice" in text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    folder = evaluation(tmp_path / "evaluation")
    found = page(run_folder(tmp_path / "run"), evaluation=folder, real={"north": cases("north")})
    addresses = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    ]
    assert addresses
    assert all(value and value.startswith(("data:", "#")) for value in addresses)
    assert not re.search(r"https?://|url\(|@import", found.source)
    assert not found.all("script")
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_text_from_others_is_never_markup(tmp_path):
    run = run_folder(
        tmp_path / "run", labels={"0": HOSTILE, "1": '"><img src=x>'},
        generator_sha256="cd34",
    )  # fmt: skip
    write_metrics(run, [record(0, ["north"]), record(1, ["north", "south"], news=[HOSTILE])])
    folder = evaluation(tmp_path / "evaluation", headline=HOSTILE)
    modalities = ("T1", HOSTILE)
    found = page(
        run, [case(f"{HOSTILE}-m00001", modalities=modalities)], evaluation=folder,
        real={"north": [case("ann", modalities=modalities)]},
        audits=[hostile_audit(tmp_path / "audit")],
    )  # fmt: skip
    assert not found.all("script")
    assert all((img["src"] or "").startswith("data:") for img in found.all("img"))
    assert HOSTILE in found.text


def test_real_images_are_shown_only_when_given(tmp_path):
    run = run_folder(tmp_path / "run")
    without, beside = page(run), page(run, real={"north": cases("north")})
    assert not [img for img in without.all("img") if (img["alt"] or "").startswith("real")]
    assert "Real images inside" not in without.text
    assert [img for img in beside.all("img") if (img["alt"] or "").startswith("real T1")]
    assert "Real images inside" in beside.text


def test_real_patients_among_the_examples_are_announced(tmp_path):
    folder = evaluation(tmp_path / "evaluation")
    (folder / "examples.png").write_bytes(b"\x89PNG")
    real = {"north": cases("north")}
    with pytest.raises(RunError, match="evaluation"):
        page(run_folder(tmp_path / "broken"), real=real, evaluation=folder)
    Image.new("RGB", (2000, 20)).save(folder / "examples.png")
    run = run_folder(tmp_path / "run")
    assert "as examples" in page(run, real=real, evaluation=folder).text
    assert "Real images inside" not in page(run, evaluation=folder).text


def test_names_of_cases_stay_out_of_the_page(tmp_path):
    real = {"north": [case("miller_john", 1)]}
    found = page(run_folder(tmp_path / "run"), [case("north-smith_ann", 1)], real=real)
    assert "smith_ann" not in found.source
    assert "miller_john" not in found.source


def test_commands_hold_the_paths_as_they_were_named_and_no_other_path_is_on_the_page(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = run_folder(Path("out/my run"))
    found = page(run, [], folders={"north": Path("../data/north")})
    assert str(tmp_path) not in found.source
    assert "asyndgan evaluate 'out/my run' --site north=../data/north --site" in found.text
    assert (
        "--out 'out/my run/evaluation'" in found.text and "--out 'out/my run/audit'" in found.text
    )
    shown = page(run, folders={"north": Path("../data/north")}).text
    assert "asyndgan report 'out/my run' --site north=../data/north" in shown


def test_what_is_painted_for_the_page_is_what_the_page_would_choose_of_everything():
    real = {"north": [case("a", 3), case("b", 4)]}
    everything = [*cases("north", 30), *cases("south", 5), *cases("elsewhere", 9)]
    masks = [(one.name, one.mask) for one in everything]
    kept = {name for name, _ in worth_painting(masks, real, ["north", "south"])}
    few = [one for one in everything if one.name in kept]
    assert build_gallery(few, real, ["north", "south"], LABELS) == build_gallery(
        everything, real, ["north", "south"], LABELS
    )
    assert len(few) < 20 < len(everything)


@pytest.mark.parametrize("name", ["evaluation", "audit"])
@pytest.mark.parametrize("held", [None, ["synthetic/dataset.json"]], ids=str)
def test_a_result_that_is_missing_empty_or_half_written_is_called_so(tmp_path, name, held):
    run, folder = run_folder(tmp_path / "run"), tmp_path / "result"
    for file in held or []:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    if held is not None:
        folder.mkdir(exist_ok=True)
    given = {"evaluation": folder} if name == "evaluation" else {"audits": [folder]}
    with pytest.raises(RunError, match="has not finished in it") as raised:
        page(run, **given)
    command = {"evaluation": "asyndgan evaluate", "audit": "asyndgan audit"}[name]
    assert f"'{command}'" in str(raised.value) and str(folder) in str(raised.value)


def test_each_attack_of_an_audit_has_its_figure_and_those_that_tell_are_announced(tmp_path):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    found = page(run, audits=[audit(tmp_path / "audit")])
    assert "40 patients of north and south against 30 others, by T1" in found.text
    assert "0.80 0.70 to 0.90 MEMBERS CAN BE TOLD" in found.text
    assert "20.0 dB 21.0 without asking Asking north brought a coordinator no nearer" in found.text
    assert "REAL PIXELS CAN BE READ by a coordinator at south, in 1 of 1 images." in found.text
    assert [row.get("class") for row in found.all("tr")].count("alarm") == 2
    assert "Not every attack failed. In two attacks the attacker learned" in found.text
    assert "Not every attack says something" not in found.text
    assert "differential privacy bounds every attacker, and this run has none" in found.text


def test_audits_of_hospitals_each_have_a_card_with_what_they_could_not_say(tmp_path):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    north = audit(
        tmp_path / "a", confirmed={"north": False}, uncompared=["south"], pixels=[],
        groups=ALIKE | {"members": {"north": 40}},
    )  # fmt: skip
    found = page(run, audits=[north, audit(tmp_path / "b", canaries="canary")])
    assert "Nothing confirms that north trained with these patients" in found.text
    assert "not compared with the patients of south" in found.text
    assert "north was not asked for pixels" in found.text
    assert "Only canaries were compared" in found.text
    assert found.text.count("epsilon at least 0.10") == 4


def test_an_audit_of_too_few_patients_did_not_learn_from_them(tmp_path):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    few = attack("painting", (0.5, 0.1, 0.9, 0.5))
    found = page(run, audits=[audit(tmp_path / "audit", attacks=[few], pixels=[])])
    assert "Undecided, too few patients: no sign of membership, but the AUC may" in found.text
    assert "Not every attack says something. One attack had too few" in found.text
    assert "Not every attack failed" not in found.text
    assert [row.get("class") for row in found.all("tr")].count("alarm") == 1


def test_groups_that_are_not_alike_and_patients_left_out_are_told(tmp_path):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    unlike = ALIKE | {"others": {"north": 5, "": 25}, "p_value": 0.001, "auc": 0.8}
    found = attack("nearest", (0.8, 0.7, 0.9, 0.001)) | {"explained": True}
    folder = audit(tmp_path / "a", groups=unlike, attacks=[found], pixels=[])
    text = page(run, audits=[folder]).text
    assert "not alike, the others are of another mix of hospitals (members: 20 north, 20" in text
    assert "Undecided, since members and others are not alike: AUC 0.80" in text
    assert "MEMBERS CAN BE TOLD" not in text and "Not every attack failed" not in text
    assert "or others that are unlike the members, so it is unknown" in text


def test_patients_beside_their_nearest_images_are_shown_only_with_real_ones(tmp_path, monkeypatch):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    tried = [audit(tmp_path / "audit")]
    without, beside = (
        page(run, audits=tried),
        page(run, audits=tried, real={"north": cases("north"), "south": cases("south")}),
    )
    norths = page(run, audits=tried, real={"north": cases("north")})
    for found, shown in ((without, False), (beside, True), (norths, False)):
        assert ("Real patients above the synthetic images nearest" in found.text) is shown
        assert ("beside their nearest synthetic ones" in found.text) is shown
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # the picture has 800
    with pytest.raises(RunError, match="no picture"):
        page(run, audits=tried, real={"north": cases("north"), "south": cases("south")})
    monkeypatch.undo()
    (tried[0] / "nearest.png").write_bytes(b"none")
    with pytest.raises(RunError, match="no picture"):
        page(run, audits=tried, real={"north": cases("north"), "south": cases("south")})


def test_another_generators_audit_is_not_shown_as_this_ones(tmp_path):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    audit(tmp_path / "audit", "ab12", pixels="of an earlier version")
    assert CliRunner().invoke(command(), [str(run.path)]).exit_code == 0
    assert "Not tried yet" in Page(run.path / "report.html").text
    with pytest.raises(RunError, match="audits another generator"):
        page(run, audits=[audit(tmp_path / "named", "ab12")])
    audit(tmp_path / "audit")
    assert CliRunner().invoke(command(), [str(run.path)]).exit_code == 0
    assert "MEMBERS CAN BE TOLD" in Page(run.path / "report.html").text


def ratios(value: object) -> dict[str, Any]:
    return {"site": "north", "step": 1} | {
        way: [value] for way in ("read", "followed", "painted", "flat")
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": [{"site": "north"}]},
        *({"pixels": [ratios(value)]} for value in (math.inf, "much")),
        {"painting_version": 4.9},
        {"confirmed": {"\ud800": True}},
        {"confirmed": {"north": True}},
        *(
            {"confirmed": {name: True}, "groups": ALIKE | {"members": {name: 40}}}
            for name in UNREAD
        ),
        *({"attacks": [attack(name, (0.5, 0.4, 0.6, 0.5))]} for name in UNREAD),
        *({key: UNREAD[2]} for key in ("masks", "trial", "canaries")),
        {"attacks": [attack("nearest", (0.5, 0.4, True, 0.5))]},
        {"copies": {**COPIES, "members": 400}},
    ],
    ids=str,
)
def test_an_audit_that_is_none_is_named(tmp_path, wrong):
    run = run_folder(tmp_path / "run", generator_sha256="cd34")
    with pytest.raises(RunError, match="no audit that can be read"):
        page(run, audits=[audit(tmp_path / "audit", **wrong)])


def test_the_timeline_appears_once_a_site_was_away(tmp_path):
    run = run_folder(tmp_path / "run")
    assert "Every site answered every step" in page(run).text
    records = [record(step, ["north"] if step == 5 else ["north", "south"]) for step in range(10)]
    records[5]["news"] = ["missed south: it is not connected"]
    write_metrics(run, records)
    text = page(run).text
    assert "Who was there" in text
    assert "step 6 missed south: it is not connected" in text


@pytest.mark.parametrize("silent", [["north"], ["north", "south"]])
def test_a_page_says_whose_losses_left_and_shows_what_else_happened(tmp_path, silent):
    run = run_folder(tmp_path / "run")
    records = [record(step, ["north", "south"] if step != 5 else ["north"]) for step in range(12)]
    for each in records:
        each["losses"] |= {site: {} for site in silent if site in each["losses"]}
        each["news"] = ["south left"] if each["step"] == 6 else []
    write_metrics(run, records)
    text = page(run).text
    all_silent = len(silent) == 2
    assert ("No losses left north." in text) != all_silent
    assert ("No losses left the sites" in text) == all_silent
    for claim in ("losses as numbers", "losses as plain numbers", "labels and losses"):
        assert (claim in text) != all_silent
    assert "Who was there" in text and "south left" in text


def test_a_run_that_has_only_begun_makes_a_page(tmp_path):
    facts = {"state": "failed", "steps": 0, "left_sites": {}, "came_to_sites": {}}
    run = run_folder(tmp_path / "run", **facts)
    run.metrics_file.unlink()
    text = page(run, []).text
    assert "Not finished" in text
    assert "No step has been recorded yet" in text


def test_the_meaning_of_every_message_is_written_down(tmp_path):
    text = page(run_folder(tmp_path / "run", left_sites={"north": {"novelty": 7}})).text
    assert "novelty" in text and "A kind of message that this page does not know" in text
    left, came = ({"north": dict.fromkeys(kinds, 5)} for kinds in (ANSWERS, REQUESTS))
    text = page(run_folder(tmp_path / "known", left_sites=left, came_to_sites=came)).text
    assert "Good-bye. Nothing else." in text
    assert "A kind of message that this page does not know" not in text


def changed(**tables: Any) -> Recipe:
    return Recipe.from_tables({**RECIPE.to_tables(), **tables})


@pytest.mark.parametrize(
    ("recipe", "facts", "says", "never"),
    [
        (RECIPE, {}, [], ["can give real pixels away", "Simulated sites"]),
        (RECIPE, {"engine": "inprocess"}, ["Simulated sites"], []),
        (
            changed(loss={"paired_l1": 100}), {},
            ["can give real pixels away", "loss.paired_l1 = 100"], [],
        ),
        (
            changed(condition={"kind": "class"}, generator={"kind": "topdown"}), {},
            ["the classes of its next batch"], ["label maps of real cases"],
        ),
        (load_recipe("default"), {}, ["no guarantee of differential privacy"], []),
        (
            Recipe.from_tables(
                {"privacy": {"kind": "discriminator", "conditions": "unprotected"}}
            ), {}, ["trained with noise (DP-SGD)"], ["No noise was added"],
        ),
        (
            load_recipe("default", ["masks.source=given"]), {},
            ["no site sent one", "painted from given masks", "losses as plain numbers"],
            ["outlines drawn in real patients"],
        ),
    ],
)  # fmt: skip
def test_a_page_says_what_its_recipe_and_engine_do(tmp_path, recipe, facts, says, never):
    text = page(run_folder(tmp_path / "run", recipe=recipe, **facts), []).text
    assert all(words in text for words in says)
    assert not any(words in text for words in never)


def test_a_generator_that_was_exchanged_is_noticed(tmp_path):
    from asyndgan.training.checkpoint import write

    run = run_folder(tmp_path / "run", generator_sha256="0" * 64)
    assert "the file is not there" in page(run).text
    write(run.generator_file, {"average/w": torch.zeros(1500)}, {})
    text = page(run).text
    assert "BUT THE FILE HAS" in text
    assert "1.5 k weights in the generator" in text


def command() -> Typer:
    app = Typer(pretty_exceptions_enable=False)
    app.command()(report_command)
    return app


def test_the_command_writes_the_page_into_the_run_folder(tmp_path):
    run = run_folder(tmp_path / "run")
    evaluation(tmp_path / "evaluation")
    result = CliRunner().invoke(command(), [str(run.path)])
    assert result.exit_code == 0, result.output
    assert "Trained on synthetic images alone" in Page(run.path / "report.html").text
    assert "no images on the page" in result.stderr


def test_another_runs_evaluation_is_not_shown_as_this_ones(tmp_path):
    run = run_folder(tmp_path / "run")
    folder = evaluation(tmp_path / "evaluation", about={"generator_sha256": "another"})
    result = CliRunner().invoke(command(), [str(run.path)])
    assert result.exit_code == 0, result.output
    assert "Not measured yet" in Page(run.path / "report.html").text
    with pytest.raises(RunError, match="judges another generator"):
        page(run, evaluation=folder)


def of_steps(folder: Path, name: str, steps: int, kind: str = "topdown") -> RunFolder:
    changed = {"name": name, "training": {"steps": steps}, "generator": {"kind": kind}}
    if kind == "left open":
        changed |= {
            "generator": {"kind": "topdown"},
            "discriminator": {"kind": "patch_segmentation"},
            "loss": {"segmentation": 1},
        }
    recipe = Recipe.from_tables({**RECIPE.to_tables(), **changed})
    return run_folder(folder, recipe=recipe, steps=steps, state="finished")


@pytest.mark.parametrize(
    ("name", "kind", "steps", "said"),
    [
        ("default", "topdown", 60, "Trial run: 60 of 2,000 steps"),
        ("planned", "left open", 9, "Trial run: 9 of 14,400 steps"),
        ("planned", "left open", 2000, ""),
        ("mine", "topdown", 60, ""),
    ],
)
def test_page_terminal_and_card_say_the_same(name, kind, steps, said, tmp_path):
    run, out = of_steps(tmp_path / "run", name, steps, kind), io.StringIO()
    facts, recipe = run.facts(), run.recipe()
    assert trial_of(facts, recipe) == said
    tell_trial(Terminal(file=out), run)
    provenance = {"trial": said, "recipe": name, "masks": "own"}
    card = model_card(facts, provenance, 3, recipe)
    for text in (page(run).text, out.getvalue(), card):
        assert (said in text) if said else ("Trial run" not in text)


def test_a_card_shows_texts_of_others_to_the_letter(tmp_path):
    name = "[a](http://b) `<i>`|\x1b[31m\n# c"
    facts = RunFacts(
        "ab", "0.1", "", "inprocess", modalities=[name], labels={"0": name},
        sites={"north": {"cases": 1, "share": 1.0, "modalities": [name]}},
    )  # fmt: skip
    told = {"trial": name, "recipe": name, "masks": name, "audited": name}
    card, provenance = model_card(facts, told, 3, RECIPE).split("## Provenance")
    shown = r"\[a\](http\://b) \`\<i\>\`\|" + "\ufffd" + r"\[31m # c"
    assert card.count(shown) == 7 and "# c" not in {*card.splitlines()}
    assert "\x1b" not in card + provenance


def judged_row(model: str, dice: float, ratio: float, low: float = math.nan) -> Row:
    return Row(
        model=model, label="lesion", seeds=1, patients=6, cases=20, dice_mean=dice, dice_low=low,
        dice_high=low + 0.1, dice_least=dice, dice_most=dice, hd95_mean=1.0, assd_mean=1.0,
        ratio=ratio, ratio_low=ratio, ratio_high=ratio, healthy=0, false_alarms=math.nan,
    )  # fmt: skip


def told_on_terminal(rows: list[Row], **about: str) -> tuple[str, Evaluation]:
    """What the terminal says of an evaluation."""
    found = Evaluation(
        headline="lesion: reaches 54.91 (nan to nan)", rows=tuple(rows), per_patient={},
        seeds=(0,), about=about,
    )  # fmt: skip
    out = io.StringIO()
    tell_evaluation(Terminal(file=out, width=120), found)
    return out.getvalue(), found


@pytest.mark.parametrize("real", [0.0004, 0.8, math.nan])
@pytest.mark.parametrize("low", [math.nan, 0.011])
def test_terminal_and_page_show_the_same_figures(real, low, tmp_path):
    rows = [
        judged_row("real-all", real, 1.0, low),
        judged_row("synthetic", 0.022, 0.022 / real, low),
    ]
    said, found = told_on_terminal(rows)
    tables = found.to_tables()
    shown = page(
        run_folder(tmp_path / "run"),
        evaluation=evaluation(tmp_path / "evaluation", rows=tables["rows"]),
    ).text
    assert "nan" not in said
    assert ("54.91" in said) is (real == 0.8)  # the headline's, of which there is a ratio
    for text in (said, shown):
        assert "0.022" in text
        assert ("0.011 to 0.111" in text) is not math.isnan(low)
        assert ("0.03" in text.replace("0.030", "")) is (real == 0.8)
