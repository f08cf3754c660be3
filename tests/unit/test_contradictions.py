"""The table of rules: each is told with a remedy, which leads to a recipe that is taken."""

import string
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asyndgan.errors import RecipeError
from asyndgan.recipe import Recipe
from asyndgan.recipe.contradictions import RULES, Rule

NOISE = ("condition.kind=none", "generator.latent=8")
OF_MASKS = ("image.source=masks", "generator.kind=masks", *NOISE)
SEGMENTS = ("discriminator.kind=patch_segmentation", "loss.segmentation=1")
CLASSES = ("condition.kind=class", "generator.kind=topdown")
DP_SGD = ("privacy.kind=discriminator", "privacy.conditions=unprotected")

TABLE = (
    "table={target='bad', classes={no=0.5, yes=0.5}, columns=[{name='sex', kind='categorical', "
    "categories=['f', 'm']}]}",
    "condition.kind=class", "generator.kind=rows", "generator.noise=1", "generator.latent=8",
    "discriminator.kind=rows", "training.flip=false",
)  # fmt: skip

RESNET = ("generator.kind=resnet",)

EXAMPLES: dict[str, Sequence[str]] = {
    "that knows pictures": ["image.size=32x32x32", "discriminator.kind=projected"],
    "every weight is 0": ["loss.adversarial_weight=0"],
    "a message would hold": ["image.size=1024", "training.batch=16"],
    "are too small for": ["image.size=16"],
    "has no segmentation output": ["loss.segmentation=1"],
    "segments, which nothing": ["discriminator.kind=patch_segmentation"],
    "loss.segmentation needs label maps": [*SEGMENTS, *CLASSES],
    "masks.release needs label maps": [*CLASSES, "masks.release=true"],
    "has no place for a mask": ["generator.kind=dcgan"],
    "paints shares of labels; for": [*NOISE, "generator.kind=masks"],
    "paints no shares of labels": [*OF_MASKS, "generator.kind=topdown"],
    "training.flip mirrors": ["image.axis=sagittal"],
    "cannot be halved": ["generator.levels=6", "image.size=80"],
    "generator.diversity compares": ["generator.diversity=1"],
    "'resnet' paints from a mask alone": [*RESNET, "condition.kind=class"],
    "nothing to paint from": ["condition.kind=none"],
    "so the generator paints masks": [*OF_MASKS, "condition.kind=class"],
    "image.modalities names": [*OF_MASKS, "image.modalities=['T1']"],
    "'given', but loss.paired_l1": ["masks.source=given", "loss.paired_l1=1"],
    "'given', but masks.release": ["masks.source=given", "masks.release=true"],
    "sends patients' masks": ["privacy.kind=discriminator"],
    "segments real patients": [*DP_SGD, *SEGMENTS],
    "in one network": [*DP_SGD, "discriminator.cross_fitted=true"],
    "a term of [loss] looks at": [*DP_SGD, "loss.mismatch=1"],
    "loss.mismatch tells an image": ["loss.mismatch=1", "training.batch=1"],
    "masks.release looks at": [*DP_SGD, "masks.release=true"],
    "discriminator.kind '{r.discriminator.kind}' is of": [*DP_SGD, "discriminator.kind=mine"],
    "loss.adversarial '{r.loss.adversarial}' is of": [*DP_SGD, "loss.adversarial=mine"],
    "a [table] has records of a class": [*TABLE, "generator.kind=topdown", "training.move=true"],
    "generator.kind 'rows'": ["generator.kind=rows"],
    "discriminator.kind 'rows'": ["discriminator.kind=rows"],
    "comes from fingerprints of records": [*TABLE, "privacy.kind=discriminator"],
    "retired for images": ["training.rare_first=true"],
    "records take 'dropout'": [*TABLE, "discriminator.augment=['shift']"],
    "clips gradients": [*DP_SGD, "training.precision=bfloat16"],
}  # fmt: skip
"""Overrides that violate a rule, by a part of the rule's words."""


def rule_of(words: str) -> Rule:
    (rule,) = (rule for rule in RULES if words in rule.fault)
    return rule


def is_told(rule: Rule, text: str) -> bool:
    parts = [part for part, *_ in string.Formatter().parse(rule.fault)]
    return all(part in text for part in parts)


def remedies_of(error: RecipeError) -> list[str]:
    assert isinstance(error.__cause__, ValidationError)
    faults: list[Any] = error.__cause__.errors()
    return [override for fault in faults for override in fault["ctx"]["remedy"]]


def test_every_rule_has_an_example():
    assert {rule_of(words) for words in EXAMPLES} == set(RULES)


@pytest.mark.parametrize("words", EXAMPLES)
def test_a_violated_rule_is_told_with_a_remedy_after_which_the_recipe_is_taken(words):
    rule = rule_of(words)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml("", EXAMPLES[words])
    lines = [line for line in str(caught.value).splitlines() if is_told(rule, line)]
    assert len(lines) == 1
    assert all(override.partition("=")[0] in lines[0] for override in rule.remedy)
    assert set(rule.remedy) <= set(remedies_of(caught.value))
    Recipe.from_toml("", [*EXAMPLES[words], *remedies_of(caught.value)])


@given(
    st.lists(
        st.sampled_from(
            [
                *sorted({override for example in EXAMPLES.values() for override in example}),
                "discriminator.kind=patch_segmentation", "discriminator.cross_fitted=true",
                "discriminator.layers=6", "privacy.conditions=public",
            ]
        ),
        min_size=2, max_size=16,
    )
)  # fmt: skip
def test_whatever_is_asked_for_the_remedies_lead_to_a_recipe(overrides):
    for _ in range(5):
        try:
            Recipe.from_toml("", overrides)
        except RecipeError as error:
            overrides = [*overrides, *remedies_of(error)]
        else:
            return
    pytest.fail(f"the remedies lead nowhere: {overrides}")
