"""The rules by which a recipe follows from the fingerprints of the sites' data.

`RULES` is the whole of it: what is not named there stays as in the recipe `BASE`. Rules are asked
in their order, and a later one overrules an earlier one.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.recipe.image import Intensity
from asyndgan.recipe.pooled import LARGEST_SIDE, LITTLE, SIXTEENS, Sites
from asyndgan.recipe.recipe import Recipe
from asyndgan.recipe.toml import key_of, tables_of, value_of
from asyndgan.texts import named_alike

BASE: Final = "default"

NAME: Final = "planned"

OF_MASKS_STEPS: Final = 2000
"""Steps of the recipe `masks`."""

SCALES_APART: Final = 4.0
"""Ratio of the sites' typical intensities above which the plan says so."""

FEWEST: Final = 5
"""Patients below which the plan says so: the default policy of a federation wants them."""

MOST_ANSWERS_PER_PATIENT: Final = 700
"""Answers for each patient that a site gives by the policy that 'site init' writes: a run of `BASE`
with the fewest patients that it allows."""

COVERED: Final = 0.8
"""Part of an image, covered by labels, from which on label 0 may mean pixels nobody labelled."""

Key = tuple[str, ...]
"""A key of a recipe, part by part: a modality's name may hold dots."""


LEVELS: Final = ("generator", "levels")

LEFT_OPEN: Final[dict[Key, Any]] = {
    ("generator", "soften"): 0.0,
    ("generator", "diversity_bound"): 0.0,
    ("discriminator", "kind"): "patch_segmentation",
    ("discriminator", "cross_fitted"): True,
    ("loss", "adversarial"): "least_squares",
    ("loss", "as_real"): False,
    ("loss", "mismatch"): 0.0,
    ("training", "steps"): 14400,
    ("training", "precision"): "auto",
}
"""Discriminators for images that masks leave open, and the steps that the generator needs."""

VOLUMES: Final[dict[Key, Any]] = {
    ("discriminator", "kind"): "patch_segmentation",
    ("generator", "width"): 16,
    ("discriminator", "width"): 24,
    ("training", "precision"): "bfloat16",
}
"""Networks for whole volumes, which pretrained ones do not know."""

DEFORM: Final[dict[Key, Any]] = {("generator", "deform"): 2.0}
"""Deformed masks for this generator, in pixels."""

DEFORMED: Final = 64.0
"""Pixels of every label, from which on a mask deformed by 2 still shows them where they are."""


@final
@dataclass(frozen=True)
class Rule:
    """What follows for a recipe from what the data is like."""

    name: str
    condition: str  # when it applies, in words
    holds: Callable[[Sites], object]  # the same, asked of the sites
    sets: Callable[[Sites], Mapping[Key, Any]]  # the values, by key of a recipe
    reason: str  # why, as a format string: `s` is the sites
    evidence: str = ""  # a page of the docs that shows it, and what it showed; empty: unmeasured


def _intensities(
    kind: str, of: Callable[[Sites, str], Intensity]
) -> Callable[[Sites], dict[Key, Any]]:
    """The settings of the modalities of one kind; of `default` if all are of it and alike."""

    def sets(s: Sites) -> dict[Key, Any]:
        names = s.named(kind)
        found = {name: of(s, name).model_dump() for name in names}
        first = next(iter(found.values()))
        alike = len(names) == len(s.modalities) and all(each == first for each in found.values())
        chosen = {("default"): first} if alike else found
        return {("image", "intensity", name): value for name, value in chosen.items()}

    return sets


def _fixed(**values: Any) -> Callable[[Sites, str], Intensity]:
    return lambda s, name: Intensity(**values)


