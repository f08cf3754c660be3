"""What a suite's tables say, against numbers made by hand."""

import numpy as np
import pytest
import torch

from asyndgan.data import Case, Preparation
from asyndgan.judging.budget import SegmentationBudget
from asyndgan.judging.metrics import PatientScore
from asyndgan.judging.table import Evaluation
from asyndgan.suites.costs import a_step
from asyndgan.suites.differences import apart, between_recipes, differences
from asyndgan.suites.suite import ModelSection, SetSection

PART = SetSection(
    name="heads", folder="heads", sites=("north",), label="lesion", apart={"strangers": "far.*"}
)
MODEL = ModelSection(name="default", recipe="default")
NAN = float("nan")


def judged(name: str) -> Case:
    stored = Preparation((2, 2), (1.0, 1.0), (2, 2), (0, 0), (1.0,), (0.0,))
    mask = torch.zeros(2, 2, dtype=torch.int64)
    return Case(name, name, torch.zeros(1, 2, 2), mask, ("T1",), stored)


def evaluation(**dice: list[float]) -> Evaluation:
    scores = {
        name.replace("_", "+").replace("real", "real:"): {
            "lesion": [PatientScore(value, 10 * value, 1.0, NAN) for value in values]
        }
        for name, values in dice.items()
    }
    return Evaluation("", (), scores, (), "test", SegmentationBudget(), (0,))


def test_patients_apart_are_those_whom_the_pattern_names_and_no_others() -> None:
    # Two slices of the first one: a patient counts once.
    cases = [judged(name) for name in ("near1", "near1", "far1", "near2", "far2", "afar")]
    found = evaluation(synthetic=[0.1, 0.5, 0.2, 0.7, 0.9])
    (row,) = apart(PART, found, cases)
    assert (row["apart"], row["model"], row["patients"]) == ("strangers", "synthetic", 2)
    assert row["dice"] == pytest.approx(0.6)
    assert row["hd95"] == pytest.approx(6.0)
    assert 0.5 <= row["dice_low"] < row["dice_high"] <= 0.7


def test_differences_are_paired_patient_by_patient() -> None:
    found = evaluation(
        synthetic=[0.5, 0.8, NAN], realnorth=[0.4, 0.6, NAN], realsouth=[0.2, 0.2, NAN],
        realnorth_synthetic=[0.6, 0.6, NAN], realsouth_synthetic=[0.4, 0.6, NAN],
    )  # fmt: skip
    found.per_patient["real-all"] = {"lesion": [PatientScore(d, 1, 1, NAN) for d in (1, 0.9, NAN)]}
    rows = {(row.model, row.over): row for row in differences(PART, MODEL, found)}
    assert rows["synthetic", "real-all"].difference == pytest.approx((-0.5 - 0.1) / 2)
    assert rows["synthetic", "real-all"].patients == 2
    assert rows["synthetic", "real:north"].difference == pytest.approx(0.15)
    assert rows["real:south+synthetic", "real:south"].difference == pytest.approx(0.3)
    pooled = rows["every real:NAME+synthetic", "real:NAME"]
    # of each patient's mean over sites: 0.5 - 0.3 and 0.6 - 0.4
    assert (pooled.difference, pooled.low, pooled.high) == pytest.approx((0.2, 0.2, 0.2))
    assert ("real:north+synthetic", "synthetic") not in rows


def test_recipes_are_compared_with_the_suites_first() -> None:
    both = {"first": evaluation(synthetic=[0.5, 0.7]), "second": evaluation(synthetic=[0.6, 0.9])}
    judges = [judged("near"), judged("far")]
    row, strangers = between_recipes(PART, both, judges, {})
    assert (strangers.apart, strangers.patients) == ("strangers", 1)
    assert strangers.difference == pytest.approx(0.2)
    assert (row.apart, row.recipe, row.over) == ("", "second", "synthetic of first")
    assert row.difference == pytest.approx(0.15)
    assert row.ratio == pytest.approx(1.5 / 1.2)
    assert row.ratio_low == pytest.approx(0.6 / 0.5) and row.ratio_high == pytest.approx(0.9 / 0.7)


def test_a_recipe_is_also_compared_with_the_one_that_it_is_against() -> None:
    three = {name: evaluation(synthetic=[0.5 + n / 10, NAN]) for n, name in enumerate("abc")}
    rows = list(between_recipes(PART, three, [judged("near"), judged("far")], {"c": "b"}))
    # The one stranger lacks the label, so there is nothing to say of strangers.
    assert [(row.recipe, row.over, row.apart) for row in rows] == [
        ("b", "synthetic of a", ""), ("c", "synthetic of a", ""), ("c", "synthetic of b", ""),
    ]  # fmt: skip
    assert rows[2].difference == pytest.approx(0.1)


def test_bytes_a_step_are_of_the_steps_in_which_a_site_took_part() -> None:
    taken = {"north": 4, "south": 2}
    moved = {"north": {"card": 20, "judgement": 380}, "south": {"judgement": 300}, "never": {}}
    assert a_step(moved, taken) == pytest.approx(np.mean([400 / 4, 300 / 2]))
