"""An audit compares like with like, and says so where it cannot."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from asyndgan.auditing.audit import compare
from asyndgan.auditing.groups import (
    ALL_MEASURES,
    ELSEWHERE,
    Groups,
    compare_groups,
    sites_of,
)
from asyndgan.auditing.membership import Attack, holm
from asyndgan.store import Case

BRIGHTNESS = {"north": -0.2, "south": 0.2, "abroad": 0.6}


def patients(names: Sequence[str], brightness: float, seed: int) -> list[Case]:
    """One slice of each patient: noise around a brightness that varies a little, and an organ."""
    random = torch.Generator().manual_seed(seed)
    cases = []
    for name in names:
        mean = brightness + 0.05 * torch.randn(1, generator=random)
        image = (mean + 0.2 * torch.randn(1, 16, 16, generator=random)).clamp(-1, 1)
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[2 : int(torch.randint(6, 12, (1,), generator=random)), 2:10] = 1
        cases.append(Case.drawn(name, image, mask, ("T1",)))
    return cases


def group(counts: dict[str, int], names: str, seed: int) -> list[Case]:
    """As many patients of each site, whose names follow a pattern."""
    return [
        case
        for number, (site, count) in enumerate(counts.items())
        for case in patients(
            [names.format(site=site, number=f"{n:03}") for n in range(count)],
            BRIGHTNESS[site], 100 * seed + number,
        )
    ]  # fmt: skip


MEMBERS = group({"north": 40, "south": 20}, "{site}/{site}-p{number}", 1)


def by_brightness(*groups: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Scores of an attack that sees how dark an image is, and nothing of membership."""
    return {"nearest": {case.patient: -float(case.image.mean()) for g in groups for case in g}}


def decided(others: list[Case]) -> tuple[Groups, Attack]:
    """How the groups compare, and what the attack found."""
    scores = by_brightness(MEMBERS, others)
    known = sites_of(MEMBERS, others, ["north", "south"])
    groups, attacks = compare(scores, MEMBERS, others, known)
    return groups, attacks[0]


def test_others_of_the_same_hospitals_in_the_same_mix_are_compared_as_they_are():
    groups, found = decided(group({"north": 20, "south": 10}, "test-{site}-p{number}", 2))
    assert groups.alike and groups.verdict.startswith("alike (members: 40 north, 20 south; others")
    assert groups.others == {"north": 20, "south": 10}
    assert not found.alarms and found.low < 0.5 < found.high


@pytest.mark.parametrize("names", ["test_{site}_{number}", "{number}"])
def test_others_of_another_hospital_raise_no_alarm_whether_their_names_tell_it_or_not(names):
    groups, found = decided(group({"abroad": 30}, names, 3))
    assert found.auc > 0.95 and found.tells
    assert not (groups.alike or found.alarms or found.passes)
    assert found.verdict.startswith("undecided, since members and others are not alike: AUC")
    assert "images differ (most by the brightness of T1: AUC 1.00, p < 0.001" in groups.verdict


def test_other_hospitals_whose_means_are_alike_are_found_by_their_nearest_patients():
    """Members are of a dark and a bright hospital; the others are all in between."""
    ours = [c for c in MEMBERS if int(c.patient[-3:]) < 20]
    others = patients([f"{n}" for n in range(24)], 0.0, 9)
    groups = compare_groups(ours, others, sites_of(ours, others, ["north", "south"]))
    assert groups.other_images and groups.measure == ALL_MEASURES
    assert groups.auc > 0.9


def test_groups_of_the_same_hospitals_seldom_differ():
    unlike = 0
    for seed in range(10):
        sites = group({"north": 30, "south": 20}, "{site}/{number}", 10 + seed)
        random = np.random.default_rng(seed).permutation(len(sites))
        ours, others = ([sites[n] for n in part] for part in (random[:35], random[35:]))
        unlike += compare_groups(ours, others, sites_of(ours, others, [])).other_images
    assert unlike <= 2


def test_others_in_another_mix_leave_the_audit_undecided():
    groups, found = decided(group({"south": 9}, "{site}-t{number}", 7))
    assert groups.other_mix and "others: 9 south" in groups.verdict
    assert not found.alarms and not found.passes


def test_members_who_are_told_better_than_plain_measures_tell_them_are_an_alarm():
    """Others that differ a little must not hide a generator that copies its members."""
    others = patients([f"{n}" for n in range(40)], -0.04, 8)
    ours = [case for case in MEMBERS if case.patient.startswith("north/")]
    ours = [replace(case, image=case.image + 0.11) for case in ours]
    scores = {
        "painting": {c.patient: float(k) for k, c in enumerate([*others, *ours])},
        "nearest": by_brightness(others, ours)["nearest"],
    }
    groups, (copying, brightness) = compare(scores, ours, others, sites_of(ours, others, ["north"]))
    assert groups.other_images and groups.auc < 0.9
    assert copying.alarms and copying.verdict.startswith("MEMBERS CAN BE TOLD: AUC 1.00")
    assert not brightness.alarms and brightness.explained


