"""Rules of a plan, which `docs/plan.md` lists.

After a change of a rule: `python tests/unit/test_planning.py`.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.errors import RunError
from asyndgan.intake.fingerprint import measured
from asyndgan.privacy.measured_recipes import outside
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import (
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.recipe.planning import NOTES, RULES, Plan, clashes, plan
from asyndgan.recipe.pooled import LARGEST_SIDE, Sites
from asyndgan.runs.planned import planned, planned_from
from asyndgan.runs.recipes import recipe_text

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"
DEFAULT = recipe_text("default")


def spread(middle: float, by: float = 0.0) -> Spread:
    return Spread(low=middle - by, middle=middle, high=middle + by)


def levels(low: float, high: float, by: float = 0.0) -> Levels:
    """Percentiles that differ between patients by `by`."""
    return Levels(p0_5=spread(low, by), p99_5=spread(high, by))


def side(voxels: float, mm: float = 1.0, common: float = 1.0) -> Side:
    return Side(voxels=spread(voxels), mm=spread(mm), view=spread(voxels * mm), common=common)


def modality(
    name: str = "T1", kind: str = "grey", bits: int = 8, **figures: Any
) -> ModalityFigures:
    return ModalityFigures(name=name, kind=kind, bits=bits, patients=20, **figures)


def label(name: str = "lesion", number: int = 1, **figures: Any) -> LabelFigures:
    known = {"slices": 0.8, "area": spread(0.1), "side": 0.0, **figures}
    return LabelFigures(name=name, number=number, patients=20, **known)


def pictures(**changes: Any) -> Fingerprint:
    of = {
        "patients": 20, "spaced": False, "axes": (side(96), side(128)),
        "modalities": (modality(whole=levels(0, 200)),), "labels": (label(),),
        "unlabelled": {"axial": 0.0},
    }  # fmt: skip
    return Fingerprint(**{**of, **changes})


def few(patients: int, **changes: Any) -> Fingerprint:
    """Pictures of few patients."""
    table = pictures(**changes).model_dump()
    for part in (table, *table["modalities"], *table["labels"]):
        part["patients"] = patients
    return Fingerprint.model_validate(table)


def volumes(kind: str = "mri", bits: int = 32, **changes: Any) -> Fingerprint:
    of = {
        "spaced": True, "axes": (side(120), side(120), side(60)),
        "modalities": (modality(kind=kind, bits=bits, whole=levels(0, 900, 200)),),
        "unlabelled": {"axial": 0.1, "coronal": 0.1, "sagittal": 0.1},
    }  # fmt: skip
    return pictures(**{**of, **changes})


def crops(**changes: Any) -> Fingerprint:
    axes = tuple(side(voxels, common=0.2) for voxels in (36, 50, 36))
    return volumes(**{"axes": axes, **changes})


UNIT = modality(bits=32, whole=levels(0, 0.9))
CT = modality(kind="ct", bits=16, inside=levels(20, 180), whole=levels(-1000, 900))
DEEP = modality(bits=16, whole=levels(100, 4000, 20))
THICK = (side(20, 6), side(200), side(200))

EXAMPLES: dict[str, tuple[dict[str, Fingerprint], dict[str, Any]]] = {
    "size": ({"a": pictures()}, {"image.size": (48, 64)}),
    "volumes": (
        {"a": volumes()},
        {
            "image.size": (32, 64, 64), "discriminator.kind": "patch_segmentation",
            "training.precision": "bfloat16",
        },
    ),
    "levels": ({"a": pictures(axes=(side(16), side(256)))}, {"generator.levels": 5}),
    "windows": (
        {"a": pictures(axes=(side(200), side(256)))},
        {"image.size": (192, 256), "discriminator.augment": ("shift", "window")},
    ),
    "axis": ({"a": volumes(axes=(side(200), side(20, 6), side(200)))}, {"image.axis": "coronal"}),
    "sagittal": ({"a": volumes(axes=THICK)}, {"image.axis": "sagittal", "training.flip": False}),
    "sides": ({"a": pictures(labels=(label(side=0.6),))}, {"training.flip": False}),
    "spacing": (
        {"a": volumes(), "b": volumes(axes=(side(240, 0.6), side(240, 0.6), side(60)))},
        {"image.spacing": (2.25, 2.25), "image.fit": "pad"},
    ),
    "crops": ({"a": crops()}, {"image.fit": "stretch", "image.size": (48, 48)}),
    "labelled": ({"a": volumes(unlabelled={"axial": 0.3})}, {"image.slices": "labelled"}),
    "8 bits": ({"a": pictures()}, {"intensity": {"T1": ("range", 0, 255)}}),
    "0 to 1": ({"a": pictures(modalities=(UNIT,))}, {"intensity": {"T1": ("range", 0, 1)}}),
    "CT": ({"a": volumes(modalities=(CT,))}, {"intensity": {"T1": ("range", -60, 300)}}),
    "one scale": (
        {"a": pictures(modalities=(DEEP,)), "b": pictures(modalities=(DEEP,))},
        {"intensity": {"T1": ("range", 80, 4020)}},
    ),
    "percentiles": ({"a": volumes()}, {"intensity": {"T1": ("percentiles", 0.5, 99.5)}}),
    "percentiles of crops": ({"a": crops()}, {"intensity": {"T1": ("percentiles", 1, 99)}}),
    "left open": (
        {"a": pictures(modalities=(modality(explained=0.02),))},
        {
            "generator.soften": 0, "discriminator.kind": "patch_segmentation",
            "discriminator.cross_fitted": True, "training.steps": 14400,
        },
    ),
    "soft borders": (
        {"a": pictures(modalities=(modality(explained=0.02),))}, {"generator.deform": 2}
    ),
    "few hold a modality": (
        {name: pictures(modalities=(modality(name),)) for name in ("a", "b", "c")},
        {"shares.by": "modality"},
    ),
    "one patient": (
        {"a": few(1, modalities=(modality(explained=0.02),))},
        {"discriminator.kind": "patch_segmentation", "discriminator.cross_fitted": False},
    ),
}  # fmt: skip


def example(name: str) -> Plan:
    largest = 256 if name == "windows" else LARGEST_SIDE
    return plan(EXAMPLES[name][0], largest=largest, volumes=name == "volumes")


def of(recipe: Recipe, key: str) -> Any:
    if key == "intensity":
        found = recipe.image.intensity_of("T1")
        return {"T1": (found.kind, found.low, found.high)}
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def test_every_rule_has_an_example():
    assert [rule.name for rule in RULES] == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_sets_what_its_example_wants(name):
    wanted = EXAMPLES[name][1]
    recipe = example(name).recipe(DEFAULT)
    assert {key: of(recipe, key) for key in wanted} == wanted


def test_masks_of_small_labels_are_not_deformed():
    labels = (label(), label("stroke", 2, area=spread(0.005)))
    sites = {"a": pictures(modalities=(modality(explained=0.02),), labels=labels)}
    recipe = plan(sites).recipe(DEFAULT)
    assert recipe.discriminator.cross_fitted and not recipe.generator.deform


NOTED: dict[str, dict[str, Fingerprint]] = {
    "spacings differ": EXAMPLES["spacing"][0],
    "fields of view differ": {"a": volumes(), "b": volumes(axes=(side(64), side(64), side(60)))},
    "T1 has other intensities: ct": {"a": volumes(modalities=(CT,)), "b": volumes()},
    "T1 has other intensities: 99.5 % are below": {
        "a": volumes(), "b": volumes(modalities=(modality(kind="mri", whole=levels(0, 9)),)),
    },
    "modality 'T2' is not at a": {
        "a": pictures(), "b": pictures(modalities=(modality(), modality("T2"))),
    },
    "label 'organ' is not at a": {
        "a": pictures(), "b": pictures(labels=(label(), label("organ", 2))),
    },
    "fewer than 5 patients at b": {"a": pictures(), "b": few(4)},
    "labels cover about 95% of an image at a": {
        "a": pictures(labels=(label("road", slices=1.0, area=spread(0.7)),
                              label("tree", 2, slices=0.5, area=spread(0.5)))),
    },
    "about 2% of the variance": {"a": pictures(modalities=(modality(explained=0.02),))},
}  # fmt: skip


@pytest.mark.parametrize("says", NOTED)
def test_what_contradicts_is_named(says):
    assert [note for note in plan(NOTED[says]).notes if says in note]
    assert says not in str(plan({"a": pictures(), "b": pictures()}).notes)


@pytest.mark.parametrize(
    ("patients", "overrides", "told"),
    [
        (23, (), True),  # 16,100 answers, of which masks take 2,000
        (24, (), False),
        (21, ("masks.source=own",), False),
        (4, (), False),  # the policy refuses such a site
    ],
)
def test_sites_that_may_stop_early_are_named(patients, overrides, told):
    site = few(patients, modalities=(modality(explained=0.02),))

    def notes(*options):
        planned = planned_from({"a": pictures(), "b": site}, options).notes
        return [note for note in planned if "b trains on few patients" in note]

    assert bool(notes(*overrides)) == told
    for note in notes(*overrides):  # what it says to do is enough
        most = re.findall(r"set training\.steps to (\d+) at most", note)
        assert not notes(*overrides, f"training.steps={most[0]}")


def test_every_note_has_an_example():
    assert all(any([*note(Sites(sites))] for sites in NOTED.values()) for note in NOTES)


def test_labels_clash_by_number_and_by_name():
    other = pictures(labels=(label(number=2),))
    assert [*clashes({"a": pictures(), "b": other})] == ["label 'lesion' is 1 in a and 2 in b"]
    other = pictures(labels=(label("organ"),))
    assert [*clashes({"a": pictures(), "b": other})] == [
        "label 1 is 'lesion' in a and 'organ' in b"
    ]
    assert not [*clashes({"a": pictures(), "b": pictures(labels=(label("organ", 2),))})]


def test_overrides_win_and_are_given_no_reason():
    made = plan({"a": crops()})
    recipe = made.recipe(DEFAULT, ["image.fit=pad", "image.size=64"])
    assert (recipe.image.fit, recipe.image.size) == ("pad", (64, 64))
    text = made.toml(recipe, DEFAULT)
    assert Recipe.from_toml(text) == recipe and "rule 'crops'" not in text
    assert "as the recipe 'default'" in text and "rule 'percentiles of crops'" in text


def test_phantoms_are_planned_as_the_default_recipe_trains_them(tmp_path):
    write_phantoms(tmp_path, size=64, sites=DEFAULT_SITES[:2], patients_scale=0.2)
    made = planned({name: tmp_path / name for name in ("north", "south")})
    changes = Recipe.from_toml(DEFAULT).changes(made.recipe)
    assert changes == ["name is 'planned' and was 'default'"]
    assert not outside(made.recipe)


def table() -> str:
    """The rules as a table."""
    rows = ["| rule | when | sets | reason | evidence |", "|---|---|---|---|---|"]
    for rule in RULES:
        keys = {
            ".".join(choice.key[:2]): None
            for choice in example(rule.name).choices
            if choice.rule == rule.name or (rule.name == "size" and choice.key[1] == "size")
        } or {"training.flip": None}
        sets = ", ".join(f"`{key}`" for key in keys)
        reason = rule.reason.replace("{s.stored:.0f}", "N").replace("{s.unlabelled:.0%}", "N %")
        reason = reason.replace("{s.largest}", "N").replace("{s.one_spacing:g}", "N")
        reason = reason.replace("{s.sided[0]}", "LABEL")
        reason = reason.replace("{s.rare[0]}", "MODALITY").replace("{s.lonely[0]}", "a site")
        rows.append(
            f"| {rule.name} | {rule.condition} | {sets} | {reason} | {rule.evidence or 'none'} |"
        )
    return "\n".join(rows) + "\n"


def test_the_page_lists_the_rules():
    text = PAGE.read_text("utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


@pytest.mark.parametrize(
    ("stored", "most", "size"),
    [(500, 128, (96, 128)), (500, 10, (48, 64)), (128, 1000, (96, 128))],
)
def test_images_get_as_many_pixels_as_they_have_and_as_there_is_time_for(stored, most, size):
    site = pictures(axes=(side(stored * 3 / 4), side(stored)))
    made = planned_from({"a": site}, fits=lambda recipe, _: max(recipe.image.size) <= most)
    assert made.recipe.image.size == size


def test_a_size_that_is_given_is_what_rules_follow():
    site = pictures(axes=(side(256), side(256)))
    recipe = planned_from({"a": site}, ["image.size=256"]).recipe
    assert recipe.generator.levels == 6
    assert recipe.discriminator.augment == ("shift", "window")


def test_sites_whose_data_is_elsewhere_get_what_a_federation_allows(tmp_path):
    folder, file = tmp_path / "north", tmp_path / "there.json"
    write_phantoms(tmp_path, size=96, sites=DEFAULT_SITES[:2], patients_scale=0.1)
    file.write_text(measured(tmp_path / "south").model_dump_json(), "utf-8")
    sizes = [
        planned({"a": folder, "b": other}, fits=lambda *_: True).recipe.image.size
        for other in (tmp_path / "south", file)
    ]
    assert sizes == [(96, 96), (64, 64)]


@pytest.mark.parametrize(
    ("site", "told"),
    [
        (pictures(), "a has pictures, so no volumes"),
        (volumes(axes=THICK), "a has too few sagittal slices, or too thick ones"),
    ],
)
def test_volumes_of_pictures_or_of_thick_slices_are_refused(site, told):
    with pytest.raises(RunError, match=told):
        planned_from({"a": site}, volumes=True)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], "utf-8")
