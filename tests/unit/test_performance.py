"""What the page of scale and speed says is what was measured."""

import json
import re
from pathlib import Path

import pytest

from lab.performance import SITES, estimate, tables_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/performance.md").read_text("utf-8")
RESULTS = json.loads((ROOT / "lab/results/performance.json").read_text())


def test_every_place_for_a_table_holds_what_was_measured():
    place = re.compile(r"<!-- suite: (.*?) -->\n\n(.*?)\n<!-- end of suite: \1 -->", re.DOTALL)
    assert dict(place.findall(TEXT)) == tables_of(RESULTS)


def test_an_estimate_of_what_overlapping_saves_is_the_longer_of_both_halves():
    (row,) = (
        row
        for row in RESULTS["recipes"]["found"]["rows"]
        if (row["recipe"], row["pixels"]) == ("default", 64)
    )
    over = {name: {"median": median} for name, median in (("no delay", 0.5), ("far", 9.5))}
    found = estimate({**RESULTS, "links": {"found": {"tiny": {"s": over}}}})
    parts = row["CPU s"]
    own, others = SITES * (parts["paint"] + parts["update"]), parts["judge"] + parts["code"]
    assert found["no delay"]["s a step"] == pytest.approx(own + others)
    assert found["no delay"]["s a step if overlapped"] == pytest.approx(max(own, others))
    assert found["far"]["s a step if overlapped"] == pytest.approx(others + 9)