# fmt: off
RULES: Final = (
    Rule("size", "slices or pictures", lambda s: not s.volumes,
         lambda s: {("image", "size"): list(s.size)},
         "the median slice has {s.stored:.0f} pixels along its longer side; sides are multiples "
         "of 16, of 32 above 128, that keep the proportions, and {s.largest} at most: the training "
         "is to fit into the time. Only slices that would be narrower than 8 pixels get more",
         "gliomas at 128 pixels took 75 minutes in place of 21 to 63"),
    Rule("volumes", "whole volumes are asked for", lambda s: s.volumes,
         lambda s: {("image", "size"): list(s.size), **VOLUMES},
         "the median volume has {s.stored:.0f} voxels along its longest side; sides are multiples "
         "of 16 that keep the proportions, and {s.largest} at most: 48, or what fits into the "
         "time. The pretrained network knows pictures only",
         "[hippocampi](experiments.md#whole-volumes)"),
    Rule("levels", "the longer side has 128 pixels or more", lambda s: s.levels > 4,
         lambda s: {LEVELS: s.levels},
         "it then paints a large image from as few pixels as a small one, in less time",
         "[a quarter of the time at 256 pixels](networks.md#the-generator)"),
    Rule("windows", "the shorter side has more than 128 pixels",
         lambda s: not s.volumes and min(s.size) > SIXTEENS,
         lambda s: {("discriminator", "augment"): ["shift", "window"]},
         "discriminators need about a quarter of the time at 256 pixels",
         "[nuclei](results/nuclei-256.md)"),
    Rule("axis", "volumes have thick slices, or fewer than 8, along another than the axial axis",
         lambda s: s.axis != "axial", lambda s: {("image", "axis"): s.axis},
         "voxels are longest, or fewest, along it; slices across would be coarse or narrow"),
    Rule("sagittal", "slices are sagittal",
         lambda s: s.axis == "sagittal", lambda s: {("training", "flip"): False},
         "a mirror would swap front and back of sagittal slices"),
    Rule("sides", "a label lies on one side",
         lambda s: s.sided, lambda s: {("training", "flip"): False},
         "a mirrored mask of '{s.sided[0]}' resembles no mask of these patients",
         "[hippocampi](results/search-length.md) were trained so"),
    Rule("spacing", "volumes are no crops, and spacings differ by more than 5 % or sites' "
         "fields of view by half", lambda s: s.one_scale,
         lambda s: {("image", "spacing"): [s.one_spacing] * len(s.size)},
         "spacings or fields of view differ; at {s.one_spacing:g} mm anatomy has one scale, and "
         "slices fit"),
    Rule("crops", "nearly every volume has a size of its own, and all have one spacing",
         lambda s: s.cropped,
         lambda s: {("image", "fit"): "stretch"}
         | ({} if s.volumes else {("image", "size"): [s.longest] * 2}),
         "volumes are crops of different sizes; stretched, their organ has one size",
         "[hippocampi](results/search-length.md) were trained so"),
    Rule("labelled", "20 % of the slices of volumes, or half of the pictures, hold no label",
         lambda s: s.mostly_empty, lambda s: {("image", "slices"): "labelled"},
         "about {s.unlabelled:.0%} of the slices hold no label, and their masks say nothing",
         "[hippocampi](results/search-length.md) were trained so"),
    Rule("8 bits", "pictures of whole numbers up to 255, whose bright pixels are 5 or more",
         lambda s: s.named("bytes"), _intensities("bytes", _fixed(low=0, high=255)),
         "all stored values are whole numbers from 0 to 255",
         "[gliomas, nuclei](results/default-64.md)"),
    Rule("0 to 1", "fractions from 0 to 1", lambda s: s.named("unit"),
         _intensities("unit", _fixed(low=0, high=1)), "fractions from 0 to 1 are stored"),
    Rule("CT", "volumes in Hounsfield units: by `units` of dataset.json, or by air in most of them",
         lambda s: s.named("ct"),
         _intensities("ct", Sites.window),
         "Hounsfield units: the window holds the labels' with a margin, and soft tissue"),
    Rule("one scale", "other intensities, nearly alike in all patients of all sites",
         lambda s: s.named("agreed"), _intensities("agreed", Sites.common_range),
         "the scanners of all patients agree, so a stored value means the same everywhere"),
    Rule("percentiles", "other intensities: MRI, 16 bits, kinds that differ between sites",
         lambda s: s.named("percentiles"),
         _intensities("percentiles", _fixed(kind="percentiles", low=0.5, high=99.5)),
         "scanners scale intensities differently; each case gets a scale of its own"),
    Rule("percentiles of crops", "the same, if volumes are crops",
         lambda s: s.named("crops"),
         _intensities("crops", _fixed(kind="percentiles", low=1, high=99)),
         "scales differ, and a crop has too few pixels for more extreme percentiles",
         "[hippocampi](results/search-length.md) were trained so"),
    Rule("left open", "labels explain less than a tenth of the variance in the range that is taken",
         lambda s: s.left_open, lambda s: dict(LEFT_OPEN),
         "masks leave most of an image open; images need more steps, and pretrained discriminators "
         "were worse in as many as `default` has",
         "hippocampi: 0.97 and 0.96 of all-real [as planned](results/search-length.md), 0.91 and "
         "0.94 [in half the steps](experiments.md#images-that-masks-leave-open); `default` in its "
         "2,000 steps [0.71 and 0.71](results/default-64.md)"),
    Rule("soft borders", f"the same, and every label covers {DEFORMED:g} pixels or more",
         lambda s: s.left_open and s.smallest >= DEFORMED,
         lambda s: dict(DEFORM),
         "the generator paints from masks that are deformed a little, as borders of labels are "
         "not always where intensities change; small labels would move too far",
         "[hippocampi](experiments.md#images-that-masks-leave-open)"),
    Rule("few hold a modality", "fewer than half of the sites hold a modality",
         lambda s: s.rare, lambda s: {("shares", "by"): "modality"},
         "few sites hold '{s.rare[0]}'; with shares by site, the others would outweigh them",
         "[shares by modality](recipes.md#shares-by-modality)"),
    Rule("one patient", "the same as in left open, and a site has a single patient",
         lambda s: s.left_open and s.lonely, lambda s: {("discriminator", "cross_fitted"): False},
         "two networks learn from half of a site's patients each, and {s.lonely[0]} has one; the "
         "default policy refuses such a site"),
)
# fmt: on


