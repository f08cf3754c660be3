"""Any fingerprint that is taken gives a recipe that trains, whatever stranger made it up."""

from operator import attrgetter
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.privacy.measured_recipes import outside
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import (
    BITS,
    HARDEST,
    PLANES,
    Behind,
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.recipe.planning import plan
from asyndgan.recipe.pooled import LARGEST_SIDE
from asyndgan.runs.recipes import recipe_text

DEFAULT = recipe_text("default")
SHARES = st.floats(0, 1)
MIDDLE = attrgetter("middle")
COUNTS = st.none() | st.integers(1, 2**31)
NAMES = st.sampled_from(("T1", "default", 'a = "b".c', "{s}", "lésion", "0"))


@st.composite
def spreads(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> Spread:
    low, middle, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    tails = draw(st.booleans())
    return Spread(low=low if tails else None, middle=middle, high=high if tails else None)


@st.composite
def modalities(draw: st.DrawFn) -> ModalityFigures:
    kind = draw(st.sampled_from(("ct", "mri", "grey", "unknown")))
    bits = draw(st.sampled_from((8, 16, 32)))
    numbers = st.floats(*((-HARDEST, HARDEST) if kind == "ct" else BITS[bits]))
    levels = {}
    for where in ("whole", "inside"):
        middles = sorted(draw(st.lists(spreads(numbers), min_size=2, max_size=2)), key=MIDDLE)
        told = Levels(**dict(zip(Levels.model_fields, middles, strict=True)))
        levels[where] = draw(st.sampled_from((None, told)))
    explained = draw(st.none() | SHARES)
    return ModalityFigures(
        name=draw(NAMES), kind=kind, bits=bits, patients=draw(COUNTS), explained=explained, **levels
    )


@st.composite
def lengths(draw: st.DrawFn, least: float, most: float) -> Spread:
    """Within a site they differ by a factor of ten at most, so that their products do by 100."""
    usual = [each for each in (1.0, 64.0) if least <= each <= most / 10]
    first = draw(st.sampled_from(usual) | st.floats(least, most / 10))
    return draw(spreads(st.floats(first, 10 * first)))


@st.composite
def sides(draw: st.DrawFn) -> Side:
    voxels, mm = draw(lengths(1, 1e6)), draw(lengths(1e-6, 1e3))
    pairs = zip(*((each.lowest, each.middle, each.highest) for each in (voxels, mm)), strict=True)
    low, middle, high = (pixels * spacing for pixels, spacing in pairs)
    view = Spread(low=low, middle=middle, high=high)
    return Side(voxels=voxels, mm=mm, view=view, common=draw(SHARES))


SIDES = sides()
MODALITIES = modalities()
LABELS = st.builds(
    LabelFigures, name=NAMES, number=st.integers(1, 1023), patients=COUNTS,
    slices=st.none() | SHARES, area=st.none() | spreads(SHARES), side=st.none() | st.floats(-1, 1),
)  # fmt: skip

NAME = attrgetter("name")


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    spaced = draw(st.booleans())
    patients = draw(COUNTS)

    def of(parts: list[Any]) -> tuple[Any, ...]:
        """The parts, with no more patients than there are."""
        most = patients or 0
        return tuple(
            each.model_copy(update={"patients": min(each.patients or 0, most) or None})
            for each in parts
        )

    return Fingerprint(
        patients=patients, spaced=spaced,
        axes=tuple(
            draw(SIDES) for _ in range(draw(st.sampled_from((0, 2, 3) if spaced else (0, 2))))
        ),
        modalities=of(draw(st.lists(MODALITIES, min_size=1, max_size=2, unique_by=NAME))),
        labels=of(draw(st.lists(LABELS, max_size=2, unique_by=(NAME, lambda each: each.number)))),
        unlabelled=draw(st.dictionaries(st.sampled_from(PLANES), SHARES)),
    )  # fmt: skip


OF_ALL = {"name", "number", "kind", "bits", "version", "spaced", "modalities", "labels"}
"""What is told of any data set, or stands for nothing."""

half = settings(max_examples=settings.default.max_examples // 2)
SITES = st.dictionaries(st.sampled_from(("a", "b", "c", "d")), fingerprints(), min_size=1)


@half
@given(SITES)
def test_any_sites_give_a_recipe_that_the_default_policy_measured(sites):
    made = plan(sites)
    recipe = made.recipe(DEFAULT)
    alone = any(one.patients == 1 for one in sites.values())
    alone &= recipe.discriminator.kind == "patch_segmentation"  # others are measured alone, too
    beyond = {"discriminator.cross_fitted"} if alone else set()
    beyond |= {"image.size"} if max(recipe.image.size) > LARGEST_SIDE else set()  # long slices
    assert {each.key for each in outside(recipe)} == beyond
    assert Recipe.from_toml(made.toml(recipe, DEFAULT)) == recipe
    assert all("\n" not in text for text in made.notes)


@half
@given(SITES, st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(sites, chance):
    names = list(sites)
    chance.shuffle(names)
    assert plan({name: sites[name] for name in names}) == plan(sites)


@half
@given(fingerprints(), st.integers(1, 50))
def test_what_is_bounded_tells_of_no_fewer_patients(found, fewest):
    def everyone(part):
        patients = part.patients or 0
        counted = dict.fromkeys(get_args(Behind), (patients, patients, patients))
        return {**counted, "cases": (patients, 1, 0), "slices": (patients, 1, patients)}

    counted = {
        name: tuple(
            part.model_copy(update={"behind": everyone(part)}) for part in getattr(found, name)
        )
        for name in ("modalities", "labels")
    }
    axes = tuple(side.model_copy(update={"behind": everyone(found)}) for side in found.axes)
    update = {**counted, "axes": axes, "behind": everyone(found)}
    kept = found.model_copy(update=update).bounded(fewest)
    for each in (kept, *kept.modalities, *kept.labels, *kept.axes):
        assert not each.behind
    for each in (kept, *kept.modalities, *kept.labels):
        assert each.patients is None or each.patients >= fewest
        if each.patients is None:
            known = {key for key, value in each if value not in (None, (), "", {})}
            assert known <= OF_ALL
    assert Fingerprint.model_validate_json(kept.model_dump_json()) == kept
