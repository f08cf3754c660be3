"""What the page of scale and speed says is what was measured."""

import json
import re
from pathlib import Path

import pytest

from lab.performance import tables_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/performance.md").read_text("utf-8")
RESULTS = json.loads((ROOT / "lab/results/performance.json").read_text())


def test_every_place_for_a_table_holds_what_was_measured():
    place = re.compile(r"<!-- suite: (.*?) -->\n\n(.*?)\n<!-- end of suite: \1 -->", re.DOTALL)
    assert dict(place.findall(TEXT)) == tables_of(RESULTS)


@pytest.mark.parametrize("part", ["recipes", "links"])
def test_an_estimate_is_made_from_what_was_measured_and_marked_as_one(part):
    assert part in RESULTS
    for row in RESULTS["estimate"].values():
        assert 0 < row["s a step if overlapped"] <= row["s a step"]
    assert "not measured" in TEXT[TEXT.index("suite: performance estimate") - 700 :]
