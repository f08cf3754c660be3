"""Any fingerprint that is taken gives a recipe that trains, whatever stranger made it up."""

from operator import attrgetter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.privacy.family import outside
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import (
    PLANES,
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.recipe.planning import plan
from asyndgan.runs.recipes import recipe_text

DEFAULT = recipe_text("default")
NUMBERS = st.floats(-1e6, 1e6) | st.floats(-1e39, 1e39)
ABOVE = st.one_of(st.sampled_from((0.5, 1.0, 64.0, 512.0)), st.floats(1e-6, 1e6))
SHARES = st.floats(0, 1)
COUNTS = st.none() | st.integers(1, 2**31)
NAMES = st.sampled_from(("T1", "default", 'a = "b".c', "{s}", "lésion", "0"))


@st.composite
def spreads(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> Spread:
    low, middle, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    tails = draw(st.booleans())
    return Spread(low=low if tails else None, middle=middle, high=high if tails else None)


LEVELS = st.none() | st.builds(Levels, **dict.fromkeys(Levels.model_fields, spreads()))


@st.composite
def sides(draw: st.DrawFn) -> Side:
    voxels, mm = draw(spreads(ABOVE)), draw(spreads(st.floats(1e-6, 1e3)))
    pairs = zip(*((each.lowest, each.middle, each.highest) for each in (voxels, mm)), strict=True)
    low, middle, high = (pixels * spacing for pixels, spacing in pairs)
    view = Spread(low=low, middle=middle, high=high)
    return Side(voxels=voxels, mm=mm, view=view, common=draw(SHARES))


SIDES = sides()
MODALITIES = st.builds(
    ModalityFigures,
    name=NAMES,
    kind=st.sampled_from(("ct", "mri", "grey", "rgb", "unknown")),
    bits=st.sampled_from((8, 16, 32)),
    patients=COUNTS,
    **dict.fromkeys(("whole", "inside", "outside"), LEVELS),
    explained=st.none() | SHARES,
)
LABELS = st.builds(
    LabelFigures,
    name=NAMES,
    number=st.integers(1, 1023),
    patients=COUNTS,
    slices=st.none() | SHARES,
    area=st.none() | spreads(SHARES),
    side=st.none() | st.floats(-1, 1),
    kept=st.none() | SHARES,
    exchanged=st.none() | NAMES,
)

NAME = attrgetter("name")


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    spaced = draw(st.booleans())
    patients = draw(COUNTS)

    def of(parts: list[Any]) -> tuple[Any, ...]:
        """The parts, with no more patients than there are, and labels exchanged among them."""
        names = {None, *(each.name for each in parts)}
        lacks = lambda each: getattr(each, "exchanged", None) not in names  # noqa: E731
        most = patients or 0
        told = [min(each.patients or 0, most) or None for each in parts]
        return tuple(
            each.model_copy(
                update={"patients": count} | ({"exchanged": None} if lacks(each) else {})
            )
            for each, count in zip(parts, told, strict=True)
        )

    cases, slices = draw(COUNTS), draw(COUNTS)
    return Fingerprint(
        cases=cases,
        slices=slices and max(slices, cases or 0),
        patients=patients,
        spaced=spaced,
        axes=tuple(
            draw(SIDES) for _ in range(draw(st.sampled_from((0, 2, 3) if spaced else (0, 2))))
        ),
        modalities=of(draw(st.lists(MODALITIES, min_size=1, max_size=2, unique_by=NAME))),
        labels=of(draw(st.lists(LABELS, max_size=2, unique_by=(NAME, lambda each: each.number)))),
        unlabelled=draw(st.dictionaries(st.sampled_from(PLANES), SHARES)),
    )


OF_ALL = {"name", "number", "kind", "bits", "version", "spaced", "modalities", "labels"}
"""What is told of any data set, or stands for nothing."""

SITES = st.dictionaries(st.sampled_from(("a", "b", "c", "d")), fingerprints(), min_size=1)


@settings(deadline=None, max_examples=40)
@given(SITES)
def test_any_sites_give_a_recipe_that_the_default_policy_measured(
    sites: dict[str, Fingerprint],
) -> None:
    made = plan(sites)
    recipe = made.recipe(DEFAULT)
    alone = any(one.patients == 1 for one in sites.values())
    beyond = {"discriminator.cross_fitted"} if alone else set()
    assert {each.key for each in outside(recipe)} == beyond
    assert Recipe.from_toml(made.toml(recipe, DEFAULT)) == recipe
    assert all("\n" not in text for text in made.notes)


@settings(deadline=None, max_examples=20)
@given(SITES, st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(sites: dict[str, Fingerprint], chance: Any) -> None:
    names = list(sites)
    chance.shuffle(names)
    assert plan({name: sites[name] for name in names}) == plan(sites)


@settings(deadline=None, max_examples=40)
@given(fingerprints(), st.integers(1, 50))
def test_what_is_bounded_tells_of_no_fewer_patients(found: Fingerprint, fewest: int) -> None:
    kept = found.bounded(fewest)
    for each in (kept, *kept.modalities, *kept.labels):
        assert each.patients is None or each.patients >= fewest * 0.95  # rounded
        if each.patients is None:
            known = {key for key, value in each if value not in (None, (), "", {})}
            assert known <= OF_ALL
    assert kept.bounded(1) == kept.bounded(1).bounded(1)
    assert Fingerprint.model_validate_json(kept.model_dump_json()) == kept
