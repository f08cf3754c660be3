import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndgan.errors import RecipeError
from asyndgan.recipe import ImageSection, Intensity, Recipe
from asyndgan.runs import load_recipe, recipe_names


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("training.stpes", "training.steps"),
        ("loss.pared_l1", "loss.paired_l1"),
        ("steps", "training.steps"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key, meant):
    with pytest.raises(RecipeError, match=rf"is no key here\. Did you mean {meant}\?"):
        Recipe.from_toml("", [f"{key}=3"])


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=0", "training.ema=1.0", "training.seed=-1", "image.size=8",
        "image.size=100", "image.spacing=[1.0, 0.0]", "optimiser.generator_rate=nan",
        "loss.paired_l1=inf", "wire.images=int4", "quorum.least=1.1", "image.axis=oblique",
        "discriminator.augment=['shift','shift']",
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_with_its_key(override):
    key = override.partition("=")[0]
    with pytest.raises(RecipeError, match=re.escape(key)):
        Recipe.from_toml("", [override])


def test_what_the_setting_of_a_modality_leaves_out_is_that_of_all_others():
    changes = ["default.low=10", "default.high=90", "default.kind=percentiles", "T1.high=80"]
    image = Recipe.from_toml("", [f"image.intensity.{change}" for change in changes]).image
    one = image.intensity_of("T1")
    assert (one.kind, one.low, one.high) == ("percentiles", 10, 80)
    other = [*changes, "T2.kind=range"]  # whose bounds are no percentiles
    image = Recipe.from_toml("", [f"image.intensity.{change}" for change in other]).image
    assert image.intensity_of("T2") == Intensity()
    given = {"default": Intensity(kind="percentiles", low=1, high=99), "T1": {"high": 80}}
    one = ImageSection.model_validate({"intensity": given}).intensity_of("T1")
    assert (one.kind, one.low, one.high) == ("percentiles", 1, 80)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["image.intensity.default.low=300"], "must be below high"),
        (["image.intensity.T1.kind=percentiles", "image.intensity.T1.high=120"], "0 and 100"),
        (['image.modalities=["T1", "T1"]'], "each once"),
        (["timeline=[{site='north', first=3, last=2}]"], "before its first one"),
        (["timeline=[{site='south', frist=1}]"], r"frist is no key here.*timeline\.first\?"),
        (["image.size=512", "training.batch=1024"], "268,435,456 pixels in each modality"),
        (["image.size=128", "discriminator.layers=6"], "too small for discriminator.layers = 6"),
    ],
)
def test_a_contradiction_is_refused_with_its_reason(overrides, reason):
    with pytest.raises(RecipeError, match=reason):
        Recipe.from_toml("", overrides)


def test_every_fault_of_a_recipe_is_named_at_once():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml("name = 'brain'\n[training]\nsteps = 0\nbatch = 'two'\n[loos]\nbce = 1\n")
    text = str(caught.value)
    assert text.startswith("recipe 'brain':")
    assert all(key in text for key in ("training.steps", "training.batch", "'two'", "loos"))


def test_overrides_take_toml_values_and_bare_words():
    recipe = Recipe.from_toml(
        "[training]\nsteps = 5\n",
        [
            "training.steps=7", "wire.feedback=int8", 'name="with space"',
            "image.modalities=['T1', 'T2']", "image.size=[32, 64]", "image.intensity.T1.high=100",
            " training.flip = false ",
        ],
    )  # fmt: skip
    assert recipe.training.steps == 7
    assert recipe.wire.feedback == "int8"
    assert recipe.name == "with space"
    assert recipe.image.modalities == ("T1", "T2")
    assert recipe.image.size == (32, 64)
    assert recipe.image.intensity_of("T1").high == 100
    assert recipe.image.intensity_of("T2").high == 255
    assert not recipe.training.flip


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("image.size=128x128", (128, 128)), ("image.size= 32 x 64", (32, 64)),
        ("image.spacing=0.5, 2", (0.5, 2.0)), ("image.spacing=2", (2.0, 2.0)),
        ("image.modalities=T1, T2 FLAIR", ("T1", "T2 FLAIR")),
        ("discriminator.augment=shift", ("shift",)),
    ],
)  # fmt: skip
def test_a_list_needs_no_brackets_where_it_can_mean_one_thing_only(override, value):
    section, _, key = override.partition("=")[0].partition(".")
    assert getattr(getattr(Recipe.from_toml("", [override]), section), key) == value


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_survives_its_own_toml(name):
    recipe = load_recipe(name)
    assert Recipe.from_toml(recipe.to_toml(comments=False)) == recipe
    assert recipe.name == name


@settings(max_examples=15)
@given(
    st.text(max_size=20).filter(lambda text: text.isprintable()),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans(),
        max_size=3,
    ),
    st.floats(1e-12, 0.1),
    st.lists(
        st.fixed_dictionaries(
            {"site": st.sampled_from(["north", "a.b c"])}, optional={"last": st.integers(5, 9)}
        ),
        max_size=3,
    ),
)
def test_any_recipe_survives_its_own_toml(name, options, rate, timeline):
    recipe = Recipe.from_tables(
        {
            "name": name, "timeline": timeline, "generator": {"options": options},
            "optimiser": {"generator_rate": rate}, "image": {"intensity": {"a.b c": {"low": -1.5}}},
        }
    )  # fmt: skip
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_toml(recipe.to_toml()).digest() == recipe.digest()


def test_equal_recipes_have_equal_digests_however_they_were_written(tiny):
    recipe = tiny()
    assert Recipe.from_tables(recipe.to_tables()).digest() == recipe.digest()
    assert Recipe.from_toml(recipe.to_toml()).digest() == recipe.digest()
    assert tiny("loss.paired_l1=2").digest() == tiny("loss.paired_l1=2.0").digest()
    assert tiny("image.size=16").digest() == tiny("image.size=[16, 16]").digest()
    assert Recipe().digest() == Recipe.from_toml("").digest()


def test_the_digest_is_the_same_in_another_process(tiny):
    # Other hash seeds must not show: two hospitals compare digests.
    code = (
        "from asyndgan.recipe import Recipe; "
        f"print(Recipe.from_toml({tiny().to_toml()!r}).digest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == tiny().digest()
