import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyndgan.errors import DataError
from asyndgan.store.splits import (
    Chooser,
    halves_of,
    hold_out_of,
    one_sided,
    split_patients,
)

patients = st.lists(st.sampled_from([f"patient{i}" for i in range(20)]), min_size=1, max_size=80)
weights = st.lists(st.integers(0, 10), min_size=1, max_size=5).filter(any)
seeds = st.integers(0, 2**31)
SECRET = Chooser("ab" * 32)


@dataclass(frozen=True)
class One:
    """A case of a patient, with the modalities that it has."""

    patient: str
    present: tuple[bool, ...]


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(2, 9),
    st.integers(0, 3), st.booleans(), st.sampled_from([SECRET, Chooser()]),
)  # fmt: skip
def test_so_many_seeds_as_there_are_parts_hold_each_patient_out_once(
    sizes, folds, times, alone, chooser
):
    assume(len(sizes) >= folds)
    cases = [One(f"patient{n}", (True,)) for n, size in enumerate(sizes) for _ in range(size)]
    by = {"part": 1 / folds, "alone": alone, "chooser": chooser}
    held = [
        {case.patient for case in hold_out_of(cases, seed=times * folds + fold, **by)[1]}
        for fold in range(folds)
    ]
    assert sum(map(len, held)) == len(set.union(*held)) == len(sizes)


@given(patients, st.floats(0, math.nextafter(1, 0), exclude_min=True), seeds)
def test_whoever_is_held_out_is_not_trained_on_and_somebody_is(names, part, seed):
    cases = [One(name, (True,)) for name in names]
    training, held = hold_out_of(cases, part=part, seed=seed)
    assert Counter(training + held) == Counter(cases)
    assert not {case.patient for case in training} & {case.patient for case in held}
    assert bool(training)
    assert bool(held) == (len(set(names)) > 1)


@given(patients, weights, seeds)
def test_no_two_parts_share_a_patient_every_case_is_in_one_and_each_part_is_filled_again_alike(
    names, numbers, seed
):
    parts = {f"part{i}": number / sum(numbers) for i, number in enumerate(numbers)}
    if len(set(names)) < sum(number > 0 for number in numbers):
        with pytest.raises(DataError):
            split_patients(names, parts, seed)
        return
    split = split_patients(names, parts, seed)
    assert sorted(index for part in split.values() for index in part) == list(range(len(names)))
    of = [{names[index] for index in part} for part in split.values()]
    assert sum(map(len, of)) == len(set(names))
    filled = {part: bool(indices) for part, indices in split.items()}
    assert filled == {part: fraction > 0 for part, fraction in parts.items()}
    assert split_patients(tuple(names), dict(parts), seed) == split


def test_this_split_is_the_same_on_every_machine():
    names = ["ann", "ann", "bob", "cid", "dee", "dee", "eve"]
    split = split_patients(names, {"train": 0.6, "test": 0.4}, 7)
    assert split == {"train": [2, 3, 4, 5], "test": [0, 1, 6]}


def test_parts_come_near_to_their_fractions():
    names = [f"patient{i // 4}" for i in range(400)]
    split = split_patients(names, {"train": 0.7, "validation": 0.1, "test": 0.2}, 0)
    assert [len(part) for part in split.values()] == pytest.approx([280, 40, 80], abs=4)


@given(
    st.lists(st.sets(st.integers(0, 11), min_size=3), min_size=1, max_size=4),
    st.floats(0, 0.99),
    seeds,
    st.integers(0, 2**256 - 1),
)
def test_whatever_a_recipe_holds_out_both_halves_have_each_modality_of_three_patients(
    holders, part, seed, secret
):
    chooser = Chooser(f"{secret:064x}", 5)  # as by default policies
    present = [(True, *(place in own for own in holders)) for place in range(12)]
    cases = [One(f"patient{place}", has) for place, has in enumerate(present)]
    kept, held = hold_out_of(cases, part=part, seed=seed, chooser=chooser)
    assert len(kept) + len(held) == 12
    having = [one.present for one in kept]
    halves = halves_of([one.patient for one in kept], chooser, having)
    assert not one_sided(having, halves)
    for place in range(len(holders)):
        having_it = sum(has[1 + place] for has in having)
        assert having_it >= 3 or having_it == len(kept)


@given(st.floats(0.01, 0.99), seeds)
def test_who_can_be_spared_is_held_out_although_others_are_needed_for_a_rare_modality(part, seed):
    rare = [One(f"patient{place}", (True, place > 0)) for place in range(4)]
    kept, held = hold_out_of(rare, part=part, seed=seed, chooser=SECRET)
    assert [one.patient for one in held] == ["patient0"] and len(kept) == 3
    needed = [One(f"patient{place}", (place > 0, place < 3)) for place in range(4)]
    assert not hold_out_of(needed, part=part, seed=seed, chooser=SECRET)[1]


def test_a_modality_of_one_patient_is_not_sought_in_every_draw():
    class Counting(Chooser):
        drawn = 0

        def draw(self, seed, patient):
            Counting.drawn += 1
            return super().draw(seed, patient)

    present = [(True, place == 0) for place in range(10)]
    halves_of([f"patient{place}" for place in range(10)], Counting(), present)
    assert Counting.drawn == 10