@final
@dataclass(frozen=True)
class Choice:
    """One value of a plan, and the rule that set it with its reason."""

    key: Key
    value: Any
    rule: str
    reason: str

    @property
    def name(self) -> str:
        """The key as a recipe names it."""
        return ".".join(map(key_of, self.key))


@final
@dataclass(frozen=True)
class Plan:
    """What follows from the sites' fingerprints."""

    choices: tuple[Choice, ...]  # what the rules set
    # what contradicts between sites, or is little, and what the plan did about it; each with the
    # key of a recipe that answers it, or none
    notes: Mapping[str, Key] = field(default_factory=dict)
    patients: Mapping[str, int] = field(default_factory=dict)  # at each site, where known

    def overrides(self, given: Sequence[str] = ()) -> list[str]:
        """The choices as `key=value`, without those for a generator that `given` replaces."""
        other = any(each.replace(" ", "").startswith("generator.kind=") for each in given)
        return [
            f"{choice.name}={value_of(choice.value)}"
            for choice in self.choices
            if not (
                other and choice.key in {LEVELS, *LEFT_OPEN, *VOLUMES, *DEFORM}
            )  # they belong together
        ]

    def recipe(self, base: str, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe, from the text of `BASE`; overrides win and may raise `RecipeError`."""
        made = Recipe.from_toml(base, [f"name={NAME}", *self.overrides(overrides), *overrides])
        painted = made.image.modalities
        kept = [one for one in self.choices if not _of_another(one.key, painted)]
        if painted and len(kept) < len(self.choices):
            return replace(self, choices=tuple(kept)).recipe(base, overrides)
        return made

    def kept(self, recipe: Recipe) -> tuple[Choice, ...]:
        """The choices that overrides left in a recipe of this plan."""
        tables = recipe.to_tables()
        return tuple(choice for choice in self.choices if _at(tables, choice.key) == choice.value)

    def unanswered(self, recipe: Recipe, base: str) -> list[str]:
        """The notes of which a recipe of this plan has the planned value, and of its steps."""
        planned = {one.key: one.value for one in self.choices}
        own, usual = recipe.to_tables(), Recipe.from_toml(base).to_tables()
        return [
            note
            for note, key in self.notes.items()
            if not key or _at(own, key) == planned.get(key, _at(usual, key))
        ] + [*self._used_up(recipe)]

    def _used_up(self, recipe: Recipe) -> Iterator[str]:
        """Sites that may stop before the last step, as their patients are few for so many."""
        training = recipe.training
        for site, patients in self.patients.items():
            learn = math.floor(patients * (1 - training.hold_out) + 1e-9)
            most = MOST_ANSWERS_PER_PATIENT * learn
            most -= recipe.sends_own_masks  # a start that sends masks is an answer as well
            most -= min(OF_MASKS_STEPS, training.steps) if recipe.given_masks else 0
            if patients >= FEWEST and most < training.steps:
                yield (
                    f"{site} trains on few patients (about {learn}) for {training.steps:,} steps: "
                    "with the policy that 'site init' writes it may stop early; set training.steps "
                    f"to {most} at most, or the site's allows.most_answers_per_patient higher"
                )

    def toml(self, recipe: Recipe, base: str) -> str:
        """A recipe of this plan as TOML, with the reasons of the values that the plan chose."""
        tables = recipe.to_tables()
        usual = f"as the recipe '{BASE}', which was measured (docs/evidence.md)"
        reasons = {
            f"{section}.{key}": usual
            for section, table in tables_of(base, ()).items()
            for key, value in (table.items() if isinstance(table, dict) else ())
            if tables[section][key] == value
        }
        reasons |= {one.name: f"{one.reason} (rule '{one.rule}')" for one in self.kept(recipe)}
        notes = [f"# {note}\n" for note in self.unanswered(recipe, base)]
        head = "".join(["# Noted when this was planned:\n", *notes, "\n"] if notes else [])
        return head + recipe.to_toml(reasons=reasons)


def _of_another(key: Key, painted: Sequence[str]) -> bool:
    """Whether a choice is of a modality that a run does not paint."""
    return key[:2] == ("image", "intensity") and key[2] not in (*painted, "default")


def _at(tables: Any, key: Key) -> Any:
    for part in key:
        tables = tables.get(part, {})
    return tables


def plan(
    fingerprints: Mapping[str, Fingerprint],
    *,
    largest: int = LARGEST_SIDE,
    volumes: bool = False,
) -> Plan:
    """Plans a recipe from one fingerprint or more, by name of the site.

    `largest`: pixels along a side at most; with `volumes` whole volumes are painted.
    """
    sites = Sites(fingerprints, largest, volumes=volumes)
    choices: dict[Key, Choice] = {}
    for rule in RULES:
        if rule.holds(sites):
            reason = rule.reason.format(s=sites)
            for key, value in rule.sets(sites).items():
                choices[key] = Choice(key, value, rule.name, reason)
    notes = {note: key for of, key in NOTES.items() for note in of(sites)}
    patients = {site: one.patients for site, one in sites.of.items() if one.patients}
    return Plan(tuple(choices.values()), notes, patients)


def clashes(fingerprints: Mapping[str, Fingerprint]) -> Iterator[str]:
    """Labels with two numbers, numbers with two names, and names that are nearly alike."""
    for kind in ("modality", "label"):
        named: dict[str, str] = {}
        for site, one in fingerprints.items():
            for part in one.modalities if kind == "modality" else one.labels:
                named.setdefault(part.name, site)
        for name, other in named_alike(named):
            yield f"{kind} {name!r} in {named[name]} is {other!r} in {named[other]}"
    found = [(each, site) for site, one in fingerprints.items() for each in one.labels]
    for key, other in (("name", "number"), ("number", "name")):
        told: dict[Any, dict[Any, str]] = {}
        for label, site in found:
            told.setdefault(getattr(label, key), {}).setdefault(getattr(label, other), site)
        for label, values in told.items():
            if len(values) > 1:
                said = (f"{value!r} in {site}" for value, site in values.items())
                yield f"label {label!r} is {' and '.join(said)}"


SCALED: Final = "each is scaled to the size, so anatomy may come in several scales"


def _spaced(s: Sites) -> Iterator[str]:
    if s.scaled_apart and len(s.spacings) > 1:
        told = [f"{_sides(mm.middle for mm in each)} mm at {n}" for n, each in s.spacings.items()]
        did = f"{s.one_spacing:g} mm for all" if s.one_scale else SCALED
        yield f"spacings differ: {_listed(told)}; taken: {did}"


def _views(s: Sites) -> Iterator[str]:
    if s.views_apart and not s.cropped:
        told = [f"{_sides(view)} mm at {n}" for n, view in s.views.items()]
        did = "the smaller ones are padded" if s.one_scale else f"taken: {SCALED}"
        yield f"fields of view differ: {_listed(told)}; {did}"


def _units(s: Sites) -> Iterator[str]:
    """Kinds and scales of intensities that differ."""
    for name, parts in s.modalities.items():
        kinds = {site: f"{one.kind} of {one.bits} bits" for site, one in parts.items()}
        spans = {site: one.whole.p99_5.middle for site, one in parts.items() if one.whole}
        low, high = min(spans.values(), default=1.0), max(spans.values(), default=1.0)
        told = []
        if len({one.kind for one in parts.values()}) > 1:
            told = [f"{kind} at {site}" for site, kind in kinds.items()]
        elif low > 0 and high > SCALES_APART * low:
            told = [f"99.5 % are below {span:.3g} at {site}" for site, span in spans.items()]
        if told:
            own = s.kind(name) in ("percentiles", "crops")
            did = "percentiles of each case" if own else "one range for all"
            yield f"{name} has other intensities: {_listed(told)}; taken: {did}"


def _labels_lacked(s: Sites) -> Iterator[str]:
    """Labels that only some sites name."""
    labels: dict[str, list[str]] = {}
    for site, one in s.of.items():
        for label in one.labels:
            labels.setdefault(label.name, []).append(site)
    yield from _lacked(s, "label", dict(sorted(labels.items())))


def _modalities_lacked(s: Sites) -> Iterator[str]:
    yield from _lacked(s, "modality", s.modalities)


def _lacked(s: Sites, kind: str, named: Mapping[str, Collection[str]]) -> Iterator[str]:
    for name, holders in named.items():
        if others := [site for site in s.of if site not in holders]:
            yield f"{kind} '{name}' is not at {_listed(others)}: learned from the others"


def _few(s: Sites) -> Iterator[str]:
    few = [site for site, one in s.of.items() if one.patients and one.patients < FEWEST]
    if few:
        yield (
            f"fewer than {FEWEST} patients at {_listed(few)}: the default policy of a federation "
            "refuses that"
        )


def _little(s: Sites) -> Iterator[str]:
    for name, share in s.explained.items():
        if share < LITTLE:
            yield (
                f"labels explain about {share:.0%} of the variance of {name}, or less: masks leave "
                "most of an image open, so expect less of synthetic images"
            )


def _void(s: Sites) -> Iterator[str]:
    """Label 0 where labels cover nearly everything, as streets are labelled."""
    for site, one in s.of.items():
        spread = [(label.area.middle, label.slices or 0) for label in one.labels if label.area]
        covered = sum(area * slices for area, slices in spread)
        if covered > COVERED:
            yield (
                f"labels cover about {covered:.0%} of an image at {site}: if label 0 means pixels "
                "that nobody labelled, train with --set masks.unlabelled=true"
            )


def _sides(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


NOTES: Final[Mapping[Callable[[Sites], Iterator[str]], Key]] = {
    _spaced: ("image", "spacing"), _views: ("image", "spacing"), _units: (),
    _modalities_lacked: (), _labels_lacked: (), _few: (), _little: (),
    _void: ("masks", "unlabelled"),
}  # fmt: skip
"""What sites contradict each other in, and what a plan cannot mend; see `Plan.notes`."""