@pytest.mark.parametrize(
    ("members", "others", "told"),
    [
        (  # a digit first, as drives are named
            ["a/0001TP_c00", "a/0001TP_c01", "b/0006R0_c00", "b/0006R0_c01"],
            ["0001TP_c10", "0006r0_c09", "0001TP_c12"], ["a", "b", "a"],
        ),
        (  # more than half are of hospitals whose codes no site has
            ["a/han270", "a/han221", "b/esp99", "b/esp117"],
            ["han9", "esp8", "shz1", "mon2", "mon3"], ["a", "b", *[ELSEWHERE] * 3],
        ),
        (  # a letter after the code
            ["a/TCGA_CS_A1", "a/TCGA_CS_4941", "b/TCGA_DU_5849", "b/TCGA_DU_A5TY"],
            ["TCGA_DU_B7", "TCGA_CS_4943", "TCGA_EZ_94"], ["b", "a", ELSEWHERE],
        ),
        (["a/x1", "b/y1"], ["west-p1", "north_p2"], ["b", "a"]),  # by their folders
        (["a/p001", "a/p002", "b/p003", "b/p004"], ["p005", "p006"], []),
        (["a/fe01", "a/fe02", "b/ab03", "b/ab04"], [*(f"patient{n}" for n in range(4)), "fe3"], []),
        ([f"a/hippocampus_{n:03}" for n in range(4)], ["hippocampus_004", "hippocampus_005"], []),
        (  # a longer site's name is not taken for a shorter one
            ["north/a1", "north-east/b1"],
            ["north-east-1", "x_NORTH_2", "north/3", "northern-4"],
            ["north-east", "north", "north", ELSEWHERE],
        ),
    ],
)  # fmt: skip
def test_hospitals_are_known_by_how_names_begin_and_by_their_folders(members, others, told):
    folders = {"north": "a", "west": "b"}
    ours, theirs = patients(members, 0.0, 1), patients(others, 0.0, 2)
    sites = sorted({name.partition("/")[0] for name in members})
    known = sites_of(ours, theirs, sites, folders if sites == ["a", "b"] else {})
    assert list(known[1].values()) == told


def test_a_mix_that_differs_by_rounding_is_the_same():
    same = Groups({"a": 26, "b": 20, "c": 20, "d": 17}, dict.fromkeys("abcd", 6), "mean", 0.5, 1.0)
    assert not same.other_mix
    assert replace(same, others={"a": 12, "b": 6, "c": 3, "d": 3}).other_mix
    assert replace(same, others={"a": 6, "b": 6, "c": 6, ELSEWHERE: 6}).other_mix
    assert not replace(same, others={}).other_mix


def test_one_of_several_attacks_with_a_sign_by_chance_is_no_alarm():
    """The scores of the attack are those of a demo: AUC 0.62, p 0.043, interval 0.47 to 0.75."""
    random = np.random.default_rng(0)
    names = [f"north/{n}" for n in range(83)], [f"north/t{n}" for n in range(24)]
    members, others = (patients(own, 0.0, seed) for seed, own in enumerate(names))
    noise = {name: float(random.normal()) for own in names for name in own}
    weak = noise | {name: value + 0.3 for name, value in noise.items() if "t" not in name[6:]}
    scores = {"painting": weak, "nearest": noise, "density": {k: -v for k, v in noise.items()}}
    _, (one, *_) = compare(scores, members, others, sites_of(members, others, ["north"]))
    assert one.p_value < 0.05 < one.corrected
    assert one.tells and not one.alarms and not one.passes
    assert one.verdict.startswith("undecided, a weak sign of membership that may be chance (p 0.")
    assert one.verdict.upper() != one.verdict and "MEMBERS CAN" not in one.verdict


def test_no_verdict_is_in_capitals_where_the_interval_holds_chance():
    for p_value, high in ((0.001, 0.9), (0.04, 0.75), (0.5, 0.9), (0.5, 0.6)):
        one = Attack("nearest", 0.55, 0.48, high, p_value, 40, 40, 0.0, p_value, explained=False)
        assert not one.verdict[:4].isupper(), one.verdict
    told = replace(one, auc=0.8, low=0.7, high=0.9, p_value=1e-4, corrected=3e-4)
    assert told.verdict.startswith("MEMBERS CAN BE TOLD")
    unknown = replace(told, low=math.nan, p_value=math.nan, corrected=math.nan)
    assert unknown.alarms and not unknown.passes


def test_p_values_are_corrected_as_holm_did():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    low, nan = holm([0.02, math.nan])
    assert low == 0.02 and math.isnan(nan)


def test_an_alarm_on_others_of_unknown_hospitals_lies_above_what_plain_measures_tell():
    unknown = Groups({"north": 20}, {}, "mean of T1", 0.72, 0.108)
    known = Groups({"north": 20}, {"north": 20}, "mean of T1", 0.72, 0.108)
    assert unknown.may_explain(0.51)
    assert not unknown.may_explain(0.73)
    assert not unknown.may_explain(0.40)  # no alarm, which need not be explained
    assert not known.may_explain(0.51)
    assert "maybe not alike" in unknown.verdict
    assert "too few to compare" in Groups({"a": 9}, {"a": 2}, "mean of T1", 0.8, 0.6).verdict
